"""The commands that faults are tried on: every verb that writes, on the smallest things that it can be given."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import alone  # noqa: F401 - before all that starts threads
from harness import Things

SMALL = ("--crop", "96x64", "--batch-size", 4, "--epochs", 2, "--exit-epochs", 1)
PLAN = """networks:
  - {network: test_efficientnet, name: one, exits: 1, heads: [fcn/c16]}
sizes: [96x64]
training: {epochs: 1, exit_epochs: 1, crop: 96x64, batch_size: 4, train_images: 0}
device: {threads: 1, passes: 2}
"""

Words = Callable[[Things, Path], Sequence[object]]
"""From things to read and the target to a command line without `offramp`."""


@dataclass(frozen=True)
class Command:
    """A command that makes one target."""

    name: str
    target: str
    words: Words
    earlier: Literal["", "file", "package", "trimmed", "data", "answers"] = ""
    """What of an earlier command it may replace."""
    again: tuple[str, ...] = ()
    """What is added to go on where it stopped."""
    in_place: bool = False
    """Its target is a folder that grows file by file."""


def _measured(things: Things) -> tuple[object, ...]:
    return ("--records", things.records, "--profile", things.profile)


def _images(things: Things) -> Path:
    return things.data / "train" / "images"


def _run(things: Things, out: Path) -> tuple[object, ...]:
    return ("run", _images(things), "--package", things.small, "--out", out, "--threads", 1)


COMMANDS = (
    Command(
        "train",
        "run",
        lambda things, out: ("train", things.data, "--out", out, "--network", "test_efficientnet", "--exits", 2, *SMALL),
        again=("--resume",),
        in_place=True,
    ),
    Command(
        "prune",
        "pruned-run",
        lambda things, out: ("prune", things.run, things.data, "--out", out, "--epochs", 1, "--exit-epochs", 1),
        again=("--resume",),
        in_place=True,
    ),
    Command("sweep", "sweep", lambda things, out: ("sweep", _plan(out), things.data, "--out", out), in_place=True),
    Command("export", "package", lambda things, out: ("export", things.run, "--out", out), earlier="trimmed"),
    Command(
        "export int8",
        "package8",
        lambda things, out: ("export", things.package, "--precision", "int8", "--data", things.data, "--out", out),
        earlier="trimmed",
    ),
    Command("export one file", "one.onnx", lambda things, out: ("export", things.small, "--single-file", out), earlier="file"),
    Command(
        "evaluate",
        "val.records",
        lambda things, out: ("evaluate", things.package, things.data, "--out", out, "--threads", 1),
        earlier="file",
    ),
    Command(
        "profile",
        "here.profile",
        lambda things, out: ("profile", things.package, "--out", out, "--passes", 3, "--threads", 1),
        earlier="file",
    ),
    Command(
        "search",
        "chosen.json",
        lambda things, out: ("search", *_measured(things), "--mode", "input-dependent", "--max-drop-pp", 5, "--out", out),
        earlier="file",
    ),
    Command("trim", "small", lambda things, out: ("trim", things.package, things.chosen, "--out", out), "package"),
    Command("run", "answers", _run, earlier="answers", in_place=True),
    Command(
        "run video",
        "drive",
        lambda things, out: (*_run(things, out), "--overlays", "video"),
        earlier="answers",
        in_place=True,
    ),
    Command(
        "report",
        "page.html",
        lambda things, out: ("report", things.package, *_measured(things), "--out", out),
        earlier="file",
    ),
    Command(
        "data draw", "scenes", lambda _things, out: ("data", "draw", out, "--images", 12, "--size", "96x64"), earlier="data"
    ),
)


def chosen(patterns: Sequence[str]) -> list[Command]:
    """The commands whose names fit one of the patterns."""
    return [command for command in COMMANDS if any(fnmatch.fnmatch(command.name, pattern) for pattern in patterns)]


BEGINS = {
    ".records": b"PK\x03\x04",
    ".profile": b'{"kind":"profile"',
    ".json": b'{"kind":"deployment"',
    ".onnx": b"\x08",
    ".html": b"<!doctype html",
}
"""By these bytes a command knows what an earlier one made, and may be replaced."""


def leave_earlier(command: Command, things: Things, target: Path) -> None:
    """Leave something whole at the target that an earlier command made, and that this one will make otherwise."""
    kinds = {"package": things.package, "trimmed": things.small, "data": things.data, "answers": things.root / "answers"}
    if command.earlier == "file":
        target.write_bytes(BEGINS[target.suffix] + b" what was here before, and is whole\n")
    elif command.earlier:
        shutil.copytree(kinds[command.earlier], target)


def _plan(out: Path) -> Path:
    path = out.with_name("plan.yaml")
    if not path.exists():
        path.write_text(PLAN, encoding="utf-8")
    return path
