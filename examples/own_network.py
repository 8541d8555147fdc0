"""A network of one's own: any function that takes the number of classes and returns an `nn.Module`.

offramp taps examples/own_network.py:network --size 240x180 --exits 2
offramp train DATA --out run --network examples/own_network.py:network --exits 2
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Twice(nn.Module):
    """Two convolutions; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, inputs, h, w) to (N, outputs, h / stride, w / stride), rounded up."""
        return functional.relu(self.second_norm(self.second(functional.relu(self.first_norm(self.first(images))))))


class SmallUNet(nn.Module):
    """Down to stride 8 and up again to stride 2, with a skip connection at every level."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = Twice(3, 16, 2), Twice(16, 32, 2), Twice(32, 64, 2)
        self.up2, self.up1 = Twice(64 + 32, 32), Twice(32 + 16, 16)
        self.classify = nn.Conv2d(16, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) to class scores (N, num_classes, H / 2, W / 2)."""
        fine = self.down1(images)
        middle = self.down2(fine)
        deep = self.down3(middle)
        middle = self.up2(torch.cat([functional.interpolate(deep, scale_factor=2.0), middle], dim=1))
        fine = self.up1(torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], dim=1))
        return self.classify(fine)  # type: ignore[no-any-return]


def network(num_classes: int) -> nn.Module:
    """The function that the command line is given."""
    return SmallUNet(num_classes)
