"""FastVideo MagCache together with other nodes: what composes acts as without it, what cannot is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from caching import cached, counted_blocks, cut, plans, put_table
from sampling import conditions_of, latent_of, normal, relative_error, run_chain, run_ksampler, run_node
from test_composition import PATCHES, cache, context_windows
from tiny_wan import TEXT_DIM

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

NEVER = {"threshold": 1e-12}
OTHER_CACHES = ("EasyCache", "LazyCache")
COMPOSING = [name for name in PATCHES if name not in OTHER_CACHES]


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    for kind in ("t2v", "i2v", "ti2v"):
        put_table(comfy, load_wan(kind))
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))


@pytest.mark.parametrize("order", ["cache first", "patch first"])
@pytest.mark.parametrize("name", COMPOSING)
def test_it_does_not_change_what_another_node_does(comfy: Any, load_wan: Any, name: str, order: str) -> None:
    """With a cache that never skips the video is bit for bit that of the patch alone."""
    patch, base = PATCHES[name], load_wan()
    expected = run_ksampler(patch(comfy, base), steps=4)
    both = patch(comfy, cached(comfy, base, **NEVER)) if order == "cache first" else cached(comfy, patch(comfy, base), **NEVER)
    assert torch.equal(run_ksampler(both, steps=4), expected)


@pytest.mark.parametrize("name", COMPOSING)
def test_it_skips_beside_another_node(comfy: Any, load_wan: Any, name: str) -> None:
    """The same under our sampler and core's, on one expert and on two; passes of the patch itself run."""
    both = [PATCHES[name](comfy, cached(comfy, load_wan("t2v", seed))) for seed in (0, 1)]
    ours, report = run_node(comfy, both[0])
    assert plans(report)["single", "positive"].count("S") >= 4
    assert relative_error(ours, run_ksampler(both[0])) < 1e-5
    plain = run_node(comfy, PATCHES[name](comfy, load_wan()))[0]
    assert 1e-4 < relative_error(ours, plain) < 0.5
    two, report = run_node(comfy, both[0], "t2v", both[1])
    assert relative_error(two, run_chain(*both, "t2v", report.phases[0].steps)) < 1e-5


def test_passes_of_skip_layer_guidance_are_not_steps(comfy: Any, load_wan: Any) -> None:
    model = PATCHES["SkipLayerGuidanceDiT"](comfy, cached(comfy, load_wan()))
    with counted_blocks(model) as runs:
        report = run_node(comfy, model)[1]
    assert plans(report)["single", "positive"] == "CSSCSSCS"
    assert runs.count(2) == 3 and runs.count(1) == 8  # the pass of the patch runs in every step, alone
    assert report.caches[0].bypassed == 8 and "8 calls: they were a second call in one step" in report.text()


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_context_windows_are_not_steps(comfy: Any, load_wan: Any, kind: str) -> None:
    positive, negative = conditions_of(kind, frames=7)
    long = {"positive": positive, "negative": negative, "latent": latent_of(kind, frames=7), "steps": 4}
    model = context_windows(comfy, load_wan(kind))
    ours, report = run_node(comfy, cached(comfy, model), kind, **long)
    assert torch.equal(ours, run_node(comfy, model, kind, **long)[0])
    assert cut(report) == 0 and "they were context windows, which are not steps" in report.text()


@pytest.mark.parametrize(
    ("sampler", "calls"), [("heun", 15), ("dpm_2", 15), ("uni_pc", 8), ("dpmpp_2m", 8), ("euler_ancestral", 8), ("dpmpp_sde", 15)]
)
def test_solvers_of_core(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture, sampler: str, calls: int) -> None:
    """Of the two calls that second-order solvers make in a step one is a step."""
    caplog.set_level("INFO")
    plain = run_ksampler(load_wan(), sampler=sampler)
    assert torch.equal(run_ksampler(cached(comfy, load_wan(), **NEVER), sampler=sampler), plain)
    caplog.clear()
    with counted_blocks(load_wan()) as runs:
        ours = run_ksampler(cached(comfy, load_wan()), sampler=sampler)
    assert "single positive: CSSCSSCS" in caplog.text
    assert len(runs) == calls - 5
    assert 1e-4 < relative_error(ours, plain) < 0.5


def test_a_given_first_frame_with_timesteps_of_its_own(comfy: Any, load_wan: Any) -> None:
    model = load_wan("ti2v")
    assert torch.equal(run_ksampler(cached(comfy, model, **NEVER), "ti2v"), run_ksampler(model, "ti2v"))
    ours, report = run_node(comfy, cached(comfy, model), "ti2v")
    assert plans(report)["single", "negative"] == "CSSCSSCS"
    assert relative_error(ours, run_ksampler(cached(comfy, model), "ti2v")) < 1e-5


def test_the_packs_own_network_behind_a_model(comfy: Any, load_wan: Any) -> None:
    native = cached(comfy, load_wan())
    loader = comfy.node_classes["FastVideoLoadDiffusersModel"]
    diffusers = cached(comfy, loader.execute("t2v_0.safetensors", "as stored", "none", 1.0).args[0])
    with counted_blocks(diffusers) as runs:
        ours, report = run_node(comfy, diffusers)
    assert len(runs) == 3
    expected, other = run_node(comfy, native)
    assert report.caches[0].phases == other.caches[0].phases
    assert relative_error(ours, expected) < 1e-5


def test_another_of_cores_wan_networks(comfy: Any, vace: Any) -> None:
    put_table(comfy, vace)
    assert torch.equal(run_ksampler(cached(comfy, vace, **NEVER)), run_ksampler(vace))
    ours, report = run_node(comfy, cached(comfy, vace))
    assert plans(report)["single", "positive"] == "CSSCSSCS"
    assert relative_error(ours, run_ksampler(cached(comfy, vace))) < 1e-5
    assert relative_error(ours, run_ksampler(vace)) < 0.5


@pytest.mark.parametrize("regional", [True, False], ids=["block by block", "the whole network"])
def test_torch_compile(comfy: Any, load_wan: Any, regional: bool) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = cached(comfy, load_wan())
    keys = [f"diffusion_model.blocks.{i}" for i in range(2)] if regional else ["diffusion_model"]
    set_torch_compile_wrapper(model, backend="eager", keys=keys)
    try:
        ours, report = run_node(comfy, model)
        assert plans(report)["single", "positive"] == "CSSCSSCS"
        assert relative_error(ours, run_node(comfy, cached(comfy, load_wan()))[0]) < 1e-5
    finally:
        torch.compiler.reset()


def test_a_conditioning_of_several_parts_computes(comfy: Any, load_wan: Any) -> None:
    positive, negative = conditions_of("t2v")
    prompts = {"positive": [*positive, [normal(43, 1, 512, TEXT_DIM), {"pooled_output": None}]], "negative": negative}
    ours, report = run_node(comfy, cached(comfy, load_wan()), steps=4, **prompts)
    assert torch.equal(ours, run_node(comfy, load_wan(), steps=4, **prompts)[0])
    assert "they held a conditioning of several parts" in report.text()


def test_a_prompt_that_changes_on_the_way_is_never_mixed(comfy: Any, load_wan: Any) -> None:
    """Its second part would reuse the first one's residual."""
    (first, second), negative = (conditions_of("t2v")[i] for i in (0, 1)), conditions_of("t2v")[1]
    positive = [
        [first[0][0], {"pooled_output": None, "start_percent": 0.0, "end_percent": 0.5}],
        [second[0][0], {"pooled_output": None, "start_percent": 0.5, "end_percent": 1.0}],
    ]
    prompts = {"positive": positive, "negative": negative, "guidance_mode": "sequential"}
    ours, report = run_node(comfy, cached(comfy, load_wan()), **prompts)
    changed = plans(report)["single", "positive"]
    assert "S" in changed and changed.endswith("---")
    assert "they held another part of a conditioning" in report.text()
    assert relative_error(ours, run_node(comfy, load_wan(), **prompts)[0]) < 0.5


@pytest.mark.parametrize("name", OTHER_CACHES)
@pytest.mark.parametrize("order", ["ours first", "ours last"])
def test_a_cache_of_core_on_the_same_model_is_refused_by_name(comfy: Any, load_wan: Any, name: str, order: str) -> None:
    other: Callable[[Any], Any] = lambda model: cache(comfy, model, name)  # noqa: E731
    model = other(cached(comfy, load_wan())) if order == "ours first" else cached(comfy, other(load_wan()))
    for run in (lambda: run_ksampler(model), lambda: run_node(comfy, model)):
        with pytest.raises(RequestError, match=rf"FastVideo MagCache and {name} are on one MODEL.*Remove or bypass one"):
            run()


def test_a_second_one_of_ours_is_refused_by_name(comfy: Any, load_wan: Any) -> None:
    with pytest.raises(RequestError, match="FastVideo MagCache and FastVideo MagCache are on one MODEL"):
        run_node(comfy, cached(comfy, cached(comfy, load_wan())))


def teacache_wrapper(apply_model: Any, args: dict[str, Any]) -> Any:
    """Named as packs name theirs."""
    return apply_model(args["input"], args["timestep"], **args["c"])


@pytest.mark.parametrize("how", ["model function", "option", "forward"])
def test_a_cache_of_another_pack_is_refused_by_name(comfy: Any, load_wan: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cached(comfy, load_wan())
    if how == "model function":
        model.set_model_unet_function_wrapper(teacache_wrapper)
    elif how == "option":
        model.model_options["transformer_options"]["rel_l1_thresh"] = 0.1
    else:
        monkeypatch.setitem(vars(load_wan().model.diffusion_model), "forward", teacache_wrapper)
    with pytest.raises(RequestError, match=r"the cache of another pack \((.*teacache_wrapper|rel_l1_thresh)\)"):
        run_ksampler(model)


def test_a_forward_that_does_not_ask_the_block_hooks_is_an_error_and_no_silence(comfy: Any, load_wan: Any) -> None:
    from comfy.patcher_extension import WrappersMP

    def without_hooks(executor: Any, *args: Any, **kwargs: Any) -> Any:
        args[5]["patches_replace"] = {}
        return executor(*args, **kwargs)

    model = cached(comfy, load_wan())
    # Inside of the cache's wrapper, as a patch of the network's forward would be.
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a pack", _adding(without_hooks))
    with pytest.raises(RequestError, match="saw 0 of the network's 2 blocks in a call: a patch of another pack"):
        run_ksampler(model)


def _adding(wrapper: Any) -> Any:
    from comfy.patcher_extension import WrappersMP

    def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[5] if len(args) > 5 else kwargs["transformer_options"]
        options["wrappers"][WrappersMP.DIFFUSION_MODEL] = {
            **options["wrappers"][WrappersMP.DIFFUSION_MODEL], "innermost": [wrapper],
        }  # fmt: skip
        return executor(*args, **kwargs)

    return around


def test_several_gpus_are_refused(comfy: Any, load_wan: Any) -> None:
    model = cached(comfy, load_wan())
    model.set_additional_models("multigpu", [load_wan().clone()])
    with pytest.raises(RequestError, match=r"MultiGPU node spreads over several GPUs.*Remove one of the two nodes"):
        run_ksampler(model)
