"""What limits mean, who is chosen under them, and what is said when none can be met."""

import re

import numpy as np
import pytest

from offramp.artifacts import Measurement
from offramp.errors import InputError
from offramp.search import search
from offramp.search.estimate import Evidence, estimate_batch
from offramp.search.pareto import COST_LIMITS, Limits, choose, choose_anytime, front_of
from offramp.search.space import Candidate, Policy
from offramp.specs import FINAL, SearchSpec


def candidate(name, miou, latency_ms, quality=0.0, thresholds=()) -> Candidate:
    """Its exits are the letters of its name."""
    return Candidate(tuple(name), "all", 0, thresholds, miou, latency_ms, latency_ms, quality)


def test_of_equal_candidates_the_fewest_exits_are_kept_then_the_first():
    assert [found.exits for found in front_of([candidate("ab", 0.5, 9.0), candidate("b", 0.5, 9.0)])] == [("b",)]
    assert [found.exits for found in front_of([candidate("c", 0.5, 9.0), candidate("b", 0.5, 9.0)])] == [("b",)]


def test_as_fast_the_more_accurate_is_kept():
    assert [found.exits for found in front_of([candidate("a", 0.5, 9.0), candidate("bc", 0.6, 9.0)])] == [("b", "c")]


def test_as_accurate_the_faster_is_kept():
    assert [found.exits for found in front_of([candidate("a", 0.5, 9.0), candidate("bc", 0.5, 8.0)])] == [("b", "c")]


def test_the_front_of_nothing_is_empty():
    assert front_of([]) == ()


@pytest.mark.parametrize(("goal", "name"), [("least-latency", "a"), ("most-miou", "c")])
def test_the_goal_decides(goal, name):
    meeting = [candidate("b", 0.55, 20.0), candidate("c", 0.61, 41.0), candidate("a", 0.4, 5.1)]
    assert choose(meeting, goal).exits == (name,)


@pytest.mark.parametrize("goal", ["least-latency", "most-miou"])
def test_ties_do_not_depend_on_the_order(goal):
    equal = [
        candidate("ab", 0.5, 9.0, thresholds=(0.3,)),
        candidate("ab", 0.5, 9.0, thresholds=(0.2,)),
        candidate("c", 0.5, 9.0),
    ]
    assert choose(equal, goal).exits == choose(equal[::-1], goal).exits == ("c",)
    assert choose(equal[:2], goal).image_thresholds == choose(equal[1::-1], goal).image_thresholds == (0.2,)


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
    assert choose_anytime([first, second]) == choose_anytime([second, first]) == second


@pytest.fixture
def by_hand(records_of, profile_of) -> Evidence:
    """Four images, three of which leave early; each step has two times."""
    records = records_of(images=4, exits=2, classes=2)
    records.sure[..., 0] = 10
    records.sure[..., 1:] = 0
    records.sure[:3, 0, 0, 1:] = 9
    names = records.info.exits

    def step(*times, macs, size):
        return Measurement(times_ms=times, macs=macs, parameter_bytes=size, memory_bytes=10 * size, energy_mj=macs / 2)

    stages = (step(1.0, 2.0, macs=10, size=4), step(3.0, 3.0, macs=20, size=8))
    heads = {names[0]: step(1.0, 1.0, macs=3, size=1), FINAL: step(1.0, 5.0, macs=5, size=2)}
    labels = {name: step(0.5, 0.5, macs=0, size=0) for name in names}
    steps = {"stages": stages, "heads": heads, "labels": labels}
    return Evidence.of(records, profile_of(exits=2, exit_stages=(0, 1), base_memory_bytes=1000, **steps))


@pytest.fixture
def mixture(by_hand):
    return estimate_batch(by_hand, [Policy(0, 5)], np.array([[0, 1]]), np.zeros(1, int), np.array([[0.9]]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Leaving early takes 1.5 + 1 + 0.5 = 3 ms in the median, going on 1.5 + 3 + 1 + 3 + 0.5 = 9 ms.
        ("max_latency_ms", (3 * 3 + 9) / 4),
        # 2.5 and 3.5 ms, each 3 of 8 times; 6.5 and 11.5 ms, each once: 95 % are within the last.
        ("max_p95_latency_ms", 11.5),
        ("max_worst_latency_ms", 9),
        ("max_macs", (3 * 13 + 38) / 4),
        ("max_energy_mj", (3 * 13 + 38) / 8),
        ("max_parameter_bytes", 15),
        ("max_memory_bytes", 1150),
    ],
)
def test_costs_worked_out_by_hand(by_hand, mixture, name, value):
    assert mixture.shares.tolist() == [[0.75, 0.25]]
    assert COST_LIMITS[name](by_hand.costs, mixture).tolist() == pytest.approx([value])
    for most, kept in ((value, True), (int(value) - 1, False)):
        limits = Limits.of(SearchSpec(mode="input-dependent", **{name: most}), by_hand)
        assert limits.met(by_hand, mixture).tolist() == [kept]


def test_95_percent_of_images_and_passes_are_within_the_p95(records, profile):
    """Against the list of all images with all passes, in order."""
    evidence = Evidence.of(records, profile)
    thresholds = np.random.default_rng(1).uniform(0.2, 0.7, (30, 2))
    batch = estimate_batch(evidence, [Policy(0, 9)], np.tile([0, 1, 3], (30, 1)), np.zeros(30, int), thresholds)
    found = COST_LIMITS["max_p95_latency_ms"](evidence.costs, batch)
    for index, p95 in enumerate(found):
        numbers = np.rint(batch.shares[index] * evidence.images).astype(int)
        times = [np.tile(evidence.costs.path_passes([0, 1, 3][: place + 1]), numbers[place]) for place in range(3)]
        everything = np.sort(np.concatenate(times))
        assert p95 == everything[int(np.ceil(0.95 * len(everything) - 1e-9)) - 1]
    assert len(set(found.tolist())) >= 3


def test_the_stricter_limit_on_accuracy_counts(by_hand):
    final = float(by_hand.exit_miou()[-1])
    limits = Limits.of(SearchSpec(mode="budgeted", min_miou=0.1, max_drop_pp=10), by_hand)
    assert limits.min_miou == final - 0.1
    assert limits.accuracy == f"max-drop-pp 10 (mIoU {final - 0.1:.3f})"
    assert Limits.of(SearchSpec(mode="budgeted", min_miou=final, max_drop_pp=10), by_hand).min_miou == final


def test_classes_are_held_to_their_own_limits(by_hand, mixture):
    correct, predicted = np.split(mixture.pixels[0], 2)
    iou = correct[1] / (predicted + by_hand.labelled.sum(axis=0) - correct)[1]
    for least, kept in ((iou - 1e-9, True), (iou + 1e-9, False)):
        limits = Limits.of(SearchSpec(mode="input-dependent", min_iou={"class 1": least}), by_hand)
        assert limits.met(by_hand, mixture).tolist() == [kept]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"min_iou": {"tram": 0.5}}, "there is no class 'tram'; there are class 0, class 1, class 2"),
        ({"max_macs": 10.0}, "max-macs: the profile does not say what steps cost in that; make it again with offramp profile"),
        ({"max_parameter_bytes": 10}, "max-parameter-bytes: the profile does not say"),
        ({"max_memory_bytes": 10}, "max-memory-bytes: the profile does not say"),
        ({"max_energy_mj": 1.0}, "max-energy-mj: the profile does not say"),
    ],
)
def test_limits_on_what_nobody_knows_are_refused(records, profile, asked, words):
    with pytest.raises(InputError, match=re.escape(words)):
        search(records, profile, SearchSpec(mode="budgeted", **asked), inputs={})


def test_a_limit_on_a_class_that_occurs_nowhere_is_refused(records, profile):
    records.labelled[:, 1] = 0
    with pytest.raises(InputError, match="no image of the records shows the class 'class 1', so its IoU is not known"):
        search(records, profile, SearchSpec(mode="budgeted", min_iou={"class 1": 0.1}), inputs={})


def refused(records, profile, **asked) -> str:
    with pytest.raises(InputError) as refusal:
        search(records, profile, SearchSpec(**{"mode": "input-dependent", "max_exits": 1, **asked}), inputs={})
    return str(refusal.value)


@pytest.mark.parametrize("mode", ["budgeted", "input-dependent", "anytime"])
@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"max_latency_ms": 1.0}, "max_latency_ms"),
        ({"max_p95_latency_ms": 1.0}, "max_p95_latency_ms"),
        ({"max_worst_latency_ms": 1.0}, "max_worst_latency_ms"),
        ({"min_miou": 0.999}, "min_miou"),
        ({"max_drop_pp": 0.0, "min_miou": 0.999}, "min_miou"),
    ],
)
def test_the_nearest_that_a_refusal_names_can_be_asked_for(records, profile, mode, asked, option):
    text = refused(records, profile, mode=mode, **asked)
    name = option.replace("_", "-")
    assert text.startswith((f"no deployment meets {name} 1: the least is ", f"no deployment reaches {name} 0.999: "))
    nearest = float(re.search(r"ask for at (?:most|least) ([\d.]+)$", text)[1])
    search(records, profile, SearchSpec(mode=mode, max_exits=1, **{option: nearest}), inputs={})


def test_limits_that_only_together_cannot_be_met_are_named_both(records, profile):
    least = profile.latency_ms((profile.exits[0],))
    final = float(Evidence.of(records, profile).exit_miou()[-1])
    text = refused(records, profile, max_latency_ms=least, min_miou=final)
    found = re.fullmatch(
        rf"no deployment meets both max-latency-ms {least:g} and min-miou {final:g}: the best within the costs reaches mIoU "
        r"([\d.]+), the fastest with the accuracy takes ([\d.]+) ms; relax one of the two",
        text,
    )
    spec = {"mode": "input-dependent", "max_exits": 1}
    search(records, profile, SearchSpec(**spec, max_latency_ms=least, min_miou=float(found[1])), inputs={})
    search(records, profile, SearchSpec(**spec, max_latency_ms=float(found[2]), min_miou=final), inputs={})


def test_a_class_that_no_exit_reaches_is_named(records, profile):
    text = refused(records, profile, min_iou={"class 2": 0.9999}, min_miou=0.1)
    assert re.fullmatch(
        r"no deployment reaches min-miou 0.1 and min-iou class 2=0.9999: "
        r"single exits reach at most class 2 0\.\d{3}; ask for less",
        text,
    )
