import json
import shutil

import numpy as np
import onnx
import pytest

from offramp.artifacts import MANIFEST, load_manifest
from offramp.cli import main
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.files import sha256_of
from offramp.lowering import lower
from offramp.metrics import miou
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.search import write_cascade


@pytest.fixture(scope="module")
def package8(decided_package, scenes, tmp_path_factory):
    """The package in int8, whatever that costs."""
    out = tmp_path_factory.mktemp("int8") / "package"
    lower(decided_package, out, "int8", scenes, images=4, max_drop_pp=100)
    return out


def weights(package, manifest):
    """Bytes of weights by type."""
    found = {}
    for entry in (*manifest.stages, *manifest.heads):
        for tensor in onnx.load(package / entry.file).graph.initializer:
            found[tensor.data_type] = found.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return found


def measured(package, data):
    records = evaluate(package, data, "val")
    sums = records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None]
    return dict(zip(records.info.exits, miou(*sums).tolist(), strict=True))


def answers(package, image, engine="onnxruntime"):
    network = StagedNetwork(package, open_engine(engine, 1))
    return {found.exit: found.labels() for found in network.iter_exits(image)}


def test_int8_is_in_the_files_and_in_the_answers(package8, decided_package):
    manifest, before = load_manifest(package8), load_manifest(decided_package)
    assert manifest.precision == "int8"
    assert manifest.exits == before.exits
    assert manifest.package_id != before.package_id
    assert manifest.lowering.float_layers == ()
    convolutions = sum(
        node.op_type == "Conv"
        for entry in (*before.stages, *before.heads)
        for node in onnx.load(decided_package / entry.file).graph.node
    )
    assert manifest.lowering.layers == convolutions
    stored = weights(package8, manifest)
    assert stored[onnx.TensorProto.INT8] > 10 * stored[onnx.TensorProto.FLOAT]
    assert sum(stage.parameter_bytes for stage in manifest.stages) < 0.45 * sum(
        stage.parameter_bytes for stage in before.stages
    )
    assert [stage.macs for stage in manifest.stages] == [stage.macs for stage in before.stages]
    assert manifest.original == before.original, "the network that it is compared with stays in fp32"
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    ours, theirs = answers(package8, image), answers(decided_package, image)
    for name in manifest.exits:
        assert 0.5 < (ours[name] == theirs[name]).mean() <= 1
    assert any((ours[name] != theirs[name]).any() for name in manifest.exits), "nothing was rounded"


def test_what_it_costs_is_measured_and_told(package8, decided_package, scenes):
    lowering = load_manifest(package8).lowering
    assert lowering.miou_before == pytest.approx(measured(decided_package, scenes))
    assert lowering.miou_after == pytest.approx(measured(package8, scenes))
    assert (lowering.images, lowering.calibration_images) == (2, 4)
    assert lowering.made_from == load_manifest(decided_package).package_id


def test_layers_that_cost_too_much_stay_in_float(decided_package, scenes, package8, tmp_path):
    lost = load_manifest(package8).lowering
    drops = {name: lost.miou_before[name] - lost.miou_after[name] for name in lost.miou_before}
    assert max(drops.values()) > 0, "a network that loses nothing tests nothing"
    limit = 100 * max(drops.values()) / 2
    told = []
    out = tmp_path / "package"
    lower(decided_package, out, "int8", scenes, images=4, max_drop_pp=limit, progress=lambda what, *_: told.append(what))
    lowering = load_manifest(out).lowering
    assert 0 < len(lowering.float_layers) < lowering.layers
    assert all(lowering.miou_before[name] - value <= limit / 100 for name, value in lowering.miou_after.items())
    assert lowering.miou_after == pytest.approx(measured(out, scenes))
    damages = [layer.damage for layer in lowering.float_layers]
    assert damages == sorted(damages, reverse=True)
    assert damages[0] > 0
    for layer in lowering.float_layers:
        assert drops[layer.exit] > limit / 100, "kept for an exit that lost little"
        stored = {tensor.name: tensor.data_type for tensor in onnx.load(out / layer.file).graph.initializer}
        node = next(node for node in onnx.load(out / layer.file).graph.node if node.name == layer.layer)
        assert stored[node.input[1]] == onnx.TensorProto.FLOAT
    assert "damage of each layer" in told


def test_what_nobody_takes_need_not_be_spared(decided_package, scenes, package8, tmp_path):
    lost = load_manifest(package8).lowering
    drops = {name: lost.miou_before[name] - lost.miou_after[name] for name in lost.miou_before}
    fine = [name for name, drop in drops.items() if drop <= 0]
    assert 0 < len(fine) < len(drops), "one that loses and one that does not are needed"
    lower(decided_package, tmp_path / "package", "int8", scenes, images=4, max_drop_pp=0, exits=fine)
    assert load_manifest(tmp_path / "package").lowering.float_layers == ()
    with pytest.raises(InputError, match="has no exit 'other'"):
        lower(decided_package, tmp_path / "more", "int8", scenes, images=4, exits=["other"])


def test_the_damage_is_that_of_the_layer_alone(decided_package, scenes, tmp_path):
    lower(decided_package, tmp_path / "package", "int8", scenes, images=4, max_drop_pp=0)
    worst = load_manifest(tmp_path / "package").lowering.float_layers[0]
    assert 0 < worst.damage < 0.5, "one layer of many changes some pixels, not most"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_halve_the_weights(decided_package, scenes, tmp_path, precision):
    lower(decided_package, tmp_path / "package", precision, scenes)
    manifest, before = load_manifest(tmp_path / "package"), load_manifest(decided_package)
    assert manifest.precision == precision
    assert sum(s.parameter_bytes for s in manifest.stages) < 0.6 * sum(s.parameter_bytes for s in before.stages)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for engine in ("onnxruntime", "openvino"):
        ours, theirs = answers(tmp_path / "package", image, engine), answers(decided_package, image, engine)
        assert all((ours[name] == theirs[name]).mean() > 0.97 for name in manifest.exits)


def test_what_fp16_cannot_hold_is_refused_with_the_layers_name(decided_package, scenes, identity_of, tmp_path):
    package = shutil.copytree(decided_package, tmp_path / "package")
    raw = json.loads((package / MANIFEST).read_text())
    path = package / raw["stages"][1]["file"]
    model = onnx.load(path)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    for tensor in model.graph.initializer:
        if tensor.name in first.input:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1e7, tensor.name))
    onnx.save(model, path)
    raw["stages"][1]["sha256"] = sha256_of(path)
    (package / MANIFEST).write_text(json.dumps(raw | {"package_id": identity_of(raw)}))
    told = rf"stage-1\.onnx is not fit for use: its node {first.name} \(Conv\) .*65504; take bf16"
    with pytest.raises(InputError, match=told):
        lower(package, tmp_path / "half", "fp16", scenes)
    assert not (tmp_path / "half").exists()
    lower(package, tmp_path / "half", "bf16", scenes)


def test_a_cascade_says_that_a_part_of_it_is_in_int8(decided_package, package8, tmp_path):
    for name, pair in {"a": (decided_package, package8), "b": (package8, decided_package)}.items():
        assert write_cascade(*pair, tmp_path / name).precision == "int8"


def test_both_engines_take_int8(package8):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    ours, theirs = answers(package8, image), answers(package8, image, "openvino")
    assert all((ours[name] == theirs[name]).mean() > 0.9 for name in ours)


def cli(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 0


def test_the_command_line_makes_it_of_a_run_and_tells_what_exits_lose(trained_run, scenes, tmp_path, capsys):
    out = tmp_path / "package"
    cli("export", trained_run, "--precision", "int8", "--data", scenes, "--out", out, "--max-drop-pp", "100")
    said = capsys.readouterr().out
    assert "mIoU on 2 images of val" in said
    assert "layers stay in float" in said
    assert load_manifest(out).precision == "int8"
    cli("export", out, "--single-file", tmp_path / "net.onnx", "--json")
    assert json.loads(capsys.readouterr().out)["exits"] == list(load_manifest(out).exits)


def trimmed(package, tmp_path):
    folder = tmp_path / "trimmed"
    shutil.copytree(package, folder)
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | {"trimmed_from": "0" * 64}))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"out": "same"}, "into itself"),
        ({"precision": "fp32"}, "lowered to int8, bf16 or fp16"),
        ({"images": 0}, "1 image or more"),
        ({"max_drop_pp": float("nan")}, "max-drop-pp 0 to 100"),
        ({"package": "int8"}, "is in int8 already"),
        ({"package": "trimmed"}, "lower the package that it was trimmed from"),
        ({"package": "cascade"}, "lower each of them"),
        ({"data": "elsewhere"}, "no dataset at"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_left(decided_package, package8, scenes, tmp_path, change, said):
    write_cascade(decided_package, decided_package, tmp_path / "both")
    others = {"int8": package8, "trimmed": trimmed(decided_package, tmp_path), "cascade": tmp_path / "both"}
    package = others.get(change.get("package"), decided_package)
    out = package if change.get("out") else tmp_path / "out"
    data = tmp_path / "none" if change.get("data") else scenes
    options = {name: change[name] for name in ("images", "max_drop_pp") if name in change}
    with pytest.raises(InputError, match=said):
        lower(package, out, change.get("precision", "int8"), data, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int8"], "needs --data"),
        (["--data", "x"], "--data goes with them"),
        (["--precision", "int4", "--data", "x"], "'int4' is not one of"),
        (["--labels", "1/3"], "'1/3' is not to be had"),
        (["--precision", "int8", "--data", "x", "--labels", "1/4"], "is a package: it has size"),
        (["--group", "road"], "not a group: 'road'"),
    ],
)
def test_bad_options_are_one_line(decided_package, trained_run, tmp_path, capsys, arguments, said):
    source = trained_run if "--group" in arguments else decided_package
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(source), "--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
