"""A network's exits in fp32 and in int8 against the network itself in one graph of fp32, chosen on val, run on test.

    python benchmarks/lowered.py PACKAGE INT8 DATA --records P.records I.records --profiles P.profile I.profile --out DIR
        [--drops 0,1] [--images 117] [--json FILE]

INT8 is PACKAGE after `offramp export --precision int8`; records are of val. For each accepted drop against PACKAGE's final exit
the fastest single exit of either is trimmed, merged and run on evenly spaced images of test, image by image in turn.
"""

from __future__ import annotations

import argparse

from cascade import asked, measure, tell

from offramp.artifacts import Profile, load_json, load_records
from offramp.console import showing_progress
from offramp.errors import InputError
from offramp.export.joining import merge_stages
from offramp.metrics import miou
from offramp.progress import Progress
from offramp.runtime.predictor import Predictor
from offramp.search import search
from offramp.specs import SearchSpec
from offramp.trimming import trim


def prepare(options: argparse.Namespace, progress: Progress) -> dict[str, tuple[Predictor, float]]:
    """Choose, trim and load; with each what it is expected to have on val."""
    of_fp32 = load_records(options.records[0])
    sums = of_fp32.correct.sum(axis=0), of_fp32.predicted.sum(axis=0), of_fp32.labelled.sum(axis=0)[None]
    final = float(miou(*sums)[-1])
    found = {}
    for place, (kind, package) in enumerate((("fp32", options.large), ("int8", options.lowered))):
        records, profile = load_records(options.records[place]), load_json(options.profiles[place], Profile)
        for drop in map(float, options.drops.split(",")):
            name = f"{kind}, {drop:g} points"
            spec = SearchSpec(mode="budgeted", min_miou=final - drop / 100)
            try:
                chosen = search(records, profile, spec, inputs={}, progress=progress)
            except InputError as error:
                print(f"{name}: {error}")
                continue
            chosen.save(options.out / f"{name}.json")
            trim(package, options.out / f"{name}.json", options.out / name, merge=merge_stages)
            predictor = Predictor(options.out / name, engine=chosen.engine, threads=chosen.threads)
            found[name] = (predictor, chosen.expected.miou)
    return found


def main() -> None:
    """Choose, measure, print."""
    options = asked(__doc__, ("large", "lowered"), "0,1", 117)
    with showing_progress() as progress:
        found = measure(options, prepare(options, progress), progress)
    tell("lowered", found, options.json)


if __name__ == "__main__":
    main()
