"""The step `train`: killed runs end as if never killed, and what must not be mixed is refused."""

import csv
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offramp.data.synthetic import draw_dataset
from offramp.errors import InputError
from offramp.metrics import iou
from offramp.models.checkpoint import WEIGHTS, load_network, load_network_file
from offramp.specs import FINAL, TrainingSpec
from offramp.training.loop import STATE, read_history
from offramp.training.train import RUN, RunFile, train, validator

QUICK = TrainingSpec(epochs=1, exit_epochs=0, crop=(48, 32), batch_size=4, seed=11)

SCRIPT = """
import os, signal, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from offramp.specs import TrainingSpec
from offramp.training.train import train

data, run, resume, killed_at, fresh = sys.argv[1:]
# 8 images in batches of 4: two steps an epoch.
spec = TrainingSpec(epochs=3, exit_epochs=2, crop=(64, 48), batch_size=4, seed=11)


def progress(text, done, total):
    if text.split(":")[0] + f":{done}" == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)


options = dict(network="test_efficientnet", exits=2, training=spec)
train(Path(data), Path(run), **options, resume=resume == "resume", progress=progress)
if fresh:
    torch.rand(5)  # what a process did before must not matter
    train(Path(data), Path(fresh), **options)
"""


def test_a_killed_run_ends_bit_for_bit_as_if_never_killed(scenes, tmp_path):
    run, fresh = tmp_path / "killed", tmp_path / "uninterrupted"

    def process(resume, killed_at, fresh=""):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(scenes), str(run), resume, killed_at, str(fresh)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        )

    first = process("new", "phase 1:3")  # in the second epoch
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert (run / STATE).exists()
    assert not (run / WEIGHTS).exists()
    assert [(row["phase"], row["epoch"]) for row in read_history(run)] == [("phase 1", "1")]
    second = process("resume", "phase 2:4")  # in its second epoch, which therefore is not kept
    assert second.returncode == -signal.SIGKILL, second.stderr
    assert [(row["phase"], row["epoch"]) for row in read_history(run)][1:] == [
        ("phase 1", "2"),
        ("phase 1", "3"),
        ("phase 2", "1"),
    ]
    third = process("resume", "", fresh)
    assert third.returncode == 0, third.stderr
    resumed, uninterrupted = load_file(run / WEIGHTS), load_file(fresh / WEIGHTS)
    assert resumed.keys() == uninterrupted.keys()
    assert [name for name in resumed if not torch.equal(resumed[name], uninterrupted[name])] == []
    untimed = [[{**row, "seconds": ""} for row in read_history(folder)] for folder in (run, fresh)]
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 5


def test_the_history_has_a_column_for_every_figure(trained_run):
    exits = load_network_file(trained_run).network.exit_names
    assert len(exits) == 3
    with (trained_run / "history.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["phase", "epoch", "loss", "learning_rate", "seconds", *(f"miou:{name}" for name in exits)]
    assert [row[:2] for row in rows] == [["phase 1", "1"], ["phase 1", "2"], ["phase 2", "1"]]
    for row in rows:
        loss, rate, seconds, *mious = map(float, row[2:])
        assert loss > 0
        assert 0 < rate <= 1e-3
        assert seconds >= 0
        assert all(0 <= value <= 1 for value in mious)


def test_phase_2_improves_nothing_but_early_exits(trained_run):
    _, before, after = read_history(trained_run)
    early = [name for name in before if name.startswith("miou:") and name != f"miou:{FINAL}"]
    assert before[f"miou:{FINAL}"] == after[f"miou:{FINAL}"]
    assert all(before[name] != after[name] for name in early)


def test_what_was_asked_is_written_down(trained_run, scenes):
    asked = RunFile.model_validate_json((trained_run / RUN).read_text(encoding="utf-8"))
    described = load_network_file(trained_run)
    assert asked.network == described.network
    assert asked.data_fingerprint == described.data_fingerprint
    assert (asked.data, asked.weights_sha256, asked.training.epochs) == (scenes.name, None, 2)
    assert described.size == (96, 64)
    assert len(described.classes) == len(described.palette) == described.network.num_classes


def test_objects_are_the_classes_below_an_even_share(trained_run, scenes):
    from offramp.data.folder import open_split

    split = open_split(scenes, "train")
    classes = len(split.classes.names)
    pixels = sum(np.bincount(split.labels(i).ravel(), minlength=256)[:classes] for i in range(len(split)))
    expected = tuple(c for c in range(classes) if 0 < pixels[c] / pixels.sum() < 1 / classes)
    assert 0 < len(expected) < classes
    assert load_network_file(trained_run).object_classes == expected


def test_validation_measures_whole_images_at_full_resolution(trained_run, scenes):
    from offramp.data.folder import open_split

    split = open_split(scenes, "val")
    network, described = load_network(trained_run)
    measured = validator(network, split, torch.device("cpu"))()
    classes = len(described.classes)
    for name in described.network.exit_names:
        table = np.zeros((classes, classes), np.int64)
        for i in range(len(split)):
            image, labels = split.pair(i)
            with torch.no_grad():
                scores = network(torch.from_numpy(image).permute(2, 0, 1)[None].float(), [name])[name]
                full = torch.nn.functional.interpolate(scores, size=labels.shape, mode="bilinear")  # 96x64: whole strides
            for answer, truth in zip(full.argmax(dim=1).numpy().ravel(), labels.ravel(), strict=True):
                if truth < classes:
                    table[truth, answer] += 1
        expected = np.nanmean(iou(np.diag(table), table.sum(axis=0), table.sum(axis=1)))
        assert measured[f"miou:{name}"] == pytest.approx(expected, abs=1e-5)
    assert {float(row[f"miou:{FINAL}"]) for row in read_history(trained_run)[1:]} == {measured[f"miou:{FINAL}"]}


# ----------------------------------------------------------------------------------------------------------------- refused


@pytest.fixture(scope="module")
def other_scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("other") / "scenes"
    draw_dataset(root, images=12, size=(96, 64), seed=4)
    return root


@pytest.fixture
def finished(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_other_data_is_refused(finished, other_scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"begun on other data than .*; give that data, or another --out"):
        train(other_scenes, finished, resume=True)
    assert contents(finished) == before


def test_a_changed_label_is_other_data(finished, scenes, tmp_path):
    changed = shutil.copytree(scenes, tmp_path / "scenes")
    from offramp.data.folder import open_split

    label = open_split(changed, "val").samples[0].label
    shutil.copy(open_split(changed, "val").samples[1].label, label)
    with pytest.raises(InputError, match="begun on other data"):
        train(changed, finished, resume=True)


def test_an_earlier_run_is_not_overwritten(finished, scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"there is a run in .*; go on with it by --resume"):
        train(scenes, finished)
    assert contents(finished) == before


def test_resuming_a_finished_run_changes_nothing(finished, scenes):
    before = contents(finished)
    train(scenes, finished, resume=True, progress=lambda *_: pytest.fail("trained again"))
    assert contents(finished) == before


def test_a_run_does_not_go_on_with_other_options(finished, scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"begun with epochs 2, not 7"):
        train(scenes, finished, resume=True, training=TrainingSpec(epochs=7))
    with pytest.raises(InputError, match=r"begun with exits 2, not 4"):
        train(scenes, finished, resume=True, exits=4)
    assert contents(finished) == before


def test_a_folder_of_something_else_is_left_alone(scenes, tmp_path):
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"cannot train into .*: something else is there"):
            train(scenes, tmp_path, network="test_efficientnet", exits=1, training=QUICK, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match=r"something else is there"):
        train(scenes, tmp_path / "letter.txt", network="test_efficientnet", exits=1, training=QUICK)


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b'{"kind": "run", "format": 9}'])
def test_a_damaged_description_is_refused(finished, scenes, damage):
    (finished / RUN).write_bytes(damage)
    with pytest.raises(InputError, match=rf"damaged .*{RUN}: "):
        train(scenes, finished, resume=True)


def test_bad_requests_leave_no_folder(scenes, tmp_path):
    run = tmp_path / "run"
    for options, message in (
        ({"network": "no_such_net"}, "timm has no network"),
        ({"network": "test_efficientnet", "exits": 40}, "40 exits asked for"),
        ({"network": "test_efficientnet", "exits": 1, "weights": tmp_path / "w.safetensors"}, "cannot read the weights"),
    ):
        with pytest.raises(InputError, match=message):
            train(scenes, run, training=QUICK, **options)
        assert not run.exists()


# -------------------------------------------------------------------------------------------------------------------- seed


def test_the_seed_decides_the_first_weights(scenes, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("offramp.training.train.run_phases", lambda run, *_: begun.append(run.network.state_dict()))
    for place, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(1)  # what was drawn before must not matter
        spec = QUICK.model_copy(update={"seed": seed})
        train(scenes, tmp_path / place, network="test_efficientnet", exits=1, training=spec)
    one, same, other = begun
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("classify.weight"))


def test_a_crop_that_is_no_multiple_of_the_stride_trains(scenes, tmp_path):
    spec = QUICK.model_copy(update={"crop": (90, 41)})
    train(scenes, tmp_path / "run", network="test_efficientnet", exits=2, training=spec)
    network, _ = load_network(tmp_path / "run")
    assert network(torch.zeros(1, 3, 41, 90))[FINAL].shape[2:] == (3, 6)


def test_weights_must_be_given_again_before_the_first_epoch_ended(scenes, tmp_path):
    from safetensors.torch import save_file

    from offramp.models.sources import build

    for name in ("first", "second"):
        save_file(build("test_resnet", 2).network.state_dict(), tmp_path / f"{name}.safetensors")
    run = tmp_path / "run"
    options = {"network": "test_resnet", "exits": 1, "training": QUICK}

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(scenes, run, weights=tmp_path / "first.safetensors", progress=die, **options)
    for weights in (None, tmp_path / "second.safetensors"):
        with pytest.raises(InputError, match=r"stopped before its first epoch ended; give the same --weights again"):
            train(scenes, run, weights=weights, resume=True)
    train(scenes, run, weights=tmp_path / "first.safetensors", resume=True)
    assert (run / WEIGHTS).exists()
