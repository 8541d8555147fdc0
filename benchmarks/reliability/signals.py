"""Ctrl-C (SIGINT) and SIGTERM at random moments: exit code 130 or 143, one line, nothing damaged, and it can be gone on with.

python benchmarks/reliability/signals.py [--each 30] [--out docs/signals.json]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from commands import Command, chosen, leave_earlier, print_rows, write_figures
from forks import Ended, begin, import_everything, make_things_apart, run
from harness import Things
from wholeness import content, damage, leftovers

VERBS = ("train", "evaluate", "run")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
BEFORE_S = 0.1
"""Earlier, a fork is not yet what users start: they, too, are deaf until Python runs."""


def judge(ended: Ended, sign: signal.Signals) -> str:
    """What is wrong with how it ended; empty if nothing."""
    if ended.code == 0:
        return ""
    if ended.code != CODES[sign]:
        return f"ended with {ended.code}: {ended.said[-500:]}"
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        return f"traceback: {ended.said[-500:]}"
    # What a run answered is told as if it had come to its end.
    return "" if ended.lines or "stopped after" in ended.out else f"said nothing: {ended.said[-300:]}"


def try_command(command: Command, things: Things, root: Path, each: int, seed: int) -> dict[str, Any]:
    """Both signals, so often."""
    rng = Random(f"{seed} {command.name}")  # noqa: S311 - moments, no secrets
    counts, what, told = Counter[str](), [], root / "told"
    for _ in range(2):
        target = Path(tempfile.mkdtemp(dir=root)) / command.target
        whole = run(command.words(things, target), told)
    wanted, seconds = content(target), whole.seconds
    for sign in CODES:
        landed = 0
        while landed < each:
            target = Path(tempfile.mkdtemp(dir=root)) / command.target
            earlier = bool(command.earlier) and rng.random() < 0.5
            if earlier:
                leave_earlier(command, things, target)
            fork = begin(command.words(things, target), told)
            time.sleep(BEFORE_S + rng.uniform(0, 1) * max(seconds - BEFORE_S, 0))
            fork.send(sign)
            ended = fork.wait()
            if ended.code == 0 and not ended.lines:
                counts["after its end"] += 1
                seconds *= 0.95
            landed += ended.code != 0
            counts[f"by {sign.name}"] += ended.code != 0
            problem = judge(ended, sign) or damage(target) if not earlier or command.in_place else judge(ended, sign)
            counts["temporary files left"] += len(leftovers(target.parent))
            again = run([*command.words(things, target), *command.again], told)
            if not problem and again.code != 0:
                problem = f"given again it ended with {again.code}: {again.said[-300:]}"
            if not problem and (differing := [name for name, value in wanted.items() if content(target).get(name) != value]):
                problem = f"given again it made another {differing[0]}"
            counts["finished alike"] += not problem
            if problem:
                what.append(f"{sign.name}: {problem}")
                print(command.name, what[-1], flush=True)
    names = ("by SIGINT", "by SIGTERM", "after its end", "temporary files left", "finished alike")
    return {**{name: counts[name] for name in names}, "wrong": len(what), "what": what}


def main() -> None:
    """Interrupt, count, print; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VERBS))
    parser.add_argument("--each", type=int, default=30, help="how often each signal is sent to each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--things", type=Path, help="a folder of things that is kept from one start to the next")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        things = make_things_apart(options.things or Path(folder) / "things")
        import_everything()
        rows = {}
        for command in chosen(options.only):
            rows[command.name] = try_command(command, things, Path(folder), options.each, options.seed)
            write_figures(options.out, "signals", rows)
    print_rows(rows)
    sys.exit(1 if any(row["what"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
