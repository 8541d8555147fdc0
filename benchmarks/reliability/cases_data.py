"""Cases of bad data."""

from __future__ import annotations

from harness import Case

CASES: tuple[Case, ...] = ()
