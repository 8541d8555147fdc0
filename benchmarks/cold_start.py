"""Fresh processes: `offramp run` on one image, and `Predictor` to its first answer.

Of the first the wall time, the peak memory, and whether torch was imported; of the second what its import, its loading and its
first answer take, on both engines.

    python benchmarks/cold_start.py PACKAGE IMAGE [--runs 7]

Without PACKAGE a network with random weights is measured, on noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.specs import EngineName

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")

# VmHWM is the peak of this program alone; ru_maxrss would begin with what the process that started it held.
WATCHED = """
import json, sys
from offramp.cli import main
try:
    main(sys.argv[1:])
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(json.dumps({"torch": "torch" in sys.modules, "peak_kb": int(peak.split()[1])}), file=sys.stderr)
"""


PREDICTOR = """
import json, sys, time
begun = time.perf_counter()
from offramp import Predictor
imported = time.perf_counter()
predictor = Predictor(sys.argv[1], engine=sys.argv[3])
loaded = time.perf_counter()
predictor(sys.argv[2])
answered = time.perf_counter()
print(json.dumps({"import": imported - begun, "load": loaded - imported, "first answer": answered - loaded}))
"""

STEPS = ("import", "load", "first answer")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        package = options.package or untrained(place)
        image = options.image or noise(place)
        runs = [one_run(package, image, place / f"answer-{number}") for number in range(options.runs + 1)][1:]
        first = {name: [to_the_first_answer(package, image, name) for _ in range(options.runs)] for name in ENGINES}
    seconds, megabytes = [run[0] for run in runs], [run[1] for run in runs]
    result = {
        "benchmark": "cold start",
        "device": device_name(),
        "seconds": seconds,
        "peak_memory_mb": megabytes,
        "torch_imported": any(run[2] for run in runs),
        "predictor_seconds": first,
    }
    rows = [
        ["wall seconds", f"{np.median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}"],
        ["peak memory, MB", f"{np.median(megabytes):.0f}", f"{min(megabytes):.0f}", f"{max(megabytes):.0f}"],
    ]
    title = f"offramp run on one image, {options.runs} fresh processes; torch imported: {result['torch_imported']}"
    print_table(title, ["", "median", "least", "most"], rows)
    rows = []
    for name, found in first.items():
        medians = [float(np.median([one[step] for one in found])) for step in STEPS]
        rows.append([name, *(f"{value:.2f}" for value in medians), f"{np.median([sum(one.values()) for one in found]):.2f}"])
    print_table("Predictor in a fresh process, seconds (medians)", ["engine", *STEPS, "together"], rows)
    print(json.dumps(result))


def to_the_first_answer(package: Path, image: Path, engine: EngineName) -> dict[str, float]:
    """Seconds of each of `STEPS`."""
    command = [sys.executable, "-c", PREDICTOR, str(package), str(image), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(seconds) for name, seconds in json.loads(done.stdout).items()}


def one_run(package: Path, image: Path, out: Path) -> tuple[float, float, bool]:
    """Seconds from start to exit, peak memory in MB, whether torch was imported."""
    command = [sys.executable, "-c", WATCHED, "run", str(image), "--package", str(package), "--out", str(out), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"offramp run failed: {done.stderr}")
    seen = json.loads(done.stderr.splitlines()[-1])
    return seconds, seen["peak_kb"] / 1024, seen["torch"]


def untrained(place: Path) -> Path:
    """A package with random weights."""
    from contract import make_package  # noqa: PLC0415 - needs torch

    return make_package(place)


def noise(place: Path) -> Path:
    """An image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "noise.png")
    return place / "noise.png"


if __name__ == "__main__":
    main()
