"""A run's folder, whatever comes while it is written; label maps as they are written, read again."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from offramp.artifacts import Frame
from offramp.data.labels import LabelCode
from offramp.errors import InputError
from offramp.runtime.answers import Answer
from offramp.runtime.outputs import TABLE, Outputs, _Table
from offramp.runtime.sources import Shot

TORN = """
import resource, sys
from pathlib import Path
from offramp.errors import InputError
from offramp.runtime.outputs import _Table

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
table = _Table(Path(sys.argv[1]))
try:
    for number in range(100):
        table.write([f"frame-{number:04d}", "a, b"])
except InputError as error:
    print(error)
"""


def test_a_table_that_cannot_grow_ends_with_a_whole_line(tmp_path):
    path = tmp_path / TABLE
    said = subprocess.run([sys.executable, "-c", TORN, path], check=True, capture_output=True, text=True, timeout=60).stdout
    assert f"cannot write {path}: a file may not be that large here" in said
    # A line has 19 bytes: the sixth would not fit.
    assert path.read_bytes() == b"".join(f'frame-{number:04d},"a, b"\r\n'.encode() for number in range(5))


def test_a_removed_table_is_not_written_on(tmp_path):
    table = _Table(tmp_path / "out" / TABLE)
    table.write(["name"])
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(InputError, match="was removed while it was being written"):
        table.write(["frame"])
    table.close()


def test_the_folder_of_a_run_that_was_killed_at_its_first_frame_is_a_runs(tmp_path):
    outputs = Outputs(tmp_path, ("final",), [(0, 0, 0)], "none")
    outputs._begun()
    outputs.close()
    (tmp_path / "labels").mkdir()
    again = Outputs(tmp_path, ("final",), [(0, 0, 0)], "none")
    row = again._row(Frame(name="a", exit="final", scores={}, steps_ms={}, latency_ms=1.0))
    again._begun().write(row)
    again.close()
    with (tmp_path / TABLE).open(newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == ["a"]


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
