"""A labelled split on disk: which image belongs to which label file, and both as arrays.

Which layout a folder has is found from the catalogue. Whatever values a dataset's own files use, labels come out as class
indices 0..C-1 and VOID.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offramp.data.catalog import CLASS_FILE, LAYOUTS, SPLITS, Classes, Colour, LabelFiles, Layout
from offramp.data.class_file import read_class_file
from offramp.data.labels import LabelCode
from offramp.data.pictures import decode_image, load_image, regular_file
from offramp.errors import InputError
from offramp.metrics import VOID

__all__ = [
    "Classes",
    "Dataset",
    "LabelCode",
    "Pairs",
    "Sample",
    "Split",
    "decode_image",
    "load_image",
    "open_dataset",
    "open_split",
]

Pixels = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Split:
    """The labelled images of one split, ordered by name."""

    root: Path
    name: str
    classes: Classes
    samples: tuple[Sample, ...]
    code: LabelCode = field(repr=False)

    def __len__(self) -> int:
        """How many labelled images there are."""
        return len(self.samples)

    def part(self, images: Sequence[int]) -> Split:
        """The split with some of its images alone, in the order given. Raises InputError where there is no such image."""
        outside = [index for index in images if not 0 <= index < len(self)]
        if outside:
            raise InputError(f"the split {self.name!r} of {self.root} has the images 0 to {len(self) - 1}, got {outside[0]}")
        return replace(self, samples=tuple(self.samples[index] for index in images))

    def image(self, i: int) -> Pixels:
        """Read image `i`: RGB, uint8 (H, W, 3), the way up that its EXIF orientation says. Raises InputError if broken."""
        return load_image(self.samples[i].image)

    def labels(self, i: int) -> Pixels:
        """Read the labels of image `i`: class indices 0..C-1 and VOID, uint8 (H, W).

        Raises:
            InputError: the file is broken, or holds values that are neither a class nor void.

        """
        path = self.samples[i].label
        labels, unknown = self.code.decode(path)
        if unknown:
            raise InputError(
                f"{path} holds {list_values(unknown)}, neither a class nor void: correct the file or the class list; "
                f"`offramp data check {self.root}` lists all such files"
            )
        return labels

    def pair(self, i: int) -> tuple[Pixels, Pixels]:
        """Read image `i` and its labels, (H, W, 3) and (H, W). Raises InputError as both do, and if their sizes differ."""
        image, labels = self.image(i), self.labels(i)
        if image.shape[:2] != labels.shape:
            raise InputError(
                f"{self.samples[i].image} is {size_text(image)} but its labels are {size_text(labels)}: make them equal"
                f"{turned_hint(image, labels)}; `offramp data check {self.root}` lists all such files"
            )
        return image, labels

    def fingerprint(self) -> str:
        """SHA-256 of the classes, the meaning of the label values, and every file's name, size and bytes.

        Raises:
            InputError: a file cannot be read.

        """
        whole = hashlib.sha256(repr((self.classes, self.code)).encode())
        for sample in self.samples:
            for path in (sample.image, sample.label):
                with regular_file(path, "file", path) as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                whole.update(f"{sample.name}\0{path.suffix}\0{path.stat().st_size}\0{digest}\n".encode())
        return whole.hexdigest()


@dataclass(frozen=True)
class Pairs:
    """What a split's folders hold: the pairs, and what has no partner."""

    samples: tuple[Sample, ...]
    images_without_label: tuple[Path, ...]
    labels_without_image: tuple[Path, ...]
    ambiguous: tuple[Path, ...]
    """Images that share their name, up to the suffix, with one taken before."""
    missing: tuple[str, ...]
    """Names in the split's list for which there is no file at all."""
    code: LabelCode = field(repr=False)


@dataclass(frozen=True)
class Dataset:
    """A folder whose layout is known."""

    root: Path
    layout: Layout
    classes: Classes
    void_colour: Colour | None
    label_files: tuple[LabelFiles, ...]

    def splits(self) -> tuple[str, ...]:
        """The names of the splits that are there, in the order train, val, test."""
        return tuple(split for split in SPLITS if self._has(split))

    def _has(self, split: str) -> bool:
        return (self.root / (self.layout.split_list or self.layout.images).format(split=split)).exists()

    def pairs(self, split: str) -> Pairs:
        """Match images and labels by name. Raises InputError if the split is not there."""
        if not self._has(split):
            there = ", ".join(self.splits()) or "none"
            raise InputError(f"{self.root} has no split {split!r}: there is {there}; a dataset here is {self.layout.expects}")
        listed = None
        if self.layout.split_list:
            listed = _names_in(self.root / self.layout.split_list.format(split=split))
        images, ambiguous = _by_name(
            self.root / self.layout.images.format(split=split), self.layout.image_ending, IMAGE_SUFFIXES, listed
        )
        folder = self.root / self.layout.labels.format(split=split)
        kinds = [(kind, _by_name(folder, kind.ending, (".png",), listed)[0]) for kind in self.label_files]
        # Where a split has several kinds of label file, the one that serves most images; the catalogue's first at a draw.
        kind, labels = max(kinds, key=lambda candidate: len(candidate[1].keys() & images.keys()))
        return Pairs(
            samples=tuple(Sample(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())),
            images_without_label=tuple(images[name] for name in sorted(images.keys() - labels.keys())),
            labels_without_image=tuple(labels[name] for name in sorted(labels.keys() - images.keys())),
            ambiguous=ambiguous,
            missing=tuple(sorted((listed or set()) - images.keys() - labels.keys())),
            code=self._code(kind),
        )

    def _code(self, kind: LabelFiles) -> LabelCode:
        values = dict.fromkeys(kind.void_values, VOID) | {value: index for index, value in enumerate(kind.class_values)}
        colours = {} if self.void_colour is None else {self.void_colour: VOID}
        return LabelCode(values, colours | {colour: index for index, colour in enumerate(self.classes.palette)})


def open_dataset(root: Path) -> Dataset:
    """Recognise the layout of a folder and read its classes.

    Raises:
        InputError: no such folder, a layout that the catalogue does not know, or a broken class file.

    """
    root = Path(root)
    if not root.is_dir():
        what = "that is a file" if root.is_file() else "there is no such folder"
        raise InputError(f"no dataset at {root}: {what}; give the folder that holds the splits")
    for layout in LAYOUTS.values():
        for place in (root / inner for inner in layout.roots):
            if all(next(place.glob(marker), None) is not None for marker in layout.markers):
                if layout.classes is None:
                    return Dataset(place, layout, *read_class_file(place / CLASS_FILE))
                return Dataset(place, layout, layout.classes, layout.void_colour, layout.label_files)
    known = "; ".join(f"{name}: {layout.expects}" for name, layout in LAYOUTS.items())
    raise InputError(f"cannot tell the layout of {root}: arrange it as one of these. {known}")


def open_split(root: Path, split: str) -> Split:
    """Open one split of a dataset in any layout of the catalogue; no image is read yet.

    Args:
        root: the folder that holds the dataset.
        split: "train", "val" or "test".

    Raises:
        InputError: no such folder, unknown layout, broken class file, no such split, no images in it, images without a
            label, or images that differ only in their suffix.

    """
    dataset = open_dataset(root)
    pairs = dataset.pairs(split)
    advice = f"`offramp data check {root}` lists them all"
    if pairs.missing:
        raise InputError(
            f"{len(pairs.missing)} names in the list of {split} have no file, such as {pairs.missing[0]}; {advice}"
        )
    if pairs.ambiguous:
        raise InputError(
            f"{len(pairs.ambiguous)} images of {split} differ from another only in their suffix, such as {pairs.ambiguous[0]}: "
            f"keep one of each; {advice}"
        )
    if pairs.images_without_label:
        raise InputError(
            f"{len(pairs.images_without_label)} images of {split} have no label, such as {pairs.images_without_label[0]}: "
            f"add a PNG of the same name or remove the image; {advice}"
        )
    if not pairs.samples:
        raise InputError(f"the split {split!r} of {root} holds no images; a dataset here is {dataset.layout.expects}")
    return Split(dataset.root, split, dataset.classes, pairs.samples, pairs.code)


def _by_name(
    folder: Path, ending: str, suffixes: tuple[str, ...], listed: set[str] | None
) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Files below `folder` by name without ending and suffix, and those whose name was taken. `listed` None: all names."""
    named: dict[str, Path] = {}
    taken = []
    for path in sorted(_files_below(folder)):
        if path.suffix.lower() not in suffixes or not path.stem.endswith(ending) or path.name.startswith("."):
            continue
        name = _composed(require_text(path.relative_to(folder).with_name(path.stem.removesuffix(ending)), folder))
        if listed is not None and name not in listed:
            continue
        if name in named:
            taken.append(path)
        else:
            named[name] = path
    return named, tuple(taken)


def _files_below(folder: Path) -> Iterator[Path]:
    """All that is no folder, in subfolders and linked ones, too; a link to a folder that it lies in is not followed."""
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(folder, ())] if folder.exists() else []
    while waiting:
        inner, above = waiting.pop()
        try:
            real = inner.resolve()
            if any(one.is_relative_to(real) for one in above):
                continue
            for path in inner.iterdir():
                if path.is_dir():
                    waiting.append((path, (*above, real)))
                else:
                    yield path
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                f"cannot list the folder {inner}: {reason}; a dataset's images and labels lie in folders"
            ) from error


def require_text(path: Path, folder: Path) -> str:
    """A name as text. Raises InputError if it is none in UTF-8: no log or table could hold it."""
    name = path.as_posix()
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise InputError(f"the name of {name!a} in {folder} is not in UTF-8: rename the file")
    return name


def _composed(name: str) -> str:
    """The same letters as one code each: macOS takes accents apart, and labels drawn there must find their images."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _names_in(split_list: Path) -> set[str]:
    try:
        return set(_composed(split_list.read_text(encoding="utf-8-sig")).split())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {split_list}: {error}; it must be text, one name a line") from error


def size_text(pixels: Pixels) -> str:
    """Width x height, as people write it."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def turned_hint(image: Pixels, labels: Pixels) -> str:
    """What to think of where labels lie across their image."""
    turned = image.shape[:2] == labels.shape[::-1]
    return " (images are read the way up that their EXIF orientation says, and so must labels be)" if turned else ""


def list_values(values: list[str], at_most: int = 8) -> str:
    """List the first values, for people."""
    shown = ", ".join(values[:at_most])
    return f"{'values' if len(values) > 1 else 'the value'} {shown}{' and more' if len(values) > at_most else ''}"
