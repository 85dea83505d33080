"""Part of a workflow as a subgraph blueprint: one node that ComfyUI lists beside its own and that can be opened.

The file is a workflow with one node, whose kind is the subgraph that the file defines: nodes and links as on a canvas, but that
inputs come from a node -10 and outputs go to a node -20.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.workflows.canvas import SLOT, TITLE, WIDGET, Canvas, Input, Node, Socket

FROM, TO = -10, -20
CATEGORY = "FastVideo"
WIDTH, AT = 400, (200, 200)
SIDE = 120
"""Pixels of the nodes that inputs come from and outputs go to."""


@dataclass(frozen=True)
class Port:
    """An input or output of all nodes of a kind, or of the one at `place` among them."""

    kind: str
    name: str
    place: int | None = None

    def nodes(self, canvas: Canvas) -> list[Node]:
        found = [node for node in canvas.nodes if node.kind == self.kind]
        if not found:
            raise ValueError(f"{canvas.name} has no {self.kind}.")
        return found if self.place is None else [found[self.place]]


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """workflow: what it is a part of. dropped: kinds of nodes that are not. inputs, outputs: by their names outside; values: of
    widgets that are others than in the workflow; words: that search finds it by."""

    workflow: str
    description: str
    words: Sequence[str]
    dropped: Sequence[str]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outside:
    """Where the sockets come from that the subgraph is given."""

    identity: int = FROM


def blueprint_json(name: str, blueprint: Blueprint, canvas: Canvas) -> dict[str, Any]:
    """The file's content. canvas: the workflow's, which this changes.

    Raises:
        ValueError: it has no such node, or no such input or output.
    """
    _drop(canvas, blueprint.dropped)
    given = {label: _given(canvas, slot, port, blueprint.values.get(label)) for slot, (label, port) in _slots(blueprint.inputs)}
    inside = canvas.json()
    links = [dict(zip(LINK, link, strict=True)) for link in inside["links"]]
    nodes = {node["id"]: node for node in inside["nodes"] if node["type"] != "MarkdownNote"}
    outputs = [_output(canvas, nodes, links, slot, label, port) for slot, (label, port) in _slots(blueprint.outputs)]
    inputs = [_input(canvas, links, slot, label, known) for slot, (label, (known, _)) in _slots(given)]
    definition = {
        "id": _identity(canvas, name), "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {"lastGroupId": len(inside["groups"]), "lastNodeId": max(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": FROM, "bounding": [-2 * SIDE, 0, SIDE, SIDE + SLOT * len(inputs)]},
        "outputNode": {"id": TO, "bounding": [canvas.right + SIDE, 0, SIDE, SIDE + SLOT * len(outputs)]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": list(nodes.values()), "groups": inside["groups"],
        "links": links, "extra": {}, "category": CATEGORY, "description": blueprint.description,
    }  # fmt: skip
    return {
        "id": _identity(canvas, name, "file"), "revision": 0, "last_node_id": 1, "last_link_id": 0,
        "nodes": [_placed(definition["id"], name, given, outputs, canvas)], "links": [], "groups": [],
        "definitions": {"subgraphs": [definition]}, "config": {},
        "extra": {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": list(blueprint.words)}, "version": 0.4,
    }  # fmt: skip


LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _slots(named: Mapping[str, Any]) -> Iterator[tuple[int, tuple[str, Any]]]:
    return enumerate(named.items())


def _drop(canvas: Canvas, kinds: Sequence[str]) -> None:
    canvas.nodes = [node for node in canvas.nodes if node.kind not in kinds]
    for node in canvas.nodes:
        node.sources = {name: source for name, source in node.sources.items() if source.node in canvas.nodes}


def _given(canvas: Canvas, slot: int, port: Port, value: Any) -> tuple[Input, Any]:
    """The input and its value, where that is a widget's."""
    for node in port.nodes(canvas):
        (known,) = (each for each in node.inputs if each.name == port.name)
        node.sources[port.name] = Socket(Outside(), slot, known.type)
        if value is not None:
            node.widgets[port.name] = value
    return known, node.widgets.get(port.name)


def _input(canvas: Canvas, links: Sequence[Mapping[str, Any]], slot: int, label: str, known: Input) -> dict[str, Any]:
    ids = [link["id"] for link in links if (link["origin_id"], link["origin_slot"]) == (FROM, slot)]
    return {"id": _identity(canvas, label), "name": label, "type": known.type, "linkIds": ids, "pos": [-SIDE, SLOT * (slot + 1)]}


def _output(
    canvas: Canvas, nodes: Mapping[int, Any], links: list[dict[str, Any]], slot: int, label: str, port: Port
) -> dict[str, Any]:
    (node,) = port.nodes(canvas)
    socket = node[port.name]
    link = dict(zip(LINK, (len(links) + 1, node.identity, socket.slot, TO, slot, socket.type), strict=True))
    links.append(link)
    inside = nodes[node.identity]["outputs"][socket.slot]
    inside["links"] = [*(inside["links"] or ()), link["id"]]
    place = [canvas.right + SIDE, SLOT * (slot + 1)]
    return {"id": _identity(canvas, label, "out"), "name": label, "type": socket.type, "linkIds": [link["id"]], "pos": place}


def _placed(
    kind: str, name: str, given: Mapping[str, tuple[Input, Any]], outputs: Sequence[Mapping[str, Any]], canvas: Canvas
) -> dict[str, Any]:
    """The node that stands for the subgraph."""
    widgets = [label for label, (known, _) in given.items() if known.is_widget]
    sockets = [label for label in given if label not in widgets]
    inputs = [{"name": label, "type": given[label][0].type, "link": None} for label in sockets]
    inputs += [{"name": label, "type": given[label][0].type, "widget": {"name": label}, "link": None} for label in widgets]
    height = TITLE + SLOT * max(len(sockets), len(outputs)) + WIDGET * len(widgets)
    registry_id, version = canvas.packs.pack
    return {
        "id": 1, "type": kind, "pos": list(AT), "size": [WIDTH, height], "flags": {}, "order": 0, "mode": 0, "title": name,
        "inputs": inputs, "outputs": [{"name": each["name"], "type": each["type"], "links": None} for each in outputs],
        "properties": {"proxyWidgets": [["-1", label] for label in widgets], "cnr_id": registry_id, "ver": version},
        "widgets_values": [given[label][1] for label in widgets],
    }  # fmt: skip


def _identity(canvas: Canvas, *parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("fastvideo-nodes/subgraphs", canvas.name, *parts))))
