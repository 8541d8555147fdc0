"""The three ways to run a package: a fixed exit, as far as time allows, or as deep as each image needs.

All three consume the same generator and differ only in when they stop asking.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from offramp.artifacts import Deployment, load_manifest
from offramp.data.folder import load_image
from offramp.errors import InputError
from offramp.policy import image_score
from offramp.runtime.engines import ExitAnswer, StagedNetwork, open_engine
from offramp.specs import REGIONS, EngineName, Mode, Size

RECENT = 50
"""Runs that a deadline is judged by."""
QUANTILE = 0.95
"""Of the recent times of a step: what it is expected to take at most."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What the network says of an image."""

    labels: Pixels
    """Class indices, (H, W), of the image's own size."""
    confidence: npt.NDArray[np.float32]
    """(h, w), at head resolution."""
    exit: str
    scores: dict[str, float]
    """Score at each exit asked; empty where no policy judges."""
    steps_ms: dict[str, float]
    latency_ms: float
    """From the decoded image to the labels."""


class Predictor:
    """A package, ready to answer."""

    def __init__(
        self,
        package: Path | str,
        *,
        engine: EngineName = "onnxruntime",
        threads: int = 0,
        mode: Mode | None = None,
    ) -> None:
        """Load what the package's mode needs.

        Args:
            package: a folder that `offramp export` or `offramp trim` made.
            engine: onnxruntime or openvino.
            threads: 0 for all processors.
            mode: budgeted, anytime or input-dependent; by default that of the package's first deployment, and without one
                budgeted. What the package's deployments do not say has defaults: the deepest exit for budgeted, every exit
                for anytime.

        Raises:
            InputError: no package, a damaged one, an unknown mode, or one that it has no thresholds for.

        """
        if mode is not None and mode not in get_args(Mode):
            raise InputError(f"unknown mode {mode!r}; there are {', '.join(get_args(Mode))}")
        self.manifest = load_manifest(Path(package))
        self.deployment = _choose(self.manifest.deployments, mode)
        self.mode: Mode = self.deployment.mode if self.deployment else (mode or "budgeted")
        if self.mode == "input-dependent" and self.deployment is None:
            raise InputError(
                f"the package {package} has no input-dependent deployment, so no thresholds; "
                f"make one with offramp search --mode input-dependent and offramp trim"
            )
        every = self.manifest.exits
        self.exits = self.deployment.exits if self.deployment else every[-1 if self.mode == "budgeted" else 0 :]
        self.network = StagedNetwork(Path(package), open_engine(engine, threads), self.exits, manifest=self.manifest)
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def _warm_up(self) -> None:
        """Learn what every step takes, before the first deadline."""
        width, height = self.manifest.size
        for _ in range(2):
            for found in self.network.iter_exits(np.zeros((height, width, 3), np.uint8), self.exits):
                found.labels()
        self._remember(found.steps_ms)

    def __call__(self, image: Pixels | Image.Image | Path | str, *, deadline_ms: float | None = None) -> Answer:
        """Answer for one image.

        Args:
            image: RGB, (H, W, 3) uint8, a PIL image or a file; other sizes than the package's are resized, labels back.
            deadline_ms: milliseconds from this call on. The next exit is begun only if it should end in time, by the 95th
                percentile of its own recent times; the first one is always taken. The first call with a deadline begins by
                learning what each step takes, which does not count.

        Raises:
            InputError: no image, or a deadline that is no positive number.

        """
        if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms > 0):
            raise InputError(f"a deadline must be a positive number of milliseconds, got {deadline_ms}")
        pixels = as_pixels(image)
        if deadline_ms is not None and any(f"labels {name}" not in self._recent for name in self.exits):
            self._warm_up()
        started = time.perf_counter()
        scores: dict[str, float] = {}
        fitted = fit(pixels, self.manifest.size)
        for index, found in enumerate(self.network.iter_exits(fitted, self.exits)):
            if self._leaves(found, index, scores):
                break
            if deadline_ms is not None and index + 1 < len(self.exits):
                spent = (time.perf_counter() - started) * 1e3
                if spent + self._expected_ms(found, index + 1) > deadline_ms:
                    break
        return self._answer(found, pixels, scores, started)

    def refine(self, image: Pixels | Image.Image | Path | str) -> Iterator[Answer]:
        """Yield the answer of each of the deployment's exits as it comes; nothing further is computed when the caller stops."""
        pixels = as_pixels(image)
        started = time.perf_counter()
        scores: dict[str, float] = {}
        for index, found in enumerate(self.network.iter_exits(fit(pixels, self.manifest.size), self.exits)):
            self._leaves(found, index, scores)
            yield self._answer(found, pixels, scores, started)

    def _leaves(self, found: ExitAnswer, index: int, scores: dict[str, float]) -> bool:
        """Judge an exit by the deployment's policy; its score is added to `scores`."""
        if self.mode != "input-dependent":
            return False
        assert self.deployment is not None
        region = REGIONS.index(self.deployment.region)
        score = float(image_score(found.sure, region, self.deployment.pixel_threshold))
        scores[found.exit] = score
        return index < len(self.deployment.image_thresholds) and score >= self.deployment.image_thresholds[index]

    def _expected_ms(self, found: ExitAnswer, following: int) -> float:
        """What the exit after `found` should take at most, its label map included."""
        name = self.exits[following]
        stages = range(self.manifest.head(found.exit).stage + 1, self.manifest.head(name).stage + 1)
        steps = [*(f"stage {stage}" for stage in stages), f"head {name}", f"labels {name}"]
        return sum(float(np.quantile(self._recent[step], QUANTILE)) for step in steps)

    def _answer(self, found: ExitAnswer, pixels: Pixels, scores: dict[str, float], started: float) -> Answer:
        labels = found.labels()
        if labels.shape != pixels.shape[:2]:
            size = (pixels.shape[1], pixels.shape[0])
            labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        latency_ms = (time.perf_counter() - started) * 1e3
        self._remember(found.steps_ms)
        return Answer(labels, found.confidence, found.exit, dict(scores), dict(found.steps_ms), latency_ms)

    def _remember(self, steps_ms: dict[str, float]) -> None:
        for step, latency_ms in steps_ms.items():
            self._recent[step].append(latency_ms)


def _choose(deployments: tuple[Deployment, ...], mode: Mode | None) -> Deployment | None:
    fitting = [deployment for deployment in deployments if mode in (None, deployment.mode)]
    return fitting[0] if fitting else None


def fit(pixels: Pixels, size: Size) -> Pixels:
    """An image (H, W, 3) at the size (width, height) that a package takes, bilinear."""
    if pixels.shape[:2] == (size[1], size[0]):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def as_pixels(image: Pixels | Image.Image | Path | str) -> Pixels:
    """An image of any kind as RGB, (H, W, 3) uint8.

    Raises:
        InputError: a file that cannot be read, or an array of another shape or type.

    """
    if isinstance(image, (Path, str)):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"an image must be RGB, uint8 (height, width, 3), got {got}")
    return image
