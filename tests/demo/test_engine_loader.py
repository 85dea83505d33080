"""The engine reads the shipped single files as they are: networks, rows and clips of diffusers' modules filled with them."""

import pytest
import torch

from fastvideo_core import SamplingRequest, load_demo
from tools.demo_model.evaluation import held_out_prompts
from tools.demo_model.sampling import generate
from tools.demo_model.shipped import shipped_models, shipped_text_encoder, shipped_vae
from tools.demo_model.world import render

PROMPT = "a red circle moving left over a teal background"


def assert_same_weights(network: torch.nn.Module, reference: torch.nn.Module) -> None:
    ours, theirs = network.state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "two experts"])
def test_the_networks_are_the_same(kind: str) -> None:
    ours, shipped = load_demo(kind), shipped_models(kind)
    theirs = [shipped.transformer, shipped.low_noise][: len(ours.transformers)]
    for network, reference in zip(ours.transformers.values(), theirs, strict=True):
        assert_same_weights(network, reference)
        assert dict(network.config).items() >= {"num_attention_heads": 2, "attention_head_dim": 128, "num_layers": 4}.items()
    assert (ours.boundary or 0.0) == shipped.boundary
    assert_same_weights(ours.vae.network, shipped_vae())
    assert_same_weights(ours.text_encoder.network, shipped_text_encoder().encoder)


def test_prompts_become_the_same_rows() -> None:
    rows = load_demo().text_encoder.encode([PROMPT])[0]
    reference = shipped_text_encoder()([PROMPT])[0]
    count = len(reference) - 1  # the last one stands for all zero rows
    torch.testing.assert_close(rows[:count], reference[:count])
    assert not rows[count:].any()


@pytest.mark.parametrize("kind", ["t2v", "i2v", "two experts"])
def test_clips_are_the_same(kind: str) -> None:
    ours = load_demo(kind)
    frames = render(held_out_prompts(1)[0]) if kind == "i2v" else None
    size = ours.video_size(width=64, height=64, frames=17)
    image = None if frames is None else frames[:, :, 0] / 2 + 0.5
    row = ours.variant
    request = SamplingRequest(
        steps=row.steps, shift=row.shift, guidance_scale=row.guidance_scale, boundary=row.boundary, solver="euler", seed=5
    )
    generation = ours.generate(request, ours.condition(PROMPT, "", size, image), size)
    list(generation)
    reference = generate(shipped_models(kind), [PROMPT], [5], first_frames=frames)
    torch.testing.assert_close(ours.decode(generation.latents), reference / 2 + 0.5, atol=2e-3, rtol=0)
