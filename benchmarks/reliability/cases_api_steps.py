"""Cases of bad calls of the steps that a device needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from api_calls import calling, odd, pixels_of, refused
from harness import Case, Things, copied

from offramp import Predictor
from offramp.artifacts import Deployment, Profile, load_json, load_manifest, load_records
from offramp.data.check import check
from offramp.data.synthetic import draw_dataset, draw_scene
from offramp.evaluation import evaluate
from offramp.profiling import profile
from offramp.report.page import write_report
from offramp.runtime.stream import run
from offramp.search import front, search, search_all, search_cascade, write_cascade
from offramp.specs import SearchSpec
from offramp.trimming import trim

BUDGETED = SearchSpec(mode="budgeted")
ANY = odd(None)


def _pair(things: Things) -> tuple[Any, Any]:
    return load_records(things.records), load_json(things.profile, Profile)


def _text_for_paths(work: Path, things: Things) -> object:
    """Every step of a device with text for its paths."""
    made = [odd(str(work / name)) for name in ("val.records", "here.profile", "chosen.json", "small", "answers", "r.html")]
    package, data = odd(str(things.package)), odd(str(things.data))
    evaluate(package, data, "val", threads=1).save(made[0])
    profile(package, passes=1, threads=1).save(made[1])
    search(load_records(made[0]), load_json(made[1], Profile), BUDGETED, inputs={}).save(made[2])
    trim(package, made[2], made[3])
    log = run(str(things.image), Predictor(made[3]), made[4], overlays="none")
    write_report(made[5], package=package, records=made[0])
    return log.mode, check(data).ok


def _over_picture(_work: Path, things: Things) -> object:
    return _pair(things)[1].save(things.image)


def _records_over_folder(work: Path, things: Things) -> object:
    load_records(things.records).save(copied(things.small, work))
    return None


def _step(name: str, call: Callable[[Path, Things], object], *says: str) -> Case:
    return refused(name, call, *says)


CASES: tuple[Case, ...] = (
    Case("api: text for paths works in every step", calling(_text_for_paths), right=lambda _w, got: got == ("budgeted", True)),
    _step("evaluate of None", lambda _w, t: evaluate(ANY, t.data, "val"), "package must be a path", "None"),
    _step("evaluate, split None", lambda _w, t: evaluate(t.package, t.data, ANY), "split must be str", "None"),
    _step("evaluate, images as text", lambda _w, t: evaluate(t.package, t.data, "val", images=odd("01")), "images", "list"),
    _step("evaluate, image 0.5", lambda _w, t: evaluate(t.package, t.data, "val", images=odd([0.5])), "images", "0.5"),
    _step("evaluate, image -1", lambda _w, t: evaluate(t.package, t.data, "val", images=[-1]), "images 0 to 1", "-1"),
    _step("evaluate, image 99", lambda _w, t: evaluate(t.package, t.data, "val", images=[99]), "images 0 to 1", "99"),
    _step("evaluate, no images", lambda _w, t: evaluate(t.package, t.data, "val", images=[]), "images", "leave it out"),
    _step("profile, passes 0", lambda _w, t: profile(t.package, passes=0), "passes", "at least 1"),
    _step("profile, passes NaN", lambda _w, t: profile(t.package, passes=odd(float("nan"))), "passes", "whole number"),
    _step("profile, energy as text", lambda _w, t: profile(t.package, energy_seconds=odd("x")), "energy_seconds", "number"),
    _step(
        "trim, a deployment itself",
        lambda w, t: trim(t.package, odd(load_json(t.chosen, Deployment)), w / "x"),
        "deployment must be a path",
        "Deployment",
    ),
    _step("run of None", lambda w, t: run(ANY, Predictor(t.small), w / "x"), "source must be a path"),
    _step(
        "run of an array", lambda w, t: run(odd(pixels_of(t)), Predictor(t.small), w / "x"), "source must be a path", "ndarray"
    ),
    _step("run with a package", lambda w, t: run(t.image, odd(t.small), w / "x"), "predictor must be Predictor"),
    _step(
        "run with overlays as gif",
        lambda w, t: run(t.image, Predictor(t.small), w / "x", overlays=odd("gif")),
        "overlays 'gif'",
        "jpg",
    ),
    _step(
        "run, deadline as text",
        lambda w, t: run(t.image, Predictor(t.small), w / "x", deadline_ms=odd("5")),
        "deadline_ms",
        "number",
    ),
    _step("report on nothing", lambda w, _t: write_report(w / "r.html"), "nothing to report on"),
    _step(
        "report, no images",
        lambda w, t: write_report(w / "r.html", package=t.package, data=t.data, images=0),
        "images",
        "at least 1",
    ),
    _step("report, records 3", lambda w, _t: write_report(w / "r.html", records=odd(3)), "records must be a path", "3"),
    _step("draw, size as text", lambda w, _t: draw_dataset(w / "d", 3, odd("64x48")), "size must be 2 whole numbers", "64x48"),
    _step("draw, one side", lambda w, _t: draw_dataset(w / "d", 3, odd((64,))), "size must be 2 whole numbers"),
    _step("draw, half a pixel", lambda w, _t: draw_dataset(w / "d", 3, odd((64.5, 48))), "size", "whole number", "64.5"),
    _step("draw, 3.5 images", lambda w, _t: draw_dataset(w / "d", odd(3.5)), "images", "whole number", "3.5"),
    _step("draw_scene without chance", lambda _w, _t: draw_scene(ANY, (64, 48), 0.5), "rng must be Generator", "None"),
    _step(
        "draw_scene, difficulty NaN", lambda _w, _t: draw_scene(np.random.default_rng(0), (64, 48), np.nan), "difficulty", "nan"
    ),
    _step("check of None", lambda _w, _t: check(ANY), "root must be a path"),
    _step(
        "search, exchanged", lambda _w, t: search(*_pair(t)[::-1], BUDGETED, inputs={}), "records must be Records", "Profile"
    ),
    _step(
        "search of paths", lambda _w, t: search(odd(t.records), odd(t.profile), BUDGETED, inputs={}), "records must be Records"
    ),
    _step(
        "search with a dict",
        lambda _w, t: search(*_pair(t), odd({"mode": "budgeted"}), inputs={}),
        "spec must be SearchSpec",
        "dict",
    ),
    _step("search, inputs None", lambda _w, t: search(*_pair(t), BUDGETED, inputs=ANY), "inputs must be dict", "None"),
    _step(
        "search, workers as text",
        lambda _w, t: search(*_pair(t), BUDGETED, inputs={}, workers=odd("2")),
        "workers",
        "whole number",
    ),
    _step("front of None", lambda _w, t: front(_pair(t)[0], ANY, BUDGETED), "profile must be Profile"),
    _step("search_all of nothing", lambda _w, _t: search_all([], BUDGETED, inputs=[]), "one package or more"),
    _step("search_all, inputs missing", lambda _w, t: search_all([_pair(t)] * 2, BUDGETED, inputs=[{}]), "got 2 and 1"),
    _step(
        "search_cascade of one",
        lambda _w, t: search_cascade(odd((_pair(t),)), "x", BUDGETED, inputs={}),
        "two packages",
        "got 1",
    ),
    _step("write_cascade without a large one", lambda w, t: write_cascade(t.package, ANY, w / "x"), "large must be a path"),
    _step("load a profile as a deployment", lambda _w, t: load_json(t.profile, Deployment), "not a deployment", "'profile'"),
    _step("load a manifest of a file", lambda _w, t: load_manifest(t.image), "not a package", "not a folder"),
    _step("save a profile over a picture", _over_picture, "will not replace", "not a profile"),
    _step("save records over a folder", _records_over_folder, "cannot write the file", "folder of that name"),
    _step("latency of no exit", lambda _w, t: _pair(t)[1].latency_ms(()), "exits are names of", "none"),
    _step("latency of an unknown exit", lambda _w, t: _pair(t)[1].latency_ms(("nope",)), "exits are names of", "nope"),
)
