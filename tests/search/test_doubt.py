"""Bootstrap intervals against formulas and draws of another generator; when two choices cannot be told apart."""

import numpy as np
import pytest

from offramp.search.doubt import Resampled, doubt_about, interval
from offramp.search.estimate import Evidence, leaves_at, single_exits
from offramp.search.pareto import Limits
from offramp.search.space import Candidate
from offramp.specs import SearchSpec


def alone(evidence, index) -> Candidate:
    return single_exits(evidence).candidate(evidence, [], index)


def test_the_latency_interval_is_that_of_a_mean(records_of, profile_of):
    evidence = Evidence.of(records_of(images=400, exits=2), profile_of(exits=2))
    candidate = Candidate(evidence.exits, "all", 10, (0.5,), 0.0, 0.0, 0.0, 0.0)
    left = leaves_at(evidence, candidate)
    costs = np.array([evidence.costs.path_ms((0,)), evidence.costs.path_ms((0, 1))])[left]
    assert 0.1 < left.mean() < 0.9
    low, high = interval(Resampled.of(evidence, candidate).latency_ms)
    assert (low + high) / 2 == pytest.approx(costs.mean(), rel=0.01)
    assert high - low == pytest.approx(2 * 1.96 * costs.std() / 20, rel=0.15)


def test_the_miou_interval_comes_from_drawing_images_again(records_of, profile_of):
    evidence = Evidence.of(records_of(images=30, exits=2), profile_of(exits=2))
    low, high = interval(Resampled.of(evidence, alone(evidence, 1)).miou)
    rng, values = np.random.default_rng(7), []
    for _ in range(2000):
        drawn = rng.integers(0, 30, 30)
        correct, predicted = (part[drawn].sum(axis=0) for part in np.split(evidence.pixels[1], 2, axis=1))
        labelled = evidence.labelled[drawn].sum(axis=0)
        values.append((correct / (predicted + labelled - correct)).mean())
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.1 * (high - low))


def test_identical_images_leave_no_doubt(records_of, profile_of):
    records = records_of(images=1).part([0] * 5)
    evidence = Evidence.of(records, profile_of())
    final = alone(evidence, 3)
    found = Resampled.of(evidence, final)
    assert interval(found.miou) == (final.miou, final.miou)
    assert interval(found.latency_ms) == (final.latency_ms, final.latency_ms)
    limits = Limits.of(SearchSpec(mode="budgeted", min_miou=final.miou), evidence)
    doubt = doubt_about(evidence, limits, "least-latency", final, alone(evidence, 0))
    assert doubt.limits_kept == 1.0
    gain = evidence.costs.path_ms((0,)) - evidence.costs.path_ms((3,))
    assert doubt.runner_up.difference_interval == (gain, gain)


def test_a_limit_in_the_middle_is_kept_half_of_the_time(records_of, profile_of):
    evidence = Evidence.of(records_of(images=60, exits=2), profile_of(exits=2))
    final = alone(evidence, 1)
    middle = float(np.median(Resampled.of(evidence, final).miou))
    limits = Limits.of(SearchSpec(mode="budgeted", min_miou=middle), evidence)
    assert doubt_about(evidence, limits, "least-latency", final, None).limits_kept == pytest.approx(0.5, abs=0.02)
    assert doubt_about(evidence, limits, "least-latency", final, None).runner_up is None


def test_what_is_the_same_cannot_be_told_apart_and_what_is_better_can(records_of, profile_of):
    records = records_of(images=40, exits=3)
    records.correct[:, 1] = records.correct[:, 2]
    records.predicted[:, 1] = records.predicted[:, 2]
    evidence = Evidence.of(records, profile_of(exits=3))
    limits = Limits.of(SearchSpec(mode="budgeted", max_latency_ms=1e6), evidence)
    first, second, last = (alone(evidence, index) for index in range(3))
    same = doubt_about(evidence, limits, "most-miou", last, second).runner_up
    assert (same.difference_interval, same.distinguishable) == ((0.0, 0.0), False)
    better = doubt_about(evidence, limits, "most-miou", last, first).runner_up
    assert better.distinguishable
    assert 0 < better.difference_interval[0] < last.miou - first.miou < better.difference_interval[1]
    assert (better.exits, better.miou, better.latency_ms) == (first.exits, first.miou, first.latency_ms)


def test_a_difference_that_may_be_either_way_is_none(records_of, profile_of):
    """Two exits, each better on some images: the interval of their difference holds 0 in its middle."""
    records = records_of(images=30, exits=2)
    for array in (records.correct, records.predicted):
        array[::2, 0], array[::2, 1] = array[::2, 1].copy(), array[::2, 0].copy()
    evidence = Evidence.of(records, profile_of(exits=2))
    first, second = sorted((alone(evidence, index) for index in range(2)), key=lambda one: -one.miou)
    limits = Limits.of(SearchSpec(mode="budgeted", max_latency_ms=1e6), evidence)
    low, high = (runner_up := doubt_about(evidence, limits, "most-miou", first, second).runner_up).difference_interval
    assert low < 0 < high
    assert not runner_up.distinguishable
