"""What the page's script works with: one JSON text inside the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from offramp.report.charts import short_names
from offramp.report.choices import policy_name
from offramp.report.facts import class_iou
from offramp.report.gallery import Gallery
from offramp.report.inputs import Parts
from offramp.report.svg import marks_for
from offramp.specs import REGIONS

SCRIPTS = ("plots.js", "choose.js", "gallery.js", "classes.js")
"""In the order in which the page needs them."""


def embedded(parts: Parts, gallery: Gallery | None, choices: dict[str, Any] | None) -> str:
    """The JSON text; "" where there is nothing to move or click.

    Args:
        parts: of the report.
        gallery: images with answers, if there are any.
        choices: what the sliders choose from, if there are any.

    """
    classes = _classes(parts, gallery)
    if choices is None and gallery is None and classes is None:
        return ""
    values = {
        "names": short_names(parts.exits),
        "exits": list(parts.exits),
        "marks": {name: asdict(mark) for name, mark in marks_for(parts.exits).items()},
        "choices": choices,
        "classes": classes,
        "deployment": _deployment(parts),
        "gallery": _gallery(gallery, choices["scores"] if choices else _asked_by(parts)),
    }
    # Inside a page nothing may look like the end of its script.
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _deployment(parts: Parts) -> dict[str, Any] | None:
    """The deployment in the form of the sliders' choices: what images leave by where there are no sliders."""
    chosen = parts.deployment
    if chosen is None:
        return None
    asked = chosen.exits if chosen.mode == "input-dependent" else chosen.exits[-1:]
    return {
        "exits": [parts.exits.index(name) for name in asked],
        "policy": policy_name(chosen),
        "thresholds": list(chosen.image_thresholds),
    }


def _asked_by(parts: Parts) -> dict[str, dict[int, Any]]:
    """The policy and the early exits of the deployment."""
    chosen = parts.deployment
    if chosen is None or not chosen.image_thresholds:
        return {}
    return {policy_name(chosen): {parts.exits.index(name): None for name in chosen.exits[:-1]}}


def _gallery(gallery: Gallery | None, policies: Mapping[str, Mapping[int, Any]]) -> dict[str, Any] | None:
    if gallery is None:
        return None
    scores = {}
    for policy, by_exit in policies.items():
        region, _, threshold = policy.partition("/")
        exits = list(by_exit)
        table = gallery.scores(exits, REGIONS.index(region), int(threshold))
        scores[policy] = {index: [row[place] for row in table] for place, index in enumerate(exits)}
    return {"split": gallery.split, "asked": gallery.asked, "images": gallery.images, "scores": scores}


def _classes(parts: Parts, gallery: Gallery | None) -> dict[str, Any] | None:
    """IoU of each exit and class, and what each class's pixels were taken for where a gallery counted that."""
    if parts.records is None and gallery is None:
        return None
    confusion = gallery.confusion if gallery else None
    ious: Any
    if parts.records:
        ious, split = class_iou(parts.records), parts.records.info.split
    else:
        assert gallery is not None
        ious, split = gallery.iou(), gallery.split
    palette = parts.package.palette if parts.package else ((128, 128, 128),) * len(parts.classes)
    return {
        "names": list(parts.classes),
        "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette],
        "split": split,
        "iou": [[None if value != value else float(value) for value in row] for row in ious],  # noqa: PLR0124 - NaN
        "confusion": None if confusion is None else confusion.tolist(),
        "confusion_split": gallery.split if gallery else "",
    }
