"""Cases of bad input: what is common to all of them. A case prepares something bad, and then one command or one call meets it.

What every case asks for: a right result, or one clear line that says what is wrong, where, and what to do. Never a traceback,
a hang, a file of ours that stays behind, or a change to a file that was there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from offramp.cli import main as command_line
from offramp.data.synthetic import draw_dataset
from offramp.errors import InputError
from offramp.specs import TrainingSpec

SIZE = (96, 64)
SECONDS = 60
"""A case that takes longer hangs."""
EXECUTED = "executed"
"""What code in a stranger's file leaves in the case's folder, if it is run."""


@dataclass(frozen=True)
class Things:
    """One small whole way, made once: cases copy what they want to spoil."""

    root: Path

    @property
    def data(self) -> Path:
        """A drawn dataset: 8 train, 2 val and 2 test images of 96x64."""
        return self.root / "scenes"

    @property
    def run(self) -> Path:
        """A finished run with two early exits."""
        return self.root / "run"

    @property
    def package(self) -> Path:
        """Its package, with all exits and the original network."""
        return self.root / "package"

    @property
    def records(self) -> Path:
        """Records of `val`."""
        return self.root / "val.records"

    @property
    def profile(self) -> Path:
        """A profile."""
        return self.root / "here.profile"

    @property
    def chosen(self) -> Path:
        """An input-dependent deployment."""
        return self.root / "chosen.json"

    @property
    def small(self) -> Path:
        """The package trimmed to it."""
        return self.root / "small"

    @property
    def image(self) -> Path:
        """An image of `test`."""
        return min((self.data / "test" / "images").iterdir())


Prepare = Callable[[Path, Things], "Sequence[object] | Callable[[], object]"]
"""From the case's own folder and the things to a command line (words without `offramp`), or a call of the Python API."""


@dataclass(frozen=True)
class Case:
    """Something bad, and how the command or call that meets it has to end."""

    name: str
    """Where it comes in, and what is bad: `image: truncated JPEG`."""
    prepare: Prepare
    says: tuple[str, ...] = ()
    """Words of the one line, in any case of letters. With none the result must be right."""
    right: Callable[[Path, Any], bool] | None = None
    """Whether the result is right: from the case's folder and what was printed, or returned by a call."""

    def __post_init__(self) -> None:
        assert bool(self.says) != (self.right is not None), f"{self.name}: either an error, or a right result"


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    case: Case
    wrong: str
    """What it did wrong; empty if nothing."""
    said: str
    """Its one line, or what it printed."""
    seconds: float


def make_things(root: Path) -> Things:
    """Make the small whole way in `root`, unless it is there."""
    from offramp.export.package import export  # noqa: PLC0415 - torch takes seconds
    from offramp.training.train import train  # noqa: PLC0415

    things = Things(root)
    if not things.data.exists():
        draw_dataset(things.data, images=12, size=SIZE, seed=3)
    if not (things.run / "weights.safetensors").exists():
        spec = TrainingSpec(epochs=2, exit_epochs=1, crop=SIZE, batch_size=4, validate_every=1)
        train(things.data, things.run, network="test_efficientnet", exits=2, training=spec, resume=True)
    if not things.package.exists():
        export(things.run, things.package)
    measured = ("--records", things.records, "--profile", things.profile)
    steps = {
        things.records: ("evaluate", things.package, things.data, "--out", things.records),
        things.profile: ("profile", things.package, "--out", things.profile, "--passes", 3, "--threads", 1),
        things.chosen: ("search", *measured, "--mode", "input-dependent", "--max-drop-pp", 5, "--out", things.chosen),
        things.small: ("trim", things.package, things.chosen, "--out", things.small),
    }
    for made, words in steps.items():
        if not made.exists():
            code, _, said = command(words)
            assert code == 0, said
    return things


def command(words: Sequence[object]) -> tuple[int, str, str]:
    """A command in this process: exit code, standard output, standard error."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            command_line([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
    return code, out.getvalue(), said.getvalue()


def try_case(case: Case, things: Things, work: Path) -> Outcome:
    """Prepare a case in the new folder `work`, run it, and judge how it ended."""
    work.mkdir(parents=True)
    call = case.prepare(work, things)
    before, kept = tree(work), tree(things.root)
    began = time.monotonic()
    try:
        with _no_longer_than(SECONDS):
            wrong, said = _judge(case, work, call)
    except _TooLateError:
        wrong, said = f"took longer than {SECONDS} s", ""
    seconds = time.monotonic() - began
    if not wrong and seconds >= SECONDS:  # a library took the interruption for its own
        wrong = f"took longer than {SECONDS} s"
    after = tree(work)
    if not wrong and tree(things.root) != kept:
        wrong = "changed something that it was only to read"
    if not wrong and case.says and {name: after.get(name) for name in before} != before:
        wrong = "failed, and changed what was there before"
    if not wrong and any(Path(name).name == EXECUTED for name in after):
        wrong = "ran a stranger's code"
    if not wrong and any(part.endswith(".tmp") for name in after for part in Path(name).parts):
        wrong = "left a temporary file behind"
    return Outcome(case, wrong, said, seconds)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its bytes, every folder and link with what it is."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "blake2b").hexdigest()
        else:
            found[name] = "special"
    return found


def copied(path: Path, work: Path) -> Path:
    """A copy of a file or folder in the case's folder, to be spoilt."""
    target = work / path.name
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)
    return target


def _judge(case: Case, work: Path, call: Sequence[object] | Callable[[], object]) -> tuple[str, str]:
    """What the case did wrong, and what it said."""
    if callable(call):
        return _judge_call(case, work, call)
    try:
        code, out, said = command(call)
    except Exception as error:  # noqa: BLE001 - the finding
        return f"traceback: {type(error).__name__}: {error}", ""
    line = said.strip()
    if case.right is not None:
        if code != 0:
            return f"wanted a right result, ended with {code}", line
        return ("" if case.right(work, out) else "the result is wrong"), out
    if code != 2:
        return f"ended with {code}, wanted 2", line or out
    return _judge_line(case, line.removeprefix("offramp: "), said)


def _judge_call(case: Case, work: Path, call: Callable[[], object]) -> tuple[str, str]:
    try:
        result = call()
    except InputError as error:
        if case.right is not None:
            return "wanted a right result, got an InputError", str(error)
        return _judge_line(case, str(error), str(error))
    except Exception as error:  # noqa: BLE001 - the finding
        return f"traceback: {type(error).__name__}: {error}", ""
    if case.right is None:
        return "no error", repr(result)
    return ("" if case.right(work, result) else "the result is wrong"), repr(result)


def _judge_line(case: Case, line: str, said: str) -> tuple[str, str]:
    if len(said.strip().splitlines()) != 1:
        return "said more or less than one line", said
    if len(line) > 600:
        return "the line is too long to be read", line
    missing = [word for word in case.says if word.lower() not in line.lower()]
    return (f"did not say {', '.join(missing)}" if missing else ""), line


class _TooLateError(BaseException):
    """No Exception, and no OSError: what a case calls must not take it for one."""


@contextlib.contextmanager
def _no_longer_than(seconds: int) -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise _TooLateError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
