"""Cases of images that are unusual and right, given to `run`, and of others given to `Predictor`.

What an image shows is compared by its labels with those of the pixels that it was made from.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import Pixels, Spoil, chunk, encoded, flipped, oriented, patched, png, promising, rows_of, whole
from cases_images import as_expected, expect, make_special, predictor_of, run
from harness import Case, Things
from PIL import Image

GREY = np.tile(np.arange(96, dtype=np.uint8), (64, 1))


def _shown(
    name: str, file: str, write: Spoil, shows: Callable[[Image.Image], Any] = lambda clean: clean, door: str = "image"
) -> Case:
    """A case of `run`, whose labels must be those of the pixels that the file shows."""

    def prepare(work: Path, things: Things) -> Sequence[object]:
        clean = whole(things.image)
        (work / file).write_bytes(write(clean))
        expect(work, things, Path(file).stem, np.array(shows(clean)))
        return run(things, work / file, work)

    return Case(f"{door}: {name}", prepare, right=as_expected)


def _deep(clean: Image.Image) -> Pixels:
    return np.array(clean.convert("L"))


def _deep_rgb(clean: Image.Image) -> bytes:
    wide = np.array(clean).astype(np.uint16) * 257
    return png(clean.size, rows_of(wide), depth=16)


def _grey(clean: Image.Image) -> Image.Image:
    return clean.convert("L").convert("RGB")


def _palette(clean: Image.Image) -> Image.Image:
    return clean.quantize(32)


def _decoded(write: Spoil) -> Callable[[Image.Image], Any]:
    """What Pillow shows of a lossy or reduced file: compared are the ways to read it."""
    return lambda clean: Image.open(io.BytesIO(write(clean))).convert("RGB")


def _film(kind: str) -> Spoil:
    def write(clean: Image.Image) -> bytes:
        first = clean.convert("P", palette=Image.Palette.WEB) if kind == "GIF" else clean
        others = [Image.new(first.mode, first.size, number) for number in range(2)]
        return encoded(first, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))

    return write


def _with_exif(orientation: int, kind: str = "PNG") -> Spoil:
    def write(clean: Image.Image) -> bytes:
        stored, exif = oriented(clean, orientation)
        return encoded(stored, kind, exif=exif)

    return write


def _cmyk(clean: Image.Image) -> bytes:
    return encoded(clean.convert("CMYK"), "JPEG", quality=90)


def _see_through(clean: Image.Image) -> bytes:
    return encoded(Image.merge("RGBA", (*clean.split(), Image.fromarray(GREY))), "PNG")


def _resized(width: int, height: int) -> Spoil:
    return lambda clean: encoded(clean.resize((width, height)), "PNG")


UNUSUAL = (
    _shown(
        "16-bit grey PNG",
        "deep.png",
        lambda clean: encoded(Image.fromarray(_deep(clean).astype(np.uint16) * 257), "PNG"),
        _grey,
    ),
    _shown("16-bit RGB PNG", "deep.png", _deep_rgb),
    _shown(
        "16-bit grey TIFF",
        "deep.tif",
        lambda clean: encoded(Image.fromarray(_deep(clean).astype(np.uint16) * 257), "TIFF"),
        _grey,
    ),
    _shown("8-bit grey PNG", "grey.png", lambda clean: encoded(clean.convert("L"), "PNG"), _grey),
    _shown("grey PNG with alpha", "la.png", lambda clean: encoded(clean.convert("LA"), "PNG"), _grey),
    _shown("PNG with alpha", "alpha.png", _see_through),
    _shown(
        "wholly transparent PNG",
        "gone.png",
        lambda clean: encoded(Image.merge("RGBA", (*clean.split(), Image.new("L", clean.size, 0))), "PNG"),
    ),
    _shown(
        "palette PNG",
        "palette.png",
        lambda clean: encoded(_palette(clean), "PNG"),
        lambda clean: _palette(clean).convert("RGB"),
    ),
    _shown(
        "palette PNG with transparency",
        "clear.png",
        lambda clean: encoded(_palette(clean), "PNG", transparency=bytes(range(32))),
        lambda clean: _palette(clean).convert("RGB"),
    ),
    _shown("RGB PNG with a transparent colour", "key.png", lambda clean: encoded(clean, "PNG", transparency=(0, 0, 0))),
    _shown(
        "1-bit PNG",
        "bit.png",
        lambda clean: encoded(clean.convert("1"), "PNG"),
        lambda clean: clean.convert("1").convert("RGB"),
    ),
    _shown(
        "4-bit grey PNG",
        "nibble.png",
        lambda _clean: png((96, 64), rows_of(np.tile(np.arange(48, dtype=np.uint8), (64, 1))), depth=4, colour=0),
        _decoded(lambda _clean: png((96, 64), rows_of(np.tile(np.arange(48, dtype=np.uint8), (64, 1))), depth=4, colour=0)),
    ),
    _shown("CMYK JPEG", "cmyk.jpg", _cmyk, _decoded(_cmyk)),
    _shown(
        "grey JPEG",
        "grey.jpg",
        lambda clean: encoded(clean.convert("L"), "JPEG"),
        _decoded(lambda clean: encoded(clean.convert("L"), "JPEG")),
    ),
    _shown(
        "progressive JPEG",
        "steps.jpg",
        lambda clean: encoded(clean, "JPEG", progressive=True),
        _decoded(lambda clean: encoded(clean, "JPEG", progressive=True)),
    ),
    _shown(
        "JPEG with a turned byte in its pixels",
        "flip.jpg",
        lambda clean: flipped(encoded(clean, "JPEG"), -700),
        _decoded(lambda clean: flipped(encoded(clean, "JPEG"), -700)),
    ),
    _shown(
        "BMP with a turned byte in its pixels",
        "flip.bmp",
        lambda clean: flipped(encoded(clean, "BMP"), -700),
        _decoded(lambda clean: flipped(encoded(clean, "BMP"), -700)),
    ),
    _shown(
        "BMP upside down",
        "down.bmp",
        lambda clean: patched(
            encoded(clean.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP"), 22, (-64).to_bytes(4, "little", signed=True)
        ),
    ),
    _shown("PNG named like a JPEG", "named.jpg", lambda clean: encoded(clean, "PNG")),
    _shown("PNG without a suffix", "named", lambda clean: encoded(clean, "PNG")),
    _shown("PNG with bytes behind its end", "more.png", lambda clean: encoded(clean, "PNG") + b"\0" * 500),
    _shown("PNG with a broken ICC profile", "icc.png", lambda clean: encoded(clean, "PNG", icc_profile=b"no profile")),
    _shown(
        "PNG with an ICC profile that is not packed",
        "icc.png",
        lambda clean: png(clean.size, rows_of(np.array(clean)), before=[chunk(b"iCCP", b"x\0\0zz")]),
    ),
    _shown(
        "PNG with broken EXIF data",
        "exif.png",
        lambda clean: png(clean.size, rows_of(np.array(clean)), before=[chunk(b"eXIf", b"no EXIF")]),
    ),
    _shown(
        "PNG with EXIF data cut off",
        "exif.png",
        lambda clean: png(
            clean.size, rows_of(np.array(clean)), before=[chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0")]
        ),
    ),
    _shown(
        "PNG with EXIF data that point behind their end",
        "exif.png",
        lambda clean: png(clean.size, rows_of(np.array(clean)), before=[chunk(b"eXIf", b"MM\0*\x7f\xff\xff\xff")]),
    ),
    _shown("PNG with EXIF orientation 0", "exif.png", _with_exif(0)),
    _shown("PNG with EXIF orientation 77", "exif.png", _with_exif(77)),
    *(_shown(f"PNG with EXIF orientation {turn}", "exif.png", _with_exif(turn)) for turn in range(1, 9)),
    _shown("TIFF with EXIF orientation 6", "exif.tif", _with_exif(6, "TIFF")),
    _shown(
        "JPEG with EXIF orientation 8",
        "exif.jpg",
        _with_exif(8, "JPEG"),
        lambda clean: _decoded(lambda clean: encoded(oriented(clean, 8)[0], "JPEG"))(clean).transpose(
            Image.Transpose.ROTATE_90
        ),
    ),
    *(
        _shown(f"{name} of three frames", f"film.{kind.lower()}", _film(kind), _decoded(_film(kind)))
        for name, kind in (("animated PNG", "PNG"), ("animated GIF", "GIF"), ("animated WebP", "WEBP"), ("TIFF", "TIFF"))
    ),
    *(
        _shown(
            f"PNG of {width}x{height}",
            "odd.png",
            _resized(width, height),
            _decoded(_resized(width, height)),
        )
        for width, height in ((1, 1), (1, 300), (300, 1), (40_000, 1), (1, 40_000), (97, 65))
    ),
)


def _to_predictor(name: str, make: Callable[[Path, Things], Any], *says: str) -> Case:
    def prepare(work: Path, things: Things) -> Callable[[], object]:
        image = make(work, things)
        return lambda: predictor_of(things.small)(image)

    return Case(f"predictor: {name}", prepare, says=says)


def _made(kind: str) -> Callable[[Path, Things], Path]:
    def make(work: Path, _things: Things) -> Path:
        make_special(kind, work / "odd.png")
        return work / "odd.png"

    return make


def _closed(_work: Path, things: Things) -> Image.Image:
    picture = Image.open(things.image)
    picture.close()
    return picture


def _bomb(_work: Path, _things: Things) -> Image.Image:
    with warnings.catch_warnings(action="ignore"):
        return Image.open(io.BytesIO(promising("BMP", 13_000)))


def _same(name: str, write: Spoil, shows: Callable[[Image.Image], Any] = lambda clean: clean) -> Case:
    """A PIL image must be read as its file is."""

    def prepare(work: Path, things: Things) -> Callable[[], object]:
        predictor, clean = predictor_of(things.small), whole(things.image)
        path, content = work / "picture", write(clean)
        path.write_bytes(content)
        expected = predictor(np.array(shows(clean))).labels
        return lambda: (predictor(Image.open(io.BytesIO(content))).labels, predictor(path).labels, expected)

    def right(_work: Path, found: Any) -> bool:
        return all(np.array_equal(labels, found[2]) for labels in found[:2])

    return Case(f"predictor: {name}", prepare, right=right)


PREDICTOR = (
    _to_predictor("file that is not there", lambda work, _things: work / "gone.png", "gone.png", "No such file"),
    *(
        _to_predictor(f"{kind} as a file", _made(kind), "odd.png", says)
        for kind, says in (("folder", "a folder"), ("pipe", "a pipe"), ("broken link", "link to nowhere.png"))
    ),
    _to_predictor("path with a zero byte", lambda _work, _things: "a\0b.png", "cannot read the image"),
    _to_predictor(
        "name longer than names may be", lambda _work, _things: "x" * 300 + ".png", "cannot read the image", "too long"
    ),
    _to_predictor(
        "PIL image that is cut off",
        lambda _work, things: Image.open(io.BytesIO(encoded(whole(things.image), "JPEG")[:900])),
        "given",
        "truncated",
    ),
    _to_predictor("PIL image that was closed", _closed, "given"),
    _to_predictor("PIL image of floating-point numbers", lambda _work, _things: Image.new("F", (9, 9)), "floating-point"),
    _to_predictor("PIL image without pixels", lambda _work, _things: Image.new("RGB", (0, 9)), "0x9"),
    _to_predictor("PIL image of 169 million pixels", _bomb, "too large"),
    _same("PIL image with EXIF orientation 6", _with_exif(6)),
    _same(
        "PIL image of 16-bit grey", lambda clean: encoded(Image.fromarray(_deep(clean).astype(np.uint16) * 257), "PNG"), _grey
    ),
    _same(
        "PIL image with alpha",
        lambda clean: encoded(Image.merge("RGBA", (*clean.split(), Image.new("L", clean.size, 0))), "PNG"),
    ),
    _same(
        "PIL image with a palette and transparency",
        lambda clean: encoded(_palette(clean), "PNG", transparency=bytes(range(32))),
        lambda clean: _palette(clean).convert("RGB"),
    ),
)

CASES: tuple[Case, ...] = (*UNUSUAL, *PREDICTOR)
