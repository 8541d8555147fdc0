"""What is around the trials of `benchmarks/reliability`: figures that are kept, added up and printed, and the exit code."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "reliability"))

import script

TRIM = {"kills": 3, "wrong": 0, "at changes wrong": 0}


def finished(rows, out):
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        script.finish("kills", rows, out)
    return stopped.value.code


def test_figures_of_commands_that_are_not_tried_now_stay_and_are_added_up(tmp_path, capsys):
    out = tmp_path / "kills.json"
    assert finished([("trim", TRIM)], out) == 0
    assert finished([("run", {"kills": 4, "wrong": 0})], out) == 0
    commands = {"trim": TRIM, "run": {"kills": 4, "wrong": 0}}
    total = {"kills": 7, "wrong": 0, "at changes wrong": 0}
    assert json.loads(out.read_bytes()) == {"benchmark": "kills", "commands": commands, "all": total}
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "|", "4", "|", "0"]


def test_what_was_counted_is_kept_of_a_script_that_is_stopped(tmp_path):
    def rows():
        yield "trim", TRIM
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.finish("kills", rows(), tmp_path / "kills.json")
    assert json.loads((tmp_path / "kills.json").read_bytes())["commands"] == {"trim": TRIM}


@pytest.mark.parametrize("name", ["wrong", "at changes wrong"])
def test_a_wrong_trial_of_any_kind_is_exit_code_1(name):
    assert finished([("trim", TRIM | {name: 1}), ("run", TRIM)], None) == 1


def test_a_script_tries_the_commands_that_it_says_or_those_asked_for():
    parser = script.fault_parser("what it does", only=("train", "run"))
    assert parser.parse_args([]).only == ["train", "run"]
    assert parser.parse_args(["--only", "trim*", "--out", "x.json"]).only == ["trim*"]
    assert script.fault_parser(None).parse_args([]).only == ["*"]
