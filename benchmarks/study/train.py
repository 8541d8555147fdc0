"""Train the study's networks and measure every exit of theirs on val and test.

    python benchmarks/study/train.py DATA WEIGHTS --out runs/study [--only 'mnv2-*'] [--parallel 8]

DATA holds the folders `camvid` and `msrc_v2`, WEIGHTS the backbones' ImageNet weights. Each run has a folder and a log in OUT.
The command goes on where it stopped if it is given again. With `--parallel` so many trainings share the machine, for GPUs
that one of these small networks leaves idle; `nvidia-cuda-mps-control -d` before it lets them compute at the same time.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from plan import EPOCHS, RECIPE, RUNS, WEIGHTS, StudyRun
from safetensors.torch import load_file, save_file

from offramp.console import print_table
from offramp.data.folder import open_split
from offramp.files import new_file
from offramp.models.checkpoint import load_network
from offramp.models.sources import build
from offramp.specs import TrainingSpec
from offramp.training.distributed import World
from offramp.training.state import read_history
from offramp.training.train import train
from offramp.training.validation import mious


def train_one(name: str, options: argparse.Namespace) -> None:
    """Train one network, unless that is done, and measure it."""
    run, folder = RUNS[name], options.out / name
    data = options.data / run.data
    weights = options.weights / WEIGHTS[run.network]
    if run.encoder:
        weights = whole_weights(run, data, weights, options.out / "start" / f"{name}.safetensors")
    spec = TrainingSpec(epochs=round(options.epochs * run.epochs), **(RECIPE | run.training))
    train(data, folder, weights=weights, training=spec, resume=True, said=lambda line: print(line, flush=True), **run.choice)
    for split in ("val", "test"):
        measure(folder, data, split)


def whole_weights(run: StudyRun, data: Path, encoder: Path, path: Path) -> Path:
    """Weights of a whole network whose encoder has ImageNet's and whose decoder is new."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        classes = len(open_split(data, "train").classes.names)
        network = build(run.choice["network"], classes).network
        assert run.encoder
        part = network.get_submodule(run.encoder)
        missing, _ = part.load_state_dict({key: value.float() for key, value in load_file(encoder).items()}, strict=False)
        assert not missing, missing
        with new_file(path) as temporary:
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, temporary)
    return path


def measure(folder: Path, data: Path, split: str) -> None:
    """Every exit's mIoU on a split, into FOLDER/SPLIT.json."""
    kept = folder / f"{split}.json"
    if not kept.exists():
        network, _ = load_network(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        images = open_split(data, split)
        found = mious(network, images, range(len(images)), network.spec.exit_names, World(device=device))
        with new_file(kept) as temporary:
            temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(split, kept.read_text(encoding="utf-8"), flush=True)


def collect(out: Path) -> None:
    """What is finished, into OUT/study.json: every exit's mIoU, epochs, seconds of training."""
    found: dict[str, dict[str, Any]] = {}
    for name in RUNS:
        folder = out / name
        if (folder / "test.json").exists():
            history = read_history(folder)
            seconds = round(sum(float(row["seconds"]) for row in history), 1)
            found[name] = {"epochs": len(history), "seconds": seconds, "miou": {}}
            for split in ("val", "test"):
                found[name]["miou"][split] = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    with new_file(out / "study.json") as temporary:
        temporary.write_text(json.dumps({"benchmark": "study", "runs": found}, indent=1) + "\n", encoding="utf-8")
    rows = [[name, one_line(run["miou"]["val"]), one_line(run["miou"]["test"])] for name, run in found.items()]
    print_table("mIoU of every exit, %", ["run", "val", "test"], rows)


def one_line(figures: dict[str, float]) -> str:
    """Exits in order of depth."""
    return " / ".join(f"{100 * value:.1f}" for value in figures.values())


def in_a_process(name: str, options: argparse.Namespace) -> None:
    """Train one network in a process of its own, which writes OUT/NAME.log."""
    command = [sys.executable, __file__, str(options.data), str(options.weights), "--out", str(options.out)]
    started = time.monotonic()
    with (options.out / f"{name}.log").open("a", encoding="utf-8") as log:
        ended = subprocess.run(
            [*command, "--one", name, "--epochs", str(options.epochs)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(
        f"{name}: {'done' if ended.returncode == 0 else 'FAILED, see its log'}, {time.monotonic() - started:.0f} s", flush=True
    )


def main() -> None:
    """Train what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--only", default="*", help="names, with * for anything; several with commas")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        train_one(options.one, options)
        return
    names = [name for name in RUNS if any(fnmatch.fnmatch(name, wanted) for wanted in options.only.split(","))]
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda name: in_a_process(name, options), names))
    collect(options.out)


if __name__ == "__main__":
    main()
