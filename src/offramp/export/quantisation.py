"""From a graph of fp32 to one of int8, by ONNX Runtime's quantiser: ranges are measured once, then any layers can be chosen.

Weights are in int8, symmetric, with a scale for each output channel; activations in uint8, with one scale for each tensor.
Between them stand QuantizeLinear and DequantizeLinear nodes, which engines take together with the layers into int8 kernels.
What follows class scores (confidence, counts) is never touched.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_static,
    save_tensors_data,
)

from offramp.errors import InputError
from offramp.export.stages import without_notes
from offramp.specs import StoredPrecision

Tensors = Mapping[str, npt.NDArray[Any]]

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""What int8 is for."""
ABSORBED = {"Clip", "Relu"}
"""What vanishes into the range of the layer before it."""
BESIDE = {"Add", "Concat", "MaxPool", "Resize", "Slice", "GlobalAveragePool"}
"""What is computed in int8 where it stands between layers that are."""

PERCENTILE = 99.99
"""Of a tensor's values its range holds so many, in percent: single values beyond would make all others coarser."""

FEW = 16
"""Values that a constant must have for two bytes of each to be worth a node."""


@dataclass(frozen=True)
class Ranged:
    """A graph whose tensors' ranges are known."""

    path: Path
    ranges: Path
    scores: tuple[str, ...]
    """Its outputs that are class scores."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the nodes that can be put into int8 one by one."""
        model = onnx.load(self.path)
        before = self._before_scores(model)
        return tuple(node.name for node in model.graph.node if node.op_type in LAYERS and node.name in before)

    def _before_scores(self, model: onnx.ModelProto) -> set[str]:
        """Names of the nodes that the scores need; of a graph without scores all."""
        if not self.scores:
            return {node.name for node in model.graph.node}
        makers = {name: node for node in model.graph.node for name in node.output}
        found: set[str] = set()
        open_ends = list(self.scores)
        while open_ends:
            node = makers.get(open_ends.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                open_ends += node.input
        return found

    def quantised(self, layers: Collection[str], scratch: Path) -> onnx.ModelProto:
        """The graph with these layers in int8, and with what lies between them.

        Args:
            layers: names, some of `layers`.
            scratch: a file that may be written.

        """
        model = onnx.load(self.path)
        if not layers:
            return without_notes(model)
        before = self._before_scores(model)
        left_out = {node.name for node in model.graph.node if node.op_type in LAYERS and node.name not in layers}
        left_out |= {node.name for node in _followers(model, left_out) if node.op_type in ABSORBED}
        alone = len(layers) == 1
        beside = set() if alone else BESIDE  # a single layer is measured by itself
        chosen = [
            node.name
            for node in model.graph.node
            if node.name in before and node.name not in left_out and node.op_type in LAYERS | ABSORBED | beside
        ]
        with _quietly(), _told_if_cut_short(self.path):
            quantize_static(
                str(self.path),
                str(scratch),
                None,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=sorted(LAYERS | ABSORBED | beside),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=chosen,
                calibrate_method=CalibrationMethod.Percentile,
                calibration_cache_path=self.ranges,
            )
        return without_notes(onnx.shape_inference.infer_shapes(onnx.load(scratch)))


def find_ranges(path: Path, inputs: Sequence[Tensors], scores: Sequence[str], scratch: Path) -> Ranged:
    """Measure the ranges of all tensors of a graph.

    Args:
        path: the graph.
        inputs: for each calibration image, its inputs by name.
        scores: its outputs that are class scores.
        scratch: a folder; the ranges are kept there.

    """
    with _quietly(), _told_if_cut_short(path):
        calibrator = create_calibrator(
            path,
            augmented_model_path=str(scratch / f"observed-{path.name}"),
            calibrate_method=CalibrationMethod.Percentile,
            # What is never negative gets a range that begins at 0.
            extra_options={"percentile": PERCENTILE, "symmetric": False},
        )
        for tensors in inputs:  # one by one: it holds every tensor of what it is given at once
            calibrator.collect_data(_One(tensors))
        ranges = scratch / f"{path.stem}.ranges.json"
        save_tensors_data(calibrator.compute_data(), ranges)
    return Ranged(path, ranges, tuple(scores))


class _One(CalibrationDataReader):  # type: ignore[misc]
    """The inputs of a single image."""

    def __init__(self, tensors: Tensors) -> None:
        self._left: list[dict[str, npt.NDArray[Any]]] = [dict(tensors)]

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return self._left.pop() if self._left else None


def _followers(model: onnx.ModelProto, names: Collection[str]) -> list[onnx.NodeProto]:
    made = {output for node in model.graph.node if node.name in names for output in node.output}
    return [node for node in model.graph.node if made & set(node.input)]


def in_16_bits(model: onnx.ModelProto, precision: StoredPrecision) -> onnx.ModelProto:
    """The same graph with its weights in bf16 or fp16, each behind a Cast that engines undo when they load it."""
    kind = {"bf16": onnx.TensorProto.BFLOAT16, "fp16": onnx.TensorProto.FLOAT16}[precision]
    stored, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        narrow = helper.tensor_dtype_to_np_dtype(kind)
        with np.errstate(over="ignore"):
            fits = np.isfinite(values.astype(narrow).astype(np.float32)).all()
        if tensor.data_type != onnx.TensorProto.FLOAT or values.size < FEW or not fits:
            stored.append(tensor)
            continue
        name = f"{tensor.name}/{precision}"
        stored.append(numpy_helper.from_array(values.astype(narrow), name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], f"cast {tensor.name}", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(stored)
    return without_notes(model)


@contextmanager
def _quietly() -> Iterator[None]:
    """The quantiser prints what it does, advises its users on the root logger, and its histograms divide by empty bins."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _told_if_cut_short(path: Path) -> Iterator[None]:
    """The quantiser's native part writes graphs beside others and does not look whether that went well; reading them back does.

    Raises:
        InputError: it did not.

    """
    try:
        yield
    except DecodeError as error:
        raise InputError(
            f"cannot quantise {path}: a temporary file of ONNX Runtime's was cut short, as where the disk is full or no file "
            f"may be so large; free some space for --out and for {tempfile.gettempdir()}, or raise the limit (ulimit -f)"
        ) from error
