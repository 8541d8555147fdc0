"""A device has the base install and nothing else: built here as a real environment, which then goes the whole way.

Other tests block imports in an environment that has everything; what `pip install offramp` brings along, they cannot see.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.artifacts import Deployment, Profile, RunLog, load_json, load_manifest, load_records

ROOT = Path(__file__).parents[1]

ABSENT = ("torch", "torchvision", "timm", "onnx", "safetensors", "av", "openvino", "jinja2")
"""What only the extras bring."""

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

# An index that does not answer should be given up before the test's own time is up.
PATIENCE = ("--timeout", "20", "--retries", "2", "--progress-bar", "off")


def call(*command, cwd):
    """Run a command as if from a shell in which nothing is set up for this environment."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def skip_without_index(folder, said):
    """Skip if pip cannot get even a small package that surely exists; then nothing is wrong with ours."""
    probe = call(*PIP, "download", *PATIENCE, "--no-deps", "--no-cache-dir", "--dest", folder, "annotated-types", cwd=folder)
    if probe.returncode:
        pytest.skip(f"pip reaches no package index here: {last_line(probe)}")
    pytest.fail(f"the base install failed, though pip reaches its index:\n{said}", pytrace=False)


def last_line(done):
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it says nothing")


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The folder of programs of an environment with the base install alone."""
    folder = tmp_path_factory.mktemp("device")
    source = folder / "source"
    # A copy: building leaves files beside the sources.
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    # Without a pip of its own, which takes longer than all the rest of it: this one installs there as well.
    made = call(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    assert made.returncode == 0, made.stderr
    programs = folder / "environment" / "bin"
    options = (*PATIENCE, "--no-compile", "-c", source / "constraints.txt")
    installed = call(*PIP, "--python", programs / "python", "install", *options, source, cwd=folder)
    if installed.returncode:
        skip_without_index(folder, installed.stdout + installed.stderr)
    return programs


@pytest.fixture(scope="module")
def way(device, package, scenes, tmp_path_factory):
    """A folder with what each verb of the device's way made, one process for each."""
    folder = tmp_path_factory.mktemp("way")
    images = scenes / "test" / "images"
    for verb in (
        ("profile", package, "--out", "here.profile", "--passes", 3, "--threads", 1),
        ("evaluate", package, scenes, "--split", "val", "--out", "val.records", "--threads", 1),
        (
            "search",
            "--records",
            "val.records",
            "--profile",
            "here.profile",
            "--mode",
            "input-dependent",
            "--out",
            "chosen.json",
        ),
        ("trim", package, "chosen.json", "--out", "small"),
        ("run", images, "--package", "small", "--out", "answers", "--threads", 1),
    ):
        done = call(device / "offramp", *verb, cwd=folder)
        assert done.returncode == 0, f"{verb[0]}:\n{done.stdout}{done.stderr}"
    return folder


def test_nothing_but_the_base_install_is_there(device, tmp_path):
    code = f"""
import importlib, json
import offramp
found = []
for name in {ABSENT!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    found.append(name)
print(json.dumps([offramp.__file__, found]))
"""
    done = call(device / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, found = json.loads(done.stdout)
    assert Path(where).is_relative_to(device.parent), "this is not the installed one"
    assert found == []


def test_the_whole_way_from_the_package_to_answers(way, package, scenes):
    exits = load_manifest(package).exits
    assert load_json(way / "here.profile", Profile).exits == exits
    records = load_records(way / "val.records")
    assert (records.info.split, records.info.exits, len(records.info.images)) == ("val", exits, 2)
    chosen = load_json(way / "chosen.json", Deployment)
    assert set(chosen.exits) <= set(exits)
    assert load_manifest(way / "small").exits == chosen.exits
    names = sorted(path.stem for path in (scenes / "test" / "images").iterdir())
    assert [frame.name for frame in load_json(way / "answers" / "run-log.json", RunLog).frames] == names
    assert sorted(path.stem for path in (way / "answers" / "labels").iterdir()) == names


def test_the_readmes_python_answers_one_image(device, way, scenes):
    image = min((scenes / "test" / "images").iterdir())
    code = """
import sys
from offramp import Predictor
answer = Predictor("small", threads=1)(sys.argv[1])
print(answer.exit, answer.labels.shape)
"""
    done = call(device / "python", "-c", code, image, cwd=way)
    assert done.returncode == 0, done.stderr
    exits = load_manifest(way / "small").exits
    assert done.stdout.strip() in {f"{name} (64, 96)" for name in exits}


NEEDS = {
    "openvino": ("profile", "{package}", "--out", "other.profile", "--engine", "openvino"),
    "video": ("run", "film.mp4", "--package", "{package}", "--out", "film"),
    "report": ("report", "{package}", "--out", "report.html"),
    "train": ("train", "{scenes}", "--out", "run"),
}


@pytest.mark.parametrize("extra", NEEDS)
def test_what_needs_an_extra_names_it_in_one_line(device, package, scenes, extra, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    words = (word.format(package=package, scenes=scenes) for word in NEEDS[extra])
    done = call(device / "offramp", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'offramp[{extra}]'" in last_line(done)
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}, "nothing was begun"
