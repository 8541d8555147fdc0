"""What a step is expected to take: hand-computed."""

import pytest

from offramp.runtime.pace import DECAY, PACE, RECENT, REFUSALS, Pace


def pace_of(*times, risk=0.01, first=10.0):
    one = Pace(risk)
    one.note_first(first)
    for latency_ms in times:
        one.note("deep", latency_ms)
    return one


@pytest.mark.parametrize(("left_ms", "wanted"), [(6.0, 0.0), (5.0, 0.0), (4.5, 0.2), (2.5, 0.6), (0.5, 1.0)])
def test_the_share_of_times_that_were_longer(left_ms, wanted):
    assert pace_of(3.0, 1.0, 5.0, 2.0, 4.0).late(["deep"], left_ms) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("left_ms", "wanted"),
    [
        (61.0, 0.0),
        (59.0, 0.25),  # 50 ms of the first step and the second's median of 10
        (45.0, 0.5),  # and 30 ms of the second with the first's median of 20
        (29.0, 1.0),  # the medians alone take 30
    ],
)
def test_of_steps_one_after_another_one_at_a_time_is_late(left_ms, wanted):
    one = pace_of(20.0, 20.0, 20.0, 50.0)
    for latency_ms in (10.0, 10.0, 10.0, 30.0):
        one.note("labels", latency_ms)
    assert one.late(["deep", "labels"], left_ms) == pytest.approx(wanted)


def test_a_step_that_did_not_run_follows_the_first_exit():
    one = pace_of(30.0)
    for _ in range(PACE):
        one.note_first(25.0)
    assert [one.late(["deep"], left_ms) for left_ms in (74.0, 76.0)] == [1.0, 0.0]
    one.note_first(400.0)
    assert one.late(["deep"], 76.0) == 0.0, "one slow image is no change of pace"


def test_old_times_are_forgotten():
    one = pace_of(1e6, *[20.0] * RECENT)
    assert one.late(["deep"], 20.1) == 0.0


@pytest.mark.parametrize(("slow", "wanted"), [(1, True), (2, False)])
def test_the_risk_decides(slow, wanted):
    assert pace_of(*[20.0] * (100 - slow), *[500.0] * slow).in_time(["deep"], 21.0) == wanted


@pytest.mark.parametrize("number", [1, 3])
def test_what_is_refused_again_and_again_is_tried_once_more(number):
    """500 ms must come below 300: three times less by a fifth, each of them."""
    one = pace_of(*[500.0] * number)
    refused = 0
    while not one.in_time(["deep"], 300.0):
        refused += 1
    assert 500 * DECAY**3 < 300 < 500 * DECAY**2
    assert refused == 3 * number * REFUSALS
