"""A stranger's ONNX file is refused before a runtime opens it when it could run for ever or read other files."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from steps.core.cli import UserError
from steps.deploy.repeats import DOMAIN
from steps.deploy.runtimes import RUNTIMES, load_recogniser
from steps.deploy.screen import MESSAGES, fields, screen
from tests.deploy.test_export import build_graph

FLOAT, LONG, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name, kind=FLOAT, shape=("N", "T", 4)):
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(nodes, functions=(), constants=()):
    """A graph of the ends that exported models have."""
    ends = [value("x"), value("x_lens", LONG, ["N"])], [value("log_probs"), value("log_probs_lens", LONG, ["N"])]
    nodes = [*nodes, helper.make_node("Identity", ["x_lens"], ["log_probs_lens"])]
    graph = helper.make_graph(nodes, "ctc", *ends, [numpy_helper.from_array(np.array(True), "true"), *constants])
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in (DOMAIN, "own") if functions)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=8)


def plain():
    return model([helper.make_node("Relu", ["x"], ["log_probs"])])


def inner(outputs):
    node = helper.make_node("Identity", ["x"], ["same"])
    return helper.make_graph([node], "inner", [], [value(name) for name in outputs])


def endless_loop():
    """Adds 1 until doomsday: all that it needs is constant, so that opening it is enough."""
    step = helper.make_node("Identity", ["going"], ["on"])
    ends = [value("turn", LONG, []), value("going", BOOL, [])], [value("on", BOOL, [])]
    body = helper.make_graph([step], "body", *ends)
    loop = helper.make_node("Loop", ["", "true"], [], body=body)
    return model([loop, helper.make_node("Relu", ["x"], ["log_probs"])])


def branch():
    halves = {"then_branch": inner(["same"]), "else_branch": inner(["same"])}
    return model([helper.make_node("If", ["true"], ["log_probs"], **halves)])


def list_of_graphs():
    node = helper.make_node("Relu", ["x"], ["log_probs"])
    node.attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS).graphs.append(inner(["same"]))
    return model([node])


def function(name, body, domain=DOMAIN, inputs=("a",), overload=""):
    opsets = [helper.make_opsetid(name, 17 if not name else 1) for name in ("", "own", DOMAIN)]
    made = helper.make_function(domain, name, list(inputs), ["b"], body, opsets)
    made.overload = overload
    return made


def call(name, given="a", made="b", domain=DOMAIN):
    return helper.make_node(name, [given], [made], domain=domain)


def relu(name="Mine", **how):
    return function(name, [helper.make_node("Relu", ["a"], ["b"])], **how)


def flat_function():
    return model([call("Mine", "x", "log_probs")], [relu()])


def function_of_another_domain():
    return model([call("Mine", "x", "log_probs", "own")], [relu(domain="own")])


def function_in_the_domain_of_operators():
    return model([helper.make_node("Relu", ["x"], ["log_probs"])], [relu("Relu", domain="")])


def function_that_calls_itself():
    return model([call("Mine", "x", "log_probs")], [function("Mine", [call("Mine")])])


def function_that_calls_another():
    return model([call("Other", "x", "log_probs")], [relu(), function("Other", [call("Mine")])])


def function_by_its_name_in_another_domain():
    """Runtimes join domain, name and overload with colons."""
    node = call("slim_asr:Mine", domain="")
    return model([call("Other", "x", "log_probs")], [relu(), function("Other", [node, call("x:Mine", domain="own")])])


def function_with_a_colon():
    return model([call("A:Mine", "x", "log_probs")], [relu("A:Mine")])


def function_with_an_overload():
    return model([call("Mine", "x", "log_probs")], [relu(), relu(overload="v")])


def function_with_a_loop():
    loop = endless_loop().graph.node[0]
    return model([call("Mine", "x", "log_probs")], [function("Mine", [helper.make_node("Relu", ["a"], ["b"]), loop])])


def function_called_with_nothing():
    """onnxruntime 1.15 dies of it."""
    return model([call("Mine", "", "log_probs")], [relu()])


def function_that_is_not_there():
    return model([call("Other", "x", "log_probs")], [relu()])


def function_that_unfolds_to_much():
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(50_000, np.float32)))
    made = function("Mine", [constant, helper.make_node("Add", ["a", "c"], ["b"])])
    calls = [call("Mine", f"x{n}" if n else "x", f"x{n + 1}" if n < 59 else "log_probs") for n in range(60)]
    return model(calls, [made])


def elsewhere(tensor):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return tensor


def constant_elsewhere():
    weight = elsewhere(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    return model([helper.make_node("Mul", ["x", "w"], ["log_probs"])], constants=[weight])


def attribute_elsewhere():
    weight = elsewhere(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["x", "w"], ["log_probs"])]
    return model(nodes)


def sparse_elsewhere():
    made = plain()
    made.graph.sparse_initializer.add().values.CopyFrom(elsewhere(numpy_helper.from_array(np.ones(4), "w")))
    return made


def training():
    made = plain()
    made.training_info.add()
    return made


BAD = {
    endless_loop: "a graph within the graph",
    branch: "a graph within the graph",
    list_of_graphs: "a graph within the graph",
    function_of_another_domain: "functions of its own",
    function_in_the_domain_of_operators: "functions of its own",
    function_that_calls_itself: "functions of its own",
    function_that_calls_another: "functions of its own",
    function_by_its_name_in_another_domain: "functions of its own",
    function_with_a_colon: "functions of its own",
    function_with_an_overload: "functions of its own",
    function_with_a_loop: "a graph within the graph",
    function_called_with_nothing: "a call of a function",
    function_that_is_not_there: "a call of a function",
    function_that_unfolds_to_much: "functions that unfold to 12,00",
    constant_elsewhere: "numbers in another file",
    attribute_elsewhere: "numbers in another file",
    sparse_elsewhere: "numbers in another file",
    training: "a training",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("runtime", [name for name, row in RUNTIMES.items() if row.reads == "export"])
def test_no_runtime_opens_such_a_graph(tmp_path, monkeypatch, make, runtime):
    def opened(*_):
        pytest.fail("the runtime has been asked to open it")

    monkeypatch.setitem(RUNTIMES, runtime, dataclasses.replace(RUNTIMES[runtime], open=opened))
    for name in ("decoder.onnx", "encoder.onnx"):
        (tmp_path / name).write_bytes(plain().SerializeToString())
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    if make is branch and runtime == "onnxruntime":
        # without them, the folder could be one of others, whose models may branch
        (tmp_path / "features.yaml").write_text("{}\n")
        (tmp_path / "tokens.txt").write_text("<blk> 0\n<unk> 1\na 2\n")
    with pytest.raises(UserError, match=f"model.onnx: holds {BAD[make]}.* it is not opened") as error:
        load_recogniser(tmp_path, runtime=runtime)
    assert "\n" not in str(error.value)


def test_a_second_part_of_a_message_counts_too():
    """Protobuf joins fields that come twice."""
    with pytest.raises(UserError, match="a graph within the graph"):
        screen(plain().SerializeToString() + endless_loop().SerializeToString())


@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_exported_passes(make, kind, quantized):
    screen(build_graph(make(kind, quantized)).SerializeToString())
    screen(plain().SerializeToString())


def test_names_of_another_wire_type_hide_nothing():
    """Protobuf passes over a field whose type it does not expect, and keeps the one before."""
    for field in (b"\x08\x07", b"\x20\x07", b"\x52\x00\x50\x07"):
        made = flat_function()
        content = made.functions[0].SerializeToString() + field
        del made.functions[:]
        content = made.SerializeToString() + b"\xca\x01" + bytes([len(content)]) + content
        with pytest.raises(UserError, match="damaged|functions of its own"):
            screen(content)


def test_very_many_functions_are_refused_at_once():
    many = model([call("Mine", "x", "log_probs")], [relu(), *(relu(f"Other{n}", domain="own") for n in range(3000))])
    with pytest.raises(UserError, match="functions of its own"):
        screen(many.SerializeToString())


def test_our_functions_pass_and_run():
    content = flat_function().SerializeToString()
    screen(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {"x": np.full((1, 1, 4), -1, np.float32), "x_lens": np.array([1])}
    assert not session.run(None, feed)[0].any()


def test_the_numbers_of_fields_are_those_of_onnx():
    for message, inners in MESSAGES.items():
        found = {f.number: f.message_type.name for f in getattr(onnx, message).DESCRIPTOR.fields if f.message_type}
        for number, name in inners.items():
            assert found[number] == name if not name.startswith("!") else number in found
        known = {"GraphProto", "FunctionProto", "TrainingInfoProto", *MESSAGES}
        assert {number for number, name in found.items() if name in known} <= set(inners), message
    external = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert external.number in MESSAGES["TensorProto"]


@pytest.mark.parametrize(
    "content", [b"", b"\x3a", b"\x3a\x05\x0a", b"\x3b\x3c", b"\x80" * 12, b"\xb8\x80\x80\x80\x80\x01\x00"]
)
def test_bytes_that_are_no_message(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    for source in (content, tmp_path / "model.onnx"):
        with pytest.raises(UserError, match="export the model again"):
            screen(source)


SOUND = endless_loop().SerializeToString()


@settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_passes_holds_no_loop_for_onnx_either(data):
    content = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        screen(bytes(content))
    except UserError:
        return
    try:
        graph = onnx.load_from_string(bytes(content)).graph
    except Exception:  # of protobuf; then a runtime cannot read it
        return
    assert not any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)


def test_fields_are_found_where_protobuf_puts_them():
    tensor = numpy_helper.from_array(np.arange(300, dtype=np.int64), "numbers")
    data = tensor.SerializeToString()
    places = {number: data[first:last] for number, first, last in fields(data, 0, len(data))}
    assert places[8] == b"numbers" and places[9] == tensor.raw_data
    assert int.from_bytes(places[1][:1]) & 127 | places[1][1] << 7 == 300
