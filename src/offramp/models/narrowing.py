"""Narrower layers: the surgery that makes of a network, as its library builds it, the one that pruning left.

A description says of every layer that is narrower how many channels go in and come out. Which of the original ones these were
does not matter: the weights, which are loaded afterwards, hold those alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from offramp.errors import InputError

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | _BatchNorm
"""What can be narrowed."""


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel of a convolution is made from the same channel alone."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def widths_of(layer: nn.Module) -> tuple[int, int] | None:
    """Channels in and out of a layer; None if it is of a kind that cannot be narrowed."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        whole = layer.groups == 1 or is_depthwise(layer)
        return (layer.in_channels, layer.out_channels) if whole else None
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return (layer.num_features, layer.num_features) if isinstance(layer, _BatchNorm) else None


def axes_of(layer: nn.Module) -> dict[str, tuple[int | None, int | None]]:
    """Which axis of each tensor of a layer runs over channels in and which over channels out, by the tensor's name."""
    one_of_both = isinstance(layer, _BatchNorm) or is_depthwise(layer)
    weight = (None, 0) if one_of_both else (0, 1) if isinstance(layer, nn.ConvTranspose2d) else (1, 0)
    axes = {"weight": weight, "bias": (None, 0), "running_mean": (None, 0), "running_var": (None, 0)}
    return {name: axis for name, axis in axes.items() if getattr(layer, name, None) is not None}


def narrow(network: nn.Module, widths: Mapping[str, tuple[int, int]]) -> None:
    """Give layers of a network these widths, in place; their weights are the first of their old ones.

    Args:
        network: or a head.
        widths: channels in and out, by the layer's name.

    Raises:
        InputError: no such layer, one that cannot be narrowed, or one that is narrower already.

    """
    layers = {name: _checked(network, name, inputs, outputs) for name, (inputs, outputs) in widths.items()}
    for name, layer in layers.items():
        _cut(layer, *widths[name])


def _checked(network: nn.Module, name: str, inputs: int, outputs: int) -> nn.Module:
    try:
        layer = network.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the network has no layer {name!r}, said to be pruned; take the file of this network") from error
    old = widths_of(layer)
    if old is None:
        raise InputError(f"the layer {name!r} is said to be pruned, but a {type(layer).__name__} cannot be")
    alike = isinstance(layer, _BatchNorm) or is_depthwise(layer)
    if not (1 <= inputs <= old[0] and 1 <= outputs <= old[1]) or (alike and inputs != outputs):
        raise InputError(
            f"the layer {name!r} is said to have {inputs} channels in and {outputs} out after pruning, but it is built with "
            f"{old[0]} and {old[1]}"
        )
    return layer


def _cut(layer: nn.Module, inputs: int, outputs: int) -> None:
    for name, (in_axis, out_axis) in axes_of(layer).items():
        old: torch.Tensor = getattr(layer, name)
        new = old.detach()
        new = new if in_axis is None else new.narrow(in_axis, 0, inputs)
        new = new if out_axis is None else new.narrow(out_axis, 0, outputs)
        if new.shape == old.shape:
            continue
        new = new.clone(memory_format=torch.contiguous_format)
        setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        layer.groups = outputs if is_depthwise(layer) else 1
        layer.in_channels, layer.out_channels = inputs, outputs
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    elif isinstance(layer, _BatchNorm):
        layer.num_features = outputs
