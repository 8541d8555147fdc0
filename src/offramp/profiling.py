"""The step `profile`: what every stage, head and label map costs on this device -> Profile. Raw times are kept.

Passes take turns with the original network, so that a drift of the machine's speed meets both alike. Energy is measured
afterwards, where the machine has a meter: no meter is fine enough for one run, so each graph runs by itself, many times.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from offramp.artifacts import GraphEntry, HeadEntry, Measurement, Profile, Provenance, device_name
from offramp.doors import checked_call
from offramp.energy import SYSFS, joules_of_one_run, open_meter
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.runtime.engines import Engine, Graph, Tensor, engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName, Precision

WARM_UP = 3

LONGEST_ENERGY_SECONDS = 60.0


@checked_call
def profile(
    package: Path,
    *,
    engine: EngineName = "onnxruntime",
    threads: int = 0,
    precision: Precision = "fp32",
    passes: int = 30,
    energy_seconds: float | None = None,
    sysfs: Path = SYSFS,
    progress: Progress = silent,
) -> Profile:
    """Time every step of a package, and measure its energy where the machine has a meter.

    Args:
        package: the package.
        engine: see `engines.ENGINES`.
        threads: 0 for all.
        precision: what the engine computes in.
        passes: how often each step is timed.
        energy_seconds: for so long each graph runs for its energy; 0: none is measured; by default what the meter needs
            (half a second to eight, see `energy`), and nothing on a machine without one.
        sysfs: where the meter is looked for.
        progress: told of each pass, then of each graph whose energy is known.

    Raises:
        InputError: bad package, engine, precision, number of passes or time for the energy.

    """
    if passes < 1:
        raise InputError(f"passes must be at least 1, got {passes}")
    if energy_seconds is not None and not 0 <= energy_seconds <= LONGEST_ENERGY_SECONDS:
        raise InputError(f"energy_seconds must be from 0 (none) to {LONGEST_ENERGY_SECONDS:.0f}, got {energy_seconds}")
    metered = Metered(open_engine(engine, threads, precision))
    base = resident_bytes()
    network = StagedNetwork(package, metered)
    manifest = network.manifest
    labels = {graph.file: graph for graph in manifest.labels}
    original = network.load_original()
    width, height = manifest.size
    # Noise, not zeros: some processors are faster on zeros. Times do not depend on what the image shows.
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(WARM_UP + passes):
        kept = number >= WARM_UP
        for name, latency_ms in _one_pass(network, image).items():
            times[name] += [latency_ms] if kept else []
        if original is not None:
            started = time.perf_counter()
            original(image)
            times["original"] += [(time.perf_counter() - started) * 1e3] if kept else []
        progress(f"profile on {engine}", number + 1, WARM_UP + passes)

    def once_more() -> None:
        _one_pass(network, image)
        if original is not None:
            original(image)

    energy = _energy(metered, once_more, energy_seconds, sysfs, progress)
    asked = {"passes": passes} | ({} if energy_seconds is None else {"energy_seconds": energy_seconds})

    def measured(name: str, graph: GraphEntry) -> Measurement:
        # A head within its stage's graph takes no time, memory or energy beside it.
        within = isinstance(graph, HeadEntry) and manifest.within_stage(graph)
        energy_mj = energy.millijoules.get(graph.file)
        return Measurement(
            times_ms=tuple(times[name]),
            macs=graph.macs,
            parameter_bytes=graph.parameter_bytes,
            memory_bytes=None if base is None else 0 if within else max(0, metered.grown[graph.file]),
            energy_mj=0.0 if within and energy_mj is not None else energy_mj,
        )

    return Profile(
        package_id=manifest.package_id,
        engine=engine,
        engine_version=engine_version(engine),
        threads=network.engine.threads,
        precision=network.engine.precision,
        device=device_name(),
        exits=network.exits,
        exit_stages=tuple(head.stage for head in network.heads),
        stages=tuple(measured(f"stage {index}", manifest.stages[index]) for index in range(network.heads[-1].stage + 1)),
        heads={head.exit: measured(f"head {head.exit}", head) for head in network.heads},
        labels={head.exit: measured(f"labels {head.exit}", labels[head.labels]) for head in network.heads},
        original=measured("original", manifest.original) if manifest.original is not None else None,
        base_memory_bytes=base,
        peak_memory_bytes=peak_memory_bytes(),
        energy_meter=energy.meter,
        no_energy=energy.why_not,
        provenance=Provenance.now("profile", inputs={"package": manifest.package_id}, options=asked),
    )


class Metered:
    """An engine that notes by how much the process grows for each graph: while it is loaded, and in its first runs.

    What a graph frees and the next one takes again is counted once, so sums over graphs come near to what they take together.
    """

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine."""
        self.engine = engine
        self.name, self.precision, self.threads = engine.name, engine.precision, engine.threads
        self.tensor, self.array = engine.tensor, engine.array
        self.grown: dict[str, int] = defaultdict(int)
        """By file, bytes."""
        self._runs: dict[str, Callable[[], object]] | None = None

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Load a graph, and watch its first runs as well: engines take more memory in the second one."""
        with self._noted(entry.file):
            graph = self.engine.load(path, entry)
        runs = 0

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            nonlocal runs
            runs += 1
            if self._runs is not None:
                self._runs[entry.file] = partial(graph, {name: inputs[name] for name in entry.inputs})
            if runs > WARM_UP:
                return graph(inputs)
            with self._noted(entry.file):
                return graph(inputs)

        return run

    @contextmanager
    def keeping_runs(self) -> Iterator[dict[str, Callable[[], object]]]:
        """Each graph that runs in here, by file and in order, as a function that runs it again, with the same inputs."""
        self._runs = {}
        yield self._runs
        self._runs = None

    @contextmanager
    def _noted(self, file: str) -> Iterator[None]:
        before = resident_bytes() or 0
        yield
        self.grown[file] += (resident_bytes() or 0) - before


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not say it in a file."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _one_pass(network: StagedNetwork, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> dict[str, float]:
    for found in network.iter_exits(image):
        found.labels()
    return found.steps_ms


@dataclass(frozen=True)
class Energy:
    """Millijoules of one run of each graph, by file, and what measured them; or nothing, and why."""

    millijoules: dict[str, float] = field(default_factory=dict)
    meter: str | None = None
    why_not: str | None = None


def _energy(metered: Metered, one_pass: Callable[[], None], seconds: float | None, sysfs: Path, progress: Progress) -> Energy:
    """Run the graphs of one pass again, each by itself, under the machine's meter."""
    if seconds == 0:
        return Energy(why_not="it was not asked for")
    meter, why_not = open_meter(sysfs)
    if meter is None:
        return Energy(why_not=why_not)
    with metered.keeping_runs() as runs:
        one_pass()
    found: dict[str, float] = {}
    for file, run in runs.items():
        joules = joules_of_one_run(meter, run, seconds)
        if joules is None:
            # All or none: sums over graphs would lack this one.
            return Energy(why_not=f"{meter.name} could not be read all the time, or stood still")
        found[file] = joules * 1e3
        progress(f"energy by {meter.name}", len(found), len(runs))
    return Energy(found, meter.name)


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    # On Linux the count further down begins with the peak of the process that started this one.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
