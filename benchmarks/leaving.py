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
from pathlib import Path
from typing import Any

import numpy as np

from offramp.artifacts import device_name, load_manifest
from offramp.artifacts.package import GraphEntry
from offramp.console import print_table
from offramp.export.joining import merge_stages
from offramp.export.self_exiting import OUTPUTS, Plan, put_together
from offramp.policy import image_score
from offramp.runtime.engines import Engine, StagedNetwork, engine_version, open_engine
from offramp.specs import EngineName

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
WARM_UP = 3
FORMS = ("stages", "merged", "alone")


def cut(package: Path, folder: Path) -> dict[str, Path]:
    """One graph for each exit."""
    manifest, files = load_manifest(package), {}
    for number, head in enumerate(manifest.heads):
        files[head.exit] = folder / f"cut-{number}.onnx"
        model = put_together(package, manifest, Plan("budgeted", (head,), ()))
        files[head.exit].write_bytes(model.SerializeToString())
    return files


def merged(package: Path, folder: Path, engine: Engine) -> dict[str, StagedNetwork]:
    """For each exit a package of it alone, its stages merged."""
    manifest, networks = load_manifest(package), {}
    for number, head in enumerate(manifest.heads):
        place = folder / f"merged-{number}"
        place.mkdir(exist_ok=True)
        ((stage, content),), within = merge_stages(package, manifest, [head])
        (place / stage.file).write_bytes(content)
        shutil.copyfile(package / head.labels, place / head.labels)
        alone = {"stages": (stage,), "heads": tuple(within)}
        networks[head.exit] = StagedNetwork(place, engine, [head.exit], manifest=manifest.model_copy(update=alone))
    return networks


def measure(
    package: Path, folder: Path, files: dict[str, Path], engine_name: EngineName, threads: int, passes: int
) -> dict[str, Any]:
    """Milliseconds of each exit by stages and alone, and of what lies between the graphs of all exits in turn."""
    engine = open_engine(engine_name, threads)
    network = StagedNetwork(package, engine)
    entry = GraphEntry(file="cut.onnx", sha256="", inputs=("image",), outputs=OUTPUTS[:1], macs=0, parameter_bytes=0)
    together = merged(package, folder, engine)
    alone = {name: engine.load(path, entry) for name, path in files.items()}
    image = np.random.default_rng(0).integers(0, 256, (*network.manifest.size[::-1], 3), dtype=np.uint8)
    times: dict[str, dict[str, list[float]]] = {
        name: {form: [] for form in ("stages", "merged", "alone")} for name in network.exits
    }
    deciding: list[float] = []

    def clock() -> float:
        return time.perf_counter() * 1e3

    for number in range(WARM_UP + passes):
        for name in network.exits:
            took = {}
            for form, subject in (("stages", network), ("merged", together[name])):
                started = clock()
                for found in subject.iter_exits(image, [name]):
                    found.labels()
                took[form] = clock() - started
            started = clock()
            engine.array(alone[name]({"image": engine.tensor(image[None])})["labels"])
            took["alone"] = clock() - started
            for form, milliseconds in took.items():
                times[name][form] += [milliseconds] if number >= WARM_UP else []
        started = clock()
        steps: dict[str, float] = {}
        for found in network.iter_exits(image):
            image_score(found.sure, 0, 1)
            steps = found.steps_ms
        if number >= WARM_UP:
            deciding.append((clock() - started - sum(steps.values())) / len(network.exits))
    return {
        "engine": engine_name,
        "version": engine_version(engine_name),
        "threads": threads,
        **{
            f"{form}_to_alone": {
                name: float(np.median(np.array(one[form]) / np.array(one["alone"]))) for name, one in times.items()
            }
            for form in ("stages", "merged")
        },
        "deciding_ms": float(np.median(deciding)),
        "deciding_to_first_exit": float(np.median(deciding) / np.median(times[network.exits[0]]["stages"])),
        "times_ms": times,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=lambda text: [int(number) for number in text.split(",")], default=[1, 2])
    parser.add_argument("--passes", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = cut(options.package, Path(folder))
        runs = [
            measure(options.package, Path(folder), files, name, count, options.passes)
            for name in ENGINES
            for count in options.threads
        ]
    rows = [
        [
            name,
            *(
                f"{run['stages_to_alone'][name]:.2f}, {run['merged_to_alone'][name]:.2f} "
                f"({np.median(run['times_ms'][name]['alone']):.1f} ms)"
                for run in runs
            ),
        ]
        for name in files
    ]
    rows.append(["deciding / first exit", *(f"{run['deciding_to_first_exit']:.2%}" for run in runs)])
    columns = [f"{run['engine']}, {run['threads']} threads" for run in runs]
    print_table("stages, merged stages / the network cut there, time (and its ms)", ["exit", *columns], rows)
    print(json.dumps({"benchmark": "leaving", "device": device_name(), "precision": "fp32", "runs": runs}))


if __name__ == "__main__":
    main()
