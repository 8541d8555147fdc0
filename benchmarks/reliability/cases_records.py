"""Cases of bad records, met by search, report and by who loads them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import spoiling
from cases_measured import EXIT, Spoil, cases_of, met_by
from harness import Case


def _rewritten(change: Callable[[dict[str, Any]], object], **info: Any) -> Spoil:
    """The same archive with its arrays changed, and its description."""

    def spoil(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        described = json.loads(arrays["info"].tobytes()) | info
        arrays["info"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
        change(arrays)
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    return spoil


def _arrays(name: str, change: Callable[[Any], Any]) -> Spoil:
    return _rewritten(lambda arrays: arrays.update({name: change(arrays[name])}))


def _written(array: Any, value: float) -> Any:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def _bomb(path: Path) -> None:
    """Records that say of themselves that they hold 100,000 images, and an array of so many zeros without its data."""
    with np.load(path) as archive:
        described = json.loads(archive["info"].tobytes())
    described["images"] = [f"{number}" for number in range(100_000)]
    described["exits"] = [f"exit {number}" for number in range(64)]
    text = json.dumps(described).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("info.npy", _npy(np.frombuffer(text, np.uint8)))
        archive.writestr("correct.npy", bytes(1000))


def _npy(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _declared(shape: str, size: int = 0) -> Spoil:
    """An array whose header says this shape, with so many zeros behind it."""

    def spoil(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(size)
                archive.writestr(f"{name}.npy", start if name == "sure" else _npy(array))

    return spoil


def _members(change: Callable[[dict[str, bytes]], object]) -> Spoil:
    """Another content of the archive's members."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return spoil


RECORDS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    **{what: (how, ("val.records", word)) for what, (how, word) in spoiling.FILE.items() if what != "a hundred megabytes"},
    "cut to 99 %": (lambda path: spoiling.cut(path, 0.99), ("val.records", "not records")),
    "a flipped byte in the description": (lambda path: spoiling.flipped(path, 0.1), ("val.records", "records")),
    "a flipped byte in an array": (lambda path: spoiling.flipped(path, 0.6), ("val.records", "records")),
    "a flipped byte in the archive's directory": (lambda path: spoiling.flipped(path, 0.96), ("val.records", "records")),
    "a bomb that would take 10 GB": (_bomb, ("val.records", "GB")),
    "an array that declares 10^15 numbers": (_declared("(1000000000, 1000000)"), ("val.records", "sure is")),
    "an array that is shorter than it declares": (_declared("(2, 3, 3, 32)", 64), ("val.records", "sure has")),
    "an array that is longer than it declares": (_declared("(2, 3, 3, 32)", 1 << 20), ("val.records", "sure has")),
    "an array with a negative side": (_declared("(-2, 3, 3, 32)"), ("val.records",)),
    "an array with code for its shape": (_declared("__import__('os').getcwd()"), ("val.records",)),
    "pickled objects": (_arrays("correct", lambda _array: np.array([spoiling.Bomb(Path("executed"))])), ("correct",)),
    "a pickle for a description": (_arrays("info", lambda _array: np.array([None])), ("info",)),
    "counts that are floats": (_arrays("correct", lambda array: array.astype(float)), ("correct", "float64", "int64")),
    "counts of 32 bits": (_arrays("sure", lambda array: array.astype(np.int32)), ("sure", "int32")),
    "counts of the other byte order": (_arrays("size", lambda array: array.astype(">i8")), ("size", ">i8")),
    "counts that are text": (_arrays("size", lambda array: array.astype(str)), ("size", "int64")),
    "an image less": (_arrays("correct", lambda array: array[1:]), ("correct", "wanted")),
    "an exit more": (_arrays("differing", lambda array: np.repeat(array, 2, axis=1)), ("differing", "wanted")),
    "a class less": (_arrays("labelled", lambda array: array[:, 1:]), ("labelled", "wanted")),
    "a dimension more": (_arrays("predicted", lambda array: array[None]), ("predicted", "wanted")),
    "a negative count": (_arrays("predicted", lambda array: _written(array, -1)), ("predicted", "negative")),
    "a count of 2^62": (_arrays("labelled", lambda array: _written(array, 2**62)), ("labelled", "2^40")),
    "more correct than predicted": (_arrays("predicted", lambda array: array * 0), ("correct", "predicted")),
    "more correct than labelled": (_arrays("labelled", lambda array: array * 0), ("correct", "labelled")),
    "more sure than there are": (_arrays("sure", lambda array: _written(array, 10**6)), ("sure", "region")),
    "more differing than there are": (_arrays("differing", lambda array: array + 10**6), ("differ", "image")),
    "no description": (_members(lambda members: members.pop("info.npy")), ("val.records", "info")),
    "an array missing": (_members(lambda members: members.pop("sure.npy")), ("val.records", "sure")),
    "a description that is no JSON": (_arrays("info", lambda array: array[:-5]), ("val.records", "not records")),
    "a description with a NaN": (
        _arrays("info", lambda array: np.frombuffer(array.tobytes().replace(b'"val"', b"NaN", 1), np.uint8)),
        ("val.records", "NaN"),
    ),
    "an array of no format": (_members(lambda members: members.update({"size.npy": b"\x93NUMPY"})), ("val.records",)),
    "an older version": (_rewritten(lambda _arrays: None, format=0), ("val.records", "format")),
    "a newer version": (_rewritten(lambda _arrays: None, format=2), ("val.records", "format 2")),
    "another kind": (_rewritten(lambda _arrays: None, kind="profile"), ("val.records", "profile")),
    "an unknown key": (_rewritten(lambda _arrays: None, spilt="val"), ("val.records", "spilt")),
    "an unknown engine": (_rewritten(lambda _arrays: None, engine="steam"), ("val.records", "engine")),
    "an exit named twice": (_rewritten(lambda _arrays: None, exits=[EXIT, EXIT, "final"]), ("val.records", "same name")),
    "no classes": (_rewritten(lambda _arrays: None, classes=[]), ("val.records", "classes")),
    "no exits": (_rewritten(lambda _arrays: None, exits=[]), ("val.records", "exits")),
    "classes that are numbers": (_rewritten(lambda _arrays: None, classes=list(range(8))), ("val.records", "classes")),
    "a member with the name of a file outside": (
        _members(lambda members: members.update({"../size.npy": members.pop("size.npy")})),
        ("val.records", "size"),
    ),
}
MISFITS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "of another package": (_rewritten(lambda _arrays: None, package_id="0" * 64), ("another package",)),
}
CASES: tuple[Case, ...] = (
    *cases_of("records", RECORDS),
    *(met_by("records", verb, "of another package", MISFITS["of another package"]) for verb in ("search", "report")),
)
