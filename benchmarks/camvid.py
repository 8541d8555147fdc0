"""The README's real example: the whole way on CamVid, from ImageNet weights to the table.

    python benchmarks/camvid.py DATA --weights mobilenetv2_100.safetensors --out runs/camvid [--epochs 60] [--threads 1]

Training goes on where it stopped if the command is given again. The table's raw numbers are in OUT/result.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from offramp.console import showing_progress
from offramp.demo import whole_way
from offramp.specs import TrainingSpec
from offramp.training.train import train


def main() -> None:
    """Train unless that is done, then measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--exit-epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    spec = TrainingSpec(epochs=options.epochs, exit_epochs=options.exit_epochs, validate_every=5)
    with showing_progress() as progress:
        run = options.out / "run"
        train(
            options.data, run, network=options.network, weights=options.weights, training=spec, resume=True, progress=progress
        )
        result = whole_way(options.data, run, options.out, threads=options.threads, progress=progress)
    result.print()
    print(json.dumps({"benchmark": "camvid", **result.to_json()}))


if __name__ == "__main__":
    main()
