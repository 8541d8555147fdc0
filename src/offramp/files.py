"""Writing so that nothing whole is ever damaged: a temporary name beside the target, then a rename."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offramp.errors import InputError

SHORT = 48
"""Letters of a name that a temporary one begins with: at most 192 of 255 bytes."""


def _beside(path: Path) -> Path:
    # A name may be as long as the file system allows; what is added here must find room.
    return path.with_name(f".{path.name[:SHORT]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def new_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it takes the name `path`, replacing an older file in one step.

    Args:
        path: the file.
        durable: wait until it is on the medium, so that it outlives a power cut.

    Raises:
        InputError: the target is a folder, or cannot be written.

    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write the file {path}: a folder of that name exists; choose another name")
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; check the folder, its rights and the space left"
        ) from error
    finally:
        # Gone already after a rename; and where it could never be made, the error above says why.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def new_folder(path: Path, *, marker: str) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it takes the name `path`.

    An existing folder is replaced only if it is empty or holds a file named `marker`, which says that it is an earlier
    result of the same step; anything else is somebody's work and is left alone.

    Raises:
        InputError: the target exists and is something else, or cannot be written.

    """
    path = Path(path)
    check_replaceable(path, marker=marker)
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            # A folder cannot be replaced in one step: the old one stands aside until the new one has its name.
            old = _beside(path)
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; check the folder, its rights and the space left"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: Path, *, marker: str) -> None:
    """Raise InputError unless `path` is free, an empty folder, or a folder that holds `marker`."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        what = "link" if path.is_symlink() else "file"
        raise InputError(f"cannot write the folder {path}: a {what} of that name exists; choose another name")
    if any(path.iterdir()) and not (path / marker).exists():
        raise InputError(f"will not replace {path}: it is not empty and holds no {marker}; choose another name or remove it")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
