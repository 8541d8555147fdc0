"""Cases of bad packages: the manifest, what it says, and its graphs, met by every verb that reads a package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import spoiling
from harness import Case, Things, copied
from spoiling import Edit, drop, edited, put

from offramp.artifacts import load_manifest
from offramp.runtime.predictor import Predictor

Words = Sequence[object] | Callable[[], object]
Verb = Callable[[Path, Path, Things], Words]
"""From a package, the case's folder and the things to what meets the package."""
Spoil = Callable[[Path], object]

VERBS: dict[str, Verb] = {
    "evaluate": lambda package, work, things: ("evaluate", package, things.data, "--out", work / "val.records"),
    "profile": lambda package, work, _things: ("profile", package, "--out", work / "here.profile", "--passes", 1),
    "trim": lambda package, work, things: ("trim", package, things.chosen, "--out", work / "out"),
    "trim --merge": lambda package, work, things: ("trim", package, things.chosen, "--out", work / "out", "--merge"),
    "run": lambda package, work, things: ("run", things.image, "--package", package, "--out", work / "answers"),
    "view": lambda package, _work, _things: ("view", package, "--no-open"),
    "report": lambda package, work, _things: ("report", package, "--out", work / "page.html"),
    "export --single-file": lambda package, work, _things: ("export", package, "--single-file", work / "net.onnx"),
    "export --precision": lambda package, work, things: (
        *("export", package, "--precision", "fp16", "--data", things.data),
        *("--out", work / "out"),
    ),
    "search --cascade": lambda package, work, things: (
        *("search", "--cascade", package, things.package, "--package", work / "both", "--mode", "input-dependent"),
        *("--records", things.records, "--profile", things.profile) * 2,
        *("--out", work / "chosen.json"),
    ),
    "Predictor": lambda package, _work, _things: lambda: Predictor(package),
    "load_manifest": lambda package, _work, _things: lambda: load_manifest(package),
}
EVERY = tuple(VERBS)


def _case(what: str, verb: str, spoil: Spoil, says: tuple[str, ...]) -> Case:
    def prepare(work: Path, things: Things) -> Words:
        package = copied(things.package, work)
        spoil(package)
        return VERBS[verb](package, work, things)

    return Case(f"package: {what}, {verb}", prepare, says=says)


def _taking_turns(table: Mapping[str, tuple[Spoil, tuple[str, ...]]], verbs: Sequence[str]) -> list[Case]:
    """Each malformation met by one verb, the verbs in turn."""
    return [_case(what, verbs[number % len(verbs)], spoil, says) for number, (what, (spoil, says)) in enumerate(table.items())]


def _manifest(spoil: Callable[[Path], object]) -> Spoil:
    return lambda package: spoil(package / "manifest.json")


def _says(edit: Edit) -> Spoil:
    return lambda package: edited(package / "manifest.json", edit)


def _graph(spoil: Callable[[Path], object], name: str = "stage-1.onnx") -> Spoil:
    return lambda package: spoil(package / name)


# ------------------------------------------------------------------------------------------------- met by every one of them

FILES = {
    f"manifest {how}": (_manifest(spoil), ("manifest.json", word))
    for how, (spoil, word) in spoiling.JSON.items()
    if how not in {"missing", "a folder"}
}
GRAPHS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a graph missing": (_graph(Path.unlink), ("stage-1.onnx", "lacks")),
    "a graph empty": (_graph(lambda path: path.write_bytes(b"")), ("stage-1.onnx", "hash")),
    "a graph that is a folder": (_graph(spoiling.as_folder), ("stage-1.onnx", "lacks")),
    "a graph that is a pipe": (_graph(spoiling.as_pipe), ("stage-1.onnx", "lacks")),
    "a graph that is a link": (
        lambda package: spoiling.as_link(package / "stage-1.onnx", package.parent / "elsewhere"),
        ("stage-1.onnx", "link"),
    ),
    "a graph cut in half": (_graph(lambda path: spoiling.cut(path, 0.5)), ("stage-1.onnx", "hash")),
    "a flipped byte in a graph's head": (_graph(lambda path: spoiling.flipped(path, 0.01)), ("stage-1.onnx", "hash")),
    "a flipped byte in a graph's weights": (_graph(lambda path: spoiling.flipped(path, 0.5)), ("stage-1.onnx", "hash")),
    "another stage's graph": (
        lambda package: shutil.copy(package / "stage-0.onnx", package / "stage-1.onnx"),
        ("stage-1.onnx", "hash"),
    ),
    "a flipped byte in a head": (_graph(lambda path: spoiling.flipped(path, 0.5), "head-2.onnx"), ("head-2.onnx", "hash")),
    "a flipped byte in a label map's graph": (
        _graph(lambda path: spoiling.flipped(path, 0.5), "labels-8x12.onnx"),
        ("labels-8x12.onnx", "hash"),
    ),
    "a flipped byte in the original": (
        _graph(lambda path: spoiling.flipped(path, 0.5), "original.onnx"),
        ("original.onnx", "hash"),
    ),
}
BY_ALL: tuple[tuple[str, Spoil, tuple[str, ...]], ...] = (
    ("a graph with a flipped byte", GRAPHS["a flipped byte in a graph's weights"][0], ("stage-1.onnx", "hash")),
    ("a manifest cut short", _manifest(lambda path: spoiling.cut(path, 0.6)), ("manifest.json", "no valid JSON")),
)
MISSING = tuple(name for name in EVERY if name not in {"report", "export --precision"})
"""The others take a folder without a manifest for a run."""


# ---------------------------------------------------------------------------------------------------- what the manifest says

UNTRUE: dict[str, tuple[Edit, str]] = {
    "no stages": (put("stages", []), "stages"),
    "no heads": (put("heads", []), "heads"),
    "heads in the wrong order": (lambda raw: raw["heads"].reverse(), "order of depth"),
    "a head behind a stage that is not there": (put("heads.2.stage", 7), "order of depth"),
    "a head before stage 0": (put("heads.0.stage", -1), "heads.0.stage"),
    "two exits of one name": (lambda raw: raw["heads"][1].update(exit=raw["heads"][0]["exit"]), "same name"),
    "an exit without a name": (put("heads.0.exit", ""), "heads.0.exit"),
    "stages that do not chain": (put("stages.1.inputs", ["tap/elsewhere"]), "tap/elsewhere"),
    "a head of a tensor that nothing makes": (put("heads.1.inputs", ["tap/final"]), "tap/final"),
    "a stage that takes nothing": (put("stages.0.inputs", []), "stages.0"),
    "a stage that gives nothing": (put("stages.0.outputs", []), "stages.0"),
    "a head that gives nothing": (put("heads.0.outputs", []), "outputs"),
    "a head of two outputs": (lambda raw: raw["heads"][0]["outputs"].pop(), "outputs"),
    "a labels graph that takes nothing": (put("labels.0.inputs", []), "labels-16x24.onnx"),
    "a labels graph of two outputs": (put("labels.0.outputs", ["labels", "more"]), "labels-16x24.onnx"),
    "an original that gives nothing": (put("original.outputs", []), "original.onnx"),
    "no labels graphs": (put("labels", []), "labels graph"),
    "a labels graph that is not there": (put("heads.0.labels", "labels-9x9.onnx"), "labels graph"),
    "scores of another number of classes": (put("heads.0.scores_shape", [1, 9, 16, 24]), "scores_shape"),
    "scores of three dimensions": (put("heads.0.scores_shape", [8, 16, 24]), "scores_shape"),
    "scores of no size": (put("heads.0.scores_shape", [1, 8, 0, 24]), "scores_shape"),
    "scores of a billion pixels": (put("heads.0.scores_shape", [1, 8, 1000000000, 24]), "scores_shape"),
    "a size of zero": (put("size", [0, 64]), "size.0"),
    "a size of a million": (put("size", [1000000, 64]), "size.0"),
    "a size of three numbers": (put("size", [96, 64, 3]), "size"),
    "a size that is text": (put("size", "96x64"), "size"),
    "a class less": (lambda raw: raw["classes"].pop(), "palette"),
    "a colour less": (lambda raw: raw["palette"].pop(), "palette"),
    "a colour above 255": (put("palette.0.0", 256), "palette.0.0"),
    "a colour below 0": (put("palette.0.0", -1), "palette.0.0"),
    "a colour of two numbers": (put("palette.0", [1, 2]), "palette.0"),
    "300 classes": (lambda raw: raw.update(classes=[str(n) for n in range(300)], palette=[[0, 0, 0]] * 300), "classes"),
    "one class": (lambda raw: raw.update(classes=["all"], palette=[[0, 0, 0]]), "classes"),
    "two classes of one name": (put("classes.1", "sky"), "sky"),
    "a class without a name": (put("classes.1", ""), "classes.1"),
    "classes that are numbers": (put("classes.1", 7), "classes.1"),
    "an object class that is not there": (put("object_classes", [3, 99]), "object_classes"),
    "a negative object class": (put("object_classes", [-1]), "object_classes"),
    "pixel thresholds that are too few": (lambda raw: raw["pixel_thresholds"].pop(), "pixel_thresholds"),
    "pixel thresholds that are too many": (lambda raw: raw["pixel_thresholds"].append(1.0), "pixel_thresholds"),
    "pixel thresholds out of order": (lambda raw: raw["pixel_thresholds"].reverse(), "pixel_thresholds"),
    "a pixel threshold above 1": (put("pixel_thresholds.31", 1.5), "pixel_thresholds"),
    "a pixel threshold that is a NaN": (put("pixel_thresholds.31", float("nan")), "NaN"),
    "groups without data's classes": (put("groups", [0, 1]), "groups"),
    "a group that is no class": (lambda raw: raw.update(groups=[99], data_classes=["a"]), "groups"),
    "a label stride of 3": (put("label_stride", 3), "label_stride"),
    "an unknown precision": (put("precision", "int4"), "precision"),
    "an unknown confidence": (put("confidence", "luck"), "confidence"),
    "negative macs": (put("stages.0.macs", -5), "stages.0.macs"),
    "macs that are infinite": (put("stages.0.macs", float("inf")), "Infinity"),
    "a hash of another length": (put("stages.0.sha256", "abc"), "stages.0.sha256"),
    "a hash of another graph": (put("stages.0.sha256", "0" * 64), "stage-0.onnx"),
    "another package's identity": (put("package_id", "0" * 64), "package_id"),
    "an identity that is no hash": (put("package_id", "mine"), "package_id"),
    "no identity": (drop("package_id"), "package_id"),
    "two stages of one file": (put("stages.1.file", "stage-0.onnx"), "stage-0.onnx"),
    "two heads of one file": (put("heads.1.file", "head-0.onnx"), "head-0.onnx"),
    "no provenance": (drop("provenance"), "provenance"),
    "a receptive field of 0": (put("heads.0.receptive_field", 0), "receptive_field"),
}


DEPLOYED: dict[str, tuple[dict[str, Any], str]] = {
    "a deployment of an exit that is not there": ({"exits": ["nowhere", "final"]}, "nowhere"),
    "a deployment whose exits are out of order": ({"exits": ["blocks.2.0:fcn", "blocks.1.0:fcn/c64"]}, "order of depth"),
    "a deployment with a threshold of 3": ({"image_thresholds": [3]}, "image_thresholds"),
    "a deployment with a negative threshold": ({"image_thresholds": [-0.5]}, "image_thresholds"),
    "a deployment with two thresholds for two exits": ({"image_thresholds": [0.5, 0.5]}, "image thresholds"),
    "a deployment without thresholds": ({"image_thresholds": []}, "image thresholds"),
}


def _in_manifest(what: str, changes: dict[str, Any], word: str, verb: str) -> Case:
    def prepare(work: Path, things: Things) -> Words:
        package = copied(things.package, work)
        chosen = spoiling.with_thresholds(things.chosen, work, **changes)
        deployment = json.loads(chosen.read_text(encoding="utf-8"))
        edited(package / "manifest.json", put("deployments", [deployment]))
        return VERBS[verb](package, work, things)

    return Case(f"package: {what}, {verb}", prepare, says=("manifest.json", word))


def _not_a_package(verb: str) -> Case:
    return _case("no manifest", verb, _manifest(Path.unlink), ("holds no manifest.json", "offramp export"))


def _is_folder(work: Path, things: Things) -> Words:
    return VERBS["run"](things.image, work, things)


CASES: tuple[Case, ...] = (
    *(_case(what, verb, spoil, says) for what, spoil, says in BY_ALL for verb in EVERY),
    *(_not_a_package(verb) for verb in MISSING),
    *_taking_turns(FILES, EVERY),
    *_taking_turns(GRAPHS, EVERY),
    *_taking_turns({what: (_says(edit), ("manifest.json", word)) for what, (edit, word) in UNTRUE.items()}, EVERY),
    *(
        _in_manifest(what, changes, word, ("run", "report", "view", "Predictor")[number % 4])
        for number, (what, (changes, word)) in enumerate(DEPLOYED.items())
    ),
    Case("package: a file where a folder is wanted, run", _is_folder, says=("not a package", "folder")),
)
