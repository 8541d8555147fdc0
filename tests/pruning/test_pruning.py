"""The step `prune`: what it leaves is a run like any other, and smaller; what cannot be done is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from offramp.artifacts import load_manifest
from offramp.cli import main
from offramp.data.synthetic import draw_dataset
from offramp.errors import InputError
from offramp.export.package import export
from offramp.models.checkpoint import NETWORK, WEIGHTS, load_network, load_network_file
from offramp.pruning import prune
from offramp.pruning.record import PRUNED, PRUNING, load_pruning, whole
from offramp.specs import TrainingSpec
from offramp.training.run_file import RUN, RunFile
from offramp.training.state import read_history
from offramp.training.train import train

SIZE = (96, 64)
KEEP = 0.6
NO_TRAINING = {"epochs": 0, "exit_epochs": 0}


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """A run with heads of several kinds, one of which fuses a shallower tap."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    spec = TrainingSpec(epochs=1, exit_epochs=0, crop=SIZE, batch_size=4, learning_rate=4e-3, train_images=0, zoom=(0.9, 1.1))
    options = {"exits": 2, "heads": ("fcn/c32", "skip/c32/r2"), "final_head": "skip/c64/r2/b1"}
    train(scenes, folder, network="test_efficientnet", training=spec, **options)
    return folder


@pytest.fixture(scope="module")
def pruned(run, scenes, tmp_path_factory):
    """Pruned and not trained."""
    out = tmp_path_factory.mktemp("runs") / "pruned"
    prune(run, scenes, out, keep=KEEP, **NO_TRAINING)
    return out


def test_it_has_fewer_channels_and_the_share_of_macs_that_was_asked_for(run, pruned):
    before, after = load_network(run)[0], load_network(pruned)[0]
    done = load_pruning(pruned)
    # Blocks of 8 channels are large in so small a network.
    assert KEEP - 0.08 < done.kept <= KEEP
    assert whole(done.before).parameters == sum(tensor.numel() for tensor in before.parameters())
    assert whole(done.after).parameters == sum(tensor.numel() for tensor in after.parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in before.state_dict().items()}
    narrower = {name: tuple(tensor.shape) for name, tensor in after.state_dict().items()}
    assert shapes.keys() == narrower.keys()
    changed = {name for name, shape in narrower.items() if shape != shapes[name]}
    assert {name.split(".")[0] for name in changed} == {"backbone", "early_heads", "final_head"}
    for name in changed:
        assert all(new <= old for new, old in zip(narrower[name], shapes[name], strict=True))
    classes = load_network_file(run).network.num_classes
    for name, shape in narrower.items():
        if "classify" in name:
            assert shape[0] == classes
    assert load_network_file(pruned).classes == load_network_file(run).classes


def test_it_is_before_fine_tuning_what_the_folder_pruned_holds(pruned):
    assert (pruned / WEIGHTS).read_bytes() == (pruned / PRUNED / WEIGHTS).read_bytes()
    assert (pruned / NETWORK).read_bytes() == (pruned / PRUNED / NETWORK).read_bytes()
    assert sorted(path.name for path in pruned.iterdir()) == [NETWORK, PRUNED, WEIGHTS]


def test_its_package_costs_less(pruned, tmp_path):
    export(pruned, tmp_path / "package")
    manifest = load_manifest(tmp_path / "package")
    assert manifest.exits == load_network_file(pruned).network.exit_names
    done = load_pruning(pruned)
    stages = sum(graph.macs for graph in manifest.stages)
    assert stages == pytest.approx(done.after["backbone"].macs, rel=0.03)
    assert stages < done.before["backbone"].macs
    # Heads' graphs judge pixels, too, and a node that a head shares with a later stage is in both.
    assert stages + sum(graph.macs for graph in manifest.heads) < 0.7 * whole(done.before).macs


def test_fine_tuning_is_as_the_run_was_trained_and_goes_on_after_a_kill(run, scenes, tmp_path):
    out = tmp_path / "out"

    def killed(what, done, _total):
        if what.startswith("phase 1") and done == 3:
            raise KeyboardInterrupt

    options = {"epochs": 2, "exit_epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        prune(run, scenes, out, keep=0.8, progress=killed, **options)
    assert not (out / WEIGHTS).exists()
    with pytest.raises(InputError, match=r"there is a run in .*--resume"):
        prune(run, scenes, out, keep=0.8, **options)
    with pytest.raises(InputError, match=r"was begun with keep 0\.8, not 0\.5"):
        prune(run, scenes, out, keep=0.5, resume=True)
    with pytest.raises(InputError, match=r"was begun with epochs 2, not 3"):
        prune(run, scenes, out, resume=True, epochs=3)
    prune(run, scenes, out, resume=True)  # with the options it was begun with
    assert [(row["phase"], row["epoch"]) for row in read_history(out)] == [("phase 1", "1"), ("phase 1", "2"), ("phase 2", "1")]
    asked = RunFile.model_validate_json((out / RUN).read_bytes())
    assert (asked.training.learning_rate, asked.training.zoom, asked.training.crop) == (2e-3, (0.9, 1.1), SIZE)
    before, after = load_file(out / PRUNED / WEIGHTS), load_file(out / WEIGHTS)
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    assert not torch.equal(before["backbone.conv_stem.weight"], after["backbone.conv_stem.weight"])
    assert load_network(out)[0].spec == load_network_file(out / PRUNED).network
    stamp = (out / WEIGHTS).stat().st_mtime_ns
    prune(run, scenes, out, resume=True)  # finished: nothing is done
    assert (out / WEIGHTS).stat().st_mtime_ns == stamp


def test_a_pruned_run_is_pruned_again(pruned, scenes, tmp_path):
    done = prune(pruned, scenes, tmp_path / "again", keep=0.85, **NO_TRAINING)
    assert done.before == load_pruning(pruned).after
    load_network(tmp_path / "again")


def test_training_goes_on_from_a_pruned_run_with_other_exits(pruned, scenes, tmp_path):
    spec = TrainingSpec(epochs=0, exit_epochs=1, crop=SIZE, batch_size=4, train_images=0)
    options = {"exits": 1, "heads": ("skip/c32/r2", "lraspp"), "final_head": "skip/c64/r2/b1"}
    train(scenes, tmp_path / "run", start=pruned, network="test_efficientnet", training=spec, **options)
    old, new = load_network(pruned)[0], load_network(tmp_path / "run")[0]
    assert new.spec.widths == old.spec.widths
    image = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(old(image)["final"], new(image)["final"])


def test_other_classes_are_refused(run, tmp_path):
    draw_dataset(tmp_path / "data", images=6, size=(64, 48), seed=1)
    classes = tmp_path / "data" / "classes.json"
    text = classes.read_text(encoding="utf-8")
    classes.write_text(text.replace('"road"', '"street"'), encoding="utf-8")
    assert text != classes.read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"answers the classes .* has others"):
        prune(run, tmp_path / "data", tmp_path / "out", **NO_TRAINING)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 1, -0.5, 1.5, float("nan")])
def test_no_share_is_refused(run, scenes, tmp_path, keep):
    with pytest.raises(InputError, match=r"keep must be a share between 0 and 1"):
        prune(run, scenes, tmp_path / "out", keep=keep)


def test_what_cannot_be_done_leaves_nothing(run, scenes, tmp_path):
    with pytest.raises(InputError, match=r"cannot keep as little as 0\.01 of the macs: 0\.\d+ are left"):
        prune(run, scenes, tmp_path / "out", keep=0.01, **NO_TRAINING)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    with pytest.raises(InputError, match=r"needs a folder of its own"):
        prune(run, scenes, run, **NO_TRAINING)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"something else is there"):
        prune(run, scenes, tmp_path / "mine", **NO_TRAINING)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"is not finished"):
        prune(unfinished, scenes, tmp_path / "out", **NO_TRAINING)


def test_a_description_with_widths_that_are_not_the_weights_is_refused(pruned, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pruned, folder)
    described = json.loads((folder / NETWORK).read_text(encoding="utf-8"))
    described["network"]["widths"] = {}
    (folder / NETWORK).write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError):
        load_network(folder)
    described["network"]["widths"] = {"conv_stem": [3, 10**12]}
    (folder / NETWORK).write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError, match=r"1000000000000 out after pruning, but it is built with"):
        load_network(folder)


def test_the_command_line(run, scenes, tmp_path, capsys):
    options = ("--keep", "0.7", "--epochs", "0", "--exit-epochs", "0")
    for arguments, status in (((*options, "--json"), 0), (options, 2), ((*options, "--resume"), 0)):
        with pytest.raises(SystemExit) as stopped:
            main(["prune", str(run), str(scenes), "--out", str(tmp_path / "out"), *arguments])
        assert stopped.value.code == status
    said = capsys.readouterr()
    first = json.loads(said.out.splitlines()[0])
    assert first["kept"] <= first["keep"] == 0.7
    assert next(iter(first["before"])) == "backbone"
    assert "of the macs stay" in said.out
    assert "million macs before" in said.out
    assert "--resume" in said.err
    assert (tmp_path / "out" / PRUNED / PRUNING).exists()
