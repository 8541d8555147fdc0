"""A few of the kills of `benchmarks/reliability/kills.py`: at random moments, and before some changes to files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RELIABILITY = Path(__file__).parents[1] / "benchmarks" / "reliability"


@pytest.fixture
def things(scenes, trained_run, package, tmp_path):
    root = tmp_path / "things"
    root.mkdir()
    for name, made in {"scenes": scenes, "run": trained_run, "package": package}.items():
        (root / name).symlink_to(made, target_is_directory=True)
    return root


def test_what_is_killed_leaves_nothing_damaged_and_can_be_given_again(things, tmp_path):
    figures = tmp_path / "kills.json"
    options = ("--random", 22, "--step", 8, "--import-late", "--things", things, "--out", figures)
    command = [sys.executable, RELIABILITY / "kills.py", "--only", "trim", *options]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())["commands"]["trim"]
    assert found["kills"] >= 2
    assert found["at changes"] >= 3
    assert (found["wrong"], found["at changes wrong"]) == (0, 0)
