"""The numbers of a report, derived from the artifacts: one row an exit, the original network, a deployment replayed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Deployment, GraphEntry, Manifest, Measurement, Profile, Records
from offramp.metrics import iou, miou
from offramp.policy import image_score
from offramp.report.inputs import Epoch, History, Parts
from offramp.specs import REGIONS, final_exit

FALL = 0.01
"""MIoU that an exit must have lost on val, from its best epoch to the last, before the page speaks of it."""


@dataclass(frozen=True)
class Row:
    """An exit, or the original network, in numbers; None is not known from what was given."""

    name: str
    miou: float | None = None
    drop_pp: float | None = None
    """mIoU below the final exit's, in percentage points."""
    latency_ms: float | None = None
    """Median: every stage up to the exit, its head, its label map."""
    p95_ms: float | None = None
    speed_up: float | None = None
    """The original network's median latency divided by this one."""
    macs: int | None = None
    parameter_bytes: int | None = None
    sees: str = ""
    """The receptive field of its head at its tap, in pixels, or that it is the whole image."""
    chosen: bool = False


@dataclass(frozen=True)
class Replay:
    """A deployment applied to records."""

    left_at: npt.NDArray[np.int64]
    """(N,) index into the deployment's exits."""
    miou: float | None
    shares: dict[str, float]

    def latency_ms(self, profile: Profile, deployment: Deployment) -> float:
        """Mean over the images: each pays for every exit that it is asked at, as the search reckons it."""
        costs = [profile.latency_ms(deployment.exits[: index + 1]) for index in range(len(deployment.exits))]
        return float(np.array(costs)[self.left_at].mean())


def known(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def exit_miou(records: Records) -> dict[str, float | None]:
    """Each exit's mIoU over all images of the records."""
    values = miou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0))
    return {name: known(value) for name, value in zip(records.info.exits, values, strict=True)}


def class_iou(records: Records) -> npt.NDArray[np.float64]:
    """IoU of each exit and class over all images, (E, C); NaN where the class does not occur."""
    return iou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0))


def latency_p95(profile: Profile, name: str) -> float:
    """95th percentile of an exit's latency, over passes.

    The profile times all steps in turn, pass after pass, so the steps of one pass add up to one run of the exit. Adding the
    steps' own percentiles would call every pass as slow as its slowest step.
    """
    deepest = profile.exit_stages[profile.exits.index(name)]
    steps = [*profile.stages[: deepest + 1], profile.heads[name], profile.labels[name]]
    passes = min(len(step.times_ms) for step in steps)
    totals = np.sum([step.times_ms[:passes] for step in steps], axis=0)
    return Measurement(times_ms=tuple(totals.tolist())).p95_ms


def reference_latency(profile: Profile) -> float:
    """The original network's median latency; the final exit's where a trimmed package no longer has the original."""
    if profile.original:
        return profile.original.median_ms
    return profile.latency_ms((final_exit(profile.exits),))


def exit_rows(parts: Parts) -> list[Row]:
    """One row an exit, in order of depth."""
    mious = exit_miou(parts.records) if parts.records else {}
    return [_exit_row(parts, name, mious) for name in parts.exits]


def _exit_row(parts: Parts, name: str, mious: dict[str, float | None]) -> Row:
    value, best = mious.get(name), mious.get(final_exit(parts.exits))
    profile = parts.profile
    latency = profile.latency_ms((name,)) if profile else None
    graphs = _graphs_of(parts.package, name) if parts.package else []
    return Row(
        name=name,
        miou=value,
        drop_pp=None if value is None or best is None else 100 * (best - value),
        latency_ms=latency,
        p95_ms=latency_p95(profile, name) if profile else None,
        speed_up=reference_latency(profile) / latency if profile and latency else None,
        macs=sum(graph.macs for graph in graphs) if graphs else None,
        parameter_bytes=sum(graph.parameter_bytes for graph in graphs) if graphs else None,
        sees=_sees(parts.package, name) if parts.package else "",
        chosen=parts.deployment is not None and name in parts.deployment.exits,
    )


def _sees(package: Manifest, name: str) -> str:
    head = package.head(name)
    return "whole image" if head.whole_image else str(head.receptive_field or "")


def _graphs_of(package: Manifest, name: str) -> list[GraphEntry]:
    """The graphs that answering with this exit alone needs."""
    head = package.head(name)
    return [*package.stages[: head.stage + 1], head, *(graph for graph in package.labels if graph.file == head.labels)]


def original_row(parts: Parts) -> Row | None:
    """The single-exit network in one graph: the final exit's answers, without the seams between stages."""
    measured = parts.profile.original if parts.profile else None
    graph = parts.package.original if parts.package else None
    if measured is None and graph is None:
        return None
    mious = exit_miou(parts.records) if parts.records else {}
    return Row(
        name="original network",
        miou=mious.get(final_exit(parts.exits)),
        latency_ms=measured.median_ms if measured else None,
        p95_ms=measured.p95_ms if measured else None,
        speed_up=1.0 if measured else None,
        macs=graph.macs if graph else None,
        parameter_bytes=graph.parameter_bytes if graph else None,
    )


def scores_of(records: Records, deployment: Deployment) -> npt.NDArray[np.float64]:
    """Score of each image at each exit of the deployment, (N, exits of the deployment)."""
    indices = [records.info.exits.index(name) for name in deployment.exits]
    return image_score(records.sure[:, indices], REGIONS.index(deployment.region), deployment.pixel_threshold)


def replay(records: Records, deployment: Deployment) -> Replay:
    """Answer the records' images as the deployment would: input-dependent leaves early, the other modes at the last exit."""
    count, last = len(records.info.images), len(deployment.exits) - 1
    left_at = np.full(count, last, dtype=np.int64)
    if deployment.mode == "input-dependent" and last:
        clears = scores_of(records, deployment)[:, :last] >= np.array(deployment.image_thresholds)
        left_at = np.where(clears.any(axis=1), clears.argmax(axis=1), last)
    indices = np.array([records.info.exits.index(name) for name in deployment.exits])[left_at]
    images = np.arange(count)
    value = miou(
        records.correct[images, indices].sum(axis=0),
        records.predicted[images, indices].sum(axis=0),
        records.labelled.sum(axis=0),
    )
    shares = {name: float((left_at == index).mean()) if count else 0.0 for index, name in enumerate(deployment.exits)}
    return Replay(left_at, known(float(value)), shares)


def comparable(profile: Profile, deployment: Deployment) -> bool:
    """Whether the deployment's latencies were estimated for the engine, precision and threads of this profile."""
    return all(getattr(profile, name) == getattr(deployment, name) for name in ("engine", "precision", "threads"))


def overfitting(history: History) -> str:
    """How much better exits know the training images than val, and which were better on val before; "" if unknown."""
    last = next((epoch for epoch in reversed(history.epochs) if epoch.miou and epoch.train_miou), None)
    if last is None:
        return ""
    gaps = [100 * (last.train_miou[name] - value) for name, value in last.miou.items() if name in last.train_miou]
    said = f"At the end exits are {min(gaps):.1f} to {max(gaps):.1f} points better on training images than on val."
    fallen = []
    for name, value in last.miou.items():
        best = max(_of_phase(history, last.phase, name), key=lambda epoch: epoch.miou[name])
        learned_more = best.train_miou.get(name, 1.0) < last.train_miou.get(name, 0.0)
        if best.miou[name] - value >= FALL and learned_more:
            fallen.append(f"{name} by {100 * (best.miou[name] - value):.1f} points since epoch {best.epoch}")
    if fallen:
        said += f" On val some have fallen while they learned the training images: {', '.join(fallen)}."
        said += " Train for fewer epochs, or with --keep best."
    return said


def _of_phase(history: History, phase: str, exit_name: str) -> list[Epoch]:
    return [epoch for epoch in history.epochs if epoch.phase == phase and exit_name in epoch.miou]
