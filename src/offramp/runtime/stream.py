"""The step `run`: a package over an image, a folder of images or a video -> label maps, overlays and a run log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from offramp.artifacts import Frame, Provenance, RunLog
from offramp.data.folder import IMAGE_SUFFIXES, load_image
from offramp.errors import InputError
from offramp.files import new_file
from offramp.progress import Progress, silent
from offramp.runtime.predictor import Answer, Predictor

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")
RUN_LOG = "run-log.json"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Where frames come from."""

    total: int
    """How many there are; 0 where the file does not say."""
    frames: Iterator[tuple[str, Pixels]]
    """Name and RGB image (H, W, 3) of each."""


def open_source(source: Path) -> Source:
    """Open an image, a folder of images or a video.

    Raises:
        InputError: nothing there, a folder without images, or a file that is neither image nor video.

    """
    if source.is_dir():
        paths = sorted(
            path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        if not paths:
            raise InputError(f"no images in {source}; it may hold {', '.join(IMAGE_SUFFIXES)}")
        by_name: dict[str, Path] = {}
        for path in paths:
            if by_name.setdefault(path.stem, path) != path:
                raise InputError(f"{by_name[path.stem]} and {path} would write the same files; rename one of them")
        return Source(len(paths), ((path.stem, load_image(path)) for path in paths))
    if not source.exists():
        raise InputError(f"no such input: {source}; give an image, a folder of images or a video")
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(source)
    return Source(1, iter([(source.stem, load_image(source))]))


def _open_video(path: Path) -> Source:
    try:
        import av  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise InputError("reading videos needs av; pip install 'offramp[video]'") from error

    def frames() -> Iterator[tuple[str, Pixels]]:
        try:
            with av.open(str(path)) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    yield f"{path.stem}-{number:06d}", np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except (av.FFmpegError, IndexError) as error:
            raise InputError(f"cannot read the video {path}: {error}") from error

    try:
        with av.open(str(path)) as container:
            total = container.streams.video[0].frames
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"cannot read the video {path}: {error}") from error
    return Source(total, frames())


def run(
    source: Path, predictor: Predictor, out: Path, *, deadline_ms: float | None = None, progress: Progress = silent
) -> RunLog:
    """Answer for every frame: OUT/labels/NAME.png (palette), OUT/overlays/NAME.jpg and OUT/run-log.json.

    What was answered before an interruption stays on disk, run log included.

    Raises:
        InputError: bad input, or `out` cannot be written.

    """
    opened = open_source(source)
    _check_ours(out)
    frames: list[Frame] = []
    try:
        for name, image in opened.frames:
            answer = predictor(image, deadline_ms=deadline_ms)
            _write(out, name, image, answer, predictor.manifest.palette)
            frames.append(
                Frame(
                    name=name,
                    exit=answer.exit,
                    scores=answer.scores,
                    steps_ms=answer.steps_ms,
                    latency_ms=answer.latency_ms,
                    deadline_ms=deadline_ms,
                )
            )
            if len(frames).bit_count() == 1:
                # After 1, 2, 4, 8 ... frames: a run that is killed leaves at least half its log.
                _log(predictor, frames, source, deadline_ms).save(out / RUN_LOG)
            progress(f"run {source.name}", len(frames), max(opened.total, len(frames)))
    finally:
        log = _log(predictor, frames, source, deadline_ms)
        if frames:
            log.save(out / RUN_LOG)
    if not frames:
        raise InputError(f"{source} holds no frame that can be read")
    return log


def _check_ours(out: Path) -> None:
    """Refuse a folder that no run made. Nothing is written yet: a run that answers nothing leaves nothing behind."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RUN_LOG).exists())):
        raise InputError(f"will not write into {out}: it is no earlier run's folder; choose another --out")


def _log(predictor: Predictor, frames: list[Frame], source: Path, deadline_ms: float | None) -> RunLog:
    return RunLog(
        package_id=predictor.manifest.package_id,
        trimmed_from=predictor.manifest.trimmed_from,
        mode=predictor.mode,
        exits=predictor.exits,
        engine=predictor.network.engine.name,
        threads=predictor.network.engine.threads,
        frames=tuple(frames),
        provenance=Provenance.now("run", options={"input": source.name, "deadline_ms": deadline_ms}),
    )


def _write(out: Path, name: str, image: Pixels, answer: Answer, palette: tuple[tuple[int, int, int], ...]) -> None:
    labels = Image.fromarray(answer.labels, mode="P")
    labels.putpalette([channel for colour in palette for channel in colour])
    with new_file(out / "labels" / f"{name}.png") as temporary:
        labels.save(temporary, format="PNG")
    colours = np.asarray(palette, np.uint8)[answer.labels]
    mixed = (image // 2 + colours // 2).astype(np.uint8)
    with new_file(out / "overlays" / f"{name}.jpg") as temporary:
        Image.fromarray(mixed).save(temporary, format="JPEG", quality=88)
