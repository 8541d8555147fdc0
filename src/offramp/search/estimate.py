"""What candidates would do on the records' images, at the profile's times.

Nothing is approximated: pixel counts add up over images, so the mIoU of a mixture of exits follows from the sums over the
images that leave at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Measurement, Profile, Records
from offramp.metrics import Counts, iou, miou
from offramp.policy import GRID, image_score
from offramp.search.space import Candidate, Floats, Indices, Policy, taps_of
from offramp.specs import REGIONS

AT_ONCE = 2**22
"""Elements of the largest array while candidates are estimated: 32 MiB."""


@dataclass(frozen=True)
class StepCost:
    """A further cost, exit by exit in order of depth."""

    stages: tuple[float, ...]
    """Of all stages up to the exit's own, and of the process without any graph."""
    heads: tuple[float, ...]
    labels: tuple[float, ...]

    def path(self, exits: Sequence[int]) -> float:
        """Of asking `exits` and answering with the last."""
        return self.stages[exits[-1]] + sum(self.heads[index] for index in exits) + self.labels[exits[-1]]

    def kept(self, exits: Sequence[int]) -> float:
        """Of a package with these exits alone; exits that cost the same for their label maps share one graph for them."""
        shared = {self.labels[index] for index in exits}
        return self.stages[exits[-1]] + sum(self.heads[index] for index in exits) + sum(shared)


FURTHER = ("macs", "parameter_bytes", "memory_bytes", "energy_mj")
"""Costs besides the time that a profile may hold."""


@dataclass(frozen=True)
class Costs:
    """What the steps of the exits cost, exit by exit in order of depth, each (E,)."""

    stages: tuple[float, ...]
    """Median ms of all stages up to the exit's own."""
    heads: tuple[float, ...]
    labels: tuple[float, ...]
    further: dict[str, StepCost]
    """Those of `FURTHER` that the profile holds for every step."""
    passes: Floats
    """(3, passes, E): ms of the stages so far, the head and the label map in each pass of the profile."""

    @classmethod
    def of(cls, profile: Profile) -> Costs:
        """Take medians and sums once."""
        heads = [profile.heads[name] for name in profile.exits]
        labels = [profile.labels[name] for name in profile.exits]
        medians = [stage.median_ms for stage in profile.stages]
        deepest = profile.exit_stages
        stages = np.cumsum(_passes(profile.stages, profile), axis=1)[:, list(deepest)]
        return cls(
            stages=tuple(sum(medians[: place + 1]) for place in deepest),
            heads=tuple(head.median_ms for head in heads),
            labels=tuple(step.median_ms for step in labels),
            further={name: cost for name in FURTHER if (cost := _further(profile, name)) is not None},
            passes=np.stack([stages, _passes(heads, profile), _passes(labels, profile)]),
        )

    def path_ms(self, exits: Sequence[int]) -> float:
        """`Profile.latency_ms`, to the last bit: ask `exits`, answer with the last."""
        return self.stages[exits[-1]] + sum(self.heads[index] for index in exits) + self.labels[exits[-1]]

    def path_passes(self, exits: Sequence[int]) -> Floats:
        """Ms of asking `exits` and answering with the last in each pass of the profile, whose steps it took in turn."""
        stages, heads, labels = self.passes
        return np.asarray(stages[:, exits[-1]] + heads[:, list(exits)].sum(axis=1) + labels[:, exits[-1]])


def _further(profile: Profile, name: str) -> StepCost | None:
    stages, heads, labels = (
        [getattr(step, name) for step in steps]
        for steps in (
            profile.stages,
            [profile.heads[one] for one in profile.exits],
            [profile.labels[one] for one in profile.exits],
        )
    )
    base = profile.base_memory_bytes if name == "memory_bytes" else 0
    if base is None or any(value is None for value in (*stages, *heads, *labels)):
        return None
    sums = tuple(base + sum(stages[: place + 1]) for place in profile.exit_stages)
    return StepCost(sums, tuple(heads), tuple(labels))


def _passes(steps: Sequence[Measurement], profile: Profile) -> Floats:
    """Times (passes, steps); steps with fewer times than others are repeated from the start."""
    every = [*profile.stages, *profile.heads.values(), *profile.labels.values()]
    return np.stack([np.resize(step.times_ms, max(len(one.times_ms) for one in every)) for step in steps], axis=1)


@dataclass(frozen=True)
class Evidence:
    """Records and profile in the form that estimates need: E exits, N images, C classes."""

    exits: tuple[str, ...]
    classes: tuple[str, ...]
    taps: tuple[tuple[int, ...], ...]
    """The exits at each tap."""
    pixels: Floats
    """(E, N, 2C): correct, then predicted pixels. Whole numbers, which float64 adds up exactly and multiplies fast."""
    labelled: Counts
    """(N, C)."""
    scores: Floats
    """(regions, GRID, N, E); at the first of GRID, of the mean confidence."""
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
            classes=records.info.classes,
            taps=taps_of(profile.exit_stages),
            pixels=np.ascontiguousarray(pixels),
            labelled=records.labelled,
            scores=scores,
            costs=Costs.of(profile),
        )

    @property
    def images(self) -> int:
        """N."""
        return len(self.labelled)

    def exit_miou(self) -> Floats:
        """MIoU of each exit alone, (E,)."""
        return miou_of(self.pixels.sum(axis=1), self.labelled.sum(axis=0))

    def scores_of(self, policy: Policy) -> Floats:
        """(N, E)."""
        return np.asarray(self.scores[policy.region, policy.pixel_threshold])


def miou_of(pixels: Floats, labelled: Counts) -> Floats:
    """MIoU of summed pixels (..., 2C) against labelled ones (..., C); shape (...)."""
    correct, predicted = np.split(pixels.astype(np.int64), 2, axis=-1)
    return miou(correct, predicted, labelled)


def iou_of(pixels: Floats, labelled: Counts) -> Floats:
    """IoU of each class, (..., C)."""
    correct, predicted = np.split(pixels.astype(np.int64), 2, axis=-1)
    return iou(correct, predicted, labelled)


def mean_cost(shares: Floats, costs: Floats) -> Floats:
    """Mean of the exits' costs by the shares of images that leave there, (..., exits) -> (...).

    Added up in a fixed order, and exactly the cost of an exit where all images leave: ties stay ties.
    """
    total = np.zeros(shares.shape[:-1])
    for place in range(shares.shape[-1]):
        total += shares[..., place] * costs[..., place]
    return total


# ------------------------------------------------------------------------------------------------------- many candidates


@dataclass(frozen=True)
class Batch:
    """Candidates of the same number of exits, K, in arrays: S of them."""

    exits: Indices
    """(S, K)."""
    policy: Indices
    """(S,): index into a list of policies."""
    image_thresholds: Floats
    """(S, K - 1)."""
    pixels: Floats
    """(S, 2C): correct, then predicted pixels, exactly."""
    miou: Floats
    shares: Floats
    """(S, K): of images that leave at each exit."""
    latency_ms: Floats
    """Mean over the images."""

    def __len__(self) -> int:
        return len(self.miou)

    def __getitem__(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Batch:
        return Batch(*(getattr(self, field)[which] for field in Batch.__dataclass_fields__))

    def candidate(self, evidence: Evidence, policies: Sequence[Policy], index: int) -> Candidate:
        """One of them by names."""
        exits = self.exits[index].tolist()
        # One exit alone decides nothing by scores.
        policy = policies[self.policy[index]] if len(exits) > 1 else Policy(0, 0)
        value = float(self.miou[index])
        return Candidate(
            tuple(evidence.exits[place] for place in exits),
            REGIONS[policy.region],
            policy.pixel_threshold,
            tuple(self.image_thresholds[index].tolist()),
            value,
            float(self.latency_ms[index]),
            evidence.costs.path_ms(exits),
            value,
        )


def estimate_batch(
    evidence: Evidence, policies: Sequence[Policy], exits: Indices, policy: Indices, image_thresholds: Floats
) -> Batch:
    """What each of these candidates would do, exactly; shapes as in `Batch`."""
    step = max(1, AT_ONCE // (evidence.images * evidence.pixels.shape[2]))
    parts = [
        _estimate(evidence, policies, exits[at : at + step], policy[at : at + step], image_thresholds[at : at + step])
        for at in range(0, max(1, len(exits)), step)
    ]
    pixels, shares = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    sets, which = np.unique(exits, axis=0, return_inverse=True)
    paths = np.array([[evidence.costs.path_ms(one[: place + 1]) for place in range(len(one))] for one in sets.tolist()])
    latency = mean_cost(shares, paths.reshape(-1, exits.shape[1])[which.reshape(-1)])
    return Batch(exits, policy, image_thresholds, pixels, miou_of(pixels, evidence.labelled.sum(axis=0)), shares, latency)


def _estimate(
    evidence: Evidence, policies: Sequence[Policy], exits: Indices, policy: Indices, image_thresholds: Floats
) -> tuple[Floats, Floats]:
    """Sums of pixels (S, 2C) and shares (S, K)."""
    table = np.stack([evidence.scores_of(one) for one in policies]) if image_thresholds.size else evidence.scores[0]
    here = np.ones((len(exits), evidence.images), dtype=bool)
    pixels = np.zeros((len(exits), evidence.pixels.shape[2]))
    shares = np.zeros(exits.shape)
    for place in range(exits.shape[1]):
        leaving = here
        if place < image_thresholds.shape[1]:
            leaving = here & (table[policy, :, exits[:, place]] >= image_thresholds[:, place, None])
        here = here & ~leaving
        shares[:, place] = leaving.sum(axis=1) / evidence.images
        pixels += (leaving[:, None].astype(np.float64) @ evidence.pixels[exits[:, place]])[:, 0]
    return pixels, shares


def single_exits(evidence: Evidence) -> Batch:
    """Every exit alone."""
    exits = np.arange(len(evidence.exits))[:, None]
    return estimate_batch(evidence, [], exits, np.zeros(len(exits), np.int64), np.zeros((len(exits), 0)))


# ---------------------------------------------------------------------------------------------------------- one candidate


def places_of(evidence: Evidence, candidate: Candidate) -> list[int]:
    """Its exits as indices."""
    return [evidence.exits.index(name) for name in candidate.exits]


def leaves_at(evidence: Evidence, candidate: Candidate) -> npt.NDArray[np.int64]:
    """Index into the candidate's exits of the one where each image leaves, (N,)."""
    indices = places_of(evidence, candidate)
    if not candidate.image_thresholds:
        return np.full(evidence.images, len(indices) - 1)
    policy = Policy(REGIONS.index(candidate.region), candidate.pixel_threshold)
    scores = evidence.scores_of(policy)[:, indices[:-1]]
    clears = np.column_stack([scores >= candidate.image_thresholds, np.ones(evidence.images, dtype=bool)])
    return np.asarray(clears.argmax(axis=1))


def as_batch(evidence: Evidence, candidate: Candidate) -> Batch:
    """A batch of this one alone, estimated on these images."""
    policy = Policy(REGIONS.index(candidate.region), candidate.pixel_threshold)
    thresholds = np.array([candidate.image_thresholds]).reshape(1, -1)
    return estimate_batch(evidence, [policy], np.array([places_of(evidence, candidate)]), np.zeros(1, np.int64), thresholds)
