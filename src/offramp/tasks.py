"""How independent tasks are run: here, one after another; `cluster` hands them to many workers.

A task is a function of a key. It leaves its result in a file of the key's own and gives nothing back, so a task that is run
twice, because a worker died, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from offramp.errors import InputError
from offramp.faults import explain_fault


class Each(Protocol):
    """Runs one task for each of several keys."""

    def __call__(self, task: Callable[[str], None], keys: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """Yield every key exactly once, as soon as its task has ended, in any order, and why it failed; None if it did not."""


def one_by_one(task: Callable[[str], None], keys: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The `Each` of this process."""
    for key in keys:
        yield key, attempt(task, key)


def attempt(task: Callable[[str], None], key: str) -> str | None:
    """Run one task; why it failed, in one line, or None. One that fails must not take the others with it."""
    try:
        task(key)
    except InputError as error:
        return " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 - libraries raise what they like
        fault = explain_fault(error, "give each task more, or run fewer at once")
        return fault or " ".join(f"{type(error).__name__}: {error}".split())
    return None
