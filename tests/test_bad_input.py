"""All cases of `benchmarks/reliability/bad_input.py`, which end with a right result or with one clear line."""

import sys
from pathlib import Path

import pytest

RELIABILITY = Path(__file__).parents[1] / "benchmarks" / "reliability"
sys.path.append(str(RELIABILITY))

from bad_input import CASES  # noqa: E402
from harness import make_things, try_case  # noqa: E402


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return make_things(tmp_path_factory.mktemp("things"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ends_right_or_with_one_clear_line(case, things, tmp_path):
    outcome = try_case(case, things, tmp_path / "case")
    assert not outcome.wrong, f"{outcome.wrong}: {outcome.said}"


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
