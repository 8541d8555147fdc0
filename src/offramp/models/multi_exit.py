"""The multi-exit network: a backbone, taps on its modules, a head on each tap.

Taps are forward hooks: the backbone is not rewritten, its state dict keeps its names, and any `nn.Module` serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from offramp.errors import InputError
from offramp.models.backbones import Backbone, build_backbone
from offramp.models.heads import HEADS
from offramp.models.taps import check_tap, choose_taps, trace_taps
from offramp.specs import FINAL, ExitSpec, HeadSpec, NetworkSpec, OutputStride, Size

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, which timm's weights expect."""

TRACE_SIZE = 64
"""Pixels; enough to learn the channels at every tap."""


class MultiExitNetwork(nn.Module):
    """A segmentation network that can answer at several depths."""

    def __init__(self, backbone: Backbone, spec: NetworkSpec, channels: dict[str, int]) -> None:
        """Attach the heads.

        Args:
            backbone: the feature extractor.
            spec: final head and early exits, in order of depth.
            channels: of the feature map at each tap.

        Raises:
            InputError: an exit taps what is no module, or no feature map.

        """
        super().__init__()
        for early in spec.exits:
            check_tap(backbone.network, early.tap)
            if early.tap not in channels:
                raise InputError(f"no exit can tap {early.tap!r}; points of this network: {', '.join(channels)}")
        self.spec = spec
        self.backbone = backbone
        self.final_head = HEADS[spec.final_head.kind](backbone.channels, spec.num_classes, spec.final_head)
        self.early_heads = nn.ModuleList(
            HEADS[early.head.kind](channels[early.tap], spec.num_classes, early.head) for early in spec.exits
        )
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)
        self._tapped: dict[str, torch.Tensor] = {}
        for tap in {early.tap for early in spec.exits}:
            backbone.network.get_submodule(tap).register_forward_hook(self._keep(tap))

    def _keep(self, tap: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            self._tapped[tap] = output

        return hook

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the backbone on RGB images (N, 3, H, W) with values in [0, 255]; the feature map of every tap, and FINAL's."""
        deepest = self.backbone((images / 255.0 - self.mean) / self.std)
        taken = {**self._tapped, FINAL: deepest}
        self._tapped.clear()
        return taken

    def answer(self, features: dict[str, torch.Tensor], exits: Sequence[str]) -> dict[str, torch.Tensor]:
        """Class scores (N, C, h, w) of the exits asked for, each at its head's resolution."""
        heads = {early.name: (head, early.tap) for early, head in zip(self.spec.exits, self.early_heads, strict=True)}
        heads[FINAL] = (self.final_head, FINAL)
        return {name: heads[name][0](features[heads[name][1]]) for name in exits}

    def stride(self, scores: torch.Tensor, height: int) -> int:
        """Input pixels per pixel of class scores (N, C, h, w) that came from images of this height: a power of two."""
        return stride_of(scores.shape[2], height)

    def forward(self, images: torch.Tensor, exits: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Class scores of `exits` (all by default) for RGB images (N, 3, H, W) with values in [0, 255]."""
        return self.answer(self.features(images), self.spec.exit_names if exits is None else exits)


def build_network(spec: NetworkSpec, weights: Path | None = None) -> MultiExitNetwork:
    """Build the network that `spec` describes, its backbone's ImageNet weights from a local file if given.

    Raises:
        InputError: see `build_backbone`; or an exit names no point of the network.

    """
    backbone = build_backbone(spec.backbone, spec.output_stride, weights)
    channels = {point.name: point.channels for point in trace_taps(backbone.network, TRACE_SIZE, TRACE_SIZE)}
    return MultiExitNetwork(backbone, spec, channels)


def plan_network(name: str, output_stride: OutputStride, num_classes: int, *, exits: int, size: Size) -> NetworkSpec:
    """Choose taps at even distances in cost for images of `size` (width, height), an FCN head on each.

    A head on a large map costs more for each of its channels, and a shallow map holds less: its head is narrower.

    Raises:
        InputError: see `build_backbone` and `choose_taps`.

    """
    points = trace_taps(build_backbone(name, output_stride).network, size[1], size[0])
    chosen = choose_taps(points, exits)
    return NetworkSpec(
        backbone=name,
        output_stride=output_stride,
        num_classes=num_classes,
        exits=tuple(ExitSpec(tap=tap.name, head=HeadSpec(channels=min(128, 16 * tap.stride))) for tap in chosen),
    )


def stride_of(cells: int, pixels: int) -> int:
    """Pixels per cell of a feature map that has `cells` along a side of `pixels`: the power of two that rounds up to that.

    Raises:
        InputError: no stride does; the network rounds down.

    """
    stride: int = 1 << math.ceil(math.log2(pixels / cells))
    if -(-pixels // stride) != cells:
        raise InputError(
            f"a feature map of {cells} on {pixels} pixels has no whole stride; take a size that is a multiple of 32"
        )
    return stride


def upsample(scores: torch.Tensor, stride: float, height: int, width: int) -> torch.Tensor:
    """Bilinear upsampling of class scores (N, C, h, w) by exactly their stride, cut to (N, C, height, width).

    Stretching to the image's size instead would shift the answer wherever the size is no multiple of the stride: a feature map
    has ceil(size / stride) pixels, each `stride` image pixels wide, and the last one hangs over.
    """
    rows, columns = round(scores.shape[2] * stride), round(scores.shape[3] * stride)
    return functional.interpolate(scores, size=(rows, columns), mode="bilinear", align_corners=False)[..., :height, :width]
