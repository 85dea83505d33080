"""A client of a running ComfyUI: post API prompts, follow their events over the websocket, interrupt, read the history."""

import json
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LAST_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class ServerError(Exception):
    """The server did not start, died, or did not answer in time."""


class PromptRefused(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """The server answered a request with an HTTP error, or refused a part of a prompt.

    Attributes:
        status: HTTP status.
        body: the answer: {"error": ..., "node_errors": ...} when it is validation that said no, else its text.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {_reasons(body)}")
        self.status, self.body = status, body


class PromptFailed(Exception):  # noqa: N818
    """A node raised. The message is `<node type>: <exception type>: <its message>`."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(f"{details['node_type']}: {details['exception_type']}: {details['exception_message']}".rstrip())
        self.details = details


@dataclass(frozen=True)
class Event:
    """One websocket message. `image` holds the encoded picture of a "preview", `data` then its metadata."""

    type: str
    data: dict[str, Any]
    image: bytes | None = None


class ComfyClient:
    """Talks to the ComfyUI at `url` (http://host:port). `connect` first: events are kept from then on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex
        self._socket: Any = None
        # Straight to the server: a proxy of the environment has no business here.
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def connect(self) -> None:
        """Open the websocket and announce that previews may carry metadata."""
        from websocket import create_connection

        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        self._socket = create_connection(address, timeout=30, http_no_proxy=["*"])
        self._socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))

    def disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def post(self, prompt: Mapping[str, Any], preview_method: str = "latent2rgb") -> str:
        """Queue an API prompt and return its id.

        Raises:
            PromptRefused: the server answered with an HTTP error, or refused a part of the prompt.
        """
        extra = {"preview_method": preview_method}
        answer = self.request("/prompt", {"prompt": prompt, "client_id": self.client_id, "extra_data": extra})
        if answer["node_errors"]:
            raise PromptRefused(200, answer)
        return str(answer["prompt_id"])

    def events(self, prompt_id: str, timeout: float = 600.0) -> Iterator[Event]:
        """Yield the events as they come, up to and with the one that ends the prompt.

        Raises:
            ServerError: the server died, or the prompt took longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            event = self._receive(deadline)
            if event.data.get("prompt_id", prompt_id) != prompt_id:
                continue
            yield event
            if event.type in LAST_EVENTS:
                return

    def wait(self, prompt_id: str, timeout: float = 600.0, on_event: Callable[[Event], None] | None = None) -> list[Event]:
        """Return all events of a prompt once it has ended, successfully or by an interrupt (the last event says which).

        Args:
            prompt_id: what `post` returned.
            timeout: seconds.
            on_event: sees each event as it comes.

        Raises:
            PromptFailed: a node raised.
            ServerError: the server died, or the prompt took longer than `timeout` seconds.
        """
        events = []
        for event in self.events(prompt_id, timeout):
            events.append(event)
            if on_event is not None:
                on_event(event)
        if events[-1].type == "execution_error":
            raise PromptFailed(events[-1].data)
        return events

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt (only if it is this one, when an id is given)."""
        self.request("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    def history(self, prompt_id: str, timeout: float = 10.0) -> dict[str, Any]:
        """Return the server's record of an ended prompt: "outputs" and "status".

        Raises:
            ServerError: none within `timeout` seconds (the record is written a moment after the last event is sent).
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            records = self.request(f"/history/{prompt_id}")
            if prompt_id in records:
                return dict(records[prompt_id])
            time.sleep(0.02)
        raise self._error(f"There is no history of prompt {prompt_id}.")

    def object_info(self) -> dict[str, Any]:
        """Node id -> its inputs and outputs, as the frontend sees them."""
        return dict(self.request("/object_info"))

    def request(self, path: str, body: Mapping[str, Any] | None = None, timeout: float = 120.0) -> Any:
        """GET, or POST when there is a body. Returns the decoded JSON, or text where it is none.

        Raises:
            PromptRefused: any HTTP error.
            ServerError: the server does not answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with self._http.open(request, timeout=timeout) as answer:
                return _decoded(answer.read())
        except urllib.error.HTTPError as error:
            raise PromptRefused(error.code, _decoded(error.read())) from None
        except OSError as error:
            raise self._error(f"ComfyUI does not answer {path}: {error}") from error

    def _receive(self, deadline: float) -> Event:
        from websocket import WebSocketConnectionClosedException, WebSocketTimeoutException

        while time.monotonic() < deadline:
            self._socket.settimeout(1.0)
            try:
                message = self._socket.recv()
            except WebSocketTimeoutException:
                continue
            except (WebSocketConnectionClosedException, OSError) as error:
                raise self._error(f"ComfyUI closed the connection: {error}") from error
            return _event(message)
        raise self._error("ComfyUI did not finish the prompt in time.")

    def _error(self, message: str) -> ServerError:
        return ServerError(message)


def _event(message: str | bytes) -> Event:
    """Decode a message; the binary ones start with a big-endian event number (ComfyUI's protocol.py)."""
    if isinstance(message, str):
        decoded = json.loads(message)
        return Event(decoded["type"], decoded["data"] or {})
    (number,) = struct.unpack(">I", message[:4])
    if number == 4:  # preview with metadata: its length, the metadata, the picture
        (length,) = struct.unpack(">I", message[4:8])
        return Event("preview", json.loads(message[8 : 8 + length]), message[8 + length :])
    if number == 3:  # text on a node: the length of its id, the id, the text
        (length,) = struct.unpack(">I", message[4:8])
        return Event("text", {"node": message[8 : 8 + length].decode(), "text": message[8 + length :].decode()})
    if number == 1:  # preview: the picture's format, the picture
        return Event("preview", {}, message[8:])
    return Event(f"binary {number}", {}, None)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _reasons(body: Any) -> str:
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict | None):
        return str(body)
    error = body.get("error") or {"message": "refused", "details": ""}
    nodes = [
        f"node {node} ({found['class_type']}): {reason['message']}: {reason['details']}"
        for node, found in (body.get("node_errors") or {}).items()
        for reason in found["errors"]
    ]
    return "\n".join([f"{error['message']}: {error['details']}", *nodes])
