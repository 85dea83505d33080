"""The prompt that ComfyUI runs just now."""

import time
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer


def running_prompt() -> str | None:
    """ComfyUI's name of the prompt that runs now; None where none came through its execution."""
    context = get_executing_context()
    return None if context is None else str(context.prompt_id)


def seconds_since_queued() -> float | None:
    """Of the prompt that runs now, without waiting for prompts before it; None where none came through ComfyUI's queue."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    queue = getattr(server, "prompt_queue", None)
    if context is None or queue is None:
        return None
    running, _ = queue.get_current_queue_volatile()
    created = [item[3].get("create_time") for item in running if item[1] == context.prompt_id]
    if not created or created[0] is None:
        return None
    return time.time() - max(created[0], _others_ended(queue)) / 1000


def _others_ended(queue: Any) -> float:
    """When the prompt before this one ended, in ms; 0 where ComfyUI's history has none."""
    last = queue.get_history(max_items=1).values()
    messages = [message for entry in last for _, message in (entry.get("status") or {}).get("messages", ())]
    return max((message.get("timestamp", 0) for message in messages), default=0)
