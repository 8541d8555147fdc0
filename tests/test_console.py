"""What is told while a step works, where standard error is a log."""

from offramp import console
from offramp.console import showing_progress


def lines(capsys, steps):
    with showing_progress() as progress:
        for done, total in steps:
            progress("run camera: fast", done, total)
    return capsys.readouterr().err.splitlines()


def test_a_step_whose_end_is_known_says_when_it_is_done(capsys):
    assert lines(capsys, [(done, 500) for done in range(1, 501)]) == ["run camera: fast  500/500  done"]


def test_a_step_without_an_end_says_something_now_and_then_alone(capsys, monkeypatch):
    assert lines(capsys, [(done, 0) for done in range(1, 501)]) == []
    monkeypatch.setattr(console, "LOG_EVERY_S", 0.0)
    assert lines(capsys, [(7, 0)]) == ["run camera: fast  7  so far"]
