"""How fast a space is searched, in full: seconds, candidates a second, memory; and with ten times the images.

    python benchmarks/search.py --records val.records --profile here.profile [--early 3] [--workers 2]

The space that the project's goal names has 6 taps with 8 heads each, up to 3 early exits and the final one, 3 policies with 32
pixel thresholds and 16 quantiles of image threshold an exit: 4 billion candidates. With --any-last a deployment may end at any
exit, as `offramp search` lets it. The whole Pareto front is searched, which excludes less than a single limit does; then the
fastest that loses at most a point, its thresholds refined over all scores. Each search runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from offramp.artifacts import Profile, device_name, load_json, load_records
from offramp.search.estimate import Evidence
from offramp.search.explore import explore
from offramp.search.pareto import Limits
from offramp.specs import SearchSpec

PAPER = "the paper (MESS, ECCV 2022): less than one GPU-hour"


def measure(options: argparse.Namespace, goal: str, times: int) -> dict[str, float]:
    """Search once; seconds, candidates, the most memory of the process."""
    records = load_records(options.records)
    records = records.part(list(range(len(records.info.images))) * times)
    evidence = Evidence.of(records, load_json(options.profile, Profile))
    spec = SearchSpec(mode="input-dependent", max_exits=options.early, max_drop_pp=None if goal == "front" else 1.0)
    limits = Limits.of(spec, evidence)
    lasts = None if options.any_last else [len(evidence.exits) - 1]
    started = time.perf_counter()
    found = explore(evidence, limits, "front" if goal == "front" else limits.goal, lasts=lasts, workers=options.workers)
    seconds = time.perf_counter() - started
    assert found.winner is not None
    # The largest of the processes that helped, for each of them.
    own, others = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "images": evidence.images,
        "seconds": seconds,
        "candidates": found.effort.candidates,
        "judged": found.effort.judged,
        "refined": found.effort.refined,
        "million_a_second": found.effort.candidates / seconds / 1e6,
        "peak_memory_mb": (own + options.workers * others) / 1024,
        "winner_miou": found.winner.miou,
        "winner_latency_ms": found.winner.latency_ms,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--early", type=int, default=3)
    parser.add_argument("--any-last", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    results = {}
    for goal, times in (("front", 1), ("one point of mIoU", 1), ("front", 10)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            one = pool.submit(measure, options, goal, times).result()
        results[f"{goal}, {one['images']} images"] = one
        print(
            f"{goal}, {one['images']} images: {one['candidates']:,} candidates in {one['seconds']:.1f} s, "
            f"{one['million_a_second']:.0f} million a second; judged one by one {one['judged']:,}, refined {one['refined']:,}; "
            f"{one['peak_memory_mb']:.0f} MB"
        )
    print(PAPER)
    print(json.dumps({"benchmark": "search", "device": device_name(), "early": options.early, "results": results}))


if __name__ == "__main__":
    main()
