"""Where frames come from: images, folders, video files; and live, cameras and streams, of which the newest frame counts."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from offramp.data.folder import IMAGE_SUFFIXES, load_image, require_text
from offramp.data.pictures import require_size
from offramp.errors import InputError
from offramp.runtime.reconnecting import Decoded, Reconnecting, Timeouts, unheard

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")
CAMERA = "camera"
CAMERA_PATIENCE_SECONDS = 30.0
"""A lost camera is tried again for so long, where nothing else is said."""
MOST_BROKEN = 300
"""Packets of a live source, one after another, that cannot be decoded: who joins in the middle of a stream meets some."""
LOOK_SECONDS = 0.2
"""So often who waits for a frame looks up: an interruption is heard then."""

Pixels = npt.NDArray[np.uint8]


class Shot(NamedTuple):
    """One frame."""

    name: str
    image: Pixels
    """RGB, (H, W, 3)."""
    seconds: float
    """Since the first frame; of pictures their number."""


class Newest:
    """Frames of a live source, read in a thread of its own: only the newest waits, older ones that nobody took are dropped."""

    def __init__(self, shots: Iterator[Shot]) -> None:
        """Begin to read."""
        self.dropped = 0
        self._shots = shots
        self._newest: Shot | None = None
        self._over = False
        self._error: Exception | None = None
        self._changed = Condition()
        Thread(target=self._read, name="offramp frames", daemon=True).start()

    def _read(self) -> None:
        try:
            for shot in self._shots:
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = shot
                    self._changed.notify()
                    if self._over:
                        return
        except Exception as error:  # noqa: BLE001 - told to whoever takes the frames
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def __iter__(self) -> Iterator[Shot]:
        return self

    def __next__(self) -> Shot:
        with self._changed:
            while self._newest is None and not self._over:
                self._changed.wait(LOOK_SECONDS)
            if self._newest is None:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            shot, self._newest = self._newest, None
            return shot

    def close(self) -> None:
        """Read no further."""
        with self._changed:
            self._over = True


@dataclass(frozen=True)
class Source:
    """Frames, one after another."""

    name: str
    total: int
    """How many there are; 0 where that is not known."""
    shots: Iterator[Shot] | Newest
    connection: Reconnecting | None = None
    """Of a camera or a stream."""

    @property
    def live(self) -> bool:
        """Whether frames are dropped when nobody takes them in time."""
        return isinstance(self.shots, Newest)

    @property
    def dropped(self) -> int:
        """Frames that nobody took in time."""
        return self.shots.dropped if isinstance(self.shots, Newest) else 0

    @property
    def reconnected(self) -> int:
        """So often it was lost and came back."""
        return self.connection.reconnected if self.connection else 0

    def close(self) -> None:
        """Read no further."""
        if self.connection is not None:
            self.connection.close()
        if isinstance(self.shots, Newest):
            self.shots.close()


def open_source(
    source: str | Path, *, live: bool = False, reconnect_s: float | None = None, line: Callable[[str], None] = unheard
) -> Source:
    """Open images, a video, a camera or a stream.

    Args:
        source: an image, a folder of images, a video file; live by nature: `camera` or `camera:N`, or an address like
            rtsp://... that ffmpeg can read.
        live: play a video file at its own speed, as a camera would give it, and drop frames that nobody takes in time.
        reconnect_s: a camera or address that is lost is tried again for so long; by default a camera for 30 s. An address is
            not, since what it gives may have an end, and would begin again.
        line: told when a source is lost or back.

    Raises:
        InputError: nothing there, a folder without images, a file that is neither image nor video, or seconds that make no
            sense.

    """
    if reconnect_s is not None and not 0 <= reconnect_s < math.inf:
        raise InputError(f"a lost source is tried again for some seconds, or for 0 not at all, got {reconnect_s}")
    text = str(source)
    if text == CAMERA or text.startswith(f"{CAMERA}:"):
        file, kind = _camera(text.removeprefix(CAMERA).removeprefix(":") or "0")
        return _live(text, file, kind, CAMERA_PATIENCE_SECONDS if reconnect_s is None else reconnect_s, line)
    if "://" in text:
        return _live(text, text, None, reconnect_s or 0.0, line)
    if reconnect_s:
        raise InputError(f"only a camera or an address can be lost and come back, got {text}; leave --reconnect away")
    path = Path(source)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    if live and not is_video:
        raise InputError(f"only a video file can be played live, got {path}")
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise InputError(f"no such input: {path}; give an image, a folder of images, a video, camera or an address")
    if is_video:
        total = _count(path)
        shots = _named(path.stem, _frames(text))
        return Source(path.name, total, Newest(_at_its_own_speed(shots)) if live else shots)
    return Source(path.name, 1, iter([Shot(path.stem, load_image(path), 0.0)]))


def list_images(folder: Path) -> list[Path]:
    """The images directly inside a folder, by name.

    Raises:
        InputError: there are none.

    """
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}; check its rights") from error
    paths = [
        path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    if not paths:
        raise InputError(f"no images in {folder}; it may hold {', '.join(IMAGE_SUFFIXES)}, not in folders below it")
    for path in paths:
        require_text(path.relative_to(folder), folder)
    return paths


def _folder(folder: Path) -> Source:
    paths = list_images(folder)
    by_name: dict[str, Path] = {}
    for path in paths:
        if by_name.setdefault(path.stem, path) != path:
            raise InputError(f"{by_name[path.stem]} and {path} would write the same files; rename one of them")
    shots = (Shot(path.stem, load_image(path), float(number)) for number, path in enumerate(paths))
    return Source(folder.name, len(paths), shots)


def _camera(which: str) -> tuple[str, str]:
    """What ffmpeg calls a camera, and the kind of device that it is."""
    if sys.platform == "darwin":
        return which, "avfoundation"
    if sys.platform == "win32":
        return f"video={which}", "dshow"
    if not which.isdecimal():
        raise InputError(f"cameras are called camera:0, camera:1 and so on, got camera:{which}")
    if not Path(f"/dev/video{which}").exists():
        raise InputError(f"no camera {which}: there is no /dev/video{which}; plug it in, or name another")
    return f"/dev/video{which}", "v4l2"


def _av() -> Any:
    try:
        import av  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise InputError("reading videos needs av; pip install 'offramp[video]'") from error
    return av


def _count(path: Path) -> int:
    """Frames of a video file, by what it says itself."""
    av = _av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            _require_video(container, path)
            return int(container.streams.video[0].frames)
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(path, error) from error


def _live(name: str, file: str, kind: str | None, patience_s: float, line: Callable[[str], None]) -> Source:
    _av()

    def opened(timeouts: Timeouts) -> Iterator[Decoded]:
        return _frames(file, kind=kind, timeouts=timeouts, most_broken=MOST_BROKEN)

    connection = Reconnecting(name, opened, patience_s, line)
    return Source(name, 0, Newest(_named("live", connection)), connection)


def _named(name: str, frames: Iterable[Decoded]) -> Iterator[Shot]:
    """Frames with their numbers."""
    for number, (image, seconds) in enumerate(frames):
        yield Shot(f"{name}-{number:06d}", image, seconds)


def _frames(
    file: str, *, kind: str | None = None, timeouts: Timeouts = (None, None), most_broken: int = 0
) -> Iterator[Decoded]:
    """Decoded frames.

    Args:
        file: what ffmpeg opens.
        kind: of a device.
        timeouts: seconds that opening and each packet may take; None: for ever.
        most_broken: packets that may be broken, one after another.

    Raises:
        InputError: it cannot be opened or read.

    """
    av = _av()
    number = -1
    try:
        with av.open(file, format=kind, metadata_errors="replace", timeout=timeouts) as container:
            _require_video(container, file)
            begun: float | None = None
            for number, frame in enumerate(_decoded(container, most_broken)):
                require_size((frame.width, frame.height), "video", file)
                image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                seconds = float(number) if frame.time is None else frame.time
                begun = seconds if begun is None else begun
                yield image, seconds - begun
    except InputError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(file, error, after=number + 1) from error


def _unreadable(file: str | Path, error: Exception, after: int = 0) -> InputError:
    reason = str(getattr(error, "strerror", None) or error)
    where = f", after {after} frames" if after else ""
    return InputError(f"cannot read the video {file}{where}: {reason}; repair it, or give another file")


def _require_video(container: Any, file: str | Path) -> None:
    """Refuse what has no video stream, or one whose frames are too large to be decoded."""
    if not container.streams.video:
        raise InputError(f"cannot read the video {file}: there is no video in it; give another file")
    video = container.streams.video[0]
    if video.codec_context is None:
        raise InputError(f"cannot read the video {file}: ffmpeg here does not know its coding; give another file")
    require_size((video.width, video.height), "video", file)


def _decoded(container: Any, most_broken: int) -> Iterator[Any]:
    broken = 0
    for packet in container.demux(video=0):
        try:
            frames = packet.decode()
            broken = 0
        except _av().error.InvalidDataError:
            broken += 1
            if broken > most_broken:
                raise
            continue
        yield from frames


def _at_its_own_speed(shots: Iterator[Shot]) -> Iterator[Shot]:
    begun = time.monotonic()
    for shot in shots:
        time.sleep(max(0.0, begun + shot.seconds - time.monotonic()))
        yield shot
