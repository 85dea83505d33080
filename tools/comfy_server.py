"""A real ComfyUI server as a child process, with this pack loaded, for the demo, tests and benchmarks.

with ComfyServer(tree, base) as server:
    prompt_id = server.post(prompt)
    for event in server.events(prompt_id):
        ...
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.comfy_client import ComfyClient, PromptRefused, ServerError
from tools.comfy_folders import ComfyFolders
from tools.runtime.links import link_folder

PACK = Path(__file__).resolve().parents[1]


class ComfyServer(ComfyClient, ComfyFolders):
    """A headless ComfyUI on a free port, with folders of its own, and the client of it.

    Args:
        tree: the ComfyUI folder.
        base: gets models, custom_nodes (with a link to the pack), input, temp, user, and output if `output` is not given.
        output: where SaveVideo and its like write.
        arguments: more of ComfyUI's own command-line arguments.
        python: the interpreter with ComfyUI's requirements.
    """

    def __init__(
        self,
        tree: Path,
        base: Path,
        output: Path | None = None,
        arguments: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.port = _free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.tree, self.base, self.output = tree, base, output or base / "output"
        self.arguments, self.python = tuple(arguments), python
        self.log = base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ComfyServer":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 300.0) -> None:
        """Start the process; return when it answers and its events can be read.

        Raises:
            ServerError: it ended, or stayed silent for `timeout` seconds. The message ends with the end of its log.
        """
        for folder in (self.output, self.input_folder(), self.base / "custom_nodes"):
            folder.mkdir(parents=True, exist_ok=True)
        link_folder(PACK, self.base / "custom_nodes" / "fastvideo-nodes")
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop the server.
            self._process = subprocess.Popen(
                self._command(), cwd=self.base, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait_until_it_answers(time.monotonic() + timeout)
        self.connect()

    def stop(self) -> None:
        """End the server, politely and then by force. Harmless when it is not running."""
        self.disconnect()
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def files(self, prompt_id: str) -> list[Path]:
        """The files that a prompt saved into the output folder."""
        shown = (item for node in self.history(prompt_id)["outputs"].values() for items in node.values() for item in items)
        saved = (item for item in shown if isinstance(item, dict) and item.get("type") == "output")
        return [self.output / item["subfolder"] / item["filename"] for item in saved]

    def log_tail(self, lines: int = 40) -> str:
        """The end of the server's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _command(self) -> list[str]:
        import torch

        return [
            *(self.python, "-u", str(self.tree / "main.py")),
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(self.base), "--output-directory", str(self.output)),
            *("--database-url", f"sqlite:///{(self.base / 'comfyui.db').as_posix()}"),
            *("--disable-api-nodes", "--disable-auto-launch"),
            *(() if torch.cuda.is_available() else ("--cpu",)),
            *self.arguments,
        ]

    def _wait_until_it_answers(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise self._error("ComfyUI ended while it started.")
            try:
                self.request("/system_stats", timeout=5)
            except (ServerError, PromptRefused):
                time.sleep(0.1)
            else:
                return
        raise self._error("ComfyUI did not answer in time.")

    def _error(self, message: str) -> ServerError:
        return ServerError(f"{message}\nEnd of {self.log}:\n{self.log_tail()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
