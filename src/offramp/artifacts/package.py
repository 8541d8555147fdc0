"""The package's manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from offramp.artifacts.base import Artifact, Provenance, load_json
from offramp.artifacts.deployment import Deployment
from offramp.artifacts.onnx_file import read_graph
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import sha256_of
from offramp.policy import GRID
from offramp.specs import ConfidenceKind, LabelStride, Size, Spec, StoredPrecision

MANIFEST = "manifest.json"
"""The file that makes a folder a package."""


LONGEST_NAME = 200
"""Bytes: file systems take 255, and a temporary name beside it is a little longer."""


def _plain_name(name: str) -> str:
    """Only a file directly inside the package may be named: nothing above it, no absolute path, no folder."""
    if not name or PurePosixPath(name).name != name or "\\" in name or "\0" in name or name in {".", ".."}:
        raise ValueError("must be a plain file name inside the package")
    if len(name.encode()) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"must be a file name of at most {LONGEST_NAME} bytes that can be printed")
    return name


FileName = Annotated[str, AfterValidator(_plain_name), Field(max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
"""Of a class or an exit."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Channel = Annotated[int, Field(ge=0, le=255)]
MOST_GRAPHS = 1000
"""Stages, heads or label maps of a package."""
Shape = tuple[Annotated[int, Field(ge=1, le=65536)], ...]


class GraphEntry(Spec):
    """One ONNX file of a package."""

    file: FileName
    sha256: Sha256
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = Field(ge=0)
    parameter_bytes: int = Field(ge=0)


class HeadEntry(GraphEntry):
    """The head of one exit: from the outputs of stages to class scores, confidence and counts of sure pixels.

    Of a package that was trimmed without confidence to class scores alone.
    """

    exit: Name
    tap: str
    stage: int = Field(ge=0)
    """Index of the last stage that must have run."""
    receptive_field: int | None = Field(default=None, ge=1)
    """Pixels on a side that a score depends on through the head alone; None for the network's own final exit."""
    whole_image: bool = False
    """The head pools over the whole image."""
    scores_shape: Shape
    """(1, classes, h, w): the head's resolution."""
    labels: FileName
    """The graph that turns these class scores into a label map of the package's size."""


class FloatLayer(Spec):
    """A layer that an int8 package computes in float, because int8 would cost too much there."""

    file: FileName
    layer: str
    """Its node's name."""
    exit: str
    """The exit that it was kept in float for."""
    damage: float = Field(ge=0, le=1)
    """Share of that exit's pixels whose class changed when this layer alone was in int8."""


class Lowering(Spec):
    """How a package of lower precision came about, and what that cost every exit."""

    made_from: str
    """Identity of the package of fp32."""
    data_fingerprint: str
    """Of the split `val` by which mIoU was measured."""
    images: int
    """Of `val` that were measured, evenly spaced."""
    miou_before: dict[str, float]
    """By exit, fp32."""
    miou_after: dict[str, float]
    calibration_images: int = 0
    """Of `train`, by which the ranges of int8 were found."""
    layers: int = 0
    """That could be in int8."""
    float_layers: tuple[FloatLayer, ...] = ()
    """Those of them that are not, the most damaging first."""


class Manifest(Artifact):
    """The package's table of contents."""

    kind: Literal["package"] = "package"
    package_id: Sha256
    """SHA-256 over the graphs' hashes: two packages with the same identity give the same answers."""
    trimmed_from: str | None = None
    """Identity of the package with all exits that this one was trimmed from."""
    classes: tuple[Name, ...] = Field(min_length=2, max_length=255)
    palette: tuple[tuple[Channel, Channel, Channel], ...]
    data_classes: tuple[str, ...] = Field(default=(), max_length=255)
    """Of the data that the network was trained on, where some of them are one class here; else empty."""
    groups: tuple[int, ...] = ()
    """For each of the data's classes the class here."""
    size: Size
    """Width and height of the images that the graphs take, in pixels."""
    label_stride: LabelStride = 1
    """Label maps are (ceil(height / stride), ceil(width / stride))."""
    precision: StoredPrecision = "fp32"
    lowering: Lowering | None = None
    """Of a package in another precision than fp32."""
    confidence: ConfidenceKind
    pixel_thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=GRID, max_length=GRID)
    """Ascending."""
    object_classes: tuple[Annotated[int, Field(ge=0)], ...]
    stages: tuple[GraphEntry, ...] = Field(min_length=1, max_length=MOST_GRAPHS)
    heads: tuple[HeadEntry, ...] = Field(min_length=1, max_length=MOST_GRAPHS)
    """In order of depth."""
    labels: tuple[GraphEntry, ...] = Field(max_length=MOST_GRAPHS)
    original: GraphEntry | None = None
    """The single-exit network in one graph, image to label map, for comparison; absent from a trimmed package."""
    deployments: tuple[Deployment, ...] = ()
    provenance: Provenance

    @property
    def labels_shape(self) -> tuple[int, int]:
        """Height and width of label maps."""
        width, height = self.size
        return -(-height // self.label_stride), -(-width // self.label_stride)

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of all exits, in order of depth."""
        return tuple(head.exit for head in self.heads)

    @property
    def judges(self) -> bool:
        """Whether heads give what a policy judges by."""
        return all(len(head.outputs) > 1 for head in self.heads)

    def within_stage(self, head: HeadEntry) -> bool:
        """Whether the head's outputs come with its stage's, from one graph; the head then takes no inputs of its own."""
        return head.file == self.stages[head.stage].file

    def head(self, name: str) -> HeadEntry:
        """The head of an exit.

        Raises:
            InputError: the package has no such exit.

        """
        for head in self.heads:
            if head.exit == name:
                return head
        raise InputError(f"the package has no exit {name!r}; it has {', '.join(self.exits)}")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        stages = [head.stage for head in self.heads]
        graphs = {graph.file for graph in self.labels}
        if stages != sorted(stages) or stages[-1] >= len(self.stages):
            raise ValueError("heads must come in order of depth, each after an existing stage")
        if len(set(self.exits)) != len(self.heads):
            raise ValueError("two exits have the same name")
        if any(head.labels not in graphs for head in self.heads):
            raise ValueError("a head names a labels graph that is not there")
        for head in self.heads:
            if self.within_stage(head) and not set(head.outputs) <= set(self.stages[head.stage].outputs):
                raise ValueError(f"the graph {head.file} does not give what the head of {head.exit} gives")
        self._classes_fit()
        self._graphs_fit()
        for chosen in self.deployments:
            self._require_depth(chosen)
        return self

    def _classes_fit(self) -> None:
        count = len(self.classes)
        if len(self.groups) != len(self.data_classes) or set(self.groups) - set(range(count)):
            raise ValueError("groups must name a class for each of data_classes")
        if len(self.palette) != count:
            raise ValueError("the palette must have one colour for each class")
        twice = next((name for name in self.classes if self.classes.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two classes are called {twice!r}")
        if any(index >= count for index in self.object_classes):
            raise ValueError(f"object_classes must be classes, of which there are {count}")
        if sorted(set(self.pixel_thresholds)) != list(self.pixel_thresholds):
            raise ValueError("pixel_thresholds must rise")
        for head in self.heads:
            if len(head.scores_shape) != 4 or head.scores_shape[:2] != (1, count):
                raise ValueError(f"scores_shape of {head.exit} must be (1, {count} classes, height, width)")

    def _graphs_fit(self) -> None:
        """Each graph takes what was made before it, and gives as much as its kind does."""
        if len(self.stages[0].inputs) != 1:
            raise ValueError("stages.0 must take one tensor, the image")
        made = set(self.stages[0].inputs)
        for index, stage in enumerate(self.stages):
            heads = [head for head in self.heads if head.stage == index]
            missing = sorted(set(stage.inputs) - made)
            made.update(stage.outputs)
            missing += sorted({name for head in heads for name in head.inputs} - made)
            if missing:
                raise ValueError(f"stages.{index}, or a head behind it, takes {missing[0]!r}, which nothing before it gives")
            if not stage.inputs or not stage.outputs:
                raise ValueError(f"stages.{index} must take something and give something")
        for head in self.heads:
            if len(head.outputs) not in {1, 3}:
                raise ValueError(f"{head.file} must have the outputs scores, confidence and sure, or scores alone")
        for graph in (*self.labels, *([self.original] if self.original else [])):
            if len(graph.inputs) != 1 or len(graph.outputs) != 1:
                raise ValueError(f"{graph.file} must take one tensor and give one")
        files = [graph.file for graph in (*self.stages, *self.labels)]
        twice = next((name for name in files if files.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two graphs have the file {twice}")

    def _require_depth(self, chosen: Deployment) -> None:
        """A deployment's exits are here, and in order of depth."""
        unknown = next((name for name in chosen.exits if name not in self.exits), None)
        if unknown is not None:
            raise ValueError(f"a deployment names the exit {unknown!r}, which is not there")
        if list(chosen.exits) != [name for name in self.exits if name in chosen.exits]:
            raise ValueError("the exits of a deployment must be in order of depth")
        if chosen.image_thresholds and not self.judges:
            raise ValueError("a deployment has thresholds, but no head gives what they would be compared with")


def needed_outputs(stages: Sequence[GraphEntry], heads: Sequence[HeadEntry]) -> list[frozenset[str]]:
    """What each stage must give so that these heads can run: nothing, where it need not run.

    Stages run in order, each head right behind its stage. A name means what was made last: two networks in one package (see
    `search.cascade`) may use the same names.
    """
    wanted: set[str] = set()
    needed = []
    for index in reversed(range(len(stages))):
        for head in heads:
            if head.stage == index:
                wanted.update(head.outputs if head.file == stages[index].file else head.inputs)
        made = frozenset(wanted & set(stages[index].outputs))
        wanted -= made
        if made:
            wanted |= set(stages[index].inputs)
        needed.append(made)
    return needed[::-1]


def package_identity(stages: Iterable[GraphEntry], heads: Iterable[GraphEntry], labels: Iterable[GraphEntry]) -> str:
    """SHA-256 over the graphs' hashes, in this order."""
    return hashlib.sha256("".join(graph.sha256 for graph in (*stages, *heads, *labels)).encode()).hexdigest()


@checked_call
def load_manifest(package: Path) -> Manifest:
    """Read a package's manifest and check that every file it names is there, inside the folder, and unchanged.

    Raises:
        InputError: no package, damaged, a file missing or of another content.

    """
    if not package.is_dir():
        raise InputError(f"not a package: {package} is not a folder; make one with offramp export RUN --out {package}")
    if (package / MANIFEST).is_symlink():
        raise InputError(f"not a package: {package / MANIFEST} is a link, which may lead anywhere; copy the file itself")
    if not (package / MANIFEST).exists():
        raise InputError(f"not a package: {package} holds no {MANIFEST}; give a folder that offramp export or trim made")
    manifest = load_json(package / MANIFEST, Manifest)
    graphs = [*manifest.stages, *manifest.heads, *manifest.labels, *([manifest.original] if manifest.original else [])]
    for graph in graphs:
        path = package / graph.file
        if path.is_symlink() or not path.is_file():
            why = "a link is in its place, which may lead anywhere" if path.is_symlink() else "no such file"
            raise InputError(f"the package {package} lacks {graph.file}: {why}; export or copy it again")
        if _hash_of(path) != graph.sha256:
            raise InputError(
                f"{path} is not the file that {MANIFEST} describes (its hash differs); export or copy the package again"
            )
    if manifest.package_id != package_identity(manifest.stages, manifest.heads, manifest.labels):
        raise InputError(
            f"damaged package {package / MANIFEST}: its package_id is not that of its graphs; export or copy it again"
        )
    return manifest


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; check its rights, or copy the package again"
        ) from error


def graph_file(package: Path, entry: GraphEntry) -> Path:
    """A package's graph, safe to be opened by an engine or by `onnx`: all of it is in its file, and it ends.

    The hash is `load_manifest`'s to check.

    Raises:
        InputError: no ONNX, weights in other files, loops, or other inputs and outputs than the manifest says.

    """
    path = package / entry.file
    try:
        names = read_graph(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; copy the package again") from error
    except ValueError as error:
        raise InputError(f"will not open {path}: {error}; export it again, or ask whoever made it") from error
    # A head within its stage's graph takes nothing of its own.
    strange = (set(entry.inputs) ^ names.inputs if entry.inputs else set()) | (set(entry.outputs) - names.outputs)
    if strange:
        raise InputError(
            f"will not open {path}: the manifest and the graph differ in {min(strange)!r}, an input or output; export it again"
        )
    return path
