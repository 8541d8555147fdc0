"""What a step is expected to take: hand-computed."""

import pytest

from offramp.runtime.pace import DECAY, PACE, RECENT, REFUSALS, Pace


def pace_of(*times, quantile=0.99, first=10.0):
    one = Pace(quantile)
    one.keep(first)
    for latency_ms in times:
        one.note("deep", latency_ms)
    return one


@pytest.mark.parametrize(("quantile", "wanted"), [(0.99, 5.0), (0.8, 4.0), (0.81, 5.0), (0.2, 1.0)])
def test_of_n_times_the_quantile_is_one_that_occurred(quantile, wanted):
    assert pace_of(3.0, 1.0, 5.0, 2.0, 4.0, quantile=quantile).expected_ms("deep") == pytest.approx(wanted)


def test_a_step_that_did_not_run_follows_the_first_exit():
    one = pace_of(30.0)
    for _ in range(PACE):
        one.keep(25.0)
    assert one.expected_ms("deep") == pytest.approx(75.0)
    one.keep(400.0)
    assert one.expected_ms("deep") == pytest.approx(75.0), "one slow image is no change of pace"


def test_old_times_are_forgotten():
    one = pace_of(1e6, *[20.0] * RECENT)
    assert one.expected_ms("deep") == pytest.approx(20.0)


def test_steps_one_after_another_must_fit():
    one = pace_of(30.0)
    one.note("labels", 5.0)
    assert one.fits(("deep", "labels"), 35.1)
    assert not one.fits(("deep", "labels"), 34.9)
    assert one.fits(("unknown",), 0.0)


@pytest.mark.parametrize("number", [1, 3])
def test_what_is_refused_again_and_again_is_tried_once_more(number):
    """500 ms must come below 300: three times less by a fifth, each of them."""
    one = pace_of(*[500.0] * number)
    refused = 0
    while not one.fits(("deep",), 300.0):
        refused += 1
    assert 500 * DECAY**3 < 300 < 500 * DECAY**2
    assert refused == 3 * number * REFUSALS
