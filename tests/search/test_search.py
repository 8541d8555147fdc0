"""The step as a whole: equal to a search written down in plain loops, and what it refuses."""

import math
from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest

from offramp.artifacts import Deployment, load_json
from offramp.errors import InputError
from offramp.policy import PIXEL_THRESHOLDS
from offramp.search import front, search
from offramp.specs import FINAL, REGIONS, SearchSpec

MODES = ("budgeted", "anytime", "input-dependent")


def plain_miou(records, left) -> float:
    """`left`: index of the exit that answers each image."""
    values = []
    for index in range(len(records.info.classes)):
        correct = sum(int(records.correct[image, place, index]) for image, place in enumerate(left))
        predicted = sum(int(records.predicted[image, place, index]) for image, place in enumerate(left))
        labelled = sum(int(count) for count in records.labelled[:, index])
        if labelled:
            values.append(correct / (predicted + labelled - correct))
    return sum(values) / len(values)


def plain_score(records, image, place, region, threshold) -> float:
    counts = records.sure[image, place, region].tolist()
    total = counts[0]
    if threshold == 0:
        steps = [later - earlier for earlier, later in pairwise(PIXEL_THRESHOLDS)]
        return sum(step * count for step, count in zip(steps, counts[1:], strict=True)) / total if total else 1.0
    return int(records.sure[image, place, region, threshold]) / total if total else 1.0


def plain_thresholds(records, place, region, threshold) -> list[float]:
    """16 quantiles without the lowest, each the next higher score."""
    images = len(records.info.images)
    ordered = sorted(plain_score(records, image, place, region, threshold) for image in range(images))
    return sorted({ordered[math.ceil(number * (images - 1) / 16)] for number in range(1, 17)} - {ordered[0]})


def plain_candidates(records, profile, max_exits):
    """Yield (mIoU, mean latency, number of exits) of every input-dependent deployment."""
    names, images = records.info.exits, len(records.info.images)
    for place, name in enumerate(names):
        yield plain_miou(records, [place] * images), profile.latency_ms((name,)), 1
    paths = [path for number in range(2, max_exits + 2) for path in combinations(range(len(names)), number)]
    policies = [(0, 0), *product(range(len(REGIONS)), range(1, 32))]
    for path, (region, threshold) in product(paths, policies):
        early = path[:-1]
        costs = [profile.latency_ms(tuple(names[index] for index in path[: place + 1])) for place in range(len(path))]
        scores = [[plain_score(records, image, place, region, threshold) for place in early] for image in range(images)]
        for bars in product(*(plain_thresholds(records, place, region, threshold) for place in early)):
            left = []
            for image in range(images):
                clears = [score >= bar for score, bar in zip(scores[image], bars, strict=True)]
                left.append(clears.index(True) if True in clears else len(early))
            mean = sum(costs[place] for place in left) / images
            yield plain_miou(records, [path[place] for place in left]), mean, len(path)


def test_the_input_dependent_search_equals_plain_loops(records_of, profile_of):
    records, profile = records_of(images=9, exits=3), profile_of(exits=3)
    everything = list(plain_candidates(records, profile, 2))
    final = plain_miou(records, [2] * 9)
    fastest, slowest = (limit(latency for _, latency, _ in everything) for limit in (min, max))
    for share in (0.1, 0.3, 0.5, 0.9):
        wanted = final * (1 - share / 2)
        least = min((latency, -miou) for miou, latency, _ in everything if miou >= wanted)
        found = search(records, profile, SearchSpec(mode="input-dependent", min_miou=wanted), inputs={}).expected
        assert (found.latency_ms, -found.miou) == pytest.approx(least, abs=1e-9)
        assert found.candidates == len(everything)
        allowed = fastest + share * (slowest - fastest)
        best = min((-miou, latency) for miou, latency, _ in everything if latency <= allowed)
        found = search(records, profile, SearchSpec(mode="input-dependent", max_latency_ms=allowed), inputs={}).expected
        assert (-found.miou, found.latency_ms) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("images", "exits", "max_exits", "seed"), [(9, 3, 2, 1), (12, 4, 1, 2), (3, 4, 3, 3)])
def test_the_front_equals_plain_loops(records_of, profile_of, images, exits, max_exits, seed):
    records, profile = records_of(images=images, exits=exits, seed=seed), profile_of(exits=exits, seed=seed)
    best, expected = -1.0, []
    # Rounded, since a sum over images in turn tells equal means apart in the last bit.
    rounded = {(round(latency, 10), -round(miou, 10)) for miou, latency, _ in plain_candidates(records, profile, max_exits)}
    for latency, negative in sorted(rounded):
        miou = -negative
        if miou > best:
            expected.append((latency, miou))
            best = miou
    found = front(records, profile, SearchSpec(mode="input-dependent", max_exits=max_exits))
    assert np.array([(each.latency_ms, each.miou) for each in found]) == pytest.approx(np.array(expected), abs=1e-9)


def test_figures_of_the_chosen_deployment_are_those_of_running_it(records, profile):
    found = search(records, profile, SearchSpec(mode="input-dependent", max_drop_pp=12.0), inputs={})
    assert len(found.exits) > 1, "pick other seeds: this test is about thresholds"
    region, names = REGIONS.index(found.region), records.info.exits
    left = []
    for image in range(len(records.info.images)):
        places = [names.index(name) for name in found.exits]
        scores = [plain_score(records, image, place, region, found.pixel_threshold) for place in places[:-1]]
        clears = [score >= bar for score, bar in zip(scores, found.image_thresholds, strict=True)]
        left.append(clears.index(True) if True in clears else len(clears))
    costs = [profile.latency_ms(found.exits[: place + 1]) for place in range(len(found.exits))]
    expected = found.expected
    assert expected.miou == pytest.approx(plain_miou(records, [names.index(found.exits[place]) for place in left]))
    assert expected.latency_ms == pytest.approx(sum(costs[place] for place in left) / len(left))
    assert expected.worst_latency_ms == costs[-1]
    assert expected.final_latency_ms == profile.latency_ms((FINAL,))
    assert expected.final_miou == pytest.approx(plain_miou(records, [len(names) - 1] * len(left)))
    assert expected.shares == {name: left.count(place) / len(left) for place, name in enumerate(found.exits)}
    assert expected.images == len(left)
    assert expected.miou_interval[0] < expected.miou < expected.miou_interval[1]
    assert expected.latency_interval[0] < expected.latency_ms < expected.latency_interval[1]


def test_budgeted_takes_one_exit(records, profile):
    latencies = [profile.latency_ms((name,)) for name in profile.exits]
    found = search(records, profile, SearchSpec(mode="budgeted", max_latency_ms=latencies[1]), inputs={})
    mious = [plain_miou(records, [place] * 12) for place in range(4)]
    assert found.exits == (profile.exits[mious.index(max(mious[:2]))],)
    assert found.expected.candidates == 4
    assert found.expected.shares == {found.exits[0]: 1.0}
    assert found.expected.latency_interval == (found.expected.latency_ms, found.expected.latency_ms)


@pytest.mark.parametrize("seed", range(4))
def test_input_dependent_is_never_worse_than_budgeted(records_of, profile_of, seed):
    records, profile = records_of(seed=seed), profile_of(seed=seed)
    for limit in ({"max_drop_pp": 5.0}, {"max_latency_ms": profile.latency_ms((profile.exits[1],))}):
        fixed, free = (
            search(records, profile, SearchSpec(mode=mode, **limit), inputs={}).expected
            for mode in ("budgeted", "input-dependent")
        )
        if "max_drop_pp" in limit:
            assert free.latency_ms <= fixed.latency_ms
        else:
            assert free.miou >= fixed.miou


def test_an_exit_where_all_would_leave_is_taken_alone(records_of, profile_of):
    """The first exit is as good as the final one: thresholds that everybody clears cost as much, and exits more."""
    records = records_of()
    for counts in (records.correct, records.predicted):
        counts[:, 0] = counts[:, -1]
    found = search(records, profile_of(), SearchSpec(mode="input-dependent", max_drop_pp=0.0), inputs={})
    assert found.exits == (records.info.exits[0],)
    assert found.image_thresholds == ()


def test_anytime_takes_the_best_set_of_exits(records, profile):
    names = profile.exits
    earliest, latest = min(profile.latency_ms((name,)) for name in names), profile.latency_ms(names)
    deadlines = earliest + (latest - earliest) * (np.arange(4000) + 0.5) / 4000
    quality = {}
    for chosen in (each for number in range(1, 5) for each in combinations(range(4), number)):
        path = tuple(names[place] for place in chosen)
        ready = [profile.latency_ms(path[: place + 1]) for place in range(len(path))]
        mious = [plain_miou(records, [place] * 12) for place in chosen]
        total = 0.0
        for deadline in deadlines:
            done = [value for value, at in zip(mious, ready, strict=True) if at <= deadline]
            total += done[-1] if done else 0.0
        quality[path] = total / len(deadlines)
    best = max(quality, key=lambda path: (quality[path], plain_miou(records, [names.index(path[-1])] * 12)))
    found = search(records, profile, SearchSpec(mode="anytime"), inputs={})
    assert found.exits == best
    assert found.expected.candidates == 15
    assert found.expected.miou == pytest.approx(plain_miou(records, [names.index(best[-1])] * 12))
    assert found.expected.latency_ms == found.expected.worst_latency_ms == profile.latency_ms(best)
    assert found.expected.latency_interval == (found.expected.latency_ms, found.expected.latency_ms)
    assert found.expected.miou_interval[0] < found.expected.miou < found.expected.miou_interval[1]
    mious = [plain_miou(records, [names.index(name)] * 12) for name in best]
    shares = [found.expected.shares[name] for name in best]
    assert sum(share * value for share, value in zip(shares, mious, strict=True)) == pytest.approx(quality[best], abs=1e-3)


def test_anytime_gives_the_final_exit_up_where_a_limit_forbids_it(records, profile):
    limit = profile.latency_ms((FINAL,)) - 0.01
    found = search(records, profile, SearchSpec(mode="anytime", max_latency_ms=limit), inputs={})
    assert FINAL not in found.exits
    assert found.expected.latency_ms <= limit


def test_without_limits_one_point_may_be_lost(records, profile):
    for mode in ("budgeted", "input-dependent"):
        found = search(records, profile, SearchSpec(mode=mode), inputs={})
        asked = search(records, profile, SearchSpec(mode=mode, max_drop_pp=1.0), inputs={})
        assert found.limits == asked.limits == SearchSpec(mode=mode, max_drop_pp=1.0)
        assert found.expected == asked.expected
        assert found.provenance.options["max_drop_pp"] is None
    assert search(records, profile, SearchSpec(mode="anytime"), inputs={}).limits == SearchSpec(mode="anytime")


@pytest.mark.parametrize("mode", MODES)
def test_a_deployment_is_reproduced_and_survives_its_file(records, profile, mode, tmp_path):
    inputs = {"records": "r" * 64, "profile": "p" * 64}
    first, second = (search(records, profile, SearchSpec(mode=mode), inputs=inputs) for _ in range(2))
    same = {"provenance"}
    assert first.model_dump(exclude=same) == second.model_dump(exclude=same)
    assert first.provenance.made_by == "search"
    assert first.provenance.inputs == {**inputs, "package": profile.package_id}
    assert (first.package_id, first.engine, first.threads, first.precision) == (profile.package_id, "onnxruntime", 2, "fp32")
    first.save(tmp_path / "chosen.json")
    assert load_json(tmp_path / "chosen.json", Deployment) == first


def test_progress_counts_the_policies(records, profile):
    calls = []
    spec = SearchSpec(mode="input-dependent", max_exits=1, policies=("objects", "mean"))
    search(records, profile, spec, inputs={}, workers=1, progress=lambda *call: calls.append(call))
    assert calls[:32] == [("search with 1 early exit", done, 32) for done in range(1, 33)]


def test_a_network_without_early_exits_has_one_deployment(records_of, profile_of):
    records, profile = records_of(exits=1), profile_of(exits=1)
    for mode in MODES:
        found = search(records, profile, SearchSpec(mode=mode), inputs={})
        assert (found.exits, found.expected.candidates, found.expected.shares) == ((FINAL,), 1, {FINAL: 1.0})


def test_fronts_of_the_other_modes_are_of_single_exits(records, profile):
    fixed = front(records, profile, SearchSpec(mode="budgeted"))
    assert {len(candidate.exits) for candidate in fixed} == {1}
    assert [candidate.exits for candidate in front(records, profile, SearchSpec(mode="anytime"))] == [
        each.exits for each in fixed
    ]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"split": "test"}, "selection is done on val, figures are reported on test"),
        ({"split": "train"}, "'train', whose images the exits have learnt by heart; give records of val"),
        ({"package_id": "b2" * 32}, "the profile belongs to another package"),
        ({"precision": "bf16"}, r"answers in bf16, the profile of times in fp32.*same --precision"),
        ({"exits": ("a", "b", "c", "final")}, "records and profile differ in their exits: a, b, c, final and blocks.0"),
    ],
)
def test_records_that_must_not_be_used_are_refused(records, profile, info, words):
    records = replace(records, info=records.info.model_copy(update=info))
    with pytest.raises(InputError, match=words):
        search(records, profile, SearchSpec(mode="budgeted"), inputs={})
    with pytest.raises(InputError, match=words):
        front(records, profile, SearchSpec(mode="budgeted"))


def test_records_without_labels_are_refused(records, records_of, profile):
    blank = replace(records, labelled=np.zeros_like(records.labelled))
    for unusable in (blank, records_of(images=0)):
        with pytest.raises(InputError, match=r"no labelled pixel \(\d+ images\); evaluate again"):
            search(unusable, profile, SearchSpec(mode="input-dependent"), inputs={})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("limit", "words"),
    [({"min_miou": 1.0}, "no deployment reaches min-miou 1: "), ({"max_latency_ms": 0.5}, "meets max-latency-ms 0.5: ")],
)
def test_impossible_limits_are_refused_in_every_mode(records, profile, mode, limit, words):
    with pytest.raises(InputError, match=words):
        search(records, profile, SearchSpec(mode=mode, **limit), inputs={})


def test_more_sets_than_can_be_compared_are_refused(records_of, profile_of):
    with pytest.raises(InputError, match="4,000,000 at most, got 4,194,303 of 22 taps; export fewer exits"):
        search(records_of(exits=22), profile_of(exits=22), SearchSpec(mode="anytime"), inputs={})
