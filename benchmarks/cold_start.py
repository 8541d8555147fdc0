"""`offramp run` on one image in a fresh process: wall time, peak memory, and whether torch was imported.

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        package = options.package or untrained_package(place)
        image = options.image or noise(place)
        runs = [one_run(package, image, place / f"answer-{number}") for number in range(options.runs + 1)][1:]
    seconds, megabytes = [run[0] for run in runs], [run[1] for run in runs]
    result = {
        "benchmark": "cold start",
        "device": device_name(),
        "seconds": seconds,
        "peak_memory_mb": megabytes,
        "torch_imported": any(run[2] for run in runs),
    }
    rows = [
        ["wall seconds", f"{np.median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}"],
        ["peak memory, MB", f"{np.median(megabytes):.0f}", f"{min(megabytes):.0f}", f"{max(megabytes):.0f}"],
    ]
    title = f"offramp run on one image, {options.runs} fresh processes; torch imported: {result['torch_imported']}"
    print_table(title, ["", "median", "least", "most"], rows)
    print(json.dumps(result))


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


def untrained_package(place: Path) -> Path:
    """A package with random weights: time and memory do not depend on them."""
    from contract import make_run  # noqa: PLC0415 - needs torch

    from offramp.export.package import export  # noqa: PLC0415
    from offramp.specs import NetworkChoice  # noqa: PLC0415

    make_run(NetworkChoice(), place / "run", (480, 360))
    export(place / "run", place / "package")
    return place / "package"


def noise(place: Path) -> Path:
    """An image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "noise.png")
    return place / "noise.png"


if __name__ == "__main__":
    main()
