"""How files are spoilt: text, bytes, JSON, and packages whose hashes a stranger has made fit."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offramp.artifacts import GraphEntry, package_identity

Edit = Callable[[Any], object]
"""Changes what a JSON file says, in place."""


def edited(path: Path, edit: Edit) -> Path:
    """A JSON file with something changed."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    edit(raw)
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    return path


def put(place: str, value: object) -> Edit:
    """Set `heads.0.stage` and the like."""

    def edit(raw: Any) -> None:
        *around, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
        for part in around:
            raw = raw[part]
        raw[last] = value

    return edit


def drop(place: str) -> Edit:
    """Take a key or an entry out."""

    def edit(raw: Any) -> None:
        *around, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
        for part in around:
            raw = raw[part]
        del raw[last]

    return edit


def replaced(path: Path, old: str, new: str) -> None:
    """Another text once in a file, where it stands first."""
    text = path.read_text(encoding="utf-8")
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def cut(path: Path, share: float) -> None:
    """Leave that share of a file's bytes."""
    os.truncate(path, int(path.stat().st_size * share))


def flipped(path: Path, place: float) -> None:
    """One byte of a file, at that share of its length, is another one."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x41
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    """A folder of the file's name."""
    path.unlink()
    path.mkdir()


def as_link(path: Path, target: Path) -> None:
    """A link to a file elsewhere that holds the same."""
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    """A named pipe that nobody writes into: whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def large(path: Path) -> None:
    """A hundred megabytes, none of which lies on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 100_000_000)


def _text(path: Path, change: Callable[[str], str | bytes]) -> None:
    made = change(path.read_text(encoding="utf-8"))
    path.write_bytes(made if isinstance(made, bytes) else made.encode())


FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "a folder": (as_folder, "folder"),
    "a pipe that nobody fills": (as_pipe, "no ordinary file"),
    "a hundred megabytes": (large, "MB"),
    "cut to a quarter": (lambda path: cut(path, 0.25), ""),
    "cut before its end": (lambda path: cut(path, 0.99), ""),
    "a pickle that would run a command": (lambda path: path.write_bytes(pickle.dumps(Bomb(path.parent / "executed"))), ""),
}
"""What can be wrong with any file, how it is done, and a word of what has to be said."""


def _first_string(text: str) -> str:
    """A byte of the first string that is a value."""
    head, _, rest = text.partition('": "')
    return f'{head}": "{chr(ord(rest[0]) ^ 1)}{rest[1:]}'


JSON: dict[str, tuple[Callable[[Path], object], str]] = {
    **{name: (how, word or "no valid JSON") for name, (how, word) in FILE.items()},
    "with a byte-order mark": (lambda path: path.write_bytes(codecs.BOM_UTF8 + path.read_bytes()), "no valid JSON"),
    "in UTF-16": (lambda path: _text(path, lambda text: text.encode("utf-16")), "no valid JSON"),
    "followed by null bytes": (lambda path: path.write_bytes(path.read_bytes() + bytes(8)), "no valid JSON"),
    "nested 100,000 deep": (lambda path: path.write_text('{"a":' * 100_000), "no valid JSON"),
    "a list": (lambda path: path.write_text("[1, 2]"), "list"),
    "a bare null": (lambda path: path.write_text("null"), "NoneType"),
    "with a number of 5,000 digits": (
        lambda path: replaced(path, '"format": ', f'"extra": {"9" * 5000}, "format": '),
        "no valid JSON",
    ),
    "with the key format twice": (lambda path: replaced(path, '"format": ', '"format": 1, "format": '), "format twice"),
    "with an unknown key": (lambda path: edited(path, put("mode2", 1)), "mode2"),
    "with a NaN": (lambda path: replaced(path, '"format": ', '"extra": NaN, "format": '), "NaN"),
    "with an Infinity": (lambda path: replaced(path, '"format": ', '"extra": -Infinity, "format": '), "-Infinity"),
    "with 1e999": (lambda path: replaced(path, '"format": ', '"extra": 1e999, "format": '), "1e999"),
    "of an older version": (lambda path: edited(path, put("format", 0)), "format"),
    "of a newer version": (lambda path: edited(path, put("format", 99)), "99"),
    "whose version is text": (lambda path: edited(path, put("format", "one")), "format"),
    "with a flipped byte in a string": (lambda path: _text(path, _first_string), "says it is"),
    "with a flipped byte in a key": (lambda path: replaced(path, '"format"', '"fnrmat"'), "format"),
    "with a flipped byte in the grammar": (lambda path: replaced(path, '"format":', '"format"z'), "no valid JSON"),
    "without its kind": (lambda path: edited(path, drop("kind")), "says it is None"),
}
"""What can be wrong with any JSON file of ours, how it is done, and a word of what has to be said."""


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        """Of this name."""
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """Run `mkdir`."""
        return os.mkdir, (str(self.path),)


def signed(package: Path, edit: Edit = lambda _raw: None) -> Path:
    """A package with something changed and all hashes made to fit, as a stranger could make it."""

    def sign(raw: Any) -> None:
        edit(raw)
        entries = [*raw["stages"], *raw["heads"], *raw["labels"], *([raw["original"]] if raw["original"] else [])]
        for entry in entries:
            entry["sha256"] = hashlib.sha256((package / entry["file"]).read_bytes()).hexdigest()
        graphs = ([_entry(entry) for entry in raw[part]] for part in ("stages", "heads", "labels"))
        raw["package_id"] = package_identity(*graphs)

    edited(package / "manifest.json", sign)
    return package


def _entry(raw: dict[str, Any]) -> GraphEntry:
    return GraphEntry.model_construct(sha256=raw["sha256"])


def with_thresholds(things_chosen: Path, work: Path, **changes: Any) -> Path:
    """A deployment of the first two exits with an image threshold between them, and something changed."""
    path = work / "chosen.json"
    shutil.copy(things_chosen, path)

    def edit(raw: Any) -> None:
        exits = ["blocks.1.0:fcn/c64", "blocks.2.0:fcn"]
        raw.update(exits=exits, image_thresholds=[0.5], region="all", pixel_threshold=5)
        raw["expected"]["shares"] = dict.fromkeys(exits, 0.5)
        for place, value in changes.items():
            put(place.replace("__", "."), value)(raw)

    return edited(path, edit)
