"""Cases of strangers' packages, whose hashes fit: no code of theirs runs, no file elsewhere is opened, nothing runs for ever.

And names in them: on the console they move no cursor and in the page they are no markup.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import spoiling
from cases_packages import VERBS
from harness import Case, Things, copied
from onnx import TensorProto, helper, numpy_helper
from spoiling import edited, put

Words = Sequence[object] | Callable[[], object]
Spoil = Callable[[Path], object]
GIVEN, MADE = "tap/blocks.1.0", "tap/blocks.2.0"
"""Of stage 1."""
OPENERS = ("run", "evaluate", "profile", "trim --merge", "export --single-file", "view", "Predictor")
"""What opens a package's graphs."""


def _stage(nodes: Sequence[onnx.NodeProto], *tensors: onnx.TensorProto, **more: Any) -> Spoil:
    """Stage 1 computes something else."""

    def spoil(package: Path) -> None:
        shape = [1, 32, 8, 12]
        given = helper.make_tensor_value_info(GIVEN, TensorProto.FLOAT, [1, 24, 16, 24])
        made = helper.make_tensor_value_info(MADE, TensorProto.FLOAT, shape)
        graph = helper.make_graph(nodes, "stranger", [given], [made], list(tensors))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("stranger", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)
        (package / "stage-1.onnx").write_bytes(model.SerializeToString())
        spoiling.signed(package)

    return spoil


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str] = (MADE,), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def _elsewhere(place: str) -> onnx.TensorProto:
    """Weights that lie in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


def _body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    """Of a loop without an end."""
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    goes_on = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    return helper.make_graph([*nodes, helper.make_node("Identity", ["goes_on"], ["still"])], "body", [number, goes_on], [still])


def _constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


LOOP = helper.make_node("Loop", ["", ""], [], body=_body())
IDENTITY = _node("Identity", [GIVEN])


def _nested(depth: int) -> onnx.NodeProto:
    node = helper.make_node("Identity", ["a"], ["b"])
    for _ in range(depth):
        graph = helper.make_graph([node], "inner", [], [])
        node = helper.make_node("If", ["a"], ["b"], then_branch=graph, else_branch=helper.make_graph([], "none", [], []))
    return node


def _function() -> onnx.FunctionProto:
    return helper.make_function(
        "stranger", "Forever", ["x"], ["y"], [LOOP, _node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )


GRAPHS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "weights in a file above": (_stage([IDENTITY], _elsewhere("../secret")), ("stage-1.onnx", "another file")),
    "weights by an absolute path": (_stage([IDENTITY], _elsewhere("/etc/passwd")), ("stage-1.onnx", "another file")),
    "weights in a file beside it": (_stage([IDENTITY], _elsewhere("head-0.onnx")), ("stage-1.onnx", "another file")),
    "a constant in another file": (
        _stage([IDENTITY, _node("Constant", [], ["other"], value=_elsewhere("../secret"))]),
        ("stage-1.onnx", "another file"),
    ),
    "a loop without an end": (_stage([LOOP, IDENTITY]), ("stage-1.onnx", "loop")),
    "a loop within an If": (
        _stage([_node("If", ["c"], ["d"], then_branch=_body(LOOP), else_branch=_body()), IDENTITY]),
        ("stage-1.onnx", "loop"),
    ),
    "a scan": (_stage([_node("Scan", [GIVEN], ["d"], body=_body(), num_scan_inputs=1), IDENTITY]), ("stage-1.onnx", "loop")),
    "a loop in a function": (_stage([IDENTITY], functions=[_function()]), ("stage-1.onnx", "loop")),
    "graphs 20 deep": (_stage([_nested(20), IDENTITY]), ("stage-1.onnx", "deeply")),
    "an operator of its own": (_stage([_node("Evil", [GIVEN], domain="stranger")]), ("stage-1.onnx", "Evil")),
    "an operator that does not exist": (_stage([_node("Whatever", [GIVEN])]), ("stage-1.onnx", "Whatever")),
    "a tensor of 4 TB": (
        _stage([_node("ConstantOfShape", ["shape"])], _constant("shape", np.array([1, 32, 10**6, 31250], np.int64))),
        ("stage-1.onnx",),
    ),
    "an addition that does not fit": (
        _stage([_node("Add", [GIVEN, "b"])], _constant("b", np.zeros((7, 7), np.float32))),
        ("stage-1.onnx",),
    ),
    "no nodes": (_stage([]), ("stage-1.onnx",)),
    "other names than the manifest's": (
        lambda package: spoiling.signed(package, lambda raw: _renamed(raw, "tap/blocks.2.0", "tap/other")),
        ("stage-1.onnx", "differ"),
    ),
}


def _renamed(raw: Any, old: str, new: str) -> None:
    text = json.dumps(raw).replace(f'"{old}"', f'"{new}"')
    raw.update(json.loads(text))


def _bytes(content: bytes) -> Spoil:
    def spoil(package: Path) -> None:
        (package / "stage-1.onnx").write_bytes(content)
        spoiling.signed(package)

    return spoil


BYTES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "an empty graph": (_bytes(b""), ("stage-1.onnx", "no graph")),
    "text for a graph": (_bytes(b"not a graph at all"), ("stage-1.onnx", "will not open")),
    "a pickle for a graph": (_bytes(pickle.dumps(spoiling.Bomb(Path("executed")))), ("stage-1.onnx", "will not open")),
    "a graph of 2^63 bytes": (_bytes(b"\x3a" + b"\xff" * 8 + b"\x7f"), ("stage-1.onnx", "too early")),
    "a graph that is a number": (_bytes(b"\x38\x01"), ("stage-1.onnx", "no ONNX")),
}


def _labels(value: int, shape: Sequence[int], kind: int = TensorProto.UINT8) -> Spoil:
    """The final exit's label map is always the same."""

    def spoil(package: Path) -> None:
        given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 8, 4, 6])
        made = helper.make_tensor_value_info("labels", kind, list(shape))
        array = np.full(tuple(shape), value, helper.tensor_dtype_to_np_dtype(kind))
        nodes = [_node("Constant", [], ["labels"], value=numpy_helper.from_array(array))]
        model = helper.make_model(
            helper.make_graph(nodes, "labels", [given], [made]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        )
        (package / "labels-4x6.onnx").write_bytes(model.SerializeToString())
        spoiling.signed(package)

    return spoil


LABELS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a label map of class 200": (_labels(200, [1, 64, 96]), ("labels-4x6.onnx", "class 200")),
    "a label map of another size": (_labels(0, [1, 3, 3]), ("labels-4x6.onnx", "(1, 3, 3)")),
    "a label map of a dimension more": (_labels(0, [1, 1, 64, 96]), ("labels-4x6.onnx", "(1, 1, 64, 96)")),
    "a label map of floats": (_labels(0, [1, 64, 96], TensorProto.FLOAT), ("labels-4x6.onnx", "float32")),
}


def _case(what: str, verb: str, spoil: Spoil, says: tuple[str, ...]) -> Case:
    def prepare(work: Path, things: Things) -> Words:
        package = copied(things.package, work)
        (work / "secret").write_bytes(bytes(16))
        spoil(package)
        chosen = work / "chosen.json"
        shutil.copy(things.chosen, chosen)
        identity = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["package_id"]
        edited(chosen, put("package_id", identity))
        if verb == "trim --merge":
            return ("trim", package, chosen, "--out", work / "out", "--merge")
        return VERBS[verb](package, work, things)

    return Case(f"stranger: {what}, {verb}", prepare, says=says)


# ------------------------------------------------------------------------------------------------------------ names of files

NAMES = ("../stage-1.onnx", "/etc/hostname", "..\\stage-1.onnx", "stage\0.onnx", "inner/stage-1.onnx", "..", ".", "", "a" * 300)


def _named(name: str, verb: str) -> Case:
    return _case(
        f"a graph called {ascii(name)[:30]}",
        verb,
        lambda package: edited(package / "manifest.json", put("stages.1.file", name)),
        ("manifest.json", "stages.1.file"),
    )


def _linked_manifest(package: Path) -> None:
    spoiling.as_link(package / "manifest.json", package.parent / "elsewhere.json")


# -------------------------------------------------------------------------------------------------------------- what is shown

ESCAPES = "\x1b]0;owned\x07\x1b[2J[red]x[/]\u202e"
MARKUP = "<script>alert(1)</script>"


def _with_exit(name: str, verb: str) -> Callable[[Path, Things], Words]:
    """A package whose final exit is called so."""

    def prepare(work: Path, things: Things) -> Words:
        package = copied(things.package, work)
        edited(package / "manifest.json", put("heads.2.exit", name))
        return VERBS[verb](package, work, things)

    return prepare


def _with_classes(name: str, verb: str) -> Callable[[Path, Things], Words]:
    """A package and a dataset whose first class is called so."""

    def prepare(work: Path, things: Things) -> Words:
        package, data = copied(things.package, work), copied(things.data, work)
        edited(package / "manifest.json", put("classes.0", name))
        edited(data / "classes.json", put("classes.0", name))
        if verb == "evaluate":
            return ("evaluate", package, data, "--out", work / "val.records")
        more = ("--data", data, "--images", 1) if verb == "report --data" else ()
        return ("report", package, *more, "--out", work / "page.html")

    return prepare


def _harmless(_work: Path, out: Any) -> bool:
    """The name is there, escaped, and nothing that moves a cursor."""
    return "\\x1b" in out and "[red]" in out and not any(char in out for char in "\x1b\x07\u202e")


def _no_markup(work: Path, _out: Any) -> bool:
    page = (work / "page.html").read_text(encoding="utf-8")
    return MARKUP not in page and "alert(1)" in page


def _bad_exit(verb: str) -> Callable[[Path, Things], Words]:
    def prepare(work: Path, things: Things) -> Words:
        return (verb, things.package, spoiling.with_thresholds(things.chosen, work, exits__0=ESCAPES), "--out", work / "out")

    return prepare


def _with_more_files(work: Path, things: Things) -> Words:
    """Caches of engines, pickles and code in the folder, none of which is opened."""
    package = copied(things.package, work)
    for name in ("stage-0.engine", "TensorrtExecutionProvider_cache.engine", "stage-0.ort", "weights.pt", "data.pkl"):
        (package / name).write_bytes(pickle.dumps(spoiling.Bomb(work / "executed")))
    for name in ("sitecustomize.py", "offramp.py", "__init__.py"):
        (package / name).write_text(f"open({str(work / 'executed')!r}, 'w')\n")
    return VERBS["run"](package, work, things)


def _answered(work: Path, _out: Any) -> bool:
    return not (work / "executed").exists() and len(list((work / "answers" / "labels").iterdir())) == 1


CASES: tuple[Case, ...] = (
    *(
        _case(what, OPENERS[number % len(OPENERS)], spoil, says)
        for number, (what, (spoil, says)) in enumerate([*BYTES.items(), *GRAPHS.items()])
        if what
        not in {
            "a tensor of 4 TB",
            "an operator of its own",
            "an operator that does not exist",
            "no nodes",
            "an addition that does not fit",
        }
    ),
    *(_case("a loop without an end", verb, *GRAPHS["a loop without an end"]) for verb in ("evaluate", "export --precision")),
    *(_case("weights in a file above", verb, *GRAPHS["weights in a file above"]) for verb in ("profile", "trim --merge")),
    *(
        _case(what, verb, *GRAPHS[what])
        for what, verb in (
            ("a tensor of 4 TB", "run"),
            ("an operator of its own", "profile"),
            ("an operator that does not exist", "evaluate"),
            ("no nodes", "run"),
            ("an addition that does not fit", "profile"),
        )
    ),
    *(
        _case(what, ("run", "evaluate", "profile")[n % 3], spoil, says)
        for n, (what, (spoil, says)) in enumerate(LABELS.items())
    ),
    *(_named(name, ("run", "trim", "report", "view", "Predictor")[number % 5]) for number, name in enumerate(NAMES)),
    *(
        _case("a manifest that is a link", verb, _linked_manifest, ("manifest.json", "link"))
        for verb in ("run", "trim", "report")
    ),
    Case("stranger: an exit with escapes, run", _with_exit(ESCAPES, "run"), right=_harmless),
    Case("stranger: an exit with escapes, profile", _with_exit(ESCAPES, "profile"), right=_harmless),
    Case("stranger: a class with escapes, evaluate", _with_classes(ESCAPES, "evaluate"), says=("classes.json", "\\u001b")),
    Case("stranger: an exit with escapes, trim", _bad_exit("trim"), says=("\\x1b]0;owned", "[red]")),
    Case("stranger: an exit that is a script, report", _with_exit(MARKUP, "report"), right=_no_markup),
    Case(
        "stranger: a class that is a script, report",
        _with_classes(MARKUP, "report"),
        right=lambda work, _out: MARKUP not in (work / "page.html").read_text(encoding="utf-8"),
    ),
    Case("stranger: a class that is a script, report --data", _with_classes(MARKUP, "report --data"), right=_no_markup),
    Case("stranger: caches, pickles and code in a package, run", _with_more_files, right=_answered),
)
