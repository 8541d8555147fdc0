"""The study's first tables: every exit's mIoU beside its time, on one device, and what single exits gain over all seeds.

    python benchmarks/study/table.py runs/study --packages runs/packages --out docs/results.json

For each finished run of exits: `offramp export STUDY/NAME --out PACKAGES/NAME`, then `offramp profile PACKAGES/NAME --threads 1
--out PACKAGES/NAME.here.profile`; this command joins both. MIoU is that of training's own measurement, on whole images. Of a
network that was trained with several seeds one is profiled: where its exits are and what they cost is the same in all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import RUNS

from offramp.artifacts import Profile, load_json
from offramp.console import print_table
from offramp.files import new_file

POINTS = (0.0, 0.5, 1.0, 2.0)
"""Of mIoU on val that a choice may lose against the network without exits, of the same seed."""


def joined(run: dict[str, Any], original: dict[str, Any] | None, costs: Profile) -> dict[str, Any]:
    """Every exit's figures, and those of the network without exits."""
    assert costs.original
    whole = costs.original.median_ms
    times = {name: costs.latency_ms((name,)) for name in costs.exits}
    exits = {
        name: {"val": run["miou"]["val"][name], "test": run["miou"]["test"][name], "ms": ms, "of_original": ms / whole}
        for name, ms in times.items()
    }
    alone = {split: original["miou"][split]["final"] if original else None for split in ("val", "test")}
    return {
        "device": costs.device,
        "engine": f"{costs.engine} {costs.engine_version}",
        "precision": costs.precision,
        "threads": costs.threads,
        "original": alone | {"ms": whole},
        "exits": exits,
    }


def seeds_of(runs: dict[str, Any], name: str) -> list[str]:
    """The runs of a network, whatever their seed, of which those without exits are there, too."""
    plain = name.partition("-seed")[0]
    return [run for run in runs if run.partition("-seed")[0] == plain and run.replace("-exits", "") in runs]


def chosen(runs: dict[str, Any], name: str, points: float, costs: Profile) -> dict[str, Any] | None:
    """The fastest exit that loses so much on val; None if even the final one loses more."""
    assert costs.original
    alone = runs[name.replace("-exits", "")]["miou"]
    miou, times = runs[name]["miou"], {exit_name: costs.latency_ms((exit_name,)) for exit_name in costs.exits}
    within = [one for one in times if miou["val"][one] >= alone["val"]["final"] - points / 100]
    if not within:
        return None
    best = min(within, key=lambda one: times[one])
    gains = {split: miou[split][best] - alone[split]["final"] for split in ("val", "test")}
    return {"run": name, "points": points, "exit": best, **gains, "faster": costs.original.median_ms / times[best]}


def over_seeds(choices: Sequence[dict[str, Any]], points: float) -> str:
    """How many times as fast, and what it gains on test: means, and from which to which."""
    found = [one for one in choices if one["points"] == points]
    faster, gains = ([one["faster"] for one in found], [100 * one["test"] for one in found])
    if not found:
        return ""
    several = len(found) > 1
    spread = f" ({min(faster):.2f} to {max(faster):.2f})" if several else ""
    around = f" ({min(gains):+.1f} to {max(gains):+.1f})" if several else ""
    return f"{sum(faster) / len(found):.2f}x{spread}, {sum(gains) / len(found):+.1f}{around}"


def main() -> None:
    """Join and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = json.loads((options.study / "study.json").read_text(encoding="utf-8"))["runs"]
    found, choices = {}, dict[str, list[dict[str, Any]]]()
    for name in RUNS:
        path = options.packages / f"{name}.here.profile"
        if name in runs and path.exists():
            costs = load_json(path, Profile)
            found[name] = joined(runs[name], runs.get(name.replace("-exits", "")), costs)
            each = [chosen(runs, run, points, costs) for run in seeds_of(runs, name) for points in POINTS]
            choices[name] = [one for one in each if one]
    with new_file(options.out) as temporary:
        temporary.write_text(
            json.dumps({"benchmark": "study", "runs": found, "choices": choices}, indent=1) + "\n", encoding="utf-8"
        )
    for name, one in found.items():
        alone = one["original"] | {"of_original": 1.0}
        rows = [line(what, each) for what, each in {**one["exits"], "trained without exits": alone}.items()]
        print_table(
            f"{name}: {one['engine']}, {one['threads']} threads", ["exit", "val", "test", "ms", "of it", "faster"], rows
        )
    seeds = {name: len(seeds_of(runs, name)) for name in choices}
    lines = [
        [f"{name}, {seeds[name]} seeds", *(over_seeds(each, points) for points in POINTS)]
        for name, each in choices.items()
        if each
    ]
    columns = [f"{points:g} points" for points in POINTS]
    print_table("one exit, chosen on val: times as fast as without exits, gain on test", ["network", *columns], lines)


def line(what: str, each: dict[str, float | None]) -> list[str]:
    """A row of the table."""
    ratio = each["of_original"]
    assert ratio
    mious = ("" if each[split] is None else f"{100 * (each[split] or 0):.1f}" for split in ("val", "test"))
    return [what, *mious, f"{each['ms']:.1f}", f"{ratio:.2f}", f"{1 / ratio:.2f}x"]


if __name__ == "__main__":
    main()
