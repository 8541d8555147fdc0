"""What a report is made from: artifacts that belong together and, if there is one, the folder of the training run.

Everything is checked here, so that the page itself only has to say what is there and what is not.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.artifacts import (
    Deployment,
    Manifest,
    Profile,
    Provenance,
    Records,
    RunLog,
    load_json,
    load_manifest,
    load_records,
    require_same_package,
)
from offramp.errors import InputError
from offramp.files import read_file, read_json, sha256_of
from offramp.specs import FINAL, shown

HISTORY_COLUMNS = ("phase", "epoch", "loss", "learning_rate", "seconds")
LARGEST_HISTORY = 100_000_000
"""Bytes of a run's history."""
MIOU, TRAIN_MIOU = "miou:", "train_miou:"
"""What the names of columns of mIoU on val and on training images start with; the exit's name follows."""


@dataclass(frozen=True)
class Epoch:
    """One line of a run's history; None and absent exits were not measured."""

    phase: str
    epoch: int
    loss: float | None
    learning_rate: float | None
    seconds: float | None
    miou: dict[str, float]
    """On val, by exit."""
    train_miou: dict[str, float] = field(default_factory=dict)
    """On some training images."""


@dataclass(frozen=True)
class History:
    """A run's history: the exits that it trains, in order of depth, and its epochs."""

    exits: tuple[str, ...]
    epochs: tuple[Epoch, ...]

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(epoch.seconds or 0.0 for epoch in self.epochs)


@dataclass(frozen=True)
class Run:
    """A training run's folder."""

    name: str
    finished: bool
    history: History | None
    settings: dict[str, list[tuple[str, str]]]
    """File name: what it says, flattened to dotted names."""
    provenance: Provenance | None


@dataclass(frozen=True)
class Source:
    """Where a part came from; the identity of a package is its own, that of a file its SHA-256."""

    what: str
    name: str
    identity: str
    provenance: Provenance | None


@dataclass(frozen=True)
class Parts:
    """What was given; None was not."""

    run: Run | None = None
    package: Manifest | None = None
    records: Records | None = None
    """Those whose figures are shown."""
    chosen_by: Records | None = None
    """Those of val: the same, or others."""
    profile: Profile | None = None
    deployment: Deployment | None = None
    run_log: RunLog | None = None
    sources: tuple[Source, ...] = ()

    @property
    def exits(self) -> tuple[str, ...]:
        """All exits in order of depth, from the part that knows best."""
        if self.package:
            return self.package.exits
        if self.records:
            return self.records.info.exits
        if self.profile:
            return self.profile.exits
        if self.run and self.run.history:
            return self.run.history.exits
        fallback = self.run_log or self.deployment
        return fallback.exits if fallback else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if no part says."""
        if self.package:
            return self.package.classes
        return self.records.info.classes if self.records else ()


def load_parts(
    *,
    run: Path | None,
    package: Path | None,
    records: Path | Sequence[Path] | None,
    profile: Path | None,
    deployment: Path | None,
    run_log: Path | None,
) -> Parts:
    """Read what is given and refuse parts that do not belong together.

    A package that carries a deployment lends it where none is given. Of records of two splits those of val are chosen by, and
    the others' figures are shown.

    Raises:
        InputError: nothing given; something missing, damaged, or of another package than the rest.

    """
    files_of_records = [records] if isinstance(records, Path) else list(records or ())
    if not any((run, package, files_of_records, profile, deployment, run_log)):
        raise InputError("nothing to report on; give at least one of run, package, records, profile, deployment, run log")
    every = [load_records(path) for path in files_of_records]
    shown, chosen_by = _by_split(every)
    parts = Parts(
        run=load_run(run) if run else None,
        package=load_manifest(package) if package else None,
        records=shown,
        chosen_by=chosen_by,
        profile=load_json(profile, Profile) if profile else None,
        deployment=load_json(deployment, Deployment) if deployment else None,
        run_log=load_json(run_log, RunLog) if run_log else None,
    )
    _check(parts)
    sources = []
    if run and parts.run:
        weights = run / "weights.safetensors"
        identity = sha256_of(weights) if parts.run.finished else ""
        sources.append(Source("training run", run.name, identity, parts.run.provenance))
    if package and parts.package:
        sources.append(Source("package", package.name, parts.package.package_id, parts.package.provenance))
    sources += [
        Source("records", file.name, sha256_of(file), found.info.provenance)
        for file, found in zip(files_of_records, every, strict=True)
    ]
    files = (
        ("profile", profile, parts.profile),
        ("deployment", deployment, parts.deployment),
        ("run log", run_log, parts.run_log),
    )
    for what, path, part in files:
        if path and part:
            sources.append(Source(what, path.name, sha256_of(path), part.provenance))
    if parts.deployment is None and parts.package and parts.package.deployments:
        parts = replace(parts, deployment=parts.package.deployments[0])
    return replace(parts, sources=tuple(sources))


def _by_split(every: Sequence[Records]) -> tuple[Records | None, Records | None]:
    """The records to show and those that are chosen by.

    Raises:
        InputError: two of the same split, or three.

    """
    by_split = {found.info.split: found for found in every}
    if len(by_split) < len(every) or len(every) > 2:
        named = ", ".join(found.info.split for found in every)
        raise InputError(f"give the records of one split, or of val and of one other; got those of {named}")
    chosen_by = by_split.get("val")
    return next((found for split, found in by_split.items() if split != "val"), chosen_by), chosen_by


def _check(parts: Parts) -> None:
    identities = {
        "package": parts.package.package_id if parts.package else None,
        "records": parts.records.info.package_id if parts.records else None,
        "records of val": parts.chosen_by.info.package_id if parts.chosen_by else None,
        "profile": parts.profile.package_id if parts.profile else None,
        "deployment": parts.deployment.package_id if parts.deployment else None,
        "run log": parts.run_log.package_id if parts.run_log else None,
    }
    # A trimmed package counts as the one that it was cut from, and so does what was measured of it.
    trimmed = {part.package_id: part.trimmed_from for part in (parts.package, parts.run_log) if part and part.trimmed_from}
    given = {what: trimmed.get(identity, identity) for what, identity in identities.items() if identity is not None}
    if given:
        require_same_package(next(iter(given.values())), **given)
    exits = parts.exits
    complete = {"records": parts.records.info.exits if parts.records else exits}
    complete["records of val"] = parts.chosen_by.info.exits if parts.chosen_by else exits
    complete["profile"] = parts.profile.exits if parts.profile else exits
    for what, names in complete.items():
        if names != exits:
            raise InputError(f"the {what} have the exits {', '.join(names)}, the rest {', '.join(exits)}; make them again")
    chosen = {"deployment": parts.deployment.exits if parts.deployment else ()}
    chosen["run log"] = parts.run_log.exits if parts.run_log else ()
    if parts.package or parts.records or parts.profile:
        for what, names in chosen.items():
            _check_known(f"the {what}", names, exits)
    if parts.run and parts.run.history:
        _check_known("the rest", exits, parts.run.history.exits, where=f"the run {parts.run.name}")
    if parts.package and parts.records and parts.package.classes != parts.records.info.classes:
        raise InputError("the records and the package name different classes; evaluate this package again")


def _check_known(what: str, names: tuple[str, ...], known: tuple[str, ...], *, where: str = "the package") -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{what} has the exit {unknown[0]!r}, {where} has only {', '.join(known)}; do they belong together?")


def load_run(folder: Path) -> Run:
    """Read the folder of a training run, finished or not.

    Raises:
        InputError: no folder, not a run, a damaged file.

    """
    if not folder.is_dir():
        raise InputError(f"not a training run: {folder} is not a folder; make one with offramp train")
    held = [name for name in ("run.json", "network.json", "history.csv") if (folder / name).is_file()]
    if not held:
        raise InputError(f"not a training run: {folder} holds no run.json, network.json or history.csv; give the run's folder")
    contents = {name: read_json(folder / name, "part of a run", mend="train again") for name in held if name.endswith(".json")}
    return Run(
        name=folder.name,
        finished=(folder / "weights.safetensors").is_file(),
        history=load_history(folder / "history.csv") if "history.csv" in held else None,
        settings={name: _flatten(content) for name, content in contents.items()},
        provenance=_provenance(contents.get("run.json")),
    )


def _provenance(settings: Any) -> Provenance | None:
    """The run's provenance, if its settings carry one."""
    try:
        return Provenance.model_validate(settings["provenance"])
    except (KeyError, TypeError, ValidationError):
        return None


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Turn nested settings into (dotted name, text); a list of plain values stays together."""
    if isinstance(value, dict) and value:
        return [row for key, part in value.items() for row in _flatten(part, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        return [row for index, part in enumerate(value) for row in _flatten(part, f"{name}[{index}]")]
    if isinstance(value, list):
        return [(name, ", ".join(str(part) for part in value))]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


def load_history(path: Path) -> History:
    """Read a run's history: one line an epoch.

    Raises:
        InputError: a column is missing, or a number cannot be read.

    """
    content = read_file(path, "history", largest=LARGEST_HISTORY)
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
        columns = tuple(reader.fieldnames or ())
    except (csv.Error, ValueError) as error:
        raise InputError(f"damaged history {path}: {error}; train again") from error
    missing = [name for name in HISTORY_COLUMNS if name not in columns]
    if missing:
        raise InputError(f"damaged history {path}: no column {missing[0]!r}; its columns are {shown(', '.join(columns))}")
    named = [name.removeprefix(MIOU) for name in columns if name.startswith(MIOU)]
    # Where phase 1 measures the final exit alone, its column comes first.
    exits = tuple(sorted(named, key=lambda name: name == FINAL))
    try:
        epochs = tuple(_epoch(row, exits) for row in reader)
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"damaged history {path}, line {reader.line_num}: {error}; remove the line or train again") from error
    return History(exits, epochs)


def _epoch(row: dict[str, str | None], exits: tuple[str, ...]) -> Epoch:
    if None in row.values() or None in row:
        raise ValueError("it has other fields than the first line")
    miou, train_miou = ({name: _number(row.get(kind + name)) for name in exits} for kind in (MIOU, TRAIN_MIOU))
    return Epoch(
        phase=row["phase"] or "",
        epoch=int(row["epoch"] or ""),
        loss=_number(row["loss"]),
        learning_rate=_number(row["learning_rate"]),
        seconds=_number(row["seconds"]),
        miou={name: value for name, value in miou.items() if value is not None},
        train_miou={name: value for name, value in train_miou.items() if value is not None},
    )


def _number(text: str | None) -> float | None:
    """A number, or None for an empty field and for what is not finite (a diverged loss cannot be drawn)."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
