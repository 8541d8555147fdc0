"""Graphs that give what is not finite, or too large: found by node, against numbers known by construction."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.artifacts import GraphEntry
from offramp.errors import InputError
from offramp.export.probing import LARGEST_FP16, first_beyond, probe_images, require_finite_graphs


def graph_of(factors):
    """A graph that multiplies by one number after another."""
    weights = [
        numpy_helper.from_array(np.array([factor], np.float32), f"network.layer{i}.weight") for i, factor in enumerate(factors)
    ]
    nodes = [helper.make_node("Cast", ["image"], ["x0"], "begin", to=TensorProto.FLOAT)]
    for index, weight in enumerate(weights):
        nodes.append(helper.make_node("Mul", [f"x{index}", weight.name], [f"x{index + 1}"], f"times {index}"))
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 2, 3, 3])
    made = helper.make_tensor_value_info(f"x{len(factors)}", TensorProto.FLOAT, [1, 2, 3, 3])
    graph = helper.make_graph(nodes, "graph", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def white():
    return {"image": np.full((1, 2, 3, 3), 255, np.uint8)}


def test_probe_images_are_black_white_and_noise():
    black, white, noise = probe_images((7, 5))
    assert {image.shape for image in (black, white, noise)} == {(1, 5, 7, 3)}
    assert black.max() == 0
    assert white.min() == 255
    assert len(np.unique(noise)) > 50


def test_a_sound_graph(white):
    assert first_beyond(graph_of([2.0, 3.0]), white) is None
    assert first_beyond(graph_of([100.0, 2.5, 1e-3]), white, LARGEST_FP16) is None  # 255 * 250 = 63,750


def test_the_first_node_that_is_infinite(white):
    found = first_beyond(graph_of([1e30, 1e10, 0.0]), white)
    assert (found.node, found.kind, found.layer) == ("times 1", "Mul", "layer1")
    assert found.magnitude == np.inf
    assert found.input_magnitude == pytest.approx(255e30)
    assert found.weights_are_finite


def test_a_weight_that_is_not_finite(white):
    found = first_beyond(graph_of([2.0, np.nan]), white)
    assert found.node == "times 1"
    assert np.isnan(found.magnitude)
    assert not found.weights_are_finite
    assert (
        str(found)
        == "its node times 1 (Mul) of the layer layer1 gives nan from inputs of at most 510; its weights are not finite"
    )


def test_one_nan_among_many_numbers_is_found():
    model = graph_of([1.0, 1.0])
    weight = np.ones((1, 2, 3, 3), np.float32)
    weight[0, 1, 2, 1] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "network.layer1.weight"))
    for image in probe_images((3, 2)):
        assert first_beyond(model, {"image": image}).node == "times 1"


def test_what_fp16_does_not_hold(white):
    found = first_beyond(graph_of([100.0, 2.6, 1e-3]), white, LARGEST_FP16)  # 255 * 260 = 66,300
    assert found.node == "times 1"
    assert found.magnitude == pytest.approx(66300)


def test_graphs_of_a_package_are_refused_by_name(tmp_path):
    onnx.save(graph_of([1e30, 1e10]), tmp_path / "stage-0.onnx")
    entry = GraphEntry(file="stage-0.onnx", sha256="0" * 64, inputs=("image",), outputs=("x2",), macs=0, parameter_bytes=0)
    images = probe_images((3, 2))
    require_finite_graphs(tmp_path, [entry], [], images[:1])  # black: 0 times anything
    with pytest.raises(InputError, match=r"stage-0\.onnx is not fit for use: its node times 1 .*layer1 gives inf .*; stop$"):
        require_finite_graphs(tmp_path, [entry], [], images, do="stop")
