"""Exits of a network against the networks that one would pick instead: mIoU on test and wall clock, all of them in turn.

    python benchmarks/contest.py prepare DATA STUDY --out runs/contest [--lowered PACKAGE]
    python benchmarks/contest.py measure DATA --out runs/contest --json docs/contest.json --svg docs/contest.svg

STUDY holds what `study/train.py` trained. `prepare` exports each network and makes a package of each single exit; LOWERED is
the package of the efficient network's exits in int8. `measure` runs all of them on every image of test, image by image in turn,
by both engines, in one thread and in all. Two more networks are timed with weights
that one short epoch made: nothing here trained them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from approximations import Subject, mious_of, only
from approximations import measure as run_in_turn

from offramp.artifacts import MANIFEST, load_manifest, load_records
from offramp.console import print_table, showing_progress
from offramp.evaluation import evaluate
from offramp.export.joining import merge_stages
from offramp.export.package import export
from offramp.files import new_file
from offramp.profiling import profile
from offramp.progress import Progress
from offramp.report.svg import Canvas, Labels, Mark, Scale, widened
from offramp.runtime.engines import StagedNetwork, open_engine
from offramp.runtime.predictor import Predictor, fit
from offramp.search import search
from offramp.specs import EngineName, SearchSpec, TrainingSpec
from offramp.training.train import train
from offramp.trimming import trim

Pixels = npt.NDArray[np.uint8]

EFFICIENT, DILATED, LOWERED = "efficient, exits", "dilated, exits", "efficient, exits in int8"
WITH_EXITS = {EFFICIENT: "mnv2-os16-skip-exits-seed0", DILATED: "mnv2-os8-fcn-exits"}
"""Fronts of the picture, by runs of the study."""
ALONE = {
    "efficient": "mnv2-os16-skip-seed0",
    "dilated": "mnv2-os8-fcn",
    "FPN": "fpn-0.001",
    "U-Net": "unet-0.001",
    "DeepLabV3+": "deeplabv3plus-0.001",
    "FCN, stride 16": "mnv2-os16-fcn",
    "LR-ASPP": "mnv2-os16-lraspp",
}
"""Networks without exits on the same backbone, by runs of the study; those that are not trained yet are left out."""
TIMED = {
    "LR-ASPP MobileNetV3-L": "torchvision:lraspp_mobilenet_v3_large",
    "SegFormer-B0": "transformers:SegformerForSemanticSegmentation",
}
"""Networks of which only the time is measured, by what `offramp train --network` calls them."""
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


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
    for name, trained in ALONE.items():
        if (study / trained / "weights.safetensors").exists() and not (out / "alone" / name / MANIFEST).exists():
            export(study / trained, out / "alone" / name, progress=progress)
    for front, trained in WITH_EXITS.items():
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


def of_exit(front: str, package: Path, val: float, engine: EngineName, threads: int) -> Subject:
    """One exit with all that it needs, loaded."""
    predictor = Predictor(package, engine=engine, threads=threads)

    def answer(image: Pixels) -> tuple[Pixels, str, float]:
        found = predictor(image)
        return found.labels, found.exit, found.latency_ms

    return Subject(package.name, None, predictor.manifest, answer, {"front": front, "val": val})


def of_network(name: str, package: Path, engine: EngineName, threads: int) -> Subject:
    """A network without exits, in one graph."""
    network = StagedNetwork(package, open_engine(engine, threads))
    original = network.load_original()
    assert original is not None

    def answer(image: Pixels) -> tuple[Pixels, str, float]:
        started = perf_counter()
        labels = original(fit(image, network.manifest.size))
        return labels, "original", (perf_counter() - started) * 1e3

    return Subject(name, None, network.manifest, answer, {"front": "timed" if name in TIMED else "alone", "val": None})


def subjects_of(out: Path, engine: EngineName, threads: int) -> list[Subject]:
    """Everything that was prepared."""
    found = [
        of_network(name, out / "alone" / name, engine, threads)
        for name in (*ALONE, *TIMED)
        if (out / "alone" / name / MANIFEST).exists()
    ]
    for front in (*WITH_EXITS, LOWERED):
        if (out / f"{front}.val.records").exists():
            records = load_records(out / f"{front}.val.records")
            pairs = zip(records.info.exits, mious_of(records), strict=True)
            found += [of_exit(front, out / "exits" / front / plain(name), float(val), engine, threads) for name, val in pairs]
    return found


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each subject, a column for the mean time in each way to run it."""
    lines = []
    for place, one in enumerate(runs[0]["rows"]):
        val = "" if one["val"] is None else f"{100 * one['val']:.1f}"
        test = "" if one["front"] == "timed" else f"{100 * one['miou']:.1f}"
        times = [f"{np.mean(run['rows'][place]['times_ms']):.1f}" for run in runs]
        name = one["name"] if one["front"] in {"alone", "timed"} else f"{one['front']}: {one['name']}"
        lines.append([name, val, test, *times])
    return lines


STYLE = """
text{font:12px system-ui,sans-serif;fill:#333} line.grid{stroke:#ddd} .axis{stroke:#666} .tick{fill:#666}
.mark.a{fill:#d55e00} .mark.b{fill:#0072b2} .mark.c{fill:#009e73} .mark.n{fill:#333}
.time{stroke:#999;stroke-dasharray:3 3}
.link{fill:none;stroke-width:1.5} .link.a{stroke:#d55e00} .link.b{stroke:#0072b2} .link.c{stroke:#009e73}
"""
LOOKS = {LOWERED: Mark("a", "diamond"), EFFICIENT: Mark("b"), DILATED: Mark("c", "triangle")}
LEAST_SHOWN = 52.0
"""MIoU below which the picture leaves exits out; the table holds all."""


def draw(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """MIoU on test against mean latency: a line for each network with exits, a mark for each without."""
    trained = [row for row in rows if row["front"] != "timed" and 100 * row["miou"] >= LEAST_SHOWN]
    points = [(float(np.mean(row["times_ms"])), 100 * row["miou"], row) for row in trained]
    x = Scale(0, 1.05 * max(at for at, *_ in points), 48, 760)
    y = Scale(*widened([value for _, value, _ in points]), 400, 24)
    canvas = Canvas(780, 450, title)
    canvas.axes(x, y, "mean latency, ms", "mIoU on test, %")
    for row in rows:
        at = float(np.mean(row["times_ms"]))
        if row["front"] == "timed" and at < x.hi:
            canvas.line(x(at), y.start, x(at), y.stop, "time")
            canvas.text(x(at) + 4, y.start - 8, f"{row['name']} (time alone)")
    labels = Labels(canvas, x, y, [(x(at), y(value)) for at, value, _ in points])
    for number, (front, mark) in enumerate(LOOKS.items()):
        line = sorted((at, value) for at, value, row in points if row["front"] == front)
        canvas.path([(x(at), y(value)) for at, value in line], f"link {mark.css}")
        canvas.mark(x.stop - 200, 330 + 16 * number, mark, size=4)
        canvas.text(x.stop - 188, 334 + 16 * number, front)
    for at, value, row in points:
        mark = LOOKS.get(row["front"], Mark("n", "square"))
        canvas.mark(x(at), y(value), mark, size=4, title=f"{row['front']}, {row['name']}: {value:.1f} %, {at:.1f} ms")
    for at, value, row in points:
        if row["front"] == "alone":
            labels.place(x(at), y(value), row["name"])
    with new_file(path) as temporary:
        temporary.write_text(canvas.as_file(STYLE), encoding="utf-8")


def measure(data: Path, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """By each engine, in one thread and in all."""
    cores = len(os.sched_getaffinity(0))
    runs = []
    for engine in ENGINES:
        for threads in sorted({1, cores}):
            kept = out / f"measured {engine} {threads}.json"
            if not kept.exists():
                rows = run_in_turn(data, subjects_of(out, engine, threads), progress)
                with new_file(kept) as temporary:
                    temporary.write_text(json.dumps({"engine": engine, "threads": threads, "rows": rows}), encoding="utf-8")
            runs.append(json.loads(kept.read_text(encoding="utf-8")))
    return runs


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lowered", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    asked = parser.parse_args()
    with showing_progress() as progress:
        if asked.step == "prepare":
            prepare(asked.data, asked.study, asked.out, asked.lowered, progress)
            return
        runs = measure(asked.data, asked.out, progress)
    first = runs[0]
    manifest = load_manifest(out_package(asked.out))
    title = f"{len(first['rows'][0]['times_ms'])} images of test, {manifest.size[0]}x{manifest.size[1]}"
    columns = [f"{run['engine']}, {run['threads']}" for run in runs]
    print_table(f"{title}; mean ms by engine and threads", ["network", "val", "test", *columns], table(runs))
    if asked.svg is not None:
        draw(asked.svg, first["rows"], f"mIoU on test against latency, {first['engine']}, one thread")
    if asked.json is not None:
        with new_file(asked.json) as temporary:
            temporary.write_text(json.dumps({"title": title, "runs": runs}) + "\n", encoding="utf-8")


def out_package(out: Path) -> Path:
    """A package of those that were prepared."""
    return out / "whole" / EFFICIENT


if __name__ == "__main__":
    main()
