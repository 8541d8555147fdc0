"""The same package and images on every engine and number of threads: the same answers? And of one call, the same bits again?

    python benchmarks/reliability/exactness.py [PACKAGE DATA] [--images 20] [--box] [--out docs/exactness.json]

By default a tiny package and drawn scenes; `--box` adds the network in the box, in int8, on the same images. All is compared
with ONNX Runtime on one thread: the share of equal pixels of each exit's label maps, the largest difference of confidence, and
the share of images that leave at the same exit by an input-dependent plan (the package's own deployment, or one made from these
images). Then one image, 20 times: are labels and confidences the same bits? Exit code 1 if they are not.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import make_things
from plans import by_image, decided
from script import script_parser, write_json

from offramp.artifacts import device_name
from offramp.box import boxed_package
from offramp.console import print_table
from offramp.data.folder import load_image
from offramp.runtime.engines import engine_version
from offramp.runtime.predictor import Plan, Predictor
from offramp.specs import EngineName

AGAIN = 20
SETTINGS: tuple[tuple[EngineName, int], ...] = tuple(
    (engine, n) for engine in ("onnxruntime", "openvino") for n in (1, 2, 3, 4)
)

Images = Sequence[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Said:
    """What a setting answers."""

    labels: dict[str, list[npt.NDArray[np.uint8]]]
    """To each exit, of each image, (H, W)."""
    confidence: dict[str, list[npt.NDArray[np.float32]]]
    """(h, w)."""
    left: list[str]
    """The exit of each image."""
    repeated: int
    """Different answers among AGAIN to the same image."""


def ask(package: Path, engine: EngineName, threads: int, images: Images, plan: Plan) -> Said:
    """All exits of all images, where they leave, and one image again and again."""
    predictor = Predictor(package, engine=engine, threads=threads, every_exit=True)
    exits = predictor.network.exits
    predictor.change(Plan("anytime", exits))
    labels: dict[str, list[npt.NDArray[np.uint8]]] = {name: [] for name in exits}
    confidence: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in exits}
    for image in images:
        for answer in predictor.refine(image):
            labels[answer.exit].append(answer.labels)
            confidence[answer.exit].append(answer.confidence)
    bits = set()
    for _ in range(AGAIN):
        whole = b"".join(answer.labels.tobytes() + answer.confidence.tobytes() for answer in predictor.refine(images[0]))
        bits.add(hashlib.sha256(whole).digest())
    predictor.change(plan)
    return Said(labels, confidence, [predictor(image).exit for image in images], len(bits))


def compare(said: Said, wanted: Said) -> dict[str, Any]:
    """A setting against the reference."""
    exits = {}
    for name in wanted.labels:
        pairs = list(zip(said.labels[name], wanted.labels[name], strict=True))
        judged = zip(said.confidence[name], wanted.confidence[name], strict=True)
        exits[name] = {
            "equal_pixels": float(np.mean([(one == other).mean() for one, other in pairs])),
            "different_pixels": int(sum((one != other).sum() for one, other in pairs)),
            "largest_difference_of_confidence": float(max(np.abs(one - other).max(initial=0) for one, other in judged)),
        }
    same = float(np.mean([one == other for one, other in zip(said.left, wanted.left, strict=True)]))
    return {"exits": exits, "same_exit": same, "different_answers_of_20": said.repeated}


def plan_of(package: Path, images: Images) -> Plan:
    """Its own input-dependent deployment, or one made from these images."""
    predictor = Predictor(package, threads=1, every_exit=True)
    for one in predictor.manifest.deployments:
        if one.mode == "input-dependent" and len(one.exits) > 1:
            return Plan(one.mode, one.exits, one.region, one.pixel_threshold, one.image_thresholds)
    return by_image(predictor, images)


def main() -> None:
    """Ask, compare, print, judge."""
    parser = script_parser(__doc__)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?", help="its folder test/images is read")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--box", action="store_true", help="the network in the box, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package, data = options.package, options.data
        if package is None:
            things = make_things(Path(folder) / "things")
            package, data = decided(things.package, Path(folder) / "decided"), things.data
        paths = sorted((data / "test" / "images").iterdir())
        images = [load_image(path) for path in paths[:: max(1, len(paths) // options.images)][: options.images]]
        runs = []
        for one in (package, *([boxed_package()] if options.box else [])):
            plan = plan_of(one, images)
            wanted = ask(one, *SETTINGS[0], images, plan)
            for engine, threads in SETTINGS:
                found = compare(ask(one, engine, threads, images, plan), wanted)
                runs.append({"package": one.name, "engine": engine, "threads": threads, "images": len(images)} | found)
    show(runs)
    versions = {name: engine_version(name) for name in ("onnxruntime", "openvino")}
    about = {"benchmark": "exactness", "device": device_name(), "versions": versions, "reference": "onnxruntime, 1 thread"}
    write_json(options.out, about | {"runs": runs})
    sys.exit(1 if any(one["different_answers_of_20"] != 1 for one in runs) else 0)


def show(runs: Sequence[dict[str, Any]]) -> None:
    """Print the table: the worst exit of each setting."""
    rows = []
    for one in runs:
        exits = one["exits"].values()
        rows.append(
            [
                f"{one['package']}, {one['engine']}, {one['threads']} threads",
                f"{min(each['equal_pixels'] for each in exits):.5%}",
                f"{max(each['largest_difference_of_confidence'] for each in exits):.1e}",
                f"{one['same_exit']:.1%}",
                "yes" if one["different_answers_of_20"] == 1 else f"{one['different_answers_of_20']} answers",
            ]
        )
    columns = ["setting", "equal pixels, worst exit", "confidence differs by", "same exit", "same bits 20 times"]
    print_table("against ONNX Runtime on one thread", columns, rows)


if __name__ == "__main__":
    main()
