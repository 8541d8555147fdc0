"""Cases of unusual label files that are right: read as what they mean, with nothing for `data check` to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import Pixels, four_bit, oriented, png, rows_of, whole
from cases_labels import Spoil, check, colours, first_of, put, save
from harness import Case, Things, copied
from PIL import Image

from offramp.artifacts import load_records
from offramp.data.folder import open_split
from offramp.data.synthetic import CLASSES
from offramp.evaluation import evaluate


def _good(name: str, write: Spoil, shows: Callable[[Pixels], Any] = lambda values: values) -> tuple[Case, ...]:
    """Read as `shows`, and nothing is found by `data check`."""

    def written(work: Path, things: Things) -> tuple[Path, Pixels]:
        data = copied(things.data, work)
        path = first_of(data, "val")
        values = np.asarray(whole(path))
        write(path, values)
        return data, np.asarray(shows(values))

    def read(work: Path, things: Things) -> Callable[[], object]:
        data, expected = written(work, things)
        return lambda: (open_split(data, "val").labels(0), expected)

    return (
        Case(f"label: {name}, read", read, right=lambda _work, found: np.array_equal(*found)),
        Case(
            f"label: {name}, data check",
            lambda work, things: check(written(work, things)[0]),
            right=lambda _work, found: found[0] == 0,
        ),
    )


def _in_grey(path: Path, values: Pixels) -> None:
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([step // 3 * 30 % 256 for step in range(3 * 8)])
    picture.save(path)


def _see_through(path: Path, values: Pixels) -> None:
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([channel for colour in CLASSES.palette for channel in colour])
    picture.save(path, transparency=0)


def _film(path: Path, values: Pixels) -> None:
    Image.fromarray(values).save(path, save_all=True, append_images=[Image.fromarray(values * 0 + 200)])


def _upright(turn: int) -> Spoil:
    def write(path: Path, values: Pixels) -> None:
        stored, exif = oriented(Image.fromarray(values), turn)
        stored.save(path, exif=exif)

    return write


def _two(values: Pixels) -> Pixels:
    """Two classes alone."""
    return np.asarray(values % 2, np.uint8)


def _classless(work: Path, things: Things) -> Callable[[], object]:
    """One class is in no label file of `val`: what is said of the others stays."""
    data = copied(things.data, work)
    for path in (data / "val" / "labels").iterdir():
        values = np.asarray(whole(path)).copy()
        values[values == 7] = 255
        save(values)(path)
    return lambda: evaluate(things.package, data, "val", threads=1)


def _same_records(write: Spoil) -> Callable[[Path, Things], Callable[[], object]]:
    """Labels written otherwise give the records that they gave before."""

    def prepare(work: Path, things: Things) -> Callable[[], object]:
        data = copied(things.data, work)
        for path in (data / "val" / "labels").iterdir():
            write(path, np.asarray(whole(path)))
        return lambda: (evaluate(things.package, data, "val", threads=1), load_records(things.records))

    return prepare


def _equal(_work: Path, found: Any) -> bool:
    return all(
        np.array_equal(getattr(found[0], name), getattr(found[1], name)) for name in ("correct", "predicted", "labelled")
    )


GOOD = (
    *_good("RGB in the palette's colours", lambda path, values: save(colours(values))(path)),
    *_good("RGBA in the palette's colours", lambda path, values: save(colours(values), "RGBA")(path)),
    *_good("16-bit grey", lambda path, values: save(values.astype(np.uint16))(path)),
    *_good(
        "16-bit RGB in the palette's colours",
        put(lambda values: png((96, 64), rows_of(colours(values).astype(np.uint16) * 257), depth=16)),
    ),
    *_good("8-bit grey", lambda path, values: save(values)(path)),
    *_good("4-bit grey", put(four_bit)),
    *_good("one bit, two classes", lambda path, values: Image.fromarray(_two(values) * 255).convert("1").save(path), _two),
    *_good("one class alone", lambda path, values: save(values * 0 + 3)(path), lambda values: values * 0 + 3),
    *_good("all void", lambda path, values: save(values * 0 + 255)(path), lambda values: values * 0 + 255),
    *_good("palette of other colours", _in_grey),
    *_good("palette with transparency", _see_through),
    *_good("two frames", _film),
    *_good("EXIF orientation 6", _upright(6)),
    *_good("EXIF orientation 3", _upright(3)),
    *_good("name in capitals", lambda path, _values: path.rename(path.with_suffix(".PNG"))),
    Case(
        "label: RGB in the palette's colours, evaluate",
        _same_records(lambda path, values: save(colours(values))(path)),
        right=_equal,
    ),
    Case(
        "label: 16-bit grey, evaluate", _same_records(lambda path, values: save(values.astype(np.uint16))(path)), right=_equal
    ),
    Case(
        "label: a class never there, evaluate",
        _classless,
        right=lambda _work, records: not records.labelled[:, 7].any() and records.labelled.any(),
    ),
)

CASES: tuple[Case, ...] = GOOD
