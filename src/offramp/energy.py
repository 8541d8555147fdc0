"""Energy meters that a machine has, read from files below /sys. Where there is none, nothing is measured and nothing guessed.

Every one of them measures more than this process: a processor package, a module or a whole computer, with whatever else runs
there and with the share that it draws while idle. So figures of one machine compare what runs on it; they are no price of a
graph by itself. Files and units are those of the kernel's documentation: power/powercap, hwmon/ina3221, sysfs-class-power.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

SYSFS = Path("/sys")

TOTALS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""Labels of INA3221 rails that together are all that goes into a Jetson module; the first set that is there counts.

One rail on TX1, TX2, Xavier NX, Orin NX and Orin Nano, and on Nano. AGX Orin and AGX Xavier have none for the whole; theirs lie
side by side (AGX Orin's VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and in it already), so they are added.
"""


@dataclass
class Used:
    """What was used while a meter watched."""

    joules: float | None = None
    """None until the watch is over; afterwards, where the meter could not be read all the time, or never moved."""


class Meter(Protocol):
    """Something that knows the energy that was used between two moments."""

    @property
    def name(self) -> str:
        """What it is and what it covers: "RAPL package-0"."""

    @property
    def seconds(self) -> float:
        """So long it should watch at least to see more than its own grain."""

    @property
    def settle_seconds(self) -> float:
        """So long what it tells may still belong to what ran before."""

    def measuring(self) -> AbstractContextManager[Used]:
        """Watch: `with meter.measuring() as used: ...`, then `used.joules`."""


class NoMeterError(Exception):
    """A meter is there and cannot be used; says why, in one line."""


def open_meter(root: Path = SYSFS) -> tuple[Meter | None, str]:
    """Find the machine's meter: RAPL, else a Jetson's INA3221, else a battery that is discharging.

    Args:
        root: where sysfs is; another folder in tests.

    Returns:
        The meter and ""; or None and why there is none, in one line.

    """
    reasons = []
    for find in (rapl, ina3221, battery):
        try:
            meter = find(root)
        except NoMeterError as error:
            reasons.append(str(error))
            continue
        if meter is not None:
            return meter, ""
    return None, "; ".join(reasons) or "no energy meter: neither RAPL, nor a Jetson's INA3221, nor a battery"


def joules_of_one_run(meter: Meter, run: Callable[[], object], seconds: float | None = None) -> float | None:
    """Mean energy of a run, J, over many in a row.

    Args:
        meter: what measures.
        run: run again and again, at least once.
        seconds: for so long; the meter's own by default.

    Returns:
        None where the meter did not measure.

    """
    _repeat(run, meter.settle_seconds)
    with meter.measuring() as used:
        runs = _repeat(run, meter.seconds if seconds is None else seconds)
    return None if used.joules is None else used.joules / runs


def _repeat(run: Callable[[], object], seconds: float) -> int:
    runs = 0
    until = time.perf_counter() + seconds
    while runs == 0 or time.perf_counter() < until:
        run()
        runs += 1
    return runs


# --------------------------------------------------------------------------------------------------------------- counters


@dataclass(frozen=True)
class Zone:
    """A counter of microjoules, which starts again at 0 when it has reached its range."""

    file: Path
    range_uj: int


@dataclass(frozen=True)
class Counters:
    """Counters of energy, added up.

    RAPL counts on about every millisecond, so after half a second its grain is 0.4 % at most. A counter that ran round twice
    would be misread, but that takes minutes (65 kJ and more), which no measurement here lasts.
    """

    name: str
    zones: tuple[Zone, ...]
    seconds: float = 0.5
    settle_seconds: float = 0.0

    @contextmanager
    def measuring(self) -> Iterator[Used]:
        """See `Meter`."""
        used = Used()
        before = self._read()
        yield used
        after = self._read()
        if before is None or after is None:
            return
        steps = (end - begin for begin, end in zip(before, after, strict=True))
        total = sum(step + (zone.range_uj if step < 0 else 0) for step, zone in zip(steps, self.zones, strict=True))
        # Virtual machines show counters that stand still.
        used.joules = total / 1e6 or None

    def _read(self) -> list[int] | None:
        """Microjoules."""
        try:
            return [int(_text(zone.file)) for zone in self.zones]
        except (OSError, ValueError):
            return None


def rapl(root: Path) -> Counters | None:
    """The energy of all processor packages: cores, caches, and what else is on the chip (a GPU, the memory controller).

    Memory modules are not in it, nor is the rest of the board. Those zones (dram, psys) are only on some machines, and psys
    has the packages in it. AMD's processors have the same files under the same names.

    Raises:
        NoMeterError: RAPL is there, but may not be read: since 2020 only root may.

    """
    folder = root / "class" / "powercap"
    zones: dict[str, Zone] = {}
    try:
        for each in sorted(folder.glob("intel-rapl:*")):
            # Parts of a package are zones of their own ("intel-rapl:0:0").
            if each.name.count(":") == 1 and (name := _text(each / "name")).startswith("package-"):
                zones[name] = Zone(each / "energy_uj", int(_text(each / "max_energy_range_uj")))
                int(_text(zones[name].file))
    except PermissionError as error:
        remedy = f"run as root, or once: chmod a+r {folder}/intel-rapl:*/*energy*_uj"
        raise NoMeterError(f"only root may read {error.filename}; {remedy}") from error
    except (OSError, ValueError) as error:
        raise NoMeterError(f"RAPL cannot be read: {error}") from error
    return Counters(f"RAPL {'+'.join(zones)}", tuple(zones.values())) if zones else None


# ----------------------------------------------------------------------------------------------------------------- powers


@dataclass(frozen=True)
class PowerSamples:
    """Power, looked at now and then in a thread of its own and integrated by the trapezoid rule."""

    name: str
    watts: Callable[[], float]
    """Raises OSError or ValueError where there is no reading."""
    period_seconds: float
    seconds: float
    settle_seconds: float

    @contextmanager
    def measuring(self) -> Iterator[Used]:
        """See `Meter`."""
        used = Used()
        samples = [self._sample()]
        over = Event()

        def look() -> None:
            while not over.wait(self.period_seconds):
                samples.append(self._sample())

        thread = Thread(target=look, name=self.name, daemon=True)
        thread.start()
        try:
            yield used
        finally:
            over.set()
            thread.join()
        used.joules = integral([*samples, self._sample()])

    def _sample(self) -> tuple[float, float | None]:
        """A moment, s, and the power then, W."""
        try:
            watts = self.watts()
        except (OSError, ValueError):
            return time.perf_counter(), None
        return time.perf_counter(), watts


def integral(samples: Sequence[tuple[float, float | None]]) -> float | None:
    """Energy, J, of powers, W, at moments, s, by the trapezoid rule; None where one is missing, or there was none at all."""
    watts = [power for _, power in samples if power is not None]
    if len(watts) < len(samples):
        return None
    spans = (end - begin for (begin, _), (end, _) in pairwise(samples))
    total = sum(span * (low + high) / 2 for span, (low, high) in zip(spans, pairwise(watts), strict=True))
    return total if total > 0 else None


def ina3221(root: Path) -> PowerSamples | None:
    """All that goes into a Jetson module, by its INA3221: processors, memory, everything on the module, not the carrier board.

    By default the chip has new values of all rails every 7 ms, with averaging (64 samples) every 0.4 s; 50 looks a second cost
    little, and two seconds hold several values in any case.

    Raises:
        NoMeterError: it is there, but cannot be read, or no set of its rails is known to be the whole.

    """
    rails: dict[str, tuple[Path, Path]] = {}
    try:
        for folder in sorted((root / "class" / "hwmon").glob("hwmon*")):
            if _is(folder / "name", "ina3221"):
                # Only 1 to 3 are rails: the inputs from 4 on are voltages over the shunts, in another unit.
                for label in sorted(folder.glob("in[123]_label")):
                    number = label.name[2]
                    rails.setdefault(_text(label), (folder / f"in{number}_input", folder / f"curr{number}_input"))
        if not rails:
            return None
        total = next((labels for labels in TOTALS if set(labels) <= set(rails)), None)
        if total is None:
            raise NoMeterError(f"of the INA3221's rails ({', '.join(sorted(rails))}) none is known to be the whole module's")

        def watts() -> float:
            # mV times mA.
            return sum(int(_text(volts)) * int(_text(amperes)) for volts, amperes in map(rails.__getitem__, total)) / 1e6

        watts()
    except (OSError, ValueError) as error:
        raise NoMeterError(f"the INA3221 cannot be read: {error}") from error
    return PowerSamples(f"INA3221 {'+'.join(total)}", watts, period_seconds=0.02, seconds=2.0, settle_seconds=0.4)


def battery(root: Path) -> PowerSamples | None:
    """The whole computer, screen included, by its battery while that discharges; several are added up.

    The coarsest of the meters: the firmware tells a new, often smoothed, value every second, on some machines every eight. So
    what runs before is waited for, and then watched for as long again.

    Raises:
        NoMeterError: there is a battery, but it is not discharging, or does not tell its power.

    """
    ours = [
        folder
        for folder in sorted((root / "class" / "power_supply").glob("*"))
        # A mouse has a battery as well; its scope is "Device". Most batteries of computers have no such file.
        if _is(folder / "type", "Battery") and not _is(folder / "scope", "Device")
    ]
    if not ours:
        return None
    sources = [folder for folder in ours if _is(folder / "status", "Discharging")]
    if not sources:
        raise NoMeterError(f"{ours[0].name} is not discharging: it tells the computer's power only without mains")

    def watts() -> float:
        if not all(_is(folder / "status", "Discharging") for folder in sources):
            raise ValueError("plugged in while it was measured")
        return sum(map(_battery_watts, sources))

    try:
        watts()
    except (OSError, ValueError) as error:
        raise NoMeterError(f"{sources[0].name} does not tell its power: {error}") from error
    name = f"battery {'+'.join(folder.name for folder in sources)}"
    return PowerSamples(name, watts, period_seconds=0.25, seconds=8.0, settle_seconds=8.0)


def _battery_watts(folder: Path) -> float:
    # µW, or µV and µA; some drivers count what leaves the battery as negative.
    if (folder / "power_now").exists():
        return abs(int(_text(folder / "power_now"))) / 1e6
    return abs(int(_text(folder / "voltage_now")) * int(_text(folder / "current_now"))) / 1e12


def _is(file: Path, content: str) -> bool:
    try:
        return _text(file) == content
    except (OSError, ValueError):
        return False


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()
