"""Counted again by hand and pixel by pixel."""

import math

import numpy as np
import pytest

from offramp.metrics import VOID, count_pixels, iou, miou

# Two classes and void (V).      labels   predicted
#                                0 0 1    0 1 1
#                                1 V V    1 0 1
# Class 0: labelled 2, predicted 1 (void pixels left out), correct 1: IoU 1 / (2 + 1 - 1) = 1/2.
# Class 1: labelled 2, predicted 3, correct 2: IoU 2 / (2 + 3 - 2) = 2/3. Mean: 7/12.
LABELS = np.array([[0, 0, 1], [1, VOID, VOID]], np.uint8)
PREDICTED = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)


def test_by_hand():
    counts = count_pixels(PREDICTED, LABELS, 2)
    assert [array.tolist() for array in counts] == [[1, 2], [1, 3], [2, 2]]
    assert all(array.dtype == np.int64 for array in counts)
    assert iou(*counts).tolist() == [1 / 2, 2 / 3]
    assert miou(*counts) == pytest.approx(7 / 12, abs=1e-15)


def slow_miou(predicted, labels, classes):
    """Intersection and union as sets of pixels, class by class."""
    values = []
    for wanted in range(classes):
        truth, answer = set(), set()
        for place in np.ndindex(labels.shape):
            if labels[place] < classes:
                if labels[place] == wanted:
                    truth.add(place)
                if predicted[place] == wanted:
                    answer.add(place)
        if truth:
            values.append(len(truth & answer) / len(truth | answer))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(5))
def test_against_sets_of_pixels(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    labels = rng.choice([*range(classes), VOID], (17, 23)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, classes, labels.shape)).astype(np.uint8)
    predicted[predicted == VOID] = 0
    assert miou(*count_pixels(predicted, labels, classes)) == pytest.approx(slow_miou(predicted, labels, classes), abs=1e-12)


def test_void_is_left_out_of_all_three_counts():
    labels = np.full((4, 4), VOID, np.uint8)
    for array in count_pixels(np.ones((4, 4), np.uint8), labels, 3):
        assert array.tolist() == [0, 0, 0]


def test_answers_beyond_the_classes_count_nowhere_but_cost():
    labels, predicted = np.zeros((1, 4), np.uint8), np.array([[0, 0, 7, 7]], np.uint8)
    counts = count_pixels(predicted, labels, 2)
    assert [array.tolist() for array in counts] == [[2, 0], [2, 0], [4, 0]]
    assert miou(*counts) == 0.5


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    # Class 1 is predicted on one pixel and labelled nowhere: no IoU of its own, but class 0 loses the pixel. Class 2: neither.
    labels, predicted = np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8)
    counts = count_pixels(predicted, labels, 3)
    per_class = iou(*counts)
    assert per_class[0] == 0.75
    assert np.isnan(per_class[1:]).all()
    assert miou(*counts) == 0.75


def test_nothing_labelled_has_no_miou():
    assert math.isnan(miou(*np.zeros((3, 4), np.int64)))


def test_counts_broadcast_over_images_and_exits():
    rng = np.random.default_rng(1)
    labelled = rng.integers(1, 50, (3, 1, 4))
    predicted = rng.integers(1, 50, (3, 2, 4))
    correct = np.minimum(labelled, predicted) // 2
    got = miou(correct, predicted, labelled)
    assert got.shape == (3, 2)
    for image, exit_index in np.ndindex(3, 2):
        one = [
            correct[image, exit_index, c]
            / (predicted[image, exit_index, c] + labelled[image, 0, c] - correct[image, exit_index, c])
            for c in range(4)
        ]
        assert got[image, exit_index] == pytest.approx(sum(one) / 4)


def test_the_miou_of_a_split_is_not_the_mean_over_images():
    # Image 1: class 0 all right (10 of 10). Image 2: class 0 all wrong (0 of 30). Together 10 of 40, not a half.
    together = np.array([10, 0]) + 0, np.array([10, 30]), np.array([40, 0])
    assert miou(*together) == 0.25
