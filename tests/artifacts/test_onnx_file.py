"""What is told of ONNX files without the library, against what the library itself writes."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.artifacts.onnx_file import read_graph


def model(*nodes, tensors=(), functions=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "w", "y")]
    graph = helper.make_graph(
        list(nodes), "g", values[:2], values[2:], [numpy_helper.from_array(np.ones(2, np.float32), "w"), *tensors]
    )
    return helper.make_model(graph, functions=list(functions)).SerializeToString()


ADD = helper.make_node("Add", ["x", "w"], ["y"])
LOOP = helper.make_node("Loop", ["", ""], [], body=helper.make_graph([], "body", [], []))


def outside(place):
    tensor = TensorProto(name="out", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


def test_inputs_with_weights_are_no_inputs():
    found = read_graph(model(ADD))
    assert (found.inputs, found.outputs) == ({"x"}, {"y"})


@pytest.mark.parametrize(
    "content",
    [
        model(ADD, LOOP),
        model(helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([LOOP], "a", [], []))),
        model(ADD, functions=[helper.make_function("d", "F", [], [], [LOOP], [])]),
    ],
)
def test_loops_are_found_wherever_they_are(content):
    with pytest.raises(ValueError, match="loop"):
        read_graph(content)


@pytest.mark.parametrize(
    "content",
    [model(ADD, tensors=[outside("a")]), model(helper.make_node("Constant", [], ["y"], value=outside("a")))],
)
def test_weights_elsewhere_are_found(content):
    with pytest.raises(ValueError, match="another file"):
        read_graph(content)


def test_any_bytes_end_in_an_answer_or_a_value_error():
    whole, rng = model(ADD), np.random.default_rng(0)
    damaged = [whole[:length] for length in range(len(whole))]
    for place in rng.integers(0, len(whole), 300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(place) % 8
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        try:
            read_graph(content)
        except ValueError:
            refused += 1
    assert refused > len(damaged) / 3
