"""What risk control promises, held against thousands of calibration sets whose truth is known."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from offramp.search.risk import (
    conformal_risk_control,
    learn_then_test,
    least_bound,
    levels_of,
    losses_of,
    p_value,
)

SETS = 4000
RISKS = np.linspace(0.0, 0.4, 161)
"""True expected loss of each level, the safest first."""


def drawn(rng: np.random.Generator, images: int, kind: str) -> np.ndarray:
    """Losses (N, levels) with these means: an image loses everything or nothing, or a share."""
    ease = rng.uniform(0, 1, (images, 1))
    if kind == "all or nothing":
        return (ease < RISKS).astype(float)
    return np.clip(2 * RISKS * ease, 0, 1)


def level_or_safest(level: int | None) -> int:
    return 0 if level is None else level


@pytest.mark.parametrize("kind", ["all or nothing", "shares"])
@pytest.mark.parametrize(("images", "bound", "confidence"), [(100, 0.1, 0.9), (300, 0.05, 0.95)])
def test_learn_then_test_fails_no_more_often_than_promised(kind, images, bound, confidence):
    rng = np.random.default_rng(images)
    chosen = [level_or_safest(learn_then_test(drawn(rng, images, kind), bound, confidence)) for _ in range(SETS)]
    failed = (RISKS[chosen] > bound + 1e-12).mean()
    assert failed <= 1 - confidence + 3 * np.sqrt(confidence * (1 - confidence) / SETS)
    # Tightly, as far as the e in the inequality of Bentkus lets it: losses of all or nothing are the worst there are.
    if kind == "all or nothing":
        assert failed >= (1 - confidence) / 8
        assert np.mean(RISKS[chosen]) >= 0.4 * bound


@pytest.mark.parametrize("kind", ["all or nothing", "shares"])
@pytest.mark.parametrize(("images", "bound"), [(60, 0.1), (300, 0.05)])
def test_conformal_risk_control_holds_on_average_and_tightly(kind, images, bound):
    rng = np.random.default_rng(images)
    chosen = [level_or_safest(conformal_risk_control(drawn(rng, images, kind), bound)) for _ in range(SETS)]
    risks = RISKS[chosen]
    assert risks.mean() <= bound + 3 * risks.std() / np.sqrt(SETS)
    assert risks.mean() >= bound - 2 / (images + 1) - (RISKS[1] - RISKS[0])


def test_levels_beyond_the_first_failure_are_never_taken():
    """A level that looks safe by chance behind one that failed must not count: its order was fixed before."""
    losses = np.zeros((200, 4))
    losses[:, 1] = 0.5
    assert learn_then_test(losses, 0.05, 0.95) == 0
    assert conformal_risk_control(losses, 0.05) == 0


def test_an_image_counts_with_its_highest_loss_so_far():
    """At the last level each image's loss has fallen again; taken as it is, the guarantee would not hold."""
    losses = np.zeros((200, 3))
    losses[:20, 1] = 0.5
    losses[20:40, 2] = 0.5
    # Level 1: (10 + 1) / 201 = 0.055; level 2: (20 + 1) / 201 = 0.104, though the losses there add up to 10 again.
    assert conformal_risk_control(losses, 0.06) == 1
    assert conformal_risk_control(losses, 0.11) == 2


@pytest.mark.parametrize(("images", "loss", "bound", "expected"), [(10, 0.0, 0.2, 0.8**10), (5, 0.6, 0.5, 1.0)])
def test_p_values_worked_out_by_hand(images, loss, bound, expected):
    """Without a loss Hoeffding's is (1 - bound)^n, which is below e times Bentkus' same number."""
    assert p_value(loss, images, bound) == pytest.approx(expected)


def test_the_p_value_is_that_of_bentkus_where_that_is_smaller():
    """Three of a hundred lost, bound 0.1, in exact fractions."""
    below = sum(comb(100, hits) * Fraction(1, 10) ** hits * Fraction(9, 10) ** (100 - hits) for hits in range(4))
    assert p_value(0.03, 100, 0.1) == pytest.approx(np.e * float(below))
    assert np.exp(-100 * (0.03 * np.log(0.3) + 0.97 * np.log(0.97 / 0.9))) > np.e * float(below)


@pytest.mark.parametrize("images", [20, 101, 1000])
def test_no_bound_below_the_least_can_be_certified(images):
    nothing_lost = np.zeros((images, 3))
    least = least_bound(images, 0.95)
    assert learn_then_test(nothing_lost, least * 1.0001, 0.95) == 2
    assert learn_then_test(nothing_lost, least * 0.9999, 0.95) is None
    least = least_bound(images, None)
    assert conformal_risk_control(nothing_lost, least * 1.0001) == 2
    assert conformal_risk_control(nothing_lost, least * 0.9999) is None
    assert least == 1 / (images + 1)


def test_levels_go_from_nobody_to_the_chosen_thresholds():
    scores = np.array([[0.1, 0.9], [0.5, 0.8], [0.7, 0.2], [0.9, 0.1]])
    table = levels_of(scores, [0.5, 0.2], levels=3, above=2)
    assert table == pytest.approx(np.array([[np.inf] * 2, [1.0, 1.0], [0.95, 0.95], [0.9, 0.9], [0.7, 0.8], [0.5, 0.2]]))
    assert (np.diff(levels_of(scores, [0.5, 0.2])[1:], axis=0) <= 0).all()


def test_an_image_loses_what_differs_where_it_leaves():
    scores = np.array([[0.9, 0.1], [0.2, 0.6], [0.1, 0.1]])
    loss_at = np.array([[0.3, 0.2, 0.0], [0.5, 0.1, 0.0], [0.9, 0.8, 0.0]])
    thresholds = np.array([[np.inf, np.inf], [0.9, 0.6], [0.1, 0.0]])
    assert losses_of(scores, loss_at, thresholds).tolist() == [[0, 0.3, 0.3], [0, 0.1, 0.5], [0, 0, 0.9]]
