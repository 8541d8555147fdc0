"""A network with exits against the same network trained without them, in each mode: chosen on val, run on test in turn.

    python benchmarks/modes.py DATA STUDY PACKAGES --out runs/modes --json docs/modes.json [--only 'mnv2-*']

STUDY holds what `study/train.py` trained, DATA the folders `camvid` and `msrc_v2`. PACKAGES holds, for each network below, what
`offramp export`, `evaluate` (on val and on test) and `profile` made of it: NAME, NAME.val.records, NAME.test.records,
NAME.here.profile. For each mode the search finds the fastest deployment that loses at most some points on val against the
network that was trained without exits (the run of the same name but for "-exits"), and the most accurate one that takes no
longer than it. All of one network's run in one process, image by image in turn with that network in one graph, by each engine,
in one thread. MIoU is that of all of test, from its records.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from in_turn import Subject, mious_of, of_original, of_predictor, run_in_turn
from pareto import replayed

from offramp.artifacts import Deployment, Profile, Records, device_name, load_json, load_records
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.export.joining import merge_stages
from offramp.files import new_file
from offramp.progress import Progress
from offramp.runtime.predictor import Predictor
from offramp.search import search
from offramp.specs import EngineName, Mode, SearchSpec
from offramp.trimming import trim

NETWORKS = {
    "mnv2-os16-skip-exits-seed0": 2,
    "mnv2-os8-fcn-exits": 2,
    "mnv2-os8-deeplab-exits": 3,
    "msrc-mnv2-os16-skip-exits": 1,
    "msrc-r50-os16-skip-exits": 3,
    "r50-os8-fcn-exits": 4,
    "r50-os8-deeplab-exits": 6,
}
"""Of the images of test one in so many is run."""
POINTS = (0.0, 0.5, 1.0, 2.0)
"""Of mIoU on val that may be lost."""
MODES: tuple[Mode, ...] = ("budgeted", "input-dependent")
DEADLINES = (0.5, 0.75, 1.0)
"""Of the time of the network without exits."""
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


@dataclass
class Bench:
    """One network, and what was measured of it before."""

    name: str
    data: Path
    package: Path
    out: Path
    val: Records
    test: Records
    profile: Profile
    reference: str
    """What it is held against: the network trained without exits, or its own final exit where that one was not kept."""
    alone: dict[str, float]
    """MIoU of that, by split."""
    progress: Progress

    def chosen(self) -> list[tuple[str, str, Deployment]]:
        """Mode, what was asked, what was found."""
        assert self.profile.original is not None
        found: list[tuple[str, str, Deployment]] = []
        for mode in MODES:
            asked = {f"{points:g} points": {"min_miou": self.alone["val"] - points / 100} for points in POINTS}
            asked["equal time"] = {"max_latency_ms": self.profile.original.median_ms}
            for what, limits in asked.items():
                try:
                    spec = SearchSpec(mode=mode, max_exits=2, **limits)  # type: ignore[arg-type]
                    found.append((mode, what, search(self.val, self.profile, spec, inputs={}, progress=self.progress)))
                except InputError as error:
                    print(f"{self.name}, {mode}, {what}: {error}")
        return found

    def trimmed(self, number: int, deployment: Deployment) -> Path:
        """Its package, alone."""
        path = self.out / self.name / f"{number}"
        if not path.exists():
            deployment.save(path.with_suffix(".json"))
            trim(self.package, path.with_suffix(".json"), path, merge=None if deployment.mode == "anytime" else merge_stages)
        return path

    def measured(self, engine: EngineName, every: int) -> dict[str, Any]:
        """Rows and what was run, by that engine."""
        assert self.profile.original is not None
        (self.out / self.name).mkdir(parents=True, exist_ok=True)
        subjects = [of_original("without exits", self.package, engine, 1, {})]
        found, places = [], dict[str, int]()
        chosen = self.chosen()
        for number, (mode, what, deployment) in enumerate(chosen):
            same = f"{deployment.exits} {deployment.region} {deployment.pixel_threshold} {deployment.image_thresholds}"
            if same not in places:
                places[same] = len(subjects)
                predictor = Predictor(self.trimmed(number, deployment), engine=engine, threads=1)
                subjects.append(of_predictor(same, predictor, {}))
            row: dict[str, Any] = {"mode": mode, "asked": what, "exits": deployment.exits, "policy": policy_of(deployment)}
            row |= {"val": deployment.expected.miou, "expected_ms": deployment.expected.latency_ms}
            found.append(row | {"test": replayed(deployment, self.test, self.profile), "ran": places[same]})
        found += self.anytime(subjects, engine, len(chosen))
        ran = run_in_turn(self.data, subjects, self.progress, every=every)
        return {"engine": engine, "every": every, "reference": self.reference, "alone": self.alone, "rows": found, "ran": ran}

    def anytime(self, subjects: list[Subject], engine: EngineName, number: int) -> list[dict[str, Any]]:
        """The anytime deployment at some deadlines, which joins the subjects."""
        assert self.profile.original is not None
        deployment = search(self.val, self.profile, SearchSpec(mode="anytime"), inputs={}, progress=self.progress)
        predictor = Predictor(self.trimmed(number, deployment), engine=engine, threads=1)
        found = []
        for share in DEADLINES:
            deadline = share * self.profile.original.median_ms
            found.append({"mode": "anytime", "asked": f"in {deadline:.0f} ms", "deadline_ms": deadline, "ran": len(subjects)})
            subjects.append(of_predictor(f"anytime {share}", predictor, {}, deadline_ms=deadline))
        return found


def policy_of(deployment: Deployment) -> str:
    """What decides, in short."""
    return "" if deployment.mode == "budgeted" else deployment.region


def table(found: dict[str, Any]) -> list[list[str]]:
    """A line for each row, against the network without exits."""
    whole = float(np.mean(found["ran"][0]["times_ms"]))
    alone = found["alone"]
    lines = [
        [found["reference"], "", "", f"{100 * alone['val']:.1f}", f"{100 * alone['test']:.1f}", "", f"{whole:.1f}", "1.00"]
    ]
    for row in found["rows"]:
        ran = found["ran"][row["ran"]]
        mean = float(np.mean(ran["times_ms"]))
        if row["mode"] == "anytime":
            late = float(np.mean(np.array(ran["times_ms"]) > row["deadline_ms"]))
            gain = 100 * (ran["miou"] - found["ran"][0]["miou"])
            accuracy = ["", f"{100 * ran['miou']:.1f} (these images)", f"{gain:+.1f}"]
            taps = f"{100 * late:.0f} % late"
        else:
            test = row["test"]["miou"]
            accuracy = [f"{100 * row['val']:.1f}", f"{100 * test:.1f}", f"{100 * (test - alone['test']):+.1f}"]
            taps = ", ".join(name.partition("+")[0] for name in row["exits"]) + f" {row['policy']}".rstrip()
        lines.append([row["mode"], row["asked"], taps, *accuracy, f"{mean:.1f}", f"{whole / mean:.2f}"])
    return lines


def held_against(name: str, packages: Path, runs: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """By what name and figures the network without exits stands; images of many sizes are measured as packages see them."""
    alone = name.replace("-exits", "")
    kept = {split: packages / f"{alone}.{split}.records" for split in ("val", "test")}
    if all(path.exists() for path in kept.values()):
        return "without exits", {split: float(mious_of(load_records(path))[-1]) for split, path in kept.items()}
    if not name.startswith("msrc"):
        return "without exits", {split: runs[alone]["miou"][split]["final"] for split in kept}
    own = {split: packages / f"{name}.{split}.records" for split in kept}
    return "its final exit", {split: float(mious_of(load_records(path))[-1]) for split, path in own.items()}


COLUMNS = ["mode", "asked", "exits", "val", "test", "against it", "ms", "times as fast"]


def main() -> None:
    """Search, trim, run, print; what was measured is not measured again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "study", "packages"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="*", help="names, with * for anything")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    runs = json.loads((asked.study / "study.json").read_text(encoding="utf-8"))["runs"]
    whole: dict[str, list[dict[str, Any]]] = {}
    with showing_progress() as progress:
        for name, every in NETWORKS.items():
            package = asked.packages / name
            made = [asked.packages / f"{name}.{part}" for part in ("val.records", "test.records", "here.profile")]
            if not fnmatch.fnmatch(name, asked.only) or not all(path.exists() for path in made):
                continue
            bench = Bench(
                name,
                asked.data / ("msrc_v2" if name.startswith("msrc") else "camvid"),
                package,
                asked.out,
                load_records(made[0]),
                load_records(made[1]),
                load_json(made[2], Profile),
                *held_against(name, asked.packages, runs),
                progress,
            )
            for engine in ENGINES:
                kept = asked.out / f"{name}.{engine}.json"
                if not kept.exists():
                    with new_file(kept) as temporary:
                        temporary.write_text(json.dumps(bench.measured(engine, every)) + "\n", encoding="utf-8")
                whole.setdefault(name, []).append(json.loads(kept.read_text(encoding="utf-8")))
    for name, engines in whole.items():
        for found in engines:
            images = len(found["ran"][0]["times_ms"])
            print_table(f"{name}, {found['engine']}, {images} images", COLUMNS, table(found))
    if asked.json is not None:
        with new_file(asked.json) as temporary:
            temporary.write_text(
                json.dumps({"benchmark": "modes", "device": device_name(), "networks": whole}) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
