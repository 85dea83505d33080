"""The subgraph blueprints: what the code makes, whole, and as prompts the workflows that they are parts of."""

import json
from typing import Any

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from demo_prompts import demo_prompt

from tools.workflows.blueprints import BLUEPRINTS, blueprints
from tools.workflows.files import PACK, blueprint_file, text, versions
from tools.workflows.subgraph import FROM, TO

Prompt = dict[str, Any]


def blueprint(name: str) -> dict[str, Any]:
    return json.loads(blueprint_file(name).read_text(encoding="utf-8"))


def expanded(name: str, object_info: dict[str, Any]) -> Prompt:
    """The prompt of a canvas with the blueprint alone, under the ids that its nodes have inside."""
    prompt = convert_ui_to_api(blueprint(name), object_info)
    bare = {node: {**entry["inputs"]} for node, entry in prompt.items()}
    for inputs in bare.values():
        inputs |= {key: [value[0].removeprefix("1:"), value[1]] for key, value in inputs.items() if isinstance(value, list)}
    return {node.removeprefix("1:"): {"class_type": prompt[node]["class_type"], "inputs": bare[node]} for node in bare}


def test_files_are_what_the_code_makes_and_there_are_no_others(object_info: dict[str, Any]) -> None:
    made = blueprints(object_info, versions())
    assert set((PACK / "subgraphs").iterdir()) == set(map(blueprint_file, made))
    for name, content in made.items():
        assert blueprint_file(name).read_text(encoding="utf-8") == text(content), f"{name}: run python -m tools.workflows"


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_file_is_one_node_of_a_subgraph_with_words_to_find_it(name: str) -> None:
    content = blueprint(name)
    (definition,) = content["definitions"]["subgraphs"]
    (node,) = content["nodes"]
    assert (node["type"], definition["name"], definition["category"]) == (definition["id"], name, "FastVideo")
    assert content["extra"]["BlueprintDescription"] and len(set(content["extra"]["BlueprintSearchAliases"])) > 3
    assert [each["name"] for each in node["outputs"]] == [each["name"] for each in definition["outputs"]]
    assert {each["name"] for each in node["inputs"]} == {each["name"] for each in definition["inputs"]}
    assert len(node["widgets_values"]) == len(node["properties"]["proxyWidgets"])


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_every_link_joins_sockets_of_one_type_and_both_ends_know_it(name: str) -> None:
    (definition,) = blueprint(name)["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in definition["nodes"]}
    for link in definition["links"]:
        inside, given = nodes.get(link["origin_id"]), link["origin_id"] == FROM
        source = definition["inputs"][link["origin_slot"]] if given else inside["outputs"][link["origin_slot"]]
        taken = link["target_id"] == TO
        target = (definition["outputs"] if taken else nodes[link["target_id"]]["inputs"])[link["target_slot"]]
        assert source["type"] == target["type"] == link["type"]
        assert link["id"] in source["linkIds" if given else "links"]
        assert link["id"] in target["linkIds"] if taken else link["id"] == target["link"]
    known = {link["id"] for link in definition["links"]}
    ends = [slot["link"] for node in definition["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    ends += [link for node in definition["nodes"] for slot in node["outputs"] for link in slot["links"] or ()]
    assert set(ends) <= known


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_its_prompt_is_that_part_of_the_workflow(object_info: dict[str, Any], name: str) -> None:
    asked, whole = BLUEPRINTS[name], demo_prompt(BLUEPRINTS[name].workflow)
    part = {node: entry for node, entry in whole.items() if entry["class_type"] not in asked.dropped}
    changed = {port.name: asked.values[label] for label, port in asked.inputs.items() if label in asked.values}
    for entry in part.values():
        given = {key: value for key, value in entry["inputs"].items() if not isinstance(value, list) or value[0] in part}
        entry["inputs"] = given | {key: value for key, value in changed.items() if key in given}
        entry.pop("_meta")
    assert expanded(name, object_info) == part
