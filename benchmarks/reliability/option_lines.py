"""Cases of bad options as lines of a table: what is typed, and what the answer has to say of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness import Case, Prepare, Things

PLACES = ("data", "run", "package", "records", "profile", "chosen", "small", "image")
"""Names of `Things` that a line may hold in braces, beside `{work}`, the case's own folder."""

BASES = {
    "taps": "taps test_efficientnet --size 96x64",
    "train": "train {data} --out {work}/run --network test_efficientnet",
    "prune": "prune {run} {data} --out {work}/small",
    "export": "export {run} --out {work}/package",
    "lower": "export {package} --out {work}/package --precision int8 --data {data}",
    "single": "export {small} --single-file {work}/net.onnx",
    "evaluate": "evaluate {package} {data} --out {work}/val.records",
    "profile": "profile {package} --out {work}/here.profile",
    "budgeted": "search --records {records} --profile {profile} --out {work}/chosen.json --mode budgeted",
    "dependent": "search --records {records} --profile {profile} --out {work}/chosen.json --mode input-dependent",
    "anytime": "search --records {records} --profile {profile} --out {work}/chosen.json --mode anytime",
    "cascade": "search --records {records} --records {records} --profile {profile} --profile {profile} "
    "--out {work}/chosen.json --mode input-dependent --cascade {package} {package}",
    "trim": "trim {package} {chosen} --out {work}/small",
    "run": "run {image} --package {small} --out {work}/answers",
    "view": "view {package} {image} --no-open",
    "report": "report {package} --out {work}/report.html",
    "draw": "data draw {work}/drawn --size 64x48",
}
"""What `+ train` in a line stands for; options that follow count, as those given last do."""


def filled(line: str, work: Path, things: Things) -> list[str]:
    """The words of a line, with paths for the names in braces."""
    start, _, rest = line.partition(" ") if line.startswith("+") else ("", "", line)
    verb, _, more = rest.partition(" ") if start else ("", "", rest)
    whole = f"{BASES[verb]} {more}" if start else line
    places = {name: getattr(things, name) for name in PLACES} | {"work": work}
    return [word.format(**places) for word in shlex.split(whole)]


def words(line: str) -> Prepare:
    """A command line for `Case.prepare`."""

    def prepare(work: Path, things: Things) -> Sequence[object]:
        return filled(line, work, things)

    return prepare


def table(lines: str) -> tuple[Case, ...]:
    """Cases from lines `what is typed | says; says`; a `+` stands for one of `BASES`."""
    rows = [line.strip().partition(" | ") for line in lines.strip().splitlines()]
    return tuple(
        Case(f"options: {line.removeprefix('+ ')}", words(line), says=tuple(word.strip() for word in said.split(";")))
        for line, _, said in rows
    )
