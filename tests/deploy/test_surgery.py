"""Edits of graphs: the same numbers bit for bit, short names, and nothing left of where a graph came from."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rnas_zoo.deploy.surgery import forget_origins, shorten_names, sort_nodes, subgraphs

IMAGES = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
PATH = "/somebody/project/net.py"


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def described(item):
    """The same node, value or graph with everything that exporters write about its origin."""
    item.doc_string = f"File {PATH}, line 3"
    if hasattr(item, "metadata_props"):
        helper.set_model_props(item, {"class": "my.secret.Net"})
    return item


def branch(name: str, operator: str, steps: int) -> onnx.GraphProto:
    """A graph inside a node: its own weight, and `a rather long name/scaled` from outside; both use the same names."""
    values = [f"inner value {i}" for i in range(steps + 1)]
    first = helper.make_node(operator, ["a rather long name/scaled", "inner weight"], [values[0]], f"{name}/first")
    others = [helper.make_node("Sin", [a], [b], f"{name}/{b}") for a, b in itertools.pairwise(values)]
    weight = numpy_helper.from_array(np.full(6, steps, np.float32), "inner weight")
    described(weight)
    return helper.make_graph(
        [described(node) for node in (first, *others)], name, [], [floats(values[-1], "batch", 6)], [weight]
    )


def model(names: tuple[str, str] = ("image", "logits")) -> onnx.ModelProto:
    """Scales, then takes one of two branches by the sign of the sum, and adds a constant."""
    given, found = names
    long = "a rather long name/scaled"
    pick = helper.make_node(
        "If",
        ["a rather long name/positive"],
        ["a rather long name/picked"],
        "a rather long name/if",
        then_branch=branch("then", "Mul", 2),
        else_branch=branch("else", "Add", 1),
    )
    constant = numpy_helper.from_array(np.array(0.25, np.float32), "a constant of my own")
    nodes = [
        helper.make_node("Mul", [given, "net.layer.weight"], [long], "net/layer/Mul"),
        helper.make_node("ReduceSum", [long], ["a rather long name/sum"], "net/ReduceSum", keepdims=0),
        helper.make_node("Greater", ["a rather long name/sum", "zero"], ["a rather long name/positive"], "net/Greater"),
        pick,
        helper.make_node("Constant", [], ["a rather long name/constant"], "net/Constant", value=described(constant)),
        helper.make_node("Add", ["a rather long name/picked", "a rather long name/constant"], [found], "net/Add"),
    ]
    weights = [
        numpy_helper.from_array(np.linspace(0.5, 3, 6, dtype=np.float32), "net.layer.weight"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    graph = helper.make_graph(
        [described(node) for node in nodes],
        "main",
        [described(floats(given, "batch", 6))],
        [described(floats(found, "batch", 6))],
        [described(weight) for weight in weights],
        value_info=[described(floats(long, "batch", 6))],
    )
    for node in graph.node:
        for option in node.attribute:
            option.doc_string = PATH
    made = helper.make_model(described(graph), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    described(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def answers(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    return session.run([found.name], {given.name: images})[0]


def reference(images: np.ndarray) -> np.ndarray:
    scaled = images * np.linspace(0.5, 3, 6, dtype=np.float32)
    return 0.25 + (np.sin(np.sin(scaled * 2)) if positive(images) else np.sin(scaled + 1))


def positive(images: np.ndarray) -> bool:
    return (images * np.linspace(0.5, 3, 6)).sum() > 0


def nodes_of(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in subgraphs(proto.graph) for node in graph.node]


def names_of(proto: onnx.ModelProto) -> set[str]:
    weights = [value.name for graph in subgraphs(proto.graph) for value in graph.initializer]
    return {*weights, *(name for node in nodes_of(proto) for name in (node.name, *node.input, *node.output))}


def test_the_graph_of_these_tests_takes_both_branches():
    assert {positive(IMAGES), positive(-IMAGES)} == {True, False}
    for images in (IMAGES, -IMAGES):
        np.testing.assert_allclose(answers(model(), images), reference(images), atol=1e-5)
    assert [graph.name for graph in subgraphs(model().graph)] == ["main", "else", "then"]


@pytest.mark.parametrize("names", [("image", "logits"), ("v0", "v3")], ids=["usual names", "names like the short ones"])
def test_short_names_keep_the_function(names):
    before, after = model(names), model(names)
    shorten_names(after)
    for images in (IMAGES, -IMAGES):
        np.testing.assert_array_equal(answers(after, images), answers(before, images))
    (given,), (found,) = after.graph.input, after.graph.output
    assert (given.name, found.name) == names
    assert names_of(after) - set(names) - {""} <= {f"{kind}{i}" for kind in "vn" for i in range(30)}
    assert not any(graph.value_info for graph in subgraphs(after.graph))
    for graph in subgraphs(after.graph):
        assert len({node.name for node in graph.node}) == len(graph.node)


def test_short_names_do_not_depend_on_the_long_ones():
    first, second = model(), model()
    for node in nodes_of(second):
        node.name = f"elsewhere/{node.name}"
    text = second.SerializeToString().replace(b"a rather long name/", b"another scope name/")
    second = onnx.ModelProto.FromString(text)
    assert first != second
    for each in (first, second):
        forget_origins(each)
        shorten_names(each)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_nothing_is_left_of_the_origins():
    before, after = model(), model()
    forget_origins(after)
    for images in (IMAGES, -IMAGES):
        np.testing.assert_array_equal(answers(after, images), answers(before, images))
    content = after.SerializeToString()
    for text in (PATH, "secret", "line 3"):
        assert text.encode() in before.SerializeToString()
        assert text.encode() not in content
    assert names_of(after) == names_of(before)
    assert (after.opset_import[0].version, after.ir_version) == (20, 10)


def test_functions_forget_as_well():
    twice = helper.make_function(
        "mine",
        "Twice",
        ["x"],
        ["y"],
        [described(helper.make_node("Add", ["x", "x"], ["y"]))],
        [helper.make_opsetid("", 20)],
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["image"], ["logits"], domain="mine")],
        "main",
        [floats("image", "batch", 6)],
        [floats("logits", "batch", 6)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    proto = helper.make_model(graph, functions=[described(twice)], opset_imports=opsets, ir_version=10)
    assert PATH.encode() in proto.SerializeToString()
    forget_origins(proto)
    assert PATH.encode() not in proto.SerializeToString()
    assert b"secret" not in proto.SerializeToString()
    np.testing.assert_array_equal(answers(proto, IMAGES), IMAGES + IMAGES)


@pytest.mark.parametrize("seed", range(5))
def test_nodes_in_any_order_are_sorted_and_keep_the_function(seed):
    before, after = model(), model()
    shuffled = [after.graph.node[i] for i in np.random.default_rng(seed).permutation(len(after.graph.node))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in shuffled]
    del after.graph.node[:]
    after.graph.node.extend(copies)
    sort_nodes(after.graph)
    assert sorted(node.name for node in after.graph.node) == sorted(node.name for node in before.graph.node)
    for images in (IMAGES, -IMAGES):  # the checker refuses a graph that is not in order, also one whose If comes early
        np.testing.assert_array_equal(answers(after, images), answers(before, images))


def test_a_branch_waits_for_what_it_takes_from_outside():
    proto = model()
    pick = next(node for node in proto.graph.node if node.op_type == "If")
    pick.input[0] = "known"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "known"))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([copies[3], *copies[:3], *copies[4:]])
    with pytest.raises(onnx.checker.ValidationError, match="sorted"):
        onnx.checker.check_model(proto)
    sort_nodes(proto.graph)
    assert [node.op_type for node in proto.graph.node].index("If") > 0
    images = IMAGES if positive(IMAGES) else -IMAGES
    np.testing.assert_allclose(answers(proto, images), reference(images), atol=1e-5)


def test_a_sorted_graph_is_left_as_it_is():
    before, after = model(), model()
    sort_nodes(after.graph)
    assert after == before


def test_a_circle_is_left_to_the_checker():
    nodes = [helper.make_node("Add", ["image", "b"], ["a"]), helper.make_node("Sin", ["a"], ["b"])]
    graph = helper.make_graph(nodes, "main", [floats("image", "batch", 6)], [floats("b", "batch", 6)])
    sort_nodes(graph)
    assert [node.op_type for node in graph.node] == ["Add", "Sin"]
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(helper.make_model(graph))
