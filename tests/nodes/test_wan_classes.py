"""Each kind of Wan network that core has, under each node that acts inside of it: it runs and says so, or is refused by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from sampling import normal, relative_error, run_node
from test_attention import attended
from test_attention import calls as attention_calls
from test_compile import compiled, dbcached, last_call
from test_sparse_attention import calls as sparse_calls
from test_sparse_attention import sparse
from tiny_wan import TEXT_DIM, conditioning, scaled

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

STEPS = 2


@dataclass(frozen=True)
class Kind:
    """config: core's name of it; widths: beside the usual ones; given: CONDITIONING's entries, by the shapes of their tensors;
    blocks: with attention; across: attention calls of a block that are not its self-attention; beside: whether it puts other
    tokens beside the video's."""

    config: str
    widths: dict[str, Any]
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)
    blocks: int = 2
    across: int = 1
    beside: bool = False


REFERENCE = {"reference_latents": (1, 16, 1, 8, 8)}
AUDIO = {"audio_embed": (1, 3, 8, 5, 1280)}
HUMO = {"model_type": "humo", "in_dim": 36}
S2V = {"model_type": "s2v", "in_dim": 16, "audio_inject_layers": [0]}
KINDS = {
    "fun control": Kind("WAN21_FunControl2V", {"model_type": "i2v", "in_dim": 48}, across=2),
    "camera": Kind("WAN21_Camera", {"model_type": "camera", "in_dim": 32}, across=2),
    "camera 2.2": Kind("WAN22_Camera", {"model_type": "camera_2.2", "in_dim": 32}),
    "VACE": Kind("WAN21_Vace", {"model_type": "vace", "in_dim": 16, "vace_layers": 1, "vace_in_dim": 96}, blocks=3),
    "HuMo": Kind("WAN21_HuMo", HUMO, AUDIO, across=2),
    "HuMo with a reference": Kind("WAN21_HuMo", HUMO, {**AUDIO, **REFERENCE}, across=2, beside=True),
    "S2V": Kind("WAN22_S2V", S2V),
    "S2V with a reference": Kind("WAN22_S2V", S2V, REFERENCE, beside=True),
    "Animate": Kind("WAN22_Animate", {"model_type": "animate", "in_dim": 36, "num_layers": 5}, blocks=5, across=2),
    "SCAIL": Kind("WAN21_SCAIL", {"model_type": "scail", "in_dim": 20}, across=2),
    "SCAIL with a reference": Kind("WAN21_SCAIL", {"model_type": "scail", "in_dim": 20}, REFERENCE, across=2, beside=True),
    "SCAIL 2": Kind("WAN21_SCAIL2", {"model_type": "scail2", "in_dim": 20}, REFERENCE, across=2, beside=True),
    "WanDancer": Kind("WAN22_WanDancer", {"model_type": "wandancer", "in_dim": 36, "audio_inject_layers": [0]}, across=2),
}  # fmt: skip
OWN_BLOCKS = ("HuMo", "S2V")
"""Of those whose blocks have a forward of their own; VACE's are in the tests of FastVideo Compile."""


@dataclass(frozen=True)
class Case:
    kind: Kind
    model: Any
    prompts: dict[str, Any]


@pytest.fixture(scope="module")
def cases(comfy: Any) -> Iterator[dict[str, Case]]:
    """Made so far, by their names."""
    made: dict[str, Case] = {}
    yield made
    made.clear()


@pytest.fixture(params=KINDS)
def case(comfy: Any, cases: dict[str, Case], request: pytest.FixtureRequest) -> Case:
    if request.param not in cases:
        cases[request.param] = made(KINDS[request.param])
    return cases[request.param]


def made(kind: Kind) -> Case:
    """As core's loader makes it of a file."""
    from comfy import ops, supported_models
    from comfy.model_patcher import ModelPatcher

    if not hasattr(supported_models, kind.config):
        pytest.skip(f"this ComfyUI has no {kind.config} yet")
    usual = {"image_model": "wan2.1", "dim": 64, "ffn_dim": 128, "num_heads": 1, "num_layers": 2, "out_dim": 16}
    config = getattr(supported_models, kind.config)({**usual, "text_dim": TEXT_DIM, **kind.widths})
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = ops.disable_weight_init
    model = config.get_model({})
    model.diffusion_model.load_state_dict(scaled(model.diffusion_model.state_dict(), 0))
    tensors = {name: normal(30, *shape) for name, shape in kind.given.items()}
    given = {name: [tensor] if name == "reference_latents" else tensor for name, tensor in tensors.items()}
    cpu = torch.device("cpu")
    return Case(kind, ModelPatcher(model.eval(), cpu, cpu), {
        "positive": conditioning(1, **given), "negative": conditioning(2, **given),
    })  # fmt: skip


def run(host: Any, case: Case, model: Any, **changes: Any) -> tuple[torch.Tensor, Any]:
    return run_node(host, model, **{"steps": STEPS, **case.prompts, **changes})


def test_chosen_attention_runs_and_tells_self_from_cross(comfy: Any, case: Case) -> None:
    plain, _ = run(comfy, case, case.model)
    video, report = run(comfy, case, attended(comfy, case.model, "sdpa", "sdpa_math", fold_text=True))
    assert relative_error(video, plain) < 1e-5
    (_, _, own, network), (_, _, cross, _) = attention_calls(report)
    blocks = case.kind.blocks * network
    assert network and (own, cross) == (blocks, blocks * case.kind.across)


def test_sparse_attention_runs_where_all_tokens_are_the_video_s(comfy: Any, case: Case) -> None:
    model = sparse(comfy, case.model)
    if case.kind.beside:
        with pytest.raises(RequestError, match=r"puts other tokens beside the video's.*Remove FastVideo Sparse Attention here"):
            run(comfy, case, model)
        return
    _, report = run(comfy, case, model)
    assert sparse_calls(report) == [("single", "VSA", case.kind.blocks * STEPS, 0)]


def test_a_step_cache_skips_and_at_a_neutral_threshold_changes_no_bit(comfy: Any, case: Case) -> None:
    plain, _ = run(comfy, case, case.model)
    video, report = run(comfy, case, dbcached(comfy, case.model, threshold=1e-9))
    assert torch.equal(video, plain) and not report.caches[0].skipped_steps
    _, report = run(comfy, case, dbcached(comfy, case.model, threshold=0.99))
    assert report.caches[0].skipped_steps == 1


@pytest.mark.parametrize("case", OWN_BLOCKS, indirect=True)
def test_blocks_compile_and_compute_the_same(comfy: Any, case: Case) -> None:
    plain, _ = run(comfy, case, case.model)
    torch.compiler.reset()
    video, report = run(comfy, case, compiled(comfy, case.model))
    torch.compiler.reset()
    assert relative_error(video, plain) < 1e-5 and last_call(report) >= 1
