"""The VAE: diffusers' network with Wan's statistics, from folders and single files."""

from pathlib import Path

import pytest
import tiny
import tiny_files
import tiny_model
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file
from tiny import relative_error

from fastvideo_core import ConditioningError, LoadError, VideoVAE
from fastvideo_core.wan.vae import MEAN_48, STD_48
from fastvideo_core.wan.vae_keys import config_of, diffusers_key, original_key

FRAMES = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(3)) * 2 - 1
VAES = {"2.1": tiny.vae, "2.2": tiny.vae_48}


def with_two_blocks(**config: object) -> AutoencoderKLWan:
    """Two residual blocks per level and growing widths, as the published VAEs have."""
    sizes = {"base_dim": 8, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    return tiny.seeded(1, AutoencoderKLWan, **(sizes | config)).eval().requires_grad_(False)


def nested_with_two_blocks() -> AutoencoderKLWan:
    return with_two_blocks(
        decoder_base_dim=16, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16,
        latents_mean=list(MEAN_48), latents_std=list(STD_48),
    )  # fmt: skip


@pytest.mark.parametrize("make", VAES.values(), ids=VAES)
def test_latents_are_the_normalised_mode_of_the_posterior(make) -> None:
    network = make()
    latents = VideoVAE(network).encode(FRAMES)
    with torch.no_grad():
        mode = network.encode(FRAMES).latent_dist.mode()
    statistics = (network.config.latents_mean, network.config.latents_std)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in statistics)
    assert relative_error(latents, (mode - mean) / std) <= 1e-6
    assert latents.dtype == torch.float32


@pytest.mark.parametrize("make", VAES.values(), ids=VAES)
def test_decode_undoes_the_normalisation_and_gives_frames_from_0_to_1(make) -> None:
    network = make()
    vae = VideoVAE(network)
    raw = tiny.normal((1, vae.channels, 3, 4, 6), 5)
    frames = vae.decode((raw - vae.latents_mean) / vae.latents_std)
    with torch.no_grad():
        reference = network.decode(raw).sample / 2 + 0.5
    assert frames.shape == (1, 3, 9, 4 * vae.spatial, 6 * vae.spatial)
    assert relative_error(frames, reference) <= 1e-6
    assert frames.min() >= 0 and frames.max() <= 1


@pytest.mark.parametrize("make", VAES.values(), ids=VAES)
def test_a_diffusers_folder_gives_the_same_network(make, tmp_path: Path) -> None:
    network = make()
    network.save_pretrained(tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "vae"):
        vae = VideoVAE.load(folder)
        assert_same_network(vae.network, network)
    assert (vae.channels, vae.spatial, vae.temporal) == ((16, 8, 4) if make is tiny.vae else (48, 16, 4))


@pytest.mark.parametrize("make", [tiny.vae, with_two_blocks, nested_with_two_blocks])
def test_a_single_file_gives_the_same_network(make, tmp_path: Path) -> None:
    network = make()
    assert_same_network(VideoVAE.load(tiny_files.vae_file(tmp_path / "vae.safetensors", network)).network, network)


def test_names_of_the_2_1_layout_are_those_that_diffusers_converts_to() -> None:
    originals = tiny_files.original_vae(with_two_blocks())
    converted = convert_wan_vae_to_diffusers(dict(originals))
    ours = {diffusers_key(key, 2): value for key, value in originals.items()}
    assert ours.keys() == converted.keys()
    assert all(ours[key] is converted[key] for key in ours)


@pytest.mark.parametrize(("make", "res_blocks"), [(tiny.vae, 1), (with_two_blocks, 2)])
def test_names_of_the_2_1_layout_are_found_back(make, res_blocks: int) -> None:
    network = make()
    names = [original_key(key, res_blocks) for key in network.state_dict()]
    assert set(names) == set(tiny_files.original_vae(network))
    assert [diffusers_key(name, res_blocks) for name in names] == list(network.state_dict())


@pytest.mark.parametrize(
    "published",
    [
        {},  # Wan-AI/Wan2.1-T2V-14B-Diffusers, vae/config.json: the defaults of the class
        {  # Wan-AI/Wan2.2-TI2V-5B-Diffusers, vae/config.json
            "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12,
            "patch_size": 2, "scale_factor_spatial": 16,
        },
    ],
    ids=["2.1", "2.2"],
)  # fmt: skip
def test_shapes_of_the_published_vaes_tell_their_configuration(published) -> None:
    with torch.device("meta"):
        network = AutoencoderKLWan(**published)
    told = config_of({key: tuple(value.shape) for key, value in tiny_files.original_vae(network).items()})
    wanted = dict(network.config) | {"decoder_base_dim": network.config.decoder_base_dim or network.config.base_dim}
    assert told == {key: wanted[key] for key in told}


def test_a_single_file_is_computed_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    vae = VideoVAE.load(tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae()), torch.bfloat16)
    assert vae.network.dtype == torch.bfloat16
    assert vae.encode(FRAMES).dtype == torch.float32
    assert relative_error(vae.encode(FRAMES), VideoVAE(tiny.vae()).encode(FRAMES)) < 0.05


def test_tiling_works_in_tiles_and_changes_nothing_but_the_seams(tmp_path: Path) -> None:
    path = tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae())
    latents = tiny.normal((1, 16, 1, 34, 4), 9)  # 272 pixels high, a tile has 256
    whole, tiled = VideoVAE.load(path).decode(latents), VideoVAE.load(path, tiling=True).decode(latents)
    assert tiled.shape == whole.shape == (1, 3, 1, 272, 32)
    assert not torch.equal(tiled, whole)
    assert relative_error(tiled, whole) < 0.1


@pytest.mark.parametrize(
    ("frames", "words"),
    [((1, 3, 8, 64, 64), "frames must be 4"), ((1, 3, 5, 60, 64), "multiples of 8"), ((3, 5, 64, 64), "expected (batch, 3")],
)
def test_frames_off_the_grid_are_refused(frames, words: str) -> None:
    with pytest.raises(ConditioningError) as error:
        VideoVAE(tiny.vae()).encode(torch.zeros(frames))
    assert words in str(error.value)


def test_latents_of_another_vae_are_refused() -> None:
    with pytest.raises(ConditioningError, match=r"this VAE decodes \(batch, 16"):
        VideoVAE(tiny.vae()).decode(torch.zeros(1, 48, 1, 4, 4))


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tiny_files.text_file(tmp_path / "umt5.safetensors", tiny_model.umt5().state_dict())
    with pytest.raises(LoadError, match="looks like a T5 or UMT5 text encoder"):
        VideoVAE.load(path)


def test_a_file_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    path = tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae(), **{"decoder.middle.1.proj.weight": None})
    with pytest.raises(LoadError, match=r"lacks decoder\.mid_block\.attentions\.0\.proj\.weight"):
        VideoVAE.load(path)


def test_a_file_with_another_shape_is_refused(tmp_path: Path) -> None:
    path = tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae(), **{"decoder.middle.1.proj.bias": torch.zeros(5)})
    with pytest.raises(LoadError, match="does not fit AutoencoderKLWan"):
        VideoVAE.load(path)


def test_latent_channels_without_known_statistics_are_refused(tmp_path: Path) -> None:
    network = with_two_blocks(z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    with pytest.raises(LoadError, match="has 4 latent channels"):
        VideoVAE.load(tiny_files.vae_file(tmp_path / "vae.safetensors", network))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tiny_files.vae_file(tmp_path / "vae.safetensors", tiny.vae())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LoadError, match="cut off"):
        VideoVAE.load(path)


def test_a_diffusers_file_without_its_folder_is_refused_with_the_fix(tmp_path: Path) -> None:
    save_file(tiny.vae().state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(LoadError, match="give the folder"):
        VideoVAE.load(tmp_path / "vae.safetensors")


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    tiny.t2v().save_pretrained(tmp_path / "vae")
    with pytest.raises(LoadError, match="describes WanTransformer3DModel; expected AutoencoderKLWan"):
        VideoVAE.load(tmp_path)


def assert_same_network(loaded: AutoencoderKLWan, network: AutoencoderKLWan) -> None:
    weights, wanted = loaded.state_dict(), network.state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
    for setting in ("is_residual", "patch_size", "temperal_downsample", "dim_mult", "scale_factor_spatial"):
        assert loaded.config[setting] == network.config[setting]
    for statistic in ("latents_mean", "latents_std"):
        assert list(loaded.config[statistic]) == list(network.config[statistic])
