import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.export.quantisation import find_ranges, in_16_bits
from offramp.export.stages import parameter_bytes

WEIGHTS = {
    "w0": np.array([[[[1.0]]], [[[-0.5]]], [[[0.31]]]], np.float32),
    "w1": np.array([[[[0.2]], [[0.7]], [[-1.3]]], [[[0.9]], [[-0.4]], [[0.05]]]], np.float32),
}
SHAPES = {"image": (1, 1, 4, 8), "scores": (1, 2, 4, 8), "sure": (1, 2, 4, 8)}


@pytest.fixture
def graph(tmp_path):
    """Two 1x1 convolutions with a ReLU between them give scores; a third one, behind the scores, is a policy's."""
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["scores"], "second"),
        helper.make_node("Conv", ["scores", "w2"], ["sure"], "policy"),
    ]
    w2 = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES.items()}
    weights = [numpy_helper.from_array(array, name) for name, array in {**WEIGHTS, "w2": w2}.items()]
    made = helper.make_graph(nodes, "g", [values["image"]], [values["scores"], values["sure"]], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def image(seed=0):
    return np.random.default_rng(seed).uniform(-1, 3, SHAPES["image"]).astype(np.float32)


def run(model, array):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": array})[0]


def rounded_to_8_bits(array, low, high):
    """Uint8 with one scale, as the ONNX standard defines it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(array / scale) + zero, 0, 255) - zero) * scale


def weights_to_8_bits(array):
    """Int8, symmetric, with a scale for each output channel."""
    scale = np.abs(array).max(axis=(1, 2, 3), keepdims=True) / 127
    return np.rint(array / scale) * scale


def convolved(array, weights):
    return np.einsum("oi,nihw->nohw", weights[..., 0, 0], array)


def test_it_computes_what_8_bits_say(graph, tmp_path):
    array = image()
    ranged = find_ranges(graph, [{"image": array}], ["scores"], tmp_path)
    assert ranged.layers == ("first", "second"), "what follows class scores is no layer of the network"
    got = run(ranged.quantised(ranged.layers, tmp_path / "scratch.onnx"), array)
    first = np.einsum(
        "oi,nihw->nohw", weights_to_8_bits(WEIGHTS["w0"])[..., 0, 0], rounded_to_8_bits(array, array.min(), array.max())
    )
    middle = np.maximum(first, 0)  # the ReLU vanishes into a range that begins at 0
    second = np.einsum("oi,nihw->nohw", weights_to_8_bits(WEIGHTS["w1"])[..., 0, 0], rounded_to_8_bits(middle, 0, middle.max()))
    wanted = rounded_to_8_bits(second, second.min(), second.max())
    step = (second.max() - min(second.min(), 0)) / 255
    # The ranges are of the fp32 tensors, and end at the bins of a histogram: a step or two.
    assert np.abs(got - wanted).max() < 3 * step
    assert np.abs(got - run(onnx.load(graph), array)).max() > 0, "nothing was rounded"


def test_layers_are_chosen_one_by_one(graph, tmp_path):
    ranged = find_ranges(graph, [{"image": image(seed)} for seed in range(3)], ["scores"], tmp_path)

    def in_int8(layers):
        model = ranged.quantised(layers, tmp_path / "scratch.onnx")
        stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        return {name for name in ("w0", "w1", "w2") if stored.get(f"{name}_quantized") == TensorProto.INT8}

    assert in_int8([]) == set()
    assert in_int8(["first"]) == {"w0"}
    assert in_int8(["second"]) == {"w1"}
    assert in_int8(["first", "second"]) == {"w0", "w1"}
    kinds = [node.op_type for node in ranged.quantised(["second"], tmp_path / "scratch.onnx").graph.node]
    assert "Relu" in kinds, "the activation of a layer in float stays"


def test_ranges_leave_single_values_out(graph, tmp_path):
    array = image()
    array[..., 0, 0] = 500.0
    many = [{"image": image(seed)} for seed in range(700)]
    ranged = find_ranges(graph, [*many, {"image": array}], ["scores"], tmp_path)
    usual = image(7)
    got, wanted = run(ranged.quantised(["first"], tmp_path / "scratch.onnx"), usual), run(onnx.load(graph), usual)
    assert np.abs(got - wanted).max() < 0.1, "one value in 22,432 has made all others coarse"


@pytest.mark.parametrize(("precision", "bits"), [("fp16", 11), ("bf16", 8)])
def test_weights_of_16_bits(precision, bits):
    array = np.random.default_rng(1).normal(size=(16, 4, 3, 3)).astype(np.float32)
    huge = np.full(20, 1e5, np.float32)
    few = np.array([0.1, 0.2], np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Identity", ["huge"], ["z"]),
        helper.make_node("Identity", ["few"], ["v"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yzv"]
    weights = [numpy_helper.from_array(a, n) for n, a in {"w": array, "huge": huge, "few": few}.items()]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 3, 3))], outputs, weights
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    before = parameter_bytes(model)
    assert before == 4 * (array.size + huge.size + few.size)
    stored = in_16_bits(model, precision)
    session = onnxruntime.InferenceSession(stored.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).normal(size=(1, 4, 3, 3)).astype(np.float32)
    y, z, v = session.run(None, {"x": x})
    # Rounding to so many bits of mantissa, by hand.
    mantissa, exponent = np.frexp(array.astype(np.float64))
    exact = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    np.testing.assert_allclose(y[0, :, 0, 0], (exact * x).sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(v, few)
    if precision == "fp16":
        np.testing.assert_array_equal(z, huge)
        assert parameter_bytes(stored) == before - 2 * array.size
    else:
        assert parameter_bytes(stored) == before - 2 * (array.size + huge.size)


CUT_SHORT = """
import resource, sys
from pathlib import Path
from offramp.errors import InputError
from offramp.export.quantisation import find_ranges

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    find_ranges(Path(sys.argv[1]), [], (), Path(sys.argv[1]).parent)
except InputError as error:
    print(error)
"""


def test_a_temporary_graph_that_was_cut_short_is_told(graph):
    done = subprocess.run([sys.executable, "-c", CUT_SHORT, graph], check=True, capture_output=True, text=True, timeout=100)
    assert f"cannot quantise {graph}" in done.stdout
    assert "cut short" in done.stdout
