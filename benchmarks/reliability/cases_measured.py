"""Cases of bad profiles, deployments, run logs and sweeps, met by search, trim, report and by who loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import spoiling
from harness import Case, Things, copied
from spoiling import Edit, drop, edited, put

from offramp.artifacts import Deployment, Profile, RunLog, Sweep, load_json, load_records

Words = Sequence[object] | Callable[[], object]
Verb = Callable[[Path, Path, Things], Words]
"""From a spoilt file, the case's folder and the things to what meets it."""
Spoil = Callable[[Path], object]
EXIT = "blocks.1.0:fcn/c64"


def _search(records: Path, profile: Path, work: Path) -> Words:
    found = ("--records", records, "--profile", profile)
    return ("search", *found, "--mode", "input-dependent", "--max-drop-pp", 5, "--out", work / "found.json")


def _report(work: Path, things: Things, *more: object) -> Words:
    return ("report", things.package, *more, "--out", work / "page.html")


OF_RECORDS: dict[str, Verb] = {
    "search": lambda path, work, things: _search(path, things.profile, work),
    "report": lambda path, work, things: _report(work, things, "--records", path),
    "load_records": lambda path, _work, _things: lambda: load_records(path),
    "search --calibration": lambda path, work, things: (
        *_words(_search(things.records, things.profile, work)),
        *("--max-risk", 0.5, "--calibration", path),
    ),
}
OF_PROFILE: dict[str, Verb] = {
    "search": lambda path, work, things: _search(things.records, path, work),
    "report": lambda path, work, things: _report(work, things, "--profile", path),
    "load_json": lambda path, _work, _things: lambda: load_json(path, Profile),
}
OF_DEPLOYMENT: dict[str, Verb] = {
    "trim": lambda path, work, things: ("trim", things.package, path, "--out", work / "out"),
    "trim --merge": lambda path, work, things: ("trim", things.package, path, "--out", work / "out", "--merge"),
    "report": lambda path, work, things: _report(work, things, "--deployment", path),
    "load_json": lambda path, _work, _things: lambda: load_json(path, Deployment),
}
OF_LOG: dict[str, Verb] = {
    "report": lambda path, work, things: _report(work, things, "--run-log", path),
    "load_json": lambda path, _work, _things: lambda: load_json(path, RunLog),
}
OF_SWEEP: dict[str, Verb] = {
    "search --sweep": lambda path, work, _things: (
        *("search", "--sweep", path.parent, "--mode", "input-dependent"),
        *("--max-drop-pp", 5, "--out", work / "found.json"),
    ),
    "load_json": lambda path, _work, _things: lambda: load_json(path, Sweep),
}


def _words(found: Words) -> Sequence[object]:
    assert not callable(found)
    return found


# -------------------------------------------------------------------------------------------------------------- good ones


def _records(work: Path, things: Things) -> Path:
    return copied(things.records, work)


def _profile(work: Path, things: Things) -> Path:
    return copied(things.profile, work)


def _deployment(work: Path, things: Things) -> Path:
    return spoiling.with_thresholds(things.chosen, work)


def _log(work: Path, things: Things) -> Path:
    """A log of two frames, one of which had a deadline."""
    deployed = json.loads(things.chosen.read_text(encoding="utf-8"))
    frame = {"name": "a", "seconds": 0.0, "exit": EXIT, "scores": {}, "steps_ms": {"stage 0": 1.0}, "latency_ms": 2.0}
    kept = {name: deployed[name] for name in ("format", "package_id", "mode", "engine", "threads", "provenance")}
    log = {"kind": "run log", **kept, "exits": [EXIT, "final"], "frames": [frame, {**frame, "deadline_ms": 3.0}]}
    path = work / "run-log.json"
    path.write_text(json.dumps(log, indent=1), encoding="utf-8")
    return path


def _sweep(work: Path, things: Things) -> Path:
    """A sweep of one package."""
    folder = work / "sweep"
    folder.mkdir()
    shutil.copy(things.records, folder / "val.records")
    shutil.copy(things.profile, folder / "here.profile")
    measured = json.loads(things.profile.read_text(encoding="utf-8"))
    package = {
        "name": "96x64",
        "size": [96, 64],
        "package": "package",
        "package_id": measured["package_id"],
        "records": {"val": "val.records"},
        "profile": "here.profile",
        "miou": {"val": dict.fromkeys(measured["exits"], 0.5)},
        "latency_ms": dict.fromkeys(measured["exits"], 1.0),
    }
    kept = {name: measured[name] for name in ("format", "device", "engine", "threads", "precision", "provenance")}
    sweep = {"kind": "sweep", **kept, "trials": [{"name": "one", "packages": [package]}]}
    path = folder / "sweep.json"
    path.write_text(json.dumps(sweep, indent=1), encoding="utf-8")
    return path


KINDS: dict[str, tuple[Callable[[Path, Things], Path], dict[str, Verb]]] = {
    "records": (_records, OF_RECORDS),
    "profile": (_profile, OF_PROFILE),
    "deployment": (_deployment, OF_DEPLOYMENT),
    "run log": (_log, OF_LOG),
    "sweep": (_sweep, OF_SWEEP),
}


def cases_of(kind: str, table: Mapping[str, tuple[Spoil, tuple[str, ...]]]) -> list[Case]:
    """Each malformation of a kind of file, met by those that read it in turn."""
    make, verbs = KINDS[kind]
    names = list(verbs)

    def case(what: str, verb: str, spoil: Spoil, says: tuple[str, ...]) -> Case:
        def prepare(work: Path, things: Things) -> Words:
            path = make(work, things)
            spoil(path)
            return verbs[verb](path, work, things)

        return Case(f"{kind}: {what}, {verb}", prepare, says=says)

    return [case(what, names[n % len(names)], spoil, says) for n, (what, (spoil, says)) in enumerate(table.items())]


def _edits(table: Mapping[str, tuple[Edit, str]]) -> dict[str, tuple[Spoil, tuple[str, ...]]]:
    def spoil(edit: Edit) -> Spoil:
        return lambda path: edited(path, edit)

    return {what: (spoil(edit), (word,)) for what, (edit, word) in table.items()}


def _as_json(file: str) -> dict[str, tuple[Spoil, tuple[str, ...]]]:
    return {what: (how, (file, word)) for what, (how, word) in spoiling.JSON.items()}


# --------------------------------------------------------------------------------------------------- profiles, deployments

PROFILE = _edits(
    {
        "a negative latency": (put("stages.0.times_ms.0", -1.0), "stages.0.times_ms.0"),
        "no latencies": (put("heads.final.times_ms", []), "times_ms"),
        "a latency that is text": (put("stages.0.times_ms.0", "fast"), "times_ms"),
        "a latency that is a NaN": (put("stages.0.times_ms.0", float("nan")), "NaN"),
        "a latency that is infinite": (put("stages.0.times_ms.0", float("inf")), "Infinity"),
        "a latency that is null": (put("stages.0.times_ms.0", None), "times_ms"),
        "an exit less": (lambda raw: raw["exits"].pop(), "differ in number"),
        "an exit of another name": (put("exits.0", "nowhere"), "name the exits"),
        "exits out of order": (put("exit_stages", [2, 1, 0]), "order of depth"),
        "an exit behind a stage that is not there": (put("exit_stages.2", 9), "order of depth"),
        "a negative stage": (put("exit_stages.0", -1), "exit_stages.0"),
        "no stages": (put("stages", []), "order of depth"),
        "no exits": (lambda raw: raw.update(exits=[], exit_stages=[], heads={}, labels={}), "exits"),
        "negative threads": (put("threads", -1), "threads"),
        "a million threads": (put("threads", 10**6), "threads"),
        "negative memory": (put("peak_memory_bytes", -1), "peak_memory_bytes"),
        "negative energy": (put("stages.0.energy_mj", -1), "energy_mj"),
        "negative macs": (put("stages.0.macs", -1), "macs"),
        "macs beyond all numbers": (put("stages.0.macs", 1e300), "macs"),
        "an unknown engine": (put("engine", "steam"), "engine"),
        "an unknown precision": (put("precision", "fp4"), "precision"),
        "heads that are a list": (put("heads", []), "heads"),
        "no device": (drop("device"), "device"),
        "another package's": (put("package_id", "0" * 64), "package"),
    }
)
PROFILE.pop("another package's")
DEPLOYMENT = _edits(
    {
        "an exit that is not there": (put("exits.0", "nowhere"), "nowhere"),
        "exits out of order": (lambda raw: raw["exits"].reverse(), "order of depth"),
    }
)
FIELDS = _edits(
    {
        "of another package": (put("package_id", "0" * 64), "another package"),
        "an exit named twice": (lambda raw: raw["exits"].__setitem__(1, raw["exits"][0]), "twice"),
        "no exits": (put("exits", []), "exits"),
        "a threshold too many": (put("image_thresholds", [0.5, 0.5]), "image thresholds"),
        "a threshold less": (put("image_thresholds", []), "image thresholds"),
        "thresholds in the mode budgeted": (put("mode", "budgeted"), "image thresholds"),
        "a threshold of 3": (put("image_thresholds.0", 3), "image_thresholds.0"),
        "a negative threshold": (put("image_thresholds.0", -0.1), "image_thresholds.0"),
        "a threshold that is a NaN": (put("image_thresholds.0", float("nan")), "NaN"),
        "a pixel threshold of 32": (put("pixel_threshold", 32), "pixel_threshold"),
        "a negative pixel threshold": (put("pixel_threshold", -1), "pixel_threshold"),
        "a pixel threshold of a half": (put("pixel_threshold", 0.5), "pixel_threshold"),
        "an unknown region": (put("region", "sky"), "region"),
        "an unknown mode": (put("mode", "fast"), "mode"),
        "negative threads": (put("threads", -2), "threads"),
        "limits of another kind": (put("limits", 3), "limits"),
        "no expectations": (drop("expected"), "expected"),
        "an expectation more": (put("expected.luck", 1), "luck"),
    }
)
FIELDS_ELSEWHERE = {what: found for what, found in FIELDS.items() if what != "of another package"}
LOG = _edits(
    {
        "a negative latency": (put("frames.0.latency_ms", -1), "latency_ms"),
        "a frame that left nowhere": (put("frames.0.exit", "nowhere"), "nowhere"),
        "a negative time": (put("frames.1.seconds", -1), "seconds"),
        "negative drops": (put("dropped", -1), "dropped"),
        "frames that are a number": (put("frames", 3), "frames"),
        "a score that is text": (put("frames.0.scores", {"final": "sure"}), "scores"),
        "a time that is a NaN": (put("frames.0.latency_ms", float("nan")), "NaN"),
    }
)
SWEEP = _edits(
    {
        "no trials": (put("trials", []), "trials"),
        "no finished package": (put("trials.0.packages", []), "no finished package"),
        "records outside its folder": (put("trials.0.packages.0.records.val", "../../val.records"), "below the sweep"),
        "a profile by an absolute path": (put("trials.0.packages.0.profile", "/etc/hostname"), "below the sweep"),
        "a profile behind a backslash": (put("trials.0.packages.0.profile", "..\\here.profile"), "below the sweep"),
        "a package of no name": (put("trials.0.packages.0.package", ""), "below the sweep"),
        "records that are not there": (put("trials.0.packages.0.records.val", "gone.records"), "gone.records"),
        "no records of val": (put("trials.0.packages.0.records", {"test": "val.records"}), "val"),
        "no mIoU of val": (put("trials.0.packages.0.miou", {"test": {}}), "val"),
        "other exits' latencies": (put("trials.0.packages.0.latency_ms", {"x": 1.0}), "different exits"),
        "a size of zero": (put("trials.0.packages.0.size", [0, 0]), "size"),
    }
)
NO_PACKAGE = SWEEP.pop("no finished package")
GONE = SWEEP.pop("records that are not there")


def met_by(kind: str, verb: str, what: str, found: tuple[Spoil, tuple[str, ...]]) -> Case:
    """A malformation of a kind of file, met by one of those that read it."""

    def prepare(work: Path, things: Things) -> Words:
        path = KINDS[kind][0](work, things)
        found[0](path)
        return KINDS[kind][1][verb](path, work, things)

    return Case(f"{kind}: {what}, {verb}", prepare, says=found[1])


def _exchanged(verb: str, make: Callable[[Things], Words], *says: str) -> Case:
    return Case(f"exchanged: {verb}", lambda _work, things: make(things), says=says)


EXCHANGED = (
    _exchanged(
        "a profile as records",
        lambda things: _search(things.profile, things.profile, things.root.parent / "never"),
        "here.profile",
        "not records",
    ),
    _exchanged(
        "records as a profile",
        lambda things: _search(things.records, things.records, things.root.parent / "never"),
        "val.records",
        "damaged profile",
    ),
    _exchanged(
        "a deployment as a profile",
        lambda things: _search(things.records, things.chosen, things.root.parent / "never"),
        "chosen.json",
        "deployment",
    ),
    _exchanged(
        "a profile as a deployment",
        lambda things: ("trim", things.package, things.profile, "--out", things.root.parent / "never"),
        "here.profile",
        "not a deployment",
    ),
    _exchanged(
        "a run as a package",
        lambda things: ("evaluate", things.run, things.data, "--out", things.root.parent / "never"),
        "holds no manifest.json",
        "not a package",
    ),
    _exchanged(
        "a package as a run", lambda things: ("export", things.package, "--out", things.root.parent / "never"), "package"
    ),
)

CASES: tuple[Case, ...] = (
    *cases_of("profile", _as_json("here.profile")),
    *cases_of("profile", PROFILE),
    *(met_by("profile", verb, "of another package", FIELDS["of another package"]) for verb in ("search", "report")),
    *cases_of("deployment", _as_json("chosen.json")),
    *cases_of("deployment", FIELDS_ELSEWHERE),
    *(
        met_by("deployment", verb, "an exit that is not there", DEPLOYMENT["an exit that is not there"])
        for verb in ("trim", "report")
    ),
    *(met_by("deployment", verb, "exits out of order", DEPLOYMENT["exits out of order"]) for verb in ("trim", "trim --merge")),
    *(met_by("deployment", verb, "of another package", FIELDS["of another package"]) for verb in ("trim", "report")),
    *cases_of("run log", {what: found for what, found in _as_json("run-log.json").items() if what != "a hundred megabytes"}),
    *cases_of("run log", LOG),
    met_by("run log", "report", "of another package", FIELDS["of another package"]),
    *cases_of("sweep", _as_json("sweep.json")),
    *cases_of("sweep", SWEEP),
    met_by("sweep", "search --sweep", "no finished package", NO_PACKAGE),
    met_by("sweep", "search --sweep", "records that are not there", GONE),
    *EXCHANGED,
)
