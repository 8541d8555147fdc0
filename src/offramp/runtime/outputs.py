"""What a run leaves on disk: label maps, overlays, and a line of its log for every frame, while it runs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offramp.artifacts import Frame
from offramp.data.pictures import Pixels
from offramp.errors import InputError
from offramp.files import new_file, remove_leftovers, writing
from offramp.runtime.answers import Answer
from offramp.runtime.images import enlarged
from offramp.runtime.sources import Shot
from offramp.specs import Overlays

RUN_LOG = "run-log.json"
TABLE = "run-log.csv"
OVERLAYS = "overlays.mp4"

Palette = Sequence[tuple[int, int, int]]


class Outputs:
    """A run's folder, written frame by frame; what is written stays, whatever comes."""

    def __init__(
        self,
        out: Path,
        exits: Sequence[str],
        palette: Palette,
        overlays: Overlays,
        *,
        steps: Sequence[str] = (),
        labels: bool = True,
        label_stride: int = 1,
    ) -> None:
        """Refuse a folder that no run made. Nothing is written yet: a run that answers nothing leaves nothing behind.

        Args:
            out: the folder.
            exits: that are asked.
            palette: a colour for each class.
            overlays: see `specs.Overlays`.
            steps: whose times the table holds: stages, heads, label maps.
            labels: whether label maps are written.
            label_stride: of the package.

        Raises:
            InputError: somebody's folder, or overlays as a video without av.

        """
        ours = (out / RUN_LOG).exists() or (out / TABLE).exists()
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not ours)):
            raise InputError(f"will not write into {out}: it is no earlier run's folder; choose another --out")
        self.out, self.exits, self.palette, self.overlays = out, tuple(exits), tuple(palette), overlays
        self.steps, self.labels, self.label_stride = tuple(steps), labels, label_stride
        self._table: _Table | None = None
        self._video = _Video(out / OVERLAYS) if overlays == "video" else None

    def write(self, shot: Shot, answer: Answer, frame: Frame) -> None:
        """One frame: OUT/labels/NAME.png (palette), its overlay, a line of OUT/run-log.csv.

        Raises:
            InputError: it cannot be written.

        """
        table = self._begun()
        if self.labels:
            labels = Image.fromarray(answer.labels, mode="P")
            labels.putpalette([channel for colour in self.palette for channel in colour])
            # Many small files: that they are on the medium before the next frame would cost more than the frame.
            with new_file(self.out / "labels" / f"{shot.name}.png", durable=False) as temporary:
                labels.save(temporary, format="PNG")
        if self.overlays != "none":
            full = enlarged(answer.labels, self.label_stride, shot.image.shape)
            mixed = (shot.image // 2 + np.asarray(self.palette, np.uint8)[full] // 2).astype(np.uint8)
            if self._video is not None:
                self._video.add(mixed, shot.seconds)
            else:
                with new_file(self.out / "overlays" / f"{shot.name}.{self.overlays}", durable=False) as temporary:
                    Image.fromarray(mixed).save(temporary, format={"jpg": "JPEG", "png": "PNG"}[self.overlays], quality=88)
        table.write(self._row(frame))

    def _begun(self) -> _Table:
        """The table. It is there before all else, for the folder of a run that is killed is known by it."""
        if self._table is None:
            self._table = _Table(self.out / TABLE)
            columns = [*(f"score:{name}" for name in self.exits), *(f"ms:{step}" for step in self.steps)]
            self._table.write(["name", "seconds", "exit", "latency_ms", "deadline_ms", "met", *columns])
            for part in ("labels", "overlays"):
                remove_leftovers(self.out / part)
        return self._table

    def _row(self, frame: Frame) -> list[object]:
        met = "" if frame.met is None else frame.met
        known = [frame.scores.get(name, "") for name in self.exits]
        times = [f"{frame.steps_ms[step]:.4f}" if step in frame.steps_ms else "" for step in self.steps]
        deadline = "" if frame.deadline_ms is None else frame.deadline_ms
        return [frame.name, f"{frame.seconds:.3f}", frame.exit, f"{frame.latency_ms:.3f}", deadline, met, *known, *times]

    def close(self) -> None:
        """Finish table and video. Raises InputError if the video's end cannot be written."""
        if self._table is not None:
            self._table.close()
        if self._video is not None:
            self._video.close()


class _Table:
    """A CSV file, written line by line, which holds whole lines whatever comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)

    def write(self, row: Sequence[object]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(row)
        line, whole = text.getvalue().encode(), self._file.tell()
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise InputError(f"{self._path} was removed while it was being written; run again, and leave the folder alone")
        with writing(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(whole)
                self._file.seek(whole)
                raise

    def close(self) -> None:
        self._file.close()


class _Video:
    """Overlays as a video: mp4 in fragments, which opens even if its end was never written."""

    def __init__(self, path: Path) -> None:
        try:
            import av  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise InputError("overlays as a video need av; pip install 'offramp[video]'") from error
        self._av, self._path = av, path
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def add(self, image: Pixels, seconds: float) -> None:
        """A frame (H, W, 3), so long after the first; frames of another size than the first's are scaled to it."""
        if self._container is None:
            self._begin(image)
        height, width = self._stream.height, self._stream.width
        if image.shape[:2] not in {(height, width), (height + 1, width), (height, width + 1), (height + 1, width + 1)}:
            image = np.asarray(Image.fromarray(image).resize((width, height)))
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        self._last = max(self._last + 1, round(seconds * 1000))
        frame.pts, frame.time_base = self._last, Fraction(1, 1000)
        with writing(self._path):
            self._container.mux(self._stream.encode(frame))

    def _begin(self, image: Pixels) -> None:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        with writing(self._path):
            self._container = self._av.open(str(self._path), "w", options={"movflags": "frag_keyframe+empty_moov"})
        self._stream = self._container.add_stream(codec, rate=30, time_base=Fraction(1, 1000))
        # Both sides must be even.
        self._stream.height, self._stream.width = (side - side % 2 for side in image.shape[:2])
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._stream.codec_context.max_b_frames = 0  # each frame is written at once, at its own time

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._container is not None:
            with writing(self._path):
                try:
                    self._container.mux(self._stream.encode())
                finally:
                    self._container.close()
