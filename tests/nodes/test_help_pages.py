"""The help pages, English and Chinese: every node has both, they name all that the node has, and fit the side panel."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_schema import PACK, WIDGETS, own_nodes

DOCS = PACK / "web" / "docs"
CHINESE = json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
HIGHEST = 2
"""Columns of a table that the side panel shows at its default width."""
BUTTONS = ("Cancel",)
"""What pages set in italics at the beginning of a line and no code of the pack says."""


def page(node: str, locale: str = "en") -> str:
    path = DOCS / f"{node}.md" if locale == "en" else DOCS / node / f"{locale}.md"
    return path.read_text(encoding="utf-8")


def inputs_of(given: list[Any]) -> Iterator[Any]:
    """Those of a dynamic combo's entries too."""
    for each in given:
        yield each
        for option in getattr(each, "options", None) or ():
            yield from inputs_of(getattr(option, "inputs", ()))


@pytest.mark.parametrize("locale", ["en", "zh"])
@pytest.mark.parametrize("name", WIDGETS)
def test_page_names_every_input_and_output(comfy: Any, name: str, locale: str) -> None:
    schema, text = own_nodes(comfy)[name].define_schema(), page(name, locale)
    titled = schema.display_name if locale == "en" else CHINESE[name]["display_name"]
    assert text.startswith(f"# {titled}\n")
    outputs = [output.display_name or output.id or output.get_io_type() for output in schema.outputs]
    ids = [*(given.id for given in inputs_of(schema.inputs)), *outputs]
    assert [identity for identity in ids if f"`{identity}`" not in text] == []
    if locale == "zh":
        shown = [each["name"] for kind in ("inputs", "outputs") for each in CHINESE[name][kind].values()]
        assert [label for label in shown if f"**{label}**" not in text] == []


@pytest.mark.parametrize("locale", ["en", "zh"])
@pytest.mark.parametrize("name", WIDGETS)
def test_page_fits_the_side_panel(name: str, locale: str) -> None:
    rows = [line for line in page(name, locale).splitlines() if line.startswith("|")]
    assert [row for row in rows if row.count("|") > HIGHEST + 1] == []


@pytest.mark.parametrize("name", WIDGETS)
def test_chinese_page_has_the_sections_and_points_of_the_english_one(name: str) -> None:
    """A fact that one of them gets, the other one lacks else without a word."""
    english, chinese = (page(name, locale) for locale in ("en", "zh"))
    assert _shape(english) == _shape(chinese)


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_errors_that_pages_explain_are_errors_of_the_code(locale: str) -> None:
    """Each is quoted up to what the message says of the case, which is ... there: "The ... input holds a ... model"."""
    said = _said()
    unknown = [
        f"{name}: {quote}"
        for name in WIDGETS
        for quote in re.findall(r"(?m)^- \*([^*\n]+)\*", _errors(page(name, locale)))
        for part in re.split(r"\s*…,?\s*", quote)
        if len(part) > 5 and part not in said and part not in BUTTONS
    ]
    assert unknown == []


def test_every_page_belongs_to_a_node(comfy: Any) -> None:
    assert {file.stem for file in DOCS.glob("*.md")} == own_nodes(comfy).keys()
    assert {file.parent.name for file in DOCS.glob("*/zh.md")} == own_nodes(comfy).keys()


def _shape(text: str) -> list[tuple[str, int]]:
    """Sections and the number of points in each."""
    parts = re.split(r"(?m)^(#+) .*$", text)[1:]
    return [(level, len(re.findall(r"(?m)^ *- ", body))) for level, body in zip(parts[::2], parts[1::2], strict=True)]


def _errors(text: str) -> str:
    return re.split(r"(?m)^## (?:Errors|报错)\n", text, maxsplit=1)[-1] if re.search(r"(?m)^## (Errors|报错)", text) else ""


@cache
def _said() -> str:
    """All literal parts of texts in the pack's code, those of a formatted text each with … for what is put in."""
    found = []
    for folder in ("nodes", "fastvideo_core"):
        for file in sorted((PACK / folder).rglob("*.py")):
            found += list(_texts(file))
    return "\n".join(found)


def _texts(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
