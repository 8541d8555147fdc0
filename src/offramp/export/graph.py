"""From the PyTorch network to ONNX: one graph with every tap and every exit as outputs.

Normalisation is inside: the graphs take RGB bytes, (1, H, W, 3). So is everything that a policy needs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import nn
from torch.nn import functional

from offramp.models.confidence import pixel_confidence, sure_counts
from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import FINAL, ConfidenceKind

IMAGE = "image"
HEAD_OUTPUTS = ("scores", "confidence", "sure")
OPSET = 18


class EveryExit(nn.Module):
    """Image bytes in; the feature map of each tap, then class scores, confidence and sure counts of each exit out."""

    def __init__(self, network: MultiExitNetwork, confidence: ConfidenceKind, object_classes: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.confidence = confidence
        self.object_classes = object_classes
        self.taps = (*dict.fromkeys(early.tap for early in network.spec.exits), FINAL)

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
            confidence = pixel_confidence(scores, self.confidence)
            outputs += [scores, confidence, sure_counts(scores, confidence, self.object_classes)]
        return tuple(outputs)


class Labels(nn.Module):
    """Class scores at head resolution in, the label map at the image's size out.

    Bilinear upsampling is two matrix products, one for rows and one for columns, cut to the image: nearly twice as fast in
    ONNX Runtime as its Resize, and nothing that hangs over the image's edge is computed.
    """

    def __init__(self, shape: tuple[int, ...], stride: int, height: int, width: int) -> None:
        """Prepare the products for class scores of this shape, (1, C, h, w)."""
        super().__init__()
        rows, columns = torch.eye(shape[2])[None, None], torch.eye(shape[3])[None, None]
        self.rows: torch.Tensor
        self.columns: torch.Tensor
        self.register_buffer("rows", _along_rows(rows, stride)[:height])
        self.register_buffer("columns", _along_rows(columns, stride)[:width].T.contiguous())

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Class scores (1, C, h, w) to labels (1, H, W) uint8."""
        return (self.rows @ (scores @ self.columns)).argmax(dim=1).to(torch.uint8)


def _along_rows(identity: torch.Tensor, stride: int) -> torch.Tensor:
    """The matrix (n * stride, n) by which bilinear upsampling multiplies n values, from the identity (1, 1, n, n)."""
    size = identity.shape[2]
    stretched = functional.interpolate(identity, size=(size * stride, size), mode="bilinear", align_corners=False)
    return stretched[0, 0]


class Original(nn.Module):
    """The network without early exits: image bytes in, label map out."""

    def __init__(self, network: MultiExitNetwork, labels: Labels) -> None:
        super().__init__()
        self.network = network
        self.labels = labels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image (1, H, W, 3) uint8 to labels (1, H, W) uint8."""
        scores = self.network(image.permute(0, 3, 1, 2).float(), [FINAL])[FINAL]
        return self.labels(scores)  # type: ignore[no-any-return]


def tap_output(tap: str) -> str:
    """Name of the tensor at a tap."""
    return f"tap/{tap}"


def head_outputs(exit_name: str) -> tuple[str, ...]:
    """Names of an exit's outputs: class scores, confidence, sure counts."""
    return tuple(f"{exit_name}/{output}" for output in HEAD_OUTPUTS)


def to_onnx(module: nn.Module, example: torch.Tensor, input_name: str, output_names: Sequence[str]) -> onnx.ModelProto:
    """Export a module with one input to an ONNX model with static shapes, batch-norm folded."""
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
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
        exporter_log.setLevel(level)
    assert program is not None
    return onnx.shape_inference.infer_shapes(program.model_proto)
