"""`python -m offramp`, for launchers that start modules."""

from __future__ import annotations

from offramp.cli import main

main()
