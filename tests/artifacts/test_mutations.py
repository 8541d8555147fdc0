"""Any change to what a file says ends in an artifact that means what the file says, or in an InputError; nothing else."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.artifacts import Deployment, Manifest, Profile, RecordsInfo
from offramp.artifacts.base import checked_artifact, load_json
from offramp.artifacts.records import load_records
from offramp.errors import InputError

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
QUICK = settings(derandomize=True, max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def described(package, tmp_path_factory):
    """What valid files say, by kind."""
    from offramp.cli import main

    folder = tmp_path_factory.mktemp("measured")
    with pytest.raises(SystemExit):
        main(["profile", str(package), "--out", str(folder / "p"), "--passes", "1", "--threads", "1"])
    manifest = load_json(package / "manifest.json", Manifest)
    profile = load_json(folder / "p", Profile)
    deployment = {
        "kind": "deployment",
        "format": 1,
        "mode": "input-dependent",
        "exits": list(manifest.exits[:2]),
        "image_thresholds": [0.5],
        "limits": {"mode": "input-dependent"},
        "expected": {
            **dict.fromkeys(("miou", "final_miou", "latency_ms", "worst_latency_ms", "final_latency_ms"), 0.5),
            "miou_interval": [0, 1],
            "latency_interval": [0, 1],
            "shares": {},
            "images": 2,
            "candidates": 1,
        },
        **{name: json.loads(profile.model_dump_json())[name] for name in ("package_id", "engine", "threads", "provenance")},
    }
    kept = ("package_id", "engine", "precision", "provenance", "exits", "format")
    info = {name: json.loads(profile.model_dump_json())[name] for name in kept}
    info |= {"kind": "records", "split": "val", "data_fingerprint": "", "classes": ["a", "b"], "images": ["0"]}
    return {
        Manifest: json.loads(manifest.model_dump_json()),
        Profile: json.loads(profile.model_dump_json()),
        Deployment: deployment,
        RecordsInfo: info,
    }


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(value, path, edit):
    """A copy with an edit at a place: (container, key) in, nothing out."""
    copy = json.loads(json.dumps(value))
    around = copy
    for key in path[:-1]:
        around = around[key]
    edit(around, path[-1])
    return copy


@pytest.mark.parametrize("kind", [Manifest, Profile, Deployment, RecordsInfo])
def test_a_valid_one_comes_back(described, kind, tmp_path):
    first = checked_artifact(described[kind], tmp_path, kind)
    first.save(tmp_path / "a.json")
    assert load_json(tmp_path / "a.json", kind) == first


@pytest.mark.parametrize("kind", [Manifest, Profile, Deployment, RecordsInfo])
def test_a_changed_one_is_refused_or_says_the_same(described, kind, tmp_path):
    whole = described[kind]
    everywhere = list(places(whole))[1:]
    path = tmp_path / "a.json"

    @QUICK
    @given(st.sampled_from(everywhere), st.sampled_from(["drop", "put"]), ANY)
    def run(place, what, value):
        def edit(around, key):
            if what == "drop":
                del around[key]
            else:
                around[key] = value

        path.write_text(json.dumps(changed(whole, place, edit)), encoding="utf-8")
        try:
            found = load_json(path, kind)
        except InputError:
            return
        found.save(tmp_path / "b.json")
        assert load_json(tmp_path / "b.json", kind) == found

    run()


def test_records_of_any_numbers_are_refused_or_possible(tmp_path):
    path = tmp_path / "val.records"

    @QUICK
    @given(st.dictionaries(st.sampled_from(["info", "correct", "size", "x"]), st.binary(max_size=60)))
    def run(arrays):
        with path.open("wb") as file:
            np.savez(file, **{name: np.frombuffer(content, np.uint8) for name, content in arrays.items()})
        with pytest.raises(InputError):
            load_records(path)

    run()
