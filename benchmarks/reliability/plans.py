"""A tiny package that is sure of some images and unsure of others, and a plan by which some of them leave at every exit."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from offramp.artifacts import MANIFEST, Manifest
from offramp.artifacts.package import package_identity
from offramp.files import new_folder, sha256_of
from offramp.policy import MEAN
from offramp.runtime.predictor import Plan, Predictor

FACTOR = 32
NEVER = 1.01
"""No score reaches it."""


def decided(package: Path, out: Path) -> Path:
    """A copy with all class scores times FACTOR: the same labels, but confidences that differ, after two epochs already."""
    if out.exists():
        return out
    with new_folder(out, marker=MANIFEST) as folder:
        shutil.copytree(package, folder, dirs_exist_ok=True)
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for head in raw["heads"]:
            model = onnx.load(folder / head["file"])
            last = next(node for node in model.graph.node if head["outputs"][0] in node.output)
            for tensor in model.graph.initializer:
                if tensor.name in last.input:
                    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * FACTOR, tensor.name))
            onnx.save(model, folder / head["file"])
            head["sha256"] = sha256_of(folder / head["file"])
        made = Manifest.model_validate(raw)
        identity = package_identity(made.stages, made.heads, made.labels)
        made.model_copy(update={"package_id": identity}).save(folder / MANIFEST)
    return out


def by_image(predictor: Predictor, images: Sequence[npt.NDArray[np.uint8]]) -> Plan:
    """An input-dependent plan, judged by mean confidence: at each exit half of these images (H, W, 3) that come so far leave.

    The predictor must have been opened with every exit; its plan is changed.
    """
    exits = predictor.network.exits
    predictor.change(Plan("input-dependent", exits, "all", MEAN, (NEVER,) * (len(exits) - 1)))
    scores = [predictor(image).scores for image in images]
    thresholds: list[float] = []
    for name in exits[:-1]:
        thresholds.append(statistics.median_high(score[name] for score in scores))
        scores = [score for score in scores if score[name] < thresholds[-1]] or scores
    return Plan("input-dependent", exits, "all", MEAN, tuple(thresholds))
