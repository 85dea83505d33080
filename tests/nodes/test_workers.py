"""MODELs whose network is in workers, real processes of Ray: each sampler gives what it gives with the model here."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from caching import cached as magcached
from caching import plans, put_table
from graphs import node, sampler_prompt
from safetensors.torch import save_file
from sampling import core_node, run_ksampler, run_node
from test_compile import dbcached
from tiny_wan import metadata, random_weights, save_lora
from wan_files import scaled_fp8

from fastvideo_core import RequestError, WorkerError
from tools.comfy_in_process import PromptFailed

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")
pytestmark = pytest.mark.usefixtures("direct")

TOKENS = {"layout": "cfg x ulysses", "cfg": 1, "ulysses": 2}
STEPS = 4


@pytest.fixture(scope="module")
def files(comfy: Any) -> None:
    folder = comfy.model_folder("diffusion_models")
    for seed in (0, 1):
        save_file(random_weights("t2v", seed), folder / f"heads_{seed}.safetensors", metadata(heads=4))
    save_file(random_weights("ti2v", 0), folder / "heads_ti2v.safetensors", metadata(heads=4))
    save_file(scaled_fp8(random_weights("t2v", 0)), folder / "heads_fp8.safetensors", metadata(heads=4))
    save_lora(comfy.model_folder("loras"))


@pytest.fixture(scope="module")
def workers(comfy: Any, files: None) -> Iterator[Any]:
    """Two that share the tokens, for all tests: they take long to start."""
    made = workers_of(comfy)
    yield made
    made.close()


def workers_of(host: Any, layout: dict[str, Any] = TOKENS) -> Any:
    node = host.node_classes["FastVideoWorkers"]
    return node.execute(count=2, device="CPU", layout=layout, place={"place": "this machine"}).args[0]


@pytest.fixture
def remote(comfy: Any, workers: Any) -> Callable[..., Any]:
    """Loads a file in them."""
    return lambda name="heads_0": on_workers(comfy, workers, name)


def on_workers(host: Any, workers: Any, name: str) -> Any:
    node = host.node_classes["FastVideoLoadModelOnWorkers"]
    return node.execute(workers=workers, model_name=f"{name}.safetensors", weight_dtype="default").args[0]


def here(host: Any, name: str = "heads_0") -> Any:
    return core_node(host, "UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")


def with_lora(host: Any, model: Any) -> Any:
    return core_node(host, "LoraLoaderModelOnly", model=model, lora_name="tiny.safetensors", strength_model=0.8)


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


def test_a_given_first_frame_has_its_own_time(comfy: Any, remote: Any) -> None:
    expected = run_ksampler(here(comfy, "heads_ti2v"), "ti2v", steps=STEPS)
    assert torch.equal(run_ksampler(remote("heads_ti2v"), "ti2v", steps=STEPS), expected)


def test_core_s_lora_node_and_the_model_without_it(comfy: Any, remote: Any) -> None:
    local, model = here(comfy), remote()
    for wrap in (lambda model: with_lora(comfy, model), lambda model: model):
        assert torch.equal(run_ksampler(wrap(model), steps=2), run_ksampler(wrap(local), steps=2))


def test_a_quantised_file_is_what_core_s_loader_makes_of_it(comfy: Any, remote: Any) -> None:
    expected = run_ksampler(with_lora(comfy, here(comfy, "heads_fp8")), steps=2)
    assert torch.equal(run_ksampler(with_lora(comfy, remote("heads_fp8")), steps=2), expected)


def test_two_experts_on_the_same_workers(comfy: Any, remote: Any) -> None:
    expected, _ = run_node(comfy, here(comfy), low_noise_model=here(comfy, "heads_1"), steps=STEPS)
    video, report = run_node(comfy, remote(), low_noise_model=remote("heads_1"), steps=STEPS)
    assert torch.equal(video, expected)
    assert [phase.expert for phase in report.phases] == ["high_noise", "low_noise"]


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


def test_an_interrupt_ends_a_call_and_leaves_the_workers(comfy: Any, remote: Any, workers: Any) -> None:
    """In the second call, while the workers are in it."""
    from comfy import model_management
    from comfy.patcher_extension import WrappersMP

    model, calls = remote(), []
    expected = run_ksampler(model, steps=2)
    before = ranks_of(workers)

    def interrupting(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "interrupting", interrupting)
    with pytest.raises(model_management.InterruptProcessingException):
        run_ksampler(stopped, steps=3)
    assert len(calls) == 2
    assert torch.equal(run_ksampler(model, steps=2), expected) and ranks_of(workers) == before


def ranks_of(workers: Any) -> list[str]:
    return [name for group in workers.groups for name in group.names()]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_next_run_has_new_ones(comfy: Any, remote: Any, workers: Any, rank: int) -> None:
    model = remote()
    expected = run_ksampler(model, steps=2)
    name = ranks_of(workers)[rank]
    os.kill(int(re.findall(r"process (\d+)", name)[0]), signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"(?i)rank {rank} of 2 .* is gone"):
        run_ksampler(model, steps=2)
    assert ranks_of(workers) == []
    assert torch.equal(run_ksampler(model, steps=2), expected)


@pytest.mark.parametrize(
    ("node", "inputs", "why"),
    [
        ("FastVideoAttention", {"self_attention": "auto", "cross_attention": "auto", "fold_text": True}, "inside the network"),
        ("FastVideoCompile", {"enabled": True}, "inside the network"),
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


def on_workers_prompt(layout: dict[str, Any], scale: float, **settings: Any) -> dict[str, Any]:
    loader = node("FastVideoLoadModelOnWorkers", workers=["9", 0], model_name="heads_0.safetensors", weight_dtype="default")
    workers = node("FastVideoWorkers", count=2, device="CPU", place="this machine", **layout)
    return {**sampler_prompt(guidance_scale=scale, **settings), "1": loader, "9": workers}


def video_of(host: Any, prompt: dict[str, Any], **loader: Any) -> torch.Tensor:
    prompt = {**prompt, "1": {**prompt["1"], "inputs": {**prompt["1"]["inputs"], **loader}}}
    video: torch.Tensor = host.run(prompt, capture={"latent": ("5", 0)}).captured["latent"]["samples"]
    return video


def test_without_ray_the_error_says_what_to_install(comfy: Any, files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"fastvideo-nodes\[cluster\]"):
        on_workers(comfy, workers_of(comfy), "heads_0")
