"""Cases of bad and of unusual label files, as `data check`, `evaluate`, `train` and `report` meet them in a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import Pixels, encoded, flipped, promising, whole
from cases_images import make_special
from harness import Case, Things, command, copied
from PIL import Image

from offramp.data.synthetic import CLASSES

Spoil = Callable[[Path, Pixels], object]
"""Replaces a label file, given its path and its values (H, W)."""

VERBS: dict[str, Callable[[Path, Path, Things], Sequence[object]]] = {
    "evaluate": lambda work, data, things: ("evaluate", things.package, data, "--out", work / "val.records", "--threads", 1),
    "train": lambda work, data, _things: (
        "train",
        data,
        "--out",
        work / "run",
        "--network",
        "test_efficientnet",
        "--epochs",
        1,
        "--exits",
        1,
        "--crop",
        "96x64",
    ),
    "report": lambda work, data, things: (
        "report",
        things.package,
        "--out",
        work / "page.html",
        "--data",
        data,
        "--split",
        "val",
    ),
}
"""Verbs that read `val`: a command line from the case's folder and a dataset."""


def first_of(data: Path, split: str, kind: str = "labels") -> Path:
    """The first label file of a split, or its first image."""
    return min((data / split / kind).iterdir())


def check(data: Path) -> Callable[[], object]:
    """A call of `offramp data check --json`: its exit code and what it found."""

    def call() -> tuple[int, Any]:
        code, out, said = command(("data", "check", data, "--json"))
        return code, json.loads(out) if out else said

    return call


def found(kind: str, split: str, *words: str, file: str = "") -> Callable[[Path, Any], bool]:
    """Whether `data check` ended with 1, and one finding of a kind says so many words."""

    def right(_work: Path, result: Any) -> bool:
        code, report = result
        lines = [f"{one['file']} {one['detail']}" for one in report["findings"] if (one["kind"], one["split"]) == (kind, split)]
        return code == 1 and any(file in line and all(word in line for word in words) for line in lines)

    return right


def _bad(name: str, spoil: Spoil, finding: str, *says: str, verbs: Sequence[str] = ("evaluate",)) -> tuple[Case, ...]:
    """Found by `data check`, and refused by verbs."""

    def spoilt(work: Path, things: Things) -> Path:
        data = copied(things.data, work)
        path = first_of(data, "val")
        spoil(path, np.asarray(whole(path)))
        return data

    def met_by(verb: str) -> Case:
        return Case(f"label: {name}, {verb}", lambda work, things: VERBS[verb](work, spoilt(work, things), things), says=says)

    checked = Case(
        f"label: {name}, data check", lambda work, things: check(spoilt(work, things)), right=found(finding, "val", *says)
    )
    return (checked, *(met_by(verb) for verb in verbs))


def save(values: Any, mode: str | None = None, **options: Any) -> Callable[[Path], object]:
    """Write an array as PNG."""
    picture = Image.fromarray(np.ascontiguousarray(values))
    return lambda path: (picture.convert(mode) if mode else picture).save(path, format="PNG", **options)


def put(content: Callable[[Pixels], bytes]) -> Spoil:
    """Write bytes that follow from the values."""
    return lambda path, values: path.write_bytes(content(values))


def colours(values: Pixels) -> Pixels:
    """Values in the palette's colours, (H, W, 3)."""
    return np.array(CLASSES.palette, np.uint8)[values]


def _as_bmp(path: Path, values: Pixels) -> None:
    path.unlink()
    Image.fromarray(values).save(path.with_suffix(".bmp"))


def _with_pixel(values: Pixels, value: int) -> Pixels:
    changed = values.copy()
    changed[5, 7] = value
    return changed


def _in_other_order(path: Path, values: Pixels) -> None:
    """As RGB labels become when a program makes a palette of its own for them."""
    order = np.roll(np.arange(len(CLASSES.palette)), 1)
    place = np.argsort(order)
    picture = Image.fromarray(place[values].astype(np.uint8), mode="P")
    picture.putpalette([channel for index in order for channel in CLASSES.palette[index]])
    picture.save(path)


def _special(kind: str) -> Spoil:
    return lambda path, _values: make_special(kind, path)


BAD = (
    *_bad(
        "other size than the image",
        lambda path, values: save(values[:32])(path),
        "size-mismatch",
        "96x32",
        "96x64",
        verbs=("evaluate", "train", "report"),
    ),
    *_bad(
        "lying across the image",
        lambda path, values: save(values.T)(path),
        "size-mismatch",
        "64x96",
        "EXIF",
        verbs=("evaluate", "train"),
    ),
    *_bad(
        "one unknown value",
        lambda path, values: save(_with_pixel(values, 200))(path),
        "unknown-values",
        "the value 200",
        verbs=("evaluate", "train", "report"),
    ),
    *_bad(
        "254 for void, which is 255",
        lambda path, values: save(_with_pixel(values, 254))(path),
        "unknown-values",
        "the value 254",
    ),
    *_bad(
        "unknown value of 16 bits",
        lambda path, values: save(_with_pixel(values, 0).astype(np.uint16) + 256)(path),
        "unknown-values",
        "256",
    ),
    *_bad(
        "unknown colour", lambda path, values: save(np.full((*values.shape, 3), 7, np.uint8))(path), "unknown-values", "#070707"
    ),
    *_bad(
        "smoothed colours",
        lambda path, values: (
            Image.fromarray(colours(values)).resize((48, 32), Image.Resampling.BILINEAR).resize((96, 64)).save(path)
        ),
        "unknown-values",
        "and more",
        verbs=("evaluate", "train"),
    ),
    *_bad("grey with alpha", lambda path, values: save(values, "LA")(path), "unreadable-label", "mode LA", "palette PNG"),
    *_bad(
        "JPEG named like a PNG",
        lambda path, values: Image.fromarray(values).save(path, format="JPEG"),
        "unreadable-label",
        "no whole PNG file",
        verbs=("evaluate", "train"),
    ),
    *_bad(
        "JPEG of a single value",
        lambda path, values: Image.fromarray(values * 0 + 2).save(path, format="JPEG"),
        "unreadable-label",
        "no whole PNG file",
    ),
    *_bad(
        "lossy WebP named like a PNG",
        lambda path, values: Image.fromarray(colours(values)).save(path, format="WEBP"),
        "unreadable-label",
        "no whole PNG file",
    ),
    *_bad(
        "TIFF of floating-point numbers",
        lambda path, values: Image.fromarray(values.astype(np.float32)).save(path, format="TIFF"),
        "unreadable-label",
        "no whole PNG file",
    ),
    *_bad(
        "file without a byte", put(lambda _values: b""), "unreadable-label", "is empty", verbs=("evaluate", "train", "report")
    ),
    *_bad(
        "PNG cut off in the middle",
        put(lambda values: (content := encoded(Image.fromarray(values), "PNG"))[: len(content) // 2]),
        "unreadable-label",
        "runcated",
        verbs=("evaluate", "train"),
    ),
    *_bad(
        "PNG with a turned byte in its pixels",
        put(lambda values: flipped(content := encoded(Image.fromarray(values), "PNG"), content.index(b"IDAT") + 60)),
        "unreadable-label",
        "cannot read the label file",
    ),
    *_bad("text", put(lambda _values: b'{"shapes": []}'), "unreadable-label", "begins with", "shapes"),
    *_bad(
        "PNG that declares 60,000x60,000 pixels",
        put(lambda _values: promising("PNG", 60_000)),
        "unreadable-label",
        "too large",
        verbs=("evaluate", "train"),
    ),
    *_bad(
        "PNG that declares 10,001x10,001 pixels",
        put(lambda _values: promising("PNG", 10_001)),
        "unreadable-label",
        "10001x10001",
    ),
    *_bad("palette in another order", _in_other_order, "unreadable-label", "order of the classes", verbs=("evaluate", "train")),
    *_bad(
        "not there",
        lambda path, _values: path.unlink(),
        "image-without-label",
        "add a PNG",
        verbs=("evaluate", "train", "report"),
    ),
    *_bad(
        "name in other capitals",
        lambda path, _values: path.rename(path.with_name(path.name.upper())),
        "image-without-label",
        "add a PNG",
    ),
    *_bad(
        "BMP beside the image",
        _as_bmp,
        "image-without-label",
        "add a PNG",
    ),
    *_bad("broken link", _special("broken link"), "unreadable-label", "link to nowhere.png"),
    *_bad("pipe", _special("pipe"), "unreadable-label", "a pipe", verbs=("evaluate", "train")),
    *_bad("device", _special("device"), "unreadable-label", "device"),
    *_bad("folder named like it", _special("folder"), "image-without-label", "add a PNG"),
)


def _all_void(split: str) -> Callable[[Path, Things], Path]:
    def prepare(work: Path, things: Things) -> Path:
        data = copied(things.data, work)
        for path in (data / split / "labels").iterdir():
            save(np.full((64, 96), 255, np.uint8))(path)
        return data

    return prepare


def _extra(work: Path, things: Things) -> Path:
    data = copied(things.data, work)
    save(np.zeros((64, 96), np.uint8))(data / "val" / "labels" / "nobody.png")
    return data


def _swapped(work: Path, things: Things) -> Path:
    """Images where labels should be."""
    data = copied(things.data, work)
    (data / "val" / "labels").rename(data / "aside")
    (data / "val" / "images").rename(data / "val" / "labels")
    (data / "aside").rename(data / "val" / "images")
    return data


CASES: tuple[Case, ...] = (
    *BAD,
    Case(
        "label: void alone in val, data check",
        lambda work, things: check(_all_void("val")(work, things)),
        right=found("nothing-labelled", "val"),
    ),
    Case(
        "label: void alone in val, evaluate",
        lambda work, things: VERBS["evaluate"](work, _all_void("val")(work, things), things),
        says=("no pixel", "val", "labelled"),
    ),
    Case(
        "label: void alone in val, train",
        lambda work, things: VERBS["train"](work, _all_void("val")(work, things), things),
        says=("no pixel", "val", "labelled"),
    ),
    Case(
        "label: void alone in train, data check",
        lambda work, things: check(_all_void("train")(work, things)),
        right=found("nothing-labelled", "train"),
    ),
    Case(
        "label: void alone in train, train",
        lambda work, things: VERBS["train"](work, _all_void("train")(work, things), things),
        says=("no pixel", "train", "labelled"),
    ),
    Case(
        "label: without image, data check",
        lambda work, things: check(_extra(work, things)),
        right=found("label-without-image", "val", file="nobody.png"),
    ),
    Case(
        "label: images and labels exchanged, data check",
        lambda work, things: check(_swapped(work, things)),
        right=found("unknown-values", "val", "and more"),
    ),
    Case(
        "label: images and labels exchanged, evaluate",
        lambda work, things: VERBS["evaluate"](work, _swapped(work, things), things),
        says=("and more", "neither a class nor void"),
    ),
)
