"""The class file of a native dataset: what the values in its labels are called, and how they are painted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from offramp.data.catalog import Classes, Colour, LabelFiles
from offramp.errors import InputError
from offramp.metrics import VOID


def read_class_file(path: Path) -> tuple[Classes, Colour | None, tuple[LabelFiles, ...]]:
    """Read the keys `classes`, `palette` (if absent, the colours of PASCAL VOC) and `void_index` (if absent, 255).

    Returns:
        The classes, the colour of void if the palette has one entry more than there are classes, and what the values in
        label files mean.

    Raises:
        InputError: the file is no JSON, or a key is missing or makes no sense.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # JSON can write half of a character, and no name may hold that
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the class file {path}: {error}; it must be JSON") from error
    if not isinstance(content, dict):
        raise _broken(path, f'it must hold an object with the key "classes", not {type(content).__name__}')
    names = _names(content.get("classes"), path)
    void = content.get("void_index", VOID)
    if type(void) is not int or not len(names) <= void <= VOID:
        raise _broken(
            path, f'"void_index" must be a whole number from {len(names)} (the number of classes) to 255, not {void!r}'
        )
    colours = _palette(content.get("palette"), len(names), path)
    void_colour = colours[-1] if len(colours) > len(names) else None
    kind = LabelFiles("", class_values=tuple(range(len(names))), void_values=(void,))
    return Classes(names, colours[: len(names)]), void_colour, (kind,)


def _names(entries: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        raise _broken(path, f'"classes" must be a list of names, not {entries!r}')
    if not 1 <= len(entries) <= VOID:
        raise _broken(path, f'"classes" must hold 1 to 255 names, not {len(entries)}')
    twice = sorted({entry for entry in entries if entries.count(entry) > 1})
    if twice:
        raise _broken(path, f'"classes" names {", ".join(twice)} more than once')
    return tuple(entries)


def _palette(entries: Any, num_classes: int, path: Path) -> tuple[Colour, ...]:
    if entries is None:
        return tuple(_voc_colour(index) for index in range(num_classes))
    if not isinstance(entries, list) or not all(_is_colour(entry) for entry in entries):
        raise _broken(path, '"palette" must be a list of colours [red, green, blue], 0 to 255 each')
    if len(entries) not in (num_classes, num_classes + 1):
        raise _broken(
            path,
            f'"palette" has {len(entries)} colours for {num_classes} classes: give one a class, and perhaps one for void',
        )
    colours = tuple((red, green, blue) for red, green, blue in entries)
    if len(set(colours[:num_classes])) < num_classes:
        raise _broken(path, '"palette" gives two classes the same colour')
    return colours


def _is_colour(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and all(type(value) is int and 0 <= value <= 255 for value in entry)


def _voc_colour(index: int) -> Colour:
    """Spread the bits of an index over the high bits of red, green and blue in turn, as the VOC development kit does."""
    red, green, blue = (sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3))
    return red, green, blue


def _broken(path: Path, message: str) -> InputError:
    return InputError(f"the class file {path} is broken: {message}")
