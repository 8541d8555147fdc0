"""The verbs that a device needs, none of which needs torch: evaluate, profile, search, trim, run, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import ComputesIn, Engine, Json, Ray, Threads, need, say, show
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.specs import Mode, Overlays
from offramp.targets import RECORDS, json_kind, require_file_target

if TYPE_CHECKING:
    from offramp.artifacts import RunLog
    from offramp.runtime.predictor import Predictor

IMAGES = 24
"""Shown in a report's gallery."""


def evaluate(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A package.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset with the package's classes.")],
    out: Annotated[Path, typer.Option(metavar="RECORDS", help="The records file to make.")],
    split: Annotated[str, typer.Option(help="train, val or test: search takes val only.")] = "val",
    engine: Engine = "onnxruntime",
    threads: Threads = 0,
    precision: ComputesIn = "fp32",
    ray: Ray = None,
    shards: Annotated[int | None, typer.Option(help="With --ray: into how many tasks the images are divided.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Ask every exit about every image of a split and record what it answered.

    Example: offramp evaluate package scenes --split val --out val.records
    """
    from offramp.evaluation import evaluate as step
    from offramp.metrics import iou, miou

    if shards is not None and ray is None:
        raise InputError("--shards goes with --ray, which shares them among workers")
    require_file_target(out, RECORDS)
    with showing_progress() as progress:
        if ray is None:
            records = step(package, data, split, engine=engine, threads=threads, precision=precision, progress=progress)
        else:
            need("ray", extra="ray")
            from offramp.cluster import on_ray
            from offramp.sharding import SHARDS, evaluate_in_shards

            parts = out.with_name(f"{out.name}.parts")
            with on_ray(ray, gpu=engine in ("onnxruntime-cuda", "onnxruntime-tensorrt")) as each:
                records = evaluate_in_shards(
                    package,
                    data,
                    split,
                    each=each,
                    parts=parts,
                    shards=shards or SHARDS,
                    engine=engine,
                    threads=threads or 1,  # workers share the processors
                    precision=precision,
                    progress=progress,
                )
    records.save(out)
    sums = (records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
    means = dict(zip(records.info.exits, (float(value) for value in miou(*sums)), strict=True))

    def people() -> None:
        rows = [
            [name, f"{means[name]:.3f}", *(f"{value:.3f}" for value in values)]
            for name, values in zip(records.info.exits, iou(*sums), strict=True)
        ]
        print_table(
            f"{split}: {len(records.info.images)} images, {engine}, {precision}", ["exit", "mIoU", *records.info.classes], rows
        )

    show(
        as_json,
        {"records": str(out), "split": split, "images": len(records.info.images), "precision": precision, "miou": means},
        people,
    )


def profile(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A package.")],
    out: Annotated[Path, typer.Option(metavar="PROFILE", help="The profile file to make.")],
    engine: Engine = "onnxruntime",
    threads: Threads = 0,
    precision: ComputesIn = "fp32",
    passes: Annotated[int, typer.Option(help="How often each step is timed.", min=1)] = 30,
    energy_seconds: Annotated[
        float | None,
        typer.Option(help="How long each graph runs under the energy meter, if there is one; 0: not at all.", min=0, max=60),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every stage, head and label map on this device; and measure their energy where it has a meter.

    Example: offramp profile package --out here.profile --threads 1
    """
    from offramp.profiling import profile as step

    require_file_target(out, json_kind("profile"))
    with showing_progress() as progress:
        measured = step(
            package,
            engine=engine,
            threads=threads,
            precision=precision,
            passes=passes,
            energy_seconds=energy_seconds,
            progress=progress,
        )
    measured.save(out)
    original = measured.original.median_ms if measured.original else None
    latency = {name: measured.latency_ms((name,)) for name in measured.exits}

    def people() -> None:
        rows = [
            [
                name,
                f"{sum(m.median_ms for m in measured.stages[: stage + 1]):.2f}",
                f"{measured.heads[name].median_ms:.2f}",
                f"{measured.labels[name].median_ms:.2f}",
                f"{latency[name]:.2f}",
                f"{latency[name] / original:.2f}" if original else "",
            ]
            for name, stage in zip(measured.exits, measured.exit_stages, strict=True)
        ]
        if original:
            rows.append(["original network", "", "", "", f"{original:.2f}", "1.00"])
        title = f"{measured.device}, {engine} {measured.engine_version}, {measured.threads} threads, {measured.precision}"
        print_table(f"{title}: median ms", ["exit", "stages", "head", "labels", "whole", "of the original"], rows)
        say(f"energy: measured by {measured.energy_meter}" if measured.energy_meter else f"energy: {measured.no_energy}")

    values = {
        "profile": str(out),
        "latency_ms": latency,
        "original_ms": original,
        "precision": measured.precision,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "energy_meter": measured.energy_meter,
    }
    show(as_json, values, people)


def trim(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A package with all its exits.")],
    deployment: Annotated[Path, typer.Argument(metavar="DEPLOYMENT", help="What search chose for it.")],
    out: Annotated[Path, typer.Option(metavar="PACKAGE", help="The package of the chosen exits.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="One graph of all that runs between one exit and the next: faster; needs onnx.")
    ] = False,
    confidence: Annotated[
        bool, typer.Option(help="Whether answers come with their confidence; without it, with --merge, no policy can judge.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Keep the chosen exits and thresholds, leave the rest out.

    Example: offramp trim package chosen.json --out small
    """
    from offramp.trimming import trim as step

    if merge:
        need("onnx", extra="train")
        from offramp.export.joining import merge_stages

    trimmed = step(package, deployment, out, merge=merge_stages if merge else None, confidence=confidence)
    size = sum(file.stat().st_size for file in out.iterdir())
    values = {"package": str(out), "package_id": trimmed.package_id, "exits": list(trimmed.exits), "bytes": size}
    show(as_json, values, lambda: say(f"{out}: {', '.join(trimmed.exits)}; {size / 1e6:.2f} MB"))


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="An image, a folder of images, a video; camera, camera:1; an address (rtsp://...)."
        ),
    ],
    package: Annotated[
        Path | None, typer.Option(metavar="PACKAGE", help="A package; by default the network in the box, of street scenes.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where label maps, overlays and the run log (CSV, JSON) go.")] = Path(
        "answers"
    ),
    mode: Annotated[Mode | None, typer.Option(help="By default the package's own; anytime if there is a deadline.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Milliseconds for each image.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Play a video at its own speed; frames that come too fast are dropped.")
    ] = False,
    reconnect: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="A camera or address that is lost is tried again every second for so long. By default 30 for cameras, 0 for "
            "addresses: what they give may have an end.",
        ),
    ] = None,
    labels: Annotated[bool, typer.Option(help="Whether label maps are written.")] = True,
    overlays: Annotated[Overlays, typer.Option(help="How images mixed with their labels are written.")] = "jpg",
    engine: Engine = "onnxruntime",
    threads: Threads = 0,
    precision: ComputesIn = "fp32",
    as_json: Json = False,
) -> None:
    """Segment images with a package. Ctrl-C ends a camera's run; all that was answered is on disk.

    Example: offramp run street.jpg

    Example: offramp run scenes/test/images --package small --out answers

    Example: offramp run camera --package small --deadline-ms 40 --overlays video --out drive

    Example: offramp run rtsp://camera/street --package small --reconnect 600 --no-labels --overlays none
    """
    from offramp.artifacts import load_manifest
    from offramp.box import ABOUT, boxed_package
    from offramp.runtime.predictor import Predictor
    from offramp.runtime.stream import run as step

    boxed = package is None
    package = package or boxed_package()
    if mode is None and deadline_ms is not None and not load_manifest(package).deployments:
        mode = "anytime"  # the mode that a deadline makes sense in
    predictor = Predictor(package, engine=engine, threads=threads, precision=precision, mode=mode)
    with showing_progress() as progress:
        log = step(
            source,
            predictor,
            out,
            deadline_ms=deadline_ms,
            live=live,
            reconnect_s=reconnect,
            labels=labels,
            overlays=overlays,
            progress=progress,
            line=progress.line,
        )
    figures = log.figures()
    assert figures.latency_ms is not None
    latency = {"mean": figures.latency_ms.mean, "p95": figures.latency_ms.p95, "max": figures.latency_ms.max}
    frames, missed = figures.frames, figures.missed
    values = {
        "out": str(out),
        "package": str(package),
        "mode": log.mode,
        "engine": log.engine,
        "precision": log.precision,
        "package_precision": predictor.manifest.precision,
        "threads": log.threads,
        "frames": frames,
        "shares": log.shares(),
        "latency_ms": latency,
        "missed": missed,
        "dropped": log.dropped,
        "reconnected": log.reconnected,
        "interrupted": log.interrupted,
    }
    expected = _expected_ms(predictor, log) if deadline_ms is None else None
    if expected is not None:
        values["expected_latency_ms"] = expected

    def people() -> None:
        rows = [[name, f"{share:.1%}"] for name, share in log.shares().items()]
        stored = predictor.manifest.precision
        precision = log.precision if stored == "fp32" else f"{log.precision}, package in {stored}"
        by = f"{log.engine}, {precision}, {log.threads} threads"
        print_table(f"{log.mode}, {by}: {frames} images in {out}", ["exit", "share of images"], rows)
        if boxed:
            say(ABOUT)
        say("latency: " + ", ".join(f"{name} {value:.2f} ms" for name, value in latency.items()))
        if expected is not None:
            say(f"expected mean latency: {expected:.2f} ms; measured {latency['mean'] / expected - 1:+.1%}")
        if deadline_ms is not None:
            say(f"deadline {deadline_ms:g} ms missed by {missed} of {frames}")
        for line in _happened(log, out):
            say(line)

    show(as_json, values, people)
    if log.interrupted and not log.live:  # which end in no other way
        raise typer.Exit(130)


def _happened(log: RunLog, out: Path) -> Iterator[str]:
    """What a run's user should know besides its answers."""
    if log.dropped:
        yield f"{log.dropped} frames came too fast and were dropped"
    if log.reconnected:
        yield f"the source was lost and came back {log.reconnected} times"
    if log.interrupted:
        yield f"stopped after {log.figures().frames} frames; all of them are in {out}"


def _expected_ms(predictor: Predictor, log: RunLog) -> float | None:
    """What the search expected of the deployment that ran; None without one, or where it was searched for something else."""
    chosen = predictor.deployment
    if chosen is None or chosen.provenance.device != log.provenance.device:
        return None
    if (chosen.engine, chosen.threads, chosen.precision) != (log.engine, log.threads, log.precision):
        return None
    return chosen.expected.latency_ms


def report(
    source: Annotated[Path, typer.Argument(metavar="RUN|PACKAGE", help="A run or a package.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to make.")],
    records: Annotated[
        list[Path] | None,
        typer.Option(metavar="F", help="Twice: of val, which the sliders choose by, and of test, whose figures are shown."),
    ] = None,
    profile: Annotated[Path | None, typer.Option(metavar="F")] = None,
    deployment: Annotated[Path | None, typer.Option(metavar="F")] = None,
    run_log: Annotated[Path | None, typer.Option(metavar="F")] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The package's training run, for its curves.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DATA", help="A dataset: images with all exits' answers.")] = None,
    split: Annotated[str, typer.Option(help="Of --data: train, val or test.")] = "test",
    images: Annotated[int, typer.Option(help="How many of --data are shown.", min=1)] = IMAGES,
    as_json: Json = False,
) -> None:
    """Put a run or a package, and what was measured of it, on one page that opens from disk.

    Example: offramp report package --records val.records --profile here.profile --deployment chosen.json --out report.html

    With --records of val and a --profile sliders choose for other limits; with --data the page shows which image leaves where.
    """
    need("jinja2", extra="report")
    from offramp.artifacts import MANIFEST
    from offramp.report.page import write_report

    if not source.is_dir():
        raise InputError(f"neither a run nor a package: {source} is no folder")
    if data is None and (split, images) != ("test", IMAGES):
        raise InputError("--split and --images are of the gallery: they go with --data")
    kind = "package" if (source / MANIFEST).exists() else "run"
    if kind == "run" and run is not None:
        raise InputError(f"--run goes with a package, but {source} is no package; give one of the two runs")
    with showing_progress() as progress:
        write_report(
            out,
            package=source if kind == "package" else None,
            run=source if kind == "run" else run,
            records=records,
            profile=profile,
            deployment=deployment,
            run_log=run_log,
            data=data,
            split=split,
            images=images,
            progress=progress,
        )
    size = out.stat().st_size
    show(as_json, {"report": str(out), "bytes": size}, lambda: say(f"open {out} ({size / 1e6:.1f} MB)"))
