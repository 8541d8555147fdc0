"""What every exit answers on some images, as small pictures, and its confusion of classes over all images of the split.

The page's script then shows each image as a deployment would answer it: which exit it takes follows from its scores.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from offramp.artifacts import Manifest
from offramp.data.folder import Split, open_split
from offramp.data.pictures import Pixels
from offramp.errors import InputError
from offramp.evaluation import as_groups, require_same_classes
from offramp.metrics import VOID, iou
from offramp.policy import image_score
from offramp.progress import Progress, silent
from offramp.report.sheet import VIRIDIS
from offramp.runtime.engines import open_engine
from offramp.runtime.images import enlarged, fit, resize_labels
from offramp.runtime.staged_network import ExitAnswer, StagedNetwork
from offramp.specs import REGIONS, EngineName, Precision

IMAGES = 24
WIDTH, LEAST_WIDTH = 320, 160
"""Of the pictures, in pixels: with up to `EXITS` exits, and at the least."""
EXITS = 8
QUALITY = 72
ALERT, SKY = (213, 94, 0), (86, 180, 233)
"""Of wrong pixels and of those that a policy leaves out."""
LEVELS = 32
"""Of a drawn confidence."""

Palette = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Gallery:
    """Images with the answers of every exit."""

    split: str
    asked: int
    """Images of the split, all of which the confusion is of."""
    images: list[dict[str, Any]]
    """From the easiest to the hardest."""
    sure: npt.NDArray[np.int64]
    """(images, E, regions, GRID); see `policy`."""
    confusion: npt.NDArray[np.int64]
    """(E, C, C) pixels: labelled as the first class, answered as the second."""

    def iou(self) -> npt.NDArray[np.float64]:
        """Of each exit and class, (E, C)."""
        labelled = self.confusion[0].sum(axis=1)
        return iou(self.confusion.diagonal(axis1=1, axis2=2), self.confusion.sum(axis=1), labelled)

    def scores(self, exits: Sequence[int], region: int, threshold: int) -> list[list[float]]:
        """Score of each image at each of these exits, by a policy."""
        return np.asarray(image_score(self.sure[:, list(exits)], region, threshold)).tolist()  # type: ignore[no-any-return]


def make_gallery(
    package: Path,
    data: Path,
    split: str = "test",
    *,
    images: int = IMAGES,
    engine: EngineName = "onnxruntime",
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Gallery:
    """Ask every exit about all images of a split, and draw the answers to some of them.

    Those are evenly spaced from the easiest, of which the first exit says the same as the deepest, to the hardest.

    Args:
        package: with its confidence.
        data: a dataset of the package's classes.
        split: train, val or test.
        images: how many are drawn.
        engine: see `engines.ENGINES`.
        precision: what the engine computes in.
        progress: told of each image.

    Raises:
        InputError: bad package or data, other classes, or a package that was trimmed without confidence.

    """
    network = StagedNetwork(package, open_engine(engine, 0, precision))
    samples = open_split(data, split)
    require_same_classes(samples, network.manifest)
    if not network.manifest.judges:
        raise InputError(f"{package} was trimmed without confidence, which the gallery shows; give the package before trim")
    classes = len(network.manifest.classes)
    confusion = np.zeros((len(network.exits), classes, classes), np.int64)
    differing = np.zeros(len(samples))
    for index in range(len(samples)):
        _, truth, answers, _ = _ask(network, samples, index)
        confusion += np.stack([_confusion(answer, truth, classes) for answer in answers])
        differing[index] = np.mean(answers[0] != answers[-1])
        progress(f"ask every exit about {split}", index + 1, len(samples))
    order = np.argsort(differing, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(images, len(order))).round().astype(int))].tolist()
    drawn, sure = [], []
    for number, index in enumerate(chosen):
        image, truth, answers, found = _ask(network, samples, index)
        drawn.append(_draw(network.manifest, samples.samples[index].name, image, truth, list(zip(answers, found, strict=True))))
        sure.append(np.stack([answer.sure for answer in found]).astype(np.int64))
        progress("draw the gallery", number + 1, len(chosen))
    return Gallery(split, len(samples), drawn, np.stack(sure), confusion)


def _ask(network: StagedNetwork, samples: Split, index: int) -> tuple[Pixels, Pixels, list[Pixels], list[ExitAnswer]]:
    """An image, its labels (H, W), and every exit's label map, at the labels' size, with the rest of its answer."""
    manifest = network.manifest
    image, truth = samples.pair(index)
    truth = as_groups(truth, manifest)
    answers, found = [], []
    for answer in network.iter_exits(fit(image, manifest.size)):
        # The engine writes the next exit's label map over this one.
        labels = enlarged(answer.labels(), manifest.label_stride, manifest.size[::-1])
        answers.append(resize_labels(labels, truth.shape).copy())
        found.append(answer)
    return image, truth, answers, found


def _confusion(answer: Pixels, truth: Pixels, classes: int) -> npt.NDArray[np.int64]:
    known = truth < classes
    pairs = truth[known].astype(np.int64) * classes + answer[known]
    return np.bincount(pairs, minlength=classes**2)[: classes**2].reshape(classes, classes)


def _draw(
    manifest: Manifest, name: str, image: Pixels, truth: Pixels, answers: Sequence[tuple[Pixels, ExitAnswer]]
) -> dict[str, Any]:
    """One image of the page: pictures as data URIs."""
    height, width = image.shape[:2]
    # With more exits there are more pictures: smaller ones, so that the page stays small.
    across = min(width, WIDTH, max(LEAST_WIDTH, round(WIDTH * (EXITS / len(answers)) ** 0.5)))
    size = (across, max(1, round(height * across / width)))
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    known = truth < len(manifest.classes)
    return {
        "name": name,
        "width": size[0],
        "height": size[1],
        "image": _uri(small, "JPEG", quality=QUALITY, optimize=True),
        "truth": _labels(truth, manifest.palette, size),
        "exits": [
            {
                "labels": _labels(labels, manifest.palette, size),
                "confidence": _confidence(found.confidence, size),
                **{what: _mask(mask, SKY, size) for what, mask in _left_out(labels, found, manifest).items()},
                "wrong": _mask((labels != truth) & known, ALERT, size),
                "right": float((labels == truth)[known].mean()) if known.any() else None,
                # By the graph's own count, which decides.
                "share": {region: _share(found, index) for index, region in enumerate(REGIONS)},
            }
            for labels, found in answers
        ],
    }


def _share(found: ExitAnswer, region: int) -> float:
    """Of the pixels that a region takes in."""
    return float(found.sure[region, 0]) / max(float(found.sure[0, 0]), 1.0)


def _left_out(labels: Pixels, found: ExitAnswer, manifest: Manifest) -> dict[str, npt.NDArray[np.bool_]]:
    """What a policy off the edges, and one of objects, does not look at, at the head's resolution (h, w).

    Read off the label map in the middle of each cell; the graph itself takes the head's class scores, which differ from these
    where two classes are nearly equal.
    """
    height, width = found.confidence.shape
    rows, columns = (
        ((np.arange(cells) + 0.5) * whole / cells).astype(int)
        for cells, whole in zip((height, width), labels.shape, strict=True)
    )
    cells = labels[np.ix_(rows, columns)]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(cells, 1, mode="edge"), (3, 3))
    return {
        "off-edges": around.max(axis=(2, 3)) != around.min(axis=(2, 3)),
        "objects": ~np.isin(cells, manifest.object_classes),
    }


def _labels(labels: Pixels, palette: Palette, size: tuple[int, int]) -> str:
    shown = np.where(labels < len(palette), labels, VOID).astype(np.uint8)
    picture = Image.fromarray(shown, mode="P").resize(size, Image.Resampling.NEAREST)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    return _uri(picture, "PNG", optimize=True)


def _confidence(confidence: npt.NDArray[np.float32], size: tuple[int, int]) -> str:
    """In viridis, at the head's resolution where that is below the picture's."""
    steps = np.linspace(0, LEVELS - 1, len(VIRIDIS))
    colours = [np.interp(np.arange(LEVELS), steps, [colour[channel] for colour in VIRIDIS]) for channel in range(3)]
    held = np.rint(np.clip(confidence, 0.0, 1.0) * (LEVELS - 1)).astype(np.uint8)
    picture = _no_larger(Image.fromarray(held, mode="P"), size)
    picture.putpalette(np.rint(np.stack(colours, axis=1)).astype(np.uint8).tobytes())
    return _uri(picture, "PNG", optimize=True)


def _mask(mask: npt.NDArray[np.bool_], colour: tuple[int, int, int], size: tuple[int, int]) -> str:
    """The colour where the mask is, transparent elsewhere."""
    picture = _no_larger(Image.fromarray(mask.astype(np.uint8), mode="P"), size)
    picture.putpalette([0, 0, 0, *colour])
    return _uri(picture, "PNG", optimize=True, transparency=0, bits=1)


def _no_larger(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.width <= size[0] else picture.resize(size, Image.Resampling.NEAREST)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    written = io.BytesIO()
    picture.save(written, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"
