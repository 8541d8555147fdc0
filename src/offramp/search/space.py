"""What candidates there are: the exits, policies and thresholds that a deployment may have.

Exits are indices in order of depth here, the last one the deepest. A deployment takes at most one of the exits at a tap. An
input-dependent one has one policy for all its exits, and for each but the last an image threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product

import numpy as np
import numpy.typing as npt

from offramp.policy import GRID, MEAN
from offramp.specs import REGIONS, PolicyName, Region

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

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
class Policy:
    """How scores are made."""

    region: int
    """Index into `specs.REGIONS`."""
    pixel_threshold: int
    """Index into `policy.PIXEL_THRESHOLDS`; `policy.MEAN` for the mean confidence."""


def policies(names: Sequence[PolicyName]) -> list[Policy]:
    """Every policy of these kinds: of a region one for each pixel threshold but the one that every pixel reaches."""
    found = []
    for name in names:
        if name == "mean":
            found.append(Policy(0, MEAN))
        else:
            found += [Policy(REGIONS.index(name), threshold) for threshold in range(1, GRID)]
    return found


def taps_of(stages: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The exits at each tap, from `Profile.exit_stages`: exits behind the same stage."""
    return tuple(tuple(group) for _, group in groupby(range(len(stages)), key=lambda index: stages[index]))


def sets_of(taps: Sequence[Sequence[int]], number: int) -> Iterator[tuple[int, ...]]:
    """Every choice of so many exits, at most one at a tap, in order of depth."""
    for chosen in combinations(taps, number):
        yield from product(*chosen)


def count_sets(taps: Sequence[Sequence[int]], number: int) -> int:
    """How many `sets_of` gives."""
    return _choices([len(exits) for exits in taps], number)


def count_candidates(
    taps: Sequence[Sequence[int]], thresholds: npt.NDArray[np.int64], early: int, lasts: Collection[int]
) -> int:
    """How many candidates leave early at exactly so many exits.

    Args:
        taps: of `taps_of`.
        thresholds: how many image thresholds there are to try, (policies, exits).
        early: exits but the last.
        lasts: exits that may be the last.

    """
    total = 0
    for place in range(early, len(taps)):
        ends = sum(last in lasts for last in taps[place])
        for tried in thresholds.tolist():
            total += ends * _choices([sum(tried[index] for index in exits) for exits in taps[:place]], early)
    return total


def _choices(weights: Sequence[int], number: int) -> int:
    """The sum over all choices of so many of the weights' products: an elementary symmetric polynomial."""
    sums = [1] + [0] * number
    for weight in weights:
        for place in range(number, 0, -1):
            sums[place] += sums[place - 1] * weight
    return sums[number]


def thresholds_to_try(scores: Floats, number: int = QUANTILES) -> Floats:
    """The image thresholds to try at an exit, ascending.

    They are scores that occurred, so that `score >= threshold` decides on the device as it did here. Where all images have the
    same score there are none.

    Args:
        scores: of the images at the exit, (N,).
        number: how many at most; equal ones are tried once.

    """
    found = np.unique(np.quantile(scores, np.linspace(0, 1, number + 1)[1:], method="higher"))
    return np.asarray(found[found > scores.min()])
