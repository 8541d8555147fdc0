import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from offramp.artifacts import load_manifest
from offramp.errors import InputError
from offramp.export.graph import to_onnx
from offramp.export.package import export
from offramp.models.checkpoint import WEIGHTS, load_network
from offramp.models.confidence import pixel_confidence
from offramp.models.feature_maps import upsample


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def answers(package, image):
    """Every tensor of every graph, by ONNX Runtime alone."""
    manifest = load_manifest(package)
    tensors = {"image": image[None]}
    for entry in (*manifest.stages, *manifest.heads):
        session = onnxruntime.InferenceSession(package / entry.file, providers=["CPUExecutionProvider"])
        got = session.run(list(entry.outputs), {name: tensors[name] for name in entry.inputs})
        tensors |= dict(zip(entry.outputs, got, strict=True))
    return manifest, tensors


def test_every_exit_equals_pytorch(trained_run, package, image):
    network, _ = load_network(trained_run)
    manifest, tensors = answers(package, image)
    with torch.no_grad():
        wanted = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert manifest.exits == tuple(wanted)
    assert len(wanted) == 3
    for head in manifest.heads:
        scores = wanted[head.exit]
        assert head.scores_shape == tuple(scores.shape)
        got_scores, got_confidence, _ = (tensors[name] for name in head.outputs)
        assert np.abs(got_scores - scores.numpy()).max() < 1e-5 * scores.abs().max()
        np.testing.assert_allclose(got_confidence, pixel_confidence(scores, "top1").numpy(), atol=1e-5)


def test_labels_and_the_original_equal_pytorch(trained_run, package, image):
    network, _ = load_network(trained_run)
    manifest, tensors = answers(package, image)
    with torch.no_grad():
        scores = network(torch.from_numpy(image).permute(2, 0, 1)[None].float(), ["final"])["final"]
        wanted = upsample(scores, 16, 64, 96).argmax(dim=1).to(torch.uint8).numpy()
    head = manifest.head("final")
    labels = onnxruntime.InferenceSession(package / head.labels, providers=["CPUExecutionProvider"])
    original = onnxruntime.InferenceSession(package / manifest.original.file, providers=["CPUExecutionProvider"])
    # A tie of two classes may fall either way.
    assert (labels.run(None, {"scores": tensors[head.outputs[0]]})[0] == wanted).mean() > 0.999
    assert (original.run(None, {"image": image[None]})[0] == wanted).mean() > 0.999


def test_macs_equal_those_that_torch_counts(trained_run, package):
    network, _ = load_network(trained_run)
    manifest = load_manifest(package)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 96), ["final"])
    # FlopCounterMode counts two operations for a multiply-add. Upsampling 8 classes from 4 x 6 to 64 x 96: columns, then rows.
    upsampling = 8 * (4 * 96 * 6 + 64 * 96 * 4)
    assert manifest.original.macs == counter.get_total_flops() // 2 + upsampling
    stages = sum(entry.macs for entry in manifest.stages)
    assert stages + upsampling < manifest.original.macs < stages + upsampling + manifest.head("final").macs
    assert all(entry.macs > 0 for entry in (*manifest.stages, *manifest.heads))


def test_other_size_on_request(trained_run, tmp_path, image):
    manifest = export(trained_run, tmp_path / "package", size=(80, 48))
    assert manifest.size == (80, 48)
    manifest, tensors = answers(tmp_path / "package", np.ascontiguousarray(image[:48, :80]))
    assert tensors[manifest.head("final").outputs[0]].shape == (1, 8, 3, 5)


def test_unfinished_run_is_refused(trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"not finished.*--resume"):
        export(tmp_path / "run", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_somebody_elses_folder_is_left_alone(trained_run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years")
    with pytest.raises(InputError, match="will not replace"):
        export(trained_run, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years"


def test_a_network_that_gives_what_is_not_finite_is_refused(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    tensors = load_file(run / WEIGHTS)
    tensors["backbone.blocks.1.0.bn1.weight"][:] = 3e38
    tensors["backbone.blocks.1.0.bn1.running_var"][:] = 1e-6
    save_file(tensors, run / WEIGHTS)
    told = r"not fit for use: the layer backbone\.blocks\.1\.0\.bn1\S* gives (infinity|NaN) from a finite input; its weights"
    with pytest.raises(InputError, match=told):
        export(run, tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_graph_that_gives_what_is_not_finite_is_refused(trained_run, tmp_path, monkeypatch):
    # Whatever makes the graph differ from the network: it is judged by itself.
    def spoilt(*arguments):
        model = to_onnx(*arguments)
        tensor = next(one for one in model.graph.initializer if one.name.endswith("classify.weight"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32("inf"), tensor.name))
        return model

    monkeypatch.setattr("offramp.export.package.to_onnx", spoilt)
    told = (
        r"head-\d\.onnx is not fit for use: its node \S+ \(Conv\) of the layer \S+classify gives .*its weights are not finite"
    )
    with pytest.raises(InputError, match=told):
        export(trained_run, tmp_path / "package")
    assert not list(tmp_path.iterdir())
