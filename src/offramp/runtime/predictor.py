"""The three ways to run a package: a fixed exit, as far as time allows, or as deep as each image needs.

All three consume the same generator and differ only in when they stop asking. A predictor works on one image at a time: calls
from several threads wait for each other, and a new image ends one that is being refined or answered in the background. Several
predictors, in threads or processes of their own, do not know of each other. A process may be forked while none answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, get_args

import numpy as np
from PIL import Image

from offramp.artifacts import Deployment, load_manifest
from offramp.data.pictures import Pixels
from offramp.doors import as_whole, checked_call, is_number
from offramp.errors import InputError
from offramp.policy import GRID, MEAN, image_score
from offramp.runtime.answers import Answer, Background
from offramp.runtime.engines import open_engine
from offramp.runtime.images import as_pixels, fit, resize_labels
from offramp.runtime.pace import Pace
from offramp.runtime.staged_network import ExitAnswer, StagedNetwork
from offramp.runtime.turns import Turns
from offramp.specs import REGIONS, EngineName, Mode, Precision, Region

RISK = 0.01
"""With which the deadline of an image may be missed by exits that are begun: shared by all but the first, which each image may
meet."""

WARM_UP = 10
"""Images that the times of exits are learnt by before the first deadline."""


@dataclass(frozen=True)
class Plan:
    """Which exits are asked about an image, and when it leaves."""

    mode: Mode
    exits: tuple[str, ...]
    """In order of depth."""
    region: Region = "all"
    pixel_threshold: int = MEAN
    """Index into the manifest's `pixel_thresholds`, or `MEAN`."""
    image_thresholds: tuple[float, ...] = ()
    """In the mode input-dependent one for each exit but the last: leave there if the score reaches it."""


class Predictor:
    """A package, ready to answer."""

    @checked_call
    def __init__(
        self,
        package: Path | str,
        *,
        engine: EngineName = "onnxruntime",
        threads: int = 0,
        precision: Precision = "fp32",
        mode: Mode | None = None,
        every_exit: bool = False,
    ) -> None:
        """Load what the package's mode needs.

        Args:
            package: a folder that `offramp export` or `offramp trim` made.
            engine: onnxruntime, openvino, onnxruntime-cuda or onnxruntime-tensorrt.
            threads: 0 for all processors.
            precision: what the engine computes in: fp32, bf16 or fp16.
            mode: budgeted, anytime or input-dependent; by default that of the package's first deployment, and without one
                budgeted. What the package's deployments do not say has defaults: the deepest exit for budgeted, every exit
                for anytime.
            every_exit: load all of the package's exits, so that `change` can turn to any of them.

        Raises:
            InputError: no package, a damaged one, an engine or a precision that is not to be had, an unknown mode, or one that
                it has no thresholds for.

        """
        self.manifest = load_manifest(Path(package))
        self.deployment = _choose(self.manifest.deployments, mode)
        if mode == "input-dependent" and self.deployment is None:
            raise InputError(
                f"the package {package} has no input-dependent deployment, so no thresholds; "
                f"make one with offramp search --mode input-dependent and offramp trim"
            )
        self.plan = _planned(self.deployment) if self.deployment else _default(self.manifest.exits, mode or "budgeted")
        loaded = self.manifest.exits if every_exit else self.exits
        self.network = StagedNetwork(Path(package), open_engine(engine, threads, precision), loaded, manifest=self.manifest)
        self._way = self._ways()
        self._pace = _pace_of(self.exits)
        self._lock = Turns()
        self._background: Background | None = None

    def __reduce__(self) -> NoReturn:
        """Sessions of an engine cannot be sent to another process."""
        raise TypeError("a Predictor cannot be pickled or sent to another process; open its package there: Predictor(PACKAGE)")

    def change(self, plan: Plan) -> None:
        """Answer by another plan from the next image on. With other exits, the times of exits must be learnt again.

        Raises:
            InputError: exits that are not loaded or not in order of depth, thresholds that do not fit them, or a policy asked
                of a package that was trimmed without confidence.

        """
        loaded = self.network.exits
        if not isinstance(plan, Plan):
            raise InputError(f"change takes a Plan, got {type(plan).__name__}")
        if not plan.exits or list(plan.exits) != [name for name in loaded if name in plan.exits]:
            raise InputError(
                f"a plan names exits in order of depth, of {', '.join(loaded)}; got {', '.join(plan.exits) or 'none'}"
            )
        wanted = len(plan.exits) - 1 if plan.mode == "input-dependent" else 0
        if len(plan.image_thresholds) != wanted:
            given = len(plan.image_thresholds)
            raise InputError(f"{len(plan.exits)} exits in mode {plan.mode} need {wanted} image thresholds, got {given}")
        if plan.mode == "input-dependent" and not self.manifest.judges:
            raise InputError("the package was trimmed without confidence, so no policy can judge; trim it again with it")
        if not 0 <= as_whole("pixel_threshold", plan.pixel_threshold) < GRID:
            raise InputError(f"a pixel threshold is an index from 0 to {GRID - 1}, got {plan.pixel_threshold}")
        if plan.mode not in get_args(Mode) or plan.region not in REGIONS:
            known = f"modes {', '.join(get_args(Mode))}, and regions {', '.join(REGIONS)}"
            raise InputError(f"there are {known}; got {plan.mode!r} and {plan.region!r}")
        if not all(is_number(threshold) for threshold in plan.image_thresholds):
            raise InputError(
                f"image thresholds are numbers, to be compared with scores from 0 to 1; got {plan.image_thresholds}"
            )
        self._end_background()
        with self._lock:
            others = plan.exits != self.exits
            self.plan = plan
            if others:
                self._way, self._pace = self._ways(), _pace_of(self.exits)

    @property
    def mode(self) -> Mode:
        """Budgeted, anytime or input-dependent."""
        return self.plan.mode

    @property
    def exits(self) -> tuple[str, ...]:
        """The exits that are asked, in order of depth."""
        return self.plan.exits

    def warm_up(self) -> None:
        """Learn what every exit takes. The first call with a deadline does it, unless it has been done."""
        width, height = self.manifest.size
        image = np.zeros((height, width, 3), np.uint8)
        with self._lock:
            for number in range(WARM_UP + 1):
                for found in self.network.iter_exits(image, self.exits):
                    started = time.perf_counter()
                    found.labels()
                    if number:  # the first run is slower than those after it
                        self._note_reached(found)
                        self._note_finished(found, time.perf_counter() - started)

    def __call__(self, image: Pixels | Image.Image | Path | str, *, deadline_ms: float | None = None) -> Answer:
        """Answer for one image.

        Args:
            image: RGB, (H, W, 3) uint8, a PIL image or a file; other sizes than the package's are resized, labels back.
            deadline_ms: milliseconds from this call on. The next exit is begun only if it should end in time, label map and
                its resizing included: with a probability of 99 %, by its own recent times at the machine's pace (see `Pace`).
                The first one is always taken. The first call with a deadline begins with `warm_up`, which does not count.

        Raises:
            InputError: no image, or a deadline that is no positive number.

        """
        if deadline_ms is not None and not (is_number(deadline_ms) and 0 < deadline_ms < math.inf):
            raise InputError(f"a deadline must be a positive number of milliseconds, got {deadline_ms!r}")
        if deadline_ms is not None and not all(self._pace.knows(_finish(name)) for name in self.exits):
            self.warm_up()
        called = time.perf_counter()
        pixels = as_pixels(image)
        started = time.perf_counter()
        self._end_background()
        with self._lock:
            scores: dict[str, float] = {}
            for index, found in enumerate(self.network.iter_exits(fit(pixels, self.manifest.size), self.exits)):
                self._note_reached(found)
                if self._leaves(found, index, scores):
                    break
                if deadline_ms is not None and index + 1 < len(self.exits):
                    left_ms = deadline_ms - (time.perf_counter() - called) * 1e3
                    following = self.exits[index + 1]
                    if not self._pace.in_time((_reach(following), _finish(following)), left_ms):
                        break
            return self._answer(found, pixels, scores, started)

    def refine(self, image: Pixels | Image.Image | Path | str) -> Iterator[Answer]:
        """Yield the answer of each of the deployment's exits as it comes; nothing further is computed when the caller stops.

        Raises:
            InputError: no image.
            RuntimeError: another image was begun or another plan made in between.

        """
        pixels = as_pixels(image)
        self._end_background()
        return self._refine(pixels)

    def _refine(self, pixels: Pixels) -> Iterator[Answer]:
        started = time.perf_counter()
        scores: dict[str, float] = {}
        plan = self.plan
        exits = enumerate(self.network.iter_exits(fit(pixels, self.manifest.size), self.exits))
        while True:
            with self._lock:  # not while the caller has the answer
                if plan is not self.plan:
                    raise RuntimeError("further exits must be asked for before the plan changes: they may not be in it")
                index, found = next(exits, (0, None))
                if found is None:
                    return
                self._note_reached(found)
                self._leaves(found, index, scores)
                answer = self._answer(found, pixels, scores, started)
            yield answer

    def start(self, image: Pixels | Image.Image | Path | str) -> Background:
        """Answer in the background, exit after exit; what ran there before ends after its present exit.

        Args:
            image: as in a call; the array must not be changed while it is answered.

        Raises:
            InputError: no image.

        """
        pixels = as_pixels(image)
        self._end_background()
        self._background = Background(self._refine(pixels))
        return self._background

    def latest(self) -> Answer | None:
        """The best answer so far of what was started last; None before its first exit."""
        return None if self._background is None else self._background.latest()

    def _end_background(self) -> None:
        if self._background is not None:
            self._background.stop()

    def _leaves(self, found: ExitAnswer, index: int, scores: dict[str, float]) -> bool:
        """Judge an exit by the deployment's policy; its score is added to `scores`."""
        if self.mode != "input-dependent":
            return False
        plan = self.plan
        score = float(image_score(found.sure, REGIONS.index(plan.region), plan.pixel_threshold))
        scores[found.exit] = score
        return index < len(plan.image_thresholds) and score >= plan.image_thresholds[index]

    def _ways(self) -> dict[str, list[str]]:
        """To each exit, the steps from the exit before it: the stages between and the head."""
        ways, begun = {}, 0
        for name in self.exits:
            stage = self.manifest.head(name).stage
            ways[name] = [*(f"stage {index}" for index in range(begun, stage + 1)), f"head {name}"]
            begun = stage + 1
        return ways

    def _note_reached(self, found: ExitAnswer) -> None:
        took_ms = sum(found.steps_ms[step] for step in self._way[found.exit])
        if found.exit == self.exits[0]:
            self._pace.note_first(took_ms)
        else:
            self._pace.note(_reach(found.exit), took_ms)

    def _note_finished(self, found: ExitAnswer, seconds: float) -> None:
        self._pace.note(_finish(found.exit), seconds * 1e3)

    def _answer(self, found: ExitAnswer, pixels: Pixels, scores: dict[str, float], started: float) -> Answer:
        begun = time.perf_counter()
        stride = self.manifest.label_stride
        labels = resize_labels(found.labels(), (-(-pixels.shape[0] // stride), -(-pixels.shape[1] // stride)))
        ended = time.perf_counter()
        self._note_finished(found, ended - begun)
        latency_ms = (ended - started) * 1e3
        return Answer(labels, found.confidence, found.exit, dict(scores), dict(found.steps_ms), latency_ms)


def _reach(exit_name: str) -> str:
    return f"reach {exit_name}"


def _finish(exit_name: str) -> str:
    return f"finish {exit_name}"


def _choose(deployments: tuple[Deployment, ...], mode: Mode | None) -> Deployment | None:
    fitting = [deployment for deployment in deployments if mode in (None, deployment.mode)]
    return fitting[0] if fitting else None


def _planned(chosen: Deployment) -> Plan:
    return Plan(chosen.mode, chosen.exits, chosen.region, chosen.pixel_threshold, chosen.image_thresholds)


def _default(every: tuple[str, ...], mode: Mode) -> Plan:
    return Plan(mode, every[-1:] if mode == "budgeted" else every)


def _pace_of(exits: tuple[str, ...]) -> Pace:
    return Pace(RISK / max(1, len(exits) - 1))
