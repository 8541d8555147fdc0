"""What is told while a step works, where standard error is a log; and what a terminal is given of strangers' names."""

import pytest

from offramp import console
from offramp.console import print_table, printable, showing_progress


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("road", "road"),
        ("Stra\N{LATIN SMALL LETTER SHARP S}e \N{NO-BREAK SPACE}1", "Stra\N{LATIN SMALL LETTER SHARP S}e \N{NO-BREAK SPACE}1"),
        ("a\nb", "a\nb"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\rb\x9b", r"a\rb\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_moves_a_cursor_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown


def test_a_table_takes_names_as_they_are(capsys):
    print_table("[bold]t", ["[red]c"], [["[/]x"], ["\x1b[2J"]])
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("[bold]t", "[red]c", "[/]x", r"\x1b[2J"))
    assert "\x1b" not in printed
