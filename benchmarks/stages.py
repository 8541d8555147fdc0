"""Stages one after another: do they give PyTorch's answers, and what do they cost against graphs that are not cut?

    python benchmarks/stages.py [RUN] [--exits 6] [--threads 1 2] [--passes 40]

For every engine and number of threads, in one process and in turn, pass after pass:
- all stages and heads against one graph with all exits as outputs;
- leaving at each exit alone, label map included, against the original single-exit network in one graph.
Without RUN a network with random weights and that many early exits is measured (mobilenetv2_100, output stride 16, 480x360).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from contract import make_run, relative_errors

from offramp.artifacts import GraphEntry, device_name
from offramp.console import print_table
from offramp.export.graph import IMAGE, EveryExit, to_onnx
from offramp.export.package import export
from offramp.models.checkpoint import load_network
from offramp.runtime.engines import engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName, NetworkChoice

WARM_UP = 4
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--exits", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--passes", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        if not options.run:
            make_run(NetworkChoice(exits=options.exits), run, (480, 360))
        network, described = load_network(run)
        package = Path(folder) / "package"
        export(run, package)
        every = EveryExit(network, "top1", described.object_classes)
        width, height = described.size
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        model = to_onnx(every, torch.zeros(1, height, width, 3, dtype=torch.uint8), IMAGE, every.output_names)
        whole = Path(folder) / "every-exit.onnx"
        onnx.save(model, whole)
        results: dict[str, Any] = {"benchmark": "stages", "device": device_name(), "size": [width, height], "runs": []}
        results["network"] = described.network.network
        results["relative_error"] = {name: max(relative_errors(package, network, image, name).values()) for name in ENGINES}
        for name in ENGINES:
            for threads in options.threads:
                results["runs"].append(measure(package, whole, image, name, threads, options.passes))
    show(results)
    print(json.dumps(results))


def measure(
    package: Path,
    whole: Path,
    image: np.ndarray[Any, np.dtype[np.uint8]],
    engine_name: EngineName,
    threads: int,
    passes: int,
) -> dict[str, Any]:
    """Times of everything on one engine, in turn."""
    engine = open_engine(engine_name, threads)
    network = StagedNetwork(package, engine)
    outputs = tuple(name for head in network.manifest.heads for name in head.outputs)
    entry = GraphEntry(file=whole.name, sha256="", inputs=(IMAGE,), outputs=outputs, macs=0, parameter_bytes=0)
    one_graph = engine.load(whole, entry)
    original = network.load_original()
    assert original is not None

    def all_stages() -> None:
        for _ in network.iter_exits(image):
            pass

    def leave_at(name: str) -> Callable[[], None]:
        def leave() -> None:
            for found in network.iter_exits(image, [name]):
                found.labels()

        return leave

    subjects: dict[str, Callable[[], object]] = {
        "one graph, all exits": lambda: one_graph({IMAGE: engine.tensor(image[None])}),
        "stages, all exits": all_stages,
        "original": lambda: original(image),
        **{name: leave_at(name) for name in network.exits},
    }
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(WARM_UP + passes):
        for name, subject in subjects.items():
            started = time.perf_counter()
            subject()
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {
        "engine": engine_name,
        "version": engine_version(engine_name),
        "threads": threads,
        "precision": engine.precision,
        # Pass by pass, so that a drift of the machine's speed meets both sides alike.
        "stages_to_one_graph": ratio(times["stages, all exits"], times["one graph, all exits"]),
        "exits_to_original": {name: ratio(times[name], times["original"]) for name in network.exits},
        "times_ms": {name: [round(value, 3) for value in values] for name, values in times.items()},
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios of each pass."""
    return float(np.median(np.array(ours) / np.array(theirs)))


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    errors = [[name, f"{error:.1e}"] for name, error in results["relative_error"].items()]
    print_table("class scores of staged exits against PyTorch", ["engine", "largest relative error"], errors)
    columns = [f"{run['engine']} {run['threads']}t" for run in results["runs"]]
    rows = [["stages / one graph, all exits", *(f"{run['stages_to_one_graph']:.3f}" for run in results["runs"])]]
    rows += [
        [f"{name} / original", *(f"{run['exits_to_original'][name]:.3f}" for run in results["runs"])]
        for name in results["runs"][0]["exits_to_original"]
    ]
    rows.append(["original, ms", *(f"{np.median(run['times_ms']['original']):.1f}" for run in results["runs"])])
    print_table(f"time ratios, {results['device']}, fp32", ["", *columns], rows)


if __name__ == "__main__":
    main()
