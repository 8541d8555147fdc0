"""Networks that are known to work as multi-exit ones, by name: a backbone, its output stride and its final head.

The first four are the original networks of MESS (Kouris et al., ECCV 2022, arXiv 2106.03527): slow and dilated, with much to
save. The others are what one would take for a small device today.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from offramp.errors import InputError
from offramp.specs import HeadSpec, OutputStride


@dataclass(frozen=True)
class Recipe:
    """What is to be built."""

    network: str
    """A source of networks, as `sources.build` takes it."""
    output_stride: OutputStride | None
    final_head: HeadSpec | None
    """None: the network gives class scores itself."""
    note: str
    """One line for whoever chooses."""


def _backbone(name: str, output_stride: OutputStride, head: str, note: str) -> Recipe:
    return Recipe(f"timm:{name}", output_stride, HeadSpec.parse(head), note)


RECIPES: dict[str, Recipe] = {
    "dilated-resnet50": _backbone("resnet50", 8, "fcn/c512", "MESS: FCN on a dilated ResNet-50"),
    "dilated-resnet50-deeplab": _backbone("resnet50", 8, "deeplab/c256", "MESS: DeepLabV3 on a dilated ResNet-50"),
    "dilated-mobilenetv2": _backbone("mobilenetv2_100", 8, "fcn/c256", "MESS: FCN on a dilated MobileNetV2"),
    "dilated-mobilenetv2-deeplab": _backbone("mobilenetv2_100", 8, "deeplab/c256", "MESS: DeepLabV3 on a dilated MobileNetV2"),
    "efficient-mobilenetv2": _backbone("mobilenetv2_100", 16, "lraspp", "for processors: LR-ASPP on MobileNetV2"),
    "efficient-mobilenetv3": _backbone("mobilenetv3_large_100", 16, "lraspp", "the fastest: LR-ASPP on MobileNetV3"),
    "efficient-efficientnet": _backbone("efficientnet_lite0", 16, "lraspp", "no squeeze-and-excitation: EfficientNet-Lite0"),
}
"""Name -> recipe."""


def find_recipe(name: str) -> Recipe:
    """Look up a recipe.

    Raises:
        InputError: no such recipe; says which are near.

    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise InputError(
            f"no recipe is called {name!r}; {'near it' if len(near) < len(RECIPES) else 'there are'}: {', '.join(near)}"
        )
    return RECIPES[name]
