"""A run's folder, whatever comes while it is written."""

import csv
import shutil
import subprocess
import sys

import pytest

from offramp.artifacts import Frame
from offramp.errors import InputError
from offramp.runtime.outputs import TABLE, Outputs, _Table

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
