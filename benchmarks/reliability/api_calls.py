"""Cases that call the Python API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Prepare, Things
from PIL import Image

Array = np.ndarray[Any, Any]
Call = Callable[[Path, Things], object]


def calling(call: Call) -> Prepare:
    """A call for `Case.prepare`."""

    def prepare(work: Path, things: Things) -> Callable[[], object]:
        return lambda: call(work, things)

    return prepare


def refused(name: str, call: Call, *says: str) -> Case:
    """A call that ends with an InputError."""
    return Case(f"api: {name}", calling(call), says=says)


def pixels_of(things: Things) -> Array:
    """The test image, (64, 96, 3) uint8."""
    return np.array(Image.open(things.image).convert("RGB"))


def odd(value: Any) -> Any:
    """An argument of another type than a step takes, which no type checker is to see."""
    return value
