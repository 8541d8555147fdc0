"""What the page says in words and single figures: first sentence, tiles, warnings, the commands behind its parts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from offramp.artifacts import Deployment, Provenance, RunLog
from offramp.report import charts
from offramp.report.facts import Row, comparable, reference_latency, replay
from offramp.report.inputs import Parts
from offramp.specs import final_exit

TIMES, NBSP = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"


def si(value: float) -> str:
    """Three digits and a prefix: 1.23 G."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def count(number: int, singular: str) -> str:
    """`1 image`, `2 images`; a class is the one word here that takes -es."""
    return f"{number} {singular}" + ("" if number == 1 else "es" if singular.endswith("s") else "s")


def short(identity: str) -> str:
    """A hash is told by its first digits; anything else stays."""
    return f"{identity[:12]}…" if len(identity) > 32 else identity


def engine_of(part: Any) -> str:
    """`onnxruntime, fp32, 2 threads`, of anything that names its engine."""
    return f"{part.engine}, {part.precision}, {count(part.threads, 'thread') if part.threads else 'all threads'}"


def command_of(provenance: Provenance | None) -> str:
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


def lead_of(parts: Parts) -> str:
    """What the page is about, in one sentence."""
    pieces = [f"A segmentation network with {count(len(parts.exits), 'exit')}"]
    if parts.classes:
        pieces.append(f"for {count(len(parts.classes), 'class')}")
    if parts.package:
        width, height = parts.package.size
        pieces.append(f"on images of {width}{NBSP}{TIMES}{NBSP}{height} pixels, in {parts.package.precision}")
    return " ".join(pieces) + "."


def tiles_of(parts: Parts, rows: Sequence[Row], original: Row | None) -> list[tuple[str, str, str]]:
    """The few figures that matter most: (what, how much, what it stands beside)."""
    if parts.deployment:
        return _deployment_tiles(parts, parts.deployment)
    tiles = []
    final = next((row for row in rows if row.name == final_exit(parts.exits)), None)
    if parts.records and final and final.miou is not None:
        about = f"on {parts.records.info.split}, {count(len(parts.records.info.images), 'image')}"
        tiles.append(("mIoU of the final exit", charts.percent(final.miou), about))
    if parts.profile and original and original.latency_ms is not None:
        tiles.append(("Latency of the original network", f"{original.latency_ms:.2f} ms", engine_of(parts.profile)))
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
    latency_about = f"95 % interval {fast:.2f} to {slow:.2f}; worst {expected.worst_latency_ms:.2f} ms; {engine_of(deployment)}"
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
        about = f"the deployment applied to {count(len(parts.records.info.images), 'image')} of these records"
        if again.miou is not None:
            tiles.append((f"mIoU on {parts.records.info.split}", charts.percent(again.miou), about))
    return tiles


def share_rows(parts: Parts) -> list[tuple[str, list[float | None]]]:
    """Shares of images by exit, one row for each place that tells them: (where, shares by the deployment's exits)."""
    if not parts.deployment:
        return []
    exits, found = parts.deployment.exits, [("expected by the search", parts.deployment.expected.shares)]
    if parts.records:
        found.append((f"on the records ({parts.records.info.split})", replay(parts.records, parts.deployment).shares))
    if parts.run_log and parts.run_log.frames:
        found.append(("in the run log", parts.run_log.shares()))
    return [(where, [shares.get(name) for name in exits]) for where, shares in found]


def warnings_of(parts: Parts) -> list[str]:
    """What a reader must know before comparing numbers on this page."""
    found = []
    if parts.run and not parts.run.finished:
        found.append("This training run is unfinished: it holds no weights.safetensors yet. What it has so far is shown.")
    if parts.profile and parts.deployment and not comparable(parts.profile, parts.deployment):
        found.append(
            f"The deployment was searched for {engine_of(parts.deployment)}, the profile is of {engine_of(parts.profile)}: "
            f"their latencies do not compare, and what the search expected is left out of the chart."
        )
    if parts.records and parts.records.info.split == "val" and parts.deployment:
        found.append(
            "The records are of the split val, on which exits and thresholds were chosen: their mIoU is a little flattering. "
            "Evaluate on test for figures to publish."
        )
    return found


def log_facts(log: RunLog) -> dict[str, Any]:
    """What a run log says of all its frames."""
    figures = log.figures()
    latency = figures.latency_ms
    return {
        "engine": engine_of(log),
        "frames": figures.frames,
        "median": latency.median if latency else None,
        "p95": latency.p95 if latency else None,
        "slowest": latency.max if latency else None,
        "with_deadline": figures.with_deadline,
        "missed": figures.missed,
        "gathered": figures.frames > charts.MAX_POINTS,
    }
