"""A small but valid set of artifacts: three classes, two early exits and the final one, six images."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from offramp.artifacts import (
    Deployment,
    Expected,
    Frame,
    GraphEntry,
    HeadEntry,
    Manifest,
    Measurement,
    Profile,
    Provenance,
    Records,
    RecordsInfo,
    RunLog,
)
from offramp.policy import GRID, PIXEL_THRESHOLDS
from offramp.specs import REGIONS, SearchSpec

CLASSES = ("road", "car", "<script>alert(1)</script>")
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180))
EXITS = ("blocks.1:fcn/c16", "blocks.3:fcn/c32", "final")
FILES = ("stage0.onnx", "stage1.onnx", "stage2.onnx", "head0.onnx", "head1.onnx", "head2.onnx", "labels.onnx")
"""Graphs of the package; each holds its own name."""
PACKAGE_ID = hashlib.sha256("".join(hashlib.sha256(name.encode()).hexdigest() for name in FILES).encode()).hexdigest()
MACS = {"stages": (1_000_000, 2_000_000, 4_000_000), "head": 500_000, "labels": 0}
STAGES_MS = ((2.0, 2.2, 2.1, 9.0), (3.0, 3.1, 3.2, 3.0), (5.0, 5.2, 5.1, 5.0))
HEAD_MS = {EXITS[0]: (1.0, 1.1, 1.0, 1.0), EXITS[1]: (1.5, 1.4, 1.5, 1.5), "final": (2.0, 2.0, 2.1, 2.0)}
LABEL_MS = (0.25, 0.25, 0.25, 0.25)
ORIGINAL_MS = (12.0, 12.4, 12.2)
SURE = ((90, 40), (80, 70), (95, 90), (20, 60), (60, 99), (85, 30))
"""Sure pixels of 100, image by image, at the two early exits and the pixel threshold that the deployment uses."""


@dataclass(frozen=True)
class Artifacts:
    """Where everything was written."""

    run: Path
    package: Path
    records: Path
    profile: Path
    deployment: Path
    run_log: Path

    @property
    def all(self) -> dict[str, Path]:
        return dict(vars(self))


def provenance(step: str, **options) -> Provenance:
    made = Provenance.now(step, inputs={"package": PACKAGE_ID}, options=options)
    return made.model_copy(update={"device": "Board <X>", "versions": {"offramp": "9.9.9"}})


def make_manifest(folder: Path) -> Manifest:
    folder.mkdir()

    def graph(name, macs=0, size=0):
        (folder / name).write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        return {"file": name, "sha256": digest, "inputs": ("x",), "outputs": ("y",), "macs": macs, "parameter_bytes": size}

    stages = tuple(GraphEntry(**graph(f"stage{i}.onnx", macs, 4000)) for i, macs in enumerate(MACS["stages"]))
    heads = tuple(
        HeadEntry(
            **graph(f"head{i}.onnx", MACS["head"], 1000) | {"outputs": ("scores", "confidence", "sure")},
            exit=name,
            tap=name.split(":", maxsplit=1)[0],
            stage=i,
            scores_shape=(1, len(CLASSES), 4, 6),
            labels="labels.onnx",
            receptive_field=(24, 48, None)[i],
            whole_image=i == 1,
        )
        for i, name in enumerate(EXITS)
    )
    manifest = Manifest(
        package_id=PACKAGE_ID,
        classes=CLASSES,
        palette=PALETTE,
        size=(96, 64),
        confidence="top1",
        pixel_thresholds=PIXEL_THRESHOLDS,
        object_classes=(1,),
        stages=stages,
        heads=heads,
        labels=(GraphEntry(**graph("labels.onnx")),),
        original=GraphEntry(**graph("original.onnx", 7_500_000, 13_000)),
        provenance=provenance("offramp export"),
    )
    manifest.save(folder / "manifest.json")
    return manifest


def make_records() -> Records:
    images, exits, classes = len(SURE), len(EXITS), len(CLASSES)
    rng = np.random.default_rng(0)
    labelled = rng.integers(500, 900, (images, classes))
    labelled[:, 2] = 0
    rate = np.array([0.6, 0.75, 0.9])[None, :, None]
    correct = np.floor(labelled[:, None, :] * rate).astype(np.int64)
    predicted = correct + rng.integers(10, 90, (images, exits, classes))
    sure = np.full((images, exits, len(REGIONS), GRID), 50, dtype=np.int64)
    sure[..., 0] = 100
    sure[:, :2, 1, 20] = np.array(SURE)
    info = RecordsInfo(
        package_id=PACKAGE_ID,
        split="test",
        data_fingerprint="f" * 64,
        classes=CLASSES,
        exits=EXITS,
        images=tuple(f"image{i}.png" for i in range(images)),
        engine="onnxruntime",
        precision="fp32",
        provenance=provenance("offramp evaluate", split="test"),
    )
    differing = np.tile(np.array([200, 100, 0]), (images, 1))
    size = np.full(images, 1000)
    return Records(info, correct, predicted.astype(np.int64), labelled.astype(np.int64), sure, differing, size)


def make_profile() -> Profile:
    return Profile(
        package_id=PACKAGE_ID,
        engine="onnxruntime",
        engine_version="1.20",
        threads=2,
        precision="fp32",
        device="Board <X>",
        exits=EXITS,
        exit_stages=(0, 1, 2),
        stages=tuple(Measurement(times_ms=times) for times in STAGES_MS),
        heads={name: Measurement(times_ms=times) for name, times in HEAD_MS.items()},
        labels={name: Measurement(times_ms=LABEL_MS) for name in EXITS},
        original=Measurement(times_ms=ORIGINAL_MS),
        peak_memory_bytes=123_000_000,
        provenance=provenance("offramp profile", threads=2, engine="onnxruntime"),
    )


def make_deployment() -> Deployment:
    return Deployment(
        mode="input-dependent",
        exits=(EXITS[0], "final"),
        region="off-edges",
        pixel_threshold=20,
        image_thresholds=(0.8,),
        limits=SearchSpec(mode="input-dependent", max_latency_ms=10.0, max_drop_pp=1.5),
        expected=Expected(
            miou=0.7123,
            miou_interval=(0.6987, 0.7261),
            final_miou=0.7202,
            latency_ms=6.1,
            latency_interval=(5.5, 6.7),
            worst_latency_ms=13.6,
            final_latency_ms=12.6,
            shares={EXITS[0]: 0.64, "final": 0.36},
            images=101,
            candidates=4242,
        ),
        package_id=PACKAGE_ID,
        engine="onnxruntime",
        threads=2,
        provenance=provenance("offramp search", max_drop_pp=1.5, mode="input-dependent"),
    )


def make_run_log() -> RunLog:
    frames = tuple(
        Frame(
            name=f"frame{i}",
            exit="final" if i % 4 == 3 else EXITS[0],
            scores={EXITS[0]: 0.5},
            steps_ms={"stage0": 2.0},
            latency_ms=13.0 + i if i % 4 == 3 else 4.0,
            deadline_ms=15.0,
        )
        for i in range(8)
    )
    return RunLog(
        package_id=PACKAGE_ID,
        mode="input-dependent",
        exits=(EXITS[0], "final"),
        engine="onnxruntime",
        threads=2,
        frames=frames,
        provenance=provenance("offramp run"),
    )


def make_run(folder: Path, *, finished: bool = True) -> Path:
    folder.mkdir()
    lines = [",".join(["phase", "epoch", "loss", "learning_rate", "seconds", *(f"miou:{name}" for name in EXITS)])]
    for epoch in range(6):
        mious = ("", "", "") if epoch % 2 == 0 else (0.4 + epoch / 50, 0.5 + epoch / 50, 0.6 + epoch / 50)
        lines.append(",".join(map(str, [1 if epoch < 4 else 2, epoch, 2.0 / (epoch + 1), 0.001, 30, *mious])))
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    (folder / "network.json").write_text(json.dumps({"backbone": "tiny<net>", "exits": [{"tap": "blocks.1"}]}))
    (folder / "run.json").write_text(json.dumps({"seed": 7, "crop": [320, 320]}))
    if finished:
        (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    found = Artifacts(
        run=make_run(tmp_path / "run"),
        package=tmp_path / "package",
        records=tmp_path / "records.npz",
        profile=tmp_path / "profile.json",
        deployment=tmp_path / "deployment.json",
        run_log=tmp_path / "log.json",
    )
    make_manifest(found.package)
    make_records().save(found.records)
    make_profile().save(found.profile)
    make_deployment().save(found.deployment)
    make_run_log().save(found.run_log)
    return found


@pytest.fixture
def foreign_records(tmp_path: Path) -> Path:
    """Records of another package."""
    records = make_records()
    path = tmp_path / "foreign.npz"
    replace(records, info=records.info.model_copy(update={"package_id": "b2" * 32})).save(path)
    return path


@pytest.fixture
def records() -> Records:
    return make_records()


@pytest.fixture
def profile() -> Profile:
    return make_profile()


@pytest.fixture
def deployment() -> Deployment:
    return make_deployment()


@pytest.fixture
def run_log() -> RunLog:
    return make_run_log()


@pytest.fixture
def unfinished_run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "unfinished", finished=False)
