"""Choose: for one package, for several, or a whole front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from offramp.artifacts import Deployment, Expected, Profile, Provenance, Records, require_same_package
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.search.anytime import deadline_shares, default_deadlines
from offramp.search.certify import certify
from offramp.search.doubt import Resampled, doubt_about, interval
from offramp.search.estimate import Evidence, as_batch, leaves_at, places_of
from offramp.search.explore import Found, explore, last_answer
from offramp.search.pareto import COST_LIMITS, Limits, front_of, refusal
from offramp.search.space import Candidate
from offramp.search.staircase import Goal
from offramp.specs import SearchSpec

DEFAULT_DROP_PP = 1.0
"""Accepted where no limit is asked for."""


@checked_call
def search(
    records: Records,
    profile: Profile,
    spec: SearchSpec,
    *,
    inputs: dict[str, str],
    calibration: Records | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> Deployment:
    """Choose exits, policy and thresholds for a mode under limits.

    With a limit on accuracy the fastest deployment that keeps it is chosen, with limits on costs alone the most accurate, and
    without any the fastest that loses at most one point of mIoU. An anytime deployment is the one whose answers are best on
    average over deadlines; limits bound its last answer.

    With a limit on risk the image thresholds are made as safe as it takes to certify it. Images that certify must not have been
    chosen by: without `calibration` the second half of the records is set aside for that.

    Args:
        records: what the exits answered, on val.
        profile: what they cost on the device.
        spec: mode and limits.
        inputs: names and hashes of what the two came from.
        calibration: records of other images, to certify a limit on risk by.
        workers: processes, where the space is large enough for more than one. They import the program that calls this: it must
            be a module, or guard what it does by `if __name__ == "__main__"`.
        progress: told of each policy.

    Raises:
        InputError: parts that do not belong together, records of another split, or limits that nothing meets.

    """
    evidence = evidence_of(records, profile)
    asked = _with_default(spec)
    risky = asked.max_risk is not None or asked.expected_risk is not None
    if calibration is not None and not risky:
        raise InputError("calibration records are for a limit on risk; give max-risk or expected-risk, or leave them out")
    chosen_by, certified_by = _parts(records, calibration, profile) if risky else (records, records)
    seen = Evidence.of(chosen_by, profile) if risky else evidence
    limits = Limits.of(asked, seen)
    lasts = [len(seen.exits) - 1] if risky else None
    found = explore(seen, limits, limits.goal, lasts=lasts, workers=workers, progress=progress)
    if found.winner is None:

        def again(other: Limits, goal: Goal) -> Candidate | None:
            return explore(seen, other, goal, lasts=lasts, workers=workers).winner

        raise refusal(seen, limits, found.singles, again)
    winner, certificate = found.winner, None
    if risky:
        winner, certificate = certify(asked, seen, winner, certified_by, Evidence.of(certified_by, profile), evidence)
        _still_met(evidence, Limits.of(asked, evidence), winner)
        found = replace(found, runner_up=None)  # it was not certified
    expected = _expected(evidence, limits, found, winner)
    return Deployment(
        mode=spec.mode,
        exits=winner.exits,
        region=winner.region,
        pixel_threshold=winner.pixel_threshold,
        image_thresholds=winner.image_thresholds,
        limits=asked,
        expected=expected.model_copy(update={"certificate": certificate}),
        package_id=profile.package_id,
        engine=profile.engine,
        threads=profile.threads,
        precision=profile.precision,
        provenance=Provenance.now(
            "search", inputs={**inputs, "package": profile.package_id}, options=spec.model_dump(mode="json")
        ),
    )


@checked_call
def search_all(
    pairs: Sequence[tuple[Records, Profile]],
    spec: SearchSpec,
    *,
    inputs: Sequence[dict[str, str]],
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[Deployment, int]:
    """The best deployment of several packages: networks, precisions, output resolutions.

    A loss in points is against the most accurate final exit of them all.

    Args:
        pairs: records and profile of each package.
        spec: as in `search`.
        inputs: as in `search`, of each package.
        workers: as in `search`.
        progress: told of each policy.

    Returns:
        The deployment, and which of the packages it is of.

    Raises:
        InputError: records of different images, or profiles of different devices; or nothing meets the limits in any package.

    """
    if spec.max_risk is not None or spec.expected_risk is not None:
        raise InputError("a limit on risk is against the final exit of one package; search each package by itself")
    if not pairs or len(pairs) != len(inputs):
        raise InputError(f"give the records, profile and inputs of one package or more, got {len(pairs)} and {len(inputs)}")
    _require_comparable(pairs)
    asked = _with_default(spec)
    if asked.max_drop_pp is not None:
        best = max(float(evidence_of(*pair).exit_miou()[-1]) for pair in pairs)
        least = max(best - asked.max_drop_pp / 100, asked.min_miou or 0.0)
        asked = asked.model_copy(update={"max_drop_pp": None, "min_miou": max(least, 0.0)})
    found: list[tuple[Deployment, int]] = []
    refusals: list[str] = []
    for index, (records, profile) in enumerate(pairs):
        try:
            found.append((search(records, profile, asked, inputs=inputs[index], workers=workers, progress=progress), index))
        except InputError as error:
            refusals.append(f"package {index + 1}: {error}")
    if not found:
        raise InputError("no package has a deployment that meets the limits; " + "; ".join(refusals))
    winner = best_of([deployment for deployment, _ in found], asked)
    return next(one for one in found if one[0] is winner)


def best_of(deployments: Sequence[Deployment], spec: SearchSpec) -> Deployment:
    """The winner among winners: with a limit on accuracy the fastest, else the most accurate, or of the best quality."""
    accuracy = _with_default(spec).max_drop_pp is not None or spec.min_miou is not None

    def order(deployment: Deployment) -> tuple[float, float]:
        expected = deployment.expected
        if spec.mode == "anytime":
            return -(expected.quality or 0.0), expected.latency_ms
        return (expected.latency_ms, -expected.miou) if accuracy else (-expected.miou, expected.latency_ms)

    return min(deployments, key=order)


def _require_comparable(pairs: Sequence[tuple[Records, Profile]]) -> None:
    first, profile = pairs[0][0].info, pairs[0][1]
    for records, other in pairs[1:]:
        if (records.info.data_fingerprint, records.info.classes) != (first.data_fingerprint, first.classes):
            raise InputError("the packages' records are of different images or classes; evaluate all on the same split")
        if (other.device, other.threads) != (profile.device, profile.threads):
            raise InputError(
                f"the profiles do not compare: {profile.device}, {profile.threads} threads, and {other.device}, "
                f"{other.threads} threads; profile all packages on the device with the same threads"
            )


def _parts(records: Records, calibration: Records | None, profile: Profile) -> tuple[Records, Records]:
    """The records to choose by and those to certify by."""
    if calibration is not None:
        evidence_of(calibration, profile)
        if set(calibration.info.images) & set(records.info.images):
            raise InputError("calibration records hold images that exits are chosen by, which would certify too much")
        return records, calibration
    images = len(records.info.images)
    if images < 2:
        raise InputError("a limit on risk needs images to choose by and others to certify by, got 1 image")
    # Neighbours in a video are alike: halves keep them together.
    return records.part(range(images // 2)), records.part(range(images // 2, images))


def _still_met(evidence: Evidence, limits: Limits, winner: Candidate) -> None:
    """Refuse what certification has made too dear. Its mIoU, on more images than it was chosen by, is told as it is."""
    if not limits.without_accuracy().met(evidence, as_batch(evidence, winner)).all():
        raise InputError(
            f"the thresholds that can be certified take {winner.latency_ms:.2f} ms on average and miss the limits on costs; "
            f"relax these or the risk, or give more images"
        )


@checked_call
def front(
    records: Records, profile: Profile, spec: SearchSpec, *, workers: int = 1, progress: Progress = silent
) -> tuple[Candidate, ...]:
    """The candidates within the limits that no other beats in both latency and mIoU, by rising latency.

    In the anytime mode both are of the last answer, which earlier exits only delay: its front is one of single exits.

    Raises:
        InputError: parts that do not belong together, or records of another split.

    """
    evidence = evidence_of(records, profile)
    return front_of(explore(evidence, Limits.of(spec, evidence), "front", workers=workers, progress=progress).candidates)


def evidence_of(records: Records, profile: Profile) -> Evidence:
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
    if info.precision != profile.precision:
        raise InputError(
            f"the records are of answers in {info.precision}, the profile of times in {profile.precision}: nothing runs so; "
            f"evaluate and profile with the same --precision"
        )
    if not records.labelled.any():
        raise InputError(
            f"the records hold no labelled pixel ({len(info.images)} images); evaluate again on a split with labels"
        )
    return Evidence.of(records, profile)


def _with_default(spec: SearchSpec) -> SearchSpec:
    asked = [spec.max_drop_pp, spec.min_miou, *(getattr(spec, name) for name in COST_LIMITS)]
    if spec.mode == "anytime" or any(limit is not None for limit in asked):
        return spec
    return spec.model_copy(update={"max_drop_pp": DEFAULT_DROP_PP})


def _expected(evidence: Evidence, limits: Limits, found: Found, winner: Candidate) -> Expected:
    final = len(evidence.exits) - 1
    places = places_of(evidence, winner)
    resampled = Resampled.of(evidence, winner)
    anytime = limits.spec.mode == "anytime"
    if anytime:
        # Who has all the time there is gets the last answer.
        batch = last_answer(evidence, places)
        deadlines = limits.spec.deadlines_ms or default_deadlines(evidence.costs, evidence.taps)
        shares: Sequence[float] = deadline_shares(evidence.costs, places, deadlines)
    else:
        batch = as_batch(evidence, winner)
        left = leaves_at(evidence, winner)
        shares = [float((left == place).mean()) for place in range(len(places))]
    costs = evidence.costs

    def known(limit: str) -> float | None:
        """What a limit is on, where the profile says it."""
        return float(COST_LIMITS[limit](costs, batch)[0]) if limit.removeprefix("max_") in costs.further else None

    size, memory = known("max_parameter_bytes"), known("max_memory_bytes")
    return Expected(
        miou=winner.miou,
        miou_interval=interval(resampled.miou),
        final_miou=float(evidence.exit_miou()[final]),
        latency_ms=winner.latency_ms,
        latency_interval=interval(resampled.latency_ms),
        worst_latency_ms=winner.worst_latency_ms,
        final_latency_ms=costs.path_ms((final,)),
        shares=dict(zip(winner.exits, shares, strict=True)),
        images=evidence.images,
        p95_latency_ms=float(COST_LIMITS["max_p95_latency_ms"](costs, batch)[0]),
        macs=known("max_macs"),
        energy_mj=known("max_energy_mj"),
        parameter_bytes=None if size is None else int(size),
        memory_bytes=None if memory is None else int(memory),
        quality=winner.quality if anytime else None,
        candidates=found.effort.candidates,
        effort=found.effort,
        doubt=None if anytime else doubt_about(evidence, limits, limits.goal, winner, found.runner_up),
    )
