"""What cores after the pinned one put on a MODEL and set in a run: made here as they make it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from caching import cached, module_of, put_table
from sampling import relative_error, run_ksampler, run_node, shifted
from test_attention import OVERRIDE, attended
from test_compile import dbcached
from test_sparse_attention import calls, inputs_of, sparse

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

SPARSE_NODE = "nodes_sparse_attention"


def attention_backend(model: Any, scale: float = 1.0) -> Any:
    """As Model Attention Backend; with a scale to be seen by."""
    from comfy.ldm.modules.attention import attention_pytorch

    def attention_scaled(*args: Any, **kwargs: Any) -> Any:
        return scale * attention_pytorch(*args, **kwargs)

    return overriding(model, attention_scaled, "ModelPatcher.set_model_optimized_attention.<locals>.optimized_attention_override")


def core_sparse(model: Any) -> Any:
    """As Model Sparse Attention."""
    from comfy.ldm.modules.attention import attention_pytorch

    return overriding(model, attention_pytorch, "make_attention_override.<locals>.override", SPARSE_NODE)


def overriding(model: Any, optimized_attention: Any, qualname: str, module: str = "comfy.model_patcher") -> Any:
    def override(_: Any, *args: Any, **kwargs: Any) -> Any:
        return optimized_attention(*args, **kwargs)

    override.__qualname__, override.__module__ = qualname, module
    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = override
    return clone


@pytest.mark.parametrize("order", ["backend first", "sparse first"])
def test_core_attention_backend_computes_what_sparse_attention_leaves_dense(comfy: Any, load_wan: Any, order: str) -> None:
    """Dense steps, dense layers and cross-attention, and nothing else."""
    model, inputs = load_wan(), inputs_of(steps=2)
    chain: list[Callable[[Any], Any]] = [attention_backend, lambda given: sparse(comfy, given, steps=1, layers=1)]
    for put in chain if order == "backend first" else reversed(chain):
        model = put(model)
    ours, report = run_node(comfy, model, **inputs)
    assert torch.equal(ours, run_node(comfy, sparse(comfy, load_wan(), steps=1, layers=1), **inputs)[0])
    assert calls(report) == [("single", "VSA", 1, 3)]
    assert "dense_attention" in report.sparse[0].settings and "attention_scaled" in report.sparse[0].line()
    plain, _ = run_node(comfy, attention_backend(load_wan(), 0.9), **inputs)
    dense, _ = run_node(comfy, sparse(comfy, attention_backend(load_wan(), 0.9), sparsity=0.5, steps=9), **inputs)
    assert torch.equal(dense, plain) and relative_error(plain, ours) > 1e-3


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (attention_backend, "core's Model Attention Backend was on the MODEL, attention_scaled"),
        (core_sparse, "core's Model Sparse Attention was on the MODEL"),
    ],
)
@pytest.mark.parametrize("two", [False, True])
def test_the_report_tells_of_core_own_node(comfy: Any, load_wan: Any, other: Any, said: str, two: bool) -> None:
    model = other(load_wan())
    low_noise_model = model.clone() if two else None
    _, report = run_node(comfy, model, low_noise_model=low_noise_model, steps=4)
    assert [note for note in report.notes if "was on the MODEL" in note] == [said]


@pytest.mark.parametrize(
    ("ours", "other", "said"),
    [
        (attended, attention_backend, "FastVideo Attention and core's Model Attention Backend are on one MODEL"),
        (attended, core_sparse, "FastVideo Attention and core's Model Sparse Attention are on one MODEL"),
        (sparse, core_sparse, "FastVideo Sparse Attention and core's Model Sparse Attention are on one MODEL"),
    ],
)
def test_other_nodes_of_core_are_refused_by_name_in_both_orders(
    comfy: Any, load_wan: Any, ours: Any, other: Any, said: str
) -> None:
    with pytest.raises(RequestError, match=f"{said}.*remove or bypass one of the two"):
        ours(comfy, other(load_wan()))
    with pytest.raises(RequestError, match=f"{said}.*remove or bypass one of the two"):
        run_ksampler(other(ours(comfy, load_wan())), steps=1)


@pytest.mark.parametrize("ours", [cached, dbcached])
def test_the_pose_cache_of_wan_animate_2_is_no_step_cache(comfy: Any, load_wan: Any, ours: Any) -> None:
    put_table(comfy, load_wan())
    model = ours(comfy, load_wan())
    model.model_options["transformer_options"]["animate2_cache"] = SimpleNamespace(select=None)
    assert run_node(comfy, model)[1].caches
    model.model_options["transformer_options"]["another_cache"] = object()
    with pytest.raises(RequestError, match="the cache of another pack"):
        run_node(comfy, model)


def test_the_second_expert_is_told_the_shapes_of_its_latents(comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    monkeypatch.setattr(low.model, "latent_shapes", None, raising=False)
    run_node(comfy, high, low_noise_model=low, steps=4)
    assert [tuple(shape) for shape in low.model.latent_shapes] == [(1, 16, 3, 8, 8)]


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 12.0])
def test_the_sampler_moves_noise_levels_as_core_own_node(comfy: Any, load_wan: Any, shift: float) -> None:
    sampler = module_of(comfy, "native.sample")
    ours, core = sampler.with_shift(load_wan(), shift), shifted(load_wan(), shift)
    found, expected = (given.get_model_object("model_sampling") for given in (ours, core))
    assert torch.equal(found.sigmas, expected.sigmas)
    assert {name: getattr(found, name) for name in ("shift", "multiplier")} == {"shift": shift, "multiplier": 1000}
    levels = torch.linspace(0, 1, 7)
    assert torch.equal(found.sigma(found.timestep(levels)), expected.sigma(expected.timestep(levels)))
    assert [found.percent_to_sigma(share) for share in (0.0, 0.3, 1.0)] == [
        expected.percent_to_sigma(share) for share in (0.0, 0.3, 1.0)
    ]
    assert vars(found).keys() == vars(expected).keys()


def test_a_model_keeps_the_noise_scale_that_newer_cores_have(comfy: Any, load_wan: Any) -> None:
    scaled = shifted(load_wan(), 5.0)
    sampling = scaled.get_model_object("model_sampling")
    getattr(sampling, "set_noise_scale", lambda _: None)(0.5)
    given = (module_of(comfy, "native.sample").with_shift(scaled, 3.0), shifted(scaled, 3.0))
    ours, core = (getattr(each.get_model_object("model_sampling"), "noise_scale", None) for each in given)
    assert ours == core == (0.5 if hasattr(sampling, "set_noise_scale") else None)
