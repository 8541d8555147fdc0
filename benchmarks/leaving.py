"""What leaving at an exit costs against a network that ends there, and what deciding costs.

    python benchmarks/leaving.py PACKAGE [--threads 1,2] [--passes 30]

For every exit, on both engines: its stages, head and label map one after another, as deployments run them, against the same in
one graph that has no other exit (a network cut there and exported alone), pass by pass in turn; and with stages and head merged
into one, as `offramp trim --merge` leaves a budgeted deployment. Deciding is all that a deployment does between graphs: reading
an exit's counts, its image score, comparing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from offramp.artifacts import device_name, load_manifest
from offramp.artifacts.package import GraphEntry
from offramp.console import print_table
from offramp.export.joining import merge_stages
from offramp.export.self_exiting import OUTPUTS, Plan, put_together
from offramp.policy import image_score
from offramp.runtime.engines import Engine, Graph, engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
WARM_UP = 3
FORMS = ("stages", "merged", "alone")


def cut(package: Path, folder: Path, engine: Engine, name: str) -> Graph:
    """One graph of one exit alone."""
    manifest, path = load_manifest(package), folder / "cut.onnx"
    model = put_together(package, manifest, Plan("budgeted", (manifest.head(name),), ()))
    path.write_bytes(model.SerializeToString())
    entry = GraphEntry(file=path.name, sha256="", inputs=("image",), outputs=OUTPUTS[:1], macs=0, parameter_bytes=0)
    return engine.load(path, entry)


def merged(package: Path, folder: Path, engine: Engine, name: str) -> StagedNetwork:
    """A package of one exit alone, its stages and head merged."""
    manifest = load_manifest(package)
    head = manifest.head(name)
    ((stage, content),), within = merge_stages(package, manifest, [head])
    (folder / stage.file).write_bytes(content)
    shutil.copyfile(package / head.labels, folder / head.labels)
    alone = {"stages": (stage,), "heads": tuple(within)}
    return StagedNetwork(folder, engine, [name], manifest=manifest.model_copy(update=alone))


def measure(package: Path, name: str, engine_name: EngineName, threads: int, passes: int) -> dict[str, list[float]]:
    """Milliseconds of one exit by each form; and of what lies between its graphs."""
    engine = open_engine(engine_name, threads)
    network = StagedNetwork(package, engine, [name])
    image = np.random.default_rng(0).integers(0, 256, (*network.manifest.size[::-1], 3), dtype=np.uint8)
    times: dict[str, list[float]] = {form: [] for form in (*FORMS, "deciding")}

    def clock() -> float:
        return time.perf_counter() * 1e3

    with tempfile.TemporaryDirectory() as folder:
        together, alone = merged(package, Path(folder), engine, name), cut(package, Path(folder), engine, name)
    for number in range(WARM_UP + passes):
        took = {}
        for form, subject in (("stages", network), ("merged", together)):
            started = clock()
            for found in subject.iter_exits(image, [name]):
                image_score(found.sure, 0, 1)
                decided = clock()
                took["deciding"] = decided - started - sum(found.steps_ms.values())
                found.labels()
            took[form] = clock() - started
        started = clock()
        engine.array(alone({"image": engine.tensor(image[None])})["labels"])
        took["alone"] = clock() - started
        for form, milliseconds in took.items():
            times[form] += [milliseconds] if number >= WARM_UP else []
    return times


def ratio(times: dict[str, list[float]], form: str) -> float:
    """The median over the passes of a form's time to that of the network alone."""
    return float(np.median(np.array(times[form]) / np.array(times["alone"])))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=lambda text: [int(number) for number in text.split(",")], default=[1, 2])
    parser.add_argument("--passes", type=int, default=30)
    options = parser.parse_args()
    exits = load_manifest(options.package).exits
    runs: list[dict[str, Any]] = []
    # Each exit in a process of its own, as a deployment has it: what else is loaded moves times by some per cent.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for engine, threads in ((engine, threads) for engine in ENGINES for threads in options.threads):
            asked = {name: pool.submit(measure, options.package, name, engine, threads, options.passes) for name in exits}
            times = {name: future.result() for name, future in asked.items()}
            runs.append({"engine": engine, "version": engine_version(engine), "threads": threads, "times_ms": times})
    for run in runs:
        for form in FORMS[:-1]:
            run[f"{form}_to_alone"] = {name: ratio(times, form) for name, times in run["times_ms"].items()}
        first = run["times_ms"][exits[0]]
        run["deciding_to_first_exit"] = float(np.median(first["deciding"]) / np.median(first["stages"]))
    rows = [
        [
            name,
            *(
                f"{run['stages_to_alone'][name]:.2f}, {run['merged_to_alone'][name]:.2f} "
                f"({np.median(run['times_ms'][name]['alone']):.1f} ms)"
                for run in runs
            ),
        ]
        for name in exits
    ]
    rows.append(["deciding / first exit", *(f"{run['deciding_to_first_exit']:.2%}" for run in runs)])
    columns = [f"{run['engine']}, {run['threads']} threads" for run in runs]
    print_table("stages, merged stages / the network cut there, time (and its ms)", ["exit", *columns], rows)
    print(json.dumps({"benchmark": "leaving", "device": device_name(), "precision": "fp32", "runs": runs}))


if __name__ == "__main__":
    main()
