"""A disk that is full at whatever write: every verb on a small tmpfs that has room for less and less of what it makes.

    python benchmarks/reliability/disk_full.py [--only 'train' ...] [--out docs/disk_full.json]

And files that may not grow (RLIMIT_FSIZE), and a standard output that takes nothing (/dev/full). Each time: exit code 2 and one
line that says what is full, where, and what to do; what was whole is whole; and when there is space again, the same command
ends as it would have. Mounting takes root; without, the tmpfs part is left out and said to be.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import Command, chosen, leave_earlier, print_rows, write_figures
from forks import Ended, import_everything, limited, make_things_apart, run
from harness import Things, tree
from wholeness import content, damage, leftovers

PAGE = 4096
ROOM = 64 << 20
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
FILE_SIZES = (16384, 65536)
NEVER_SAID = ("Traceback", "Exception ignored", "Exception in thread")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs; see `give_room`. Raises PermissionError where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "offramp", folder], capture_output=True, check=False)
    if made.returncode:
        raise PermissionError(made.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def give_room(disk: Path, size: int) -> None:
    """Give the tmpfs so many bytes beside what it holds."""
    held = used(disk)
    subprocess.run(["mount", "-o", f"remount,size={held + size}", disk], check=True)


def used(disk: Path) -> int:
    """Bytes that it holds."""
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def wrong_words(ended: Ended, says: tuple[str, ...]) -> str:
    """What is wrong with how a command ended that had to fail; empty if nothing."""
    if ended.code != 2:
        return f"ended with {ended.code}: {ended.said[-300:]}"
    if bad := [words for words in NEVER_SAID if words in ended.said]:
        return f"said {bad[0]}: {ended.said[-600:]}"
    if len(ended.lines) != 1:
        return f"said {len(ended.lines)} lines: {ended.said[-300:]}"
    missing = [words for words in says if words.lower() not in ended.lines[0].lower()]
    return f"did not say {missing[0]!r}: {ended.lines[0]}" if missing else ""


@dataclass
class Trial:
    """A command, on one disk."""

    command: Command
    things: Things
    disk: Path
    told: Path
    wanted: dict[str, Any] = field(default_factory=dict)
    needs: int = 0
    """Bytes that it leaves."""
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Run it with all the room that it needs."""
        self._clear()
        before = used(self.disk)
        ended = run(self._words(), self.told)
        assert ended.code == 0, ended.said
        self.wanted, self.needs = content(self._target), used(self.disk) - before

    @property
    def _target(self) -> Path:
        return self.disk / self.command.target

    def full(self, room: int, *, earlier: bool) -> None:
        """Room for so many bytes."""
        self._clear()
        if earlier:
            leave_earlier(self.command, self.things, self._target)
        before = _state(self._target) if earlier else {}
        words = self._words()  # which may write what they name
        (self.disk / "filler").write_bytes(bytes(PAGE))  # a tmpfs of no bytes would be one without limit
        give_room(self.disk, room)
        ended = run(words, self.told)
        give_room(self.disk, ROOM)
        self._judge(f"room for {room}", ended, before, ("full", str(self.disk), "free some space"))

    def limit(self, size: int) -> None:
        """No file larger than this."""
        self._clear()
        ended = run(self._words(), self.told, limited(resource.RLIMIT_FSIZE, size))
        self._judge(f"files of {size}", ended, {}, ("may not be that large", "ulimit -f"))

    def mute(self) -> None:
        """Nothing can be written to standard output."""
        self._clear()
        ended = run([*self._words(), "--json"], self.told, _no_output)
        self.counts["cases"] += 1
        self.counts["refused"] += 1
        self._note("no output", wrong_words(ended, ("standard output", "full")) or damage(self._target), ended)

    def _judge(self, name: str, ended: Ended, before: dict[str, str], says: tuple[str, ...]) -> None:
        self.counts["cases"] += 1
        if ended.code == 0:
            self.counts["had room"] += 1
            problem = damage(self._target) or ("" if content(self._target) == self.wanted else "made something else")
        else:
            self.counts["refused"] += 1
            if self.command.name == "sweep" and ended.code == 1 and says[0] in ended.out + ended.said:
                self.counts["told as a failed trial"] += 1  # as documented; the others go on
                problem = ""
            else:
                # What native code writes and does not look after shows only where it is read back.
                problem = wrong_words(ended, ("cut short", says[-1]) if "cut short" in ended.said else says)
            problem = problem or self._what_is_left(before)
            again = run(self._words(again=True), self.told)
            if not problem and again.code != 0:
                problem = f"with space again it ended with {again.code}: {again.said[-300:]}"
            if not problem and (differing := [n for n, v in self.wanted.items() if content(self._target).get(n) != v]):
                problem = f"with space again it made another {differing[0]}"
        if not problem and (left := leftovers(self.disk)):
            problem = f"left {left[0].name}"
        self._note(name, problem, ended)

    def _what_is_left(self, before: dict[str, str]) -> str:
        now = _state(self._target)
        if before and now == before:
            return self._answered()
        if before and not self.command.in_place and now != before:
            return "changed what was there before"
        if before and before.keys() - now.keys():
            return "removed some of what was there before"
        return damage(self._target) or self._answered()

    def _answered(self) -> str:
        """Every line of a run's table has its label map, and its log tells of nothing else."""
        table = self._target / "run-log.csv"
        if not table.exists():
            return ""
        with table.open(encoding="utf-8", newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        self.counts["answered frames kept"] += len(names)
        missing = [name for name in names if not (self._target / "labels" / f"{name}.png").exists()]
        return f"{missing[0]} is in the table and has no label map" if missing else ""

    def _note(self, name: str, problem: str, ended: Ended) -> None:
        self.lines.update(ended.lines)
        if problem:
            self.wrong.append(f"{self.command.name}, {name}: {problem}")
            print(self.wrong[-1], flush=True)

    def _words(self, *, again: bool = False) -> list[object]:
        return [*self.command.words(self.things, self._target), *(self.command.again if again else ())]

    def _clear(self) -> None:
        give_room(self.disk, ROOM)
        for path in self.disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _state(target: Path) -> dict[str, str]:
    """What lies at a target, file or folder."""
    return {name: value for name, value in tree(target.parent).items() if name.split("/")[0] == target.name}


def _no_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def try_command(command: Command, things: Things, disk: Path, told: Path) -> dict[str, Any]:
    """All sizes for one command."""
    trial = Trial(command, things, disk, told)
    rooms = sorted({0, PAGE, *(round(share * trial.needs) // PAGE * PAGE for share in SHARES)})
    for number, room in enumerate(rooms):
        trial.full(room, earlier=bool(command.earlier) and number % 2 == 1)
    for size in FILE_SIZES:
        trial.limit(size)
    trial.mute()
    names = ("cases", "refused", "had room", "told as a failed trial", "answered frames kept")
    row: dict[str, Any] = {name: trial.counts[name] for name in names} | {"wrong": len(trial.wrong), "what": trial.wrong}
    print(command.name, row, *sorted(trial.lines), sep="\n    ", flush=True)
    return row


def main() -> None:
    """Fill, count, print; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--things", type=Path, help="a folder of things that is kept from one start to the next")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        things = make_things_apart(options.things or Path(folder) / "things")
        import_everything()
        try:
            with small_disk(Path(folder) / "disk") as disk:
                rows = {}
                for command in chosen(options.only):
                    rows[command.name] = try_command(command, things, disk, Path(folder) / "told")
                    write_figures(options.out, "disk_full", rows)
        except PermissionError as error:
            sys.exit(f"cannot mount a tmpfs here, which takes root: {error}")
    print_rows(rows)
    sys.exit(1 if any(row["what"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
