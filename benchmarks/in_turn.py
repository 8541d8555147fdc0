"""Several deployments and networks run for real on the same images, in turn: what the comparisons of this folder stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Manifest, Profile, Records
from offramp.data.folder import open_split
from offramp.evaluation import as_groups
from offramp.metrics import count_pixels, miou
from offramp.progress import Progress
from offramp.runtime.engines import open_engine
from offramp.runtime.images import enlarged, fit, resize_labels
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName

Pixels = npt.NDArray[np.uint8]


@dataclass
class Subject:
    """Something that is run on every image."""

    name: str
    manifest: Manifest
    answer: Callable[[Pixels], tuple[Pixels, str, float]]
    """Image to label map, exit and milliseconds."""
    facts: dict[str, Any]
    """What its row holds beside what is measured."""


def of_predictor(name: str, predictor: Predictor, facts: dict[str, Any], *, deadline_ms: float | None = None) -> Subject:
    """A deployment, loaded."""

    def answer(image: Pixels) -> tuple[Pixels, str, float]:
        found = predictor(image) if deadline_ms is None else predictor(image, deadline_ms=deadline_ms)
        return found.labels, found.exit, found.latency_ms

    return Subject(name, predictor.manifest, answer, facts)


def of_original(name: str, package: Path, engine: EngineName, threads: int, facts: dict[str, Any]) -> Subject:
    """A package's network without exits, in one graph."""
    network = StagedNetwork(package, open_engine(engine, threads))
    original = network.load_original()
    assert original is not None

    def answer(image: Pixels) -> tuple[Pixels, str, float]:
        started = perf_counter()
        labels = original(fit(image, network.manifest.size))
        return labels, "original", (perf_counter() - started) * 1e3

    return Subject(name, network.manifest, answer, facts)


def run_in_turn(data: Path, subjects: Sequence[Subject], progress: Progress, *, every: int = 1) -> list[dict[str, Any]]:
    """Every subject on every image of test, or every so many, in turn; who is first moves on from image to image."""
    split = open_split(data, "test")
    times: list[list[float]] = [[] for _ in subjects]
    exits: list[list[str]] = [[] for _ in subjects]
    counts = [np.zeros((3, len(subject.manifest.classes)), np.int64) for subject in subjects]
    for subject in subjects:
        for _ in range(3):
            subject.answer(split.image(0))
    indices = range(0, len(split), every)
    for done, index in enumerate(indices):
        image, labels = split.pair(index)
        for turn in range(len(subjects)):
            place = (done + turn) % len(subjects)
            subject = subjects[place]
            answer, exit_name, took = subject.answer(image)
            full = resize_labels(enlarged(answer, subject.manifest.label_stride, labels.shape), labels.shape)
            counts[place] += np.stack(count_pixels(full, as_groups(labels, subject.manifest), len(subject.manifest.classes)))
            times[place].append(took)
            exits[place].append(exit_name)
        progress("measure on test", done + 1, len(indices))
    return [
        {
            "name": subject.name,
            **subject.facts,
            "miou": float(miou(*counts[place])),
            "times_ms": [round(took, 4) for took in times[place]],
            "shares": {name: exits[place].count(name) / len(exits[place]) for name in dict.fromkeys(exits[place])},
        }
        for place, subject in enumerate(subjects)
    ]


def mious_of(records: Records) -> npt.NDArray[np.float64]:
    """Of each exit."""
    sums = records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None]
    return np.asarray(miou(*sums))


def only(records: Records, measured: Profile, names: Sequence[str]) -> tuple[Records, Profile]:
    """Of some exits, so that no other can be chosen."""
    places = [place for place, name in enumerate(records.info.exits) if name in names]
    kept = tuple(records.info.exits[place] for place in places)
    arrays = {array: getattr(records, array)[:, places] for array in ("correct", "predicted", "sure", "differing")}
    part = Records(records.info.model_copy(update={"exits": kept}), labelled=records.labelled, size=records.size, **arrays)
    costs: dict[str, Any] = {"exits": kept, "exit_stages": tuple(measured.exit_stages[place] for place in places)}
    costs |= {what: {name: getattr(measured, what)[name] for name in kept} for what in ("heads", "labels")}
    return part, measured.model_copy(update=costs)
