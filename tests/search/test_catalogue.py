import numpy as np
import pytest

from offramp.errors import InputError
from offramp.search import catalogue, estimate_again, search
from offramp.specs import SearchSpec


def choose(found, budget, drop):
    """The rule that the catalogue's docstring gives, in the plainest way."""
    least = 0.0 if drop is None else found.final_miou - drop / 100

    def best(candidates):
        within = [one for one in candidates if one.latency_ms <= budget and one.miou >= least]
        key = (lambda one: (-one.miou, one.latency_ms)) if drop is None else (lambda one: (one.latency_ms, -one.miou))
        return min(within, key=key) if within else None

    coarse = best(found.front)
    return None if coarse is None else best(found.shelves[found.shelf[found.front.index(coarse)]])


def same(one, deployment):
    expected = deployment.expected
    fields = ("exits", "region", "pixel_threshold", "image_thresholds")
    assert [getattr(one, name) for name in fields] == [getattr(deployment, name) for name in fields]
    assert (one.miou, one.latency_ms, one.worst_latency_ms) == (
        expected.miou,
        expected.latency_ms,
        expected.worst_latency_ms,
    )


@pytest.mark.parametrize("mode", ["budgeted", "input-dependent"])
def test_a_catalogue_chooses_as_search_does(records_of, profile_of, mode):
    records, profile = records_of(images=24, exits=3, seed=2), profile_of(exits=3)
    found = catalogue(records, profile, SearchSpec(mode=mode))
    # More than rounding: refined thresholds are on shelves that the front does not have.
    assert mode == "budgeted" or any(set(shelf) - set(found.front) for shelf in found.shelves)
    slowest = found.front[-1].latency_ms
    nothing = 0
    for budget in np.linspace(0.9 * found.front[0].latency_ms, 1.1 * slowest, 4).round(2).tolist():
        for drop in (None, 3.0):
            mine = choose(found, budget, drop)
            places = found.places(budget, drop)
            assert mine == (places and found.shelves[found.shelf[places[0]]][places[1]])
            spec = SearchSpec(mode=mode, max_latency_ms=budget, max_drop_pp=drop)
            if mine is None:
                nothing += 1
                with pytest.raises(InputError, match="no deployment"):
                    search(records, profile, spec, inputs={})
            else:
                same(mine, search(records, profile, spec, inputs={}))
    assert 0 < nothing < 8


def test_limits_do_not_count(records_of, profile_of):
    records, profile = records_of(exits=3), profile_of(exits=3)
    free = catalogue(records, profile, SearchSpec(mode="input-dependent"))
    assert catalogue(records, profile, SearchSpec(mode="input-dependent", max_latency_ms=0.1, min_miou=0.99)) == free
    assert all(
        len(one.exits) <= 2 for one in catalogue(records, profile, SearchSpec(mode="input-dependent", max_exits=1)).front
    )


def test_figures_on_other_images(records, records_of, profile):
    shelf = max(catalogue(records, profile, SearchSpec(mode="input-dependent")).shelves, key=len)
    assert estimate_again(records, profile, shelf) == [(one.latency_ms, one.miou) for one in shelf]
    assert estimate_again(records_of(seed=5), profile, shelf) != [(one.latency_ms, one.miou) for one in shelf]
