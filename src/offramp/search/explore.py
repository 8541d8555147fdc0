"""Which candidates a mode has, and the best of them under limits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.artifacts import Effort
from offramp.progress import Progress, silent
from offramp.search.anytime import anytime_candidate, anytime_sets
from offramp.search.estimate import Batch, Evidence, estimate_batch, miou_of, single_exits
from offramp.search.pareto import Limits, choose, choose_anytime
from offramp.search.space import Candidate, Policy, policies
from offramp.search.staircase import Goal, Staircase, non_dominated
from offramp.search.sums import Values
from offramp.search.sweep import Space, count, sweep
from offramp.specs import REGIONS

MOST_KEPT = 100
"""Anytime candidates of equal quality that are compared further."""
REFINED = 2**26
"""Candidates that the winner's thresholds are refined over, at most."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    winner: Candidate | None
    """None where nothing meets the limits."""
    runner_up: Candidate | None
    """The best with other exits."""
    candidates: tuple[Candidate, ...]
    """Those that meet the limits and could have won: all of the front among them, if that was the goal."""
    singles: Batch
    effort: Effort


def explore(
    evidence: Evidence,
    limits: Limits,
    goal: Goal,
    *,
    lasts: Collection[int] | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> Found:
    """Compare all candidates of the mode that the limits name.

    Args:
        evidence: records and profile.
        limits: to be met.
        goal: what wins; all that none beats with `front`.
        lasts: exits that a deployment may end with, in the modes budgeted and input-dependent; None: any.
        workers: processes, where the space is large enough for more than one.
        progress: told of each policy.

    """
    if limits.spec.mode == "anytime":
        return _anytime(evidence, limits, goal, progress)
    singles = single_exits(evidence)
    stairs = staircase_of(evidence, limits, goal)
    none = (Policy(0, 0),)
    ends = frozenset(range(len(evidence.exits)) if lasts is None else lasts)
    alone = singles[np.array(sorted(ends))]
    pool = _candidates(evidence, none, [stairs.offer(alone[limits.met(evidence, alone)])])
    total = judged = len(alone)
    left_out = refined = 0
    if limits.spec.mode == "input-dependent":
        space = Space(evidence.taps, ends, tuple(policies(limits.spec.policies)))
        for early in range(1, min(limits.spec.max_exits, len(evidence.taps) - 1) + 1):
            number = count(evidence, space, early)
            total += number
            if left_out or total > limits.spec.max_candidates:
                left_out += number
                continue
            found = sweep(evidence, space, early, limits, stairs, workers=workers, progress=progress)
            pool += _candidates(evidence, space.policies, found.kept)
            judged += found.judged
        if pool and goal != "front":
            more, refined = refine(evidence, limits, stairs, choose(pool, goal), progress)
            pool += more
    winner = choose(pool, goal) if pool else None
    others = [one for one in pool if winner is not None and one.exits != winner.exits]
    runner_up = choose(others, goal) if others else None
    bound = _gain_of_more_exits(evidence, goal, winner) if left_out and winner is not None else None
    effort = Effort(candidates=total, judged=judged, refined=refined, left_out=left_out, loss_bound=bound)
    return Found(winner, runner_up, tuple(pool), singles, effort)


def _gain_of_more_exits(evidence: Evidence, goal: Goal, winner: Candidate) -> float:
    """What no mixture of exits over the images can exceed, whatever the policy: each image and class at its best exit."""
    if goal == "least-latency":
        return winner.latency_ms - min(evidence.costs.path_ms((index,)) for index in range(len(evidence.exits)))
    correct, predicted = np.split(evidence.pixels, 2, axis=2)
    right, wrong = correct.max(axis=0), (predicted - correct).min(axis=0)
    best = np.concatenate([right, right + wrong], axis=1).sum(axis=0)
    return float(miou_of(best, evidence.labelled.sum(axis=0))) - winner.miou


def staircase_of(evidence: Evidence, limits: Limits, goal: Goal) -> Staircase:
    """What candidates must beat under these limits; nothing yet."""
    costs, values = evidence.costs, Values.of(evidence, limits)
    slowest = [max(exits, key=lambda index: costs.heads[index]) for exits in evidence.taps]
    high = max(costs.stages) + sum(costs.heads[index] for index in slowest) + max(costs.labels)
    return Staircase(
        min(costs.path_ms((index,)) for index in range(len(costs.heads))),
        high,
        images=evidence.images,
        classes=values.classes,
        miou_off=values.miou_off,
        latency_off=values.latency_off,
        goal=goal,
        min_miou=limits.min_miou,
        max_latency_ms=limits.max_latency_ms,
    )


def _candidates(evidence: Evidence, named: Sequence[Policy], batches: Sequence[Batch]) -> list[Candidate]:
    return [batch.candidate(evidence, named, index) for batch in batches for index in range(len(batch))]


def refine(
    evidence: Evidence, limits: Limits, stairs: Staircase, winner: Candidate, progress: Progress
) -> tuple[list[Candidate], int]:
    """The winner's exits and policy with image thresholds between those tried: all scores that occurred, if few enough."""
    early = len(winner.exits) - 1
    if not early:
        return [], 0
    places = [evidence.exits.index(name) for name in winner.exits]
    policy = Policy(REGIONS.index(winner.region), winner.pixel_threshold)
    most = int(REFINED ** (1 / early))
    space = Space(tuple((place,) for place in places), frozenset(places[-1:]), (policy,), quantiles=min(evidence.images, most))
    found = sweep(evidence, space, early, limits, stairs, progress=progress)
    return _candidates(evidence, space.policies, found.kept), count(evidence, space, early)


def _anytime(evidence: Evidence, limits: Limits, goal: Goal, progress: Progress) -> Found:
    sets, last_ms, quality = anytime_sets(evidence, limits.spec.deadlines_ms)
    singles = single_exits(evidence)
    miou = singles.miou[sets.max(axis=1)]
    hopeful = np.flatnonzero((miou >= limits.min_miou) & (last_ms <= limits.max_latency_ms))
    if goal == "front":
        hopeful = hopeful[non_dominated(last_ms[hopeful], miou[hopeful])]
    pool: list[Candidate] = []
    # In the order in which they would win. The runner-up is the second, so two are enough.
    for index in hopeful[np.lexsort((last_ms[hopeful], -miou[hopeful], -np.round(quality[hopeful], 12)))].tolist():
        exits = [place for place in sets[index].tolist() if place >= 0]
        if limits.met(evidence, last_answer(evidence, exits)).all():
            pool.append(anytime_candidate(evidence, exits, float(quality[index])))
        if len(pool) > MOST_KEPT and goal != "front":
            break
    progress("search", len(sets), len(sets))
    winner = choose_anytime(pool) if pool else None
    others = [one for one in pool if one is not winner]
    runner_up = choose_anytime(others) if others else None
    effort = Effort(candidates=len(sets), judged=len(sets))
    return Found(winner, runner_up, tuple(pool), singles, effort)


def last_answer(evidence: Evidence, exits: Sequence[int]) -> Batch:
    """What is asked of all `exits` and answered by the last, as a batch of one: nobody leaves before."""
    never = np.full((1, len(exits) - 1), np.inf)
    return estimate_batch(evidence, [Policy(0, 0)], np.array([exits]), np.zeros(1, np.int64), never)
