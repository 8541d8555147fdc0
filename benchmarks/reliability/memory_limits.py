"""Less and less memory (RLIMIT_AS) for the verbs that take most: each works, or says in one line that memory ran out.

    python benchmarks/reliability/memory_limits.py [--out docs/memory_limits.json]

`begun`: the limit holds from the first instruction on, imports and all, in a process of its own. `loaded`: everything is
imported already, and so many megabytes more may be had: there libraries fail in the middle of the work. A crash in native code
(abort, segmentation fault) is counted, and so are lines that libraries print of their own accord.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from commands import Command, chosen
from forks import Ended, import_everything, limited, run
from harness import Things
from script import Row, fault_parser, finish
from trials import fresh_target, workplace
from wholeness import damage, leftovers

VERBS = ("train", "export", "evaluate", "run", "search")
BEGUN_MB = (100, 200, 300, 500, 700, 1000, 1500, 3000, 6000)
LOADED_MB = (0, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
MB = 1 << 20


def begun(words: list[object], megabytes: int, told: Path) -> Ended:
    """The command in a process of its own, from its start."""
    started = time.monotonic()
    command = [sys.executable, "-m", "offramp", *map(str, words)]
    limit = limited(resource.RLIMIT_AS, megabytes * MB)
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit, cwd=told.parent)
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def loaded(words: list[object], megabytes: int, told: Path) -> Ended:
    """The command in a fork that may take so much more than it has."""
    return run(words, told, limited(resource.RLIMIT_AS, _taken() + megabytes * MB))


def _taken() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def judge(ended: Ended, target: Path) -> str:  # noqa: PLR0911 - a line for each end
    """How a command ended: worked, refused, crashed; or what is wrong with that."""
    if bad := damage(target):
        return f"damaged: {bad}"
    if ended.code == 1 and "OpenBLAS error" in ended.said:
        return "crashed by OpenBLAS, which ends the process itself"
    if ended.code < 0:
        return f"crashed by {signal.Signals(-ended.code).name}"
    if ended.code == 0:
        return "worked" if target.exists() else "made nothing"
    if "Traceback" in ended.said:
        return f"traceback: {ended.said[-3000:]}"
    if ended.code == 2 and len(ended.lines) == 1 and "memory ran out" in ended.lines[0]:
        return "refused"
    return ended.how


def try_command(
    command: Command, things: Things, root: Path, how: Callable[[list[object], int, Path], Ended], sizes: tuple[int, ...]
) -> Row:
    """A ladder of limits."""
    counts, lines = Counter[str](), set[str]()
    for megabytes in sizes:
        target = fresh_target(command, things, root)
        ended = how(list(command.words(things, target)), megabytes, root / "told")
        result = judge(ended, target)
        kind = result.partition(" ")[0] if result.startswith("crashed") else result
        counts[kind if kind in ("worked", "refused", "crashed") else "wrong"] += 1
        counts["lines of libraries"] += sum(one.startswith(("OpenBLAS", "terminate")) for one in ended.said.splitlines())
        counts["temporary files left"] += len(leftovers(target.parent))
        lines.update(ended.lines)
        print(f"{command.name}, {how.__name__}, {megabytes} MB: {result}", flush=True)
    print(*sorted(lines), sep="\n    ", flush=True)
    names = ("worked", "refused", "crashed", "wrong", "lines of libraries", "temporary files left")
    return {"cases": len(sizes), **{name: counts[name] for name in names}}


def tried(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each command, in each way, with less and less memory."""
    with workplace(options.things) as (things, root):
        if "loaded" in options.how:
            import_everything()
        for command in chosen(options.only):
            for how, sizes in ((begun, BEGUN_MB), (loaded, LOADED_MB)):
                if how.__name__ in options.how:
                    yield f"{command.name}, {how.__name__}", try_command(command, things, root, how, sizes)


def main() -> None:
    """Limit, count, print; exit code 1 if something was wrong."""
    parser = fault_parser(__doc__, only=VERBS)
    parser.add_argument("--how", nargs="+", choices=("begun", "loaded"), default=["begun", "loaded"])
    options = parser.parse_args()
    finish("memory_limits", tried(options), options.out)


if __name__ == "__main__":
    main()
