import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from offramp.export.stages import HeadCut, count_macs, cut, parameter_bytes


def value(name, channels):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 4, 6])


def weight(name, shape, seed):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return helper.make_tensor(name, TensorProto.FLOAT, shape, values.ravel())


@pytest.fixture
def model():
    """Two stages with a skip connection and a node that the first head shares with the second stage.

    image -conv-> a -relu-> b(tap 1) -conv-> c -add(a)-> d(tap 2)
    head 1: b -relu-> e -conv-> first;  stage 2 reads e as well: c = conv(e)
    head 2: concat(d, a) -> second
    """
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["e"]),
        helper.make_node("Conv", ["e", "w2"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("Conv", ["e", "w3"], ["first"]),
        helper.make_node("Concat", ["d", "a"], ["second"], axis=1),
    ]
    weights = [weight("w1", [5, 3, 1, 1], 1), weight("w2", [5, 5, 1, 1], 2), weight("w3", [2, 5, 1, 1], 3)]
    graph = helper.make_graph(
        nodes,
        "two exits",
        [value("image", 3)],
        [value("b", 5), value("d", 5), value("first", 2), value("second", 10)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def run(model, inputs, outputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [given.name for given in session.get_inputs()]
    return dict(zip(outputs, session.run(list(outputs), {name: inputs[name] for name in wanted}), strict=True))


HEADS = [HeadCut(("first",), 0), HeadCut(("second",), 1)]


def test_a_node_belongs_to_the_first_stage_that_needs_it(model):
    stages, heads = cut(model, ["b", "d"], HEADS)
    operations = [[node.op_type for node in piece.model.graph.node] for piece in (*stages, *heads)]
    assert operations == [
        ["Conv", "Relu"],
        ["Sigmoid", "Conv", "Add"],
        # The sigmoid belongs to stage 2; the first head repeats it rather than wait for that stage.
        ["Sigmoid", "Conv"],
        ["Concat"],
    ]


def test_whatever_crosses_is_an_output_skip_connections_included(model):
    stages, heads = cut(model, ["b", "d"], HEADS)
    assert [(piece.inputs, piece.outputs) for piece in stages] == [(("image",), ("a", "b")), (("a", "b"), ("d",))]
    assert [(piece.inputs, piece.outputs) for piece in heads] == [(("b",), ("first",)), (("a", "d"), ("second",))]


def test_pieces_in_turn_equal_the_whole(model):
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)
    whole = run(model, {"image": image}, ["first", "second"])
    stages, heads = cut(model, ["b", "d"], HEADS)
    tensors = {"image": image}
    for piece in (*stages, *heads):
        onnx.checker.check_model(piece.model)
        tensors |= run(piece.model, tensors, piece.outputs)
    for name, wanted in whole.items():
        # A convolution may add up in another order where it is fused with its neighbours.
        np.testing.assert_allclose(tensors[name], wanted, atol=1e-5)


def test_a_piece_carries_only_the_weights_that_it_uses(model):
    stages, heads = cut(model, ["b", "d"], HEADS)
    carried = [{tensor.name for tensor in piece.model.graph.initializer} for piece in (*stages, *heads)]
    assert carried == [{"w1"}, {"w2"}, {"w3"}, set()]


def test_macs_and_bytes_by_hand(model):
    # 4 x 6 pixels: 1x1 convolutions of 3 -> 5, 5 -> 5 and 5 -> 2 channels.
    assert count_macs(model) == 24 * (3 * 5 + 5 * 5 + 5 * 2)
    assert parameter_bytes(model) == 4 * (15 + 25 + 10)


def test_tensors_that_a_subgraph_reads_from_outside_cross_as_well():
    inner = helper.make_graph([helper.make_node("Relu", ["a"], ["yes"])], "yes", [], [value("yes", 3)])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["no"])], "no", [], [value("no", 3)])
    nodes = [
        helper.make_node("Sigmoid", ["image"], ["a"]),
        helper.make_node("Neg", ["image"], ["b"]),
        helper.make_node("If", ["condition"], ["second"], then_branch=inner, else_branch=other),
    ]
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "if", [value("image", 3), condition], [value(n, 3) for n in ("a", "b", "second")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    _, heads = cut(onnx.shape_inference.infer_shapes(made), ["a"], [HeadCut(("second",), 0)])
    assert heads[0].inputs == ("a", "condition")
