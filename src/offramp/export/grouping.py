"""Classes grouped: what the user need not tell apart is one class of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.errors import InputError

Colour = tuple[int, int, int]
FORM = "write CLASS+CLASS=NAME, for example road+pavement=ground"


@dataclass(frozen=True)
class Grouping:
    """The package's classes, and what the data's become."""

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    object_classes: tuple[int, ...]
    """A group is an object if all of its classes are."""
    groups: tuple[int, ...]
    """For each of the data's classes its index in `classes`; empty where nothing is grouped."""


def group_classes(
    asked: Sequence[str], classes: tuple[str, ...], palette: tuple[Colour, ...], object_classes: tuple[int, ...]
) -> Grouping:
    """Put classes together. A group stands where its first class stood, in that one's colour.

    Args:
        asked: `road+pavement=ground`, each.
        classes: of the data.
        palette: theirs.
        object_classes: indices of those that are objects.

    Raises:
        InputError: not of that form, an unknown class, one named twice, a name that another class has, or fewer than two left.

    """
    if not asked:
        return Grouping(classes, palette, object_classes, ())
    name_of = dict(zip(classes, classes, strict=True))
    for text in asked:
        members, name = _read(text)
        for member in members:
            if member not in name_of:
                raise InputError(f"--group {text}: there is no class {member!r}; there are {', '.join(classes)}")
            if name_of[member] != member or members.count(member) > 1:
                raise InputError(f"--group {text}: {member!r} is named twice")
        others = {one for one in name_of.values() if one not in members}
        if name in others:
            raise InputError(f"--group {text}: another class is called {name!r}; choose another name")
        name_of |= dict.fromkeys(members, name)
    names = tuple(dict.fromkeys(name_of.values()))
    if len(names) < 2:
        raise InputError("--group: fewer than two classes would be left, so nothing to tell apart")
    groups = tuple(names.index(name_of[one]) for one in classes)
    whole = {group for index, group in enumerate(groups) if index not in object_classes}
    return Grouping(
        names,
        tuple(palette[groups.index(group)] for group in range(len(names))),
        tuple(group for group in range(len(names)) if group not in whole),
        groups,
    )


def _read(text: str) -> tuple[list[str], str]:
    parts, found, name = text.rpartition("=")
    members = [part.strip() for part in parts.split("+")]
    if not found or not name.strip() or len(members) < 2 or not all(members):
        raise InputError(f"--group: not a group: {text!r}; {FORM}")
    return members, name.strip()
