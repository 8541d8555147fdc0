"""Whether an exit answers better if it also hears what the exits before it said.

    python benchmarks/merging.py PACKAGE DATA [--images N] [--engine onnxruntime] [--precision fp32] [--out merging.json]

For every pair of exits, and for each exit with all those before it: several ways to merge their class scores. For each the best
one is chosen on val at the heads' resolution (each cell's middle pixel), and its mIoU in full resolution told for val and test,
beside the deeper exit's alone. The coarser scores are brought to the finer resolution. A weighted mean of scores is the same as
one of log-probabilities: what they differ by is equal for all classes of a pixel, before and after upsampling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from pixel_counts import Network, Scores

from offramp.artifacts import HeadEntry, load_manifest
from offramp.console import print_table, showing_progress
from offramp.data.folder import open_split
from offramp.files import new_file
from offramp.metrics import count_pixels, miou
from offramp.progress import Progress
from offramp.runtime.engines import open_engine
from offramp.runtime.images import fit
from offramp.specs import EngineName, Precision

Way = Callable[[Sequence[Scores]], Scores]
"""From scores (C, h, w) of some exits, in order of depth, to merged ones."""
WEIGHTS = (0.1, 0.2, 0.35, 0.5)
SURE = (0.9, 0.98, 0.996)


def probabilities(scores: Scores) -> Scores:
    """Softmax over classes, (C, h, w)."""
    raised = np.exp(scores - scores.max(axis=0))
    return np.asarray(raised / raised.sum(axis=0))


def logarithm(likely: Scores) -> Scores:
    """Scores of probabilities."""
    return np.asarray(np.log(np.maximum(likely, 1e-12)), np.float32)


def weighted(of_exits: Sequence[Scores], weight: float) -> Scores:
    """What all exits before said has this weight in the mean, and among them those before the last in turn."""
    merged = of_exits[0]
    for scores in of_exits[1:]:
        merged = np.asarray(weight * merged + (1 - weight) * scores, np.float32)
    return merged


def weighted_probabilities(of_exits: Sequence[Scores], weight: float) -> Scores:
    """The same of probabilities; the logarithm makes scores of them again."""
    return logarithm(weighted([probabilities(scores) for scores in of_exits], weight))


def most_confident(of_exits: Sequence[Scores]) -> Scores:
    """Of each pixel the exit that is surest of its answer."""
    likely = np.stack([probabilities(scores) for scores in of_exits])
    surest = likely.max(axis=1).argmax(axis=0)
    return logarithm(np.take_along_axis(likely, surest[None, None], axis=0)[0])


def first_sure(of_exits: Sequence[Scores], threshold: float) -> Scores:
    """Of each pixel the first exit that is sure of it: per-pixel exits."""
    likely = [probabilities(scores) for scores in of_exits]
    merged = likely[-1]
    for one in reversed(likely[:-1]):
        merged = np.where(one.max(axis=0) >= threshold, one, merged)
    return logarithm(merged)


WAYS: dict[str, Way] = {
    **{f"scores {weight}": partial(weighted, weight=weight) for weight in WEIGHTS},
    **{f"probabilities {weight}": partial(weighted_probabilities, weight=weight) for weight in WEIGHTS},
    "most confident": most_confident,
    **{f"sure from {threshold}": partial(first_sure, threshold=threshold) for threshold in SURE},
}


def stretched(scores: Scores, shape: tuple[int, int]) -> Scores:
    """Scores (C, h, w) at a finer resolution, bilinear, by a whole factor; what hangs over is cut off."""
    for axis, length in zip((1, 2), shape, strict=True):
        cells = scores.shape[axis]
        factor = -(-length // cells)
        if factor == 1:
            continue
        places = np.clip((np.arange(length) + 0.5) / factor - 0.5, 0, cells - 1)
        lower = np.minimum(places.astype(np.int64), max(cells - 2, 0))
        share = (places - lower).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        upper = np.minimum(lower + 1, cells - 1)
        scores = scores.take(lower, axis) * (1 - share) + scores.take(upper, axis) * share
    return np.asarray(scores, np.float32)


class Study:
    """A package's exits on both splits."""

    def __init__(self, network: Network, data: Path, images: int, progress: Progress) -> None:
        """Nothing is asked yet."""
        self.network, self.progress = network, progress
        self.splits = {name: open_split(data, name) for name in ("val", "test")}
        self.indices = {
            name: np.unique(np.linspace(0, len(split) - 1, min(images or len(split), len(split))).round().astype(int))
            for name, split in self.splits.items()
        }
        self.classes = len(network.manifest.classes)
        count = len(network.heads)
        pairs = list(combinations(range(count), 2))
        self.sets = [*pairs, *(tuple(range(end + 1)) for end in range(2, count))]

    def finest(self, exits: Sequence[int]) -> HeadEntry:
        """Of some exits the head with the finest scores."""
        return max((self.network.heads[place] for place in exits), key=lambda head: head.scores_shape[2])

    def choose(self) -> tuple[list[str], list[list[Scores]]]:
        """The best way for each set of exits, by val at the heads' resolution; and val's scores, to be used again."""
        samples = self.splits["val"]
        kept: list[list[Scores]] = []
        counts = np.zeros((len(self.sets), len(WAYS), 3, self.classes), np.int64)
        for number, index in enumerate(self.indices["val"]):
            image, labels = samples.pair(int(index))
            scores = [found[0] for found in self.network.ask(fit(image, self.network.manifest.size))]
            kept.append(scores)
            for place, exits in enumerate(self.sets):
                shape = self.finest(exits).scores_shape[2:]
                alike = [stretched(scores[one], (shape[0], shape[1])) for one in exits]
                rows, columns = (
                    ((np.arange(cells) + 0.5) * pixels / cells).astype(int)
                    for cells, pixels in zip(shape, labels.shape, strict=True)
                )
                truth = labels[np.ix_(rows, columns)]
                for column, way in enumerate(WAYS.values()):
                    answer = way(alike).argmax(axis=0).astype(np.uint8)
                    counts[place, column] += np.stack(count_pixels(answer, truth, self.classes))
            self.progress("choosing on val", number + 1, len(self.indices["val"]))
        best = miou(*np.moveaxis(counts, 2, 0)).argmax(axis=1)
        return [list(WAYS)[column] for column in best], kept

    def measure(self, split: str, ways: Sequence[str], kept: Sequence[Sequence[Scores]] = ()) -> dict[str, npt.NDArray[Any]]:
        """MIoU in %, of each exit alone and of each set's way."""
        samples = self.splits[split]
        alone = np.zeros((len(self.network.heads), 3, self.classes), np.int64)
        merged = np.zeros((len(self.sets), 3, self.classes), np.int64)
        for number, index in enumerate(self.indices[split]):
            image, labels = samples.pair(int(index))
            if kept:
                scores = list(kept[number])
            else:
                scores = [found[0] for found in self.network.ask(fit(image, self.network.manifest.size))]
            for place, head in enumerate(self.network.heads):
                alone[place] += np.stack(count_pixels(self.network.labels(scores[place], head), labels, self.classes))
            for place, (exits, way) in enumerate(zip(self.sets, ways, strict=True)):
                head = self.finest(exits)
                alike = [stretched(scores[one], (head.scores_shape[2], head.scores_shape[3])) for one in exits]
                answer = self.network.labels(WAYS[way](alike), head)
                merged[place] += np.stack(count_pixels(answer, labels, self.classes))
            self.progress(f"measuring on {split}", number + 1, len(self.indices[split]))
        return {name: 100 * miou(*np.moveaxis(counts, 1, 0)) for name, counts in (("alone", alone), ("merged", merged))}


def show(result: dict[str, Any], title: str) -> None:
    """A line for each set of exits."""
    rows = []
    for one in result["sets"]:
        earlier, deeper = one["exits"][:-1], one["exits"][-1]
        place = result["exits"].index(deeper)
        before = [result["exits"].index(name) for name in earlier]
        gains = [one[split] - result["alone"][split][place] for split in ("val", "test")]
        beaten = any(result["alone"]["val"][other] >= one["val"] for other in before)
        rows.append(
            [
                str(place),
                ", ".join(map(str, before)),
                one["way"],
                *(f"{result['alone'][split][place]:.2f}" for split in ("val", "test")),
                *(f"{gain:+.2f}" for gain in gains),
                "an earlier one alone is better" if beaten else "",
            ]
        )
    columns = ["exit", "hears", "way chosen on val", "val alone", "test alone", "gain on val", "gain on test", ""]
    print(", ".join(f"{place}: {name}" for place, name in enumerate(result["exits"])))
    print_table(f"{title}: mIoU, %, of an exit that hears earlier ones", columns, rows)


def main() -> None:
    """Choose, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=0, help="of each split, evenly spread; 0: all")
    parser.add_argument("--engine", choices=get_args(EngineName), default="onnxruntime")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    manifest = load_manifest(options.package)
    network = Network(options.package, manifest, open_engine(options.engine, precision=options.precision))
    with showing_progress() as progress:
        study = Study(network, options.data, options.images, progress)
        ways, kept = study.choose()
        found = {"val": study.measure("val", ways, kept), "test": study.measure("test", ways)}
    result: dict[str, Any] = {
        "benchmark": "merging",
        "package": options.package.name,
        "engine": options.engine,
        "precision": options.precision,
        "images": {name: len(indices) for name, indices in study.indices.items()},
        "exits": list(manifest.exits),
        "alone": {split: one["alone"].tolist() for split, one in found.items()},
        "sets": [
            {
                "exits": [manifest.exits[one] for one in exits],
                "way": way,
                **{split: float(one["merged"][place]) for split, one in found.items()},
            }
            for place, (exits, way) in enumerate(zip(study.sets, ways, strict=True))
        ],
    }
    show(result, options.package.name)
    if options.out:
        with new_file(options.out) as temporary:
            temporary.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
