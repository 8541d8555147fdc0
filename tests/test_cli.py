"""The command line as a contract: every verb, its help, its JSON, and one clear line for bad input."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.artifacts import Deployment, Profile, RunLog, load_json, load_manifest, load_records
from offramp.cli import DATA_VERBS, VERBS, main


def offramp(*arguments):
    """Run a verb in this process; its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def measured(package, scenes, tmp_path_factory):
    """Records of val and a profile, by the verbs."""
    folder = tmp_path_factory.mktemp("measured")
    assert offramp("evaluate", package, scenes, "--split", "val", "--out", folder / "val.records") == 0
    assert (
        offramp("profile", package, "--out", folder / "here.profile", "--passes", 3, "--threads", 1, "--energy-seconds", 0) == 0
    )
    return folder


@pytest.fixture(scope="module")
def deployment(measured):
    out = measured / "chosen.json"
    parts = ("--records", measured / "val.records", "--profile", measured / "here.profile")
    assert offramp("search", *parts, "--mode", "input-dependent", "--max-drop-pp", 5, "--out", out) == 0
    return out


@pytest.mark.parametrize("verb", [*([name] for name in VERBS), *(["data", name] for name in DATA_VERBS)], ids=" ".join)
def test_every_verb_has_help_with_an_example_of_itself(verb, capsys):
    assert offramp(*verb, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: offramp {' '.join(verb)} " in said
    assert "--json" in said


@pytest.mark.parametrize(("words", "verbs"), [((), VERBS), (("data",), DATA_VERBS)])
def test_a_command_line_without_a_verb_is_answered_by_the_help_as_it_is_laid_out(words, verbs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert offramp(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"Usage: {' '.join(('offramp', *words))} [OPTIONS] COMMAND [ARGS]..."
    assert max(map(len, lines)) <= 80
    assert set(verbs) <= {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}


def test_version(capsys):
    assert offramp("--version") == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_draw_and_check(tmp_path, capsys):
    assert offramp("data", "draw", tmp_path / "scenes", "--images", 4, "--size", "64x48", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert offramp("data", "check", tmp_path / "scenes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    label = next((tmp_path / "scenes" / "val" / "labels").iterdir())
    label.unlink()
    assert offramp("data", "check", tmp_path / "scenes") == 1
    said = capsys.readouterr().out
    assert all(word in said for word in ("image-without-label", label.stem, "road"))


def test_train_prints_every_exits_miou(scenes, tmp_path, capsys):
    options = ("--network", "test_efficientnet", "--exits", 1, "--epochs", 1, "--crop", "64x48", "--batch-size", 4, "--json")
    assert offramp("train", scenes, "--out", tmp_path / "run", *options) == 0
    assert list(json.loads(capsys.readouterr().out)["miou"])[-1] == "final"
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert offramp("train", scenes, "--out", tmp_path / "run", *options) == 2
    assert "--resume" in capsys.readouterr().err
    assert offramp("train", scenes, "--out", tmp_path / "run", *options, "--resume") == 0


def test_train_goes_on_from_another_run(scenes, trained_run, tmp_path, capsys):
    options = ("--network", "test_efficientnet", "--exits", 1, "--heads", "fcn,fcn/r4", "--crop", "64x48", "--batch-size", 4)
    recipe = (
        "--epochs",
        0,
        "--exit-epochs",
        2,
        "--distillation",
        "plain",
        "--temperature",
        2,
        "--halving",
        1,
        "--zoom",
        "1,1.5",
    )
    assert offramp("train", scenes, "--out", tmp_path / "run", "--from", trained_run, *options, *recipe) == 0
    said = capsys.readouterr()
    assert "training images" in said.out
    assert said.err.count("mIoU on val:") == 2  # a line an epoch
    asked = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["training"]
    assert (asked["distillation"], asked["temperature"], asked["zoom"]) == ("plain", 2.0, [1.0, 1.5])
    assert len(json.loads((tmp_path / "run" / "network.json").read_text(encoding="utf-8"))["network"]["exits"]) == 1


def test_taps_of_a_network(capsys):
    options = ("test_efficientnet", "--size", "96x64", "--exits", 2, "--heads", "fcn/c16,skip/c8/b1/d", "--classes", 4)
    assert offramp("taps", *options, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    points = {point["name"]: point for point in said["points"]}
    assert [name for name, point in points.items() if point["chosen"]] == ["blocks.1.0", "blocks.2.0"]
    assert (points["blocks.2.0"]["stride"], points["blocks.2.0"]["layout"]) == (8, "nchw")
    for growing in ("macs", "parameters", "share", "latency_ms"):
        values = [point[growing] for point in points.values()]
        assert values == sorted(values)
        assert values[0] > 0
    assert points["blocks.3.0"]["share"] == pytest.approx(points["blocks.3.0"]["macs"] / said["macs"])
    assert [early["name"] for early in said["exits"]] == [
        "blocks.1.0:fcn/c16",
        "blocks.1.0+blocks.0:skip/c8/b1/d",
        "blocks.2.0:fcn/c16",
        "blocks.2.0+blocks.1.0:skip/c8/b1/d",
        "final",
    ]
    # 3x3 and two cells more for a dilated block, at stride 8.
    assert said["exits"][2]["receptive_field"] == 3 * 8
    assert all(early["macs"] > 0 and early["parameters"] > 0 for early in said["exits"])
    assert offramp("taps", *options, "--all") == 0
    table = capsys.readouterr().out
    assert "blocks.2.0.conv_pw" in table
    assert "blocks.2.0.conv_pw" not in points


OWN = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        steps = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, b, 3, 1, 1)) for a, b in ((3, 4), (4, 8))]
        self.down = nn.Sequential(*steps)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.classify = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        return self.classify(self.body(self.down(images)))


def make(classes):
    return Own(classes)
"""


def test_a_trained_network_of_ones_own_keeps_its_final_exit(scenes, tmp_path, capsys, monkeypatch):
    """Phase 2 alone, from the command line to the package, with code that runs only where it is named."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    namespace = {}
    exec(compile(OWN, "own", "exec"), namespace)
    torch.manual_seed(4)
    trained = namespace["make"](8).eval()
    save_file(trained.state_dict(), "trained.safetensors")
    network = ("--network", "own.py:make")
    options = ("--weights", "trained.safetensors", "--epochs", 0, "--exit-epochs", 1, "--taps", "down.1", "--crop", "64x48")
    heads = ("--heads", "fcn,deeplab/c8/r2")
    assert offramp("train", scenes, "--out", "run", *network, *options, *heads, "--batch-size", 4, "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["miou"]) == ["down.1:fcn/c64", "down.1:deeplab/c8/r2", "final"]
    after = load_file("run/weights.safetensors")
    assert all(torch.equal(after[f"backbone.{name}"], tensor) for name, tensor in trained.state_dict().items())
    assert offramp("export", "run", "--out", "package") == 2
    assert "run only if you name it: give --network own.py:make" in capsys.readouterr().err
    assert offramp("export", "run", "--out", "package", *network) == 0
    lines = {line.strip("│ ").split(" ")[0]: line.strip("│ ") for line in capsys.readouterr().out.splitlines()}
    # It sees 3x3 cells at stride 4; a pyramid pools over the whole image.
    assert lines["down.1:fcn/c64"].endswith(" 12")
    assert lines["down.1:deeplab/c8/r2"].endswith("whole image")
    # From here on it is a package like any other.
    assert offramp("evaluate", "package", scenes, "--out", "val.records") == 0
    from offramp.runtime.engines import open_engine
    from offramp.runtime.staged_network import StagedNetwork

    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        scores = trained(((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None])
        wanted = torch.nn.functional.interpolate(scores, size=(64, 96), mode="bilinear").argmax(1)[0].numpy()
    *_, final = StagedNetwork(tmp_path / "package", open_engine("onnxruntime", 1)).iter_exits(image)
    assert final.exit == "final"
    assert (final.labels() == wanted).mean() > 0.999


def test_evaluate_and_profile_write_artifacts(measured, package):
    manifest = load_manifest(package)
    records = load_records(measured / "val.records")
    profile = load_json(measured / "here.profile", Profile)
    assert records.info.package_id == profile.package_id == manifest.package_id
    assert records.info.exits == profile.exits == manifest.exits
    assert (records.info.split, profile.threads) == ("val", 1)


def test_precisions_are_said_everywhere_and_never_mixed(measured, package, scenes, tmp_path, capsys):
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    engine = ("--engine", "openvino", "--precision", "bf16", "--threads", 1)
    records, costs, chosen = tmp_path / "val.records", tmp_path / "here.profile", tmp_path / "chosen.json"
    assert offramp("evaluate", package, scenes, "--out", records, *engine) == 0
    assert offramp("profile", package, "--out", costs, "--passes", 2, *engine) == 0
    assert load_records(records).info.precision == load_json(costs, Profile).precision == "bf16"
    assert offramp("search", "--records", records, "--profile", costs, "--mode", "budgeted", "--out", chosen) == 0
    assert load_json(chosen, Deployment).precision == "bf16"
    assert offramp("run", scenes / "test" / "images", "--package", package, "--out", tmp_path / "answers", *engine) == 0
    assert load_json(tmp_path / "answers" / "run-log.json", RunLog).precision == "bf16"
    capsys.readouterr()
    mixed = ("--records", measured / "val.records", "--profile", costs)
    assert offramp("search", *mixed, "--mode", "budgeted", "--out", tmp_path / "mixed.json") == 2
    assert "answers in fp32, the profile of times in bf16" in " ".join(capsys.readouterr().err.split())
    assert offramp("profile", package, "--out", costs, "--precision", "bf16") == 2
    assert "onnxruntime does not compute in bf16" in " ".join(capsys.readouterr().err.split())


def test_a_choice_that_is_not_there_is_refused_in_plain_words(package, tmp_path, capsys):
    assert offramp("profile", package, "--out", tmp_path / "here.profile", "--precision", "int8") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == "offramp: Invalid value for '--precision': 'int8' is not one of 'fp32', 'bf16', 'fp16'. (see --help)"


@pytest.mark.parametrize("mode", ["budgeted", "anytime", "input-dependent"])
def test_search_in_every_mode(measured, tmp_path, mode, capsys):
    parts = ("--records", measured / "val.records", "--profile", measured / "here.profile")
    assert offramp("search", *parts, "--mode", mode, "--out", tmp_path / "chosen.json", "--json") == 0
    chosen = load_json(tmp_path / "chosen.json", Deployment)
    assert chosen.mode == mode
    assert json.loads(capsys.readouterr().out)["exits"] == list(chosen.exits)


def test_trim_and_run(package, deployment, scenes, tmp_path, capsys):
    small, answers = tmp_path / "small", tmp_path / "answers"
    assert offramp("trim", package, deployment, "--out", small) == 0
    assert load_manifest(small).exits == load_json(deployment, Deployment).exits
    capsys.readouterr()
    images = scenes / "test" / "images"
    assert offramp("run", images, "--package", small, "--out", answers, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["mode"] == "input-dependent"
    assert sum(said["shares"].values()) == pytest.approx(1)
    names = [path.stem for path in sorted(images.iterdir())]
    assert [frame.name for frame in load_json(answers / "run-log.json", RunLog).frames] == names
    assert [path.stem for path in sorted((answers / "labels").iterdir())] == names
    assert "expected_latency_ms" not in said, "it was searched for one thread"
    assert offramp("run", images, "--package", small, "--out", answers, "--threads", 1) == 0
    expected = load_json(deployment, Deployment).expected.latency_ms
    assert f"expected mean latency: {expected:.2f} ms; measured " in capsys.readouterr().out
    # Merged, it answers the same.
    merged = tmp_path / "merged"
    assert offramp("trim", package, deployment, "--merge", "--out", merged) == 0
    assert load_manifest(merged).within_stage(load_manifest(merged).heads[0])
    taken = [frame.exit for frame in load_json(answers / "run-log.json", RunLog).frames]
    assert offramp("run", images, "--package", merged, "--out", answers) == 0
    assert [frame.exit for frame in load_json(answers / "run-log.json", RunLog).frames] == taken
    # The overprovisioned package, too, runs: a deadline makes it anytime.
    assert offramp("run", images, "--package", package, "--out", answers, "--deadline-ms", 10_000) == 0
    assert load_json(answers / "run-log.json", RunLog).mode == "anytime"


def test_report_of_a_package(package, measured, deployment, tmp_path):
    pytest.importorskip("jinja2")
    out = tmp_path / "report.html"
    parts = ("--records", measured / "val.records", "--profile", measured / "here.profile", "--deployment", deployment)
    assert offramp("report", package, *parts, "--out", out) == 0
    assert "final" in out.read_text(encoding="utf-8")


def test_the_device_goes_its_way_without_torch(package, scenes, tmp_path):
    """Evaluate, profile, search, trim and run in one process that cannot import torch or onnx."""
    verbs = [
        ["evaluate", package, scenes, "--out", "val.records"],
        ["profile", package, "--out", "here.profile", "--passes", "2"],
        ["search", "--records", "val.records", "--profile", "here.profile", "--mode", "budgeted", "--out", "chosen.json"],
        ["trim", package, "chosen.json", "--out", "small"],
        ["run", scenes / "test" / "images", "--package", "small", "--out", "answers"],
    ]
    code = f"""
import sys
for name in ("torch", "timm", "torchvision", "onnx", "safetensors"):
    sys.modules[name] = None
from offramp.cli import main
for verb in {[[str(word) for word in verb] for verb in verbs]!r}:
    try:
        main(verb)
    except SystemExit as stopped:
        assert stopped.code == 0, verb
try:
    main(["trim", {str(package)!r}, "chosen.json", "--merge", "--out", "merged"])
except SystemExit as stopped:
    assert stopped.code == 2
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "answers" / "run-log.json").exists()


def test_module_starts_the_command_line():
    said = subprocess.run([sys.executable, "-m", "offramp", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "0.1.0"


BAD = {
    "no such verb": (["trian"], "No such command"),
    "no such option": (["data", "draw", "x", "--colour", "red"], "--colour"),
    "missing option": (["train", "{scenes}"], "--out"),
    "no dataset": (["train", "{nothing}", "--out", "{out}"], "no dataset"),
    "bad size": (["data", "draw", "{out}", "--size", "big"], "WIDTHxHEIGHT"),
    "bad crop": (["train", "{scenes}", "--out", "{out}", "--crop", "0x0"], "WIDTHxHEIGHT"),
    "bad stride": (["train", "{scenes}", "--out", "{out}", "--output-stride", "12"], "8, 16 or 32, got 12"),
    "no epochs": (["train", "{scenes}", "--out", "{out}", "--epochs", "0", "--exit-epochs", "0"], "nothing would be trained"),
    "negative epochs": (["train", "{scenes}", "--out", "{out}", "--epochs", "-2"], "--epochs"),
    "exits of an untrained backbone": (["train", "{scenes}", "--out", "{out}", "--epochs", "0"], "the final head on timm:"),
    "exits of an untrained network": (
        ["train", "{scenes}", "--out", "{out}", "--epochs", "0", "--network", "torchvision:lraspp_mobilenet_v3_large"],
        "is not trained; give its --weights",
    ),
    "no such tap": (
        ["train", "{scenes}", "--out", "{out}", "--network", "test_efficientnet", "--taps", "blocks.1.9"],
        "blocks.1.0",
    ),
    "no such head": (["train", "{scenes}", "--out", "{out}", "--heads", "fcn/r3"], "not a head: 'fcn/r3'"),
    "no heads": (["train", "{scenes}", "--out", "{out}", "--heads", ","], "--heads"),
    "no source of networks": (["taps", "keras:resnet50"], "no source of networks is called 'keras'"),
    "no file of one's own": (["taps", "{nothing}.py:network"], "no file"),
    "too many classes": (["taps", "test_efficientnet", "--classes", "300"], "from 2 to 255, got 300"),
    "one class": (["taps", "test_efficientnet", "--classes", "1"], "the background is a class of its own"),
    "negative seed": (["train", "{scenes}", "--out", "{out}", "--seed", "-1"], "--seed"),
    "NaN rate": (["train", "{scenes}", "--out", "{out}", "--learning-rate", "nan"], "--learning-rate"),
    "bad zoom": (["train", "{scenes}", "--out", "{out}", "--zoom", "big"], "--zoom: not a range: 'big'"),
    "zoom upside down": (["train", "{scenes}", "--out", "{out}", "--zoom", "2,1"], "the smaller scale comes first"),
    "no such scheme": (["train", "{scenes}", "--out", "{out}", "--scheme", "three-phase"], "--scheme"),
    "too many halvings": (["train", "{scenes}", "--out", "{out}", "--halving", "8", "--exit-epochs", "8"], "halving"),
    "average of nothing": (["train", "{scenes}", "--out", "{out}", "--averaging", "1"], "--averaging"),
    "from no run": (["train", "{scenes}", "--out", "{out}", "--from", "{nothing}"], "not a run"),
    "from another network": (
        ["train", "{scenes}", "--out", "{out}", "--from", "{run}", "--network", "test_resnet", "--exits", "1"],
        "its network is timm:test_efficientnet, not timm:test_resnet",
    ),
    "no network": (["train", "{scenes}", "--out", "{out}", "--network", "resnet5O"], "timm has no network"),
    "too many exits": (["train", "{scenes}", "--out", "{out}", "--network", "test_efficientnet", "--exits", "40"], "40 exits"),
    "no weights file": (["train", "{scenes}", "--out", "{out}", "--weights", "{nothing}.safetensors"], "weights"),
    "pickled weights": (["train", "{scenes}", "--out", "{out}", "--weights", "x.pth"], ".safetensors"),
    "no run": (["export", "{nothing}", "--out", "{out}"], "not a run"),
    "no package": (["profile", "{nothing}", "--out", "{out}"], "not a package"),
    "no split": (["evaluate", "{package}", "{scenes}", "--split", "dev", "--out", "{out}"], "no split 'dev'"),
    "not records": (
        ["search", "--records", "{image}", "--profile", "{image}", "--mode", "budgeted", "--out", "{out}"],
        "records",
    ),
    "bad mode": (["run", "{image}", "--package", "{package}", "--out", "{out}", "--mode", "fast"], "--mode"),
    "no thresholds": (["run", "{image}", "--package", "{package}", "--out", "{out}", "--mode", "input-dependent"], "search"),
    "no input": (["run", "{nothing}", "--package", "{package}", "--out", "{out}"], "no such input"),
    "no picture": (["run", "{package}/manifest.json", "--package", "{package}", "--out", "{out}"], "manifest.json"),
    "bad deadline": (["run", "{image}", "--package", "{package}", "--out", "{out}", "--deadline-ms", "nan"], "deadline"),
    "bad engine": (["profile", "{package}", "--out", "{out}", "--engine", "tflite"], "--engine"),
    "nothing to report": (["report", "{nothing}", "--out", "{out}"], "neither a run nor a package"),
    "into a file's name": (["export", "{run}", "--out", "{image}"], "a file of that name exists"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_one_line_and_exit_code_2(case, scenes, trained_run, package, tmp_path, capsys):
    arguments, reason = BAD[case]
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(image)
    places = {
        "scenes": scenes,
        "run": trained_run,
        "package": package,
        "image": image,
        "nothing": tmp_path / "nothing",
        "out": tmp_path / "out",
    }
    before = image.read_bytes()
    code = offramp(*(argument.format(**places) for argument in arguments))
    said = capsys.readouterr()
    assert code == 2, said
    lines = [line for line in said.err.splitlines() if line.startswith("offramp: ")]
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    assert reason in lines[0]
    assert not said.out
    assert image.read_bytes() == before


def test_search_on_the_test_split_is_refused(package, scenes, measured, tmp_path, capsys):
    assert offramp("evaluate", package, scenes, "--split", "test", "--out", tmp_path / "test.records") == 0
    parts = ("--records", tmp_path / "test.records", "--profile", measured / "here.profile")
    assert offramp("search", *parts, "--mode", "budgeted", "--out", tmp_path / "chosen.json") == 2
    assert "val" in capsys.readouterr().err


def test_parts_of_two_packages_do_not_mix(deployment, trained_run, tmp_path, capsys):
    other = tmp_path / "other"
    assert offramp("export", trained_run, "--out", other, "--size", "80x48") == 0
    assert offramp("trim", other, deployment, "--out", tmp_path / "small") == 2
    assert "another package" in capsys.readouterr().err
    shutil.rmtree(other)


@pytest.fixture(scope="module")
def parts(measured):
    return ("--records", measured / "val.records", "--profile", measured / "here.profile")


def test_search_takes_limits_of_every_kind(parts, tmp_path, capsys):
    limits = [
        "--max-p95-latency-ms",
        900,
        "--max-worst-latency-ms",
        900,
        "--max-macs",
        1e12,
        "--max-parameter-bytes",
        10**9,
        "--max-memory-bytes",
        10**11,
    ]
    limits += ["--max-memory-bytes", 10**11]
    classes = ["--min-iou", "road=0.0", "--min-iou", "sky=0"]
    out = tmp_path / "chosen.json"
    spec = ["--mode", "input-dependent", "--policies", "objects,mean", "--max-exits", 1, "--max-drop-pp", 20]
    assert offramp("search", *parts, *spec, *limits, *classes, "--out", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["limits"]["min_iou"] == {"road": 0.0, "sky": 0.0}
    assert said["limits"]["policies"] == ["objects", "mean"]
    assert 0 < said["expected"]["macs"] < 1e12
    assert 0 < said["expected"]["parameter_bytes"] < 10**9
    assert said["expected"]["memory_bytes"] < 10**11
    assert said["expected"]["energy_mj"] is None
    assert load_json(out, Deployment).expected.effort.candidates == said["expected"]["candidates"]


def test_search_tells_people_what_it_found(parts, tmp_path, capsys):
    table = tmp_path / "front.csv"
    spec = ["--mode", "input-dependent", "--max-exits", 1, "--max-drop-pp", 20, "--front", table]
    assert offramp("search", *parts, *spec, "--out", tmp_path / "chosen.json") == 0
    said = capsys.readouterr().out
    for words in ("candidates in", "expected mIoU", "95 % of images within", "the limits were kept", "Pareto front: "):
        assert words in said
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    points = [(float(row["latency_ms"]), float(row["miou"])) for row in rows]
    assert [latency for latency, _ in points] == sorted(latency for latency, _ in points)
    assert [miou for _, miou in points] == sorted(miou for _, miou in points)
    chosen = load_json(tmp_path / "chosen.json", Deployment).expected
    assert all(miou <= chosen.miou + 1e-9 for latency, miou in points if latency < chosen.latency_ms)


def test_search_certifies_a_risk(parts, tmp_path, capsys):
    spec = ["--mode", "input-dependent", "--max-exits", 1, "--max-drop-pp", 30, "--expected-risk", 0.6]
    assert offramp("search", *parts, *spec, "--out", tmp_path / "chosen.json") == 0
    said = capsys.readouterr().out
    assert "certified: at most 60.00% of pixels differ from the final exit's answer, on average" in said
    assert "images are drawn independently" in said


def test_search_chooses_among_packages(parts, tmp_path, capsys):
    assert offramp("search", *parts, *parts, "--mode", "budgeted", "--out", tmp_path / "chosen.json") == 0
    assert "of 2 packages that of " in capsys.readouterr().out


def test_an_anytime_search_takes_deadlines(parts, tmp_path, capsys):
    spec = ["--mode", "anytime", "--deadlines-ms", "1,500"]
    assert offramp("search", *parts, *spec, "--out", tmp_path / "chosen.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["limits"]["deadlines_ms"] == [1.0, 500.0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (["--min-iou", "road"], "--min-iou: write CLASS=IOU, for example pedestrian=0.5, got 'road'"),
        (["--min-iou", "tram=0.5"], "there is no class 'tram'; there are "),
        (["--min-iou", "road=2"], "--min-iou: Input should be less than or equal to 1"),
        (["--policies", "sure"], "--policies: "),
        (["--deadlines-ms", "50,10"], "the shortest comes first"),
        (["--deadlines-ms", "50"], "--deadlines-ms: write FROM,TO in milliseconds, for example 10,40, got '50'"),
        (["--max-risk", "0.1", "--expected-risk", "0.1"], "ask for one of them"),
        (["--max-risk", "0.0001"], "cannot certify a risk of 0.0001"),
        (["--profile", "{profile}"], "each --records needs its --profile, in the same order: got 1 and 2"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(parts, tmp_path, capsys, spec, words):
    spec = [str(part).format(profile=parts[3]) for part in spec]
    asked = ["--mode", "input-dependent", "--max-exits", 1, "--max-drop-pp", 30]
    assert offramp("search", *parts, *asked, *spec, "--out", tmp_path / "chosen.json") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "chosen.json").exists()


# ------------------------------------------------------------------------------------------------- faults of the machine


def drawing(out, *options, **how):
    """A process that draws a dataset; Ctrl-C is not ignored in it, as it is where tests run in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from offramp.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "draw", out, *options]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # As users start it: what is printed waits for the end.
    return subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": ""}, **{**piped, **how})


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_end_does_so_in_one_line_and_leaves_nothing(tmp_path, sign, status):
    with drawing(tmp_path / "scenes", "--images", "5000") as running:
        until = time.monotonic() + 60
        while not any(tmp_path.rglob("*.png")) and time.monotonic() < until:
            time.sleep(0.02)
        running.send_signal(sign)
        _, said = running.communicate(timeout=60)
    assert running.returncode == status
    assert [line for line in said.splitlines() if line.startswith("offramp")] == [
        "offramp: stopped; what was finished is on disk"
    ]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line_that_says_what_to_do(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    with drawing(tmp_path / "scenes", "--size", "4096x4096", "--images", "3", preexec_fn=limit) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith("offramp: memory ran out; end other programs, or give it more")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_nobody_can_be_told_is_an_error(tmp_path):
    with Path("/dev/full").open("w") as full, drawing(tmp_path / "scenes", "--images", "3", "--json", stdout=full) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said.splitlines()[-1].startswith("offramp: cannot write standard output: the disk is full")


INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from offramp.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_line_is_imported_is_one_line():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "offramp: stopped; nothing was begun\n")
