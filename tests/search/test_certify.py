"""A limit on risk: what the deployment becomes, and that its figures are those of running it."""

import numpy as np
import pytest

from offramp.errors import InputError
from offramp.search import search
from offramp.search.estimate import Evidence, leaves_at, places_of
from offramp.search.explore import explore
from offramp.search.pareto import Limits
from offramp.search.risk import least_bound, p_value
from offramp.search.space import Candidate
from offramp.specs import FINAL, SearchSpec


@pytest.fixture
def parts(records_of, profile_of):
    return records_of(images=160, exits=4, seed=5), profile_of(exits=4, seed=5)


def loss_of(records, profile, deployment, images) -> np.ndarray:
    """Of each image, in a plain loop."""
    candidate = Candidate(
        deployment.exits, deployment.region, deployment.pixel_threshold, deployment.image_thresholds, 0, 0, 0, 0
    )
    evidence = Evidence.of(records, profile)
    left, places = leaves_at(evidence, candidate), places_of(evidence, candidate)
    return np.array([records.differing[image, places[left[image]]] / records.size[image] for image in images])


@pytest.mark.parametrize(
    "asked", [{"max_risk": 0.12, "confidence": 0.9}, {"expected_risk": 0.08}], ids=["with a probability", "on average"]
)
def test_the_second_half_certifies(parts, asked):
    records, profile = parts
    spec = {"mode": "input-dependent", "max_drop_pp": 40.0, "max_exits": 2}
    free = search(records, profile, SearchSpec(**spec), inputs={})
    found = search(records, profile, SearchSpec(**spec, **asked), inputs={})
    certificate = found.expected.certificate
    losses = loss_of(records, profile, found, range(80, 160))
    assert certificate.images == 80
    assert certificate.empirical_loss == pytest.approx(losses.mean())
    assert 0 < losses.mean() < certificate.bound
    assert found.exits[-1] == FINAL
    assert len(found.image_thresholds) == len(found.exits) - 1 >= 1
    assert found.expected.latency_ms > free.expected.latency_ms
    assert found.expected.images == 160
    if "max_risk" in asked:
        assert certificate.kind == "learn-then-test"
        assert certificate.p_value == p_value(float(losses.mean()), 80, 0.12) <= 0.1
        assert certificate.confidence == 0.9
    else:
        assert certificate.kind == "conformal-risk-control"
        assert (losses.sum() + 1) / 81 <= 0.08
        assert (certificate.p_value, certificate.confidence) == (None, None)


def test_other_images_may_certify(parts, records_of):
    records, profile = parts
    other = records_of(images=300, exits=4, seed=6)
    other = other.part(range(300))
    renamed = other.info.model_copy(update={"images": tuple(f"other {index}" for index in range(300))})
    other = type(other)(
        renamed, **{name: getattr(other, name) for name in ("correct", "predicted", "labelled", "sure", "differing", "size")}
    )
    spec = SearchSpec(mode="input-dependent", max_drop_pp=40.0, max_risk=0.1)
    found = search(records, profile, spec, inputs={}, calibration=other)
    assert found.expected.certificate.images == 300
    assert found.expected.certificate.empirical_loss == pytest.approx(loss_of(other, profile, found, range(300)).mean())
    with pytest.raises(InputError, match="hold images that exits are chosen by"):
        search(records, profile, spec, inputs={}, calibration=records)
    with pytest.raises(InputError, match="calibration records are for a limit on risk"):
        search(records, profile, SearchSpec(mode="input-dependent"), inputs={}, calibration=other)


def test_what_is_certified_was_chosen_by_the_first_half_alone(parts):
    """A bound that everything keeps leaves the thresholds as they were chosen."""
    records, profile = parts
    spec = SearchSpec(mode="input-dependent", max_drop_pp=40.0, expected_risk=0.98)
    found = search(records, profile, spec, inputs={})
    first = Evidence.of(records.part(range(80)), profile)
    limits = Limits.of(spec, first)
    winner = explore(first, limits, limits.goal, lasts=[3]).winner
    assert (found.exits, found.region, found.pixel_threshold) == (winner.exits, winner.region, winner.pixel_threshold)
    assert found.image_thresholds == winner.image_thresholds


def test_too_few_images_for_the_bound_are_refused_with_the_nearest(parts):
    records, profile = parts
    spec = {"mode": "input-dependent", "max_drop_pp": 40.0}
    least = least_bound(80, 0.95)
    with pytest.raises(InputError, match=f"80 calibration images cannot certify a risk of 0.01, .*: the least is {least:.4f}"):
        search(records, profile, SearchSpec(**spec, max_risk=0.01), inputs={})


def test_a_risk_that_nobody_may_take_sends_all_to_the_final_exit(parts):
    """Every early answer differs so much that none of the images that certify may leave."""
    records, profile = parts
    records.differing[:, :-1] = records.size[:, None]
    found = search(records, profile, SearchSpec(mode="input-dependent", max_drop_pp=40.0, max_risk=0.04), inputs={})
    assert found.expected.certificate.empirical_loss == 0
    assert not loss_of(records, profile, found, range(80, 160)).any()


def test_where_only_nobody_is_safe_the_final_exit_is_left(parts):
    """All images that certify are as sure as can be and altogether wrong."""
    records, profile = parts
    records.differing[:, :-1] = records.size[:, None]
    records.sure[80:, :-1] = records.sure[80:, :-1, :, :1]
    found = search(records, profile, SearchSpec(mode="input-dependent", max_drop_pp=40.0, max_risk=0.04), inputs={})
    assert (found.exits, found.image_thresholds) == ((FINAL,), ())
    assert found.expected.shares == {FINAL: 1.0}


def test_a_latency_that_certified_thresholds_miss_is_refused(parts):
    records, profile = parts
    records.differing[:, :-1] = records.size[:, None]
    limit = profile.latency_ms((FINAL,)) - 0.5
    with pytest.raises(InputError, match=r"can be certified take .* ms on average and miss the limits on costs"):
        search(records, profile, SearchSpec(mode="input-dependent", max_latency_ms=limit, max_risk=0.04), inputs={})
