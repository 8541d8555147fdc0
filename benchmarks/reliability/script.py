"""What is around the trials of a script of this folder: its options, its table, its figures as JSON, its exit code.

Scripts that try a fault on one command after another give a row of counts for each as soon as it is tried, and the file is
written then: a script of hours that is stopped keeps what it counted, and commands that it does not try now keep their figures.
A count whose name ends in `wrong` is to be 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from offramp.files import new_file

Row = Mapping[str, int]
"""Counts, by name."""


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Options of every script, to which it adds its own; its help is its own header."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    return parser


def fault_parser(doc: str | None, *, only: Sequence[str] = ("*",)) -> argparse.ArgumentParser:
    """Options of every script that tries a fault on one command after another; `only` are those that it tries unasked."""
    parser = script_parser(doc)
    parser.add_argument("--only", nargs="+", default=list(only), help="names of commands, or patterns such as 'run*'")
    parser.add_argument("--things", type=Path, help="a folder of things that is kept from one start to the next")
    return parser


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write figures to a file, if one is asked for."""
    if path is not None:
        with new_file(path) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def finish(benchmark: str, rows: Iterable[tuple[str, Row]], out: Path | None) -> NoReturn:
    """Take the rows of a script as they are made, write and print them, and end; with 1 if something was wrong."""
    found: dict[str, Row] = {}
    for name, row in rows:
        found[name] = row
        print(name, row, flush=True)
        _write_rows(out, benchmark, found)
    _print_rows(found)
    sys.exit(1 if any(count for name, count in sums(found).items() if name.endswith("wrong")) else 0)


def sums(rows: Mapping[str, Row]) -> dict[str, int]:
    """The counts of all rows, added up."""
    total: dict[str, int] = {}
    for row in rows.values():
        for name, value in row.items():
            total[name] = total.get(name, 0) + value
    return total


def _write_rows(path: Path | None, benchmark: str, rows: Mapping[str, Row]) -> None:
    there = path is not None and path.exists()
    values: dict[str, Any] = json.loads(path.read_bytes()) if path and there else {"benchmark": benchmark, "commands": {}}
    values["commands"] = {**values["commands"], **rows}
    values["all"] = sums(values["commands"])
    write_json(path, values)


def _print_rows(rows: Mapping[str, Row]) -> None:
    names = list(sums(rows))
    print(" | ".join(["command".ljust(16), *names]))
    for command, row in [*rows.items(), ("all", sums(rows))]:
        print(" | ".join([command.ljust(16), *(str(row.get(name, "")).rjust(len(name)) for name in names)]))
