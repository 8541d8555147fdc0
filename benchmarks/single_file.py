"""One file that leaves early by itself against the stages it was made of: time at every exit, and memory.

    python benchmarks/single_file.py [PACKAGE] [--exits 6] [--threads 1 2] [--passes 40]

For every engine and number of threads, in one process and in turn, pass after pass: an image that leaves at each exit, by the
stages as `Predictor` runs them and by the single file, whose thresholds make it leave there. Then the peak memory of fresh
processes that answer by the last exit. Without PACKAGE a network with random weights and that many early exits is measured
(mobilenetv2_100, output stride 16, 480x360); a PACKAGE should be a trimmed one: all its deployment's exits are asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offramp.artifacts import GraphEntry, device_name, load_manifest
from offramp.console import print_table
from offramp.export.self_exiting import NEVER, OUTPUTS, Plan, make_plan, write_self_exiting
from offramp.policy import image_score
from offramp.runtime.engines import engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import REGIONS, EngineName

WARM_UP = 4
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")

# VmHWM is the peak of this program alone; ru_maxrss would begin with what the process that started it held.
PEAK = """
import sys
from pathlib import Path
import numpy as np
from offramp.artifacts import GraphEntry
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
what, engine, height, width, *exits = sys.argv[1:]
engine, image = open_engine(engine, 1), np.zeros((int(height), int(width), 3), np.uint8)
if what.endswith(".onnx"):
    entry = dict(file="net.onnx", sha256="", inputs=("image", "thresholds"), outputs=("labels",), macs=0, parameter_bytes=0)
    graph = engine.load(Path(what), GraphEntry(**entry))
    for _ in range(3):
        graph({"image": engine.tensor(image[None]), "thresholds": engine.tensor(np.full(len(exits) - 1, 2.0))})
else:
    network = StagedNetwork(Path(what), engine, exits)
    for _ in range(3):
        for found in network.iter_exits(image):
            pass
        found.labels()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--exits", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--passes", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = options.package or untrained(Path(folder), options.exits)
        file = Path(folder) / "net.onnx"
        write_self_exiting(package, file, feed_thresholds=True)
        plan = make_plan(load_manifest(package))
        runs = [measure(package, file, plan, name, threads, options.passes) for name in ENGINES for threads in options.threads]
        memory = {name: peaks(package, file, plan, name) for name in ENGINES}
        results = {
            "benchmark": "single file",
            "device": device_name(),
            "size": load_manifest(package).size,
            "exits": [head.exit for head in plan.heads],
            "file_bytes": file.stat().st_size,
            "peak_memory_bytes": memory,
            "runs": runs,
        }
    show(results)
    print(json.dumps(results))


def untrained(place: Path, exits: int) -> Path:
    """A package with random weights."""
    from contract import make_package  # noqa: PLC0415 - needs torch

    return make_package(place, exits=exits)


def measure(package: Path, file: Path, plan: Plan, engine_name: EngineName, threads: int, passes: int) -> dict[str, Any]:
    """Times of both forms on one engine, in turn."""
    engine = open_engine(engine_name, threads)
    exits = [head.exit for head in plan.heads]
    network = StagedNetwork(package, engine, exits)
    entry = GraphEntry(file=file.name, sha256="", inputs=("image", "thresholds"), outputs=OUTPUTS, macs=0, parameter_bytes=0)
    single = engine.load(file, entry)
    width, height = network.manifest.size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def by_stages(name: str) -> npt.NDArray[np.uint8]:
        for found in network.iter_exits(image):
            image_score(found.sure, REGIONS.index(plan.region), plan.pixel_threshold)
            if found.exit == name:
                return found.labels()
        raise AssertionError(name)

    def by_file(name: str) -> npt.NDArray[np.uint8]:
        # Every score reaches 0, none reaches NEVER.
        thresholds = np.array([0.0 if early == name else NEVER for early in exits[:-1]])
        made = single({"image": engine.tensor(image[None]), "thresholds": engine.tensor(thresholds)})
        labels, taken = engine.array(made["labels"])[0], engine.array(made["exit"])
        assert exits[int(taken)] == name
        return np.asarray(labels, np.uint8)

    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    forms: dict[str, Callable[[str], npt.NDArray[np.uint8]]] = {"stages": by_stages, "file": by_file}
    agree = {name: float((by_stages(name) == by_file(name)).mean()) for name in exits}
    for number in range(WARM_UP + passes):
        for name in exits:
            for form, subject in forms.items():
                started = time.perf_counter()
                subject(name)
                if number >= WARM_UP:
                    times[name][form].append((time.perf_counter() - started) * 1e3)
    return {
        "engine": engine_name,
        "version": engine_version(engine_name),
        "threads": threads,
        "precision": engine.precision,
        "labels_agree": agree,
        # Pass by pass, so that a drift of the machine's speed meets both sides alike.
        "file_to_stages": {
            name: float(np.median(np.array(taken["file"]) / np.array(taken["stages"]))) for name, taken in times.items()
        },
        "times_ms": {
            name: {form: [round(value, 3) for value in values] for form, values in taken.items()}
            for name, taken in times.items()
        },
    }


def peaks(package: Path, file: Path, plan: Plan, engine_name: EngineName) -> dict[str, int]:
    """Peak memory of a fresh process by each form, every exit asked, with one thread."""
    width, height = load_manifest(package).size
    known = [engine_name, str(height), str(width), *(head.exit for head in plan.heads)]
    commands = {form: [sys.executable, "-c", PEAK, str(what), *known] for form, what in (("stages", package), ("file", file))}
    return {
        form: 1024 * int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for form, command in commands.items()
    }


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    runs = results["runs"]
    columns = [f"{run['engine']} {run['threads']}t" for run in runs]
    rows = []
    for name in results["exits"]:
        milliseconds = (np.median(run["times_ms"][name]["file"]) for run in runs)
        cells = (f"{run['file_to_stages'][name]:.3f} ({median:.1f} ms)" for run, median in zip(runs, milliseconds, strict=True))
        rows.append([name, *cells])
    title = f"single file / stages, time; {results['device']}, fp32"
    print_table(title, ["exit", *columns], rows)
    memory = [
        [name, *(f"{peak[form] / 1e6:.0f}" for form in ("stages", "file"))]
        for name, peak in results["peak_memory_bytes"].items()
    ]
    print_table("peak memory of a process, MB", ["engine", "stages", "single file"], memory)


if __name__ == "__main__":
    main()
