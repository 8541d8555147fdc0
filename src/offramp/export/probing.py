"""Whether a package's graphs give finite numbers: they are run on a few images, and where one does not, its node is named.

Probe images are black, white and noise: what lies furthest from photographs. A graph is watched by two numbers for each of its
tensors, computed inside it, so that no tensor has to be kept for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from offramp.artifacts import GraphEntry, HeadEntry
from offramp.errors import InputError
from offramp.specs import Size

Array = npt.NDArray[Any]

LARGEST_FP16 = 65504.0
"""What is larger is infinite in fp16."""

LARGEST_FP32 = math.inf


def probe_images(size: Size) -> list[npt.NDArray[np.uint8]]:
    """Black, white and noise, each (1, H, W, 3), for a size (width, height)."""
    shape = (1, size[1], size[0], 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise]


def require_finite_graphs(
    folder: Path,
    stages: Sequence[GraphEntry],
    heads: Sequence[HeadEntry],
    images: Sequence[Array],
    *,
    largest: float = LARGEST_FP32,
    do: str = "train again with a lower learning rate",
) -> None:
    """Run stages and heads on images and refuse them where a number is not finite, or larger than a precision holds.

    Args:
        folder: holds the graphs.
        stages: in order.
        heads: each is run behind its stage.
        images: (1, H, W, 3) uint8.
        largest: with `LARGEST_FP16` every tensor inside the graphs is judged, not what they give alone.
        do: what the error tells to do.

    Raises:
        InputError: naming the graph, its first such node, and the layer whose weights that holds.

    """
    sessions = {entry.file: _session((folder / entry.file).read_bytes()) for entry in (*stages, *heads)}
    for image in images:
        tensors: dict[str, Array] = {stages[0].inputs[0]: image}
        for index, stage in enumerate(stages):
            for entry in (stage, *(head for head in heads if head.stage == index and head.file != stage.file)):
                given = {name: tensors[name] for name in entry.inputs}
                made = dict(zip(entry.outputs, sessions[entry.file].run(list(entry.outputs), given), strict=True))
                if largest < LARGEST_FP32 or not all(np.isfinite(array).all() for array in made.values()):
                    found = first_beyond(onnx.load(folder / entry.file), given, largest)
                    if found is not None:
                        raise InputError(f"{entry.file} is not fit for use: {found}; {do}")
                tensors |= made


@dataclass(frozen=True)
class Beyond:
    """A node whose numbers are not finite, or too large."""

    node: str
    kind: str
    layer: str
    """Whose weights it holds, by the network's own name; empty where it holds none."""
    magnitude: float
    """The largest of its numbers, sign aside; NaN where one is."""
    input_magnitude: float
    weights_are_finite: bool

    def __str__(self) -> str:
        """For people, in one sentence."""
        of = f" of the layer {self.layer}" if self.layer else ""
        weights = "; its weights are finite" if self.layer and self.weights_are_finite else ""
        weights = "; its weights are not finite" if not self.weights_are_finite else weights
        return (
            f"its node {self.node} ({self.kind}){of} gives {self.magnitude:g} from inputs of at most "
            f"{self.input_magnitude:g}{weights}"
        )


def first_beyond(model: onnx.ModelProto, given: Mapping[str, Array], largest: float = LARGEST_FP32) -> Beyond | None:
    """The first node, in the order they run, that gives what is not finite or larger than `largest`; None where none does."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in _values(onnx.shape_inference.infer_shapes(model))}
    made = [name for node in model.graph.node for name in node.output if kinds.get(name) == TensorProto.FLOAT]
    watched = _watching(model, made)
    numbers = _session(watched.SerializeToString()).run(
        [f"watched/{what}/{name}" for name in made for what in ("most", "sum")], dict(given)
    )
    magnitude = {
        name: float(most) if math.isfinite(total) else float(total)
        for name, most, total in zip(made, numbers[::2], numbers[1::2], strict=True)
    }
    magnitude |= {name: float(np.abs(array.astype(np.float64)).max(initial=0.0)) for name, array in given.items()}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        most = max((magnitude[name] for name in node.output if name in magnitude), default=0.0, key=_badness)
        if math.isfinite(most) and most <= largest:
            continue
        own = [name for name in node.input if name in weights]
        return Beyond(
            node=node.name,
            kind=node.op_type,
            layer=next((name.removeprefix("network.").rpartition(".")[0] for name in own if "." in name), ""),
            magnitude=most,
            input_magnitude=max((magnitude[name] for name in node.input if name in magnitude), default=0.0, key=_badness),
            weights_are_finite=all(np.isfinite(numpy_helper.to_array(weights[name]).astype(np.float64)).all() for name in own),
        )
    return None


def _badness(magnitude: float) -> float:
    return math.inf if math.isnan(magnitude) else magnitude


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.value_info, *model.graph.output]


def _watching(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with the largest and the sum of the magnitudes in each of its tensors as outputs.

    The largest of several numbers need not be NaN where one of them is; their sum is.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.node.append(helper.make_node("Abs", [name], [f"watched/{name}"]))
        for what, kind in (("most", "ReduceMax"), ("sum", "ReduceSum")):
            output = f"watched/{what}/{name}"
            watched.graph.node.append(helper.make_node(kind, [f"watched/{name}"], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    return watched


def _session(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
