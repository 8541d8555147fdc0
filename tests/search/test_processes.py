"""Processes that share a search end with the one that began it."""

import os
import signal
import subprocess
import sys
import time

SEARCHING = """
import os, time
from offramp.search.processes import in_processes
from offramp.search.staircase import Staircase

class Slow:
    def judge(self, index, stairs):
        with open(os.environ["BEGUN"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.2)
        return None, 0

if __name__ == "__main__":
    stairs = Staircase(1, 2, images=1, classes=1, miou_off=0, latency_off=0)
    in_processes(Slow(), 2, stairs, 2, lambda index, found: time.sleep(60))
"""


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_they_end_where_the_first_is_killed(tmp_path):
    script, begun = tmp_path / "searching.py", tmp_path / "begun"
    script.write_text(SEARCHING)
    with subprocess.Popen([sys.executable, script], env={**os.environ, "BEGUN": str(begun)}) as first:
        until = time.monotonic() + 60
        while time.monotonic() < until and (not begun.exists() or len(begun.read_text().split()) < 2):
            time.sleep(0.05)
        workers = {int(line) for line in begun.read_text().split()}
        assert workers
        assert all(alive(worker) for worker in workers)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    until = time.monotonic() + 10
    while time.monotonic() < until and any(alive(worker) for worker in workers):
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)
