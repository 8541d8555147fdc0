"""Interrupted in every way there is, the old file or folder stays whole."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offramp import files
from offramp.errors import InputError
from offramp.files import check_replaceable, new_file, new_folder, remove_leftovers, scratch_folder, sha256_of


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    return path


@pytest.fixture
def old_folder(tmp_path):
    path = tmp_path / "package"
    path.mkdir()
    (path / "marker").write_text("old")
    (path / "part").write_text("old part")
    return path


def test_a_new_file_takes_its_name_and_the_folders_above_it(tmp_path):
    path = tmp_path / "a" / "b" / "result.json"
    with new_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["result.json"]


def test_an_old_file_is_read_until_the_new_one_is_whole(old_file):
    before = old_file.stat().st_ino
    with new_file(old_file) as temporary:
        temporary.write_text("half of the n")
        assert old_file.read_text() == "old"
        with temporary.open("a") as file:
            file.write("ew")
    assert old_file.read_text() == "half of the new"
    assert old_file.stat().st_ino != before, "renamed over the old one, not written into it"
    assert names(old_file.parent) == ["result.json"]


def test_a_failing_body_leaves_the_old_file(old_file):
    def write():
        with new_file(old_file) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert old_file.read_text() == "old"
    assert names(old_file.parent) == ["result.json"]


def test_a_body_that_writes_nothing_leaves_the_old_file(old_file):
    with pytest.raises(InputError, match=r"cannot write .*result\.json"), new_file(old_file):
        pass
    assert old_file.read_text() == "old"


def test_a_full_disk_is_told_as_an_input_error(old_file):
    def write():
        with new_file(old_file) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"result\.json: the disk is full; free some space.*No space left"):
        write()
    assert old_file.read_text() == "old"
    assert names(old_file.parent) == ["result.json"]


def test_a_file_does_not_replace_a_folder(old_folder):
    with pytest.raises(InputError, match="folder of that name exists"), new_file(old_folder):
        pytest.fail("the body ran")
    assert names(old_folder) == ["marker", "part"]


def test_a_file_below_a_file_is_an_input_error(old_file):
    with pytest.raises(InputError, match="cannot write"), new_file(old_file / "below"):
        pytest.fail("the body ran")


def test_a_new_folder_takes_its_name(tmp_path):
    path = tmp_path / "a" / "package"
    with new_folder(path, marker="marker") as folder:
        (folder / "marker").write_text("new")
        assert not path.exists()
    assert names(path) == ["marker"]
    assert names(path.parent) == ["package"]


def test_a_marked_folder_is_replaced_whole(old_folder):
    with new_folder(old_folder, marker="marker") as folder:
        (folder / "marker").write_text("new")
        assert (old_folder / "part").read_text() == "old part"
    assert names(old_folder) == ["marker"]
    assert (old_folder / "marker").read_text() == "new"
    assert names(old_folder.parent) == ["package"]


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "package").mkdir()
    with new_folder(tmp_path / "package", marker="marker") as folder:
        (folder / "marker").write_text("new")
    assert names(tmp_path / "package") == ["marker"]


def test_a_failing_body_leaves_the_old_folder(old_folder):
    def write():
        with new_folder(old_folder, marker="marker") as folder:
            (folder / "marker").write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write()
    assert (old_folder / "part").read_text() == "old part"
    assert names(old_folder.parent) == ["package"]


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(old_folder):
    # The temporary folder disappears under the writer: the old folder stands aside already when the rename fails.
    with pytest.raises(InputError, match="cannot write"), new_folder(old_folder, marker="marker") as folder:
        folder.rmdir()
    assert (old_folder / "part").read_text() == "old part"
    assert names(old_folder.parent) == ["package"]


def test_somebodys_work_is_not_replaced(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter").write_text("years")
    with pytest.raises(InputError, match="not empty and holds no marker"), new_folder(foreign, marker="marker"):
        pytest.fail("the body ran")
    assert (foreign / "chapter").read_text() == "years"


def test_a_folder_does_not_replace_a_file(old_file):
    with pytest.raises(InputError, match="file of that name exists"):
        check_replaceable(old_file, marker="marker")


@pytest.mark.parametrize("target", ["package", "nothing"])
def test_a_folder_does_not_replace_a_link(old_folder, target):
    link = old_folder.parent / "link"
    link.symlink_to(old_folder.parent / target)
    with pytest.raises(InputError, match="link of that name exists"), new_folder(link, marker="marker"):
        pytest.fail("the body ran")
    assert link.is_symlink()
    assert names(old_folder) == ["marker", "part"]
    assert names(old_folder.parent) == ["link", "package"]


KILLED = """
import os, signal, sys
from pathlib import Path
from offramp.files import new_file, new_folder

path = Path(sys.argv[1])
with new_file(path / "part") if sys.argv[2] == "file" else new_folder(path, marker="marker") as temporary:
    file = (temporary if sys.argv[2] == "file" else temporary / "part").open("w")
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_kill_in_the_middle_leaves_the_old_one(old_folder, what):
    done = subprocess.run([sys.executable, "-c", KILLED, old_folder, what], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (old_folder / "part").read_text() == "old part"
    assert (old_folder / "marker").read_text() == "old"


LADDER = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from crashes import Crash
from offramp import files

root, what = Path(sys.argv[2]), sys.argv[3]
if what == "folder in two steps":
    files._exchanged = lambda one, other: False  # as on a file system that cannot

def write(new):
    if what == "file":
        with files.new_file(root / "file") as temporary:
            temporary.write_text(new)
    else:
        with files.new_folder(root / "folder", marker="marker") as temporary:
            (temporary / "marker").write_text(new)
            (temporary / "part").write_text(new)

def read():
    target = root / what.partition(" ")[0]
    found = [target] if target.is_file() else sorted(target.iterdir()) if target.is_dir() else []
    return [path.read_text() for path in found]

def forked(work):
    if (process := os.fork()) == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

seen, number = [], 1
while True:
    write("old")
    crash = Crash(root, number)
    code = forked(lambda: (crash(), write("new")))
    left, killed = len(list(root.iterdir())), read()
    write("next")
    seen.append([code, killed, left, read(), len(list(root.iterdir()))])
    if code == 0:
        break
    number += 1
print(json.dumps(seen))
"""


@pytest.mark.parametrize("what", ["file", "folder", "folder in two steps"])
def test_a_kill_before_any_change_leaves_the_old_or_the_new_one_whole(tmp_path, what):
    reliability = Path(__file__).parents[1] / "benchmarks" / "reliability"
    command = [sys.executable, "-c", LADDER, reliability, tmp_path, what]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    parts = 1 if what == "file" else 2
    assert len(seen) >= 4, "made, renamed, removed and the end"
    for code, killed, _, after, left in seen:
        assert code in (0, -signal.SIGKILL)
        gone_aside = what == "folder in two steps" and killed == []
        assert gone_aside or killed in (["old"] * parts, ["new"] * parts)
        assert (after, left) == (["next"] * parts, 1), "the next one is whole and clears away what is left"
    assert any(left > 1 for _, _, left, _, _ in seen)
    assert sum(killed == [] for _, killed, _, _, _ in seen) == (1 if what == "folder in two steps" else 0)


def leftover(target, process, kind="tmp", machine=None):
    return target.with_name(f".{target.name}.{machine or files._machine()}-{process}-0123abcd.{kind}")


@pytest.fixture
def ended_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_killed_processes_left_of_a_target_goes_and_nothing_else(old_file, ended_process):
    alive = [leftover(old_file, process) for process in (os.getppid(), os.getpid())]
    kept = [leftover(old_file.with_name("other"), ended_process), *alive]
    for path in [*kept, leftover(old_file, ended_process)]:
        path.write_text("half")
    (old_file.parent / ".result.json.tmp").write_text("somebody's")
    with new_file(old_file) as temporary:
        temporary.write_text("new")
    assert names(old_file.parent) == sorted([".result.json.tmp", "result.json", *(path.name for path in kept)])
    remove_leftovers(old_file.parent)
    assert names(old_file.parent) == sorted([".result.json.tmp", "result.json", *(path.name for path in alive)])


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (25, False)])
def test_what_another_machine_left_is_given_up_after_a_day(old_file, ended_process, hours, stays):
    path = leftover(old_file, ended_process, machine="ffffff")
    path.mkdir()
    (path / "part").write_text("half")
    then = path.stat().st_mtime - 3600 * hours
    for one in (path / "part", path):
        os.utime(one, (then, then))
    remove_leftovers(old_file.parent)
    assert path.exists() is stays


def test_an_old_folder_that_stood_aside_is_there_again(old_folder, ended_process):
    aside = leftover(old_folder, ended_process, kind="old")
    old_folder.rename(aside)
    remove_leftovers(old_folder.parent)
    assert names(aside) == ["marker", "part"], "the only one there is"
    check_replaceable(old_folder, marker="marker")
    assert names(old_folder) == ["marker", "part"]
    assert names(old_folder.parent) == ["package"]


def test_what_cannot_be_written_is_named_as_users_know_it(tmp_path):
    def write():
        with new_folder(tmp_path / "package", marker="marker") as folder, new_file(folder / "part"):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=rf"cannot write {tmp_path}/package/part: the disk is full"):
        write()


def test_a_scratch_folder_lies_beside_its_target_and_goes(old_file):
    with scratch_folder(old_file) as scratch:
        assert scratch.parent == old_file.parent
        (scratch / "part").write_text("part")
    assert names(old_file.parent) == ["result.json"]


def test_a_scratch_folder_that_is_removed_meanwhile_is_told_as_what_was_to_be_made(tmp_path):
    def work(where):
        with scratch_folder(tmp_path / "mine" / "package") as scratch:
            shutil.rmtree(scratch if where == "scratch" else scratch.parent)
            (scratch / "part").write_text("part")

    for where in ("scratch", "parent"):
        with pytest.raises(InputError, match=rf"cannot write {tmp_path}/mine/package: No such file or directory"):
            work(where)


def test_another_file_that_is_missing_is_not_the_scratch_folders_fault(tmp_path):
    with pytest.raises(FileNotFoundError), scratch_folder(tmp_path / "package"):
        (tmp_path / "missing").read_text()


def test_sha256(tmp_path):
    # FIPS 180-2, appendix B.1.
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "long").write_bytes(bytes(3_000_000))
    assert sha256_of(tmp_path / "long") == hashlib.sha256(bytes(3_000_000)).hexdigest()


@pytest.mark.parametrize("letter", ["n", "道"])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path, letter):
    name = letter * (255 // len(letter.encode()))
    with new_file(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == [name]
