"""The study's first table: every exit's mIoU beside its time, on one device.

    python benchmarks/study/table.py runs/study --packages runs/packages --out docs/results.json

For each finished run of exits: `offramp export STUDY/NAME --out PACKAGES/NAME`, then `offramp profile PACKAGES/NAME --threads 1
--out PACKAGES/NAME.here.profile`; this command joins both. mIoU is that of training's own measurement, on whole images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plan import RUNS

from offramp.artifacts import Profile, load_json
from offramp.console import print_table
from offramp.files import new_file


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


def main() -> None:
    """Join and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = json.loads((options.study / "study.json").read_text(encoding="utf-8"))["runs"]
    found = {}
    for name in RUNS:
        path = options.packages / f"{name}.here.profile"
        if name in runs and path.exists():
            found[name] = joined(runs[name], runs.get(name.replace("-exits", "")), load_json(path, Profile))
    with new_file(options.out) as temporary:
        temporary.write_text(json.dumps({"benchmark": "study", "runs": found}, indent=1) + "\n", encoding="utf-8")
    for name, one in found.items():
        alone = one["original"] | {"of_original": 1.0}
        rows = [line(what, each) for what, each in {**one["exits"], "trained without exits": alone}.items()]
        print_table(
            f"{name}: {one['engine']}, {one['threads']} threads", ["exit", "val", "test", "ms", "of it", "faster"], rows
        )


def line(what: str, each: dict[str, float | None]) -> list[str]:
    """A row of the table."""
    ratio = each["of_original"]
    assert ratio
    mious = ("" if each[split] is None else f"{100 * (each[split] or 0):.1f}" for split in ("val", "test"))
    return [what, *mious, f"{each['ms']:.1f}", f"{ratio:.2f}", f"{1 / ratio:.2f}x"]


if __name__ == "__main__":
    main()
