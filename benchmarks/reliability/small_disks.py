"""File systems of their own, in memory (tmpfs), with as much room as is wanted. Mounting takes root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = 64 << 20
"""Bytes: more than any command needs here."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs with `ROOM`; where mounting is not allowed, the script ends and says so."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "offramp", folder], capture_output=True, check=False)
    if made.returncode:
        sys.exit(f"cannot mount a tmpfs here, which takes root: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing can be written to it meanwhile."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def give_room(disk: Path, size: int) -> None:
    """Give it so many bytes beside what it holds."""
    subprocess.run(["mount", "-o", f"remount,size={used(disk) + size}", disk], check=True)


def used(disk: Path) -> int:
    """Bytes that it holds."""
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize
