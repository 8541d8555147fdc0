"""A disk that is full at whatever write: every verb on a small tmpfs that has room for less and less of what it makes.

    python benchmarks/reliability/disk_full.py [--only 'train' ...] [--out docs/disk_full.json]

And files that may not grow (RLIMIT_FSIZE), and a standard output that takes nothing (/dev/full). Each time: exit code 2 and one
line that says what is full, where, and what to do; what was whole is whole; and when there is space again, the same command
ends as it would have. Mounting takes root; without, it says so and ends.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from commands import Command, chosen
from forks import Ended, import_everything, limited, run
from harness import Things
from script import Row, fault_parser, finish
from small_disks import ROOM, give_room, small_disk, used
from trials import Known, Tally, known, state, workplace, wrong_words
from wholeness import content, damage, leftovers

PAGE = 4096
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
FILE_SIZES = (16384, 65536)


@dataclass
class Trial:
    """A command, on one disk."""

    known: Known
    disk: Path
    tally: Tally
    lines: set[str] = field(default_factory=set)
    """What it says in its own name."""

    def full(self, room: int, *, earlier: bool) -> None:
        """Room for so many bytes."""
        target = self.known.target(self.disk, earlier=earlier)
        before = state(target)
        words = self.known.words(target)  # which may write what they name
        target.with_name("filler").write_bytes(bytes(PAGE))  # a tmpfs of no bytes would be one without limit
        give_room(self.disk, room)
        ended = run(words, self.known.told)
        give_room(self.disk, ROOM)
        self._judge(f"room for {room}", target, ended, before, ("full", str(self.disk), "free some space"))

    def limit(self, size: int) -> None:
        """No file larger than this."""
        target = self.known.target(self.disk)
        ended = run(self.known.words(target), self.known.told, limited(resource.RLIMIT_FSIZE, size))
        self._judge(f"files of {size}", target, ended, {}, ("may not be that large", "ulimit -f"))

    def mute(self) -> None:
        """Nothing can be written to standard output."""
        target = self.known.target(self.disk)
        ended = run([*self.known.words(target), "--json"], self.known.told, _no_output)
        self.tally.counts.update(["cases", "refused"])
        self._note("no output", wrong_words(ended, ("standard output", "full")) or damage(target), ended)

    def _judge(self, name: str, target: Path, ended: Ended, before: dict[str, str], says: tuple[str, ...]) -> None:
        self.tally.counts["cases"] += 1
        if ended.code == 0:
            self.tally.counts["had room"] += 1
            problem = damage(target) or ("" if content(target) == self.known.wanted else "made something else")
        else:
            self.tally.counts["refused"] += 1
            problem = self._refused(ended, says) or self._what_is_left(target, before)
            again = self.known.unlike(target, run(self.known.words(target, again=True), self.known.told))
            problem = problem or (again and f"with space again it {again}")
        if not problem and (left := leftovers(self.disk)):
            problem = f"left {left[0].name}"
        self._note(name, problem, ended)

    def _refused(self, ended: Ended, says: tuple[str, ...]) -> str:
        """What is wrong with how it was refused."""
        if self.known.command.name == "sweep" and ended.code == 1 and says[0] in ended.out + ended.said:
            self.tally.counts["told as a failed trial"] += 1  # as documented; the others go on
            return ""
        # What native code writes and does not look after shows only where it is read back.
        return wrong_words(ended, ("cut short", says[-1]) if "cut short" in ended.said else says)

    def _what_is_left(self, target: Path, before: dict[str, str]) -> str:
        now = state(target)
        if before and now == before:
            return self._answered(target)
        if before and not self.known.command.in_place:
            return "changed what was there before"
        if before.keys() - now.keys():
            return "removed some of what was there before"
        return damage(target) or self._answered(target)

    def _answered(self, target: Path) -> str:
        """Every line of a run's table has its label map, and its log tells of nothing else."""
        table = target / "run-log.csv"
        if not table.exists():
            return ""
        with table.open(encoding="utf-8", newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        self.tally.counts["answered frames kept"] += len(names)
        missing = [name for name in names if not (target / "labels" / f"{name}.png").exists()]
        return f"{missing[0]} is in the table and has no label map" if missing else ""

    def _note(self, name: str, problem: str, ended: Ended) -> None:
        self.lines.update(ended.lines)
        self.tally.note(name, problem)


def _no_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def try_command(command: Command, things: Things, disk: Path, told: Path) -> Row:
    """All sizes for one command."""
    uninterrupted = known(command, things, disk, told)
    held = used(disk)
    uninterrupted.target(disk)  # in the place of what it made
    needs = held - used(disk)
    trial = Trial(uninterrupted, disk, Tally(command.name))
    rooms = sorted({0, PAGE, *(round(share * needs) // PAGE * PAGE for share in SHARES)})
    for number, room in enumerate(rooms):
        trial.full(room, earlier=bool(command.earlier) and number % 2 == 1)
    for size in FILE_SIZES:
        trial.limit(size)
    trial.mute()
    print(command.name, *sorted(trial.lines), sep="\n    ", flush=True)
    return trial.tally.row("cases", "refused", "had room", "told as a failed trial", "answered frames kept")


def tried(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each command, with less and less room."""
    with workplace(options.things) as (things, root), small_disk(root / "disk") as disk:
        import_everything()
        for command in chosen(options.only):
            yield command.name, try_command(command, things, disk, root / "told")


def main() -> None:
    """Fill, count, print; exit code 1 if something was wrong."""
    options = fault_parser(__doc__).parse_args()
    finish("disk_full", tried(options), options.out)


if __name__ == "__main__":
    main()
