"""What exits say pixel by pixel, merged, and what that would cost on paper.

`per_pixel.py` and `merging.py` use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from tiling import grown, local

from offramp.artifacts import HeadEntry, Manifest
from offramp.runtime.engines import Engine

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """What all exits that take part say of one image: E exits."""

    scores: Scores
    """(E, C, h, w)."""
    confidence: Scores
    """(E, h, w)."""
    sure: npt.NDArray[np.int32]
    """(E, regions, GRID)."""


class Network:
    """The package's graphs, with class scores in the open; see `runtime.staged_network.StagedNetwork`."""

    def __init__(self, package: Path, manifest: Manifest, engine: Engine, exits: Sequence[str] | None = None) -> None:
        """Load what the exits (all by default) need."""
        self.manifest, self.engine = manifest, engine
        self.heads: tuple[HeadEntry, ...] = tuple(manifest.head(name) for name in (exits or manifest.exits))
        self._stages = [engine.load(package / entry.file, entry) for entry in manifest.stages[: self.heads[-1].stage + 1]]
        self._heads = [engine.load(package / head.file, head) for head in self.heads]
        self._labels = {entry.file: engine.load(package / entry.file, entry) for entry in manifest.labels}

    def ask(self, image: npt.NDArray[np.uint8]) -> list[tuple[Scores, Scores, npt.NDArray[np.int32]]]:
        """Scores (C, h, w), confidence (h, w) and counts of each exit."""
        tensors = {self.manifest.stages[0].inputs[0]: self.engine.tensor(np.ascontiguousarray(image)[None])}
        for stage in self._stages:
            tensors |= stage(tensors)
        answers = []
        for head, graph in zip(self.heads, self._heads, strict=True):
            found = graph(tensors)
            scores, confidence, sure = (self.engine.array(found[name]) for name in head.outputs)
            answers.append((scores[0], confidence[0], sure))
        return answers

    def labels(self, scores: Scores, head: HeadEntry) -> npt.NDArray[np.uint8]:
        """The label map (H, W) of class scores (C, h, w) at a head's resolution."""
        made = self._labels[head.labels]({"scores": self.engine.tensor(np.ascontiguousarray(scores)[None])})
        return np.asarray(self.engine.array(made["labels"])[0], np.uint8)


def merge(asked: Asked, chain: Sequence[int], threshold: float) -> tuple[Scores, list[Mask]]:
    """Each pixel's scores (C, h, w) are those of the first exit that is sure of it; unsure pixels before each exit (h, w)."""
    scores = asked.scores[chain[0]].copy()
    unsure = [np.ones(scores.shape[1:], bool)]
    for before, behind in pairwise(chain):
        unsure.append(unsure[-1] & (asked.confidence[before] < threshold))
        np.copyto(scores, asked.scores[behind], where=unsure[-1])
    return scores, unsure


@dataclass(frozen=True)
class Paper:
    """Multiply-accumulates of the stages and heads, and how far they reach."""

    stages: tuple[int, ...]
    heads: tuple[int, ...]
    """Of each exit."""
    depth: tuple[int, ...]
    """Each exit's last stage."""
    stage_reach: tuple[int, ...]
    """Pixels of the image."""
    head_reach: tuple[int, ...]
    stride: int
    """Of the masks."""

    @classmethod
    def of(cls, package: Path, manifest: Manifest, heads: Sequence[HeadEntry]) -> Paper:
        """Read off the graphs."""
        height = manifest.size[1]

        def reach(file: str, outputs: Sequence[str]) -> int:
            model = onnx.load(package / file)
            return max(local(model, name, height).reach for name in outputs)

        stages = manifest.stages[: heads[-1].stage + 1]
        return cls(
            tuple(stage.macs for stage in stages),
            tuple(head.macs for head in heads),
            tuple(head.stage for head in heads),
            # The first stage always runs for the whole image.
            (0, *(reach(stage.file, stage.outputs) for stage in stages[1:])),
            tuple(reach(head.file, head.outputs[:1]) for head in heads),
            round(height / heads[-1].scores_shape[2]),
        )

    def whole(self, chain: Sequence[int]) -> int:
        """With everything computed."""
        return sum(self.stages[: self.depth[chain[-1]] + 1]) + sum(self.heads[place] for place in chain)

    def without_halo(self, chain: Sequence[int], unsure: Sequence[Mask]) -> float:
        """At unsure pixels alone."""
        total, begin = 0.0, 0
        for place, mask in zip(chain, unsure, strict=True):
            end = self.depth[place] + 1
            total += (sum(self.stages[begin:end]) + self.heads[place]) * mask.mean()
            begin = end
        return total

    def with_halo(self, chain: Sequence[int], unsure: Sequence[Mask]) -> float:
        """At all cells of a stage's output that unsure pixels of this or a deeper exit depend on."""
        total = float(sum(self.heads[place] * mask.mean() for place, mask in zip(chain, unsure, strict=True)))
        total += sum(self.stages[: self.depth[chain[0]] + 1])
        for stage in range(self.depth[chain[0]] + 1, self.depth[chain[-1]] + 1):
            needed = np.zeros_like(unsure[0])
            for place, mask in zip(chain, unsure, strict=True):
                if self.depth[place] >= stage:
                    pixels = sum(self.stage_reach[stage + 1 : self.depth[place] + 1]) + self.head_reach[place]
                    needed |= grown(mask, -(-pixels // self.stride))
            total += self.stages[stage] * needed.mean()
        return total
