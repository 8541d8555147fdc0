"""Every step of a package is timed, and every time is kept."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from offramp.artifacts import Profile, load_json, load_manifest
from offramp.errors import InputError
from offramp.profiling import peak_memory_bytes, profile

ENGINES = ("onnxruntime", "openvino")
PASSES = 4


@pytest.fixture(scope="module", params=ENGINES)
def measured(request, package, tmp_path_factory):
    pytest.importorskip(request.param)
    told = []
    # Also on a machine with a meter; tests/test_energy.py has one.
    options = {"threads": 1, "passes": PASSES, "sysfs": tmp_path_factory.mktemp("sysfs")}
    made = profile(package, engine=request.param, **options, progress=lambda *step: told.append(step))
    assert told[-1][1] == told[-1][2] == len(told) >= PASSES
    assert made.engine == request.param
    return made


def test_every_step_has_its_raw_times(measured, package):
    manifest = load_manifest(package)
    assert len(measured.stages) == len(manifest.stages) == 3
    assert measured.exits == tuple(measured.heads) == tuple(measured.labels) == manifest.exits
    assert measured.exit_stages == tuple(head.stage for head in manifest.heads)
    for step in (*measured.stages, *measured.heads.values(), *measured.labels.values(), measured.original):
        assert len(step.times_ms) == PASSES
        assert all(0 < latency_ms < 10_000 for latency_ms in step.times_ms)


def test_what_every_step_costs_besides_time(measured, package):
    manifest = load_manifest(package)
    labels = {graph.file: graph for graph in manifest.labels}
    for step, graph in zip(measured.stages, manifest.stages, strict=True):
        assert (step.macs, step.parameter_bytes) == (graph.macs, graph.parameter_bytes)
    for head in manifest.heads:
        assert measured.heads[head.exit].macs == head.macs
        assert measured.labels[head.exit].macs == labels[head.labels].macs
    steps = (*measured.stages, *measured.heads.values(), *measured.labels.values())
    assert {step.energy_mj for step in steps} == {None}, "there is no meter"


IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
from offramp.profiling import profile
package, engine, out = sys.argv[1:]
profile(Path(package), engine=engine, threads=1, passes=1, energy_seconds=0).save(Path(out))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_what_memory_every_step_takes(engine, package, tmp_path):
    """Not in this process: it has run graphs before, and what those left free would be taken again."""
    pytest.importorskip(engine)
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell a process its memory in a file")
    out = tmp_path / "here.profile"
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, package, engine, out], check=True)
    measured = load_json(out, Profile)
    assert 10e6 < measured.base_memory_bytes < measured.peak_memory_bytes
    grown = sum(step.memory_bytes for step in (*measured.stages, *measured.heads.values(), *measured.labels.values()))
    assert 0 < grown <= measured.peak_memory_bytes - measured.base_memory_bytes + 2**20


def test_where_it_was_made(measured, package):
    assert measured.package_id == load_manifest(package).package_id
    assert (measured.threads, measured.precision) == (1, "fp32")
    assert re.match(r"\d+\.\d+", measured.engine_version)
    assert measured.device
    assert measured.provenance.options == {"passes": PASSES}


def test_an_exits_latency_is_the_sum_of_its_steps(measured):
    stages = [np.median(stage.times_ms) for stage in measured.stages]
    for name, stage in zip(measured.exits, measured.exit_stages, strict=True):
        own = np.median(measured.heads[name].times_ms) + np.median(measured.labels[name].times_ms)
        assert measured.latency_ms((name,)) == pytest.approx(sum(stages[: stage + 1]) + own)
    reached = [sum(stages[: stage + 1]) for stage in measured.exit_stages]
    assert reached == sorted(set(reached)), "who goes deeper runs more stages"


def test_warm_up_passes_are_not_kept(package):
    assert len(profile(package, threads=1, passes=1, energy_seconds=0).stages[0].times_ms) == 1


def test_memory_is_the_peak_in_bytes():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no other meter to compare with")
    kib = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    assert peak_memory_bytes() == pytest.approx(kib * 1024, rel=0.05)


def test_memory_is_not_that_of_who_started_the_process():
    held = bytearray(400 << 20)  # touched: zeros that are written
    code = "from offramp.profiling import peak_memory_bytes; print(peak_memory_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert peak < len(held)


@pytest.mark.parametrize("passes", [0, -1])
def test_no_passes_are_refused(tmp_path, passes):
    with pytest.raises(InputError, match=f"passes must be at least 1, got {passes}"):
        profile(tmp_path / "no package", passes=passes)


def test_a_bad_engine_or_package_is_refused(package, tmp_path):
    with pytest.raises(InputError, match="unknown engine 'abacus'"):
        profile(package, engine="abacus")
    with pytest.raises(InputError, match="not a package"):
        profile(tmp_path / "no package")
