"""What the page can show beside dropped images: the images of a folder by number, or a video frame after frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from offramp.data.folder import load_image
from offramp.errors import InputError
from offramp.runtime.sources import VIDEO_SUFFIXES, Shot, list_images, open_source

LONGEST_WAIT_SECONDS = 1.0
"""For the next frame of a video, whatever its timestamps say."""


class Input(Protocol):
    """Where frames come from."""

    name: str
    kind: str
    """images, video or none."""
    total: int
    """Images or frames; 0 where that is not known."""
    dropped: int
    """Frames that came too fast."""

    def image(self, index: int) -> Shot:
        """An image by its number. Raises InputError where there is none, or it is broken."""

    def frame(self, *, timed: bool, resumed: bool) -> Shot:
        """The next frame. Raises InputError where there are none."""


class Nothing:
    """No input: only dropped images."""

    name, kind, total, dropped = "", "none", 0, 0

    def image(self, index: int) -> Shot:
        """None is there."""
        raise InputError(f"there is no image {index + 1}: offramp view was started without images; drop one on the page")

    def frame(self, *, timed: bool, resumed: bool) -> Shot:
        """None is there."""
        del timed, resumed
        raise InputError("there is no video to play: start offramp view with one")


class Images(Nothing):
    """A list of files, by number. Nothing but the number comes from outside."""

    kind = "images"

    def __init__(self, paths: list[Path], name: str) -> None:
        """Take the list as it is now."""
        self._paths, self.name, self.total = paths, name, len(paths)

    def image(self, index: int) -> Shot:
        """See `Input`."""
        if not 0 <= index < self.total:
            raise InputError(f"there are the images 1 to {self.total}, got {index + 1}")
        return Shot(self._paths[index].name, load_image(self._paths[index]), float(index))


class Video(Nothing):
    """A video file, frame after frame; after its last frame it begins again."""

    kind = "video"

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: no video.

        """
        self._path = path
        opened = open_source(path)
        self.name, self.total = opened.name, opened.total
        self._shots: Iterator[Shot] = iter(opened.shots)
        self._began: float | None = None  # when its second 0 was, or would have been

    def frame(self, *, timed: bool, resumed: bool) -> Shot:
        """See `Input`.

        Args:
            timed: at the video's own speed: what is late already is dropped and counted, what is early is waited for.
            resumed: the clock starts again at this frame.

        """
        shot = self._following()
        if not timed:
            self._began = None
            return shot
        if resumed or self._began is None:
            self._began = time.monotonic() - shot.seconds
            return shot
        elapsed = time.monotonic() - self._began
        while shot.seconds < elapsed:
            self.dropped += 1
            shot = self._following()
            if self._began is None:  # from the beginning again
                self._began = time.monotonic() - shot.seconds
                return shot
        time.sleep(min(LONGEST_WAIT_SECONDS, max(0.0, self._began + shot.seconds - time.monotonic())))
        return shot

    def _following(self) -> Shot:
        shot = next(self._shots, None)
        if shot is None:
            self._shots, self._began = iter(open_source(self._path).shots), None
            shot = next(self._shots, None)
        if shot is None:
            raise InputError(f"{self._path} holds no frame that can be read")
        return shot


def open_input(source: Path | None) -> Input:
    """Images, a video, or nothing.

    Raises:
        InputError: nothing there, a folder without images, a file that is neither image nor video.

    """
    if source is None:
        return Nothing()
    if source.is_dir():
        return Images(list_images(source), source.name)
    if not source.exists():
        raise InputError(f"no such input: {source}; give an image, a folder of images or a video, or nothing")
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return Video(source)
    load_image(source)  # refused at the start rather than on the page
    return Images([source], source.name)
