"""What the policies are worth: who leaves early, at equal cost.

    python benchmarks/policies.py --val val.records --test test.records --early EXIT [EXIT ...] [--shares 0.25,0.5,0.75]

One early exit and the final one. At equal shares of images that leave early, which is equal cost, each policy sends those home
that it is surest of. The pixel threshold of a policy is the best on val at that share; mIoU is of the test split, where the
surest share leaves. `random` is the mean over draws, the oracle knows the labels: it starts with the images whose going on
gains least and exchanges pairs until none gains. A policy's part of the oracle's gain: (policy - random) / (oracle - random).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Records, load_records
from offramp.console import print_table
from offramp.metrics import miou
from offramp.policy import image_score
from offramp.search.space import policies
from offramp.specs import PolicyName

DRAWS = 300
TIES = 20
NAMES: dict[str, PolicyName] = {
    "plain mean": "mean",
    "share of sure pixels": "all",
    "off the edges": "off-edges",
    "over objects": "objects",
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """An early exit and the final one on a split."""

    records: Records
    early: int

    @property
    def images(self) -> int:
        """N."""
        return len(self.records.size)

    def miou(self, leaves: npt.NDArray[np.bool_]) -> Floats:
        """Of mixtures (S, N) -> (S,): who leaves early."""
        both = (self.records.correct, self.records.predicted)
        correct, predicted = (leaves @ what[:, self.early] + ~leaves @ what[:, -1] for what in both)
        return miou(correct, predicted, self.records.labelled.sum(axis=0))

    def of_surest(self, scores: Floats, share: float) -> float:
        """With the highest scores leaving: mean over draws, which decide among equal ones."""
        draws = np.random.default_rng(0).random((TIES, self.images))
        order = np.lexsort((draws, np.broadcast_to(-scores, draws.shape)), axis=1)
        leaves = np.zeros(draws.shape, bool)
        np.put_along_axis(leaves, order[:, : round(share * self.images)], values=True, axis=1)
        return float(self.miou(leaves).mean())

    def scores(self, region: int, threshold: int) -> Floats:
        """(N,)."""
        return image_score(self.records.sure[:, self.early], region, threshold)


def of_policy(name: PolicyName, val: Pair, test: Pair, share: float) -> float:
    """MIoU on test with the pixel threshold that is best on val."""
    tried = policies([name])
    found = [val.of_surest(val.scores(one.region, one.pixel_threshold), share) for one in tried]
    best = tried[int(np.argmax(found))]
    return test.of_surest(test.scores(best.region, best.pixel_threshold), share)


def of_random(test: Pair, share: float) -> float:
    """Mean over draws."""
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(test.images), (DRAWS, 1)), axis=1)
    return float(test.miou(orders < round(share * test.images)).mean())


def of_oracle(test: Pair, share: float) -> float:
    """The best mixture that exchanges of one image against another find."""
    number = round(share * test.images)
    leaves = np.arange(test.images)[None] < number
    value = float(test.miou(leaves)[0])
    while True:
        inside, outside = np.flatnonzero(leaves[0]), np.flatnonzero(~leaves[0])
        before = value
        for place in inside:
            swapped = np.repeat(leaves, len(outside), axis=0)
            swapped[:, place] = False
            swapped[np.arange(len(outside)), outside] = True
            values = test.miou(swapped)
            if values.max() > value:
                value, better = float(values.max()), swapped[[int(values.argmax())]]
        if value < before + 1e-12:
            return value
        leaves = better


def compare(val: Records, test: Records, early: str, shares: list[float]) -> dict[str, dict[str, float]]:
    """MIoU on test of each policy at each share; a table is printed."""
    ours, theirs = (Pair(records, records.info.exits.index(early)) for records in (val, test))
    results: dict[str, dict[str, float]] = {}
    for share in shares:
        found = {title: of_policy(name, ours, theirs, share) for title, name in NAMES.items()}
        results[str(share)] = {"random": of_random(theirs, share), **found, "oracle": of_oracle(theirs, share)}
    rows = []
    for title in ("random", *NAMES, "oracle"):
        cells = [title]
        for one in results.values():
            part = (one[title] - one["random"]) / (one["oracle"] - one["random"])
            cells += [f"{100 * one[title]:.2f}", f"{part:.0%}"]
        rows.append(cells)
    columns = [cell for share in shares for cell in (f"{share:.0%} leave", "of the oracle's gain")]
    everyone = np.array([[False] * theirs.images, [True] * theirs.images])
    final, alone = (100 * theirs.miou(everyone)).tolist()
    print_table(f"test mIoU, %: {early} ({alone:.1f}) and final ({final:.1f})", ["policy", *columns], rows)
    return results


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--early", nargs="+", required=True)
    parser.add_argument("--shares", default="0.25,0.5,0.75")
    options = parser.parse_args()
    val, test = (load_records(path) for path in (options.val, options.test))
    shares = [float(share) for share in options.shares.split(",")]
    print(json.dumps({"benchmark": "policies", "miou": {early: compare(val, test, early, shares) for early in options.early}}))


if __name__ == "__main__":
    main()
