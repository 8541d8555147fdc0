"""Meters, read from trees of files as the kernel would show them; and the energy that a profile gets from them.

No clock decides here: what a fake machine spends is said by the test, run by run, or bounded by times taken around it.
"""

import threading
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from offramp.artifacts import Deployment, Profile, load_json, load_manifest
from offramp.cli import main
from offramp.energy import PowerSamples, Used, integral, joules_of_one_run, open_meter
from offramp.errors import InputError
from offramp.profiling import WARM_UP, profile
from offramp.runtime.engines import open_engine
from offramp.search.estimate import Costs
from offramp.trimming import trim

WATTS = 5.0
PASSES = 2


def tree(root, files):
    """Write files, given by their path below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def zone(folder, name, energy_uj=0, range_uj=1_000_000_000):
    files = {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": range_uj}
    return {f"class/powercap/{folder}/{file}": content for file, content in files.items()}


def chip(folder, rails, name="ina3221"):
    """Rails, label: (mV, mA), as channels 1 to 3; and the shunts' voltages, which look like three more."""
    files = {"name": name, "in7_label": "sum of shunt voltages", "in7_input": 999}
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files |= {f"in{number}_label": label, f"in{number}_input": millivolts, f"curr{number}_input": milliamperes}
        files |= {f"in{number + 3}_input": 777}
    return {f"class/hwmon/{folder}/{file}": content for file, content in files.items()}


def supply(folder, **files):
    return {f"class/power_supply/{folder}/{file}": content for file, content in files.items()}


LAPTOP = supply("BAT0", type="Battery", status="Discharging", power_now=7_500_000)


class Machine:
    """One whose RAPL counter goes on by what is spent, and runs round soon after the start."""

    RANGE_UJ = 1_000_000_000

    def __init__(self, root):
        self.sysfs = tree(root, zone("intel-rapl:0", "package-0", self.RANGE_UJ - 1000, self.RANGE_UJ))
        self.counter = self.sysfs / "class/powercap/intel-rapl:0/energy_uj"

    def spend(self, joules):
        total = int(self.counter.read_text()) + round(joules * 1e6)
        self.counter.write_text(str(total % self.RANGE_UJ))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "sys")


# ----------------------------------------------------------------------------------------------------------------- meters


def test_rapl_adds_packages_and_leaves_out_their_parts_and_what_holds_them(tmp_path):
    files = zone("intel-rapl:0", "package-0", 500, 10_000) | zone("intel-rapl:1", "package-1", 9_000, 10_000)
    others = {"intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    for folder, name in others.items():
        files |= zone(folder, name)
    meter, reason = open_meter(tree(tmp_path, files | {"class/powercap/intel-rapl/enabled": 1}))
    assert (meter.name, reason) == ("RAPL package-0+package-1", "")
    with meter.measuring() as used:
        assert used.joules is None
        for folder in others:
            (tmp_path / f"class/powercap/{folder}/energy_uj").write_text("123456\n")
        (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("2500\n")
        # Round: 1000 to the end of its range, then 700.
        (tmp_path / "class/powercap/intel-rapl:1/energy_uj").write_text("700\n")
    assert used.joules == pytest.approx((2_000 + 1_700) / 1e6, rel=1e-12)


def test_a_counter_that_stands_still_or_breaks_off_says_nothing(tmp_path):
    meter, _ = open_meter(tree(tmp_path, zone("intel-rapl:0", "package-0", 500)))
    with meter.measuring() as used:
        pass
    assert used.joules is None
    with meter.measuring() as used:
        (tmp_path / "class/powercap/intel-rapl:0/energy_uj").unlink()
    assert used.joules is None
    with meter.measuring() as used:
        tree(tmp_path, zone("intel-rapl:0", "package-0", 900))
    assert used.joules is None, "there was no reading at the start"
    with pytest.raises(FileNotFoundError, match="the work's own error"), meter.measuring():
        raise FileNotFoundError("the work's own error")


def test_a_counter_for_root_alone_is_explained_and_another_meter_taken(tmp_path, monkeypatch):
    tree(tmp_path, zone("intel-rapl:0", "package-0"))
    read = Path.read_text

    def as_a_user(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    meter, reason = open_meter(tmp_path)
    assert meter is None
    assert reason.startswith(f"only root may read {tmp_path}/class/powercap/intel-rapl:0/energy_uj; run as root")
    assert f"chmod a+r {tmp_path}/class/powercap/intel-rapl:*/*energy*_uj" in reason
    assert "\n" not in reason
    assert open_meter(tree(tmp_path, LAPTOP))[0].name == "battery BAT0"


def test_damaged_rapl_is_explained(tmp_path):
    meter, reason = open_meter(tree(tmp_path, zone("intel-rapl:0", "package-0", "?")))
    assert meter is None
    assert reason.startswith("RAPL cannot be read: ")


JETSONS = {
    "one rail": ([{"VDD_CPU_GPU_CV": (5000, 900), "VDD_IN": (5040, 1200), "VDD_SOC": (5000, 400)}], "VDD_IN", 5.04 * 1.2),
    "Nano": ([{"POM_5V_IN": (4900, 500), "POM_5V_GPU": (4900, 90)}], "POM_5V_IN", 4.9 * 0.5),
    "AGX Orin": (
        [
            {"VDD_GPU_SOC": (19000, 100), "VDD_CPU_CV": (19000, 50), "VIN_SYS_5V0": (4968, 500)},
            {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4968, 200)},
        ],
        "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0",
        1.9 + 0.95 + 2.484,
    ),
    "AGX Xavier": (
        [
            {"GPU": (19000, 10), "CPU": (19000, 20), "SOC": (19000, 30)},
            {"CV": (19000, 0), "VDDRQ": (19000, 40), "SYS5V": (5000, 300)},
        ],
        "GPU+CPU+SOC+CV+VDDRQ+SYS5V",
        0.19 + 0.38 + 0.57 + 0.76 + 1.5,
    ),
}


@pytest.mark.parametrize("board", JETSONS)
def test_a_jetsons_whole_module(tmp_path, board):
    chips, name, watts = JETSONS[board]
    tree(tmp_path, chip("hwmon0", {"VDD_IN": (12_000, 9_000)}, name="ina219"))
    for number, rails in enumerate(chips, start=1):
        tree(tmp_path, chip(f"hwmon{number}", rails))
    meter, reason = open_meter(tmp_path)
    assert (meter.name, reason) == (f"INA3221 {name}", "")
    assert meter.watts() == pytest.approx(watts, rel=1e-12)


def test_rails_that_are_not_the_whole_are_refused(tmp_path):
    meter, reason = open_meter(tree(tmp_path, chip("hwmon1", {"VIN_SYS_5V0": (5000, 500), "VDD_SOC": (5000, 90)})))
    assert meter is None
    assert "rails (VDD_SOC, VIN_SYS_5V0)" in reason
    tree(tmp_path / "other", chip("hwmon1", {"VDD_IN": ("", 500)}))
    assert open_meter(tmp_path / "other")[1].startswith("the INA3221 cannot be read: ")


BATTERIES = {
    "power": ({"power_now": 7_500_000}, 7.5),
    "negative power": ({"power_now": -7_500_000}, 7.5),
    "voltage and negative current": ({"voltage_now": 12_000_000, "current_now": -500_000}, 6.0),
}


@pytest.mark.parametrize("kind", BATTERIES)
def test_a_battery_that_discharges(tmp_path, kind):
    files, watts = BATTERIES[kind]
    mouse = supply("hid-mouse", type="Battery", scope="Device", status="Discharging", power_now=90_000_000)
    mains = supply("AC", type="Mains", online=0)
    full = supply("BAT1", type="Battery", status="Not charging", power_now=0)
    tree(tmp_path, supply("BAT0", type="Battery", status="Discharging", **files) | mouse | mains | full)
    meter, reason = open_meter(tmp_path)
    assert (meter.name, reason) == ("battery BAT0", "")
    assert meter.watts() == pytest.approx(watts, rel=1e-12)
    tree(tmp_path, supply("BAT1", status="Discharging", power_now=2_000_000))
    meter, _ = open_meter(tmp_path)
    assert meter.name == "battery BAT0+BAT1"
    assert meter.watts() == pytest.approx(watts + 2, rel=1e-12)
    with meter.measuring() as used:
        tree(tmp_path, supply("BAT0", status="Charging"))
    assert used.joules is None, "from here on the mains feeds the computer"


def test_a_battery_that_says_nothing_is_no_meter(tmp_path):
    charging = supply("BAT0", type="Battery", status="Charging", power_now=7_500_000)
    assert "BAT0 is not discharging" in open_meter(tree(tmp_path / "mains", charging))[1]
    silent = supply("BAT0", type="Battery", status="Discharging")
    assert "BAT0 does not tell its power" in open_meter(tree(tmp_path / "silent", silent))[1]


def test_the_finest_meter_comes_first_and_none_is_said(tmp_path):
    meter, reason = open_meter(tmp_path / "nothing")
    assert meter is None
    assert reason == "no energy meter: neither RAPL, nor a Jetson's INA3221, nor a battery"
    assert open_meter(tree(tmp_path, LAPTOP))[0].name == "battery BAT0"
    assert open_meter(tree(tmp_path, chip("hwmon3", {"VDD_IN": (5000, 500)})))[0].name == "INA3221 VDD_IN"
    assert open_meter(tree(tmp_path, zone("intel-rapl:0", "package-0")))[0].name == "RAPL package-0"


# ---------------------------------------------------------------------------------------------------------------- samples


def test_the_trapezoid_rule():
    # 2 s from 1 to 3 W, then 1 s from 3 to 5 W.
    assert integral([(10.0, 1.0), (12.0, 3.0), (13.0, 5.0)]) == 4 + 4
    assert integral([(10.0, 1.0), (12.0, None), (13.0, 5.0)]) is None
    assert integral([(10.0, 0.0), (12.0, 0.0)]) is None


def test_power_is_looked_at_all_the_time():
    seen, enough = [], threading.Event()

    def watts():
        seen.append(time.perf_counter())
        if len(seen) == 6:
            enough.set()
        return WATTS

    meter = PowerSamples("test", watts, period_seconds=0.001, seconds=0.0, settle_seconds=0.0)
    began = time.perf_counter()
    with meter.measuring() as used:
        inside = time.perf_counter()
        assert enough.wait(60), "nobody looks"
        inside = time.perf_counter() - inside
    outside = time.perf_counter() - began
    assert WATTS * inside <= used.joules <= WATTS * outside
    looked = len(seen)
    with pytest.raises(InputError, match="the work's own error"), meter.measuring():
        raise InputError("the work's own error")
    assert len(seen) >= looked + 1
    assert "test" not in {thread.name for thread in threading.enumerate()}


def test_the_ends_are_looked_at_in_any_case():
    began = time.perf_counter()
    with PowerSamples("test", lambda: WATTS, period_seconds=1000.0, seconds=0.0, settle_seconds=0.0).measuring() as used:
        time.sleep(0.005)
    assert WATTS * 0.005 <= used.joules <= WATTS * (time.perf_counter() - began)


def test_a_look_that_fails_spoils_the_measurement():
    answers = iter([WATTS])
    failed = threading.Event()

    def watts():
        for answer in answers:
            return answer
        failed.set()
        raise OSError(61, "No data available")

    with PowerSamples("test", watts, 0.001, 0.0, 0.0).measuring() as used:
        assert failed.wait(60)
    assert used.joules is None


# -------------------------------------------------------------------------------------------------------------- many runs


class Watched:
    """A meter that tells whether it is watching."""

    name, seconds, settle_seconds = "watched", 0.01, 0.01

    def __init__(self, meter):
        self.meter, self.watching = meter, False

    @contextmanager
    def measuring(self):
        with self.meter.measuring() as used:
            self.watching = True
            yield used
            self.watching = False


def test_a_run_is_the_mean_of_many_and_what_went_before_is_left_out(machine):
    meter = Watched(open_meter(machine.sysfs)[0])
    runs = Counter()

    def run():
        runs[meter.watching] += 1
        machine.spend(0.25 if meter.watching else 7.0)

    assert joules_of_one_run(meter, run) == pytest.approx(0.25, abs=1e-9)
    assert runs[False] > 1
    assert runs[True] > 1
    runs.clear()
    meter.settle_seconds = 0
    assert joules_of_one_run(meter, run, seconds=0) == pytest.approx(0.25, abs=1e-9)
    assert runs == {False: 1, True: 1}


def test_constant_power_gives_power_times_time():
    runs = 0

    def run():
        nonlocal runs
        runs += 1
        time.sleep(0.004)

    meter = PowerSamples("test", lambda: WATTS, period_seconds=0.002, seconds=0.05, settle_seconds=0.0)
    began = time.perf_counter()
    joules = joules_of_one_run(meter, run)
    # The first run settles the meter.
    assert WATTS * 0.004 <= joules <= WATTS * (time.perf_counter() - began) / (runs - 1)


def test_a_meter_that_fails_gives_none():
    class Broken:
        name, seconds, settle_seconds = "broken", 0.0, 0.0

        @staticmethod
        def measuring():
            return nullcontext(Used())

    assert joules_of_one_run(Broken(), lambda: None) is None


# --------------------------------------------------------------------------------------------------------- in the profile


class Spending:
    """An engine whose graphs each take a time of their own at a constant power, by the fake machine's word."""

    def __init__(self, machine, name="onnxruntime"):
        self.engine = open_engine(name, 1)
        self.name, self.precision, self.threads = self.engine.name, self.engine.precision, self.engine.threads
        self.tensor, self.array = self.engine.tensor, self.engine.array
        self.machine = machine
        self.seconds = {}
        self.runs = Counter()
        self.outputs = {}

    def load(self, path, entry):
        graph = self.engine.load(path, entry)
        self.seconds[entry.file] = 0.001 * (len(self.seconds) + 1)

        def run(inputs):
            outputs = graph(inputs)
            self.runs[entry.file] += 1
            self.machine.spend(WATTS * self.seconds[entry.file])
            self.outputs.setdefault(entry.file, []).append({name: self.array(made) for name, made in outputs.items()})
            return outputs

        return run

    def millijoules(self, entry):
        return WATTS * self.seconds[entry.file] * 1e3


@pytest.fixture
def engine(machine, monkeypatch):
    engine = Spending(machine)
    monkeypatch.setattr("offramp.profiling.open_engine", lambda *_: engine)
    return engine


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_graphs_energy_is_its_power_times_its_time(package, machine, name, monkeypatch):
    pytest.importorskip(name)
    engine = Spending(machine, name)
    monkeypatch.setattr("offramp.profiling.open_engine", lambda *_: engine)
    told = []
    options = {"engine": name, "passes": PASSES, "energy_seconds": 0.02, "sysfs": machine.sysfs}
    made = profile(package, **options, progress=lambda *step: told.append(step))
    manifest = load_manifest(package)
    labels = {graph.file: graph for graph in manifest.labels}
    assert (made.energy_meter, made.no_energy) == ("RAPL package-0", None)
    for step, graph in zip(made.stages, manifest.stages, strict=True):
        assert step.energy_mj == pytest.approx(engine.millijoules(graph), rel=1e-9)
    for head in manifest.heads:
        assert made.heads[head.exit].energy_mj == pytest.approx(engine.millijoules(head), rel=1e-9)
        assert made.labels[head.exit].energy_mj == pytest.approx(engine.millijoules(labels[head.labels]), rel=1e-9)
    assert made.original.energy_mj == pytest.approx(engine.millijoules(manifest.original), rel=1e-9)
    graphs = len(engine.seconds)
    assert told[-1] == ("energy by RAPL package-0", graphs, graphs)
    assert len(made.stages[0].times_ms) == PASSES, "times are those of the passes"
    assert min(engine.runs.values()) > WARM_UP + PASSES + 1
    # Again and again with the inputs of a pass: so they say the same as in it. (Label maps' graphs serve several heads.)
    for file in {graph.file for graph in (*manifest.stages, *manifest.heads, manifest.original)}:
        first, *others = engine.outputs[file]
        assert all(np.array_equal(first[name], other[name]) for other in others for name in first), file


def test_a_head_within_its_stage_takes_no_energy_beside_it(package, machine, engine, deployment_of, tmp_path):
    merge_stages = pytest.importorskip("offramp.export.joining").merge_stages
    manifest = load_manifest(package)
    deployment_of(manifest, mode="anytime", exits=manifest.exits).save(tmp_path / "all.json")
    trimmed = trim(package, tmp_path / "all.json", tmp_path / "merged", merge=merge_stages)
    made = profile(tmp_path / "merged", passes=PASSES, energy_seconds=0.0001, sysfs=machine.sysfs)
    assert [head.energy_mj for head in made.heads.values()] == [0] * len(trimmed.exits)
    for step, graph in zip(made.stages, trimmed.stages, strict=True):
        assert step.energy_mj == pytest.approx(engine.millijoules(graph), rel=1e-9)


def test_search_keeps_a_limit_on_energy(package, scenes, machine, engine, tmp_path, capsys):
    made = profile(package, passes=PASSES, energy_seconds=0.0001, sysfs=machine.sysfs)
    manifest = load_manifest(package)
    labels = {graph.file: graph for graph in manifest.labels}
    alone = {
        head.exit: sum(map(engine.millijoules, (*manifest.stages[: head.stage + 1], head, labels[head.labels])))
        for head in manifest.heads
    }
    costs = Costs.of(made).further["energy_mj"]
    for place, name in enumerate(made.exits):
        assert costs.path((place,)) == pytest.approx(alone[name], rel=1e-9)
    made.save(tmp_path / "here.profile")
    assert load_json(tmp_path / "here.profile", Profile) == made

    def offramp(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return stopped.value.code

    assert offramp("evaluate", package, scenes, "--out", tmp_path / "val.records", "--threads", 1) == 0
    search = ("search", "--records", tmp_path / "val.records", "--profile", tmp_path / "here.profile", "--mode", "budgeted")
    least = min(alone, key=alone.get)
    between = (alone[least] + sorted(alone.values())[1]) / 2
    out = tmp_path / "chosen.json"
    assert offramp(*search, "--max-energy-mj", between, "--out", out) == 0
    chosen = load_json(out, Deployment)
    assert chosen.exits == (least,)
    assert chosen.expected.energy_mj == pytest.approx(alone[least], rel=1e-9)
    assert chosen.limits.max_energy_mj == between
    capsys.readouterr()
    assert offramp(*search, "--max-energy-mj", alone[least] * 0.99, "--out", out) == 2
    assert "energy" in capsys.readouterr().err


def test_without_a_meter_nothing_runs_for_it(package, engine, tmp_path):
    made = profile(package, passes=PASSES, sysfs=tmp_path / "no sysfs")
    assert made.energy_meter is None
    assert made.no_energy.startswith("no energy meter")
    steps = (*made.stages, *made.heads.values(), *made.labels.values(), made.original)
    assert {step.energy_mj for step in steps} == {None}
    manifest = load_manifest(package)
    assert {engine.runs[graph.file] for graph in (*manifest.stages, *manifest.heads)} == {WARM_UP + PASSES}


def test_energy_can_be_left_out(package, machine, engine):
    made = profile(package, passes=PASSES, energy_seconds=0, sysfs=machine.sysfs)
    assert (made.energy_meter, made.no_energy, made.original.energy_mj) == (None, "it was not asked for", None)
    assert engine.runs[load_manifest(package).original.file] == WARM_UP + PASSES


def test_one_graph_that_cannot_be_measured_leaves_all_out(package, machine, engine, monkeypatch):
    spend = machine.spend
    last = load_manifest(package).original.file
    monkeypatch.setattr(machine, "spend", lambda joules: joules == WATTS * engine.seconds[last] or spend(joules))
    made = profile(package, passes=PASSES, energy_seconds=0.0001, sysfs=machine.sysfs)
    assert {step.energy_mj for step in (*made.stages, *made.heads.values(), made.original)} == {None}
    assert (made.energy_meter, made.no_energy) == (None, "RAPL package-0 could not be read all the time, or stood still")


@pytest.mark.parametrize("seconds", [-0.5, 61, float("nan")])
def test_a_time_that_makes_no_sense_is_refused(tmp_path, seconds):
    with pytest.raises(InputError, match=r"energy_seconds must be from 0 \(none\) to 60, got"):
        profile(tmp_path / "no package", energy_seconds=seconds)
