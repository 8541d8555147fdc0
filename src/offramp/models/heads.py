"""Heads: modules that turn a feature map into class scores.

Contract: `build_head(spec, num_classes, features, skip)` gives a module; that takes features (N, features.channels, h, w) and,
if it was built with a skip, the map of a shallower tap (N, skip.channels, h', w'), and gives class scores, before any softmax.
Their resolution is the skip's where there is one, the features' where there is none. An image of 480x360 with 11 classes:

- `fcn` on 32 channels at stride 8: (N, 32, 45, 60) to (N, 11, 45, 60);
- `skip` on 160 channels at stride 16 and 24 at stride 4: (N, 160, 23, 30) and (N, 24, 90, 120) to (N, 11, 90, 120).

Heads do not write into what they are given. In training they need two cells or more, of one image or of several.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from offramp.errors import InputError
from offramp.models.feature_maps import upsample
from offramp.specs import HeadKind, HeadSpec, Size

RATES = (6, 12, 18)
"""Dilations of the pyramid at stride 16 (DeepLabV3)."""


@dataclass(frozen=True)
class FeatureShape:
    """What a head must know of a feature map."""

    channels: int
    stride: int
    """Input pixels per cell."""


@dataclass(frozen=True)
class HeadFigures:
    """What a head costs and sees."""

    macs: int
    parameters: int
    receptive_field: int
    """Input pixels on a side; see `head_figures`."""
    whole_image: bool
    """A global pooling lets every score depend on every pixel."""


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1) -> nn.Sequential:
    """(N, inputs, h, w) to (N, outputs, h, w)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """A 3x3 convolution added to what it was made from; (N, channels, h, w) to the same shape."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, channels, h, w) to the same shape."""
        return functional.relu(features + self.norm(self.conv(features)))


class Front(nn.Module):
    """What may come before any head: fewer channels, then residual blocks. The identity where neither is asked for."""

    def __init__(self, channels: int, spec: HeadSpec) -> None:
        super().__init__()
        reduces = spec.reduction > 1
        dilations = [2 ** (block + 1) if spec.dilated else 1 for block in range(spec.blocks)]
        self.out_channels = max(8, channels // spec.reduction) if reduces else channels
        self.reach = 2 * sum(dilations)
        self.reduce = conv_bn_relu(channels, self.out_channels) if reduces else nn.Identity()
        self.blocks = nn.Sequential(*(ResidualBlock(self.out_channels, dilation) for dilation in dilations))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, channels, h, w) to (N, out_channels, h, w)."""
        return self.blocks(self.reduce(features))  # type: ignore[no-any-return]


class Head(nn.Module, ABC):
    """A head of any kind; the module's header says what goes in and comes out."""

    reach: int
    """How many cells of `features`, besides its own, a score sees along a side through convolutions and upsampling."""
    whole_image: bool

    def __init__(self, spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None) -> None:
        super().__init__()
        self.front = Front(features.channels, spec)
        self.classify = nn.Conv2d(spec.channels, num_classes, 1)
        self.factor = features.stride // skip.stride if skip else 1

    @abstractmethod
    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """Class scores (N, num_classes, h, w), or (N, num_classes, h', w') with a skip."""


class FCNHead(Head):
    """A 3x3 convolution and a classifier for each pixel (Long et al., CVPR 2015, in the form of torchvision's FCNHead)."""

    def __init__(self, spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None) -> None:
        super().__init__(spec, num_classes, features, skip)
        self.mix = conv_bn_relu(self.front.out_channels, spec.channels, 3)
        self.drop = nn.Dropout(0.1)
        self.reach = self.front.reach + 2
        self.whole_image = False

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """(N, features.channels, h, w) to (N, num_classes, h, w)."""
        assert skip is None
        return self.classify(self.drop(self.mix(self.front(features))))  # type: ignore[no-any-return]


class DeepLabHead(Head):
    """Atrous spatial pyramid pooling (Chen et al., Rethinking Atrous Convolution, 2017, section 3.3), as wide as the head."""

    def __init__(self, spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None) -> None:
        super().__init__(spec, num_classes, features, skip)
        inputs, width = self.front.out_channels, spec.channels
        rates = atrous_rates(features.stride)
        self.branches = nn.ModuleList(
            [conv_bn_relu(inputs, width), *(conv_bn_relu(inputs, width, 3, dilation=rate) for rate in rates)]
        )
        # The paper normalises here as well. But this map has one cell, and a batch of one image then no variance.
        self.pool = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.project = conv_bn_relu((len(self.branches) + 1) * width, width)
        self.drop = nn.Dropout(0.1)
        self.reach = self.front.reach + 2 * max(rates)
        self.whole_image = True

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """(N, features.channels, h, w) to (N, num_classes, h, w)."""
        assert skip is None
        front = self.front(features)
        image = self.pool(front.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *front.shape[2:])
        pyramid = torch.cat([*(branch(front) for branch in self.branches), image], dim=1)
        return self.classify(self.drop(self.project(pyramid)))  # type: ignore[no-any-return]


def atrous_rates(stride: int) -> tuple[int, ...]:
    """Dilations of the pyramid, whose reach in pixels is the same at every stride from 8 on.

    At smaller strides they are those of stride 8, beyond which the paper does not go.
    """
    return tuple(max(1, round(rate * 16 / max(stride, 8))) for rate in RATES)


class LRASPPHead(Head):
    """Lite R-ASPP (Howard et al., MobileNetV3, ICCV 2019, figure 10), pooling globally as torchvision's LRASPPHead does."""

    def __init__(self, spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None) -> None:
        super().__init__(spec, num_classes, features, skip)
        self.mix = conv_bn_relu(self.front.out_channels, spec.channels)
        self.gate = nn.Conv2d(self.front.out_channels, spec.channels, 1, bias=False)
        self.classify_skip = nn.Conv2d(skip.channels, num_classes, 1) if skip else None
        self.reach = self.front.reach + (1 if self.factor > 1 else 0)
        self.whole_image = True

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """(N, features.channels, h, w) to (N, num_classes, h, w); with (N, skip.channels, h', w') at that resolution."""
        front = self.front(features)
        gate = self.gate(front.mean(dim=(2, 3), keepdim=True)).sigmoid()
        scores: torch.Tensor = self.classify(self.mix(front) * gate)
        if self.classify_skip is None:
            assert skip is None
            return scores
        assert skip is not None
        # The paper upsamples first. A classifier of single cells commutes with that, and costs 1/16 here (strides 16 and 4).
        return upsample(scores, self.factor, *skip.shape[2:]) + self.classify_skip(skip)  # type: ignore[no-any-return]


class SkipHead(Head):
    """A decoder that refines deep features by a shallow map, after DeepLabV3+ (Chen et al., ECCV 2018, figure 2).

    The paper upsamples, concatenates and convolves. Here the two maps are mixed by a 1x1 convolution, and a depthwise 3x3
    follows: a separable convolution with the pointwise part first. That order is what makes stride 4 affordable, where with 128
    channels the pointwise part is nearly everything. After a depthwise part it must run there on all 128 + 48 channels, 22528
    macs in each cell. Before one, it is a sum of two parts, and that of the deep channels commutes with upsampling: it runs on
    the deep map's few cells, and only 48 x 128 = 6144 macs are left at stride 4. A dense 3x3 would be 202752.
    """

    def __init__(self, spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None) -> None:
        super().__init__(spec, num_classes, features, skip)
        assert skip is not None
        width = spec.channels
        few = max(8, width * 3 // 8)  # 48 of 128: few, so that the shallow map does not outweigh the deep one
        self.deep = conv_bn_relu(self.front.out_channels, width)
        self.shallow = conv_bn_relu(skip.channels, few)
        self.mix_deep = nn.Conv2d(width, width, 1, bias=False)
        self.mix_shallow = nn.Conv2d(few, width, 1, bias=False)
        self.refine = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.drop = nn.Dropout(0.1)
        # Three neighbours at the skip's stride are made from up to three at the features', whatever the factor.
        self.reach = self.front.reach + 2
        self.whole_image = False

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """(N, features.channels, h, w) and (N, skip.channels, h', w') to (N, num_classes, h', w')."""
        assert skip is not None
        deep = upsample(self.mix_deep(self.deep(self.front(features))), self.factor, *skip.shape[2:])
        mixed = deep + self.mix_shallow(self.shallow(skip))
        return self.classify(self.drop(self.refine(mixed)))  # type: ignore[no-any-return]


HEADS: dict[HeadKind, Callable[[HeadSpec, int, FeatureShape, FeatureShape | None], Head]] = {
    "fcn": FCNHead,
    "deeplab": DeepLabHead,
    "lraspp": LRASPPHead,
    "skip": SkipHead,
}

NEEDS_SKIP: dict[HeadKind, Literal["never", "may", "must"]] = {
    "fcn": "never",
    "deeplab": "never",
    "lraspp": "may",
    "skip": "must",
}
"""Which kinds fuse the feature map of a shallower tap."""


def build_head(spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None = None) -> Head:
    """Build a head on a feature map, and on that of a shallower tap if it fuses one.

    Raises:
        InputError: a map to fuse is missing, or there is one too many, or its stride does not divide the deeper one's.

    """
    need = NEEDS_SKIP[spec.kind]
    if need == "must" and skip is None:
        raise InputError(f"head {spec.text!r} fuses a shallower tap, got none; name one: TAP+SHALLOWER_TAP:{spec.text}")
    if need == "never" and skip is not None:
        able = " or ".join(kind for kind, other in NEEDS_SKIP.items() if other != "never")
        raise InputError(f"head {spec.text!r} fuses no shallower tap, got one at stride {skip.stride}; drop it, or take {able}")
    if skip is not None and features.stride % skip.stride:
        raise InputError(
            f"head {spec.text!r} cannot fuse a tap at stride {skip.stride} with its own at stride {features.stride}; "
            "take a shallower tap whose stride divides that"
        )
    return HEADS[spec.kind](spec, num_classes, features, skip)


def head_figures(
    spec: HeadSpec, num_classes: int, features: FeatureShape, skip: FeatureShape | None, size: Size
) -> HeadFigures:
    """What a head costs for one image of `size` (width, height), and how much of the image it sees.

    The receptive field is the side of the square of cells of `features` that a score depends on, times their stride: 1 plus
    (kernel - 1) * dilation of each convolution on the way. After upsampling not all scores depend on equally many; those with
    most count: one more cell for a bilinear neighbour (`lraspp`), two where a 3x3 follows (`skip`). Left out are image pooling,
    of which `whole_image` tells, and what the network below the tap has seen.

    Raises:
        InputError: see `build_head`.

    """
    with torch.device("meta"):
        head = build_head(spec, num_classes, features, skip)
    return measure_head(head, features, skip, size)


def measure_head(head: Head, features: FeatureShape, skip: FeatureShape | None, size: Size) -> HeadFigures:
    """The same of a head that is there, which may be narrower than it was built."""
    width, height = size
    shapes = copy.deepcopy(head).to("meta").eval()  # shapes alone: nothing is computed
    taps = (features,) if skip is None else (features, skip)
    maps = [torch.empty(1, tap.channels, -(-height // tap.stride), -(-width // tap.stride), device="meta") for tap in taps]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(*maps)
    return HeadFigures(
        macs=counter.get_total_flops() // 2,  # it counts a multiply-add as two operations
        parameters=sum(parameter.numel() for parameter in head.parameters()),
        receptive_field=(1 + head.reach) * features.stride,
        whole_image=head.whole_image,
    )
