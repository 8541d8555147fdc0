"""A real Ray cluster on this machine, two workers, some of them killed by SIGKILL: nothing is lost, nothing counted twice."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from offramp.artifacts import load_records
from offramp.artifacts.records import ARRAYS
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.sharding import evaluate_in_shards
from offramp.specs import NetworkChoice, TrainingSpec
from offramp.sweeping.plan import DeviceEntry, Plan, Trial
from offramp.sweeping.trials import Job, build, fingerprints_of
from offramp.training.train import train

ray = pytest.importorskip("ray")

from offramp.cluster import _share, on_ray  # noqa: E402 - it is only of use with Ray

SPEC = TrainingSpec(scheme="joint", epochs=6, exit_epochs=0, crop=(96, 64), batch_size=4, validate_every=1, train_images=0)


@pytest.fixture(scope="module")
def each():
    """One start for all tests."""
    with on_ray("local") as handed:
        yield handed


def test_every_key_comes_once_with_its_own_error(each, tmp_path):
    def task(key):
        if key == "b":
            raise InputError("b is\nbad input")
        if key == "c":
            raise KeyError(key)
        (tmp_path / key).write_text(key)

    found = list(each(task, ["a", "b", "c", "d"]))
    assert sorted(found) == [("a", None), ("b", "b is bad input"), ("c", "KeyError: 'c'"), ("d", None)]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d"}


def test_tasks_share_the_processors(each):
    del each  # it is the cluster
    processors = max(2, os.cpu_count())
    assert _share(1, gpu=True) == {"num_cpus": processors}  # it has no GPU
    assert _share(processors, gpu=False) == _share(100, gpu=False) == {"num_cpus": 1}


def test_a_task_that_always_kills_its_worker_is_given_up_and_the_others_are_not(each, tmp_path, monkeypatch):
    monkeypatch.setattr("offramp.cluster.RETRIES", 1)

    def task(key):
        with (tmp_path / key).open("a") as file:
            file.write("x")
        if key == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)

    found = dict(each(task, ["fine", "deadly"]))
    assert found["fine"] is None
    assert "the cluster could not run it" in found["deadly"]
    assert ((tmp_path / "fine").read_text(), (tmp_path / "deadly").read_text()) == ("x", "xx")


def test_trials_survive_a_killed_worker(each, scenes, tmp_path):
    """The worker of one trial is killed midway. The trial goes on where it was, and all weights are those of calm runs."""
    choices = {name: NetworkChoice(network="test_efficientnet", exits=1, heads=(f"fcn/{name}",)) for name in ("c16", "c8")}
    trials = tuple(Trial(name, choice, SPEC, None, ()) for name, choice in choices.items())
    job = Job(Plan(trials, DeviceEntry(), ("val",)), scenes, tmp_path, fingerprints_of(scenes, ("val",)))
    log, history, killed = tmp_path / "c16" / "log.txt", tmp_path / "c16" / "run" / "history.csv", []

    def kill_midway():
        for _ in range(6000):
            if history.exists() and "joint 2/" in log.read_text():
                killed.append(int(re.search(r"process (\d+)", log.read_text())[1]))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_midway)
    killer.start()
    assert sorted(each(partial(build, job=job), list(choices))) == [("c16", None), ("c8", None)]
    killer.join()
    assert len(killed) == 1
    first, second = re.split(r"begun by process", log.read_text())[1:]
    assert (int(first.split()[0]), "finished" in first) == (killed[0], False)
    assert int(second.split()[0]) != killed[0]
    assert "joint 1/" not in second, "it went on and did not begin again"
    assert (tmp_path / "c8" / "log.txt").read_text().count("begun by process") == 1
    for name, choice in choices.items():
        with (tmp_path / name / "run" / "history.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == [str(epoch) for epoch in range(1, 7)]
        train(scenes, tmp_path / f"calm-{name}", training=SPEC, **choice.model_dump(exclude_unset=True))
        weights = [tmp_path / run / "weights.safetensors" for run in (Path(name) / "run", f"calm-{name}")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_shards_survive_killed_workers(each, package, scenes, tmp_path):
    """One worker dies before it has written its part, one behind that: all records are those of one process, bit for bit."""

    def deadly(task, key):
        died = tmp_path / f"died-{key}"
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{key}\n")
        if key == "2-3" and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        task(key)
        if key == "4-5" and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def handed(task, keys):
        return each(partial(deadly, task), keys)

    whole = evaluate(package, scenes, "train", threads=1)
    joined = evaluate_in_shards(package, scenes, "train", each=handed, parts=tmp_path / "parts", shards=4)
    calls = (tmp_path / "calls").read_text().split()
    assert {key: calls.count(key) for key in calls} == {"0-1": 1, "2-3": 2, "4-5": 2, "6-7": 1}
    assert len(set(joined.info.images)) == len(joined.info.images) == 8
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    moment = {"provenance": {"created"}}
    assert joined.info.model_dump(exclude=moment) == whole.info.model_dump(exclude=moment)
    assert not (tmp_path / "parts").exists()


def test_the_verb_joins_a_cluster_by_its_address(each, package, scenes, tmp_path):
    del each  # it is the cluster
    address = ray.get_runtime_context().gcs_address
    out = tmp_path / "train.records"
    options = ("--split", "train", "--out", str(out), "--threads", "1", "--ray", address, "--shards", "3", "--json")
    words = [sys.executable, "-m", "offramp", "evaluate", str(package), str(scenes), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 8  # nothing else is on standard output
    np.testing.assert_array_equal(load_records(out).sure, evaluate(package, scenes, "train", threads=1).sure)
    assert [path.name for path in tmp_path.iterdir()] == ["train.records"]


DEADLY = """
import os, signal, sys
from pathlib import Path
from offramp.cluster import on_ray

def task(key):
    if not Path(key).exists():
        Path(key).touch()
        os.kill(os.getpid(), signal.SIGKILL)

with on_ray(sys.argv[1]) as each:
    found = list(each(task, [sys.argv[2]]))
print(found)
"""


def test_what_ray_says_of_dead_workers_is_no_result(each, tmp_path):
    del each  # it is the cluster
    died = str(tmp_path / "died")
    words = [sys.executable, "-c", DEADLY, ray.get_runtime_context().gcs_address, died]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == f"[({died!r}, None)]\n"
    assert "will be retried" in done.stderr


def test_an_address_without_a_cluster_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1"), on_ray(f"127.0.0.1:{taken.getsockname()[1]}"):
            pass
