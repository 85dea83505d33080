"""The demo workflows as API prompts, made smaller where a test has no need for their size."""

import json
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
FIRST_FRAME = PACK / "assets" / "demo_first_frame.png"
FIRST_FRAME_NAME = "fastvideo_demo_first_frame.png"
"""Under which demo_i2v of 0.1.0 loads it."""


def demo_prompt(name: str, **inputs: Any) -> dict[str, Any]:
    """The shipped prompt `name`, with other values in the widgets of these names."""
    prompt = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        widgets = {key for key, value in node["inputs"].items() if not isinstance(value, list)}
        node["inputs"] |= {key: value for key, value in inputs.items() if key in widgets}
    return prompt


def node_of(prompt: dict[str, Any], kind: str) -> str:
    """The id of the one node of that class."""
    (identity,) = (identity for identity, node in prompt.items() if node["class_type"] == kind)
    return identity
