"""Faults of the machine, not of the input: a disk is full, memory ran out. What libraries raise then, in words for users.

Each library says so in its own way: an OSError, a MemoryError, a RuntimeError whose text alone tells.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

TO_DO = {
    errno.ENOSPC: "the disk is full; free some space there, or choose another place, and give the same command again",
    errno.EDQUOT: "the quota of disk space is used up; free some space there, or choose another place, and try again",
    errno.EROFS: "the file system can only be read; choose another place, or have it mounted for writing",
    errno.EFBIG: "a file may not be that large here; raise the limit (ulimit -f), or choose another place",
    errno.EIO: "the medium fails; choose another place, and look after the disk",
}
"""What can be done about errors of writing that no user asked for."""

IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, safetensors among them, tell the system's error."""

MEMORY = re.compile(
    r"can ?not allocate|can't allocate|unable to allocate|failed to allocate|alloc(?:ation)? failed|bad_alloc|bad allocation|"
    r"out of memory|outofmemory|failed to map segment|can't start new thread|pthread_create|could not create a thread|"
    r"could not create a (?:primitive|memory)|std::length_error|map failed",
    re.IGNORECASE,
)
"""What engines and PyTorch say when memory, or the threads that need some, are not to be had."""

ENCODING = "EncodeError"
"""What protobuf raises when it cannot write a graph, for want of memory or not; its text says nothing."""


def os_error(error: BaseException) -> OSError | None:
    """The system's error that an exception is or tells of; None if it does not."""
    if isinstance(error, OSError):
        return error
    if found := IN_TEXT.search(str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    code = getattr(error, "errno", None)  # of ffmpeg's errors, which are no OSErrors
    return OSError(code, os.strerror(code)) if isinstance(code, int) and code in TO_DO else None


def what_to_do(error: OSError) -> str:
    """A line on an error of writing: what the system says, and what to do about it."""
    said = error.strerror or str(error)
    known = TO_DO.get(error.errno or 0)
    return f"{known} ({said})" if known else f"{said}; check the folder, its rights and the space left"


def explain_fault(error: BaseException, advice: str) -> str | None:
    """One line on a fault of the machine that is behind an exception, anywhere in what it came from; None if there is none.

    Args:
        error: what was raised.
        advice: what makes the step need less memory.

    """
    for cause in _causes(error):
        if _is_of_memory(cause):
            said = " ".join(str(cause).split()) or type(cause).__name__
            return f"memory ran out; {advice} ({_shortened(said)})"
        if "BrokenProcessPool" in {kind.__name__ for kind in type(cause).__mro__}:
            # All that a pool knows is that a process of it is gone.
            return f"a process of this command was ended from outside, as systems do where memory ran out; {advice}"
        if isinstance(cause, SystemError) or type(cause).__name__ == ENCODING:
            return f"a library failed and did not say why, as some do where memory ran out; {advice} ({_shortened(str(cause))})"
    for cause in _causes(error):
        found = os_error(cause)
        if found is not None and found.errno in TO_DO:
            where = f"{found.filename}: " if found.filename else ""
            return f"cannot write: {where}{what_to_do(found)}"
    return None


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    found = os_error(error)
    if found is not None and found.errno == errno.ENOMEM:
        return True
    return type(error).__name__ == "OutOfMemoryError" or bool(MEMORY.search(str(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from or while handling, and so on; but none of pydantic's.

    Their text holds what was given, however large that is: a plan of a few YAML aliases would fill the memory.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if not type(cause).__module__.startswith("pydantic"):
            yield cause
        cause = cause.__cause__ or cause.__context__


def _shortened(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
