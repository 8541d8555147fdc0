"""Candidate points for exits: modules whose output is a feature map, with what they have cost so far.

The network is run once. A point is the output of a *block*: a module that holds at least two convolutions or linear layers and
lies in containers only (a residual block, not a convolution inside one).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.errors import InputError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
COSTLY = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class TapPoint:
    """A module that an exit can tap."""

    name: str
    channels: int
    stride: int
    """Input pixels per pixel of its output."""
    macs: int
    """Multiply-accumulates from the input up to here, for one image."""
    share: float
    """The same as a share of the whole network's."""


def trace_taps(network: nn.Module, height: int, width: int) -> tuple[TapPoint, ...]:
    """Run `network` once on a blank image and list the points where an exit can be attached, in order of execution.

    Args:
        network: takes (1, 3, height, width); left as it was.
        height: pixels.
        width: pixels.

    """
    seen: dict[str, list[TapPoint]] = {}
    counter = FlopCounterMode(display=False)
    hooks = []
    for name in _block_names(network):

        def record(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                # FlopCounterMode counts a multiply-add as two operations.
                macs = counter.get_total_flops() // 2
                point = TapPoint(name, output.shape[1], round(height / output.shape[2]), macs, 0.0)
                seen.setdefault(name, []).append(point)

        hooks.append(network.get_submodule(name).register_forward_hook(record))
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad(), counter:
            network(torch.zeros(1, 3, height, width, device=device))
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    whole = counter.get_total_flops() // 2
    # A module that is called several times has no single place in the order.
    points = [calls[0] for calls in seen.values() if len(calls) == 1]
    return tuple(TapPoint(p.name, p.channels, p.stride, p.macs, p.macs / whole) for p in sorted(points, key=lambda p: p.macs))


def _block_names(network: nn.Module) -> list[str]:
    """Names of the outermost modules that hold at least two costly layers and are no mere containers."""
    found: list[str] = []

    def descend(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(child, CONTAINERS):
                descend(child, f"{path}.")
            elif sum(isinstance(layer, COSTLY) for layer in child.modules()) >= 2:
                found.append(path)

    wrapped = [child for child in network.children() if not isinstance(child, CONTAINERS)]
    # A module that only wraps another one is looked through.
    if len(wrapped) == 1 and len(list(network.children())) == 1:
        name = next(iter(dict(network.named_children())))
        return [f"{name}.{inner}" for inner in _block_names(wrapped[0])]
    if isinstance(network, CONTAINERS):
        descend(network, "")
        return found
    for name, child in network.named_children():
        if isinstance(child, CONTAINERS):
            descend(child, f"{name}.")
    return found


def choose_taps(points: tuple[TapPoint, ...], count: int) -> tuple[TapPoint, ...]:
    """Choose `count` points at about even distances in cost (MESS, section 4.1), never the last one, which is the final exit's.

    Raises:
        InputError: the network has fewer points than that.

    """
    usable = [point for point in points if point.macs < points[-1].macs] if points else []
    if len(usable) < count:
        names = ", ".join(point.name for point in usable) or "none"
        raise InputError(f"{count} exits asked for, but the network has only {len(usable)} points to tap: {names}")
    chosen: list[TapPoint] = []
    for index in range(count):
        target = (index + 1) / (count + 1)
        chosen.append(min((p for p in usable if p not in chosen), key=lambda p: abs(p.share - target)))
    return tuple(sorted(chosen, key=lambda point: point.macs))


def check_tap(network: nn.Module, name: str) -> None:
    """Refuse a name that is no module of the network.

    Raises:
        InputError: with the nearest right names.

    """
    names = [known for known, _ in network.named_modules() if known]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4) or names[:4]
        raise InputError(f"the network has no module {name!r}; near it: {', '.join(near)}")
