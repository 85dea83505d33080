"""Generations of `WanModel` of true size on a GPU that is not there, and all that is looked at while they run."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_model
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from named_waits import VALUES
from torch import Tensor

import fastvideo_core
from fastvideo_core import (
    Conditioning,
    GivenFrame,
    ImageEncoder,
    RunReport,
    SamplingRequest,
    Schedule,
    TextEncoder,
    VideoSize,
    WanModel,
)
from fastvideo_core.attention.sparse import GatherKernel, SparseSchedule
from fastvideo_core.attention.sparse import experts as sparse_experts
from fastvideo_core.step_cache import Fingerprint, calibration
from fastvideo_core.wan.variants import VARIANTS, WanVariant
from tools.simulated import Flops, SimulatedGPU, Wait, Waits, simulated
from tools.simulated.checkpoints import IMAGE_DIM, TEXT_DIM, TrueSize
from tools.simulated.sparse import Flex

GIB = 2**30
ENGINE = Path(fastvideo_core.__file__).parent
ROWS = 100  # of a prompt


@dataclass
class Seen:
    """What was looked at in one generation. waits, peaks: of each step; the last waits are those after it. kinds: dtypes of what
    the network's blocks were given. flops: by dtype."""

    memory: int
    schedule: Schedule
    latents: list[Tensor] = field(default_factory=list)
    waits: list[list[Wait]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    kinds: dict[str, set[torch.dtype]] = field(default_factory=dict)
    flops: Mapping[torch.dtype, int] = field(default_factory=dict)
    report: RunReport | None = None

    @property
    def reserved(self) -> int:
        """What guidance mode auto counted on: what was held when it chose, and what it took a call for."""
        assert self.report is not None
        found = re.search(r"need about ([\d.]+) GiB, ([\d.]+) GiB are free", self.report.guidance_reason)
        assert found, self.report.guidance_reason
        needed, free = (round(float(each) * GIB) for each in found.groups())
        return self.memory - free + needed


def conditioning(size: TrueSize, first_frame: bool = True) -> Conditioning:
    """As a prompt of `ROWS` rows and an image make it: on the CPU, with values."""
    read, written = size.channels
    text = torch.zeros(1, 512, TEXT_DIM, dtype=torch.bfloat16)
    text[:, :ROWS] = 1
    return Conditioning(
        positive=text,
        negative=text,
        image=torch.zeros(1, read - written, *size.shape[2:]) if read > written else None,
        image_tokens=torch.zeros(1, size.image_tokens, IMAGE_DIM) if size.image_tokens else None,
        first_frame=GivenFrame(torch.zeros(1, written, 1, *size.shape[3:])) if size.first_frame and first_frame else None,
    )


def model_of(row: WanVariant, gpu: SimulatedGPU, layers: int, dtype: torch.dtype) -> WanModel:
    """Experts of true width, with encoders that fit them."""
    size, kind = TrueSize.of(row), "ti2v" if row.first_frame else "i2v clip" if row.image_tokens else "t2v"
    parts = tiny_model.model_of(kind)
    with gpu.valueless():
        names = ("high_noise", "low_noise") if row.two_experts else ("single",)
        experts = {name: size.network(dtype, layers) for name in names}
        text_encoder = TextEncoder(tiny_model.umt5(width=TEXT_DIM), parts.text_encoder.tokenizer)
        tower = (
            ImageEncoder(tiny_model.clip(width=IMAGE_DIM, heads=16), parts.image_encoder.processor) if row.image_tokens else None
        )
    return WanModel(
        name=row.name, transformers=experts, vae=parts.vae, text_encoder=text_encoder, image_encoder=tower, variant=row,
        boundary=row.boundary, first_frame=row.first_frame, device=torch.device("cuda"),
    )  # fmt: skip


def size_of(row: WanVariant) -> VideoSize:
    return VideoSize(width=row.width, height=row.height, frames=row.frames, spatial=row.spatial)


def rehearsed(
    name: str,
    *,
    layers: int = 3,
    steps: int = 3,
    memory: int = 80 * GIB,
    dtype: torch.dtype = torch.bfloat16,
    prepare: Callable[[WanModel], None] = lambda model: None,
    options: Callable[[SamplingRequest], dict[str, Any]] = lambda request: {},
    first_frame: bool = True,
    **changes: Any,
) -> Seen:
    """A whole generation. layers: blocks of the network, whose depth adds nothing but time; steps, changes: of the request.

    Args:
        prepare: does something to the model before it. options: of `WanModel.generate`.
    """
    row = VARIANTS[name]
    asked = {"steps": steps, "shift": row.shift, "guidance_scale": row.guidance_scale, "boundary": row.boundary, **changes}
    request = SamplingRequest(**asked)
    seen = Seen(memory, request.plan())
    with (
        simulated(memory) as gpu,
        Flops() as flops,
        Waits([ENGINE], VALUES) as waits,
        waits.synchronizing(),
        looked_at(seen),
        without_values(),
    ):
        model = model_of(row, gpu, layers, dtype)
        prepare(model)
        given = conditioning(TrueSize.of(row), first_frame)
        generation = model.generate(request, given, size_of(row), **options(request))
        for step in generation:
            seen.latents.append(step.latents)
            seen.waits.append(taken(waits))
            seen.peaks.append(gpu.held.peak)
        seen.report = generation.report()
        seen.waits.append(taken(waits))
        seen.flops = flops.by_dtype
    return seen


def taken(waits: Waits) -> list[Wait]:
    found, waits.found = waits.found, []
    return found


def looked_at(seen: Seen) -> Any:
    """What diffusers' blocks are given."""
    own = WanTransformerBlock.forward

    def forward(block: Any, hidden: Tensor, text: Tensor, modulation: Tensor, rope: Sequence[Tensor]) -> Tensor:
        given = {"tokens": hidden, "text": text, "modulation": modulation, "rope": rope[0], "table": block.scale_shift_table}
        for name, tensor in given.items():
            seen.kinds.setdefault(name, set()).add(tensor.dtype)
        return own(block, hidden, text, modulation, rope)

    return mock.patch.object(WanTransformerBlock, "forward", forward)


@contextmanager
def without_values() -> Iterator[None]:
    """What is made of values, where there are none: a hash of the weights, and the trial of a sparse kernel."""

    def untried(sparse: SparseSchedule, situation: Any) -> Any:
        return Flex() if sparse.kernel == "flex" else GatherKernel()

    def unread(weights: Any) -> Fingerprint:
        return Fingerprint("0" * 16, {})

    with (
        mock.patch.object(sparse_experts, "prepare_kernel", untried),
        mock.patch.object(calibration, "fingerprint", unread),
    ):
        yield
