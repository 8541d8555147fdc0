"""From the PyTorch network to ONNX: one graph with every tap and every exit as outputs.

Normalisation is inside: the graphs take RGB bytes, (1, H, W, 3). So is everything that a policy needs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from offramp.models.confidence import grouped, pixel_confidence, sure_counts
from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import ConfidenceKind

IMAGE = "image"
HEAD_OUTPUTS = ("scores", "confidence", "sure")
OPSET = 18
IR_VERSION = 10
"""Of graphs written by hand; the exporter's are the same."""

SMALLEST_BLOCK = 6
"""Rows of cells from which interpolated rows are made at once."""

POLICY_STRIDE = 4
"""Finer class scores are judged at every second or fourth pixel: at full resolution the policy would cost 40 % of a network."""


class EveryExit(nn.Module):
    """Image bytes in; the feature map of each tap, then class scores, confidence and sure counts of each exit out."""

    def __init__(
        self,
        network: MultiExitNetwork,
        confidence: ConfidenceKind,
        object_classes: tuple[int, ...],
        groups: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.confidence = confidence
        self.object_classes = object_classes
        self.groups = groups
        self.taps = (*dict.fromkeys(map(network.tap_of, network.spec.exit_names)),)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in the order of `forward`'s."""
        return [
            *(tap_output(tap) for tap in self.taps),
            *(name for exit_name in self.network.spec.exit_names for name in head_outputs(exit_name)),
        ]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Image (1, H, W, 3) uint8; see `output_names`."""
        features = self.network.features(image.permute(0, 3, 1, 2).float())
        outputs = [features[tap] for tap in self.taps]
        for of_data in self.network.answer(features, self.network.spec.exit_names).values():
            scores = grouped(of_data, self.groups) if self.groups else of_data
            step = max(1, POLICY_STRIDE // self.network.stride(scores, image.shape[1]))
            judged = scores[..., step // 2 :: step, step // 2 :: step] if step > 1 else scores
            confidence = pixel_confidence(judged, self.confidence)
            outputs += [scores, confidence, sure_counts(judged, confidence, self.object_classes)]
        return tuple(outputs)


def labels_graph(shape: Sequence[int], stride: int, height: int, width: int, *, label_stride: int = 1) -> onnx.ModelProto:
    """A graph from class scores of `shape`, (1, C, h, w), to a label map, uint8; written by hand.

    Bilinear interpolation is a matrix product for columns and one for rows; what hangs over the image's edge is cut off. Where
    rows are multiplied in number they come in blocks, each made from a few rows of cells by one small matrix, the same for all:
    the whole matrix would be zeros for the most part. ONNX Runtime's Resize takes longer than even that.

    Args:
        shape: of the class scores.
        stride: image pixels on a side for each of their cells.
        height: of the image.
        width: of the image.
        label_stride: the label map is (1, ceil(height / label_stride), ceil(width / label_stride)).

    """
    rows, columns = -(-height // label_stride), -(-width // label_stride)
    graph = _LabelNodes("scores")
    if stride != label_stride or (rows, columns) != tuple(shape[2:]):
        across = interpolation_matrix(shape[3], stride, columns, label_stride)
        graph.add("MatMul", graph.last, graph.constant("columns", across.T))
        if stride % label_stride or stride < 2 * label_stride or shape[2] <= SMALLEST_BLOCK:
            graph.add("MatMul", graph.constant("rows", interpolation_matrix(shape[2], stride, rows, label_stride)), graph.last)
        else:
            _rows_in_blocks(graph, (shape[1], shape[2], columns), stride // label_stride)
    graph.add("ArgMax", graph.last, axis=1, keepdims=0)
    if graph.rows not in (None, rows):
        begin, end, axis = (graph.constant(name, np.array([at])) for name, at in (("begin", 0), ("end", rows), ("axis", 1)))
        graph.add("Slice", graph.last, begin, end, axis)
    graph.nodes.append(helper.make_node("Cast", [graph.last], ["labels"], to=onnx.TensorProto.UINT8))
    given = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, [1, rows, columns])
    whole = helper.make_graph(graph.nodes, "labels", [given], [made], graph.weights)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model)


class _LabelNodes:
    """Nodes in a row, each of which takes what the one before it made."""

    def __init__(self, last: str) -> None:
        self.last = last
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rows: int | None = None
        """Rows of `last`, where they are not those of the label map yet."""

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """A weight; its name in the graph."""
        kept = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(kept), f"labels/{name}"))
        return f"labels/{name}"

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """A node."""
        self.last = f"labels/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [self.last], **attributes))


def _rows_in_blocks(graph: _LabelNodes, shape: tuple[int, int, int], factor: int) -> None:
    """Interpolate (1, C, h, W) to (1, C, H, W) with `factor` rows for each; H is a multiple of a block, at least h * factor."""
    classes, cells, columns = shape
    # The block that leaves least to be cut off.
    block = min(range(SMALLEST_BLOCK, 17), key=lambda size: (-cells % size, -size))
    blocks = -(-cells // block)
    # A block's rows lie between its own cells and one more on either side; at the image's edges that is the outermost again.
    around = np.arange(blocks)[:, None] * block + np.arange(-1, block + 1)
    graph.add("Gather", graph.last, graph.constant("around", around.clip(0, cells - 1)), axis=2)
    own = interpolation_matrix(block + 2, factor, (block + 2) * factor)[factor:-factor]
    graph.add("MatMul", graph.constant("rows", own), graph.last)
    graph.rows = blocks * block * factor
    graph.add("Reshape", graph.last, graph.constant("shape", np.array([1, classes, graph.rows, columns])))


def interpolation_matrix(cells: int, stride: int, number: int, label_stride: int = 1) -> npt.NDArray[np.float32]:
    """The matrix (number, cells) by which bilinear interpolation along one axis multiplies cells `stride` pixels apart.

    It gives the values at the centres of `number` pixels of a label map, `label_stride` image pixels apart. With 1 it is
    PyTorch's bilinear upsampling with align_corners=False.
    """
    place = ((np.arange(number) + 0.5) * label_stride / stride - 0.5).clip(0, cells - 1)
    below = np.floor(place).astype(int)
    matrix = np.zeros((number, cells))
    matrix[np.arange(number), below] = 1 - (place - below)
    matrix[np.arange(number), np.minimum(below + 1, cells - 1)] += place - below
    return matrix.astype(np.float32)


def tap_output(tap: str) -> str:
    """Name of the tensor at a tap."""
    return f"tap/{tap}"


def head_outputs(exit_name: str) -> tuple[str, ...]:
    """Names of an exit's outputs: class scores, confidence, sure counts."""
    return tuple(f"{exit_name}/{output}" for output in HEAD_OUTPUTS)


def to_onnx(module: nn.Module, example: torch.Tensor, input_name: str, output_names: Sequence[str]) -> onnx.ModelProto:
    """Export a module with one input to an ONNX model with static shapes, batch-norm folded."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)  # they, too, speak of the exporter's internals
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                module.eval(),
                (example,),
                input_names=[input_name],
                output_names=list(output_names),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    assert program is not None
    return onnx.shape_inference.infer_shapes(program.model_proto)
