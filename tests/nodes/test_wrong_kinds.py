"""Every input of every node: what comes over a connection or stands in a prompt and is of a wrong kind is refused by name."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from graphs import node, sampler_prompt, with_inputs
from phase_runs import phases_of
from sampling import conditions_of, latent_of, run_node

from tools.comfy_in_process import PromptFailed, PromptRefused

WRONG: list[Any] = [
    None, "", "no such entry", b"5", math.nan, math.inf, -math.inf, -(10**9), 10**30, 0.123456, True, [], [1], {}, (),
    [None], [[None, {}]], object(), torch.zeros(2), torch.nn.Linear(1, 1), lambda: None, 3 + 4j, {"samples": None},
]  # fmt: skip


def every_input(comfy: Any) -> Iterator[tuple[str, Any, Any]]:
    """(node id, input, option of a dynamic combo that it stands below or None)."""
    for name, kind in sorted(comfy.node_classes.items()):
        if name.startswith("FastVideo"):
            for asked in kind.define_schema().inputs:
                yield name, asked, None
                for option in getattr(asked, "options", None) or ():
                    yield from ((name, inner, (asked.id, option.key)) for inner in getattr(option, "inputs", ()))


def right(asked: Any, sockets: dict[str, Any]) -> Any:
    """A value that an input may have."""
    kinds: dict[str, Any] = {
        **sockets, "CONDITIONING": conditions_of("t2v")[0], "LATENT": latent_of("t2v"), "IMAGE": torch.rand(2, 16, 16, 3),
        "STRING": "a circle",
    }  # fmt: skip
    if hasattr(asked, "options") and hasattr(asked.options[0], "inputs"):
        first = asked.options[0]
        return {asked.id: first.key} | {inner.id: right(inner, sockets) for inner in first.inputs}
    default = getattr(asked, "default", None)
    return kinds.get(asked.get_io_type(), default if default is not None else getattr(asked, "options", [None])[0])


def of_its_kind(asked: Any, value: Any) -> bool:
    """Whether a value may pass: numbers in range, texts, entries."""
    kind = asked.get_io_type()
    if kind in ("INT", "FLOAT"):
        whole = kind == "FLOAT" or (isinstance(value, int | float) and math.isfinite(value) and value == int(value))
        return isinstance(value, int | float) and not isinstance(value, bool) and whole and asked.min <= value <= asked.max
    return {"STRING": str, "BOOLEAN": bool}.get(kind, type("none", (), {})) is type(value)


def listed(inputs: dict[str, Any]) -> dict[str, Any]:
    """As ComfyUI hands them to a node that takes lists."""
    return {name: [value] for name, value in inputs.items()}


def test_every_input_of_every_node_is_looked_at(direct: Any, load_wan: Any) -> None:
    """Values that come over a connection, which ComfyUI does not look at. Nothing runs: each is refused before."""
    from fastvideo_core import FastVideoError

    _, _, clip, vae, _ = direct.node_classes["FastVideoLoadDemoWan"].execute("t2v").args
    sockets = {"MODEL": load_wan(), "CLIP": clip, "VAE": vae, "FASTVIDEO_RUN_REPORT": run_node(direct, load_wan(), steps=1)[1]}
    sockets["FASTVIDEO_PHASES"] = phases_of(direct, (load_wan(), 0.0, 1.0))
    where = {"layout": {"layout": "auto"}, "place": {"place": "this machine"}}
    sockets["FASTVIDEO_WORKERS"] = direct.node_classes["FastVideoWorkers"].execute(count=2, device="CPU", **where).args[0]
    seen = 0
    for name, asked, below in every_input(direct):
        kind = direct.node_classes[name]
        given = {each.id: right(each, sockets) for each in kind.define_schema().inputs if not each.optional}
        for value in WRONG:
            if below is None:
                inputs = given | {asked.id: value}
            else:
                outer, key = below
                option = next(each for each in _input(kind, outer).options if each.key == key)
                inputs = given | {
                    outer: {outer: key, **{each.id: right(each, sockets) for each in option.inputs}, asked.id: value}
                }
            if of_its_kind(asked, value):
                continue
            if asked.get_io_type() == "LATENT" and isinstance(value, dict):
                continue  # of the right kind, and looked at with the model: test_bad_input
            with pytest.raises(FastVideoError) as refused:
                kind.execute(**(listed(inputs) if kind.define_schema().is_input_list else inputs))
            words = str(refused.value)
            assert asked.id in words or (below and below[0] in words), (name, asked.id, value, words)
            assert len(words) < 700
            seen += 1
    assert seen > 1000


def _input(kind: Any, name: str) -> Any:
    return next(each for each in kind.define_schema().inputs if each.id == name)


def test_an_inner_input_that_is_missing_is_named(direct: Any, load_wan: Any) -> None:
    from fastvideo_core import RequestError

    with pytest.raises(RequestError, match=r"The preset input is custom, and its threshold is missing: give preset\.threshold"):
        direct.node_classes["FastVideoMagCache"].execute(load_wan(), True, {"preset": "custom"}, "resampled", False)


def test_numbers_are_put_straight(direct: Any) -> None:
    """A whole number that comes as a float, and an end of the range that rounding left."""
    seen: dict[str, Any] = {}
    package = direct.node_classes["FastVideoSampler"]
    checked = sys.modules[package.__module__.rpartition(".")[0] + ".checked"].checked

    def execute(cls: Any, steps: int, gate: float, **others: Any) -> None:
        seen.update(steps=steps, gate=gate, **others)

    checked(execute)(package, 20.0, 1.0000001, boundary=0.99000001)
    assert seen == {"steps": 20, "gate": 1.0, "boundary": 0.99} and isinstance(seen["steps"], int)


PROMPTS = {
    "NaN in a prompt": ({"guidance_scale": math.nan}, r"The guidance_scale input got nan: it must be a number from 1\.0"),
    "a switch that gives nothing": ({"steps": ["sw", 0]}, r"The steps input got None: it must be a whole number from 1 to 1000"),
    "a list of texts": ({"solver": ["sw", 1]}, r"The solver input got \['euler'\]: use one of unipc, euler, dpmpp_2m, dmd"),
    "an expert that gives nothing": ({"low_noise_model": ["sw", 0]}, r"The low_noise_model input got None .* one expert"),
    "no conditioning": ({"positive": ["sw", 2]}, r"The positive input holds no encoded prompt: connect FastVideo Text Encode"),
}  # fmt: skip


class Switch:
    """A node whose outputs go into any input, as those of other packs do."""

    RETURN_TYPES = ("*", "*", "*")
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}}

    def make(self) -> tuple[Any, ...]:
        return None, ["euler"], []


@pytest.mark.parametrize("what", PROMPTS)
def test_prompts_say_which_input_it_is(tiny: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Switch", Switch)
    inputs, words = PROMPTS[what]
    tiny.reset()
    with pytest.raises(PromptFailed, match=rf"^FastVideoSampler: fastvideo_core\.errors\.\w+Error: {words}"):
        tiny.run({**with_inputs(sampler_prompt(), "5", **inputs), "sw": node("Switch")})


def test_an_unknown_preset_of_a_cache_is_told(tiny: Any) -> None:
    """ComfyUI does not look at the entries of dynamic combos."""
    prompt = with_inputs(sampler_prompt(), "5", model=["c", 0])
    cache = node("FastVideoDBCache", model=["1", 0], enabled=True, preset="Auto", residuals_on_cpu=False)
    tiny.reset()
    with pytest.raises((PromptFailed, PromptRefused), match=r"The preset input is missing, or is none of auto, quality"):
        tiny.run({**prompt, "c": cache})
