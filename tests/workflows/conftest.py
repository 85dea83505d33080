"""What the shipped and the kept workflow files are held to: the nodes of now, with the files there that the loaders name."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from demo_prompts import FIRST_FRAME, FIRST_FRAME_NAME

from tools.comfy_in_process import ComfyInProcess
from tools.comfy_server import ComfyServer


@pytest.fixture(scope="session")
def object_info(comfy_server: ComfyServer) -> dict[str, Any]:
    return comfy_server.object_info()


@pytest.fixture
def pictures(comfy: ComfyInProcess) -> Iterator[ComfyInProcess]:
    """The host with the workflows' pictures in its input folder."""
    placed = [comfy.input_folder() / name for name in ("example.png", FIRST_FRAME_NAME)]
    for file in placed:
        shutil.copyfile(FIRST_FRAME, file)
    yield comfy
    for file in placed:
        file.unlink()


@pytest.fixture
def outputs_of(pictures: ComfyInProcess) -> Callable[[dict[str, Any], dict[str, Any]], set[str]]:
    """(workflow, its API prompt) -> the classes of the nodes that ComfyUI runs it for, as it validates the prompt once the
    workflow's files are there."""

    def validated(workflow: dict[str, Any], prompt: dict[str, Any]) -> set[str]:
        models = [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]
        placed = [pictures.model_folder(model["directory"]) / model["name"] for model in models]
        for file in placed:
            file.touch()  # only names are validated
        try:
            return {prompt[output]["class_type"] for output in pictures.validate(prompt)}
        finally:
            for file in placed:
                file.unlink()

    return validated
