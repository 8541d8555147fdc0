"""Which charts the page shows, and of what; where what a chart needs was not given, there is none. `charts` draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from offramp.report import charts
from offramp.report.facts import Row, class_iou, comparable, replay, scores_of
from offramp.report.inputs import Parts


def figures_of(
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


def _pair(draw: Callable[[int], str]) -> dict[str, str]:
    """The same chart for a desk and for a phone."""
    return {"wide": draw(charts.WIDE), "narrow": draw(charts.NARROW)}


def _replayed(parts: Parts) -> list[Row]:
    """The deployment on the records' own images, where these are not the ones that the search saw."""
    records, profile, deployment = parts.records, parts.profile, parts.deployment
    if not records or not profile or not deployment or records.info.split == "val" or not records.info.images:
        return []
    again = replay(records, deployment)
    name = f"deployment on {records.info.split}"
    return [Row(name=name, miou=again.miou, latency_ms=again.latency_ms(profile, deployment))]


def histograms_of(parts: Parts) -> list[tuple[str, float, str]]:
    """(exit, threshold, chart) of each exit at which the deployment may leave."""
    records, deployment = parts.records, parts.deployment
    if not records or not deployment or deployment.mode != "input-dependent" or not records.info.images:
        return []
    scores, left_at = scores_of(records, deployment), replay(records, deployment).left_at
    return [
        (name, threshold, charts.histogram(scores[:, index], left_at >= index, threshold, name))
        for index, (name, threshold) in enumerate(zip(deployment.exits, deployment.image_thresholds, strict=False))
    ]


def heat_of(parts: Parts) -> list[dict[str, Any]]:
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
