"""Sparse self-attention in diffusers' network and in a generation: it engages where it is asked to, and leaves no trace."""

from collections.abc import Iterator, Mapping

import pytest
import tiny
import tiny_transformer as files
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastvideo_core import Guidance, SamplingRequest, generate, seeded_noise
from fastvideo_core.attention.sparse import (
    BSASettings,
    FlexKernel,
    Inputs,
    NABLASettings,
    SLASettings,
    SparseExperts,
    SparseSchedule,
    SparseSession,
    SparseSettings,
    STASettings,
    VSASettings,
    sparse_attention,
)
from fastvideo_core.errors import RequestError
from fastvideo_core.report import SparseReport
from fastvideo_core.schedule import Phase
from fastvideo_core.wan.blocks import installed

TOKENS = (3, 2, 3)
"""Of `tiny.SHAPE` in patches of 1 x 2 x 2."""
TILE = (2, 2, 2)
LAYERS = 2
KERNEL = FlexKernel(compiled=False)
PHASE = Phase(expert="single", start=0, stop=1, guidance_scale=1.0)
DENSE: dict[str, SparseSettings] = {
    "VSA": VSASettings(sparsity=0, tile=TILE),
    "SLA": SLASettings(sparsity=0),
    "BSA": BSASettings(kept_queries=1, mass=1, tile=TILE),
    "STA": STASettings(window=(3, 3, 3), tile=TILE),
    "NABLA": NABLASettings(mass=1, tile=TILE),
}
SPARSE = VSASettings(sparsity=0.5, tile=TILE)


def session(settings: SparseSettings, size: tuple[int, int, int] = TOKENS) -> SparseSession:
    opened = SparseSession.open(SparseSchedule(settings=settings), PHASE, size, torch.device("cpu"), KERNEL)
    assert opened is not None
    return opened


def velocity(network: WanTransformer3DModel, settings: SparseSettings) -> tuple[Tensor, SparseReport]:
    running = session(settings)
    with sparse_attention(network, running):
        return files.velocity_in_place(network), running.report()


@pytest.mark.parametrize("kind", files.NETWORKS)
@pytest.mark.parametrize("name", DENSE)
def test_dense_settings_run_sparse_and_equal_the_plain_network(kind: str, name: str) -> None:
    network = files.NETWORKS[kind]()
    sparse, report = velocity(network, DENSE[name])
    assert tiny.relative_error(sparse, files.velocity_in_place(network)) < 2e-6
    assert (report.sparse_calls, report.dense_calls, report.density) == (LAYERS, 0, 1.0)


def test_sparse_settings_change_the_velocity_and_report_their_density() -> None:
    network = tiny.t2v()
    sparse, report = velocity(network, SPARSE)
    assert tiny.relative_error(sparse, files.velocity_in_place(network)) > 1e-3
    assert 0.1 < report.density < 0.9
    assert report.sparse_calls == LAYERS
    words = "sparse self-attention of the single expert: VSA (sparsity 0.5, tile (2, 2, 2)) in 2 of 2 calls, which computed "
    assert report.line().startswith(words)


def test_nothing_stays_on_the_network_not_even_after_an_interrupt() -> None:
    network = tiny.i2v_clip()
    processors = [module.processor for block in network.blocks for module in (block.attn1, block.attn2)]
    keys, before = list(network.state_dict()), files.velocity_in_place(network)

    def interrupted() -> None:
        with sparse_attention(network, session(SPARSE)):
            assert all(block.attn2.processor is processors[2 * i + 1] for i, block in enumerate(network.blocks))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = [module.processor for block in network.blocks for module in (block.attn1, block.attn2)]
    assert all(now is then for now, then in zip(after, processors, strict=True))
    assert list(network.state_dict()) == keys
    assert torch.equal(files.velocity_in_place(network), before)


def test_a_trained_gate_and_a_trained_projection_are_used() -> None:
    network = tiny.t2v()
    for attribute, settings, width in (("to_gate_compress", SPARSE, 24), ("proj_l", SLASettings(sparsity=0.5), 12)):
        without, _ = velocity(network, settings)
        for block in network.blocks:
            setattr(block.attn1, attribute, nn.Linear(width, width).requires_grad_(False))
            nn.init.zeros_(getattr(block.attn1, attribute).weight)
            nn.init.zeros_(getattr(block.attn1, attribute).bias)
        assert torch.equal(velocity(network, settings)[0], without), "zeros are no gate"
        nn.init.ones_(getattr(network.blocks[0].attn1, attribute).bias)
        assert tiny.relative_error(velocity(network, settings)[0], without) > 1e-3


def test_another_size_of_video_is_refused() -> None:
    network = tiny.t2v()
    refused = pytest.raises(RequestError, match=r"prepared for 3 x 2 x 4 = 24 tokens and is given 18")
    with sparse_attention(network, session(SPARSE, (3, 2, 4))), refused:
        files.velocity_in_place(network)


def test_a_stack_in_the_place_of_the_blocks_is_refused() -> None:
    network = tiny.t2v()
    refused = pytest.raises(RequestError, match="A stack is in the place of the blocks")
    with installed(network, lambda x, *rest: x), refused, sparse_attention(network, session(SPARSE)):
        pass


def test_no_step_waits_for_the_device() -> None:
    """Reading a value, or finding out how many there are, would."""

    class NoWaiting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert function.overloadpacket not in WAITING, function
            return function(*args, **(kwargs or {}))

    class DenseKernel(FlexKernel):
        """Flex attention has no rule for dispatch modes; this takes the same block mask and ignores it."""

        def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: object) -> Tensor:
            return q * v.mean()

    x = tiny.normal((1, 18, 2, 12), 0)
    for settings in (SPARSE, SLASettings(sparsity=0.5), BSASettings(tile=TILE), STASettings(window=(1, 1, 1)), NABLASettings()):
        attention = settings.prepare(TOKENS, torch.device("cpu"), DenseKernel())
        with NoWaiting():
            attention(Inputs(x, x + 1, x + 2))


WAITING = {
    torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal, torch.ops.aten.masked_select,
    torch.ops.aten.bincount, torch.ops.aten.is_nonzero,
}  # fmt: skip


def run(
    sparse: SparseSchedule | None, networks: Mapping[str, WanTransformer3DModel], **changes: object
) -> tuple[Tensor, tuple[SparseReport, ...]]:
    asked = SamplingRequest(**({"steps": 4, "shift": 5.0, "guidance_scale": 3.0, "seed": 11} | changes))
    condition, guidance = tiny.conditioning(), Guidance(asked.plan(), asked.guidance)
    plain = tiny.experts(networks, condition)
    experts = plain if sparse is None else SparseExperts(plain, guidance.schedule, sparse)
    *_, last = generate(asked, experts, condition, seeded_noise(tiny.SHAPE, asked.seed), guidance)
    return last.latents, () if sparse is None else experts.reports()


def test_first_steps_and_layers_stay_dense() -> None:
    _, (report,) = run(SparseSchedule(kernel="gather", settings=SPARSE, dense_steps=1, dense_layers=1), {"single": tiny.t2v()})
    assert (report.sparse_calls, report.dense_calls) == (3, 5), "4 batched calls of 2 layers, of which 3 are sparse in the second"


@pytest.mark.parametrize("dense", [{"dense_steps": 4}, {"dense_layers": 2}], ids=str)
def test_where_everything_is_dense_not_a_bit_changes(dense: dict[str, int]) -> None:
    networks = {"single": tiny.t2v()}
    latents, (report,) = run(SparseSchedule(kernel="gather", settings=SPARSE, **dense), networks)
    assert torch.equal(latents, run(None, networks)[0])
    assert (report.sparse_calls, report.density) == (0, None)


@pytest.fixture
def two_experts() -> Iterator[Mapping[str, WanTransformer3DModel]]:
    yield {"high_noise": tiny.t2v(0), "low_noise": tiny.t2v(1)}


def test_each_expert_has_its_own_sparsity(two_experts: Mapping[str, WanTransformer3DModel]) -> None:
    sparser = VSASettings(sparsity=0.75, tile=TILE)
    _, reports = run(SparseSchedule(kernel="gather", settings=SPARSE, low_noise=sparser), two_experts, boundary=0.875)
    assert [report.expert for report in reports] == ["high_noise", "low_noise"]
    assert reports[1].density < reports[0].density
    _, reports = run(SparseSchedule(kernel="gather", settings=None, low_noise=sparser), two_experts, boundary=0.875)
    assert [report.expert for report in reports] == ["low_noise"]


@pytest.mark.parametrize(
    "wrong", [{"settings": None}, {"settings": SPARSE, "dense_steps": -1}, {"settings": SPARSE, "dense_layers": -2}]
)
def test_wrong_schedules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        SparseSchedule(**wrong)
