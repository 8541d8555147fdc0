"""A cascade: two networks in one package. Searched from their records and profiles, run for real."""

import json
from dataclasses import replace

import numpy as np
import pytest

from offramp.artifacts import Deployment, load_json, load_manifest
from offramp.cli import main
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.policy import image_score
from offramp.profiling import profile
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.search import search_cascade, write_cascade
from offramp.specs import SearchSpec
from offramp.trimming import trim

SMALL, LARGE = ("small/blocks.0:fcn/c16", "small/blocks.1:fcn/c16", "small/final"), ("large/blocks.0:fcn/c16", "large/final")


DROP = 8


@pytest.fixture
def pairs(records_of, profile_of):
    """Three exits of a small network, two of a large one that is three times as slow and better, on the same images."""
    whole = records_of(images=16, exits=3, seed=1)
    as_before = {name: getattr(whole, name)[:, [0, 1, 1]] for name in ("correct", "predicted", "sure")}
    small = replace(whole, **as_before), profile_of(exits=3, seed=1)  # its final exit says no more than the one before
    records, costs = records_of(images=16, exits=2, seed=1), profile_of(exits=2, seed=2)
    correct = np.minimum(records.labelled[:, None, :], records.correct + 250)
    correct[:, 0] //= 2  # its early exit is of no use
    records = replace(records, correct=correct, predicted=correct + (records.predicted - records.correct))
    slow = tuple(stage.model_copy(update={"times_ms": tuple(3 * t for t in stage.times_ms)}) for stage in costs.stages)
    return small, (records, costs.model_copy(update={"stages": slow}))


def chosen(pairs, **limits):
    spec = SearchSpec(mode="input-dependent", **limits)
    return search_cascade(pairs, "c" * 64, spec, inputs={})


def test_what_it_expects_is_what_the_two_networks_would_do(pairs):
    found = chosen(pairs, max_drop_pp=DROP, max_exits=1)
    assert found.exits[0] in SMALL[:2], "the small network is cut there, and its last stage never runs"
    assert found.exits[1] in LARGE
    assert 0.1 < found.expected.shares[found.exits[0]] < 0.9, "one network alone tests nothing"
    (small, fast), (large, slow) = pairs
    at, last = SMALL.index(found.exits[0]), LARGE.index(found.exits[1])
    scores = image_score(small.sure[:, at], ["all", "off-edges", "objects"].index(found.region), found.pixel_threshold)
    leaves = scores >= found.image_thresholds[0]
    correct = np.where(leaves[:, None], small.correct[:, at], large.correct[:, last]).sum(axis=0)
    predicted = np.where(leaves[:, None], small.predicted[:, at], large.predicted[:, last]).sum(axis=0)
    miou = (correct / (predicted + large.labelled.sum(axis=0) - correct)).mean()
    assert found.expected.miou == pytest.approx(miou)
    names = [name.partition("/")[2] for name in found.exits]
    asked = sum(step.median_ms for step in fast.stages[: at + 2]) + fast.heads[names[0]].median_ms
    behind = sum(step.median_ms for step in slow.stages[: last + 2]) + slow.heads[names[1]].median_ms
    first, both = asked + fast.labels[names[0]].median_ms, asked + behind + slow.labels[names[1]].median_ms
    assert found.expected.latency_ms == pytest.approx(leaves.mean() * first + (1 - leaves.mean()) * both)
    assert found.expected.worst_latency_ms == pytest.approx(both)
    assert found.expected.final_latency_ms == pytest.approx(slow.latency_ms(("final",)))


def test_no_pair_of_exits_would_be_faster(pairs):
    """Every pair of a small exit and a large one, every region and threshold, one by one."""
    (small, fast), (large, slow) = pairs
    found = chosen(pairs, max_drop_pp=DROP, max_exits=1, policies=["all"])

    def miou_of(correct, predicted):
        return (correct / (predicted + large.labelled.sum(axis=0) - correct)).mean()

    least = miou_of(large.correct[:, -1].sum(axis=0), large.predicted[:, -1].sum(axis=0)) - DROP / 100
    best = np.inf
    for at, exit_name in enumerate(fast.exits):
        asked = sum(step.median_ms for step in fast.stages[: at + 2]) + fast.heads[exit_name].median_ms
        for last, last_name in enumerate(slow.exits):
            behind = sum(step.median_ms for step in slow.stages[: last + 2]) + slow.heads[last_name].median_ms
            for threshold in range(1, 32):
                scores = image_score(small.sure[:, at], 0, threshold)
                for bar in np.unique(scores):
                    leaves = scores >= bar
                    correct = np.where(leaves[:, None], small.correct[:, at], large.correct[:, last]).sum(axis=0)
                    predicted = np.where(leaves[:, None], small.predicted[:, at], large.predicted[:, last]).sum(axis=0)
                    if miou_of(correct, predicted) >= least:
                        first = asked + fast.labels[exit_name].median_ms
                        both = asked + behind + slow.labels[last_name].median_ms
                        best = min(best, leaves.mean() * first + (1 - leaves.mean()) * both)
    assert found.expected.latency_ms == pytest.approx(best)


def test_what_does_not_belong_together_is_refused(pairs, profile_of, records_of):
    small, large = pairs
    with pytest.raises(InputError, match="their threads is 2 and 1"):
        chosen((small, (large[0], large[1].model_copy(update={"threads": 1}))), max_drop_pp=1)
    with pytest.raises(InputError, match="of different images"):
        chosen(((records_of(images=9, exits=3), profile_of(exits=3)), large), max_drop_pp=1)
    with pytest.raises(InputError, match="evaluate the cascade's package"):
        chosen(pairs, max_risk=0.1)
    with pytest.raises(InputError, match="the best reaches"):
        chosen(pairs, min_miou=0.999)


# ------------------------------------------------------------------------------------------------------------ for real


@pytest.fixture(scope="module")
def both(package, decided_package, tmp_path_factory):
    """Two networks whose tensors all have the same names; the second is surer."""
    out = tmp_path_factory.mktemp("cascade") / "both"
    write_cascade(package, decided_package, out)
    return out


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def answers(folder, image, engine="onnxruntime"):
    network = StagedNetwork(folder, open_engine(engine, 1))
    return [(found.exit, found.sure, found.confidence, found.labels()) for found in network.iter_exits(image)]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for (_, *mine), (_, *others) in zip(ours, theirs, strict=True):
        for one, other in zip(mine, others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_networks_answer_as_they_do_alone(both, package, decided_package, image, engine):
    together = answers(both, image, engine)
    small, large = answers(package, image, engine), answers(decided_package, image, engine)
    assert [name for name, *_ in together] == [f"small/{e}" for e, *_ in small] + [f"large/{e}" for e, *_ in large]
    same(together, [*small, *large])


@pytest.mark.parametrize("merge", [False, True])
def test_a_trimmed_cascade_runs_what_its_exits_need(both, package, decided_package, deployment_of, image, tmp_path, merge):
    from offramp.export.joining import merge_stages

    manifest = load_manifest(both)
    exits = (manifest.exits[0], manifest.exits[-1])
    deployment_of(manifest, mode="anytime", exits=exits).save(tmp_path / "chosen.json")
    trimmed = trim(both, tmp_path / "chosen.json", tmp_path / "out", merge=merge_stages if merge else None)
    assert not {"small-stage-1.onnx", "small-stage-2.onnx"} & {path.name for path in (tmp_path / "out").iterdir()}
    assert len(trimmed.stages) == (2 if merge else 1 + len(load_manifest(decided_package).stages))
    if merge:
        assert set(trimmed.stages[0].outputs) == set(trimmed.heads[0].outputs), "the large network takes none of it"
    ours = answers(tmp_path / "out", image)
    same(ours, [answers(package, image)[0], answers(decided_package, image)[-1]])
    found = list(Predictor(tmp_path / "out").refine(image))
    np.testing.assert_array_equal(found[-1].labels, ours[-1][-1])


def test_from_search_to_run_on_the_command_line(package, decided_package, scenes, tmp_path, capsys):
    for name, folder in (("s", package), ("l", decided_package)):
        evaluate(folder, scenes, "val").save(tmp_path / f"{name}.records")
        profile(folder, threads=1, passes=2).save(tmp_path / f"{name}.profile")
    arguments = [f"--{kind}={tmp_path / f'{name}.{kind}'}" for name in "sl" for kind in ("records", "profile")]
    arguments = ["search", *sorted(arguments, key=lambda text: "profile" in text), "--mode", "input-dependent"]
    arguments += ["--cascade", str(package), str(decided_package), "--min-miou", "0", "--package", str(tmp_path / "both")]

    def cli(*more):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *more])
        return stopped.value.code, capsys.readouterr()

    code, said = cli("--out", str(tmp_path / "chosen.json"))
    assert code == 0, said.err
    assert "a cascade of" in said.out
    deployment = load_json(tmp_path / "chosen.json", Deployment)
    assert deployment.package_id == load_manifest(tmp_path / "both").package_id
    trim(tmp_path / "both", tmp_path / "chosen.json", tmp_path / "small")
    # Its own records say the same as those of the two, but for what only they can know.
    own = evaluate(tmp_path / "both", scenes, "val")
    parts = [evaluate(folder, scenes, "val") for folder in (package, decided_package)]
    for name in ("correct", "predicted", "sure"):
        np.testing.assert_array_equal(getattr(own, name), np.concatenate([getattr(part, name) for part in parts], axis=1))
    code, said = cli("--out", str(tmp_path / "again.json"), "--json")
    assert json.loads(said.out)["exits"] == list(deployment.exits)
    for change, message in [
        (["--front", str(tmp_path / "f.csv")], "--front is of one package"),
        (["--calibration", str(tmp_path / "s.records")], "of one package"),
    ]:
        code, said = cli("--out", str(tmp_path / "other.json"), *change)
        assert code == 2
        assert message in said.err
    assert not (tmp_path / "other.json").exists()


def test_packages_that_cannot_answer_for_each_other(package, trained_run, both, deployment_of, tmp_path):
    from offramp.export.package import export

    export(trained_run, tmp_path / "coarse", label_stride=4)
    with pytest.raises(InputError, match="differ in their label stride"):
        write_cascade(package, tmp_path / "coarse", tmp_path / "out")
    manifest = load_manifest(package)
    deployment_of(manifest, mode="anytime", exits=manifest.exits[:1]).save(tmp_path / "chosen.json")
    trim(package, tmp_path / "chosen.json", tmp_path / "trimmed")
    with pytest.raises(InputError, match="give those before trim"):
        write_cascade(tmp_path / "trimmed", package, tmp_path / "out")
    with pytest.raises(InputError, match="which it is made of"):
        write_cascade(package, both, both)
    assert not (tmp_path / "out").exists()
