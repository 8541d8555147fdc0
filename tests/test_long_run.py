"""How the benchmark of long runs judges: slopes by hand, and an interval that holds the truth as often as it says."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "reliability"))

import long_run


def test_the_slope_is_that_of_least_squares():
    x = np.arange(0.0, 500.0)
    y = 3.0 * x + np.random.default_rng(0).normal(0, 5, 500)
    line = long_run.slope(x, y)
    assert line["slope"] == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-9)
    assert line["low"] < line["slope"] < line["high"]
    exact = long_run.slope(x, 3.0 * x + 7)
    assert [exact[name] for name in ("slope", "low", "high")] == pytest.approx([3.0] * 3)


def test_the_interval_holds_the_truth_though_neighbours_are_alike():
    """Noise of which each value is 0.8 of the one before: drawn one by one it would hold half as often."""
    x, random, held = np.arange(300.0), np.random.default_rng(3), 0
    for _ in range(60):
        noise = np.zeros(300)
        for index in range(1, 300):
            noise[index] = 0.8 * noise[index - 1] + random.normal()
        line = long_run.slope(x, 0.01 * x + noise)
        held += line["low"] <= 0.01 <= line["high"]
    assert held >= 48


@pytest.mark.parametrize(("bytes_a_frame", "thread", "steady"), [(0, 0, True), (9, 0, True), (50, 0, False), (0, 1, False)])
def test_growth_is_seen(bytes_a_frame, thread, steady):
    random = np.random.default_rng(5)
    frames = np.arange(200, 100_001, 200)
    watch = long_run.Watch(every=200)
    watch.frame = frames.tolist()
    watch.memory_bytes = (1e8 + bytes_a_frame * frames + random.normal(0, 1000, 500)).tolist()
    watch.threads = [4 + thread * (frame > 50_000) for frame in watch.frame]
    watch.descriptors, watch.objects = [9] * 500, [60_000] * 500
    seconds = np.cumsum(random.uniform(0.003, 0.004, 100_000))
    found = long_run.judged(watch, np.column_stack([np.full(100_000, 1.5), seconds]), 100_000)
    assert found["steady"] is steady
    assert found["memory_bytes_a_frame"]["slope"] == pytest.approx(bytes_a_frame, abs=0.1)
    assert found["latency_percent_in_100000"]["slope"] == pytest.approx(0, abs=1e-9)
