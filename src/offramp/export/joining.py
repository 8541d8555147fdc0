"""Graphs of a package put together again: what runs between one exit and the next becomes one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import helper

from offramp.artifacts import GraphEntry, HeadEntry, Manifest, graph_file, needed_outputs
from offramp.errors import InputError
from offramp.export.stages import Piece, parameter_bytes, subgraph, without_notes


def merge_stages(
    package: Path, manifest: Manifest, heads: Sequence[HeadEntry], *, confidence: bool = True
) -> tuple[list[tuple[GraphEntry, bytes]], list[HeadEntry]]:
    """All that is run between one exit and the next as one graph: the stages up to a head's and the head.

    Engines then optimise across what were seams, and copy and re-order less. Of what the stages make only what heads and later
    stages take is left. Label maps stay graphs of their own: they are made only where an image leaves.

    Args:
        package: a folder.
        manifest: its manifest.
        heads: in order of depth.
        confidence: whether they still make what a policy judges by, and what people see of it.

    Returns:
        One graph for each of the stages at which heads stand, in order: what the manifest says of it, and its file's content.
        And the heads, which are within them.

    Raises:
        InputError: graphs that do not fit together, or have been merged already.

    """
    if any(manifest.within_stage(head) for head in manifest.heads):
        raise InputError(f"the stages of {package} have been merged already; merge those of the package that it was made of")
    if not confidence:
        heads = [head.model_copy(update={"outputs": head.outputs[:1]}) for head in heads]
    cut = {head.exit: subgraph(onnx.load(graph_file(package, head)), head.outputs) for head in heads}
    needed = needed_outputs(manifest.stages[: heads[-1].stage + 1], heads)
    stages = {
        index: subgraph(onnx.load(graph_file(package, manifest.stages[index])), sorted(outputs))
        for index, outputs in enumerate(needed)
        if outputs
    }
    merged, within = [], []
    begin = 0
    for number, end in enumerate(sorted({head.stage for head in heads})):
        here = [head for head in heads if head.stage == end]
        group = {f"stage-{index}": stages[index] for index in range(begin, end + 1) if index in stages}
        group |= {f"head-{place}": cut[head.exit] for place, head in enumerate(here)}
        answers = {name for head in here for name in head.outputs}
        model, inputs, outputs = _merge(group, _read_later(stages, heads, end) | answers)
        content = model.SerializeToString()
        entry = GraphEntry(
            file=f"stage-{number}.onnx",
            sha256=hashlib.sha256(content).hexdigest(),
            inputs=inputs,
            outputs=outputs,
            macs=sum(manifest.stages[index].macs for index in range(begin, end + 1) if index in stages),
            parameter_bytes=parameter_bytes(model) - sum(head.parameter_bytes for head in here),
        )
        merged.append((entry, content))
        moved = {"file": entry.file, "sha256": entry.sha256, "inputs": (), "stage": number}
        within += [head.model_copy(update=moved) for head in here]
        begin = end + 1
    return merged, within


def _read_later(stages: Mapping[int, Piece], heads: Sequence[HeadEntry], end: int) -> set[str]:
    """What stages and heads behind a stage take of those up to it."""
    read: set[str] = set()
    for index in sorted(stages, reverse=True):
        if index <= end:
            break
        read |= {name for head in heads if head.stage == index for name in head.inputs}
        read = (read - set(stages[index].outputs)) | set(stages[index].inputs)
    return read


def _merge(pieces: Mapping[str, Piece], wanted: set[str]) -> tuple[onnx.ModelProto, tuple[str, ...], tuple[str, ...]]:
    """Stages and heads in a row as one model; its inputs; those of the wanted tensors that they make, which are its outputs."""
    last = {name: prefix for prefix, piece in pieces.items() for name in piece.outputs}
    names: dict[str, str] = {}  # from a tensor's name in the package to the name of its newest version here
    given: dict[str, onnx.ValueInfoProto] = {}
    left: dict[str, onnx.ValueInfoProto] = {}
    graphs = []
    for prefix, piece in pieces.items():
        values = {value.name: value for value in (*piece.model.graph.input, *piece.model.graph.output)}
        for name in piece.inputs:
            if name not in names:
                names[name], given[name] = name, values[name]
        own = {
            name: name if last[name] == prefix and name in wanted else f"{prefix}/{name}"  # a later stage may make the same
            for name in piece.outputs
        }
        graphs.append(renamed(piece.model.graph, f"{prefix}/", {name: names[name] for name in piece.inputs} | own))
        names |= own
        left |= {name: values[name] for name in piece.outputs if own[name] == name}
    graph = helper.make_graph(
        [node for part in graphs for node in part.node],
        "offramp",
        list(given.values()),
        list(left.values()),
        [tensor for part in graphs for tensor in part.initializer],
    )
    model = as_model(graph, [piece.model for piece in pieces.values()])
    onnx.checker.check_model(model, full_check=True)
    return model, tuple(given), tuple(left)


def renamed(graph: onnx.GraphProto, prefix: str, names: Mapping[str, str]) -> onnx.GraphProto:
    """A copy of a graph with other names: those in `names` as they say, all others with the prefix."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    _rename(copy, prefix, names)
    return copy


def _rename(graph: onnx.GraphProto, prefix: str, names: Mapping[str, str]) -> None:
    def rename(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = rename(value.name)
    for node in graph.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = map(rename, node.input)
        node.output[:] = map(rename, node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, prefix, names)


def as_model(graph: onnx.GraphProto, models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """A graph that was put together from some models as a model.

    Raises:
        InputError: they use operators of different versions.

    """
    model = helper.make_model(
        graph,
        producer_name="offramp",
        producer_version=version("offramp"),
        opset_imports=_common_opsets(models),
        ir_version=max(model.ir_version for model in models),
    )
    return without_notes(model)


def _common_opsets(models: Sequence[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    """The versions of operators that all models share."""
    found: dict[str, int] = {}
    for opset in (opset for model in models for opset in model.opset_import):
        if found.setdefault(opset.domain, opset.version) != opset.version:
            raise InputError("the package's graphs use operators of different versions; export it again")
    return [helper.make_opsetid(domain, number) for domain, number in found.items()]
