"""The step `search`: records and a profile -> the deployment that meets the limits best.

All candidates are compared, exactly: what every exit answered on every image is in the records, what it costs in the profile.
"""

from __future__ import annotations

from offramp.artifacts import Deployment, Expected, Profile, Provenance, Records, require_same_package
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.search.estimate import (
    Evidence,
    anytime_sets,
    deadline_shares,
    estimate_blocks,
    intervals,
    leaves_at,
    single_exits,
)
from offramp.search.pareto import Limits, choose, choose_anytime, front_of, non_dominated
from offramp.search.space import Candidate, paths
from offramp.specs import REGIONS, Mode, SearchSpec

__all__ = ["Candidate", "front", "search"]

DEFAULT_DROP_PP = 1.0
"""Accepted where no limit is asked for."""
MAX_ANYTIME_EXITS = 16
"""Every set of exits is compared: 65535 of 16."""


def search(
    records: Records,
    profile: Profile,
    spec: SearchSpec,
    *,
    inputs: dict[str, str],
    progress: Progress = silent,
) -> Deployment:
    """Choose exits, policy and thresholds for a mode under limits.

    With a limit on accuracy the fastest deployment that keeps it is chosen, with one on latency alone the most accurate, and
    without any the fastest that loses at most one point of mIoU. An anytime deployment is the one whose answers are best on
    average over deadlines; limits bound its last answer.

    Args:
        records: what the exits answered, on val.
        profile: what they cost on the device.
        spec: mode and limits.
        inputs: names and hashes of what the two came from.
        progress: told of each set of exits.

    Raises:
        InputError: parts that do not belong together, records of another split, or limits that nothing meets.

    """
    evidence = _evidence(records, profile)
    limits = _with_default(spec)
    bounds = Limits.of(limits, float(evidence.exit_miou()[-1]))
    if spec.mode == "anytime":
        candidates = _anytime(evidence)
        compared, chosen = len(candidates), choose_anytime(candidates, bounds)
        progress("search", compared, compared)
    else:
        best, compared = _compare(evidence, spec.mode, spec.max_exits, progress)
        chosen = choose(best, bounds)
    return Deployment(
        mode=spec.mode,
        exits=chosen.exits,
        region=chosen.region,
        pixel_threshold=chosen.pixel_threshold,
        image_thresholds=chosen.image_thresholds,
        limits=limits,
        expected=_expected(evidence, spec.mode, chosen, compared),
        package_id=profile.package_id,
        engine=profile.engine,
        threads=profile.threads,
        provenance=Provenance.now(
            "search", inputs={**inputs, "package": profile.package_id}, options=spec.model_dump(mode="json")
        ),
    )


def front(records: Records, profile: Profile, mode: Mode, max_exits: int) -> tuple[Candidate, ...]:
    """The candidates that no other beats in both latency and mIoU, by rising latency.

    In the anytime mode both are of the last answer, which earlier exits only delay: its front is one of single exits.

    Raises:
        InputError: parts that do not belong together, or records of another split.

    """
    evidence = _evidence(records, profile)
    if mode == "anytime":
        return front_of(_anytime(evidence))
    return _compare(evidence, mode, max_exits, silent)[0]


def _evidence(records: Records, profile: Profile) -> Evidence:
    """Check that records and profile belong together and may be used to choose by."""
    info = records.info
    if info.split == "test":
        raise InputError(
            "the records are of the split 'test': selection is done on val, figures are reported on test; "
            "give records of val (offramp evaluate --split val)"
        )
    if info.split == "train":
        raise InputError(
            "the records are of the split 'train', whose images the exits have learnt by heart; "
            "give records of val (offramp evaluate --split val)"
        )
    require_same_package(info.package_id, profile=profile.package_id)
    if info.exits != profile.exits:
        raise InputError(
            f"records and profile differ in their exits: {', '.join(info.exits)} and {', '.join(profile.exits)}; "
            f"evaluate and profile the same package again"
        )
    if not records.labelled.any():
        raise InputError(
            f"the records hold no labelled pixel ({len(info.images)} images); evaluate again on a split with labels"
        )
    return Evidence.of(records, profile)


def _with_default(spec: SearchSpec) -> SearchSpec:
    limited = any(limit is not None for limit in (spec.max_latency_ms, spec.max_drop_pp, spec.min_miou))
    if limited or spec.mode == "anytime":
        return spec
    return spec.model_copy(update={"max_drop_pp": DEFAULT_DROP_PP})


def _anytime(evidence: Evidence) -> list[Candidate]:
    if len(evidence.exits) > MAX_ANYTIME_EXITS:
        raise InputError(
            f"the anytime mode compares every set of exits, of {MAX_ANYTIME_EXITS} at most, got {len(evidence.exits)}; "
            f"train and export fewer exits"
        )
    return anytime_sets(evidence)


def _compare(evidence: Evidence, mode: Mode, max_exits: int, progress: Progress) -> tuple[tuple[Candidate, ...], int]:
    """The front of all candidates of a mode, and how many they were."""
    singles = single_exits(evidence)
    best, compared = front_of(singles), len(singles)
    subsets = paths(len(evidence.exits), max_exits) if mode == "input-dependent" else []
    for done, exits in enumerate(subsets, start=1):
        found, size = _best_of(evidence, exits)
        best, compared = front_of([*best, *found]), compared + size
        progress("search", done, len(subsets))
    return best, compared


def _best_of(evidence: Evidence, exits: tuple[int, ...]) -> tuple[list[Candidate], int]:
    """The best candidates of each block with these exits, and how many candidates there are."""
    names = tuple(evidence.exits[index] for index in exits)
    worst = evidence.costs.path_ms(exits)
    found, compared = [], 0
    for block, miou, latency_ms in estimate_blocks(evidence, exits):
        compared += block.size
        for index in non_dominated(latency_ms, miou).tolist():
            value = float(miou[index])
            region, thresholds = REGIONS[block.region], block.thresholds_of(index)
            found.append(
                Candidate(names, region, block.pixel_threshold, thresholds, value, float(latency_ms[index]), worst, value)
            )
    return found, compared


def _expected(evidence: Evidence, mode: Mode, chosen: Candidate, compared: int) -> Expected:
    final = len(evidence.exits) - 1
    miou_interval, latency_interval = intervals(evidence, chosen)
    if mode == "anytime":
        shares = deadline_shares(evidence.costs, [evidence.exits.index(name) for name in chosen.exits])
    else:
        left = leaves_at(evidence, chosen)
        shares = [float((left == place).mean()) for place in range(len(chosen.exits))]
    return Expected(
        miou=chosen.miou,
        miou_interval=miou_interval,
        final_miou=float(evidence.exit_miou()[final]),
        latency_ms=chosen.latency_ms,
        latency_interval=latency_interval,
        worst_latency_ms=chosen.worst_latency_ms,
        final_latency_ms=evidence.costs.path_ms((final,)),
        shares=dict(zip(chosen.exits, shares, strict=True)),
        images=evidence.images,
        candidates=compared,
    )
