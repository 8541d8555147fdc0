"""From the PyTorch network to ONNX: one graph with every tap and every exit as outputs.

Normalisation is inside: the graphs take RGB bytes, (1, H, W, 3). So is everything that a policy needs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from offramp.models.confidence import pixel_confidence, sure_counts
from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import ConfidenceKind

IMAGE = "image"
HEAD_OUTPUTS = ("scores", "confidence", "sure")
OPSET = 18
IR_VERSION = 10
"""Of graphs written by hand; the exporter's are the same."""

POLICY_STRIDE = 4
"""Finer class scores are judged at every second or fourth pixel: at full resolution the policy would cost 40 % of a network."""


class EveryExit(nn.Module):
    """Image bytes in; the feature map of each tap, then class scores, confidence and sure counts of each exit out."""

    def __init__(self, network: MultiExitNetwork, confidence: ConfidenceKind, object_classes: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.confidence = confidence
        self.object_classes = object_classes
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
        for scores in self.network.answer(features, self.network.spec.exit_names).values():
            step = max(1, POLICY_STRIDE // self.network.stride(scores, image.shape[1]))
            judged = scores[..., step // 2 :: step, step // 2 :: step] if step > 1 else scores
            confidence = pixel_confidence(judged, self.confidence)
            outputs += [scores, confidence, sure_counts(judged, confidence, self.object_classes)]
        return tuple(outputs)


def labels_graph(shape: Sequence[int], stride: int, height: int, width: int) -> onnx.ModelProto:
    """A graph from class scores of `shape`, (1, C, h, w), to the label map (1, height, width) uint8; written by hand.

    Bilinear upsampling is two matrix products, one for rows and one for columns, cut to the image: nearly twice as fast in
    ONNX Runtime as its Resize, and nothing that hangs over the image's edge is computed.
    """
    rows = upsampling_matrix(shape[2], stride)[:height]
    columns = upsampling_matrix(shape[3], stride)[:width].T
    nodes, weights, full = [], [], "scores"
    if (shape[2], shape[3]) != (height, width):
        weights = [numpy_helper.from_array(rows, "labels/rows"), numpy_helper.from_array(columns.copy(), "labels/columns")]
        nodes = [
            helper.make_node("MatMul", ["scores", "labels/columns"], ["labels/wide"]),
            helper.make_node("MatMul", ["labels/rows", "labels/wide"], ["labels/full"]),
        ]
        full = "labels/full"
    nodes += [
        helper.make_node("ArgMax", [full], ["labels/index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["labels/index"], ["labels"], to=onnx.TensorProto.UINT8),
    ]
    given = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, [1, height, width])
    graph = helper.make_graph(nodes, "labels", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model)


def upsampling_matrix(cells: int, stride: int) -> npt.NDArray[np.float32]:
    """The matrix (cells * stride, cells) by which bilinear upsampling multiplies values along one axis."""
    identity = torch.eye(cells)[None, None]
    stretched = functional.interpolate(identity, size=(cells * stride, cells), mode="bilinear", align_corners=False)
    return stretched[0, 0].numpy()


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
