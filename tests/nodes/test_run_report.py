"""The run report: what it says is what ran; and the progress and previews that reach people while it runs."""

import json
import sys
from typing import Any

import pytest
import torch
from graphs import guider_prompt, sampler_prompt
from sampling import SETTINGS, normal, run_node

from fastvideo_core.pictures import run_picture
from tools.comfy_in_process import PromptFailed


def own_module(host: Any, name: str) -> Any:
    """A module of the pack under the name that ComfyUI imported it by."""
    package = host.node_classes["FastVideoSampler"].__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


def test_report_is_shown_and_handed_on(prompts: Any) -> None:
    prompts.reset()
    outputs = {"text": ("6", 0), "json": ("6", 1), "picture": ("6", 2), "report": ("5", 1)}
    run = prompts.run(sampler_prompt(low_noise=True), outputs)
    text, report = run.captured["text"], run.captured["report"]
    assert list(run.outputs["6"]["text"]) == [text] == [report.text()]
    assert torch.equal(run.captured["picture"], run_picture(report)[None])
    assert [image["type"] for image in run.outputs["6"]["picture"]] == ["temp"]
    data = json.loads(run.captured["json"])
    assert [phase["expert"] for phase in data["phases"]] == ["high_noise", "low_noise"]
    assert data["seed"] == SETTINGS["seed"] and data["solver"] == "euler" and data["dtype"] == "float32"
    assert sum(phase["steps"] for phase in data["phases"]) == 4 == len(data["step_seconds"])
    assert 0 < sum(data["step_seconds"]) <= data["total_seconds"]
    assert data["peak_memory_bytes"] > 2**20
    assert data["latent_shape"] == [1, 16, 3, 8, 8]


def test_frames_that_are_no_frames_are_refused(prompts: Any) -> None:
    prompts.reset()
    prompt = sampler_prompt()
    prompt["6"]["inputs"]["images"] = 3
    with pytest.raises(PromptFailed, match="images input got 3 and needs a connection"):
        prompts.run(prompt)


@pytest.mark.parametrize("low_noise", [False, True], ids=["one expert", "two experts"])
@pytest.mark.parametrize("node", ["sampler", "guider"])
def test_progress_and_preview_of_every_step(prompts: Any, node: str, low_noise: bool) -> None:
    prompts.reset()
    prompt, sampling = (sampler_prompt(low_noise=low_noise), "5") if node == "sampler" else (guider_prompt(low_noise), "9")
    run = prompts.run(prompt, {"latent": (sampling, 0)}, preview_method="latent2rgb")
    assert run.progress(sampling)[-4:] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    previews = [image for kind, image in run.events if kind == "preview"]
    assert len(previews) == 4
    assert all(image.size == (8, 8) for image in previews)
    assert previews[0].tobytes() != previews[-1].tobytes()


@pytest.mark.usefixtures("direct")
class TestWhatRan:
    def test_split_by_comfyui_is_reported(self, comfy: Any, fresh_wan: Any) -> None:
        fresh_wan.model.memory_usage_factor = 1e12
        _, report = run_node(comfy, fresh_wan, steps=4)
        assert report.phases[0].calls == {"1": 8}
        assert report.guidance_mode == "sequential"
        assert report.guidance_reason.startswith("auto: ComfyUI ran the branches apart, for want of memory")

    def test_split_in_some_steps_is_reported(self, comfy: Any, fresh_wan: Any) -> None:
        from comfy.patcher_extension import WrappersMP

        def short_of_memory_later(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            fresh_wan.model.memory_usage_factor = 1e12 if float(timestep[0]) < 900 else fresh_wan.model.memory_usage_factor
            return executor(x, timestep, *args, **kwargs)

        fresh_wan.add_wrapper(WrappersMP.DIFFUSION_MODEL, short_of_memory_later)
        _, report = run_node(comfy, fresh_wan, steps=4)
        assert report.phases[0].calls == {"1": 2, "2": 3}
        assert report.guidance_mode == "batched in 3 of 4 guided steps"
        assert report.guidance_reason == "auto: ComfyUI was short of memory in the others"

    def test_prompts_of_different_lengths_run_apart(self, comfy: Any, load_wan: Any) -> None:
        """Core's text encode gives more than 512 rows for long prompts."""
        positive = [[normal(60, 1, 700, 32), {}]]
        _, report = run_node(comfy, load_wan(), steps=2, positive=positive)
        assert (report.guidance_mode, report.phases[0].calls) == ("sequential", {"1": 4})
        assert "their shapes differ" in report.guidance_reason

    def test_gate_of_one_expert_only(self, comfy: Any, load_wan: Any) -> None:
        _, report = run_node(comfy, load_wan(), "t2v", load_wan("t2v", 1), gate=0.5)
        assert [phase.reused_negative for phase in report.phases] == [0, 3]
        assert "negative branch reused in 3 steps" in report.text()
        assert (report.guidance_mode, report.guidance_reason.split(":")[0]) == ("batched", "auto")

    def test_guidance_that_is_off(self, comfy: Any, load_wan: Any) -> None:
        _, report = run_node(comfy, load_wan(), steps=2, guidance_scale=1.0)
        assert (report.guidance_mode, report.guidance_reason) == ("off", "no step ran the negative branch")


@pytest.fixture
def fresh_wan(comfy: Any, load_wan: Any) -> Any:
    """A MODEL for a test that changes it."""
    from comfy.sd import load_diffusion_model

    load_wan()
    with torch.inference_mode():
        return load_diffusion_model(str(comfy.model_folder("diffusion_models") / "t2v_0.safetensors"))


@pytest.mark.parametrize(
    ("facts", "two", "titles"),
    [
        ({"in_channels": 16, "dim": 1536, "layers": 30}, False, ["Wan 2.1 T2V 1.3B"]),
        ({"in_channels": 16, "dim": 5120, "layers": 40}, True, ["Wan 2.2 T2V A14B"]),
        (
            {"in_channels": 36, "dim": 5120, "layers": 40, "image_tokens": 257},
            False,
            ["Wan 2.1 I2V 14B 480P", "Wan 2.1 I2V 14B 720P"],
        ),
        ({"in_channels": 16, "dim": 64, "layers": 2}, False, []),
    ],
)  # fmt: skip
def test_published_checkpoints_are_recognised(comfy: Any, facts: dict[str, int], two: bool, titles: list[str]) -> None:
    measures = {"latent_channels": 16, "text_dim": 4096, "image_tokens": 0, **facts}
    wan = own_module(comfy, "native.facts").WanFacts(name="WAN21", plain=True, **measures)
    assert [row.title for row in wan.variants(two)] == titles


@pytest.mark.parametrize(
    ("shift", "boundary", "steps", "noted"),
    [(12.0, 0.875, 20, False), (5.0, 0.875, 20, True), (12.0, 0.9, 20, True), (5.0, 0.875, 8, False), (None, 0.875, 20, False)],
)
def test_unusual_shift_or_boundary_is_noted(comfy: Any, shift: float, boundary: float, steps: int, noted: bool) -> None:
    """Not for few steps, where distilled checkpoints have settings of their own, and not for given noise levels."""
    from types import SimpleNamespace

    from fastvideo_core import by_boundary
    from fastvideo_core.wan.variants import VARIANTS

    run = SimpleNamespace(extra_calls=0, schedule=SimpleNamespace(steps=steps))
    settings = SimpleNamespace(shift=shift, phases=by_boundary(4.0, 3.0, boundary))
    notes = own_module(comfy, "native.report")._notes(run, settings, [VARIANTS["wan2.2_t2v_A14B"]])
    assert bool(notes) == noted
    assert not noted or notes == ["shift or boundary differ from the published ones (Wan 2.2 T2V A14B: shift 12, boundary 0.875)"]
