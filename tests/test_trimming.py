"""What a trimmed package keeps, and that it answers as the whole one did."""

import json
import shutil

import numpy as np
import onnx
import pytest

from offramp.artifacts import MANIFEST, load_manifest
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.profiling import profile
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.trimming import trim


@pytest.fixture
def whole(package):
    return load_manifest(package)


@pytest.fixture
def deploy(whole, deployment_of, tmp_path):
    """Write a deployment of the package; it takes the indices of its exits."""

    def write(*indices, **changes):
        values = {"mode": "anytime", "exits": tuple(whole.exits[index] for index in indices)}
        path = tmp_path / "deployment.json"
        deployment_of(whole, **{**values, **changes}).save(path)
        return path

    return write


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Head of each exit: head-N; its labels graph is named after its resolution.
KEPT = {
    (0,): {"stage-0.onnx", "head-0.onnx", "labels-16x24.onnx"},
    (1,): {"stage-0.onnx", "stage-1.onnx", "head-1.onnx", "labels-8x12.onnx"},
    (0, 2): {
        "stage-0.onnx",
        "stage-1.onnx",
        "stage-2.onnx",
        "head-0.onnx",
        "head-2.onnx",
        "labels-16x24.onnx",
        "labels-4x6.onnx",
    },
}


@pytest.mark.parametrize("indices", list(KEPT))
def test_only_the_files_that_are_needed_unchanged(package, deploy, tmp_path, indices):
    trim(package, deploy(*indices), tmp_path / "out")
    kept, before = files(tmp_path / "out"), files(package)
    assert set(kept) == {MANIFEST, *KEPT[indices]}
    for name in KEPT[indices]:
        assert kept[name] == before[name]
    assert set(before) > set(kept), "the whole package is left as it is"


@pytest.mark.parametrize("indices", list(KEPT))
def test_the_manifest_keeps_what_it_says_of_the_network(package, whole, deploy, tmp_path, indices):
    returned = trim(package, deploy(*indices), tmp_path / "out")
    got = load_manifest(tmp_path / "out")
    assert got == returned
    untouched = (
        "classes",
        "palette",
        "size",
        "precision",
        "confidence",
        "pixel_thresholds",
        "object_classes",
        "format",
        "kind",
    )
    for name in untouched:
        assert getattr(got, name) == getattr(whole, name)
    assert got.heads == tuple(whole.heads[index] for index in indices)
    assert got.stages == whole.stages[: whole.heads[indices[-1]].stage + 1]
    assert got.original is None
    assert [deployment.exits for deployment in got.deployments] == [got.exits]
    assert got.package_id != whole.package_id
    assert (whole.trimmed_from, got.trimmed_from) == (None, whole.package_id)
    assert got.provenance.inputs["package"] == whole.package_id


def test_two_trimmings_have_an_identity_of_their_own(package, deploy, tmp_path):
    ids = [trim(package, deploy(*indices), tmp_path / "out").package_id for indices in KEPT]
    assert len(set(ids)) == len(KEPT)
    assert trim(package, deploy(0, 2), tmp_path / "again").package_id == ids[-1]


@pytest.mark.parametrize("indices", list(KEPT))
def test_answers_are_those_of_the_whole_package(package, whole, deploy, tmp_path, indices):
    trim(package, deploy(*indices), tmp_path / "out")
    image = np.random.default_rng(2).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exits = [whole.exits[index] for index in indices]
    wanted = [
        (found.exit, found.labels(), found.confidence, found.sure)
        for found in StagedNetwork(package, open_engine("onnxruntime", 1)).iter_exits(image, exits)
    ]
    predictor = Predictor(tmp_path / "out", threads=1)
    assert predictor.mode == "anytime"
    for (name, labels, confidence, sure), got in zip(wanted, predictor.network.iter_exits(image), strict=True):
        assert got.exit == name
        np.testing.assert_array_equal(got.labels(), labels)
        np.testing.assert_array_equal(got.confidence, confidence)
        np.testing.assert_array_equal(got.sure, sure)
    np.testing.assert_array_equal(predictor(image).labels, wanted[-1][1])


def test_a_trimmed_package_is_still_checked(package, deploy, tmp_path):
    trim(package, deploy(0, 2), tmp_path / "out")
    head = tmp_path / "out" / "head-2.onnx"
    head.write_bytes(head.read_bytes() + b"?")
    with pytest.raises(InputError, match="hash differs"):
        load_manifest(tmp_path / "out")


def test_a_deployment_of_another_package_is_refused(package, deploy, tmp_path):
    with pytest.raises(InputError, match="deployment belongs to another package"):
        trim(package, deploy(0, package_id="b" * 64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_deployment_with_strange_exits_is_refused(package, whole, deploy, tmp_path):
    with pytest.raises(InputError, match=r"no exit 'other'"):
        trim(package, deploy(exits=("other",)), tmp_path / "out")
    with pytest.raises(InputError, match="not in order of depth"):
        trim(package, deploy(2, 0), tmp_path / "out")
    path = deploy(0, 2)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "exits": [whole.exits[0]] * 2}))
    with pytest.raises(InputError, match=r"damaged deployment .*named twice"):
        trim(package, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_is_not_trimmed_into_itself(package, deploy, tmp_path):
    copy = shutil.copytree(package, tmp_path / "copy")
    for out in (copy, copy / ".." / "copy"):
        with pytest.raises(InputError, match="into itself"):
            trim(copy, deploy(0), out)
    assert files(copy) == files(package)


def test_somebodys_folder_is_not_replaced(package, deploy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis").write_text("years")
    with pytest.raises(InputError, match="will not replace"):
        trim(package, deploy(0), tmp_path / "out")
    assert files(tmp_path / "out") == {"thesis": b"years"}


def test_an_earlier_package_is_replaced(package, deploy, tmp_path):
    trim(package, deploy(0, 2), tmp_path / "out")
    trim(package, deploy(1), tmp_path / "out")
    assert set(files(tmp_path / "out")) == {MANIFEST, *KEPT[(1,)]}


def test_it_needs_a_package_and_a_deployment(package, deploy, tmp_path):
    with pytest.raises(InputError, match="not a package"):
        trim(tmp_path / "nothing", deploy(0), tmp_path / "out")
    with pytest.raises(InputError, match="says it is 'package'"):
        trim(package, package / MANIFEST, tmp_path / "out")


@pytest.fixture
def merge_stages():
    return pytest.importorskip("offramp.export.joining").merge_stages


@pytest.mark.parametrize("indices", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_merged_stages_answer_as_the_stages_do(package, deploy, tmp_path, merge_stages, indices):
    ways = {"apart": None, "together": merge_stages}
    apart, together = (trim(package, deploy(*indices), tmp_path / name, merge=merge) for name, merge in ways.items())
    assert [stage.file for stage in together.stages] == [f"stage-{number}.onnx" for number in range(len(indices))]
    assert [(head.file, head.stage) for head in together.heads] == [
        (stage.file, number) for number, stage in enumerate(together.stages)
    ]
    for cost in ("macs", "parameter_bytes"):
        before, after = (sum(getattr(graph, cost) for graph in (*one.stages, *one.heads)) for one in (apart, together))
        assert 0 < after <= before, "what no head takes is not there"
    image = np.random.default_rng(8).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    networks = (StagedNetwork(tmp_path / name, open_engine("onnxruntime", 1)) for name in ways)
    for one, other in zip(*(network.iter_exits(image) for network in networks), strict=True):
        assert one.exit == other.exit
        np.testing.assert_allclose(other.confidence, one.confidence, atol=1e-5)
        assert (one.labels() == other.labels()).mean() > 0.999
        assert one.steps_ms[f"head {one.exit}"] > other.steps_ms[f"head {one.exit}"] == 0


def test_merged_stages_give_only_what_is_taken(package, deploy, tmp_path, merge_stages):
    trimmed = trim(package, deploy(0, 2), tmp_path / "out", merge=merge_stages)
    answers = {name for head in trimmed.heads for name in head.outputs}
    assert {name for stage in trimmed.stages for name in stage.outputs} == answers | set(trimmed.stages[1].inputs)
    assert len(files(tmp_path / "out")) == 5  # manifest, two stages, two label maps


def test_without_confidence_the_labels_are_the_same(package, deploy, scenes, tmp_path, merge_stages):
    trim(package, deploy(0, 2), tmp_path / "with", merge=merge_stages)
    trimmed = trim(package, deploy(0, 2), tmp_path / "without", merge=merge_stages, confidence=False)
    assert [len(head.outputs) for head in trimmed.heads] == [1, 1]
    nodes = {
        name: sum(len(onnx.load(path).graph.node) for path in (tmp_path / name).glob("*.onnx")) for name in ("with", "without")
    }
    assert nodes["without"] < nodes["with"] - 20, "what nobody reads is not computed"
    image = np.random.default_rng(8).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for engine in ("onnxruntime", "openvino"):
        ways = (Predictor(tmp_path / name, engine=engine).refine(image) for name in ("with", "without"))
        for one, other in zip(*ways, strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
            assert one.confidence.size > 0 == other.confidence.size
    with pytest.raises(InputError, match="trimmed without confidence"):
        evaluate(tmp_path / "without", scenes, "val")
    for merge, mode in ((None, "anytime"), (merge_stages, "input-dependent")):
        thresholds = (0.5,) if mode == "input-dependent" else ()
        path = deploy(0, 2, mode=mode, image_thresholds=thresholds)
        with pytest.raises(InputError, match="no policy judges"):
            trim(package, path, tmp_path / "more", merge=merge, confidence=False)


def test_a_merged_package_is_profiled_and_not_merged_again(package, deploy, deployment_of, tmp_path, merge_stages):
    trimmed = trim(package, deploy(0, 2), tmp_path / "out", merge=merge_stages)
    costs = profile(tmp_path / "out", threads=1, passes=2, sysfs=tmp_path)
    assert [(head.median_ms, head.memory_bytes) for head in costs.heads.values()] == [(0.0, 0)] * 2
    assert all(head.macs for head in costs.heads.values())
    assert costs.latency_ms(trimmed.exits) > 0
    again = tmp_path / "again.json"
    deployment_of(trimmed, mode="anytime", exits=trimmed.exits[1:]).save(again)
    with pytest.raises(InputError, match="merged already"):
        trim(tmp_path / "out", again, tmp_path / "more", merge=merge_stages)
    assert len(trim(tmp_path / "out", again, tmp_path / "more").stages) == 2
    self_exiting = pytest.importorskip("offramp.export.self_exiting").self_exiting
    with pytest.raises(InputError, match="trimmed without --merge"):
        self_exiting(tmp_path / "out")
