"""Everything that is wrong with a dataset, in one pass, and how often each class occurs in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offramp.data.catalog import Classes
from offramp.data.folder import LabelCode, Pairs, Sample, Split, list_values, load_image, open_dataset, size_text, turned_hint
from offramp.data.pictures import Pixels
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.metrics import VOID, Counts
from offramp.progress import Progress, silent

TOLD_EVERY = 100
"""Images that are read before a training: few of them are no news."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    """`no-split`, `empty-split`, `split-list`, `missing-files`, `same-name`, `image-without-label`, `label-without-image`,
    `unreadable-image`, `unreadable-label`, `size-mismatch`, `unknown-values`, `nothing-labelled` or `in-two-splits`."""
    split: str
    file: str
    """Relative to the root; empty where no single file is meant."""
    detail: str


@dataclass(frozen=True)
class SplitCount:
    """What a split holds."""

    name: str
    images: int
    """All images, with and without labels."""
    class_pixels: tuple[int, ...]
    """Labelled pixels of each class."""
    void_pixels: int
    """Pixels labelled as void, or with a value that means nothing."""


@dataclass(frozen=True)
class Findings:
    """The result of a check."""

    root: Path
    classes: Classes
    splits: tuple[SplitCount, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types; a share is of all pixels of the split's label files, 0..1."""
        return {
            "root": str(self.root),
            "ok": self.ok,
            "classes": list(self.classes.names),
            "splits": [_split_json(split, self.classes) for split in self.splits],
            "findings": [
                {"kind": found.kind, "split": found.split, "file": found.file, "detail": found.detail}
                for found in self.findings
            ],
        }


@checked_call
def check(root: Path, progress: Progress = silent) -> Findings:
    """Read every image and label file of every split that is there.

    Broken files are listed, never raised.

    Raises:
        InputError: no such folder, a layout that the catalogue does not know, or a broken class file.

    """
    dataset = open_dataset(root)
    counts, findings = [], []
    seen: dict[bytes, tuple[str, Path]] = {}
    for split in dataset.splits():
        try:
            pairs = dataset.pairs(split)
        except InputError as error:
            findings.append(Finding("split-list", split, "", str(error)))
            continue
        findings += _unpaired(pairs, split, dataset.root)
        pixels = np.zeros(VOID + 1, dtype=np.int64)
        for done, sample in enumerate(pairs.samples, start=1):
            findings += [
                Finding(kind, split, path.relative_to(dataset.root).as_posix(), detail)
                for kind, path, detail in _wrong_with(sample, split, pairs.code, pixels, seen)
            ]
            progress(f"check {split}", done, len(pairs.samples))
        if pairs.samples and not pixels[: len(dataset.classes.names)].any():
            findings.append(Finding("nothing-labelled", split, "", "no pixel is labelled with a class: label some"))
        counts.append(
            SplitCount(
                name=split,
                images=len(pairs.samples) + len(pairs.images_without_label),
                class_pixels=tuple(int(count) for count in pixels[: len(dataset.classes.names)]),
                void_pixels=int(pixels[VOID]),
            )
        )
    if not dataset.splits():
        findings.append(Finding("no-split", "", "", f"there is no split; a dataset here is {dataset.layout.expects}"))
    return Findings(dataset.root, dataset.classes, tuple(counts), tuple(findings))


def require_readable(splits: Sequence[Split], progress: Progress = silent) -> None:
    """Read every image and its labels once: what would stop a training hours later is found before it begins.

    Raises:
        InputError: one cannot be read, differs in size from its labels, or holds values that mean nothing.

    """
    total = sum(len(split) for split in splits)
    done = 0
    for split in splits:
        for index in range(len(split)):
            split.pair(index)
            done += 1
            if done % TOLD_EVERY == 0:
                progress("check images and labels", done, total)


def _unpaired(pairs: Pairs, split: str, root: Path) -> list[Finding]:
    lists = (
        ("image-without-label", pairs.images_without_label, "add a PNG of the same name, or remove the image"),
        ("label-without-image", pairs.labels_without_image, "add the image, or remove the label"),
        ("same-name", pairs.ambiguous, "another image has this name with another suffix: keep one of them"),
    )
    findings = [
        Finding(kind, split, path.relative_to(root).as_posix(), detail) for kind, paths, detail in lists for path in paths
    ]
    findings += [
        Finding("missing-files", split, name, "the split's list names it, but there is no file") for name in pairs.missing
    ]
    if not pairs.samples and not findings:
        findings.append(Finding("empty-split", split, "", "the folder holds no images"))
    return findings


def _wrong_with(
    sample: Sample, split: str, code: LabelCode, pixels: Counts, seen: dict[bytes, tuple[str, Path]]
) -> Iterator[tuple[str, Path, str]]:
    """Yield (kind, file, detail) for what is wrong with one image and its labels.

    Args:
        sample: the image and its labels.
        split: its split.
        code: what label files mean.
        pixels: its labels are added to these counts, (256,).
        seen: split and file of images by a hash of their pixels; its own is added.

    """
    image = labels = None
    try:
        image = load_image(sample.image)
    except InputError as error:
        yield "unreadable-image", sample.image, str(error)
    else:
        first, other = seen.setdefault(_hash_of(image), (split, sample.image))
        if first != split:
            yield "in-two-splits", sample.image, f"is the same picture as {other} of {first}: leave it in one split alone"
    try:
        labels, unknown = code.decode(sample.label)
    except InputError as error:
        yield "unreadable-label", sample.label, str(error)
    else:
        pixels += np.bincount(labels.ravel(), minlength=VOID + 1)
        if unknown:
            yield "unknown-values", sample.label, f"holds {list_values(unknown)}, neither a class nor void"
    if image is not None and labels is not None and image.shape[:2] != labels.shape:
        yield (
            "size-mismatch",
            sample.label,
            f"is {size_text(labels)}, its image is {size_text(image)}{turned_hint(image, labels)}",
        )


def _hash_of(image: Pixels) -> bytes:
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()


def _split_json(split: SplitCount, classes: Classes) -> dict[str, Any]:
    total = max(1, sum(split.class_pixels) + split.void_pixels)
    named = [*zip(classes.names, split.class_pixels, strict=True), ("void", split.void_pixels)]
    return {
        "name": split.name,
        "images": split.images,
        "pixels": [{"class": name, "pixels": count, "share": count / total} for name, count in named],
    }
