"""Winner, runner-up, refined thresholds, and what a space that is too large leaves out."""

from itertools import product

import numpy as np
import pytest

from offramp.artifacts import Records
from offramp.errors import InputError
from offramp.search import search, search_all
from offramp.search.estimate import Evidence, estimate_batch, single_exits
from offramp.search.explore import explore
from offramp.search.pareto import Limits
from offramp.search.space import policies
from offramp.specs import FINAL, SearchSpec


def explored(evidence, goal=None, **asked):
    limits = Limits.of(SearchSpec(**{"mode": "input-dependent", **asked}), evidence)
    return explore(evidence, limits, goal or limits.goal, workers=1)


@pytest.mark.parametrize("seed", [2, 10])
def test_thresholds_are_refined_over_all_scores_that_occurred(records_of, profile_of, seed):
    """60 images: of the winner's exits and policy every score is tried, not 16 quantiles."""
    evidence = Evidence.of(records_of(images=60, exits=3, seed=seed), profile_of(exits=3, seed=seed))
    found = explored(evidence, max_drop_pp=6.0)
    winner = found.winner
    policy = next(one for one in policies((winner.region,)) if one.pixel_threshold == winner.pixel_threshold)
    places = [evidence.exits.index(name) for name in winner.exits]
    tried = [sorted(set(evidence.scores_of(policy)[:, place].tolist()))[1:] for place in places[:-1]]
    thresholds = np.array(list(product(*tried)))
    number = len(thresholds)
    everything = estimate_batch(evidence, [policy], np.tile(places, (number, 1)), np.zeros(number, int), thresholds)
    least = float(evidence.exit_miou()[-1]) - 0.06
    assert winner.latency_ms == everything.latency_ms[everything.miou >= least].min()
    assert found.effort.refined == number > 16
    coarse = explored(evidence, goal="front", max_drop_pp=6.0)
    assert winner.latency_ms < min(one.latency_ms for one in coarse.candidates)


def test_the_runner_up_has_other_exits_and_is_the_best_of_those(records, profile):
    evidence = Evidence.of(records, profile)
    found = explored(evidence, max_drop_pp=8.0)
    front = explored(evidence, goal="front", max_drop_pp=8.0)
    others = [one for one in front.candidates if one.exits != found.winner.exits]
    assert found.runner_up.exits != found.winner.exits
    assert found.runner_up.latency_ms == min(one.latency_ms for one in others)


def test_what_a_space_leaves_out_is_counted_and_bounded(records, profile):
    evidence = Evidence.of(records, profile)
    whole = explored(evidence, max_latency_ms=30.0, max_exits=2)
    one = explored(evidence, max_latency_ms=30.0, max_exits=1)
    few = explored(evidence, max_latency_ms=30.0, max_exits=2, max_candidates=one.effort.candidates)
    assert few.effort.candidates == whole.effort.candidates
    assert few.effort.left_out == whole.effort.candidates - one.effort.candidates > 0
    assert few.effort.judged == one.effort.judged
    assert (few.winner, whole.effort.left_out, whole.effort.loss_bound) == (one.winner, 0, None)
    assert 0 <= whole.winner.miou - few.winner.miou <= few.effort.loss_bound
    # The bound lets every image and class be answered by the exit that is best at it.
    correct, predicted = np.split(evidence.pixels, 2, axis=2)
    right, wrong = correct.max(axis=0).sum(axis=0), (predicted - correct).min(axis=0).sum(axis=0)
    best = (right / (wrong + evidence.labelled.sum(axis=0))).mean()
    assert few.effort.loss_bound == pytest.approx(best - few.winner.miou)


def test_what_is_left_out_may_gain_at_most_the_way_to_the_fastest_exit(records, profile):
    evidence = Evidence.of(records, profile)
    few = explored(evidence, max_drop_pp=8.0, max_candidates=10)
    fastest = min(profile.latency_ms((name,)) for name in profile.exits)
    assert few.effort.loss_bound == few.winner.latency_ms - fastest


def test_only_some_exits_may_be_the_last(records, profile):
    evidence = Evidence.of(records, profile)
    limits = Limits.of(SearchSpec(mode="input-dependent", max_drop_pp=90.0), evidence)
    found = explore(evidence, limits, "front", lasts=[3], workers=1)
    assert {one.exits[-1] for one in found.candidates} == {FINAL}
    assert len(single_exits(evidence)) == 4


def test_policies_are_those_that_were_asked_for(records, profile):
    evidence = Evidence.of(records, profile)
    for names, regions in ((("mean",), {"all"}), (("objects",), {"objects"})):
        found = explored(evidence, goal="front", max_drop_pp=90.0, policies=names)
        mixtures = [one for one in found.candidates if one.image_thresholds]
        assert {one.region for one in mixtures} == regions
        assert {one.pixel_threshold == 0 for one in mixtures} == {names == ("mean",)}


# ----------------------------------------------------------------------------------------------------- several packages


def better(records: Records) -> Records:
    """The same package, trained better: a tenth of what was wrong is right."""
    gained = (records.labelled[:, None] - records.correct) // 10
    info = records.info.model_copy(update={"package_id": "c3" * 32})
    rest = {name: getattr(records, name) for name in ("labelled", "sure", "differing", "size")}
    return Records(info, correct=records.correct + gained, predicted=records.predicted + gained, **rest)


@pytest.mark.parametrize("mode", ["budgeted", "input-dependent", "anytime"])
def test_the_best_package_is_taken(records, profile, mode):
    other, costs = better(records), profile.model_copy(update={"package_id": "c3" * 32})
    spec = SearchSpec(mode=mode, max_exits=1)
    inputs = [{"records": "a"}, {"records": "b"}]
    for pairs, place in ((((records, profile), (other, costs)), 1), (((other, costs), (records, profile)), 0)):
        found, index = search_all(pairs, spec, inputs=inputs)
        assert (index, found.package_id) == (place, "c3" * 32)
        assert found.provenance.inputs["records"] == "ab"[place]


def test_a_loss_is_against_the_best_final_exit_of_all(records, profile):
    """The worse package is much faster, but none of its deployments is within a point of the better one's final exit."""
    other = better(records)
    slow = {"package_id": "c3" * 32, "stages": tuple(one.model_copy(update={"times_ms": (90.0,)}) for one in profile.stages)}
    pairs = [(records, profile), (other, profile.model_copy(update=slow))]
    strict, place = search_all(pairs, SearchSpec(mode="budgeted", max_drop_pp=1.0), inputs=[{}, {}])
    assert (place, strict.package_id) == (1, "c3" * 32)
    assert search_all(pairs, SearchSpec(mode="budgeted", max_drop_pp=30.0), inputs=[{}, {}])[1] == 0


def test_packages_that_do_not_compare_are_refused(records, profile):
    other, costs = better(records), profile.model_copy(update={"package_id": "c3" * 32})
    spec = SearchSpec(mode="budgeted")
    with pytest.raises(InputError, match="profiles do not compare: a board, 2 threads, and another board, 2 threads"):
        search_all([(records, profile), (other, costs.model_copy(update={"device": "another board"}))], spec, inputs=[{}, {}])
    elsewhere = Records(
        other.info.model_copy(update={"data_fingerprint": "0" * 64}),
        **{name: getattr(other, name) for name in ("correct", "predicted", "labelled", "sure", "differing", "size")},
    )
    with pytest.raises(InputError, match="records are of different images"):
        search_all([(records, profile), (elsewhere, costs)], spec, inputs=[{}, {}])
    risky = SearchSpec(mode="input-dependent", max_risk=0.1)
    with pytest.raises(InputError, match="search each package by itself"):
        search_all([(records, profile), (other, costs)], risky, inputs=[{}, {}])


def test_limits_that_no_package_meets_are_refused_for_each(records, profile):
    other, costs = better(records), profile.model_copy(update={"package_id": "c3" * 32})
    spec = SearchSpec(mode="budgeted", max_latency_ms=1.0)
    with pytest.raises(InputError, match=r"no package .*package 1: no deployment meets .*package 2: no deployment meets"):
        search_all([(records, profile), (other, costs)], spec, inputs=[{}, {}])


def test_the_figures_of_a_deployment_say_what_was_done(records, profile):
    expected = search(records, profile, SearchSpec(mode="input-dependent", max_drop_pp=8.0), inputs={}).expected
    assert expected.effort.judged <= expected.effort.candidates == expected.candidates
    assert (expected.macs, expected.parameter_bytes, expected.quality) == (None, None, None)
    assert expected.p95_latency_ms > expected.latency_ms
    assert 0 < expected.doubt.limits_kept <= 1
