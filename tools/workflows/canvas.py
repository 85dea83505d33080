"""A ComfyUI canvas in code: nodes by name, links by socket, columns that lay themselves out.

The sizes are those of LiteGraph, in pixels: a slot row is 20 high, a widget 24, a title 30 and drawn above a node's position.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TITLE, SLOT, WIDGET, BOTTOM = 30, 20, 24, 8
GAP, GROUP_MARGIN, COLUMN_GAP = 24, 16, 56
GROUP_BOTTOM = 36  # Vue nodes of a pack are a line higher: they say which pack they come from
GROUP_TITLE = 44
TOP = 100
ACTIVE, BYPASSED = 0, 4
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
OPTIONAL_SHAPE = 7  # LiteGraph draws an optional socket hollow

ObjectInfo = Mapping[str, Any]
Group = tuple[str, Sequence["Node"]]
"""Nodes one below the other, in a frame with a title."""


@dataclass(frozen=True)
class Model:
    """A file that a loader names: ComfyUI offers to download it from `url` into models/`directory`. size: in GB, 10^9 bytes."""

    name: str
    url: str
    directory: str
    size: float

    def json(self) -> dict[str, str]:
        return {"name": self.name, "url": self.url, "directory": self.directory}


@dataclass(frozen=True)
class Socket:
    node: "Node"
    slot: int
    type: str


@dataclass
class Input:
    name: str
    type: str
    options: Mapping[str, Any]
    optional: bool

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    def default(self) -> Any:
        if "default" in self.options:
            return self.options["default"]
        if self.type == "STRING":
            return ""
        first = self.options["options"][0]
        return first["key"] if isinstance(first, dict) else first

    def values(self, value: Any) -> list[Any]:
        """What the canvas stores for the widget, with the companion widgets that the frontend adds to some."""
        if "control_after_generate" in self.options:
            return [value, "fixed"]
        return [value, "image"] if self.options.get("image_upload") else [value]


class Node:
    """One node of a canvas. `node["latent"]` is the output socket of that name."""

    def __init__(self, identity: int, kind: str, definition: Mapping[str, Any], height: int) -> None:
        self.identity, self.kind, self.definition = identity, kind, definition
        self.inputs = [*_inputs(definition, "required"), *_inputs(definition, "optional")]
        self.sources: dict[str, Socket] = {}
        self.widgets: dict[str, Any] = {}
        self.models: Sequence[Model] = ()
        self.mode, self.title = ACTIVE, ""
        self.width, self.height = 0, max(height, self._smallest_height())
        self.position = (0, 0)

    def __getitem__(self, output: str) -> Socket:
        slot = self.definition["output_name"].index(output)
        return Socket(self, slot, self.definition["output"][slot])

    def set(self, inputs: Mapping[str, Any]) -> None:
        """Connects sockets and fills in widgets; what is not given keeps its default.

        Raises:
            ValueError: an input that the node does not have, or a required one that is missing.
        """
        unknown = inputs.keys() - {known.name for known in self.inputs}
        if unknown:
            raise ValueError(f"{self.kind} has no input {', '.join(sorted(unknown))}.")
        for known in self.inputs:
            given = inputs.get(known.name)
            if isinstance(given, Socket):
                self.sources[known.name] = given
            if known.is_widget:
                self.widgets[known.name] = known.default() if given is None or isinstance(given, Socket) else given
            elif given is None and not known.optional:
                raise ValueError(f"{self.kind} needs its input {known.name}.")

    def slots(self) -> list[Input]:
        """The inputs in the frontend's order: sockets, then widgets, each with the optional ones last."""
        return sorted(self.inputs, key=lambda known: known.is_widget)

    def _smallest_height(self) -> int:
        widgets = sum(len(known.values(None)) for known in self.inputs if known.is_widget)
        sockets = max(sum(not known.is_widget for known in self.inputs), len(self.definition["output"]))
        return sockets * SLOT + 6 + (widgets * WIDGET + BOTTOM if widgets else 0)


class Canvas:
    """Nodes in columns. `packs` gives (registry id, version) of the pack that a node comes from."""

    def __init__(self, name: str, object_info: ObjectInfo, packs: "PackVersions") -> None:
        """name: without the beginning that all templates have."""
        self.name, self.object_info, self.packs = name, object_info, packs
        self.nodes: list[Node] = []
        self.notes: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.right = 0

    def node(self, kind: str, *, at_least: int = 0, title: str = "", models: Sequence[Model] = (), bypassed: bool = False,
             **inputs: Any) -> Node:  # fmt: skip
        """Adds a node, at_least so high; its inputs are sockets of other nodes or values of widgets. title: in the place of its
        kind's."""
        node = Node(len(self.nodes) + 1, kind, _grown(self.object_info[kind], inputs), at_least)
        node.set(inputs)
        node.models, node.mode, node.title = models, BYPASSED if bypassed else ACTIVE, title
        self.nodes.append(node)
        return node

    def column(self, width: int, *groups: Group, note: tuple[str, int] | None = None) -> None:
        """Groups one below the other, right of what is there; above them a note: its text in Markdown, and its height."""
        x, y = self.right + COLUMN_GAP, TOP
        if note is not None:
            self._note(note[0], (x, y + TITLE), (width, note[1]))
            y += TITLE + note[1] + GAP
        for title, nodes in groups:
            top, y = y, y + GROUP_TITLE
            for node in nodes:
                node.position, node.width = (x, y + TITLE), width
                y += TITLE + node.height + GAP
            y += GROUP_BOTTOM - GAP
            self._group(title, (x - GROUP_MARGIN, top, width + 2 * GROUP_MARGIN, y - top))
            y += GAP
        self.right = x + width

    def json(self) -> dict[str, Any]:
        """The workflow as the frontend saves it."""
        links = self._links()
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"fastvideo-nodes/{self.name}"))
        return {
            "id": identity, "revision": 0, "last_node_id": max(note["id"] for note in self.notes), "last_link_id": len(links),
            "nodes": [*self.notes, *(self._node_json(order, node, links) for order, node in enumerate(self.nodes, 1))],
            "links": links, "groups": self.groups, "config": {}, "extra": {}, "version": 0.4,
        }  # fmt: skip

    def _note(self, text: str, position: tuple[int, int], size: tuple[int, int]) -> None:
        self.notes.append({
            "id": 1001 + len(self.notes), "type": "MarkdownNote", "pos": list(position), "size": list(size),
            "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "About this workflow",
            "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#000",
        })  # fmt: skip

    def _group(self, title: str, bounding: tuple[int, int, int, int]) -> None:
        identity = len(self.groups) + 1
        look = {"color": "#3f789e", "font_size": 24, "flags": {}}
        self.groups.append({"id": identity, "title": title, "bounding": list(bounding), **look})

    def _links(self) -> list[list[Any]]:
        """[link id, source node, source slot, target node, target slot, type], in the order of the targets."""
        links: list[list[Any]] = []
        for node in self.nodes:
            for slot, known in enumerate(node.slots()):
                source = node.sources.get(known.name)
                if source is not None:
                    links.append([len(links) + 1, source.node.identity, source.slot, node.identity, slot, source.type])
        return links

    def _node_json(self, order: int, node: Node, links: list[list[Any]]) -> dict[str, Any]:
        into = {link[4]: link[0] for link in links if link[3] == node.identity}
        values = [value for known in node.inputs if known.is_widget for value in known.values(node.widgets[known.name])]
        registry_id, version = self.packs.of(node.definition)
        properties: dict[str, Any] = {"Node name for S&R": node.kind, "cnr_id": registry_id, "ver": version}
        if node.models:
            properties["models"] = [model.json() for model in node.models]
        title = {"title": node.title} if node.title else {}
        return {
            "id": node.identity, "type": node.kind, **title, "pos": list(node.position), "size": [node.width, node.height],
            "flags": {}, "order": order, "mode": node.mode,
            "inputs": [_input_json(known, into.get(slot)) for slot, known in enumerate(node.slots())],
            "outputs": [self._output_json(node, slot, links) for slot in range(len(node.definition["output"]))],
            "properties": properties, "widgets_values": values,
        }  # fmt: skip

    def _output_json(self, node: Node, slot: int, links: list[list[Any]]) -> dict[str, Any]:
        outgoing = [link[0] for link in links if (link[1], link[2]) == (node.identity, slot)]
        name, kind = node.definition["output_name"][slot], node.definition["output"][slot]
        return {"name": name, "type": kind, "links": outgoing or None}


@dataclass(frozen=True)
class PackVersions:
    """Registry id and version of ComfyUI's own nodes and of this pack's; a workflow asks for at least these."""

    core: tuple[str, str]
    pack: tuple[str, str]

    def of(self, definition: Mapping[str, Any]) -> tuple[str, str]:
        return self.pack if definition["python_module"].startswith("custom_nodes") else self.core


def _grown(definition: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node that takes as many inputs as are connected, and one more, with these; all have one type, its output too."""
    name, (kind, *options) = next(iter(definition["input"].get("required", {}).items()), ("", ("",)))
    if kind != "COMFY_AUTOGROW_V3":
        return definition
    (type_,) = {socket.type for socket in given.values()}
    first, *others = (f"{name}.{options[0]['template']['prefix']}{place}" for place in range(len(given) + 1))
    socket = [type_, {"forceInput": True}]
    grown = {"required": {first: socket}, "optional": dict.fromkeys(others, socket)}
    return {**definition, "input": grown, "output": [type_]}


def _inputs(definition: Mapping[str, Any], section: str) -> list[Input]:
    found = []
    for name, (kind, *options) in definition["input"].get(section, {}).items():
        details = options[0] if options else {}
        if isinstance(kind, list):  # the older way to write a combo
            kind, details = "COMBO", {"options": kind, **details}
        found.append(Input(name, kind, details, optional=section == "optional"))
    return found


def _input_json(known: Input, link: int | None) -> dict[str, Any]:
    shape = {"shape": OPTIONAL_SHAPE} if known.optional else {}
    widget = {"widget": {"name": known.name}} if known.is_widget else {}
    return {"name": known.name, **shape, "type": known.type, **widget, "link": link}
