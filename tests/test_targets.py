"""Where results may go: refused before the work, and never over what is not ours."""

import json
import os
from pathlib import Path

import pytest

from offramp.errors import InputError
from offramp.targets import (
    FRONT,
    PAGE,
    RECORDS,
    json_kind,
    require_file_target,
    require_outside,
    require_own_folders,
    require_place,
)


def test_a_free_place_is_fine_and_nothing_is_left_there(tmp_path):
    require_file_target(tmp_path / "a" / "b" / "here.profile", json_kind("profile"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("indent", [None, 1, 2, 4])
def test_an_older_artifact_of_the_kind_may_be_replaced_and_no_other(tmp_path, indent):
    path = tmp_path / "made"
    path.write_text(json.dumps({"kind": "profile", "format": 1}, indent=indent, separators=None if indent else (",", ":")))
    require_file_target(path, json_kind("profile"))
    with pytest.raises(InputError, match=r"will not replace .*made: it is not a deployment; choose another name"):
        require_file_target(path, json_kind("deployment"))
    with pytest.raises(InputError, match="it is not an answer"):
        require_file_target(path, json_kind("answer"))


@pytest.mark.parametrize("kind", [RECORDS, PAGE, FRONT, json_kind("profile")], ids=lambda kind: kind.name)
def test_somebodys_file_stays_and_an_empty_one_may_go(tmp_path, kind):
    path = tmp_path / "street.png"
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=f"will not replace .*street.png: it is not {kind.name}"):
        require_file_target(path, kind)
    path.write_bytes(b"")
    require_file_target(path, kind)


def test_a_folder_a_pipe_and_a_device_are_no_files(tmp_path):
    with pytest.raises(InputError, match="a folder of that name exists"):
        require_file_target(tmp_path, PAGE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a device or pipe of that name exists"):
        require_file_target(tmp_path / "pipe", PAGE)


def test_a_place_below_a_file_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is no folder; choose another name"):
        require_place(tmp_path / "file" / "below" / "that")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux alone has /proc")
def test_a_place_where_nothing_can_be_written_is_none():
    with pytest.raises(InputError, match=r"cannot write /proc/result: .*; check the folder, its rights and the space left"):
        require_place(Path("/proc/result"))


def test_folders_that_are_not_of_a_result_are_not_lost_with_it(tmp_path):
    require_own_folders(tmp_path / "free")
    (tmp_path / "train").mkdir()
    require_own_folders(tmp_path, ("train",))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="the folder mine in it would be lost"):
        require_own_folders(tmp_path, ("train",))


def test_a_result_goes_outside_of_what_it_is_made_from(tmp_path):
    require_outside(tmp_path / "packages" / "small", tmp_path / "package", "package")
    with pytest.raises(InputError, match=r"will not write .*small inside the package"):
        require_outside(tmp_path / "package" / "a" / ".." / "small", tmp_path / "package", "package")
