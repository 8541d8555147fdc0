"""Where the command begins: `offramp`, and `python -m offramp` for launchers that start modules."""

from __future__ import annotations

import sys


def main() -> None:
    """Import the command line, which takes a moment in which Ctrl-C may come, and run it."""
    try:
        from offramp.cli import main as command_line  # noqa: PLC0415 - here, an interruption is heard
    except KeyboardInterrupt:
        print("offramp: stopped; nothing was begun", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
