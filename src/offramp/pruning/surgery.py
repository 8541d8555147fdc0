"""Taking channels out of a network, and the proof that nothing else changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.checkpoint import plain_tensors
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.narrowing import axes_of, widths_of
from offramp.models.observe import left_as_it_was
from offramp.pruning.coupling import Channels, Side
from offramp.specs import FINAL, NetworkSpec, PrunedHead, Widths

TOLERANCE = 1e-3
"""Of class scores, as a share of the largest: sums over fewer channels are rounded differently, by less than this."""

Removed = dict[Side, set[int]]
"""Channels that go, by layer and side."""


def all_widths(network: nn.Module) -> dict[Side, int]:
    """Channels of both sides of every layer that can be narrowed."""
    found: dict[Side, int] = {}
    for name, layer in network.named_modules():
        widths = widths_of(layer)
        if widths is not None:
            found[name, "in"], found[name, "out"] = widths
    return found


def removed_from(network: nn.Module, parts: Sequence[Channels], rows: Sequence[torch.Tensor]) -> Removed:
    """What goes from each side of each layer where these rows of the parts go."""
    removed: Removed = defaultdict(set)
    for part, gone in zip(parts, rows, strict=True):
        if not len(gone):
            continue
        for (name, side), places in part.places.items():
            removed[name, side].update(places[gone].flatten().tolist())
            if axes_of(network.get_submodule(name))["weight"][0] is None:  # one channel in for each channel out
                removed[name, "in"] = removed[name, "out"]
    return dict(removed)


def without(network: MultiExitNetwork, removed: Removed) -> tuple[NetworkSpec, dict[str, torch.Tensor]]:
    """The description and the state dict of the network without some channels; it stays as it is."""
    tensors, widths = plain_tensors(network), all_widths(network)
    new: Widths = {}
    for name in {name for name, _ in removed}:
        sides: tuple[Side, Side] = (name, "in"), (name, "out")
        kept = [torch.tensor(sorted(set(range(widths[side])) - removed.get(side, set()))) for side in sides]
        new[name] = len(kept[0]), len(kept[1])
        for tensor, axes in axes_of(network.get_submodule(name)).items():
            for axis, places in zip(axes, kept, strict=True):
                if axis is not None:
                    tensors[f"{name}.{tensor}"] = tensors[f"{name}.{tensor}"].index_select(axis, places).contiguous()
    return _described(network, new), tensors


def _described(network: MultiExitNetwork, widths: Widths) -> NetworkSpec:
    """The description with these widths, by the layers' names within the multi-exit network."""
    spec, shape = network.spec, network.wiring.shape

    def inside(part: str) -> Widths:
        return {name.removeprefix(f"{part}."): pair for name, pair in sorted(widths.items()) if name.startswith(f"{part}.")}

    def head(part: str, tap: str, skip: str | None, before: PrunedHead | None) -> PrunedHead | None:
        if not (narrowed := inside(part)):
            return before
        below = shape(skip).channels if skip else None
        old = before or PrunedHead(features=shape(tap).channels, skip=below, widths={})
        return old.model_copy(update={"widths": old.widths | narrowed})

    exits = (
        early.model_copy(update={"pruned": head(f"early_heads.{place}", early.tap, early.skip, early.pruned)})
        for place, early in enumerate(spec.exits)
    )
    return spec.model_copy(
        update={
            "widths": spec.widths | inside("backbone"),
            "final_pruned": head("final_head", FINAL, spec.final_skip, spec.final_pruned),
            "exits": tuple(exits),
        }
    )


def mute(network: MultiExitNetwork, removed: Removed) -> None:
    """Let no layer read the channels: the weights that would are 0. What the network answers then, it must answer without."""
    with torch.no_grad():
        for (name, side), places in removed.items():
            layer = network.get_submodule(name)
            axis = axes_of(layer)["weight"][0]
            if side == "in" and axis is not None:
                assert isinstance(layer.weight, torch.Tensor)
                layer.weight.index_fill_(axis, torch.tensor(sorted(places)), 0)


def require_same(pruned: MultiExitNetwork, muted: MultiExitNetwork, height: int, width: int) -> None:
    """Refuse a pruned network whose class scores are not those of the muted one on a random image.

    Raises:
        InputError: they differ, or it does not run: channels were removed that do not belong together.

    """
    image = 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    source = pruned.spec.network
    try:
        with torch.no_grad(), left_as_it_was(pruned), left_as_it_was(muted):
            got, wanted = pruned(image), muted(image)
    except Exception as error:
        raise cannot(source, (str(error).strip().splitlines() or [type(error).__name__])[0]) from error
    for name, scores in wanted.items():
        if got[name].shape != scores.shape:
            raise cannot(source, f"the exit {name} gives {tuple(got[name].shape)}, not {tuple(scores.shape)}")
        off = float((got[name] - scores).abs().max() / scores.abs().max().clamp_min(1e-6))
        if not off <= TOLERANCE:
            raise cannot(source, f"the exit {name} answers differently, by {off:.2g} of its largest score")


def cannot(source: str, reason: str) -> InputError:
    """The error for a network that pruning would change in another way than intended."""
    return InputError(
        f"cannot prune {source}: it does more with its channels than torch-pruning can follow ({reason}); take another network"
    )
