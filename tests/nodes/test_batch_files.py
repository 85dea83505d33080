"""FastVideo Batch with the demo Wan in this process: from lines of prompts to files."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from graphs import node

from fastvideo_core import TEXT_TOKENS
from tools.comfy_in_process import PromptFailed

SIZE = {"width": 32, "height": 32, "length": 5}
RUN: dict[str, Any] = {
    **SIZE, "steps": 2, "shift": 5.0, "solver": "euler", "guidance_mode": "auto", "gate": 1.0, "guidance_rescale": 0.0,
    "negative": "", "seeds": "7", "filename_prefix": "batch/x", "fps": 8.0,
}  # fmt: skip
PROMPTS = ("a red circle moving left", "a blue square over white")
TEXT = "3"
"""What ComfyUI calls an event with a node's text."""
TOO_LONG = "circle " * TEXT_TOKENS


def batch_prompt(model: str = "t2v", **inputs: Any) -> dict[str, Any]:
    """API prompt: the demo model, one phase, FastVideo Batch as node "3"."""
    links = {"phases": ["2", 0], "clip": ["1", 2], "vae": ["1", 3], **({"start_images": ["1", 4]} if model == "i2v" else {})}
    return {
        "1": node("FastVideoLoadDemoWan", model=model, lora_strength=0.0),
        "2": node("FastVideoPhase", model=["1", 0], until=0.0, guidance_scale=3.0),
        "3": node("FastVideoBatch", **{**links, **RUN, "prompts": "\n".join(PROMPTS), **inputs}),
    }


def single_prompt(text: str, seed: int, model: str = "t2v") -> dict[str, Any]:
    """One of the videos by FastVideo Phase Sampler, node "3"."""
    batch = batch_prompt(model)
    shared = {name: RUN[name] for name in ("steps", "shift", "solver", "guidance_mode", "gate", "guidance_rescale")}
    texts = {"positive": ["4", 0], "negative": ["4", 1]}
    image = node("WanImageToVideo", **texts, vae=["1", 3], start_image=["1", 4], **SIZE, batch_size=1)
    given = {"positive": ["5", 0], "negative": ["5", 1], "latent": ["5", 2]} if model == "i2v" else {**texts, "latent": ["5", 0]}
    return {
        **{name: batch[name] for name in ("1", "2")},
        "3": node(
            "FastVideoPhaseSampler", phases=["2", 0], seed=seed, stop_after_phase=0, save_state="", resume_state="none",
            **given, **shared,
        ),
        "4": node("FastVideoTextEncode", clip=["1", 2], positive=text, negative=""),
        "5": image if model == "i2v" else node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1),
    }  # fmt: skip


def metadata(file: Path) -> dict[str, str]:
    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == SIZE["length"]
        return dict(container.metadata)


def test_each_line_is_a_file_and_one_that_fails_is_named(prompts: Any) -> None:
    lines = "\n".join([PROMPTS[0], TOO_LONG, "", f"  {PROMPTS[1]} "])
    made = prompts.run(batch_prompt(prompts=lines, seeds="7 8, 9"), {"last": ("3", 0), "video": ("3", 1)})
    first, *rows = made.outputs["3"]["text"][0].splitlines()
    assert first == "2 videos; 1 failed" and len(rows) == 3
    assert rows[0].startswith("1: batch/x_00001_.mp4: ") and rows[2].startswith("3: batch/x_00002_.mp4: ")
    assert rows[1].startswith("2: failed: The positive prompt has") and "(seed 8, prompt 'circle circle" in rows[1]
    assert made.progress("3")[-1] == (4.0, 4.0)
    assert any(data.startswith(progress("0 of 2 videos", "1: step 1 of 2, ")) for kind, data in made.events if kind == TEXT)
    files = [prompts.base / "output" / shown["subfolder"] / shown["filename"] for shown in made.outputs["3"]["images"]]
    told = [json.loads(metadata(file)["fastvideo_batch"]) for file in files]
    assert told == [{"number": number, "prompt": PROMPTS[number // 2], "seed": seed} for number, seed in ((1, 7), (3, 9))]
    assert json.loads(metadata(files[0])["prompt"])["3"]["class_type"] == "FastVideoBatch"
    assert made.captured["video"].get_components().images.shape == (SIZE["length"], SIZE["height"], SIZE["width"], 3)
    alone = prompts.run(single_prompt(PROMPTS[1], 9), {"last": ("3", 0)})
    assert torch.equal(made.captured["last"]["samples"], alone.captured["last"]["samples"])


def progress(*lines: str) -> bytes:
    """As ComfyUI sends it of node "3"."""
    return struct.pack(">I", 1) + b"3" + "\n".join(lines).encode()


def test_each_image_of_a_batch_begins_a_video(prompts: Any) -> None:
    prompt = batch_prompt("i2v", start_images=["4", 0], prompts=PROMPTS[0], seeds="1 2")
    made = prompts.run({**prompt, "4": node("RepeatImageBatch", image=["1", 4], amount=2)}, {"last": ("3", 0)})
    assert len(made.outputs["3"]["images"]) == 2
    alone = prompts.run(single_prompt(PROMPTS[0], 2, "i2v"), {"last": ("3", 0)})
    assert torch.equal(made.captured["last"]["samples"], alone.captured["last"]["samples"])


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"seeds": "1 2 3"}, "unequal lengths: prompts 2, negative 1, seeds 3. Give each 3, or one"),
        ({"seeds": "1, x"}, "The seeds input got x: give whole numbers from 0 to"),
        ({"seeds": " "}, "The seeds input got nothing"),
        ({"prompts": " \n "}, "The prompts input is empty"),
        ({"filename_prefix": "../x"}, "filename_prefix is '../x': give how the files' names begin"),
        ({"filename_prefix": "a/../../x"}, "filename_prefix is"),
        ({"filename_prefix": "/x/y"}, "filename_prefix is"),
        ({"filename_prefix": "x/.."}, "filename_prefix is"),
        ({"length": 6}, "32 x 32 pixels and 6 frames was asked for: this model makes multiples of 16 pixels"),
        ({"start_images": ["1", 4]}, "text-to-video network"),
        ({"prompts": TOO_LONG}, "prompt has"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(prompts: Any, inputs: dict[str, Any], why: str) -> None:
    with pytest.raises(PromptFailed, match=re.escape(why)):
        prompts.run(batch_prompt(**inputs))
