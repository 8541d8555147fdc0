"""What the command `taps` shows: a network's candidate points with their costs, and the exits that training would attach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.models.attach import join, plan_network
from offramp.models.heads import HeadFigures
from offramp.models.observe import time_calls
from offramp.models.sources import build
from offramp.models.taps import TapPoint, find_points
from offramp.specs import NetworkChoice, NetworkSpec, Size


@dataclass(frozen=True)
class SurveyedPoint:
    """A candidate point and the time to get there."""

    point: TapPoint
    latency_ms: float
    """Median over the passes from the network's start to here, in PyTorch without an engine: for comparing points."""
    chosen: bool
    """Whether training would tap it."""


@dataclass(frozen=True)
class SurveyedExit:
    """An exit that training would attach."""

    name: str
    figures: HeadFigures


@dataclass(frozen=True)
class Survey:
    """A network, looked at."""

    spec: NetworkSpec
    points: tuple[SurveyedPoint, ...]
    exits: tuple[SurveyedExit, ...]
    macs: int
    parameters: int
    latency_ms: float


@checked_call
def survey(choice: NetworkChoice, num_classes: int, *, size: Size, passes: int = 5, every: bool = False) -> Survey:
    """Look for the points of a network that has a name.

    Args:
        choice: network, exits, heads.
        num_classes: of the class scores.
        size: width and height of the images that it is meant for.
        passes: how often it is timed.
        every: all modules that can be tapped, not only the blocks.

    Raises:
        InputError: see `attach.plan_network`.

    """
    if passes < 1:
        raise InputError(f"passes must be at least 1, got {passes}")
    spec = plan_network(choice, num_classes, size=size)
    network = build(spec.network, num_classes, output_stride=spec.output_stride).network
    width, height = (-(-side // spec.multiple) * spec.multiple for side in size)
    points = find_points(network, height, width)
    tapped = {early.tap for early in spec.exits}
    shown: Sequence[TapPoint] = [point for point in points.usable if every or point in points.proposed or point.name in tapped]
    times = time_calls(network, [point.name for point in shown], height, width, passes=passes)
    joined = join(network, spec)
    exits = [SurveyedExit(name, figures) for name in spec.exit_names if (figures := joined.figures(name, size)) is not None]
    return Survey(
        spec=spec,
        points=tuple(SurveyedPoint(point, median(times[point.name]), point.name in tapped) for point in shown),
        exits=tuple(exits),
        macs=points.macs,
        parameters=points.parameters,
        latency_ms=median(times[""]),
    )
