"""The anytime mode: which exits have the best answers ready at deadlines of all lengths."""

from __future__ import annotations

from collections.abc import Sequence
from math import nextafter, prod

import numpy as np

from offramp.errors import InputError
from offramp.search.estimate import Costs, Evidence
from offramp.search.space import Candidate, Floats, Indices
from offramp.specs import REGIONS

MAX_SETS = 4_000_000

Deadlines = tuple[float, float]
"""Milliseconds between which deadlines are spread evenly."""


def default_deadlines(costs: Costs, taps: Sequence[Sequence[int]]) -> Deadlines:
    """From the fastest exit alone to the last answer of the slowest set."""
    every = range(len(costs.stages))
    earliest = min(costs.path_ms((index,)) for index in every)
    slowest = [max(exits, key=lambda index: costs.heads[index]) for exits in taps]
    # With a single exit there is but one deadline; this keeps its share 1.
    return earliest, max(costs.path_ms(slowest), nextafter(earliest, np.inf))


def deadline_shares(costs: Costs, exits: Sequence[int], deadlines: Deadlines) -> list[float]:
    """Share of the deadlines at which each of `exits` is the latest answer; the rest finds no answer yet."""
    earliest, latest = deadlines
    shares, until = [], latest
    for place in reversed(range(len(exits))):
        ready = min(max(costs.path_ms(exits[: place + 1]), earliest), until)
        shares.append((until - ready) / (latest - earliest))
        until = ready
    return shares[::-1]


def anytime_sets(evidence: Evidence, deadlines: Deadlines | None = None) -> tuple[Indices, Floats, Floats]:
    """Every set of exits with at most one at a tap.

    Returns:
        The exit at each tap, (S, taps), -1 for none; the time of the last answer, (S,); the quality, (S,): mean mIoU of the
        answers at the deadlines, 0 for none.

    Raises:
        InputError: more sets than can be compared, or no exit is ready at any deadline.

    """
    taps = evidence.taps
    number = prod(len(exits) + 1 for exits in taps) - 1
    if number > MAX_SETS:
        raise InputError(
            f"the anytime mode compares every set of exits, {MAX_SETS:,} at most, got {number:,} of {len(taps)} taps; "
            f"export fewer exits, or drop the worse heads by train --halving"
        )
    fastest = default_deadlines(evidence.costs, taps)[0]
    if deadlines is not None and deadlines[1] <= fastest:
        raise InputError(
            f"no exit is ready at any of the deadlines, {deadlines[0]:g} to {deadlines[1]:g} ms: "
            f"the fastest takes {fastest:.2f} ms; give longer ones"
        )
    axes = np.meshgrid(*(np.array([-1, *exits]) for exits in taps), indexing="ij")
    sets = np.stack([axis.reshape(-1) for axis in axes], axis=1)[1:]
    earliest, latest = deadlines or default_deadlines(evidence.costs, taps)
    values = np.append(evidence.exit_miou(), 0.0)
    # The last of each, for exit -1, is what no exit costs.
    stages, heads, labels = (
        np.append(part, 0.0) for part in (evidence.costs.stages, evidence.costs.heads, evidence.costs.labels)
    )
    asked = np.cumsum(heads[sets], axis=1)
    until, quality, last_ms = np.full(len(sets), latest), np.zeros(len(sets)), np.zeros(len(sets))
    for place in reversed(range(len(taps))):
        chosen = sets[:, place]
        there = chosen >= 0
        path_ms = stages[chosen] + asked[:, place] + labels[chosen]
        last_ms = np.where(there & (last_ms == 0), path_ms, last_ms)
        ready = np.where(there, np.minimum(np.maximum(path_ms, earliest), until), until)
        quality += (until - ready) / (latest - earliest) * values[chosen]
        until = ready
    return sets, last_ms, quality


def anytime_candidate(evidence: Evidence, exits: Sequence[int], quality: float) -> Candidate:
    """A set of exits by names."""
    latency = evidence.costs.path_ms(exits)
    names = tuple(evidence.exits[index] for index in exits)
    return Candidate(names, REGIONS[0], 0, (), float(evidence.exit_miou()[exits[-1]]), latency, latency, quality)
