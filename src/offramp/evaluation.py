"""The step `evaluate`: every exit over a labelled split -> Records; and, side by side, what a deployment really gains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.artifacts import Manifest, Provenance, Records, RecordsInfo
from offramp.data.folder import Split, open_split
from offramp.data.pictures import Pixels
from offramp.doors import as_whole, checked_call
from offramp.errors import InputError
from offramp.metrics import VOID, Counts, count_pixels, miou
from offramp.progress import Progress, silent
from offramp.runtime.engines import open_engine
from offramp.runtime.images import enlarged, fit, resize_labels
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName, Precision


@checked_call
def evaluate(
    package: Path,
    data: Path,
    split: str,
    *,
    images: Sequence[int] | None = None,
    engine: EngineName = "onnxruntime",
    threads: int = 0,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Records:
    """Ask every exit about every image of a split.

    Images of another size than the package's are resized, and the label maps resized back: counts are at the labels'
    resolution.

    Args:
        package: the package.
        data: a dataset; its classes must be the package's.
        split: train, val or test.
        images: places in the split of the only ones to ask about; the records' fingerprint is then of these alone.
        engine: see `engines.ENGINES`.
        threads: 0 for all.
        precision: what the engine computes in.
        progress: told of each image.

    Raises:
        InputError: bad package or data, data with other classes or nothing labelled, no such image, or a precision that the
            engine does not have.

    """
    network = StagedNetwork(package, open_engine(engine, threads, precision))
    samples = open_split(data, split)
    if images is not None:
        if not images:
            raise InputError("images names no image of the split to evaluate; leave it out for all")
        samples = samples.part([as_whole("images", index) for index in images])
    require_same_classes(samples, network.manifest)
    if not network.manifest.judges:
        raise InputError(f"{package} was trimmed without confidence, which records hold; evaluate the package before trim")
    counts = []
    for index in range(len(samples)):
        counts.append(_ask_all(network, samples, index))
        if images is None and len(counts) == len(samples) and not any(labelled.any() for _, _, labelled, *_ in counts):
            raise InputError(
                f"no pixel of {samples.root}/{split} is labelled with a class; see offramp data check {samples.root}"
            )
        progress(f"evaluate {samples.name}", index + 1, len(samples))
    arrays = (np.stack(of_images) for of_images in zip(*counts, strict=True))
    info = RecordsInfo(
        package_id=network.manifest.package_id,
        split=split,
        data_fingerprint=samples.fingerprint(),
        classes=network.manifest.classes,
        exits=network.exits,
        images=tuple(sample.name for sample in samples.samples),
        engine=engine,
        precision=network.engine.precision,
        provenance=Provenance.now("evaluate", inputs={"package": network.manifest.package_id}, options={"split": split}),
    )
    return Records(info, *arrays)


def _ask_all(network: StagedNetwork, samples: Split, index: int) -> tuple[Counts, ...]:
    """One image's arrays of the records, in their order."""
    manifest = network.manifest
    image, labels = samples.pair(index)
    labels = as_groups(labels, manifest)
    classes = len(manifest.classes)
    correct, predicted, sure, answers = [], [], [], []
    labelled = np.zeros(classes, np.int64)
    for found in network.iter_exits(fit(image, manifest.size)):
        # The engine writes the next exit's label map over this one.
        answers.append(resize_labels(enlarged(found.labels(), manifest.label_stride, manifest.size[::-1]), labels.shape).copy())
        right, answered, labelled = count_pixels(answers[-1], labels, classes)
        correct.append(right)
        predicted.append(answered)
        sure.append(found.sure.astype(np.int64))
    differing = np.array([np.count_nonzero(answer != answers[-1]) for answer in answers], np.int64)
    return np.stack(correct), np.stack(predicted), labelled, np.stack(sure), differing, np.array(labels.size, np.int64)


def as_groups(labels: Pixels, manifest: Manifest) -> Pixels:
    """The data's labels (H, W) in the package's classes."""
    if not manifest.groups:
        return labels
    meaning = np.full(256, VOID, np.uint8)
    meaning[: len(manifest.groups)] = manifest.groups
    return meaning[labels]


def require_same_classes(samples: Split, manifest: Manifest) -> None:
    """Refuse data whose classes are not those that the package's network was trained on.

    Raises:
        InputError: naming the first difference.

    """
    names, classes = samples.classes.names, manifest.data_classes or manifest.classes
    if names != classes:
        pairs = zip((*names, *[None] * len(classes)), (*classes, *[None] * len(names)), strict=False)
        index, (got, wanted) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{samples.root} has {len(names)} classes, the package {len(classes)}; the first difference is class {index}: "
            f"{got!r} against {wanted!r}; give the data that the package was trained for"
        )


@dataclass(frozen=True)
class SideBySide:
    """A deployment and the original network on the same images, image by image in turn, in one run."""

    miou: float
    original_miou: float
    latencies_ms: tuple[float, ...]
    original_latencies_ms: tuple[float, ...]
    exits: tuple[str, ...]
    """The exit that each image left at."""

    @property
    def latency_ratio(self) -> float:
        """Mean latency, the original's as 1."""
        return float(np.mean(self.latencies_ms) / np.mean(self.original_latencies_ms))

    @property
    def shares(self) -> dict[str, float]:
        """Share of images that left at each exit."""
        return {name: self.exits.count(name) / len(self.exits) for name in dict.fromkeys(self.exits)}


def side_by_side(
    predictor: Predictor, original: Callable[[Pixels], Pixels], data: Path, split: str, *, progress: Progress = silent
) -> SideBySide:
    """Run a deployment and the original network over a split with labels, both for real, and time both with one clock.

    Args:
        predictor: the deployment.
        original: image of the package's size (H, W, 3) to labels (H, W); see `StagedNetwork.load_original`.
        data: a dataset.
        split: train, val or test.
        progress: told of each image.

    Raises:
        InputError: bad data, or other classes than the package's.

    """
    samples = open_split(data, split)
    manifest = predictor.manifest
    require_same_classes(samples, manifest)
    classes, size = len(manifest.classes), manifest.size
    ours, theirs = np.zeros((3, classes), np.int64), np.zeros((3, classes), np.int64)
    latencies, original_latencies, exits = [], [], []
    for subject in (original, predictor):  # a first run is slower than those after it
        subject(np.zeros((size[1], size[0], 3), np.uint8))
    for index in range(len(samples)):
        image, labels = samples.pair(index)
        labels = as_groups(labels, manifest)
        # Who goes first alternates: neither profits from a cache that the other has warmed.
        for turn in (0, 1):
            if turn == index % 2:
                answer = predictor(image)
                ours += np.stack(count_pixels(enlarged(answer.labels, manifest.label_stride, labels.shape), labels, classes))
                latencies.append(answer.latency_ms)
                exits.append(answer.exit)
            else:
                started = time.perf_counter()
                whole = resize_labels(enlarged(original(fit(image, size)), manifest.label_stride, size[::-1]), labels.shape)
                original_latencies.append((time.perf_counter() - started) * 1e3)
                theirs += np.stack(count_pixels(whole, labels, classes))
        progress(f"run {split} side by side", index + 1, len(samples))
    return SideBySide(float(miou(*ours)), float(miou(*theirs)), tuple(latencies), tuple(original_latencies), tuple(exits))
