"""The pack under ComfyUI's real loader, in this process."""

import sys
from pathlib import Path

import pytest

from tools.comfy_in_process import ComfyInProcess, PromptFailed, PromptRefused

PACK = Path(__file__).resolve().parents[2]

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 255}}


def test_engine_is_registered_once_under_its_canonical_name(comfy: ComfyInProcess) -> None:
    copies = [name for name in sys.modules if name.endswith("fastvideo_core")]
    assert copies == ["fastvideo_core"]
    assert Path(str(sys.modules["fastvideo_core"].__file__)).resolve() == PACK / "fastvideo_core" / "__init__.py"


def test_second_copy_of_the_pack_is_refused_with_both_places_named(comfy: ComfyInProcess, tmp_path: Path) -> None:
    copy = tmp_path / "other-copy"
    (copy / "fastvideo_core").mkdir(parents=True)
    (copy / "__init__.py").write_bytes((PACK / "__init__.py").read_bytes())
    with pytest.raises(ImportError, match=f"needs its own engine in {copy}.* already imported from {PACK}") as error:
        comfy.load_pack(copy)
    assert "Keep one copy" in str(error.value)


def test_comfyui_keeps_its_own_nodes_module(comfy: ComfyInProcess) -> None:
    assert Path(str(sys.modules["nodes"].__file__)).resolve() == comfy.tree / "nodes.py"


def test_captured_socket_is_the_object_that_the_node_returned(comfy: ComfyInProcess) -> None:
    run = comfy.run({"1": IMAGE}, capture={"picture": ("1", 0)})
    assert run.captured["picture"].shape == (1, 8, 16, 3)
    assert not run.interrupted


def test_refused_prompt_names_the_node_and_the_reason(comfy: ComfyInProcess) -> None:
    wrong = {**IMAGE, "inputs": {**IMAGE["inputs"], "width": 0}}
    with pytest.raises(PromptRefused, match=r"node 1 \(EmptyImage\): Value 0 smaller than min of 1: width"):
        comfy.run({"1": wrong}, capture={"picture": ("1", 0)})


def test_error_of_a_node_comes_out_as_an_exception(comfy: ComfyInProcess) -> None:
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../outside"}}
    with pytest.raises(PromptFailed, match=r"SaveImage: .*outside the output folder"):
        comfy.run({"1": IMAGE, "2": save})
