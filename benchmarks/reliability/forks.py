"""Commands in forks of a process that has imported everything: they cost no imports, and can be killed or limited at will.

The first process must have one thread: what other threads hold at a fork stays held for ever. So it only imports, and the
things that commands work on are made by a process of their own.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import alone  # noqa: F401 - before all that starts threads
from harness import Things

from offramp.cli import main as command_line

MODULES = (
    "av", "jinja2", "onnx", "onnxruntime", "onnxscript", "torch", "torch_pruning", "yaml", "numpy.random",
    "onnxruntime.quantization", "torch._dynamo", "torch.onnx._internal.exporter", "torch.utils.tensorboard",
    "offramp.artifacts", "offramp.data.synthetic", "offramp.demo", "offramp.evaluation", "offramp.export.joining",
    "offramp.export.package", "offramp.export.self_exiting", "offramp.lowering", "offramp.profiling", "offramp.pruning",
    "offramp.report.page", "offramp.runtime.stream", "offramp.search", "offramp.search.pareto", "offramp.sweeping",
    "offramp.training.train", "offramp.trimming", "timm",
)  # fmt: skip
MAKE = """
import sys
from pathlib import Path
from harness import command, make_things
things = make_things(Path(sys.argv[1]))
answers = things.root / "answers"
if not answers.exists():
    code, _, said = command(("run", things.data / "val" / "images", "--package", things.small, "--out", answers))
    assert code == 0, said
"""
LONGEST_S = 600.0
"""A command that takes longer hangs."""


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code; of a process that a signal ended, its number below 0."""
    out: str
    said: str
    """Standard error."""
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What it said in its own name."""
        return [line for line in self.said.splitlines() if line.startswith("offramp: ")]

    @property
    def how(self) -> str:
        """Its exit code and the end of what it said, in one line."""
        return f"ended with {self.code}: {' '.join(self.said.split())[-500:]}"


@dataclass
class Fork:
    """A running command."""

    pid: int
    folder: Path
    began: float

    def send(self, number: int) -> None:
        """Send a signal; nothing where it has ended."""
        os.kill(self.pid, number)  # not reaped yet, so the number is still its own

    def wait(self) -> Ended:
        """Wait for its end; one that hangs is killed."""
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() - self.began > LONGEST_S:
                self.send(signal.SIGKILL)
            time.sleep(0.01)
        seconds = time.monotonic() - self.began
        files = (self.folder / name for name in ("out", "said"))  # absent of one that was killed before it began
        out, said = (file.read_text(errors="replace") if file.exists() else "" for file in files)
        return Ended(os.waitstatus_to_exitcode(status), out, said, seconds)

    def orphans(self, patience_s: float = 5.0) -> int:
        """How many of the processes that it started outlive it for so long; these are killed."""
        until = time.monotonic() + patience_s
        while _in_group(self.pid) and time.monotonic() < until:
            time.sleep(0.05)
        left = _in_group(self.pid)
        if left:
            os.killpg(self.pid, signal.SIGKILL)
        return len(left)


def make_things_apart(root: Path) -> Things:
    """`harness.make_things` in a process of its own, and what `run` left that was given other images."""
    subprocess.run([sys.executable, "-c", MAKE, str(root)], check=True, cwd=Path(__file__).parent)
    return Things(root)


def import_everything() -> None:
    """Import what commands need. Raises RuntimeError if that starts threads, but for one of ONNX Runtime's own."""
    for name in MODULES:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    gc.freeze()  # or every fork would copy all that its first collection looks at
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 2:
        raise RuntimeError(f"the process that is forked has {threads} threads")


def begin(words: Sequence[object], folder: Path, prepare: Callable[[], None] = nothing) -> Fork:
    """Begin a command in a fork; its output goes into files in a folder of its own, and so does what it calls temporary."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sys.stdout.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_command([str(word) for word in words], folder, prepare)
    return Fork(pid, folder, began)


def run(words: Sequence[object], folder: Path, prepare: Callable[[], None] = nothing) -> Ended:
    """A command in a fork, to its end."""
    return begin(words, folder, prepare).wait()


def _be_command(words: list[str], folder: Path, prepare: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "out"), (2, "said")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=-1 if number == 1 else 1) for number in (1, 2))
        tempfile.tempdir = str(folder)
        prepare()
        command_line(words)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 0 if stopped.code is None else 1
    except BaseException:  # noqa: BLE001 - the finding
        traceback.print_exc()
    finally:
        with_errors = code
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                with_errors = with_errors or 120  # as Python ends then
        os._exit(with_errors)


def _in_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def limited(kind: int, most: int) -> Callable[[], None]:
    """Prepare a limit of the system's on this process, such as `resource.RLIMIT_FSIZE`."""
    return lambda: resource.setrlimit(kind, (most, most))
