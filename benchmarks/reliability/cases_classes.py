"""Cases of bad class files of datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases_data import Spoil, refused, spoilt
from cases_images import make_special
from cases_labels import check
from harness import Case
from PIL import Image


def _classes(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A class file with other content: whatever `change` returns, or what it made of the old one."""

    def spoil(data: Path) -> None:
        path = data / "classes.json"
        content = json.loads(path.read_text())
        made = change(content)
        path.write_text(json.dumps(content if made is None else made))

    return spoil


def _raw(content: bytes) -> Spoil:
    return lambda data: (data / "classes.json").write_bytes(content)


def _with_boats(content: dict[str, Any]) -> None:
    content["classes"].append("boat")
    content["palette"].append([1, 1, 1])


def _all_of_one(data: Path) -> None:
    OTHERS["one class"][0](data)
    for path in data.glob("*/labels/*.png"):
        Image.new("L", (96, 64)).save(path)


NAMES = [f"class {number}" for number in range(300)]
BROKEN: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "not there": (lambda data: (data / "classes.json").unlink(), ("cannot tell the layout",)),
    "without a byte": (_raw(b""), ("cannot read the class file",)),
    "cut off": (_raw(b'{"classes": ["a", '), ("cannot read the class file", "JSON")),
    "not in UTF-8": (_raw(b'{"classes": ["\xe9"]}'), ("cannot read the class file",)),
    "of 2 MB": (_raw(b" " * (2 << 20)), ("more than",)),
    "nested 100,000 times": (_raw(b"[" * 100_000), ("cannot read the class file",)),
    "a pipe": (lambda data: make_special("pipe", data / "classes.json"), ("it is no file",)),
    "a folder": (lambda data: make_special("folder", data / "classes.json"), ("it is no file",)),
    "a list": (_classes(lambda content: content["classes"]), ("must hold an object", "list")),
    "a key twice": (_raw(b'{"classes": ["a"], "classes": ["b"]}'), ("a key twice",)),
    "no classes": (_classes(lambda content: content.pop("classes") and None), ('"classes" must be a list of names',)),
    "zero classes": (_classes(lambda content: content.update(classes=[])), ("1 to 255 names, not 0",)),
    "300 classes": (_classes(lambda content: content.update(classes=NAMES)), ("1 to 255 names, not 300",)),
    "classes in one text": (
        _classes(lambda content: content.update(classes="road,sky")),
        ("must be a list of names", "road,sky"),
    ),
    "classes as an object": (_classes(lambda content: content.update(classes={"road": 0})), ("must be a list of names",)),
    "numbers for names": (_classes(lambda content: content.update(classes=[0, 1])), ("must be a list of names", "[0, 1]")),
    "null for a name": (_classes(lambda content: content["classes"].append(None)), ("must be a list of names",)),
    "100,000 numbers for names": (
        _classes(lambda content: content.update(classes=list(range(100_000)))),
        ("list of names", "..."),
    ),
    "a name without letters": (_classes(lambda content: content["classes"].__setitem__(0, "  ")), ("that can be printed",)),
    "a name of control characters": (
        _classes(lambda content: content["classes"].__setitem__(0, "\x1b[2J")),
        ("that can be printed",),
    ),
    "half a letter for a name": (_raw(b'{"classes": ["\\ud800", "b"]}'), ("that can be printed", "\\ud800")),
    "a name twice": (_classes(lambda content: content["classes"].__setitem__(1, "sky")), ("sky", "more than once")),
    "void among the classes": (_classes(lambda content: content.update(void_index=3)), ('"void_index"', "from 8", "not 3")),
    "negative void": (_classes(lambda content: content.update(void_index=-1)), ('"void_index"', "not -1")),
    "void of 16 bits": (_classes(lambda content: content.update(void_index=65535)), ('"void_index"', "65535")),
    "void as text": (_classes(lambda content: content.update(void_index="255")), ('"void_index"', '"255"')),
    "void true": (_classes(lambda content: content.update(void_index=True)), ('"void_index"', "true")),
    "void NaN": (_classes(lambda content: content.update(void_index=float("nan"))), ('"void_index"', "NaN")),
    "void of 5000 digits": (_raw(b'{"classes": ["a"], "void_index": ' + b"9" * 5000 + b"}"), ("cannot read the class file",)),
    "void of 4000 digits": (_raw(b'{"classes": ["a"], "void_index": ' + b"9" * 4000 + b"}"), ('"void_index"', "...")),
    "a palette too short": (_classes(lambda content: content["palette"].pop() and None), ("7 colours for 8 classes",)),
    "a palette as an object": (_classes(lambda content: content.update(palette={"sky": [0, 0, 0]})), ("list of colours",)),
    "colours as text": (_classes(lambda content: content.update(palette=["#46b4ff"] * 8)), ("list of colours",)),
    "colours from 0 to 1": (
        _classes(lambda content: content.update(palette=[[0.1, 0.2, number / 8] for number in range(8)])),
        ("list of colours",),
    ),
    "colours of 16 bits": (_classes(lambda content: content["palette"].__setitem__(0, [65535, 0, 0])), ("0 to 255",)),
    "colours with alpha": (_classes(lambda content: content["palette"].__setitem__(0, [1, 2, 3, 255])), ("list of colours",)),
    "a colour twice": (
        _classes(lambda content: content["palette"].__setitem__(1, content["palette"][0])),
        ("the same colour",),
    ),
    "void in a class's colour": (
        _classes(lambda content: content["palette"].append(content["palette"][0])),
        ("the same colour",),
    ),
}
OTHERS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "names that are not the package's": (
        _classes(lambda content: content["classes"].__setitem__(2, "motorway")),
        ("class 2", "'motorway' against 'road'"),
    ),
    "one class more than the package": (
        _classes(_with_boats),
        ("9 classes, the package 8",),
    ),
    "one class": (_classes(lambda content: content.update(classes=["all"], palette=[[0, 0, 0]])), ("1 classes",)),
}
CLASS_FILES = (
    *(
        case
        for name, (spoil, says) in BROKEN.items()
        for case in refused(name, spoil, *says, verbs=("check",), door="class file")
    ),
    *(
        case
        for name in ("not there", "cut off", "zero classes", "300 classes", "a name twice", "a pipe", "void NaN")
        for case in refused(name, BROKEN[name][0], *BROKEN[name][1], verbs=("evaluate", "train"), door="class file")
    ),
    *(case for name, (spoil, says) in OTHERS.items() for case in refused(name, spoil, *says, door="class file")),
    *refused("one class", OTHERS["one class"][0], "neither a class nor void", verbs=("train",), door="class file"),
    *refused("one class, and its labels", _all_of_one, "from 2 to 255", verbs=("train",), door="class file"),
    Case(
        "class file: begins with a byte order mark",
        lambda work, things: check(
            spoilt(lambda data: (data / "classes.json").write_bytes(b"\xef\xbb\xbf" + (data / "classes.json").read_bytes()))(
                work, things
            )
        ),
        right=lambda _work, result: result[0] == 0,
    ),
    Case(
        "class file: without palette and void",
        lambda work, things: check(spoilt(_classes(lambda content: {"classes": content["classes"]}))(work, things)),
        right=lambda _work, result: result[0] == 0,
    ),
)


CASES: tuple[Case, ...] = CLASS_FILES
