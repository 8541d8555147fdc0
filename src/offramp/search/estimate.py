"""What a candidate would do on the records' images, at the profile's times.

Nothing is approximated: pixel counts add up over images, so the mIoU of a mixture of exits follows from the sums over the
images that leave at each. Sums of a whole block of candidates are one matrix product for each exit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Profile, Records
from offramp.metrics import Counts, miou
from offramp.policy import GRID, image_score
from offramp.search.space import Block, Candidate, Floats, all_subsets, blocks, threshold_table
from offramp.specs import REGIONS

ELEMENTS = 2**22
"""Of the largest array of a block: 32 MiB."""
RESAMPLES = 500
SEED = 0


@dataclass(frozen=True)
class Costs:
    """Median times in ms, exit by exit in order of depth."""

    stages: tuple[float, ...]
    """All stages up to the exit's own."""
    heads: tuple[float, ...]
    labels: tuple[float, ...]

    @classmethod
    def of(cls, profile: Profile) -> Costs:
        """Take the medians once."""
        stages = [stage.median_ms for stage in profile.stages]
        return cls(
            stages=tuple(sum(stages[: deepest + 1]) for deepest in profile.exit_stages),
            heads=tuple(profile.heads[name].median_ms for name in profile.exits),
            labels=tuple(profile.labels[name].median_ms for name in profile.exits),
        )

    def path_ms(self, exits: Sequence[int]) -> float:
        """`Profile.latency_ms`, to the last bit: ask `exits`, answer with the last."""
        return self.stages[exits[-1]] + sum(self.heads[index] for index in exits) + self.labels[exits[-1]]


@dataclass(frozen=True)
class Evidence:
    """Records and profile in the form that estimates need: E exits, N images, C classes."""

    exits: tuple[str, ...]
    pixels: Floats
    """(E, N, 2C): correct, then predicted pixels. Whole numbers, which float64 adds up exactly and multiplies fast."""
    labelled: Counts
    """(N, C)."""
    scores: Floats
    """(regions, GRID, N, E)."""
    thresholds: Floats
    """(regions, GRID, QUANTILES, E)."""
    costs: Costs

    @classmethod
    def of(cls, records: Records, profile: Profile) -> Evidence:
        """Derive everything that is the same for all candidates."""
        scores = np.array(
            [[image_score(records.sure, region, index) for index in range(GRID)] for region in range(len(REGIONS))]
        )
        pixels = np.concatenate([records.correct, records.predicted], axis=2).swapaxes(0, 1).astype(np.float64)
        return cls(
            exits=records.info.exits,
            pixels=np.ascontiguousarray(pixels),
            labelled=records.labelled,
            scores=scores,
            thresholds=threshold_table(scores),
            costs=Costs.of(profile),
        )

    @property
    def images(self) -> int:
        """N."""
        return len(self.labelled)

    def exit_miou(self) -> Floats:
        """MIoU of each exit alone, (E,)."""
        return miou_of(self.pixels.sum(axis=1), self.labelled.sum(axis=0))


def miou_of(pixels: Floats, labelled: Counts) -> Floats:
    """MIoU of summed pixels (..., 2C) against labelled ones (..., C); shape (...)."""
    correct, predicted = np.split(pixels.astype(np.int64), 2, axis=-1)
    return miou(correct, predicted, labelled)


# ------------------------------------------------------------------------------------------------------------------- modes


def single_exits(evidence: Evidence) -> list[Candidate]:
    """Every exit alone."""
    latencies = [evidence.costs.path_ms((index,)) for index in range(len(evidence.exits))]
    return [
        Candidate((name,), REGIONS[0], 0, (), miou=value, latency_ms=latency, worst_latency_ms=latency, quality=value)
        for name, value, latency in zip(evidence.exits, evidence.exit_miou().tolist(), latencies, strict=True)
    ]


def estimate_blocks(evidence: Evidence, exits: tuple[int, ...]) -> Iterator[tuple[Block, Floats, Floats]]:
    """Yield each block of candidates with these exits, the mIoU and the mean latency of its candidates, each (block.size,)."""
    # Behind the pixels stands which exit an image leaves at: their sums are the images that leave at each.
    places = np.eye(len(exits))
    values = [
        np.hstack([evidence.pixels[index], np.tile(place, (evidence.images, 1))])
        for index, place in zip(exits, places, strict=True)
    ]
    costs = [evidence.costs.path_ms(exits[: place + 1]) for place in range(len(exits))]
    labelled = evidence.labelled.sum(axis=0)
    for block in blocks(exits, evidence.thresholds):
        scores = evidence.scores[block.region, block.pixel_threshold]
        clears = [scores[:, index] >= tried[:, None] for index, tried in zip(exits[:-1], block.image_thresholds, strict=True)]
        sums = mixture_sums(clears, values)
        pixels, leaving = sums[:, : -len(exits)], sums[:, -len(exits) :]
        yield block, miou_of(pixels, labelled), mean_latency(leaving / evidence.images, costs)


def mixture_sums(clears: Sequence[npt.NDArray[np.bool_]], values: Sequence[Floats]) -> Floats:
    """Add up, for every combination of thresholds, the values of each image at the exit where it leaves.

    Args:
        clears: for each early exit (T, N): whether an image's score reaches each of T thresholds.
        values: for each exit, the final one too, (N, V).

    Returns:
        (T of the first exit x T of the second x ..., V), the first exit's thresholds varying slowest.

    """
    step = max(1, ELEMENTS // math.prod(len(clear) for clear in clears))
    images = [slice(start, start + step) for start in range(0, len(values[0]), step)]
    parts = [_sums([clear[:, part] for clear in clears], [value[part] for value in values]) for part in images]
    return np.asarray(np.sum(parts, axis=0))


def _sums(clears: Sequence[npt.NDArray[np.bool_]], values: Sequence[Floats]) -> Floats:
    images, width = values[-1].shape
    here, sums = np.ones((1, images)), np.zeros((1, width))
    for clear, value in zip(clears, values[:-1], strict=True):
        leaving = (here[:, None] * clear).reshape(-1, images)
        here = np.repeat(here, len(clear), axis=0) - leaving
        sums = np.repeat(sums, len(clear), axis=0) + leaving @ value
    return sums + here @ values[-1]


def mean_latency(shares: Floats, costs: Sequence[float]) -> Floats:
    """Mean of the exits' costs by the shares of images that leave there, (..., exits) -> (...).

    Added up in a fixed order, and exactly the cost of an exit where all images leave: ties stay ties.
    """
    total = np.zeros(shares.shape[:-1])
    for place, cost in enumerate(costs):
        total += shares[..., place] * cost
    return total


def anytime_sets(evidence: Evidence) -> list[Candidate]:
    """Every set of exits, judged by the answer it has ready at deadlines of all lengths."""
    values = evidence.exit_miou().tolist()
    found = []
    for exits in all_subsets(len(evidence.exits)):
        latency = evidence.costs.path_ms(exits)
        shares = deadline_shares(evidence.costs, exits)
        quality = sum(share * values[index] for share, index in zip(shares, exits, strict=True))
        names = tuple(evidence.exits[index] for index in exits)
        found.append(Candidate(names, REGIONS[0], 0, (), values[exits[-1]], latency, latency, quality))
    return found


def deadline_shares(costs: Costs, exits: Sequence[int]) -> list[float]:
    """Share of the deadlines at which each of `exits` is the latest answer; the rest finds no answer yet.

    Deadlines are spread evenly from the fastest exit alone to the last one of the full set.
    """
    everything = range(len(costs.stages))
    earliest = min(costs.path_ms((index,)) for index in everything)
    # With a single exit there is but one deadline; this keeps its share 1.
    latest = max(costs.path_ms(everything), math.nextafter(earliest, math.inf))
    shares, until = [], latest
    for place in reversed(range(len(exits))):
        ready = min(costs.path_ms(exits[: place + 1]), until)
        shares.append((until - ready) / (latest - earliest))
        until = ready
    return shares[::-1]


# ---------------------------------------------------------------------------------------------------------- one candidate


def leaves_at(evidence: Evidence, candidate: Candidate) -> npt.NDArray[np.int64]:
    """Index into the candidate's exits of the one where each image leaves, (N,)."""
    indices = [evidence.exits.index(name) for name in candidate.exits]
    if not candidate.image_thresholds:
        return np.full(evidence.images, len(indices) - 1)
    scores = evidence.scores[REGIONS.index(candidate.region), candidate.pixel_threshold][:, indices[:-1]]
    clears = np.column_stack([scores >= candidate.image_thresholds, np.ones(evidence.images, dtype=bool)])
    return np.asarray(clears.argmax(axis=1))


def intervals(evidence: Evidence, candidate: Candidate) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % bootstrap intervals over images of the candidate's mIoU and mean latency."""
    indices = [evidence.exits.index(name) for name in candidate.exits]
    left = leaves_at(evidence, candidate)
    pixels = evidence.pixels[np.array(indices)[left], np.arange(evidence.images)]
    costs = [evidence.costs.path_ms(indices[: place + 1]) for place in range(len(indices))]
    # How often each image is drawn when N are drawn out of N with replacement.
    drawn = np.random.default_rng(SEED).multinomial(
        evidence.images, np.full(evidence.images, 1 / evidence.images), size=RESAMPLES
    )
    values = miou_of(drawn @ pixels, drawn @ evidence.labelled)
    shares = drawn @ np.eye(len(indices))[left] / evidence.images
    return _middle(values), _middle(mean_latency(shares, costs))


def _middle(values: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975]).tolist()
    return low, high
