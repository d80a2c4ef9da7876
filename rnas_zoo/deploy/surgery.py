"""Edits of ONNX graphs that leave their function as it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        yield from _inside(node)


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from subgraphs(inner)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Order the nodes so that each comes after those it needs: onnxruntime does so itself, and writes such files."""
    made = {name for node in graph.node for name in node.output if name}
    left, ordered, known = list(graph.node), [], set[str]()
    while left:
        waiting = []
        for node in left:
            if known.issuperset(made & _needs(node)):
                known.update(node.output)
                ordered.append(node)
            else:
                waiting.append(node)
        if len(waiting) == len(left):
            return  # a circle: the checker says so
        left = waiting
    if ordered != list(graph.node):
        del graph.node[:]
        graph.node.extend(ordered)


def _needs(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node, or a graph inside it, takes."""
    return {name for each in (node, *(inner for part in _inside(node) for inner in part.node)) for name in each.input}


def shorten_names(model: onnx.ModelProto) -> None:
    """Give nodes and inner values short names and forget their shapes; inputs and outputs keep their names."""
    kept = {"", *(value.name for value in (*model.graph.input, *model.graph.output))}
    free = (name for name in map("v{}".format, itertools.count()) if name not in kept)
    names = {name: name for name in kept}

    def short(name: str) -> str:
        if name not in names:
            names[name] = next(free)
        return names[name]

    for graph in subgraphs(model.graph):
        del graph.value_info[:]
        for value in (*graph.initializer, *graph.input, *graph.output):
            value.name = short(value.name)
        for number, node in enumerate(graph.node):
            node.name = f"n{number}"
            node.input[:], node.output[:] = [short(x) for x in node.input], [short(x) for x in node.output]


def forget_origins(model: onnx.ModelProto) -> None:
    """Remove documentation, stack traces and class names from a model, its functions and everything in them."""
    model.doc_string = ""
    del model.metadata_props[:]
    for whole in (model.graph, *model.functions):
        for graph in subgraphs(whole):
            values = (getattr(graph, kind, ()) for kind in ("input", "output", "value_info", "initializer"))
            described = [value for group in values for value in group if not isinstance(value, str)]
            options = [option for node in graph.node for option in node.attribute]
            constants = [option.t for option in options if option.HasField("t")]
            for item in (graph, *described, *graph.node, *options, *constants):
                item.doc_string = ""
                if hasattr(item, "metadata_props"):
                    del item.metadata_props[:]
