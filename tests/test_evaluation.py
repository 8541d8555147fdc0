"""Records, counted again: ONNX Runtime run by hand on the package's files, pixels compared class by class."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from offramp.artifacts import MANIFEST, Manifest, load_json
from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.evaluation import evaluate, side_by_side
from offramp.files import sha256_of
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork


@pytest.fixture(scope="module")
def decided(package, identity_of, tmp_path_factory):
    """The package with all class scores times 32, so that after two epochs some pixels are sure and others are not."""
    import onnx
    from onnx import numpy_helper

    folder = tmp_path_factory.mktemp("decided") / "package"
    shutil.copytree(package, folder)
    raw = json.loads((folder / MANIFEST).read_text())
    for head in raw["heads"]:
        model = onnx.load(folder / head["file"])
        last = next(node for node in model.graph.node if head["outputs"][0] in node.output)
        for tensor in model.graph.initializer:
            if tensor.name in last.input:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 32, tensor.name))
        onnx.save(model, folder / head["file"])
        head["sha256"] = sha256_of(folder / head["file"])
    (folder / MANIFEST).write_text(json.dumps(raw | {"package_id": identity_of(raw)}))
    return folder


@pytest.fixture(scope="module")
def other_sizes(scenes, tmp_path_factory):
    """Three labelled images of other sizes than the package's, with void in their labels."""
    root = tmp_path_factory.mktemp("data") / "other"
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "labels").mkdir()
    shutil.copy(scenes / "classes.json", root)
    rng = np.random.default_rng(4)
    for name, (width, height) in (("a", (70, 50)), ("b", (130, 120)), ("c", (96, 64))):
        image = np.full((height, width, 3), 255, np.uint8)
        image[: height // 2] = rng.integers(0, 256, (height // 2, width, 3))
        Image.fromarray(image).save(root / "test" / "images" / f"{name}.png")
        labels = rng.choice([0, 1, 2, 3, 5, 7, 255], (height, width)).astype(np.uint8)
        Image.fromarray(labels).save(root / "test" / "labels" / f"{name}.png")
    return root


def by_hand(package, image):
    """Class scores (C, h, w) and labels (H, W) of every exit: all sessions run in file order, tensors passed on by name."""
    raw = json.loads((package / MANIFEST).read_text())

    def session_run(entry, given):
        session = onnxruntime.InferenceSession(str(package / entry["file"]), providers=["CPUExecutionProvider"])
        names = [tensor.name for tensor in session.get_outputs()]
        return dict(zip(names, session.run(names, {i.name: given[i.name] for i in session.get_inputs()}), strict=True))

    tensors = {"image": image[None]}
    for stage in raw["stages"]:
        tensors |= session_run(stage, tensors)
    answers = []
    for head in raw["heads"]:
        scores = session_run(head, tensors)[f"{head['exit']}/scores"]
        entry = next(entry for entry in raw["labels"] if entry["file"] == head["labels"])
        answers.append((scores[0], session_run(entry, {"scores": scores})["labels"][0]))
    return raw, answers


def sure_by_hand(scores, thresholds, objects):
    """Pixels that reach each threshold: over all, off the edges, over objects. Confidence is the largest probability."""
    scores = scores.astype(np.float64)
    shifted = np.exp(scores - scores.max(axis=0))
    confidence = (shifted / shifted.sum(axis=0)).max(axis=0)
    labels = scores.argmax(axis=0)
    height, width = labels.shape
    counts = np.zeros((3, len(thresholds)), np.int64)
    near = 0
    for y in range(height):
        for x in range(width):
            around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            near += any(abs(confidence[y, x] - threshold) < 1e-6 for threshold in thresholds)
            for index, threshold in enumerate(thresholds):
                if confidence[y, x] >= threshold:
                    counts[0, index] += 1
                    counts[1, index] += bool((around == labels[y, x]).all())
                    counts[2, index] += int(labels[y, x]) in objects
    return counts, near


def iou_by_hand(pairs, classes):
    """Mean IoU over the classes that are labelled, from all pixels of (answer, labels) pairs together."""
    values = []
    for index in range(classes):
        both = sum(int(((answer == index) & (labels == index)).sum()) for answer, labels in pairs)
        either = sum(int((((answer == index) | (labels == index)) & (labels < classes)).sum()) for answer, labels in pairs)
        if any((labels == index).any() for _, labels in pairs):
            values.append(both / either)
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def records(decided, other_sizes):
    return evaluate(decided, other_sizes, "test", threads=1)


def test_early_exits_differ_from_the_final_one_and_that_one_not(records):
    assert (records.differing[:, :-1] > 0).any()
    assert not records.differing[:, -1].any()
    assert (records.differing <= records.size[:, None]).all()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_records_equal_counting_by_hand(decided, other_sizes, records, index):
    name = "abc"[index]
    image = Image.open(other_sizes / "test" / "images" / f"{name}.png")
    labels = np.asarray(Image.open(other_sizes / "test" / "labels" / f"{name}.png"))
    fitted = np.array(image.resize((96, 64), Image.Resampling.BILINEAR))
    raw, answers = by_hand(decided, fitted)
    for exit_index, (scores, answer) in enumerate(answers):
        whole = np.asarray(Image.fromarray(answer).resize(image.size, Image.Resampling.NEAREST))
        known = labels != 255
        last = np.asarray(Image.fromarray(answers[-1][1]).resize(image.size, Image.Resampling.NEAREST))
        assert records.differing[index, exit_index] == (whole != last).sum()
        for c in range(8):
            assert records.correct[index, exit_index, c] == ((whole == c) & (labels == c)).sum()
            assert records.predicted[index, exit_index, c] == ((whole == c) & known).sum()
            assert records.labelled[index, c] == (labels == c).sum()
        sure, near = sure_by_hand(scores, raw["pixel_thresholds"], raw["object_classes"])
        assert np.abs(records.sure[index, exit_index] - sure).sum() <= 3 * near
    sure = records.sure[index, :, 0]
    assert (sure[:, 0] > sure[:, 16]).any(), "some pixels are unsure, or the comparison says nothing"
    assert (sure[:, 16] > 0).any()


def test_records_say_what_they_are_of(decided, other_sizes, records):
    manifest = load_json(decided / MANIFEST, Manifest)
    info = records.info
    assert (info.split, info.images, info.engine, info.precision) == ("test", ("a", "b", "c"), "onnxruntime", "fp32")
    assert (info.package_id, info.exits, info.classes) == (manifest.package_id, manifest.exits, manifest.classes)
    assert info.data_fingerprint == open_split(other_sizes, "test").fingerprint()
    assert records.labelled.sum(axis=1).tolist() == [
        int((np.asarray(Image.open(path)) != 255).sum()) for path in sorted((other_sizes / "test" / "labels").iterdir())
    ], "at the labels' own resolution, without void"


def test_images_of_the_packages_size(decided, scenes):
    told = []
    found = evaluate(decided, scenes, "val", threads=1, progress=lambda *step: told.append(step[1:]))
    assert told == [(1, 2), (2, 2)]
    assert found.correct.shape == (2, 3, 8)
    assert found.sure.dtype == np.int64
    # What is counted as sure at the first threshold is every pixel of the head's resolution.
    assert found.sure[:, :, 0, 0].tolist() == [[16 * 24, 8 * 12, 4 * 6]] * 2


def test_openvino_counts_nearly_the_same(decided, other_sizes, records):
    pytest.importorskip("openvino")
    other = evaluate(decided, other_sizes, "test", engine="openvino", threads=1)
    assert other.info.engine == "openvino"
    np.testing.assert_array_equal(other.labelled, records.labelled)
    assert np.abs(other.predicted - records.predicted).sum() <= 0.01 * records.predicted.sum()
    assert np.abs(other.sure - records.sure).sum() <= 0.01 * records.sure.sum()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda names: [*names[:2], "lava", *names[3:]], "has 8 classes, the package 8; .* class 2: 'lava' against 'road'"),
        (lambda names: names[:-1], "has 7 classes, the package 8; .* class 7: None against 'person'"),
        (lambda names: [*names, "kite"], "has 9 classes, the package 8; .* class 8: 'kite' against None"),
        (lambda names: names[::-1], "class 0: 'person' against 'sky'"),
    ],
)
def test_other_classes_are_refused(decided, other_sizes, tmp_path, change, difference):
    root = shutil.copytree(other_sizes, tmp_path / "data")
    raw = json.loads((root / "classes.json").read_text())
    (root / "classes.json").write_text(json.dumps({"classes": change(raw["classes"]), "void_index": 255}))
    with pytest.raises(InputError, match=difference):
        evaluate(decided, root, "test", threads=1)
    predictor = Predictor(decided, threads=1)
    with pytest.raises(InputError, match=difference):
        side_by_side(predictor, predictor.network.load_original(), root, "test")


def test_bad_data_and_packages_are_refused(decided, other_sizes, tmp_path):
    with pytest.raises(InputError, match="no split 'val'"):
        evaluate(decided, other_sizes, "val", threads=1)
    with pytest.raises(InputError, match="not a package"):
        evaluate(tmp_path / "nothing", other_sizes, "test")
    void = tmp_path / "void"
    shutil.copytree(other_sizes, void)
    for path in (void / "test" / "labels").iterdir():
        with Image.open(path) as picture:
            Image.new("L", picture.size, 255).save(path)
    with pytest.raises(InputError, match=r"no pixel of .*test is labelled with a class"):
        evaluate(decided, void, "test", threads=1)


# ----------------------------------------------------------------------------------------------------------- side by side


@pytest.fixture
def predictor(decided, records, deployment_of, tmp_path):
    """Input-dependent, with a bar between the scores of the first two images at the first exit."""
    sure = records.sure[:, 0, 0]
    shares = sure / sure[:, :1]
    gaps = np.abs(shares[0] - shares[1])
    threshold = int(gaps.argmax())
    assert gaps[threshold] > 0, "the images must differ for the test to say something"
    folder = shutil.copytree(decided, tmp_path / "deployed")
    manifest = load_json(folder / MANIFEST, Manifest)
    deployment = deployment_of(
        manifest,
        mode="input-dependent",
        exits=(manifest.exits[0], "final"),
        pixel_threshold=threshold,
        image_thresholds=(float(shares[:2, threshold].mean()),),
    )
    manifest.model_copy(update={"deployments": (deployment,)}).save(folder / MANIFEST)
    return Predictor(folder, threads=1)


def test_side_by_side_equals_two_separate_evaluations(decided, other_sizes, records, predictor):
    original = StagedNetwork(decided, open_engine("onnxruntime", 1)).load_original()
    found = side_by_side(predictor, original, other_sizes, "test")
    samples = open_split(other_sizes, "test")
    ours, theirs, exits = [], [], []
    deployment = predictor.deployment
    for index in range(3):
        image, labels = samples.pair(index)
        sure = records.sure[index, 0, 0]
        leaves = sure[deployment.pixel_threshold] / sure[0] >= deployment.image_thresholds[0]
        fitted = np.array(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR))
        _, answers = by_hand(decided, fitted)
        for pairs, answer in ((ours, answers[0 if leaves else 2][1]), (theirs, original(fitted))):
            whole = np.asarray(Image.fromarray(answer).resize(image.shape[1::-1], Image.Resampling.NEAREST))
            pairs.append((whole, labels))
        exits.append(deployment.exits[0] if leaves else "final")
    assert found.exits == tuple(exits)
    assert len(set(exits)) == 2, "some leave early, others do not"
    assert found.miou == pytest.approx(iou_by_hand(ours, 8), abs=1e-12)
    assert found.original_miou == pytest.approx(iou_by_hand(theirs, 8), abs=1e-12)
    assert found.miou != found.original_miou


def test_side_by_side_shares_and_latencies(decided, other_sizes, predictor):
    turns = []
    network = StagedNetwork(decided, open_engine("onnxruntime", 1)).load_original()

    def original(image):
        turns.append("original")
        return network(image)

    inner = predictor.network._stages[0]

    def first_stage(inputs):
        turns.append("ours")
        return inner(inputs)

    predictor.network._stages[0] = first_stage
    found = side_by_side(predictor, original, other_sizes, "test")
    assert turns[:2] == ["original", "ours"], "one run each that does not count"
    assert turns[2:] == ["ours", "original", "original", "ours", "ours", "original"], "who goes first alternates"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert {name: round(share * 3) for name, share in found.shares.items()} == {
        name: found.exits.count(name) for name in set(found.exits)
    }
    assert len(found.latencies_ms) == len(found.original_latencies_ms) == 3
    assert min(found.latencies_ms + found.original_latencies_ms) > 0
    assert found.latency_ratio == pytest.approx(sum(found.latencies_ms) / sum(found.original_latencies_ms))
