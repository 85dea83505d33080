"""What core's nodes and other packs ask of a MODEL acts on diffusers' network as on core's, or is refused by name."""

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pytest
from sampling import relative_error, run_ksampler
from test_diffusers_model import load
from torch import Tensor

from fastvideo_core import RequestError

pytestmark = pytest.mark.usefixtures("direct")

ACTING: dict[str, dict[str, Any]] = {  # where the default does nothing
    "ScaleROPE": {"scale_x": 1.5, "shift_x": 2.0, "scale_y": 0.5, "scale_t": 1.3, "shift_t": -3.0},
    "UNetSelfAttentionMultiply": {"q": 1.2, "k": 1.0, "v": 0.8, "out": 1.1},
    "UNetCrossAttentionMultiply": {"q": 1.2, "k": 1.0, "v": 0.8, "out": 1.1},
    "UNetTemporalAttentionMultiply": {
        "self_structural": 1.2,
        "self_temporal": 0.9,
        "cross_structural": 0.8,
        "cross_temporal": 1.1,
    },
    "SkipLayerGuidanceDiT": {"double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0},
}
REFUSED = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, RequestError)
"""How core's nodes end that are for another kind of network, and how ours refuses."""
ELSEWHERE = ("TorchCompileModel",)  # test_compile.py


def given(spec: Any) -> Any:
    """The default of an input. Raises LookupError where it has none."""
    kind, *rest = spec
    options = rest[0] if rest else {}
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options")
    return choices[0] if isinstance(choices, list) else {"BOOLEAN": False, "STRING": ""}[kind]


def model_nodes() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Core's nodes that change a MODEL and need nothing else to do it."""
    import nodes

    for name, node in sorted(nodes.NODE_CLASS_MAPPINGS.items()):
        if name.startswith(("FastVideo", "Tiny")) or name in ELSEWHERE or "MODEL" not in node.RETURN_TYPES:
            continue
        required = node.INPUT_TYPES().get("required", {})
        (model, *others) = [key for key, spec in required.items() if spec[0] == "MODEL"] or [None]
        try:
            inputs = {key: given(spec) for key, spec in required.items() if key != model} | ACTING.get(name, {})
        except LookupError:
            continue
        if model is not None and not others:
            yield name, putting(node, model, inputs)


def putting(node: Any, model: str, inputs: dict[str, Any]) -> Callable[[Any], Any]:
    index = list(node.RETURN_TYPES).index("MODEL")

    def put(patcher: Any) -> Any:
        given = {model: patcher, **inputs}
        return (node.execute(**given).args if hasattr(node, "define_schema") else getattr(node(), node.FUNCTION)(**given))[index]

    return put


def outcome(model: Any, put: Callable[[Any], Any]) -> Tensor | Exception:
    try:
        return run_ksampler(put(model), steps=2)
    except REFUSED as error:
        return error


def test_every_node_of_core_acts_as_on_cores_network_or_is_refused(comfy: Any, load_wan: Any) -> None:
    native, plain = load_wan(), run_ksampler(load_wan(), steps=2)
    diffusers, acted, wrong = load(comfy, "t2v_0.safetensors"), set(), {}
    for name, put in model_nodes():
        theirs, ours = outcome(native, put), outcome(diffusers, put)
        if isinstance(theirs, Exception):
            right = isinstance(ours, Exception)
        elif isinstance(ours, Exception):
            right = isinstance(ours, RequestError) and "does not read" in str(ours)
        else:
            right = relative_error(ours, theirs) < (2e-2 if name == "ModelComputeDtype" else 1e-5)
            acted |= {name} if relative_error(theirs, plain) > 1e-3 else set()
        if not right:
            wrong[name] = (ours, theirs)
    assert not wrong
    assert {"ScaleROPE", "CFGZeroStar", "APG", "SkipLayerGuidanceDiT"} <= acted


@pytest.mark.parametrize("kind", ["flf2v", "ti2v"])
def test_scaled_positions_act_as_on_cores_network(comfy: Any, load_wan: Any, kind: str) -> None:
    put = dict(model_nodes())["ScaleROPE"]
    native = load_wan(kind)
    expected = run_ksampler(put(native), kind, steps=2)
    assert relative_error(run_ksampler(put(load(comfy, f"{kind}_0.safetensors")), kind, steps=2), expected) < 1e-5
    assert relative_error(run_ksampler(native, kind, steps=2), expected) > 1e-3


def halved(module: Any) -> Any:
    own = type(module).forward
    return MethodType(lambda self, *args, **kwargs: 0.5 * own(self, *args, **kwargs), module)


@pytest.mark.parametrize("layer", ["blocks.0.self_attn.v", "blocks.1.ffn.2", "text_embedding.0", "head.head", "patch_embedding"])
def test_object_patches_of_layers_act_as_on_cores_network(comfy: Any, load_wan: Any, layer: str) -> None:
    def put(model: Any) -> Any:
        clone = model.clone()
        module = clone.get_model_object(f"diffusion_model.{layer}")
        clone.add_object_patch(f"diffusion_model.{layer}.forward", halved(module))
        return clone

    native = load_wan()
    expected = run_ksampler(put(native), steps=2)
    assert relative_error(run_ksampler(put(load(comfy, "t2v_0.safetensors")), steps=2), expected) < 1e-5
    assert relative_error(run_ksampler(native, steps=2), expected) > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.cross_attn.forward", "blocks.0.self_attn.forward", "blocks.0.ffn.forward", "blocks.0.forward", "blocks.0.ffn.0",
        "forward_orig", "rope_embedder", "rope_encode", "head.forward",
    ],
)  # fmt: skip
def test_object_patches_that_nobody_reads_are_refused(comfy: Any, load_wan: Any, name: str) -> None:
    load_wan()
    model = load(comfy, "t2v_0.safetensors")
    expected = run_ksampler(model, steps=1)
    patched = model.clone()
    patched.add_object_patch(f"diffusion_model.{name}", lambda *args, **kwargs: None)
    with pytest.raises(RequestError, match=rf"does not read diffusion_model\.{name}, which a node.*core's Load Diffusion Model"):
        run_ksampler(patched, steps=1)
    assert relative_error(run_ksampler(model, steps=1), expected) == 0


def test_a_node_that_calls_a_part_of_cores_network_is_told_so(comfy: Any, load_wan: Any) -> None:
    """As packs do to embed a prompt of their own."""
    load_wan()
    with pytest.raises(RequestError, match=r"calls a module of core's network.*core's Load Diffusion Model"):
        load(comfy, "t2v_0.safetensors").model.diffusion_model.text_embedding(None)
