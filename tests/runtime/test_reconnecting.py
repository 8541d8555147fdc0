"""Sources that are lost and come back: scripted ones, and a real stream whose sender is killed and started again."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from threading import Thread

import numpy as np
import pytest

from offramp.artifacts import RunLog, load_json
from offramp.errors import InputError
from offramp.runtime import reconnecting
from offramp.runtime.outputs import RUN_LOG
from offramp.runtime.predictor import Predictor
from offramp.runtime.reconnecting import Reconnecting
from offramp.runtime.sources import open_source
from offramp.runtime.stream import run

PIXELS = np.zeros((4, 4, 3), np.uint8)
UNPLUGGED = InputError("unplugged")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(reconnecting, "RETRY_SECONDS", 0.02)


def scripted(*parts):
    """A source that is opened again and again; each part is how many frames it gives, and the error that ends it or None."""
    opened = []

    def frames(timeouts):
        opened.append(timeouts)
        count, error = parts[min(len(opened), len(parts)) - 1]
        yield from ((PIXELS, 0.1 * number) for number in range(count))
        if error:
            raise error

    return frames, opened


def test_what_is_lost_is_opened_again_and_its_clock_goes_on():
    frames, opened = scripted((3, UNPLUGGED), (0, UNPLUGGED), (0, None), (2, UNPLUGGED), (1, None), (0, None))
    said = []
    source = Reconnecting("camera", frames, 0.2, said.append)
    seconds = [at for _, at in source]
    assert len(seconds) == 6
    assert seconds[:3] == pytest.approx([0.0, 0.1, 0.2])
    # The scripted source gives its frames at once, so its clock after a loss may be behind that of the frames before it.
    assert seconds[3] >= 3 * 0.02
    assert seconds[4] == pytest.approx(seconds[3] + 0.1)
    assert source.reconnected == 2
    assert len(opened) > 6, "it is tried again for 0.2 s after its end"
    assert said[:2] == ["camera is lost (unplugged); it is tried again for 0.2 s", "camera is back"]
    assert said[2] == "camera is lost (unplugged); it is tried again for 0.2 s"
    assert said[4] == "camera is lost (it ended); it is tried again for 0.2 s"


def test_what_does_not_come_back_is_an_error_after_so_long():
    frames, opened = scripted((2, UNPLUGGED), (0, InputError("not there")))
    began = time.monotonic()
    got = []
    with pytest.raises(InputError, match=r"unplugged; it did not come back within 0\.15 s"):
        got.extend(Reconnecting("camera", frames, 0.15))
    assert 0.15 <= time.monotonic() - began < 5
    assert 3 <= len(opened) <= 10


def test_what_ended_without_an_error_and_does_not_come_back_has_ended():
    frames, _ = scripted((2, None), (0, InputError("refused")))
    assert len(list(Reconnecting("camera", frames, 0.1))) == 2


@pytest.mark.parametrize(("patience", "parts"), [(0.0, [(2, UNPLUGGED)]), (60.0, [(0, UNPLUGGED)])])
def test_without_patience_or_a_first_frame_an_error_is_passed_on(patience, parts):
    frames, opened = scripted(*parts)
    with pytest.raises(InputError, match=r"^unplugged$"):
        list(Reconnecting("camera", frames, patience))
    assert len(opened) == 1


def test_who_is_patient_waits_for_no_frame_without_end():
    frames, opened = scripted((1, UNPLUGGED), (0, UNPLUGGED))
    with pytest.raises(InputError):
        list(Reconnecting("camera", frames, 0.1))
    assert opened[0] == (None, reconnecting.SILENT_SECONDS), "a sender may come as late as it likes"
    assert all(0 < timeouts[0] <= 0.1 for timeouts in opened[1:])
    frames, opened = scripted((1, None))
    list(Reconnecting("camera", frames, 0.0))
    assert opened == [(None, None)], "who is not waits as long as it takes"


def test_closing_ends_the_wait():
    frames, _ = scripted((1, UNPLUGGED), (0, UNPLUGGED))
    source = Reconnecting("camera", frames, 3600.0)
    iterator = iter(source)
    next(iterator)
    waiting = Thread(target=lambda: list(iterator), daemon=True)
    waiting.start()
    source.close()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_that_make_no_sense_are_refused(seconds):
    with pytest.raises(InputError, match="for some seconds"):
        open_source("tcp://127.0.0.1:1", reconnect_s=seconds)


def test_a_file_does_not_come_back(tmp_path):
    with pytest.raises(InputError, match=r"only a camera or an address.*leave --reconnect away"):
        open_source(tmp_path / "drive.mp4", reconnect_s=5.0)


# ------------------------------------------------------------------------------------------------------------ real streams

SEND = """
import sys, time
from fractions import Fraction
import av, numpy as np

address, level = sys.argv[1], int(sys.argv[2])

def send():
    with av.open(address, "w", format="mpegts", options={"flush_packets": "1"}) as there:
        stream = there.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 5
        for number in range(5000):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                there.mux(packet)
            time.sleep(0.01)

for attempt in range(500):
    try:
        send()
        break
    except (ConnectionRefusedError, FileNotFoundError):
        time.sleep(0.02)
"""


@contextlib.contextmanager
def sender(address, level):
    with subprocess.Popen([sys.executable, "-c", SEND, address, str(level)], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def addresses(kind, tmp_path):
    """Where a stream is read, and where it is sent to."""
    if kind == "fifo":
        os.mkfifo(tmp_path / "camera.ts")
        return f"file://{tmp_path}/camera.ts", str(tmp_path / "camera.ts")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = f"{kind}://127.0.0.1:{free.getsockname()[1]}"
    return (f"{address}?listen=1" if kind == "tcp" else address), address


@pytest.mark.parametrize("kind", ["tcp", "udp", "fifo"])
def test_a_stream_whose_sender_is_killed_goes_on_with_the_next_sender(package, tmp_path, monkeypatch, kind):
    pytest.importorskip("av")
    monkeypatch.setattr(reconnecting, "SILENT_SECONDS", 0.5)
    here, there = addresses(kind, tmp_path)
    predictor = Predictor(package, threads=1, mode="anytime")
    said, levels, out = [], [], tmp_path / "out"

    def seen(what, done, _total):
        if done >= 5 and "first" in senders:
            senders.pop("first").kill()
        elif "times reconnected" in what:
            levels.append(what)
            if len(levels) == 5:
                raise KeyboardInterrupt

    with sender(there, 60) as first, contextlib.ExitStack() as later:
        senders = {"first": first}

        def line(text):
            said.append(text)
            if "is lost" in text:
                later.enter_context(sender(there, 200))

        log = run(here, predictor, out, reconnect_s=60.0, overlays="none", progress=seen, line=line)
    assert (log.reconnected, log.live, log.interrupted) == (1, True, True)
    assert [text.split(" is ")[1][:4] for text in said] == ["lost", "back"]
    names = [frame.name for frame in log.frames]
    assert names == sorted(set(names)), "numbers go on, no label map is written over"
    assert len(names) >= 10
    assert load_json(out / RUN_LOG, RunLog) == log


def test_without_reconnecting_a_stream_that_ends_ends_the_run(package, tmp_path):
    predictor = Predictor(package, threads=1, mode="anytime")
    here, there = addresses("fifo", tmp_path)
    with sender(there, 60) as process:

        def seen(_what, done, _total):
            if done == 3:
                process.kill()

        log = run(here, predictor, tmp_path / "out", overlays="none", progress=seen)
    assert len(log.frames) >= 3
    assert log.reconnected == 0
