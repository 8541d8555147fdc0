"""The README's commands are executed, or, where they would take hours, checked against the command line's own parser."""

import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
import typer

from offramp import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
CONSOLE = [text.strip().splitlines() for kind, text in BLOCKS if kind == "console"]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def test_the_way_verb_by_verb_and_the_python_example(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in chain.from_iterable(CONSOLE[:5]):
        words = shlex.split(command)
        assert words[0] == "offramp"
        with pytest.raises(SystemExit) as stopped:
            cli.main(words[1:])
        assert stopped.value.code == 0, command
    assert (tmp_path / "report.html").exists()
    capsys.readouterr()
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "(64, 96)" in said
    pytest.importorskip("segmentation_models_pytorch", reason="the example attaches exits to a network of that library")
    exec(compile(PYTHON[1], "README.md", "exec"), {})
    assert "deeplab/r4/b1/d" in capsys.readouterr().out


def test_the_real_examples_commands_are_ones_that_the_command_line_takes():
    root = typer.main.get_command(cli._app())
    for command in chain.from_iterable(CONSOLE[5:]):
        words = shlex.split(command)
        assert words[0] == "offramp"
        verb = root.commands[words[1]]
        # Raises for an unknown option, a missing one, or a value of the wrong kind.
        verb.make_context(words[1], words[2:])


def test_make_targets_and_scripts_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / script).is_file(), script


def test_the_tree_names_every_file_of_the_package():
    tree = README.split("src/offramp/\n", 1)[1].split("```", 1)[0]
    named = set(re.findall(r"^  ([\w./]+)", tree, re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "src" / "offramp").iterdir()}
    assert named == {name for name in there if not name.startswith(("__pycache__", "py.typed"))}


def test_linked_files_exist():
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
