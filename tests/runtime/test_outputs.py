"""Label maps as they are written, read again: by values, and as labels of a dataset with the same palette."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from offramp.artifacts import Frame
from offramp.data.labels import LabelCode
from offramp.runtime.outputs import Outputs
from offramp.runtime.predictor import Answer
from offramp.runtime.sources import Shot

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def label_maps(draw):
    """A label map of 2 to 255 classes and their palette of distinct colours."""
    classes = draw(st.integers(2, 255))
    labels = draw(SIZES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, classes - 1))))
    return labels, [(index, (index * 7) % 256, 255 - index) for index in range(classes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@settings(max_examples=40, derandomize=True, deadline=None)
@given(made=label_maps())
def test_label_maps_are_read_as_they_were_written(folder, made):
    labels, palette = made
    outputs = Outputs(folder / "out", ("final",), palette, "none")
    answer = Answer(labels, np.zeros((0, 0), np.float32), "final", {}, {}, 1.0)
    frame = Frame(name="a", exit="final", scores={}, steps_ms={}, latency_ms=1.0)
    outputs.write(Shot("a", np.zeros((*labels.shape, 3), np.uint8), 0.0), answer, frame)
    outputs.close()
    (folder / "out" / "run-log.json").write_text("{}")  # so that the folder is an earlier run's
    path = folder / "out" / "labels" / "a.png"
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.array(palette, np.uint8)[labels])
    code = LabelCode({index: index for index in range(len(palette))}, {colour: index for index, colour in enumerate(palette)})
    read, unknown = code.decode(path)
    np.testing.assert_array_equal(read, labels)
    assert unknown == []
