"""Every backend that can run on this machine against plain mathematics in float64, and how one is chosen."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastvideo_core import NumericsError, RequestError
from fastvideo_core.attention import (
    AUTO_ORDER,
    BACKENDS,
    Backend,
    MaskKind,
    Situation,
    budget,
    exact_attention,
    faults,
    prepare,
    relative_error,
)  # fmt: skip
from fastvideo_core.attention import select as selecting
from fastvideo_core.attention.dense import broadcast_mask
from fastvideo_core.attention.dense_packages import aligned_bias, pack

KINDS: tuple[MaskKind, ...] = ("none", "padding", "dense", "bias")
IN_TORCH = [name for name in BACKENDS if name.startswith("sdpa")]
B, H, D = 2, 3, 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def mask_of(kind: MaskKind, queries: int, keys: int) -> Tensor | None:
    if kind == "padding":
        return torch.arange(keys) < torch.tensor([[keys], [keys // 3]])
    if kind == "dense":
        return torch.rand(B, H, queries, keys, generator=torch.Generator().manual_seed(9)) < 0.6
    return normal(10, 1, 1, 1, keys) if kind == "bias" else None


def assert_exact(
    attend: Callable[..., Tensor],
    situation: Situation,
    queries: int,
    keys: int,
    error: float | None = None,
    scales: tuple[float | None, ...] = (None, 0.3),
) -> None:
    dtype, device = situation.dtype, str(situation.device)
    q = normal(1, B, queries, H, situation.head_dim, dtype=dtype, device=device)
    k, v = (normal(seed, B, keys, H, situation.head_dim, dtype=dtype, device=device) for seed in (2, 3))
    mask = mask_of(situation.mask, queries, keys)
    mask = mask if mask is None else mask.to(device)
    for scale in scales:
        out = attend(q, k, v, mask, scale)
        assert out.shape == q.shape and out.dtype == dtype
        assert relative_error(out, exact_attention(q, k, v, mask, scale)) <= (error or budget(situation))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", IN_TORCH)
def test_kernels_of_torch_equal_mathematics_up_to_rounding(name: str, dtype: torch.dtype, kind: MaskKind) -> None:
    situation = Situation.on("cpu", dtype, D, kind)
    if BACKENDS[name].unmet(situation):
        with pytest.raises(RequestError, match="cannot run here"):
            prepare(name, situation)
        return
    assert_exact(prepare(name, situation), situation, 37, 21)


@pytest.mark.parametrize(("dtype", "kind"), [(torch.bfloat16, "padding")])
def test_flex_equals_mathematics_up_to_rounding(dtype: torch.dtype, kind: MaskKind) -> None:
    situation = Situation.on("cpu", dtype, D, kind)
    if BACKENDS["flex"].unmet(situation):
        pytest.skip("; ".join(BACKENDS["flex"].unmet(situation)))
    assert_exact(BACKENDS["flex"].load(), situation, 37, 21, scales=(0.3,))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_on_a_gpu_equals_mathematics_up_to_rounding(
    name: str, head_dim: int, dtype: torch.dtype, kind: MaskKind
) -> None:
    situation = Situation.on("cuda", dtype, head_dim, kind)
    row = BACKENDS[name]
    if row.unmet(situation):
        pytest.skip("; ".join(row.unmet(situation)))
    assert_exact(prepare(name, situation), situation, 1000, 513, row.error)


@pytest.mark.parametrize("kind", ["padding", "dense", "bias"])
def test_a_mask_changes_the_result_with_every_backend_that_takes_it(kind: MaskKind) -> None:
    q, k, v = (normal(seed, B, 24, H, D) for seed in (1, 2, 3))
    mask = mask_of(kind, 24, 24)
    for name in IN_TORCH:
        if not BACKENDS[name].unmet(Situation.on("cpu", torch.float32, D, kind)):
            attend = BACKENDS[name].load()
            assert relative_error(attend(q, k, v, mask), attend(q, k, v).double()) > 0.1


def test_a_mask_of_another_kind_than_prepared_for_raises() -> None:
    q = normal(1, B, 24, H, D)
    plain = prepare("sdpa", Situation.on("cpu", torch.float32, D))
    with pytest.raises(RequestError, match="sdpa was prepared for no mask and got a padding mask"):
        plain(q, q, q, mask_of("padding", 24, 24))
    with pytest.raises(RequestError, match="prepared for a padding mask and got no mask"):
        prepare("sdpa", Situation.on("cpu", torch.float32, D, "padding"))(q, q, q)


def test_packed_sequences_are_those_that_the_padding_mask_keeps() -> None:
    """What the flash kernels of varying length read: each sequence alone, up to its own end."""
    q, k, v = (normal(seed, B, 20, H, D) for seed in (1, 2, 3))
    mask = torch.rand(B, 20, generator=torch.Generator().manual_seed(5)) < 0.5
    packed = pack(k, v, mask)
    expected = exact_attention(q, k, v, mask)
    for i in range(B):
        rows = slice(int(packed.starts[i]), int(packed.starts[i + 1]))
        alone = exact_attention(q[i : i + 1], packed.k[rows][None], packed.v[rows][None])
        assert relative_error(alone, expected[i : i + 1]) < 1e-12
    assert packed.starts.dtype == torch.int32 and packed.k.shape == (B * 20, H, D)


@pytest.mark.parametrize("kind", ["padding", "dense", "bias"])
def test_aligned_bias_means_the_same_as_the_mask(kind: MaskKind) -> None:
    q, k, v = normal(1, B, 11, H, D), normal(2, B, 13, H, D), normal(3, B, 13, H, D)
    mask = mask_of(kind, 11, 13)
    assert mask is not None
    bias = aligned_bias(mask, q, k)
    assert bias.shape == (B, H, 11, 13) and bias.stride(2) % 8 == 0
    assert relative_error(exact_attention(q, k, v, bias), exact_attention(q, k, v, mask)) < 1e-12
    assert broadcast_mask(mask, q) is not None


def test_an_explicit_choice_that_cannot_run_tells_every_reason() -> None:
    with pytest.raises(RequestError) as raised:
        prepare("sageattention_1", Situation(torch.device("cpu"), torch.float32, 80, "padding"))
    message = str(raised.value)
    for part in (
        "sageattention >= 1.0 < 2",
        "compute capability 8.0",
        "float16 or bfloat16",
        "head_dim of 64, 96 or 128",
        "no mask",
    ):
        assert part in message
    assert message.endswith("Choose another one, or auto.")


def test_an_unknown_name_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'flsh' is unknown\. Known: auto, sdpa, "):
        prepare("flsh", Situation.on("cpu", torch.float32, D))


def test_auto_says_what_it_chose_and_why_not_each_other() -> None:
    choice = prepare("auto", Situation.on("cpu", torch.float32, D)).choice
    assert (choice.asked, choice.backend) == ("auto", "sdpa")
    assert [part.split(": ")[0] for part in choice.why.split("; not ")] == ["auto", *AUTO_ORDER[:2]]
    assert choice.rejected.keys() == BACKENDS.keys() - {"sdpa"}
    assert any("CUDA" in reason or "GPU" in reason for reason in choice.rejected["flash_attn_3"])
    assert choice.rejected["sdpa_math"] == ("auto does not choose it: ask for it by name",)


def test_an_explicit_choice_is_explained_too() -> None:
    choice = prepare("sdpa_math", Situation.on("cpu", torch.float32, D)).choice
    assert (choice.backend, choice.why) == ("sdpa_math", "as asked")
    assert set(choice.rejected.values()) == {("was not asked for",)}


def test_auto_passes_a_broken_kernel_by_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel that is wrong, first in the order; the explicit choice of it raises."""
    rows = {**BACKENDS, "flash_attn_3": Backend("flash_attn_3", "wrong", (), lambda: lambda q, k, v, m=None, s=None: q * 0)}
    monkeypatch.setattr(selecting, "BACKENDS", rows)
    situation = Situation.on("cpu", torch.float32, D)
    choice = prepare("auto", situation).choice
    assert choice.backend != "flash_attn_3"
    assert "its relative error against float64 is 1" in choice.rejected["flash_attn_3"][0]


def test_a_package_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("libcudart.so.11.0: cannot open shared object file")

    rows = {**BACKENDS, "flash_attn_2": Backend("flash_attn_2", "broken", (), load)}  # type: ignore[arg-type]
    monkeypatch.setattr(selecting, "BACKENDS", rows)
    reasons = prepare("auto", Situation.on("cpu", torch.float32, D)).choice.rejected["flash_attn_2"]
    assert reasons == ("is installed and cannot be imported (libcudart.so.11.0: cannot open shared object file)",)


def test_a_broken_kernel_that_was_asked_for_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Backend("wrong", "Wrong", (), lambda: lambda q, k, v, m=None, s=None: q.new_full(q.shape, torch.nan))
    monkeypatch.setattr(selecting, "backend", lambda name: broken)
    with pytest.raises(NumericsError, match=r"wrong \(Wrong\) is broken here .* values that it gives are not finite"):
        prepare("wrong", Situation.on("cpu", torch.float32, D))
    assert faults(broken.load(), Situation.on("cpu", torch.float32, D))
