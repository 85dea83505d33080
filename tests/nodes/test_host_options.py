"""A call's transformer options are the host's: what its patches leave there for one another arrives beside our nodes too."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from caching import cached, put_table
from sampling import conditions_of, latent_of, normal, relative_error, run_ksampler, run_node
from test_attention import attended
from test_compile import compiled, dbcached
from test_sparse_attention import sparse
from tiny_wan import save_wan
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("direct")

LAYERS, SIDE = 2, 16
NODES: dict[str, Callable[[Any, Any], Any]] = {
    "attention": lambda host, model: attended(host, model, "sdpa", "sdpa"),
    "attention and folded text": lambda host, model: attended(host, model, "sdpa", "sdpa", fold_text=True),
    "sparse attention": lambda host, model: sparse(host, model, "VSA", sparsity=0.0),
    "dense steps of sparse attention": lambda host, model: sparse(host, model, "VSA", steps=9),
    "attention and sparse attention": lambda host, model: attended(
        host, sparse(host, model, "VSA", sparsity=0.0), "sdpa", "sdpa"
    ),
    "compile, attention and sparse attention": lambda host, model: compiled(
        host, attended(host, sparse(host, model, "VSA", sparsity=0.0), "sdpa", "sdpa")
    ),
    "MagCache": lambda host, model: cached(host, model, threshold=0.0),
    "DBCache": lambda host, model: dbcached(host, model, threshold=0.0),
}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def wide(comfy: Any) -> Any:
    """A network of two heads, which core's attention map wants, and a table of ratios for it."""
    from comfy.sd import load_diffusion_model

    with torch.inference_mode():
        model = load_diffusion_model(str(save_wan(comfy.model_folder("diffusion_models"), "t2v_two_heads", "t2v", dim=128)))
    put_table(comfy, model)
    return model


@pytest.mark.parametrize("name", NODES)
def test_what_a_patch_leaves_in_self_attention_is_found_after_it(comfy: Any, wide: Any, name: str) -> None:
    """And what it takes away is gone: each block's attention goes through the options, and is taken out at the next place."""
    expected = run(leaving(wide))
    assert relative_error(run(wide), expected) > 1e-2
    assert relative_error(run(leaving(NODES[name](comfy, wide))), expected) < 1e-5
    assert relative_error(run(NODES[name](comfy, leaving(wide))), expected) < 1e-5


@pytest.mark.parametrize("name", NODES)
def test_two_speakers_of_infinite_talk(comfy: Any, wide: Any, name: str) -> None:
    """Core's own patches: the attention map of the reference masks goes from self-attention to the audio's."""
    expected = run(speaking(wide))
    assert relative_error(run(speaking(wide, speakers=1)), expected) > 1e-2
    assert relative_error(run(speaking(NODES[name](comfy, wide))), expected) < 1e-5


@pytest.mark.parametrize("name", NODES)
def test_a_wrapper_outside_finds_what_the_network_left_and_nothing_of_ours(comfy: Any, wide: Any, name: str) -> None:
    from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

    found: list[set[str]] = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        before = set(args[5])
        out = executor(*args, **kwargs)
        found.append(set(args[5]) - before)
        return out

    model = wide.clone()
    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "first", wrapper, model.model_options, is_model_options=True)
    for each in (model, NODES[name](comfy, model)):
        run(each)
    assert found == [found[0]] * 4 and found[0] >= {"grid_sizes", "block_index"}


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_what_a_guidance_patch_leaves_is_there_in_the_next_step_of_both_experts(
    comfy: Any, load_wan: Any, rescale: float
) -> None:
    high, low = (remembering(load_wan("t2v", seed)) for seed in (0, 1))
    _, report = run_node(comfy, high[0], low_noise_model=low[0], steps=4, guidance_rescale=rescale)
    steps = [phase.steps for phase in report.phases]
    assert steps == [2, 2]
    for (_, found), count in zip((high, low), steps, strict=True):
        assert found == [(step, step) for step in range(count)]
    model, found = remembering(load_wan())
    run_ksampler(model, steps=4)
    assert found == [(0, 0), (1, 1), (2, 2), (3, 3)]  # core's own


def run(model: Any) -> Tensor:
    positive, negative = conditions_of("t2v", side=SIDE)
    inputs = {"positive": positive, "negative": negative, "latent": latent_of("t2v", side=SIDE)}
    return run_ksampler(model, cfg=1.0, steps=2, **inputs)


def remembering(model: Any) -> tuple[Any, list[tuple[int, int]]]:
    """Counts its steps in the options of the run, and among those of its calls."""
    clone, found = model.clone(), []

    def patch(args: dict[str, Any]) -> Tensor:
        places = (args["model_options"], args["model_options"]["transformer_options"])
        found.append(tuple(place.get("steps so far", 0) for place in places))
        for place in places:
            place["steps so far"] = place.get("steps so far", 0) + 1
        denoised: Tensor = args["denoised"]
        return denoised

    clone.set_model_sampler_post_cfg_function(patch)
    return clone, found


def leaving(model: Any) -> Any:
    """As InfiniteTalk's patches, and across blocks."""
    clone = model.clone()

    def write(args: dict[str, Any]) -> Tensor:
        options = args["transformer_options"]
        options["left"] = args["x"].flip(-1) + 0.5 * options.pop("left over", 0.0)
        x: Tensor = args["x"]
        return x

    def read(args: dict[str, Any]) -> Tensor:
        options = args["transformer_options"]
        left: Tensor = options.pop("left")
        options["left over"] = left
        x: Tensor = args["x"] + left
        return x

    clone.set_model_attn1_patch(write)
    clone.set_model_patch(read, "attn2_patch")
    return clone


def speaking(model: Any, speakers: int = 2) -> Any:
    """The patches of core's node for InfiniteTalk, with audio layers of this network's width."""
    from comfy.ldm.wan.model_multitalk import MultiTalkCrossAttnPatch, MultiTalkGetAttnMapPatch
    from comfy.model_patcher import ModelPatcher

    clone, cpu = model.clone(), torch.device("cpu")
    layers = ModelPatcher(_Audio(), cpu, cpu)
    clone.model_options["transformer_options"]["audio_embeds"] = normal(71, 1, 3, 8, 32)
    clone.set_model_patch(MultiTalkCrossAttnPatch(layers, 4.0), "attn2_patch")
    if speakers == 2:
        left = torch.arange((SIDE // 2) ** 2) % (SIDE // 2) < SIDE // 4
        clone.set_model_patch(MultiTalkGetAttnMapPatch(torch.stack([left, ~left])), "attn1_patch")
    return clone


class _Audio(nn.Module):
    def __init__(self) -> None:
        from comfy import ops
        from comfy.ldm.wan.model_multitalk import SingleStreamMultiAttention

        super().__init__()
        of = {"device": torch.device("cpu"), "dtype": torch.float32, "operations": ops.disable_weight_init}
        blocks = []
        for _ in range(LAYERS):
            attention = SingleStreamMultiAttention(128, 32, 2, True, **of)
            blocks.append(nn.ModuleDict({"audio_cross_attn": attention, "norm_x": nn.LayerNorm(128)}))
        self.blocks = nn.ModuleList(blocks)
        for seed, parameter in enumerate(self.parameters()):
            parameter.data = 0.2 * normal(72 + seed, *parameter.shape)
