"""ComfyUI inside this interpreter: its real loader, prompt validation and executor, without the HTTP server.

Seconds to start, exceptions and tensors at hand; for tests and benchmarks. ComfyUI is a set of top-level modules with global
state, so there is one `ComfyInProcess` per process; `sys.argv`, the user's folders and the network stay out of it.
"""

import asyncio
import importlib
import logging
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.comfy_folders import ComfyFolders

Prompt = Mapping[str, Any]
OnEvent = Callable[[str, Any], None]

CAPTURE_NODE = "CaptureOutput"


class PromptRefused(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """ComfyUI's validation said no. The message holds every reason, as the server would send it."""

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any]) -> None:
        reasons = [
            f"node {node} ({found['class_type']}): {reason['message']}: {reason['details']}"
            for node, found in node_errors.items()
            for reason in found["errors"]
        ]
        super().__init__("\n".join([f"{error['message']}: {error['details']}", *reasons]))
        self.error, self.node_errors = error, node_errors


class PromptFailed(Exception):  # noqa: N818
    """A node raised. The message is `<node type>: <exception type>: <its message>`."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(f"{details['node_type']}: {details['exception_type']}: {details['exception_message']}".rstrip())
        self.details = details


@dataclass
class PromptRun:
    """What one prompt left behind.

    Attributes:
        events: (type, data) as the server would have sent them; previews have the type "preview" and an image.
        outputs: node id -> what the node shows in the user interface, as in the server's history.
        captured: name -> the Python object that came out of the captured socket.
        interrupted: the prompt was stopped by an interrupt.
    """

    events: list[tuple[str, Any]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    captured: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def progress(self, node: str) -> list[tuple[float, float]]:
        """The (value, maximum) pairs that a node reported, in order, without repeats."""
        states = (data["nodes"].get(node) for kind, data in self.events if kind == "progress_state")
        pairs = [(state["value"], state["max"]) for state in states if state and state["state"] == "running"]
        return list(dict.fromkeys(pairs))


class ComfyInProcess(ComfyFolders):
    """The host. `base` gets ComfyUI's own folders: models, input, output, temp, user."""

    def __init__(self, tree: Path, base: Path) -> None:
        self.tree, self.base = tree, base
        self._run = PromptRun()
        self._on_event: OnEvent | None = None
        with _only_argument_is_program():
            self._configure()
            # First, as in ComfyUI's own start: once `nodes` is imported, `utils` may mean comfy/utils.py.
            self._import("utils.extra_config")
            self._nodes = self._import("nodes")
            self._execution = self._import("execution")
            self._server = self._recording_server()
            failed = asyncio.run(self._nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        if failed:
            logging.warning("ComfyUI could not import its own %s", failed)
        self._nodes.NODE_CLASS_MAPPINGS[CAPTURE_NODE] = self._capture_node()
        self._import("comfy.utils").set_progress_bar_global_hook(self._progress)
        self.reset()

    @property
    def node_classes(self) -> dict[str, type]:
        """Node id -> class, of everything that is loaded."""
        return dict(self._nodes.NODE_CLASS_MAPPINGS)

    def load_pack(self, folder: Path) -> None:
        """Load a custom-node pack as ComfyUI's start does.

        Raises:
            ImportError: ComfyUI refused it; the text is what ComfyUI logged.
        """
        with _log_records() as records:
            loaded = asyncio.run(self._nodes.load_custom_node(str(folder), module_parent="custom_nodes"))
        if not loaded:
            raise ImportError(f"ComfyUI could not load {folder}:\n" + "\n".join(records))

    def reset(self) -> None:
        """Forget every cached node output, as a restart of the server would."""
        sizes = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        cache = self._execution.CacheType.CLASSIC
        self._executor = self._execution.PromptExecutor(self._server, cache_type=cache, cache_args=sizes)

    def interrupt(self) -> None:
        """Ask the running prompt to stop; call it from `on_event` or from another thread."""
        self._nodes.interrupt_processing()

    def validate(self, prompt: Prompt) -> list[str]:
        """Return the ids of the output nodes that would run.

        Raises:
            PromptRefused: with every reason that ComfyUI gives.
        """
        answer = asyncio.run(self._execution.validate_prompt(uuid.uuid4().hex, dict(prompt), None))
        good, error, outputs, node_errors = answer
        if not good or node_errors:
            raise PromptRefused(error or {"message": "Some outputs were refused", "details": ""}, node_errors)
        return list(outputs)

    def run(
        self,
        prompt: Prompt,
        capture: Mapping[str, tuple[str, int]] | None = None,
        on_event: OnEvent | None = None,
        preview_method: str = "none",
    ) -> PromptRun:
        """Validate and execute one API prompt. Unchanged nodes come from the cache until `reset`.

        Args:
            prompt: node id -> {"class_type": ..., "inputs": ...}.
            capture: name -> (node id, output index): sockets whose objects the caller wants.
            on_event: sees each (type, data) as it is sent; it may call `interrupt`.
            preview_method: "none", "latent2rgb" or "taesd".

        Raises:
            PromptRefused: validation said no.
            PromptFailed: a node raised.
        """
        prompt = {**prompt, **_capture_nodes(capture or {})}
        outputs = self.validate(prompt)
        self._run, self._on_event = PromptRun(), on_event
        extra = {"client_id": "in-process", "preview_method": preview_method}
        self._executor.execute(prompt, uuid.uuid4().hex, extra, outputs)
        run, self._run, self._on_event = self._run, PromptRun(), None
        run.outputs = self._executor.history_result["outputs"]
        for kind, data in self._executor.status_messages:
            if kind == "execution_error":
                raise PromptFailed(data)
            run.interrupted |= kind == "execution_interrupted"
        return run

    def _configure(self) -> None:
        """Put ComfyUI first on the path and set its options before the modules that read them are imported."""
        if not (self.tree / "comfy" / "cli_args.py").is_file():
            raise FileNotFoundError(f"{self.tree} is not a ComfyUI folder: it has no comfy/cli_args.py.")
        sys.path.insert(0, str(self.tree))
        import torch

        options = self._import("comfy.cli_args").args
        options.cpu = not torch.cuda.is_available()
        options.use_pytorch_cross_attention = True
        options.base_directory = str(self.base)
        options.disable_api_nodes = True

    def _import(self, name: str) -> Any:
        """Import one of ComfyUI's modules and make sure that it is ComfyUI's."""
        module = importlib.import_module(name)
        if not Path(str(module.__file__)).resolve().is_relative_to(self.tree.resolve()):
            raise ImportError(f"`import {name}` gave {module.__file__} where ComfyUI's own module in {self.tree} was meant.")
        return module

    def _recording_server(self) -> Any:
        """ComfyUI's PromptServer object, never listening, whose messages go to the running `PromptRun`."""
        binary = self._import("protocol").BinaryEventTypes
        previews = {binary.UNENCODED_PREVIEW_IMAGE, binary.PREVIEW_IMAGE_WITH_METADATA, binary.PREVIEW_IMAGE}
        record = self._record

        class RecordingServer(self._import("server").PromptServer):  # type: ignore[misc]
            def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
                record("preview" if event in previews else str(event), data)

        server = RecordingServer(asyncio.new_event_loop())
        server.client_id, server.last_node_id, server.last_prompt_id = None, None, None
        server.sockets_metadata["in-process"] = {"feature_flags": {"supports_preview_metadata": True}}
        return server

    def _record(self, kind: str, data: Any) -> None:
        if kind == "preview":
            (_, data, _), *_ = data  # ((image format, PIL image, largest side), metadata)
        self._run.events.append((kind, data))
        if self._on_event is not None:
            self._on_event(kind, data)

    def _progress(self, value: float, total: float, preview: Any, prompt_id: Any = None, node_id: Any = None) -> None:
        self._import("comfy.model_management").throw_exception_if_processing_interrupted()
        if node_id is None:
            node_id = self._import("comfy_execution.utils").get_executing_context().node_id
        self._import("comfy_execution.progress").get_progress_state().update_progress(node_id, value, total, preview)

    def _capture_node(self) -> type:
        def capture(_: Any, name: str, value: Any) -> tuple[()]:
            self._run.captured[name] = value
            return ()

        def input_types(_: type) -> dict[str, Any]:
            return {"required": {"name": ("STRING", {}), "value": ("*", {})}}

        def never_cached(_: type, **inputs: Any) -> float:
            return float("nan")

        members = {
            "INPUT_TYPES": classmethod(input_types),
            "IS_CHANGED": classmethod(never_cached),
            "RETURN_TYPES": (),
            "OUTPUT_NODE": True,
            "CATEGORY": "tests",
            "FUNCTION": "capture",
            "capture": capture,
        }
        return type(CAPTURE_NODE, (), members)


def _capture_nodes(capture: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    return {
        f"capture {name}": {"class_type": CAPTURE_NODE, "inputs": {"name": name, "value": list(socket)}}
        for name, socket in capture.items()
    }


@contextmanager
def _only_argument_is_program() -> Iterator[None]:
    """Some of ComfyUI's modules and nodes read `sys.argv`; the caller's arguments are not meant for them."""
    given, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = given


@contextmanager
def _log_records() -> Iterator[list[str]]:
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(handler)
