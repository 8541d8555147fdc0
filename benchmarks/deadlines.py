"""Are deadlines kept while other processes take the cores, and what is the answer worth?

    python benchmarks/deadlines.py PACKAGE DATA [--split test] [--threads 1] [--load 2]

Each image has a deadline, drawn evenly between what the first and the final exit take (their medians, measured under the same
load). The package in the anytime mode runs against always leaving at the first exit and always at the final one, in turn, image
by image. Busy processes, one a core, run all the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.data.folder import open_split
from offramp.metrics import count_pixels, miou
from offramp.runtime.predictor import Predictor

WARM_UP = 60


def busy() -> None:
    """Take a core, as another program on the device would."""
    values = np.ones((128, 128), np.float32)
    while True:
        values = np.asarray(values @ values * 1e-3, np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--load", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the busy processes
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=busy, daemon=True) for _ in range(options.load)]
    for other in others:
        other.start()
    time.sleep(2)
    try:
        result = measure(options)
    finally:
        for other in others:
            other.kill()
    rows = [
        [name, f"{one['miou']:.3f}", f"{one['missed']:.2%}", percent(one["missed_where_the_first_fits"])]
        for name, one in result["answers"].items()
    ]
    title = f"{result['deadlines']} deadlines from {result['range_ms'][0]:.1f} to {result['range_ms'][1]:.1f} ms"
    print_table(title, ["", "mIoU", "missed", "missed where the first exit's p99 fits"], rows)
    print("left at:", ", ".join(f"{name} {share:.0%}" for name, share in result["shares"].items()))
    print(json.dumps(result))


def percent(share: float | None) -> str:
    """For people."""
    return "no such deadline" if share is None else f"{share:.2%}"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    anytime = Predictor(options.package, threads=options.threads, mode="anytime")
    # Another one, since deadlines that nothing can meet would teach the first what it should not learn.
    always = Predictor(options.package, threads=options.threads, mode="anytime")
    samples = open_split(options.data, options.split)
    first, last = anytime.exits[0], anytime.exits[-1]
    times: dict[str, list[float]] = {first: [], last: []}
    for index in range(WARM_UP):
        image, _ = samples.pair(index % len(samples))
        for answer in anytime.refine(image):
            if answer.exit == first:
                times[first].append(answer.latency_ms)
            elif answer.exit == last:
                # Without the label maps of the exits before.
                wasted = sum(ms for step, ms in answer.steps_ms.items() if step.startswith("labels") and last not in step)
                times[last].append(answer.latency_ms - wasted)
    low, high = (float(np.median(times[name])) for name in (first, last))
    first_p99 = float(np.percentile(times[first], 99))
    subjects = ("anytime", "always the first exit", "always the final exit")
    anytime.warm_up()
    always.warm_up()
    rng = np.random.default_rng(0)
    counts = {name: np.zeros((3, len(samples.classes.names)), np.int64) for name in subjects}
    took: dict[str, list[float]] = {name: [] for name in subjects}
    drawn, left = [], []
    for _ in range(options.rounds):
        for index in range(len(samples)):
            image, labels = samples.pair(index)
            deadline_ms = float(rng.uniform(low, high))
            drawn.append(deadline_ms)
            for name in subjects:
                asked = {"anytime": deadline_ms, "always the first exit": 1e-3}.get(name)
                started = time.perf_counter()
                answer = (anytime if name == "anytime" else always)(image, deadline_ms=asked)
                took[name].append((time.perf_counter() - started) * 1e3)
                counts[name] += np.stack(count_pixels(answer.labels, labels, len(samples.classes.names)))
                if name == "anytime":
                    left.append(answer.exit)
    fits = np.array(drawn) >= first_p99
    late = {name: np.array(took[name]) > drawn for name in subjects}
    return {
        "benchmark": "deadlines",
        "device": device_name(),
        "threads": options.threads,
        "busy_processes": options.load,
        "deadlines": len(drawn),
        "range_ms": [low, high],
        "first_exit_p99_ms": first_p99,
        "share_where_the_first_fits": float(fits.mean()),
        "answers": {
            name: {
                "miou": float(miou(*counts[name])),
                "missed": float(np.mean(late[name])),
                "missed_where_the_first_fits": float(late[name][fits].mean()) if fits.any() else None,
                "took_ms": [round(value, 2) for value in took[name]],
            }
            for name in subjects
        },
        "deadlines_ms": [round(value, 2) for value in drawn],
        "exits": left,
        "shares": {name: left.count(name) / len(left) for name in anytime.exits},
    }


if __name__ == "__main__":
    main()
