"""The step `profile`: what every stage, head and label map costs on this device -> Profile. Raw times are kept.

Passes take turns with the original network, so that a drift of the machine's speed meets both alike.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from offramp.artifacts import GraphEntry, Measurement, Profile, Provenance, device_name
from offramp.errors import InputError
from offramp.progress import Progress, silent
from offramp.runtime.engines import Engine, Graph, StagedNetwork, Tensor, engine_version, open_engine
from offramp.specs import EngineName

WARM_UP = 3


def profile(
    package: Path,
    *,
    engine: EngineName = "onnxruntime",
    threads: int = 0,
    passes: int = 30,
    progress: Progress = silent,
) -> Profile:
    """Time every step of a package.

    Args:
        package: the package.
        engine: onnxruntime or openvino.
        threads: 0 for all.
        passes: how often each step is timed.
        progress: told of each pass.

    Raises:
        InputError: bad package, engine or number of passes.

    """
    if passes < 1:
        raise InputError(f"passes must be at least 1, got {passes}")
    metered = Metered(open_engine(engine, threads))
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

    def measured(name: str, graph: GraphEntry) -> Measurement:
        return Measurement(
            times_ms=tuple(times[name]),
            macs=graph.macs,
            parameter_bytes=graph.parameter_bytes,
            memory_bytes=None if base is None else max(0, metered.grown[graph.file]),
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
        provenance=Provenance.now("profile", inputs={"package": manifest.package_id}, options={"passes": passes}),
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

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Load a graph, and watch its first runs as well: engines take more memory in the second one."""
        with self._noted(entry.file):
            graph = self.engine.load(path, entry)
        runs = 0

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            nonlocal runs
            runs += 1
            if runs > WARM_UP:
                return graph(inputs)
            with self._noted(entry.file):
                return graph(inputs)

        return run

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


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
