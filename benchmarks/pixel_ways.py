"""The ways to answer with a pair of exits, really run: dense, with masks, on tiles, and images that leave as a whole.

`per_pixel.py` uses it. Each way is a function from an image to its label map.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tiling import Floats, Grid, Mask, Tiles, blocks, load, local, with_masks

from offramp.artifacts import Manifest
from offramp.data.folder import Split
from offramp.export.joining import merge_stages
from offramp.metrics import count_pixels, miou
from offramp.policy import image_score
from offramp.progress import Progress
from offramp.runtime.engines import Engine, Graph, Tensor
from offramp.runtime.images import fit

Pixels = npt.NDArray[np.uint8]
Way = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class WholeImages:
    """A policy for whole images at one early exit."""

    exit: str
    region: int
    pixel_threshold: int
    image_threshold: float
    share_on_val: float
    """Of the images, that leaves early."""
    macs_on_val: float
    """Mean; the deepest exit's alone as 1."""

    def leaves(self, sure: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether images with these counts (..., regions, GRID) leave."""
        return image_score(sure, self.region, self.pixel_threshold) >= self.image_threshold


@dataclass(frozen=True)
class Pair:
    """What is compared: an early exit with its pixel threshold, the deepest exit, and the policy for whole images, if any."""

    early: str
    last: str
    threshold: float
    leaving: WholeImages | None


class Ways:
    """All ways, loaded into one engine."""

    def __init__(
        self,
        package: Path,
        pair: Pair,
        manifest: Manifest,
        engine: Engine,
        folder: Path,
        *,
        tiles: Sequence[int],
        together: bool,
    ) -> None:
        """Load them.

        Args:
            package: a folder.
            pair: what is compared.
            manifest: the package's.
            engine: what runs the graphs.
            folder: for graphs that are made here.
            tiles: sides, pixels of the image.
            together: also tiles as one batch, which only ONNX Runtime does here.

        """
        self.pair, self.manifest, self.engine = pair, manifest, engine
        early, last = manifest.head(pair.early), manifest.head(pair.last)
        self._entry = manifest.stages[0].inputs[0]
        self._early, self._last = early.outputs, last.outputs
        entry = next(entry for entry in manifest.labels if entry.file == last.labels)
        self._labels = engine.load(package / entry.file, entry)
        ((stage, content),), _ = merge_stages(package, manifest, [last])
        self._alone = self._load(folder, stage.inputs, content, last.outputs)
        self._front, self._back, deep = self._parts(package, folder, pair.early)
        width, height = manifest.size
        self.what = local(onnx.load_model_from_string(deep), last.outputs[0], height)
        masked, self._masks = with_masks(self.what)
        self._masked = self._load(folder, (*self.what.inputs, *self._masks), masked.SerializeToString(), last.outputs[:1])
        self.stride = self.what.strides[self.what.output]
        self.ways: dict[str, Way] = {"deepest exit alone": self.alone, "both exits": self.both, "masks": self.masks}
        unit = self.what.unit
        rows, columns = -(-height // unit), -(-width // unit)
        for side in tiles:
            for name, halo in (("whole halo", -(-self.what.reach // unit)), ("halo of 2 cells", 2), ("no halo", 0)):
                for way in ("one by one", *(["one batch"] if together else [])):
                    grid = Grid(rows, columns, max(side // unit, 1), halo)
                    made = Tiles(self.what, grid, engine, folder, together=way == "one batch")
                    self.ways[f"tiles of {side}, {name}, {way}"] = self._on(made)
        if pair.leaving:
            self._leaving_front, self._leaving_back, _ = self._parts(package, folder, pair.leaving.exit)
            self._leaving = manifest.head(pair.leaving.exit).outputs
            self.ways["whole images"] = self.whole_images

    def _parts(self, package: Path, folder: Path, early: str) -> tuple[Graph, Graph, bytes]:
        """All up to an early exit as one graph, all behind it as another, and the latter's file."""
        heads = [self.manifest.head(name) for name in (early, self.pair.last)]
        ((front, shallow), (back, deep)), _ = merge_stages(package, self.manifest, heads)
        first = self._load(folder, front.inputs, shallow, front.outputs)
        return first, self._load(folder, back.inputs, deep, back.outputs), deep

    def _load(self, folder: Path, inputs: tuple[str, ...], content: bytes, outputs: Sequence[str]) -> Graph:
        (folder / "graph.onnx").write_bytes(content)
        return load(self.engine, folder / "graph.onnx", inputs, *outputs)

    def _begin(self, image: Pixels) -> dict[str, Tensor]:
        return self._front({self._entry: self.engine.tensor(np.ascontiguousarray(image)[None])})

    def _answer(self, scores: Tensor) -> Pixels:
        return np.asarray(self.engine.array(self._labels({"scores": scores})["labels"])[0], np.uint8)

    def alone(self, image: Pixels) -> Pixels:
        """The deepest exit, no other asked."""
        found = self._alone({self._entry: self.engine.tensor(np.ascontiguousarray(image)[None])})
        return self._answer(found[self._last[0]])

    def both(self, image: Pixels) -> Pixels:
        """Both exits, answered by the deeper."""
        tensors = self._begin(image)
        return self._answer(self._back(tensors)[self._last[0]])

    def whole_images(self, image: Pixels) -> Pixels:
        """The early exit's answer where the image's score is high enough."""
        assert self.pair.leaving
        tensors = self._leaving_front({self._entry: self.engine.tensor(np.ascontiguousarray(image)[None])})
        if self.pair.leaving.leaves(self.engine.array(tensors[self._leaving[2]])):
            return self._answer(tensors[self._leaving[0]])
        return self._answer(self._leaving_back(tensors)[self._last[0]])

    def unsure(self, image: Pixels) -> tuple[dict[str, Tensor], Floats, Mask]:
        """Tensors behind the early exit, its scores (C, h, w), and where it is unsure (h, w)."""
        tensors = self._begin(image)
        scores, confidence = (np.asarray(self.engine.array(tensors[name])[0]) for name in self._early[:2])
        return tensors, scores, confidence < self.pair.threshold

    def masks(self, image: Pixels) -> Pixels:
        """Everything is computed, and what belongs to sure pixels is multiplied by 0."""
        tensors, scores, unsure = self.unsure(image)
        given = {}
        for name, stride in self._masks.items():
            mask = blocks(unsure, stride // self.stride).astype(np.float32)
            given[name] = self.engine.tensor(mask[None, None])
        deep = self.engine.array(self._masked(tensors | given)[self._last[0]])[0]
        return self._merged(scores, deep, unsure)

    def _on(self, tiles: Tiles) -> Way:
        def answer(image: Pixels) -> Pixels:
            tensors, scores, unsure = self.unsure(image)
            deep = scores.copy()
            tiles({name: self.engine.array(tensors[name]) for name in self.what.inputs}, unsure, deep)
            return self._merged(scores, deep, unsure)

        return answer

    def _merged(self, early: Floats, deep: Floats, unsure: Mask) -> Pixels:
        return self._answer(self.engine.tensor(np.where(unsure, deep, early)[None]))


def accuracy_of_ways(
    ways: Ways, samples: Split, images: Sequence[int], tiles: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """MIoU of each way, and of how much of an image its unsure pixels leave nothing to skip."""
    classes = len(ways.manifest.classes)
    counts = {name: np.zeros((3, classes), np.int64) for name in ways.ways if "one by one" not in name}
    shares: dict[str, list[float]] = {}
    for number, index in enumerate(images):
        image, labels = samples.pair(index)
        image = fit(image, ways.manifest.size)
        for name in counts:
            counts[name] += np.stack(count_pixels(ways.ways[name](image), labels, classes))
        for name, share in _extent(ways.unsure(image)[2], ways, tiles).items():
            shares.setdefault(name, []).append(share)
        progress(f"ways on {samples.name}", number + 1, len(images))
    return {
        "miou": {name: 100 * float(miou(*of_way)) for name, of_way in counts.items()},
        "shares": {name: float(np.mean(of_image)) for name, of_image in shares.items()},
        "reach": ways.what.reach,
    }


def _extent(unsure: Mask, ways: Ways, tiles: Sequence[int]) -> dict[str, float]:
    """Share of the image in unsure pixels, in tiles that hold some, and in the box around all of them."""
    found = {"pixels": float(unsure.mean())}
    found |= {f"tiles of {side}": float(blocks(unsure, side // ways.stride).mean()) for side in tiles}
    spans = [np.flatnonzero(unsure.any(axis=axis)) for axis in (0, 1)]
    box = [float(span[-1] - span[0] + 1) if len(span) else 0.0 for span in spans]
    return found | {"box": box[0] * box[1] / unsure.size}


def time_ways(ways: Ways, images: Sequence[Pixels], progress: Progress) -> dict[str, list[float]]:
    """Milliseconds of each way for each image; who begins moves on from image to image."""
    names = list(ways.ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # first runs are slower than those after them
        ways.ways[name](images[0])
        ways.ways[name](images[-1])
    for number, image in enumerate(images):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            started = time.perf_counter()
            ways.ways[name](image)
            times[name].append((time.perf_counter() - started) * 1e3)
        progress(f"times, {ways.engine.name}, {ways.engine.threads} threads", number + 1, len(images))
    return times
