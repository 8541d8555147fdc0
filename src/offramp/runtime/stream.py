"""The step `run`: a package over images, a video or a camera -> label maps, overlays and a run log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from offramp.artifacts import Frame, Manifest, Provenance, RunLog, Tally
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.runtime.outputs import RUN_LOG, Outputs
from offramp.runtime.predictor import Predictor
from offramp.runtime.reconnecting import unheard
from offramp.runtime.sources import Shot, Source, open_source
from offramp.specs import Overlays

SHOWN = 50
"""Frames that the line shown while it runs speaks of."""


@checked_call
def run(
    source: str | Path,
    predictor: Predictor,
    out: Path,
    *,
    deadline_ms: float | None = None,
    live: bool = False,
    reconnect_s: float | None = None,
    labels: bool = True,
    overlays: Overlays = "jpg",
    progress: Progress = silent,
    line: Callable[[str], None] = unheard,
) -> RunLog:
    """Answer for every frame: OUT/labels/NAME.png (palette), overlays, OUT/run-log.csv line by line, OUT/run-log.json.

    What was answered before an interruption stays on disk, run log included. Of a live source the newest frame is answered
    next; those that came in between are dropped and counted. A run may last for ever: its memory does not grow, and its run log
    holds a bounded number of frames; the table holds all.

    Args:
        source: see `sources.open_source`.
        predictor: what answers.
        out: a new folder, or an earlier run's.
        deadline_ms: for each frame.
        live: play a video file as a camera would give it.
        reconnect_s: for so long a camera or stream that is lost is tried again; see `sources.open_source`.
        labels: write the label maps.
        overlays: OUT/overlays/NAME.jpg or .png, or all in OUT/overlays.mp4.
        progress: told of each frame, with frames a second, where frames leave, and missed deadlines.
        line: told when a live source is lost or back.

    Returns:
        The run log. After KeyboardInterrupt it says `interrupted`; before the first answer the interruption is passed on.

    Raises:
        InputError: bad input, or `out` cannot be written; it says how many frames were answered before.

    """
    manifest = predictor.manifest
    outputs = Outputs(
        out,
        predictor.exits,
        manifest.palette,
        overlays,
        steps=_steps(manifest, predictor.exits),
        labels=labels,
        label_stride=manifest.label_stride,
    )
    if deadline_ms is not None:
        predictor.warm_up()  # before the first frame waits
    opened = open_source(source, live=live, reconnect_s=reconnect_s, line=line)
    tally, recent = Tally(), deque[Frame](maxlen=SHOWN)
    interrupted = False
    begun = time.perf_counter()
    whole: RunLog | None = None

    def log() -> RunLog:
        return _log(predictor, tally, opened, deadline_ms, interrupted=interrupted)

    try:
        with _telling(tally, out):
            for shot in opened.shots:
                frame = _answer(predictor, shot, outputs, begun, deadline_ms)
                tally.add(frame)
                recent.append(frame)
                if tally.count.bit_count() == 1:
                    # After 1, 2, 4, 8 ... frames: a run that is killed leaves at least half its log, and all of its table.
                    log().save(out / RUN_LOG)
                told = _now(recent, tally.missed, opened)
                # Where a file says that it has fewer frames than it has, nobody knows.
                total = opened.total if opened.total >= tally.count else 0
                progress(f"run {opened.name}: {told}", tally.count, total)
    except KeyboardInterrupt:
        if not tally.count:
            raise
        interrupted = True
    finally:
        opened.close()
        try:
            outputs.close()
        finally:
            if tally.count:
                whole = log()
                whole.save(out / RUN_LOG)
    if whole is None:
        raise InputError(f"{source} holds no frame that can be read")
    return whole


@contextmanager
def _telling(tally: Tally, out: Path) -> Iterator[None]:
    """Whatever ends a run says what was answered before."""
    try:
        yield
    except InputError as error:
        if not tally.count:
            raise
        raise InputError(f"{error}; frames answered before: {tally.count}, all in {out}") from error


def _answer(predictor: Predictor, shot: Shot, outputs: Outputs, begun: float, deadline_ms: float | None) -> Frame:
    """Answer for a frame, and write what is written of it."""
    answer = predictor(shot.image, deadline_ms=deadline_ms)
    frame = Frame(
        name=shot.name,
        seconds=time.perf_counter() - begun,
        exit=answer.exit,
        scores=answer.scores,
        steps_ms=answer.steps_ms,
        latency_ms=answer.latency_ms,
        deadline_ms=deadline_ms,
    )
    outputs.write(shot, answer, frame)
    return frame


def _steps(manifest: Manifest, exits: tuple[str, ...]) -> list[str]:
    """Everything that a frame may take time for, in order."""
    stages = [f"stage {index}" for index in range(manifest.head(exits[-1]).stage + 1)]
    return [*stages, *(f"head {name}" for name in exits), *(f"labels {name}" for name in exits)]


def _now(recent: deque[Frame], missed: int, source: Source) -> str:
    took = recent[-1].seconds - recent[0].seconds
    rate = f"{(len(recent) - 1) / took:.1f} frames/s" if took > 0 else ""
    exits = [frame.exit for frame in recent]
    shares = [f"{name} {exits.count(name) / len(exits):.0%}" for name in dict.fromkeys(sorted(exits))]
    told = [
        rate,
        *shares,
        f"{missed} missed" if missed else "",
        f"{source.dropped} dropped" if source.dropped else "",
        f"{source.reconnected} times reconnected" if source.reconnected else "",
    ]
    return ", ".join(part for part in told if part)


def _log(predictor: Predictor, tally: Tally, source: Source, deadline_ms: float | None, *, interrupted: bool) -> RunLog:
    return RunLog(
        package_id=predictor.manifest.package_id,
        trimmed_from=predictor.manifest.trimmed_from,
        mode=predictor.mode,
        exits=predictor.exits,
        engine=predictor.network.engine.name,
        threads=predictor.network.engine.threads,
        precision=predictor.network.engine.precision,
        frames=tuple(tally.frames),
        every=tally.every,
        summary=tally.summary(),
        live=source.live,
        dropped=source.dropped,
        reconnected=source.reconnected,
        interrupted=interrupted,
        provenance=Provenance.now("run", options={"input": source.name, "deadline_ms": deadline_ms}),
    )
