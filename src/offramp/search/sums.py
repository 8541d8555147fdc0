"""What the sweep adds up: the values of an image at an exit, and prefixes with what they have added up so far."""

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
        return cls(
            of_exits.astype(np.float32),
            asked.astype(np.float32),
            start.astype(np.float32),
            len(occurs),
            tuple((int(np.flatnonzero(occurs == index)[0]), value) for index, value in limits.min_iou),
            tuple(most * evidence.images for _, _, most in costs[1:]),
            _fixed(evidence, limits),
        )


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
