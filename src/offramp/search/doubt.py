"""How sure a choice is: bootstrap over images, the same draws for everything that is compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.artifacts import Doubt, RunnerUp
from offramp.metrics import Counts
from offramp.search.estimate import Evidence, leaves_at, mean_cost, miou_of, places_of
from offramp.search.pareto import Limits
from offramp.search.space import Candidate, Floats
from offramp.search.staircase import Goal

RESAMPLES = 500
SEED = 0


@dataclass(frozen=True)
class Resampled:
    """What a candidate does on images that were drawn again, (RESAMPLES,) each."""

    miou: Floats
    latency_ms: Floats

    @classmethod
    def of(cls, evidence: Evidence, candidate: Candidate) -> Resampled:
        """As many images as there are, drawn with replacement."""
        drawn = draws(evidence.images)
        indices = places_of(evidence, candidate)
        left = leaves_at(evidence, candidate)
        pixels = evidence.pixels[np.array(indices)[left], np.arange(evidence.images)]
        paths = np.array([evidence.costs.path_ms(indices[: place + 1]) for place in range(len(indices))])
        shares = drawn @ np.eye(len(indices))[left] / evidence.images
        return cls(miou_of(drawn @ pixels, drawn @ evidence.labelled), mean_cost(shares, paths))


def draws(images: int) -> Counts:
    """How often each image is drawn, (RESAMPLES, N)."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.nanquantile(values, [0.025, 0.975]).tolist()
    return low, high


def doubt_about(evidence: Evidence, limits: Limits, goal: Goal, winner: Candidate, runner_up: Candidate | None) -> Doubt:
    """How often the winner keeps its limits on images drawn again, and whether it can be told from its runner-up.

    They cannot be told apart if the 95 % interval of their difference, in what they were chosen by, holds 0.
    """
    ours = Resampled.of(evidence, winner)
    kept = (ours.miou >= limits.min_miou) & (ours.latency_ms <= limits.max_latency_ms)
    if runner_up is None:
        return Doubt(limits_kept=float(kept.mean()), runner_up=None)
    theirs = Resampled.of(evidence, runner_up)
    difference = theirs.latency_ms - ours.latency_ms if goal == "least-latency" else ours.miou - theirs.miou
    low, high = interval(difference)
    second = RunnerUp(
        exits=runner_up.exits,
        miou=runner_up.miou,
        latency_ms=runner_up.latency_ms,
        difference_interval=(low, high),
        distinguishable=low > 0,
    )
    return Doubt(limits_kept=float(kept.mean()), runner_up=second)
