"""Every name of core's that the pack uses exists in each pinned ComfyUI, and its calls fit. Nothing is imported here.

What other than a name of a module leads to an object (arguments, results, what stands on `self`) is not followed.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_architecture import HOST, PRODUCT

from tools.runtime.pins import RELEASES, ComfyUI

DOTTED = re.compile(r"[\w.]+")
"""A name, and not what stands on the result of a call."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def uses(path: Path) -> list[tuple[int, str, ast.Call | None]]:
    """(line, dotted name, the call of it if it is one) of each name that begins at an absolute import of the host's."""
    return list(_uses(path))


def _uses(path: Path) -> Iterator[tuple[int, str, ast.Call | None]]:
    tree = parsed(path)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            hosts = [alias.name for alias in node.names if alias.name.split(".")[0] in HOST]
            names.update((name.split(".")[0],) * 2 for name in hosts)
            yield from ((node.lineno, name, None) for name in hosts)
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] in HOST:
            names.update((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
            yield from ((node.lineno, f"{node.module}.{alias.name}", None) for alias in node.names)
    called = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        written = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        first, *rest = written.split(".") if DOTTED.fullmatch(written) else [""]
        if first in names and (rest or node in called):
            yield node.lineno, ".".join([names[first], *rest]), called.get(node)


@cache
def resolved(tree: Path, name: str) -> ast.AST | Path | None:
    """What a dotted name is in a ComfyUI: a file, a definition, another statement that makes it; None where there is none."""
    folder, parts = tree, name.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    file = folder / f"{parts[0]}.py" if parts else folder
    if parts and file.is_file():
        parts.pop(0)
    else:
        file = folder / "__init__.py"
    if not parts or parts == ["__file__"]:
        return file if file.exists() or folder.is_dir() else None
    return member(tree, file, parsed(file).body, parts) if file.is_file() else None


def member(tree: Path, file: Path, body: list[ast.stmt], parts: list[str]) -> ast.AST | Path | None:
    """What the statements of `body` make under the first of the names, and so on inside of it."""
    made = (found for statement in body for found in made_by(statement, parts[0]))
    return next(filter(None, (followed(tree, file, each, parts) for each in made)), None)


def followed(tree: Path, file: Path, made: ast.AST, parts: list[str]) -> ast.AST | Path | None:
    """The last of the names, where `made` makes the first."""
    if isinstance(made, ast.ImportFrom):
        source = next(alias.name for alias in made.names if alias.name == "*" or parts[0] in (alias.asname, alias.name))
        above = file.relative_to(tree).parts[: -made.level] if made.level else ()
        module = ".".join([*above, *([made.module] if made.module else [])])
        wanted = parts if source == "*" else [source, *parts[1:]]
        return resolved(tree, ".".join([module, *wanted])) if module.split(".")[0] in HOST else made
    if len(parts) == 1 or not isinstance(made, ast.ClassDef):
        return made  # of other objects nothing is known
    bases = (member(tree, file, parsed(file).body, [*ast.unparse(base).split("."), *parts[1:]]) for base in made.bases)
    return member(tree, file, made.body, parts[1:]) or next(filter(None, bases), None)


def made_by(statement: ast.stmt, name: str) -> Iterator[ast.AST]:
    """The nodes in it, not those in other functions and classes, that make a name."""
    if isinstance(statement, Definition):
        if statement.name == name:
            yield statement
        return
    if isinstance(statement, ast.Import | ast.ImportFrom):
        made = [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    else:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        made = [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]
    if name in made or "*" in made:
        yield statement
    for child in ast.iter_child_nodes(statement):
        for inner in child.body if isinstance(child, ast.ExceptHandler) else [child]:
            if isinstance(inner, ast.stmt):
                yield from made_by(inner, name)


def misfit(found: ast.AST | Path, call: ast.Call) -> str:
    """Why a call does not fit what is called; empty where it does, or where that cannot be told."""
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) or found.decorator_list:
        return ""
    given, named = found.args, {word.arg for word in call.keywords if word.arg}
    places = [each.arg for each in (*given.posonlyargs, *given.args)]
    unknown = named - {*places, *(each.arg for each in given.kwonlyargs)}
    if unknown and not given.kwarg:
        return f"has no {', '.join(sorted(unknown))}"
    if any(isinstance(each, ast.Starred) for each in call.args) or any(word.arg is None for word in call.keywords):
        return ""
    if len(call.args) > len(places) and not given.vararg:
        return f"takes {len(places)}"
    required = places[len(call.args) : len(places) - len(given.defaults)]
    missing = [name for name in required if name not in named]
    return f"needs {', '.join(missing)}" if missing else ""


def faults(tree: Path, path: Path) -> list[str]:
    """What the file uses of the ComfyUI in `tree`, and what is not there or does not fit."""
    found = [(line, name, call, resolved(tree, name)) for line, name, call in uses(path)]
    missing = [f"{path.name}:{line} {name} does not exist" for line, name, _, made in found if made is None]
    calls = [(line, name, misfit(made, call)) for line, name, call, made in found if made is not None and call is not None]
    return missing + [f"{path.name}:{line} {name} {why}" for line, name, why in calls if why]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_every_name_of_core_exists_there_and_its_calls_fit(release: ComfyUI) -> None:
    assert [fault for path in PRODUCT for fault in faults(release.tree, path)] == []
    assert sum(len(uses(path)) for path in PRODUCT) > 300


CORE = {
    "__init__.py": "",
    "latest.py": "from .inner import *\nfrom .inner import Base as Other\n",
    "inner.py": """
def run(a, b=1, *, c=2): ...
class Base:
    def old(self): ...
class Kind(Base):
    limit: int = 3
try:
    import fast
except ImportError:
    slow = True
if slow:
    chosen = run
""",
}
PACK = """
import comfy.inner
from comfy.latest import Kind, Other, run
run(1, c=3), comfy.inner.run(1, 2), Kind.old, Kind.limit.real, Other.old, comfy.inner.slow, comfy.inner.chosen, comfy.inner.fast
comfy.inner.gone
Kind.new
Kind().newer
run()
run(1, d=2)
run(1, 2, 3)
"""


def test_what_is_gone_or_called_in_another_way_is_found(tmp_path: Path) -> None:
    (tmp_path / "comfy").mkdir()
    for name, text in CORE.items():
        (tmp_path / "comfy" / name).write_text(text)
    pack = tmp_path / "pack.py"
    pack.write_text(PACK)
    assert faults(tmp_path, pack) == [
        "pack.py:5 comfy.inner.gone does not exist",
        "pack.py:6 comfy.latest.Kind.new does not exist",
        "pack.py:8 comfy.latest.run needs a",
        "pack.py:9 comfy.latest.run has no d",
        "pack.py:10 comfy.latest.run takes 2",
    ]
