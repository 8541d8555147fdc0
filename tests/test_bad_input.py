"""All cases of `benchmarks/reliability/bad_input.py`, which end with a right result or with one clear line.

In a process of their own: what they give to engines, to be refused, is not to be met again by other tests.
"""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

RELIABILITY = Path(__file__).parents[1] / "benchmarks" / "reliability"


@pytest.mark.timeout(1200)
def test_every_case_ends_right_or_with_one_clear_line():
    command = [sys.executable, RELIABILITY / "bad_input.py"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=1200, check=False)
    lines = done.stdout.splitlines()
    wrong = [f"{before} {line}" for before, line in pairwise(lines) if line.startswith("    WRONG")]
    assert not wrong
    assert done.returncode == 0, done.stderr[-2000:]
    assert lines[-1].endswith("wrong: 0")


def test_names_are_unique():
    sys.path.append(str(RELIABILITY))
    try:
        from bad_input import CASES
    finally:
        sys.path.remove(str(RELIABILITY))
    assert len({case.name for case in CASES}) == len(CASES)
