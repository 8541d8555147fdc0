"""What is wrong with a command line, in one line that says what was got; the parser's own words leave that out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from offramp.errors import InputError


def usage_line(error: Any) -> str:
    """What a parser's error says, with the value that it is about.

    Args:
        error: of typer, wherever that keeps its click; where a value is not of its type, pydantic's error is its cause.

    """
    said = " ".join(str(error.format_message()).replace("Value error, ", "").split())
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        got = str(cause.errors()[0]["input"])
        said = said.partition(", unable to parse")[0] + (f", got {got!r}" if f"'{got}'" not in said else "")
    return f"{said} (see --help)" if said else ""


def whole_help(error: Any) -> str:
    """The help, laid out, where a command line ends before its verb: parsers make an error of that, too; empty for others."""
    return str(error.format_message()) if type(error).__name__ == "NoArgsIsHelpError" else ""


def require_no_empty(words: Sequence[str]) -> None:
    """Refuse a command line with an empty word: a path or name that somebody's variable should have held.

    Raises:
        InputError: naming the word before it.

    """
    for place, word in enumerate(words):
        if not word:
            after = f" after {words[place - 1]}" if place else ""
            raise InputError(f"the command line holds an empty word{after}; give a value (was a variable left empty?)")
