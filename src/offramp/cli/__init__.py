"""The command line: a literal table of verbs, one function for each in the modules beside this one.

A verb checks its options, calls the step of the same name and shows what came out: a table for people, one JSON object on
standard output with --json. Bad input, a full disk or too little memory is one line on standard error and exit code 2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from offramp.cli import data, device, export, pruning, search, sweep, view, workstation
from offramp.cli.options import STANDARD_OUTPUT, say
from offramp.cli.process import Ending, drop_unwritable_output, explained, told_to_end
from offramp.cli.streams import standing_streams
from offramp.cli.usage import require_no_empty, usage_line, whole_help
from offramp.console import printable
from offramp.errors import InputError
from offramp.faults import TO_DO
from offramp.files import writing


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


STOPPED = 130
"""Exit code of a command that Ctrl-C ended; one that SIGTERM ended has 143."""

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
    with standing_streams():
        _run(arguments)


def _run(arguments: list[str] | None) -> None:
    logging.basicConfig(level=logging.ERROR)
    words = sys.argv[1:] if arguments is None else arguments
    # The base of all of click's errors, wherever typer keeps its click.
    usage_error: type[Any] = typer.BadParameter.__mro__[2]
    with told_to_end() as ending:
        try:
            require_no_empty(words)
            status = typer.main.get_command(_app()).main(arguments, prog_name="offramp", standalone_mode=False)
            with writing(STANDARD_OUTPUT, only=TO_DO):
                sys.stdout.flush()
        except usage_error as error:
            if told := whole_help(error):
                print(told, file=sys.stderr)  # noqa: T201
                sys.exit(2)
            _fail(usage_line(error))
        except (KeyboardInterrupt, typer.Abort):
            _stop(ending)
        except Exception as error:
            if ending.by is not None:  # libraries turn an interruption into errors of their own
                _stop(ending)
            said = _explained(error, words)
            if said is None:
                raise
            _fail(said)
    if status == STOPPED:  # typer makes an exit code of an interruption
        _stop(ending)
    sys.exit(status if isinstance(status, int) else 0)


def _explained(error: Exception, words: list[str]) -> str | None:
    """What is said of an error; None if nobody expected it. Bad input may turn out to be a lack of memory."""
    fault = explained(error, words[0] if words else "")
    if not isinstance(error, InputError):
        return fault
    return fault if fault is not None and "memory ran out" in fault else str(error)


def _stop(ending: Ending) -> None:
    print("offramp: stopped; what was finished is on disk", file=sys.stderr)  # noqa: T201
    sys.exit(ending.status)


def _fail(message: str) -> None:
    drop_unwritable_output()
    line = printable(" ".join(message.split()))  # names of files may hold anything, also what a terminal would obey
    if line:
        print(f"offramp: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
