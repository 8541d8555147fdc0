"""kill -9 at random moments, and before every single change that a command makes to its files; counts at the end.

    python benchmarks/reliability/kills.py [--only train ...] [--random 200] [--no-changes] [--out docs/kills.json]

After each kill: what was whole is unchanged, every file under a name of its own is whole, and the same command, given again,
ends with what it makes uninterrupted, byte for byte where it does not tell the time. Nothing temporary stays behind then.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from commands import Command, chosen
from crashes import Crash
from forks import begin, import_everything, nothing, run
from harness import Things, tree
from script import Row, fault_parser, finish
from trials import Known, Tally, known, state, workplace
from wholeness import content, damage, leftovers

ALL = 200
SHARES = {
    "train": 35,
    "prune": 15,
    "sweep": 6,
    "export": 8,
    "export int8": 4,
    "export one file": 8,
    "evaluate": 36,
    "profile": 8,
    "search": 12,
    "trim": 18,
    "run": 28,
    "run video": 6,
    "report": 6,
    "data draw": 10,
}
"""How many of ALL random kills each command gets: the quick ones more."""
NAMES = (
    "kills", "after its end", "target old", "target new", "target absent", "target growing", "temporary files left",
    "finished alike",
)  # fmt: skip


@dataclass
class Trial:
    """A command whose end is known, killed again and again."""

    known: Known
    root: Path
    tally: Tally

    def __post_init__(self) -> None:
        self.seconds = self.known.seconds  # which changes with what else the machine does
        self.kept = tree(self.known.things.root)

    def kill(self, *, after_s: float = 0.0, crash: int = 0, earlier: bool, twice: bool = False) -> None:
        """Kill it once, and if asked while it goes on once more; then let it go on to its end."""
        target = self.known.target(self.root, earlier=earlier)
        before = state(target)
        problem = self._killed(target, after_s, crash) or self._judge(target, before)
        if twice and not problem and (target / "run.json").exists():
            problem = self._killed(target, after_s / 2, crash, again=True) or self._judge(target, before)
        problem = problem or self._go_on(target)
        if tree(self.known.things.root) != self.kept:
            problem = "changed what it was only to read"
        self.tally.note(f"killed after {f'change {crash}' if crash else f'{after_s:.3f} s'}, earlier {earlier}", problem)

    def _killed(self, target: Path, after_s: float, crash: int, *, again: bool = False) -> str:
        prepare = Crash(target.parent, crash) if crash else nothing
        fork = begin(self.known.words(target, again=again), self.known.told, prepare)
        if not crash:
            time.sleep(after_s)
            fork.send(signal.SIGKILL)
        ended = fork.wait()
        self.tally.counts["kills" if ended.code == -signal.SIGKILL else "after its end"] += 1
        if ended.code == 0 and not crash:
            self.seconds *= 0.95  # it was slower when its time was taken
        if self.known.command.name == "sweep":
            fork.orphans(patience_s=20)  # a profile that was begun is ended by itself
        elif orphans := fork.orphans():
            return f"{orphans} processes outlive it"
        return "" if ended.code in (0, -signal.SIGKILL) else ended.how

    def _judge(self, target: Path, old: dict[str, str]) -> str:
        """What is wrong with what lies there after a kill."""
        counts, in_place, new = self.tally.counts, self.known.command.in_place, state(target)
        counts["temporary files left"] += len(leftovers(target.parent))
        if old and new == old:
            counts["target old"] += 1
            return ""
        if not new:
            counts["target absent"] += 1
            return "what was there before is gone" if old else ""
        counts["target growing" if in_place else "target new"] += 1
        if gone := old.keys() - new.keys() if in_place else ():
            return f"{min(gone)} is gone"
        return damage(target) or ("" if in_place or content(target) == self.known.wanted else "neither old nor new")

    def _go_on(self, target: Path) -> str:
        """What is wrong where the same command is given again."""
        ended = run(self.known.words(target, again=True), self.known.told)
        problem = self.known.unlike(target, ended)
        if not problem and (left := leftovers(target.parent)):
            problem = f"left {left[0].name}"
        if problem:
            return f"given again it {problem}"
        if not self.known.command.in_place:
            self.seconds = 0.7 * self.seconds + 0.3 * ended.seconds
        self.tally.counts["finished alike"] += 1
        return ""

    def changes(self, *, earlier: bool) -> int:
        """How many changes to files it makes."""
        target = self.known.target(self.root, earlier=earlier)
        crash = Crash(target.parent)
        ended = run(self.known.words(target), self.known.told, crash)
        assert ended.code == 0, ended.said
        return crash.changes


def at_random(trial: Trial, kills: int, seed: int) -> None:
    """Kill at random moments of its whole run time, a third of them near its end."""
    command = trial.known.command
    rng = Random(f"{seed} {command.name}")  # noqa: S311 - moments, no secrets
    while trial.tally.counts["kills"] < kills:
        moment = rng.uniform(0.85, 1.05) if rng.random() < 1 / 3 else rng.uniform(0, 0.9)
        earlier = bool(command.earlier) and bool(rng.random() < 0.5)
        trial.kill(after_s=moment * trial.seconds, earlier=earlier, twice=bool(command.again) and bool(rng.random() < 0.5))


def at_changes(trial: Trial, step: int) -> None:
    """Kill before every change to files, with nothing and with something whole at the target."""
    for earlier in [False, True] if trial.known.command.earlier else [False]:
        for number in range(1, trial.changes(earlier=earlier) + 1, step):
            trial.kill(crash=number, earlier=earlier)


def try_command(command: Command, things: Things, root: Path, options: argparse.Namespace) -> Row:
    """All kills of one command, counted."""
    uninterrupted = known(command, things, root, root / "told")
    random = Trial(uninterrupted, root, Tally(command.name))
    at_random(random, round(SHARES[command.name] * options.random / ALL), options.seed)
    row = random.tally.row(*NAMES)
    if not options.no_changes:
        every = Trial(uninterrupted, root, Tally(command.name))
        at_changes(every, options.step)
        names = {"at changes": "kills", "at changes wrong": "wrong", "at changes alike": "finished alike"}
        row |= {name: every.tally.counts[counted] for name, counted in names.items()}
    return row


def tried(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each command, killed."""
    with workplace(options.things) as (things, root):
        if not options.import_late:
            import_everything()
        for command in chosen(options.only):
            yield command.name, try_command(command, things, root, options)


def main() -> None:
    """Kill, count, print; exit code 1 if something was wrong."""
    parser = fault_parser(__doc__)
    parser.add_argument("--random", type=int, default=ALL, help="random kills, of all commands together")
    parser.add_argument("--no-changes", action="store_true", help="not before every change to files")
    parser.add_argument("--step", type=int, default=1, help="kill before every so manieth change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--import-late", action="store_true", help="in each fork: less to wait for where few need little")
    options = parser.parse_args()
    finish("kills", tried(options), options.out)


if __name__ == "__main__":
    main()
