"""Every artifact comes back as it went, and damaged ones are refused with a reason."""

import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from offramp.artifacts import (
    MANIFEST,
    Deployment,
    Expected,
    Frame,
    GraphEntry,
    HeadEntry,
    Manifest,
    Measurement,
    Profile,
    Provenance,
    Records,
    RecordsInfo,
    RunLog,
    SweptPackage,
    Tally,
    load_json,
    load_manifest,
    load_records,
    package_identity,
    require_same_package,
)
from offramp.errors import InputError
from offramp.policy import GRID, PIXEL_THRESHOLDS
from offramp.specs import REGIONS, SearchSpec

EXITS = ("blocks.1:fcn/c16", "final")
MADE = Provenance(made_by="test", created="2026-01-01T00:00:00+00:00", inputs={"data": "ab"}, options={"n": [1, None]})
EXPECTED = Expected(
    miou=0.5,
    miou_interval=(0.4, 0.6),
    final_miou=0.55,
    latency_ms=3.0,
    latency_interval=(2.0, 4.0),
    worst_latency_ms=5.0,
    final_latency_ms=4.5,
    shares={EXITS[0]: 0.25, EXITS[1]: 0.75},
    images=4,
    candidates=10,
)


def deployment(**changes):
    values = {
        "mode": "input-dependent",
        "exits": EXITS,
        "region": "off-edges",
        "pixel_threshold": 5,
        "image_thresholds": (0.1 + 0.2,),
        "limits": SearchSpec(mode="input-dependent", max_drop_pp=1.0),
        "expected": EXPECTED,
        "package_id": "p" * 64,
        "engine": "onnxruntime",
        "threads": 1,
        "provenance": MADE,
    }
    return Deployment(**{**values, **changes})


def profile(**changes):
    values = {
        "package_id": "p" * 64,
        "engine": "onnxruntime",
        "engine_version": "1",
        "threads": 1,
        "precision": "fp32",
        "device": "a board",
        "exits": EXITS,
        "exit_stages": (0, 2),
        "stages": tuple(Measurement(times_ms=times) for times in ((1, 9, 2), (4, 4, 5), (8, 8, 8))),
        "heads": {EXITS[0]: Measurement(times_ms=(0.5,)), EXITS[1]: Measurement(times_ms=(0.25, 0.75))},
        "labels": {EXITS[0]: Measurement(times_ms=(0.125,)), EXITS[1]: Measurement(times_ms=(16.0,))},
        "original": None,
        "peak_memory_bytes": 5,
        "provenance": MADE,
    }
    return Profile(**{**values, **changes})


def run_log():
    frame = {"name": "a", "exit": EXITS[0], "scores": {EXITS[0]: 0.5}, "steps_ms": {"stage 0": 1.5}, "latency_ms": 2.0}
    frames = (
        Frame(**frame, deadline_ms=1.0),
        Frame(**frame, deadline_ms=2.0),
        Frame(**{**frame, "exit": "final"}),
        Frame(**frame),
    )
    return RunLog(
        package_id="p" * 64, mode="anytime", exits=EXITS, engine="openvino", threads=2, frames=frames, provenance=MADE
    )


def manifest_of(folder, **changes):
    """A manifest of files written into `folder`, that any bytes may fill: only an engine opens them."""

    def entry(file, **more):
        (folder / file).write_bytes(file.encode())
        return {
            "file": file,
            "sha256": hashlib.sha256(file.encode()).hexdigest(),
            "inputs": ("x",),
            "outputs": ("y",),
            "macs": 1,
            "parameter_bytes": 4,
            **more,
        }

    def head(index, stage):
        more = {"exit": EXITS[index], "tap": "t", "stage": stage, "scores_shape": (1, 2, 3, 4), "labels": "labels.onnx"}
        more["outputs"] = ("scores", "confidence", "sure")
        return HeadEntry(**entry(f"head-{index}.onnx", **more))

    values = {
        "classes": ("road", "tree"),
        "palette": ((0, 0, 0), (1, 2, 3)),
        "size": (32, 16),
        "confidence": "top1",
        "pixel_thresholds": PIXEL_THRESHOLDS,
        "object_classes": (1,),
        "stages": tuple(GraphEntry(**entry(f"stage-{index}.onnx")) for index in range(2)),
        "heads": (head(0, 0), head(1, 1)),
        "labels": (GraphEntry(**entry("labels.onnx")),),
        "original": GraphEntry(**entry("original.onnx")),
        "deployments": (deployment(),),
        "provenance": MADE,
    }
    parts = {**values, **changes}
    identity = package_identity(parts["stages"], parts["heads"], parts["labels"])
    return Manifest(**{"package_id": identity, **parts})


@pytest.fixture
def folder(tmp_path):
    """A package, as far as its manifest goes."""
    path = tmp_path / "package"
    path.mkdir()
    manifest_of(path).save(path / MANIFEST)
    return path


def records():
    rng = np.random.default_rng(0)
    info = RecordsInfo(
        package_id="p" * 64,
        split="val",
        data_fingerprint="d" * 64,
        classes=("road", "tree", "sky"),
        exits=EXITS,
        images=("a", "b", "c", "d"),
        engine="onnxruntime",
        precision="fp32",
        provenance=MADE,
    )
    shapes = ((4, 2, 3), (4, 2, 3), (4, 3), (4, 2, len(REGIONS), GRID), (4, 2), (4,))
    correct, predicted, labelled, sure, differing, size = (rng.integers(0, 2**38, shape) for shape in shapes)
    predicted, labelled, size = predicted + correct, labelled + correct.max(axis=1), size + differing.max(axis=1)
    sure[..., 0] = sure.max(axis=-1)
    return Records(info, correct, predicted, labelled, sure, differing, size)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "val.records"
    records().save(path)
    return path


# ------------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("artifact", [deployment(), profile(), run_log()], ids=lambda artifact: artifact.kind)
def test_json_artifacts_come_back_as_they_went(artifact, tmp_path):
    artifact.save(tmp_path / "a" / "file.json")
    assert load_json(tmp_path / "a" / "file.json", type(artifact)) == artifact


def test_a_manifest_comes_back_as_it_went(folder):
    assert load_manifest(folder) == manifest_of(folder)


def test_records_come_back_as_they_went(saved):
    got, wanted = load_records(saved), records()
    assert got.info == wanted.info
    for name in ("correct", "predicted", "labelled", "sure"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
        assert getattr(got, name).dtype == np.int64


def test_provenance_says_when_and_with_what():
    now = Provenance.now("evaluate", inputs={"package": "abc"}, options={"split": "val"})
    assert (now.made_by, now.inputs, now.options) == ("evaluate", {"package": "abc"}, {"split": "val"})
    assert now.versions["numpy"] == np.__version__
    assert now.versions["python"] == sys.version.split()[0]
    assert now.created.endswith("+00:00")
    assert now.device


# ----------------------------------------------------------------------------------------------------------- damaged JSON


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no valid JSON"),
        ("not JSON", "no valid JSON"),
        ('{"kind": "deployment"', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "says it is 'list'"),
        ("{}", "says it is None"),
        ('{"kind": "profile", "format": 1}', "says it is 'profile'"),
        ('{"kind": "deployment", "format": 2}', "has format 2, this version reads 1"),
        ('{"kind": "deployment"}', "has format None"),
        ('{"kind": "deployment", "format": 1}', "damaged deployment .*Field required"),
    ],
)
def test_damaged_json_is_refused(content, reason, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_json(path, Deployment)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no valid JSON"):
        load_json(tmp_path / "file.json", Deployment)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_what_is_no_file_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="cannot read the profile"):
        load_json(tmp_path / name, Profile)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"thread": 1}, "thread: Extra inputs are not permitted"),
        ({"expected": {**EXPECTED.model_dump(), "iou": 1.0}}, "expected.iou: Extra inputs"),
        ({"image_thresholds": [2.5]}, "image_thresholds.0: .*less than or equal to 2"),
        ({"pixel_threshold": GRID}, "pixel_threshold: .*less than 32"),
        ({"exits": []}, "exits: "),
    ],
)
def test_a_damaged_field_is_named(change, reason, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({**deployment().model_dump(mode="json"), **change}))
    with pytest.raises(InputError, match=f"damaged deployment .*{reason}"):
        load_json(path, Deployment)


# ------------------------------------------------------------------------------------------------------- what must fit


@pytest.mark.parametrize(
    ("mode", "exits", "thresholds", "fits"),
    [
        ("input-dependent", EXITS, (0.5,), True),
        ("input-dependent", EXITS, (), False),
        ("input-dependent", EXITS, (0.5, 0.5), False),
        ("input-dependent", EXITS[:1], (), True),
        ("budgeted", EXITS[:1], (), True),
        ("budgeted", EXITS[:1], (0.5,), False),
        ("anytime", EXITS, (), True),
        ("anytime", EXITS, (0.5,), False),
    ],
)
def test_a_deployment_has_a_threshold_for_each_exit_but_the_last(mode, exits, thresholds, fits):
    if fits:
        assert deployment(mode=mode, exits=exits, image_thresholds=thresholds).image_thresholds == thresholds
    else:
        with pytest.raises(ValidationError, match=rf"{len(exits)} exits in mode {mode} need \d image thresholds"):
            deployment(mode=mode, exits=exits, image_thresholds=thresholds)


def test_a_deployment_names_no_exit_twice():
    with pytest.raises(ValidationError, match="named twice"):
        deployment(mode="anytime", exits=("final", "final"), image_thresholds=())


def test_the_latency_of_asking_exits_by_hand():
    # Medians: stages 2, 4, 8; heads 0.5, 0.5; labels 0.125, 16.
    asked = profile()
    assert asked.latency_ms(EXITS[:1]) == 2 + 0.5 + 0.125
    assert asked.latency_ms(EXITS[1:]) == 2 + 4 + 8 + 0.5 + 16
    assert asked.latency_ms(EXITS) == 2 + 4 + 8 + 0.5 + 0.5 + 16


def test_median_and_95th_percentile_by_hand():
    times = Measurement(times_ms=tuple(float(number) for number in (*range(1, 21), 1000)))
    assert times.median_ms == 11
    assert times.p95_ms == 20
    with pytest.raises(ValidationError):
        Measurement(times_ms=())


@pytest.mark.parametrize(
    "change",
    [
        {"exit_stages": (0,)},
        {"exits": EXITS[:1]},
        {"heads": {EXITS[0]: Measurement(times_ms=(1.0,)), "other": Measurement(times_ms=(1.0,))}},
        {"labels": {EXITS[0]: Measurement(times_ms=(1.0,)), "other": Measurement(times_ms=(1.0,))}},
    ],
)
def test_a_profiles_parts_fit(change):
    with pytest.raises(ValidationError, match="heads"):
        profile(**change)


def frames_of(latencies, **values):
    return [Frame(name=f"{i}", exit="final", scores={}, steps_ms={}, latency_ms=ms, **values) for i, ms in enumerate(latencies)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 1000])
def test_a_tally_keeps_the_slowest_of_every_so_many_frames(monkeypatch, count):
    monkeypatch.setattr("offramp.artifacts.run_log.MOST_FRAMES", 8)
    frames = frames_of(np.random.default_rng(count).permutation(count) + 1.0)
    tally = Tally(frames)
    assert tally.every == max(1, 2 ** math.ceil(math.log2(count / 8)))
    bunches = [frames[begin : begin + tally.every] for begin in range(0, count, tally.every)]
    assert tally.frames == [max(bunch, key=lambda frame: frame.latency_ms) for bunch in bunches]
    assert len(tally.frames) <= 8


def test_a_tallys_figures_are_those_of_all_frames():
    latencies = np.random.default_rng(1).lognormal(2, 1, 5000)
    frames = frames_of(latencies, deadline_ms=20.0)
    frames[7] = frames[7].model_copy(update={"exit": "early", "deadline_ms": None})
    exact = Tally(frames[:1000]).summary()
    assert exact.latency_ms.median == pytest.approx(np.median(latencies[:1000]), rel=1e-12)
    assert exact.latency_ms.p95 == pytest.approx(np.percentile(latencies[:1000], 95), rel=1e-12)
    whole = Tally(frames).summary()
    assert (whole.frames, whole.leaving, whole.with_deadline) == (5000, {"final": 4999, "early": 1}, 4999)
    assert whole.missed == (np.delete(latencies, 7) > 20).sum()
    assert whole.latency_ms.mean == pytest.approx(latencies.mean())
    assert whole.latency_ms.max == latencies.max()
    # Classes are half a per cent wide, and neighbours of 5000 differ by less than that.
    assert whole.latency_ms.median == pytest.approx(np.median(latencies), rel=4e-3)
    assert whole.latency_ms.p95 == pytest.approx(np.percentile(latencies, 95), rel=4e-3)
    assert Tally().summary().latency_ms is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exit_stages": (0, 3)}, "after a stage that was measured"),
        ({"exit_stages": (2, 0)}, "order of depth"),
        ({"exit_stages": (-1, 0)}, "greater than or equal to 0"),
        ({"exits": (), "exit_stages": (), "heads": {}, "labels": {}}, "exits"),
    ],
)
def test_a_profiles_exits_come_behind_its_stages(change, reason):
    with pytest.raises(ValidationError, match=reason):
        profile(**change)


@pytest.mark.parametrize("time", [-1.0, 1e10, float("nan"), float("inf")])
def test_times_are_times(time):
    with pytest.raises(ValidationError, match="times_ms"):
        Measurement(times_ms=(1.0, time))


@pytest.mark.parametrize(
    "change", [{"miou": {}}, {"miou": {"test": {"final": 0.5}}}, {"miou": {"val": {}}}, {"latency_ms": {}}, {"records": {}}]
)
def test_a_swept_package_has_figures_of_its_exits(change):
    values = {"name": "32x16", "size": (32, 16), "package": "p", "package_id": "p" * 64, "profile": "p"}
    sound = {"records": {"val": "r"}, "miou": {"val": {"final": 0.5}}, "latency_ms": {"final": 1.0}}
    assert SweptPackage(**values, **sound).best_exit == "final"
    with pytest.raises(ValidationError, match=r"has no records, or no mIoU, of val|names different exits"):
        SweptPackage(**values, **{**sound, **change})


def test_a_run_log_knows_deadlines_and_shares():
    log = run_log()
    assert [frame.met for frame in log.frames] == [False, True, None, None]
    assert log.shares() == {EXITS[0]: 0.75, "final": 0.25}
    assert log.model_copy(update={"frames": ()}).shares() == {EXITS[0]: 0.0, "final": 0.0}


def test_parts_of_two_packages_are_refused():
    require_same_package("a" * 64, records="a" * 64, profile="a" * 64)
    with pytest.raises(
        InputError, match=r"the profile belongs to another package \(bbbbbbbbbbbb\) than the rest \(aaaaaaaaaaaa\)"
    ):
        require_same_package("a" * 64, records="a" * 64, profile="b" * 64)


# --------------------------------------------------------------------------------------------------------------- packages


def edited(folder, edit):
    raw = json.loads((folder / MANIFEST).read_text())
    edit(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))
    return folder


def graph(raw, place):
    """The entry of a graph: `original`, or for example `heads 1`."""
    kind, _, index = place.partition(" ")
    return raw[kind][int(index)] if index else raw[kind]


PLACES = ("stages 0", "heads 1", "labels 0", "original")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b.onnx", "..", ".", "", "a\\b.onnx", "b.onnx/"])
def test_a_manifest_names_nothing_outside_its_folder(folder, place, name):
    (folder.parent / "secret").write_text("secret")
    edited(folder, lambda raw: graph(raw, place).update(file=name))
    with pytest.raises(InputError, match=r"damaged package .*plain file name"):
        load_manifest(folder)


@pytest.mark.parametrize("name", ["é" * 150, "a\0b", "a\nb", "\ud800"])
def test_a_manifest_names_no_file_that_cannot_be(folder, name):
    with pytest.raises(InputError, match=r"damaged package .*: "):
        load_manifest(edited(folder, lambda raw: raw["stages"][0].update(file=name)))


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_graph_is_refused(folder, place):
    file = folder / graph(json.loads((folder / MANIFEST).read_text()), place)["file"]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=rf"{file.name} is not the file .*hash"):
        load_manifest(folder)


@pytest.mark.parametrize("place", PLACES)
def test_a_missing_graph_is_refused(folder, place):
    file = folder / graph(json.loads((folder / MANIFEST).read_text()), place)["file"]
    file.unlink()
    with pytest.raises(InputError, match=f"lacks {file.name}"):
        load_manifest(folder)
    file.mkdir()
    with pytest.raises(InputError, match=f"lacks {file.name}"):
        load_manifest(folder)


@pytest.mark.parametrize("place", PLACES)
def test_a_linked_graph_is_refused_whatever_it_holds(folder, place):
    file = folder / graph(json.loads((folder / MANIFEST).read_text()), place)["file"]
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(InputError, match=f"lacks {file.name}"):
        load_manifest(folder)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda raw: raw["heads"].reverse(), "order of depth"),
        (lambda raw: raw["heads"][1].update(stage=2), "order of depth"),
        (lambda raw: raw["heads"][1].update(exit=EXITS[0]), "same name"),
        (lambda raw: raw["heads"][1].update(labels="other.onnx"), "labels graph that is not there"),
        (lambda raw: raw["palette"].pop(), "one colour for each class"),
        (lambda raw: raw["stages"].clear(), "stages"),
        (lambda raw: raw["heads"].clear(), "heads"),
        (lambda raw: raw["heads"][0].update(scores_shape=[1, 2, 0, 4]), "heads.0.scores_shape.2"),
        (lambda raw: raw.update(size=[15, 16]), "size.0"),
        (lambda raw: raw.update(sise=[16, 16]), "sise: Extra"),
        (lambda raw: raw["stages"][0].update(macs=-1), "stages.0.macs"),
        (lambda raw: raw["stages"][0].update(inputs=[]), r"stages\.0 must take one tensor, the image"),
        (lambda raw: raw["stages"][1].update(inputs=["stranger"]), r"stages\.1, .* takes .stranger., which"),
        (lambda raw: raw["heads"][0].update(labels="\ud800"), "surrogates not allowed"),
        (lambda raw: raw["heads"][0].update(inputs=["stranger"]), r"stages\.0, .* takes .stranger., which"),
        (lambda raw: raw["heads"][0].update(outputs=["scores", "confidence"]), "must have the outputs scores, confidence and"),
        (lambda raw: raw["labels"][0].update(inputs=[]), "must take one tensor and give one"),
    ],
)
def test_a_manifest_whose_parts_do_not_fit_is_refused(folder, edit, reason):
    with pytest.raises(InputError, match=f"damaged package .*{reason}"):
        load_manifest(edited(folder, edit))


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a package: .* is not a folder"):
        load_manifest(tmp_path / "absent")
    with pytest.raises(InputError, match=r"not a package: .* holds no manifest\.json"):
        load_manifest(tmp_path)


def test_the_head_of_an_exit(folder):
    manifest = load_manifest(folder)
    assert manifest.exits == EXITS
    assert manifest.head("final").file == "head-1.onnx"
    with pytest.raises(InputError, match=r"no exit 'other'; it has blocks\.1:fcn/c16, final"):
        manifest.head("other")


# ---------------------------------------------------------------------------------------------------------------- records


def rewritten(path, **changes):
    """The same archive with some of its arrays exchanged, or left out where None."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    with path.open("wb") as file:
        np.savez_compressed(file, **kept)
    return path


@pytest.mark.parametrize("name", ["correct", "predicted", "labelled", "sure"])
def test_counts_that_do_not_fit_are_refused(saved, name):
    array = getattr(records(), name)
    negative = array.copy()
    negative[-1] = -1
    for wrong in (array[:-1], array[..., :-1], array[None], array.astype(np.int32), array.astype(np.float64)):
        records().save(saved)
        with pytest.raises(InputError, match=f"damaged records .*{name} is .*wanted int64"):
            load_records(rewritten(saved, **{name: wrong}))
    records().save(saved)
    with pytest.raises(InputError, match=f"damaged records .*{name} holds a negative number"):
        load_records(rewritten(saved, **{name: negative}))


@pytest.mark.parametrize("name", ["info", "correct", "predicted", "labelled", "sure"])
def test_a_missing_array_is_refused(saved, name):
    with pytest.raises(InputError, match="not records"):
        load_records(rewritten(saved, **{name: None}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"kind": "profile"}, "profile"), ({"format": 2}, "format"), ({"spilt": "val"}, "spilt"), ({"images": 3}, "images")],
)
def test_a_damaged_description_is_refused(saved, change, reason):
    info = json.dumps({**records().info.model_dump(mode="json"), **change})
    with pytest.raises(InputError, match=f"{saved.name}.*{reason}"):
        load_records(rewritten(saved, info=np.frombuffer(info.encode(), np.uint8)))


def test_a_member_that_is_no_array_is_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"bytes" if name.startswith("sure") else content)
    with pytest.raises(InputError, match=r"not records: .*magic string"):
        load_records(saved)


def test_what_is_no_records_file_is_refused(tmp_path):
    path = tmp_path / "val.records"
    with pytest.raises(InputError, match=r"cannot read the records .*No such file"):
        load_records(path)
    for content in (b"", b"PK", b"{}", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not records"):
            load_records(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="not records"):
        load_records(path)


def test_truncated_records_are_refused(saved):
    whole = saved.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError, match="records"):
            load_records(saved)


def test_a_flipped_bit_is_refused_or_changes_nothing(saved):
    whole, wanted = saved.read_bytes(), records()
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place) % 8
        saved.write_bytes(damaged)
        try:
            got = load_records(saved)
        except InputError:
            refused += 1
        else:
            assert got.info == wanted.info
            np.testing.assert_array_equal(got.sure, wanted.sure)
            np.testing.assert_array_equal(got.correct, wanted.correct)
    assert refused > 200


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_in_records_are_not_executed(saved, tmp_path):
    bombed = np.array([Bomb(tmp_path / "executed")], dtype=object)
    for name in ("info", "correct"):
        records().save(saved)
        with pytest.raises(InputError, match=f"damaged records .*{name} is object"):
            load_records(rewritten(saved, **{name: bombed}))
    saved.write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(InputError, match="not records"):
        load_records(saved)
    assert not (tmp_path / "executed").exists()
    pickle.loads(saved.read_bytes())
    assert (tmp_path / "executed").exists(), "the bomb is a real one"


def test_records_and_their_array_order(saved):
    # Saved from views and read back: layout in memory must not matter.
    original = records()
    flipped = replace(original, sure=np.asfortranarray(original.sure))
    flipped.save(saved)
    np.testing.assert_array_equal(load_records(saved).sure, original.sure)


def test_artifacts_need_no_torch_and_no_engine():
    code = "import sys, offramp.artifacts; print(sorted({'torch', 'onnxruntime', 'onnx', 'openvino'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
