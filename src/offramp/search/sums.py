"""What the sweep adds up: the values of an image at an exit, and prefixes with what they have added up so far.

Sums are in float32, which is fast, and nevertheless exact: the values of an image are multiples of a power of two, the unit of
their kind, and no sum is more than 2^24 units. What is off is the rounding of the single values to their units. It is known, so
it is known how far off any candidate can be. Pixels keep the unit 1 until a class has 16 million of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.search.estimate import Evidence
from offramp.search.pareto import P95, Limits
from offramp.search.space import Floats, Indices

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Values:
    """What is added up, V values for each image and exit: of each class that occurs correct pixels, wrong ones; costs."""

    of_exits: Singles
    """(E, V, N): where an image leaves; its own head paid."""
    asked: Singles
    """(E, V): what an exit costs who goes on."""
    start: Singles
    """(V,): the labelled pixels, which wrong ones are added to."""
    classes: int
    least: tuple[tuple[int, float], ...]
    """IoUs that are asked for: place among the classes that occur, value."""
    most: tuple[float, ...]
    """Sums over images that further costs, which come behind the latency, may not exceed."""
    fixed: tuple[tuple[Floats, Floats, float], ...]
    """Costs that do not depend on images: (E,) of being the last, (E,) of being asked, and the most that they may be."""
    off: Floats
    """(V,): how far off at most a sum over images is; of the first, (classes,), how far off an IoU."""

    @classmethod
    def of(cls, evidence: Evidence, limits: Limits) -> Values:
        """Those that these limits need."""
        labelled = evidence.labelled.sum(axis=0)
        occurs = np.flatnonzero(labelled)
        correct, predicted = np.split(evidence.pixels, 2, axis=2)
        right = correct[:, :, occurs].swapaxes(1, 2)
        wrong = predicted[:, :, occurs].swapaxes(1, 2) - right
        heads = np.array(evidence.costs.heads)
        own = np.array([evidence.costs.path_ms((index,)) for index in range(len(heads))])
        costs = [(own, heads, np.inf), *_further(evidence, limits)]
        images = np.ones(evidence.images)
        of_exits = np.concatenate([right, wrong, *(value[:, None, None] * images for value, _, _ in costs)], axis=1)
        asked = np.zeros(of_exits.shape[:2])
        asked[:, 2 * len(occurs) :] = np.stack([of_asked for _, of_asked, _ in costs], axis=1)
        start = np.zeros(of_exits.shape[1])
        start[len(occurs) : 2 * len(occurs)] = labelled[occurs]
        largest = start + _at_most(of_exits, asked, evidence.taps)
        units = 2**24 - (evidence.images + 1) * (len(evidence.taps) + 2)  # the rest is for what rounding adds
        unit = 2.0 ** np.ceil(np.log2(np.maximum(largest, 2.0**-100) / units))
        rounded, rounded_asked = np.rint(of_exits / unit[:, None]) * unit[:, None], np.rint(asked / unit) * unit
        off = _at_most(rounded - of_exits, rounded_asked - asked, evidence.taps)
        # Of an IoU I/U: |I'/U' - I/U| <= (|I' - I| + |U' - U|) / U', where U' is never less than the labelled pixels, which are
        # rounded up, and I/U is at most 1. Costs are compared in float32, with four roundings at most.
        rounded_start = np.ceil(start / unit) * unit
        off += rounded_start - start
        right, wrong = off[: len(occurs)] / labelled[occurs], off[len(occurs) : 2 * len(occurs)] / labelled[occurs]
        off[: len(occurs)] = right + np.minimum(wrong, 1.0)
        off[2 * len(occurs) :] += 2.0**-22 * largest[2 * len(occurs) :]
        return cls(
            rounded.astype(np.float32),
            rounded_asked.astype(np.float32),
            rounded_start.astype(np.float32),
            len(occurs),
            tuple((int(np.flatnonzero(occurs == index)[0]), value) for index, value in limits.min_iou),
            tuple(most * evidence.images for _, _, most in costs[1:]),
            _fixed(evidence, limits),
            off,
        )

    @property
    def miou_off(self) -> float:
        """How far off an mIoU is at most: its IoUs, then the rounding of quotients, their sum, what it is held against."""
        return float(self.off[: self.classes].mean()) + (self.classes + 4) * 2.0**-24

    @property
    def latency_off(self) -> float:
        """How far off a sum of latencies is at most, in ms."""
        return float(self.off[2 * self.classes])


def _at_most(of_exits: Floats, asked: Floats, taps: Sequence[Sequence[int]]) -> Floats:
    """The largest magnitude (V,) that a sum over images can have: each leaves at one exit, asked before at one of each tap."""
    heads = sum((np.abs(asked[list(exits)]).max(axis=0) for exits in taps), np.zeros(asked.shape[1]))
    return np.asarray(np.abs(of_exits).max(axis=0).sum(axis=1) + heads * of_exits.shape[2])


Cost = tuple[Floats, Floats, float]
"""(E,) of leaving at an exit, (E,) of being asked there and going on, and the most that is allowed on average."""


def _further(evidence: Evidence, limits: Limits) -> list[Cost]:
    """Costs besides the latency that add up over images: never more than what `Limits.met` reckons exactly."""
    costs, spec, found = evidence.costs, limits.spec, []
    for name, most in (("macs", spec.max_macs), ("energy_mj", spec.max_energy_mj)):
        if most is not None:
            cost = costs.further[name]
            own = np.array([cost.path((index,)) for index in range(len(costs.heads))])
            found.append((own / most, np.array(cost.heads) / most, 1.0))
    if spec.max_p95_latency_ms is not None:
        # Of the images at least 95 % must be in time. Each exit is as fast here as if no other had been asked before.
        in_time = [(costs.path_passes((index,)) <= spec.max_p95_latency_ms).mean() for index in range(len(costs.heads))]
        found.append((-np.array(in_time), np.zeros(len(in_time)), -P95))
    return found


def _fixed(evidence: Evidence, limits: Limits) -> tuple[Cost, ...]:
    costs, spec, found = evidence.costs, limits.spec, []
    if spec.max_worst_latency_ms is not None:
        heads = np.array(costs.heads)
        found.append((np.add(costs.stages, costs.labels) + heads, heads, spec.max_worst_latency_ms))
    for name, most in (("parameter_bytes", spec.max_parameter_bytes), ("memory_bytes", spec.max_memory_bytes)):
        if most is not None:
            cost = costs.further[name]
            own = np.array([cost.path((index,)) for index in range(len(costs.heads))])
            found.append((own, np.array(cost.heads), float(most)))
    return tuple(found)


@dataclass(frozen=True)
class Prefixes:
    """Early exits with their thresholds, R of them: which images they leave, and what has been added up."""

    exits: Indices
    """(R, k)."""
    thresholds: Floats
    """(R, k)."""
    here: Singles
    """(N, R): 1 for an image that has not left."""
    sums: Singles
    """(V, R): of the images that have left."""
    asked: Singles
    """(V, R): what the exits cost who goes on."""

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> Prefixes:
        return Prefixes(self.exits[part], self.thresholds[part], self.here[:, part], self.sums[:, part], self.asked[:, part])

    def __len__(self) -> int:
        return len(self.exits)


def stacked(parts: Sequence[Prefixes]) -> Prefixes:
    """All of them."""
    axes = {"exits": 0, "thresholds": 0, "here": 1, "sums": 1, "asked": 1}
    return Prefixes(*(np.concatenate([getattr(part, name) for part in parts], axis=axis) for name, axis in axes.items()))
