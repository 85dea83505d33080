"""FastVideo Compile: blocks are compiled in the first steps and never again, beside all other nodes, and are gone with it."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from caching import cached, module_of, put_table
from graphs import node, sampler_prompt, with_inputs
from sampling import conditions_of, latent_of, relative_error, run_ksampler, run_node
from test_attention import attended
from test_composition import PATCHES, core_node, lora
from test_diffusers_model import load
from test_sparse_attention import sparse
from tiny_wan import save_wan

from fastvideo_core import CompileSettings, RequestError

pytestmark = pytest.mark.usefixtures("direct")

STEPS = 8
PLACES = ["core", "diffusers"]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    put_table(comfy, load_wan())


def compiled(host: Any, model: Any) -> Any:
    """As the node does it, with a backend that traces and guards as any other, and needs no compiler."""
    return module_of(host, "native.compile").with_compile(model, CompileSettings(backend="eager"))


def place(host: Any, load_wan: Any, where: str, kind: str = "t2v") -> Any:
    model = load_wan(kind)
    return model if where == "core" else load(host, f"{kind}_0.safetensors")


def dbcached(host: Any, model: Any, threshold: float = 0.5) -> Any:
    preset = {
        "preset": "custom", "threshold": threshold, "first_blocks": 1, "last_blocks": 0, "warmup_steps": 1, "max_skips": 0,
        "max_skipped_steps": 0, "taylor_order": 1,
    }  # fmt: skip
    return host.node_classes["FastVideoDBCache"].execute(model=model, enabled=True, preset=preset, residuals_on_cpu=False).args[0]


def note(report: Any) -> str:
    (found,) = (note for note in report.notes if note.startswith("blocks compiled by"))
    return str(found)


def last_call(report: Any) -> int:
    """The last call of the network in which something was compiled; 0 for none."""
    words = note(report)
    return 0 if "nothing new in" in words else int(words.partition("in call ")[2].split()[0])


OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "nothing else": lambda host, model: model,
    "attention": lambda host, model: attended(host, model, "sdpa", "sdpa"),
    "attention and folded text": lambda host, model: attended(host, model, "sdpa", "sdpa", fold_text=True),
    "MagCache": cached,
    "DBCache": dbcached,
    "sparse attention": lambda host, model: sparse(host, model, "NABLA", steps=1, layers=1),
    "all of them": lambda host, model: cached(host, attended(host, sparse(host, model), "sdpa", "sdpa", fold_text=True)),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_compiled_anew_after_two_steps_nor_in_the_next_run(comfy: Any, load_wan: Any, name: str, where: str) -> None:
    model = place(comfy, load_wan, where)
    plain, _ = run_node(comfy, OTHERS[name](comfy, model), steps=STEPS)
    before = {key: set(vars(module)) for key, module in model.model.diffusion_model.named_modules()}
    both = OTHERS[name](comfy, compiled(comfy, model))
    first, report = run_node(comfy, both, steps=STEPS)
    second, again = run_node(comfy, both, steps=STEPS)
    assert 1 <= last_call(report) <= 2 and last_call(again) == 0
    assert relative_error(first, plain) < 1e-5 and torch.equal(first, second)
    assert torch.equal(run_node(comfy, OTHERS[name](comfy, model), steps=STEPS)[0], plain)
    assert {key: set(vars(module)) for key, module in model.model.diffusion_model.named_modules()} == before


@pytest.mark.parametrize("kind", ["i2v_clip", "ti2v"])
@pytest.mark.parametrize("where", PLACES)
def test_other_networks_under_core_own_sampler(comfy: Any, load_wan: Any, kind: str, where: str) -> None:
    model = place(comfy, load_wan, where, kind)
    ours = run_ksampler(compiled(comfy, model), kind, steps=3)
    assert relative_error(ours, run_ksampler(model, kind, steps=3)) < 1e-5


def test_control_blocks_of_vace_are_compiled_too(comfy: Any, vace: Any) -> None:
    keys = list(module_of(comfy, "native.compile").block_keys(vace.model.diffusion_model))
    assert len(keys) == 4 + 2
    assert relative_error(run_ksampler(compiled(comfy, vace), steps=3), run_ksampler(vace, steps=3)) < 1e-5


def test_two_experts_share_the_code(comfy: Any, load_wan: Any) -> None:
    high, low = (compiled(comfy, load_wan("t2v", seed)) for seed in (0, 1))
    ours, report = run_node(comfy, high, low_noise_model=low)
    plain, _ = run_node(comfy, load_wan("t2v", 0), low_noise_model=load_wan("t2v", 1))
    notes = [line for line in report.notes if line.startswith("blocks compiled by")]
    assert "2 graphs, the last in call 1" in notes[0] and "by code that was there before, nothing new in" in notes[1]
    assert relative_error(ours, plain) < 1e-5


def test_loras_act_as_without_it(comfy: Any, load_wan: Any) -> None:
    """Patched weights are other weights in the same code; ComfyUI 0.16 makes them of another kind, which is compiled once."""
    model = load_wan()
    run_node(comfy, compiled(comfy, model), steps=2)
    ours, report = run_node(comfy, lora(comfy, compiled(comfy, model)), steps=2)
    assert last_call(report) <= 1
    assert relative_error(ours, run_node(comfy, lora(comfy, model), steps=2)[0]) < 1e-5
    assert torch.equal(run_node(comfy, compiled(comfy, lora(comfy, model)), steps=2)[0], ours)


@pytest.mark.parametrize("name", ["SkipLayerGuidanceDiT", "block replace", "attention output", "LoraLoaderModelOnly"])
def test_other_nodes_act_as_without_it(comfy: Any, load_wan: Any, name: str) -> None:
    expected = run_ksampler(PATCHES[name](comfy, load_wan()), steps=3)
    assert relative_error(run_ksampler(PATCHES[name](comfy, compiled(comfy, load_wan())), steps=3), expected) < 1e-5


def test_another_prompt_compiles_nothing_and_another_size_once(comfy: Any, load_wan: Any) -> None:
    model = compiled(comfy, load_wan())
    positive, negative = conditions_of("t2v")
    runs: list[dict[str, Any]] = [{}, {"positive": negative, "negative": positive}, {"latent": latent_of("t2v", side=16)}, {}]
    found = [last_call(run_node(comfy, model, steps=3, **changes)[1]) for changes in runs]
    assert found == [1, 0, 1, 0]


def test_the_log_says_it_under_core_own_sampler(comfy: Any, load_wan: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="root"):
        run_ksampler(compiled(comfy, load_wan()), steps=2)
    assert "blocks compiled by eager: 2 graphs, the last in call 1 of 2 of the network" in caplog.text


def test_attention_of_core_that_torch_cannot_compile_stays_outside(
    comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ComfyUI takes on CPUs depends on how much memory is free, which is never the same twice."""
    from comfy import model_management
    from comfy.ldm.modules import attention
    from comfy.ldm.wan import model as network

    free, shrinking = model_management.get_free_memory(torch.device("cpu")), itertools.count(step=4096)

    def ever_less(device: Any = None, torch_free_too: bool = False) -> Any:
        less = free - next(shrinking)
        return (less, less) if torch_free_too else less

    monkeypatch.setattr(model_management, "get_free_memory", ever_less)
    for module in (attention, network):
        monkeypatch.setattr(module, "optimized_attention", attention.attention_sub_quad)
    plain, _ = run_node(comfy, load_wan(), steps=STEPS)
    for others in ("nothing else", "sparse attention"):
        torch.compiler.reset()
        model = OTHERS[others](comfy, compiled(comfy, load_wan()))
        (ours, report), (_, again) = (run_node(comfy, model, steps=STEPS) for _ in range(2))
        assert 1 <= last_call(report) <= 2 and last_call(again) == 0
        assert others == "sparse attention" or relative_error(ours, plain) < 1e-5


def test_off_is_the_model_as_it_came(comfy: Any, load_wan: Any) -> None:
    model = load_wan()
    assert comfy.node_classes["FastVideoCompile"].execute(model=model, enabled=False).args[0] is model


def object_patch(_: Any, model: Any) -> Any:
    clone = model.clone()
    clone.add_object_patch("diffusion_model.blocks.0", torch.compile(model.model.diffusion_model.blocks[0], backend="eager"))
    return clone


def torch_compile_model(host: Any, model: Any) -> Any:
    return core_node(host, "TorchCompileModel", model=model, backend="inductor")


@pytest.mark.parametrize("other", [torch_compile_model, object_patch])
def test_a_model_that_is_compiled_by_another_node_is_refused(comfy: Any, load_wan: Any, other: Any) -> None:
    with pytest.raises(RequestError, match=r"FastVideo Compile and another node that compiles.*remove or bypass one"):
        compiled(comfy, other(comfy, load_wan()))
    with pytest.raises(RequestError, match=r"FastVideo Compile and another node that compiles.*remove or bypass one"):
        run_ksampler(other(comfy, compiled(comfy, load_wan())), steps=1)


def test_two_of_them_and_several_gpus_are_refused(comfy: Any, load_wan: Any) -> None:
    model = compiled(comfy, load_wan())
    with pytest.raises(RequestError, match="two FastVideo Compile nodes on one MODEL"):
        compiled(comfy, model)
    model.set_additional_models("multigpu", [load_wan().clone()])
    with pytest.raises(RequestError, match=r"MultiGPU node spreads over several GPUs.*Remove one of the two nodes"):
        run_ksampler(model, steps=1)


def test_a_missing_compiler_is_told_by_the_node(comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RequestError, match=r"inductor is compiled for the CPU, and there is no C\+\+ compiler on the path"):
        comfy.node_classes["FastVideoCompile"].execute(model=load_wan(), enabled=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_a_whole_prompt_with_inductor(prompts: Any, load_wan: Any) -> None:
    """The node in a prompt, between two prompts without it."""
    wanted = {"latent": ("5", 0), "report": ("5", 1)}
    save_wan(prompts.model_folder("diffusion_models"), "t2v_one_block", "t2v", layers=1)
    plain = with_inputs(sampler_prompt(steps=3), "1", unet_name="t2v_one_block.safetensors")
    compiling = {**with_inputs(plain, "5", model=["7", 0]), "7": node("FastVideoCompile", model=["1", 0], enabled=True)}
    before, ours, after = (prompts.run(prompt, wanted).captured for prompt in (plain, compiling, plain))
    assert "blocks compiled by inductor: 1 graph, in call 1 of 3" in ours["report"].text()
    assert relative_error(ours["latent"]["samples"], before["latent"]["samples"]) < 1e-5
    assert torch.equal(after["latent"]["samples"], before["latent"]["samples"])
