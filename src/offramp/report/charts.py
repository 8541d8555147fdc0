"""The report's charts: numbers in, SVG text out, drawn for a width, so that a page can hold a wide and a narrow one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp.artifacts import Deployment, Frame, Profile, RunLog
from offramp.report.facts import Row
from offramp.report.inputs import History
from offramp.report.svg import CHARACTER, Canvas, Labels, Mark, Scale, marks_for, widened

WIDE, NARROW = 860, 350
"""Widths in pixels of a chart on a desk and on a phone."""
MAX_POINTS = 400
"""Frames drawn; more are gathered, the slowest of each bunch standing for it."""
BINS = 24

LEFT, RIGHT, TOP, BOTTOM = 38, 12, 26, 40
"""Margins around a plot."""


def short_names(exits: Sequence[str]) -> dict[str, str]:
    """An exit's tap where no other exit shares it, else its whole name."""
    taps = [name.rpartition(":")[0] or name for name in exits]
    return {name: tap if taps.count(tap) == 1 else name for name, tap in zip(exits, taps, strict=True)}


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def _plot(width: int, height: int, x: tuple[float, float], y: tuple[float, float]) -> tuple[Scale, Scale]:
    return Scale(*x, LEFT, width - RIGHT), Scale(*y, height - BOTTOM, TOP)


def legend_mark(mark: Mark) -> str:
    """The small picture beside a name in a legend."""
    canvas = Canvas(26, 12, "")
    canvas.path([(0, 6), (26, 6)], f"line {mark.css}", dash=mark.dash)
    canvas.mark(13, 6, mark, size=4)
    return canvas.write()


def scatter(
    rows: Sequence[Row],
    others: Sequence[Row],
    deployment: Deployment | None,
    width: int,
    front: Sequence[tuple[float, float]] = (),
) -> str:
    """Accuracy against latency: every exit, the deployment with its intervals, the limits asked.

    Args:
        rows: the exits; those without mIoU or latency are left out.
        others: what else to compare, drawn as hollow squares: the original network, the deployment on other images.
        deployment: with the search's expectations; None without one, or where its latencies do not compare.
        width: of the chart.
        front: latency and mIoU of what a search can choose, drawn as small dots.

    """
    height = 400 if width == WIDE else 320
    points = [
        (row, row.latency_ms, 100 * row.miou) for row in (*rows, *others) if row.latency_ms is not None and row.miou is not None
    ]
    xs, ys = [latency for _, latency, _ in points], [value for _, _, value in points]
    expected = deployment.expected if deployment else None
    limits = _limits(deployment)
    if expected:
        xs += [*expected.latency_interval, expected.latency_ms]
        ys += [100 * value for value in (*expected.miou_interval, expected.miou)]
    xs += [latency for latency, _ in front]
    ys += [100 * value for _, value in front]
    xs += [limit.at for limit in limits if limit.axis == "latency"]
    ys += [limit.at for limit in limits if limit.axis == "miou"]
    x, y = _plot(width, height, (0.0, 1.06 * max(xs)), widened(ys, floor=0.0))
    canvas = Canvas(width, height, f"Accuracy against latency of {len(rows)} exits")
    canvas.axes(x, y, "latency, ms", "mIoU, %")
    canvas.tell_scales(x, y)
    for latency, value in front:
        canvas.add("circle", "front", cx=x(latency), cy=y(100 * value), r=1.8)
    marks = marks_for([row.name for row in rows])
    names = short_names([row.name for row in rows])
    placed = [(x(latency), y(value)) for _, latency, value in points]
    at_deployment = (x(expected.latency_ms), y(100 * expected.miou)) if expected else None
    labels = Labels(canvas, x, y, [*placed, *([at_deployment] if at_deployment else [])])
    for limit in limits:
        _draw_limit(canvas, labels, x, y, limit)
    for (row, latency, value), (px, py) in zip(points, placed, strict=True):
        mark = marks.get(row.name, Mark("hollow", "square"))
        canvas.mark(px, py, mark, title=f"{row.name}: mIoU {value:.1f} %, {latency:.2f} ms")
    if deployment and expected and at_deployment:
        _draw_deployment(canvas, x, y, deployment)
        labels.reserve(x(expected.latency_interval[0]), at_deployment[1], x(expected.latency_interval[1]), at_deployment[1])
        labels.reserve(
            at_deployment[0], y(100 * expected.miou_interval[1]), at_deployment[0], y(100 * expected.miou_interval[0])
        )
        labels.place(*at_deployment, "deployment, expected")
    for (row, _, _), (px, py) in reversed(list(zip(points, placed, strict=True))):
        labels.place(px, py, names.get(row.name, row.name))
    return canvas.write()


class Limit(NamedTuple):
    """A limit that a deployment was asked to meet."""

    axis: Literal["latency", "miou"]
    at: float
    text: str


def _limits(deployment: Deployment | None) -> list[Limit]:
    if deployment is None:
        return []
    asked = deployment.limits
    found: list[Limit] = []
    if asked.max_latency_ms is not None:
        found.append(Limit("latency", asked.max_latency_ms, f"limit {asked.max_latency_ms:g} ms"))
    if asked.min_miou is not None:
        found.append(Limit("miou", 100 * asked.min_miou, f"limit {100 * asked.min_miou:g} %"))
    if asked.max_drop_pp is not None:
        bar = 100 * deployment.expected.final_miou - asked.max_drop_pp
        points = "point" if asked.max_drop_pp == 1 else "points"
        found.append(Limit("miou", bar, f"limit {asked.max_drop_pp:g} {points} below final"))
    return found


def _draw_limit(canvas: Canvas, labels: Labels, x: Scale, y: Scale, limit: Limit) -> None:
    wide = len(limit.text) * CHARACTER
    if limit.axis == "latency":
        canvas.line(x(limit.at), y.start, x(limit.at), y.stop, "limit")
        left = x(limit.at) + 5 if x.stop - x(limit.at) > wide + 8 else x(limit.at) - 5 - wide
        baseline = y.start - 8
    else:
        canvas.line(x.start, y(limit.at), x.stop, y(limit.at), "limit")
        left, baseline = x.start + 4, y(limit.at) - 5
    canvas.text(left, baseline, limit.text, "limit-text")
    labels.reserve(left, baseline - 11, left + wide, baseline + 3)


def _draw_deployment(canvas: Canvas, x: Scale, y: Scale, deployment: Deployment) -> None:
    expected = deployment.expected
    px, py = x(expected.latency_ms), y(100 * expected.miou)
    (fast, slow), (low, high) = expected.latency_interval, expected.miou_interval
    canvas.line(x(fast), py, x(slow), py, "interval")
    canvas.line(px, y(100 * low), px, y(100 * high), "interval")
    title = (
        f"deployment ({deployment.mode}): mIoU {percent(expected.miou)} ({100 * low:.1f} to {100 * high:.1f}), "
        f"{expected.latency_ms:.2f} ms ({fast:.2f} to {slow:.2f})"
    )
    canvas.mark(px, py, Mark("deployment", "diamond"), title=title, size=6)


def road(profile: Profile, shares: Mapping[str, float], width: int) -> str:
    """The network as a road: stages as wide as their times, exits leaving it, heads and label maps on the same scale.

    Args:
        profile: times of all steps.
        shares: of images that leave at each exit of a deployment; empty without one.
        width: of the chart.

    """
    wide = width == WIDE
    names = short_names(profile.exits)
    gutter = min(190.0, max(len(name) for name in names.values()) * CHARACTER + 12) if wide else 2.0
    row, top = (30, 62) if wide else (42, 62)
    height = top + row * len(profile.exits) + 34
    ends = np.concatenate([[0.0], np.cumsum([stage.median_ms for stage in profile.stages])])
    x = Scale(0.0, max(profile.latency_ms((name,)) for name in profile.exits), gutter, width - (190.0 if wide else 2.0))
    canvas = Canvas(width, height, f"The network as a road of {len(profile.stages)} stages and {len(profile.exits)} exits")
    ticks = x.ticks(6 if wide else 4)
    for value in ticks:
        canvas.line(x(value), 54, x(value), height - 26, "grid")
        canvas.text(x(value), height - 10, f"{value:g} ms" if value == ticks[-1] else f"{value:g}", "tick", anchor="middle")
    _draw_stages(canvas, profile, shares, x, ends)
    marks = marks_for(profile.exits)
    starts = {name: float(ends[stage + 1]) for name, stage in zip(profile.exits, profile.exit_stages, strict=True)}
    bases = {name: top + row * index + (row - 12 if wide else row - 14) for index, name in enumerate(profile.exits)}
    dims = {name: " unused" if shares and name not in shares else "" for name in profile.exits}
    # All ramps lie under all heads and labels, whatever crosses.
    for name, y in bases.items():
        canvas.path([(x(starts[name]), 52), (x(starts[name]), y)], f"ramp {marks[name].css}{dims[name]}")
    for name, y in bases.items():
        start, dim = starts[name], dims[name]
        head, label = profile.heads[name].median_ms, profile.labels[name].median_ms
        title = f"{name}: head {head:.2f} ms, label map {label:.2f} ms, {profile.latency_ms((name,)):.2f} ms in all"
        canvas.rect(x(start), y - 6, x(start + head) - x(start), 12, f"head {marks[name].css}{dim}", title=title)
        canvas.rect(x(start + head), y - 3, x(start + head + label) - x(start + head), 6, f"head {marks[name].css}{dim}")
        numbers = f"head {head:.2f} ms" + (f" · {percent(shares[name])} leave" if name in shares else "")
        if wide:
            canvas.text(gutter - 12, y + 4, names[name], f"label{dim}", anchor="end")
            canvas.text(x.stop + 12, y + 4, numbers, f"label{dim}")
        else:
            canvas.text(2, y - 12, f"{names[name]} · {numbers}", f"label{dim}")
    return canvas.write()


def _draw_stages(
    canvas: Canvas, profile: Profile, shares: Mapping[str, float], x: Scale, ends: npt.NDArray[np.float64]
) -> None:
    """Each stage's lane is filled as high as the share of images that come through it."""
    for index, stage in enumerate(profile.stages):
        left = [share for name, share in shares.items() if profile.exit_stages[profile.exits.index(name)] < index]
        last = max((profile.exit_stages[profile.exits.index(name)] for name in shares), default=len(profile.stages))
        coming = max(1.0 - sum(left), 0.0) if index <= last else 0.0
        start, wide = x(ends[index]), x(ends[index + 1]) - x(ends[index])
        share = f", {percent(coming)} of images come through" if shares else ""
        title = f"stage {index + 1}: median {stage.median_ms:.2f} ms, p95 {stage.p95_ms:.2f} ms{share}"
        canvas.rect(start, 20, wide - 1.5, 32, "stage-outline", title=title)
        canvas.rect(start, 20 + 32 * (1 - coming), wide - 1.5, 32 * coming, "stage", title=title)
        text = f"stage {index + 1}" if wide > 52 else str(index + 1)
        if wide > len(text) * CHARACTER + 2:
            canvas.text(start + wide / 2, 12, text, "tick", anchor="middle")


def histogram(scores: npt.NDArray[np.float64], arriving: npt.NDArray[np.bool_], threshold: float, name: str) -> str:
    """Scores of all images at one exit (faint), of those that come so far (full), and the threshold."""
    width, height = NARROW, 200
    lowest = min(float(scores.min(initial=1.0)), threshold)
    lo = min(np.floor(10 * lowest) / 10, 0.9)
    every, edges = np.histogram(scores, bins=BINS, range=(lo, 1.0))
    coming, _ = np.histogram(scores[arriving], bins=BINS, range=(lo, 1.0))
    x, y = _plot(width, height, (lo, 1.0), (0.0, 1.08 * max(int(every.max()), 1)))
    canvas = Canvas(width, height, f"Scores of {len(scores)} images at {name}, threshold {threshold:.3f}")
    canvas.axes(x, y, "score", "images")
    for index in range(BINS):
        left, wide = x(edges[index]), x(edges[index + 1]) - x(edges[index]) - 1
        title = f"{edges[index]:.3f} to {edges[index + 1]:.3f}: {every[index]} images, {coming[index]} of them come so far"
        canvas.rect(left, y(every[index]), wide, y.start - y(every[index]), "bar all", title=title)
        canvas.rect(left, y(coming[index]), wide, y.start - y(coming[index]), "bar", title=title)
    canvas.line(x(threshold), y.start, x(threshold), y.stop, "threshold")
    anchor, shift = ("end", -5) if x(threshold) > width / 2 else ("start", 5)
    canvas.text(x(threshold) + shift, y.stop + 6, f"threshold {threshold:.3f}", "limit-text", anchor=anchor)
    return canvas.write()


def curves(history: History, width: int) -> str:
    """MIoU of every exit on val and, fainter, on training images, epoch by epoch."""
    lines, on_train = (
        {
            name: [(index + 1, 100 * found[name]) for index, found in enumerate(figures) if name in found]
            for name in history.exits
        }
        for figures in ([epoch.miou for epoch in history.epochs], [epoch.train_miou for epoch in history.epochs])
    )
    values = [value for kind in (lines, on_train) for line in kind.values() for _, value in line]
    height = 340 if width == WIDE else 280
    x, y = _plot(width, height, (0.5, len(history.epochs) + 0.5), widened(values, floor=0.0))
    canvas = Canvas(width, height, f"Validation mIoU of {len(lines)} exits over {len(history.epochs)} epochs")
    canvas.axes(x, y, "epoch", "mIoU, %")
    _draw_phases(canvas, history, x, y)
    marks = marks_for(history.exits)
    for name, line in on_train.items():
        if line:
            points = [(x(at), y(value)) for at, value in line]
            canvas.path(points, f"line train {marks[name].css}", dash=marks[name].dash, title=f"{name}, training images")
    for name, line in lines.items():
        if not line:
            continue
        canvas.path([(x(at), y(value)) for at, value in line], f"line {marks[name].css}", dash=marks[name].dash, title=name)
        for at, value in line:
            title = f"{name}, epoch {at}: {value:.1f} %"
            size = 3.5 if at == line[-1][0] else 2.0
            canvas.mark(x(at), y(value), marks[name], title=title, size=size, css="point")
    return canvas.write()


def loss(history: History, width: int) -> str:
    """Training loss, epoch by epoch; phases minimise different sums, so their lines do not join."""
    losses = [(index + 1, epoch.phase, epoch.loss) for index, epoch in enumerate(history.epochs) if epoch.loss is not None]
    height = 200
    x, y = _plot(width, height, (0.5, len(history.epochs) + 0.5), (0.0, 1.06 * max(value for _, _, value in losses)))
    canvas = Canvas(width, height, f"Training loss over {len(history.epochs)} epochs")
    canvas.axes(x, y, "epoch", "training loss")
    _draw_phases(canvas, history, x, y)
    for phase in dict.fromkeys(phase for _, phase, _ in losses):
        line = [(x(at), y(value)) for at, held, value in losses if held == phase]
        canvas.path(line, "line final")
    for at, _, value in losses:
        canvas.mark(x(at), y(value), Mark("final"), title=f"epoch {at}: loss {value:.4g}", size=2, css="point")
    return canvas.write()


def phase_name(phase: str) -> str:
    """`1` is told as `phase 1`."""
    return f"phase {phase}" if phase.isdigit() else phase


def _draw_phases(canvas: Canvas, history: History, x: Scale, y: Scale) -> None:
    """A line where a phase begins, and its name above the plot."""
    phases = [epoch.phase for epoch in history.epochs]
    starts = [index for index, phase in enumerate(phases) if index == 0 or phases[index - 1] != phase]
    for index in starts:
        if index:
            canvas.line(x(index + 0.5), y.start, x(index + 0.5), y.stop - 6, "phase")
        # The first phase's name would stand on the axis' own.
        canvas.text(max(x(index + 0.5) + 4, 130.0), 12, phase_name(phases[index]), "tick")


def share_bar(shares: Mapping[str, float], exits: Sequence[str], width: int, what: str) -> str:
    """Shares of images that leave at each exit, as one bar."""
    marks, names = marks_for(exits), short_names(list(shares))
    told = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    canvas = Canvas(width, 46, f"{what}: {told}")
    x = Scale(0.0, 1.0, 0.0, width)
    start = 0.0
    for name, share in shares.items():
        wide = x(share) - 2
        if share <= 0:
            continue
        canvas.rect(x(start), 2, wide, 20, f"share {marks[name].css}", title=f"{name}: {percent(share)}")
        for text in (f"{names[name]} {percent(share)}", percent(share)):
            if wide >= len(text) * CHARACTER:
                canvas.text(x(start), 38, text, "label")
                break
        start += share
    return canvas.write()


def frames(log: RunLog, exits: Sequence[str], width: int) -> str:
    """Latency of frame after frame, coloured by the exit taken; the deadline, and the frames that missed it."""
    bunches = np.array_split(np.arange(len(log.frames)), min(len(log.frames), MAX_POINTS))
    slowest = [max((int(index) for index in bunch), key=lambda index: log.frames[index].latency_ms) for bunch in bunches]
    deadlines = [(index, log.frames[index].deadline_ms) for index in slowest]
    highest = max(max(log.frames[index].latency_ms, at or 0.0) for index, at in deadlines)
    height = 300 if width == WIDE else 260
    total = log.figures().frames
    x, y = _plot(width, height, (0, max(total, 2)), (0.0, 1.06 * highest))
    canvas = Canvas(width, height, f"Latency of {total} frames")
    canvas.axes(x, y, "frame", "latency, ms")
    limit = [(x(index * log.every + 1), y(at)) for index, at in deadlines if at is not None]
    if limit:
        canvas.path([(x.start, limit[0][1]), *limit, (x.stop, limit[-1][1])], "limit", title="deadline")
        canvas.text(x.stop, limit[-1][1] - 5, "deadline", "limit-text", anchor="end")
    marks = marks_for(exits)
    for index in slowest:
        frame = log.frames[index]
        css = "point missed" if frame.met is False else "point"
        mark = marks.get(frame.exit, Mark("final"))
        canvas.mark(x(index * log.every + 1), y(frame.latency_ms), mark, title=frame_title(frame), size=2.6, css=css)
    return canvas.write()


def frame_title(frame: Frame) -> str:
    """What a frame's point says."""
    missed = ", deadline missed" if frame.met is False else ""
    return f"{frame.name}: left at {frame.exit} after {frame.latency_ms:.2f} ms{missed}"
