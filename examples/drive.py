"""A perception loop on a folder of frames: a deadline for every frame, and the answer that was there in time.

    python examples/drive.py PACKAGE FRAMES [--deadline-ms 30]

Needs `pip install offramp` alone. Where a frame is worth a closer look, ask on: `refine` gives each exit as it comes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from offramp import Predictor


def main() -> None:
    """Answer for every frame within the deadline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--deadline-ms", type=float, default=30.0)
    options = parser.parse_args()
    predictor = Predictor(options.package, mode="anytime")
    for path in sorted(options.frames.iterdir()):
        answer = predictor(path, deadline_ms=options.deadline_ms)
        unsure = float((answer.confidence < 0.5).mean())
        print(f"{path.name}: {answer.exit} after {answer.latency_ms:.1f} ms, {unsure:.0%} of the pixels unsure")


if __name__ == "__main__":
    main()
