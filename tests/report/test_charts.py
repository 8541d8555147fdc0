import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from offramp.report import charts
from offramp.report.facts import Row
from offramp.report.inputs import Epoch, History
from offramp.report.svg import Canvas, Labels, Scale, marks_for, nice_step, widened

EXITS = ("blocks.1:fcn/c16", "blocks.3:fcn/c32", "final")
WIDTHS = (charts.WIDE, charts.NARROW)


def parsed(svg):
    return ET.fromstring(svg)


def of_class(root, css):
    return [element for element in root.iter() if css in element.get("class", "").split()]


def title(element):
    return element.findtext("title")


def inside(root):
    """Every coordinate of every element lies in the picture."""
    width, height = map(float, root.get("viewBox").split()[2:])
    for element in root.iter():
        for name, most in (("x", width), ("cx", width), ("x1", width), ("y", height), ("cy", height), ("y1", height)):
            assert -1 <= float(element.get(name, 0)) <= most + 1, ET.tostring(element)
    return True


def test_a_scale_maps_ends_and_middle():
    scale = Scale(0.0, 10.0, 100.0, 200.0)
    assert (scale(0), scale(5), scale(10)) == (100, 150, 200)
    assert Scale(3.0, 3.0, 0.0, 10.0)(3) == 5


@pytest.mark.parametrize(("rough", "step"), [(0.9, 1), (1.1, 2), (2.2, 2.5), (3, 5), (7, 10), (0.03, 0.05), (240, 250)])
def test_steps_are_round(rough, step):
    assert nice_step(rough) == pytest.approx(step)


def test_ticks_are_round_and_within():
    assert Scale(0.3, 41.0, 0, 100).ticks(4) == [20.0, 40.0]
    assert Scale(0.0, 1.0, 0, 100).ticks(5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_widened_keeps_the_floor():
    assert widened([1.0, 101.0], floor=0.0) == (0.0, 107.0)
    low, high = widened([5.0])
    assert low < 5.0 < high


def test_every_exit_looks_different_and_the_final_one_like_text():
    names = [f"tap{index}" for index in range(20)] + ["final"]
    marks = marks_for(names)
    assert len({(mark.css, mark.shape) for mark in marks.values()}) == 21
    assert len({(mark.css, mark.dash) for mark in marks.values()}) == 21
    assert marks["final"].css == "final"


def test_names_are_short_only_where_that_is_clear():
    names = ("a.1:fcn/c8", "a.1:fcn/c16", "b.2:fcn/c8", "final")
    assert list(charts.short_names(names).values()) == ["a.1:fcn/c8", "a.1:fcn/c16", "b.2", "final"]


def test_labels_do_not_cover_each_other():
    canvas = Canvas(300, 200, "")
    scale_x, scale_y = Scale(0, 1, 0, 300), Scale(0, 1, 200, 0)
    labels = Labels(canvas, scale_x, scale_y, [(150, 100)])
    placed = [labels.place(150, 100, "a label") for _ in range(20)]
    assert placed[0]
    assert not placed[-1]
    texts = of_class(parsed(canvas.write()), "label")
    assert len({(text.get("x"), text.get("y")) for text in texts}) == sum(placed) > 1


@pytest.mark.parametrize("width", WIDTHS)
def test_scatter_shows_every_exit_the_original_and_the_deployment(deployment, width):
    rows = [Row(name, miou=0.5 + index / 10, latency_ms=3.0 + 4 * index) for index, name in enumerate(EXITS)]
    original = Row("original network", miou=0.7, latency_ms=12.2)
    root = parsed(charts.scatter(rows, [original], deployment, width))
    titles = [title(mark) for mark in of_class(root, "mark")]
    assert titles[:3] == [f"{name}: mIoU {50 + 10 * index:.1f} %, {3 + 4 * index:.2f} ms" for index, name in enumerate(EXITS)]
    assert titles[3] == "original network: mIoU 70.0 %, 12.20 ms"
    assert titles[4] == "deployment (input-dependent): mIoU 71.2 % (69.9 to 72.6), 6.10 ms (5.50 to 6.70)"
    assert len(of_class(root, "interval")) == 2
    assert {text.text for text in of_class(root, "limit-text")} == {"limit 10 ms", "limit 1.5 points below final"}
    assert inside(root)
    # The accuracy asked, 72.02 - 1.5, lies between the original network's 70.0 and the deployment's 71.23.
    corner = {title(mark): float(mark.get("points").split(",")[1].split()[0]) for mark in of_class(root, "mark")[3:]}
    lowest, highest = corner[titles[3]] + 5, corner[titles[4]] + 1.4 * 6
    across = next(line for line in of_class(root, "limit") if line.get("y1") == line.get("y2"))
    assert highest < float(across.get("y1")) < lowest
    # Slower is further right; better is further up.
    circles = [element for element in of_class(root, "mark") if element.tag == "circle"]
    assert [float(circle.get("cx")) for circle in circles] == sorted(float(circle.get("cx")) for circle in circles)
    assert [float(circle.get("cy")) for circle in circles] == sorted(
        (float(circle.get("cy")) for circle in circles), reverse=True
    )


def test_scatter_leaves_out_what_was_not_measured():
    rows = [Row("a:fcn/c8", miou=None, latency_ms=3.0), Row("final", miou=0.7, latency_ms=5.0)]
    root = parsed(charts.scatter(rows, [], None, charts.WIDE))
    assert [title(mark) for mark in of_class(root, "mark")] == ["final: mIoU 70.0 %, 5.00 ms"]
    assert of_class(root, "limit") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_roads_widths_are_times(profile, deployment, width):
    root = parsed(charts.road(profile, deployment.expected.shares, width))
    stages = of_class(root, "stage")
    widths = [float(stage.get("width")) + 1.5 for stage in stages]
    assert widths[1] / widths[0] == pytest.approx(3.05 / 2.15, rel=1e-2)
    assert widths[2] / widths[0] == pytest.approx(5.05 / 2.15, rel=1e-2)
    # All images pass the first stage; 64 % leave after it.
    heights = [float(stage.get("height")) for stage in stages]
    assert heights == pytest.approx([32, 0.36 * 32, 0.36 * 32])
    assert "36.0 % of images" in title(stages[1])
    heads = [element for element in of_class(root, "head") if title(element)]
    assert [title(head) for head in heads] == [
        "blocks.1:fcn/c16: head 1.00 ms, label map 0.25 ms, 3.40 ms in all",
        "blocks.3:fcn/c32: head 1.50 ms, label map 0.25 ms, 6.95 ms in all",
        "final: head 2.00 ms, label map 0.25 ms, 12.50 ms in all",
    ]
    assert float(heads[0].get("x")) == pytest.approx(float(stages[1].get("x")), abs=0.01)
    assert [("unused" in head.get("class")) for head in heads] == [False, True, False]
    text = " ".join(element.text or "" for element in root.iter("text"))
    assert "64.0 % leave" in text
    assert inside(root)


def test_without_a_deployment_the_road_is_full(profile):
    root = parsed(charts.road(profile, {}, charts.WIDE))
    assert [float(stage.get("height")) for stage in of_class(root, "stage")] == [32, 32, 32]
    assert of_class(root, "unused") == []


def test_a_histogram_counts_all_images_and_those_that_come():
    scores = np.array([0.2, 0.55, 0.9, 0.91, 1.0])
    arriving = np.array([True, True, False, True, True])
    root = parsed(charts.histogram(scores, arriving, 0.8, "blocks.1"))
    counts = [re.search(r": (\d+) images, (\d+) of them", title(bar)).groups() for bar in of_class(root, "all")]
    assert [sum(int(count[index]) for count in counts) for index in (0, 1)] == [5, 4]
    (line,) = of_class(root, "threshold")
    left, right = charts.LEFT, charts.NARROW - charts.RIGHT
    assert float(line.get("x1")) == pytest.approx(left + (right - left) * (0.8 - 0.2) / 0.8, abs=0.01)
    assert inside(root)


@pytest.fixture
def history():
    epochs = [
        Epoch(
            "1" if index < 4 else "2", index, 2.0 - index / 4, 1e-3, 30.0, {} if index == 1 else {"a:fcn/c8": 0.3, "final": 0.4}
        )
        for index in range(6)
    ]
    return History(("a:fcn/c8", "never:fcn/c8", "final"), tuple(epochs))


@pytest.mark.parametrize("width", WIDTHS)
def test_curves_have_a_line_an_exit_and_name_the_phases(history, width):
    root = parsed(charts.curves(history, width))
    assert [title(line) for line in of_class(root, "line")] == ["a:fcn/c8", "final"]
    points = [title(point) for point in of_class(root, "point")]
    assert len(points) == 2 * 5
    assert points[-1] == "final, epoch 6: 40.0 %"
    assert len(of_class(root, "phase")) == 1
    words = [element.text for element in root.iter("text")]
    assert "phase 1" in words
    assert "phase 2" in words
    assert inside(root)


def test_curves_of_training_images_lie_beside(history):
    epochs = [replace(epoch, train_miou={"final": 0.9} if epoch.miou else {}) for epoch in history.epochs]
    root = parsed(charts.curves(replace(history, epochs=tuple(epochs)), charts.WIDE))
    assert [title(line) for line in of_class(root, "line")] == ["final, training images", "a:fcn/c8", "final"]
    assert len(of_class(root, "train")) == 1
    assert len(of_class(root, "point")) == 2 * 5  # points are of val alone
    assert inside(root)


def test_loss_does_not_join_phases(history):
    root = parsed(charts.loss(history, charts.WIDE))
    lines = of_class(root, "line")
    assert [line.get("d").count("L") + 1 for line in lines] == [4, 2]
    assert title(of_class(root, "point")[0]) == "epoch 1: loss 2"


def test_a_share_bar_is_divided_as_the_images_are():
    root = parsed(charts.share_bar({EXITS[0]: 0.25, EXITS[1]: 0.0, "final": 0.75}, EXITS, 400, "Shares"))
    bars = of_class(root, "share")
    assert [float(bar.get("width")) for bar in bars] == [98, 298]
    assert [title(bar) for bar in bars] == ["blocks.1:fcn/c16: 25.0 %", "final: 75.0 %"]
    assert "s0" in bars[0].get("class")
    assert root.get("aria-label") == "Shares: blocks.1:fcn/c16 25.0 %, blocks.3:fcn/c32 0.0 %, final 75.0 %"


@pytest.mark.parametrize("width", WIDTHS)
def test_frames_mark_missed_deadlines_in_the_colours_of_the_page(run_log, width):
    frames = tuple(frame.model_copy(update={"exit": EXITS[1]}) if frame.exit != "final" else frame for frame in run_log.frames)
    log = run_log.model_copy(update={"exits": EXITS[1:], "frames": frames})
    root = parsed(charts.frames(log, EXITS, width))
    points = of_class(root, "point")
    assert len(points) == 8
    assert [title(point) for point in of_class(root, "missed")] == [
        "frame3: left at final after 16.00 ms, deadline missed",
        "frame7: left at final after 20.00 ms, deadline missed",
    ]
    assert all("s1" in point.get("class").split() for point in points[:3])
    assert len(of_class(root, "limit")) == 1
    assert inside(root)


def test_a_frame_that_stands_for_others_stands_where_they_were(run_log):
    """Four frames that stand for 40 are drawn where the 1st, 11th, 21st and 31st of 40 would be."""
    base = run_log.frames[0]
    all_40 = run_log.model_copy(update={"frames": tuple(base.model_copy(update={"name": f"f{i}"}) for i in range(40))})
    four = run_log.model_copy(update={"frames": all_40.frames[::10], "every": 10, "summary": all_40.figures()})
    drawn, wanted = (
        [point.get("d") or point.attrib for point in of_class(parsed(charts.frames(log, EXITS, charts.WIDE)), "point")]
        for log in (four, all_40)
    )
    assert drawn == wanted[::10]


def test_many_frames_are_gathered_by_the_slowest(run_log):
    frames = tuple(run_log.frames[0].model_copy(update={"latency_ms": 5.0, "name": f"f{index}"}) for index in range(4000))
    slow = frames[1234].model_copy(update={"latency_ms": 99.0})
    log = run_log.model_copy(update={"frames": (*frames[:1234], slow, *frames[1235:])})
    points = of_class(parsed(charts.frames(log, EXITS, charts.WIDE)), "point")
    assert len(points) == charts.MAX_POINTS
    assert [title(point) for point in points if "99.00" in title(point)] == [
        "f1234: left at blocks.1:fcn/c16 after 99.00 ms, deadline missed"
    ]


def test_names_in_charts_are_escaped():
    svg = charts.scatter([Row("<b>&\"'", miou=0.5, latency_ms=1.0)], [], None, charts.WIDE)
    assert "<b>" not in svg
    assert title(of_class(parsed(svg), "mark")[0]).startswith("<b>&\"'")
