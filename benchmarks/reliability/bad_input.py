"""Every malformed input that we could think of, met by the verb or call that users would give it to; counts at the end.

    python benchmarks/reliability/bad_input.py [--only 'image: *'] [--out docs/bad_input.json]

A case ends with a right result or with one clear line; see `harness`. Its lines are printed, to be read by people.
"""

from __future__ import annotations

import fnmatch
import sys
import tempfile
from collections import Counter
from pathlib import Path

import cases_api
import cases_artifacts
import cases_classes
import cases_data
import cases_frames
import cases_good_labels
import cases_images
import cases_labels
import cases_options
import cases_unusual
from harness import Case, Outcome, make_things, try_case
from script import script_parser, write_json

CASES: tuple[Case, ...] = (
    *cases_images.CASES,
    *cases_unusual.CASES,
    *cases_frames.CASES,
    *cases_labels.CASES,
    *cases_good_labels.CASES,
    *cases_data.CASES,
    *cases_classes.CASES,
    *cases_artifacts.CASES,
    *cases_options.CASES,
    *cases_api.CASES,
)


def line(outcome: Outcome) -> str:
    """How a case ended, and what it said."""
    ended = f"WRONG, {outcome.wrong}" if outcome.wrong else "right" if outcome.case.right else "refused"
    return f"{ended}: {' '.join(outcome.said.split())[:300]}"


def main() -> None:
    """Run the cases; exit code 1 if one of them ended wrongly."""
    parser = script_parser(__doc__)
    parser.add_argument("--only", default="*")
    options = parser.parse_args()
    chosen = [case for case in CASES if fnmatch.fnmatch(case.name, options.only)]
    with tempfile.TemporaryDirectory() as folder:
        things = make_things(Path(folder) / "things")
        outcomes = []
        for number, case in enumerate(chosen):
            outcomes.append(try_case(case, things, Path(folder) / f"case-{number}"))
            print(f"{number + 1}/{len(chosen)} {case.name}\n    {line(outcomes[-1])}", flush=True)
    wrong = [outcome.case.name for outcome in outcomes if outcome.wrong]
    doors = Counter(outcome.case.name.partition(":")[0] for outcome in outcomes)
    refused = sum(bool(outcome.case.says) for outcome in outcomes)
    print(f"{len(outcomes)} cases, {refused} to be refused, {len(outcomes) - refused} to end right; wrong: {len(wrong)}")
    values = {"benchmark": "bad_input", "cases": len(outcomes), "refused": refused, "doors": dict(doors), "wrong": wrong}
    write_json(options.out, values)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
