"""The step `export --precision`: a package of fp32 -> the same package in int8, or with weights of 16 bits.

Every exit's mIoU is measured before and after, on images of `val`. Where an exit loses more than is accepted to int8, the
damage that each layer does alone is measured, and the worst ones for that exit go back to float until it does not.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx

from offramp.artifacts import (
    MANIFEST,
    FloatLayer,
    GraphEntry,
    HeadEntry,
    Lowering,
    Manifest,
    Provenance,
    graph_file,
    load_manifest,
    package_identity,
)
from offramp.data.folder import Split, open_split
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.evaluation import evaluate, require_same_classes
from offramp.export.probing import LARGEST_FP16, LARGEST_FP32, probe_images, require_finite_graphs
from offramp.export.quantisation import Ranged, find_ranges, in_16_bits
from offramp.export.stages import parameter_bytes
from offramp.files import check_replaceable, new_folder, scratch_folder
from offramp.metrics import miou
from offramp.progress import Progress, silent
from offramp.runtime.engines import Graph, open_engine
from offramp.runtime.images import fit
from offramp.specs import StoredPrecision
from offramp.targets import require_outside, require_own_folders, require_place

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

CALIBRATION_IMAGES = 32
MEASURED_IMAGES = 100
DAMAGE_IMAGES = 4
PROBED_IMAGES = 4
MAX_DROP_PP = 0.5


@checked_call
def lower(
    package: Path,
    out: Path,
    precision: StoredPrecision,
    data: Path,
    *,
    images: int = CALIBRATION_IMAGES,
    max_drop_pp: float = MAX_DROP_PP,
    exits: Sequence[str] | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> Manifest:
    """Write the package `out`: the exits of `package` in another precision.

    The original network stays as it is, to compare with.

    Args:
        package: of fp32, with all its exits.
        out: the new package; an earlier one of that name is replaced, unless it is `package` itself.
        precision: int8, bf16 or fp16; the latter two are of the weights alone, an engine says itself what it computes in.
        data: a dataset: `train` finds the ranges of int8, `val` shows what every exit loses.
        images: of `train`.
        max_drop_pp: points of mIoU that no exit may lose to int8; layers stay in float for it.
        exits: names of those that this holds for; by default all. What nobody will take need not be spared.
        threads: 0 for all.
        progress: told of each graph, layer and image.

    Raises:
        InputError: bad package or data, a package that is not of fp32, that was merged or trimmed already, bad numbers, an
            exit that it does not have, or a layer whose numbers are too large for the precision.

    """
    if out.resolve() == package.resolve():
        raise InputError(f"will not lower {package} into itself: its fp32 graphs would be lost; choose another --out")
    require_outside(out, package, "package")
    check_replaceable(out, marker=MANIFEST)
    require_own_folders(out)
    require_place(out)
    if precision == "fp32" or precision not in get_args(StoredPrecision):
        raise InputError(f"a package is lowered to int8, bf16 or fp16, got {precision}")
    if images < 1 or not 0 <= max_drop_pp <= 100:
        raise InputError(f"calibration needs 1 image or more and max-drop-pp 0 to 100, got {images} and {max_drop_pp}")
    manifest = load_manifest(package)
    _require_whole(package, manifest)
    spared = {manifest.head(name).exit for name in exits} if exits is not None else set(manifest.exits)
    splits = {name: open_split(data, name) for name in ("train", "val")}
    for split in splits.values():
        require_same_classes(split, manifest)
    with scratch_folder(out) as scratch:
        job = _Job(package, manifest, splits["val"], scratch, precision, threads, progress)
        if precision == "int8":
            lowering = job.to_int8(_spread(splits["train"], images), max_drop_pp, spared)
        else:
            lowering = job.to_16_bits()
        lowered = job.manifest_of(lowering)
        with new_folder(out, marker=MANIFEST) as folder:
            job.write(folder, lowered)
            job.require_finite(folder, lowered)
    return lowered


def _require_whole(package: Path, manifest: Manifest) -> None:
    if manifest.precision != "fp32":
        raise InputError(f"{package} is in {manifest.precision} already; lower the package of fp32 that it was made from")
    if manifest.trimmed_from is not None:
        raise InputError(
            f"{package} is trimmed: its thresholds were chosen for its answers in fp32; "
            f"lower the package that it was trimmed from, then evaluate, search and trim"
        )
    made = [name for stage in manifest.stages for name in stage.outputs]
    if len(set(made)) < len(made):  # what a layer damages is followed by names
        raise InputError(f"{package} is a cascade of two networks; lower each of them, then make the cascade of these")


def _spread(split: Split, most: int) -> list[Array]:
    return [split.image(index) for index in _evenly(len(split), most)]


def _evenly(number: int, most: int) -> list[int]:
    """Indices, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, most)).tolist()})


@dataclass
class _Job:
    package: Path
    manifest: Manifest
    val: Split
    scratch: Path
    precision: StoredPrecision
    threads: int
    progress: Progress
    models: dict[str, onnx.ModelProto] = field(default_factory=dict)
    """The new graphs of stages and heads, by file."""

    def __post_init__(self) -> None:
        self.engine = open_engine("onnxruntime", self.threads)
        self.measured = _evenly(len(self.val), MEASURED_IMAGES)
        self._loaded: dict[str, Graph] = {}

    # ------------------------------------------------------------------------------------------------------- two precisions

    def to_16_bits(self) -> Lowering:
        """Every weight in 16 bits."""
        for entry in self._pieces():
            self.models[entry.file] = in_16_bits(onnx.load(graph_file(self.package, entry)), self.precision)
        return self._lowering(self._miou(self.package, "before"), self._measure("after"))

    def to_int8(self, images: Sequence[Array], max_drop_pp: float, spared: Collection[str]) -> Lowering:
        """Every layer in int8 but for those that one of the exits that are spared would lose too much by."""
        before = self._miou(self.package, "before")
        ranged, known = self._find_ranges(images)
        every = {(file, layer) for file, graph in ranged.items() for layer in graph.layers}
        kept: dict[tuple[str, str], FloatLayer] = {}
        step = 1
        damages: dict[tuple[str, str], dict[str, float]] = {}
        while True:
            for file, graph in ranged.items():
                layers = [layer for layer in graph.layers if (file, layer) not in kept]
                self.models[file] = graph.quantised(layers, self.scratch / "quantised.onnx")
            after = self._measure(f"after, {len(kept)} of {len(every)} layers in float")
            losing = [name for name in before if name in spared and before[name] - after[name] > max_drop_pp / 100]
            if not losing:
                break
            damages = damages or self._damages(ranged, known)
            more = [layer for name in losing for layer in self._worst(damages, name, kept, step)]
            if not more:
                break
            for layer in more:
                kept.setdefault((layer.file, layer.layer), layer)
            step *= 2
        ordered = sorted(kept.values(), key=lambda layer: -layer.damage)
        return self._lowering(before, after, calibration_images=len(images), layers=len(every), float_layers=tuple(ordered))

    def _lowering(self, before: Mapping[str, float], after: Mapping[str, float], **more: Any) -> Lowering:
        return Lowering(
            made_from=self.manifest.package_id,
            data_fingerprint=self.val.fingerprint(),
            images=len(self.measured),
            miou_before=dict(before),
            miou_after=dict(after),
            **more,
        )

    # ----------------------------------------------------------------------------------------------------------- calibration

    def _pieces(self) -> list[GraphEntry]:
        return [*self.manifest.stages, *self.manifest.heads]

    def _heads_at(self, stage: int) -> list[HeadEntry]:
        return [head for head in self.manifest.heads if head.stage == stage]

    def _find_ranges(self, images: Sequence[Array]) -> tuple[dict[str, Ranged], list[Tensors]]:
        """The ranges of every graph, and all that crosses between graphs for a few of the images."""
        name = self.manifest.stages[0].inputs[0]
        every: list[Tensors] = [{name: fit(image, self.manifest.size)[None]} for image in images]
        known = [every[index] for index in _evenly(len(every), DAMAGE_IMAGES)]
        ranged = {}
        for index, stage in enumerate(self.manifest.stages):
            ranged[stage.file] = self._ranged(stage, (), every)
            for tensors in every:
                tensors.update(self._run(stage, tensors))
            for head in self._heads_at(index):
                ranged[head.file] = self._ranged(head, head.outputs[:1], every)
            self.progress("calibrate", index + 1, len(self.manifest.stages))
            later = [*self.manifest.stages[index + 1 :], *(head for head in self.manifest.heads if head.stage > index)]
            wanted = {tensor for entry in later for tensor in entry.inputs}
            for tensors in every:
                if not any(tensors is one for one in known):
                    for gone in tensors.keys() - wanted:
                        del tensors[gone]
        return ranged, known

    def _ranged(self, entry: GraphEntry, scores: Sequence[str], every: Sequence[Tensors]) -> Ranged:
        inputs = [{name: tensors[name] for name in entry.inputs} for tensors in every]
        return find_ranges(graph_file(self.package, entry), inputs, scores, self.scratch)

    def _run(self, entry: GraphEntry, tensors: Tensors) -> Tensors:
        if entry.file not in self._loaded:
            self._loaded[entry.file] = self.engine.load(graph_file(self.package, entry), entry)
        return self._outputs(self._loaded[entry.file], entry, tensors)

    def _outputs(self, graph: Graph, entry: GraphEntry, tensors: Tensors) -> Tensors:
        made = graph({name: self.engine.tensor(np.ascontiguousarray(tensors[name])) for name in entry.inputs})
        return {name: self.engine.array(made[name]) for name in entry.outputs}

    # --------------------------------------------------------------------------------------------------------------- damage

    def _damages(self, ranged: Mapping[str, Ranged], known: Sequence[Tensors]) -> dict[tuple[str, str], dict[str, float]]:
        """For each layer, alone in int8, the share of pixels of each exit whose class changes, at head resolution."""
        answers = [self._answers(tensors, self.manifest.heads) for tensors in known]
        layers = [(entry, layer) for entry in self._pieces() for layer in ranged[entry.file].layers]
        found = {}
        for number, (entry, layer) in enumerate(layers, 1):
            path = self.scratch / "alone.onnx"
            onnx.save(ranged[entry.file].quantised([layer], self.scratch / "quantised.onnx"), path)
            graph = self.engine.load(path, entry)
            changed: dict[str, list[float]] = {}
            for tensors, right in zip(known, answers, strict=True):
                other = tensors | self._outputs(graph, entry, tensors)
                for name, answer in self._answers_behind(entry, other).items():
                    changed.setdefault(name, []).append(float((answer != right[name]).mean()))
            found[entry.file, layer] = {name: float(np.mean(shares)) for name, shares in changed.items()}
            self.progress("damage of each layer", number, len(layers))
        return found

    def _answers_behind(self, entry: GraphEntry, tensors: Tensors) -> dict[str, Array]:
        """What the exits answer that a changed graph matters to; the tensors hold what it made."""
        if isinstance(entry, HeadEntry):
            return {entry.exit: tensors[entry.outputs[0]].argmax(axis=1)}
        place = self.manifest.stages.index(entry)
        for stage in self.manifest.stages[place + 1 :]:
            tensors |= self._run(stage, tensors)
        return self._answers(tensors, [head for head in self.manifest.heads if head.stage >= place])

    def _answers(self, tensors: Tensors, heads: Collection[HeadEntry]) -> dict[str, Array]:
        return {head.exit: self._run(head, tensors)[head.outputs[0]].argmax(axis=1) for head in heads}

    def _worst(
        self,
        damages: Mapping[tuple[str, str], Mapping[str, float]],
        exit_name: str,
        kept: Collection[tuple[str, str]],
        number: int,
    ) -> list[FloatLayer]:
        """The next layers that do an exit the most damage."""
        left = [(of[exit_name], place) for place, of in damages.items() if exit_name in of and place not in kept]
        worst = sorted(left, key=lambda one: -one[0])[:number]
        return [FloatLayer(file=file, layer=layer, exit=exit_name, damage=damage) for damage, (file, layer) in worst]

    # -------------------------------------------------------------------------------------------------------------- results

    def _measure(self, when: str) -> dict[str, float]:
        """MIoU of the new graphs."""
        folder = self.scratch / "package"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.write(folder, self.manifest_of(None))
        return self._miou(folder, when)

    def _miou(self, package: Path, when: str) -> dict[str, float]:
        def progress(what: str, done: int, total: int) -> None:
            self.progress(f"{what}, {when}", done, total)

        records = evaluate(package, self.val.root, "val", threads=self.threads, images=self.measured, progress=progress)
        values = miou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
        return dict(zip(records.info.exits, values.tolist(), strict=True))

    def manifest_of(self, lowering: Lowering | None) -> Manifest:
        """The manifest of these graphs in the place of those of fp32."""

        def changed(entry: GraphEntry) -> dict[str, Any]:
            model = self.models[entry.file]
            content = model.SerializeToString()
            return {"sha256": hashlib.sha256(content).hexdigest(), "parameter_bytes": parameter_bytes(model)}

        stages = tuple(stage.model_copy(update=changed(stage)) for stage in self.manifest.stages)
        heads = tuple(head.model_copy(update=changed(head)) for head in self.manifest.heads)
        return self.manifest.model_copy(
            update={
                "package_id": package_identity(stages, heads, self.manifest.labels),
                "precision": self.precision,
                "lowering": lowering,
                "stages": stages,
                "heads": heads,
                "provenance": Provenance.now(
                    "lower", inputs={"package": self.manifest.package_id}, options={"precision": self.precision}
                ),
            }
        )

    def require_finite(self, folder: Path, manifest: Manifest) -> None:
        """Refuse graphs that give NaN or infinity on probe images or on `val`, or would in the precision that they are for."""
        images = [
            *probe_images(manifest.size),
            *(fit(image, manifest.size)[None] for image in _spread(self.val, PROBED_IMAGES)),
        ]
        fp16 = self.precision == "fp16"
        do = "fp16 holds numbers up to 65504; take bf16, which has as few bytes" if fp16 else "keep the package in fp32"
        largest = LARGEST_FP16 if fp16 else LARGEST_FP32
        require_finite_graphs(folder, manifest.stages, manifest.heads, images, largest=largest, do=do)

    def write(self, folder: Path, manifest: Manifest) -> None:
        """Write the package's files."""
        for entry in (*manifest.stages, *manifest.heads):
            (folder / entry.file).write_bytes(self.models[entry.file].SerializeToString())
        for entry in (*manifest.labels, *([manifest.original] if manifest.original else [])):
            shutil.copyfile(self.package / entry.file, folder / entry.file)
        manifest.save(folder / MANIFEST)
