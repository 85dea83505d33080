"""A run of three phases that is stopped anywhere, by a person, by an error or for want of memory: nothing of it is left, the next
one is fresh, and what was kept goes on bit by bit."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from caching import attributes, cached, put_table
from phase_runs import Given, kept, phases_of, run_phases, with_lora
from sampling import SETTINGS, conditions_of, run_guider, sigmas_of
from test_attention import attended
from torch import Tensor

from fastvideo_core import GenerationState

pytestmark = pytest.mark.usefixtures("direct")


class FailedHereError(Exception):
    pass


def interrupt() -> BaseException:
    from comfy.model_management import InterruptProcessingException

    return InterruptProcessingException()


def out_of_memory() -> BaseException:
    from comfy.model_management import OOM_EXCEPTION

    return OOM_EXCEPTION("no memory is left")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "interrupt": interrupt, "error": lambda: FailedHereError("here"), "out of memory": out_of_memory,
}  # fmt: skip
CALLS = {"first step": 0, "last step of the first phase": 1, "first step of the second": 2, "in the third": 5}
"""The call of the networks that fails, of 8: two, two and four steps."""
STOPS = [
    *(("interrupt", where) for where in CALLS), ("error", "first step of the second"), ("error", "in the third"),
    ("out of memory", "first step"), ("out of memory", "first step of the second"),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def tables(comfy: Any, load_wan: Any) -> None:
    put_table(comfy, load_wan("t2v", 0), load_wan("t2v", 1))


def three(host: Any, load_wan: Any) -> tuple[Given, Given, Given]:
    high, low = load_wan("t2v", 0), load_wan("t2v", 1)
    on = [cached(host, attended(host, model, "sdpa", "sdpa", True)) for model in (high, with_lora(host, high), low)]
    return (on[0], 0.95, 4.0), (on[1], 0.875, 2.0), (on[2], 0.0, 3.0)


@contextmanager
def failing(error: BaseException, call: int, *given: Given) -> Iterator[list[weakref.ref[Any]]]:
    """The networks' heads raise in that call. Yields the tensors that they were given."""
    seen: list[weakref.ref[Any]] = []

    def hook(_: Any, args: tuple[Any, ...]) -> None:
        seen.append(weakref.ref(args[0]))
        if len(seen) > call:
            raise error

    heads = {id(model.model): model.model.diffusion_model.head for model, _, _ in given}
    hooks = [head.register_forward_pre_hook(hook) for head in heads.values()]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def failing_to_load(error: BaseException, load: int) -> Iterator[None]:
    """Core's loader raises when it is asked for that model of the run."""
    from comfy import model_management, sampler_helpers

    loads, real = 0, model_management.load_models_gpu

    def loading(*args: Any, **kwargs: Any) -> Any:
        nonlocal loads
        loads += 1
        if loads > load:
            raise error
        return real(*args, **kwargs)

    sampler_helpers.comfy.model_management.load_models_gpu = loading
    try:
        yield
    finally:
        model_management.load_models_gpu = real


def assert_clean(*given: Given) -> None:
    for model, _, _ in given:
        assert model.model.current_patcher is None
        assert not model.hook_backup and model.hook_patches_backup is None
        assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())


@pytest.mark.parametrize(("name", "where"), STOPS)
def test_a_run_that_is_stopped_leaves_nothing_and_goes_on(comfy: Any, load_wan: Any, name: str, where: str) -> None:
    given, error, call = three(comfy, load_wan), ERRORS[name](), CALLS[where]
    fresh, _ = run_phases(comfy, *given, solver="unipc", guidance_mode="batched")
    left = [attributes(model) for model, _, _ in given]
    # Of cached steps the head still runs, so that its calls are the steps.
    with failing(error, call, *given) as seen, pytest.raises(type(error)):
        run_phases(comfy, *given, solver="unipc", guidance_mode="batched", save_state="stopped", seed=3)
    assert [attributes(model) for model, _, _ in given] == left
    assert_clean(*given)
    del error
    gc.collect()
    assert [tensor for tensor in seen if tensor() is not None] == []
    assert torch.equal(run_phases(comfy, *given, solver="unipc", guidance_mode="batched")[0], fresh)


@pytest.mark.parametrize("load", [0, 1, 2])
@pytest.mark.parametrize("name", ERRORS)
def test_weights_that_cannot_be_loaded(comfy: Any, load_wan: Any, name: str, load: int) -> None:
    given, error = three(comfy, load_wan), ERRORS[name]()
    file = kept(comfy, "not_loaded")
    file.unlink(missing_ok=True)
    fresh, report = run_phases(comfy, *given)
    left = [attributes(model) for model, _, _ in given]
    with failing_to_load(error, load), pytest.raises(type(error)):
        run_phases(comfy, *given, save_state="not_loaded")
    assert [attributes(model) for model, _, _ in given] == left
    assert_clean(*given)
    steps = sum(phase.steps for phase in report.phases[:load])
    assert file.exists() == (steps > 0)
    if steps:
        assert GenerationState.load(file).step == steps
    assert torch.equal(run_phases(comfy, *given)[0], fresh)


def plain_three(host: Any, load_wan: Any) -> tuple[Given, Given, Given]:
    """Without caches, which begin anew."""
    high = load_wan("t2v", 0)
    low = attended(host, load_wan("t2v", 1), "sdpa", "sdpa", True)
    return (high, 0.95, 4.0), (with_lora(host, high), 0.875, 1.0), (low, 0.0, 3.0)


@pytest.mark.parametrize(("name", "where"), STOPS)
def test_what_was_kept_goes_on_bit_by_bit(comfy: Any, load_wan: Any, name: str, where: str) -> None:
    given, error = plain_three(comfy, load_wan), ERRORS[name]()
    file = kept(comfy, "goes_on")
    file.unlink(missing_ok=True)
    settings = {"solver": "dpmpp_2m", "gate": 0.5, "guidance_mode": "batched"}
    whole, _ = run_phases(comfy, *given, **settings)
    with failing(error, CALLS[where], *given), pytest.raises(type(error)):
        run_phases(comfy, *given, save_state="goes_on", **settings)
    assert file.exists() == (CALLS[where] > 0)
    if file.exists():
        assert GenerationState.load(file).step == CALLS[where]
        assert torch.equal(run_phases(comfy, *given, resume_state="goes_on.safetensors", **settings)[0], whole)


def test_an_error_at_the_last_callback_of_each_phase(comfy: Any, load_wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where core looks for an interrupt: the step before it is kept."""
    import latent_preview

    given = plain_three(comfy, load_wan)
    whole, report = run_phases(comfy, *given)
    ends = [sum(phase.steps for phase in report.phases[:number]) for number in (1, 2, 3)]
    prepare = latent_preview.prepare_callback
    for end in ends:

        def failing_callback(*args: Any, end: int = end) -> Any:
            inner = prepare(*args)

            def callback(step: int, denoised: Tensor, latents: Tensor, total: int) -> None:
                inner(step, denoised, latents, total)
                if step + 1 == end:
                    raise FailedHereError

            return callback

        with monkeypatch.context() as patched, pytest.raises(FailedHereError):
            patched.setattr(latent_preview, "prepare_callback", failing_callback)
            run_phases(comfy, *given, save_state="callback")
        assert_clean(*given)
        assert GenerationState.load(kept(comfy, "callback")).step == end
        resumed, again = run_phases(comfy, *given, resume_state="callback.safetensors")
        assert torch.equal(resumed, whole)
        assert len(again.step_seconds) == 8 - end


@pytest.mark.parametrize("call", [0, 3, 6])
def test_a_guider_that_stays_holds_nothing_of_a_run_that_failed(comfy: Any, load_wan: Any, call: int) -> None:
    """ComfyUI keeps a node's output."""
    given = plain_three(comfy, load_wan)
    positive, negative = conditions_of("t2v")
    widgets = {name: SETTINGS[name] for name in (
        "guidance_scale", "low_noise_guidance_scale", "boundary", "guidance_mode", "gate", "guidance_rescale",
    )}  # fmt: skip
    node = comfy.node_classes["FastVideoGuider"]
    guider = node.execute(phases=phases_of(comfy, *given), positive=positive, negative=negative, **widgets).args[0]
    fresh = run_guider(guider, "euler", sigmas_of())
    before = {name: set(vars(expert)) for name, expert in guider.experts.items()}
    with failing(FailedHereError(), call, *given), pytest.raises(FailedHereError):
        run_guider(guider, "euler", sigmas_of())
    assert {name: set(vars(expert)) for name, expert in guider.experts.items()} == before
    assert_clean(*given)
    assert torch.equal(run_guider(guider, "euler", sigmas_of()), fresh)
