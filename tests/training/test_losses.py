"""Losses against slow ones written in numpy."""

import math

import numpy as np
import pytest
import torch

from offramp.metrics import VOID
from offramp.training.losses import class_weights, compared, cross_entropy, lesson, thinned

WEIGHTS = torch.tensor([0.5, 1.0, 3.0])


@pytest.fixture
def case():
    rng = np.random.default_rng(7)
    scores, teacher = rng.normal(0, 2, (2, 2, 3, 4, 5))
    labels = rng.choice([0, 1, 2, VOID], (2, 4, 5))
    return torch.from_numpy(scores), torch.from_numpy(teacher), torch.from_numpy(labels)


def pixels_of(tensor: torch.Tensor) -> np.ndarray:
    """(N, C, h, w) to (pixels, C), (N, h, w) to (pixels,)."""
    array = tensor.numpy()
    return np.moveaxis(array, 1, -1).reshape(-1, 3) if array.ndim == 4 else array.ravel()


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - math.log(sum(math.exp(value) for value in row))


def slow_cross_entropy(scores, labels, weights) -> float:
    total = weight = 0.0
    for row, label in zip(pixels_of(scores), pixels_of(labels), strict=True):
        if label != VOID:
            total -= weights[label].item() * log_softmax(row)[label]
            weight += weights[label].item()
    return total / weight


def slow_lesson(scores, teacher, labels, weights, a, heat=1.0, distillation="positive", filtered="labels") -> float:
    truth = weight = divergence = taught_by_teacher = 0.0
    for row, taught, label in zip(pixels_of(scores), pixels_of(teacher), pixels_of(labels), strict=True):
        if label == VOID:
            continue
        right = taught.argmax() == label
        if distillation != "positive" or filtered == "teacher" or right:
            truth -= weights[label].item() * log_softmax(row)[label]
            weight += weights[label].item()
        if distillation == "plain" or (distillation == "positive" and (filtered == "labels" or right)):
            mine, theirs = log_softmax(row / heat), log_softmax(taught / heat)
            divergence += sum(np.exp(theirs) * (theirs - mine))
            taught_by_teacher += 1
    if distillation == "none":
        return truth / weight
    return a * truth / weight + (1 - a) * heat**2 * divergence / taught_by_teacher


def test_cross_entropy_by_hand():
    scores = torch.log(torch.tensor([[0.5, 0.2], [0.25, 0.2], [0.25, 0.6]])).reshape(1, 3, 1, 2)
    labels = torch.tensor([[[0, 2]]])
    expected = (0.5 * math.log(2) + 3 * -math.log(0.6)) / 3.5
    assert cross_entropy(scores, labels, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_against_loops(case):
    scores, _, labels = case
    assert (labels == VOID).any()
    result = cross_entropy(scores, labels, WEIGHTS.double())
    assert result.item() == pytest.approx(slow_cross_entropy(scores, labels, WEIGHTS), rel=1e-9)


def test_void_pixels_get_no_gradient(case):
    scores, teacher, labels = case
    for loss in (
        lambda s: cross_entropy(s, labels, WEIGHTS.double()),
        lambda s: lesson(labels, WEIGHTS.double(), teacher).loss(s),
    ):
        leaf = scores.clone().requires_grad_()
        loss(leaf).backward()
        moved = leaf.grad.abs().sum(dim=1) > 1e-12
        assert torch.equal(moved, labels != VOID)


@pytest.mark.parametrize("a", [None, 0.0, 0.5, 1.0])
def test_an_all_void_batch_teaches_nothing(case, a):
    scores, teacher, labels = case
    scores = scores.float().requires_grad_()
    void = torch.full_like(labels, VOID)
    if a is None:
        loss = cross_entropy(scores, void, WEIGHTS, hard_share=0.5)
    else:
        loss = lesson(void, WEIGHTS, teacher.float(), truth_weight=a).loss(scores)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


# ------------------------------------------------------------------------------------------------------------ hard pixels


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_hardest_pixels_alone_count(case, share):
    scores, _, labels = case
    rows, truths = pixels_of(scores), pixels_of(labels)
    known = [
        (-log_softmax(row)[label], WEIGHTS[label].item()) for row, label in zip(rows, truths, strict=True) if label != VOID
    ]
    hardest = sorted(known, reverse=True)[: round(share * len(known))]
    expected = sum(surprise * weight for surprise, weight in hardest) / sum(weight for _, weight in hardest)
    result = cross_entropy(scores, labels, WEIGHTS.double(), hard_share=share)
    assert result.item() == pytest.approx(expected, rel=1e-9)


# --------------------------------------------------------------------------------------------------------------- lessons


@pytest.mark.parametrize("heat", [1.0, 3.0])
@pytest.mark.parametrize(
    ("distillation", "filtered"),
    [("positive", "labels"), ("positive", "teacher"), ("positive", "both"), ("plain", "labels"), ("none", "labels")],
)
@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_lessons_against_loops(case, a, distillation, filtered, heat):
    scores, teacher, labels = case
    right = (teacher.argmax(dim=1) == labels).sum()
    assert 0 < right < (labels != VOID).sum()
    taught = lesson(
        labels,
        WEIGHTS.double(),
        teacher,
        distillation=distillation,
        filtered=filtered,
        truth_weight=a,
        temperature=heat,
    )
    expected = slow_lesson(scores, teacher, labels, WEIGHTS, a, heat, distillation, filtered)
    assert taught.loss(scores).item() == pytest.approx(expected, rel=1e-9)


def test_a_lesson_by_hand():
    # Two pixels of class 0; the teacher is right on the first only.
    teacher = torch.log(torch.tensor([[0.8, 0.3], [0.1, 0.6], [0.1, 0.1]])).reshape(1, 3, 1, 2)
    scores = torch.log(torch.tensor([[0.5, 0.25], [0.3, 0.25], [0.2, 0.5]])).reshape(1, 3, 1, 2)
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    from_labels = -math.log(0.5)
    first = 0.8 * math.log(0.8 / 0.5) + 0.1 * math.log(0.1 / 0.3) + 0.1 * math.log(0.1 / 0.2)
    second = 0.3 * math.log(0.3 / 0.25) + 0.6 * math.log(0.6 / 0.25) + 0.1 * math.log(0.1 / 0.5)
    result = lesson(labels, WEIGHTS, teacher, truth_weight=0.25).loss(scores)
    assert result.item() == pytest.approx(0.25 * from_labels + 0.75 * (first + second) / 2, rel=1e-5)


def test_a_student_that_equals_its_teacher_learns_nothing_from_it(case):
    _, teacher, labels = case
    leaf = teacher.clone().requires_grad_()
    loss = lesson(labels, WEIGHTS.double(), teacher, truth_weight=0.0).loss(leaf)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert leaf.grad.abs().max() < 1e-12


def test_parts_of_a_batch_average_to_the_whole(case):
    """What several processes do: each its images, the normalisers averaged over them."""
    scores, teacher, labels = case
    weights = WEIGHTS.double()

    def losses(part, mean):
        taught = lesson(labels[part], weights, teacher[part], mean=mean)
        return [
            cross_entropy(scores[part], labels[part], weights, mean=mean).item(),
            taught.loss(scores[part]).item(),
        ]

    asked = [[], []]
    for place in range(2):
        losses(slice(place, place + 1), lambda value, place=place: asked[place].append(value) or value)
    means = [(one + two) / 2 for one, two in zip(*asked, strict=True)]
    parts = []
    for place in range(2):
        left = iter(means)
        parts.append(losses(slice(place, place + 1), lambda _value, left=left: next(left)))
    whole = losses(slice(0, 2), lambda value: value)
    assert np.mean(parts, axis=0) == pytest.approx(whole, rel=1e-9)


# ---------------------------------------------------------------------------------------------------------------- compared


def test_labels_are_thinned_not_blended():
    labels = torch.arange(6 * 8).reshape(1, 6, 8)
    assert thinned(labels, 2).tolist() == [[[9, 11, 13, 15], [25, 27, 29, 31], [41, 43, 45, 47]]]
    assert thinned(labels, 4).tolist() == [[[18, 22]]]


@pytest.mark.parametrize("size", [(64, 96), (56, 80), (90, 320), (65, 81), (48, 83)])
@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("thinning", [2, 4])
def test_scores_lie_over_their_labels(size, stride, thinning):
    # Each cell holds the place of its centre; compared with the place of the labels' pixels, half a pixel may remain.
    rows, columns = (-(-side // stride) for side in size)
    centres = [stride * (torch.arange(n) + 0.5) for n in (rows, columns)]
    scores = torch.stack(torch.meshgrid(*centres, indexing="ij"))[None]
    places = torch.stack(torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")) + 0.5
    for axis in range(2):
        thin = thinned(places[axis][None], thinning)
        near = compared(scores, size[0], thinning, tuple(thin.shape[1:]))
        assert near.shape[2:] == thin.shape[1:]
        inside = (thin[0] > stride / 2) & (thin[0] < centres[axis][-1])
        assert (near[0, axis] - thin[0])[inside].abs().max() <= 0.5


# ----------------------------------------------------------------------------------------------------------- class weights


def test_class_weights_by_hand():
    raw = [1 / math.log(1.1 + share) for share in (0.9, 0.09, 0.01)]
    expected = [3 * value / sum(raw) for value in raw]
    assert class_weights(torch.tensor([900, 90, 10])).tolist() == pytest.approx(expected, rel=1e-6)
    assert expected[2] / expected[0] == pytest.approx(math.log(2.0) / math.log(1.11))


def test_classes_that_never_occur_weigh_one_and_count_not():
    weights = class_weights(torch.tensor([50, 0, 50]))
    assert weights.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert class_weights(torch.tensor([900, 0, 100]))[[0, 2]].mean().item() == pytest.approx(1)
    assert weights.dtype == torch.float32


def test_the_rarest_class_weighs_at_most_about_eight_times_the_most_frequent():
    weights = class_weights(torch.tensor([10**9, 1]))
    assert 7 < (weights[1] / weights[0]).item() < 8
