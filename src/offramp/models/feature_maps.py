"""What modules give and what of it is a feature map: (N, C, h, w), whatever the layout in which its network keeps it.

An image of H x W pixels has a map of ceil(H / stride) x ceil(W / stride) cells, each `stride` pixels wide. Networks keep it as
(N, C, h, w), as (N, h, w, C) (Swin), or as a sequence of tokens (N, h * w, C) (SegFormer), class tokens before it or not (ViT).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from offramp.errors import InputError

STRIDES = (1, 2, 4, 8, 16, 32, 64, *(stride for stride in range(3, 64) if stride & (stride - 1)))
"""Tried in this order: powers of two first."""

CLASS_TOKENS = (0, 1, 2, 5)
"""How many tokens may stand before those of the grid: ViT has one, DeiT two, DINO with registers five."""


@dataclass(frozen=True)
class Layout:
    """How a module's output holds a feature map."""

    kind: Literal["nchw", "nhwc", "tokens"]
    stride: int
    """Input pixels per cell."""
    channels: int
    before: int = 0
    """Tokens before those of the grid."""

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map for an image of this size."""
        return -(-height // self.stride), -(-width // self.stride)

    def as_map(self, output: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Bring a module's output for images of this size to (N, C, h, w)."""
        if self.kind == "nchw":
            return output
        if self.kind == "nhwc":
            return output.permute(0, 3, 1, 2)
        rows, columns = self.cells(height, width)
        return output[:, self.before :].transpose(1, 2).reshape(len(output), self.channels, rows, columns)


def layout_of(shape: tuple[int, ...] | None, height: int, width: int) -> Layout | None:
    """How an output of this shape holds a feature map of one image of this size; None if it holds none."""
    if shape is None or shape[0] != 1:
        return None
    for stride in STRIDES:
        grid = (-(-height // stride), -(-width // stride))
        if len(shape) == 4 and shape[2:] == grid:
            return Layout("nchw", stride, shape[1])
        if len(shape) == 4 and shape[1:3] == grid:
            return Layout("nhwc", stride, shape[3])
        before = shape[1] - grid[0] * grid[1] if len(shape) == 3 else -1
        if before in CLASS_TOKENS and grid[0] * grid[1] > 1:
            return Layout("tokens", stride, shape[2], before)
    return None


def main_tensor(output: object) -> torch.Tensor | None:
    """The tensor that a module's output is about: itself, or the first of a tuple (transformers' layers give such ones)."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


def every_tensor(output: object) -> Iterator[torch.Tensor]:
    """All tensors in an output or in arguments, nested or not."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from every_tensor(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from every_tensor(value)


@dataclass(frozen=True)
class Answer:
    """What a whole network gives."""

    tensor: torch.Tensor
    """Class scores, or the deepest feature map."""
    kind: Literal["scores", "features", "either"]


def read_answer(output: Any) -> Answer | None:
    """Read a network's output; None if there is neither a map of class scores nor of features in it.

    Class scores come as `output["out"]` (torchvision) or `output.logits` (transformers); a list, or a dict of nothing else
    (torchvision's backbones), holds a backbone's feature maps, the deepest last; a tensor alone may be either.
    """
    if isinstance(output, torch.Tensor):
        return Answer(output, "either")
    if isinstance(output, Mapping) and isinstance(output.get("out"), torch.Tensor):
        return Answer(output["out"], "scores")
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return Answer(logits, "scores")
    maps = getattr(output, "feature_maps", output)
    if isinstance(maps, list | tuple) and maps and isinstance(maps[-1], torch.Tensor):
        return Answer(maps[-1], "features")
    hidden = getattr(output, "last_hidden_state", None)
    if isinstance(hidden, torch.Tensor):
        return Answer(hidden, "features")
    named = list(output.values()) if isinstance(output, Mapping) else []
    whole = bool(named) and all(isinstance(tensor, torch.Tensor) and tensor.dim() == 4 for tensor in named)
    return Answer(named[-1], "features") if whole else None


def stride_of(cells: int, pixels: int) -> int:
    """Pixels per cell of a map with `cells` along a side of `pixels`: the power of two that rounds up to that, or a divisor.

    Raises:
        InputError: no stride does; the network rounds down.

    """
    stride: int = 1 << math.ceil(math.log2(pixels / cells))
    if -(-pixels // stride) == cells:
        return stride
    if pixels % cells:
        raise InputError(
            f"a feature map of {cells} on {pixels} pixels has no whole stride; take a size that is a multiple of 32"
        )
    return pixels // cells


def upsample(scores: torch.Tensor, stride: float, height: int, width: int) -> torch.Tensor:
    """Bilinear upsampling of a map (N, C, h, w) by exactly a factor, such as its stride, cut to (N, C, height, width).

    Stretching to the image's size instead would shift the answer wherever the size is no multiple of the stride: a feature map
    has ceil(size / stride) pixels, each `stride` image pixels wide, and the last one hangs over.
    """
    if stride != 1:
        size = (round(scores.shape[2] * stride), round(scores.shape[3] * stride))
        scores = functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    return scores[..., :height, :width]
