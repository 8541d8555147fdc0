"""Confidence against numbers worked out by hand, counts against slow loops."""

import numpy as np
import pytest
import torch

from offramp.models.confidence import pixel_confidence, sure_counts
from offramp.policy import GRID, PIXEL_THRESHOLDS
from offramp.specs import REGIONS

KINDS = ("top1", "margin", "entropy")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("top1", [0.7, 1 / 3]),
        ("margin", [0.5, 0.0]),
        # -(0.7 ln 0.7 + 0.2 ln 0.2 + 0.1 ln 0.1) = 0.801819; ln 3 = 1.098612
        ("entropy", [1 - 0.801819 / 1.098612, 0.0]),
    ],
)
def test_by_hand(kind, expected):
    probabilities = torch.tensor([[[[0.2, 1 / 3]], [[0.7, 1 / 3]], [[0.1, 1 / 3]]]])
    scores = probabilities.log() + 4.0  # a constant changes no probability
    assert pixel_confidence(scores, kind).shape == (1, 1, 2)
    assert pixel_confidence(scores, kind)[0, 0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_against_numpy(kind):
    scores = np.random.default_rng(1).normal(0, 3, (2, 7, 4, 5))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    ordered = np.sort(p, axis=1)
    expected = {
        "top1": ordered[:, -1],
        "margin": ordered[:, -1] - ordered[:, -2],
        "entropy": 1 + (p * np.log(p)).sum(axis=1) / np.log(7),
    }[kind]
    np.testing.assert_allclose(pixel_confidence(torch.from_numpy(scores), kind).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 7, 11, 19])
def test_within_0_and_1(kind, classes):
    torch.manual_seed(0)
    for scale in (0.0, 1e-6, 1.0, 1e4):
        confidence = pixel_confidence(scale * torch.randn(1, classes, 20, 20), kind)
        assert confidence.min() >= 0
        assert confidence.max() <= 1
    certain = torch.zeros(1, classes, 1, 1)
    certain[0, 1] = 1e4
    assert pixel_confidence(certain, kind).item() == 1.0


def slow_counts(labels: np.ndarray, confidence: np.ndarray, objects: tuple[int, ...]) -> np.ndarray:
    counts = np.zeros((3, GRID), int)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            around = [
                labels[v, u] for v in range(y - 1, y + 2) for u in range(x - 1, x + 2) if 0 <= v < height and 0 <= u < width
            ]
            within = [True, all(neighbour == labels[y, x] for neighbour in around), labels[y, x] in objects]
            for region in range(3):
                for index, threshold in enumerate(PIXEL_THRESHOLDS):
                    counts[region, index] += within[region] and confidence[y, x] >= np.float32(threshold)
    return counts


def patches(seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Scores whose predictions form patches with corners, borders and single pixels."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 5, (3, 4)), np.ones((4, 4), int))[:11, :15]
    labels[5, 7] = 4
    scores = rng.normal(0, 0.5, (1, 5, *labels.shape)).astype(np.float32)
    np.put_along_axis(scores, labels[None, None], scores.max() + rng.exponential(1.5, (1, 1, *labels.shape)), axis=1)
    return torch.from_numpy(scores), labels


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_against_loops(seed, kind):
    scores, labels = patches(seed)
    confidence = pixel_confidence(scores, kind)
    counts = sure_counts(scores, confidence, (1, 4))
    assert counts.dtype == torch.int32
    assert counts.shape == (len(REGIONS), GRID)
    expected = slow_counts(labels, confidence[0].numpy(), (1, 4))
    assert 0 < expected[1, 0] < labels.size  # some pixels lie on edges, some do not
    assert 0 < expected[2, 0] < labels.size
    assert counts.tolist() == expected.tolist()


def test_a_threshold_is_reached_by_its_own_value():
    scores = torch.zeros(1, 2, 1, GRID)
    confidence = torch.tensor(PIXEL_THRESHOLDS).reshape(1, 1, GRID)
    assert sure_counts(scores, confidence, ())[0].tolist() == [GRID - index for index in range(GRID)]


def test_every_pixel_reaches_the_first_threshold():
    scores = torch.zeros(1, 7, 6, 8)  # the entropy of seven equal shares is rounded to a little more than its maximum
    assert sure_counts(scores, pixel_confidence(scores, "entropy"), (0,))[:, 0].tolist() == [48, 48, 48]


def test_no_objects_count_nothing():
    scores, _ = patches(0)
    confidence = pixel_confidence(scores, "top1")
    assert not sure_counts(scores, confidence, ())[2].any()
    never = scores.clone()
    never[:, 4] = -100.0
    assert not sure_counts(never, confidence, (4,))[2].any()
    assert sure_counts(scores, confidence, tuple(range(5)))[2].tolist() == sure_counts(scores, confidence, ())[0].tolist()
