"""A package as one ONNX file that leaves early by itself: what lies behind an exit stands in the else-branch of an `If`.

    image - stage - head - score >= thresholds[0] -+- then: this exit's label map
                                                   +- else: stage - head - score >= thresholds[1] -+- then: ...

Only `onnx` is needed: the graphs are the package's files, renamed and put together, without what no answer needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.artifacts import MANIFEST, HeadEntry, Manifest, graph_file, load_manifest
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.export.joining import as_model, renamed
from offramp.export.stages import Piece, subgraph
from offramp.files import new_file
from offramp.policy import GRID, MEAN, STEPS
from offramp.specs import REGIONS, Mode, Region
from offramp.targets import ONNX, require_file_target

THRESHOLDS = "thresholds"
OUTPUTS = ("labels", "score", "exit")

NEVER = 2.0
"""A threshold that no score reaches: scores are at most 1."""

MOST_EXITS = 16
"""Engines copy the weights of a branch for every `If` around it, and at 33 the file's format ends."""


@dataclass(frozen=True)
class Plan:
    """Which exits, and when to leave at each."""

    mode: Mode | None
    """None: the package has no deployment."""
    heads: tuple[HeadEntry, ...]
    """In order of depth."""
    thresholds: tuple[float, ...]
    """One for each exit but the last."""
    region: Region = "all"
    pixel_threshold: int = MEAN
    """Index into the manifest's `pixel_thresholds`."""


@checked_call
def write_self_exiting(package: Path, out: Path, *, feed_thresholds: bool = False) -> onnx.ModelProto:
    """Write `self_exiting` of a package into the file `out`, whole or not at all; an earlier file of that name is replaced.

    Args:
        package: a folder.
        out: FILE.onnx, not inside the package.
        feed_thresholds: see `self_exiting`.

    Returns:
        What was written.

    Raises:
        InputError: as `self_exiting`, or a file that must not be written.

    """
    if (package / "run.json").exists() and not (package / MANIFEST).exists():
        raise InputError(
            f"{package} is a run, and a single file is made of a package: export it with --out PACKAGE, "
            f"then choose exits with offramp search and offramp trim"
        )
    if out.suffix != ".onnx":
        raise InputError(f"a single file is called FILE.onnx, got {out}")
    if out.resolve().parent == package.resolve():
        raise InputError(f"will not write {out} among the package's own graphs; choose another folder")
    require_file_target(out, ONNX)
    model = self_exiting(package, feed_thresholds=feed_thresholds)
    with new_file(out) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return model


def self_exiting(package: Path, *, feed_thresholds: bool = False) -> onnx.ModelProto:
    """Put a package together into one graph with nested `If`.

    Exits, policy and default thresholds are those of the package's first input-dependent deployment, else of its first
    deployment, else all of its exits; where there are no thresholds, the defaults are `NEVER`. A budgeted deployment is its
    one exit, without any `If`.

    The graph of K exits takes `image`, (1, H, W, 3) uint8, and, unless K is 1, `thresholds`, (K - 1,) float64. It gives
    `labels`, (1, H, W) uint8; `score`, () float64, of the exit where the image left; `exit`, () int64, that exit's number
    from 0. Scores are those of `policy.image_score` in the same arithmetic, so an image leaves where `Predictor` leaves, unless
    an engine adds up a convolution in another order now that no seam is in its way.

    Args:
        package: a folder.
        feed_thresholds: leave the defaults out, so that thresholds must be fed: some runtimes feed nothing that has one.

    Raises:
        InputError: no package, a damaged one, graphs that do not fit together, merged stages, more than `MOST_EXITS`, or
            thresholds to be fed where there are none.

    """
    manifest = load_manifest(package)
    plan = make_plan(manifest)
    if any(manifest.within_stage(head) for head in plan.heads):
        raise InputError(
            f"the stages of {package} have been merged with their heads; make the single file of a package "
            f"that was trimmed without --merge"
        )
    if len(plan.heads) > MOST_EXITS:
        raise InputError(
            f"{len(plan.heads)} exits are too many for one file, which takes {MOST_EXITS}; "
            f"choose some with offramp search and offramp trim first"
        )
    if feed_thresholds and not plan.thresholds:
        raise InputError(f"one exit, {plan.heads[0].exit}, needs no thresholds, so none can be fed")
    return put_together(package, manifest, plan, feed_thresholds=feed_thresholds)


def put_together(package: Path, manifest: Manifest, plan: Plan, *, feed_thresholds: bool = False) -> onnx.ModelProto:
    """One graph of the exits of a plan, as `self_exiting` describes it.

    Raises:
        InputError: graphs that do not fit together.

    """
    assembly = _Assembly(package, manifest, plan)
    nodes, weights = assembly.level(0, OUTPUTS)
    width, height = manifest.size
    inputs = [helper.make_tensor_value_info(manifest.stages[0].inputs[0], TensorProto.UINT8, [1, height, width, 3])]
    if plan.thresholds:
        inputs.append(helper.make_tensor_value_info(THRESHOLDS, TensorProto.DOUBLE, [len(plan.thresholds)]))
        if not feed_thresholds:
            weights.append(numpy_helper.from_array(np.array(plan.thresholds), THRESHOLDS))
    graph = helper.make_graph(
        nodes, "offramp", inputs, _outputs(OUTPUTS, manifest.labels_shape), [*assembly.shared(), *weights]
    )
    model = as_model(graph, [piece.model for piece in assembly.pieces])
    helper.set_model_props(model, _metadata(manifest, plan))
    onnx.checker.check_model(model, full_check=True)
    return model


def make_plan(manifest: Manifest) -> Plan:
    """What a package's deployments say.

    Raises:
        InputError: a deployment whose exits the package lacks or that are not in order of depth.

    """
    if not manifest.deployments:
        return Plan(None, manifest.heads, (NEVER,) * (len(manifest.heads) - 1))
    # Of equals, the first.
    chosen = min(manifest.deployments, key=lambda deployment: deployment.mode != "input-dependent")
    names = chosen.exits[-1:] if chosen.mode == "budgeted" else chosen.exits
    heads = tuple(manifest.head(name) for name in names)
    if heads != tuple(head for head in manifest.heads if head in heads):
        raise InputError("damaged package: its deployment's exits are not in order of depth; search and trim again")
    return Plan(
        chosen.mode,
        heads,
        chosen.image_thresholds or (NEVER,) * (len(heads) - 1),
        chosen.region,
        chosen.pixel_threshold,
    )


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """What a caller of `self_exiting`'s graph must know, ready for JSON: exits, thresholds, inputs and outputs."""
    said = {entry.key.removeprefix("offramp."): entry.value for entry in model.metadata_props}
    defaults = {tensor.name for tensor in model.graph.initializer}
    return {
        "bytes": model.ByteSize(),
        "package_id": said["package_id"],
        "mode": said["mode"],
        "exits": json.loads(said["exits"]),
        "image_thresholds": json.loads(said["image_thresholds"]),
        "inputs": [{**_described(value), "has_default": value.name in defaults} for value in model.graph.input],
        "outputs": [_described(value) for value in model.graph.output],
    }


def _described(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    return {"name": value.name, "type": helper.tensor_dtype_to_np_dtype(kind.elem_type).name, "shape": shape}


class _Assembly:
    """The pieces of a package, and how they are put together.

    Weights stay in the branch that uses them: ONNX Runtime lays out and packs only those that it finds beside their node, and
    is a third slower with weights from outside. Names get a prefix for each piece: a head may repeat nodes of a later stage.
    """

    def __init__(self, package: Path, manifest: Manifest, plan: Plan) -> None:
        self.plan = plan
        self.labels_shape = manifest.labels_shape
        # A head without its confidence map, which is for people to look at.
        files = [graph_file(package, head) for head in plan.heads]
        self.heads = [
            subgraph(onnx.load(file), (head.outputs[0], head.outputs[2])) for file, head in zip(files, plan.heads, strict=True)
        ]
        wanted = {name for head in self.heads for name in head.inputs}
        self.stages: dict[int, Piece] = {}
        """By index; a stage that nothing wants is not there."""
        for index in reversed(range(plan.heads[-1].stage + 1)):
            entry = manifest.stages[index]
            if outputs := [name for name in entry.outputs if name in wanted]:
                self.stages[index] = subgraph(onnx.load(graph_file(package, entry)), outputs)
                wanted |= set(self.stages[index].inputs)
        needed = {head.labels for head in plan.heads}
        self.labels = {
            entry.file: Piece(onnx.load(graph_file(package, entry)), entry.inputs, entry.outputs)
            for entry in manifest.labels
            if entry.file in needed
        }
        image = manifest.stages[0].inputs[0]
        self.names = {image: image}
        """From the package's names of what crosses between pieces to this graph's."""
        for index, stage in self.stages.items():
            self.names |= {name: f"stage-{index}/{name}" for name in stage.outputs}

    @property
    def pieces(self) -> list[Piece]:
        """All of them."""
        return [*self.stages.values(), *self.heads, *self.labels.values()]

    def taken(self, piece: Piece) -> dict[str, str]:
        """Names of what a piece takes from others. What it makes is its own, even where a later stage makes the same."""
        return {name: self.names[name] for name in piece.inputs}

    def level(self, number: int, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """All that is computed for images that reach an exit, by its number: nodes and their weights."""
        head = self.plan.heads[number]
        begun = self.plan.heads[number - 1].stage + 1 if number else 0
        own = f"exit-{number}"
        piece, taken = self.heads[number], self.taken(self.heads[number])
        parts = [
            renamed(self.stages[index].model.graph, f"stage-{index}/", self.taken(self.stages[index]))
            for index in range(begun, head.stage + 1)
            if index in self.stages
        ]
        parts.append(renamed(piece.model.graph, f"{own}/head/", taken))
        scores, sure = (taken.get(name, f"{own}/head/{name}") for name in piece.outputs)
        nodes = [node for part in parts for node in part.node] + _score(sure, f"{own}/policy/")
        weights = [tensor for part in parts for tensor in part.initializer]
        if number + 1 == len(self.plan.heads):
            return nodes + self.answer(number, scores, outputs), weights
        threshold, leaves = f"{own}/policy/threshold", f"{own}/policy/leaves"
        left, deeper = ([f"{own}/{branch}/{name}" for name in OUTPUTS] for branch in ("then", "else"))
        then = helper.make_graph(self.answer(number, scores, left), "leave", [], _outputs(left, self.labels_shape))
        deeper_nodes, deeper_weights = self.level(number + 1, deeper)
        otherwise = helper.make_graph(deeper_nodes, "go on", [], _outputs(deeper, self.labels_shape), deeper_weights)
        nodes += [
            helper.make_node("Gather", [THRESHOLDS, f"number/{number}"], [threshold]),
            helper.make_node("GreaterOrEqual", [f"{own}/policy/score", threshold], [leaves]),
            helper.make_node("If", [leaves], list(outputs), then_branch=then, else_branch=otherwise),
        ]
        return nodes, weights

    def answer(self, number: int, scores: str, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """Nodes for label map, score and number of an exit."""
        file = self.plan.heads[number].labels
        piece = self.labels[file]
        names = {piece.inputs[0]: scores, piece.outputs[0]: outputs[0], **self.shared_weights(file)}
        return [
            *renamed(piece.model.graph, f"exit-{number}/labels/", names).node,
            helper.make_node("Identity", [f"exit-{number}/policy/score"], [outputs[1]]),
            helper.make_node("Identity", [f"number/{number}"], [outputs[2]]),
        ]

    def shared_weights(self, file: str) -> dict[str, str]:
        """Names of a labels graph's upsampling matrices, which all its exits share."""
        return {tensor.name: f"shared/{file}/{tensor.name}" for tensor in self.labels[file].model.graph.initializer}

    def shared(self) -> list[onnx.TensorProto]:
        """What several exits use: constants of the policy, and upsampling."""
        reached = np.eye(GRID)[self.plan.pixel_threshold]
        if self.plan.pixel_threshold == MEAN:
            # Multiples of 1 / GRID^2 add up exactly: the sum is that of whole numbers, divided once.
            reached = np.append(0.0, STEPS / GRID**2)
        constants = {
            "policy/region": np.array(REGIONS.index(self.plan.region), np.int64),
            "policy/reached": reached,
            "policy/all": np.array(0, np.int64),
            "policy/zero": np.array(0.0),
            "policy/one": np.array(1.0),
            **{f"number/{number}": np.array(number, np.int64) for number in range(len(self.plan.heads))},
        }
        matrices = [
            tensor
            for file, piece in self.labels.items()
            for tensor in renamed(piece.model.graph, "", self.shared_weights(file)).initializer
        ]
        return [*(numpy_helper.from_array(array, name) for name, array in constants.items()), *matrices]


def _score(sure: str, prefix: str) -> list[onnx.NodeProto]:
    """`policy.image_score` of an exit's counts, (regions, GRID) int32, as the tensor `score` behind the prefix."""

    def own(name: str) -> str:
        return prefix + name

    return [
        helper.make_node("Gather", [sure, "policy/region"], [own("counts")]),
        helper.make_node("Cast", [own("counts")], [own("exact")], to=TensorProto.DOUBLE),
        helper.make_node("Gather", [own("exact"), "policy/all"], [own("total")]),
        helper.make_node("MatMul", [own("exact"), "policy/reached"], [own("reached")]),
        helper.make_node("Max", [own("total"), "policy/one"], [own("divisor")]),
        helper.make_node("Div", [own("reached"), own("divisor")], [own("share")]),
        helper.make_node("Greater", [own("total"), "policy/zero"], [own("any")]),
        helper.make_node("Where", [own("any"), own("share"), "policy/one"], [own("score")]),
    ]


def _outputs(names: Sequence[str], labels_shape: tuple[int, int]) -> list[onnx.ValueInfoProto]:
    """What the graph and each branch give."""
    types: tuple[tuple[int, list[int]], ...] = (
        (TensorProto.UINT8, [1, *labels_shape]),
        (TensorProto.DOUBLE, []),
        (TensorProto.INT64, []),
    )
    return [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, types, strict=True)]


def _metadata(manifest: Manifest, plan: Plan) -> dict[str, str]:
    """What the file says of itself."""
    threshold = "mean" if plan.pixel_threshold == MEAN else str(manifest.pixel_thresholds[plan.pixel_threshold])
    said = {
        "version": version("offramp"),
        "package_id": manifest.package_id,
        "mode": plan.mode or "none",
        "exits": json.dumps([head.exit for head in plan.heads]),
        "image_thresholds": json.dumps(plan.thresholds),
        "region": plan.region,
        "pixel_threshold": threshold,
        "classes": json.dumps(manifest.classes),
        "palette": json.dumps(manifest.palette),
    }
    return {f"offramp.{key}": value for key, value in said.items()}
