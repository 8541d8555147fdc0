"""What trials of all faults share: a place to work in, what a command makes when nothing goes wrong, and whether that was made.

Every fault is judged by one rule: what was whole stays so, a refusal is one line and exit code 2, and the same command, given
again, makes what it makes uninterrupted, but for what tells the time (see `wholeness`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import Command, leave_earlier
from forks import Ended, make_things_apart, run
from harness import Things, tree
from wholeness import content, damage

NEVER_SAID = ("Traceback", "Exception ignored", "Exception in thread")


@contextmanager
def workplace(things: Path | None) -> Iterator[tuple[Things, Path]]:
    """Things for commands to read, kept if a folder is given for them, and an empty folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        yield make_things_apart(things or Path(folder) / "things"), root


def fresh_target(command: Command, things: Things, folder: Path, *, earlier: bool = False) -> Path:
    """Where a command is to write: in `folder/work`, made anew, with what an earlier command left, if asked."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    target = work / command.target
    if earlier:
        leave_earlier(command, things, target)
    return target


def state(target: Path) -> dict[str, str]:
    """What lies at a target, file or folder, to the byte."""
    return {name: value for name, value in tree(target.parent).items() if name.split("/")[0] == target.name}


def wrong_words(ended: Ended, says: tuple[str, ...]) -> str:
    """What is wrong with how a command ended that had to fail; empty if nothing."""
    if ended.code != 2:
        return ended.how
    if bad := [words for words in NEVER_SAID if words in ended.said]:
        return f"said {bad[0]}: {ended.said[-600:]}"
    if len(ended.lines) != 1:
        return f"said {len(ended.lines)} lines: {ended.said[-300:]}"
    missing = [words for words in says if words.lower() not in ended.lines[0].lower()]
    return f"did not say {missing[0]!r}: {ended.lines[0]}" if missing else ""


@dataclass(frozen=True)
class Known:
    """A command of which it is known what it makes."""

    command: Command
    things: Things
    told: Path
    """Where its output goes."""
    wanted: dict[str, Any]
    """What it makes uninterrupted, as `wholeness.content` says it."""
    seconds: float
    """That it takes then."""

    def target(self, folder: Path, *, earlier: bool = False) -> Path:
        """See `fresh_target`."""
        return fresh_target(self.command, self.things, folder, earlier=earlier)

    def words(self, target: Path, *, again: bool = False) -> list[object]:
        """Its command line, to begin or to go on."""
        return [*self.command.words(self.things, target), *(self.command.again if again else ())]

    def unlike(self, target: Path, ended: Ended) -> str:
        """What is wrong with how it ended where it had to do as always; empty if nothing."""
        if ended.code != 0:
            return ended.how
        if problem := damage(target):
            return f"left {problem}"
        made = content(target)
        differing = [name for name, value in self.wanted.items() if made.get(name) != value]
        return f"made another {differing[0]}" if differing else ""


def known(command: Command, things: Things, folder: Path, told: Path) -> Known:
    """Run a command with nothing in its way, below a folder. Twice: what is done for the first time takes longer."""
    for _ in range(2):
        target = fresh_target(command, things, folder)
        ended = run(command.words(things, target), told)
        assert ended.code == 0, f"{command.name} cannot be run at all: {ended.said}"
    return Known(command, things, told, content(target), ended.seconds)


@dataclass
class Tally:
    """What came of the trials of one command."""

    command: str
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, trial: str, problem: str, *more: str) -> None:
        """Count and print what was wrong with a trial, if anything was."""
        if problem:
            self.counts["wrong"] += 1
            print(f"{self.command}, {trial}: {problem}", *more, sep="\n    ", flush=True)

    def row(self, *names: str) -> dict[str, int]:
        """The counts of these names, and how many trials were wrong."""
        return {name: self.counts[name] for name in (*names, "wrong")}
