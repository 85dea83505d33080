"""Networks of their true size on a GPU that is not there: operations have shapes and places and no values, and what they allocate
is counted. Attention allocates what flash attention does: its output, and one float32 per row and head."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from fastvideo_core import Conditioning, GivenFrame
from fastvideo_core.attention import FoldedText, lean_attention
from fastvideo_core.attention.folding import KeptKeys
from fastvideo_core.guidance import BOTH
from fastvideo_core.schedule import Phase
from fastvideo_core.wan import WanDenoiser
from fastvideo_core.wan.embeddings import kept_embeddings

CUDA = torch.device("cuda")
FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
"""What diffusers keeps in float32 (transformer_wan.py, _keep_in_fp32_modules)."""


class Allocated(TorchDispatchMode):
    """Bytes of the tensors on the GPU that operations made and that are alive. peak: the most so far."""

    def __init__(self, known: Iterable[Tensor], device: str = "cuda") -> None:
        """known: tensors that are not counted, nor views of them. device: of those that are."""
        super().__init__()
        self.device = device
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.now = self.peak = 0
        self.copies: list[tuple[str, str]] = []  # between devices: from, to

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for key in [key for key, (storage, _) in self.alive.items() if storage.expired()]:
            self.now -= self.alive.pop(key)[1]
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device and not is_traceable_wrapper_subclass(tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        self._copied(function, args, out)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known and key not in self.alive:
            self.alive[key] = StorageWeakRef(storage), storage.nbytes()
            self.now += storage.nbytes()

    def _copied(self, function: Any, args: Sequence[Any], out: Any) -> None:
        places = [x.device.type for x in (*args, out) if isinstance(x, Tensor)]
        if function.overloadpacket.__name__ in ("_to_copy", "copy_") and len(set(places)) == 2:
            self.copies.append((places[0], places[-1]))


class Flash(TorchFunctionMode):
    """Attention as flash attention allocates it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q = args[0]
        batch, heads, rows, head_dim = q.shape
        q.new_empty(batch, heads, rows, dtype=torch.float32)
        return q.new_empty(batch, rows, heads, head_dim).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class TrueSize:
    """A checkpoint's measures, but for its number of blocks, and the latents of its usual video."""

    dim: int
    ffn_dim: int
    shape: tuple[int, ...]
    channels: tuple[int, int] = (16, 16)
    image_tokens: int = 0
    first_frame: bool = False
    head_dim: int = 128

    def network(self, dtype: torch.dtype, layers: int) -> WanTransformer3DModel:
        read, written = self.channels
        network = WanTransformer3DModel(
            num_attention_heads=self.dim // self.head_dim, attention_head_dim=self.head_dim, ffn_dim=self.ffn_dim,
            num_layers=layers, in_channels=read, out_channels=written, image_dim=1280 if self.image_tokens else None,
            added_kv_proj_dim=self.dim if self.image_tokens else None,
            pos_embed_seq_len=self.image_tokens if self.image_tokens > 257 else None,
        ).eval()  # fmt: skip
        for name, module in network.named_modules():
            for key, weight in module.named_parameters(recurse=False):
                kept = any(part in FLOAT32 for part in f"{name}.{key}".split("."))
                cast = weight.detach().to(torch.float32 if kept else dtype)
                module._parameters[key] = nn.Parameter(cast, requires_grad=False)
        return network

    def conditioning(self, dtype: torch.dtype) -> Conditioning:
        read, written = self.channels
        size = self.shape[2:]
        return Conditioning(
            positive=torch.zeros(1, 512, 4096, dtype=dtype),
            negative=torch.zeros(1, 512, 4096, dtype=dtype),
            image=torch.zeros(1, read - written, *size, dtype=dtype) if read > written else None,
            image_tokens=torch.zeros(1, self.image_tokens, 1280, dtype=dtype) if self.image_tokens else None,
            first_frame=GivenFrame(torch.zeros(1, written, 1, *size[1:])) if self.first_frame else None,
        )


SD, HD = (1, 16, 21, 60, 104), (1, 16, 21, 90, 160)
SIZES: Mapping[str, TrueSize] = MappingProxyType({
    "T2V 1.3B": TrueSize(dim=1536, ffn_dim=8960, shape=SD),
    "T2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD),
    "T2V 14B 480p": TrueSize(dim=5120, ffn_dim=13824, shape=SD),
    "I2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16), image_tokens=257),
    "FLF2V 14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16), image_tokens=514),
    "I2V A14B": TrueSize(dim=5120, ffn_dim=13824, shape=HD, channels=(36, 16)),
    "TI2V 5B": TrueSize(dim=3072, ffn_dim=14336, shape=(1, 48, 31, 44, 80), channels=(48, 48), first_frame=True),
    "TI2V 5B without image": TrueSize(dim=3072, ffn_dim=14336, shape=(1, 48, 31, 44, 80), channels=(48, 48)),
})  # fmt: skip


@dataclass(frozen=True)
class SimulatedExperts:
    """As `WanExperts` sets a network up, with a text of which 110 rows are real: no value can be read here to see it."""

    size: TrueSize
    dtype: torch.dtype = torch.bfloat16
    layers: int = 2
    rows: int = 112
    names: tuple[str, ...] = ("single",)
    weights: list[Tensor] = field(default_factory=list, init=False)  # of the network that was set up

    def loaded(self, expert: str) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def active(self, phase: Phase | None = None) -> Iterator[WanDenoiser]:
        network, conditioning = self.size.network(self.dtype, self.layers), self.size.conditioning(self.dtype)
        self.weights[:] = [*network.parameters(), *network.buffers()]
        text = FoldedText(self.rows, torch.zeros(1, 1, 1, self.rows, dtype=self.dtype), KeptKeys())
        given = self.size.shape[3] * self.size.shape[4] // 4 if self.size.first_frame else 0
        with Flash(), lean_attention(network, text), kept_embeddings(network, given) as embeddings:
            yield WanDenoiser(network, conditioning, self.size.shape, text, embeddings)


@contextmanager
def simulated() -> Iterator[None]:
    """All tensors are made on a GPU that is not there."""
    with FakeTensorMode(allow_non_fake_inputs=True), CUDA:
        yield


def peak_of(denoiser: Any, experts: SimulatedExperts, calls: int = 2) -> int:
    """Of calls over both branches."""
    latents = torch.zeros(experts.size.shape)
    with Allocated(experts.weights) as counter:
        for call in range(calls):
            denoiser.predict(latents, 1 - call / 10, BOTH)
    return counter.peak
