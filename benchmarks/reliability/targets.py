"""Targets that go wrong: a medium that can only be read, a folder removed in mid-run, another file system, a clock set back.

    python benchmarks/reliability/targets.py [--only 'train' ...] [--out docs/targets.json]

Mounting takes root; without, it says so and ends.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

from commands import Command, chosen
from forks import Ended, begin, import_everything, run
from harness import Things, tree
from script import Row, fault_parser, finish
from small_disks import read_only, small_disk
from trials import NEVER_SAID, Known, Tally, known, workplace, wrong_words
from wholeness import damage, leftovers

VANISHINGS = 4
BACK_S = 10 * 365.25 * 86400


@dataclass(frozen=True)
class Trial:
    """A command and all that its target may suffer."""

    known: Known
    root: Path
    disk: Path
    """Another file system, below `root`."""
    tally: Tally

    def read_only(self) -> None:
        """Nothing can be written; what is there stays, and can be read."""
        for earlier in (False, True) if self.known.command.earlier else (False,):
            target = self.known.target(self.disk, earlier=earlier)
            words, before = self.known.words(target), tree(self.disk)
            with read_only(self.disk):
                ended = run(words, self.known.told)
            problem = wrong_words(ended, ("can only be read", str(self.disk)))
            self._note("read-only", problem or ("" if tree(self.disk) == before else "it changed"), ended.lines)

    def vanishing(self, place: float) -> None:
        """The target, and all beside it, is removed while the command runs."""
        target = self.known.target(self.root / "there")
        fork = begin(self.known.words(target), self.known.told)
        time.sleep(place * self.known.seconds)
        shutil.rmtree(target.parent, ignore_errors=True)
        ended = fork.wait()
        problem = "" if ended.code == 0 or self._failed_trial(ended) else wrong_words(ended, ())
        if ended.code == 0:
            self.tally.counts["removed, and made all the same"] += target.exists()
            problem = "said that it is done, and made nothing" if not target.exists() and place < 0.5 else damage(target)
        target = self.known.target(self.root / "there")
        again = self.known.unlike(target, run(self.known.words(target), self.known.told))
        self._note(f"removed at {place:.2f}", problem or again, ended.lines)

    def _failed_trial(self, ended: Ended) -> bool:
        """Whether a sweep says, as documented, that a trial failed; the others would have gone on."""
        said = ended.out + ended.said
        told = self.known.command.name == "sweep" and ended.code == 1 and "failed: " in said
        return told and not any(words in said for words in NEVER_SAID)

    def elsewhere(self) -> None:
        """On another file system than everything else; and behind a link to one."""
        target = self.known.target(self.disk)
        ended = run(self.known.words(target), self.known.told)
        self._note("another file system", self.known.unlike(target, ended), ended.lines)
        behind = self.known.target(self.disk)
        link = self.root / "link"
        link.symlink_to(behind.parent, target_is_directory=True)
        through = link / behind.name
        ended = run(self.known.words(through), self.known.told)
        self._note("behind a link", self.known.unlike(through, ended), ended.lines)
        link.unlink()

    def set_back(self) -> None:
        """Begun today and gone on with ten years ago; or made anew then, over what was made today."""
        target = self.known.target(self.root)
        first = begin(self.known.words(target), self.known.told)
        if self.known.command.again:
            time.sleep(self.known.seconds * 0.6)
            first.send(signal.SIGKILL)
        first.wait()
        ended = run(self.known.words(target, again=True), self.known.told, ten_years_ago)
        self._note("clock set back", self.known.unlike(target, ended), ended.lines)

    def _note(self, name: str, problem: str, lines: list[str]) -> None:
        self.tally.counts[name.split(" at ", maxsplit=1)[0]] += 1
        left = leftovers(self.root)
        self.tally.note(name, problem or (f"left {left[0].name}" if left else ""), *lines)


def ten_years_ago() -> None:
    """Set this process's clock back, as Python tells the time; that of files stays the system's."""
    import offramp.artifacts.base as base  # noqa: PLC0415, PLR0402 - of the fork alone

    real, real_ns = time.time, time.time_ns

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(time.time(), tz)

    time.time = lambda: real() - BACK_S
    time.time_ns = lambda: real_ns() - int(BACK_S * 1e9)
    setattr(base, "datetime", Then)  # noqa: B010 - which it does not export


def try_command(command: Command, things: Things, root: Path, disk: Path) -> Row:
    """All of it for one command."""
    trial = Trial(known(command, things, root, root / "told"), root, disk, Tally(command.name))
    trial.read_only()
    for number in range(VANISHINGS):
        trial.vanishing((number + 0.5) / VANISHINGS)
    trial.elsewhere()
    trial.set_back()
    names = ("read-only", "removed", "removed, and made all the same", "another file system", "behind a link", "clock set back")
    return trial.tally.row(*names)


def tried(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each command, with everything that its target may suffer."""
    with workplace(options.things) as (things, root), small_disk(root / "disk") as disk:
        import_everything()
        for command in chosen(options.only):
            yield command.name, try_command(command, things, root, disk)


def main() -> None:
    """Try, count, print; exit code 1 if something was wrong."""
    options = fault_parser(__doc__).parse_args()
    finish("targets", tried(options), options.out)


if __name__ == "__main__":
    main()
