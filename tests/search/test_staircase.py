"""The staircase excludes what two candidates of different exits beat, and nothing that could be second."""

import numpy as np
import pytest

from offramp.search.estimate import Batch
from offramp.search.staircase import Staircase, non_dominated

IMAGES, CLASSES, MARGIN = 10, 4, 1e-6


def batch(*rows: tuple[float, float, int]) -> Batch:
    """Latency, mIoU, and a number that names the exits."""
    latency, miou, exits = (np.array(column) for column in zip(*rows, strict=True))
    number = len(rows)
    shares, thresholds, pixels = np.ones((number, 1)), np.zeros((number, 0)), np.zeros((number, 2))
    return Batch(exits[:, None], np.zeros(number, int), thresholds, pixels, miou, shares, latency)


def stairs(**changes) -> Staircase:
    return Staircase(0.0, 100.0, images=IMAGES, classes=CLASSES, miou_off=MARGIN, latency_off=MARGIN, **changes)


def open_to(one: Staircase, latency: float, miou: float) -> bool:
    ious = np.array([CLASSES * miou], np.float32)
    return bool(one.not_excluded(ious, np.array([IMAGES * latency], np.float32))[0])


def test_the_front_is_what_no_point_beats():
    rng = np.random.default_rng(0)
    for _ in range(50):
        latency_ms, miou = rng.integers(0, 6, (2, 20)).astype(float)
        expected = {
            (x, y)
            for x, y in zip(latency_ms, miou, strict=True)
            if not any((u <= x and v >= y) and (u, v) != (x, y) for u, v in zip(latency_ms, miou, strict=True))
        }
        found = non_dominated(latency_ms, miou)
        assert [(latency_ms[index], miou[index]) for index in found] == sorted(expected)


def test_of_equal_points_the_first_is_kept():
    assert non_dominated(np.array([2.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.5])).tolist() == [1]


def with_runner_up() -> Staircase:
    """Of a goal that needs a runner-up; what is less accurate than two at any latency is excluded as well."""
    return stairs(goal="most-miou")


def test_on_the_front_one_candidate_excludes():
    one = stairs()
    assert open_to(one, 30.0, 0.5)
    one.offer(batch((20.0, 0.6, 7)))
    assert not open_to(one, 30.0, 0.59)
    assert open_to(one, 30.0, 0.6), "equal ones stay"
    assert open_to(one, 19.9, 0.1)


def test_a_candidate_is_excluded_by_two_of_different_exits():
    one = with_runner_up()
    assert len(one.offer(batch((20.0, 0.6, 7)))) == 1
    assert open_to(one, 30.0, 0.5), "it could be the runner-up"
    one.offer(batch((19.0, 0.61, 7)))
    assert open_to(one, 30.0, 0.5), "the same exits once more"
    one.offer(batch((25.0, 0.55, 8)))
    assert not open_to(one, 30.0, 0.5)
    assert open_to(one, 30.0, 0.56)
    assert open_to(one, 30.0, 0.55), "equal ones stay"
    assert len(one.offer(batch((30.0, 0.5, 9), (30.0, 0.55, 9)))) == 1


def test_who_was_best_becomes_second():
    one = with_runner_up()
    one.offer(batch((20.0, 0.6, 7)))
    one.offer(batch((21.0, 0.7, 8)))
    assert not open_to(one, 30.0, 0.59)
    assert open_to(one, 30.0, 0.6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("goal", ["front", "most-miou"])
def test_never_excludes_who_could_be_first_or_second(seed, goal):
    rng = np.random.default_rng(seed)
    one, needed = stairs(goal=goal), 1 if goal == "front" else 2
    latencies, mious = rng.uniform(0, 100, 60).tolist(), rng.uniform(0, 1, 60).tolist()
    points = list(zip(latencies, mious, rng.integers(0, 5, 60).tolist(), strict=True))
    for done, point in enumerate(points):
        known = points[:done]
        better = {exits for latency, miou, exits in known if latency < point[0] - 0.1 and miou > point[1] + 1e-4}
        as_accurate = {exits for latency, miou, exits in known if miou >= point[1]}
        as_good = {exits for latency, miou, exits in known if latency <= point[0] and miou >= point[1]}
        if len(as_good if goal == "front" else as_accurate) < needed:
            assert open_to(one, point[0], point[1])
        if len(better) >= needed:
            assert not open_to(one, point[0], point[1])
        one.offer(batch(point))


def test_limits_exclude():
    one = stairs(min_miou=0.5, max_latency_ms=40.0)
    assert open_to(one, 39.9, 0.501)
    assert not open_to(one, 40.1, 0.9)
    assert not open_to(one, 10.0, 0.499)
    assert len(one.offer(batch((41.0, 0.9, 1)))) == 0


def test_with_the_least_latency_as_the_goal_slower_ones_are_excluded():
    one = stairs(goal="least-latency", min_miou=0.5)
    one.offer(batch((20.0, 0.6, 7)))
    assert open_to(one, 60.0, 0.9)
    one.offer(batch((30.0, 0.6, 8)))
    assert not open_to(one, 30.1, 0.9)
    assert open_to(one, 29.9, 0.5)


def test_with_the_most_miou_as_the_goal_less_accurate_ones_are_excluded():
    one = stairs(goal="most-miou", max_latency_ms=50.0)
    one.offer(batch((20.0, 0.6, 7), (45.0, 0.7, 8)))
    assert not open_to(one, 5.0, 0.599)
    assert open_to(one, 5.0, 0.6)
