"""Every approximation alone and mixtures of them, side by side: what each keeps of the accuracy and takes of the time.

    python benchmarks/approximations.py prepare DATA RUNS --out runs/approximations [--engine openvino] [--threads 2]
    python benchmarks/approximations.py measure DATA --out runs/approximations [--engine openvino] [--threads 2] --json FILE

RUNS holds finished runs of `offramp train` and `offramp prune`, by the names in `RUNS` below. `prepare` exports, lowers,
evaluates on val, profiles and searches; what is there already is not made again (`packages` does the first half, on a machine
that need not be idle). `measure` runs what was chosen by val on every image of test, image by image in turn, in one process,
against the network without exits in one graph of fp32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from in_turn import Subject, mious_of, of_original, of_predictor, only, run_in_turn

from offramp.artifacts import MANIFEST, Deployment, Profile, Records, load_json, load_manifest, load_records
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.export.joining import merge_stages
from offramp.export.package import export
from offramp.files import new_file
from offramp.lowering import lower
from offramp.profiling import profile
from offramp.progress import Progress
from offramp.report.svg import Canvas, Labels, Mark, Scale, widened
from offramp.runtime.predictor import Predictor
from offramp.search import search, search_cascade, write_cascade
from offramp.search.staircase import non_dominated
from offramp.specs import EngineName, LabelStride, Precision, SearchSpec, StoredPrecision
from offramp.trimming import trim

BASE, EXITS, PRUNED = "base", "exits", "pruned"
RUNS = {
    BASE: "mnv2-os16-skip-seed0",
    EXITS: "mnv2-os16-skip-exits-seed0",
    PRUNED: "mnv2-os16-skip-exits-pruned-0.5",
}
"""By what they are here: one network, trained without exits and with them; and the latter with fewer channels."""

GROUPS = ("Road+Pavement=Ground", "Building+Fence=Structure", "Pole+SignSymbol=Post", "Pedestrian+Bicyclist=Person")
DROPS = (0.0, 0.5)
"""Points of mIoU on val, against the base's final exit, that a choice may lose."""


@dataclass(frozen=True)
class Variant:
    """A package: of which run, with which approximations that export makes."""

    run: str
    label_stride: LabelStride = 1
    size: tuple[int, int] | None = None
    groups: tuple[str, ...] = ()
    stored: StoredPrecision = "fp32"
    precision: Precision = "fp32"
    """What an engine computes in that has it."""


VARIANTS: dict[str, Variant] = {
    "base": Variant(BASE),
    "base, labels 1/2": Variant(BASE, label_stride=2),
    "base, labels 1/4": Variant(BASE, label_stride=4),
    "base, labels 1/8": Variant(BASE, label_stride=8),
    "base, classes grouped": Variant(BASE, groups=GROUPS),
    "base, 400x300": Variant(BASE, size=(400, 300)),
    "base, 320x240": Variant(BASE, size=(320, 240)),
    "base, fp16": Variant(BASE, stored="fp16", precision="fp16"),
    "base, bf16": Variant(BASE, stored="bf16", precision="bf16"),
    "base, int8": Variant(BASE, stored="int8"),
    "exits": Variant(EXITS),
    "exits, int8": Variant(EXITS, stored="int8"),
    "exits, int8, labels 1/2": Variant(EXITS, label_stride=2, stored="int8"),
    "pruned": Variant(PRUNED),
    "pruned, int8": Variant(PRUNED, stored="int8"),
    "pruned, int8, labels 1/2": Variant(PRUNED, label_stride=2, stored="int8"),
}
CASCADES = {"cascade of pruned and base": ("pruned", "base"), "cascade, int8": ("pruned, int8", "base, int8")}


@dataclass(frozen=True)
class Row:
    """One line of the table: a trimmed package."""

    name: str
    variant: str
    mode: str
    drop_pp: float | None
    """None: the final exit, whatever it loses."""


def rows() -> list[Row]:
    """Each approximation alone, then mixtures; of packages with exits the best in two modes at each accepted loss."""
    found = []
    for name, variant in VARIANTS.items():
        if variant.run in (EXITS, PRUNED):
            found += [Row(f"{name}: one exit", name, "budgeted", drop) for drop in DROPS]
            found += [Row(f"{name}: by image", name, "input-dependent", drop) for drop in DROPS]
        if variant.run != EXITS:
            found.append(Row(f"{name}: final exit", name, "budgeted", None))
    return found + [Row(name, name, "input-dependent", drop) for name in CASCADES for drop in DROPS]


def plain(name: str) -> str:
    """A name as a file's."""
    return name.replace("/", "-").replace(": ", ", ")


class Workshop:
    """The folder in which everything lies."""

    def __init__(self, out: Path, data: Path, engine: EngineName, threads: int, progress: Progress) -> None:
        self.out, self.data, self.engine, self.threads, self.progress = out, data, engine, threads, progress
        self.able = {"fp32"} if engine == "onnxruntime" else {"fp32", "bf16", "fp16"}

    def package(self, name: str) -> Path:
        """Of a variant."""
        return self.out / "packages" / plain(name)

    def measured_in(self, name: str) -> Precision:
        """What the engine computes in."""
        wanted = VARIANTS[name].precision if name in VARIANTS else "fp32"
        return wanted if wanted in self.able else "fp32"

    def records(self, name: str) -> Path:
        """On val; in the same precision both engines answer alike, so these are of the engine that came first."""
        return self.out / "records" / f"{plain(name)} {self.measured_in(name)}.records"

    def profile(self, name: str) -> Path:
        """On this machine."""
        return self.out / "profiles" / f"{plain(name)} {self.engine} {self.threads}.profile"

    def deployment(self, row: Row) -> Path:
        """What was chosen for a row."""
        return self.out / "chosen" / f"{plain(row.name)} {row.drop_pp} {self.engine} {self.threads}.json"

    def trimmed(self, row: Row) -> Path:
        """The package of what was chosen."""
        return self.out / "trimmed" / f"{plain(row.name)} {row.drop_pp} {self.engine} {self.threads}"

    def pair(self, name: str) -> tuple[Records, Profile]:
        """What is searched."""
        return load_records(self.records(name)), load_json(self.profile(name), Profile)

    # ----------------------------------------------------------------------------------------------------------- prepare

    def make_package(self, name: str, runs: Path) -> None:
        """Export, and lower where that is asked for."""
        variant, out = VARIANTS[name], self.package(name)
        if (out / MANIFEST).exists():
            return
        run = runs / RUNS[variant.run]
        fp32 = out if variant.stored == "fp32" else self.package(f"{name} (fp32)")
        if not (fp32 / MANIFEST).exists():
            options = {"size": variant.size, "label_stride": variant.label_stride, "groups": variant.groups}
            export(run, fp32, **options, progress=self.progress)  # type: ignore[arg-type]
        if variant.stored != "fp32":
            lower(fp32, out, variant.stored, self.data, progress=self.progress)

    def evaluate_package(self, name: str) -> None:
        """Records on val."""
        precision = self.measured_in(name)
        if not self.records(name).exists():
            evaluate(
                self.package(name), self.data, "val", engine=self.engine, precision=precision, progress=self.progress
            ).save(self.records(name))

    def profile_package(self, name: str) -> None:
        """On this machine."""
        precision = self.measured_in(name)
        if not self.profile(name).exists():
            options: dict[str, Any] = {"engine": self.engine, "threads": self.threads, "precision": precision}
            profile(self.package(name), **options, progress=self.progress).save(self.profile(name))

    def choose(self, row: Row, least: float) -> None:
        """Search for a row, and trim."""
        if not self.deployment(row).exists():
            limits = {"min_miou": 0.0} if row.drop_pp is None else {"min_miou": least - row.drop_pp / 100}
            spec = SearchSpec(mode=row.mode, **limits)  # type: ignore[arg-type]
            if row.variant in CASCADES:
                small, large = CASCADES[row.variant]
                manifest = write_cascade(self.package(small), self.package(large), self.package(row.variant))
                pairs = (self.pair(small), self.pair(large))
                found = search_cascade(pairs, manifest.package_id, spec, inputs={}, progress=self.progress)
            else:
                records, measured = self.pair(row.variant)
                if row.drop_pp is None:
                    records, measured = only(records, measured, records.info.exits[-1:])
                found = search(records, measured, spec, inputs={}, progress=self.progress)
            found.save(self.deployment(row))
        if not (self.trimmed(row) / MANIFEST).exists():
            trim(self.package(row.variant), self.deployment(row), self.trimmed(row), merge=merge_stages)

    def make_all(self, runs: Path) -> list[str]:
        """Packages and records of the runs that are there; their names."""
        names = [name for name, variant in VARIANTS.items() if (runs / RUNS[variant.run] / "weights.safetensors").exists()]
        for name in names:
            self.make_package(name, runs)
        for name in names:
            self.evaluate_package(name)
        return names

    def prepare(self, runs: Path) -> None:
        """All of it."""
        names = self.make_all(runs)
        for name in names:
            self.profile_package(name)
        records = self.pair("base")[0]
        least = float(mious_of(records)[-1])
        for row in rows():
            if set(CASCADES.get(row.variant, (row.variant,))) <= set(names):
                try:
                    self.choose(row, least)
                except InputError as error:
                    print(f"{row.name}, {row.drop_pp} points: {error}")


LEAST_SHOWN_PP = 6.0
"""Points below the single exit beyond which the picture leaves rows out; the table holds all."""

# ---------------------------------------------------------------------------------------------------------------- measure


def subject_of(workshop: Workshop, row: Row) -> Subject:
    """The trimmed package of a row, loaded."""
    predictor = Predictor(
        workshop.trimmed(row),
        engine=workshop.engine,
        threads=workshop.threads,
        precision=workshop.measured_in(row.variant),
        mode=row.mode,  # type: ignore[arg-type]
    )
    chosen = load_json(workshop.deployment(row), Deployment)
    manifest = predictor.manifest
    files = [*manifest.stages, *(head for head in manifest.heads if not manifest.within_stage(head)), *manifest.labels]
    facts = {
        "drop_pp": row.drop_pp,
        "exits": list(manifest.exits),
        "precision": predictor.network.engine.precision,
        "expected_miou_val": chosen.expected.miou,
        "expected_ms": chosen.expected.latency_ms,
        "macs": chosen.expected.macs,
        "bytes": sum((workshop.trimmed(row) / entry.file).stat().st_size for entry in files),
    }
    return of_predictor(row.name, predictor, facts)


def original_of(workshop: Workshop) -> Subject:
    """The network without exits in one graph."""
    entry = load_manifest(workshop.package("base")).original
    assert entry is not None
    value = float(mious_of(load_records(workshop.records("base")))[-1])
    size = (workshop.package("base") / entry.file).stat().st_size
    facts = {"drop_pp": None, "exits": ["original"], "precision": "fp32", "expected_miou_val": value}
    facts |= {"macs": entry.macs, "bytes": size}
    return of_original("single exit, one graph", workshop.package("base"), workshop.engine, workshop.threads, facts)


def table(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Ratios to the first."""
    first = found[0]
    kinds: dict[str, Callable[[Sequence[float]], float]] = {
        "mean": lambda times: float(np.mean(times)),
        "p95": lambda times: float(np.percentile(times, 95)),
        "worst": lambda times: float(np.percentile(times, 99)),
    }
    lines = []
    for one in found:
        ratios = [f"{kind(one['times_ms']) / kind(first['times_ms']):.2f}" for kind in kinds.values()]
        macs = "" if one.get("macs") is None else f"{one['macs'] / 1e6:.0f}"
        accepted = "" if one["drop_pp"] is None else f"{one['drop_pp']:g}"
        exits = ", ".join(f"{name.split('+')[0].split(':')[0]} {share:.0%}" for name, share in one["shares"].items())
        mious = [f"{100 * one[key]:.1f}" for key in ("expected_miou_val", "miou")]
        lines.append([one["name"], accepted, *mious, *ratios, f"{one['bytes'] / 1e6:.2f}", macs, exits])
    return lines


KINDS: dict[str, Mark] = {
    "early exits": Mark("a"),
    "precision": Mark("b", "square"),
    "label maps": Mark("c", "triangle"),
    "input size": Mark("d", "diamond"),
    "pruned": Mark("e", "square"),
    "cascade": Mark("f", "triangle"),
    "mixture": Mark("g", "diamond"),
}

STYLE = """
text{font:12px system-ui,sans-serif;fill:#333} line.grid{stroke:#ddd} .axis{stroke:#666} .tick{fill:#666}
.mark.a{fill:#0072b2} .mark.b{fill:#009e73} .mark.c{fill:#999} .mark.d{fill:#cc79a7} .mark.e{fill:#56b4e9} .mark.f{fill:#e69f00}
.mark.g{fill:#d55e00} .mark.final{fill:#333} .link{fill:none;stroke:#d55e00;stroke-opacity:.4}
"""


def kind_of(name: str) -> str:
    """What a row is an approximation by."""
    variant, _, how = name.partition(": ")
    parts = [part for part in variant.split(", ")[1:] if part != "(fp32)"]
    exits = variant.startswith("exits") or (how in {"one exit", "by image"})
    ways = len(parts) + exits + variant.startswith("pruned")
    if variant.startswith("cascade"):
        return "mixture" if parts else "cascade"
    if ways > 1:
        return "mixture"
    if exits:
        return "early exits"
    if variant.startswith("pruned"):
        return "pruned"
    if parts and parts[0] in {"fp16", "bf16", "int8"}:
        return "precision"
    return "input size" if parts and parts[0][0].isdigit() else "label maps"


def draw(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """MIoU on test against mean latency, each row a mark; the line joins those that none beats in both."""
    first = float(np.mean(found[0]["times_ms"]))
    points = [
        (float(np.mean(one["times_ms"])) / first, 100 * one["miou"], one["name"], kind_of(one["name"]))
        for one in found[1:]
        if "grouped" not in one["name"]  # of other classes
    ]
    base = (1.0, 100 * found[0]["miou"])
    shown = [point for point in points if point[1] > base[1] - LEAST_SHOWN_PP]
    x = Scale(0, 1.05 * max([1.0, *(at for at, *_ in shown)]), 40, 760)
    y = Scale(*widened([base[1], *(value for _, value, *_ in shown)]), 400, 24)
    canvas = Canvas(780, 460, "Approximations: mIoU on test against mean latency")
    canvas.axes(x, y, "mean latency, of the single exit's in fp32", "mIoU on test, %")
    best = non_dominated(np.array([at for at, *_ in shown]), np.array([value for _, value, *_ in shown]))
    front = sorted(shown[index] for index in best)
    canvas.path([(x(at), y(value)) for at, value, *_ in front], "link")
    labels = Labels(canvas, x, y, [(x(at), y(value)) for at, value, *_ in shown])
    for at, value, name, kind in shown:
        canvas.mark(x(at), y(value), KINDS[kind], size=4, title=f"{name}: {value:.1f} %, {at:.2f}")
    canvas.mark(x(base[0]), y(base[1]), Mark("final", "square"), size=5, title="single exit, fp32")
    canvas.text(x(base[0]) + 8, y(base[1]) - 9, "single exit, fp32", anchor="end")
    for at, value, name, _ in front:
        labels.place(x(at), y(value), name)
    for number, (kind, mark) in enumerate(KINDS.items()):
        canvas.mark(x.start + 20, 300 + 14 * number, mark, size=4)
        canvas.text(x.start + 32, 304 + 14 * number, kind)
    with new_file(path) as temporary:
        temporary.write_text(canvas.as_file(STYLE), encoding="utf-8")


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["packages", "prepare", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", choices=["onnxruntime", "openvino"], default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    asked = parser.parse_args()
    with showing_progress() as progress:
        workshop = Workshop(asked.out, asked.data, asked.engine, asked.threads, progress)
        if asked.step != "measure":
            (workshop.prepare if asked.step == "prepare" else workshop.make_all)(asked.runs)
            return
        there = [row for row in rows() if (workshop.trimmed(row) / MANIFEST).exists()]
        subjects = [original_of(workshop), *(subject_of(workshop, row) for row in there)]
        found = run_in_turn(asked.data, subjects, progress)
    here = load_json(workshop.profile("base"), Profile)
    images = len(found[0]["times_ms"])
    title = f"{here.device}, {asked.engine} {here.engine_version}, {asked.threads} threads, {images} images of test"
    columns = ["approximation", "points", "val", "test", "mean", "p95", "p99", "MB", "million macs", "leave at"]
    print_table(f"{title}; the single exit takes {np.mean(found[0]['times_ms']):.1f} ms", columns, table(found))
    if asked.svg is not None:
        draw(asked.svg, found)
    if asked.json is not None:
        with new_file(asked.json) as temporary:
            temporary.write_text(json.dumps({"title": title, "rows": found}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
