"""The sweep finds exactly what estimating every single candidate finds."""

from itertools import product

import numpy as np
import pytest

from offramp.search.estimate import Evidence, estimate_batch
from offramp.search.pareto import Limits
from offramp.search.space import policies, sets_of, thresholds_to_try
from offramp.search.staircase import Staircase, non_dominated
from offramp.search.sums import Values
from offramp.search.sweep import Space, count, sweep
from offramp.specs import SearchSpec


def evidence_of(records_of, profile_of, seed, images=10, stages=(1, 1, 2, 3, 3, 4)) -> Evidence:
    records = records_of(images=images, exits=len(stages), seed=seed)
    return Evidence.of(records, profile_of(exits=len(stages), seed=seed, exit_stages=stages))


def stairs_of(evidence, **changes) -> Staircase:
    costs = evidence.costs
    high = max(costs.stages) + sum(costs.heads) + max(costs.labels)
    low = min(costs.path_ms((index,)) for index in range(len(costs.heads)))
    values = Values.of(evidence, Limits.of(SearchSpec(mode="input-dependent"), evidence))
    off = {"miou_off": values.miou_off, "latency_off": values.latency_off}
    return Staircase(low, high, images=evidence.images, classes=values.classes, **off, **changes)


def every_candidate(evidence, space, early):
    """Each of them, one batch for each set of exits."""
    for exits in sets_of(space.taps, early + 1):
        if exits[-1] not in space.lasts:
            continue
        for index, policy in enumerate(space.policies):
            tried = [thresholds_to_try(evidence.scores_of(policy)[:, place], space.quantiles) for place in exits[:-1]]
            thresholds = np.array(list(product(*tried))).reshape(-1, early)
            number = len(thresholds)
            yield estimate_batch(evidence, space.policies, np.tile(exits, (number, 1)), np.full(number, index), thresholds)


def points(batches) -> list[tuple[float, float]]:
    """The front."""
    latency = np.concatenate([batch.latency_ms for batch in batches])
    miou = np.concatenate([batch.miou for batch in batches])
    chosen = non_dominated(latency, miou)
    return list(zip(latency[chosen].tolist(), miou[chosen].tolist(), strict=True))


@pytest.mark.parametrize(("early", "workers"), [(1, 1), (2, 1), (3, 1), (3, 2)])
def test_the_front_is_that_of_every_candidate(monkeypatch, records_of, profile_of, early, workers):
    monkeypatch.setattr("offramp.search.sweep.LARGE", 0)
    evidence = evidence_of(records_of, profile_of, early)
    space = Space(evidence.taps, frozenset({3, 4, 5}), tuple(policies(("objects", "mean"))[::6]))
    limits = Limits.of(SearchSpec(mode="input-dependent"), evidence)
    found = sweep(evidence, space, early, limits, stairs_of(evidence), workers=workers)
    everything = list(every_candidate(evidence, space, early))
    assert points(found.kept) == points(everything)
    assert found.judged <= sum(len(batch) for batch in everything) == count(evidence, space, early)


def test_four_early_exits_are_prefixed_one_by_one(records_of, profile_of):
    evidence = evidence_of(records_of, profile_of, 0, images=5, stages=(1, 2, 3, 4, 5))
    space = Space(evidence.taps, frozenset({4}), tuple(policies(("all",))[10:13]))
    limits = Limits.of(SearchSpec(mode="input-dependent"), evidence)
    found = sweep(evidence, space, 4, limits, stairs_of(evidence))
    everything = list(every_candidate(evidence, space, 4))
    assert points(found.kept) == points(everything)
    assert found.judged <= sum(len(batch) for batch in everything)


@pytest.mark.parametrize(
    "asked",
    [
        {"max_p95_latency_ms": 0.75},
        {"max_worst_latency_ms": 0.8},
        {"max_macs": 0.6},
        {"max_energy_mj": 0.7},
        {"max_parameter_bytes": 0.7},
        {"max_memory_bytes": 0.85},
        {"min_iou": {"class 1": 0.97}},
        {"min_miou": 0.98, "max_latency_ms": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("goal", ["front", "least-latency", "most-miou"])
def test_limits_exclude_what_misses_them_and_nothing_else(records_of, profile_of, asked, goal):
    """Limits are shares of what the final exit costs or reaches."""
    evidence = with_costs(records_of, profile_of)
    costs, last = evidence.costs, len(evidence.exits) - 1
    whole = {
        "max_p95_latency_ms": costs.path_ms((last,)),
        "max_worst_latency_ms": costs.path_ms((0, 2, 3, last)),
        "max_latency_ms": costs.path_ms((last,)),
        "max_macs": costs.further["macs"].path((last,)),
        "max_energy_mj": costs.further["energy_mj"].path((last,)),
        "max_parameter_bytes": int(costs.further["parameter_bytes"].kept((0, 2, 3, last))),
        "max_memory_bytes": int(costs.further["memory_bytes"].kept((0, 2, 3, last))),
        "min_miou": float(evidence.exit_miou()[-1]),
    }
    values = {name: share if name == "min_iou" else type(whole[name])(share * whole[name]) for name, share in asked.items()}
    if "min_iou" in values:
        correct, predicted = np.split(evidence.pixels[-1].sum(axis=0), 2)
        values["min_iou"] = {"class 1": 0.97 * (correct / (predicted + evidence.labelled.sum(axis=0) - correct))[1]}
    limits = Limits.of(SearchSpec(mode="input-dependent", **values), evidence)
    space = Space(evidence.taps, frozenset(range(len(evidence.exits))), tuple(policies(("off-edges",))[::8]))
    stairs = stairs_of(evidence, goal=goal, min_miou=limits.min_miou, max_latency_ms=limits.max_latency_ms)
    found, everything = [], []
    for early in (1, 2, 3):
        found += sweep(evidence, space, early, limits, stairs).kept
        everything += [batch[limits.met(evidence, batch)] for batch in every_candidate(evidence, space, early)]
    total = sum(len(batch) for batch in everything)
    assert 0 < total < sum(count(evidence, space, early) for early in (1, 2, 3))
    if goal == "front":
        assert points(found) == points(everything)
    elif goal == "least-latency":
        assert points(found)[0] == points(everything)[0]
    else:
        assert points(found)[-1] == points(everything)[-1]


def test_a_p95_that_some_images_miss_is_met(records_of, profile_of):
    """Of 40 images one or two may take longer than the limit."""
    evidence = evidence_of(records_of, profile_of, 4, images=40, stages=(1, 2, 3))
    limit = float(evidence.costs.path_passes((0, 1)).max())
    limits = Limits.of(SearchSpec(mode="input-dependent", max_p95_latency_ms=limit), evidence)
    space = Space(evidence.taps, frozenset({2}), tuple(policies(("all",))[::3]), quantiles=40)
    found = sweep(evidence, space, 1, limits, stairs_of(evidence)).kept
    everything = [batch[limits.met(evidence, batch)] for batch in every_candidate(evidence, space, 1)]
    assert points(found) == points(everything)
    assert any((batch.shares[:, -1] > 0).any() for batch in found)


def with_costs(records_of, profile_of) -> Evidence:
    stages = (1, 1, 2, 3, 3, 4)
    profile = profile_of(exits=6, exit_stages=stages)
    rng = np.random.default_rng(3)

    def priced(step):
        macs, size, memory, energy = rng.integers(1000, 9000, 4).tolist()
        return step.model_copy(
            update={"macs": macs, "parameter_bytes": size, "memory_bytes": memory, "energy_mj": float(energy)}
        )

    steps = {
        "stages": tuple(map(priced, profile.stages)),
        "heads": {name: priced(step) for name, step in profile.heads.items()},
        "labels": {name: priced(step) for name, step in profile.labels.items()},
        "base_memory_bytes": 50_000,
    }
    return Evidence.of(records_of(images=10, exits=6), profile.model_copy(update=steps))


def test_the_winner_and_its_runner_up_are_found(records_of, profile_of):
    """Of each set of exits the best: the two first of these."""
    evidence = evidence_of(records_of, profile_of, 7)
    space = Space(evidence.taps, frozenset({5}), tuple(policies(("all",))[::5]))
    least = float(evidence.exit_miou()[-1]) * 0.98
    limits = Limits.of(SearchSpec(mode="input-dependent", min_miou=least), evidence)
    found = sweep(evidence, space, 2, limits, stairs_of(evidence, goal="least-latency", min_miou=least)).kept

    def fastest(batches) -> list[tuple[float, tuple[int, ...]]]:
        best: dict[tuple[int, ...], float] = {}
        for batch in batches:
            for exits, latency, miou in zip(batch.exits.tolist(), batch.latency_ms, batch.miou, strict=True):
                if miou >= least:
                    best[tuple(exits)] = min(best.get(tuple(exits), np.inf), float(latency))
        return sorted((latency, exits) for exits, latency in best.items())[:2]

    assert fastest(found) == fastest(every_candidate(evidence, space, 2))


def test_a_class_that_occurs_nowhere_does_not_disturb(records_of, profile_of):
    records = records_of(images=10, exits=4)
    records.labelled[:, 1] = 0
    records.correct[:, :, 1] = 0
    evidence = Evidence.of(records, profile_of(exits=4))
    space = Space(evidence.taps, frozenset({3}), tuple(policies(("all",))[::5]))
    limits = Limits.of(SearchSpec(mode="input-dependent"), evidence)
    found = sweep(evidence, space, 2, limits, stairs_of(evidence))
    assert points(found.kept) == points(list(every_candidate(evidence, space, 2)))


@pytest.mark.parametrize("pixels", [1, 101, 10_000_019])
def test_sums_are_never_off_by_more_than_they_say(records_of, profile_of, pixels):
    """The worst of many candidates, of few pixels to very many, against exact sums."""
    records = records_of(images=60, exits=4, classes=11)
    for name in ("correct", "predicted", "labelled"):
        array = getattr(records, name)
        object.__setattr__(records, name, array.astype(np.int64) * pixels)
    evidence = Evidence.of(records, profile_of(exits=4))
    space = Space(evidence.taps, frozenset({3}), tuple(policies(("all",))[::9]))
    limits = Limits.of(SearchSpec(mode="input-dependent"), evidence)
    seen, exact = [], []

    class Watching(Staircase):
        """Excludes nothing and notes the sums of every candidate."""

        def not_excluded(self, ious, latencies):
            good = super().not_excluded(ious, latencies)
            if ious.ndim > 1:  # of candidates, not of prefixes
                seen.append((ious.copy(), latencies.copy()))
            return np.ones_like(good)

        def offer(self, found):
            exact.append(found)
            return found

    values = Values.of(evidence, limits)
    assert (values.miou_off == (11 + 4) * 2.0**-24) == (pixels < 10_000_000), "while they are few, pixels are not rounded"
    assert values.miou_off < 1e-5
    sweep(evidence, space, 3, limits, Watching(0.0, 1e3, images=60, classes=11, miou_off=1.0, latency_off=1.0))
    mious = np.sort(np.concatenate([ious.reshape(-1) for ious, _ in seen]) / 11.0)
    latencies = np.sort(np.concatenate([latency.reshape(-1) for _, latency in seen]) / 60.0)
    assert np.abs(mious - np.sort(np.concatenate([batch.miou for batch in exact]))).max() < values.miou_off
    found = np.sort(np.concatenate([batch.latency_ms for batch in exact]))
    assert np.abs(latencies - found).max() < values.latency_off / 60


def test_an_exit_where_all_images_score_alike_is_no_early_exit(records_of, profile_of):
    records = records_of(images=10, exits=4)
    records.sure[:, 1] = 5
    evidence = Evidence.of(records, profile_of(exits=4))
    space = Space(evidence.taps, frozenset({3}), tuple(policies(("all",))[::5]))
    limits = Limits.of(SearchSpec(mode="input-dependent"), evidence)
    for early in (1, 2, 3):
        found = sweep(evidence, space, early, limits, stairs_of(evidence))
        assert found.judged <= count(evidence, space, early)
        assert not any((batch.exits[:, :-1] == 1).any() for batch in found.kept)
