"""From artifacts to one HTML page that needs no network and no other file.

The page says what it was given; where something is missing it says, at that place, which command makes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.artifacts import Deployment, Provenance, RunLog
from offramp.doors import as_path, checked_call
from offramp.errors import InputError
from offramp.files import new_file
from offramp.progress import Progress, silent
from offramp.report import charts
from offramp.report.choices import choices_of, front_dots
from offramp.report.embed import SCRIPTS, embedded
from offramp.report.facts import (
    Row,
    class_iou,
    comparable,
    exit_rows,
    original_row,
    overfitting,
    reference_latency,
    replay,
    scores_of,
)
from offramp.report.gallery import IMAGES, Gallery, make_gallery
from offramp.report.inputs import Parts, load_parts
from offramp.report.svg import marks_for
from offramp.specs import final_exit
from offramp.targets import PAGE, require_file_target

if TYPE_CHECKING:
    import jinja2

TIMES, NBSP = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"

MAKERS = {
    "run": ("training run", "offramp train"),
    "package": ("package", "offramp export"),
    "records": ("records", "offramp evaluate"),
    "profile": ("profile", "offramp profile"),
    "deployment": ("deployment", "offramp search"),
    "run_log": ("run log", "offramp run"),
    "chosen_by": ("records of val", "offramp evaluate --split val"),
    "gallery": ("gallery", "offramp report PACKAGE --data DATA"),
}
"""Each part of a report: what it is called, and the command that makes it."""

MOST_BYTES = 8_000_000


@checked_call
def write_report(
    out: Path,
    *,
    run: Path | None = None,
    package: Path | None = None,
    records: Path | Sequence[Path] | None = None,
    profile: Path | None = None,
    deployment: Path | None = None,
    run_log: Path | None = None,
    data: Path | None = None,
    split: str = "test",
    images: int = IMAGES,
    progress: Progress = silent,
) -> None:
    """Write one self-contained HTML page about whatever is given.

    Args:
        out: the page; an older one is replaced.
        run: folder of a training run, finished or not.
        package: folder of a package; lends its first deployment if none is given.
        records: what every exit answered on a split; those of val are chosen by, those of another one are shown.
        profile: what every step costs on a device.
        deployment: the chosen exits and thresholds.
        run_log: what happened, frame by frame.
        data: a dataset, whose images the package is asked about for a gallery.
        split: of the gallery's images.
        images: how many the gallery holds.
        progress: told of the search behind the sliders, and of each image.

    Raises:
        InputError: nothing given; a part missing, damaged, or of another package than the rest; a page of more than 8 MB;
            jinja2 not installed.

    """
    environment = _environment()
    require_file_target(out, PAGE)
    if images < 1:
        raise InputError(f"images must be at least 1, got {images}; leave out data for no gallery")
    if records is not None:
        several = records if isinstance(records, Sequence) and not isinstance(records, str) else [records]
        records = [as_path("records", each) for each in several]
    parts = load_parts(run=run, package=package, records=records, profile=profile, deployment=deployment, run_log=run_log)
    gallery = None
    if data is not None:
        if package is None:
            raise InputError("a gallery needs the package that answers; give --data together with a package")
        info = parts.records.info if parts.records else None
        gallery = make_gallery(
            package,
            data,
            split,
            images=images,
            engine=info.engine if info else "onnxruntime",
            precision=info.precision if info else "fp32",
            progress=progress,
        )
    text = environment.get_template("page.html").render(_context(parts, gallery, progress))
    size = len(text.encode())
    if size > MOST_BYTES:
        raise InputError(
            f"the page would have {size / 1e6:.1f} MB, which is too much to send around; "
            f"ask for fewer than {images} pictures with --images"
        )
    with new_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _environment() -> jinja2.Environment:
    try:
        import jinja2  # noqa: PLC0415 - comes with an optional extra
    except ImportError as error:
        raise InputError("a report needs jinja2, which is not installed; pip install 'offramp[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("offramp.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=charts.percent, si=_si, count=_count, short=_short)
    return environment


def _own(name: str) -> str:
    """The text of a file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _si(value: float) -> str:
    """Three digits and a prefix: 1.23 G."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def _count(number: int, singular: str) -> str:
    """`1 image`, `2 images`; a class is the one word here that takes -es."""
    return f"{number} {singular}" + ("" if number == 1 else "es" if singular.endswith("s") else "s")


def _short(identity: str) -> str:
    """A hash is told by its first digits; anything else stays."""
    return f"{identity[:12]}…" if len(identity) > 32 else identity


def _context(parts: Parts, gallery: Gallery | None, progress: Progress) -> dict[str, Any]:
    rows = exit_rows(parts)
    choices, no_choices = _choices(parts, progress)
    original = original_row(parts)
    names = {source.what: source.name for source in parts.sources}
    return {
        "title": f"{names.get('package') or names.get('training run') or 'Offramp'}: multi-exit segmentation",
        "parts": parts,
        "rows": rows,
        "original": original,
        "final": final_exit(parts.exits) if parts.exits else "",
        "marks": {name: charts.legend_mark(mark) for name, mark in marks_for(parts.exits).items()},
        "lacks": lambda *names: [MAKERS[name] for name in names if getattr(parts, name, gallery) is None],
        "gallery": gallery,
        "choices": choices,
        "no_choices": no_choices,
        "embedded": embedded(parts, gallery, choices),
        "style": _own("style.css"),
        "scripts": [_own(name) for name in SCRIPTS],
        "lead": _lead(parts),
        "tiles": _tiles(parts, rows, original),
        "shares": _share_rows(parts),
        "warnings": _warnings(parts),
        "figures": _figures(parts, rows, original, front_dots(choices)),
        "overfit": overfitting(parts.run.history) if parts.run and parts.run.history else "",
        "histograms": _histograms(parts),
        "heat": _heat(parts),
        "log": _log_facts(parts.run_log) if parts.run_log else {},
        "commands": [(source, _command(source.provenance)) for source in parts.sources if source.provenance],
        "here": Provenance.now("offramp report"),
    }


def _choices(parts: Parts, progress: Progress) -> tuple[dict[str, Any] | None, str]:
    """What the sliders choose from; without them, why parts that are there cannot be chosen by."""
    try:
        return choices_of(parts, progress), ""
    except InputError as error:  # no reason to show nothing at all
        return None, str(error)


def _lead(parts: Parts) -> str:
    """What the page is about, in one sentence."""
    pieces = [f"A segmentation network with {_count(len(parts.exits), 'exit')}"]
    if parts.classes:
        pieces.append(f"for {_count(len(parts.classes), 'class')}")
    if parts.package:
        width, height = parts.package.size
        pieces.append(f"on images of {width}{NBSP}{TIMES}{NBSP}{height} pixels, in {parts.package.precision}")
    return " ".join(pieces) + "."


def _tiles(parts: Parts, rows: Sequence[Row], original: Row | None) -> list[tuple[str, str, str]]:
    """The few figures that matter most: (what, how much, what it stands beside)."""
    if parts.deployment:
        return _deployment_tiles(parts, parts.deployment)
    tiles = []
    final = next((row for row in rows if row.name == final_exit(parts.exits)), None)
    if parts.records and final and final.miou is not None:
        about = f"on {parts.records.info.split}, {_count(len(parts.records.info.images), 'image')}"
        tiles.append(("mIoU of the final exit", charts.percent(final.miou), about))
    if parts.profile and original and original.latency_ms is not None:
        tiles.append(("Latency of the original network", f"{original.latency_ms:.2f} ms", _engine(parts.profile)))
    timed = [row for row in rows if row.latency_ms is not None and row.speed_up is not None]
    if timed:
        first = min(timed, key=lambda row: row.latency_ms or 0.0)
        about = f"{first.name}: {first.speed_up:.2f}{TIMES} faster than the original network"
        tiles.append(("Latency of the fastest exit", f"{first.latency_ms:.2f} ms", about))
    return tiles


def _deployment_tiles(parts: Parts, deployment: Deployment) -> list[tuple[str, str, str]]:
    expected = deployment.expected
    (low, high), (fast, slow) = expected.miou_interval, expected.latency_interval
    reference, whose = expected.final_latency_ms, "final exit, stage by stage"
    if parts.profile and comparable(parts.profile, deployment):
        reference = reference_latency(parts.profile)
        whose = "original network" if parts.profile.original else whose
    latency_about = f"95 % interval {fast:.2f} to {slow:.2f}; worst {expected.worst_latency_ms:.2f} ms; {_engine(deployment)}"
    tiles = [
        (
            "Expected mIoU",
            charts.percent(expected.miou),
            f"95 % interval {100 * low:.1f} to {100 * high:.1f}; final exit {charts.percent(expected.final_miou)}",
        ),
        ("Expected latency", f"{expected.latency_ms:.2f} ms", latency_about),
        (
            "Faster than the original network" if whose == "original network" else "Faster than the final exit",
            f"{reference / expected.latency_ms:.2f}{TIMES}",
            f"{whose}: {reference:.2f} ms; mIoU {100 * (expected.miou - expected.final_miou):+.1f} points",
        ),
    ]
    if parts.records:
        again = replay(parts.records, deployment)
        about = f"the deployment applied to {_count(len(parts.records.info.images), 'image')} of these records"
        if again.miou is not None:
            tiles.append((f"mIoU on {parts.records.info.split}", charts.percent(again.miou), about))
    return tiles


def _engine(part: Any) -> str:
    """`onnxruntime, fp32, 2 threads`, of anything that names its engine."""
    return f"{part.engine}, {part.precision}, {_count(part.threads, 'thread') if part.threads else 'all threads'}"


def _share_rows(parts: Parts) -> list[tuple[str, list[float | None]]]:
    """Shares of images by exit, one row for each place that tells them: (where, shares by the deployment's exits)."""
    if not parts.deployment:
        return []
    exits, found = parts.deployment.exits, [("expected by the search", parts.deployment.expected.shares)]
    if parts.records:
        found.append((f"on the records ({parts.records.info.split})", replay(parts.records, parts.deployment).shares))
    if parts.run_log and parts.run_log.frames:
        found.append(("in the run log", parts.run_log.shares()))
    return [(where, [shares.get(name) for name in exits]) for where, shares in found]


def _warnings(parts: Parts) -> list[str]:
    """What a reader must know before comparing numbers on this page."""
    found = []
    if parts.run and not parts.run.finished:
        found.append("This training run is unfinished: it holds no weights.safetensors yet. What it has so far is shown.")
    if parts.profile and parts.deployment and not comparable(parts.profile, parts.deployment):
        found.append(
            f"The deployment was searched for {_engine(parts.deployment)}, the profile is of {_engine(parts.profile)}: "
            f"their latencies do not compare, and what the search expected is left out of the chart."
        )
    if parts.records and parts.records.info.split == "val" and parts.deployment:
        found.append(
            "The records are of the split val, on which exits and thresholds were chosen: their mIoU is a little flattering. "
            "Evaluate on test for figures to publish."
        )
    return found


def _pair(draw: Callable[[int], str]) -> dict[str, str]:
    """The same chart for a desk and for a phone."""
    return {"wide": draw(charts.WIDE), "narrow": draw(charts.NARROW)}


def _figures(
    parts: Parts, rows: Sequence[Row], original: Row | None, front: Sequence[tuple[float, float]]
) -> dict[str, dict[str, str] | None]:
    """Every chart of the page; None where what it needs was not given."""
    found: dict[str, dict[str, str] | None] = dict.fromkeys(
        ("scatter", "road", "shares", "curves", "loss", "frames", "log_shares")
    )
    deployment, profile, log = parts.deployment, parts.profile, parts.run_log
    history = parts.run.history if parts.run else None
    if any(row.miou is not None and row.latency_ms is not None for row in rows):
        shown = deployment if deployment and profile and comparable(profile, deployment) else None
        others = [*([original] if original else []), *_replayed(parts)]
        found["scatter"] = _pair(lambda width: charts.scatter(rows, others, shown, width, front))
    shares: Mapping[str, float] = deployment.expected.shares if deployment else {}
    if profile:
        found["road"] = _pair(lambda width: charts.road(profile, shares, width))
    if deployment:
        found["shares"] = _pair(lambda width: charts.share_bar(shares, parts.exits, width, "Expected shares of images"))
    if history and any(epoch.miou for epoch in history.epochs):
        found["curves"] = _pair(lambda width: charts.curves(history, width))
    if history and any(epoch.loss is not None for epoch in history.epochs):
        found["loss"] = _pair(lambda width: charts.loss(history, width))
    if log and log.frames:
        found["frames"] = _pair(lambda width: charts.frames(log, parts.exits, width))
        found["log_shares"] = _pair(lambda width: charts.share_bar(log.shares(), parts.exits, width, "Shares of frames"))
    return found


def _replayed(parts: Parts) -> list[Row]:
    """The deployment on the records' own images, where these are not the ones that the search saw."""
    records, profile, deployment = parts.records, parts.profile, parts.deployment
    if not records or not profile or not deployment or records.info.split == "val" or not records.info.images:
        return []
    again = replay(records, deployment)
    name = f"deployment on {records.info.split}"
    return [Row(name=name, miou=again.miou, latency_ms=again.latency_ms(profile, deployment))]


def _histograms(parts: Parts) -> list[tuple[str, float, str]]:
    """(exit, threshold, chart) of each exit at which the deployment may leave."""
    records, deployment = parts.records, parts.deployment
    if not records or not deployment or deployment.mode != "input-dependent" or not records.info.images:
        return []
    scores, left_at = scores_of(records, deployment), replay(records, deployment).left_at
    return [
        (name, threshold, charts.histogram(scores[:, index], left_at >= index, threshold, name))
        for index, (name, threshold) in enumerate(zip(deployment.exits, deployment.image_thresholds, strict=False))
    ]


def _heat(parts: Parts) -> list[dict[str, Any]]:
    """One row a class: its name, colour, share of the labelled pixels, and IoU at each exit (None: does not occur)."""
    records = parts.records
    if records is None:
        return []
    labelled, values = records.labelled.sum(axis=0), class_iou(records)
    palette = parts.package.palette if parts.package else ()
    return [
        {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*palette[index]) if palette else "",
            "share": float(labelled[index] / max(int(labelled.sum()), 1)),
            "iou": [None if np.isnan(value) else float(value) for value in values[:, index]],
        }
        for index, name in enumerate(records.info.classes)
    ]


def _log_facts(log: RunLog) -> dict[str, Any]:
    figures = log.figures()
    latency = figures.latency_ms
    return {
        "engine": _engine(log),
        "frames": figures.frames,
        "median": latency.median if latency else None,
        "p95": latency.p95 if latency else None,
        "slowest": latency.max if latency else None,
        "with_deadline": figures.with_deadline,
        "missed": figures.missed,
        "gathered": figures.frames > charts.MAX_POINTS,
    }


def _command(provenance: Provenance | None) -> str:
    """The command that made an artifact, from the options that it recorded."""
    assert provenance is not None
    words = [provenance.made_by if provenance.made_by.startswith("offramp") else f"offramp {provenance.made_by}"]
    for name, value in provenance.options.items():
        if value is None or value is False or value == {}:
            continue
        if isinstance(value, dict):
            # A limit for each class; what else has parts of its own, a network, is no option of the command.
            pairs = [f"{key}={part}" for key, part in value.items()] if name == "min_iou" else []
            words += [word for pair in pairs for word in ("--min-iou", shlex.quote(pair))]
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(shlex.quote(",".join(map(str, value)) if isinstance(value, list) else str(value)))
    return " ".join(words)
