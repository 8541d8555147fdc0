"""The step `train`: killed runs end as if never killed, every option reaches the training, and what a run leaves."""

import csv
import os
import signal
import subprocess
import sys

import torch
from safetensors.torch import load_file

from offramp.models.checkpoint import WEIGHTS, load_network, load_network_file
from offramp.specs import FINAL, TrainingSpec
from offramp.training.state import BEST, STATE, read_history
from offramp.training.train import HALVING, train

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
spec = TrainingSpec(epochs=3, exit_epochs=2, crop=(64, 48), batch_size=4, seed=11, averaging=0.9, keep="best", halving=1)


def progress(text, done, total):
    if text.split(":")[0] + f":{done}" == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)


options = dict(network="test_efficientnet", exits=2, heads=("fcn", "lraspp"), training=spec)
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
    own = {"seconds": "", "memory_mb": ""}  # of the process, not of what it computes
    untimed = [[{**row, **own} for row in read_history(folder)] for folder in (run, fresh)]
    assert (run / HALVING).read_text(encoding="utf-8") == (fresh / HALVING).read_text(encoding="utf-8")
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 5


def test_the_history_has_a_column_for_every_figure(trained_run):
    exits = load_network_file(trained_run).network.exit_names
    assert len(exits) == 3
    with (trained_run / "history.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    figures = [f"{split}:{name}" for split in ("miou", "train_miou") for name in exits]
    assert header == ["phase", "epoch", "loss", "learning_rate", "seconds", "memory_mb", *figures]
    assert [row[:2] for row in rows] == [["phase 1", "1"], ["phase 1", "2"], ["phase 2", "1"]]
    for row in rows:
        loss, rate, seconds, memory, *mious = map(float, row[2:])
        assert loss > 0
        assert 0 < rate <= 1e-3
        assert seconds >= 0
        assert memory > 50
        assert all(0 <= value <= 1 for value in mious)


def test_phase_2_improves_nothing_but_early_exits(trained_run):
    _, before, after = read_history(trained_run)
    early = [name for name in before if name.startswith("miou:") and name != f"miou:{FINAL}"]
    assert before[f"miou:{FINAL}"] == after[f"miou:{FINAL}"]
    assert all(before[name] != after[name] for name in early)


def test_final_only_has_no_early_exits(begin, tmp_path):
    network = begin(tmp_path / "run", scheme="final-only", epochs=1, exit_epochs=1)
    assert network.spec.exit_names == (FINAL,)
    assert [row["phase"] for row in read_history(tmp_path / "run")] == ["phase 1"]


def test_of_dropped_heads_nothing_stays(begin, tmp_path):
    run = tmp_path / "run"
    heads = ("fcn", "fcn/r4", "lraspp")
    network = begin(run, epochs=0, exit_epochs=3, start=first_run(begin, tmp_path), halving=1, heads=heads)
    with (run / HALVING).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1"] * 6
    stay = [row["exit"] for row in rows if row["stays"] == "yes"]
    assert len(stay) == 4
    assert network.spec.exit_names == (*stay, FINAL)
    measured = [row for row in read_history(run) if row["phase"] == "phase 2"]
    assert {name for name in measured[2] if name.startswith("miou:") and measured[2][name]} == {
        f"miou:{n}" for n in (*stay, FINAL)
    }
    assert network(torch.zeros(1, 3, 64, 96)).keys() == {*stay, FINAL}


def first_run(begin, tmp_path):
    begin(tmp_path / "first", scheme="final-only")
    return tmp_path / "first"


def test_the_best_weights_are_kept_if_asked(begin, tmp_path, monkeypatch):
    figures = iter([0.5, 0.9, 0.1])
    states = []

    def measure(network, *_, **__):
        def figure(_exits):
            states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            return {f"miou:{FINAL}": next(figures)}

        return figure

    monkeypatch.setattr("offramp.training.train.validator", measure)
    network = begin(tmp_path / "run", epochs=3, keep="best")
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in load_file(tmp_path / "run" / BEST).items())


def test_lines_sum_up_epochs(scenes, tmp_path):
    lines = []
    spec = QUICK.model_copy(update={"exit_epochs": 1})
    train(scenes, tmp_path / "run", network="test_efficientnet", exits=1, training=spec, said=lines.append)
    assert [line.split(":")[0] for line in lines] == ["phase 1 1/1", "phase 2 1/1"]
    assert all(f"{FINAL} 0." in line for line in lines)


def test_every_option_reaches_the_training(begin, tmp_path):
    """Each at another value than its default changes the weights."""
    changes = {
        "optimiser": "sgd",
        "schedule": "cosine",
        "warm_up": 0.9,
        "averaging": 0.9,
        "jitter": 0.0,
        "flip": False,
        "zoom": (1.0, 1.0),
        "class_weights": False,
        "hard_share": 0.3,
        "weight_decay": 0.4,
        "precision": "bfloat16",
    }
    seen = []
    for name, value in {"seed": 11, **changes}.items():
        network = begin(tmp_path / name, exits=1, train_images=0, epochs=2, validate_every=2, **{name: value})
        seen.append(network.state_dict()["final_head.classify.weight"])
    assert not any(torch.equal(one, other) for place, one in enumerate(seen) for other in seen[:place])


def test_a_crop_that_is_no_multiple_of_the_stride_trains(scenes, tmp_path):
    spec = QUICK.model_copy(update={"crop": (90, 41)})
    train(scenes, tmp_path / "run", network="test_efficientnet", exits=2, training=spec)
    network, _ = load_network(tmp_path / "run")
    assert network(torch.zeros(1, 3, 41, 90))[FINAL].shape[2:] == (3, 6)
