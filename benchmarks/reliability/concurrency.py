"""One predictor asked from 8 threads, two in two threads, 8 processes with one each, a forked one: the answers of one alone?

    python benchmarks/reliability/concurrency.py [PACKAGE DATA] [--images 40] [--workers 8] [--out docs/concurrency.json]

By default a tiny package and drawn scenes. In each mode that the clock does not decide (budgeted, anytime without a deadline,
input-dependent) and each engine, with one thread of its own, all images are answered one after another; then by each worker,
each in an order of its own. Exits, label maps and confidences must be the same bits. Exit code 1 if one differs.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness import make_things
from plans import by_image, decided
from script import script_parser, write_json

from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.data.folder import load_image
from offramp.runtime.engines import engine_version
from offramp.runtime.images import fit
from offramp.runtime.predictor import Plan, Predictor
from offramp.specs import EngineName

Pixels = npt.NDArray[np.uint8]
Bits = tuple[str, str]
"""The exit, and a hash of the label map and the confidence map."""


@dataclass(frozen=True)
class Setting:
    """What a worker needs to begin."""

    package: Path
    engine: EngineName
    plan: Plan


def opened(setting: Setting) -> Predictor:
    """A predictor with the plan."""
    predictor = Predictor(setting.package, engine=setting.engine, threads=1, every_exit=True)
    predictor.change(setting.plan)
    return predictor


def answers(predictor: Predictor, images: Sequence[Pixels], seed: int = 0) -> list[Bits]:
    """The answers to all images, in their order, asked in one that depends on the seed."""
    found: dict[int, Bits] = {}
    for index in np.random.default_rng(seed).permutation(len(images)) if seed else range(len(images)):
        answer = predictor(images[index])
        said = hashlib.sha256(answer.labels.tobytes() + answer.confidence.tobytes()).hexdigest()
        found[int(index)] = (answer.exit, said)
    return [found[index] for index in range(len(images))]


def in_a_process(setting: Setting, images: Sequence[Pixels], seed: int) -> list[Bits]:
    """The answers of a predictor that is opened here."""
    return answers(opened(setting), images, seed)


def one_in_threads(setting: Setting, images: Sequence[Pixels], workers: int) -> list[list[Bits]]:
    """One predictor, asked by all at once."""
    predictor = opened(setting)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda seed: answers(predictor, images, seed), range(1, workers + 1)))


def many_in_threads(setting: Setting, images: Sequence[Pixels], workers: int) -> list[list[Bits]]:
    """A predictor for each thread."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda seed: in_a_process(setting, images, seed), range(1, workers + 1)))


def many_in_processes(setting: Setting, images: Sequence[Pixels], workers: int) -> list[list[Bits]]:
    """A predictor in each of some new processes."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [task.result() for task in [pool.submit(in_a_process, setting, images, seed) for seed in range(1, workers + 1)]]


def forked(setting: Setting, images: Sequence[Pixels], workers: int) -> list[list[Bits]]:
    """Processes that are forked from one whose predictor has answered, and use that."""
    predictor = opened(setting)
    answers(predictor, images)
    context = multiprocessing.get_context("fork")
    said = context.Queue()

    def work(seed: int) -> None:
        said.put(answers(predictor, images, seed))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is the point
        processes = [context.Process(target=work, args=(seed,)) for seed in range(1, workers + 1)]
        for process in processes:
            process.start()
    found = [said.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return found


WAYS: dict[str, Callable[[Setting, Sequence[Pixels], int], list[list[Bits]]]] = {
    "one predictor, threads": one_in_threads,
    "a predictor in each thread": many_in_threads,
    "a predictor in each process": many_in_processes,
    "one predictor, forked": forked,
}


def main() -> None:
    """Ask in every way, print, judge."""
    parser = script_parser(__doc__)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?", help="its folder test/images is read")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package, data = options.package, options.data
        if package is None:
            things = make_things(Path(folder) / "things")
            package, data = decided(things.package, Path(folder) / "decided"), things.data
        paths = sorted((data / "test" / "images").iterdir())
        first = Predictor(package, threads=1, every_exit=True)
        images = [_variant(load_image(paths[n % len(paths)]), n // len(paths), first) for n in range(options.images)]
        exits = first.network.exits
        plans = [Plan("budgeted", exits[-1:]), Plan("anytime", exits), by_image(first, images)]
        found = []
        for engine in options.engines:
            for plan in plans:
                setting = Setting(package, engine, plan)
                wanted = answers(opened(setting), images)
                for name, way in WAYS.items():
                    if name == "one predictor, forked" and not hasattr(os, "fork"):
                        continue
                    got = way(setting, images, options.workers)
                    differ = sum(one != other for worker in got for one, other in zip(worker, wanted, strict=True))
                    taken = len({exit_name for exit_name, _ in wanted})
                    asked = len(images) * len(got)
                    found.append({"engine": engine, "mode": plan.mode, "way": name, "answers": asked, "differ": differ})
                    found[-1]["exits_taken"] = taken
    show(found, options.workers)
    values = {"benchmark": "concurrency", "device": device_name(), "workers": options.workers, "package": package.name}
    values |= {"versions": {name: engine_version(name) for name in options.engines}, "runs": found}
    write_json(options.out, values)
    sys.exit(1 if any(one["differ"] for one in found) else 0)


def _variant(image: Pixels, turn: int, predictor: Predictor) -> Pixels:
    """An image moved sideways, at the package's size: few files give many images."""
    return np.ascontiguousarray(np.roll(fit(image, predictor.manifest.size), 17 * turn, axis=1))


def show(found: Sequence[dict[str, object]], workers: int) -> None:
    """Print the table."""
    rows = [[str(one[name]) for name in ("engine", "mode", "way", "exits_taken", "answers", "differ")] for one in found]
    print_table(f"{workers} workers", ["engine", "mode", "way", "exits taken", "answers", "differ"], rows)
    print(f"{sum(int(str(one['answers'])) for one in found)} answers, {sum(int(str(one['differ'])) for one in found)} differ")


if __name__ == "__main__":
    main()
