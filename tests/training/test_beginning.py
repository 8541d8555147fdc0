"""How runs begin and go on: with which weights, and what must not be mixed is refused and leaves everything as it was."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from offramp.data.folder import open_split
from offramp.data.synthetic import draw_dataset
from offramp.errors import InputError
from offramp.models.checkpoint import WEIGHTS, load_network, load_network_file
from offramp.models.sources import build
from offramp.specs import TrainingSpec
from offramp.training.run_file import RUN, RunFile, read_run
from offramp.training.state import read_history
from offramp.training.train import train

QUICK = TrainingSpec(epochs=1, exit_epochs=0, crop=(48, 32), batch_size=4, seed=11)


@pytest.fixture
def finished(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def test_what_was_asked_is_written_down(trained_run, scenes):
    asked = RunFile.model_validate_json((trained_run / RUN).read_text(encoding="utf-8"))
    described = load_network_file(trained_run)
    assert asked.network == described.network
    assert asked.data_fingerprint == described.data_fingerprint
    assert (asked.data, asked.weights_sha256, asked.training.epochs) == (scenes.name, None, 2)
    assert described.size == (96, 64)
    assert len(described.classes) == len(described.palette) == described.network.num_classes


def test_objects_are_the_classes_below_an_even_share(trained_run, scenes):
    split = open_split(scenes, "train")
    classes = len(split.classes.names)
    pixels = sum(np.bincount(split.labels(i).ravel(), minlength=256)[:classes] for i in range(len(split)))
    expected = tuple(c for c in range(classes) if 0 < pixels[c] / pixels.sum() < 1 / classes)
    assert 0 < len(expected) < classes
    assert load_network_file(trained_run).object_classes == expected


def test_a_run_begins_with_another(begin, tmp_path):
    first = begin(tmp_path / "first", scheme="final-only").state_dict()
    network = begin(tmp_path / "second", start=tmp_path / "first", epochs=0, exit_epochs=1, heads=("fcn", "skip"))
    second = network.state_dict()
    assert len(network.spec.exits) == 4
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())  # bit for bit, phase 2 alone
    asked = RunFile.model_validate_json((tmp_path / "second" / RUN).read_text(encoding="utf-8"))
    assert asked.start_sha256 is not None
    assert asked.pretrained
    # Exits that both have begin with their heads, wherever they stand; training that does nothing shows it.
    third = begin(
        tmp_path / "third",
        start=tmp_path / "second",
        epochs=0,
        exit_epochs=1,
        learning_rate=1e-30,
        heads=("skip", "fcn"),
    )
    heads = dict(zip((early.name for early in network.spec.exits), network.early_heads, strict=True))
    for early, head in zip(third.spec.exits, third.early_heads, strict=True):
        theirs = dict(heads[early.name].named_parameters())
        assert all(torch.equal(weight, theirs[name]) for name, weight in head.named_parameters())


def test_a_run_cannot_begin_with_another_network(begin, finished, tmp_path):
    for options, message in (
        ({"final_head": "deeplab"}, "its final head is fcn/c256, not deeplab"),
        ({"start": tmp_path / "nothing"}, "not a run"),
    ):
        with pytest.raises(InputError, match=message):
            begin(tmp_path / "new", **({"start": finished} | options))
    (finished / WEIGHTS).rename(finished / "elsewhere")
    with pytest.raises(InputError, match=r"is not finished: it has no weights.safetensors"):
        begin(tmp_path / "new", start=finished)
    assert not (tmp_path / "new").exists()


def test_the_seed_decides_the_first_weights(scenes, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("offramp.training.train.run_phases", lambda run, *_: begun.append(run.network.state_dict()))
    for place, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(1)  # what was drawn before must not matter
        spec = QUICK.model_copy(update={"seed": seed})
        train(scenes, tmp_path / place, network="test_efficientnet", exits=1, training=spec)
    one, same, other = begun
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("classify.weight"))


def test_a_run_killed_in_its_first_epoch_needs_no_weights_again(scenes, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(build("test_resnet", 2).network.state_dict(), weights)
    options = {"network": "test_resnet", "exits": 1, "training": QUICK}

    def die(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(scenes, tmp_path / "run", weights=weights, progress=die, **options)
    train(scenes, tmp_path / "whole", weights=weights, **options)
    weights.unlink()
    train(scenes, tmp_path / "run", resume=True)
    resumed, whole = (load_file(tmp_path / name / WEIGHTS) for name in ("run", "whole"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


# ----------------------------------------------------------------------------------------------------------------- refused


@pytest.fixture(scope="module")
def other_scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("other") / "scenes"
    draw_dataset(root, images=12, size=(96, 64), seed=4)
    return root


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_other_data_is_refused(finished, other_scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"begun on other data than .*; give that data, or another --out"):
        train(other_scenes, finished, resume=True)
    assert contents(finished) == before


def test_a_changed_label_is_other_data(finished, scenes, tmp_path):
    changed = shutil.copytree(scenes, tmp_path / "scenes")
    label = open_split(changed, "val").samples[0].label
    shutil.copy(open_split(changed, "val").samples[1].label, label)
    with pytest.raises(InputError, match="begun on other data"):
        train(changed, finished, resume=True)


def test_an_earlier_run_is_not_overwritten(finished, scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"there is a run in .*; go on with it by --resume"):
        train(scenes, finished)
    assert contents(finished) == before


def test_resuming_a_finished_run_changes_nothing(finished, scenes):
    before = contents(finished)
    train(scenes, finished, resume=True, progress=lambda *_: pytest.fail("trained again"))
    assert contents(finished) == before


def test_a_run_does_not_go_on_with_other_options(finished, scenes):
    before = contents(finished)
    with pytest.raises(InputError, match=r"begun with epochs 2, not 7"):
        train(scenes, finished, resume=True, training=TrainingSpec(epochs=7))
    with pytest.raises(InputError, match=r"begun with exits 2, not 4"):
        train(scenes, finished, resume=True, exits=4)
    assert contents(finished) == before


def test_a_run_that_ran_away_goes_on_at_a_lower_learning_rate(scenes, tmp_path):
    fast = {"network": "test_efficientnet", "exits": 1}
    options = {"crop": (96, 64), "batch_size": 4, "epochs": 2, "exit_epochs": 0, "optimiser": "sgd"}
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"(became|not finite) .*the (layer|gradient) .*--resume with a lower"):
        train(scenes, run, training=TrainingSpec(learning_rate=1e6, **options), **fast)
    with pytest.raises(InputError, match=r"begun with learning-rate 1000000\.0, not 2000000\.0"):
        train(scenes, run, training=TrainingSpec(learning_rate=2e6, **options), resume=True, **fast)
    train(scenes, run, training=TrainingSpec(learning_rate=1e-3, **options), resume=True, **fast)
    load_network(run)
    assert read_run(run).training.learning_rate == 1e-3
    rates = [float(row["learning_rate"]) for row in read_history(run)]
    assert rates[-1] < 1e-3
    # A finished run stays as it was, and what was not given is not asked for.
    train(scenes, run, training=TrainingSpec(learning_rate=1e-4, **options), resume=True, **fast)
    train(scenes, run, training=TrainingSpec(**options), resume=True, **fast)
    assert read_run(run).training.learning_rate == 1e-3


def test_a_run_does_not_begin_with_weights_that_are_not_finite(scenes, finished, tmp_path):
    tensors = load_file(finished / WEIGHTS)
    tensors["backbone.bn1.running_var"][0] = float("nan")
    save_file(tensors, finished / WEIGHTS)
    with pytest.raises(InputError, match=r"hold NaN or infinity in backbone\.bn1\.running_var"):
        train(scenes, tmp_path / "next", start=finished, network="test_efficientnet", exits=1, training=QUICK)
    assert not (tmp_path / "next").exists()


def test_a_folder_of_something_else_is_left_alone(scenes, tmp_path):
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"cannot train into .*: something else is there"):
            train(scenes, tmp_path, network="test_efficientnet", exits=1, training=QUICK, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match=r"something else is there"):
        train(scenes, tmp_path / "letter.txt", network="test_efficientnet", exits=1, training=QUICK)


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b'{"kind": "run", "format": 9}'])
def test_a_damaged_description_is_refused(finished, scenes, damage):
    (finished / RUN).write_bytes(damage)
    with pytest.raises(InputError, match=rf"damaged .*{RUN}: "):
        train(scenes, finished, resume=True)


def test_bad_requests_leave_no_folder(scenes, tmp_path):
    run = tmp_path / "run"
    for options, message in (
        ({"network": "no_such_net"}, "timm has no network"),
        ({"network": "test_efficientnet", "exits": 40}, "40 exits asked for"),
        ({"network": "test_efficientnet", "exits": 1, "weights": tmp_path / "w.safetensors"}, "cannot read the weights"),
    ):
        with pytest.raises(InputError, match=message):
            train(scenes, run, training=QUICK, **options)
        assert not run.exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_cannot_be_read_is_found_before_anything_is_trained(scenes, tmp_path, split):
    data = tmp_path / "scenes"
    shutil.copytree(scenes, data)
    last = max((data / split / "images").iterdir())
    last.write_bytes(last.read_bytes()[:300])
    with pytest.raises(InputError, match=rf"cannot read the image .*{last.name}"):
        train(data, tmp_path / "run", network="test_efficientnet", exits=1, training=QUICK)
    assert not (tmp_path / "run").exists()


def test_validation_without_a_label_is_refused(scenes, tmp_path):
    data = tmp_path / "scenes"
    shutil.copytree(scenes, data)
    for path in (data / "val" / "labels").iterdir():
        Image.new("L", (96, 64), 255).save(path)
    with pytest.raises(InputError, match=r"no pixel of .*val is labelled"):
        train(data, tmp_path / "run", network="test_efficientnet", exits=1, training=QUICK)
