"""Hours of video through `run`: does memory grow, do threads or open files stay behind, does a frame take longer at the end?

    python benchmarks/reliability/long_run.py [--frames 100000] [--deadline-frames 150000] [--out docs/long_run.json]

A tiny package answers drawn scenes of 96x64 that move a pixel a frame, a video file read by `run` as any other; label maps are
written, overlays are not. Every engine runs in a process of its own, input-dependent, and then in the anytime mode with a
deadline of 1.5 times what the final exit takes. After the first 10,000 frames a line is fitted to
resident memory and to latency; its slope's 95 % interval is from a bootstrap of blocks of residuals, for neighbours are alike.
Exit code 1 if memory grows by more than 10 bytes a frame, or threads or open files grow. So many frames since memory also rises
by a single step of some MB now and then, which fewer cannot tell from growth. Latencies need an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from harness import make_things
from PIL import Image
from plans import by_image, decided
from script import script_parser, write_json

from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.files import new_file
from offramp.runtime.engines import engine_version
from offramp.runtime.outputs import TABLE
from offramp.runtime.predictor import Predictor
from offramp.runtime.sources import open_source
from offramp.runtime.stream import run
from offramp.specs import EngineName, Mode

BYTES_A_FRAME = 10
"""More is growth: 6 MB in 6 hours at 30 frames a second."""
SAMPLES = 500
"""So often a process is looked at."""
WARM_UP = 10_000
"""Frames that are left out of slopes: until the run log holds as many as it ever will, memory grows."""
SLACK = 1.5
"""A deadline, as a multiple of what the final exit takes before the run."""
WRITTEN = 25
"""Samples that are written down."""
BLOCKS = 20
DRAWS = 2000
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")

Floats = npt.NDArray[np.float64]


@dataclass
class Watch:
    """A `Progress` that looks at its own process now and then."""

    every: int
    frame: list[int] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    """That Python's garbage collector knows."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `offramp.progress.Progress`."""
        del what, total
        if done % self.every:
            return
        self.frame.append(done)
        self.memory_bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        self.threads.append(len(list(Path("/proc/self/task").iterdir())))
        self.descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
        self.objects.append(len(gc.get_objects()))


def main() -> None:
    """Run every engine and mode, print, judge."""
    parser = script_parser(__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--deadline-frames", type=int, default=150_000, help="0: not in the anytime mode")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=get_args(EngineName))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="a folder for the package and the video, which are made once")
    parser.add_argument("--child", nargs=4, metavar=("VIDEO", "PACKAGE", "MODE", "FRAMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        video, package, mode, frames = options.child
        print(json.dumps(measure(video, Path(package), options.engines[0], mode, int(frames), options.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        things = make_things(work / "things")
        package = decided(things.package, work / "decided")
        found = []
        for engine in options.engines:
            for mode, frames in (("input-dependent", options.frames), ("anytime", options.deadline_frames)):
                if not frames:
                    continue
                video = make_video(work / f"{frames}.mp4", sorted((things.data / "train" / "images").iterdir()), frames)
                asked = [str(video), str(package), mode, str(frames)]
                command = [sys.executable, __file__, "--engines", engine, "--threads", str(options.threads), "--child", *asked]
                found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
                print(f"{engine}, {mode}: {frames} frames in {found[-1]['seconds']:.0f} s", file=sys.stderr)
    show(found)
    values = {"benchmark": "long_run", "device": device_name(), "threads": options.threads, "runs": found}
    write_json(options.out, values)
    sys.exit(0 if all(one["steady"] for one in found) else 1)


def make_video(path: Path, images: Sequence[Path], frames: int) -> Path:
    """Scenes that move sideways, a pixel a frame, 30 frames a second; every scene for 100 frames."""
    import av  # noqa: PLC0415 - an optional extra

    if path.exists():
        return path
    scenes = [np.asarray(Image.open(image).convert("RGB")) for image in images]
    with new_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width = scenes[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            scene = np.roll(scenes[number // 100 % len(scenes)], number, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def measure(video: str, package: Path, engine: EngineName, mode: Mode, frames: int, threads: int) -> dict[str, Any]:
    """One run in this process: what it took and where that led."""
    predictor = Predictor(package, engine=engine, threads=threads, mode="anytime")
    if mode == "input-dependent":
        predictor.change(by_image(predictor, [shot.image for shot in islice(open_source(video).shots, 0, 2000, 50)]))
    deadline_ms = SLACK * typical_ms(predictor) if mode == "anytime" else None
    watch = Watch(every=max(1, frames // SAMPLES))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = run(video, predictor, Path(folder) / "out", deadline_ms=deadline_ms, overlays="none", progress=watch)
        seconds = time.monotonic() - started
        files = sum(1 for _ in os.scandir(Path(folder) / "out" / "labels"))
        log_bytes = sum(path.stat().st_size for path in (Path(folder) / "out").glob("run-log.*"))
        with (Path(folder) / "out" / TABLE).open(newline="", encoding="utf-8") as table:
            rows = [(float(row["latency_ms"]), float(row["seconds"]), row["met"] == "False") for row in csv.DictReader(table)]
    assert len(rows) == files == frames, "a frame without its line or its label map"
    about = {"engine": engine, "version": engine_version(engine), "mode": mode, "frames": frames, "seconds": seconds}
    told = {"deadline_ms": deadline_ms, "missed": sum(missed for *_, missed in rows), "shares": log.shares()}
    kept = {"label_maps": files, "log_bytes": log_bytes}
    return about | told | kept | judged(watch, np.array([row[:2] for row in rows]), frames)


def typical_ms(predictor: Predictor) -> float:
    """What the final exit takes here and now."""
    predictor.warm_up()
    image = np.zeros((*predictor.manifest.size[::-1], 3), np.uint8)
    return statistics.median(predictor(image).latency_ms for _ in range(200))


def judged(watch: Watch, times: Floats, frames: int) -> dict[str, Any]:
    """Slopes after the warm-up, and whether they say that nothing grows.

    Args:
        watch: what was seen.
        times: (frames, 2), latency in ms and seconds since the start.
        frames: of the whole run.

    """
    begun = min(WARM_UP, frames // 2)
    seen = np.array(watch.frame) > begun
    at = np.array(watch.frame, float)[seen]
    memory = slope(at, np.array(watch.memory_bytes, float)[seen])
    bunches = np.array_split(np.arange(begun, frames), SAMPLES)
    middle = np.array([bunch.mean() for bunch in bunches])
    latency = np.array([np.median(times[bunch, 0]) for bunch in bunches])
    whole = np.array([np.median(np.diff(times[bunch, 1])) * 1e3 for bunch in bunches])
    percent = 100 * 100_000
    threads, descriptors = (np.array(values)[seen] for values in (watch.threads, watch.descriptors))
    grown = {"threads": int(threads[-1] - threads[0]), "descriptors": int(descriptors[-1] - descriptors[0])}
    return {
        "memory_bytes_a_frame": memory,
        "objects_a_frame": slope(at, np.array(watch.objects, float)[seen]),
        "latency_median_ms": float(np.median(latency)),
        "latency_percent_in_100000": scaled(slope(middle, latency), percent / float(np.median(latency))),
        "frame_percent_in_100000": scaled(slope(middle, whole), percent / float(np.median(whole))),
        "grown": grown,
        "steady": memory["low"] <= 0 <= memory["high"] or memory["high"] < BYTES_A_FRAME,
        "watched": {
            name: values[:: max(1, len(values) // WRITTEN)] for name, values in asdict(watch).items() if name != "every"
        },
    } | ({"steady": False} if max(grown.values()) > 0 else {})


def slope(x: Floats, y: Floats) -> dict[str, float]:
    """Of the line of least squares through points in order, with its 95 % interval.

    Blocks of neighbouring residuals are drawn anew and added to the line: neighbours may hang together as they like, as long
    as blocks hardly do (Künsch 1989).
    """
    away = x - x.mean()
    weights = away / (away @ away)
    found = float(weights @ y)
    residuals = y - y.mean() - found * away
    length = max(1, len(x) // BLOCKS)
    random = np.random.default_rng(0)
    starts = random.integers(0, len(x) - length + 1, (DRAWS, -(-len(x) // length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(DRAWS, -1)[:, : len(x)]
    low, high = np.percentile(residuals[drawn] @ weights, [2.5, 97.5])
    return {"slope": found, "low": found - float(high), "high": found - float(low)}


def scaled(line: dict[str, float], factor: float) -> dict[str, float]:
    """A slope in another unit."""
    return {name: value * factor for name, value in line.items()}


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print the table."""

    def told(line: dict[str, float]) -> str:
        return f"{line['slope']:+.2f} ({line['low']:+.2f} to {line['high']:+.2f})"

    columns = ["run", "bytes/frame", "objects/frame", "latency, % in 100,000", "whole frame, %", "threads", "files", "steady"]
    names = ("memory_bytes_a_frame", "objects_a_frame", "latency_percent_in_100000", "frame_percent_in_100000")
    rows = [
        [
            f"{one['engine']}, {one['mode']}, {one['frames']}",
            *(told(one[name]) for name in names),
            *(f"{one['grown'][name]:+d}" for name in ("threads", "descriptors")),
            "yes" if one["steady"] else "NO",
        ]
        for one in found
    ]
    print_table("after the warm-up; slopes with 95 % intervals", columns, rows)


if __name__ == "__main__":
    main()
