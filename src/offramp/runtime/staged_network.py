"""Run a package stage by stage: one generator, every consumer.

`StagedNetwork.iter_exits(image)` runs stage after stage and yields each exit's answer as soon as it exists. Who stops asking
stops the work: the rest is never computed. Buffers between graphs exist once, so what is asked too late, when they already hold
the next image, is an error; so is what a graph gives that cannot be an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offramp.artifacts import GraphEntry, HeadEntry, Manifest, graph_file, load_manifest
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.policy import GRID
from offramp.runtime.engines import Engine, Graph, Tensor
from offramp.specs import REGIONS

NOT_JUDGED = (np.zeros((1, 0, 0), np.float32), np.zeros((len(REGIONS), GRID), np.int32))
"""Confidence and counts of a package that was trimmed without confidence: none."""


@dataclass
class ExitAnswer:
    """What one exit says of one image; labels are made only if they are asked for."""

    exit: str
    sure: npt.NDArray[np.int32]
    """(regions, GRID) pixels; see `policy`."""
    confidence: npt.NDArray[np.float32]
    """(h, w), at head resolution; empty where the package was trimmed without confidence."""
    steps_ms: dict[str, float]
    """Time of every step so far for this image, in the order run: "stage 0", "head NAME", "labels NAME"."""
    make_labels: Callable[[], npt.NDArray[np.uint8]] = field(repr=False)

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map, (H, W), at the package's size, to be asked for before the next image. Its time joins `steps_ms`."""
        return self.make_labels()


class StagedNetwork:
    """A package, loaded into an engine."""

    @checked_call
    def __init__(
        self, package: Path, engine: Engine, exits: Sequence[str] | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Load what `exits` (all by default) need, and nothing deeper.

        Args:
            package: a folder.
            engine: what will run its graphs.
            exits: names.
            manifest: the package's, if it has been read and checked already.

        Raises:
            InputError: no package, a damaged one, or an exit that it does not have.

        """
        self.package = Path(package)
        self.engine = engine
        self.manifest = manifest or load_manifest(self.package)
        names = self.manifest.exits if exits is None else tuple(exits)
        wanted = {self.manifest.head(name).exit for name in names}
        self.heads: tuple[HeadEntry, ...] = tuple(head for head in self.manifest.heads if head.exit in wanted)
        self._stages = [self._load(entry) for entry in self.manifest.stages[: self.heads[-1].stage + 1]]
        self._head_graphs = {head.exit: self._load(head) for head in self.heads if not self.manifest.within_stage(head)}
        # The largest probability is at least one among so many; margin and entropy may be 0.
        self._least_confidence = 0.5 / len(self.manifest.classes) if self.manifest.confidence == "top1" else -1.0
        self._images = 0  # how many have been asked about: buffers are used again for each
        needed = {head.labels for head in self.heads}
        self._labels = {entry.file: (entry, self._load(entry)) for entry in self.manifest.labels if entry.file in needed}

    def _load(self, entry: GraphEntry) -> Graph:
        path = graph_file(self.package, entry)
        with self._telling(f"load {path}"):
            graph = self.engine.load(path, entry)

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with self._telling(f"run {path}"):
                return graph(inputs)

        return run

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Engines raise types of their own for a graph that they cannot load, or not run with what it is given."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(f"{self.engine.name} cannot {what}: {reason}; export it again, or try another --engine") from error

    @property
    def exits(self) -> tuple[str, ...]:
        """The exits that are loaded, in order of depth."""
        return tuple(head.exit for head in self.heads)

    def iter_exits(self, image: npt.NDArray[np.uint8], exits: Sequence[str] | None = None) -> Iterator[ExitAnswer]:
        """Yield the answers of `exits` (all loaded ones by default) in order of depth; nothing deeper is computed than asked.

        Args:
            image: RGB, (H, W, 3) uint8, of the package's size.
            exits: names; heads of other exits do not run.

        Raises:
            InputError: an image of another size or type, an exit that is not loaded, graphs that do not fit together, or class
                scores that are not finite.
            RuntimeError: a further exit is asked for although another image has been begun: its tensors are gone.

        """
        heads = self.heads if exits is None else self._named(exits)
        self._require_image(image)
        self._images += 1
        number = self._images
        entry = self.manifest.stages[0].inputs[0]
        tensors = {entry: self.engine.tensor(np.ascontiguousarray(image)[None])}
        steps_ms: dict[str, float] = {}
        begun = 0
        for head in heads:
            if number != self._images:
                raise RuntimeError("further exits must be asked for before the next image: this one's tensors are gone")
            for index in range(begun, head.stage + 1):
                tensors |= timed(steps_ms, f"stage {index}", self._stages[index], tensors)
            begun = head.stage + 1
            yield self._answer(head, tensors, steps_ms)

    def _named(self, exits: Sequence[str]) -> tuple[HeadEntry, ...]:
        lacking = [name for name in exits if name not in self.exits]
        if lacking or isinstance(exits, str):
            got = exits if isinstance(exits, str) else lacking[0]
            raise InputError(f"exits are a list of names of {', '.join(self.exits)}; got {got!r}")
        return tuple(head for head in self.heads if head.exit in exits)

    def _require_image(self, image: npt.NDArray[np.uint8]) -> None:
        width, height = self.manifest.size
        if not isinstance(image, np.ndarray) or image.shape != (height, width, 3) or image.dtype != np.uint8:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"the package takes uint8 images of shape {(height, width, 3)}, got {got}")

    def _answer(self, head: HeadEntry, tensors: dict[str, Tensor], steps_ms: dict[str, float]) -> ExitAnswer:
        if head.exit in self._head_graphs:
            outputs = timed(steps_ms, f"head {head.exit}", self._head_graphs[head.exit], tensors)
        else:
            outputs, steps_ms[f"head {head.exit}"] = tensors, 0.0
        scores, *judged = (outputs[name] for name in head.outputs)
        confidence, sure = (self.engine.array(tensor) for tensor in judged) if judged else NOT_JUDGED
        if confidence.ndim != 3 or sure.shape != NOT_JUDGED[1].shape:
            shapes = f"confidence {confidence.shape} and counts {sure.shape}"
            raise InputError(f"{self.package / head.file} gives {shapes}, wanted (1, h, w) and {NOT_JUDGED[1].shape}")
        # Some microseconds. NaN among the scores is NaN here, too, or 0 in OpenVINO, where the largest probability never is.
        if not confidence.min(initial=1.0) >= self._least_confidence:
            raise InputError(self._not_finite(head))
        entry, graph = self._labels[head.labels]
        image = self._images

        def make_labels() -> npt.NDArray[np.uint8]:
            if image != self._images:
                raise RuntimeError("the label map must be asked for before the next image: its class scores are gone")
            made = timed(steps_ms, f"labels {head.exit}", graph, {entry.inputs[0]: scores})
            return self._label_map(made, entry)

        return ExitAnswer(head.exit, sure, confidence[0], steps_ms, make_labels)

    def _not_finite(self, head: HeadEntry) -> str:
        how = f"computed in {self.engine.precision} by {self.engine.name}"
        do = "export the package again" if self.engine.precision == "fp32" else "take the precision fp32, or bf16 for fp16"
        return f"the exit {head.exit} gives NaN or infinite class scores for this image, {how}: no label map can be made; {do}"

    def load_original(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None:
        """The single-exit network in one graph, image (H, W, 3) to labels (H, W); None if the package has none."""
        entry = self.manifest.original
        if entry is None:
            return None
        graph = self._load(entry)

        def run(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            self._require_image(image)
            made = graph({entry.inputs[0]: self.engine.tensor(np.ascontiguousarray(image)[None])})
            return self._label_map(made, entry)

        return run

    def _label_map(self, made: Mapping[str, Tensor], entry: GraphEntry) -> npt.NDArray[np.uint8]:
        labels = self.engine.array(made[entry.outputs[0]])
        if labels.shape != (1, *self.manifest.labels_shape) or labels.dtype != np.uint8:
            wanted = f"uint8 {(1, *self.manifest.labels_shape)}"
            raise InputError(
                f"{self.package / entry.file} gives {labels.dtype} {labels.shape}, wanted {wanted}; export it again"
            )
        if labels.max() >= len(self.manifest.classes):
            raise InputError(f"{self.package / entry.file} gives class {labels.max()}, there are {len(self.manifest.classes)}")
        return np.asarray(labels[0])


def timed(steps_ms: dict[str, float], name: str, graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph and note how long it took."""
    started = time.perf_counter()
    outputs = graph(inputs)
    steps_ms[name] = (time.perf_counter() - started) * 1e3
    return outputs
