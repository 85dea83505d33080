"""locales/zh against the schema of the nodes: all that people read has a text there, and nothing else has."""

import json
import re
from typing import Any

import pytest
from test_help_pages import inputs_of
from test_schema import PACK, own_nodes

LOCALE = PACK / "locales" / "zh"
NODES, MAIN = (json.loads((LOCALE / f"{name}.json").read_text(encoding="utf-8")) for name in ("nodeDefs", "main"))
FOLDER = "fastvideo-nodes"
"""Of the pack in custom_nodes, as ComfyUI's registry names it."""
SYNTAX = re.compile(r"[@${}|%]")
"""What the page's message compiler reads as syntax."""


def key(name: str) -> str:
    return name.replace(".", "_")


def names_of(given: list[Any], before: str = "") -> set[str]:
    """Of inputs as the page has them: those of a dynamic combo's entries behind its own name."""
    found = set()
    for each in given:
        found.add(key(before + each.id))
        for option in getattr(each, "options", None) or ():
            found |= names_of(getattr(option, "inputs", []), f"{before}{each.id}.")
    return found


def test_every_node_has_its_texts_and_none_is_left_over(comfy: Any) -> None:
    assert NODES.keys() == own_nodes(comfy).keys()
    for name, node in own_nodes(comfy).items():
        schema, texts = node.define_schema(), NODES[name]
        assert texts.keys() == {"display_name", "description", "inputs", "outputs"}, name
        assert texts["inputs"].keys() == names_of(schema.inputs), name
        assert list(texts["outputs"]) == [str(index) for index in range(len(schema.outputs))], name
        told = [*texts["inputs"].values(), *texts["outputs"].values()]
        assert all(each.keys() == {"name", "tooltip"} and all(each.values()) for each in told), name
        assert texts["display_name"].startswith("FastVideo ") and texts["description"], name


def test_inputs_of_one_node_are_called_differently(comfy: Any) -> None:
    for name, node in own_nodes(comfy).items():
        labels = [NODES[name]["inputs"][given]["name"] for given in names_of(node.define_schema().inputs)]
        assert len(set(labels)) == len(labels), name


def test_categories_sockets_and_the_pack_have_theirs(comfy: Any) -> None:
    schemas = [node.define_schema() for node in own_nodes(comfy).values()]
    assert MAIN["nodeCategories"].keys() == {part for schema in schemas for part in schema.category.split("/")}
    sockets = {each.get_io_type() for schema in schemas for each in [*inputs_of(schema.inputs), *schema.outputs]}
    assert MAIN["dataTypes"].keys() == {socket for socket in sockets if socket.startswith("FASTVIDEO_")}
    assert MAIN["templateWorkflows"].keys() == {"category"}  # the page shows templates of packs by the names of their files
    assert MAIN["templateWorkflows"]["category"].keys() == {FOLDER}


@pytest.mark.parametrize("file", ["nodeDefs", "main"])
def test_texts_are_chinese_and_without_the_syntax_of_messages(file: str) -> None:
    for path, text in texts_in(NODES if file == "nodeDefs" else MAIN):
        assert not SYNTAX.search(text), path
        assert re.search(r"[一-鿿]", text) or text in KEPT, path


KEPT = {
    "FastVideo", "FastVideo MagCache", "FastVideo DBCache", "CLIP", "VAE", "Latent", "shift", "Sigmas", "JSON",
}  # fmt: skip
"""Names that the field writes in English in Chinese texts too."""


def texts_in(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(path, value)]
    return [found for name, inner in value.items() for found in texts_in(inner, f"{path}/{name}")]


def test_readme_in_chinese_names_every_node() -> None:
    page = (PACK / "README.zh.md").read_text(encoding="utf-8")
    assert [texts["display_name"] for texts in NODES.values() if texts["display_name"] not in page] == []


@pytest.mark.parametrize(("script", "word"), [("node_text", "EMPTY"), ("cancel_video", "CANCEL")])
def test_scripts_have_a_chinese_text_for_what_they_write_on_nodes(script: str, word: str) -> None:
    text = (PACK / "web" / f"{script}.js").read_text(encoding="utf-8")
    assert re.search(word + r' = \{ en: "[^"]+", zh: "[^"]*[一-鿿][^"]*" \}', text)
    assert f'{word}[app.extensionManager.setting.get("Comfy.Locale")] ?? {word}.en' in text
