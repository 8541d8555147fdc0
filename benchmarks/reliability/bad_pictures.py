"""Picture and video files that no ordinary program writes: PNG by its chunks, headers that promise too much, patched videos."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(size: tuple[int, int], rows: bytes | None, *, depth: int = 8, colour: int = 2, before: Sequence[bytes] = ()) -> bytes:
    """A PNG file by hand.

    Args:
        size: width and height that it declares.
        rows: its pixels, each row with its filter byte; None: none at all.
        depth: bits a channel.
        colour: 0 grey, 2 RGB, 3 palette.
        before: chunks before the pixels.

    """
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    body = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows, 1))
    return SIGNATURE + header + b"".join(before) + body + chunk(b"IEND", b"")


def rows_of(pixels: npt.NDArray[np.generic]) -> bytes:
    """An array (H, W) or (H, W, C) as PNG rows without filters; 16 bits become big-endian."""
    values = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in values)


def four_bit(labels: Pixels) -> bytes:
    """A grey PNG of four bits a pixel: two to a byte; the width is even."""
    packed = (labels[:, ::2] << 4 | labels[:, 1::2]).astype(np.uint8)
    return png((labels.shape[1], labels.shape[0]), rows_of(packed), depth=4, colour=0)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    written = io.BytesIO()
    picture.save(written, format=kind, **options)
    return written.getvalue()


def whole(path: Path) -> Image.Image:
    """A picture of a file that is closed again."""
    with Image.open(path) as picture:
        return picture.copy()


def patched(content: bytes, place: int, new: bytes) -> bytes:
    """Other bytes at a place."""
    return content[:place] + new + content[place + len(new) :]


def flipped(content: bytes, place: int) -> bytes:
    """One byte with all its bits turned."""
    return patched(content, place, bytes([content[place] ^ 0xFF]))


def promising(kind: str, side: int) -> bytes:
    """A small file of a kind whose header declares `side` x `side` pixels."""
    small = Image.new("RGB", (8, 8))
    if kind == "PNG":
        return png((side, side), b"\0" * 64)
    if kind == "PPM":
        return f"P6 {side} {side} 255\n".encode() + b"\0" * 64
    content = encoded(small.convert("P") if kind == "GIF" else small, kind)
    if kind == "JPEG":
        return patched(content, content.index(b"\xff\xc0") + 5, struct.pack(">HH", side, side))
    if kind == "BMP":
        return patched(content, 18, struct.pack("<ii", side, side))
    if kind == "GIF":
        return patched(content, 6, struct.pack("<HH", side, side))
    assert kind == "TIFF"
    (directory,) = struct.unpack("<I", content[4:8])
    for entry in range(*_entries(content, directory)):
        if struct.unpack("<H", content[entry : entry + 2])[0] in (256, 257):  # width and length
            content = patched(content, entry + 2, struct.pack("<HII", 4, 1, side))
    return content


def _entries(content: bytes, directory: int) -> tuple[int, int, int]:
    (count,) = struct.unpack("<H", content[directory : directory + 2])
    return directory + 2, directory + 2 + 12 * count, 12


def oriented(picture: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """A picture stored so that its EXIF orientation brings back what was given."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture.transpose(stored[orientation]) if orientation in stored else picture, exif


def video(path: Path, sizes: Sequence[tuple[int, int]] = ((96, 64),), *, frames: int = 6, codec: str = "mpeg4") -> bytes:
    """Write `frames` noisy frames of each size one after another into one stream; returns the file's bytes."""
    av = _av()
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        number = 0
        for size in sizes:
            encoder = stream.codec_context if size == sizes[0] else av.CodecContext.create(codec, "w")
            if size != sizes[0]:
                encoder.width, encoder.height, encoder.pix_fmt = *size, stream.pix_fmt
            encoder.time_base, encoder.gop_size = Fraction(1, 10), 3
            for _ in range(frames):
                pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = number, encoder.time_base
                number += 1
                _mux(container, stream, encoder.encode(frame))
            _mux(container, stream, encoder.encode())
    return path.read_bytes()


def _av() -> Any:
    import av  # noqa: PLC0415 - an optional extra

    return av


def _mux(container: Any, stream: Any, packets: Sequence[Any]) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)


def sound(path: Path) -> None:
    """A film without pictures."""
    av = _av()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


Spoil = Callable[[Image.Image], bytes]
"""From a whole picture to the bytes of a file."""
