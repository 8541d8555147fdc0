"""Estimates equal numbers worked out by hand and by plain loops."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from offramp.artifacts import Measurement
from offramp.policy import GRID
from offramp.search import estimate
from offramp.search.estimate import Costs, Evidence, deadline_shares, estimate_blocks, intervals, leaves_at, mixture_sums
from offramp.search.space import Candidate
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
    block, miou, latency_ms = next(iter(estimate_blocks(by_hand, (0, 1))))
    assert [block.thresholds_of(index) for index in range(block.size)] == [(0.9,)]
    assert miou.tolist() == pytest.approx([(130 / 165 + 50 / 95) / 2], abs=1e-12)
    assert latency_ms.tolist() == pytest.approx([(5.5 + 15.25) / 2], abs=1e-12)


def test_single_exits_worked_out_by_hand(by_hand):
    early, final = estimate.single_exits(by_hand)
    assert (early.exits, early.latency_ms, early.worst_latency_ms) == ((EARLY,), 5.5, 5.5)
    assert (final.exits, final.latency_ms, final.worst_latency_ms) == ((FINAL,), 14.25, 14.25)
    # Final: class 0 correct 140, predicted 145, labelled 140; class 1 correct 70, predicted 75, labelled 80.
    assert final.miou == final.quality == pytest.approx((140 / 145 + 70 / 85) / 2, abs=1e-12)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean(by_hand):
    evidence = replace(by_hand, labelled=np.array([[60, 0], [80, 0]]))
    assert evidence.exit_miou()[1] == pytest.approx(140 / 145, abs=1e-12)


@pytest.mark.parametrize("thresholds", [(5,), (4, 3), (3, 2, 4)])
@pytest.mark.parametrize("elements", [1, 100, 2**22])
def test_sums_of_all_mixtures_equal_plain_loops_whatever_the_size_of_a_block(monkeypatch, thresholds, elements):
    monkeypatch.setattr(estimate, "ELEMENTS", elements)
    rng = np.random.default_rng(len(thresholds))
    clears = [rng.random((number, 9)) < 0.4 for number in thresholds]
    values = [rng.integers(0, 100, (9, 5)).astype(float) for _ in range(len(thresholds) + 1)]
    expected = []
    for chosen in product(*(range(number) for number in thresholds)):
        total = np.zeros(5)
        for image in range(9):
            place = 0
            while place < len(chosen) and not clears[place][chosen[place], image]:
                place += 1
            total += values[place][image]
        expected.append(total)
    assert mixture_sums(clears, values).tolist() == np.array(expected).tolist()


def test_costs_are_the_profiles_own_to_the_last_bit(profile_of):
    profile = profile_of(exits=5)
    costs = Costs.of(profile)
    for exits in [(0,), (4,), (0, 2), (1, 3, 4), (0, 1, 2, 3, 4)]:
        assert costs.path_ms(exits) == profile.latency_ms(tuple(profile.exits[index] for index in exits))


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


# Three exits: stages up to 2, 6 and 12 ms, heads of 1 ms, label maps of 1 ms. Alone they answer after 4, 8 and 14 ms, all
# three together after 4, 9 and 16 ms: deadlines lie between 4 and 16 ms.
THREE = Costs(stages=(2.0, 6.0, 12.0), heads=(1.0, 1.0, 1.0), labels=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("exits", "shares"),
    [
        ((0, 1, 2), [5 / 12, 7 / 12, 0]),
        ((0,), [1]),
        ((1,), [8 / 12]),
        ((0, 2), [11 / 12, 1 / 12]),
        ((1, 2), [7 / 12, 1 / 12]),
    ],
)
def test_shares_of_deadlines_worked_out_by_hand(exits, shares):
    assert deadline_shares(THREE, exits) == pytest.approx(shares, abs=1e-12)


def test_an_exit_that_is_ready_after_a_deeper_one_is_never_the_latest_answer():
    # The label map of the first exit takes longer than all of the second: ready after 9 and 5 ms; deadlines from 4 to 5.
    costs = Costs(stages=(1.0, 2.0), heads=(1.0, 1.0), labels=(7.0, 1.0))
    assert deadline_shares(costs, (0, 1)) == [0, 0]
    # Deadlines from 4 to 7: the second is ready after 5 ms, the third after 7.
    costs = Costs(stages=(1.0, 2.0, 3.0), heads=(1.0, 1.0, 1.0), labels=(7.0, 1.0, 1.0))
    assert deadline_shares(costs, (0, 1)) == pytest.approx([0, 2 / 3])


def test_the_only_exit_gets_every_deadline():
    assert deadline_shares(Costs((2.0,), (1.0,), (1.0,)), (0,)) == [1]


def test_quality_is_the_mean_miou_over_deadlines(monkeypatch, records_of, profile_of):
    evidence = replace(Evidence.of(records_of(exits=3), profile_of(exits=3)), costs=THREE)
    monkeypatch.setattr(Evidence, "exit_miou", lambda _: np.array([0.3, 0.9, 0.6]))
    found = {candidate.exits: candidate for candidate in estimate.anytime_sets(evidence)}
    assert len(found) == 7
    both = found[evidence.exits[1], evidence.exits[2]]
    assert both.quality == pytest.approx(0.9 * 7 / 12 + 0.6 * 1 / 12)
    assert (both.miou, both.latency_ms, both.worst_latency_ms) == (0.6, 15.0, 15.0)
    assert found[(evidence.exits[1],)].quality == pytest.approx(0.9 * 8 / 12)


def test_the_latency_interval_is_that_of_a_mean(records_of, profile_of):
    evidence = Evidence.of(records_of(images=400, exits=2), profile_of(exits=2))
    candidate = Candidate(evidence.exits, "all", 10, (0.5,), 0.0, 0.0, 0.0, 0.0)
    left = leaves_at(evidence, candidate)
    costs = np.array([evidence.costs.path_ms((0,)), evidence.costs.path_ms((0, 1))])[left]
    assert 0.1 < left.mean() < 0.9
    low, high = intervals(evidence, candidate)[1]
    assert (low + high) / 2 == pytest.approx(costs.mean(), rel=0.01)
    assert high - low == pytest.approx(2 * 1.96 * costs.std() / 20, rel=0.15)


def test_the_miou_interval_comes_from_drawing_images_again(records_of, profile_of):
    evidence = Evidence.of(records_of(images=30, exits=2), profile_of(exits=2))
    final = estimate.single_exits(evidence)[1]
    low, high = intervals(evidence, final)[0]
    rng, values = np.random.default_rng(7), []
    for _ in range(2000):
        drawn = rng.integers(0, 30, 30)
        correct, predicted = (part[drawn].sum(axis=0) for part in np.split(evidence.pixels[1], 2, axis=1))
        labelled = evidence.labelled[drawn].sum(axis=0)
        values.append((correct / (predicted + labelled - correct)).mean())
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.1 * (high - low))


def test_identical_images_leave_no_doubt(records_of, profile_of):
    records = records_of(images=1)
    repeated = replace(
        records,
        info=records.info.model_copy(update={"images": tuple("abcde")}),
        **{name: np.repeat(getattr(records, name), 5, axis=0) for name in ("correct", "predicted", "labelled", "sure")},
    )
    evidence = Evidence.of(repeated, profile_of())
    final = estimate.single_exits(evidence)[-1]
    assert intervals(evidence, final) == ((final.miou, final.miou), (final.latency_ms, final.latency_ms))
