"""kill -9 at random moments, and before every single change that a command makes to its files; counts at the end.

    python benchmarks/reliability/kills.py [--only train ...] [--random 200] [--no-changes] [--out docs/kills.json]

After each kill: what was whole is unchanged, every file under a name of its own is whole, and the same command, given again,
ends with what it makes uninterrupted, byte for byte where it does not tell the time. Nothing temporary stays behind then.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from commands import KILLS, Command, chosen, leave_earlier, print_rows, write_figures
from crashes import Crash
from forks import Ended, begin, import_everything, make_things_apart, nothing, run
from harness import Things, tree
from wholeness import content, damage, leftovers

ALL = 200


@dataclass
class Trial:
    """A command whose end is known, killed again and again."""

    command: Command
    things: Things
    root: Path
    seconds: float = 0.0
    """That it takes uninterrupted."""
    wanted: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run it once, uninterrupted."""
        self.kept = tree(self.things.root)
        work = self._work(earlier=False)
        run(self._words(work), self.root / "told")  # what is done for the first time takes longer
        work = self._work(earlier=False)
        ended = run(self._words(work), self.root / "told")
        assert ended.code == 0, f"{self.command.name} cannot be run at all: {ended.said}"
        self.seconds, self.wanted = ended.seconds, content(work / self.command.target)

    def kill(self, *, after_s: float = 0.0, crash: int = 0, earlier: bool, twice: bool = False) -> None:
        """Kill it once, and if asked while it goes on once more; then let it go on to its end."""
        work = self._work(earlier=earlier)
        target = work / self.command.target
        before = tree(work)
        name = f"change {crash}" if crash else f"{after_s:.3f} s"
        problem = self._killed(self._words(work), work, after_s, crash) or self._judge(work, before)
        if twice and not problem and (target / "run.json").exists():
            problem = self._killed(self._words(work, again=True), work, after_s / 2, crash) or self._judge(work, before)
        problem = problem or self._go_on(work)
        if tree(self.things.root) != self.kept:
            problem = "changed what it was only to read"
        if problem:
            self.wrong.append(f"{self.command.name}, killed after {name}, earlier {earlier}: {problem}")
            print(self.wrong[-1], flush=True)

    def _killed(self, words: list[object], work: Path, after_s: float, crash: int) -> str:
        fork = begin(words, self.root / "told", Crash(work, crash) if crash else nothing)
        if not crash:
            time.sleep(after_s)
            fork.send(signal.SIGKILL)
        ended = fork.wait()
        self.counts["kills" if ended.code == -signal.SIGKILL else "after its end"] += 1
        if ended.code == 0 and not crash:
            self.seconds *= 0.95  # it was slower when its time was taken
        if self.command.name == "sweep":
            fork.orphans(patience_s=20)  # a profile that was begun is ended by itself
        elif orphans := fork.orphans():
            return f"{orphans} processes outlive it"
        return "" if ended.code in (0, -signal.SIGKILL) else f"ended with {ended.code}: {ended.said[-300:]}"

    def _judge(self, work: Path, before: dict[str, str]) -> str:
        """What is wrong with what lies there after a kill."""
        self.counts["temporary files left"] += len(leftovers(work))
        target, now = work / self.command.target, tree(work)
        old = {name: value for name, value in before.items() if self._of_target(name)}
        new = {name: value for name, value in now.items() if self._of_target(name)}
        if old and new == old:
            self.counts["target old"] += 1
            return ""
        if not new:
            self.counts["target absent"] += 1
            return "what was there before is gone" if old else ""
        self.counts["target growing" if self.command.in_place else "target new"] += 1
        if gone := old.keys() - new.keys() if self.command.in_place else ():
            return f"{min(gone)} is gone"
        return damage(target) or ("" if self.command.in_place or content(target) == self.wanted else "neither old nor new")

    def _of_target(self, name: str) -> bool:
        return name == self.command.target or name.startswith(f"{self.command.target}/")

    def _go_on(self, work: Path) -> str:
        """What is wrong where the same command is given again."""
        target = work / self.command.target
        ended = run(self._words(work, again=True), self.root / "told")
        if ended.code != 0:
            return f"given again it ended with {ended.code}: {_last(ended)}"
        if not self.command.in_place:
            self.seconds = 0.7 * self.seconds + 0.3 * ended.seconds
        if left := leftovers(work):
            return f"given again it left {left[0].name}"
        if problem := damage(target):
            return f"given again: {problem}"
        made = content(target)
        self.counts["finished alike"] += 1
        differing = [name for name, value in self.wanted.items() if made.get(name) != value]
        return f"given again it made another {differing[0]}" if differing else ""

    def _words(self, work: Path, *, again: bool = False) -> list[object]:
        return [*self.command.words(self.things, work / self.command.target), *(self.command.again if again else ())]

    def _work(self, *, earlier: bool) -> Path:
        work = self.root / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        self.command.words(self.things, work / self.command.target)  # which may write what it names
        if earlier:
            leave_earlier(self.command, self.things, work / self.command.target)
        return work

    def changes(self, *, earlier: bool) -> int:
        """How many changes to files it makes."""
        work = self._work(earlier=earlier)
        crash = Crash(work)
        ended = run(self._words(work), self.root / "told", crash)
        assert ended.code == 0, ended.said
        return crash.changes


def _last(ended: Ended) -> str:
    return (ended.said.strip().splitlines() or [""])[-1]


def at_random(trial: Trial, kills: int, seed: int) -> None:
    """Kill at random moments of its whole run time, a third of them near its end."""
    rng = Random(f"{seed} {trial.command.name}")  # noqa: S311 - moments, no secrets
    while trial.counts["kills"] < kills:
        place = rng.uniform(0.85, 1.05) if rng.random() < 1 / 3 else rng.uniform(0, 0.9)
        earlier = bool(trial.command.earlier) and bool(rng.random() < 0.5)
        trial.kill(after_s=place * trial.seconds, earlier=earlier, twice=bool(trial.command.again) and bool(rng.random() < 0.5))


def at_changes(trial: Trial, step: int) -> None:
    """Kill before every change to files, with nothing and with something whole at the target."""
    for earlier in [False, True] if trial.command.earlier else [False]:
        for number in range(1, trial.changes(earlier=earlier) + 1, step):
            trial.kill(crash=number, earlier=earlier)


def try_command(command: Command, things: Things, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All kills of one command: counts, and what was wrong."""
    random = Trial(command, things, root)
    at_random(random, round(KILLS[command.name] * options.random / ALL), options.seed)
    row: dict[str, Any] = {f"{name}": random.counts[name] for name in NAMES} | {"wrong": len(random.wrong)}
    if not options.no_changes:
        every = Trial(command, things, root)
        at_changes(every, options.step)
        row |= {"at changes": every.counts["kills"], "at changes wrong": len(every.wrong)}
        row |= {"at changes alike": every.counts["finished alike"]}
        random.wrong += every.wrong
    print(command.name, row, flush=True)
    return row | {"what": random.wrong}


NAMES = (
    "kills", "after its end", "target old", "target new", "target absent", "target growing", "temporary files left",
    "finished alike",
)  # fmt: skip


def main() -> None:
    """Kill, count, print; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--random", type=int, default=ALL, help="random kills, of all commands together")
    parser.add_argument("--no-changes", action="store_true", help="not before every change to files")
    parser.add_argument("--step", type=int, default=1, help="kill before every so manieth change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--import-late", action="store_true", help="in each fork: less to wait for where few need little")
    parser.add_argument("--things", type=Path, help="a folder of things that is kept from one start to the next")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        things = make_things_apart(options.things or Path(folder) / "things")
        if not options.import_late:
            import_everything()
        rows = {}
        for command in chosen(options.only):
            rows[command.name] = try_command(command, things, Path(folder), options)
            write_figures(options.out, "kills", rows)
    print_rows(rows)
    sys.exit(1 if any(row["what"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
