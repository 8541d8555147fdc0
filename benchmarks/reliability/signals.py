"""Ctrl-C (SIGINT) and SIGTERM at random moments: exit code 130 or 143, one line, nothing damaged, and it can be gone on with.

python benchmarks/reliability/signals.py [--each 30] [--out docs/signals.json]
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
from forks import Ended, begin, import_everything, run
from harness import Things
from script import Row, fault_parser, finish
from trials import Known, Tally, known, workplace
from wholeness import damage, leftovers

VERBS = ("train", "evaluate", "run")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
BEFORE_S = 0.1
"""Earlier, a fork is not yet what users start: they, too, are deaf until Python runs."""


def judge(ended: Ended, sign: signal.Signals) -> str:
    """What is wrong with how it ended; empty if nothing."""
    if ended.code == 0:
        return ""
    if ended.code != CODES[sign]:
        return ended.how
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        return f"traceback: {ended.said[-500:]}"
    # What a run answered is told as if it had come to its end.
    return "" if ended.lines or "stopped after" in ended.out else f"said nothing: {ended.said[-300:]}"


@dataclass
class Trial:
    """A command, interrupted again and again."""

    known: Known
    root: Path
    rng: Random
    tally: Tally
    seconds: float
    """That it takes."""

    def interrupt(self, sign: signal.Signals) -> bool:
        """Send a signal at a random moment, then let it go on to its end; whether the signal came before that."""
        command, counts = self.known.command, self.tally.counts
        earlier = bool(command.earlier) and self.rng.random() < 0.5
        target = self.known.target(self.root, earlier=earlier)
        fork = begin(self.known.words(target), self.known.told)
        time.sleep(BEFORE_S + self.rng.uniform(0, 1) * max(self.seconds - BEFORE_S, 0))
        fork.send(sign)
        ended = fork.wait()
        landed = ended.code != 0
        if not landed and not ended.lines:
            counts["after its end"] += 1
            self.seconds *= 0.95
        counts[f"by {sign.name}"] += landed
        counts["temporary files left"] += len(leftovers(target.parent))
        problem = judge(ended, sign) or ("" if earlier and not command.in_place else damage(target))
        again = self.known.unlike(target, run(self.known.words(target, again=True), self.known.told))
        problem = problem or (again and f"given again it {again}")
        counts["finished alike"] += not problem
        self.tally.note(sign.name, problem)
        return landed


def try_command(command: Command, things: Things, root: Path, each: int, seed: int) -> Row:
    """Both signals, so often."""
    rng = Random(f"{seed} {command.name}")  # noqa: S311 - moments, no secrets
    uninterrupted = known(command, things, root, root / "told")
    trial = Trial(uninterrupted, root, rng, Tally(command.name), uninterrupted.seconds)
    for sign in CODES:
        landed = 0
        while landed < each:
            landed += trial.interrupt(sign)
    return trial.tally.row("by SIGINT", "by SIGTERM", "after its end", "temporary files left", "finished alike")


def tried(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each command, interrupted."""
    with workplace(options.things) as (things, root):
        import_everything()
        for command in chosen(options.only):
            yield command.name, try_command(command, things, root, options.each, options.seed)


def main() -> None:
    """Interrupt, count, print; exit code 1 if something was wrong."""
    parser = fault_parser(__doc__, only=VERBS)
    parser.add_argument("--each", type=int, default=30, help="how often each signal is sent to each command")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    finish("signals", tried(options), options.out)


if __name__ == "__main__":
    main()
