"""How a long step tells what it has done, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after each unit of work."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what` are finished; `what` names the work ("evaluate val"). `total` is 0 if unknown."""


def silent(what: str, done: int, total: int) -> None:
    """The default listener: nobody."""
