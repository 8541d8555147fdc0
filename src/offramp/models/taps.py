"""Candidate points for exits: blocks on the network's trunk, with what they have cost so far.

The network is run once. Any module that runs exactly once and gives a feature map can be tapped, and the user may name any of
them. Proposed are *blocks*: the innermost modules with two or more costly layers that lie on the *trunk* of every module around
them. On a module's trunk are those of its children that all paths from one of its inputs to one of its outputs pass: a residual
block's convolutions are not (the shortcut passes them by), nor is one branch of a pyramid.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from offramp.errors import InputError
from offramp.models.feature_maps import Layout, layout_of
from offramp.models.observe import Call, Nodes, Observation, observe

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

COARSE = 4
"""Exits are proposed from this stride on: on finer maps a head costs much, sees little, and answers no sooner."""

WHOLE = 0.8
"""In a module with more than this share of the macs, and in the network itself, what passes a block by is a skip connection (a
U-Net written as one module has one at every level); there it is enough that the output was made from the block."""

LARGE = 0.5
"""A plain sequence of layers with more than this share of the macs is divided into its layers (VGG is one such sequence)."""

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
USUAL = (128, 192)
"""Height and width that all but networks of one size take."""

ODD = (65, 193)
"""A size that is no multiple of anything, nor after rounding up to any of `MULTIPLES` one of twice that."""


@dataclass(frozen=True)
class TapPoint:
    """A module that an exit can tap."""

    name: str
    layout: Layout
    macs: int
    """Multiply-accumulates from the input up to here, for one image."""
    share: float
    """The same as a share of the whole network's."""
    parameters: int
    """Numbers that can be learnt, of the modules run up to here."""
    order: int
    """Position in the order in which modules end."""

    @property
    def stride(self) -> int:
        """Input pixels per cell of the feature map."""
        return self.layout.stride

    @property
    def channels(self) -> int:
        """Of the feature map."""
        return self.layout.channels


class Points:
    """Every point of a network that can be tapped, found by one run, and the proposed ones among them."""

    def __init__(self, seen: Observation, *, blocks: bool = True) -> None:
        """Sort out what a run showed; to propose blocks it must have been one with a graph."""
        self.size = (seen.height, seen.width)
        self.macs = seen.macs
        self.parameters = seen.parameters
        self.output = seen.output
        """Of the whole network."""
        self._calls = seen.calls
        usable = [point for name in seen.calls if (point := _point(seen, name)) is not None]
        self.usable: tuple[TapPoint, ...] = tuple(sorted(usable, key=lambda point: point.order))
        """All that may be named, in order of execution."""
        names = set(_Blocks(seen, {point.name for point in usable}).found()) if blocks else set()
        self.proposed: tuple[TapPoint, ...] = tuple(point for point in self.usable if point.name in names)
        """Blocks, in order of execution."""

    @property
    def end(self) -> int:
        """An order after all others: the network's end."""
        return 1 + max((point.order for point in self.usable), default=0)

    def named(self, name: str) -> TapPoint:
        """The point of a name that a user gave.

        Raises:
            InputError: no module, or one that cannot be tapped, and why.

        """
        for point in self.usable:
            if point.name == name:
                return point
        if name not in self._calls:
            near = difflib.get_close_matches(name, [point.name for point in self.usable], n=4, cutoff=0.4)
            near = near or [point.name for point in self.proposed[:4]]
            raise InputError(f"the network has no module {name!r}; near it: {', '.join(near) or 'nothing that can be tapped'}")
        calls = self._calls[name]
        if len(calls) == 1:
            image = f"{self.size[1]}x{self.size[0]} image"
            reason = f"its output, {calls[0].shape or 'no tensor'}, is no feature map of a {image}"
        else:
            reason = f"it runs {len(calls)} times for an image" if calls else "it does not run"
        inside = [point.name for point in self.usable if point.name.startswith(f"{name}.")] or [p.name for p in self.proposed]
        raise InputError(f"no exit can tap {name!r}: {reason}; points near it: {', '.join(inside[:4]) or 'none'}")

    def finer_than(self, point: TapPoint, stride: int) -> TapPoint | None:
        """The deepest point before `point` whose stride is the nearest to `stride` among those finer than `point`'s own.

        Blocks come first, other modules only where no block is finer.
        """
        for among in (self.proposed, self.usable):
            finer = [p for p in among if p.order < point.order and 1 < p.stride < point.stride and not point.stride % p.stride]
            if finer:
                return max(finer, key=lambda p: (-abs(p.stride - stride), p.order))
        return None


def find_points(network: nn.Module, height: int, width: int) -> Points:
    """Run `network` once on a blank image of this size and find where an exit can be attached."""
    return Points(observe(network, height, width, graph=True))


def _point(seen: Observation, name: str) -> TapPoint | None:
    calls = seen.calls[name]
    layout = layout_of(calls[0].shape, seen.height, seen.width) if len(calls) == 1 else None
    if layout is None:
        return None
    call = calls[0]
    return TapPoint(name, layout, call.macs, call.macs / max(1, seen.macs), call.parameters, call.order)


class _Blocks:
    """Finds blocks, from the root inwards."""

    def __init__(self, seen: Observation, usable: set[str]) -> None:
        self.seen = seen
        self.usable = usable
        # Modules without modules inside that computed something; what is called twice counts once.
        self.costly = [
            name
            for name, calls in seen.calls.items()
            if calls and calls[0].macs > calls[0].macs_before and not list(seen.modules[name].children())
        ]

    def found(self) -> list[str]:
        """Names of the blocks. Where the graph tells nothing of a trunk they are looked for everywhere; without any: layers."""
        return self._within("", checked=True) or self._within("", checked=False) or self._layers(self._children(""))

    def _within(self, name: str, *, checked: bool) -> list[str]:
        children = self._children(name)
        on_trunk = [child for child in children if not checked or self._on_trunk(name, child)]
        inner = [block for child in on_trunk for block in self._within(child, checked=checked)]
        if not name:
            return inner
        costly = sum(layer.startswith(f"{name}.") for layer in self.costly)
        if name not in self.usable or costly < 2:
            return inner
        call = self.seen.calls[name][0]
        covered = sum(self._macs(block) for block in inner)
        if inner and covered >= (call.macs - call.macs_before) / 2:
            # One block that is all of this module, wrapped: the wrapper has the name that users know.
            wrapped = len(inner) == 1 and self.seen.calls[inner[0]][0].made == call.made
            return [name] if wrapped and not isinstance(self.seen.modules[name], CONTAINERS) else inner
        large = (call.macs - call.macs_before) / max(1, self.seen.macs) > LARGE
        layers = self._layers(on_trunk) if large and isinstance(self.seen.modules[name], nn.Sequential) else []
        return layers if len(layers) > 1 else [name]

    def _layers(self, children: Iterable[str]) -> list[str]:
        """The ends of single costly layers in a sequence: after the activation that follows, before the map is pooled."""
        ends: list[str] = []
        grown = -1
        for child in children:
            if child not in self.usable:
                continue
            call = self.seen.calls[child][0]
            if call.macs > grown:
                ends.append(child)
            elif call.shape == self.seen.calls[ends[-1]][0].shape:
                ends[-1] = child
            grown = call.macs
        return ends

    def _macs(self, name: str) -> int:
        call = self.seen.calls[name][0]
        return call.macs - call.macs_before

    def _children(self, name: str) -> list[str]:
        """Modules directly inside, in order of execution; those that never run themselves (a list of modules) are opened."""
        prefix = f"{name}." if name else ""
        children: list[str] = []
        for inner, _ in (self.seen.modules[name] if name else _Root(self.seen)).named_children():
            child = prefix + inner
            calls = self.seen.calls.get(child, [])
            if not calls:
                children += self._children(child) if child in self.seen.modules else []
            elif len(calls) == 1:
                children.append(child)
        return sorted(children, key=lambda child: self.seen.calls[child][0].order)

    def _on_trunk(self, parent: str, child: str) -> bool:
        call: Call | Observation = self.seen.calls[parent][0] if parent else self.seen
        made = self.seen.calls[child][0].made
        if not parent or self._macs(parent) > WHOLE * self.seen.macs:
            return any(_inputs_of(end, made, frozenset()) for end in call.made)
        return any(_inputs_of(end, call.made_from, frozenset()) - _inputs_of(end, call.made_from, made) for end in call.made)


class _Root:
    """The network itself has no name in an observation; its children are the modules without a dot."""

    def __init__(self, seen: Observation) -> None:
        self.seen = seen

    def named_children(self) -> list[tuple[str, nn.Module]]:
        return [(name, module) for name, module in self.seen.modules.items() if "." not in name]


def _inputs_of(end: object, inputs: Nodes, avoided: Nodes) -> set[object]:
    """Which of `inputs` a node was made from, on paths that do not pass the nodes `avoided`."""
    reached: set[object] = set()
    visited: set[object] = set()
    open_ends = [end]
    while open_ends:
        node = open_ends.pop()
        if node in visited or node in avoided:
            continue
        visited.add(node)
        if node in inputs:
            reached.add(node)
        else:
            open_ends += [source for source, _ in node.next_functions if source is not None]  # type: ignore[attr-defined]
    return reached


def choose_taps(points: Sequence[TapPoint], count: int) -> tuple[TapPoint, ...]:
    """Choose `count` points at about even distances in cost (MESS, section 4.1), never the last one, which is the final exit's.

    Maps finer than `COARSE` are left to users who name them, unless there are too few others. Where the points end long before
    the network does (a decoder that is one block of most of the cost), the taps are spread evenly up to where they end.

    Raises:
        InputError: the network has fewer points than that.

    """
    usable = [point for point in points if point.macs < points[-1].macs] if points else []
    if len(usable) < count:
        names = ", ".join(point.name for point in usable) or "none"
        raise InputError(f"{count} exits asked for, but the network has only {len(usable)} points to tap: {names}")
    coarse = [point for point in usable if point.stride >= COARSE]
    usable = coarse if len(coarse) >= count else usable
    chosen: list[TapPoint] = []
    end = max((point.share for point in usable), default=1.0)
    step = 1 / (count + 1) if end > (count - 0.5) / (count + 1) else end / count
    for index in range(count):
        target = (index + 1) * step
        chosen.append(min((p for p in usable if p not in chosen), key=lambda p: abs(p.share - target)))
    return tuple(sorted(chosen, key=lambda point: point.order))


def find_multiple(network: nn.Module, height: int, width: int) -> int:
    """The least number to a multiple of which an image's sides must be padded for this network.

    Padded so, it runs, and all its feature maps round up: ceil(size / stride) cells. Many networks refuse other sizes, and some
    (ConvNeXt) round down, which would leave the image's edge unseen.

    Args:
        network: takes (1, 3, h, w).
        height: of the images that it is wanted for, pixels.
        width: pixels.

    Raises:
        InputError: it runs at none of these sizes.

    """
    with suppress(_DoesNotRun):
        usual = Points(_run(network, *USUAL, graph=True)).proposed
        strides = {point.name: point.stride for point in usual if point.layout.kind != "tokens"}
        for multiple in MULTIPLES:
            with suppress(_DoesNotRun):
                odd = _run(network, _up(ODD[0], multiple), _up(ODD[1], multiple))
                if all(_rounds_up(odd, name, stride) for name, stride in strides.items()):
                    return multiple
    # It takes images of certain sizes alone.
    reasons = []
    for multiple in MULTIPLES:
        try:
            _run(network, _up(height, multiple), _up(width, multiple))
        except _DoesNotRun as error:
            reasons.append(str(error))
        else:
            return multiple
    raise InputError(
        f"the network does not run on {width}x{height} images: {reasons[0]}; give the size that it was made for, or mend it"
    )


class _DoesNotRun(Exception):  # noqa: N818 - an answer, not an error
    """The network refuses a size."""


def _run(network: nn.Module, height: int, width: int, *, graph: bool = False) -> Observation:
    try:
        return observe(network, height, width, graph=graph)
    except (Exception, SystemExit) as error:
        # Whatever the network's own code raises.
        raise _DoesNotRun(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _rounds_up(seen: Observation, name: str, stride: int) -> bool:
    shape = seen.calls[name][0].shape if seen.calls[name] else None
    cells = (-(-seen.height // stride), -(-seen.width // stride))
    return shape is not None and cells in (shape[2:], shape[1:3])


def _up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
