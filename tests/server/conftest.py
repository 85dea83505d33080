"""What the demo prompts find in the server's input folder."""

import shutil

import pytest
from demo_prompts import FIRST_FRAME, FIRST_FRAME_NAME

from tools.comfy_server import ComfyServer


@pytest.fixture
def server(comfy_server: ComfyServer) -> ComfyServer:
    """The session's server, with the demo's first frame in its input folder."""
    shutil.copyfile(FIRST_FRAME, comfy_server.input_folder() / FIRST_FRAME_NAME)
    return comfy_server
