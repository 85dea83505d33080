"""Cancelling one of many videos over ComfyUI's server: POST /fastvideo/cancel {"node": "5", "video": 2}.

ComfyUI's own interrupt ends the prompt that runs, with all of its videos.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

PATH = "/fastvideo/cancel"
EVENT = "fastvideo.videos"
"""Tells the page that a prompt is of: {"node": its id, "videos": the numbers of those that can be cancelled now}."""
RUNNING: web.AppKey[dict[str, Any]] = web.AppKey("fastvideo_running", dict)
"""Of the server's application: by the running node's id, what cancels each of its videos, by their numbers."""


def register_cancelling() -> None:
    """Tells ComfyUI's server of the path."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.app[RUNNING] = {}
        server.routes.post(PATH)(_cancel)


@contextmanager
def cancellable(videos: Mapping[int, Callable[[], None]]) -> Iterator[Callable[[int], None]]:
    """For the time in which the node that runs now makes videos; nothing where no prompt runs. Yields what is told of each that
    has ended."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is None or server is None or RUNNING not in server.app:
        yield lambda ended: None
        return
    node, running = context.node_id, server.app[RUNNING]
    tell_page = partial(server.send_sync, EVENT, sid=server.client_id)
    left = running[node] = dict(videos)

    def tell() -> None:
        tell_page({"node": node, "videos": sorted(left)})

    def end(video: int) -> None:
        del left[video]
        tell()

    tell()
    try:
        yield end
    finally:
        del running[node]
        left.clear()
        tell()


async def _cancel(request: web.Request) -> web.Response:
    try:
        given = json.loads(await request.text())
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict) or not {"node", "video"} <= given.keys():
        return web.json_response({"error": 'Give {"node": its id, "video": its number}.'}, status=400)
    cancel = request.app[RUNNING].get(str(given["node"]), {}).get(given["video"])
    if cancel is None:
        return web.json_response({"error": f"Node {given['node']!r} makes no video {given['video']!r} now."}, status=404)
    cancel()
    return web.json_response({})
