"""Which channels to remove: those whose loss is smallest for what they cost, until the network costs what was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.narrowing import is_depthwise, widths_of
from offramp.models.observe import left_as_it_was
from offramp.pruning.coupling import Channels, Side

MULTIPLE = 8
"""Widths are rounded to this: what vector units of processors compute at once."""

LEAST = 0.125
"""No layer loses more than all but this share of its channels."""


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs for one image."""

    macs: int
    pairs: int
    """Channels in times channels out; of a depthwise convolution its channels."""
    depthwise: bool

    def at(self, inputs: int, outputs: int) -> float:
        """Multiply-accumulates with these widths."""
        return self.macs * (outputs if self.depthwise else inputs * outputs) / self.pairs


def layer_costs(network: MultiExitNetwork, height: int, width: int) -> dict[str, LayerCost]:
    """What every convolution and linear layer of the network costs for one image, all exits together."""
    macs: dict[str, int] = defaultdict(int)
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }

    def count(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        place = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        positions = place.numel() // place.shape[-1 if isinstance(layer, nn.Linear) else 1]
        assert isinstance(layer.weight, torch.Tensor)
        macs[name] += positions * layer.weight.numel()

    hooks = [layer.register_forward_hook(partial(count, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), left_as_it_was(network):
            network(torch.zeros(1, 3, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    costs = {}
    for name, cost in macs.items():
        layer = layers[name]
        inputs, outputs = widths_of(layer) or (1, 1)  # of what cannot be narrowed only the macs matter
        costs[name] = LayerCost(cost, outputs if is_depthwise(layer) else inputs * outputs, is_depthwise(layer))
    return costs


def choose(
    parts: Sequence[Channels], scores: Sequence[torch.Tensor], widths: dict[Side, int], costs: dict[str, LayerCost], keep: float
) -> list[torch.Tensor]:
    """The rows of each part that are removed, so that the network keeps at most the share `keep` of its macs.

    Channels of a part go in the order of their scores, in blocks that leave a multiple of 8. The next block is always the one
    with the smallest score for the macs that it saves, given what is gone already.

    Args:
        parts: the channels that may be removed.
        scores: what the loss of each would do, one tensor for each part.
        widths: channels of each side of each layer.
        costs: of the layers.
        keep: wanted share of the macs.

    Raises:
        InputError: the share cannot be reached.

    """
    state = _State([_Ranked.of(*pair, costs) for pair in zip(parts, scores, strict=True)], dict(widths), costs)
    whole = sum(cost.macs for cost in costs.values())
    macs = float(whole)
    while macs > keep * whole:
        best = min(state.offers, key=lambda index: state.offers[index].price, default=None)
        if best is None:
            raise InputError(
                f"cannot keep as little as {keep:g} of the macs: {macs / whole:.2f} are left with every layer at its least; "
                f"ask for more than that"
            )
        need = macs - keep * whole
        if state.offers[best].saved >= need:  # the last block: of those that are enough, the one that loses least
            enough = [index for index, offer in state.offers.items() if offer.saved >= need]
            best = min(enough, key=lambda index: state.offers[index].price * state.offers[index].saved)
        macs -= state.offers[best].saved
        state.take(best)
    return [part.order[:gone] for part, gone in zip(state.parts, state.gone, strict=True)]


@dataclass(frozen=True)
class _Offer:
    """The next block of a part's channels."""

    price: float
    """Score for each mac that is saved."""
    channels: int
    saved: float


@dataclass(frozen=True)
class _Ranked:
    """A part with its channels in the order in which they would go."""

    order: torch.Tensor
    sums: list[float]
    """Scores of the first so many."""
    counts: dict[Side, int]
    """How many channels each side of a layer loses with one of the part's."""
    layers: tuple[str, ...]
    """Those whose cost it changes."""

    @classmethod
    def of(cls, part: Channels, score: torch.Tensor, costs: dict[str, LayerCost]) -> _Ranked:
        order = score.argsort(stable=True)
        counts = {side: places.shape[1] for side, places in part.places.items()}
        layers = sorted({name for name, _ in counts if name in costs})
        return cls(order, [0.0, *score[order].double().cumsum(0).tolist()], counts, tuple(layers))


class _State:
    """What is gone from every part, how wide layers still are, and what could go next."""

    def __init__(self, parts: list[_Ranked], widths: dict[Side, int], costs: dict[str, LayerCost]) -> None:
        self.parts, self.gone = parts, [0] * len(parts)
        self._widths, self._costs = widths, costs
        self._by_layer: dict[str, set[int]] = defaultdict(set)
        for index, part in enumerate(parts):
            for name in part.layers:
                self._by_layer[name].add(index)
        self.offers: dict[int, _Offer] = {}
        self._renew(range(len(parts)))

    def take(self, index: int) -> None:
        """Remove a part's next block."""
        part, channels = self.parts[index], self.offers[index].channels
        self.gone[index] += channels
        for side, times in part.counts.items():
            self._widths[side] -= channels * times
        self._renew({index}.union(*(self._by_layer[name] for name in part.layers)))

    def _renew(self, indices: Iterable[int]) -> None:
        for index in indices:
            offer = self._offer(index)
            if offer is None:
                self.offers.pop(index, None)
            else:
                self.offers[index] = offer

    def _offer(self, index: int) -> _Offer | None:
        part, gone = self.parts[index], self.gone[index]
        remain = len(part.order) - gone
        block = remain % MULTIPLE or MULTIPLE
        if remain - block < max(MULTIPLE, LEAST * len(part.order)):
            return None
        saved = 0.0
        for name in part.layers:
            inputs, outputs = self._widths[name, "in"], self._widths[name, "out"]
            fewer_in, fewer_out = (block * part.counts.get(side, 0) for side in _sides(name))
            cost = self._costs[name]
            saved += cost.at(inputs, outputs) - cost.at(inputs - fewer_in, outputs - fewer_out)
        return _Offer((part.sums[gone + block] - part.sums[gone]) / max(saved, 1e-9), block, saved)


def _sides(name: str) -> tuple[Side, Side]:
    return (name, "in"), (name, "out")
