"""What an engine's precision costs in mIoU and gains in time, and how far that is from what the machine could do.

    python benchmarks/precisions.py PACKAGE DATA [--split test] [--threads 1] [--passes 20]

Every exit's mIoU in each precision that an engine has here; the time of every exit and of the original network, pass by pass in
turn; and a matrix product (1024 x 1024 x 1024) in the same engine and precision, which tells what the machine's arithmetic
allows: the original network's multiply-accumulates a second as a share of that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.artifacts import device_name
from offramp.artifacts.package import GraphEntry
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.metrics import miou
from offramp.runtime.engines import Engine, engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName, Precision

SIDE = 1024
WARM_UP = 3


@dataclass
class Setting:
    """An engine in a precision, with the package loaded."""

    engine: Engine
    network: StagedNetwork
    original: Callable[[np.ndarray], object] | None
    product: Callable[[], object]


def settings(package: Path, threads: int, folder: Path) -> dict[str, Setting]:
    """All that this machine has."""
    found = {}
    for name in get_args(EngineName):
        for precision in get_args(Precision):
            try:
                engine = open_engine(name, threads, precision)
            except InputError as error:
                print(error)
                continue
            network = StagedNetwork(package, engine)
            found[f"{name} {precision}"] = Setting(engine, network, network.load_original(), matrix_product(engine, folder))
    return found


def matrix_product(engine: Engine, folder: Path) -> Callable[[], object]:
    """SIDE cubed multiply-accumulates in one graph."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(SIDE, SIDE)).astype(np.float32), "weights")
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("given", "made")]
    node = helper.make_node("MatMul", ["given", "weights"], ["made"])
    graph = helper.make_graph([node], "product", shape[:1], shape[1:], [weights])
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    entry = GraphEntry(file=path.name, sha256="", inputs=("given",), outputs=("made",), macs=SIDE**3, parameter_bytes=0)
    loaded = engine.load(path, entry)
    given = {"given": engine.tensor(rng.normal(size=(SIDE, SIDE)).astype(np.float32))}
    return lambda: loaded(given)


def one_pass(setting: Setting, image: np.ndarray) -> dict[str, float]:
    """Milliseconds of every exit, the original network and the matrix product."""
    steps: dict[str, float] = {}
    for found in setting.network.iter_exits(image):
        found.labels()
        steps = found.steps_ms
    took = {}
    for head in setting.network.heads:
        stages = sum(steps[f"stage {index}"] for index in range(head.stage + 1))
        took[head.exit] = stages + steps[f"head {head.exit}"] + steps[f"labels {head.exit}"]
    if setting.original:
        started = time.perf_counter()
        setting.original(image)
        took["original"] = (time.perf_counter() - started) * 1e3
    started = time.perf_counter()
    setting.product()
    took["product"] = (time.perf_counter() - started) * 1e3
    return took


def mious(options: argparse.Namespace, setting: Setting) -> dict[str, float]:
    """Every exit's mIoU on the split."""
    engine = setting.engine
    with showing_progress() as progress:
        records = evaluate(
            options.package,
            options.data,
            options.split,
            engine=engine.name,
            threads=engine.threads,
            precision=engine.precision,
            progress=progress,
        )
    sums = (records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
    return dict(zip(records.info.exits, (float(value) for value in miou(*sums)), strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        there = settings(options.package, options.threads, Path(folder))
        manifest = next(iter(there.values())).network.manifest
        image = np.random.default_rng(0).integers(0, 256, (*manifest.size[::-1], 3), dtype=np.uint8)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in there}
        for number in range(WARM_UP + options.passes):
            for name, setting in there.items():
                took = one_pass(setting, image)
                times[name] += [took] if number >= WARM_UP else []
        found = {name: mious(options, setting) for name, setting in there.items()}
    macs = manifest.original.macs if manifest.original else 0
    rows: list[list[str]] = []
    result: dict[str, dict[str, Any]] = {}
    first = next(iter(times))
    for name, passes in times.items():
        median = {what: float(np.median([took[what] for took in passes])) for what in passes[0]}
        ratio = {
            what: float(np.median([a[what] / b[what] for a, b in zip(passes, times[first], strict=True)])) for what in median
        }
        limit = SIDE**3 / median["product"] / 1e6
        reached = macs / median["original"] / 1e6 if macs else 0.0
        result[name] = {
            "miou": found[name],
            "median_ms": median,
            f"of_{first}": ratio,
            "product_gmacs_s": limit,
            "gmacs_s": reached,
        }
        last = manifest.exits[-1]
        rows += [
            [name, what, f"{100 * found[name].get(what, found[name][last]):.2f}", f"{median[what]:.1f}", f"{ratio[what]:.2f}"]
            for what in (*manifest.exits, *(["original"] if macs else []))
        ]
        rows.append([f"{reached:.0f} of {limit:.0f} GMAC/s", f"{reached / limit:.0%} of the matrix product", "", "", ""])
    print_table(f"{options.split}, {options.threads} threads", ["", "exit", "mIoU, %", "ms", f"of {first}"], rows)
    about = {"benchmark": "precisions", "device": device_name(), "threads": options.threads, "split": options.split}
    versions = {setting.engine.name: engine_version(setting.engine.name) for setting in there.values()}
    print(json.dumps(about | {"versions": versions, "original_macs": macs, "settings": result}))


if __name__ == "__main__":
    main()
