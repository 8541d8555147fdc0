"""Label files by chance: whatever is written as PNG is read as the same classes, or what means nothing is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from offramp.data.labels import LabelCode
from offramp.data.pictures import load_image
from offramp.errors import InputError

FEW = settings(max_examples=40, derandomize=True, deadline=None)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
PALETTE = ((10, 20, 30), (40, 50, 60), (70, 80, 90), (0, 0, 0))
CODE = LabelCode(values={0: 0, 1: 1, 2: 2, 7: 255, 300: 1}, colours=dict(zip(PALETTE, (0, 1, 2, 255), strict=True)))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("labels") / "x.png"


def save(path, pixels, mode=None, **options):
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def meant(raw):
    """By the dictionary, value by value."""
    return [[CODE.values.get(value, 255) for value in row] for row in raw.tolist()]


def unknown(raw):
    return [str(value) for value in sorted({value for row in raw.tolist() for value in row} - CODE.values.keys())]


@FEW
@given(raw=st.sampled_from([np.uint8, np.uint16]).flatmap(lambda kind: SIZES.flatmap(lambda size: arrays(kind, size))))
def test_values_of_8_and_16_bits_are_read_by_their_meaning(file, raw):
    labels, nameless = CODE.decode(save(file, raw))
    assert labels.dtype == np.uint8
    assert labels.tolist() == meant(raw)
    assert nameless == unknown(raw)


@FEW
@given(raw=SIZES.flatmap(lambda size: arrays(np.int64, size, elements=st.sampled_from([0, 1, 2, 7, 300, 301, 65535]))))
def test_values_that_mean_something_are_among_those_that_do_not(file, raw):
    labels, nameless = CODE.decode(save(file, raw.astype(np.uint16)))
    assert labels.tolist() == meant(raw)
    assert nameless == unknown(raw)


@FEW
@given(raw=SIZES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 3))))
def test_colours_are_read_through_the_palette(file, raw):
    expected = np.array([0, 1, 2, 255], np.uint8)[raw]
    colours = np.array(PALETTE, np.uint8)[raw]
    for picture in (Image.fromarray(colours), Image.fromarray(colours).convert("RGBA")):
        picture.save(file)
        labels, nameless = CODE.decode(file)
        np.testing.assert_array_equal(labels, expected)
        assert nameless == []


@FEW
@given(raw=SIZES.flatmap(lambda size: arrays(np.uint8, (*size, 3))))
def test_colours_that_mean_nothing_are_named(file, raw):
    labels, nameless = CODE.decode(save(file, raw))
    seen = {tuple(colour) for row in raw.tolist() for colour in row}
    assert nameless == sorted(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in seen - CODE.colours.keys())
    assert labels.tolist() == [[CODE.colours.get(tuple(colour), 255) for colour in row] for row in raw.tolist()]


@FEW
@given(raw=SIZES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 2))), turn=st.integers(1, 8))
def test_labels_are_turned_as_their_image_is(file, raw, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    save(file, raw, exif=exif)
    labels, _ = CODE.decode(file)
    np.testing.assert_array_equal(labels, load_image(file)[..., 0])


@FEW
@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_changed_byte_never_changes_labels_in_silence(file, place, change):
    raw = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    written = io.BytesIO()
    Image.fromarray(raw).save(written, "PNG")
    content = bytearray(written.getvalue())
    content[place % len(content)] ^= change
    file.write_bytes(content)
    try:
        labels, _ = CODE.decode(file)
    except InputError:
        return
    np.testing.assert_array_equal(labels, raw)


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1, 1, 0]), (2, [0, 1, 2, 1]), (4, [0, 7, 2, 1])])
def test_few_bits_hold_values_and_no_shades(file, depth, values):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))
    assert CODE.decode(file) == (pytest.approx(np.array([[CODE.values[value] for value in values]])), [])


def with_palette(path, raw, palette):
    picture = Image.fromarray(np.array(raw, np.uint8), mode="P")
    picture.putpalette([channel for colour in palette for channel in colour])
    picture.save(path)
    return path


def test_a_palette_in_another_order_than_the_classes_is_refused(file):
    with pytest.raises(InputError, match=r"value 0 in the colour #28323c, that of another class.*order of the classes"):
        CODE.decode(with_palette(file, [[0, 1]], [PALETTE[1], PALETTE[0]]))


@pytest.mark.parametrize(
    "palette",
    [
        PALETTE[:3],
        [(0, 0, 0), (1, 1, 1), (2, 2, 2)],  # of no class
        [PALETTE[1], PALETTE[1], PALETTE[1]],  # one colour for all
        [PALETTE[1], PALETTE[0], (1, 2, 3)],  # of classes by chance, and of none
    ],
)
def test_palettes_that_are_for_show_change_nothing(file, palette):
    labels, nameless = CODE.decode(with_palette(file, [[0, 1, 2]], palette))
    assert labels.tolist() == [[0, 1, 2]]
    assert nameless == []


def test_the_palette_of_a_single_class_changes_nothing(file):
    labels, _ = CODE.decode(with_palette(file, [[0, 0, 7]], [PALETTE[1]] + [(9, 9, 9)] * 7))
    assert labels.tolist() == [[0, 0, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_labels_are_png_alone(file, kind):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, kind)
    with pytest.raises(InputError, match=r"label file .*x\.png: it is no whole PNG file"):
        CODE.decode(file)


def test_decode_marks_unknown_values_as_void(tmp_path):
    path = save(tmp_path / "x.png", np.array([[5, 6, 9, 200]], dtype=np.uint8))
    labels, unknown = LabelCode({5: 0, 9: 1, 4: 255}, {}).decode(path)
    assert labels.tolist() == [[0, 255, 1, 255]]
    assert unknown == ["6", "200"]
