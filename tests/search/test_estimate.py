"""Estimates equal numbers worked out by hand and by plain loops."""

from dataclasses import replace

import numpy as np
import pytest

from offramp.artifacts import Measurement
from offramp.policy import GRID, MEAN
from offramp.search.estimate import Costs, Evidence, estimate_batch, leaves_at, single_exits
from offramp.search.space import Candidate, Policy
from offramp.specs import FINAL, REGIONS

EARLY = "blocks.0:fcn/c16"


@pytest.fixture
def by_hand(records_of, profile_of) -> Evidence:
    """Two images, two classes, an early exit and the final one; steps of round times."""
    records = records_of(images=2, exits=2, classes=2)
    sure = np.full((2, 2, len(REGIONS), GRID), 0)
    sure[..., 0] = 10
    sure[0, 0, 0, 1:] = 9  # The first image scores 0.9 at the early exit,
    sure[1, 0, 0, 1:] = 5  # the second one 0.5.
    records = replace(
        records,
        #                  early     final
        correct=np.array([[[50, 20], [60, 40]], [[10, 0], [80, 30]]]),
        predicted=np.array([[[70, 30], [60, 40]], [[60, 60], [85, 35]]]),
        labelled=np.array([[60, 40], [80, 40]]),
        sure=sure,
    )
    steps = {name: Measurement(times_ms=(value,)) for name, value in ((EARLY, 1.0), (FINAL, 2.0))}
    labels = {EARLY: Measurement(times_ms=(0.5,)), FINAL: Measurement(times_ms=(0.25,))}
    stages = tuple(Measurement(times_ms=(value,)) for value in (3.0, 1.0, 8.0))
    return Evidence.of(records, profile_of(exits=2, stages=stages, heads=steps, labels=labels))


def test_a_mixture_worked_out_by_hand(by_hand):
    """The first image leaves early, the second one does not.

    Correct:   class 0: 50 + 80 = 130, class 1: 20 + 30 = 50.
    Predicted: class 0: 70 + 85 = 155, class 1: 30 + 35 = 65.
    Labelled:  class 0: 60 + 80 = 140, class 1: 40 + 40 = 80.
    IoU: 130 / (155 + 140 - 130) = 130 / 165, 50 / (65 + 80 - 50) = 50 / 95.
    Leaving early: stages 3 + 1, head 1, labels 0.5 = 5.5 ms. At the end: stages 12, heads 1 + 2, labels 0.25 = 15.25 ms.
    """
    found = estimate_batch(by_hand, [Policy(0, 5)], np.array([[0, 1]]), np.zeros(1, int), np.array([[0.9]]))
    assert found.miou.tolist() == pytest.approx([(130 / 165 + 50 / 95) / 2], abs=1e-12)
    assert found.latency_ms.tolist() == pytest.approx([(5.5 + 15.25) / 2], abs=1e-12)
    assert found.shares.tolist() == [[0.5, 0.5]]
    assert found.pixels.tolist() == [[130, 50, 155, 65]]


def test_single_exits_worked_out_by_hand(by_hand):
    found = single_exits(by_hand)
    early, final = (found.candidate(by_hand, [], index) for index in range(2))
    assert (early.exits, early.latency_ms, early.worst_latency_ms) == ((EARLY,), 5.5, 5.5)
    assert (final.exits, final.latency_ms, final.worst_latency_ms) == ((FINAL,), 14.25, 14.25)
    # Final: class 0 correct 140, predicted 145, labelled 140; class 1 correct 70, predicted 75, labelled 80.
    assert final.miou == final.quality == pytest.approx((140 / 145 + 70 / 85) / 2, abs=1e-12)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean(by_hand):
    evidence = replace(by_hand, labelled=np.array([[60, 0], [80, 0]]))
    assert evidence.exit_miou()[1] == pytest.approx(140 / 145, abs=1e-12)


def test_candidates_of_a_batch_do_not_depend_on_each_other(monkeypatch, records, profile):
    """Estimated together in parts of any size, or one by one."""
    evidence = Evidence.of(records, profile)
    named = [Policy(0, 5), Policy(1, 9), Policy(0, MEAN)]
    rng = np.random.default_rng(0)
    exits = np.array([[0, 1, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2]] * 3)
    policy = rng.integers(0, 3, 12)
    thresholds = rng.uniform(0.2, 0.7, (12, 2))
    together = estimate_batch(evidence, named, exits, policy, thresholds)
    monkeypatch.setattr("offramp.search.estimate.AT_ONCE", 100)
    parts = estimate_batch(evidence, named, exits, policy, thresholds)
    for index in range(12):
        alone = estimate_batch(evidence, named, exits[[index]], policy[[index]], thresholds[[index]])
        for one in (together, parts):
            assert (one.miou[index], one.latency_ms[index]) == (alone.miou[0], alone.latency_ms[0])
            assert one.shares[index].tolist() == alone.shares[0].tolist()


def test_costs_are_the_profiles_own_to_the_last_bit(profile_of):
    profile = profile_of(exits=5)
    costs = Costs.of(profile)
    for exits in [(0,), (4,), (0, 2), (1, 3, 4), (0, 1, 2, 3, 4)]:
        assert costs.path_ms(exits) == profile.latency_ms(tuple(profile.exits[index] for index in exits))


def test_further_costs_and_passes_worked_out_by_hand(profile_of):
    def step(times, macs, size, memory, energy=None):
        return Measurement(times_ms=times, macs=macs, parameter_bytes=size, memory_bytes=memory, energy_mj=energy)

    stages = (step((1.0, 2.0), 10, 4, 100), step((3.0, 5.0), 20, 8, 200), step((7.0, 7.0), 40, 16, 400))
    heads = {EARLY: step((0.5, 0.25), 3, 1, 30), FINAL: step((1.0, 1.0), 5, 2, 50)}
    labels = {EARLY: step((0.125, 0.125), 2, 0, 9), FINAL: step((2.0, 4.0), 4, 0, 9)}
    profile = profile_of(exits=2, stages=stages, heads=heads, labels=labels, base_memory_bytes=1000)
    costs = Costs.of(profile)
    assert costs.further["macs"].path((0, 1)) == 10 + 20 + 40 + 3 + 5 + 4
    assert costs.further["macs"].path((0,)) == 35
    assert costs.further["parameter_bytes"].kept((0, 1)) == 31
    assert costs.further["parameter_bytes"].kept((1,)) == 30
    # Both exits share the graph of their label maps.
    assert costs.further["memory_bytes"].kept((0, 1)) == 1000 + 700 + 80 + 9
    assert costs.further["memory_bytes"].kept((0,)) == 1000 + 300 + 30 + 9
    assert "energy_mj" not in costs.further
    assert costs.path_passes((0, 1)).tolist() == [11 + 1.5 + 2, 14 + 1.25 + 4]
    assert costs.path_passes((0,)).tolist() == [4.625, 7.375]
    without_base = Costs.of(profile.model_copy(update={"base_memory_bytes": None}))
    assert set(without_base.further) == {"macs", "parameter_bytes"}


def test_costs_that_the_profile_does_not_say_are_absent(profile_of):
    assert Costs.of(profile_of()).further == {}


def test_a_region_without_pixels_scores_1(by_hand, records_of, profile_of):
    records = records_of(images=3, exits=2)
    records.sure[1, :, REGIONS.index("objects")] = 0
    evidence = Evidence.of(records, profile_of(exits=2))
    assert (evidence.scores[REGIONS.index("objects"), :, 1] == 1).all()
    candidate = Candidate(evidence.exits, "objects", 20, (1.0,), 0.0, 0.0, 0.0, 0.0)
    assert leaves_at(evidence, candidate)[1] == 0
    assert leaves_at(by_hand, candidate).tolist() == [1, 1]


def test_images_leave_at_the_first_exit_whose_threshold_they_reach(records, profile):
    evidence = Evidence.of(records, profile)
    candidate = Candidate(tuple(evidence.exits[place] for place in (0, 2, 3)), "off-edges", 9, (0.6, 0.5), 0, 0, 0, 0)
    found = leaves_at(evidence, candidate).tolist()
    for image, left in enumerate(found):
        pixels = [records.sure[image, index, 1] for index in (0, 2)]
        reached = [int(count[9]) / int(count[0]) >= bar for count, bar in zip(pixels, (0.6, 0.5), strict=True)]
        assert left == (0 if reached[0] else 1 if reached[1] else 2)
    assert set(found) == {0, 1, 2}
