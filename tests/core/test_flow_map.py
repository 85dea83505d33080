"""AnyFlow: networks that read where a step leads, against diffusers' own network and pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler
from safetensors.torch import save_file
from state_cases import generation
from tiny_model import model_of, pipeline_of, small
from tiny_transformer import TWO_HEADS
from torch import Tensor

from fastvideo_core import LoadError, RequestError, SamplingRequest, WanModel, seeded_noise
from fastvideo_core.wan import WanExperts
from fastvideo_core.wan.flow_map import reads_two_timesteps
from fastvideo_core.wan.loading import load_transformer

TOLERANCE = 1e-5
"""Relative L2 error in float32, as of Wan's own pipelines."""


def anyflow(**changes: Any) -> AnyFlowTransformer3DModel:
    sizes = {
        "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2, "text_dim": tiny.TEXT_DIM,
        "freq_dim": 32, "rope_max_seq_len": 64,
    }  # fmt: skip
    network = tiny.seeded(3, AnyFlowTransformer3DModel, **(sizes | changes)).eval().requires_grad_(False)
    for block in network.blocks:
        block.attn2.to_out[0].weight.mul_(10)
    return network


def folder(network: Any, path: Path, **config: Any) -> Path:
    """As diffusers saves it. config: what its config.json says otherwise."""
    network.save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | config), "utf-8")
    return path


@torch.no_grad()
def velocity_of(network: AnyFlowTransformer3DModel, latents: Tensor, now: Tensor, after: Tensor, text: Tensor) -> Tensor:
    frames = latents.shape[2]
    times = (time[:, None].expand(-1, frames) for time in (now, after))
    out: Tensor = network(latents.transpose(1, 2), *times, text, return_dict=False)[0]
    return out.transpose(1, 2)


@pytest.mark.parametrize("reading", ["r", "t-r"])
def test_the_network_is_diffusers_one(reading: str, tmp_path: Path) -> None:
    theirs = anyflow(deltatime_type=reading, gate_value=0.4)
    ours = load_transformer(folder(theirs, tmp_path))
    latents, text = tiny.normal((2, *tiny.SHAPE[1:]), 1), tiny.normal((2, 512, tiny.TEXT_DIM), 2)
    now, after = torch.tensor([900.0, 900.0]), torch.tensor([600.0, 600.0])
    expected, elsewhere = (velocity_of(theirs, latents, now, leads, text) for leads in (after, now))
    found, raw = (ours(latents, timestep, text, return_dict=False)[0] for timestep in (torch.cat([now, after]), now))
    assert tiny.relative_error(found, expected) <= TOLERANCE and tiny.relative_error(raw, elsewhere) <= TOLERANCE
    assert tiny.relative_error(expected, elsewhere) > 100 * TOLERANCE, "where it leads matters"


@pytest.fixture(scope="module")
def pipeline() -> AnyFlowPipeline:
    wan, scheduler = pipeline_of("t2v"), FlowMapEulerDiscreteScheduler(shift=5.0)
    pipe = AnyFlowPipeline(
        vae=wan.vae, text_encoder=wan.text_encoder, tokenizer=wan.tokenizer, transformer=anyflow(), scheduler=scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def model(pipeline: AnyFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> WanModel:
    path = tmp_path_factory.mktemp("anyflow") / "AnyFlow-tiny"
    pipeline.save_pretrained(path)
    return WanModel.load(path)


def asked(**changes: Any) -> SamplingRequest:
    return SamplingRequest(**({"steps": 4, "shift": 5.0, "guidance_scale": 1.0, "solver": "euler", "seed": 7} | changes))


@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (4, 1.0), (4, 3.0)])
def test_a_generation_is_diffusers_pipeline_s(model: WanModel, pipeline: AnyFlowPipeline, steps: int, scale: float) -> None:
    size = small(model)
    condition = model.condition("a cat sits", "blurry", size)
    running = model.generate(asked(steps=steps, guidance_scale=scale), condition, size)
    list(running)
    theirs = pipeline(
        prompt_embeds=condition.positive, negative_prompt_embeds=None if scale == 1 else condition.negative,
        height=size.height, width=size.width, num_frames=size.frames, num_inference_steps=steps, guidance_scale=scale,
        latents=seeded_noise(tuple(running.latents.shape), 7), output_type="latent",
    ).frames  # fmt: skip
    assert tiny.relative_error(running.latents, theirs) <= TOLERANCE
    assert running.contradictions() == () if scale == 1 else "guidance_scale is 3" in running.contradictions()[0]


def test_a_generation_goes_on_from_a_state(model: WanModel) -> None:
    *_, whole = generation("t2v", asked(), model=model)
    begun = generation("t2v", asked(), model=model)
    next(begun)
    begun.close()
    *_, last = generation("t2v", asked(), model=model, state=begun.state())
    assert torch.equal(last.latents, whole.latents)


def test_what_would_take_the_mean_velocity_for_another_is_refused(model: WanModel) -> None:
    with pytest.raises(RequestError, match=r"solver is unipc, and the single expert \(AnyFlow\) gives the mean velocity"):
        generation("t2v", asked(solver="unipc"), model=model)
    with pytest.raises(RequestError, match="reads where a step leads, which this kind of run does not tell it"):
        WanExperts(model.transformers, tiny.conditioning(), tiny.SHAPE, torch.device("cpu"), torch.device("cpu"))
    assert reads_two_timesteps(model.transformers["single"]) and not reads_two_timesteps(model_of("t2v").transformers["single"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_dim": 20}, "has image_dim, and AnyFlow is read here for text-to-video alone"),
        ({"gate_value": "much"}, "gate_value"),
        ({"deltatime_type": "s"}, "deltatime_type"),
        ({"_class_name": "AnyFlowFARTransformer3DModel"}, "holds a AnyFlowFARTransformer3DModel"),
    ],
)
def test_other_folders_are_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=words):
        load_transformer(folder(anyflow(), tmp_path, **config))


def test_a_single_file_says_that_the_folder_is_needed(tmp_path: Path) -> None:
    weights = {name: value.contiguous() for name, value in anyflow().state_dict().items()}
    save_file(weights, tmp_path / "a.safetensors", metadata=TWO_HEADS)
    with pytest.raises(LoadError, match="AnyFlow model, whose diffusers folder is to be given"):
        load_transformer(tmp_path / "a.safetensors")
