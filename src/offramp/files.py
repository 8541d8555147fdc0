"""Writing so that nothing whole is ever damaged: a temporary name beside the target, then a rename. And reading strictly.

What a killed process leaves beside its target is named after that process; whoever next makes the same target removes it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from offramp.errors import InputError
from offramp.faults import TO_DO, os_error, what_to_do

LEFTOVER = re.compile(r"\.(?P<target>.+)\.(?P<machine>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL)
"""A temporary file or folder; `old` is a whole folder that stood aside for a moment while its successor took its name."""

STRANGERS_S = 86400.0
"""Nobody here knows whether a process of another machine still lives: what it has not touched for so long is given up."""

NOT_TO_BE_HAD = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV)
"""What systems and file systems say that cannot exchange two folders."""

SHORT = 48
"""Letters of a name that a temporary one begins with: at most 192 of 255 bytes."""

LARGEST_JSON = 32_000_000
"""Bytes of a JSON file of ours: ten times the largest seen. Parsed, one takes up to thirty times its size in memory."""


def _beside(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".{_short(path.name)}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{kind}")


def _short(name: str) -> str:
    """A name as temporary ones hold it. A name may be as long as the file system allows; what is added must find room."""
    return (
        name if len(name) <= SHORT else f"{name[: SHORT - 9]}~{hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()}"
    )


@cache
def _machine() -> str:
    """Where process numbers mean the same: this machine, this container."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return hashlib.blake2b(f"{socket.gethostname()} {numbers}".encode(), digest_size=3).hexdigest()


@contextmanager
def new_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it takes the name `path`, replacing an older file in one step.

    Args:
        path: the file.
        durable: wait until it is on the medium, so that it outlives a power cut. Of many small files neither that nor a look
            for what killed processes left is worth its time; see `remove_leftovers`.

    Raises:
        InputError: the target is a folder, or cannot be written.

    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write the file {path}: a folder of that name exists; choose another name")
    temporary = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if durable:
                remove_leftovers(path.parent, path.name)
            yield temporary
            if durable:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            # Gone already after a rename; and where it could never be made, an error says why.
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
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            remove_leftovers(path.parent, path.name)
            yield temporary
            if path.exists():
                _replace_folder(path, temporary)
            else:
                temporary.rename(path)
        finally:
            # After an exchange it is the old folder.
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` for what is needed while that is made; in the end it is removed.

    Raises:
        InputError: it cannot be written.

    """
    scratch = _beside(Path(path))
    with writing(path, only=TO_DO):
        try:
            scratch.mkdir(parents=True)
            yield scratch
        except FileNotFoundError as error:
            if scratch.exists():
                raise
            raise InputError(f"cannot write {_as_asked(path)}: {what_to_do(error)}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def writing(path: Path, only: Container[int] | None = None) -> Iterator[None]:
    """Turn the system's errors within into an InputError that says what could not be written.

    Args:
        path: what is written.
        only: numbers of the errors that are meant; by default all.

    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = os_error(error)
        if found is None or found.errno == errno.ENOMEM or (only is not None and found.errno not in only):
            raise
        raise InputError(f"cannot write {_as_asked(path)}: {what_to_do(found)}") from error


def _as_asked(path: Path) -> Path:
    """A path as users know it: within the folder that is being made, not within the one that has its place so far."""
    return Path(*(found["target"] if (found := LEFTOVER.fullmatch(part)) else part for part in Path(path).parts))


def _replace_folder(path: Path, new: Path) -> None:
    """Give a folder the name of another one, which then has its name or is gone."""
    if _exchanged(path, new):
        return
    # Two steps, where one is not to be had: a kill between them leaves the old folder aside, and `_recover` brings it back.
    old = _beside(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step, which no kill can divide; False where that is not to be had."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux, or an old one
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in NOT_TO_BE_HAD:
        return False
    raise OSError(code, os.strerror(code), str(one))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in a folder while they made the target `name`, or any target."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = LEFTOVER.fullmatch(entry.name)
            if (
                found is None
                or (name is not None and _short(name) != found["target"])
                or not _is_given_up(Path(entry.path), found)
            ):
                continue
            if found["kind"] == "old" and not (folder / (name or found["target"])).exists():
                continue  # the only one there is
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - the entry's path is text


def _is_given_up(path: Path, found: re.Match[str]) -> bool:
    """Whether the process that made a temporary file or folder has ended, as far as can be told."""
    if found["machine"] == _machine() and os.name == "posix":
        return not _lives(int(found["process"]))
    with suppress(OSError):
        touched = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
        return time.time() - touched > STRANGERS_S
    return False


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _recover(path: Path) -> None:
    """Give an old folder its name back, whose successor's process was killed before that took it."""
    if path.exists() or path.is_symlink():
        return
    with suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            found = LEFTOVER.fullmatch(entry.name)
            if (
                found
                and found["kind"] == "old"
                and found["target"] == _short(path.name)
                and _is_given_up(Path(entry.path), found)
            ):
                Path(entry.path).rename(path)
                return


def check_replaceable(path: Path, *, marker: str) -> None:
    """Raise InputError unless `path` is free, an empty folder, or a folder that holds `marker`.

    An earlier folder of that name, that a killed process had put aside, is there again afterwards.
    """
    _recover(path)
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        what = "link" if path.is_symlink() else "file"
        raise InputError(f"cannot write the folder {path}: a {what} of that name exists; choose another name")
    if any(path.iterdir()) and not (path / marker).exists():
        raise InputError(f"will not replace {path}: it is not empty and holds no {marker}; choose another name or remove it")


def read_file(path: Path, what: str, *, largest: int) -> bytes:
    """All bytes of an ordinary file.

    Args:
        path: the file.
        what: it should be, for people.
        largest: number of bytes that are read.

    Raises:
        InputError: it is not there or cannot be read, is a folder or a device (a pipe would keep us waiting), or too large.

    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise InputError(f"cannot read the {what} {path}: it is {kind}; give a file")
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except ValueError as error:  # a null character in the name
        raise InputError(f"cannot read the {what} {str(path)!r}: {error}") from error
    if len(content) > largest:
        raise InputError(f"cannot read the {what} {path}: it has more than {largest / 1e6:g} MB, so it is none of ours")
    return content


def parse_json(content: bytes) -> Any:
    """What a JSON text says; stricter than Python, which takes NaN, infinity and a key that comes twice.

    Raises:
        ValueError: no valid JSON.

    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, what: str, *, largest: int = LARGEST_JSON, mend: str = "make it again") -> Any:
    """What a JSON file says.

    Args:
        path: the file.
        what: it should be, for people.
        largest: number of bytes that are read.
        mend: what to do about a damaged one.

    Raises:
        InputError: it cannot be read, or is no valid JSON.

    """
    content = read_file(path, what, largest=largest)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"damaged {what} {path}: it holds no valid JSON ({error}); {mend}") from error


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice[:80]} twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:80]} is no finite number")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
