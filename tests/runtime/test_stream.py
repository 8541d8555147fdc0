"""Images, folders and videos in; label maps, overlays and a run log out."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from threading import Event

import numpy as np
import pytest
from PIL import Image

from offramp.artifacts import RunLog, load_json, run_log
from offramp.data import pictures
from offramp.errors import InputError
from offramp.runtime.outputs import OVERLAYS, RUN_LOG, TABLE
from offramp.runtime.predictor import Predictor
from offramp.runtime.sources import Newest, Shot, open_source
from offramp.runtime.stream import run


@pytest.fixture(scope="module")
def predictor(package):
    return Predictor(package, threads=1, mode="anytime")


def pixels(seed, size=(96, 64)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images, written in another order than that of their names; one has another size."""
    path = tmp_path / "camera"
    path.mkdir()
    for seed, name, size in ((0, "c.png", (96, 64)), (1, "a.bmp", (70, 50)), (2, "b.PNG", (96, 64))):
        Image.fromarray(pixels(seed, size)).save(path / name)
    (path / "notes.txt").write_text("not an image")
    (path / "._a.jpg").write_bytes(b"what some systems leave beside a file")
    return path


def written(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def labels_of(path):
    with Image.open(path) as picture:
        return picture.mode, np.array(picture), picture.getpalette()


def test_an_image(predictor, tmp_path):
    Image.fromarray(pixels(5)).save(tmp_path / "scene.png")
    log = run(tmp_path / "scene.png", predictor, tmp_path / "out")
    assert written(tmp_path / "out") == ["labels/scene.png", "overlays/scene.jpg", TABLE, RUN_LOG]
    assert [frame.name for frame in log.frames] == ["scene"]


def test_a_folder_in_the_order_of_its_names(predictor, folder, tmp_path):
    told = []
    out = tmp_path / "out"
    log = run(folder, predictor, out, progress=lambda *step: told.append(step))
    assert written(out) == [
        *(f"labels/{name}.png" for name in "abc"),
        *(f"overlays/{name}.jpg" for name in "abc"),
        TABLE,
        RUN_LOG,
    ]
    assert [frame.name for frame in log.frames] == ["a", "b", "c"]
    assert [(done, total) for _, done, total in told] == [(1, 3), (2, 3), (3, 3)]
    assert load_json(out / RUN_LOG, RunLog) == log
    assert (log.package_id, log.mode, log.exits) == (predictor.manifest.package_id, "anytime", predictor.exits)


def test_label_files_are_palette_pngs_of_the_predictors_labels(predictor, folder, tmp_path):
    run(folder, predictor, tmp_path / "out")
    palette = [channel for colour in predictor.manifest.palette for channel in colour]
    for name, file in (("a", "a.bmp"), ("b", "b.PNG"), ("c", "c.png")):
        mode, labels, colours = labels_of(tmp_path / "out" / "labels" / f"{name}.png")
        assert mode == "P"
        assert colours[: len(palette)] == palette
        np.testing.assert_array_equal(labels, predictor(folder / file).labels)


def test_overlays_mix_image_and_colours(predictor, folder, tmp_path):
    run(folder, predictor, tmp_path / "out")
    image = np.asarray(Image.open(folder / "c.png")).astype(float)
    colours = np.array(predictor.manifest.palette, float)[predictor(folder / "c.png").labels]
    with Image.open(tmp_path / "out" / "overlays" / "c.jpg") as picture:
        got = np.asarray(picture).astype(float)
    # JPEG loses detail of noise, not the mean of 8x8 pixels.
    blocks = [array.reshape(8, 8, 12, 8, 3).mean(axis=(1, 3)) for array in (got, (image + colours) / 2)]
    np.testing.assert_allclose(*blocks, atol=6)


def test_the_run_log_tells_steps_and_deadlines(predictor, folder, tmp_path):
    first = predictor.exits[0]
    log = run(folder, predictor, tmp_path / "out", deadline_ms=1e-6)
    for frame in log.frames:
        assert list(frame.steps_ms) == ["stage 0", f"head {first}", f"labels {first}"]
        assert 0 < sum(frame.steps_ms.values()) <= frame.latency_ms
        assert (frame.exit, frame.deadline_ms, frame.met) == (first, 1e-6, False)
    late = run(folder, predictor, tmp_path / "out", deadline_ms=600_000)
    assert [(frame.exit, frame.met) for frame in late.frames] == [("final", True)] * 3
    assert load_json(tmp_path / "out" / RUN_LOG, RunLog) == late, "an earlier run's folder is written into again"


def test_a_broken_image_does_not_cost_the_answers_before_it(predictor, folder, tmp_path):
    (folder / "b.PNG").write_bytes((folder / "b.PNG").read_bytes()[:200])
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"b\.PNG.*; frames answered before: 1, all in .*out"):
        run(folder, predictor, out)
    assert written(out) == ["labels/a.png", "overlays/a.jpg", TABLE, RUN_LOG]
    assert [frame.name for frame in load_json(out / RUN_LOG, RunLog).frames] == ["a"]


def test_an_interruption_does_not_cost_the_answers_before_it(predictor, folder, tmp_path):
    def interrupt(_, done, __):
        if done == 2:
            raise KeyboardInterrupt

    log = run(folder, predictor, tmp_path / "out", progress=interrupt)
    assert log.interrupted
    assert load_json(tmp_path / "out" / RUN_LOG, RunLog) == log
    assert [frame.name for frame in log.frames] == ["a", "b"]
    assert [row["name"] for row in table(tmp_path / "out")] == ["a", "b"]


def test_an_interruption_before_the_first_answer_is_passed_on(predictor, folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(folder, predictor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def table(out):
    with (out / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_line_for_every_frame_as_soon_as_it_is_answered(predictor, folder, tmp_path):
    seen = []
    out = tmp_path / "out"
    log = run(folder, predictor, out, deadline_ms=600_000, progress=lambda *_: seen.append(len(table(out))))
    assert seen == [1, 2, 3]
    for row, frame in zip(table(out), log.frames, strict=True):
        assert (row["name"], row["exit"], row["met"]) == (frame.name, frame.exit, "True")
        assert float(row["latency_ms"]) == pytest.approx(frame.latency_ms, abs=1e-3)
        assert float(row["seconds"]) == pytest.approx(frame.seconds, abs=1e-3)
    assert 0 < log.frames[0].seconds < log.frames[1].seconds < log.frames[2].seconds


def test_the_table_holds_the_time_of_every_step(predictor, folder, tmp_path):
    first, *_, last = predictor.exits
    log = run(folder, predictor, tmp_path / "out", deadline_ms=1e-6)
    row = table(tmp_path / "out")[0]
    steps = [name.removeprefix("ms:") for name in row if name.startswith("ms:")]
    assert steps[:3] == ["stage 0", "stage 1", "stage 2"]
    assert steps[-1] == f"labels {last}"
    taken = {step: float(row[f"ms:{step}"]) for step in steps if row[f"ms:{step}"]}
    assert taken == pytest.approx(log.frames[0].steps_ms, abs=1e-4)
    assert list(taken) == ["stage 0", f"head {first}", f"labels {first}"]


def test_without_label_maps(predictor, folder, tmp_path):
    run(folder, predictor, tmp_path / "out", labels=False, overlays="none")
    assert written(tmp_path / "out") == [TABLE, RUN_LOG]
    assert len(table(tmp_path / "out")) == 3


def test_a_long_run_keeps_a_bounded_number_of_frames(predictor, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "MOST_FRAMES", 2)
    log = run(folder, predictor, tmp_path / "out")
    assert (len(log.frames), log.every) == (2, 2)
    assert log.figures().frames == len(table(tmp_path / "out")) == 3
    slowest = max(table(tmp_path / "out")[:2], key=lambda row: float(row["latency_ms"]))
    assert [frame.name for frame in log.frames] == [slowest["name"], "c"]


def test_a_clock_that_is_set_back_changes_nothing(predictor, folder, tmp_path, monkeypatch):
    now, asked = time.time, []
    wanted = run(folder, predictor, tmp_path / "before", deadline_ms=600_000)

    def set_back(_what, done, _total):
        asked.append(done)
        monkeypatch.setattr(time, "time", lambda: now() - 3600 * done)

    log = run(folder, predictor, tmp_path / "after", deadline_ms=600_000, progress=set_back)
    assert asked == [1, 2, 3]
    assert [(frame.name, frame.exit, frame.met) for frame in log.frames] == [
        (frame.name, frame.exit, frame.met) for frame in wanted.frames
    ]
    assert 0 < log.frames[0].seconds < log.frames[1].seconds < log.frames[2].seconds < 3600
    assert all(0 < frame.latency_ms < 600_000 for frame in log.frames)
    assert written(tmp_path / "after") == written(tmp_path / "before")


def test_what_is_told_while_it_runs(predictor, folder, tmp_path):
    told = []
    run(folder, predictor, tmp_path / "out", deadline_ms=1e-6, progress=lambda *step: told.append(step[0]))
    assert told[-1].startswith("run camera: ")
    assert f"frames/s, {predictor.exits[0]} 100%, 3 missed" in told[-1]


@pytest.mark.parametrize(("overlays", "found"), [("png", ["overlays/scene.png"]), ("none", [])])
def test_other_overlays(predictor, tmp_path, overlays, found):
    Image.fromarray(pixels(5)).save(tmp_path / "scene.png")
    run(tmp_path / "scene.png", predictor, tmp_path / "out", overlays=overlays)
    assert written(tmp_path / "out") == ["labels/scene.png", *found, TABLE, RUN_LOG]


def test_a_run_that_is_killed_leaves_half_its_log_and_can_be_done_again(predictor, folder, tmp_path):
    found = []

    def look(_what, done, _total):
        found.append((done, len(load_json(tmp_path / "out" / RUN_LOG, RunLog).frames)))

    run(folder, predictor, tmp_path / "out", progress=look)
    assert found == [(1, 1), (2, 2), (3, 2)]
    assert len(run(folder, predictor, tmp_path / "out").frames) == 3


def test_a_run_that_answers_nothing_leaves_nothing_in_the_way(predictor, folder, tmp_path):
    whole = (folder / "a.bmp").read_bytes()
    (folder / "a.bmp").write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"a\.bmp"):
        run(folder, predictor, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (folder / "a.bmp").write_bytes(whole)
    assert len(run(folder, predictor, tmp_path / "out").frames) == 3


def test_somebodys_folder_is_not_written_into(predictor, folder, tmp_path):
    out = tmp_path / "dataset"
    (out / "labels").mkdir(parents=True)
    (out / "labels" / "a.png").write_text("drawn by hand")
    with pytest.raises(InputError, match="no earlier run's folder"):
        run(folder, predictor, out)
    assert written(out) == ["labels/a.png"]
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="no earlier run's folder"):
        run(folder, predictor, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert len(run(folder, predictor, tmp_path / "empty").frames) == 3


def test_a_place_that_cannot_be_written_is_an_input_error(predictor, folder, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="cannot write"):
        run(folder, predictor, tmp_path / "file" / "out")


def test_inputs_that_hold_no_frames_are_refused(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("not an image")
    (tmp_path / "text.txt").write_text("not an image")
    for name, reason in (("empty", "no images in"), ("absent.png", "no such input"), ("text.txt", "cannot read the image")):
        with pytest.raises(InputError, match=reason) as caught:
            run(tmp_path / name, predictor, tmp_path / "out")
        assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_images_that_would_write_the_same_files_are_refused(predictor, folder, tmp_path):
    # Sorted by name, twins need not be neighbours.
    Image.fromarray(pixels(7)).save(folder / "a.b.png")
    Image.fromarray(pixels(7)).save(folder / "a.png")
    with pytest.raises(InputError, match=r"a\.bmp and .*a\.png would write the same files"):
        run(folder, predictor, tmp_path / "out")


@pytest.fixture
def video(tmp_path):
    """Four frames, each of one grey."""
    av = pytest.importorskip("av")
    path = tmp_path / "drive.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 + 50 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_frame_by_frame(predictor, video, tmp_path):
    assert open_source(video).total == 4
    shots = list(open_source(video).shots)
    levels = [float(shot.image.mean()) for shot in shots]
    assert [shot.seconds for shot in shots] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert levels == pytest.approx([40, 90, 140, 190], abs=4)
    log = run(video, predictor, tmp_path / "out")
    names = [f"drive-{number:06d}" for number in range(4)]
    assert [frame.name for frame in log.frames] == names
    for name, shot in zip(names, shots, strict=True):
        labels = labels_of(tmp_path / "out" / "labels" / f"{name}.png")[1]
        np.testing.assert_array_equal(labels, predictor(shot.image).labels)


def test_overlays_as_a_video(predictor, video, tmp_path):
    av = pytest.importorskip("av")
    out = tmp_path / "out"
    run(video, predictor, out, overlays="video")
    assert not (out / "overlays").exists()
    with av.open(str(out / OVERLAYS)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=2e-3)
    palette = np.array(predictor.manifest.palette, float)
    for frame, shot in zip(frames, open_source(video).shots, strict=True):
        wanted = (shot.image + palette[predictor(shot.image).labels]) / 2
        assert np.abs(frame.to_ndarray(format="rgb24").mean(axis=(0, 1)) - wanted.mean(axis=(0, 1))).max() < 6


def test_of_a_live_source_the_newest_frame_is_taken():
    taken, read = Event(), Event()

    def camera():
        yield Shot("0", None, 0.0)
        assert taken.wait(30)
        for number in range(1, 5):
            yield Shot(str(number), None, 0.0)
        read.set()

    frames = Newest(camera())
    assert next(frames).name == "0"
    taken.set()
    assert read.wait(30)
    assert [shot.name for shot in frames] == ["4"]
    assert frames.dropped == 3


def test_an_error_of_a_live_source_comes_after_its_last_frame():
    def camera():
        yield Shot("0", None, 0.0)
        raise InputError("unplugged")

    frames = Newest(camera())
    assert next(frames).name == "0"
    with pytest.raises(InputError, match="unplugged"):
        next(frames)


def test_a_live_source_that_is_closed_is_read_no_further():
    number, asked = 0, Event()

    def camera():
        nonlocal number
        while True:
            number += 1
            yield Shot(str(number), None, 0.0)
            asked.wait(0.01)

    frames = Newest(camera())
    next(frames)
    frames.close()
    before = number
    asked.wait(0.1)
    assert number <= before + 1


def test_a_video_played_live_drops_what_comes_too_fast(predictor, video, tmp_path, monkeypatch):
    answer = Predictor.__call__

    def slow(self, *given, **options):
        time.sleep(0.15)
        return answer(self, *given, **options)

    monkeypatch.setattr(Predictor, "__call__", slow)
    log = run(video, predictor, tmp_path / "out", live=True)
    assert log.live
    assert log.frames[0].name == "drive-000000"
    assert log.frames[-1].name == "drive-000003", "the newest is never lost"
    assert len(log.frames) + log.dropped == 4
    assert log.dropped > 0


def test_a_stream_over_the_network_is_live(predictor, video, tmp_path):
    """Another process sends the video; its last frame arrives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with subprocess.Popen([sys.executable, "-c", SEND, str(video), address, "1"]) as sender:
        log = run(f"{address}?listen=1", predictor, tmp_path / "out")
        assert sender.wait(30) == 0
    assert log.live
    assert len(log.frames) + log.dropped == 4
    assert log.frames[-1].name == "live-000003"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_camera_is_ended_by_a_signal_with_everything_on_disk(package, video, tmp_path, sign):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    out = tmp_path / "out"
    asked = ["run", f"{address}?listen=1", "--package", package, "--out", out, "--json"]
    command = [sys.executable, "-c", LISTENING, *asked]
    said = subprocess.PIPE
    with (
        subprocess.Popen(command, stdout=said, stderr=said, text=True) as running,
        subprocess.Popen([sys.executable, "-c", SEND, video, address, "100"], stderr=subprocess.DEVNULL) as sender,
    ):
        until = time.monotonic() + 60
        while time.monotonic() < until and (not (out / TABLE).exists() or len(table(out)) < 3):
            time.sleep(0.05)
        running.send_signal(sign)
        try:
            result, complaint = running.communicate(timeout=30)
        finally:
            running.kill()
            sender.kill()
    assert (running.returncode, "Traceback" in complaint) == (0, False)
    log = load_json(out / RUN_LOG, RunLog)
    assert log.interrupted
    assert log.live
    assert json.loads(result)["frames"] == len(log.frames) == len(table(out)) >= 3


# Who runs the tests in the background of a shell has them, and what they start, ignore Ctrl-C.
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from offramp.cli import main
main(sys.argv[1:])
"""

SEND = """
import sys, time
from fractions import Fraction
import av

def send():
    # The connection is made by the first frame.
    there = av.open(sys.argv[2], "w", format="mpegts", options={"flush_packets": "1"})
    with there, av.open(sys.argv[1]) as here:
        stream = there.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number, frame in enumerate(list(here.decode(video=0)) * int(sys.argv[3])):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                there.mux(packet)
            time.sleep(0.1)
        there.mux(stream.encode())

for attempt in range(300):
    try:
        send()
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("source", "reason"), [("camera:front", "camera:0, camera:1"), ("camera:77", "no camera 77")])
def test_cameras_that_are_not_there_are_refused(predictor, tmp_path, source, reason):
    if sys.platform != "linux":
        pytest.skip("other systems name their cameras otherwise")
    with pytest.raises(InputError, match=reason):
        run(source, predictor, tmp_path / "out")


def test_pictures_are_not_played_live(predictor, folder, tmp_path):
    with pytest.raises(InputError, match="only a video file"):
        run(folder, predictor, tmp_path / "out", live=True)


@pytest.mark.parametrize("content", [b"", b"no video", bytes(5000)])
def test_what_is_no_video_is_refused(predictor, tmp_path, content):
    pytest.importorskip("av")
    (tmp_path / "drive.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the video .*drive\.mp4"):
        run(tmp_path / "drive.mp4", predictor, tmp_path / "out")


def test_a_folder_lists_images_and_no_folders(tmp_path):
    folder = tmp_path / "in"
    (folder / "b.png").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no images in .*not in folders below it"):
        open_source(folder)
    Image.fromarray(pixels(1)).save(folder / "a.png")
    assert open_source(folder).total == 1
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(InputError, match=r"'caf\\udce9\.png' in .* is not in UTF-8: rename"):
        open_source(folder)


def test_frames_that_are_too_large_are_refused(video, monkeypatch):
    assert len(list(open_source(video).shots)) == 4
    monkeypatch.setattr(pictures, "MOST_PIXELS", 96 * 64 - 1)
    with pytest.raises(InputError, match=r"video .*drive\.mp4 is too large: it says that it has 96x64 pixels"):
        open_source(video)


def test_a_film_without_pictures_is_refused(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "song.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    with pytest.raises(InputError, match=r"song\.mkv: there is no video in it"):
        open_source(tmp_path / "song.mkv")
