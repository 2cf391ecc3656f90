"""Parts of a graph that come several times are written once, and a runtime computes what it did before."""

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steps.compress.lowrank import factorise
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.deploy.export import HALF_BYTES
from steps.deploy.graph import OPSET
from steps.deploy.graphs import graphs_of
from steps.deploy.repeats import DOMAIN, Order, earliest_first, nodes_of, share_repeats_
from steps.deploy.screen import screen
from tests.deploy import streams
from tests.deploy.conftest import TOKENS
from tests.deploy.test_export import build_graph
from tests.deploy.test_fixed_point import fixed

PACKED = QuantizeConfig(bits=2, convolutions=8, rest="int8")
# enough nodes to be worth a function, in no order that comes twice
KINDS = ["Relu", "Neg", "Abs", "Exp", "Sigmoid", "Tanh", "Sin", "Cos"]
CHAIN = [KINDS[number] for number in np.random.default_rng(0).integers(0, len(KINDS), 48)]


def graph_of(nodes, constants=(), outputs=("y",)):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", *outputs)]
    kept = [numpy_helper.from_array(np.float32([0.5 + number]), name) for number, name in enumerate(constants)]
    graph = helper.make_graph(nodes, "ctc", value[:1], value[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def chain(name, given, constant, kinds=CHAIN):
    """Nodes of one input each, and their sum with a constant."""
    nodes = []
    for number, kind in enumerate(kinds):
        nodes.append(helper.make_node(kind, [given], [f"{name}{number}"]))
        given = f"{name}{number}"
    return [*nodes, helper.make_node("Add", [given, constant], [name])]


def shared(graph):
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    share_repeats_(copy, OPSET)
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(copy, full_check=True)
    return copy


def run(graph, feed=None):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed or {"x": np.linspace(-1, 1, 7, dtype=np.float32)})


def assert_same(graph, other):
    for one, two in zip(run(graph), run(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_three_times_the_same_is_one_function_and_three_calls():
    graph = graph_of([*chain("a", "x", "k"), *chain("b", "a", "l"), *chain("y", "b", "m")], "klm")
    small = shared(graph)
    (function,) = small.functions
    assert len(function.node) == len(CHAIN) + 1
    assert [node.domain for node in small.graph.node] == [DOMAIN] * 3
    assert [list(node.input) for node in small.graph.node] == [["x", "k"], ["a", "l"], ["b", "m"]]
    assert small.ByteSize() < 0.6 * graph.ByteSize()
    assert_same(graph, small)
    screen(small.SerializeToString())
    flat = onnx.inliner.inline_local_functions(small)
    assert [node.op_type for node in flat.graph.node] == [node.op_type for node in graph.graph.node]


def test_what_others_read_within_it_comes_out_as_well():
    nodes = [
        *chain("a", "x", "k"),
        *chain("b", "a", "l"),
        *chain("c", "b", "m"),
        helper.make_node("Add", ["c", "b3"], ["y"]),
    ]
    graph = graph_of(nodes, "klm")
    small = shared(graph)
    assert len(small.functions) == 1 and len(small.functions[0].output) == 2
    assert_same(graph, small)


def test_an_output_of_the_graph_within_it_stays():
    graph = graph_of([*chain("a", "x", "k"), *chain("b", "a", "l"), *chain("y", "b", "m")], "klm", ("y", "a3"))
    small = shared(graph)
    assert small.functions
    assert_same(graph, small)


def test_one_constant_in_one_place_and_two_in_another_are_two_inputs():
    def twice(name, given, first, second):
        return [*chain(f"{name}h", given, first), helper.make_node("Mul", [f"{name}h", second], [name])]

    nodes = [*twice("a", "x", "k", "k"), *twice("b", "a", "k", "l"), *twice("y", "b", "m", "m")]
    graph = graph_of(nodes, "klm")
    small = shared(graph)
    # the sequences may begin at any of their nodes
    assert max(len(function.input) for function in small.functions) >= 3
    assert_same(graph, small)


def test_other_attributes_or_other_ways_within_are_no_repeat():
    def block(name, given, number):
        nodes = chain(f"{name}h", given, "k")
        # reads what was made `number` nodes before
        return [*nodes, helper.make_node("Mul", [f"{name}h", f"{name}h{number}"], [name])]

    graph = graph_of([*block("a", "x", 2), *block("y", "a", 5)], "k")
    small = shared(graph)
    assert all("Mul" not in [node.op_type for node in function.node] for function in small.functions)
    assert_same(graph, small)
    leaky = [
        [*chain(f"{name}h", given, "k"), helper.make_node("LeakyRelu", [f"{name}h"], [name], alpha=alpha)]
        for name, given, alpha in (("a", "x", 0.5), ("y", "a", 0.25))
    ]
    graph = graph_of(sum(leaky, []), "k")
    small = shared(graph)
    assert all("LeakyRelu" not in [node.op_type for node in function.node] for function in small.functions)
    assert_same(graph, small)


def test_constants_are_computed_outside_and_little_is_left_alone():
    """Runtimes that open functions late would compute them anew each time."""
    nodes = [
        *chain("a", "k", "l"),
        *chain("b", "a", "l"),
        *chain("c", "b", "l"),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    assert not shared(graph_of(nodes, "kl")).functions
    short = [*chain("a", "x", "k", CHAIN[:3]), *chain("y", "a", "l", CHAIN[:3])]
    assert not shared(graph_of(short, "kl")).functions


def test_an_output_that_is_left_out_makes_nothing_depend_on_the_inputs():
    """The empty name is that of inputs and outputs that are not there."""
    constant = chain("c", "k", "l") + chain("d", "c", "l")
    clip = [helper.make_node("Clip", [name, "", "k"], [f"{name}/c"]) for name in ("c", "d")]
    live = [helper.make_node("Dropout", ["x"], ["y", ""])]
    order = Order([*live, *constant, *clip], {"x"}, {"y"})
    assert order.usable == {0}


def test_a_graph_with_graphs_within_is_left_alone():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["b3"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    nodes = [
        *chain("a", "x", "k"),
        *chain("b", "a", "l"),
        helper.make_node("If", ["t"], ["y"], then_branch=inner, else_branch=inner),
    ]
    graph = graph_of(nodes, "kl")
    graph.graph.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    before = graph.SerializeToString()
    share_repeats_(graph, OPSET)
    assert graph.SerializeToString() == before


def test_what_depends_on_no_product_comes_first():
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Neg", ["x"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Abs", ["b"], ["d"]),
        helper.make_node("Mul", ["c", "d"], ["y"]),
    ]
    graph = graph_of(nodes)
    graph.graph.initializer.append(weight)
    assert [node.op_type for node in earliest_first(graph.graph.node)] == ["MatMul", "Neg", "Abs", "Add", "Mul"]


def variants(make):
    """Models whose graphs have functions: {name: model}."""
    large = make("conformer", num_blocks=4)
    return {
        "conformer": large,
        "low-rank": factorise(large, {f"blocks.{number}.ff1.up": 5 for number in (1, 2)}),
        "dnn": make("dnn", num_blocks=6),
        "rnn": make("rnn", num_blocks=5),
    }


@pytest.mark.parametrize("name", ["conformer", "low-rank", "dnn", "rnn"])
def test_packed_models_give_the_same_bits(make, monkeypatch, name):
    model = quantize_model(variants(make)[name], PACKED)
    small = build_graph(model)
    monkeypatch.setattr("steps.deploy.graph.share_repeats_", lambda *_: None)
    large = build_graph(model)
    assert not large.functions
    if name == "conformer":
        assert len(small.functions) == 1 and len([n for n in small.graph.node if n.domain == DOMAIN]) == 4
        assert small.ByteSize() < large.ByteSize() - 3000
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((2, 97, 20)).astype(np.float32), "x_lens": np.array([97, 41])}
    for one, other in zip(run(small, feed), run(large, feed), strict=True):
        np.testing.assert_array_equal(one, other)
    screen(small.SerializeToString())
    ran = {node.op_type for node in nodes_of(large)}
    assert ran == {node.op_type for node in nodes_of(small)}


@pytest.mark.parametrize("make_one", [streams.conformer, streams.transducer])
def test_streaming_models_and_transducers_too(make_one):
    model = quantize_model(make_one(num_blocks=4), PACKED)
    graphs = graphs_of(model)
    built = graphs.build(model)
    # the encoder's, if there are several files
    (_,) = [graph for graph in built.values() if graph.functions]
    for graph in built.values():
        screen(graph.SerializeToString())
    contents = {name: graph.SerializeToString() for name, graph in built.items()}
    _, snr_db = graphs.compare(model, graphs.open(contents, streams.FEATURES, TOKENS, "m"))
    assert snr_db > 20


def test_blocks_of_which_one_cannot_give_half_are_still_alike(make):
    """A bias that float16 cannot halve: the size that a target was chosen for stays an upper bound."""
    model = quantize_model(make("conformer", num_blocks=3), PACKED)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("ff1.down", "ff2.down")):
                module.bias[module.bias.abs() < 1e-3] = 0.0
        size = build_graph(model).ByteSize()
        # not blocks.0.ff2
        for name in ("blocks.0.ff1", "blocks.1.ff1", "blocks.1.ff2", "blocks.2.ff1", "blocks.2.ff2"):
            model.get_submodule(name).down.bias[0] = 3 * 2.0**-24
    odd = build_graph(model)
    assert len(odd.functions) == 1 and size < odd.ByteSize() < size + 6 * HALF_BYTES


def test_float_files_int8_and_fixed_point_have_none(make):
    model = make("conformer", num_blocks=4)
    for other in (model, quantize_model(model, QuantizeConfig()), fixed(model, bits=3, rest="float16")):
        assert not build_graph(other).functions
