"""Images on their way in and label maps on their way back."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from offramp.errors import InputError
from offramp.runtime.images import as_pixels, enlarged, fit, resize_labels

SIDE = st.integers(1, 40)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 2**32 - 1))
def test_fitting_keeps_size_range_and_what_is_even(width, height, to_width, to_height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = fit(pixels, (to_width, to_height))
    assert fitted.shape == (to_height, to_width, 3)
    for channel in range(3):
        assert pixels[..., channel].min() <= fitted[..., channel].min()
        assert fitted[..., channel].max() <= pixels[..., channel].max()
    assert fit(pixels, (width, height)) is pixels
    even = np.broadcast_to(pixels[0, 0], pixels.shape)
    np.testing.assert_array_equal(
        fit(np.ascontiguousarray(even), (to_width, to_height)), np.broadcast_to(pixels[0, 0], fitted.shape)
    )
    # Mirrored before is mirrored after.
    np.testing.assert_array_equal(fit(np.ascontiguousarray(pixels[:, ::-1]), (to_width, to_height))[:, ::-1], fitted)


def test_enlarged_labels_stand_where_their_pixels_do():
    labels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    np.testing.assert_array_equal(enlarged(labels, 2, (3, 5)), [[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]])
    assert enlarged(labels, 1, (2, 3)) is labels


@settings(max_examples=40, derandomize=True, deadline=None)
@given(SIDE, SIDE, st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_enlarged_labels_repeat_each_cell_and_are_cut(width, height, stride, seed):
    labels = np.random.default_rng(seed).integers(0, 256, (-(-height // stride), -(-width // stride)), dtype=np.uint8)
    full = enlarged(labels, stride, (height, width))
    assert full.shape == (height, width)
    assert all(full[y, x] == labels[y // stride, x // stride] for y in range(height) for x in range(width))


def test_pil_images_are_read_as_files_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.array([[0, 25_700], [65_535, 257]], np.uint16))
    deep.save(tmp_path / "x.png", exif=exif)
    read = as_pixels(tmp_path / "x.png")
    assert read[..., 0].tolist() == [[255, 0], [1, 100]]
    np.testing.assert_array_equal(as_pixels(Image.open(tmp_path / "x.png")), read)
    with pytest.raises(InputError, match="has no pixels: it is 0x9"):
        as_pixels(Image.new("RGB", (0, 9)))
    cut = (tmp_path / "x.png").read_bytes()[:-30]
    with pytest.raises(InputError, match="cannot read the image given"):
        as_pixels(Image.open(io.BytesIO(cut)))


def test_labels_at_another_resolution():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    assert resize_labels(labels, (2, 2)) is labels
    assert resize_labels(labels, (2, 4)).tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert resize_labels(labels, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
