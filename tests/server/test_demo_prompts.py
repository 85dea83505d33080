"""The shipped demo prompts in a real headless server: progress, previews, outputs, interrupt, the next run."""

import io
import re
from pathlib import Path

import av
import pytest
import torch
from demo_prompts import demo_prompt, node_of
from PIL import Image
from safetensors.torch import load_file

from tools.comfy_client import Event
from tools.comfy_server import ComfyServer

STEPS = 4
SMALL = {"width": 32, "height": 32, "length": 5}


@pytest.mark.parametrize("name", ["demo_t2v", "demo_i2v"])
def test_demo_prompt_leaves_a_video_of_its_size_and_a_report(comfy_server: ComfyServer, name: str) -> None:
    prompt = demo_prompt(name, steps=STEPS)
    identity = comfy_server.post(prompt)
    events = comfy_server.wait(identity)
    assert events[-1].type == "execution_success"
    (file,) = comfy_server.files(identity)
    assert _video(file) == (17, (64, 64), 16)
    (report,) = comfy_server.history(identity)["outputs"][node_of(prompt, "FastVideoRunReport")]["text"]
    assert f"{STEPS} steps euler, latents 1x16x5x8x8, seed 0" in report
    assert re.search(r"^whole prompt, with text and VAE: \d+\.\d s since it began$", report, re.M)


def test_demo_of_two_experts_switches_once(comfy_server: ComfyServer) -> None:
    prompt = demo_prompt("demo_t2v", model="two experts", steps=STEPS, boundary=0.875, **SMALL)
    loader, sampler = node_of(prompt, "FastVideoLoadDemoWan"), node_of(prompt, "FastVideoSampler")
    prompt[sampler]["inputs"]["low_noise_model"] = [loader, 1]
    identity = comfy_server.post(prompt)
    comfy_server.wait(identity)
    (report,) = comfy_server.history(identity)["outputs"][node_of(prompt, "FastVideoRunReport")]["text"]
    # Shift 5 gives the levels 1, 0.9375, 0.8333, 0.625: two lie above the boundary.
    assert "high-noise expert: 2 steps from sigma 1.000" in report
    assert "low-noise expert: 2 steps from sigma 0.833" in report


def test_every_step_reports_progress_a_line_and_a_preview(comfy_server: ComfyServer) -> None:
    prompt = demo_prompt("demo_t2v", steps=STEPS, seed=1)
    sampler = node_of(prompt, "FastVideoSampler")
    events = comfy_server.wait(comfy_server.post(prompt, preview_method="latent2rgb"))
    assert _progress(events, sampler) == [(step, STEPS) for step in range(1, STEPS + 1)]
    lines = [event.data["text"] for event in events if event.type == "text" and event.data["node"] == sampler]
    assert len(lines) == STEPS
    assert re.fullmatch(r"step 3 of 4, \d+:\d\d left; 4 steps in \d+:\d\d", "; ".join(lines[2:]))
    previews = [event for event in events if event.type == "preview"]
    assert len(previews) == STEPS
    assert all(event.data["node_id"] == sampler for event in previews)
    assert {Image.open(io.BytesIO(event.image or b"")).size for event in previews} == {(512, 512)}


def test_no_preview_is_sent_when_none_is_asked_for(comfy_server: ComfyServer) -> None:
    events = comfy_server.wait(comfy_server.post(demo_prompt("demo_t2v", steps=2, seed=2), preview_method="none"))
    assert not [event for event in events if event.type == "preview"]


def test_run_after_an_interrupt_equals_a_run_before_it(comfy_server: ComfyServer) -> None:
    before = _latents(comfy_server, "a red circle moving right")
    prompt = demo_prompt("demo_t2v", steps=1000, **SMALL)
    identity = comfy_server.post(prompt)
    steps_seen = []
    for event in comfy_server.events(identity):
        if event.type == "progress":
            steps_seen.append(event.data["value"])
            comfy_server.interrupt(identity)
    assert event.type == "execution_interrupted"
    assert event.data["node_type"] == "FastVideoSampler"
    assert max(steps_seen) < 1000
    assert comfy_server.history(identity)["status"]["status_str"] == "error"
    # Two spaces: the same words to the model, another prompt to ComfyUI's cache, so that it is sampled again.
    after = _latents(comfy_server, "a red circle  moving right")
    assert torch.equal(before, after)


def _latents(server: ComfyServer, words: str) -> torch.Tensor:
    """Samples and returns the latents that SaveLatent wrote."""
    prompt = demo_prompt("demo_t2v", positive=words, steps=STEPS, seed=7, **SMALL)
    sampler = node_of(prompt, "FastVideoSampler")
    kept = {"FastVideoLoadDemoWan", "FastVideoTextEncode", "EmptyHunyuanLatentVideo", "FastVideoSampler"}
    prompt = {identity: node for identity, node in prompt.items() if node["class_type"] in kept}
    prompt["latents"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latents"}}
    identity = server.post(prompt)
    assert len(_progress(server.wait(identity), sampler)) == STEPS
    (file,) = server.files(identity)
    return load_file(file)["latent_tensor"]


def _progress(events: list[Event], node: str) -> list[tuple[int, int]]:
    steps = [event.data for event in events if event.type == "progress" and event.data["node"] == node]
    return [(step["value"], step["max"]) for step in steps]


def _video(file: Path) -> tuple[int, tuple[int, int], int]:
    """(frames, (width, height), frames per second), every frame decoded."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return len(frames), (frames[0].width, frames[0].height), int(stream.average_rate)
