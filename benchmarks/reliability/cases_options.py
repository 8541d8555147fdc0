"""Cases of bad options."""

from __future__ import annotations

from harness import Case

CASES: tuple[Case, ...] = ()
