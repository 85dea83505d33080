"""What the server hands to the browser: workflow templates, their thumbnails, help pages, the script."""

import json

import pytest
from demo_prompts import PACK

from tools.comfy_server import ComfyServer

NAME = "fastvideo-nodes"
WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def test_template_browser_lists_every_workflow_and_nothing_else(comfy_server: ComfyServer) -> None:
    assert sorted(comfy_server.request("/workflow_templates")[NAME]) == WORKFLOWS


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_template_and_its_thumbnail_are_served(comfy_server: ComfyServer, workflow: str) -> None:
    served = comfy_server.request(f"/api/workflow_templates/{NAME}/{workflow}.json")
    assert served == json.loads((PACK / "workflows" / f"{workflow}.json").read_text(encoding="utf-8"))
    assert comfy_server.request(f"/api/workflow_templates/{NAME}/{workflow}.jpg")


def test_help_page_of_every_node_is_served_in_both_languages(comfy_server: ComfyServer) -> None:
    nodes = {name: node for name, node in comfy_server.object_info().items() if node["python_module"] == f"custom_nodes.{NAME}"}
    chinese = comfy_server.request("/i18n")["zh"]["nodeDefs"]
    assert nodes
    for name, node in nodes.items():
        pages = {"": node["display_name"], "/zh": chinese[name]["display_name"]}
        for locale, title in pages.items():
            assert comfy_server.request(f"/extensions/{NAME}/docs/{name}{locale}.md").startswith(f"# {title}\n")


def test_each_script_is_served_once(comfy_server: ComfyServer) -> None:
    scripts = {"cancel_video.js": "FastVideo.CancelVideo", "node_text.js": "FastVideo.NodeText"}
    ours = [path for path in comfy_server.request("/extensions") if NAME in path]
    assert sorted(ours) == [f"/extensions/{NAME}/{script}" for script in scripts]
    assert all(name in comfy_server.request(f"/extensions/{NAME}/{script}") for script, name in scripts.items())


def test_blueprints_are_served_with_the_pack_s_name(comfy_server: ComfyServer) -> None:
    served = [entry for entry in comfy_server.request("/global_subgraphs").values() if entry["source"] == "custom_node"]
    assert {entry["name"] for entry in served} == {path.stem for path in (PACK / "subgraphs").glob("*.json")}
    assert all(NAME in entry["info"]["node_pack"] for entry in served)
