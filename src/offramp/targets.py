"""Where a result may go, asked before the work that makes it: an hour's work must not end without a place, or over a picture.

`files` writes whole or not at all; this says early, and in words, what it would refuse late, and keeps what is not ours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from offramp.errors import InputError
from offramp.faults import what_to_do


@dataclass(frozen=True)
class FileKind:
    """A file that a step makes, known by how it begins."""

    name: str
    """What users call it, with its article: `a profile`."""
    begins: tuple[bytes, ...]


RECORDS = FileKind("records", (b"PK\x03\x04",))
PAGE = FileKind("a page", (b"<!doctype html", b"<!DOCTYPE html"))
ONNX = FileKind("an ONNX file", (b"\x08",))
FRONT = FileKind("a front", (b"latency_ms,miou",))


def json_kind(kind: str) -> FileKind:
    """An artifact of this kind, which is the first that its file says."""
    article = "an" if kind[0] in "aeiou" else "a"
    return FileKind(f"{article} {kind}", tuple(f'{{{space}"kind":{gap}"{kind}"'.encode() for space, gap in SPACES))


SPACES = (("\n ", " "), ("\n  ", " "), ("\n    ", " "), ("", ""), ("", " "))
"""Between brackets and words of a JSON file: as it was written here, and as other programs would write it again."""


def require_file_target(path: Path, kind: FileKind) -> None:
    """Refuse a path at which no file can be written, or at which something else stands than an earlier file of this kind.

    Raises:
        InputError: a folder, a device, somebody's file, or a place where nothing can be written.

    """
    if path.is_dir():
        raise InputError(f"cannot write the file {path}: a folder of that name exists; choose another name")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write the file {path}: a device or pipe of that name exists; choose another name")
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(max(map(len, kind.begins)))
        if begins and not begins.startswith(kind.begins):
            raise InputError(f"will not replace {path}: it is not {kind.name}; choose another name or remove it")
    require_place(path)


def require_place(path: Path) -> None:
    """Refuse a path that nothing can be written at; nothing is left there.

    Raises:
        InputError: saying why.

    """
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: {folder} is no folder; choose another name")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {what_to_do(error)}") from error


def require_own_folders(path: Path, own: Collection[str] = ()) -> None:
    """Refuse to replace a folder that holds folders which are not of it: with it they would be lost.

    Args:
        path: the folder, if there is one already.
        own: names of those that are of it.

    Raises:
        InputError: naming the first.

    """
    if not path.is_dir():
        return
    strangers = sorted(inner.name for inner in path.iterdir() if inner.is_dir() and inner.name not in own)
    if strangers:
        raise InputError(
            f"will not replace {path}: the folder {strangers[0]} in it would be lost; move that away, or choose another name"
        )


def require_outside(out: Path, source: Path, what: str) -> None:
    """Refuse to write a result into the folder that it is made from.

    Args:
        out: where it would go.
        source: the folder.
        what: what users call that.

    Raises:
        InputError: it would.

    """
    if out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"will not write {out} inside the {what} {source}, which is made anew as a whole; choose another --out"
        )
