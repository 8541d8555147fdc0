"""Judge every candidate of the input-dependent mode: billions, by sums over images that neighbours share.

Candidates with the same exits differ in where each image leaves. Let the last two early exits be the *middle* and the *outer*
one, and what comes before them the prefix. Images are sorted by their score at the middle exit. While its threshold rises,
image after image goes on instead of leaving there, so each image is added once for all 16 of the middle's thresholds, and for
all prefixes and outer thresholds together that is a small matrix product:

    sums[value, outer, prefix] += goes_on[value, outer, image] @ still_here[image, prefix]

The values of an image are its correct and its wrongly predicted pixels of each class, and its latency. Sums are in float32,
which is fast and not exact; so a candidate is dropped only if it misses what is known already by more than the worst rounding
error (`margin`). Those that remain are estimated exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from offramp.progress import Progress, silent
from offramp.search.estimate import Batch, Evidence, estimate_batch
from offramp.search.pareto import P95, Limits
from offramp.search.space import QUANTILES, Floats, Indices, Policy, count_candidates, thresholds_to_try
from offramp.search.staircase import Staircase

Singles = npt.NDArray[np.float32]

MIDDLE_AND_OUTER = 2
BLOCK = 4096
"""Candidates judged at once: their sums fit into a core's cache."""


@dataclass(frozen=True)
class Space:
    """Which candidates there are."""

    taps: tuple[tuple[int, ...], ...]
    """The exits at each tap, in order of depth."""
    lasts: frozenset[int]
    """The exits that may be the last of a deployment."""
    policies: tuple[Policy, ...]
    quantiles: int = QUANTILES


def margin(images: int) -> float:
    """How far off the mIoU of float32 sums can be.

    A sum of n numbers is off by at most n * 2^-24 of the sum of their magnitudes (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, section 4.2). Here up to three are taken for each image (it leaves, and is put back, and goes on), each at
    most a class's pixels; a quotient doubles the error.
    """
    return 2 * 4 * (images + 64) * 2.0**-24


@dataclass(frozen=True)
class Judged:
    """What a sweep found."""

    kept: list[Batch]
    """The candidates that the staircase did not exclude, exactly estimated, one batch for each policy that has any."""
    judged: int
    """Candidates, one by one; all others begin with exits and thresholds that cannot win."""


def sweep(
    evidence: Evidence,
    space: Space,
    early: int,
    limits: Limits,
    stairs: Staircase,
    *,
    workers: int = 1,
    progress: Progress = silent,
) -> Judged:
    """Judge the candidates that leave early at exactly so many exits.

    Args:
        evidence: records and profile.
        space: the candidates.
        early: exits but the last.
        limits: that a candidate must meet to be kept.
        stairs: what must be beaten; it rises on the way.
        workers: threads.
        progress: told of each policy.

    """
    if early > len(space.taps) - 1:
        return Judged([], 0)
    values = _Values.of(evidence, limits)
    done = 0

    def one(index: int) -> tuple[Batch | None, int]:
        nonlocal done
        found = _Policy(evidence, space, values, limits, index, early, stairs).judge()
        done += 1
        progress(f"search with {early} early exit{'s' * (early > 1)}", done, len(space.policies))
        return found

    if workers == 1 or len(space.policies) == 1:
        results = [one(index) for index in range(len(space.policies))]
    else:
        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(one, range(len(space.policies))))
    return Judged([batch for batch, _ in results if batch is not None], sum(count for _, count in results))


@dataclass(frozen=True)
class _Values:
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
    def of(cls, evidence: Evidence, limits: Limits) -> _Values:
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
    if spec.max_macs is not None:
        macs = np.array([costs.path_macs((index,)) for index in range(len(costs.heads))], np.float64)
        found.append((macs / spec.max_macs, np.array(costs.head_macs) / spec.max_macs, 1.0))
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
    if spec.max_parameter_bytes is not None:
        heads = np.array(costs.head_bytes, np.float64)
        found.append((np.array(costs.stage_bytes) + heads, heads, float(spec.max_parameter_bytes)))
    return tuple(found)


@dataclass(frozen=True)
class _Prefixes:
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

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> _Prefixes:
        return _Prefixes(self.exits[part], self.thresholds[part], self.here[:, part], self.sums[:, part], self.asked[:, part])

    def __len__(self) -> int:
        return len(self.exits)


@dataclass(frozen=True)
class _Columns:
    """The outer exits at one tap with their thresholds and a last exit, K of them."""

    exits: Indices
    """(K,)."""
    thresholds: Floats
    last: int
    goes_on: Singles
    """(V, K, N): what an image adds that has come this far."""


class _Policy:
    """All candidates with one policy."""

    def __init__(
        self,
        evidence: Evidence,
        space: Space,
        values: _Values,
        limits: Limits,
        index: int,
        early: int,
        stairs: Staircase,
    ) -> None:
        self.evidence, self.space, self.values, self.limits = evidence, space, values, limits
        self.index, self.early, self.stairs = index, early, stairs
        self.scores = evidence.scores_of(space.policies[index])
        self.tries = [thresholds_to_try(self.scores[:, place], space.quantiles) for place in range(len(evidence.exits))]
        self.kept: list[Batch] = []
        self.judged = 0
        self.margin = margin(evidence.images)

    def judge(self) -> tuple[Batch | None, int]:
        """What is kept, and how many were judged."""
        images, width = self.evidence.images, len(self.values.start)
        nothing = _Prefixes(
            np.zeros((1, 0), np.int64),
            np.zeros((1, 0)),
            np.ones((images, 1), np.float32),
            np.zeros((width, 1), np.float32),
            np.zeros((width, 1), np.float32),
        )
        self._go_on(nothing, 0, self.early)
        return _joined(self.kept), self.judged

    def _go_on(self, prefix: _Prefixes, tap: int, early: int) -> None:
        """Judge all candidates that begin with one prefix and have so many early exits from this tap on."""
        behind = len(self.space.taps) - 1
        if early > MIDDLE_AND_OUTER + 1:
            for first in range(tap, behind - early + 1):
                rows = self._extended(prefix, first, first + 1)
                for row in range(len(rows)):
                    self._go_on(rows[row : row + 1], first + 1, early - 1)
            return
        for outer in range(tap + early - 1, behind):
            for columns in self._columns(outer) if any(len(self.tries[place]) for place in self.space.taps[outer]) else ():
                if early == 1:
                    self._judge(prefix, None, columns)
                elif early == MIDDLE_AND_OUTER:
                    self._judge(self._extended(prefix, tap, outer), None, columns)
                else:
                    self._judge_middles(prefix, tap, outer, columns)

    def _judge_middles(self, prefix: _Prefixes, tap: int, outer: int, columns: _Columns) -> None:
        for middle_tap in range(tap + 1, outer):
            rows = self._extended(prefix, tap, middle_tap)
            for middle in self.space.taps[middle_tap]:
                self._judge(rows, middle, columns)

    def _extended(self, prefix: _Prefixes, tap: int, until: int) -> _Prefixes:
        """One prefix, with each exit and threshold of the taps from `tap` to before `until` behind it."""
        parts = []
        for place in (index for exits in self.space.taps[tap:until] for index in exits):
            tried = self.tries[place]
            stays = (self.scores[:, place, None] < tried).astype(np.float32) * prefix.here
            left = prefix.here - stays
            leaving = self.values.of_exits[place] @ left + prefix.asked * left.sum(axis=0)
            parts.append(
                _Prefixes(
                    np.column_stack([np.repeat(prefix.exits, len(tried), axis=0), np.full(len(tried), place)]),
                    np.column_stack([np.repeat(prefix.thresholds, len(tried), axis=0), tried]),
                    stays,
                    prefix.sums + leaving,
                    np.repeat(prefix.asked + self.values.asked[place][:, None], len(tried), axis=1),
                )
            )
        axes = {"exits": 0, "thresholds": 0, "here": 1, "sums": 1, "asked": 1}
        rows = _Prefixes(*(np.concatenate([getattr(part, name) for part in parts], axis=axis) for name, axis in axes.items()))
        return rows[self._may_win(rows, until)]

    def _may_win(self, rows: _Prefixes, tap: int) -> npt.NDArray[np.int64]:
        """The prefixes that are not excluded even if all goes for the best behind them.

        That is: each image that is left leaves at the cheapest exit from a tap on, and each class gains as at the best one.
        """
        classes, behind = self.values.classes, [place for exits in self.space.taps[tap:] for place in exits]
        deeper = self.values.of_exits[behind]
        best = np.concatenate([deeper[:, :classes].max(axis=0), deeper[:, classes : 2 * classes + 1].min(axis=0)])
        width = 2 * classes + 1
        sums = (
            self.values.start[:width, None] + rows.sums[:width] + rows.asked[:width] * rows.here.sum(axis=0) + best @ rows.here
        )
        ious = (sums[:classes] / sums[classes : 2 * classes]).sum(axis=0)
        return np.flatnonzero(self.stairs.not_excluded(ious, sums[2 * classes]))

    def _columns(self, tap: int) -> Iterator[_Columns]:
        """All exits of a tap as the outer ones, with every last exit behind them."""
        outer = self.space.taps[tap]
        exits = np.concatenate([np.full(len(self.tries[place]), place) for place in outer])
        thresholds = np.concatenate([self.tries[place] for place in outer])
        leaves = (self.scores[:, exits] >= thresholds).T
        left = self.values.of_exits[exits].swapaxes(0, 1)
        for last in (place for taps in self.space.taps[tap + 1 :] for place in taps if place in self.space.lasts):
            stays = self.values.of_exits[last][:, None] + self.values.asked[exits].T[:, :, None]
            yield _Columns(exits, thresholds, last, np.where(leaves, left, stays))

    def _judge(self, rows: _Prefixes, middle: int | None, columns: _Columns) -> None:
        """Judge every prefix with every column and every threshold of the middle exit, if there is one."""
        step = max(1, BLOCK // len(columns.exits))
        arrivals, tried = self._arrivals(middle, columns)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            self.judged += len(part) * len(columns.exits) * len(tried)
            self._judge_part(part, middle, columns, arrivals, tried)

    def _arrivals(self, middle: int | None, columns: _Columns) -> tuple[list[tuple[npt.NDArray[np.int64], Singles]], Floats]:
        """For each threshold of the middle exit the images that it lets through anew, and what each adds, (V x K, images)."""
        width = len(self.values.start) * len(columns.exits)
        images = np.arange(self.evidence.images)
        if middle is None:
            return [(images, columns.goes_on.reshape(width, len(images)))], np.zeros(1)
        order = np.argsort(self.scores[:, middle], kind="stable")
        tried = self.tries[middle]
        until = np.searchsorted(self.scores[order, middle], tried, side="left")
        instead = self.values.asked[middle][:, None] - self.values.of_exits[middle]
        arrivals = []
        for low, high in zip([0, *until][:-1], until, strict=True):
            chosen = order[low:high]
            arrivals.append((chosen, (columns.goes_on[:, :, chosen] + instead[:, None, chosen]).reshape(width, len(chosen))))
        return arrivals, tried

    def _judge_part(
        self,
        rows: _Prefixes,
        middle: int | None,
        columns: _Columns,
        arrivals: Sequence[tuple[npt.NDArray[np.int64], Singles]],
        tried: Floats,
    ) -> None:
        width, classes = len(self.values.start), self.values.classes
        first = self.values.start[:, None] + rows.sums + rows.asked * rows.here.sum(axis=0)
        if middle is not None:
            first = first + self.values.of_exits[middle] @ rows.here
        sums = np.empty((width, len(columns.exits), len(rows)), np.float32)
        sums[...] = first[:, None]
        added = np.empty((width * len(columns.exits), len(rows)), np.float32)
        ious = np.empty((classes, *sums.shape[1:]), np.float32)
        total = np.empty(sums.shape[1:], np.float32)
        latency = sums[2 * classes]
        allowed = self._allowed(rows, middle, columns)
        for place, (images, adds) in enumerate(arrivals):
            np.matmul(adds, rows.here[images], out=added)
            sums += added.reshape(sums.shape)
            np.divide(sums[:classes], sums[classes : 2 * classes], out=ious)
            np.add.reduce(ious, axis=0, out=total)
            good = self.stairs.not_excluded(total, latency) & allowed
            if good.any():
                for index, least in self.values.least:
                    good &= ious[index] >= least - self.margin
                for cost, most in zip(sums[2 * classes + 1 :], self.values.most, strict=True):
                    good &= cost <= most + self.margin * abs(most)
                self._keep(rows, middle, columns, tried[place], np.nonzero(good), total, latency)

    def _allowed(self, rows: _Prefixes, middle: int | None, columns: _Columns) -> npt.NDArray[np.bool_]:
        """Which columns (K, 1) and rows keep the limits that do not depend on images, but for rounding."""
        allowed = np.ones((1, 1), dtype=bool)
        for of_last, of_asked, most in self.values.fixed:
            before = of_asked[rows.exits].sum(axis=1) + (0 if middle is None else of_asked[middle])
            allowed = allowed & (of_asked[columns.exits][:, None] + before + of_last[columns.last] <= most * (1 + 1e-9))
        return allowed

    def _keep(
        self,
        rows: _Prefixes,
        middle: int | None,
        columns: _Columns,
        tried: float,
        where: tuple[npt.NDArray[np.int64], ...],
        total: Singles,
        latency: Singles,
    ) -> None:
        column, row = where
        if not len(row):
            return
        chosen = self._best_of_each_set(rows, columns, column, row, total[where], latency[where])
        column, row = column[chosen], row[chosen]
        number = len(column)
        exits, thresholds = [rows.exits[row]], [rows.thresholds[row]]
        if middle is not None:
            exits.append(np.full((number, 1), middle))
            thresholds.append(np.full((number, 1), tried))
        exits += [columns.exits[column][:, None], np.full((number, 1), columns.last)]
        thresholds.append(columns.thresholds[column][:, None])
        policy = [self.space.policies[self.index]]
        found = estimate_batch(self.evidence, policy, np.hstack(exits), np.zeros(number, np.int64), np.hstack(thresholds))
        kept = self.stairs.offer(found[self.limits.met(self.evidence, found)])
        if len(kept):
            self.kept.append(replace(kept, policy=np.full(len(kept), self.index)))

    def _best_of_each_set(
        self, rows: _Prefixes, columns: _Columns, column: Indices, row: Indices, total: Singles, latency: Singles
    ) -> Indices:
        """Leave out what others with the same exits beat by more than the margin."""
        if len(column) == 1:
            return np.zeros(1, np.int64)
        keys = np.column_stack([rows.exits[row], columns.exits[column]])
        group = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        miou = total.astype(np.float64) / self.values.classes
        order = np.lexsort((-miou, latency, group))
        # An mIoU is at most 1: behind the steps between groups, the highest so far is that of the own group.
        values = miou[order] + 2.0 * group[order]
        highest = np.maximum.accumulate(values)
        return order[values >= highest - 2 * self.margin]


def _joined(batches: Sequence[Batch]) -> Batch | None:
    if not batches:
        return None
    return Batch(*(np.concatenate([getattr(one, field) for one in batches]) for field in Batch.__dataclass_fields__))


def count(evidence: Evidence, space: Space, early: int) -> int:
    """How many candidates leave early at exactly so many exits: `sweep` judges these."""
    tries = np.array(
        [
            [len(thresholds_to_try(scores[:, place], space.quantiles)) for place in range(len(evidence.exits))]
            for scores in map(evidence.scores_of, space.policies)
        ]
    ).reshape(len(space.policies), len(evidence.exits))
    return count_candidates(space.taps, tries, early, space.lasts)
