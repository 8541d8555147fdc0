"""Which heads go on, by hand."""

import pytest

from offramp.training.halving import Candidate, Halving, rung_ends, survivors


def heads(*figures: tuple[str, int, float], tap="t") -> list[Candidate]:
    return [Candidate(name, tap, macs, miou) for name, macs, miou in figures]


@pytest.mark.parametrize(
    ("epochs", "halvings", "ends"),
    [(7, 2, (1, 3)), (14, 2, (2, 6)), (12, 1, (4,)), (3, 2, (1, 2)), (2, 1, (1,)), (30, 3, (2, 6, 14)), (9, 0, ())],
)
def test_each_rung_is_twice_as_long_as_the_one_before(epochs, halvings, ends):
    assert rung_ends(epochs, halvings) == ends


@pytest.mark.parametrize("epochs", range(2, 30))
def test_the_last_rung_has_an_epoch_left(epochs):
    for halvings in range(1, min(epochs, 9)):
        ends = rung_ends(epochs, halvings)
        assert len(ends) == halvings
        assert all(before < after for before, after in zip((0, *ends), (*ends, epochs), strict=True))


def test_beaten_heads_go_first_the_worst_before_the_others():
    # b costs more than a and is worse; c costs as much as d and is worse still.
    assert survivors(heads(("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.3), ("d", 3, 0.6))) == ("a", "d")
    assert survivors(heads(("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.45))) == ("a", "c")


def test_without_beaten_heads_one_between_goes_that_gains_least():
    # b gains 0.02 over a, c 0.2 over b, d 0.01 over c; d is the best and stays.
    assert survivors(heads(("a", 1, 0.4), ("b", 2, 0.42), ("c", 3, 0.62), ("d", 9, 0.63))) == ("a", "d")
    five = heads(("a", 1, 0.4), ("b", 2, 0.42), ("c", 3, 0.62), ("d", 9, 0.63), ("e", 10, 0.9))
    assert survivors(five) == ("a", "c", "e")


def test_the_best_stays_and_the_cheapest_while_there_are_two():
    assert survivors(heads(("a", 1, 0.1), ("b", 2, 0.5), ("c", 3, 0.6))) == ("a", "c")
    assert survivors(heads(("a", 1, 0.1), ("b", 2, 0.9))) == ("b",)


def test_a_head_alone_stays_and_each_tap_is_judged_by_itself():
    both = heads(("a", 1, 0.1)) + heads(("b", 1, 0.9), ("c", 2, 0.8), tap="u")
    assert survivors(both) == ("a", "b")
    assert survivors(both[::-1]) == ("b", "a")  # the order is kept


def test_equal_heads_are_halved_all_the_same():
    assert len(survivors(heads(("a", 1, 0.5), ("b", 1, 0.5), ("c", 1, 0.5), ("d", 1, 0.5)))) == 2


def test_choices_follow_from_what_was_measured():
    halving = Halving({"a": "t", "b": "t", "c": "t", "d": "u"}, {"a": 1, "b": 2, "c": 3, "d": 1}, (1, 3))
    assert halving.rungs({}) == []
    first = {1: {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.5, "final": 0.9}}
    ((epoch, there, stay),) = halving.rungs(first)
    assert (epoch, [one.exit for one in there], stay) == (1, ["a", "b", "c", "d"], ("a", "c", "d"))
    second = {**first, 2: {"a": 0.9}, 3: {"a": 0.3, "c": 0.2, "d": 0.5}}
    assert [(end, stay) for end, _, stay in halving.rungs(second)] == [(1, ("a", "c", "d")), (3, ("a", "d"))]  # c is beaten
