"""One file with nested If against the staged runtime, and its arithmetic against exact fractions."""

import hashlib
import json
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp import Predictor
from offramp.artifacts import MANIFEST, Manifest, load_json, load_manifest, package_identity
from offramp.cli import main
from offramp.errors import InputError
from offramp.export.graph import interpolation_matrix, labels_graph
from offramp.export.self_exiting import MOST_EXITS, NEVER, describe, self_exiting, write_self_exiting
from offramp.files import sha256_of
from offramp.policy import GRID, MEAN, PIXEL_THRESHOLDS, image_score
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import REGIONS


def offramp(*arguments):
    """Run a verb in this process; its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def session(model, **options):
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.log_severity_level = 3
    for name, value in options.items():
        setattr(chosen, name, value)
    return onnxruntime.InferenceSession(model.SerializeToString(), chosen, providers=["CPUExecutionProvider"])


def answer(running, image, thresholds=None):
    """Labels (H, W), score and exit."""
    feeds = {"image": image[None]}
    if thresholds is not None:
        feeds["thresholds"] = np.array(thresholds, np.float64)
    labels, score, number = running.run(["labels", "score", "exit"], feeds)
    assert (labels.dtype, score.dtype, number.dtype) == (np.uint8, np.float64, np.int64)
    assert score.shape == number.shape == ()
    return labels[0], float(score), int(number)


def graphs(graph):
    """A graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def operations(model):
    return [node.op_type for graph in graphs(model.graph) for node in graph.node]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(7).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def staged(decided_package, image):
    """Sure counts and label map of every exit, by the stages."""
    network = StagedNetwork(decided_package, open_engine("onnxruntime", 1))
    return [(found.exit, found.sure, found.labels()) for found in network.iter_exits(image)]


POLICIES = [(region, threshold) for region in REGIONS for threshold in (MEAN, 20)]


@pytest.mark.parametrize(("region", "threshold"), POLICIES)
def test_every_exit_answers_as_predictor_does(with_deployments, staged, image, region, threshold):
    """Leaving at each exit in turn, by a threshold that equals its score, while the earlier ones' are just too high."""
    names = [name for name, _, _ in staged]
    scores = [float(image_score(sure, REGIONS.index(region), threshold)) for _, sure, _ in staged]
    assert len(set(scores)) == 3
    for number, score in enumerate(scores):
        just_above = [np.nextafter(value, 2) for value in scores]
        thresholds = [*just_above[:number], *scores[number:]][:2]
        policy = {"region": region, "pixel_threshold": threshold, "image_thresholds": tuple(map(float, thresholds))}
        package = with_deployments({"mode": "input-dependent", "exits": tuple(names), **policy})
        wanted = Predictor(package, threads=1)(image)
        labels, got, taken = answer(session(self_exiting(package)), image)
        assert (names[taken], got) == (wanted.exit, wanted.scores[wanted.exit]) == (names[number], score)
        assert np.array_equal(labels, wanted.labels)


def test_thresholds_that_are_fed_take_the_place_of_the_defaults(with_deployments, staged, image):
    exits = tuple(name for name, _, _ in staged)
    package = with_deployments({"mode": "input-dependent", "exits": exits, "image_thresholds": (NEVER, 0.0)})
    running = session(self_exiting(package))
    assert [given.name for given in running.get_inputs()] == ["image"]
    assert [given.name for given in running.get_overridable_initializers()] == ["thresholds"]
    assert answer(running, image)[2] == 1
    for number, thresholds in enumerate([(0.0, 0.0), (NEVER, 0.0), (NEVER, NEVER)]):
        labels, _, taken = answer(running, image, thresholds)
        assert taken == number
        assert np.array_equal(labels, staged[number][2])
    assert answer(running, image, (np.nan, np.nan))[2] == 2, "nothing reaches NaN"


def test_thresholds_without_defaults_must_be_fed(with_deployments, staged, image):
    exits = tuple(name for name, _, _ in staged)
    package = with_deployments({"mode": "input-dependent", "exits": exits, "image_thresholds": (0.25, 0.5)})
    model = self_exiting(package, feed_thresholds=True)
    running = session(model)
    assert [given.name for given in running.get_inputs()] == ["image", "thresholds"]
    assert not running.get_overridable_initializers()
    with pytest.raises(ValueError, match="thresholds"):
        answer(running, image)
    assert answer(running, image, (NEVER, 0.0))[2] == 1
    assert describe(model)["image_thresholds"] == [0.25, 0.5], "the caller must find out what to feed"


def test_a_fixed_budget_is_one_exit_without_any_if(with_deployments, staged, image):
    exits = tuple(name for name, _, _ in staged)
    model = self_exiting(with_deployments({"mode": "budgeted", "exits": exits[:2]}))
    assert "If" not in operations(model)
    running = session(model)
    assert [given.name for given in running.get_inputs()] == ["image"]
    assert not running.get_overridable_initializers()
    labels, score, taken = answer(running, image)
    assert (taken, score) == (0, float(image_score(staged[1][1], 0, MEAN)))
    assert np.array_equal(labels, staged[1][2])
    assert describe(model)["exits"] == [exits[1]]


def test_without_thresholds_no_image_leaves_early(decided_package, with_deployments, staged, image):
    exits = tuple(name for name, _, _ in staged)
    for package in (decided_package, with_deployments({"mode": "anytime", "exits": exits})):
        model = self_exiting(package)
        assert describe(model)["image_thresholds"] == [NEVER, NEVER]
        running = session(model)
        assert answer(running, image)[2] == 2
        assert answer(running, image, (0.0, 0.0))[2] == 0


def test_an_input_dependent_deployment_goes_before_others(with_deployments, staged):
    exits = tuple(name for name, _, _ in staged)
    package = with_deployments(
        {"mode": "budgeted", "exits": exits[:1]},
        {"mode": "input-dependent", "exits": exits[1:], "image_thresholds": (0.25,), "region": "objects", "pixel_threshold": 3},
        {"mode": "input-dependent", "exits": exits, "image_thresholds": (0.5, 0.5)},
    )
    model = self_exiting(package)
    said = {entry.key: entry.value for entry in model.metadata_props}
    manifest = load_manifest(package)
    assert (model.producer_name, said["offramp.version"]) == ("offramp", model.producer_version)
    assert said["offramp.package_id"] == manifest.package_id
    assert json.loads(said["offramp.exits"]) == list(exits[1:])
    assert json.loads(said["offramp.image_thresholds"]) == [0.25]
    assert (said["offramp.mode"], said["offramp.region"]) == ("input-dependent", "objects")
    assert float(said["offramp.pixel_threshold"]) == PIXEL_THRESHOLDS[3]
    assert tuple(json.loads(said["offramp.classes"])) == manifest.classes
    assert json.loads(said["offramp.palette"]) == [list(colour) for colour in manifest.palette]


def test_what_lies_behind_an_exit_does_not_run(decided_package, image, tmp_path):
    model = self_exiting(decided_package)
    ran = []
    for number, thresholds in enumerate([(0.0, 0.0), (NEVER, 0.0), (NEVER, NEVER)]):
        # Names survive only where nodes are not fused.
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        prefix = str(tmp_path / f"profile-{number}")
        running = session(model, enable_profiling=True, profile_file_prefix=prefix, graph_optimization_level=level)
        answer(running, image, thresholds)
        profile = json.loads(Path(running.end_profiling()).read_text(encoding="utf-8"))
        events = [event["name"] for event in profile if event["cat"] == "Node"]
        ran.append({name.split("/")[0] for name in events if name.startswith(("stage-", "exit-"))})
    stages = [{"stage-0", "exit-0"}, {"stage-1", "exit-1"}, {"stage-2", "exit-2"}]
    assert ran == [stages[0], stages[0] | stages[1], stages[0] | stages[1] | stages[2]]


def test_names_are_made_once_and_weights_stay_with_their_branch(decided_package):
    model = self_exiting(decided_package)
    made, nodes = [], []
    for graph in graphs(model.graph):
        made += [tensor.name for tensor in graph.initializer]
        made += [name for node in graph.node for name in node.output]
        nodes += [node.name for node in graph.node if node.name]
    assert len(made) == len(set(made))
    assert len(nodes) == len(set(nodes))
    # ONNX Runtime does not lay out weights for a node that finds them outside its branch: a third of the speed.
    outside = {tensor.name.split("/")[0] for tensor in model.graph.initializer}
    assert outside == {"thresholds", "stage-0", "exit-0", "policy", "number", "shared"}
    # The exporter's notes would tell of the machine that exported.
    assert not any(node.metadata_props or node.doc_string for graph in graphs(model.graph) for node in graph.node)


def test_it_needs_neither_torch_nor_an_engine(decided_package, tmp_path):
    blocked = "import sys\nfor name in ('torch', 'timm', 'onnxruntime', 'openvino', 'onnxscript'): sys.modules[name] = None\n"
    step = f"from pathlib import Path\nwrite_self_exiting(Path({str(decided_package)!r}), Path({str(tmp_path / 'net.onnx')!r}))"
    code = f"{blocked}from offramp.export.self_exiting import write_self_exiting\n{step}"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("feed_thresholds", [False, True])
def test_openvino_answers_alike(with_deployments, staged, image, feed_thresholds, tmp_path):
    openvino = pytest.importorskip("openvino")
    exits = tuple(name for name, _, _ in staged)
    scores = [float(image_score(sure, 0, 20)) for _, sure, _ in staged]
    for number, (_, _, wanted) in enumerate(staged):
        # It reckons in float32, so a threshold that equals a score would be left to its rounding.
        thresholds = tuple(score + (1e-3 if index < number else -1e-3) for index, score in enumerate(scores))[:2]
        policy = {"pixel_threshold": 20, "image_thresholds": thresholds}
        package = with_deployments({"mode": "input-dependent", "exits": exits, **policy})
        write_self_exiting(package, tmp_path / "net.onnx", feed_thresholds=feed_thresholds)
        compiled = openvino.Core().compile_model(tmp_path / "net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        # Its reader makes a constant of an input that has a default.
        assert [given.any_name for given in compiled.inputs] == ["image", *["thresholds"] * feed_thresholds]
        feeds = {"image": image[None], **({"thresholds": np.array(thresholds)} if feed_thresholds else {})}
        got = compiled(feeds)
        assert int(got["exit"]) == number
        assert float(got["score"]) == pytest.approx(scores[number], abs=1e-5)
        # A tie of two classes may fall either way.
        assert (got["labels"][0] == wanted).mean() > 0.999


SIDE = (16, 32)


def model_of(nodes, inputs, outputs, weights):
    """A small model whose tensors are called as in any other: pieces that are put together must not mix them up."""
    kinds = {"image": (TensorProto.UINT8, [1, *SIDE, 3]), "sure": (TensorProto.INT32, [3, GRID])}
    kinds |= {"scores": (TensorProto.FLOAT, [1, 3, 8, 16]), "confidence": (TensorProto.FLOAT, [1, 8, 16])}
    feature = (TensorProto.FLOAT, [1, 3, *SIDE])

    def values(names):
        return [helper.make_tensor_value_info(name, *kinds.get(name.split("/")[-1], feature)) for name in names]

    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "piece", values(inputs), values(outputs), tensors)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


def head_model(name, tap, row):
    """Class scores from a tap; sure counts straight from a row of the image, so that a test can say what they are."""
    later = {"a": "c", "c": "d"}.get(tap, "e")  # as heads do that repeat a node of a later stage
    nodes = [
        helper.make_node("Relu", [tap], [later], name="n"),
        helper.make_node("AveragePool", [later], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Mul", ["pooled", "w"], [f"{name}/scores"]),
        helper.make_node("ReduceMax", [f"{name}/scores", "axis"], [f"{name}/confidence"], keepdims=0),
        helper.make_node("Gather", ["image", "row"], ["counts"], axis=1),
        helper.make_node("Reshape", ["counts", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["turned"]),
        helper.make_node("Cast", ["turned"], [f"{name}/sure"], to=TensorProto.INT32),
    ]
    scale = np.float32([1, -2, 3]).reshape(1, 3, 1, 1) * (row + 1)
    weights = {"w": scale, "axis": np.array([1]), "row": np.array([row]), "shape": np.array([GRID, 3])}
    outputs = tuple(f"{name}/{output}" for output in ("scores", "confidence", "sure"))
    return model_of(nodes, ["image", tap], outputs, weights), ("image", tap), outputs


@pytest.fixture
def handmade(identity_of, tmp_path):
    """Three exits and, between the first two, a stage and an exit on a branch that no other exit needs."""
    folder = tmp_path / "handmade"
    folder.mkdir()

    def entry(file, model, inputs, outputs):
        onnx.save(model, folder / file)
        sha256 = sha256_of(folder / file)
        return {"file": file, "sha256": sha256, "inputs": inputs, "outputs": outputs, "macs": 0, "parameter_bytes": 0}

    def stage(file, kind, taken, made):
        nodes = [helper.make_node(kind, [taken[0], "w"], made, name="n")]
        return entry(file, model_of(nodes, taken, made, {"w": np.float32(3)}), taken, made)

    cast = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT, name="n"),
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2], name="m"),
        helper.make_node("Sqrt", ["a"], ["unwanted"], name="o"),
    ]
    first = model_of(cast, ["image"], ["a", "unwanted"], {})
    stages = [
        entry("first.onnx", first, ["image"], ["a", "unwanted"]),
        stage("side.onnx", "Pow", ["unwanted"], ["b"]),
        stage("third.onnx", "Sub", ["a"], ["c"]),
        stage("last.onnx", "Mul", ["c"], ["d"]),
    ]
    heads = []
    for index, (name, tap) in enumerate({"first": "a", "side": "b", "third": "c", "last": "d"}.items()):
        described = {"exit": name, "tap": tap, "stage": index, "scores_shape": (1, 3, 8, 16), "labels": "labels.onnx"}
        heads.append({**entry(f"head-{index}.onnx", *head_model(name, tap, index)), **described})
    labels = entry("labels.onnx", labels_graph((1, 3, 8, 16), 2, *SIDE), ["scores"], ["labels"])
    manifest = {
        "classes": ["a", "b", "c"],
        "palette": [(0, 0, 0)] * 3,
        "size": SIDE[::-1],
        "confidence": "top1",
        "pixel_thresholds": PIXEL_THRESHOLDS,
        "object_classes": [1],
        "stages": stages,
        "heads": heads,
        "labels": [labels],
        "provenance": {"made_by": "test", "created": ""},
    }
    Manifest.model_validate(manifest | {"package_id": identity_of(manifest)}).save(folder / MANIFEST)
    return folder


@pytest.fixture
def deployed(handmade, deployment_of):
    """Write a deployment, given as the fields that matter, into the handmade package."""

    def write(**values):
        manifest = load_json(handmade / MANIFEST, Manifest)
        given = (deployment_of(manifest, mode="input-dependent", **values),)
        manifest.model_copy(update={"deployments": given}).save(handmade / MANIFEST)
        return handmade

    return write


def counts(seed):
    """Rows of counts as a graph would make them: falling with the pixel threshold. Of the objects there may be none."""
    rng = np.random.default_rng(seed)
    made = -np.sort(-rng.integers(0, 256, (4, GRID, 3)), axis=1)
    made[seed % 4, :, 2] = 0
    return made.astype(np.uint8)


def exact_score(sure, threshold):
    """The share of a region's pixels by exact fractions, rounded once."""
    total = int(sure[0])
    if total == 0:
        return 1.0
    if threshold == MEAN:
        steps = [Fraction(high) - Fraction(low) for low, high in pairwise(PIXEL_THRESHOLDS)]
        return float(sum(step * int(count) for step, count in zip(steps, sure[1:], strict=True)) / total)
    return float(Fraction(int(sure[threshold]), total))


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("threshold", [MEAN, 1, 17, GRID - 1])
def test_scores_are_exact_fractions_rounded_once(deployed, region, threshold):
    names = ("first", "third", "last")
    model = self_exiting(deployed(exits=names, region=region, pixel_threshold=threshold, image_thresholds=(0.5, 0.5)))
    running = session(model)
    empty = 0
    for seed in range(20):
        image = np.random.default_rng(seed + 100).integers(0, 256, (*SIDE, 3), dtype=np.uint8)
        image[:4] = counts(seed)
        scores = [exact_score(image[row, :, REGIONS.index(region)], threshold) for row in (0, 2, 3)]
        empty += region == "objects" and 1.0 in scores
        for number in range(3):
            thresholds = [*(np.nextafter(score, 2) for score in scores[:number]), *scores[number:]][:2]
            assert answer(running, image, thresholds)[1:] == (scores[number], number)
    assert bool(empty) == (region == "objects")


def test_pieces_of_the_same_names_do_not_mix(deployed):
    """Stages, heads and label maps by NumPy."""
    running = session(self_exiting(deployed(exits=("first", "third", "last"), image_thresholds=(0.5, 0.5))))
    image = np.random.default_rng(1).integers(0, 9, (*SIDE, 3), dtype=np.uint8)
    first = image.astype(np.float32).transpose(2, 0, 1)
    taps = [first, first - 3, (first - 3) * 3]
    for number, (tap, row) in enumerate(zip(taps, (0, 2, 3), strict=True)):
        pooled = np.maximum(tap, 0).reshape(3, 8, 2, 16, 2).mean(axis=(2, 4))
        scores = pooled * np.float32([1, -2, 3]).reshape(3, 1, 1) * (row + 1)
        rows, columns = (interpolation_matrix(cells, 2, 2 * cells) for cells in (8, 16))
        wanted = (rows @ scores @ columns.T).argmax(axis=0)
        labels, _, taken = answer(running, image, [NEVER] * number + [0.0] * (2 - number))
        assert taken == number
        assert np.array_equal(labels, wanted)


def test_what_no_answer_needs_is_left_out(deployed):
    every = self_exiting(deployed(exits=("first", "side", "third", "last"), image_thresholds=(0.5,) * 3))
    chosen = self_exiting(deployed(exits=("first", "third", "last"), image_thresholds=(0.5,) * 2))
    assert "ReduceMax" not in operations(every), "nothing comes out of the confidence map"
    assert [operations(model).count("Pow") for model in (every, chosen)] == [1, 0]
    assert [operations(model).count("Sqrt") for model in (every, chosen)] == [1, 0]
    # Three exits have one labels graph, whose matrices are there once.
    matrices = [hashlib.sha256(t.raw_data).hexdigest() for g in graphs(chosen.graph) for t in g.initializer if len(t.dims) == 2]
    assert len(matrices) == len(set(matrices)) == 3


def save_with(folder, manifest, **graphs):
    """Other stages or heads, and the identity that belongs to them."""
    changed = manifest.model_copy(update=graphs)
    identity = package_identity(changed.stages, changed.heads, changed.labels)
    changed.model_copy(update={"package_id": identity}).save(folder / MANIFEST)


def test_exits_out_of_order_are_refused(deployed):
    with pytest.raises(InputError, match="in order of depth"):
        self_exiting(deployed(exits=("third", "first"), image_thresholds=(0.5,)))


def test_too_many_exits_are_refused(handmade):
    manifest = load_json(handmade / MANIFEST, Manifest)
    more = [manifest.heads[-1].model_copy(update={"exit": f"last {number}"}) for number in range(MOST_EXITS - 4)]
    save_with(handmade, manifest, heads=(*manifest.heads, *more))
    assert len(describe(self_exiting(handmade))["exits"]) == MOST_EXITS
    one = manifest.heads[-1].model_copy(update={"exit": "one more"})
    save_with(handmade, manifest, heads=(*manifest.heads, *more, one))
    with pytest.raises(InputError, match=f"{MOST_EXITS + 1} exits are too many"):
        self_exiting(handmade)


def test_graphs_of_different_operators_are_refused(handmade):
    manifest = load_json(handmade / MANIFEST, Manifest)
    model = onnx.load(handmade / "last.onnx")
    model.opset_import[0].version = 17
    onnx.save(model, handmade / "last.onnx")
    last = manifest.stages[-1].model_copy(update={"sha256": sha256_of(handmade / "last.onnx")})
    save_with(handmade, manifest, stages=(*manifest.stages[:-1], last))
    with pytest.raises(InputError, match="different versions"):
        self_exiting(handmade)


def test_export_tells_what_a_caller_must_know(with_deployments, staged, tmp_path, capsys):
    exits = tuple(name for name, _, _ in staged)
    package = with_deployments({"mode": "input-dependent", "exits": exits, "image_thresholds": (0.25, 0.5)})
    out = tmp_path / "net.onnx"
    out.write_text("\x08 an earlier one")
    assert offramp("export", package, "--single-file", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    image, labels = {"name": "image", "type": "uint8", "shape": [1, 64, 96, 3]}, {"name": "labels", "type": "uint8"}
    assert said == {
        "file": str(out),
        "bytes": out.stat().st_size,
        "package_id": load_manifest(package).package_id,
        "mode": "input-dependent",
        "exits": list(exits),
        "image_thresholds": [0.25, 0.5],
        "inputs": [
            {**image, "has_default": False},
            {"name": "thresholds", "type": "float64", "shape": [2], "has_default": True},
        ],
        "outputs": [
            {**labels, "shape": [1, 64, 96]},
            {"name": "score", "type": "float64", "shape": []},
            {"name": "exit", "type": "int64", "shape": []},
        ],
    }
    onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert offramp("export", package, "--single-file", out, "--feed-thresholds") == 0
    table = capsys.readouterr().out
    assert all(words in table for words in (*exits, "0.25", "labels uint8 (1, 64, 96)", "to be fed with every image"))
    with pytest.raises(ValueError, match="thresholds"):
        onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {})


BAD = {
    "neither": (["{package}"], "--out PACKAGE, or --single-file FILE.onnx for a package"),
    "both": (["{package}", "--out", "{out}", "--single-file", "{out}.onnx"], "needs one of both"),
    "a run": (["{run}", "--single-file", "{out}.onnx"], "is a run"),
    "nothing there": (["{out}", "--single-file", "{out}.onnx"], "not a package"),
    "another name": (["{package}", "--single-file", "{out}"], "called FILE.onnx"),
    "into the package": (["{package}", "--single-file", "{package}/stage-0.onnx"], "among the package's own graphs"),
    "a size": (["{package}", "--single-file", "{out}.onnx", "--size", "32x32"], "go with --out"),
    "a network": (["{package}", "--single-file", "{out}.onnx", "--network", "x.py:y"], "go with --out"),
    "thresholds of a package": (["{run}", "--out", "{out}", "--feed-thresholds"], "goes with --single-file"),
    "no thresholds": (["{budgeted}", "--single-file", "{out}.onnx", "--feed-thresholds"], "needs no thresholds"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_one_line_and_exit_code_2(case, trained_run, decided_package, with_deployments, tmp_path, capsys):
    arguments, reason = BAD[case]
    budgeted = with_deployments({"mode": "budgeted", "exits": ("final",)})
    places = {"package": decided_package, "run": trained_run, "budgeted": budgeted, "out": tmp_path / "out"}
    before = (decided_package / "stage-0.onnx").read_bytes()
    assert offramp("export", *(argument.format(**places) for argument in arguments)) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1
    assert reason in lines[0]
    assert not said.out
    assert not list(tmp_path.glob("out*"))
    assert (decided_package / "stage-0.onnx").read_bytes() == before


def test_a_file_is_whole_or_not_there(decided_package, tmp_path, monkeypatch):
    out = tmp_path / "net.onnx"
    out.write_text("\x08 an earlier one")
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        write_self_exiting(decided_package, out)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert out.read_text() == "\x08 an earlier one"


def test_the_page_s_python_example_runs(decided_package, image, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "single-file.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_self_exiting(decided_package, tmp_path / "net.onnx")
    names = {"image": image}
    exec(compile(example, "single-file.md", "exec"), names)
    assert names["labels"].shape == (1, 64, 96)
    # What is printed in the page's table of inputs and outputs.
    for value in (
        *names["session"].get_inputs(),
        *names["session"].get_overridable_initializers(),
        *names["session"].get_outputs(),
    ):
        kind = {"tensor(uint8)": "uint8", "tensor(double)": "float64", "tensor(int64)": "int64"}[value.type]
        assert re.search(rf"^\| \w+ \| `{value.name}` \| {kind} \|", page, re.MULTILINE), value.name
