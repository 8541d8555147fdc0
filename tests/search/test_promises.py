"""Any specification either raises InputError or gives a deployment that keeps, on its own records, every limit asked for.

What a deployment does is worked out again here, image by image and in plain loops, from records and profile alone.
"""

from itertools import pairwise
from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from offramp.errors import InputError
from offramp.policy import PIXEL_THRESHOLDS
from offramp.search import search
from offramp.specs import REGIONS, SearchSpec

ROUNDING = 1e-9
SHARED = [HealthCheck.function_scoped_fixture]
"""All examples of a test read the same records and change nothing."""
SEEDS = 3
IMAGES, EXITS = 10, 3


@pytest.fixture
def pairs(records_of, profile_of):
    return [(records_of(IMAGES, EXITS, seed=seed), profile_of(EXITS, seed=seed)) for seed in range(SEEDS)]


def maybe(values):
    """Seldom asked for: with all limits at once there is hardly ever a deployment."""
    return st.none() | st.none() | st.none() | values


def near(low, high):
    """Numbers where limits begin to bind, and far beyond on both sides."""
    return st.floats(low, high) | st.sampled_from([low / 100, high * 100])


SPECS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["budgeted", "anytime", "input-dependent"]),
        "max_latency_ms": maybe(near(8, 30)),
        "max_p95_latency_ms": maybe(near(8, 30)),
        "max_worst_latency_ms": maybe(near(8, 30)),
        "max_drop_pp": maybe(st.floats(0, 30)),
        "min_miou": maybe(st.floats(0, 1)),
        "min_iou": st.dictionaries(st.sampled_from(["class 0", "class 1", "class 9"]), st.floats(0, 1), max_size=1),
        "max_exits": st.integers(1, 2),
        "policies": st.lists(st.sampled_from([*REGIONS, "mean"]), min_size=1, max_size=2),
        "max_candidates": st.sampled_from([1, 500, 10**11]),
        "max_risk": maybe(st.sampled_from([0.3, 0.6])),
    }
)


@given(which=st.integers(0, SEEDS - 1), values=SPECS)
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=SHARED)
def test_a_deployment_keeps_what_was_asked_for_or_there_is_none(pairs, which, values):
    records, profile = pairs[which]
    try:
        spec = SearchSpec(**values)
        found = search(records, profile, spec, inputs={})
    except (InputError, ValidationError):
        return
    done = Replay(records, profile, found)
    assert found.expected.miou == pytest.approx(done.miou, abs=1e-12)
    assert found.expected.latency_ms == pytest.approx(done.latency_ms, rel=1e-12)
    assert list(found.exits) == [name for name in records.info.exits if name in found.exits]
    assert len(found.image_thresholds) == (len(found.exits) - 1 if spec.mode == "input-dependent" else 0)
    assert len(found.exits) <= {"budgeted": 1, "anytime": EXITS, "input-dependent": spec.max_exits + 1}[spec.mode]
    for limit, got in (
        (spec.max_latency_ms, done.latency_ms),
        (spec.max_p95_latency_ms, done.p95_ms),
        (spec.max_worst_latency_ms, done.path_ms(len(found.exits))),
    ):
        assert limit is None or got <= limit + ROUNDING
    if spec.max_risk is None:  # certified thresholds may be less accurate than asked, and say so
        assert done.miou >= (spec.min_miou or 0) - ROUNDING
        assert spec.max_drop_pp is None or done.miou >= done.final_miou - spec.max_drop_pp / 100 - ROUNDING
        assert all(done.iou(name) >= least - ROUNDING for name, least in spec.min_iou.items())
    else:
        certificate = found.expected.certificate
        assert certificate is not None
        assert certificate.bound == spec.max_risk


class Replay:
    """A deployment over the records' images, in plain loops."""

    def __init__(self, records, profile, found):
        self.records, self.profile, self.found = records, profile, found
        self.places = [records.info.exits.index(name) for name in found.exits]
        self.left = [self._leaves(image) for image in range(len(records.info.images))]
        passes = range(len(profile.stages[0].times_ms))
        times = sorted(self.path_ms(left + 1, number) for left in self.left for number in passes)
        self.p95_ms = times[-(-95 * len(times) // 100) - 1]
        self.latency_ms = sum(self.path_ms(left + 1) for left in self.left) / len(self.left)
        self.miou = self._miou([self.places[left] for left in self.left])
        self.final_miou = self._miou([EXITS - 1] * len(self.left))

    def _leaves(self, image):
        for index, threshold in enumerate(self.found.image_thresholds):
            if self._score(image, self.places[index]) >= threshold:
                return index
        return len(self.places) - 1

    def _score(self, image, place):
        counts = self.records.sure[image, place, REGIONS.index(self.found.region)].tolist()
        if not counts[0]:
            return 1.0
        if self.found.pixel_threshold:
            return counts[self.found.pixel_threshold] / counts[0]
        steps = [later - earlier for earlier, later in pairwise(PIXEL_THRESHOLDS)]
        return sum(step * count for step, count in zip(steps, counts[1:], strict=True)) / counts[0]

    def path_ms(self, asked, number=None):
        """Of asking so many of the exits and answering with the last: medians, or in one pass."""

        def taken(step):
            return median(step.times_ms) if number is None else step.times_ms[number]

        names = self.found.exits[:asked]
        deepest = self.profile.exit_stages[self.places[asked - 1]]
        stages = sum(taken(stage) for stage in self.profile.stages[: deepest + 1])
        return stages + sum(taken(self.profile.heads[name]) for name in names) + taken(self.profile.labels[names[-1]])

    def _miou(self, exits):
        values = [value for index in range(len(self.records.info.classes)) if (value := self._iou(index, exits)) is not None]
        return sum(values) / len(values)

    def iou(self, name):
        return self._iou(self.records.info.classes.index(name), [self.places[left] for left in self.left])

    def _iou(self, index, exits):
        correct = sum(int(self.records.correct[image, place, index]) for image, place in enumerate(exits))
        predicted = sum(int(self.records.predicted[image, place, index]) for image, place in enumerate(exits))
        labelled = int(self.records.labelled[:, index].sum())
        return correct / (predicted + labelled - correct) if labelled else None


@given(which=st.integers(0, SEEDS - 1), drops=st.tuples(st.floats(0, 30), st.floats(0, 30)))
@settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=SHARED)
def test_who_accepts_more_loss_never_waits_longer(pairs, which, drops):
    records, profile = pairs[which]
    spec = {"mode": "input-dependent", "policies": ("all",), "max_exits": 1}
    strict, loose = (
        search(records, profile, SearchSpec(**spec, max_drop_pp=drop), inputs={}).expected.latency_ms for drop in sorted(drops)
    )
    assert loose <= strict


@given(which=st.integers(0, SEEDS - 1), budgets=st.tuples(st.floats(13, 40), st.floats(13, 40)))
@settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=SHARED)
def test_who_waits_longer_never_gets_less(pairs, which, budgets):
    records, profile = pairs[which]
    found = []
    for budget in sorted(budgets):
        spec = SearchSpec(mode="input-dependent", policies=("all",), max_exits=1, max_latency_ms=budget)
        try:
            found.append(search(records, profile, spec, inputs={}).expected.miou)
        except InputError:
            found.append(0.0)
    assert found[0] <= found[1]


LIMITS = ("max_latency_ms", "max_p95_latency_ms", "max_worst_latency_ms")


@given(
    which=st.integers(0, SEEDS - 1),
    mode=st.sampled_from(["budgeted", "anytime", "input-dependent"]),
    limit=st.sampled_from(LIMITS),
    budget=st.floats(10, 26),
)
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=SHARED)
def test_one_limit_alone_binds_and_is_kept(pairs, which, mode, limit, budget):
    records, profile = pairs[which]
    spec = SearchSpec(mode=mode, policies=("all",), max_exits=1, **{limit: budget})
    if min(profile.latency_ms((name,)) for name in profile.exits) > budget:
        with pytest.raises(InputError):
            search(records, profile, spec.model_copy(update={"max_p95_latency_ms": None, "max_latency_ms": budget}), inputs={})
        return
    try:
        found = search(records, profile, spec, inputs={})
    except InputError:
        assert limit == "max_p95_latency_ms"  # single passes may be slower than the median
        return
    done = Replay(records, profile, found)
    got = dict(zip(LIMITS, (done.latency_ms, done.p95_ms, done.path_ms(len(found.exits))), strict=True))
    assert got[limit] <= budget + ROUNDING


@given(which=st.integers(0, SEEDS - 1), name=st.sampled_from(["class 0", "class 1", "class 2"]), least=st.floats(0.4, 0.8))
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=SHARED)
def test_a_limit_on_one_class_is_kept(pairs, which, name, least):
    records, profile = pairs[which]
    spec = SearchSpec(mode="budgeted", max_latency_ms=1e3, max_drop_pp=100, min_iou={name: least})
    try:
        found = search(records, profile, spec, inputs={})
    except InputError:
        return
    assert Replay(records, profile, found).iou(name) >= least - ROUNDING
