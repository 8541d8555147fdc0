"""What the page's sliders choose from: the catalogue of the search, and what each exit's scores were, as plain values.

The page's script holds no search of its own: it takes the best of a catalogue within the limits, as `search.catalogue` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from offramp.artifacts import Deployment, Profile, Records
from offramp.policy import image_score
from offramp.progress import Progress
from offramp.report.inputs import Parts
from offramp.report.svg import nice_step
from offramp.search import Candidate, Catalogue, catalogue, estimate_again
from offramp.specs import REGIONS, Mode, SearchSpec

MODES: tuple[Mode, ...] = ("budgeted", "input-dependent")
"""Those that a budget of mean latency and an accepted drop choose in; deadlines choose in the anytime mode."""
STEPS = 200
"""Positions of the slider for the budget, about."""
DROP_STEP = 0.1


def choices_of(parts: Parts, progress: Progress) -> dict[str, Any] | None:
    """All that the sliders need; None without records of val, or without a profile.

    Args:
        parts: of the report.
        progress: told of each part of the search.

    Raises:
        InputError: records and profile that do not belong together.

    """
    records, profile = parts.chosen_by, parts.profile
    if records is None or profile is None:
        return None
    every = [catalogue(records, profile, _spec(mode, parts.deployment), progress=progress) for mode in MODES]
    sliders = _sliders(
        [one for part in every for shelf in part.shelves for one in shelf], every[0].final_miou, parts.deployment
    )
    found = [_within_reach(part, sliders) for part in every]
    return {
        "exits": list(records.info.exits),
        "images": len(records.info.images),
        "final_miou": found[0].final_miou,
        "thresholds": list(parts.package.pixel_thresholds) if parts.package else [],
        "modes": {part.spec.mode: _mode(part, parts, records.info.exits, profile) for part in found},
        "scores": scores_by_policy(records, [one for part in found for shelf in part.shelves for one in shelf]),
        "sliders": sliders,
        "other_split": parts.records.info.split if parts.records and parts.records is not records else "",
    }


def _within_reach(part: Catalogue, sliders: Mapping[str, Any]) -> Catalogue:
    """What some position of a slider chooses: some hundreds of tens of thousands. Among them the same win as among all."""
    budget, drop = sliders["budget"], sliders["drop"]
    count = round((budget["max"] - budget["min"]) / budget["step"])
    budgets = [round(budget["min"] + index * budget["step"], budget["digits"]) for index in range(count + 1)]
    drops = [round(index * drop["step"], 1) for index in range(round(drop["max"] / drop["step"]))]
    # With both limits the winner is that of the drop alone, or nothing.
    asked: list[tuple[float, float | None]] = [(most, None) for most in budgets] + [(math.inf, accepted) for accepted in drops]
    chosen = {places for limits in asked if (places := part.places(*limits)) is not None}
    front = sorted({coarse for coarse, _ in chosen})
    shelves = sorted({part.shelf[coarse] for coarse in front})
    kept = {shelf: sorted({place for coarse, place in chosen if part.shelf[coarse] == shelf}) for shelf in shelves}
    return replace(
        part,
        front=tuple(part.front[coarse] for coarse in front),
        shelf=tuple(shelves.index(part.shelf[coarse]) for coarse in front),
        shelves=tuple(tuple(part.shelves[shelf][place] for place in kept[shelf]) for shelf in shelves),
    )


def _spec(mode: Mode, deployment: Deployment | None) -> SearchSpec:
    """How the deployment's own search made scores, where it was of this mode; the defaults else."""
    if deployment is None or deployment.mode != mode:
        return SearchSpec(mode=mode)
    return deployment.limits


def _mode(part: Catalogue, parts: Parts, exits: Sequence[str], profile: Profile) -> dict[str, Any]:
    other = parts.records if parts.records is not parts.chosen_by else None
    return {
        "front": [
            {"latency_ms": one.latency_ms, "miou": one.miou, "shelf": shelf}
            for one, shelf in zip(part.front, part.shelf, strict=True)
        ],
        "shelves": [
            {
                "exits": [exits.index(name) for name in shelf[0].exits],
                "region": shelf[0].region,
                "pixel_threshold": shelf[0].pixel_threshold,
                "policy": policy_name(shelf[0]),
                "worst_latency_ms": shelf[0].worst_latency_ms,
                "points": [[one.latency_ms, one.miou, *one.image_thresholds] for one in shelf],
                "again": estimate_again(other, profile, shelf) if other else [],
            }
            for shelf in part.shelves
        ],
    }


def front_dots(choices: dict[str, Any] | None) -> list[tuple[float, float]]:
    """Latency and mIoU of all that the sliders can reach and that none of it beats, on the split whose figures are shown."""
    if choices is None:
        return []
    points = [
        (point[0], -point[1], *(again or (point[0], point[1])))
        for mode in choices["modes"].values()
        for shelf in mode["shelves"]
        for point, again in zip_longest(shelf["points"], shelf["again"])
    ]
    dots, best = [], 1.0
    for _, worse, latency, value in sorted(points):
        if worse < best:
            dots.append((latency, value))
            best = worse
    return dots


def policy_name(one: Candidate | Deployment) -> str:
    """A policy's place among scores."""
    return f"{one.region}/{one.pixel_threshold}"


def scores_by_policy(records: Records, candidates: Iterable[Candidate]) -> dict[str, dict[int, list[float]]]:
    """Score of each image at each exit that some candidate leaves early at: by policy, then by the exit's index."""
    found: dict[str, dict[int, list[float]]] = {}
    for one in candidates:
        for name in one.exits[:-1]:
            of_policy, index = found.setdefault(policy_name(one), {}), records.info.exits.index(name)
            if index not in of_policy:
                scores = image_score(records.sure[:, index], REGIONS.index(one.region), one.pixel_threshold)
                of_policy[index] = scores.tolist()
    return found


def _sliders(candidates: Sequence[Candidate], final_miou: float, deployment: Deployment | None) -> dict[str, Any]:
    """Ends, step and start of both sliders, and the mode that they start in."""
    latencies = [one.latency_ms for one in candidates]
    # A tenth at least: what is finer no clock tells.
    step = max(nice_step((max(latencies) - min(latencies)) / STEPS), 0.01)
    digits = len(f"{step:g}".partition(".")[2])
    low, high = (_rounded_up(end, step, digits) for end in (min(latencies), max(latencies)))
    most = math.ceil(1000 * max(final_miou - min(one.miou for one in candidates), 0.0)) / 10
    mode = deployment.mode if deployment and deployment.mode in MODES else MODES[-1]
    limits = deployment.limits if deployment and deployment.mode in MODES else SearchSpec(mode=mode)
    budget = limits.max_latency_ms
    if budget is None:
        budget = high if limits.max_drop_pp is not None else (low + high) / 2
    start = min(max(low + round((budget - low) / step) * step, low), high)
    drop = limits.max_drop_pp
    return {
        "mode": mode,
        "budget": {"min": low, "max": high, "step": step, "digits": digits, "value": round(start, digits)},
        # One step beyond the largest drop stands for any.
        "drop": {
            "max": round(most + DROP_STEP, 1),
            "step": DROP_STEP,
            "value": None if drop is None else min(round(drop, 1), most),
        },
    }


def _rounded_up(value: float, step: float, digits: int) -> float:
    """The first position of a slider that is not below, as it is written."""
    found = round(math.ceil(value / step) * step, digits)
    return found if found >= value else round(found + step, digits)
