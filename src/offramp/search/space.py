"""What candidates there are: the exits, policies and thresholds that a deployment may have.

Exits are indices in order of depth here, the last one the final exit. The many candidates of the input-dependent mode come in
blocks that share everything but the image thresholds: a block is estimated as arrays, and only what is worth keeping of it
becomes a `Candidate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from offramp.policy import GRID
from offramp.specs import REGIONS, Region

Floats = npt.NDArray[np.float64]

QUANTILES = 16
"""Image thresholds tried at an exit: so many quantiles of its scores, evenly spaced up to the highest.

The lowest score is left out: with it as the threshold all images leave, and what lies deeper would be carried along unused, to
be paid for by the first image that is harder than these. The same exits without the deeper ones are a candidate of their own.
"""


@dataclass(frozen=True)
class Candidate:
    """A deployment that was compared, in numbers."""

    exits: tuple[str, ...]
    """In order of depth."""
    region: Region
    pixel_threshold: int
    """Index into `policy.PIXEL_THRESHOLDS`."""
    image_thresholds: tuple[float, ...]
    """One for each exit but the last; empty where nothing is decided by scores."""
    miou: float
    """Of the mixture over all images; of the last exit in the anytime mode."""
    latency_ms: float
    """Mean over the images; the time of the last answer in the anytime mode."""
    worst_latency_ms: float
    """All exits asked, answered by the last."""
    quality: float
    """What the anytime mode is judged by: mean mIoU over deadlines. The mIoU itself in the other modes."""


@dataclass(frozen=True)
class Block:
    """Candidates that differ in their image thresholds only."""

    exits: tuple[int, ...]
    """In order of depth; who has not left before leaves at the last."""
    region: int
    pixel_threshold: int
    image_thresholds: tuple[Floats, ...]
    """For each exit but the last the values to try, ascending; candidates are their product, the first's varying slowest."""

    @property
    def size(self) -> int:
        """How many candidates."""
        return math.prod(len(values) for values in self.image_thresholds)

    def thresholds_of(self, index: int) -> tuple[float, ...]:
        """The image thresholds of one candidate."""
        places = np.unravel_index(index, [len(values) for values in self.image_thresholds])
        return tuple(float(values[place]) for values, place in zip(self.image_thresholds, places, strict=True))


def paths(exits: int, max_exits: int) -> list[tuple[int, ...]]:
    """Every choice of 1 to `max_exits` exits to leave at early and one behind them, which need not be the final one."""
    return [chosen for number in range(2, max_exits + 2) for chosen in combinations(range(exits), number)]


def all_subsets(exits: int) -> list[tuple[int, ...]]:
    """Every non-empty choice of exits."""
    return [chosen for number in range(1, exits + 1) for chosen in combinations(range(exits), number)]


def threshold_table(scores: Floats) -> Floats:
    """The image thresholds to try.

    They are scores that occurred, so that `score >= threshold` decides on the device as it did here.

    Args:
        scores: (regions, GRID, N, E).

    Returns:
        (regions, GRID, QUANTILES, E), ascending along QUANTILES.

    """
    return np.moveaxis(np.quantile(scores, np.linspace(0, 1, QUANTILES + 1)[1:], axis=2, method="higher"), 0, 2)


def blocks(exits: tuple[int, ...], thresholds: Floats) -> Iterator[Block]:
    """All candidates of these exits: each region and pixel threshold (but the one that every pixel clears) is a block.

    Args:
        exits: in order of depth.
        thresholds: of `threshold_table`; values that repeat are tried once.

    """
    for region in range(len(REGIONS)):
        for pixel_threshold in range(1, GRID):
            values = tuple(np.unique(thresholds[region, pixel_threshold, :, early]) for early in exits[:-1])
            yield Block(exits, region, pixel_threshold, values)
