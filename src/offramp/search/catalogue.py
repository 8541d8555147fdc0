"""What `search` would choose under any budget and any accepted drop, made once, so that a page can choose without it.

A search compares all candidates with a few image thresholds for each exit, and then refines the thresholds of the winner. Under
other limits another candidate wins, and other thresholds are refined. So a catalogue holds the front of the first comparison,
and for every set of exits and policy on it a shelf: the front of its refined thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.artifacts import Profile, Records
from offramp.progress import Progress, silent
from offramp.search.choose import evidence_of
from offramp.search.estimate import Evidence, estimate_batch, places_of
from offramp.search.explore import explore, refine, staircase_of
from offramp.search.pareto import Limits, front_of
from offramp.search.space import Candidate, Policy
from offramp.specs import REGIONS, SearchSpec


@dataclass(frozen=True)
class Catalogue:
    """All that may be chosen in a mode."""

    spec: SearchSpec
    """Without limits."""
    final_miou: float
    """Of the final exit: what a drop is against."""
    front: tuple[Candidate, ...]
    """Before thresholds are refined, by rising latency."""
    shelf: tuple[int, ...]
    """For each of the front the shelf that it is on."""
    shelves: tuple[tuple[Candidate, ...], ...]
    """Candidates of the same exits and policy, by rising latency."""

    def places(self, max_latency_ms: float, max_drop_pp: float | None) -> tuple[int, int] | None:
        """The place on the front that wins within the limits, and the place on its shelf; None where nothing is within."""
        least = 0.0 if max_drop_pp is None else self.final_miou - max_drop_pp / 100

        def best(candidates: tuple[Candidate, ...]) -> int:
            def order(place: int) -> tuple[float, float]:
                one = candidates[place]
                return (-one.miou, one.latency_ms) if max_drop_pp is None else (one.latency_ms, -one.miou)

            within = [place for place, one in enumerate(candidates) if one.latency_ms <= max_latency_ms and one.miou >= least]
            return min(within, key=order, default=-1)

        coarse = best(self.front)
        return None if coarse < 0 else (coarse, best(self.shelves[self.shelf[coarse]]))


def catalogue(records: Records, profile: Profile, spec: SearchSpec, *, progress: Progress = silent) -> Catalogue:
    """What `search` chooses from, for a budget of latency and an accepted drop.

    Of the front the best within the limits names the shelf, and the best within the limits on that shelf is what `search`
    chooses with `max_latency_ms`, or with `max_drop_pp`, or with both: with a drop the fastest, else the most accurate.

    Args:
        records: on val.
        profile: of the same package.
        spec: the mode, budgeted or input-dependent, and how scores may be made; its limits do not count.
        progress: told of each shelf.

    Raises:
        InputError: parts that do not belong together, or records of another split.

    """
    assert spec.mode != "anytime", "which is judged by deadlines, not by a budget"
    free = SearchSpec(mode=spec.mode, max_exits=spec.max_exits, policies=spec.policies, max_candidates=spec.max_candidates)
    evidence = evidence_of(records, profile)
    limits = Limits.of(free, evidence)
    front = front_of(explore(evidence, limits, "front", progress=progress).candidates)
    together: dict[tuple[tuple[str, ...], str, int], list[Candidate]] = {}
    for one in front:
        together.setdefault(_place(one), []).append(one)
    shelves = []
    for number, coarse in enumerate(together.values()):
        finer, _ = refine(evidence, limits, staircase_of(evidence, limits, "front"), coarse[0], silent)
        shelves.append(front_of([*coarse, *finer]))
        progress("refine the front", number + 1, len(together))
    order = list(together)
    final = float(evidence.exit_miou()[-1])
    return Catalogue(free, final, front, tuple(order.index(_place(one)) for one in front), tuple(shelves))


def _place(one: Candidate) -> tuple[tuple[str, ...], str, int]:
    return one.exits, one.region, one.pixel_threshold


def estimate_again(records: Records, profile: Profile, shelf: tuple[Candidate, ...]) -> list[tuple[float, float]]:
    """Mean latency in milliseconds and mIoU of a shelf's candidates on other images: to report, not to choose by.

    Args:
        records: of any split.
        profile: what the candidates were chosen by.
        shelf: candidates of the same exits and policy.

    """
    evidence = Evidence.of(records, profile)
    first = shelf[0]
    policy = Policy(REGIONS.index(first.region), first.pixel_threshold)
    thresholds = np.array([one.image_thresholds for one in shelf]).reshape(len(shelf), -1)
    exits = np.array([places_of(evidence, first)] * len(shelf))
    batch = estimate_batch(evidence, [policy], exits, np.zeros(len(shelf), np.int64), thresholds)
    return list(zip(batch.latency_ms.tolist(), batch.miou.tolist(), strict=True))
