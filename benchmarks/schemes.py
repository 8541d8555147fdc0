"""What each training scheme, and each way to teach phase 2, gives every exit: mIoU, equal epochs, the same seeds.

    python benchmarks/schemes.py DATA --weights mobilenetv2_100.safetensors --out runs/schemes [--epochs 30] [--seeds 0,1,2]

Schemes that begin alike share that part: `two-phase` is trained once to the end of phase 1, and its phase 2 goes on from there
with each kind of distillation; `frozen` does so from `final-only`. That gives the weights that whole runs would give. The
command goes on where it stopped if it is given again, and prints a table of what is finished; raw numbers are in
OUT/schemes.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.artifacts import device_name
from offramp.console import Listener, print_table, showing_progress
from offramp.data.folder import open_split
from offramp.files import new_file
from offramp.models.checkpoint import load_network
from offramp.specs import FINAL, Distillation, Filtered, Scheme, TrainingSpec
from offramp.training.distributed import World
from offramp.training.state import read_history
from offramp.training.train import train
from offramp.training.validation import mious

TAPS = ("blocks.2.2", "blocks.3.3", "blocks.4.2", "blocks.5.2")


@dataclass(frozen=True)
class Setting:
    """A row of the table."""

    scheme: Scheme
    distillation: Distillation = "none"
    begins_with: str | None = None
    """The row whose weights it begins with; it then trains early heads alone."""
    whole: bool = True
    """Whether it is a row; else it is trained for others to begin with."""
    filtered: Filtered = "labels"
    truth_weight: float = 0.5
    temperature: float = 1.0
    longer: int = 1
    """So many times the epochs of phase 2."""


SETTINGS: dict[str, Setting] = {
    "phase 1": Setting("two-phase", whole=False),
    "two-phase, positive filtering": Setting("two-phase", "positive", "phase 1"),
    "two-phase, labels alone": Setting("two-phase", "none", "phase 1"),
    "final exit only": Setting("final-only"),
    "frozen, labels alone": Setting("frozen", "none", "final exit only"),
    "joint": Setting("joint"),
    "two-phase, plain distillation": Setting("two-phase", "plain", "phase 1"),
    "frozen, plain distillation": Setting("frozen", "plain", "final exit only"),
    "frozen, positive filtering": Setting("frozen", "positive", "final exit only"),
}
"""In the order in which they are trained."""

VARIANTS: dict[str, Setting] = {
    "teacher's term filtered": Setting("two-phase", "positive", "phase 1", filtered="teacher"),
    "both terms filtered": Setting("two-phase", "positive", "phase 1", filtered="both"),
    "teacher's term filtered, a = 0.8": Setting("two-phase", "positive", "phase 1", filtered="teacher", truth_weight=0.8),
    "teacher's term filtered, T = 2": Setting("two-phase", "positive", "phase 1", filtered="teacher", temperature=2),
    "labels' term filtered, a = 0.8": Setting("two-phase", "positive", "phase 1", truth_weight=0.8),
    "labels alone, 3x longer": Setting("two-phase", "none", "phase 1", longer=3),
    "labels' term filtered, 3x longer": Setting("two-phase", "positive", "phase 1", longer=3),
    "teacher's term filtered, 3x longer": Setting("two-phase", "positive", "phase 1", filtered="teacher", longer=3),
    "joint, then labels alone": Setting("two-phase", "none", "joint"),
    "joint, then positive filtering": Setting("two-phase", "positive", "joint"),
}
"""Of phase 2: which term is filtered, the weight of the labels' term, the temperature, the length."""
ALL = SETTINGS | VARIANTS


def run_one(name: str, seed: int, options: argparse.Namespace, progress: Listener) -> Path:
    """Train one setting with one seed, unless that is done; its folder."""
    setting = ALL[name]
    folder: Path = options.out / f"seed{seed}" / name.replace(", ", "-").replace("'", "").replace(" ", "_")
    spec = TrainingSpec(
        scheme=setting.scheme,
        epochs=0 if setting.begins_with else options.epochs,
        exit_epochs=options.exit_epochs * setting.longer if setting.whole else 0,
        distillation=setting.distillation,
        filtered=setting.filtered,
        truth_weight=setting.truth_weight,
        temperature=setting.temperature,
        seed=seed,
        validate_every=options.validate_every,
    )
    train(
        options.data,
        folder,
        network=options.network,
        weights=None if setting.begins_with else options.weights,
        start=run_one(setting.begins_with, seed, options, progress) if setting.begins_with else None,
        training=spec,
        resume=True,
        progress=progress,
        said=progress.line,
        taps=TAPS,
        heads=tuple(options.heads.split(",")),
        final_head=options.final_head,
    )
    return folder


def measure(folder: Path, data: Path, split: str) -> dict[str, float]:
    """Every exit's mIoU on a split; kept in the folder once it is measured."""
    kept = folder / f"{split}.json"
    if not kept.exists():
        network, _ = load_network(folder)
        images = open_split(data, split)
        found = mious(network, images, range(len(images)), network.spec.exit_names, World())
        with new_file(kept) as temporary:
            temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    measured: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return measured


def show(title: str, rows: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print the table: the mean over the seeds, and with more than one their smallest and largest."""
    exits = list(dict.fromkeys(name for seeds in rows.values() for found in seeds.values() for name in found))
    exits = [*(name for name in exits if name != FINAL), FINAL]

    def cell(seeds: dict[int, dict[str, float]], name: str) -> str:
        values = [100 * found[name] for found in seeds.values() if name in found]
        if not values:
            return ""
        spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
        return f"{np.mean(values):.1f}{spread}"

    table = [[name, str(len(seeds)), *(cell(seeds, one) for one in exits)] for name, seeds in rows.items()]
    print_table(title, ["scheme", "seeds", *exits], table)


def main() -> None:
    """Train and measure what is not done yet, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--heads", default="skip")
    parser.add_argument("--final-head", default="skip/c128/r2/b2/d")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--exit-epochs", type=int, default=8)
    parser.add_argument("--validate-every", type=int, default=10)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", nargs="*", choices=list(ALL), default=list(ALL))
    options = parser.parse_args()
    mious_of: dict[str, dict[str, dict[int, dict[str, float]]]] = {"val": {}, "test": {}}
    minutes: dict[str, float] = {}
    memory_mb: dict[str, float] = {}
    with showing_progress() as progress:
        for seed in map(int, options.seeds.split(",")):
            for name in options.only:
                folder = run_one(name, seed, options, progress)
                history = read_history(folder)
                minutes[f"{name}, seed {seed}"] = round(sum(float(row["seconds"]) for row in history) / 60, 1)
                memory_mb[f"{name}, seed {seed}"] = max(float(row["memory_mb"]) for row in history)
                if not ALL[name].whole:
                    continue
                for split, rows in mious_of.items():
                    rows.setdefault(name, {})[seed] = measure(folder, options.data, split)
                    progress.line(f"{name}, seed {seed}, {split}: {rows[name][seed]}")
    values = {
        "benchmark": "schemes",
        "device": device_name(),
        "epochs": options.epochs,
        "exit_epochs": options.exit_epochs,
        "final_head": options.final_head,
        "heads": options.heads,
        "miou": mious_of,
        "training_minutes": minutes,
        "peak_memory_mb": memory_mb,
    }
    with new_file(options.out / "schemes.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for split, rows in mious_of.items():
        show(f"schemes, mIoU on {split}, %", {name: found for name, found in rows.items() if name in SETTINGS})
    variants = {name: found for name, found in mious_of["val"].items() if name in VARIANTS}
    if variants:
        show("phase 2 of two-phase, mIoU on val, %", variants)
    print(json.dumps(values))


if __name__ == "__main__":
    main()
