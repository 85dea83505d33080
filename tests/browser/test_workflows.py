"""The shipped workflows in ComfyUI's own page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comfy_page import ComfyPage
from demo_prompts import PACK

from tools.workflows.blueprints import BLUEPRINTS
from tools.workflows.files import blueprint_file, prompt_file, template_file

WORKFLOWS = sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))
READABLE = 0.57
"""The scale below which the page hides the text of nodes."""
SAMPLER, REPORT = "FastVideoSampler", "FastVideoRunReport"


def shipped(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_every_workflow_opens_readable_and_posts_the_shipped_prompt(page: ComfyPage) -> None:
    page.resize(1536, 864)  # a larger screen of the same shape shows more of the same
    for name in WORKFLOWS:
        page.load_template(name)
        assert page.node_types() == [node["type"] for node in shipped(template_file(name))["nodes"]]
        assert page.missing_types() == []
        assert page.prompt() == shipped(prompt_file(name))
        assert page.scale() >= READABLE, name


def test_workflows_are_found_by_the_name_of_the_pack_and_by_their_own(page: ComfyPage) -> None:
    assert page.found_templates("FastVideo")
    assert page.found_templates("FastVideo Wan 2.2") >= {"FastVideo_wan2.2_t2v_A14B", "FastVideo_wan2.2_i2v_A14B_4_steps"}
    assert page.found_templates("wan2.1_i2v_14B") >= {"FastVideo_wan2.1_i2v_14B"}  # what the first version called it


def test_the_template_browser_opens_the_same(page: ComfyPage) -> None:
    page.resize(1920, 1080)
    page.open_template("wan2.2_i2v_A14B")
    assert page.prompt() == shipped(prompt_file("wan2.2_i2v_A14B"))
    assert page.scale() >= READABLE


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas nodes", "Vue nodes"])
def test_demo_runs_from_the_run_button_and_shows_video_and_report(page: ComfyPage, vue_nodes: bool) -> None:
    page.show_vue_nodes(vue_nodes)
    page.open_template("demo_t2v")
    page.set_widget(SAMPLER, "steps", 3)
    page.set_widget(SAMPLER, "seed", 100 + vue_nodes)
    assert page.report() == ""
    page.run()
    assert page.video_size() == (64, 64)
    assert f"3 steps euler, latents 1x16x5x8x8, seed {100 + vue_nodes}" in page.report()


def test_comparison_runs_from_the_run_button_and_shows_its_table_and_both_reports(page: ComfyPage) -> None:
    page.open_template("demo_compare")
    page.run()
    assert page.video_size() == (128, 80)  # below a strip of names
    table, *reports = sorted(page.texts(), key=lambda text: "SSIM" not in text)
    assert "SSIM" in table
    assert sorted("MagCache: " in report for report in reports) == [False, True]


def test_report_is_still_there_after_a_look_at_another_workflow(page: ComfyPage) -> None:
    page.open_template("demo_t2v")
    page.set_widget(SAMPLER, "steps", 2)
    page.run()
    seen = page.report()
    assert "2 steps euler" in seen
    page.open_template("demo_i2v")
    assert page.report() == ""
    page.page.get_by_role("button", name=template_file("demo_t2v").stem).click()
    page.page.wait_for_function("document.querySelector('textarea[readonly]')?.value")
    assert page.report() == seen


def test_report_is_no_part_of_the_saved_workflow_nor_of_the_prompt(page: ComfyPage) -> None:
    page.open_template("demo_t2v")
    page.set_widget(SAMPLER, "steps", 2)
    page.run()
    (saved,) = (node for node in page.saved()["nodes"] if node["type"] == REPORT)
    assert saved.get("widgets_values", []) == []
    (posted,) = (node["inputs"] for node in page.prompt().values() if node["class_type"] == REPORT)
    assert posted.keys() == {"report", "images"}


def test_fresh_nodes_have_room_for_what_they_show_and_blueprints_for_their_inputs(page: ComfyPage) -> None:
    for kind, high in (("FastVideoRunReport", 600), ("FastVideoCompare", 300), ("FastVideoBatch", 700)):
        width, height = page.fresh_size(kind)
        assert width >= 440 and height >= high, kind
    for name in BLUEPRINTS:
        page.load(shipped(blueprint_file(name)))
        (definition,) = shipped(blueprint_file(name))["definitions"]["subgraphs"]
        assert sorted(entry["class_type"] for entry in page.prompt().values()) == sorted(
            node["type"] for node in definition["nodes"]
        )


@pytest.mark.parametrize("vue_nodes", [False, True], ids=["canvas nodes", "Vue nodes"])
def test_each_video_of_a_batch_has_a_button_that_cancels_it_until_it_is_done(page: ComfyPage, vue_nodes: bool) -> None:
    buttons = page.page.get_by_role("button", name=re.compile(r"Cancel \d"))
    page.show_vue_nodes(vue_nodes)
    page.load_prompt(batch_of(steps=1000 - vue_nodes))
    page.start()
    for video in (2, 1):
        page.page.get_by_role("button", name=f"Cancel {video}").click()
    page.page.wait_for_function("window.failed")
    assert page.page.evaluate("window.failed").startswith("It was cancelled before its end.")
    assert buttons.count() == 0
    page.load_prompt(batch_of(steps=1 + vue_nodes))
    page.run()
    assert page.report().splitlines()[0] == "2 videos" and buttons.count() == 0


def batch_of(steps: int) -> dict[str, Any]:
    """API prompt of two videos of the demo model."""
    inputs = {
        "phases": ["2", 0], "clip": ["1", 2], "vae": ["1", 3], "prompts": "a red circle\na blue square", "negative": "",
        "seeds": "1", "width": 32, "height": 32, "length": 5, "steps": steps, "shift": 5.0, "solver": "euler",
        "guidance_mode": "auto", "gate": 1.0, "guidance_rescale": 0.0, "filename_prefix": "batch/x", "fps": 8.0,
    }  # fmt: skip
    return {
        "1": {"class_type": "FastVideoLoadDemoWan", "inputs": {"model": "t2v", "lora_strength": 0.0}},
        "2": {"class_type": "FastVideoPhase", "inputs": {"model": ["1", 0], "until": 0.0, "guidance_scale": 3.0}},
        "3": {"class_type": "FastVideoBatch", "inputs": inputs},
    }


def test_help_panel_shows_the_page_of_the_node(page: ComfyPage) -> None:
    page.open_template("demo_t2v")
    page.open_help(SAMPLER)
    page.page.get_by_text("Settings of Wan's authors").wait_for()


def test_page_in_chinese_shows_names_tooltips_help_and_notes_in_it(page: ComfyPage) -> None:
    nodes, names = (json.loads((PACK / "locales" / "zh" / f"{file}.json").read_text("utf-8")) for file in ("nodeDefs", "main"))
    page.show_vue_nodes(False)  # whose tooltips wait where the mouse is
    page.show_locale("zh")
    try:
        page.open_template("demo_compare", pack=names["templateWorkflows"]["category"]["fastvideo-nodes"])
        assert page.title("FastVideoMagCache") == nodes["FastVideoMagCache"]["display_name"]
        steps = nodes[SAMPLER]["inputs"]["steps"]
        assert (page.label(SAMPLER, "steps"), page.hovered(SAMPLER, "steps")) == (steps["name"], steps["tooltip"])
        page.open_help(SAMPLER)
        page.page.get_by_text("Wan 官方参数").wait_for()
        page.page.get_by_text("对比什么").wait_for()
    finally:
        page.show_locale("en")
