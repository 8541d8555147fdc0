"""What the verbs share: options, checks at the door, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from offramp.console import printable
from offramp.errors import InputError
from offramp.faults import TO_DO
from offramp.files import writing
from offramp.specs import EngineName, Precision, Spec, explain

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Engine = Annotated[EngineName, typer.Option(help="What runs the graphs.")]
ComputesIn = Annotated[
    Precision,
    typer.Option("--precision", help="What the engine computes in. onnxruntime: fp32 alone; openvino: what the processor has."),
]
Threads = Annotated[int, typer.Option(help="Threads of the engine; 0: all.", min=0, max=1024)]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="local|HOST:PORT", help="Share the work by Ray: among this machine's processors, or a cluster."
    ),
]

STANDARD_OUTPUT = Path("standard output")
"""As it is called where it cannot be written."""

S = TypeVar("S", bound=Spec)


def show(as_json: bool, values: dict[str, Any], people: Callable[[], None]) -> None:
    """Print a result: as one JSON object, or for people. Raises InputError if it cannot be written."""
    with writing(STANDARD_OUTPUT, only=TO_DO):
        if as_json:
            print(json.dumps(values))  # noqa: T201 - the result
        else:
            people()


def say(text: str) -> None:
    """Print a line of a result."""
    print(printable(text))  # noqa: T201 - the result


def need(*modules: str, extra: str) -> None:
    """Refuse a verb whose optional parts are not installed, before it starts anything."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(f"this needs {', '.join(missing)}; pip install 'offramp[{extra}]'")


def checked(kind: type[S], **values: Any) -> S:
    """Build a spec; a value out of range becomes a line that names the option."""
    try:
        return kind(**values)
    except ValidationError as error:
        if not error.errors()[0]["loc"]:  # of several options together
            raise InputError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
        option = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise InputError(f"--{option}: {explain(error).split(': ', 1)[1]}") from error
