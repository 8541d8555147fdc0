"""Judge every candidate of the input-dependent mode: billions, by sums over images that neighbours share.

A candidate is a prefix (early exits with their thresholds), a further early exit, the *outer* one, with its threshold, and a
last exit. Images are sorted by their score at the outer exit. While its threshold rises, image after image goes on instead of
leaving there, so each image is added once for all 16 of the outer's thresholds; for many prefixes and all last exits together
that is a small matrix product:

    sums[value, last, prefix] += goes_on[value, last, image] @ still_here[image, prefix]

The values of an image are its correct and its wrongly predicted pixels of each class, and its costs. They are rounded a little
(`sums`), so a candidate is dropped only if it misses what is known already by more than its sums can be off. Those that remain
are estimated exactly. Prefixes that cannot win, whatever comes behind them, are left out with all their candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from offramp.progress import Progress, silent
from offramp.search.estimate import Batch, Evidence, estimate_batch
from offramp.search.pareto import Limits
from offramp.search.processes import Found, in_processes
from offramp.search.space import QUANTILES, Indices, Policy, count_candidates, thresholds_to_try
from offramp.search.staircase import Staircase, non_dominated
from offramp.search.sums import Prefixes, Singles, Values, stacked

LARGE = 200_000_000
"""Candidates from which on more than one process is worth its start."""
BLOCK = 4096
"""Candidates judged at once: their sums fit into a core's cache."""
ROWS = 32768
"""Prefixes that are held at once, about."""


@dataclass(frozen=True)
class Space:
    """Which candidates there are."""

    taps: tuple[tuple[int, ...], ...]
    """The exits at each tap, in order of depth."""
    lasts: frozenset[int]
    """The exits that may be the last of a deployment."""
    policies: tuple[Policy, ...]
    quantiles: int = QUANTILES


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
        workers: processes, where the space is large enough for more than one.
        progress: told of each policy.

    """
    if early > len(space.taps) - 1:
        return Judged([], 0)
    task = _Task(evidence, space, limits, early)
    number = len(space.policies)
    found: dict[int, Found] = {}

    def done(index: int, result: Found) -> None:
        found[index] = result
        progress(f"search with {early} early exit{'s' * (early > 1)}", len(found), number)

    if workers > 1 and number > 1 and count(evidence, space, early) >= LARGE:
        in_processes(task, number, stairs, min(workers, number), done)
    else:
        for index in range(number):
            done(index, task.judge(index, stairs))
    batches = [found[index][0] for index in range(number)]
    return Judged([batch for batch in batches if batch is not None], sum(judged for _, judged in found.values()))


@dataclass(frozen=True)
class _Task:
    """All that it takes to judge one policy after another."""

    evidence: Evidence
    space: Space
    limits: Limits
    early: int

    def judge(self, index: int, stairs: Staircase) -> Found:
        """What is kept of a policy's candidates, and how many were judged one by one."""
        return _Policy(self.evidence, self.space, self.limits, index, self.early, stairs).judge()


class _Policy:
    """All candidates with one policy."""

    def __init__(
        self,
        evidence: Evidence,
        space: Space,
        limits: Limits,
        index: int,
        early: int,
        stairs: Staircase,
    ) -> None:
        self.evidence, self.space, self.limits = evidence, space, limits
        self.values = Values.of(evidence, limits)
        self.index, self.early, self.stairs = index, early, stairs
        self.scores = evidence.scores_of(space.policies[index])
        self.tries = [thresholds_to_try(self.scores[:, place], space.quantiles) for place in range(len(evidence.exits))]
        self.kept: list[Batch] = []
        self.tap_of = np.zeros(len(evidence.exits), np.int64)
        for tap, exits in enumerate(space.taps):
            self.tap_of[list(exits)] = tap
        self.best: dict[int, Singles] = {}
        self.judged = 0

    def judge(self) -> Found:
        """What is kept, and how many were judged."""
        images, width = self.evidence.images, len(self.values.start)
        nothing = Prefixes(
            np.zeros((1, 0), np.int64),
            np.zeros((1, 0)),
            np.ones((images, 1), np.float32),
            np.zeros((width, 1), np.float32),
            np.zeros((width, 1), np.float32),
        )
        self._go_on(nothing, self.early)
        return _joined(self.kept), self.judged

    def _go_on(self, rows: Prefixes, early: int) -> None:
        """Judge all candidates that begin with these prefixes, sorted by their ends, and have so many early exits more."""
        ends = self.tap_of[rows.exits[:, -1]] if rows.exits.shape[1] else np.full(len(rows), -1)
        if early == 1:
            self._judge_rows(rows, ends)
            return
        waiting: list[Prefixes] = []
        for tap in range(len(self.space.taps) - early):
            before = rows[: int(np.searchsorted(ends, tap))]
            # A slice at a time: with every threshold of every exit behind them they are many.
            step = max(1, ROWS // max(1, sum(len(self.tries[place]) for place in self.space.taps[tap])))
            for at in range(0, len(before), step):
                waiting.append(self._extended(before[at : at + step], tap))
                if sum(map(len, waiting)) >= ROWS:
                    self._go_on(stacked(waiting), early - 1)
                    waiting.clear()
        if waiting:
            self._go_on(stacked(waiting), early - 1)

    def _judge_rows(self, rows: Prefixes, ends: Indices) -> None:
        # What all that are still here pay for the heads they were asked at, and what wrong pixels are added to, is paid once.
        rows = replace(rows, sums=self.values.start[:, None] + rows.sums + rows.asked * rows.here.sum(axis=0))
        for tap in range(len(self.space.taps) - 1):
            before = int(np.searchsorted(ends, tap))
            if before:
                for outer in self.space.taps[tap]:
                    self._judge(rows[:before], outer, tap)

    def _extended(self, rows: Prefixes, tap: int) -> Prefixes:
        """Each prefix with each exit of a tap and each of its thresholds behind it, but those that cannot win."""
        return stacked([self._with_exit(rows, place, tap) for place in self.space.taps[tap]])

    def _with_exit(self, rows: Prefixes, place: int, tap: int) -> Prefixes:
        """The same of one exit.

        A prefix cannot win if it is excluded even when all goes for the best behind it: each image that is left leaves at the
        cheapest exit, and each class gains as at the best one.
        """
        classes, scores, tried = self.values.classes, self.scores[:, place], self.tries[place]
        leaves, best = self.values.of_exits[place], self._best_behind(tap)
        asked = rows.asked + self.values.asked[place][:, None]
        # While the threshold rises, image after image stays.
        left = rows.sums + leaves @ rows.here + rows.asked * rows.here.sum(axis=0)
        stays = np.zeros_like(left)
        sums, may_win = [], []
        order = np.argsort(scores, kind="stable")
        until = np.searchsorted(scores[order], tried, side="left")
        for low, high in zip([0, *until][:-1], until, strict=True):
            images = order[low:high]
            here = rows.here[images]
            number = here.sum(axis=0)
            left = left - leaves[:, images] @ here - rows.asked * number
            stays = stays + best[:, images] @ here + asked * number
            hoped = self.values.start[:, None] + left + stays
            ious = (hoped[:classes] / hoped[classes : 2 * classes]).sum(axis=0)
            may_win.append(np.flatnonzero(self.stairs.not_excluded(ious, hoped[2 * classes])))
            sums.append(np.take(left, may_win[-1], axis=1))
        threshold, row = np.repeat(tried, [len(one) for one in may_win]), np.concatenate([*may_win, np.zeros(0, np.int64)])
        return Prefixes(
            np.column_stack([rows.exits[row], np.full(len(row), place)]),
            np.column_stack([rows.thresholds[row], threshold]),
            np.take(rows.here, row, axis=1) * (scores[:, None] < threshold),
            np.concatenate([*sums, np.zeros((len(left), 0), np.float32)], axis=1),
            np.take(asked, row, axis=1),
        )

    def _best_behind(self, tap: int) -> Singles:
        """What an image adds that leaves behind a tap, if all goes for the best, (V, N)."""
        if tap not in self.best:
            classes = self.values.classes
            deeper = self.values.of_exits[[place for exits in self.space.taps[tap + 1 :] for place in exits]]
            self.best[tap] = np.concatenate([deeper[:, :classes].max(axis=0), deeper[:, classes:].min(axis=0)])
        return self.best[tap]

    def _judge(self, rows: Prefixes, outer: int, tap: int) -> None:
        """Judge every prefix with every threshold of the outer exit, which is at a tap, and every last exit behind it."""
        lasts = np.array([place for exits in self.space.taps[tap + 1 :] for place in exits if place in self.space.lasts])
        tried = self.tries[outer]
        if not len(lasts) or not len(tried):
            return
        arrivals = self._arrivals(outer, lasts)
        step = max(1, BLOCK // len(lasts))
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            self.judged += len(part) * len(lasts) * len(tried)
            self._judge_part(part, outer, lasts, arrivals)

    def _arrivals(self, outer: int, lasts: Indices) -> list[tuple[Indices, Singles]]:
        """For each threshold of the outer exit the images that go on from it on, and what each adds, (V x lasts, images)."""
        order = np.argsort(self.scores[:, outer], kind="stable")
        until = np.searchsorted(self.scores[order, outer], self.tries[outer], side="left")
        instead = self.values.asked[outer][:, None] - self.values.of_exits[outer]
        goes_on = self.values.of_exits[lasts].swapaxes(0, 1)[:, :, order] + instead[:, None, order]
        width = goes_on.shape[0] * goes_on.shape[1]
        return [
            (order[low:high], goes_on[:, :, low:high].reshape(width, high - low))
            for low, high in zip([0, *until][:-1], until, strict=True)
        ]

    def _judge_part(self, rows: Prefixes, outer: int, lasts: Indices, arrivals: Sequence[tuple[Indices, Singles]]) -> None:
        width, classes = len(self.values.start), self.values.classes
        sums = np.empty((width, len(lasts), len(rows)), np.float32)
        sums[...] = (rows.sums + self.values.of_exits[outer] @ rows.here)[:, None]
        added = np.empty((width * len(lasts), len(rows)), np.float32)
        ious = np.empty((classes, *sums.shape[1:]), np.float32)
        total = np.empty(sums.shape[1:], np.float32)
        latency = sums[2 * classes]
        allowed = self._allowed(rows, outer, lasts)
        furthest_off = self.values.off[2 * classes + 1 :].tolist()
        for threshold, (images, adds) in zip(self.tries[outer].tolist(), arrivals, strict=True):
            np.matmul(adds, rows.here[images], out=added)
            sums += added.reshape(sums.shape)
            np.divide(sums[:classes], sums[classes : 2 * classes], out=ious)
            np.add.reduce(ious, axis=0, out=total)
            good = self.stairs.not_excluded(total, latency)
            if good.any():
                good &= allowed
                for index, least in self.values.least:
                    good &= ious[index] >= least - self.values.off[index] - 2.0**-23
                for cost, most, off in zip(sums[2 * classes + 1 :], self.values.most, furthest_off, strict=True):
                    good &= cost <= most + off
                if good.any():
                    self._look_closer(rows, outer, threshold, lasts, np.nonzero(good), total[good], latency[good])

    def _allowed(self, rows: Prefixes, outer: int, lasts: Indices) -> npt.NDArray[np.bool_]:
        """Which lasts (K, 1) and rows keep the limits that do not depend on images, but for rounding."""
        allowed = np.ones((1, 1), dtype=bool)
        for of_last, of_asked, most in self.values.fixed:
            before = of_asked[rows.exits].sum(axis=1) + of_asked[outer]
            allowed = allowed & (of_last[lasts][:, None] + before <= most * (1 + 1e-9))
        return allowed

    def _look_closer(
        self,
        rows: Prefixes,
        outer: int,
        threshold: float,
        lasts: Indices,
        where: tuple[Indices, ...],
        total: Singles,
        latency: Singles,
    ) -> None:
        """Estimate the best exactly, then the best of those that these do not exclude, until none is left."""
        last, row = where
        front = self.stairs.goal == "front"
        left = np.arange(len(last)) if front else self._best_of_each_set(rows.exits[row], last, total, latency)
        while len(left):
            best = np.zeros(len(left), dtype=bool)
            best[non_dominated(latency[left].astype(np.float64), total[left].astype(np.float64))] = True
            self._keep(rows[row[left[best]]], outer, threshold, lasts[last[left[best]]])
            left = left[~best]
            left = left[self.stairs.not_excluded(total[left], latency[left])]

    def _keep(self, rows: Prefixes, outer: int, threshold: float, lasts: Indices) -> None:
        """Estimate candidates exactly: a row, the outer exit and a last one each. Keep those that are not excluded."""
        number = len(lasts)
        exits = np.column_stack([rows.exits, np.full(number, outer), lasts])
        thresholds = np.column_stack([rows.thresholds, np.full(number, threshold)])
        policy = [self.space.policies[self.index]]
        found = estimate_batch(self.evidence, policy, exits, np.zeros(number, np.int64), thresholds)
        kept = self.stairs.offer(found[self.limits.met(self.evidence, found)])
        if len(kept):
            self.kept.append(replace(kept, policy=np.full(len(kept), self.index)))

    def _best_of_each_set(self, exits: Indices, last: Indices, total: Singles, latency: Singles) -> Indices:
        """Leave out what others with the same exits beat, in mIoU and in latency, by more than sums can be off."""
        if len(last) == 1:
            return np.zeros(1, np.int64)
        group = np.unique(np.column_stack([exits, last]), axis=0, return_inverse=True)[1].reshape(-1)
        miou, ms = total.astype(np.float64) / self.values.classes, latency.astype(np.float64)
        order = np.lexsort((ms, group))
        # An mIoU is at most 1: behind the steps between groups, the highest so far is that of the own group.
        values = miou[order] + 2.0 * group[order]
        places = ms[order] + 2.0 * (ms.max() + self.values.latency_off) * group[order]
        highest = np.maximum.accumulate(np.concatenate([[-np.inf], values]))
        faster = np.searchsorted(places, places - 2 * self.values.latency_off, side="right")
        return np.asarray(order[values >= highest[faster] - 2 * self.values.miou_off])


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
