"""Is the memory that a profile says a deployment takes what a process really takes?

    python benchmarks/memory.py PACKAGE --profile here.profile [--exits 6]

For some exits, spread over the depth: the sum that `search` limits by `--max-memory-bytes`, and the peak of a fresh process
that loads what the exit needs and answers three images by it.
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
from offramp.profiling import peak_memory_bytes
from offramp.runtime.engines import StagedNetwork, open_engine
package, engine, threads, name = sys.argv[1:]
network = StagedNetwork(Path(package), open_engine(engine, int(threads)), [name])
width, height = network.manifest.size
for _ in range(3):
    for found in network.iter_exits(np.zeros((height, width, 3), np.uint8)):
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
        command = [sys.executable, "-c", RUN, str(options.package), profile.engine, str(profile.threads), name]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[name] = {"expected_bytes": cost.kept((place,)), "measured_bytes": peak}
    rows: list[list[str]] = []
    for name, one in found.items():
        expected, measured = one["expected_bytes"], one["measured_bytes"]
        rows.append([name, f"{expected / 1e6:.0f}", f"{measured / 1e6:.0f}", f"{expected / measured - 1:+.1%}"])
    print_table("memory of a process, MB", ["exit", "expected", "measured", "error"], rows)
    print(json.dumps({"benchmark": "memory", "device": profile.device, "engine": profile.engine, "exits": found}))


if __name__ == "__main__":
    main()
