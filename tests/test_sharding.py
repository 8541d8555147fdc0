"""Shards in this process: how they are cut, kept, checked and joined. On a real cluster: test_cluster.py."""

from functools import partial

import numpy as np
import pytest

from offramp.artifacts import load_manifest, load_records
from offramp.artifacts.records import ARRAYS
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.sharding import evaluate_in_shards
from offramp.tasks import one_by_one


@pytest.fixture
def whole(package, scenes):
    return evaluate(package, scenes, "train", threads=1)


@pytest.fixture
def folder_of(package, tmp_path):
    return tmp_path / "parts" / f"{load_manifest(package).package_id[:16]}-train-onnxruntime-fp32"


def shard(package, scenes, tmp_path, *, each=one_by_one, shards=3):
    return evaluate_in_shards(package, scenes, "train", each=each, parts=tmp_path / "parts", shards=shards)


def test_some_images_alone(package, scenes, whole):
    some = evaluate(package, scenes, "train", images=[5, 2], threads=1)
    assert some.info.images == (whole.info.images[5], whole.info.images[2])
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[5, 2]])
    assert some.info.data_fingerprint != whole.info.data_fingerprint
    with pytest.raises(InputError, match="has the images 0 to 7, got 8"):
        evaluate(package, scenes, "train", images=[0, 8], threads=1)


@pytest.mark.parametrize("shards", [1, 3, 50])
def test_any_number_of_shards_gives_the_same_records(package, scenes, whole, tmp_path, shards):
    joined = shard(package, scenes, tmp_path, shards=shards)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.info.images == whole.info.images
    assert joined.info.data_fingerprint == whole.info.data_fingerprint


def test_a_part_that_is_there_is_used_and_one_that_does_not_fit_is_not(package, scenes, whole, tmp_path, folder_of):
    """Eight images in three shards: 0-2, 3-4 and 5-7, halves being rounded to the even number."""
    folder = folder_of
    right, wrong = (evaluate(package, scenes, "train", images=images, threads=1) for images in (range(3), [3, 5]))
    right.save(folder / "0-2.records")
    wrong.save(folder / "3-4.records")
    (folder / "5-7.records").write_bytes(b"half")
    times = {}

    def watched(task, keys):
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        yield from one_by_one(task, keys)
        times.update({name: (before[name], (folder / name).stat().st_mtime_ns) for name in before})

    joined = shard(package, scenes, tmp_path, each=watched)
    assert {name: before == after for name, (before, after) in times.items()} == {
        "0-2.records": True,
        "3-4.records": False,
        "5-7.records": False,
    }
    np.testing.assert_array_equal(joined.correct, whole.correct)
    assert not folder.exists()


def test_a_failed_shard_is_told_of_and_the_others_are_kept(package, scenes, tmp_path, folder_of):
    def failing(task, key):
        if key == "3-4":
            raise InputError("no disk")
        task(key)

    with pytest.raises(InputError, match="1 of 3 shards failed, such as the images 3-4: no disk"):
        shard(package, scenes, tmp_path, each=lambda task, keys: one_by_one(partial(failing, task), keys))
    assert {path.name for path in folder_of.iterdir()} == {"0-2.records", "5-7.records"}


def test_a_worker_that_sees_other_files_is_noticed(package, scenes, tmp_path, folder_of):
    """It leaves the right number of records, but of other images."""

    def elsewhere(task, keys):
        yield from one_by_one(task, keys)
        load_records(folder_of / "5-7.records").save(folder_of / "0-2.records")

    with pytest.raises(InputError, match="the images 0-2 were evaluated from other files"):
        shard(package, scenes, tmp_path, each=elsewhere)


def test_shards_must_be_some(package, scenes, tmp_path):
    with pytest.raises(InputError, match="at least 1, got 0"):
        shard(package, scenes, tmp_path, shards=0)
