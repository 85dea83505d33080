"""What works inside core's network on a rank, in the calls of one generation: a node put it on the MODEL in ComfyUI's process,
and here it is made of plain data, with all that the node uses where the network is its own."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from fastvideo_core import CompileSettings, Contribution, Phase
from fastvideo_core.attention import FoldedText, Situation
from fastvideo_core.attention.sparse import SparseSchedule, prepare_kernel
from fastvideo_core.wan import CompileAccount, compiled
from fastvideo_core.wan.loading import NetworkSize

from .attached import SPARSE
from .attention import AttentionPart, native_attention, situation_of
from .override import KEY, OVERRIDE, marked_call
from .rank_hooks import RankShard
from .sparse import SparseRun, SparseWrapper, variant_of
from .text import GenerationText
from .trained_weights import TrainedFile, size_of

NOBODY = "single"
"""An expert's name where the one who asks has another for it."""


@dataclass(frozen=True)
class RankNetwork:
    """What is known of a network that need not lie on the device. dtype: that it computes in."""

    situation: Situation
    size: NetworkSize
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: Any) -> "RankNetwork":
        base = model.model
        return cls(situation_of(model), size_of(base.diffusion_model), base.get_dtype_inference(), model.load_device)


class RankWork(Protocol):
    """inside: whether it asks for the exchange of tokens by itself, inside of what it does."""

    inside: bool

    def join(self, call: ExitStack, network: Any, options: dict[str, Any], step: int) -> None:
        """Takes part in a call of the network with these transformer options, in this step of the generation."""
        ...

    def contribution(self) -> Contribution:
        """What it did."""
        ...


class AttentionWork:
    """Chosen attention, which gets the rank's heads. folds: of the prompts, as of `GenerationText`."""

    inside = False

    def __init__(
        self, network: RankNetwork, shard: RankShard, self_attention: str, cross_attention: str, fold_text: bool,
        folds: Mapping[int, FoldedText] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        chosen = native_attention(network.situation, self_attention, cross_attention, fold_text)
        self.text = GenerationText(folds, network.device, chosen.all_rows)
        self.override = chosen.override(self.text)
        self.part = AttentionPart(self.override.account, self.text, has_own=False)

    def join(self, call: ExitStack, network: Any, options: dict[str, Any], step: int) -> None:
        options[OVERRIDE] = self.override
        wrap(options, KEY, marked_call)

    def contribution(self) -> Contribution:
        """Raises RequestError where a text was cut off."""
        self.text.check()
        return self.part.contribution(NOBODY)


class SparseWork:
    """Sparse self-attention of the rank's heads. trained: name and path of a file; phases: in which the network works."""

    inside = True

    def __init__(
        self, network: RankNetwork, shard: RankShard, sparse: SparseSchedule, trained: tuple[str, str] | None,
        phases: tuple[Phase, ...] = (),
    ) -> None:  # fmt: skip
        kernel, weights = prepare_kernel(sparse, network.situation), None
        if trained is not None:
            name, path = trained
            weights = TrainedFile(name, Path(path)).weights(variant_of(sparse), network.size, network.dtype)
            weights.layers.to(network.device)
        self.run = SparseRun(SparseWrapper(sparse, kernel, weights), phases, lambda _: self._step, has_own=False, shard=shard)
        self._step = 0

    def join(self, call: ExitStack, network: Any, options: dict[str, Any], step: int) -> None:
        self._step = step
        wrap(options, SPARSE, self.run.call)

    def contribution(self) -> Contribution:
        return self.run.contribution(NOBODY)


class CompileWork:
    """Compiled blocks."""

    inside = False

    def __init__(self, network: RankNetwork, shard: RankShard, settings: CompileSettings) -> None:
        import torch._dynamo  # noqa: F401 - what stays apart from compiled code does where torch's compiler is loaded

        settings.check(network.situation)
        self.account = CompileAccount(settings)

    def join(self, call: ExitStack, network: Any, options: dict[str, Any], step: int) -> None:
        call.enter_context(self.account.call())
        call.enter_context(compiled(network, self.account.settings))

    def contribution(self) -> Contribution:
        return Contribution(notes=(self.account.note(),))


WORKS: Mapping[str, Callable[..., RankWork]] = MappingProxyType(
    {"attention": AttentionWork, "sparse": SparseWork, "compile": CompileWork}
)
"""By kind: made of a `RankNetwork`, the rank's shard, and what was asked."""


def wrap(options: dict[str, Any], key: str, wrapper: Callable[..., Any]) -> None:
    """Puts a DIFFUSION_MODEL wrapper inside of those that are in a call's transformer options."""
    comfy.patcher_extension.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, wrapper, options)
