"""Core's skip-layer guidance with a step cache: the layers that it leaves out are part of what the cache reuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caching import CUSTOM, put_table
from sampling import core_node, relative_error, run_ksampler, run_node, shifted
from tiny_wan import save_wan

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

Node = Callable[..., Any]
DBCACHE = {"first_blocks": 1, "last_blocks": 1, "warmup_steps": 1, "max_skips": 0, "max_skipped_steps": 0, "taylor_order": 1}


@pytest.fixture(scope="module")
def wan(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network of four blocks."""
    from comfy.sd import load_diffusion_model

    folder: Path = tmp_path_factory.mktemp("four blocks")
    with torch.inference_mode():
        model = load_diffusion_model(str(save_wan(folder, "four", "t2v", layers=4)))
    put_table(comfy, model)
    return model


def magcache(host: Any, model: Any, skips: bool = True) -> Any:
    preset = {"preset": "custom", **CUSTOM, **({} if skips else {"threshold": 1e-12})}
    how = {"mode": "resampled", "residuals_on_cpu": False}
    return core_node(host, "FastVideoMagCache", model=model, enabled=True, preset=preset, **how)


def dbcache(host: Any, model: Any, skips: bool = True) -> Any:
    preset = {"preset": "custom", **DBCACHE, "threshold": 0.9 if skips else 1e-12}
    return core_node(host, "FastVideoDBCache", model=model, enabled=True, preset=preset, residuals_on_cpu=False)


def guided(host: Any, name: str, model: Any, layers: str = "1, 2", end: float = 1.0) -> Any:
    inputs: dict[str, Any] = {"double_layers": layers, "single_layers": "", "start_percent": 0.0, "end_percent": end}
    scales = {} if name.endswith("Simple") else {"scale": 3.0, "rescaling_scale": 0.0}
    return core_node(host, name, model=model, **inputs, **scales)


CACHES = pytest.mark.parametrize("cache", [magcache, dbcache])
NODES = pytest.mark.parametrize("name", ["SkipLayerGuidanceDiTSimple", "SkipLayerGuidanceDiT"])


@CACHES
@NODES
@pytest.mark.parametrize("order", ["cache first", "guidance first"])
@pytest.mark.parametrize("layers", ["0", "1, 2", "3"])
def test_a_cache_that_never_skips_changes_nothing(comfy: Any, wan: Any, cache: Node, name: str, order: str, layers: str) -> None:
    """Whether the first layer is left out, those in the middle, or the last one."""
    expected = run_ksampler(guided(comfy, name, wan, layers), steps=4)
    if order == "cache first":
        model = guided(comfy, name, cache(comfy, wan, skips=False), layers)
    else:
        model = cache(comfy, guided(comfy, name, wan, layers), skips=False)
    assert torch.equal(run_ksampler(model, steps=4), expected)
    assert relative_error(expected, run_ksampler(wan, steps=4)) > 1e-2


@CACHES
@NODES
def test_a_cache_skips_beside_it(comfy: Any, wan: Any, cache: Node, name: str) -> None:
    model = guided(comfy, name, cache(comfy, wan))
    ours, report = run_node(comfy, model)
    assert all(row.skipped >= 3 for row in report.caches[0].phases)
    assert relative_error(ours, run_ksampler(model)) < 1e-5
    plain = run_ksampler(guided(comfy, name, wan))
    assert 1e-4 < relative_error(ours, plain) < 0.5


@CACHES
def test_where_it_ends_the_branch_computes(comfy: Any, wan: Any, cache: Node) -> None:
    """What was kept was that of fewer layers. The other branch goes on."""
    model = guided(comfy, "SkipLayerGuidanceDiTSimple", cache(comfy, shifted(wan, 5.0)), end=0.45)
    _, report = run_node(comfy, model, guidance_mode="sequential")
    kept, changed = (row for row in report.caches[0].phases)
    assert (kept.branch, changed.branch) == ("positive", "negative")
    at_the_end = [row.plan[4] for row in (kept, changed)]  # the first step behind it
    assert at_the_end == ["S", "C"]


@CACHES
def test_a_hook_that_is_not_asked_is_told(comfy: Any, wan: Any, cache: Node) -> None:
    """One of another pack that replaced ours without our seeing it."""
    from comfy.patcher_extension import WrappersMP

    def behind(executor: Any, *args: Any, **kwargs: Any) -> Any:
        args[5]["patches_replace"]["dit"].pop(("double_block", 1))
        return executor(*args, **kwargs)

    model = cache(comfy, wan)

    def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[5] if len(args) > 5 else kwargs["transformer_options"]
        wrappers = options["wrappers"][WrappersMP.DIFFUSION_MODEL]
        options["wrappers"][WrappersMP.DIFFUSION_MODEL] = {**wrappers, "innermost": [behind]}
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "a pack", apply_model)
    with pytest.raises(RequestError, match="saw 1 of the network's 4 blocks in a call: a patch of another pack"):
        run_ksampler(model)
