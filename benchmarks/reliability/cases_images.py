"""Cases of bad and of unusual images, one file each: to `run`; what unusual ones show is in `cases_unusual`."""

from __future__ import annotations

import functools
import gzip
import os
import socket
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bad_pictures import Pixels, Spoil, chunk, encoded, flipped, patched, png, promising, rows_of, whole
from harness import Case, Things
from PIL import Image

from offramp.runtime.predictor import Predictor


@functools.cache
def predictor_of(package: Path) -> Predictor:
    """The same predictor for all cases: it answers what a case's image should be answered."""
    return Predictor(package, threads=1)


def run(things: Things, source: object, work: Path, *more: object) -> Sequence[object]:
    """A command line of `run`."""
    return ("run", source, "--package", things.small, "--out", work / "answers", "--threads", 1, *more)


def expect(work: Path, things: Things, name: str, pixels: Pixels) -> None:
    """Leave in the case's folder what the labels called `name` should be."""
    (work / "expected").mkdir(exist_ok=True)
    np.save(work / "expected" / f"{name}.npy", predictor_of(things.small)(pixels).labels)


def as_expected(work: Path, _said: object) -> bool:
    """Whether `run` wrote the labels that were expected, and no others."""
    expected = {path.stem: np.load(path) for path in (work / "expected").iterdir()}
    written = {path.stem: np.asarray(whole(path)) for path in (work / "answers" / "labels").iterdir()}
    return expected.keys() == written.keys() and all(np.array_equal(expected[name], written[name]) for name in expected)


def _refused(name: str, file: str, spoil: Spoil, *says: str) -> Case:
    def prepare(work: Path, things: Things) -> Sequence[object]:
        (work / file).write_bytes(spoil(whole(things.image)))
        return run(things, work / file, work)

    return Case(f"image: {name}", prepare, says=(file, *says))


# ------------------------------------------------------------------------------------------------------------------ damaged


def _cut(kind: str, where: Callable[[bytes], int]) -> Spoil:
    def spoil(clean: Image.Image) -> bytes:
        content = encoded(clean, kind)
        return content[: where(content)]

    return spoil


PLACES: dict[str, Callable[[bytes], int]] = {
    "after its first 20 bytes": lambda _content: 20,
    "in the middle": lambda content: len(content) // 2,
    "before its last 200 bytes": lambda content: len(content) - 200,
}
CUT = tuple(
    _refused(f"{kind} cut off {place}", f"cut.{kind.lower()}", _cut(kind, where), "cannot read the image", "replace it")
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
    for place, where in PLACES.items()
)


def _png_flipped(kind: bytes, offset: int) -> Spoil:
    return lambda clean: flipped(content := encoded(clean, "PNG"), content.index(kind) + offset)


def _text_bomb(clean: Image.Image) -> bytes:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8 << 20)))
    return png(clean.size, rows_of(np.array(clean)), before=[bomb])


DAMAGED = (
    _refused("file without a byte", "none.png", lambda _clean: b"", "is empty"),
    _refused("PNG without its end", "end.png", lambda clean: encoded(clean, "PNG")[:-12], "truncated"),
    _refused(
        "PNG with a turned byte in its last checksum",
        "flip.png",
        lambda clean: flipped(encoded(clean, "PNG"), -13),
        "checksum",
    ),
    _refused("PNG with a turned byte in its pixels", "flip.png", _png_flipped(b"IDAT", 2000), "cannot read the image"),
    _refused("PNG with a turned byte in its size", "flip.png", _png_flipped(b"IHDR", 6), "no whole file"),
    _refused("PNG without pixels", "no-pixels.png", lambda _clean: png((96, 64), None), "cannot read the image"),
    _refused("PNG of no width", "zero.png", lambda _clean: png((0, 64), b"\0" * 64), "cannot read the image"),
    _refused("PNG of 3 bits a pixel", "three.png", lambda _clean: png((96, 64), b"\0" * 64, depth=3), "no whole file"),
    _refused(
        "PNG whose pixels are no zlib stream",
        "raw.png",
        lambda _clean: png((96, 64), None)[:-12] + chunk(b"IDAT", b"raw" * 99) + chunk(b"IEND", b""),
        "cannot read",
    ),
    _refused(
        "PNG with an ICC profile whose checksum is wrong",
        "icc.png",
        lambda clean: flipped(
            content := png(clean.size, rows_of(np.array(clean)), before=[chunk(b"iCCP", b"x\0\0zz")]),
            content.index(b"iCCP") + 5,
        ),
        "no whole file",
    ),
    _refused("PNG with a text of 8 MB, packed", "text.png", _text_bomb, "too large"),
    _refused("PNG behind other bytes", "behind.png", lambda clean: b"\r\n" + encoded(clean, "PNG"), "no whole file"),
    _refused("PNG packed by gzip", "packed.png", lambda clean: gzip.compress(encoded(clean, "PNG")), "no whole file"),
    _refused("PNG sent as text", "text-mode.png", lambda clean: encoded(clean, "PNG").replace(b"\r\n", b"\n"), "no whole file"),
    _refused(
        "JPEG without tables",
        "tables.jpg",
        lambda clean: (content := encoded(clean, "JPEG"))[: content.index(b"\xff\xdb")] + content[content.index(b"\xff\xc0") :],
        "cannot read",
    ),
    _refused(
        "JPEG header alone",
        "header.jpg",
        lambda clean: (content := encoded(clean, "JPEG"))[: content.index(b"\xff\xda")],
        "cannot read",
    ),
    _refused(
        "TIFF whose directory lies behind its end",
        "far.tif",
        lambda clean: patched(encoded(clean, "TIFF"), 4, b"\xf0\xff\xff\x7f"),
        "no whole file",
    ),
    _refused(
        "TIFF of floating-point numbers", "depth.tif", lambda clean: encoded(clean.convert("F"), "TIFF"), "floating-point"
    ),
    _refused("text named like a PNG", "note.png", lambda _clean: b"see the other folder", "no whole file", "see the other"),
    _refused("error page named like a JPEG", "page.jpg", lambda _clean: b"<!DOCTYPE html><p>404", "no whole file", "DOCTYPE"),
    _refused("PostScript named like a PNG", "draw.png", lambda clean: encoded(clean, "EPS"), "no whole file", "PS-Adobe"),
    _refused("SVG named like a PNG", "draw.png", lambda _clean: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no whole file"),
    _refused("PDF named like a JPEG", "scan.jpg", lambda _clean: b"%PDF-1.7\n", "no whole file", "PDF"),
    _refused(
        "pointer of Git LFS",
        "large.png",
        lambda _clean: b"version https://git-lfs.github.com/spec/v1\n",
        "no whole file",
        "version",
    ),
    _refused(
        "NumPy array named like a PNG", "array.png", lambda _clean: b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'}", "no whole file"
    ),
)


def _promising(kind: str, side: int) -> Spoil:
    return lambda _clean: promising(kind, side)


BOMBS = (
    *(
        _refused(
            f"{kind} that declares {side}x{side} pixels",
            f"bomb.{kind.lower()}",
            _promising(kind, side),
            "too large",
            "make it smaller",
        )
        for kind, side in (
            ("PNG", 60_000),
            ("JPEG", 60_000),
            ("BMP", 60_000),
            ("GIF", 60_000),
            ("TIFF", 60_000),
            ("PPM", 60_000),
            ("PNG", 10_001),
            ("PNG", 13_000),
            ("JPEG", 13_000),
        )
    ),
    _refused(
        "PNG that declares 100,000,001x1 pixels",
        "long.png",
        lambda _clean: png((100_000_001, 1), b"\0" * 64),
        "too large",
        "100000001x1",
    ),
    _refused(
        "PNG that declares as much as is read, and holds little",
        "less.png",
        lambda _clean: promising("PNG", 10_000),
        "truncated",
    ),
    _refused(
        "PNG just below Pillow's warning, and holds little", "below.png", lambda _clean: promising("PNG", 9_459), "truncated"
    ),
    _refused(
        "PNG just above Pillow's warning, and holds little", "above.png", lambda _clean: promising("PNG", 9_460), "truncated"
    ),
)


# ------------------------------------------------------------------------------------------------------- what is no file


def _special(kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "broken link":
        path.symlink_to("nowhere.png")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    else:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path may not be long
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(before)


def make_special(kind: str, path: Path) -> None:
    """Put something in place of a file: a folder, pipe, device, broken link, link to itself, or socket."""
    _special(kind, path)


SPECIAL = {
    "folder": ("no images in",),
    "pipe": ("a pipe, socket or device",),
    "socket": ("a pipe, socket or device",),
    "device": ("a pipe, socket or device",),
    "broken link": ("no such input",),
    "link to itself": ("no such input",),
}


def _to_run(kind: str, says: Sequence[str]) -> Case:
    def prepare(work: Path, things: Things) -> Sequence[object]:
        make_special(kind, work / "odd.png")
        return run(things, work / "odd.png", work)

    return Case(f"image: {kind} named like a PNG", prepare, says=("odd.png", *says))


CASES: tuple[Case, ...] = (*CUT, *DAMAGED, *BOMBS, *(_to_run(kind, says) for kind, says in SPECIAL.items()))
