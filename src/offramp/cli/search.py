"""The verb search: its many limits, and what it found for people to read. It needs no torch."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from offramp.cli.options import Json, checked, say, show
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.files import new_file
from offramp.policy import MEAN, PIXEL_THRESHOLDS
from offramp.specs import REGIONS, Mode, Region, SearchSpec
from offramp.targets import FRONT, json_kind, require_file_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.artifacts import Certificate, Deployment, Doubt, Profile, Records
    from offramp.progress import Progress
    from offramp.search import Candidate

WHERE: dict[Region, str] = {"all": "of all pixels", "off-edges": "off the edges", "objects": "over objects"}
FRONT_SHOWN = 12
Limit = float | None


def search(
    mode: Annotated[Mode, typer.Option(help="How the package will be run.")],
    out: Annotated[Path, typer.Option(metavar="DEPLOYMENT", help="The deployment file to make.")],
    records: Annotated[list[Path] | None, typer.Option(metavar="RECORDS", help="What the exits answered, on val.")] = None,
    profile: Annotated[list[Path] | None, typer.Option(metavar="PROFILE", help="What they cost on the device.")] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Choose among all packages of a sweep, instead of --records and --profile."),
    ] = None,
    max_latency_ms: Annotated[Limit, typer.Option(help="Mean latency allowed.")] = None,
    max_p95_latency_ms: Annotated[Limit, typer.Option(help="Latency that 95 % of images must stay within.")] = None,
    max_worst_latency_ms: Annotated[Limit, typer.Option(help="Latency of an image that all exits are asked about.")] = None,
    max_macs: Annotated[Limit, typer.Option(help="Mean multiply-accumulates allowed.")] = None,
    max_energy_mj: Annotated[Limit, typer.Option(help="Mean millijoules allowed, where the profile holds them.")] = None,
    max_parameter_bytes: Annotated[int | None, typer.Option(help="Bytes of parameters allowed.")] = None,
    max_memory_bytes: Annotated[int | None, typer.Option(help="Bytes of memory allowed, of the whole process.")] = None,
    max_drop_pp: Annotated[Limit, typer.Option(help="Points of mIoU that may be lost against the final exit.")] = None,
    min_miou: Annotated[Limit, typer.Option(help="mIoU wanted, 0 to 1.")] = None,
    min_iou: Annotated[list[str] | None, typer.Option(metavar="CLASS=IOU", help="IoU wanted of a class.")] = None,
    max_exits: Annotated[int, typer.Option(help="Exits that images may leave at early.")] = 2,
    policies: Annotated[
        str, typer.Option(help="How scores may be made, separated by commas: all, off-edges, objects, mean.")
    ] = ",".join((*REGIONS, "mean")),
    deadlines_ms: Annotated[str | None, typer.Option(metavar="FROM,TO", help="Of the anytime mode, spread evenly.")] = None,
    max_risk: Annotated[
        Limit, typer.Option(help="Share of pixels that may differ from the final exit, with --confidence.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of --max-risk.")] = 0.95,
    expected_risk: Annotated[Limit, typer.Option(help="The same share, on average over calibration sets.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="RECORDS", help="Other images to certify a risk by; else half of the records.")
    ] = None,
    cascade: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="SMALL LARGE", help="Two packages: the large network is asked where the small one is unsure."),
    ] = None,
    package: Annotated[Path | None, typer.Option(metavar="PACKAGE", help="Of a cascade: the package to make of both.")] = None,
    front: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the whole Pareto front, too.")] = None,
    max_candidates: Annotated[int, typer.Option(help="Early exits are added only up to a space of so many.")] = 10**11,
    workers: Annotated[int, typer.Option(help="Processes of a large search; 0: as many as processors.", min=0, max=1024)] = 0,
    as_json: Json = False,
) -> None:
    """Choose exits and thresholds that meet the limits: least latency for an accuracy, or most accuracy for a latency.

    Give --records and --profile several times, or --sweep, to choose among packages as well.

    Example: offramp search --records val.records --profile here.profile --mode input-dependent --out chosen.json

    With --cascade SMALL LARGE give the records and profiles of both, in this order, and --package: what was chosen is of that
    package, which holds both networks and is trimmed and run like any other.
    """
    from offramp.artifacts import Profile, load_json, load_records
    from offramp.files import sha256_of
    from offramp.search import front as find_front
    from offramp.search import require_cascade_target, search_all
    from offramp.search import search as step

    spec = checked(
        SearchSpec,
        mode=mode,
        max_latency_ms=max_latency_ms,
        max_p95_latency_ms=max_p95_latency_ms,
        max_worst_latency_ms=max_worst_latency_ms,
        max_macs=max_macs,
        max_energy_mj=max_energy_mj,
        max_parameter_bytes=max_parameter_bytes,
        max_memory_bytes=max_memory_bytes,
        max_drop_pp=max_drop_pp,
        min_miou=min_miou,
        min_iou=_of_classes(min_iou or []),
        max_exits=max_exits,
        policies=[name.strip() for name in policies.split(",")],
        deadlines_ms=None if deadlines_ms is None else _two_numbers(deadlines_ms),
        max_risk=max_risk,
        confidence=confidence,
        expected_risk=expected_risk,
        max_candidates=max_candidates,
    )
    files = _files(records or [], profile or [], sweep)
    _require_targets(out, front)
    pairs = [(load_records(one), load_json(other, Profile)) for one, other in files]
    hashes = [{"records": sha256_of(one), "profile": sha256_of(other)} for one, other in files]
    others = None if calibration is None else load_records(calibration)
    place, workers = 0, workers or os.cpu_count() or 1
    _require_fitting(len(pairs), cascade, package, front, calibration)
    if cascade is not None and package is not None:
        require_cascade_target(*cascade, package)
    started = time.perf_counter()
    with showing_progress() as progress:
        if cascade is not None and package is not None:
            deployment = _search_cascade(pairs, cascade, package, spec, hashes, workers, progress)
        elif len(pairs) == 1:
            deployment = step(*pairs[0], spec, inputs=hashes[0], calibration=others, workers=workers, progress=progress)
        else:
            deployment, place = search_all(pairs, spec, inputs=hashes, workers=workers, progress=progress)
        seconds = time.perf_counter() - started
        candidates = find_front(*pairs[place], spec, workers=workers, progress=progress) if front is not None else ()
    deployment.save(out)
    if front is not None:
        _write_front(front, candidates)
    values = {**deployment.model_dump(mode="json"), "search_seconds": seconds, "records": str(files[place][0])}

    def people() -> None:
        if cascade is not None:
            say(f"a cascade of {cascade[0]} and {cascade[1]}, in {package}")
            if not any(name.startswith("small/") for name in deployment.exits):
                say("the small network does not help here: search the large one by itself, which then need not wait for it")
        elif len(pairs) > 1:
            say(f"of {len(pairs)} packages that of {files[place][0]} and {files[place][1]}")
        _show_deployment(deployment, seconds)
        if front is not None:
            _show_front(candidates)

    show(as_json, values, people)


def _require_fitting(
    pairs: int, cascade: tuple[Path, Path] | None, package: Path | None, front: Path | None, calibration: Path | None
) -> None:
    if (cascade is None) != (package is None):
        raise InputError("--cascade SMALL LARGE and --package, the package to make of both, go together")
    if cascade is not None and pairs != 2:
        raise InputError(f"--cascade needs the records and the profile of both packages, in their order: got {pairs} of each")
    if cascade is not None and front is not None:
        raise InputError("--front is of one package; for a cascade's, evaluate and profile the package that --package makes")
    if calibration is not None and pairs > 1:
        raise InputError("calibration records are of one package; search each package by itself")


def _require_targets(out: Path, front: Path | None) -> None:
    """Before the search, not after it."""
    require_file_target(out, json_kind("deployment"))
    if front is None:
        return
    if front.resolve() == out.resolve():
        raise InputError(f"--out and --front are the same file, {out}; give two")
    require_file_target(front, FRONT)


def _search_cascade(
    pairs: Sequence[tuple[Records, Profile]],
    packages: tuple[Path, Path],
    out: Path,
    spec: SearchSpec,
    hashes: Sequence[dict[str, str]],
    workers: int,
    progress: Progress,
) -> Deployment:
    """Search first: where nothing meets the limits, nothing is written."""
    from offramp.artifacts import load_manifest, require_same_package
    from offramp.search import cascade_manifest, search_cascade, write_cascade

    for place, (which, (records, profile)) in enumerate(zip(("small", "large"), pairs, strict=True)):
        identity = load_manifest(packages[place]).package_id
        require_same_package(identity, **{f"{which} records": records.info.package_id, f"{which} profile": profile.package_id})
    package_id = cascade_manifest(*packages).package_id
    inputs = {
        f"{which} {name}": value for which, of in zip(("small", "large"), hashes, strict=True) for name, value in of.items()
    }
    both = (pairs[0], pairs[1])
    deployment = search_cascade(both, package_id, spec, inputs=inputs, workers=workers, progress=progress)
    write_cascade(*packages, out)
    return deployment


def _files(records: list[Path], profile: list[Path], sweep: Path | None) -> list[tuple[Path, Path]]:
    """Records and profile of each package."""
    from offramp.artifacts import SWEEP, Sweep, load_json

    if sweep is not None:
        if records or profile:
            raise InputError("--sweep names the records and profiles of all its packages; leave out --records and --profile")
        packages = load_json(sweep / SWEEP, Sweep).packages
        if not packages:
            raise InputError(f"the sweep {sweep} has no finished package; see the errors in {sweep / SWEEP}")
        return [(sweep / package.records["val"], sweep / package.profile) for package in packages]
    if not records or len(records) != len(profile):
        raise InputError(
            f"each --records needs its --profile, in the same order: got {len(records)} and {len(profile)}; or give --sweep"
        )
    return list(zip(records, profile, strict=True))


def _two_numbers(text: str) -> list[str]:
    parts = text.split(",")
    if len(parts) != 2:
        raise InputError(f"--deadlines-ms: write FROM,TO in milliseconds, for example 10,40, got {text!r}")
    return parts


def _of_classes(texts: list[str]) -> dict[str, str]:
    pairs = [_class_and_value(text) for text in texts]
    for place, (name, _) in enumerate(pairs):
        if name in [earlier for earlier, _ in pairs[:place]]:
            raise InputError(
                f"--min-iou: {name!r} is limited twice, by {' and '.join(map(repr, texts))}; give one limit a class"
            )
    return dict(pairs)


def _class_and_value(text: str) -> tuple[str, str]:
    name, found, value = text.rpartition("=")
    if not found:
        raise InputError(f"--min-iou: write CLASS=IOU, for example pedestrian=0.5, got {text!r}")
    return name, value


def _show_deployment(deployment: Deployment, seconds: float) -> None:
    expected, effort = deployment.expected, deployment.expected.effort
    thresholds = [f"{value:.4f}" for value in deployment.image_thresholds]
    thresholds += [""] * (len(deployment.exits) - len(thresholds))
    rows = [
        [name, threshold, f"{expected.shares.get(name, 0):.1%}"]
        for name, threshold in zip(deployment.exits, thresholds, strict=True)
    ]
    title = f"{deployment.mode}: chosen from {expected.candidates:,} candidates in {seconds:.1f} s"
    answers = "share of deadlines" if deployment.mode == "anytime" else "share of images"
    print_table(title, ["exit", "leave at score", answers], rows)
    if deployment.image_thresholds:
        threshold = PIXEL_THRESHOLDS[deployment.pixel_threshold]
        if deployment.pixel_threshold == MEAN:
            say("score: the mean confidence of all pixels")
        else:
            say(f"score: the share of pixels with a confidence of at least {threshold:.3f}, {WHERE[deployment.region]}")
    if effort and effort.judged < effort.candidates - effort.left_out:
        say(f"judged one by one: {effort.judged:,}; all others begin with exits and thresholds that cannot win")
    if effort and effort.left_out:
        fastest = deployment.limits.max_drop_pp is not None or deployment.limits.min_miou is not None
        gain = effort.loss_bound or 0.0
        bound = f"{gain:.2f} ms" if fastest else f"{100 * gain:.1f} points of mIoU"
        say(f"left out (--max-candidates): {effort.left_out:,} with more early exits, which could gain at most {bound}")
    low, high = expected.miou_interval
    say(f"expected mIoU {expected.miou:.3f} ({low:.3f} to {high:.3f}), final exit {expected.final_miou:.3f}")
    say(
        f"expected mean latency {expected.latency_ms:.2f} ms, 95 % of images within {expected.p95_latency_ms:.2f} ms, "
        f"worst {expected.worst_latency_ms:.2f} ms, final exit alone {expected.final_latency_ms:.2f} ms"
    )
    if expected.doubt:
        _show_doubt(expected.doubt)
    if expected.certificate:
        _show_certificate(expected.certificate)


def _show_doubt(doubt: Doubt) -> None:
    say(f"on images drawn again the limits were kept {doubt.limits_kept:.0%} of the time")
    second = doubt.runner_up
    if second is None:
        return
    named = f"{', '.join(second.exits)} (mIoU {second.miou:.3f}, {second.latency_ms:.2f} ms)"
    if second.distinguishable:
        say(f"runner-up with other exits: {named}")
    else:
        say(f"warning: on so many images the choice cannot be told from its runner-up, {named}")


def _show_certificate(found: Certificate) -> None:
    how = f"with probability {found.confidence:g}" if found.confidence is not None else "on average over calibration sets"
    say(
        f"certified: at most {found.bound:.2%} of pixels differ from the final exit's answer, {how}, by {found.images} images "
        f"({found.empirical_loss:.2%} on them)"
    )
    say(f"this assumes: {found.assumption}")


def _write_front(path: Path, candidates: Sequence[Candidate]) -> None:
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["latency_ms", "miou", "worst_latency_ms", "exits", "region", "pixel_threshold", "image_thresholds"])
        for one in candidates:
            thresholds = " ".join(map(repr, one.image_thresholds))
            threshold = "mean" if one.pixel_threshold == MEAN and thresholds else PIXEL_THRESHOLDS[one.pixel_threshold]
            numbers = [one.latency_ms, one.miou, one.worst_latency_ms]
            lines.writerow([*numbers, " ".join(one.exits), one.region, threshold, thresholds])


def _show_front(candidates: Sequence[Candidate]) -> None:
    shown = np.unique(np.linspace(0, len(candidates) - 1, min(len(candidates), FRONT_SHOWN)).round().astype(int))
    rows = [[f"{one.latency_ms:.2f}", f"{one.miou:.3f}", ", ".join(one.exits)] for one in (candidates[i] for i in shown)]
    print_table(f"Pareto front: {len(candidates)} deployments, {len(rows)} of them", ["ms", "mIoU", "exits"], rows)
