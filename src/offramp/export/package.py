"""The step `export`: from a finished run to a package that needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx.compose import merge_models
from torch import nn

from offramp.artifacts import MANIFEST, GraphEntry, HeadEntry, Manifest, Provenance, package_identity
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.export.graph import IMAGE, EveryExit, head_outputs, labels_graph, tap_output, to_onnx
from offramp.export.grouping import group_classes
from offramp.export.probing import probe_images, require_finite_graphs
from offramp.export.stages import HeadCut, Piece, count_macs, cut, parameter_bytes, subgraph, without_notes
from offramp.files import check_replaceable, new_folder, sha256_of
from offramp.models.checkpoint import WEIGHTS, load_network
from offramp.models.finite import find_culprit
from offramp.models.multi_exit import MultiExitNetwork
from offramp.policy import PIXEL_THRESHOLDS
from offramp.progress import Progress, silent
from offramp.specs import FINAL, ConfidenceKind, LabelStride, Size
from offramp.targets import require_own_folders, require_place


@checked_call
def export(
    run: Path,
    out: Path,
    *,
    size: Size | None = None,
    label_stride: LabelStride = 1,
    groups: Sequence[str] = (),
    confidence: ConfidenceKind = "top1",
    network: nn.Module | str | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Write the package `out` from the finished run `run`.

    Args:
        run: a run folder.
        out: the package; an earlier package of that name is replaced, anything else is not.
        size: width and height of the images that the package will take; the training images' by default.
        label_stride: of the label maps that it will give: image pixels on a side for each of theirs.
        groups: classes that will be one, `road+pavement=ground` each; see `grouping.group_classes`.
        confidence: what a pixel's confidence is.
        network: the network itself, or where it comes from, if its code is the user's; see `checkpoint.load_network`.
        progress: told of each graph.

    Raises:
        InputError: no finished run, something else stands at `out`, another label stride than 1, 2, 4 or 8, bad groups, or a
            network that gives NaN or infinity on a black image, a white one or noise.

    """
    check_replaceable(out, marker=MANIFEST)
    require_own_folders(out)
    require_place(out)
    multi, described = load_network(run, network=network)
    if size is not None and not all(16 <= side <= 8192 for side in size):
        raise InputError(f"size must be width and height, 16 to 8192 pixels each, got {size}")
    grouping = group_classes(groups, described.classes, described.palette, described.object_classes)
    width, height = size or described.size
    every = EveryExit(multi, confidence, grouping.object_classes, grouping.groups)
    make_labels = _LabelGraphs(multi, (width, height), label_stride)
    images = probe_images((width, height))
    _require_finite(multi, images, run)
    model = to_onnx(every, torch.zeros(1, height, width, 3, dtype=torch.uint8), IMAGE, every.output_names)
    progress("export", 1, 4)
    exits = {name: multi.tap_of(name) for name in multi.spec.exit_names}
    depth = {tap: index for index, tap in enumerate(every.taps)}
    cuts = [HeadCut(head_outputs(name), depth[tap]) for name, tap in exits.items()]
    stages, heads = cut(model, [tap_output(tap) for tap in every.taps], cuts)
    progress("export", 2, 4)
    with new_folder(out, marker=MANIFEST) as folder:
        stage_entries = tuple(_write(folder, f"stage-{index}.onnx", piece) for index, piece in enumerate(stages))
        labels: dict[str, GraphEntry] = {}
        head_entries = []
        for index, (name, piece) in enumerate(zip(exits, heads, strict=True)):
            shape = _shape(piece.model, head_outputs(name)[0])
            entry = _labels(folder, labels, make_labels, shape)
            written = _write(folder, f"head-{index}.onnx", piece)
            figures = multi.figures(name, (width, height))
            head_entries.append(
                HeadEntry(
                    **written.model_dump(),
                    exit=name,
                    tap=exits[name],
                    stage=depth[exits[name]],
                    receptive_field=None if figures is None else figures.receptive_field,
                    whole_image=figures is not None and figures.whole_image,
                    scores_shape=shape,
                    labels=entry,
                )
            )
        require_finite_graphs(folder, stage_entries, head_entries, images)
        progress("export", 3, 4)
        original = _write(folder, "original.onnx", _original(model, make_labels(head_entries[-1].scores_shape)))
        manifest = Manifest(
            package_id=package_identity(stage_entries, head_entries, labels.values()),
            classes=grouping.classes,
            palette=grouping.palette,
            data_classes=described.classes if grouping.groups else (),
            groups=grouping.groups,
            size=(width, height),
            label_stride=label_stride,
            confidence=confidence,
            pixel_thresholds=PIXEL_THRESHOLDS,
            object_classes=grouping.object_classes,
            stages=stage_entries,
            heads=tuple(head_entries),
            labels=tuple(labels.values()),
            original=original,
            provenance=Provenance.now(
                "export",
                inputs={"weights": sha256_of(run / WEIGHTS), "training data": described.data_fingerprint},
                options={"network": described.network.model_dump(mode="json")},
            ),
        )
        manifest.save(folder / MANIFEST)
    progress("export", 4, 4)
    return manifest


def _require_finite(multi: MultiExitNetwork, images: Sequence[npt.NDArray[np.uint8]], run: Path) -> None:
    """Refuse a network of which a layer gives NaN or infinity; the exported graphs know layers by their weights alone."""
    for image in images:
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float()
        culprit = find_culprit(multi, partial(multi, pixels))
        if culprit is not None:
            raise InputError(f"the network of {run} is not fit for use: {culprit}; train again with a lower learning rate")


def _write(folder: Path, name: str, piece: Piece) -> GraphEntry:
    path = folder / name
    onnx.save(without_notes(piece.model), path)
    return GraphEntry(
        file=name,
        sha256=sha256_of(path),
        inputs=piece.inputs,
        outputs=piece.outputs,
        macs=count_macs(piece.model),
        parameter_bytes=parameter_bytes(piece.model),
    )


def _shape(model: onnx.ModelProto, output: str) -> tuple[int, ...]:
    value = next(value for value in model.graph.output if value.name == output)
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


@dataclass(frozen=True)
class _LabelGraphs:
    """From the shape of class scores to the graph that makes a label map of them."""

    network: MultiExitNetwork
    size: Size
    label_stride: LabelStride

    def __call__(self, shape: Sequence[int]) -> onnx.ModelProto:
        width, height = self.size
        stride = self.network.stride(torch.empty(*shape), height)
        return labels_graph(shape, stride, height, width, label_stride=self.label_stride)


def _labels(folder: Path, written: dict[str, GraphEntry], make: _LabelGraphs, shape: Sequence[int]) -> str:
    """Write the graph from class scores of this shape to labels, unless it is there; its file name."""
    name = f"labels-{shape[2]}x{shape[3]}.onnx"
    if name not in written:
        written[name] = _write(folder, name, Piece(make(shape), ("scores",), ("labels",)))
    return name


def _original(model: onnx.ModelProto, labels: onnx.ModelProto) -> Piece:
    """The network without early exits in one graph: all that the final exit's class scores need, and its label map."""
    scores = head_outputs(FINAL)[0]
    alone = subgraph(model, [scores])
    return Piece(merge_models(alone.model, labels, io_map=[(scores, "scores")]), alone.inputs, ("labels",))
