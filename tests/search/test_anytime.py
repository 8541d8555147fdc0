"""Shares of deadlines and the quality of sets of exits, worked out by hand."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from offramp.errors import InputError
from offramp.search.anytime import anytime_candidate, anytime_sets, deadline_shares, default_deadlines
from offramp.search.estimate import Costs, Evidence


def costs_of(stages, heads, labels) -> Costs:
    return Costs(stages, heads, labels, {}, np.zeros((3, 1, len(stages))))


def shares_of(costs, exits) -> list[float]:
    """Each exit at a tap of its own."""
    return deadline_shares(costs, exits, default_deadlines(costs, [(index,) for index in range(len(costs.stages))]))


# Three exits: stages up to 2, 6 and 12 ms, heads of 1 ms, label maps of 1 ms. Alone they answer after 4, 8 and 14 ms, all
# three together after 4, 9 and 16 ms: deadlines lie between 4 and 16 ms.
THREE = costs_of((2.0, 6.0, 12.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("exits", "shares"),
    [
        ((0, 1, 2), [5 / 12, 7 / 12, 0]),
        ((0,), [1]),
        ((1,), [8 / 12]),
        ((0, 2), [11 / 12, 1 / 12]),
        ((1, 2), [7 / 12, 1 / 12]),
    ],
)
def test_shares_of_deadlines_worked_out_by_hand(exits, shares):
    assert shares_of(THREE, exits) == pytest.approx(shares, abs=1e-12)


def test_deadlines_that_the_user_names():
    """From 8 to 12 ms: the first is there for the first, the second, ready after 9 ms, for 3 of 4."""
    assert deadline_shares(THREE, (0, 1, 2), (8.0, 12.0)) == pytest.approx([1 / 4, 3 / 4, 0])


def test_an_exit_that_is_ready_after_a_deeper_one_is_never_the_latest_answer():
    # The label map of the first exit takes longer than all of the second: ready after 9 and 5 ms; deadlines from 4 to 5.
    assert shares_of(costs_of((1.0, 2.0), (1.0, 1.0), (7.0, 1.0)), (0, 1)) == [0, 0]
    # Deadlines from 4 to 7: the second is ready after 5 ms, the third after 7.
    costs = costs_of((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), (7.0, 1.0, 1.0))
    assert shares_of(costs, (0, 1)) == pytest.approx([0, 2 / 3])


def test_the_only_exit_gets_every_deadline():
    assert shares_of(costs_of((2.0,), (1.0,), (1.0,)), (0,)) == [1]


def test_quality_is_the_mean_miou_over_deadlines(monkeypatch, records_of, profile_of):
    evidence = replace(Evidence.of(records_of(exits=3), profile_of(exits=3)), costs=THREE)
    monkeypatch.setattr(Evidence, "exit_miou", lambda _: np.array([0.3, 0.9, 0.6]))
    sets, last_ms, quality = anytime_sets(evidence)
    found = {tuple(row[row >= 0].tolist()): (last, value) for row, last, value in zip(sets, last_ms, quality, strict=True)}
    assert set(found) == {chosen for number in (1, 2, 3) for chosen in combinations(range(3), number)}
    assert found[1, 2] == (15.0, pytest.approx(0.9 * 7 / 12 + 0.6 * 1 / 12))
    assert found[(1,)] == (8.0, pytest.approx(0.9 * 8 / 12))
    both = anytime_candidate(evidence, (1, 2), 0.5)
    assert (both.exits, both.miou, both.latency_ms, both.worst_latency_ms) == (evidence.exits[1:], 0.6, 15.0, 15.0)


def test_an_exit_that_is_ready_late_adds_nothing_to_the_quality(records_of, profile_of):
    """Label maps of the first two exits take so long that deeper ones are ready before them."""
    costs = costs_of((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), (7.0, 6.0, 1.0))
    evidence = replace(Evidence.of(records_of(exits=3), profile_of(exits=3)), costs=costs)
    deadlines = default_deadlines(costs, evidence.taps)
    sets, _, quality = anytime_sets(evidence)
    for row, value in zip(sets, quality, strict=True):
        exits = row[row >= 0].tolist()
        shares = deadline_shares(costs, exits, deadlines)
        assert value == pytest.approx(sum(s * evidence.exit_miou()[e] for s, e in zip(shares, exits, strict=True)))


def test_a_set_has_one_exit_at_a_tap_at_most(records_of, profile_of):
    """Five exits at three taps: 2 + 1 heads, 1 + 1, and the final exit: 3 x 3 x 2 - 1 sets."""
    evidence = Evidence.of(records_of(exits=5), profile_of(exits=5, exit_stages=(1, 1, 2, 2, 3)))
    sets, last_ms, quality = anytime_sets(evidence)
    assert len({tuple(row) for row in sets.tolist()}) == 17
    deadlines = default_deadlines(evidence.costs, evidence.taps)
    for row, last, value in zip(sets, last_ms, quality, strict=True):
        exits = row[row >= 0].tolist()
        shares = deadline_shares(evidence.costs, exits, deadlines)
        assert value == pytest.approx(sum(s * evidence.exit_miou()[e] for s, e in zip(shares, exits, strict=True)))
        assert last == evidence.costs.path_ms(exits)


def test_deadlines_before_the_fastest_exit_are_refused(records, profile):
    evidence = Evidence.of(records, profile)
    with pytest.raises(InputError, match=r"no exit is ready at any of the deadlines, 0.1 to 1 ms: the fastest takes"):
        anytime_sets(evidence, (0.1, 1.0))
