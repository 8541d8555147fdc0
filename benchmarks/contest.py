"""Exits of a network against the networks that one would pick instead: mIoU on test and wall clock, all of them in turn.

    python benchmarks/contest.py prepare DATA STUDY --out runs/contest [--lowered PACKAGE]
    python benchmarks/contest.py measure DATA STUDY --out runs/contest --json docs/contest.json --svg docs/contest.svg

STUDY holds what `study/train.py` trained. `prepare` exports each network and makes a package of each single exit; LOWERED is
the package of the efficient network's exits in int8. `measure` runs all of them on images of test, image by image in turn, by
both engines, in one thread and in all. MIoU is the study's, over the seeds that were trained; where it has none, as in int8,
that of the first of these runs, which is on every image. Two more networks are timed with weights that one short epoch made:
nothing here trained them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from in_turn import Subject, mious_of, of_original, of_predictor, only, run_in_turn

from offramp.artifacts import MANIFEST, device_name, load_records
from offramp.console import print_table, showing_progress
from offramp.evaluation import evaluate
from offramp.export.joining import merge_stages
from offramp.export.package import export
from offramp.files import new_file
from offramp.profiling import profile
from offramp.progress import Progress
from offramp.report.svg import Canvas, Labels, Mark, Scale, widened
from offramp.runtime.predictor import Predictor
from offramp.search import search
from offramp.specs import EngineName, SearchSpec, TrainingSpec
from offramp.training.train import train
from offramp.trimming import trim

EFFICIENT, EFFICIENT32, DILATED = "stride 16, exits", "stride 32, exits", "stride 8, exits"
LOWERED = "stride 16, exits in int8"
WITH_EXITS = {
    EFFICIENT: [f"mnv2-os16-skip-exits-seed{seed}" for seed in (0, 1, 2)],
    EFFICIENT32: [f"mnv2-os32-skip-exits-seed{seed}" for seed in (0, 1, 2)],
    DILATED: ["mnv2-os8-fcn-exits", "mnv2-os8-fcn-exits-seed1", "mnv2-os8-fcn-exits-seed2"],
}
"""Fronts of the picture, by runs of the study; of several seeds the first is timed."""
ALONE = {
    "stride 16": [f"mnv2-os16-skip-seed{seed}" for seed in (0, 1, 2)],
    "stride 32": [f"mnv2-os32-skip-seed{seed}" for seed in (0, 1, 2)],
    "stride 8": ["mnv2-os8-fcn", "mnv2-os8-fcn-seed1", "mnv2-os8-fcn-seed2"],
    "FPN": ["fpn-0.001"],
    "U-Net": ["unet-0.0005"],
    "DeepLabV3+": ["deeplabv3plus-0.0005"],
    "LinkNet": ["linknet-0.001"],
    "FCN, stride 16": ["mnv2-os16-fcn"],
    "LR-ASPP": ["mnv2-os16-lraspp"],
}
"""Networks without exits on the same backbone; of two learning rates the one that is better on val."""
TIMED = {
    "LR-ASPP MobileNetV3-L": "torchvision:lraspp_mobilenet_v3_large",
    "SegFormer-B0": "transformers:SegformerForSemanticSegmentation",
}
"""Networks of which only the time is measured, by what `offramp train --network` calls them."""
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
EVERY = 3
"""Of the images of test one in so many is run, but for the first way to run them, which runs all."""


def prepare(data: Path, study: Path, out: Path, lowered: Path | None, progress: Progress) -> None:
    """Packages of everything; what is there is not made again."""
    for name, network in TIMED.items():
        if not (out / "alone" / name / MANIFEST).exists():
            next_to_nothing = TrainingSpec(
                epochs=1, exit_epochs=0, scheme="final-only", crop=(64, 64), batch_size=64, train_images=0
            )
            run = out / "untrained" / name
            train(data, run, network=network, exits=0, training=next_to_nothing, resume=True, progress=progress)
            export(run, out / "alone" / name, progress=progress)
    for name, (trained, *_) in ALONE.items():
        if not (out / "alone" / name / MANIFEST).exists():
            export(study / trained, out / "alone" / name, progress=progress)
    for front, (trained, *_) in WITH_EXITS.items():
        package = out / "whole" / front
        if not (package / MANIFEST).exists():
            export(study / trained, package, progress=progress)
        cut(front, package, data, out, progress)
    if lowered is not None:
        cut(LOWERED, lowered, data, out, progress)


def cut(front: str, package: Path, data: Path, out: Path, progress: Progress) -> None:
    """A package of each exit alone, all that runs in one graph."""
    kept = out / f"{front}.val.records"
    if not kept.exists():
        evaluate(package, data, "val", progress=progress).save(kept)
    records, costs = load_records(kept), None
    for name in records.info.exits:
        target = out / "exits" / front / plain(name)
        if not (target / MANIFEST).exists():
            costs = costs or profile(package, threads=1, passes=5, energy_seconds=0, progress=progress)
            chosen = search(*only(records, costs, [name]), SearchSpec(mode="budgeted", min_miou=0.0), inputs={})
            chosen.save(out / "exits" / front / f"{plain(name)}.json")
            trim(package, out / "exits" / front / f"{plain(name)}.json", target, merge=merge_stages)


def plain(name: str) -> str:
    """An exit's tap, which is its name where it stands alone."""
    return name.partition("+")[0].partition(":")[0]


def subjects_of(out: Path, study: dict[str, Any], engine: EngineName, threads: int) -> list[Subject]:
    """Everything that was prepared."""
    found = []
    for name in (*ALONE, *TIMED):
        facts: dict[str, Any] = {"front": "alone" if name in ALONE else "timed"} | seeds_of(study, ALONE.get(name, []), "final")
        found.append(of_original(name, out / "alone" / name, engine, threads, facts))
    for front in (*WITH_EXITS, LOWERED):
        if (out / f"{front}.val.records").exists():
            records = load_records(out / f"{front}.val.records")
            for exit_name, val in zip(records.info.exits, mious_of(records), strict=True):
                facts = {"front": front} | (seeds_of(study, WITH_EXITS.get(front, []), exit_name) or {"val": [float(val)]})
                predictor = Predictor(out / "exits" / front / plain(exit_name), engine=engine, threads=threads)
                found.append(of_predictor(plain(exit_name), predictor, facts))
    return found


def seeds_of(study: dict[str, Any], runs: Sequence[str], exit_name: str) -> dict[str, list[float]]:
    """An exit's mIoU on val and on test, by seed."""
    return {split: [study[run]["miou"][split][exit_name] for run in runs] for split in ("val", "test") if runs}


def tested(row: dict[str, Any]) -> list[float]:
    """MIoU on test in %, by seed."""
    return [100 * value for value in row["test"]]


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each subject, a column for the mean time in each way to run it."""
    lines = []
    for place, one in enumerate(runs[0]["rows"]):
        val = f"{100 * np.mean(one['val']):.1f}" if "val" in one else ""
        test = "" if one["front"] == "timed" else spread(tested(one))
        times = [f"{np.mean(run['rows'][place]['times_ms']):.1f}" for run in runs]
        name = one["name"] if one["front"] in {"alone", "timed"} else f"{one['front']}: {one['name']}"
        lines.append([name, val, test, *times])
    return lines


def margins(run: dict[str, Any], fronts: Sequence[str]) -> list[list[str]]:
    """For each other network: the exit that is best on val in no more time, and the fastest that is as good there."""
    times = [float(np.mean(row["times_ms"])) for row in run["rows"]]
    ours = [(time, row) for time, row in zip(times, run["rows"], strict=True) if row["front"] in fronts]
    lines = []
    for time, other in zip(times, run["rows"], strict=True):
        if other["front"] != "alone":
            continue
        cells = []
        no_slower = [(one, row) for one, row in ours if one <= time]
        no_worse = [(one, row) for one, row in ours if np.mean(row["val"]) >= np.mean(other["val"])]
        best = max(no_slower, key=lambda pair: float(np.mean(pair[1]["val"])), default=None)
        fastest = min(no_worse, key=lambda pair: pair[0], default=None)
        for one in (best, fastest):
            if one is None:
                cells.append("none")
                continue
            gain = np.mean(tested(one[1])) - np.mean(tested(other))
            cells.append(f"{one[1]['front']}, {one[1]['name']}: {gain:+.1f} points, {time / one[0]:.2f} times as fast")
        lines.append([other["name"], *cells])
    return lines


STYLE = """
text{font:12px system-ui,sans-serif;fill:#333} line.grid{stroke:#ddd} .axis{stroke:#666} .tick{fill:#666}
.mark.a{fill:#d55e00} .mark.b{fill:#0072b2} .mark.c{fill:#009e73} .mark.d{fill:#cc79a7} .mark.n{fill:#333}
.time{stroke:#999;stroke-dasharray:3 3} .spread{stroke:#333;stroke-opacity:.45}
.link{fill:none;stroke-width:1.5} .link.a{stroke:#d55e00} .link.b{stroke:#0072b2} .link.c{stroke:#009e73}
.link.d{stroke:#cc79a7}
"""
LOOKS = {LOWERED: Mark("a", "diamond"), EFFICIENT: Mark("b"), EFFICIENT32: Mark("d"), DILATED: Mark("c", "triangle")}
LEAST_SHOWN = 58.0
"""MIoU below which the picture leaves exits out; the table holds all."""


def draw(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """MIoU on test against mean latency: a line for each network with exits, a mark for each without."""
    trained = [row for row in rows if row["front"] != "timed" and np.mean(tested(row)) >= LEAST_SHOWN]
    points = [(float(np.mean(row["times_ms"])), float(np.mean(tested(row))), row) for row in trained]
    x = Scale(0, 1.04 * max(at for at, *_ in points), 48, 980)
    y = Scale(*widened([value for _, value, _ in points]), 540, 24)
    canvas = Canvas(1000, 590, title)
    canvas.axes(x, y, "mean latency, ms", "mIoU on test, %")
    for row in rows:
        at = float(np.mean(row["times_ms"]))
        if row["front"] == "timed" and at < x.hi:
            canvas.line(x(at), y.start, x(at), y.stop, "time")
            canvas.text(x(at) + 4, y.start - 8, f"{row['name']} (time alone)")
    fronts = {front: sorted((at, value) for at, value, row in points if row["front"] == front) for front in LOOKS}
    lines = {front: [(x(at), y(value)) for at, value in line] for front, line in fronts.items()}
    along = [between(one, other, part / 20) for line in lines.values() for one, other in pairwise(line) for part in range(21)]
    labels = Labels(canvas, x, y, [*along, *((x(at), y(value)) for at, value, _ in points)])
    legend = {**LOOKS, "another network, or one without exits": Mark("n", "square")}
    for number, (front, mark) in enumerate(legend.items()):
        canvas.path(lines.get(front, []), f"link {mark.css}")
        canvas.mark(x.stop - 320, 400 + 18 * number, mark, size=4)
        canvas.text(x.stop - 308, 404 + 18 * number, front)
    for at, value, row in points:
        canvas.line(x(at), y(min(tested(row))), x(at), y(max(tested(row))), "spread")
        mark = LOOKS.get(row["front"], Mark("n", "square"))
        canvas.mark(x(at), y(value), mark, size=4, title=f"{row['front']}, {row['name']}: {value:.1f} %, {at:.1f} ms")
    for at, value, row in points:
        if row["front"] == "alone":
            _ = labels.place(x(at), y(value), row["name"]) or labels.place(x(at), y(value) + 30, row["name"])
    with new_file(path) as temporary:
        temporary.write_text(canvas.as_file(STYLE), encoding="utf-8")


def between(one: tuple[float, float], other: tuple[float, float], part: float) -> tuple[float, float]:
    """A place on the way from one to the other."""
    return one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1])


def measure(data: Path, study: Path, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """By each engine, in one thread and in all."""
    cores = len(os.sched_getaffinity(0))
    trained = json.loads((study / "study.json").read_text(encoding="utf-8"))["runs"]
    runs: list[dict[str, Any]] = []
    for engine in ENGINES:
        for threads in sorted({1, cores}):
            kept = out / f"measured {engine} {threads}.json"
            if not kept.exists():
                subjects = subjects_of(out, trained, engine, threads)
                rows = run_in_turn(data, subjects, progress, every=EVERY if runs else 1)
                with new_file(kept) as temporary:
                    temporary.write_text(json.dumps({"engine": engine, "threads": threads, "rows": rows}), encoding="utf-8")
            runs.append(json.loads(kept.read_text(encoding="utf-8")))
            for row, first in zip(runs[-1]["rows"], runs[0]["rows"], strict=True):
                row.setdefault("test", [first["miou"]])  # of all images, where later runs see some of them
    return runs


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lowered", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    asked = parser.parse_args()
    with showing_progress() as progress:
        if asked.step == "prepare":
            prepare(asked.data, asked.study, asked.out, asked.lowered, progress)
            return
        runs = measure(asked.data, asked.study, asked.out, progress)
    if asked.json is not None:
        with new_file(asked.json) as temporary:
            whole = {"benchmark": "contest", "device": device_name(), "runs": runs}
            temporary.write_text(json.dumps(whole) + "\n", encoding="utf-8")
    first = runs[0]
    if asked.svg is not None:
        draw(asked.svg, first["rows"], f"MobileNetV2 on CamVid, {first['engine']}, one thread: exits against other networks")
    title = f"mean ms by engine and threads; mIoU of {len(first['rows'][0]['times_ms'])} images of test"
    columns = [f"{run['engine']}, {run['threads']}" for run in runs]
    print_table(title, ["network", "val", "test", *columns], table(runs))
    for run in runs:
        for fronts in ([EFFICIENT, EFFICIENT32, DILATED], [LOWERED]):
            title = f"{run['engine']}, {run['threads']} threads: chosen on val among {'; '.join(fronts)}"
            print_table(title, ["against", "no slower", "no worse"], margins(run, fronts))


if __name__ == "__main__":
    main()
