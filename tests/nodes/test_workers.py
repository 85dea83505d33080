"""MODELs whose network is in workers, real processes of Ray: each sampler gives what it gives with the model here."""

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from caching import cached as magcached
from caching import module_of, plans, put_table
from graphs import node, sampler_prompt
from sampling import core_node, relative_error, run_ksampler, run_node
from test_attention import attended
from test_compile import compiled, dbcached, last_call
from test_sparse_attention import inputs_of
from test_trained_weights import named
from worker_models import (
    INSIDE,
    QUANTISED,
    RUNS,
    Wrap,
    here,
    on_workers,
    ranks_of,
    with_lora,
    workers_of,
    write_files,
    write_quantised,
)

from fastvideo_core import CompileSettings, LoadError, RequestError, WorkerError
from fastvideo_core.parallel import Layout
from tools.comfy_in_process import PromptFailed

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")
pytestmark = pytest.mark.usefixtures("direct")

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def files(comfy: Any) -> None:
    write_files(comfy)


@pytest.fixture(scope="module")
def four(comfy: Any, files: None) -> Iterator[Any]:
    """Two for each branch, which share the tokens; the first, for Ray has as many CPUs as the first who asks."""
    made = workers_of(comfy, cfg=2, ulysses=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def workers(four: Any) -> Iterator[Any]:
    """Two that share the tokens, for all other tests: they take long to start."""
    for group in four.groups:
        group.end()
    made = type(four)(four.machines, Layout(ulysses=2))
    yield made
    made.close()


@pytest.fixture
def remote(comfy: Any, workers: Any) -> Callable[..., Any]:
    """Loads a file in them."""
    return lambda name="heads_0": on_workers(comfy, workers, name)


@pytest.mark.parametrize("name", ["nothing", *INSIDE])
def test_four_of_which_two_have_a_branch_give_what_a_branch_at_a_time_gives(comfy: Any, four: Any, name: str) -> None:
    wrap: Wrap = INSIDE.get(name, lambda host, model: model)
    expected, told = run_node(comfy, wrap(comfy, here(comfy)), **inputs_of(), guidance_mode="sequential")
    video, report = run_node(comfy, compiled(comfy, wrap(comfy, on_workers(comfy, four))), **inputs_of())
    assert torch.equal(video, expected)
    assert report.guidance_mode == "batched" and last_call(report) <= 1
    halves = [(row.backend, 2 * row.calls, 2 * row.network_calls) for row in report.attention]
    assert halves == [(row.backend, row.calls, row.network_calls) for row in told.attention]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m", "heun"])
def test_core_s_ksampler_gives_the_same_video(comfy: Any, remote: Any, sampler: str) -> None:
    expected = run_ksampler(here(comfy), sampler=sampler, steps=STEPS)
    assert torch.equal(run_ksampler(remote(), sampler=sampler, steps=STEPS), expected)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_fastvideo_sampler_gives_the_same_video_and_tells_who_computed_it(comfy: Any, remote: Any, solver: str) -> None:
    expected, _ = run_node(comfy, here(comfy), solver=solver, steps=STEPS)
    video, report = run_node(comfy, remote(), solver=solver, steps=STEPS)
    assert torch.equal(video, expected)
    assert f"the single network was called {STEPS} times, in 2 CPU workers (cfg 1 x ulysses 2)" in report.notes


@pytest.mark.parametrize("kind", ["i2v", "i2v_clip", "flf2v", "ti2v"])
def test_each_kind_of_network(comfy: Any, remote: Any, kind: str) -> None:
    expected = run_ksampler(here(comfy, f"heads_{kind}"), kind, steps=2)
    assert torch.equal(run_ksampler(remote(f"heads_{kind}"), kind, steps=2), expected)


def test_core_s_lora_node_and_the_model_without_it(comfy: Any, remote: Any) -> None:
    local, model = here(comfy), remote()
    for wrap in (lambda model: with_lora(comfy, model), lambda model: model):
        assert torch.equal(run_ksampler(wrap(model), steps=2), run_ksampler(wrap(local), steps=2))


def test_a_quantised_file_is_what_core_s_loader_makes_of_it(comfy: Any, remote: Any) -> None:
    expected = run_ksampler(with_lora(comfy, here(comfy, "heads_fp8")), steps=2)
    assert torch.equal(run_ksampler(with_lora(comfy, remote("heads_fp8")), steps=2), expected)


@pytest.mark.parametrize("kind", QUANTISED)
def test_each_kind_of_file(comfy: Any, remote: Any, kind: str) -> None:
    name = write_quantised(comfy, kind)
    assert torch.equal(run_ksampler(remote(name), steps=2), run_ksampler(here(comfy, name), steps=2))


def test_a_file_that_core_s_loader_does_not_read_is_refused_before_anything_starts(comfy: Any, workers: Any) -> None:
    """As a GGUF pack has them, which is in no worker."""
    path = comfy.model_folder("diffusion_models") / "heads.gguf.safetensors"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(LoadError, match="Workers open files of ComfyUI's own loader"):
        on_workers(comfy, workers, "heads.gguf")


@pytest.mark.parametrize("name", RUNS)
def test_two_experts_and_a_lora_by_each_sampler_and_interrupted(comfy: Any, remote: Any, workers: Any, name: str) -> None:
    """In the second call, while the workers are in it."""
    from comfy import model_management

    expected = RUNS[name](comfy, here(comfy), with_lora(comfy, here(comfy, "heads_1")))
    high, low = remote(), with_lora(comfy, remote("heads_1"))
    assert torch.equal(RUNS[name](comfy, high, low), expected)
    before, calls = ranks_of(workers), []
    with pytest.raises(model_management.InterruptProcessingException):
        RUNS[name](comfy, interrupted_in(2, high, calls), low)
    assert len(calls) == 2
    assert torch.equal(RUNS[name](comfy, high, low), expected) and ranks_of(workers) == before


def interrupted_in(call: int, model: Any, calls: list[int]) -> Any:
    from comfy import model_management
    from comfy.patcher_extension import WrappersMP

    def interrupting(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "interrupting", interrupting)
    return stopped


@pytest.mark.parametrize("cache", ["MagCache", "DBCache"])
def test_step_caches_decide_in_the_workers_as_here(comfy: Any, remote: Any, cache: str) -> None:
    local, model = here(comfy), remote()
    put_table(comfy, local)
    wrap = magcached if cache == "MagCache" else partial(dbcached, threshold=0.99)
    expected, report_here = run_node(comfy, wrap(comfy, local))
    video, report = run_node(comfy, wrap(comfy, model))
    assert plans(report) == plans(report_here) and report.caches[0].block_cut > 0
    assert torch.equal(video, expected)
    assert report.caches[0].peak_bytes < 0.6 * report_here.caches[0].peak_bytes, "of each rank's own rows"


def test_unloaded_models_are_read_again(comfy: Any, remote: Any) -> None:
    from comfy import model_management

    model = remote()
    first = run_ksampler(model, steps=2)
    model_management.unload_all_models()
    assert torch.equal(run_ksampler(model, steps=2), first)
    assert model.model_size() == model.loaded_size() == 0
    assert all(weight.is_meta for weight in model.model.diffusion_model.parameters())


def test_a_rank_that_is_killed_between_two_runs_is_named(comfy: Any, remote: Any, workers: Any) -> None:
    """In a run: test_workers_lost.py."""
    model = remote()
    expected = run_ksampler(model, steps=2)
    name = ranks_of(workers)[1]
    os.kill(int(re.findall(r"process (\d+)", name)[0]), signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"^Rank 1 of 2 .* is gone"):
        run_ksampler(model, steps=2)
    assert ranks_of(workers) == []
    assert torch.equal(run_ksampler(model, steps=2), expected)


@pytest.mark.parametrize("name", INSIDE)
def test_what_works_inside_the_network_does_so_in_the_workers(comfy: Any, remote: Any, name: str) -> None:
    """Of 768 tokens."""
    expected, told = run_node(comfy, INSIDE[name](comfy, here(comfy)), **inputs_of())
    video, report = run_node(comfy, INSIDE[name](comfy, remote()), **inputs_of())
    assert torch.equal(video, expected)
    assert (report.attention, report.texts) == (told.attention, told.texts)
    assert [replace(row, density=None) for row in report.sparse] == [replace(row, density=None) for row in told.sparse]
    assert [row.density for row in report.sparse] == pytest.approx([row.density for row in told.sparse])


def test_trained_weights_and_a_step_cache_beside_compiled_sparse_attention(comfy: Any, remote: Any) -> None:
    def wrap(model: Any) -> Any:
        return dbcached(comfy, attended(comfy, named(comfy, model, "VSA", "heads_vsa.safetensors"), "sdpa", "sdpa"), 0.99)

    settings = CompileSettings("aot_eager")  # other kernels than eager ones for some operations
    expected, told = run_node(comfy, wrap(here(comfy)), **inputs_of(steps=STEPS))
    traced = module_of(comfy, "native.compile").with_compile(wrap(remote()), settings)
    video, report = run_node(comfy, traced, **inputs_of(steps=STEPS))
    assert relative_error(video, expected) < 1e-6 and plans(report) == plans(told)
    assert report.sparse[0].settings == told.sparse[0].settings and last_call(report) == 1
    with pytest.raises(RequestError, match="There are two FastVideo Compile nodes"):
        compiled(comfy, compiled(comfy, remote()))
    with pytest.raises(LoadError, match="heads_0"):
        named(comfy, remote(), "VSA", "heads_0.safetensors")


@pytest.mark.parametrize(
    ("node", "inputs", "why"),
    [
        ("SkipLayerGuidanceDiT", {"double_layers": "0", "single_layers": "", "scale": 3.0, "start_percent": 0.0,
                                  "end_percent": 1.0, "rescaling_scale": 0.0}, "a block replace"),
    ],
)  # fmt: skip
def test_what_works_inside_the_network_is_refused_by_name(
    comfy: Any, remote: Any, node: str, inputs: dict[str, Any], why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        run_ksampler(core_node(comfy, node, model=remote(), **inputs), steps=2)


def test_other_settings_in_a_prompt_take_the_place_of_those_before(prompts: Any, files: None, workers: Any) -> None:
    """A half for each branch, which by itself rounds otherwise than in a batch of two, but not where there is one; then the
    tokens."""
    for group in workers.groups:
        group.end()  # the CPUs are the prompts' now
    layouts = [{"layout": "auto"}, {"layout": "cfg x ulysses", "layout.cfg": 1, "layout.ulysses": 2}]
    scales = (4.0, 1.0)
    whole = [video_of(prompts, sampler_prompt(guidance_scale=scale), unet_name="heads_0.safetensors") for scale in scales]
    for layout in layouts:
        for scale, expected in zip(scales, whole, strict=True):
            video = video_of(prompts, on_workers_prompt(layout, scale))
            exact = scale == 1 or layout["layout"] != "auto"
            assert torch.equal(video, expected) if exact else torch.allclose(video, expected, atol=1e-4)
        if layout["layout"] == "auto":
            with pytest.raises(PromptFailed, match=r"gate is 0.5, and the layout cfg 2 x ulysses 1 has a half of the workers"):
                prompts.run(on_workers_prompt(layout, 4.0, gate=0.5))
    prompts.reset()
    gc.collect()  # their workers end now, and not in another test


def on_workers_prompt(layout: dict[str, Any], scale: float, **settings: Any) -> dict[str, Any]:
    loader = node("FastVideoLoadModelOnWorkers", workers=["9", 0], model_name="heads_0.safetensors", weight_dtype="default")
    workers = node("FastVideoWorkers", count=2, device="CPU", place="this machine", **layout)
    return {**sampler_prompt(guidance_scale=scale, **settings), "1": loader, "9": workers}


def video_of(host: Any, prompt: dict[str, Any], **loader: Any) -> torch.Tensor:
    prompt = {**prompt, "1": {**prompt["1"], "inputs": {**prompt["1"]["inputs"], **loader}}}
    video: torch.Tensor = host.run(prompt, capture={"latent": ("5", 0)}).captured["latent"]["samples"]
    return video


def test_without_ray_the_pack_loads_and_the_error_says_what_to_install(comfy: Any, files: None) -> None:
    """In a process that never had it."""
    code = (
        "import sys; sys.modules['ray'] = None; sys.path.append(sys.argv[4])\n"
        "from pathlib import Path; from tools.comfy_in_process import ComfyInProcess\n"
        "tree, base, pack, _ = map(Path, sys.argv[1:]); host = ComfyInProcess(tree, base); host.load_pack(pack)\n"
        "from worker_models import on_workers, workers_of; on_workers(host, workers_of(host, 1, 2))\n"
    )
    given = map(str, (comfy.tree, comfy.base, ROOT, ROOT / "tests" / "nodes"))
    ended = subprocess.run([sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True)
    told = ended.stderr.splitlines()[-1]
    assert re.search(r"RequestError: Workers are .* not installed.* pip install fastvideo-nodes\[cluster\]", told), ended.stderr
