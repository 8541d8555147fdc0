"""What lies behind an early exit, run on pieces of the feature map: its graph for windows of any size, and with masks.

`per_pixel.py` uses it. Only graphs of convolutions and what works pixel by pixel can be cut so: what pools over the whole image
or attends to all of it needs the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from offramp.artifacts import GraphEntry
from offramp.export.stages import subgraph
from offramp.runtime.engines import Engine, Graph

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
LOCAL = {"Conv", "BatchNormalization", "Resize", "Slice", "Relu", "Clip", "Add", "Mul", "HardSwish", "HardSigmoid", "Sigmoid"}
"""Operators that need of the image only what is near."""


def grown(mask: Mask, cells: int) -> Mask:
    """A mask (h, w) and all that lies within so many cells, in a square."""
    if not cells:
        return mask
    counts = mask.astype(np.int64)
    for axis in (0, 1):
        length = mask.shape[axis]
        sums = np.concatenate([np.zeros_like(counts.take([0], axis)), counts.cumsum(axis)], axis)
        places = np.arange(length)
        before, behind = np.maximum(places - cells, 0), np.minimum(places + cells + 1, length)
        counts = sums.take(behind, axis) - sums.take(before, axis)
    return counts > 0


def blocks(mask: Mask, side: int) -> Mask:
    """For each block of side x side cells of a mask (h, w) whether any is set; blocks at the lower right may be smaller."""
    rows, columns = (math.ceil(length / side) for length in mask.shape)
    padded = np.zeros((rows * side, columns * side), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, side, columns, side).any(axis=(1, 3)))


@dataclass(frozen=True)
class Local:
    """A graph up to one of its outputs, and how far it reaches."""

    model: onnx.ModelProto
    output: str
    strides: dict[str, int]
    """Of every feature map: pixels of the image per cell."""
    reach: int
    """Pixels of the image, to each side, that an output's cell depends on beyond its own, as far as any path goes."""

    @property
    def inputs(self) -> dict[str, int]:
        """Name and stride of each input."""
        return {value.name: self.strides[value.name] for value in self.model.graph.input}

    @property
    def unit(self) -> int:
        """The coarsest stride: windows begin and end at its multiples."""
        return max(self.strides.values())


def local(model: onnx.ModelProto, output: str, height: int) -> Local:
    """What an output of a graph needs, if that is local.

    Args:
        model: with static shapes.
        output: a feature map, (1, C, h, w).
        height: of the image, pixels.

    Raises:
        SystemExit: an operator that is not local.

    """
    cut = shape_inference.infer_shapes(subgraph(model, [output]).model)
    strange = sorted({node.op_type for node in cut.graph.node} - LOCAL)
    if strange:
        raise SystemExit(
            f"cannot run on pieces of the image: {', '.join(strange)} may need the whole of it; give another package"
        )
    strides = {}
    for value in (*cut.graph.input, *cut.graph.value_info, *cut.graph.output):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(shape) == 4:
            strides[value.name] = 1 << round(math.log2(height / shape[2]))
    reach: dict[str, int] = {output: 0}
    for node in reversed(cut.graph.node):
        given = node.input[0]
        own = 0
        if node.op_type == "Conv":
            values = {attribute.name: attribute.ints for attribute in node.attribute}
            own = max((side - 1) // 2 * step for side, step in zip(values["kernel_shape"], values["dilations"], strict=True))
            own *= strides[given]
        elif node.op_type == "Resize":
            own = strides[given]  # linear interpolation takes the neighbouring cell
        for name in node.input:
            reach[name] = max(reach.get(name, 0), reach[node.output[0]] + own)
    return Local(cut, output, strides, max(reach[value.name] for value in cut.graph.input))


def for_windows(what: Local, rows: int, columns: int, batch: int | str = 1) -> onnx.ModelProto:
    """The graph for windows of so many units; nothing is cut off at the image's edge, which the caller does."""
    model = onnx.ModelProto()
    model.CopyFrom(what.model)
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        channels = value.type.tensor_type.shape.dim[1].dim_value
        cells = [length * what.unit // what.strides[value.name] for length in (rows, columns)]
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [batch, channels, *cells]))
    for node in graph.node:
        if node.op_type == "Slice":
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
        elif node.op_type == "Resize":
            finer = what.strides[node.input[0]] / what.strides[node.output[0]]
            name = f"{node.output[0]}/scales"
            graph.initializer.append(numpy_helper.from_array(np.array([1, 1, finer, finer], np.float32), name))
            node.input[:] = [node.input[0], "", name]
    return model


def with_masks(what: Local) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The whole image's graph, every convolution's output multiplied by a mask (1, 1, h, w); the masks' names and strides."""
    model = onnx.ModelProto()
    model.CopyFrom(what.model)
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    masks: dict[str, int] = {}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        made = node.output[0]
        name = f"mask/{'x'.join(map(str, shapes[made][2:]))}"
        if name not in masks:
            masks[name] = what.strides[made]
            graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, *shapes[made][2:]]))
        node.output[0] = f"{made}/dense"
        nodes.append(helper.make_node("Mul", [node.output[0], name], [made]))
    del graph.node[:]
    graph.node.extend(nodes)
    return model, masks


@dataclass(frozen=True)
class Grid:
    """How a map of units is split: tiles, and the windows around them, all of one size."""

    rows: int
    columns: int
    side: int
    """Of a tile, units."""
    halo: int
    """Units around a tile that are computed with it."""

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns; at the image's edges windows are moved inwards, so that padding is where the network pads."""
        return min(self.side + 2 * self.halo, self.rows), min(self.side + 2 * self.halo, self.columns)

    def places(self, unsure: Mask) -> Iterator[tuple[int, int, int, int]]:
        """Row and column of each tile with unsure units, and of its window. `unsure`: (rows, columns)."""
        height, width = self.window
        for row, column in np.argwhere(blocks(unsure, self.side)) * self.side:
            top = min(max(row - self.halo, 0), self.rows - height)
            left = min(max(column - self.halo, 0), self.columns - width)
            yield int(row), int(column), int(top), int(left)


def open_batches(path: Path, threads: int, output: str) -> Callable[[dict[str, Floats]], Floats]:
    """A graph with a free batch size in ONNX Runtime, with the options of the project's own engine."""
    import onnxruntime  # noqa: PLC0415 - an engine is loaded when it is chosen

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.dynamic_block_base", "4")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda arrays: np.asarray(session.run([output], arrays)[0])


class Tiles:
    """The deep part of a network on those tiles that hold unsure pixels."""

    def __init__(self, what: Local, grid: Grid, engine: Engine, folder: Path, *, together: bool) -> None:
        """Load its graph: for windows one after the other, or (`together`, ONNX Runtime alone) for all of an image at once."""
        self.what, self.grid, self.engine = what, grid, engine
        path = folder / "windows.onnx"
        onnx.save(for_windows(what, *grid.window, batch="windows" if together else 1), path)
        self._together = open_batches(path, engine.threads, what.output) if together else None
        self._alone = None if together else load(engine, path, tuple(what.inputs), what.output)

    def __call__(self, tensors: dict[str, Floats], unsure: Mask, scores: Floats) -> int:
        """Write what the deep part says into class scores.

        Args:
            tensors: feature maps that the deep part takes, (1, C, h, w).
            unsure: (h, w), at the scores' resolution.
            scores: (C, h, w); tiles with unsure pixels are written over.

        Returns:
            How many windows ran.

        """
        unit = self.what.unit
        finer = unit // self.what.strides[self.what.output]
        places = list(self.grid.places(blocks(unsure, finer)))
        if not places:
            return 0
        whole = {name: self._padded(tensors[name], unit // stride) for name, stride in self.what.inputs.items()}
        # Large windows at the image's edges may be the same for several tiles.
        corners = list(dict.fromkeys((top, left) for _, _, top, left in places))
        windows = [self._cut(whole, *corner) for corner in corners]
        if self._together:
            found = self._together({name: np.concatenate([window[name] for window in windows]) for name in whole})
        else:
            assert self._alone
            found = np.concatenate([self._run(self._alone, window) for window in windows])
        height, width = scores.shape[1:]
        for row, column, top, left in places:
            made = found[corners.index((top, left))]
            down, right = (min((start + self.grid.side) * finer, end) for start, end in ((row, height), (column, width)))
            inside = made[:, (row - top) * finer :, (column - left) * finer :]
            part = scores[:, row * finer : down, column * finer : right]
            part[:] = inside[:, : part.shape[1], : part.shape[2]]
        return len(corners)

    def _run(self, graph: Graph, window: dict[str, Floats]) -> Floats:
        outputs = graph({name: self.engine.tensor(array) for name, array in window.items()})
        return np.asarray(self.engine.array(outputs[self.what.output]))

    def _padded(self, array: Floats, finer: int) -> Floats:
        """A map that ends where the coarsest one does."""
        down, right = self.grid.rows * finer - array.shape[2], self.grid.columns * finer - array.shape[3]
        return np.pad(array, ((0, 0), (0, 0), (0, down), (0, right))) if down or right else array

    def _cut(self, whole: dict[str, Floats], top: int, left: int) -> dict[str, Floats]:
        parts = {}
        for name, stride in self.what.inputs.items():
            finer = self.what.unit // stride
            rows, columns = (length * finer for length in self.grid.window)
            part = whole[name][:, :, top * finer : top * finer + rows, left * finer : left * finer + columns]
            parts[name] = np.ascontiguousarray(part)
        return parts


def load(engine: Engine, path: Path, inputs: tuple[str, ...], *outputs: str) -> Graph:
    """A graph that no manifest describes."""
    entry: dict[str, Any] = {"sha256": "", "macs": 0, "parameter_bytes": 0}
    return engine.load(path, GraphEntry(file=path.name, inputs=inputs, outputs=outputs, **entry))
