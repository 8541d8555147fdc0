"""What is chosen under each limit, and what is said when none can be met."""

import re

import numpy as np
import pytest

from offramp.errors import InputError
from offramp.search.pareto import Limits, choose, choose_anytime, front_of, non_dominated
from offramp.search.space import Candidate
from offramp.specs import SearchSpec

FINAL_MIOU = 0.7


def candidate(name, miou, latency_ms, quality=0.0) -> Candidate:
    """Its exits are the letters of its name."""
    return Candidate(tuple(name), "all", 0, (), miou, latency_ms, latency_ms, quality)


def limits(**asked) -> Limits:
    return Limits.of(SearchSpec(mode="budgeted", **asked), FINAL_MIOU)


FRONT = (candidate("a", 0.4004, 5.101), candidate("b", 0.55, 20.0), candidate("c", 0.6139, 41.234))


def chosen(**asked) -> str:
    return "".join(choose(FRONT, limits(**asked)).exits)


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


def test_of_equal_candidates_the_fewest_exits_are_kept_then_the_first():
    assert [found.exits for found in front_of([candidate("ab", 0.5, 9.0), candidate("b", 0.5, 9.0)])] == [("b",)]
    assert [found.exits for found in front_of([candidate("c", 0.5, 9.0), candidate("b", 0.5, 9.0)])] == [("c",)]


def test_as_fast_the_more_accurate_is_kept():
    assert [found.exits for found in front_of([candidate("a", 0.5, 9.0), candidate("bc", 0.6, 9.0)])] == [("b", "c")]


def test_as_accurate_the_faster_is_kept():
    assert [found.exits for found in front_of([candidate("a", 0.5, 9.0), candidate("bc", 0.5, 8.0)])] == [("b", "c")]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"min_miou": 0.2}, "a"),
        ({"min_miou": 0.5}, "b"),
        ({"min_miou": 0.55}, "b"),
        ({"min_miou": 0.5501}, "c"),
        ({"max_drop_pp": 100}, "a"),
        ({"max_drop_pp": 16}, "b"),
        ({"max_drop_pp": 10}, "c"),
        ({"max_latency_ms": 6.0}, "a"),
        ({"max_latency_ms": 20.0}, "b"),
        ({"max_latency_ms": 19.99}, "a"),
        ({"max_latency_ms": 1000.0}, "c"),
        ({"max_latency_ms": 1000.0, "min_miou": 0.5}, "b"),
        ({"max_latency_ms": 1000.0, "min_miou": 0.0}, "a"),
        ({"max_latency_ms": 20.0, "max_drop_pp": 20}, "b"),
        ({"min_miou": 0.1, "max_drop_pp": 10}, "c"),
        ({"min_miou": 0.6, "max_drop_pp": 50}, "c"),
    ],
)
def test_limits(asked, name):
    assert chosen(**asked) == name


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"min_miou": 0.9},
            "no deployment reaches min-miou 0.9: the best reaches 0.613 at 41.24 ms; ask for at most 0.613",
        ),
        (
            {"max_latency_ms": 3.0},
            "no deployment meets max-latency-ms 3: the fastest takes 5.11 ms with mIoU 0.400; ask for at least 5.11",
        ),
        (
            {"max_latency_ms": 10.0, "min_miou": 0.5},
            (
                "no deployment meets both max-latency-ms 10 and min-miou 0.5: the best within the latency reaches mIoU 0.400, "
                "the fastest with the accuracy takes 20.00 ms; relax one of the two"
            ),
        ),
        (
            {"max_latency_ms": 30.0, "max_drop_pp": 10.0, "min_miou": 0.3},
            (
                "no deployment meets both max-latency-ms 30 and max-drop-pp 10 (mIoU 0.600): the best within the latency "
                "reaches mIoU 0.550, the fastest with the accuracy takes 41.24 ms; relax one of the two"
            ),
        ),
    ],
)
def test_refusals_say_which_limit_and_the_nearest_that_can_be_met(asked, words):
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"):
        chosen(**asked)
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"):
        choose_anytime(FRONT, limits(**asked))


@pytest.mark.parametrize("seed", range(20))
def test_figures_that_are_nearly_round_can_be_asked_for(seed):
    """A float a little below 0.613 must not be offered as 0.613."""
    value = float(np.nextafter(0.6 + seed / 1000, 0))
    latency_ms = float(np.nextafter(41.0 + seed / 100, 50))
    front = [candidate("a", value, latency_ms)]
    for asked, option in (({"min_miou": 0.99}, "min_miou"), ({"max_latency_ms": 1.0}, "max_latency_ms")):
        with pytest.raises(InputError) as refusal:
            choose(front, limits(**asked))
        nearest = float(re.search(r"ask for at (?:most|least) ([\d.]+)$", str(refusal.value))[1])
        assert choose(front, limits(**{option: nearest})) == front[0]


def test_anytime_takes_the_best_quality_within_the_limits():
    sets = [candidate("a", 0.4, 5.0, 0.35), candidate("ab", 0.5, 12.0, 0.5), candidate("abc", 0.6, 21.0, 0.45)]
    assert choose_anytime(sets, limits()).exits == ("a", "b")
    assert choose_anytime(sets, limits(max_latency_ms=11.0)).exits == ("a",)
    assert choose_anytime(sets, limits(min_miou=0.55)).exits == ("a", "b", "c")
    assert choose_anytime(sets, limits(max_drop_pp=11)).exits == ("a", "b", "c")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (candidate("ab", 0.5, 5.0, 0.4), candidate("abc", 0.6, 9.0, 0.4)),
        (candidate("ab", 0.5, 5.0, 0.4), candidate("c", 0.5, 9.0, 0.4)),
        (candidate("d", 0.5, 9.5, 0.4), candidate("c", 0.5, 9.0, 0.4)),
    ],
    ids=["the best last answer", "then the fewest exits", "then the fastest"],
)
def test_of_anytime_sets_of_one_quality(first, second):
    assert choose_anytime([first, second], limits()) == choose_anytime([second, first], limits()) == second
