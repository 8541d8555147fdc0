"""Which channels hang together: removing one from a layer's output takes it from every layer that reads or carries it.

The library torch-pruning follows autograd's graph through additions, concatenations and normalisations and tells, for each
channel, all places where it occurs (Fang et al., DepGraph, CVPR 2023). Here that becomes plain data. What it can get
wrong, such as a reshape that it does not understand, is found out afterwards, see `surgery.require_same`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.narrowing import is_depthwise, widths_of

Side = tuple[str, Literal["in", "out"]]
"""A layer's name within the multi-exit network and which of its channels are meant.

Layers that make each channel from the same one alone, such as batch-norm, have the side `out` only.
"""


@dataclass(frozen=True)
class Channels:
    """Channels that occur in the same layers, each independent of the others."""

    places: dict[Side, torch.Tensor]
    """Where they are: (channels, times), the channel's places on that side; nearly always one."""

    def __len__(self) -> int:
        return len(next(iter(self.places.values())))


def find_channels(network: MultiExitNetwork, height: int, width: int) -> tuple[Channels, ...]:
    """All channels that may be removed: not those of class scores, nor any that a layer of an unknown kind carries.

    Raises:
        InputError: torch-pruning cannot follow the network.

    """
    tp: Any = importlib.import_module("torch_pruning")
    ends: list[torch.autograd.graph.Node] = []

    def flat(scores: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        ends.extend(tensor.grad_fn for tensor in scores.values() if tensor.grad_fn is not None)
        return list(scores.values())

    network.requires_grad_()
    image = torch.zeros(1, 3, height, width)
    try:
        # The library warns of, and prints, what does not matter here: whatever it mistakes is found out.
        with torch.enable_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(network, image, output_transform=flat, verbose=False)
            groups = list(graph.get_all_groups(root_module_types=(nn.Conv2d, nn.ConvTranspose2d, nn.Linear)))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot prune {network.spec.network}: torch-pruning cannot follow it ({reason}); take another network"
        ) from error
    kept = _score_layers(graph, ends)
    names = {module: name for name, module in network.named_modules()}
    found = (channels for group in groups for channels in _split(graph, group, names, kept))
    return tuple(channels for channels in found if any(side == "in" for _, side in channels.places))


def _score_layers(graph: Any, ends: list[torch.autograd.graph.Node]) -> set[nn.Module]:
    """The layers whose outputs are, but for sums, cuts and the like, the class scores."""
    waiting = [node for node in graph.module2node.values() if node.grad_fn in ends]
    seen = set(waiting)
    layers: set[nn.Module] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node.module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layers.add(node.module)
            if not is_depthwise(node.module):
                continue
        waiting += (new := [before for before in node.inputs if before not in seen])
        seen.update(new)
    return layers


def _split(graph: Any, group: Any, names: dict[nn.Module, str], kept: set[nn.Module]) -> Iterator[Channels]:
    """The channels of a group of torch-pruning's, sorted by the layers in which they occur; none if one may not be removed."""
    places: dict[int, dict[Side, list[int]]] = defaultdict(lambda: defaultdict(list))
    for item in group:
        target = item.dep.target.module
        if not isinstance(target, nn.Module):
            return  # a parameter that belongs to no layer
        output = graph.is_out_channel_pruning_fn(item.dep.handler)
        if target in kept and output:
            return
        if target not in names:
            continue  # an operation without weights
        if widths_of(target) is None:
            return
        side: Side = (names[target], "out" if output else "in")
        for root, place in zip(item.root_idxs, item.idxs, strict=True):
            if root is None:
                return
            places[root][side].append(place)
    alike: dict[tuple[tuple[Side, int], ...], list[dict[Side, list[int]]]] = defaultdict(list)
    for found in places.values():
        alike[tuple(sorted((side, len(where)) for side, where in found.items()))].append(found)
    for kind, channels in alike.items():
        yield Channels({side: torch.tensor([one[side] for one in channels]) for side, _ in kind})
