"""The command line where standard streams, the environment or the folder that it stands in are odd; each in a real process."""

import json
import os
import shutil
import subprocess
import sys

import pytest

OFFRAMP = (sys.executable, "-m", "offramp")


def offramp(*words, **options):
    return subprocess.run([*OFFRAMP, *map(str, words)], check=False, timeout=120, **options)


def test_nobody_reads_on(scenes):
    reading, writing = os.pipe()
    os.close(reading)
    done = offramp("data", "check", scenes, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 141
    assert set(done.stderr.split(b"\n")) == {b"check train  8/8  done", b"check val  2/2  done", b"check test  2/2  done", b""}


def test_closed_streams(scenes):
    command = f'"{sys.executable}" -m offramp data check "{scenes}"'
    assert subprocess.run(["sh", "-c", f"{command} >&- 2>&- <&-"], check=False, timeout=120).returncode == 0


def test_names_beyond_ascii_where_the_terminal_knows_none(scenes, tmp_path):
    data = tmp_path / "straße"
    shutil.copytree(scenes, data)
    classes = json.loads((data / "classes.json").read_text())
    classes["classes"][0] = "Himmel ☁"
    (data / "classes.json").write_text(json.dumps(classes))
    odd = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "TERM": "dumb", "COLUMNS": "1", "TZ": "Nowhere/Odd"}
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | odd
    done = offramp("data", "check", data, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="other systems keep a folder that somebody stands in")
def test_a_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && "{sys.executable}" -m offramp data draw drawn --images 3 --size 64x48'
    done = subprocess.run(["sh", "-c", command], check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("offramp: cannot write drawn: No such file or directory"), done.stderr
