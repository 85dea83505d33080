"""How a server answers a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.comfy_client import ComfyClient, PromptFailed, PromptRefused, ServerError

PATIENCE = 60.0
"""Seconds; a prompt that takes longer is interrupted, which is an answer too."""
MEANT = ": fastvideo_core.errors."
"""In the words of an error that a node of the pack means."""
OURS = "FastVideo"


@dataclass(frozen=True)
class Answer:
    """kind: "refused" by the validation, "failed" in a node, "interrupted", or "ran"; words: why not, or what nodes show."""

    kind: str
    words: str = ""

    @property
    def broken(self) -> str:
        """What is wrong with it: a node of the pack did not say what it was given, or nobody is named."""
        if self.kind == "failed" and self.words.startswith(OURS) and MEANT not in self.words:
            return "a node broke instead of saying what is wrong"
        if self.kind in ("refused", "failed") and not self.words.strip():
            return "no words"
        return ""


def answer(server: ComfyClient, prompt: Mapping[str, Any], patience: float = PATIENCE) -> Answer:
    """Raises ServerError where the server is gone."""
    try:
        return _ended(server, server.post(prompt), patience)
    except PromptRefused as refused:
        identity = refused.body.get("prompt_id") if isinstance(refused.body, dict) else None
        if identity:  # its other outputs are made
            _ended(server, identity, patience)
        return Answer("refused", str(refused))


def _ended(server: ComfyClient, identity: str, patience: float) -> Answer:
    try:
        last = server.wait(identity, patience)[-1]
    except PromptFailed as failed:
        return Answer("failed", str(failed))
    except ServerError:
        server.interrupt()
        last = server.wait(identity, patience)[-1]
    return Answer("ran", shown(server, identity)) if last.type == "execution_success" else Answer("interrupted")


def shown(server: ComfyClient, identity: str) -> str:
    """The texts on a prompt's nodes."""
    outputs = server.history(identity)["outputs"].values()
    return "\n".join(str(text) for output in outputs for text in output.get("text", ()))
