"""A real headless server whose model is in workers: steps that are seen, many prompts, ports, and what is left of it."""

import io
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageChops, ImageStat
from worker_cases import left_of

from tools.bench.growth import MODEL, PROMPT_BYTES, family, grown, node, prompt, server_with_model
from tools.comfy_client import Event
from tools.comfy_server import ComfyServer

pytest.importorskip("ray", reason="workers are processes of Ray, an optional package")

STEPS = 4
HERE = node("UNETLoader", unet_name=MODEL, weight_dtype="default")
SERVICES = ("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/RequestWorkerLease", "ObjectManagerService/Pull",
            "CoreWorkerService/PushTask")  # fmt: skip
"""Of Ray's processes: one thing of each that strangers could ask for."""
EVERYBODY = ("0.0.0.0", "::")


@pytest.fixture(scope="module")
def server(comfyui_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with server_with_model(comfyui_tree, tmp_path_factory.mktemp("workers")) as server:
        yield server


def with_guider(asked: dict[str, Any]) -> dict[str, Any]:
    """The same with core's SamplerCustomAdvanced."""
    inputs = asked["sampler"]["inputs"]
    links = {name: inputs[name] for name in ("model", "positive", "negative")}
    custom = {
        "noise": node("RandomNoise", noise_seed=inputs["seed"]),
        "guider": node("CFGGuider", cfg=inputs["cfg"], **links),
        "solver": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=inputs["model"], scheduler="simple", steps=inputs["steps"], denoise=1.0),
    }
    ends = {name: [name, 0] for name in ("noise", "guider", "sigmas")}
    sampler = node("SamplerCustomAdvanced", **ends, sampler=["solver", 0], latent_image=inputs["latent_image"])
    return {**asked, **custom, "sampler": sampler}


def seen(server: ComfyServer, asked: dict[str, Any]) -> tuple[list[tuple[int, int]], list[Image.Image]]:
    """Progress of the sampler, and previews."""
    events = server.wait(server.post(asked))
    previews = [event.image for event in events if event.type == "preview"]
    return progress(events), [Image.open(io.BytesIO(image or b"")).convert("RGB") for image in previews]


def progress(events: list[Event]) -> list[tuple[int, int]]:
    told = [event.data for event in events if event.type == "progress" and event.data["node"] == "sampler"]
    return [(data["value"], data["max"]) for data in told]


@pytest.mark.parametrize("sampler", ["KSampler", "SamplerCustomAdvanced"])
def test_each_step_has_its_progress_and_its_preview_as_with_the_model_here(server: ComfyServer, sampler: str) -> None:
    way = with_guider if sampler == "SamplerCustomAdvanced" else dict
    steps, previews = seen(server, way(prompt(1, steps=STEPS)))
    _, previews_here = seen(server, way(prompt(1, HERE, steps=STEPS)))
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert len(previews) == len(previews_here) == STEPS
    assert all(ImageStat.Stat(ImageChops.difference(*pair)).mean < [1] * 3 for pair in zip(previews, previews_here, strict=True))


def test_prompts_leave_nothing_behind(server: ComfyServer) -> None:
    """No process keeps half of the texts that these prompts gave to each rank."""
    growth = grown(server, prompts=20, warm=5)
    before, after = growth.before, growth.after
    assert (after.processes, after.threads, after.handles) == (before.processes, before.threads, before.handles)
    assert max(growth.most(), after.shared - before.shared) < growth.prompts * PROMPT_BYTES / 2


def test_no_port_of_ray_answers_without_the_token(server: ComfyServer) -> None:
    """Others are heard by this machine alone: the server's own, and the ranks' to each other."""
    listening = {
        (each.laddr.ip, each.laddr.port): process.name()
        for process in family(server)
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    open_ones = {place: name for place, name in listening.items() if place[0] != "127.0.0.1"}
    assert {name.partition(".")[0] for name in open_ones.values()} >= {"gcs_server", "raylet", "ray::_Host", "python"}
    assert {place: name for place, name in open_ones.items() if not refuses(*place)} == {}


def refuses(host: str, port: int) -> bool:
    """Whether nothing comes of what is asked there without the token, and the token is the reason."""
    place = ("127.0.0.1" if host in EVERYBODY else host), port
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{place[0]}:{port}/", timeout=10)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, HTTPException):  # it speaks HTTP/2 alone
        answers = [called(place, service) for service in SERVICES]
        return any(b"InvalidAuthToken" in answer for answer in answers) and all(b"grpc-status" in answer for answer in answers)
    return False


def called(place: tuple[str, int], service: str) -> bytes:
    """What Ray answers to a call of gRPC (HTTP/2, RFC 9113; headers as literals, RFC 7541) with an empty message."""
    names = {":method": "POST", ":scheme": "http", ":path": f"/ray.rpc.{service}", ":authority": "ray",
             "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    headers = b"".join(b"\0" + text(name) + text(value) for name, value in names.items())
    with socket.create_connection(place, timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers))
        connection.sendall(frame(0, 1, 1, bytes(5)))
        answer = b""
        while b"grpc-status" not in answer and (part := connection.recv(4096)):
            answer += part
        return answer


def text(literal: str) -> bytes:
    return bytes([len(literal)]) + literal.encode()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def test_nothing_is_left_of_a_server_that_is_killed_in_a_step(server: ComfyServer) -> None:
    identity = server.post(prompt(2, steps=1000))
    assert "progress" in (event.type for event in server.events(identity))
    of_server = family(server)
    of_server[0].kill()
    server.stop()
    assert len(of_server) > 3 and left_of(of_server) == []


def test_nothing_is_left_of_a_server_that_is_closed(comfyui_tree: Path, tmp_path: Path) -> None:
    with server_with_model(comfyui_tree, tmp_path) as closed:
        asked = prompt(1)
        asked["workers"]["inputs"] |= {"count": 1, "layout.ulysses": 1}
        closed.wait(closed.post(asked))
        of_server = family(closed)
    assert len(of_server) > 3 and left_of(of_server) == []
