"""Cases of bad calls of the Python API on a device: images, predictors, plans, stages asked in the wrong order, steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases_api_network
import cases_api_steps
import numpy as np
from api_calls import Array, calling, pixels_of, refused
from harness import Case, Things
from PIL import Image

from offramp import Predictor
from offramp.runtime.answers import Answer
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Plan
from offramp.runtime.staged_network import ExitAnswer, StagedNetwork

# ----------------------------------------------------------------------------------------------------------------- images

UNFIT: dict[str, tuple[Callable[[Array], object], tuple[str, ...]]] = {
    "None": (lambda _image: None, ("NoneType",)),
    "a list": (lambda image: image.tolist(), ("list", "numpy.asarray")),
    "bytes": (lambda image: image.tobytes(), ("bytes",)),
    "floats 0 to 1": (lambda image: image / np.float32(255), ("float32", "0..255", "uint8")),
    "floats 0 to 255": (lambda image: image.astype(np.float64), ("float64", "uint8")),
    "NaN": (lambda image: np.full(image.shape, np.nan), ("float64", "uint8")),
    "int64": (lambda image: image.astype(np.int64), ("int64", "uint8")),
    "bool": (lambda image: image > 127, ("bool", "uint8")),
    "uint16": (lambda image: image.astype(np.uint16) * 257, ("uint16", "uint8")),
    "objects": (lambda image: image.astype(object), ("object",)),
    "complex": (lambda image: image.astype(complex), ("complex128",)),
    "no channels": (lambda image: image[..., 0], ("(64, 96)", "convert")),
    "channels first": (lambda image: image.transpose(2, 0, 1), ("(3, 64, 96)", "transpose(1, 2, 0)")),
    "a batch": (lambda image: image[None], ("(1, 64, 96, 3)",)),
    "four channels": (lambda image: np.dstack([image, image[..., :1]]), ("(64, 96, 4)", "[..., :3]")),
    "one channel": (lambda image: image[..., :1], ("(64, 96, 1)",)),
    "no rows": (lambda image: image[:0], ("(0, 96, 3)", "no pixel")),
    "no columns": (lambda image: image[:, :0], ("(64, 0, 3)", "no pixel")),
    "a number": (lambda image: image[0, 0, 0], ("uint8",)),
    "Pillow's empty image": (lambda _image: Image.new("RGB", (0, 5)), ("no pixel",)),
    "Pillow's floats": (lambda image: Image.fromarray(image[..., 0].astype(np.float32)), ("floating-point", "8 or 16 bits")),
    "a folder": (lambda _image: Path("/"), ("cannot read the image",)),
    "an empty name": (lambda _image: "", ("cannot read the image",)),
}


def _unfit(kind: str, ask: str) -> Case:
    make, says = UNFIT[kind]

    def call(_work: Path, things: Things) -> object:
        predictor = Predictor(things.small, threads=1)
        asked: dict[str, Callable[[Any], object]] = {"call": predictor, "refine": predictor.refine, "start": predictor.start}
        return asked[ask](make(pixels_of(things)))

    return refused(f"{ask} with {kind}", call, *says)


ODDLY_KEPT: dict[str, Callable[[Array, Path], object]] = {
    "Fortran order": lambda image, _file: np.asfortranarray(image),
    "rows in memory upside down": lambda image, _file: image[::-1].copy()[::-1],
    "channels in memory as BGR": lambda image, _file: image[..., ::-1].copy()[..., ::-1],
    "a read-only array": lambda image, _file: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    "every second pixel of a larger one": lambda image, _file: image.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "Pillow's image": lambda image, _file: Image.fromarray(image),
    "Pillow's with alpha": lambda image, _file: Image.fromarray(image).convert("RGBA"),
    "a path as text": lambda _image, file: str(file),
    "a path": lambda _image, file: file,
}


def _oddly_kept(kind: str) -> Case:
    def call(_work: Path, things: Things) -> object:
        predictor, pixels = Predictor(things.package, threads=1), pixels_of(things)
        given: Any = ODDLY_KEPT[kind](pixels, things.image)
        background = predictor.start(given)
        answers = [predictor(pixels), background.wait(), *predictor.refine(given), predictor(given, deadline_ms=1e6)]
        return [answer.labels for answer in answers if answer is not None]

    return Case(f"api: {kind} gives the same labels", calling(call), right=_all_alike)


def _all_alike(_work: Path, labels: list[Array]) -> bool:
    return len(labels) == 4 and all(np.array_equal(labels[0], each) for each in labels)


def _other_size(name: str, make: Callable[[Array], Array]) -> Case:
    """Labels are of the image's own size, and of the image's own classes."""

    def call(_work: Path, things: Things) -> object:
        image = make(pixels_of(things))
        return image.shape, Predictor(things.small, threads=1)(image).labels

    def right(_work: Path, got: tuple[tuple[int, ...], Array]) -> bool:
        return got[1].shape == got[0][:2] and int(got[1].max()) < 8

    return Case(f"api: {name}", calling(call), right=right)


IMAGES = (
    *(_unfit(kind, "call") for kind in UNFIT),
    _unfit("floats 0 to 1", "refine"),
    _unfit("channels first", "start"),
    *map(_oddly_kept, ODDLY_KEPT),
    _other_size("one pixel", lambda image: image[:1, :1]),
    _other_size("one row", lambda image: image[:1]),
    _other_size("200,000 columns", lambda image: np.resize(image, (1, 200_000, 3))),
    _other_size("twice the size", lambda image: image.repeat(2, 0).repeat(2, 1)),
)

# ------------------------------------------------------------------------------------------------------------- predictors


def _predictor(name: str, *says: str, **options: Any) -> Case:
    return refused(f"Predictor, {name}", lambda _work, things: Predictor(things.package, **options), *says)


def _deadline(value: Any) -> Case:
    def call(_work: Path, things: Things) -> object:
        return Predictor(things.package, mode="anytime", threads=1)(pixels_of(things), deadline_ms=value)

    return refused(f"deadline_ms={value!r}", call, "deadline", "positive number of milliseconds", str(value))


def _package(name: str, value: Any, *says: str) -> Case:
    return refused(f"Predictor of {name}", lambda _work, _things: Predictor(value), *says)


FAST: Any = "fast"
PLANS: dict[str, tuple[Callable[[tuple[str, ...]], Any], tuple[str, ...]]] = {
    "None": (lambda _exits: None, ("takes a Plan", "NoneType")),
    "no exits": (lambda _exits: Plan("budgeted", ()), ("exits in order of depth", "none")),
    "an unknown exit": (lambda _exits: Plan("budgeted", ("nope",)), ("exits in order of depth", "nope")),
    "exits backwards": (lambda exits: Plan("anytime", exits[::-1]), ("in order of depth",)),
    "an exit twice": (lambda exits: Plan("anytime", exits[:1] * 2), ("in order of depth",)),
    "an unknown mode": (lambda exits: Plan(FAST, exits), ("modes budgeted", "'fast'")),
    "an unknown region": (lambda exits: Plan("input-dependent", exits, FAST, 1, (0.5, 0.5)), ("regions all", "'fast'")),
    "too few thresholds": (
        lambda exits: Plan("input-dependent", exits, "all", 1, (0.5,)),
        ("need 2 image thresholds", "got 1"),
    ),
    "thresholds where none are": (lambda exits: Plan("anytime", exits, "all", 1, (0.5,)), ("need 0 image thresholds",)),
    "NaN as a threshold": (
        lambda exits: Plan("input-dependent", exits, "all", 1, (np.nan, 0.5)),
        ("thresholds are numbers", "nan"),
    ),
    "text as thresholds": (lambda exits: Plan("input-dependent", exits, "all", 1, (FAST, FAST)), ("thresholds are numbers",)),
    "pixel threshold 32": (lambda exits: Plan("input-dependent", exits, "all", 32, (0.5, 0.5)), ("index from 0 to 31", "32")),
    "pixel threshold -1": (lambda exits: Plan("input-dependent", exits, "all", -1, (0.5, 0.5)), ("index from 0 to 31", "-1")),
    "pixel threshold 0.9": (
        lambda exits: Plan("input-dependent", exits, "all", 0.9, (0.5, 0.5)),  # type: ignore[arg-type]
        ("pixel_threshold", "whole number", "0.9"),
    ),
}


def _plan(kind: str) -> Case:
    make, says = PLANS[kind]

    def call(_work: Path, things: Things) -> object:
        predictor = Predictor(things.package, every_exit=True, threads=1)
        predictor.change(make(predictor.manifest.exits))
        return predictor(pixels_of(things)).exit

    return refused(f"change to a plan with {kind}", call, *says)


PREDICTORS = (
    *map(_deadline, (0, -1, float("nan"), float("inf"), "5", [5])),
    _package("None", None, "package must be a path", "None"),
    _package("a number", 3, "package must be a path", "3"),
    _package("an empty name", "", "package must be a path", "empty"),
    _package("bytes", b"x", "package must be a path", "bytes"),
    _package("a name with a zero byte", "a\0b", "package must be a path", "zero byte"),
    refused("Predictor of a run", lambda _work, things: Predictor(things.run), "not a package", "run"),
    refused("Predictor of a dataset", lambda _work, things: Predictor(str(things.data)), "not a package", "scenes"),
    refused("Predictor of a file", lambda _work, things: Predictor(things.image), "not a package", "is not a folder"),
    _predictor("an unknown engine", "unknown engine 'tflite'", "onnxruntime, openvino", engine="tflite"),
    _predictor("engine None", "unknown engine None", engine=None),
    _predictor("a list of engines", "unknown engine", engine=["onnxruntime"]),
    _predictor("CUDA", "cannot do onnxruntime-cuda", "onnxruntime-gpu", engine="onnxruntime-cuda"),
    _predictor("TensorRT", "cannot do onnxruntime-tensorrt", "onnxruntime-gpu", engine="onnxruntime-tensorrt"),
    _predictor("threads -1", "threads must be from 1 to 1024", "-1", threads=-1),
    _predictor("threads 1.5", "threads must be a whole number", "1.5", threads=1.5),
    _predictor("threads as text", "threads must be a whole number", "'2'", threads="2"),
    _predictor("threads None", "threads must be a whole number", "None", threads=None),
    _predictor("a million threads", "threads must be from 1 to 1024", threads=10**6),
    _predictor("an unknown precision", "unknown precision 'int8'", "fp32", precision="int8"),
    _predictor("fp16 on the CPU", "onnxruntime does not compute in fp16", precision="fp16"),
    _predictor("an unknown mode", "unknown mode 'fast'", "budgeted", mode="fast"),
    _predictor("input-dependent without thresholds", "no input-dependent deployment", "offramp search", mode="input-dependent"),
    *map(_plan, PLANS),
)

# ----------------------------------------------------------------------------------------------------------------- stages


def _network(things: Things) -> StagedNetwork:
    return StagedNetwork(things.package, open_engine("onnxruntime", 1))


def _asked_late(name: str, ask: Callable[[StagedNetwork, Array], object]) -> Case:
    """What was asked for after the next image had begun must be an error, never an answer for the other image."""

    def call(_work: Path, things: Things) -> object:
        network, image = _network(things), pixels_of(things)
        try:
            return ask(network, image)
        except RuntimeError as error:
            return error

    def right(_work: Path, got: object) -> bool:
        return isinstance(got, RuntimeError) and "before the next image" in str(got)

    return Case(f"api: {name} is an error, no answer", calling(call), right=right)


def _late_labels(network: StagedNetwork, image: Array) -> object:
    first = next(network.iter_exits(image))
    next(network.iter_exits(image[::-1].copy()))
    return first.labels()


def _late_exit(network: StagedNetwork, image: Array) -> object:
    answers = network.iter_exits(image)
    next(answers)
    next(network.iter_exits(image[::-1].copy()))
    return next(answers)


def _late_start(network: StagedNetwork, image: Array) -> object:
    waiting = network.iter_exits(image)
    first = next(network.iter_exits(image[::-1].copy()))
    next(waiting)
    return first.labels()


def _in_any_order(_work: Path, things: Things) -> object:
    """Labels of one image, asked for at once, and after all its exits, deepest first."""
    network, image = _network(things), pixels_of(things)
    at_once = [answer.labels().copy() for answer in network.iter_exits(image)]
    answers: list[ExitAnswer] = list(network.iter_exits(image))
    return at_once, [answer.labels() for answer in reversed(answers)][::-1]


def _kept_over_the_next(_work: Path, things: Things) -> object:
    """What was given for one image stays what it was while others are answered."""
    network, image = _network(things), pixels_of(things)
    first = next(network.iter_exits(image))
    kept: list[Array] = [first.labels(), first.confidence, first.sure]
    before = [array.copy() for array in kept]
    for answer in network.iter_exits(255 - image):
        answer.labels()
    return before, kept


def _same_arrays(_work: Path, got: tuple[list[Array], list[Array]]) -> bool:
    return len(got[0]) == 3 and all(np.array_equal(one, other) for one, other in zip(*got, strict=True))


def _iter(name: str, *says: str, **given: Any) -> Case:
    def call(_work: Path, things: Things) -> object:
        return list(_network(things).iter_exits(**({"image": pixels_of(things)} | given)))

    return refused(f"iter_exits, {name}", call, *says)


def _original(_work: Path, things: Things) -> object:
    original = _network(things).load_original()
    assert original is not None
    return original(pixels_of(things)[:32])


def _refined_late(_work: Path, things: Things) -> object:
    predictor = Predictor(things.package, mode="anytime", threads=1)
    answers = predictor.refine(pixels_of(things))
    next(answers)
    predictor(pixels_of(things))
    try:
        return next(answers)
    except RuntimeError as error:
        return error


STAGES = (
    _asked_late("labels after the next image", _late_labels),
    _asked_late("a further exit after the next image", _late_exit),
    _asked_late("labels after an older generator began", _late_start),
    Case(
        "api: refine after another image is an error, no answer",
        calling(_refined_late),
        right=lambda _w, got: not isinstance(got, Answer),
    ),
    Case("api: labels asked in any order within an image", calling(_in_any_order), right=_same_arrays),
    Case("api: answers kept over the next image", calling(_kept_over_the_next), right=_same_arrays),
    _iter("an unknown exit", "exits", "'nope'", exits=["nope"]),
    _iter("an exit as text", "list of names", "'final'", exits="final"),
    _iter("None", "uint8", "NoneType", image=None),
    _iter("Pillow's image", "uint8", "Image", image=Image.new("RGB", (96, 64))),
    _iter("another size", "(64, 96, 3)", "(8, 8, 3)", image=np.zeros((8, 8, 3), np.uint8)),
    refused("the original network, another size", _original, "(64, 96, 3)", "(32, 96, 3)"),
    refused(
        "StagedNetwork, an unknown exit",
        lambda _w, t: StagedNetwork(t.package, open_engine("onnxruntime", 1), ["no"]),
        "no exit 'no'",
    ),
    refused(
        "StagedNetwork, exits as text",
        lambda _w, t: StagedNetwork(t.package, open_engine("onnxruntime", 1), "final"),
        "list",
        "['final']",
    ),
)

CASES: tuple[Case, ...] = (*IMAGES, *PREDICTORS, *STAGES, *cases_api_steps.CASES, *cases_api_network.CASES)
