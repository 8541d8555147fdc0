"""What a step may be called with: paths may come as text, numbers must be numbers, and a choice must be one that there is.

Types are for readers and type checkers; whoever calls a step from a notebook has neither. `checked_call` holds a step's
arguments against its own annotations, so that a slip is one line that names the argument, not an error from deep inside.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from offramp.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], Any]
"""From an argument's name and value to the value, as its annotation has it."""


def checked_call(step: Callable[P, R]) -> Callable[P, R]:
    """Let a step take text for a path, and refuse arguments that are not what it is annotated with.

    Checked are paths, whole and other numbers, pairs of whole numbers, choices (Literal), lists of texts or numbers, and
    objects of one class, each with or without None; all else goes through as it is.

    The step then raises InputError for an argument of another type.
    """
    signature = inspect.signature(step)

    @functools.cache
    def checks() -> dict[str, Check]:  # when first called: then all that annotations name is there
        hints = typing.get_type_hints(step)
        named = [name for name, one in signature.parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        return {name: check for name in named if (check := _check_for(hints.get(name))) is not None}

    @functools.wraps(step)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name, check in checks().items():
            if name in given.arguments:
                given.arguments[name] = check(name, given.arguments[name])
        return step(*given.args, **given.kwargs)

    return checked


def as_path(name: str, value: Any) -> Path:
    """A path from a path or text.

    Raises:
        InputError: anything else, an empty text, or one that no file can be called.

    """
    if not isinstance(value, str | Path):
        raise InputError(f"{name} must be a path, got {_shown(value)}")
    if not str(value):
        raise InputError(f"{name} must be a path, got an empty text")
    if "\0" in str(value):
        raise InputError(f"{name} must be a path, and none holds a zero byte, got {value!r}")
    return Path(value)


def _text_or_path(name: str, value: Any) -> Any:
    """As it is: text may be an address, whose slashes a path would lose."""
    as_path(name, value)
    return value


def as_whole(name: str, value: Any) -> int:
    """A whole number.

    Raises:
        InputError: anything else, 2.0 and True too.

    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"{name} must be a whole number, got {_shown(value)}")


def as_number(name: str, value: Any) -> float:
    """A number; infinity and NaN are for the step to judge.

    Raises:
        InputError: anything else, text and True too.

    """
    try:
        if not isinstance(value, bool | str | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name} must be a number, got {_shown(value)}")


def is_number(value: Any) -> bool:
    """Whether a value is a number that has an order: no text, no NaN."""
    try:
        return not math.isnan(as_number("", value))
    except InputError:
        return False


def _as_choice(choices: tuple[Any, ...], name: str, value: Any) -> Any:
    if value not in choices:
        raise InputError(f"unknown {name.replace('_', ' ')} {value!r}; there are {', '.join(map(str, choices))}")
    return value


def _as_list(name: str, value: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        hint = f"; write [{value!r}]" if isinstance(value, str) else ""
        raise InputError(f"{name} must be a list, got {_shown(value)}{hint}")
    return value


def _as_numbers(count: int, name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != count:
        raise InputError(f"{name} must be {count} whole numbers, got {_shown(value)}")
    return tuple(as_whole(name, number) for number in value)


def _as_one_of(kinds: tuple[type, ...], name: str, value: Any) -> Any:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        got = f"the class {value.__name__}; make one of it" if isinstance(value, type) else _shown(value)
        raise InputError(f"{name} must be {names}, got {got}")
    return value


KINDS: dict[Any, Check] = {Path: as_path, int: as_whole, float: as_number}


def _check_for(hint: Any) -> Check | None:
    """What checks arguments of this annotation; None where nothing does."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional, kinds = NoneType in kinds, tuple(kind for kind in kinds if kind is not NoneType)
    check = _text_or_path if set(kinds) == {str, Path} else _check_without_none(kinds)
    if check is None or not optional:
        return check
    required = check
    return lambda name, value: None if value is None else required(name, value)


def _check_without_none(kinds: tuple[Any, ...]) -> Check | None:
    if all(_is_plain(kind) for kind in kinds):
        return functools.partial(_as_one_of, kinds)
    if len(kinds) > 1:
        return None
    kind, origin, inner = kinds[0], get_origin(kinds[0]), get_args(kinds[0])
    found: Check | None = KINDS.get(kind)
    if origin is Literal:
        found = functools.partial(_as_choice, inner)
    elif origin is Sequence and inner[0] in (str, int):
        found = _as_list
    elif origin is tuple and set(inner) == {int}:
        found = functools.partial(_as_numbers, len(inner))
    elif origin is dict:
        found = functools.partial(_as_one_of, (dict,))
    return found


def _is_plain(kind: Any) -> bool:
    """Whether a value's class says all that an annotation asks for."""
    return isinstance(kind, type) and not get_args(kind) and not getattr(kind, "_is_protocol", False) and kind not in LENIENT


LENIENT = (Any, bool, object, Path, int, float)
"""Truth is for `if` to tell, and a choice between numbers and paths for the step."""


def _shown(value: Any) -> str:
    """A value for a line of an error."""
    text = repr(value)
    return text if isinstance(value, str | int | float | complex | None) and len(text) <= 80 else type(value).__name__
