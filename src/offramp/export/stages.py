"""Cut one graph with every exit into stages and heads, by ancestry.

A node belongs to the first stage, in order of depth, whose tap needs it. What crosses from a stage to later ones or to heads,
skip connections included, is that stage's output. A head holds everything else that its exit needs. Nothing here knows where
the graph came from: any ONNX model with several outputs can be cut like this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper
from onnx.utils import Extractor


@dataclass(frozen=True)
class Piece:
    """A stage or a head as a model of its own."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class HeadCut:
    """What to cut a head by: its outputs, and the index of the stage after which it can run."""

    outputs: tuple[str, ...]
    stage: int


def cut(model: onnx.ModelProto, taps: Sequence[str], heads: Sequence[HeadCut]) -> tuple[list[Piece], list[Piece]]:
    """Cut a model into stages and heads.

    Args:
        model: with inferred shapes; every tap and every head output is an output of it.
        taps: the tensor at which each stage ends, in order of depth.
        heads: in any order.

    Returns:
        The stages, one a tap, and the heads, in the order given.

    """
    graph = _Graph(model)
    stage_nodes: list[set[int]] = []
    earlier: set[int] = set()
    for tap in taps:
        nodes = graph.ancestors([tap]) - earlier
        stage_nodes.append(nodes)
        earlier |= nodes
    head_nodes = []
    for head in heads:
        # A node of a later stage that the head needs as well is repeated in the head, so that it need not wait.
        before = set().union(*stage_nodes[: head.stage + 1])
        head_nodes.append(graph.ancestors(head.outputs) - before)
    stages = []
    for index, nodes in enumerate(stage_nodes):
        users = [*stage_nodes[index + 1 :], *head_nodes]
        wanted = set().union(*(graph.needs(user) for user in users)) & graph.makes(nodes)
        stages.append(graph.piece(nodes, sorted(wanted)))
    return stages, [graph.piece(nodes, head.outputs) for nodes, head in zip(head_nodes, heads, strict=True)]


def subgraph(model: onnx.ModelProto, outputs: Sequence[str]) -> Piece:
    """All of a model that some of its tensors need."""
    graph = _Graph(model)
    return graph.piece(graph.ancestors(outputs), list(outputs))


class _Graph:
    """The model's nodes by index, and who makes which tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.extractor = Extractor(model)

    def read(self, index: int) -> set[str]:
        """Tensors that a node reads, weights left out."""
        return {name for name in _reads(self.nodes[index]) if name not in self.constants}

    def ancestors(self, tensors: Iterable[str]) -> set[int]:
        """All nodes that the tensors depend on."""
        found: set[int] = set()
        open_ends = list(tensors)
        while open_ends:
            index = self.maker.get(open_ends.pop())
            if index is not None and index not in found:
                found.add(index)
                open_ends += self.read(index)
        return found

    def makes(self, nodes: set[int]) -> set[str]:
        """Tensors that a set of nodes makes."""
        return {name for index in nodes for name in self.nodes[index].output}

    def needs(self, nodes: set[int]) -> set[str]:
        """Tensors that a set of nodes reads and does not make itself."""
        return {name for index in nodes for name in self.read(index)} - self.makes(nodes)

    def piece(self, nodes: set[int], outputs: Sequence[str]) -> Piece:
        """A set of nodes as a model."""
        inputs = sorted(self.needs(nodes))
        return Piece(self.extractor.extract_model(inputs, list(outputs)), tuple(inputs), tuple(outputs))


def _reads(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, those that its subgraphs (If, Loop) take from outside included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for subgraph in [attribute.g, *attribute.graphs]:
            inner = {tensor.name for tensor in subgraph.initializer} | {value.name for value in subgraph.input}
            for child in subgraph.node:
                names |= _reads(child) - inner
                inner |= set(child.output)
    return names


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, less the exporter's notes: they hold source lines and paths of the machine that exported."""
    model.ClearField("metadata_props")
    for graph in _graphs(model.graph):
        graph.ClearField("metadata_props")
        for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of a model's convolutions and matrix products, for its static shapes."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            # Weight: (out, in / groups, height, width).
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in {"MatMul", "Gemm"}:
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]
    return total


def parameter_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a model's weights."""
    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )
