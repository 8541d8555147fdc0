"""The command line: a literal table of verbs, one function for each in the modules beside this one.

A verb checks its options, calls the step of the same name and shows what came out: a table for people, one JSON object on
standard output with --json. Bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from offramp.cli import data, device, export, pruning, search, sweep, view, workstation
from offramp.cli.options import say
from offramp.errors import InputError


def _version(value: bool) -> None:
    if value:
        from offramp import __version__

        say(__version__)
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Multi-exit semantic segmentation: train the exits once, search for the ones a device can afford, run them there."""
    del version


DATA_VERBS: dict[str, Callable[..., None]] = {"draw": data.draw, "check": data.check}
VERBS: dict[str, Callable[..., None]] = {
    "demo": workstation.demo,
    "taps": workstation.taps,
    "train": workstation.train,
    "prune": pruning.prune,
    "export": export.export,
    "evaluate": device.evaluate,
    "profile": device.profile,
    "sweep": sweep.sweep,
    "search": search.search,
    "trim": device.trim,
    "run": device.run,
    "view": view.view,
    "report": device.report,
}


def _app() -> typer.Typer:
    options: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}
    app = typer.Typer(**options)
    app.callback()(_root)
    data_app = typer.Typer(**options)
    for name, verb in DATA_VERBS.items():
        data_app.command(name)(verb)
    app.add_typer(data_app, name="data", help="Draw a dataset, or check one.")
    for name, verb in VERBS.items():
        app.command(name)(verb)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; see `VERBS`."""
    logging.basicConfig(level=logging.ERROR)
    # The base of all of click's errors, wherever typer keeps its click.
    usage_error: type[Any] = typer.BadParameter.__mro__[2]
    try:
        status = typer.main.get_command(_app()).main(arguments, prog_name="offramp", standalone_mode=False)
    except usage_error as error:
        hint = " (see --help)" if error.format_message() else ""
        _fail(f"{error.format_message().replace('Value error, ', '')}{hint}")  # pydantic's word, which typer passes on
    except InputError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("offramp: stopped; what was finished is on disk", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    # Names of files may hold anything, also what a terminal would obey.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if line:
        print(f"offramp: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
