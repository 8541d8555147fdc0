"""What each part of the design is worth: the search with that part taken away, chosen on val, replayed on the records of test.

    python benchmarks/ablations.py NAME --val val.records --test test.records --profile here.profile [--json FILE]

For each line the search finds the fastest input-dependent deployment that loses at most some points of mIoU on val. Heads are
compared where a package has several kinds (docs/search.md says how one with 48 was made). Nothing is run: times are the
profile's, which docs/search.md holds against the wall clock. FILE keeps what it holds of packages with other names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from in_turn import only
from pareto import replayed

from offramp.artifacts import Profile, Records, load_json, load_records
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.files import new_file
from offramp.progress import Progress
from offramp.search import search
from offramp.specs import FINAL, Mode, SearchSpec

POINTS = (0.5, 1.0, 2.0)
"""Of mIoU on val that may be lost."""


def lines(exits: Sequence[str]) -> dict[str, tuple[Sequence[str], dict[str, Any]]]:
    """By what is taken away: the exits that stay, and fields of `SearchSpec`."""
    taps = [tap for tap in dict.fromkeys(map(tap_of, exits)) if tap != FINAL]
    kinds = dict.fromkeys(kind_of(name) for name in exits if name != FINAL)

    def at(chosen: Sequence[str]) -> list[str]:
        return [name for name in exits if tap_of(name) in chosen or name == FINAL]

    found: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
        f"early exits: up to {count}": (exits, {"max_exits": count}) for count in (2, 1, 3)
    }
    found["exits: one, no policy"] = (exits, {"mode": "budgeted"})
    found |= {
        "taps: every second": (at(taps[1::2]), {}),
        "taps: the shallow half": (at(taps[: len(taps) // 2]), {}),
        "taps: the deep half": (at(taps[len(taps) // 2 :]), {}),
    }
    if len(kinds) > 1:
        for kind in kinds:
            kept = [name for name in exits if name == FINAL or kind_of(name) == kind]
            found[f"heads: {kind} alone"] = (kept, {})
        plain = [name for name in exits if name == FINAL or name.partition(":")[2] == "fcn"]
        found["heads: plain fcn alone"] = (plain, {})
    found |= {f"policy: {name} alone": (exits, {"policies": (name,)}) for name in ("mean", "all", "off-edges", "objects")}
    return found


def tap_of(name: str) -> str:
    """An exit's tap."""
    return name.partition(":")[0].partition("+")[0]


def kind_of(name: str) -> str:
    """What kind of head an exit has."""
    return name.partition(":")[2].partition("/")[0]


def one_line(
    exits: Sequence[str], fields: dict[str, Any], val: Records, test: Records, profile: Profile, progress: Progress
) -> list[dict[str, Any]]:
    """At each accepted loss: what was chosen, expected, and does on test."""
    part, costs = only(val, profile, exits)
    other, _ = only(test, profile, exits)
    mode: Mode = fields.get("mode", "input-dependent")
    rest = {"max_exits": 2} | {name: value for name, value in fields.items() if name != "mode"}
    found = []
    for points in POINTS:
        try:
            chosen = search(part, costs, SearchSpec(mode=mode, max_drop_pp=points, **rest), inputs={}, progress=progress)
        except InputError as error:
            found.append({"points": points, "none": str(error)})
            continue
        expected = {"miou": chosen.expected.miou, "latency_ms": chosen.expected.latency_ms}
        found.append({"points": points, "exits": chosen.exits, "val": expected, "test": replayed(chosen, other, costs)})
    return found


def cell(one: dict[str, Any], whole: float) -> str:
    """Time on val and on test, of the network without exits; mIoU on test."""
    if "none" in one:
        return "none"
    times = (one[split]["latency_ms"] / whole for split in ("val", "test"))
    return f"{' / '.join(f'{time:.2f}' for time in times)}, {100 * one['test']['miou']:.1f}"


def main() -> None:
    """Search, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the package is called in FILE")
    for name in ("val", "test", "profile"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    val, test = load_records(options.val), load_records(options.test)
    profile = load_json(options.profile, Profile)
    assert profile.original is not None
    whole = profile.original.median_ms
    with showing_progress() as progress:
        found = {
            name: one_line(exits, fields, val, test, profile, progress)
            for name, (exits, fields) in lines(val.info.exits).items()
        }
    rows = [[name, *(cell(one, whole) for one in each)] for name, each in found.items()]
    columns = [f"{points:g} points: of the time on val / on test, mIoU on test" for points in POINTS]
    print_table(f"ablations; the network without exits takes {whole:.1f} ms", ["what is left", *columns], rows)
    if options.json is not None:
        kept = json.loads(options.json.read_text(encoding="utf-8"))["packages"] if options.json.exists() else {}
        everything = {"benchmark": "ablations", "packages": kept | {options.name: {"original_ms": whole, "lines": found}}}
        with new_file(options.json) as temporary:
            temporary.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
