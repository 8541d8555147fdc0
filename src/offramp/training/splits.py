"""The splits that a run is trained on and watched by, and what is counted on them before it begins.

A run keeps a fingerprint of both, so that it does not go on with other data than it began with.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offramp.data.folder import Split, open_split
from offramp.errors import InputError


@dataclass(frozen=True)
class Splits:
    """The data of a run and what was counted on it."""

    train: Split
    val: Split
    pixels: npt.NDArray[np.int64]
    """Labelled pixels of each class in `train`."""
    size: tuple[int, int]
    """The most common width and height of a label map."""
    fingerprint: str


def open_splits(data: Path) -> Splits:
    """A dataset's `train` and `val`. Raises InputError if one is missing, or holds no labelled pixel."""
    train_split, val_split = open_split(data, "train"), open_split(data, "val")
    _look_at(val_split)  # refused if nothing in it is labelled
    return Splits(train_split, val_split, *_look_at(train_split), fingerprint_of(train_split, val_split))


def fingerprint_of(train_split: Split, val_split: Split) -> str:
    """What a run knows its data by."""
    return hashlib.sha256((train_split.fingerprint() + val_split.fingerprint()).encode()).hexdigest()


def _look_at(split: Split) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """Labelled pixels of each class, and the most common size of a label map (width, height)."""
    classes = len(split.classes.names)
    pixels, sizes = np.zeros(classes, np.int64), Counter[tuple[int, int]]()
    for index in range(len(split)):
        labels = split.labels(index)
        pixels += np.bincount(labels.ravel(), minlength=256)[:classes]
        sizes[labels.shape[1], labels.shape[0]] += 1
    if not pixels.any():
        raise InputError(f"no pixel of {split.root}/{split.name} is labelled with a class; see offramp data check {split.root}")
    return pixels, sizes.most_common(1)[0][0]
