"""The rules of ARCHITECTURE.md that a program can check, over the source itself: nothing is imported here."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "fastvideo_core"
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview", "nodes", "server"}
ACCELERATORS = ("step_cache", "attention", "parallel")
LEAVES = (
    "checks", "json_object", "schedule", "solvers", "guidance", "conditioning", "request", "errors", "report",
    "wan.variants", "whole_file", "words",
)  # fmt: skip
MEASURED_ONCE = {f"{CORE}/wan/linear.py": ["cache"]}
"""Facts of the machine, which the process keeps; see ARCHITECTURE.md. Two networks of one shape compute alike by them."""
SCHEMA = {"define_schema", "Schema"}
CONTAINERS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}
# Written in two parts: this file is tracked too.
REGISTRIES = re.compile("pypi" r"\.org|python" r"hosted\.org|registry\.npm" r"js\.org")
MACHINE_PATHS = re.compile(r"(?<![\w.\-}~])/(?:work|root|home|opt|tmp)/\w")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


PRODUCT = tracked("__init__.py", "nodes/*.py", f"{CORE}/*.py")
EVERY_PYTHON_FILE = tracked("*.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield (absolute module, name or "", was it relative) of every import, at whatever depth it stands."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((module, alias.name, node.level > 0) for alias in node.names)


def exported(module: str) -> set[str]:
    """The names in `__all__` of a package; nothing for a plain module."""
    init = ROOT.joinpath(*module.split("."), "__init__.py")
    body = ast.parse(init.read_text()).body if init.is_file() else []
    lists = [node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    return {name for value in lists for name in ast.literal_eval(value)}


def within(module: str, name: str, area: str) -> bool:
    return f"{module}.{name}.".startswith(f"{CORE}.{area}.")


def parametrize(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


@parametrize(tracked("nodes/*.py"))
def test_nodes_use_public_names_of_the_engine_only(path: Path) -> None:
    used = [(module, name) for module, name, _ in imports(path) if module.split(".")[0] == CORE]
    assert [f"{module}.{name}" for module, name in used if name not in exported(module)] == []


@parametrize(tracked(f"{CORE}/*.py"))
def test_engine_is_host_free_and_relative_inside(path: Path) -> None:
    absolute = [module for module, _, relative in imports(path) if not relative]
    assert [module for module in absolute if module.split(".")[0] in {*HOST, CORE}] == []


@pytest.mark.parametrize("area", ACCELERATORS)
def test_accelerators_do_not_know_each_other(area: str) -> None:
    others = [other for other in ACCELERATORS if other != area]
    found = [(name_of(path), m, n) for path in tracked(f"{CORE}/{area}/*.py") for m, n, _ in imports(path)]
    assert [entry for entry in found if any(within(*entry[1:], other) for other in others)] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_need_torch_and_the_standard_library_only(leaf: str) -> None:
    file = f"{CORE}/{leaf.replace('.', '/')}"
    paths = tracked(f"{file}.py", f"{file}/*.py")
    assert paths
    used = {module for path in paths for module, _, _ in imports(path)}
    known = {module for module in used if any(f"{module}.".startswith(f"{CORE}.{other}.") for other in LEAVES)}
    assert {module for module in used - known if module.split(".")[0] not in {"torch", *sys.stdlib_module_names}} == set()


def imported(area: str) -> dict[str, set[str]]:
    """Module -> the modules of its area that it imports. An absolute `nodes` is ComfyUI's nodes.py."""
    paths = {module_of(path): path for path in tracked(f"{area}/*.py")}
    graph: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        for found, name, relative in imports(path):
            used = f"{found}.{name}" if f"{found}.{name}" in paths else found
            if used in paths and (relative or area != "nodes"):
                graph[module].add(used)
    return graph


def circles(graph: Mapping[str, Collection[str]]) -> list[tuple[str, ...]]:
    """Modules that import each other, over however many others: those that a module reaches and that reach it."""
    reached = {module: reached_from(module, graph) for module in graph}
    return sorted({tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]})


def reached_from(module: str, graph: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[module])
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += graph[one]
    return found


def test_circles_are_found_over_any_number_of_modules() -> None:
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": [], "f": ["g", "a"], "g": ["f"]}
    assert circles(graph) == [("a", "b", "c"), ("f", "g")]


@pytest.mark.parametrize("area", [CORE, "nodes", "tools"])
def test_no_modules_import_each_other_not_even_for_types(area: str) -> None:
    graph = imported(area)
    assert any(graph.values())
    assert circles(graph) == []


def test_native_nodes_know_neither_the_graph_s_nodes_nor_schemas() -> None:
    paths = tracked("nodes/native/*.py")
    used = [(name_of(path), f"{module}.{name}") for path in paths for module, name, relative in imports(path) if relative]
    assert [entry for entry in used if not f"{entry[1]}.".startswith("nodes.native.")] == []
    trees = {name_of(path): ast.parse(path.read_text()) for path in paths}
    schemas = [(file, words_of(node) & SCHEMA) for file, tree in trees.items() for node in ast.walk(tree)]
    assert [entry for entry in schemas if entry[1]] == []


def words_of(node: ast.AST) -> set[str]:
    """What a node of a tree is called."""
    return {word for field in ("id", "attr", "name") if isinstance(word := getattr(node, field, None), str)}


def test_rules_reach_into_every_folder() -> None:
    assert {name_of(path) for path in PRODUCT} >= {"__init__.py", "nodes/__init__.py", f"{CORE}/wan/loading/lora.py"}


@parametrize(PRODUCT)
def test_no_state_outside_the_three_homes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)] == []
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.alias)]
    caches = [ast.unparse(node).removeprefix("functools.") for node in names]
    assert [name for name in caches if name in ("cache", "lru_cache")] == MEASURED_ONCE.get(name_of(path), [])
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and is_container(node.value)]
    targets = [ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) for node in assigned]
    assert [name for name in targets if name != "__all__" and not name.isupper()] == []


def is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in CONTAINERS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


@parametrize(EVERY_PYTHON_FILE)
def test_no_error_is_swallowed_unnamed(path: Path) -> None:
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    blanket = [node for node in handlers if node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")]
    assert [node.lineno for node in blanket if not isinstance(node.body[-1], ast.Raise)] == []


@parametrize(EVERY_PYTHON_FILE)
def test_files_have_300_lines_and_functions_50_at_most(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if lines_of_code(node) > 50] == []


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = function.body[0] if ast.get_docstring(function) else None
    return (function.end_lineno or 0) - function.lineno + 1 - (len(ast.unparse(docstring).splitlines()) if docstring else 0)


def test_every_node_id_starts_with_fastvideo() -> None:
    trees = [ast.parse(path.read_text()) for path in tracked("nodes/*.py")]
    words = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    ids = [ast.unparse(word.value) for word in words if word.arg == "node_id"]
    assert ids
    assert [name for name in ids if not name.startswith("'FastVideo")] == []


def test_no_tracked_file_names_a_registry_or_a_path_of_a_machine() -> None:
    found = []
    for path in tracked():
        content = path.read_bytes()
        text = "" if b"\0" in content else content.decode(errors="replace")
        found += [(name_of(path), match[0]) for pattern in (REGISTRIES, MACHINE_PATHS) for match in pattern.finditer(text)]
    assert found == []
