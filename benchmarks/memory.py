"""Is the memory that a profile says a deployment takes what a process really takes?

    python benchmarks/memory.py PACKAGE --profile here.profile [--exits 6]

For some exits, spread over the depth: the sum that `search` limits by `--max-memory-bytes`, and the peak of a fresh process
that loads what the exit needs and answers three images by it. Beside them the original network in one graph: stages should
not need more than that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from offramp.artifacts import Profile, load_json
from offramp.console import print_table
from offramp.search.estimate import Costs

RUN = """
import sys
from pathlib import Path
import numpy as np
from offramp.artifacts import load_manifest
from offramp.profiling import peak_memory_bytes
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
package, engine, threads, name = sys.argv[1:]
engine, manifest = open_engine(engine, int(threads)), load_manifest(Path(package))
image = np.zeros((*manifest.size[::-1], 3), np.uint8)
if name == "original":
    graph = engine.load(Path(package) / manifest.original.file, manifest.original)
    for _ in range(3):
        graph({manifest.original.inputs[0]: engine.tensor(image[None])})
else:
    network = StagedNetwork(Path(package), engine, [name])
    for _ in range(3):
        for found in network.iter_exits(image):
            found.labels()
print(peak_memory_bytes())
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--exits", type=int, default=6)
    options = parser.parse_args()
    profile = load_json(options.profile, Profile)
    cost = Costs.of(profile).further["memory_bytes"]
    found: dict[str, dict[str, float]] = {}
    for place in np.unique(np.linspace(0, len(profile.exits) - 1, options.exits).round().astype(int)).tolist():
        name = profile.exits[place]
        found[name] = {"expected_bytes": cost.kept((place,)), "measured_bytes": peak_of(options.package, profile, name)}
    rows: list[list[str]] = []
    for name, one in found.items():
        expected, measured = one["expected_bytes"], one["measured_bytes"]
        rows.append([name, f"{expected / 1e6:.0f}", f"{measured / 1e6:.0f}", f"{expected / measured - 1:+.1%}"])
    original = peak_of(options.package, profile, "original")
    rows.append(["original network, one graph", "", f"{original / 1e6:.0f}", ""])
    print_table("memory of a process, MB", ["exit", "expected", "measured", "error"], rows)
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "device": profile.device,
                "engine": profile.engine,
                "exits": found,
                "original_bytes": original,
            }
        )
    )


def peak_of(package: Path, profile: Profile, name: str) -> int:
    """Peak of a fresh process that answers by an exit, or by the original network."""
    command = [sys.executable, "-c", RUN, str(package), profile.engine, str(profile.threads), name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
