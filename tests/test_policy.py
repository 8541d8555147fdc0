"""Scores worked out by hand, and the grid of pixel thresholds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.policy import GRID, MEAN, PIXEL_THRESHOLDS, image_score
from offramp.specs import REGIONS


def counts(*regions):
    """Counts of sure pixels: (total, sure at threshold 5) of each region."""
    sure = np.zeros((len(regions), GRID), np.int64)
    for region, (total, reached) in enumerate(regions):
        sure[region, :5], sure[region, 5:] = total, reached
    return sure


def test_the_score_is_the_share_of_the_regions_pixels_that_are_sure():
    sure = counts((8, 6), (4, 1), (5, 5))
    assert [float(image_score(sure, region, 5)) for region in range(3)] == [0.75, 0.25, 1.0]
    assert float(image_score(sure, 0, 4)) == 1.0, "every pixel reaches the thresholds before the fifth"
    assert float(image_score(sure, 1, GRID - 1)) == 0.25


def test_an_empty_region_is_sure():
    sure = counts((8, 0), (0, 0), (0, 0))
    assert [float(image_score(sure, region, 5)) for region in range(3)] == [0.0, 1.0, 1.0]


def test_scores_of_many_images_and_exits_at_once():
    sure = np.stack([np.stack([counts((8, 2)), counts((0, 0))]), np.stack([counts((10, 9)), counts((4, 4))])])
    assert image_score(sure, 0, 5).tolist() == [[0.25, 1.0], [0.9, 1.0]]


def test_counts_as_graphs_give_them():
    score = image_score(counts((2**24 - 1, 2**23)).astype(np.int32), 0, 5)
    assert score.dtype == np.float64
    assert float(score) == 2**23 / (2**24 - 1)


def test_the_grid_rises_from_nought_to_below_one():
    assert len(PIXEL_THRESHOLDS) == GRID
    assert PIXEL_THRESHOLDS[0] == 0.0
    assert all(lower < higher for lower, higher in pairwise(PIXEL_THRESHOLDS))
    assert 0.998 < PIXEL_THRESHOLDS[-1] < 1
    steps = np.diff(PIXEL_THRESHOLDS)
    assert (np.diff(steps) < 0).all(), "denser towards 1"


def test_thresholds_are_the_same_numbers_in_float32():
    # Graphs compare in float32, the search reads float64 from JSON: a threshold may not move between the two.
    assert [float(np.float32(threshold)) for threshold in PIXEL_THRESHOLDS] == list(PIXEL_THRESHOLDS)


def test_the_mean_confidence_is_that_of_the_grid():
    """Two pixels at 0, one at the 8th threshold and one at the last: their mean, whatever else they reach."""
    sure = np.zeros((len(REGIONS), GRID), np.int64)
    confidences = [0.0, 0.0, PIXEL_THRESHOLDS[8], PIXEL_THRESHOLDS[-1]]
    sure[0] = [sum(value >= bar for value in confidences) for bar in PIXEL_THRESHOLDS]
    assert float(image_score(sure, 0, MEAN)) == sum(confidences) / 4
    assert float(image_score(sure, 1, MEAN)) == 1.0, "a region without pixels"


PIXELS = st.lists(st.floats(0, 1, width=32), max_size=40)


@given(confidences=PIXELS, threshold=st.integers(0, GRID - 1))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_scores_of_any_pixels_equal_those_counted_one_by_one(confidences, threshold):
    sure = np.array([[sum(value >= least for value in confidences) for least in PIXEL_THRESHOLDS]] * len(REGIONS))
    score = float(image_score(sure, 1, threshold))
    if not confidences:
        assert score == 1.0
    elif threshold == MEAN:
        floors = [max(least for least in PIXEL_THRESHOLDS if least <= value) for value in confidences]
        assert score == pytest.approx(sum(floors) / len(floors), abs=1e-12)
        assert (
            0
            <= np.mean(confidences) - score
            <= max(later - least for least, later in pairwise((*PIXEL_THRESHOLDS, 1.0))) + 1e-7
        )
    else:
        assert score == sum(value >= PIXEL_THRESHOLDS[threshold] for value in confidences) / len(confidences)


@given(confidences=PIXELS.filter(bool), more=st.lists(st.just(1.0), max_size=5))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_a_higher_threshold_never_scores_higher_and_surer_pixels_never_lower(confidences, more):
    def scores(values):
        sure = np.array([[sum(value >= least for value in values) for least in PIXEL_THRESHOLDS]] * len(REGIONS))
        return [float(image_score(sure, 0, threshold)) for threshold in range(1, GRID)] + [float(image_score(sure, 0, MEAN))]

    found = scores(confidences)
    assert found[:-1] == sorted(found[:-1], reverse=True)
    assert all(0 <= score <= 1 for score in found)
    assert all(later >= score for score, later in zip(found, scores(confidences + more), strict=True))


def test_the_grid_rises_from_0_and_is_exact_in_float32():
    assert PIXEL_THRESHOLDS[0] == 0
    assert all(least < later < 1 for least, later in pairwise(PIXEL_THRESHOLDS))
    assert all(float(np.float32(value)) == value for value in PIXEL_THRESHOLDS)
