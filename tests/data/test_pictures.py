"""Pictures written by hand and by chance, and what must be read from them; what promises too much is not decoded."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from offramp.data import pictures
from offramp.data.pictures import decode_image, load_image, pixels_of
from offramp.errors import InputError

FEW = settings(max_examples=40, derandomize=True, deadline=None)
SIDES = st.integers(1, 9)
COLOURS = st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.uint8, (*size, 3)))
NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind, **options)
    return written.getvalue()


def decoded(content):
    return decode_image(io.BytesIO(content), "x")


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def assert_refused_or_whole(content):
    try:
        pixels = decoded(content)
    except InputError:
        return
    np.testing.assert_array_equal(pixels, NOISE)


def black_png(side):
    """One bit a pixel: a small file, whole, of any size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(side * (1 + -(-side // 8))), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@FEW
@given(COLOURS)
def test_whatever_is_written_without_loss_is_read_again(pixels):
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decoded(encoded(pixels, kind)), pixels)
    np.testing.assert_array_equal(decoded(encoded(pixels, "WEBP", lossless=True)), pixels)
    np.testing.assert_array_equal(pixels_of(Image.fromarray(pixels), "x"), pixels)


@FEW
@given(st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.uint16, size)))
def test_16_bits_are_rounded_to_8(deep):
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decoded(encoded(deep)), expected[..., None].repeat(3, axis=2))


# How a picture is stored whose EXIF orientation brings it back, by rows and columns alone.
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: shown.swapaxes(0, 1)[::-1],
    7: lambda shown: shown.swapaxes(0, 1)[::-1, ::-1],
    8: lambda shown: shown.swapaxes(0, 1)[:, ::-1],
}


@FEW
@given(COLOURS, st.sampled_from(sorted(STORED)), st.sampled_from(["PNG", "TIFF"]))
def test_exif_orientations_bring_back_what_is_shown(shown, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](shown))
    content = encoded(stored, kind, exif=exif)
    np.testing.assert_array_equal(decoded(content), shown)
    np.testing.assert_array_equal(pixels_of(Image.open(io.BytesIO(content)), "x"), shown)


@FEW
@given(st.data())
def test_a_changed_byte_of_a_png_never_changes_its_pixels_in_silence(data):
    content = bytearray(encoded(NOISE))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert_refused_or_whole(bytes(content))


@FEW
@given(st.data())
def test_a_png_that_is_cut_off_is_refused_wherever_pixels_are_missing(data):
    content = encoded(NOISE)
    assert_refused_or_whole(content[: data.draw(st.integers(0, len(content) - 1))])


@FEW
@given(st.data(), st.sampled_from(["JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "PNG"]))
def test_damage_of_any_kind_ends_with_pixels_or_with_an_input_error(data, kind):
    content = bytearray(encoded(NOISE, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        pixels = decoded(bytes(content))
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_an_exif_segment_that_makes_no_sense_is_passed_over():
    for segment in (b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0", b"MM\0*\x7f\xff\xff\xff", b"nothing"):
        content = encoded(NOISE)
        begin = content.index(b"IDAT") - 4
        np.testing.assert_array_equal(decoded(content[:begin] + chunk(b"eXIf", segment) + content[begin:]), NOISE)


def test_load_image_turns_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: rotate by 90 degrees to the right.
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    image[0, 0] = (255, 255, 255)
    Image.fromarray(image).save(tmp_path / "x.png", exif=exif)
    turned = load_image(tmp_path / "x.png")
    assert turned.shape == (3, 2, 3)
    assert np.argwhere(turned[..., 0]).tolist() == [[0, 1]]


def test_load_image_scales_16_bit_grey(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100 + 100, 65535]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


def test_load_image_drops_alpha(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png")[0, 0].tolist() == [10, 20, 30]


def test_load_image_reads_palettes_with_transparency(tmp_path):
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "x.png", transparency=bytes([255, 128]))
    assert load_image(tmp_path / "x.png")[0, 0].tolist() == [10, 20, 30]


def test_load_image_reads_cmyk_and_bilevel(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    red, green, blue = load_image(tmp_path / "x.jpg")[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15
    Image.new("1", (2, 2), 1).save(tmp_path / "y.png")
    assert load_image(tmp_path / "y.png")[0, 0].tolist() == [255, 255, 255]


def test_load_image_refuses_floats(tmp_path):
    Image.new("F", (2, 2), 0.5).save(tmp_path / "x.tiff")
    with pytest.raises(InputError, match=r"x\.tiff holds floating-point numbers"):
        load_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_load_image_names_a_truncated_file(tmp_path, kind):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, kind)
    for length in (0, 10, len(whole.getvalue()) // 2):
        (tmp_path / "broken").write_bytes(whole.getvalue()[:length])
        with pytest.raises(InputError, match=r"cannot read the image .*broken"):
            load_image(tmp_path / "broken")


def test_load_image_names_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the image .*gone\.png"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot read the image"):
        load_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="rights do not bind this user")
def test_load_image_names_a_file_without_rights(tmp_path):
    path = save(tmp_path / "x.png", NOISE)
    path.chmod(0)
    with pytest.raises(InputError, match="cannot read the image"):
        load_image(path)


def test_load_image_refuses_decompression_bombs(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", np.zeros((20, 20), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"x\.png.*decompression bomb"):
        load_image(path)


def test_the_size_is_judged_by_the_header_with_its_figures(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 16 * 12 - 1)
    with pytest.raises(InputError, match=r"the image x is too large: it says that it has 16x12 pixels"):
        decoded(encoded(NOISE))
    with pytest.raises(InputError, match="16x12"):
        pixels_of(Image.fromarray(NOISE), "x")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 16 * 12)
    assert decoded(encoded(NOISE)).shape == (12, 16, 3)


REFUSES = """
import sys
from pathlib import Path
from offramp.data.labels import LabelCode
from offramp.data.pictures import load_image
from offramp.errors import InputError
from offramp.profiling import peak_memory_bytes
large, small = map(Path, sys.argv[1:])
code = LabelCode({0: 0}, {})
load_image(small), code.decode(small)
before = peak_memory_bytes()
for read in (load_image, code.decode):
    try:
        read(large)
    except InputError as error:
        assert "12000x12000" in str(error)
    else:
        raise AssertionError
print(peak_memory_bytes() - before)
"""


def test_no_memory_is_taken_for_what_is_too_large(tmp_path):
    (tmp_path / "large.png").write_bytes(black_png(12_000))
    (tmp_path / "small.png").write_bytes(black_png(40))
    words = [sys.executable, "-c", REFUSES, str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    grown = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    # Its pixels would be 144 MB as stored, and 576 MB as RGB.
    assert grown < 20_000_000


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for name, reason in (("pipe.png", "a pipe"), ("zero.png", "device"), ("gone.png", r"link to nowhere\.png, which")):
        with pytest.raises(InputError, match=rf"{name.replace('.', '[.]')}.*{reason}"):
            load_image(tmp_path / name)


def test_formats_that_start_other_programs_are_not_read(tmp_path):
    save(tmp_path / "x.eps", NOISE)
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"no whole file of a kind that is read .*%!PS"):
        load_image(tmp_path / "x.png")


def test_warnings_of_pillow_are_neither_errors_nor_lost_to_others(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 192 pixels: a warning, which pytest makes an error
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decoded(encoded(NOISE)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    np.testing.assert_array_equal(decoded(encoded(NOISE)), NOISE)
