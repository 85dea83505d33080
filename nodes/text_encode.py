"""Text to two CONDITIONING by Wan's recipe: cleaned, no weight syntax, 512 rows of which the padding is zero."""

import logging
import re
from typing import Any

from comfy_api.latest import io

from fastvideo_core import TEXT_TOKENS, ConditioningError, clean_prompt

from .checked import checked
from .native.facts import NOTE
from .sockets import CONDITIONING

WEIGHT = re.compile(r"\([^()]+:\s*-?\d+(\.\d+)?\s*\)")
"""ComfyUI's syntax for how much a word weighs, which CLIPs of other models read."""


class FastVideoTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FastVideoTextEncode",
            display_name="FastVideo Text Encode",
            category=CONDITIONING,
            description="Encodes both prompts as Wan was trained: cleaned text, no (word:1.2) weights, 512 rows.",
            search_aliases=["prompt", "wan text", "clip text encode", "negative prompt", "wan", "umt5", "t5", "encode prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="UMT5 text encoder: core's CLIP loader with type wan."),
                io.String.Input("positive", multiline=True, dynamic_prompts=True, tooltip="What the video shows."),
                io.String.Input(
                    "negative", multiline=True, dynamic_prompts=True, default="",
                    tooltip="What the video must not show; only read where the guidance scale is not 1. It may stay empty.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The positive prompt's 512 rows."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt's 512 rows."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, clip: Any, positive: str, negative: str) -> io.NodeOutput:
        return io.NodeOutput(encode(clip, positive, "positive"), encode(clip, negative, "negative"))


def encode(clip: Any, prompt: str, branch: str) -> list[Any]:
    """CONDITIONING of one prompt: one entry, a tensor (1, 512, D)."""
    tokens = clip.tokenize(clean_prompt(prompt), disable_weights=True)
    rows = max(len(chunk) for chunks in tokens.values() for chunk in chunks)
    if rows > TEXT_TOKENS:
        raise ConditioningError(
            f"The {branch} prompt has {rows} tokens and Wan reads {TEXT_TOKENS}: shorten it by about "
            f"{100 * (rows - TEXT_TOKENS) / rows:.0f} %."
        )
    if rows < TEXT_TOKENS:
        raise ConditioningError(
            f"This CLIP gave {rows} rows for the {branch} prompt and Wan reads {TEXT_TOKENS}: it is not Wan's text encoder. "
            "Load umt5_xxl with core's CLIP loader and type wan."
        )
    encoded: list[Any] = clip.encode_from_tokens_scheduled(tokens)
    weight = WEIGHT.search(prompt)
    if weight is not None:
        note = f"the {branch} prompt has {weight[0]!r}: Wan reads it as plain words, weights have no effect"
        logging.warning("FastVideo Text Encode: %s", note)
        for _, told in encoded:
            told[NOTE] = note
    return encoded


NODES = [FastVideoTextEncode]
