"""One contract for every engine: answers, laziness, refusals."""

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from offramp.artifacts import MANIFEST
from offramp.errors import InputError
from offramp.files import sha256_of
from offramp.models.checkpoint import load_network
from offramp.runtime.engines import ENGINES, PROVIDERS, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import FINAL


@pytest.fixture(params=list(ENGINES))
def engine(request):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    elif PROVIDERS[request.param].name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {PROVIDERS[request.param].name}")
    return open_engine(request.param, 1)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(6).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def watched(engine, counts):
    """The engine, with a tally of every graph that it runs."""
    load = engine.load

    def counting_load(path, entry):
        graph = load(path, entry)

        def run(inputs):
            counts.append(path.stem)
            return graph(inputs)

        return run

    engine.load = counting_load
    return engine


def test_exits_equal_pytorch(engine, trained_run, package, image):
    network, _ = load_network(trained_run)
    with torch.no_grad():
        wanted = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    found = list(StagedNetwork(package, engine).iter_exits(image))
    assert [answer.exit for answer in found] == list(wanted)
    for answer in found:
        confidence = wanted[answer.exit].softmax(dim=1).amax(dim=1)[0].numpy()
        np.testing.assert_allclose(answer.confidence, confidence, atol=1e-5)
        assert answer.sure.shape == (3, 32)
        assert answer.sure[0, 0] == confidence.size


def test_who_stops_asking_stops_the_work(engine, package, image):
    ran = []
    network = StagedNetwork(package, watched(engine, ran))
    exits = network.iter_exits(image)
    next(exits)
    assert ran == ["stage-0", "head-0"]
    next(exits)
    exits.close()
    assert ran == ["stage-0", "head-0", "stage-1", "head-1"]


def test_heads_that_are_not_asked_do_not_run(engine, package, image):
    ran = []
    network = StagedNetwork(package, watched(engine, ran))
    (only,) = network.iter_exits(image, [FINAL])
    assert ran == ["stage-0", "stage-1", "stage-2", "head-2"]
    only.labels()
    assert ran[4:] == [network.manifest.head(FINAL).labels.removesuffix(".onnx")]
    assert list(only.steps_ms) == ["stage 0", "stage 1", "stage 2", "head final", "labels final"]


def test_nothing_deeper_than_asked_is_loaded(engine, package, image):
    loaded = []
    load = engine.load
    engine.load = lambda path, entry: loaded.append(path.stem) or load(path, entry)
    network = StagedNetwork(package, engine)
    loaded.clear()
    network = StagedNetwork(package, engine, exits=network.exits[:1])
    assert loaded == ["stage-0", "head-0", network.heads[0].labels.removesuffix(".onnx")]
    assert [answer.exit for answer in network.iter_exits(image)] == [network.heads[0].exit]


def test_an_answer_outlives_the_next_image(engine, package, image):
    network = StagedNetwork(package, engine)
    (first,) = network.iter_exits(image, [FINAL])
    labels, confidence, sure = first.labels().copy(), first.confidence.copy(), first.sure.copy()
    kept = first.labels()
    for other in network.iter_exits(255 - image):
        other.labels()
    np.testing.assert_array_equal(first.confidence, confidence)
    np.testing.assert_array_equal(first.sure, sure)
    np.testing.assert_array_equal(kept, labels)


def test_image_after_image_each_gets_its_own_answer(engine, package, image):
    network = StagedNetwork(package, engine)
    for seed in range(4):
        other = np.random.default_rng(seed).integers(0, 256, image.shape, dtype=np.uint8)
        # A network that has seen nothing yet cannot confuse images.
        (wanted,) = StagedNetwork(package, open_engine(engine.name, 1)).iter_exits(other, [FINAL])
        (got,) = network.iter_exits(other, [FINAL])
        np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-6)
        np.testing.assert_array_equal(got.sure, wanted.sure)
        assert (got.labels() == wanted.labels()).mean() > 0.999


def test_labels_of_an_image_that_is_gone_are_refused(engine, package, image):
    network = StagedNetwork(package, engine)
    (first,) = network.iter_exits(image, [FINAL])
    (second,) = network.iter_exits(255 - image, [FINAL])
    with pytest.raises(RuntimeError, match="before the next image"):
        first.labels()
    assert second.labels().shape == (64, 96)


def test_the_original_gives_the_final_exits_labels(engine, package, image):
    network = StagedNetwork(package, engine)
    (final,) = network.iter_exits(image, [FINAL])
    assert (network.load_original()(image) == final.labels()).mean() > 0.999


@pytest.mark.parametrize(
    "wrong", [np.zeros((96, 64, 3), np.uint8), np.zeros((64, 96, 3), np.float32), np.zeros((64, 96), np.uint8)]
)
def test_other_sizes_and_types_are_refused(engine, package, wrong):
    with pytest.raises(InputError, match=r"uint8 images of shape \(64, 96, 3\)"):
        next(StagedNetwork(package, engine).iter_exits(wrong))


def test_an_unknown_exit_is_refused(engine, package):
    with pytest.raises(InputError, match=r"no exit 'first'.*final"):
        StagedNetwork(package, engine, exits=["first"])


# ------------------------------------------------------------------------------------------- what is not finite, or not fitting


def spoilt(identity_of, package, folder, file, change):
    """A copy of the package with another graph in one place, and its hash set right."""
    copy = shutil.copytree(package, folder / "spoilt")
    model = onnx.load(copy / file)
    change(model.graph)
    onnx.save(model, copy / file)
    raw = json.loads((copy / MANIFEST).read_text())
    for entry in (*raw["stages"], *raw["heads"], *raw["labels"]):
        entry["sha256"] = sha256_of(copy / entry["file"])
    (copy / MANIFEST).write_text(json.dumps(raw | {"package_id": identity_of(raw)}))
    return copy


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("of_class", [1, None])
def test_scores_that_are_not_finite_are_an_error_and_not_class_0(
    engine, package, image, identity_of, tmp_path, value, of_class
):
    def change(graph):
        bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("classify.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[of_class] = value
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    network = StagedNetwork(spoilt(identity_of, package, tmp_path, "head-1.onnx", change), engine)
    exits = network.iter_exits(image)
    next(exits).labels()
    told = rf"{re.escape(network.exits[1])} gives NaN or infinite class scores for this image, .* fp32 by {engine.name}"
    with pytest.raises(InputError, match=told):
        next(exits)


@pytest.mark.parametrize(("part", "key", "index"), [("stages", "outputs", 0), ("heads", "outputs", 2), ("labels", "inputs", 0)])
def test_a_graph_that_takes_or_gives_other_tensors_is_refused(engine, package, tmp_path, part, key, index):
    copy = shutil.copytree(package, tmp_path / "package")
    raw = json.loads((copy / MANIFEST).read_text())
    name = raw[part][0][key][index]

    def renamed(value):
        if isinstance(value, dict):
            return {field: renamed(inner) for field, inner in value.items()}
        return [renamed(inner) for inner in value] if isinstance(value, list) else "stranger" if value == name else value

    fields = {field: renamed(value) if field in ("stages", "heads", "labels") else value for field, value in raw.items()}
    (copy / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(
        InputError, match=rf"the manifest and the graph differ in .({name}|stranger)., an input or output; export it again"
    ):
        StagedNetwork(copy, engine)


def test_a_graph_that_cannot_run_on_what_it_is_given_is_refused(engine, package, tmp_path):
    copy = shutil.copytree(package, tmp_path / "package")
    raw = json.loads((copy / MANIFEST).read_text())
    raw["size"] = [32, 32]
    (copy / MANIFEST).write_text(json.dumps(raw))
    network = StagedNetwork(copy, engine)
    with pytest.raises(InputError, match=rf"{engine.name} cannot run .*stage-0\.onnx: "):
        next(network.iter_exits(np.zeros((32, 32, 3), np.uint8)))
