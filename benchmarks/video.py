"""Frames a second of each mode on a video, everything that `offramp run` does included.

    python benchmarks/video.py VIDEO PACKAGE... [--engine onnxruntime] [--precision fp32] [--threads 2]

Each PACKAGE runs in the mode of its deployment (see `offramp trim`), without overlays; label maps are written. The
time is of the whole run as the log has it: from the first frame's answer to the last one's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.runtime.engines import engine_version
from offramp.runtime.predictor import Predictor
from offramp.runtime.stream import run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--deadline-ms", type=float, help="for packages in the anytime mode")
    options = parser.parse_args()
    found = []
    for package in options.packages:
        predictor = Predictor(package, engine=options.engine, threads=options.threads, precision=options.precision)
        deadline = options.deadline_ms if predictor.mode == "anytime" else None
        with tempfile.TemporaryDirectory() as folder:
            log = run(options.video, predictor, Path(folder), deadline_ms=deadline, overlays="none")
        seconds = log.frames[-1].seconds - log.frames[0].seconds
        figures = log.figures()
        assert figures.latency_ms is not None
        found.append(
            {
                "package": package.name,
                "mode": log.mode,
                "exits": log.exits,
                "deadline_ms": deadline,
                "frames": figures.frames,
                "frames_s": (figures.frames - 1) / seconds,
                "latency_ms": figures.latency_ms.mean,
                "missed": figures.missed,
                "shares": log.shares(),
            }
        )
    rows = [
        [
            one["package"],
            one["mode"],
            f"{one['frames_s']:.1f}",
            f"{one['latency_ms']:.1f}",
            ", ".join(f"{name} {share:.0%}" for name, share in one["shares"].items()),
            f"{one['missed']} of {one['frames']}" if one["deadline_ms"] else "",
        ]
        for one in found
    ]
    print_table(options.video, ["package", "mode", "frames/s", "ms", "exits", "missed"], rows)
    about = {"benchmark": "video", "device": device_name(), "engine": options.engine, "threads": options.threads}
    about |= {"precision": options.precision, "version": engine_version(options.engine)}
    print(json.dumps(about | {"runs": found}))


if __name__ == "__main__":
    main()
