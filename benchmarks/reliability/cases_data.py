"""Cases of bad datasets: folders, splits, and images in them, as each verb that reads a dataset meets them."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from bad_pictures import promising, whole
from cases_images import make_special
from cases_labels import VERBS, check, first_of, found
from harness import Case, Things, copied
from PIL import Image

from offramp.data.folder import open_split

Spoil = Callable[[Path], object]
"""Spoils a copy of the dataset."""


def spoilt(spoil: Spoil) -> Callable[[Path, Things], Path]:
    """Makes a spoilt copy of the dataset in the case's folder."""

    def prepare(work: Path, things: Things) -> Path:
        data = copied(things.data, work)
        spoil(data)
        return data

    return prepare


def refused(name: str, spoil: Spoil, *says: str, verbs: Sequence[str] = ("evaluate",), door: str = "data") -> tuple[Case, ...]:
    """Refused by verbs that read `val`; "check" is `data check`, where it cannot even begin."""

    def met_by(verb: str) -> Case:
        def words(work: Path, things: Things) -> Sequence[object]:
            data = spoilt(spoil)(work, things)
            return ("data", "check", data) if verb == "check" else VERBS[verb](work, data, things)

        return Case(f"{door}: {name}, {verb}", words, says=says)

    return tuple(met_by(verb) for verb in verbs)


def _found(name: str, spoil: Spoil, kind: str, split: str, *words: str) -> Case:
    return Case(
        f"data: {name}, data check",
        lambda work, things: check(spoilt(spoil)(work, things)),
        right=found(kind, split, *words),
    )


def _clean(name: str, change: Spoil, split: str, images: int) -> tuple[Case, ...]:
    """Something unusual in which nothing is wrong: the split has so many images, and `data check` finds nothing."""

    def read(work: Path, things: Things) -> Callable[[], object]:
        data = spoilt(change)(work, things)
        return lambda: [opened.pair(i)[0].shape for opened in [open_split(data, split)] for i in range(len(opened))]

    return (
        Case(f"data: {name}, read", read, right=lambda _work, shapes: len(shapes) == images),
        Case(
            f"data: {name}, data check",
            lambda work, things: check(spoilt(change)(work, things)),
            right=lambda _work, result: (
                result[0] == 0 and {one["name"]: one["images"] for one in result[1]["splits"]}[split] == images
            ),
        ),
    )


# ------------------------------------------------------------------------------------------------------------ images in it


def _image(write: Callable[[Path], object], split: str = "val") -> Spoil:
    """Something else in place of a split's first image."""
    return lambda data: write(first_of(data, split, "images"))


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _turned(path: Path) -> None:
    """As cameras leave it that were held upright: its labels lie across what is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole(path).save(path, exif=exif)


ALL = ("evaluate", "train", "report")
IMAGES = (
    *refused("image cut off", _image(_half), "cannot read the image", "0008-hard.png", verbs=ALL),
    *refused("image cut off in train", _image(_half, "train"), "cannot read the image", "train/images", verbs=("train",)),
    *refused(
        "image without a byte in train",
        _image(lambda path: path.write_bytes(b""), "train"),
        "is empty",
        "train/images",
        verbs=("train",),
    ),
    *refused("image that is text", _image(lambda path: path.write_text("none")), "no whole file", verbs=("evaluate", "train")),
    *refused(
        "image that declares 60,000x60,000 pixels",
        _image(lambda path: path.write_bytes(promising("PNG", 60_000))),
        "too large",
        verbs=ALL,
    ),
    *refused("image turned by its EXIF orientation", _image(_turned), "64x96", "EXIF", verbs=("evaluate", "train")),
    *refused("pipe for an image", _image(lambda path: make_special("pipe", path)), "a pipe", verbs=ALL),
    *refused(
        "pipe for an image in train", _image(lambda path: make_special("pipe", path), "train"), "a pipe", verbs=("train",)
    ),
    *refused("device for an image", _image(lambda path: make_special("device", path)), "device", verbs=("evaluate", "train")),
    *refused("broken link for an image", _image(lambda path: make_special("broken link", path)), "link to nowhere", verbs=ALL),
    _found("image cut off", _image(_half), "unreadable-image", "val", "0008-hard.png", "cannot read"),
    _found("pipe for an image", _image(lambda path: make_special("pipe", path)), "unreadable-image", "val", "a pipe"),
    _found(
        "broken link for an image",
        _image(lambda path: make_special("broken link", path)),
        "unreadable-image",
        "val",
        "link to nowhere",
    ),
    _found(
        "folder for an image", _image(lambda path: make_special("folder", path)), "label-without-image", "val", "add the image"
    ),
    _found("image turned by its EXIF orientation", _image(_turned), "size-mismatch", "val", "EXIF"),
)


# ------------------------------------------------------------------------------------------------------------ the folder


def _each(data: Path, change: Callable[[Path], Path], split: str = "val") -> None:
    """Rename all files of a split, images and labels alike."""
    for kind in ("images", "labels"):
        for path in sorted((data / split / kind).iterdir()):
            target = change(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _decomposed(data: Path) -> None:
    """Images named on one system, labels on another, which takes accents apart."""
    names = {"images": unicodedata.normalize("NFC", "straße-é"), "labels": unicodedata.normalize("NFD", "straße-é")}
    for kind, name in names.items():
        for number, path in enumerate(sorted((data / "val" / kind).iterdir())):
            path.rename(path.with_name(f"{name}{number}.png"))


def _out_of_it(data: Path) -> None:
    """A split that lies elsewhere."""
    (data / "val").rename(data.parent / "elsewhere")
    (data / "val").symlink_to(data.parent / "elsewhere")


def _folders_out_of_it(data: Path) -> None:
    """Subfolders of a split that lie elsewhere."""
    for kind in ("images", "labels"):
        (data / "val" / kind).rename(data.parent / kind)
        (data / "val" / kind).mkdir()
        (data / "val" / kind / "drive").symlink_to(data.parent / kind)


def _loop(data: Path) -> None:
    (data / "val" / "images" / "again").symlink_to(data / "val")
    (data / "val" / "labels" / "again").symlink_to(data / "val" / "labels")


def _files_of_links(data: Path) -> None:
    for path in list((data / "val" / "images").iterdir()):
        path.rename(data.parent / path.name)
        path.symlink_to(data.parent / path.name)


def _twins(data: Path) -> None:
    for kind in ("images", "labels"):
        paths = sorted((data / "val" / kind).iterdir())
        for path, name in zip(paths, ("a.png", "A.png"), strict=True):
            path.rename(path.with_name(name))


def _smaller(data: Path) -> None:
    for kind in ("images", "labels"):
        path = first_of(data, "val", kind)
        whole(path).crop((0, 0, 33, 47)).save(path)


def _beside(data: Path) -> None:
    for kind in ("images", "labels"):
        for name in (".DS_Store", "Thumbs.db", "._0008-hard.png", "notes.txt", ".hidden.png"):
            (data / "val" / kind / name).write_bytes(b"nothing")


def _without(split: str, kind: str = "") -> Spoil:
    return lambda data: shutil.rmtree(data / split / kind)


def _emptied(data: Path) -> None:
    for path in (data / "val" / "images").iterdir():
        path.unlink()


def _hollow(data: Path) -> None:
    _emptied(data)
    shutil.rmtree(data / "val" / "labels")


def _splitless(data: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.rmtree(data / split)


def _nothing(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def _a_split(data: Path) -> None:
    (data / "val").rename(data.with_name("val"))
    shutil.rmtree(data)
    data.with_name("val").rename(data)


def _keep_first(data: Path, split: str) -> None:
    for kind in ("images", "labels"):
        for path in sorted((data / split / kind).iterdir())[1:]:
            path.unlink()


def _a_file(place: str) -> Spoil:
    def spoil(data: Path) -> None:
        shutil.rmtree(data / place)
        (data / place).write_text("a folder once")

    return spoil


def _copied_into(split: str, again: Callable[[Path, Path], object]) -> Spoil:
    """One picture of `train` in another split, too."""

    def spoil(data: Path) -> None:
        for kind in ("images", "labels"):
            again(first_of(data, "train", kind), data / split / kind / "again.png")

    return spoil


def _repacked(source: Path, target: Path) -> None:
    """The same pixels, other bytes."""
    whole(source).save(target, compress_level=9)


def _not_utf8(data: Path) -> None:
    _each(data, lambda path: path.with_name(os.fsdecode(b"caf\xe9-") + path.name))


FOLDERS = (
    *refused("no such folder", shutil.rmtree, "no dataset at", "there is no such folder", verbs=("check", *ALL)),
    *refused(
        "file for the folder",
        _a_file("."),
        "no dataset at",
        "is a file",
        verbs=("check", "evaluate", "train"),
    ),
    *refused("empty folder", _nothing, "cannot tell the layout", verbs=("check", "train")),
    *refused("a split's folder for the whole", _a_split, "cannot tell the layout", verbs=("check", "evaluate")),
    *refused("no val", _without("val"), "no split 'val'", "there is train, test", verbs=ALL),
    *refused("no train", _without("train"), "no split 'train'", verbs=("train",)),
    *refused("val without images", _without("val", "images"), "no split 'val'", verbs=("evaluate", "train")),
    *refused("val without labels", _without("val", "labels"), "2 images of val have no label", verbs=("evaluate", "train")),
    *refused("val empty", _emptied, "'val'", "holds no images", verbs=("evaluate", "train", "report")),
    *refused("val a file", _a_file("val"), "no split 'val'", verbs=("evaluate", "train")),
    *refused("images of val a file", _a_file("val/images"), "val/images", "Not a directory", verbs=("evaluate", "train")),
    *refused("labels of val a file", _a_file("val/labels"), "val/labels", "Not a directory", verbs=("evaluate",)),
    *refused(
        "two images that differ in their suffix",
        lambda data: shutil.copy(first_of(data, "val", "images"), data / "val" / "images" / "0008-hard.jpg"),
        "differ from another only in their suffix",
        verbs=("evaluate", "train"),
    ),
    *refused("names that are not in UTF-8", _not_utf8, "not in UTF-8", "caf\\udce9", verbs=("evaluate", "train")),
    _found("val empty", _hollow, "empty-split", "val"),
    _found("val empty, its labels there", _emptied, "label-without-image", "val", "add the image"),
    _found("no split at all", _splitless, "no-split", ""),
    _found("images of val a file", _a_file("val/images"), "split-list", "val", "Not a directory"),
    _found("names that are not in UTF-8", _not_utf8, "split-list", "val", "not in UTF-8"),
    _found("an image in two splits", _copied_into("test", shutil.copy), "in-two-splits", "test", "again.png", "of train"),
    _found(
        "an image in two splits, packed again", _copied_into("val", _repacked), "in-two-splits", "val", "again.png", "of train"
    ),
    _found(
        "an image linked into another split",
        _copied_into("val", lambda source, target: target.symlink_to(source)),
        "in-two-splits",
        "val",
        "of train",
    ),
    *_clean("accents taken apart in labels alone", _decomposed, "val", 2),
    *_clean(
        "names with spaces and quotes", lambda data: _each(data, lambda path: path.with_name(f' "a b" {path.name}')), "val", 2
    ),
    *_clean("names with a line break", lambda data: _each(data, lambda path: path.with_name(f"a\nb{path.name}")), "val", 2),
    *_clean("suffixes in capitals", lambda data: _each(data, lambda path: path.with_suffix(".PNG")), "val", 2),
    *_clean("nested folders", lambda data: _each(data, lambda path: path.parent / "a" / "b" / path.name), "val", 2),
    *_clean("a split that is a link", _out_of_it, "val", 2),
    *_clean("subfolders that are links", _folders_out_of_it, "val", 2),
    *_clean("links to the folders around", _loop, "val", 2),
    *_clean("images that are links", _files_of_links, "val", 2),
    *_clean("names that differ in capitals", _twins, "val", 2),
    *_clean("images of several sizes", _smaller, "val", 2),
    *_clean("hidden and system files", _beside, "val", 2),
    *_clean("one image", lambda data: _keep_first(data, "val"), "val", 1),
    *_clean(
        "one image twice in a split",
        lambda data: [shutil.copy(first_of(data, "val", kind), data / "val" / kind / "b.png") for kind in ("images", "labels")],
        "val",
        3,
    ),
)


TRAINED = (
    Case(
        "data: one image in train, train",
        lambda work, things: VERBS["train"](work, spoilt(lambda data: _keep_first(data, "train"))(work, things), things),
        right=lambda work, _said: (work / "run" / "weights.safetensors").exists(),
    ),
    Case(
        "data: images of several sizes, evaluate",
        lambda work, things: VERBS["evaluate"](work, spoilt(_smaller)(work, things), things),
        right=lambda work, _said: (work / "val.records").exists(),
    ),
)

CASES: tuple[Case, ...] = (*IMAGES, *FOLDERS, *TRAINED)
