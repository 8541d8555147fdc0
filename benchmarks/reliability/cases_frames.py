"""Cases of `run` and `view` with many frames: folders with odd neighbours and names, videos, and images dropped on the page."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import encoded, oriented, patched, png, promising, sound, video, whole
from cases_images import as_expected, expect, make_special, predictor_of, run
from harness import Case, Things
from PIL import Image

from offramp.viewing.session import Ask, Session

Fill = Callable[[Path, Things], object]
"""Puts something into a folder beside the images of a case."""


def _folder(work: Path) -> Path:
    (work / "in").mkdir()
    return work / "in"


def _named(name: str, *files: str, fill: Fill = lambda _folder, _things: None) -> Case:
    """Whole images of these names, and what else lies beside them: all of the images must be answered, and nothing else."""

    def prepare(work: Path, things: Things) -> Sequence[object]:
        folder, clean = _folder(work), whole(things.image)
        for number, file in enumerate(files):
            picture = clean.rotate(90 * number)
            picture.save(folder / file, format="PNG")
            expect(work, things, Path(file).stem, np.array(picture))
        fill(folder, things)
        return run(things, folder, work)

    return Case(f"frames: {name}", prepare, right=as_expected)


def _refused(name: str, fill: Fill, *says: str) -> Case:
    def prepare(work: Path, things: Things) -> Sequence[object]:
        folder = _folder(work)
        fill(folder, things)
        return run(things, folder, work)

    return Case(f"frames: {name}", prepare, says=says)


def _files(*names: str, content: bytes | None = None) -> Fill:
    """Files of these names, whole images or this content."""

    def fill(folder: Path, things: Things) -> None:
        for name in names:
            (folder / name).write_bytes(things.image.read_bytes() if content is None else content)

    return fill


def _inner(folder: Path, things: Things) -> None:
    (folder / "trip").mkdir()
    (folder / "trip" / "a.png").write_bytes(things.image.read_bytes())


def _linked(folder: Path, things: Things) -> None:
    del things
    (folder / "up").symlink_to(folder)


def _special(kind: str) -> Fill:
    return lambda folder, _things: make_special(kind, folder / "odd.png")


LONG = "n" * 251
NAMES = (
    _named("name with spaces", " my  street .png"),
    _named("name with accents as one letter each", unicodedata.normalize("NFC", "café.png")),
    _named("name with accents taken apart", unicodedata.normalize("NFD", "café.png")),
    _named("both spellings of one name", *(unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))),
    _named("name with a line break", "two\nlines.png"),
    _named("name that begins with a dash", "--package.png"),
    _named("name of 255 letters", f"{LONG}.png"),
    _named("name of 85 three-byte letters", "道" * 83 + ".png"),
    _named("name with quotes, commas, semicolons", "\"a\",'b';c.png"),
    _named("name that looks like markup", "[red]<b>&amp;%s{0}.png"),
    _named("name of control characters", "\x1b[31m\x07.png"),
    _named("name with dots", "a.b.c.png"),
    _named("suffixes in capitals", "A.PNG", "B.JPG"),
    _named("names that differ in capitals", "a.png", "A.png"),
    _named("names of numbers", "10.png", "9.png", "0x.png"),
    _named(
        "hidden and system files",
        "a.png",
        fill=_files(".b.png", "._a.png", ".DS_Store", "Thumbs.db", "notes.txt", "a.png.txt", content=b"nothing"),
    ),
    _named("folder named like an image", "a.png", fill=_special("folder")),
    _named("folder in the folder", "a.png", fill=_inner),
    _named("link to the folder itself", "a.png", fill=_linked),
    _named("a file called png", "a.png", fill=_files("png", content=b"x")),
)

FOLDERS = (
    _refused("empty folder", lambda _folder, _things: None, "no images in"),
    _refused("folder of text alone", _files("a.txt"), "no images in", ".png"),
    _refused("images in a folder below", _inner, "no images in", "not in folders below"),
    _refused("two images of one name", _files("a.png", "a.jpg"), "a.jpg", "a.png", "rename"),
    _refused(
        "a broken image among whole ones",
        lambda folder, things: (_files("a.png", "c.png")(folder, things), _files("b.png", content=b"x")(folder, things)),
        "b.png",
        "no whole file",
    ),
    _refused("an empty image first", _files("a.png", content=b""), "a.png", "empty"),
    _refused(
        "a pipe among the images",
        lambda folder, things: (_files("a.png")(folder, things), _special("pipe")(folder, things)),
        "odd.png",
        "a pipe",
    ),
    _refused(
        "a broken link among the images",
        lambda folder, things: (_files("a.png")(folder, things), _special("broken link")(folder, things)),
        "odd.png",
        "link to nowhere.png",
    ),
    _refused(
        "a name that is not in UTF-8",
        lambda folder, things: (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(things.image.read_bytes()),
        "caf\\udce9.png",
        "not in UTF-8",
        "rename",
    ),
)


# ------------------------------------------------------------------------------------------------------------------- videos


def _video(name: str, file: str, make: Callable[[Path, Things], object], *says: str, words: Sequence[str] = ()) -> Case:
    def prepare(work: Path, things: Things) -> Sequence[object]:
        make(work / file, things)
        return run(things, work / file, work, *words)

    return Case(f"video: {name}", prepare, says=(file, *says))


def _answered(
    name: str, file: str, frames: int | range, make: Callable[[Path], object], sizes: Sequence[tuple[int, int]] = ()
) -> Case:
    """So many frames are answered, each at its own size."""

    def prepare(work: Path, things: Things) -> Sequence[object]:
        make(work / file)
        return run(things, work / file, work)

    def right(work: Path, _said: object) -> bool:
        found = [whole(path).size for path in sorted((work / "answers" / "labels").iterdir())]
        return len(found) in (frames if isinstance(frames, range) else (frames,)) and (not sizes or found == list(sizes))

    return Case(f"video: {name}", prepare, right=right)


def _spoilt(spoil: Callable[[bytes], bytes], **options: Any) -> Callable[[Path, Things], object]:
    return lambda path, _things: path.write_bytes(spoil(video(path, **options)))


def _noise(content: bytes, begin: float, end: float) -> bytes:
    first, last = int(len(content) * begin), int(len(content) * end)
    return patched(content, first, bytes(last - first))


def _huge(content: bytes) -> bytes:
    """Frames of 96x64 pixels that say that they have 10,100 x 10,100."""
    return content.replace(b"\x00\x40\x00\x60", b"\x27\x74\x27\x74")


VIDEOS = (
    _video("file without a byte", "none.mp4", lambda path, _things: path.write_bytes(b""), "cannot read the video"),
    _video("text named like a video", "text.mp4", lambda path, _things: path.write_text("no film"), "cannot read the video"),
    _video(
        "MP4 cut off in the middle", "cut.mp4", _spoilt(lambda content: content[: len(content) // 2]), "cannot read the video"
    ),
    _video(
        "MP4 whose first frames are wiped out",
        "wiped.mp4",
        _spoilt(lambda content: _noise(content, 0.003, 0.3)),
        "cannot read the video",
    ),
    _video(
        "MP4 with a hole in the middle",
        "hole.mp4",
        _spoilt(lambda content: _noise(content, 0.4, 0.6)),
        "cannot read the video",
        "after",
    ),
    _video("sound alone", "sound.mkv", lambda path, _things: sound(path), "no video in it"),
    _video("sound alone, played live", "sound.mkv", lambda path, _things: sound(path), "no video in it", words=("--live",)),
    _video(
        "header without a frame",
        "head.avi",
        _spoilt(lambda content: content[: content.index(b"movi") + 4]),
        "no frame that can be read",
    ),
    _video(
        "frames that declare 10,100x10,100 pixels", "huge.avi", _spoilt(_huge, codec="mjpeg", frames=1), "cannot read the video"
    ),
    _video("folder named like a video", "film.mp4", lambda path, _things: path.mkdir(), "no images in"),
    _video("pipe named like a video", "pipe.mp4", lambda path, _things: make_special("pipe", path), "a pipe"),
    _answered(
        "Matroska cut off in the middle",
        "cut.mkv",
        range(1, 6),
        lambda path: path.write_bytes((content := video(path))[: len(content) // 2]),
    ),
    _answered(
        "another size in mid-stream",
        "sizes.avi",
        4,
        lambda path: video(path, ((96, 64), (64, 96)), frames=2, codec="mjpeg"),
        ((96, 64),) * 2 + ((64, 96),) * 2,
    ),
    _answered("MP4 in capitals", "FILM.MP4", 6, lambda path: path.write_bytes(video(path.with_suffix(".mp4")))),
    _answered("AVI named like an MP4", "named.mp4", 6, lambda path: path.write_bytes(video(path.with_suffix(".avi")))),
    _answered("one frame", "one.mp4", 1, lambda path: video(path, frames=1)),
)


# --------------------------------------------------------------------------------------------------------------------- view


def _viewed(name: str, make: Callable[[Path, Things], Path], *says: str) -> Case:
    return Case(f"view: {name}", lambda work, things: ("view", things.package, make(work, things), "--no-open"), says=says)


def _dropped(name: str, spoil: Callable[[Image.Image], bytes], *says: str) -> Case:
    def prepare(work: Path, things: Things) -> Callable[[], object]:
        del work
        body, session = spoil(whole(things.image)), Session(predictor_of(things.small), None)
        return lambda: session.drop(body, "dropped.png")

    return Case(f"view: dropped {name}", prepare, says=says)


def _ask(things: Things) -> dict[str, Any]:
    plan = predictor_of(things.small).plan
    return {
        "mode": plan.mode,
        "exits": plan.exits,
        "region": plan.region,
        "pixel_threshold": plan.pixel_threshold,
        "image_thresholds": plan.image_thresholds,
    }


def _turned(work: Path, things: Things) -> Callable[[], object]:
    del work
    stored, exif = oriented(whole(things.image), 6)
    session = Session(predictor_of(things.small), None)

    def show() -> object:
        session.drop(encoded(stored, "PNG", exif=exif), "turned.png")
        return session.answer(Ask(**_ask(things)))["size"]

    return show


def _asked(work: Path, things: Things) -> Callable[[], object]:
    folder = _folder(work)
    _files("a.png", content=b"no image")(folder, things)
    session = Session(predictor_of(things.small), folder)
    return lambda: session.answer(Ask(index=0, **_ask(things)))


def _put(file: str, content: Callable[[Things], bytes]) -> Callable[[Path, Things], Path]:
    def make(work: Path, things: Things) -> Path:
        (work / file).write_bytes(content(things))
        return work / file

    return make


def _odd(kind: str) -> Callable[[Path, Things], Path]:
    def make(work: Path, things: Things) -> Path:
        del things
        make_special(kind, work / "odd.png")
        return work / "odd.png"

    return make


def _silent(work: Path, things: Things) -> Path:
    del things
    sound(work / "sound.mkv")
    return work / "sound.mkv"


VIEW = (
    _viewed(
        "image that is cut off",
        _put("cut.png", lambda things: things.image.read_bytes()[:300]),
        "cut.png",
        "cannot read the image",
    ),
    _viewed(
        "image that declares too much", _put("bomb.png", lambda _things: promising("PNG", 60_000)), "bomb.png", "too large"
    ),
    _viewed("file that is not there", lambda work, _things: work / "gone.png", "gone.png", "no such input"),
    _viewed("pipe", _odd("pipe"), "odd.png", "a pipe"),
    _viewed("folder without images", _odd("folder"), "odd.png", "no images in"),
    _viewed("video without a byte", _put("none.mp4", lambda _things: b""), "none.mp4", "cannot read the video"),
    _viewed("video without pictures", _silent, "sound.mkv", "no video in it"),
    _dropped("nothing", lambda _clean: b"", "was dropped", "empty"),
    _dropped("text", lambda _clean: b"hello", "what was dropped is no picture"),
    _dropped("PNG that is cut off", lambda clean: encoded(clean, "PNG")[:900], "that was dropped"),
    _dropped("PNG that declares too much", lambda _clean: promising("PNG", 10_001), "too large"),
    _dropped("PNG with a turned size", lambda _clean: png((0, 0), b""), "what was dropped is no picture"),
    _dropped("TIFF", lambda clean: encoded(clean, "TIFF"), "what was dropped is no picture"),
    Case("view: dropped image with EXIF orientation 6", _turned, right=lambda _work, size: tuple(size) == (96, 64)),
    Case("view: image of a folder that is none", _asked, says=("a.png", "no whole file")),
)

CASES: tuple[Case, ...] = (*NAMES, *FOLDERS, *VIDEOS, *VIEW)
