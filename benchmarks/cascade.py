"""A cascade of two networks against early exits of the large one, at the same mIoU on val: mean, p95 and worst latency.

    python benchmarks/cascade.py SMALL LARGE DATA --records S.records L.records --profiles S.profile L.profile --out DIR
        [--drops 0.5,1,2] [--images 58] [--json FILE]

Records are of val. For each accepted drop three deployments are chosen: the cascade (input-dependent), the large network's
exits by image, and one exit of it. All are trimmed, merged and run on evenly spaced images of test, image by image in turn,
with the large network without exits in one graph as 1.00. Worst is the slowest path that a deployment has: the mean over images
that took it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from offramp.artifacts import Profile, load_json, load_manifest, load_records
from offramp.console import print_table, showing_progress
from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.export.joining import merge_stages
from offramp.files import new_file
from offramp.metrics import count_pixels, miou
from offramp.progress import Progress
from offramp.runtime.engines import open_engine
from offramp.runtime.images import fit, resize_labels
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.search import search, search_cascade, write_cascade
from offramp.specs import Mode, SearchSpec
from offramp.trimming import trim

WAYS: dict[str, Mode] = {"cascade": "input-dependent", "exits by image": "input-dependent", "one exit": "budgeted"}


def prepare(options: argparse.Namespace, progress: Progress) -> dict[str, tuple[Predictor, float]]:
    """Choose, trim and load; with each what it is expected to have on val."""
    small, large = (
        (load_records(records), load_json(profile, Profile))
        for records, profile in zip(options.records, options.profiles, strict=True)
    )
    both = write_cascade(options.small, options.large, options.out / "both")
    found = {}
    for drop in map(float, options.drops.split(",")):
        for way, mode in WAYS.items():
            spec = SearchSpec(mode=mode, max_drop_pp=drop, max_exits=1)
            name = f"{way}, {drop:g} points"
            try:
                if way == "cascade":
                    chosen = search_cascade((small, large), both.package_id, spec, inputs={}, progress=progress)
                else:
                    chosen = search(*large, spec, inputs={}, progress=progress)
            except InputError as error:
                print(f"{name}: {error}")
                continue
            chosen.save(options.out / f"{name}.json")
            package = options.out / "both" if way == "cascade" else options.large
            trim(package, options.out / f"{name}.json", options.out / name, merge=merge_stages)
            predictor = Predictor(options.out / name, engine=chosen.engine, threads=chosen.threads, mode=mode)
            found[name] = (predictor, chosen.expected.miou)
    return found


def measure(
    options: argparse.Namespace, subjects: dict[str, tuple[Predictor, float]], progress: Progress
) -> list[dict[str, Any]]:
    """Every deployment and the original network on the same images of test, in turn."""
    profile = load_json(options.profiles[1], Profile)
    original = StagedNetwork(options.large, open_engine(profile.engine, profile.threads)).load_original()
    assert original is not None
    split, manifest = open_split(options.data, "test"), load_manifest(options.large)
    classes = len(manifest.classes)
    names = ["original", *subjects]
    counts = {name: np.zeros((3, classes), np.int64) for name in names}
    taken: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
    indices = np.unique(np.linspace(0, len(split) - 1, min(options.images, len(split))).round().astype(int)).tolist()
    for number, index in enumerate(indices):
        image, labels = split.pair(index)
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            if name == "original":
                started = perf_counter()
                answer = resize_labels(original(fit(image, manifest.size)), labels.shape)
                exit_name, took = name, (perf_counter() - started) * 1e3
            else:
                found = subjects[name][0](image)
                answer, exit_name, took = found.labels, found.exit, found.latency_ms
            counts[name] += np.stack(count_pixels(answer, labels, classes))
            taken[name].append((exit_name, took))
        progress("measure on test", number + 1, len(indices))
    return [
        {
            "name": name,
            "val": None if name == "original" else subjects[name][1],
            "miou": float(miou(*counts[name])),
            "exits": [exit_name for exit_name, _ in taken[name]],
            "times_ms": [round(took, 3) for _, took in taken[name]],
        }
        for name in names
    ]


def table(found: list[dict[str, Any]]) -> list[list[str]]:
    """Ratios to the original network's mean."""
    first = float(np.mean(found[0]["times_ms"]))
    lines = []
    for one in found:
        times, exits = np.array(one["times_ms"]), np.array(one["exits"])
        paths = {name: float(times[exits == name].mean()) for name in dict.fromkeys(one["exits"])}
        figures = [float(times.mean()), float(np.percentile(times, 95)), max(paths.values())]
        shares = ", ".join(f"{name} {np.mean(exits == name):.0%}" for name in paths)
        val = "" if one["val"] is None else f"{100 * one['val']:.1f}"
        lines.append([one["name"], val, f"{100 * one['miou']:.1f}", *(f"{value / first:.2f}" for value in figures), shares])
    return lines


def asked(description: str | None, packages: tuple[str, str], drops: str, images: int) -> argparse.Namespace:
    """The command line of this benchmark and of lowered.py: two packages, each with its records and profile."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (*packages, "data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--records", type=Path, nargs=2, required=True)
    parser.add_argument("--profiles", type=Path, nargs=2, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drops", default=drops)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def tell(name: str, found: list[dict[str, Any]], path: Path | None) -> None:
    """A table for people, a line of JSON for programs, and the same in a file."""
    columns = ["deployment", "val", "test", "mean", "p95", "worst", "images leave at"]
    title = f"{len(found[0]['times_ms'])} images; the original network takes {np.mean(found[0]['times_ms']):.0f} ms"
    print_table(title, columns, table(found))
    if path is not None:
        with new_file(path) as temporary:
            temporary.write_text(json.dumps({"title": title, "rows": found}) + "\n", encoding="utf-8")
    print(json.dumps({"benchmark": name, "rows": found}))


def main() -> None:
    """Choose, measure, print."""
    options = asked(__doc__, ("small", "large"), "0.5,1,2", 58)
    with showing_progress() as progress:
        found = measure(options, prepare(options, progress), progress)
    tell("cascade", found, options.json)


if __name__ == "__main__":
    main()
