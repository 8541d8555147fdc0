"""Targets that go wrong: a medium that can only be read, a folder removed in mid-run, another file system, a clock set back.

    python benchmarks/reliability/targets.py [--only 'train' ...] [--out docs/targets.json]

Mounting takes root; without, it says so and ends.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

from commands import Command, chosen, leave_earlier, print_rows, write_figures
from disk_full import small_disk, wrong_words
from forks import begin, import_everything, make_things_apart, run
from harness import Things, tree
from wholeness import content, damage, leftovers

VANISHINGS = 4
BACK_S = 10 * 365.25 * 86400


@dataclass
class Trial:
    """A command and all that its target may suffer."""

    command: Command
    things: Things
    root: Path
    disk: Path
    """Another file system."""
    seconds: float = 0.0
    wanted: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run it once."""
        self.told = self.root / "told"
        target = self._target(self.root)
        ended = run(self._words(target), self.told)
        assert ended.code == 0, ended.said
        self.wanted, self.seconds = content(target), ended.seconds

    def read_only(self) -> None:
        """Nothing can be written; what is there stays, and can be read."""
        for earlier in (False, True) if self.command.earlier else (False,):
            target = self._target(self.disk)
            if earlier:
                leave_earlier(self.command, self.things, target)
            words, before = self._words(target), tree(self.disk)
            subprocess.run(["mount", "-o", "remount,ro", self.disk], check=True)
            try:
                ended = run(words, self.told)
            finally:
                subprocess.run(["mount", "-o", "remount,rw", self.disk], check=True)
            problem = wrong_words(ended, ("can only be read", str(self.disk)))
            self._note("read-only", problem or ("" if tree(self.disk) == before else "it changed"), ended.lines)

    def vanishing(self, place: float) -> None:
        """The target, and all beside it, is removed while the command runs."""
        target = self._target(self.root / "there")
        fork = begin(self._words(target), self.told)
        time.sleep(place * self.seconds)
        shutil.rmtree(target.parent, ignore_errors=True)
        ended = fork.wait()
        problem = "" if ended.code == 0 else wrong_words(ended, ())
        if ended.code == 0:
            self.counts["removed, and made all the same"] += target.exists()
            problem = "said that it is done, and made nothing" if not target.exists() and place < 0.5 else damage(target)
        shutil.rmtree(target.parent, ignore_errors=True)
        again = run(self._words(self._target(self.root / "there")), self.told)
        self._note(f"removed at {place:.2f}", problem or self._like_always(again.code, again.said, target), ended.lines)

    def elsewhere(self) -> None:
        """On another file system than everything else; and behind a link to one."""
        target = self._target(self.disk)
        ended = run(self._words(target), self.told)
        self._note("another file system", self._like_always(ended.code, ended.said, target), ended.lines)
        behind = self._target(self.disk)
        link = self.root / "link"
        link.symlink_to(behind.parent, target_is_directory=True)
        through = link / self.command.target
        ended = run(self._words(through), self.told)
        self._note("behind a link", self._like_always(ended.code, ended.said, through), ended.lines)
        link.unlink()

    def set_back(self) -> None:
        """Begun today and gone on with ten years ago; or made anew then, over what was made today."""
        target = self._target(self.root)
        first = begin(self._words(target), self.told)
        if self.command.again:
            time.sleep(self.seconds * 0.6)
            first.send(9)
        first.wait()
        ended = run([*self._words(target), *self.command.again], self.told, ten_years_ago)
        self._note("clock set back", self._like_always(ended.code, ended.said, target), ended.lines)

    def _like_always(self, code: int, said: str, target: Path) -> str:
        if code != 0:
            return f"ended with {code}: {said[-400:]}"
        made = content(target)
        differing = [name for name, value in self.wanted.items() if made.get(name) != value]
        return damage(target) or (f"made another {differing[0]}" if differing else "")

    def _note(self, name: str, problem: str, lines: list[str]) -> None:
        self.counts[name.split(" at ", maxsplit=1)[0]] += 1
        left = leftovers(self.root) + leftovers(self.disk)
        if problem or left:
            self.wrong.append(f"{self.command.name}, {name}: {problem or f'left {left[0].name}'}")
            print(self.wrong[-1], *lines, sep="\n    ", flush=True)

    def _words(self, target: Path) -> list[object]:
        return list(self.command.words(self.things, target))

    def _target(self, folder: Path) -> Path:
        """In a new folder."""
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return work / self.command.target


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


def try_command(command: Command, things: Things, root: Path, disk: Path) -> dict[str, Any]:
    """All of it for one command."""
    trial = Trial(command, things, root, disk)
    trial.read_only()
    for number in range(VANISHINGS):
        trial.vanishing((number + 0.5) / VANISHINGS)
    trial.elsewhere()
    trial.set_back()
    names = ("read-only", "removed", "removed, and made all the same", "another file system", "behind a link", "clock set back")
    row: dict[str, Any] = {name: trial.counts[name] for name in names} | {"wrong": len(trial.wrong), "what": trial.wrong}
    print(command.name, row, flush=True)
    return row


def main() -> None:
    """Try, count, print; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--things", type=Path, help="a folder of things that is kept from one start to the next")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        things = make_things_apart(options.things or Path(folder) / "things")
        import_everything()
        root = Path(folder) / "root"
        root.mkdir()
        try:
            with small_disk(Path(folder) / "disk") as disk:
                rows = {}
                for command in chosen(options.only):
                    rows[command.name] = try_command(command, things, root, disk)
                    write_figures(options.out, "targets", rows)
        except PermissionError as error:
            sys.exit(f"cannot mount a tmpfs here, which takes root: {error}")
    print_rows(rows)
    sys.exit(1 if any(row["what"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
