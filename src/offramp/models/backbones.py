"""Feature-only backbones from timm, at a chosen output stride."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from offramp import torchvision_import  # noqa: F401 - timm imports torchvision, which may need help
from offramp.errors import InputError

import timm  # isort: skip


class Backbone(nn.Module):
    """A timm network without its classifier: an image in, its deepest feature map out."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = network
        self.channels = channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) to features (N, channels, H / stride, W / stride), rounded up."""
        return self.network(images)[-1]  # type: ignore[no-any-return]


def build_backbone(name: str, output_stride: int, weights: Path | None = None) -> Backbone:
    """Build timm's network `name`, its strides beyond `output_stride` replaced by dilation.

    Args:
        name: a name that timm knows.
        output_stride: input pixels per pixel of the deepest feature map.
        weights: a local file of ImageNet weights in timm's parameter names (safetensors), or None for random ones.

    Raises:
        InputError: unknown name, no feature maps or no such output stride in this network, weights that do not fit.

    """
    if name not in timm.list_models():
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise InputError(f"timm has no network {name!r}; {'near it: ' + ', '.join(near) if near else 'see timm.list_models()'}")
    options: dict[str, Any] = {"features_only": True, "output_stride": output_stride}
    if weights is not None:
        _check_weights(weights)
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        network = timm.create_model(name, **options)
        info: Any = network.feature_info
    except (RuntimeError, KeyError, TypeError, ValueError, NotImplementedError, AttributeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = f" with the weights {weights}" if weights else ""
        raise InputError(f"cannot build {name} at output stride {output_stride}{given}: {reason}") from error
    return Backbone(network, info.channels()[-1])


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only where weights are given

    if path.suffix != ".safetensors":
        raise InputError(f"weights must be a .safetensors file, got {path.name}; pickled files can run code and are not read")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
