"""The network in the box: whole, small, and used where no package is named."""

import json

import numpy as np
import pytest
from PIL import Image

from offramp.artifacts import load_manifest
from offramp.box import ABOUT, boxed_package
from offramp.cli import main
from offramp.data.folder import open_split
from offramp.evaluation import evaluate
from offramp.metrics import miou
from offramp.runtime.predictor import Predictor


def test_it_is_whole_small_and_tells_nothing_of_the_machine_that_made_it():
    manifest = load_manifest(boxed_package())
    assert manifest.precision == "int8"
    assert sum(path.stat().st_size for path in boxed_package().iterdir() if path.is_file()) < 8_000_000
    for path in boxed_package().glob("*.onnx"):
        assert b"site-packages" not in path.read_bytes()


def test_a_picture_needs_no_package(tmp_path, monkeypatch, capsys):
    Image.fromarray(np.full((90, 120, 3), 128, np.uint8)).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(["run", "street.jpg", *more])
        assert stopped.value.code == 0
        said = capsys.readouterr().out
    assert json.loads(said)["package"] == str(boxed_package())
    with Image.open(tmp_path / "answers" / "labels" / "street.png") as labels:
        assert labels.size == (120, 90)


def test_it_says_what_it_is(tmp_path, monkeypatch, capsys):
    Image.fromarray(np.zeros((36, 48, 3), np.uint8)).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["run", "street.png"])
    said = capsys.readouterr().out
    assert ABOUT in said
    assert "package in int8" in " ".join(said.split())
    assert "CamVid" in ABOUT
    assert "research use" in ABOUT


def test_it_is_as_good_as_it_says(shared):
    """On every eighth image of CamVid's test split: a sample, so within some points."""
    data = shared / "data" / "camvid"
    indices = range(0, len(open_split(data, "test")), 8)
    records = evaluate(boxed_package(), data, "test", images=indices)
    of_exits = miou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
    assert 0.62 < of_exits[0] < 0.69
    assert 0.62 < of_exits[1] < 0.69
    assert set(Predictor(boxed_package()).exits) == set(records.info.exits)
