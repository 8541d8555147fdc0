import json

import pytest
from PIL import Image

from offramp import demo as demo_module
from offramp.artifacts import Deployment, load_json, load_records
from offramp.errors import InputError
from offramp.metrics import miou
from offramp.specs import TrainingSpec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo with small numbers; everything else is as users get it."""
    pytest.importorskip("jinja2")
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "IMAGES", 14)
        patch.setattr(demo_module, "SIZE", (96, 64))
        patch.setattr(demo_module, "NETWORK", "test_efficientnet")
        patch.setattr(demo_module, "EXITS", 2)
        patch.setattr(demo_module, "TRAINING", TrainingSpec(epochs=1, exit_epochs=1, crop=(96, 64), batch_size=4))
        return out, demo_module.demo(out)


def test_everything_that_was_promised_lies_there(finished):
    out, _ = finished
    for name in ("scenes", "run", "package", "val.records", "test.records", "here.profile", "report.html", "result.json"):
        assert (out / name).exists(), name
    for mode in ("budgeted", "anytime", "input-dependent"):
        assert load_json(out / f"{mode}.json", Deployment).mode == mode
        assert (out / f"package-{mode}" / "manifest.json").exists()
    assert len(list((out / "answers" / "labels").iterdir())) == 2
    with Image.open(out / "pictures.png") as sheet:
        assert sheet.width > 600


def test_the_table_agrees_with_the_records(finished, capsys):
    out, result = finished
    records = load_records(out / "test.records")
    means = miou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
    names = [row.name for row in result.rows]
    assert names == [*records.info.exits, "input-dependent deployment", "original network"]
    for row, mean in zip(result.rows, means, strict=False):
        assert row.miou == pytest.approx(mean)
    original = result.rows[-1]
    # The original network is the final exit's network: another path through other graphs, the same answers.
    assert original.miou == pytest.approx(means[-1], abs=2e-3)
    left = json.loads((out / "result.json").read_text())["side_by_side"]["exits"]
    chosen = load_json(out / "input-dependent.json", Deployment).exits
    for row in result.rows:
        assert row.share == (left.count(row.name) / len(left) if row.name in chosen else None)
    result.print()
    assert "original network" in capsys.readouterr().out
    assert json.loads((out / "result.json").read_text())["rows"][0]["name"] == names[0]


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        demo_module.demo(tmp_path)
