"""New tensors are where they are needed, whatever torch's default device and mode; nothing is copied to it step by step."""

import ast
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from simulated_cuda import SimulatedExperts, conditioning_of, simulated
from test_one_generation import REQUEST, SETTINGS
from tiny_model import images, model_of, small
from torch import Tensor

import fastvideo_core
from fastvideo_core import GivenFrame, Guidance, GuidanceSettings, SamplingRequest, generate, seeded_noise
from fastvideo_core.attention.sparse import (
    BSASettings,
    NABLASettings,
    SLASettings,
    SparseSchedule,
    SparseSettings,
    STASettings,
    VSASettings,
)
from fastvideo_core.wan.placement import placed
from tools.simulated import Allocated
from tools.simulated.checkpoints import TrueSize

TILE = (1, 2, 2)
SPARSE: dict[str, SparseSettings] = {
    "VSA": VSASettings(sparsity=0.5, tile=TILE),
    "SLA": SLASettings(sparsity=0.5),
    "BSA": BSASettings(tile=TILE, least_tiles=1),
    "STA": STASettings(window=(1, 1, 1), tile=TILE),
    "NABLA": NABLASettings(mass=0.5, window=(1, 1, 1), tile=TILE),
}
OPTIONS = {
    **{name: options for name, options in SETTINGS.items() if name != "compiled"},
    **{name: {"sparse": SparseSchedule(settings=settings, kernel="gather")} for name, settings in SPARSE.items()},
}


def made(kind: str, mode: AbstractContextManager[Any], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Latents and frames, all made in a mode."""
    model = model_of(kind)
    size = small(model)
    given = images(kind, size)
    request = SamplingRequest(steps=6, shift=5.0, guidance_scale=3.0, solver="dmd", boundary=model.boundary)
    with mode:
        conditioning = model.condition("a cat", "blurry", size, **given)
        generation = model.generate(request, conditioning, size, **options)
        list(generation)
        generation.report().text()
        return generation.latents, model.decode(generation.latents)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_a_default_device_changes_nothing(options: dict[str, Any]) -> None:
    """On "meta" whatever is made there by mistake has no values."""
    for with_default, expected in zip(
        made("t2v", torch.device("meta"), options), made("t2v", nullcontext(), options), strict=True
    ):
        assert torch.equal(with_default, expected)


@pytest.mark.parametrize("kind", [kind for kind in tiny_model.NETWORKS if kind != "t2v"])
def test_so_it_is_with_every_kind_of_model(kind: str) -> None:
    for with_default, expected in zip(made(kind, torch.device("meta"), {}), made(kind, nullcontext(), {}), strict=True):
        assert torch.equal(with_default, expected)


MAKERS = {
    f"torch.{name}"
    for name in ("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "tensor", "as_tensor", "rand", "randn", "randint")
}


def makers(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in MAKERS:
            continue
        if "device" not in {keyword.arg for keyword in node.keywords}:
            yield node.lineno, ast.unparse(node)


def test_every_tensor_that_the_product_makes_is_told_where() -> None:
    engine = Path(fastvideo_core.__file__).parent
    files = [*engine.rglob("*.py"), *engine.parent.joinpath("nodes").rglob("*.py")]
    assert [(path.name, *found) for path in files for found in makers(path)] == []


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_a_first_step_in_inference_mode_and_later_ones_outside(options: dict[str, Any]) -> None:
    model = model_of("t2v")
    videos = []
    for inference in (True, False):
        with torch.inference_mode(inference):
            conditioning = model.condition("a cat", "blurry", small(model))
            generation = model.generate(REQUEST, conditioning, small(model), **options)
            next(generation)
        list(generation)
        generation.report().text()
        videos.append(generation.latents)
    assert torch.equal(*videos)
    assert not any(weight.is_inference() for weight in model.transformers["single"].parameters())


def test_weights_that_moved_in_inference_mode_can_still_be_changed() -> None:
    layer, elsewhere = torch.nn.Linear(2, 2), torch.device("meta")
    with torch.inference_mode(), placed(layer, elsewhere, elsewhere):
        assert not layer.weight.is_inference()
    layer.weight.requires_grad_(False).zero_()


BATCHED = GuidanceSettings(mode="batched")
SMALL = TrueSize(dim=256, ffn_dim=512, shape=(1, 48, 3, 4, 6), channels=(48, 48), first_frame=True)


@pytest.mark.parametrize("solver", ["euler", "dmd"])
def test_a_given_frame_and_fresh_noise_go_to_the_device_once(solver: str) -> None:
    request = SamplingRequest(steps=5, shift=5.0, guidance_scale=3.0, solver=solver, guidance=BATCHED)  # type: ignore[arg-type]
    experts = SimulatedExperts(SMALL)
    with simulated():
        conditioning = conditioning_of(SMALL, torch.bfloat16)
        frame = GivenFrame(torch.zeros(1, 48, 1, 4, 6, device="cpu"))
        noise = seeded_noise(SMALL.shape, 1, "cuda")
        given = fastvideo_core.Conditioning(positive=conditioning.positive, negative=conditioning.negative, first_frame=frame)
        with Allocated(()) as counter:
            copies = []
            steps = generate(request, experts, given, noise, Guidance(request.plan(), request.guidance))
            for _ in islice(steps, 4):  # in the last one it would look at the values
                copies.append(sum(copy.target == "cuda" for copy in counter.copies))
            steps.close()
    assert copies == [copies[0]] * 4
    assert copies[0] == (1 if solver == "euler" else 1 + 4)
