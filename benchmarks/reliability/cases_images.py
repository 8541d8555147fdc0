"""Cases of bad images, given to `run`, `Predictor` and, in datasets, to every verb that reads one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import Case, Things


def _truncated(work: Path, things: Things) -> Sequence[object]:
    image = work / "cut.png"
    image.write_bytes(things.image.read_bytes()[:200])
    return ("run", image, "--package", things.small, "--out", work / "answers")


CASES: tuple[Case, ...] = (Case("image: truncated PNG", _truncated, says=("cut.png", "image")),)
