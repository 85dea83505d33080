"""Core's loaders accept the shipped files, and core's networks give diffusers' numbers with them."""

import random

import pytest
import torch
from safetensors.torch import load_file

from tools.comfy_in_process import ComfyInProcess
from tools.demo_model.export import save_vae
from tools.demo_model.shipped import FOLDER, shipped_text_encoder, shipped_transformer, shipped_vae
from tools.demo_model.text import TEXT_DIM
from tools.demo_model.transformer import TEXT_ROWS
from tools.demo_model.vae import decode, encode
from tools.demo_model.world import render, sample_scene


@pytest.fixture
def host(comfy: ComfyInProcess) -> ComfyInProcess:
    """ComfyUI; under another name, as the tests import its module `comfy`."""
    return comfy


PROMPT = "a red circle moving left over a teal background"
LARGEST = 43_000_000  # bytes of all files together


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_the_files_are_small_enough_to_ship():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST


def test_an_exported_vae_is_the_shipped_file_again(tmp_path):
    save_vae(shipped_vae(), tmp_path / "vae.safetensors", {})
    exported, shipped = load_file(tmp_path / "vae.safetensors"), load_file(FOLDER / "demo_wan_vae.safetensors")
    assert list(exported) == list(shipped)
    assert all(torch.equal(exported[name], shipped[name]) for name in shipped)


@pytest.mark.parametrize(("name", "channels"), [("t2v", 16), ("i2v", 36), ("high_noise", 16), ("low_noise", 16)])
@torch.no_grad()
def test_cores_unet_loader_runs_a_transformer_as_diffusers_does(host, name, channels):
    import comfy.model_management
    import comfy.sd

    patcher = comfy.sd.load_diffusion_model(str(FOLDER / f"demo_wan_{name}.safetensors"))
    comfy.model_management.load_models_gpu([patcher])
    rows = shipped_text_encoder()([PROMPT])
    full = torch.zeros(1, TEXT_ROWS, TEXT_DIM)
    full[:, : rows.shape[1]] = rows
    noise, timestep = torch.randn(1, channels, 5, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([700.0])
    native = patcher.model.diffusion_model(noise, timestep, context=full, transformer_options={})
    expected = shipped_transformer(name)(noise, timestep, rows, return_dict=False)[0]
    assert relative_error(native, expected) < 1e-5


@torch.no_grad()
def test_cores_vae_loader_encodes_and_decodes_as_diffusers_does(host):
    import comfy.sd
    import comfy.utils

    native = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(FOLDER / "demo_wan_vae.safetensors")))
    native.throw_exception_if_invalid()
    vae, clip = shipped_vae(), render([sample_scene(random.Random(0))])
    latents = encode(vae, clip)
    frames = (clip[0].permute(1, 2, 3, 0) + 1) / 2
    assert relative_error(native.encode(frames), latents) < 1e-5
    expected = ((decode(vae, latents) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1)
    assert relative_error(native.decode(latents).view_as(expected), expected) < 1e-5
