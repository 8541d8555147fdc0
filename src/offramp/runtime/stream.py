"""The step `run`: a package over images, a video or a camera -> label maps, overlays and a run log."""

from __future__ import annotations

import time
from pathlib import Path

from offramp.artifacts import Frame, Provenance, RunLog
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.runtime.outputs import RUN_LOG, Outputs
from offramp.runtime.predictor import Predictor
from offramp.runtime.sources import Source, open_source
from offramp.specs import Overlays


def run(
    source: str | Path,
    predictor: Predictor,
    out: Path,
    *,
    deadline_ms: float | None = None,
    live: bool = False,
    overlays: Overlays = "jpg",
    progress: Progress = silent,
) -> RunLog:
    """Answer for every frame: OUT/labels/NAME.png (palette), overlays, OUT/run-log.csv line by line, OUT/run-log.json.

    What was answered before an interruption stays on disk, run log included. Of a live source the newest frame is answered
    next; those that came in between are dropped and counted.

    Args:
        source: see `sources.open_source`.
        predictor: what answers.
        out: a new folder, or an earlier run's.
        deadline_ms: for each frame.
        live: play a video file as a camera would give it.
        overlays: OUT/overlays/NAME.jpg or .png, or all in OUT/overlays.mp4.
        progress: told of each frame, with frames a second, where frames leave, and missed deadlines.

    Returns:
        The run log. After KeyboardInterrupt it says `interrupted`; before the first answer the interruption is passed on.

    Raises:
        InputError: bad input, or `out` cannot be written.

    """
    manifest = predictor.manifest
    outputs = Outputs(out, predictor.exits, manifest.palette, overlays, label_stride=manifest.label_stride)
    if deadline_ms is not None:
        predictor.warm_up()  # before the first frame waits
    opened = open_source(source, live=live)
    frames: list[Frame] = []
    interrupted = False
    begun = time.perf_counter()
    whole: RunLog | None = None

    def log() -> RunLog:
        return _log(predictor, frames, opened, deadline_ms, interrupted=interrupted)

    try:
        for shot in opened.shots:
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
            frames.append(frame)
            if len(frames).bit_count() == 1:
                # After 1, 2, 4, 8 ... frames: a run that is killed leaves at least half its log, and all of its table.
                log().save(out / RUN_LOG)
            progress(f"run {opened.name}: {_now(frames, opened)}", len(frames), max(opened.total, len(frames)))
    except KeyboardInterrupt:
        if not frames:
            raise
        interrupted = True
    finally:
        opened.close()
        try:
            outputs.close()
        finally:
            if frames:
                whole = log()
                whole.save(out / RUN_LOG)
    if whole is None:
        raise InputError(f"{source} holds no frame that can be read")
    return whole


SHOWN = 50
"""Frames that the line shown while it runs speaks of."""


def _now(frames: list[Frame], source: Source) -> str:
    last = frames[-SHOWN:]
    took = last[-1].seconds - last[0].seconds
    rate = f"{(len(last) - 1) / took:.1f} frames/s" if took > 0 else ""
    exits = [frame.exit for frame in last]
    shares = [f"{name} {exits.count(name) / len(exits):.0%}" for name in dict.fromkeys(sorted(exits))]
    missed = sum(frame.met is False for frame in frames)
    told = [rate, *shares, f"{missed} missed" if missed else "", f"{source.dropped} dropped" if source.dropped else ""]
    return ", ".join(part for part in told if part)


def _log(predictor: Predictor, frames: list[Frame], source: Source, deadline_ms: float | None, *, interrupted: bool) -> RunLog:
    return RunLog(
        package_id=predictor.manifest.package_id,
        trimmed_from=predictor.manifest.trimmed_from,
        mode=predictor.mode,
        exits=predictor.exits,
        engine=predictor.network.engine.name,
        threads=predictor.network.engine.threads,
        precision=predictor.network.engine.precision,
        frames=tuple(frames),
        live=source.live,
        dropped=source.dropped,
        interrupted=interrupted,
        provenance=Provenance.now("run", options={"input": source.name, "deadline_ms": deadline_ms}),
    )
