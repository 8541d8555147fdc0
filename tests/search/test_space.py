"""The candidates are the ones that were promised, each once."""

import math
from itertools import combinations, product

import numpy as np
import pytest

from offramp.policy import GRID, MEAN
from offramp.search.space import QUANTILES, Policy, count_candidates, count_sets, policies, sets_of, taps_of, thresholds_to_try

TAPS = ((0, 1, 2), (3,), (4, 5), (6,))


def test_exits_behind_one_stage_share_a_tap():
    assert taps_of((0, 0, 0, 1, 3, 3, 4)) == TAPS


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_sets_have_at_most_one_exit_of_a_tap(number):
    tap = {index: place for place, exits in enumerate(TAPS) for index in exits}
    expected = {chosen for chosen in combinations(range(7), number) if len({tap[index] for index in chosen}) == len(chosen)}
    found = list(sets_of(TAPS, number))
    assert set(found) == expected
    assert len(found) == len(expected) == count_sets(TAPS, number)


@pytest.mark.parametrize("early", [1, 2, 3])
@pytest.mark.parametrize("lasts", [{6}, set(range(7)), {3, 6}])
def test_candidates_are_counted_as_plain_loops_count_them(early, lasts):
    thresholds = np.random.default_rng(early).integers(1, 5, (3, 7))
    expected = 0
    for chosen, policy in product(sets_of(TAPS, early + 1), range(3)):
        if chosen[-1] in lasts:
            expected += math.prod(int(thresholds[policy, index]) for index in chosen[:-1])
    assert count_candidates(TAPS, thresholds, early, lasts) == expected


def test_the_paper_sized_space_has_four_billion_candidates():
    """6 taps with 8 heads each, 3 early exits and the final one, 3 x 32 policies, 16 quantiles."""
    taps = [*(tuple(range(8 * place, 8 * place + 8)) for place in range(6)), (48,)]
    assert count_candidates(taps, np.full((96, 49), 16), 3, {48}) == 20 * 8**3 * 96 * 16**3 == 4_026_531_840


def test_thresholds_are_scores_that_occurred_from_above_the_lowest_to_the_highest():
    scores = np.random.default_rng(0).uniform(0, 1, 40)
    tried = thresholds_to_try(scores)
    assert len(tried) == QUANTILES
    assert set(tried) <= set(scores)
    assert tried.tolist() == sorted(set(tried.tolist()))
    assert (tried[0], tried[-1]) == (sorted(scores)[math.ceil(39 / 16)], scores.max())


def test_a_threshold_that_repeats_is_tried_once_and_the_lowest_score_never():
    assert thresholds_to_try(np.repeat([0.2, 0.5, 0.7], [20, 10, 10])).tolist() == [0.5, 0.7]
    assert thresholds_to_try(np.ones(40)).tolist() == []


def test_with_as_many_as_images_every_score_but_the_lowest_is_tried():
    scores = np.random.default_rng(0).permutation(30) / 30
    assert thresholds_to_try(scores, 30).tolist() == sorted(scores)[1:]


def test_policies_are_each_region_with_each_threshold_that_tells_pixels_apart():
    found = policies(("all", "objects", "mean"))
    assert found == [*(Policy(region, index) for region in (0, 2) for index in range(1, GRID)), Policy(0, MEAN)]
