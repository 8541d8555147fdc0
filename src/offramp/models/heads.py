"""Heads: modules that turn a feature map into class scores at its own resolution.

Contract: `HEADS[spec.kind](in_channels, num_classes, spec)` takes features (N, in_channels, h, w) and gives class scores
(N, num_classes, h, w), before any softmax. For 32 channels at 1/8 of 360x480: (N, 32, 45, 60) to (N, 11, 45, 60).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from offramp.specs import HeadSpec


class FCNHead(nn.Module):
    """A 3x3 convolution and a classifier for each pixel (Long et al., CVPR 2015, in the form of torchvision's FCNHead)."""

    def __init__(self, in_channels: int, num_classes: int, spec: HeadSpec) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(in_channels, spec.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(spec.channels),
            nn.ReLU(inplace=True),
        )
        self.drop = nn.Dropout(0.1)
        self.classify = nn.Conv2d(spec.channels, num_classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, in_channels, h, w) to class scores (N, num_classes, h, w)."""
        return self.classify(self.drop(self.mix(features)))  # type: ignore[no-any-return]


HEADS: dict[str, Callable[[int, int, HeadSpec], nn.Module]] = {"fcn": FCNHead}
