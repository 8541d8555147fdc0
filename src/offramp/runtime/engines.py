"""Run a package stage by stage: one generator, every consumer.

`StagedNetwork.iter_exits(image)` runs stage after stage and yields each exit's answer as soon as it exists. Who stops asking
stops the work: the rest is never computed. An engine only knows how to load a graph and run it; tensors stay in its own hands
between graphs, so that nothing is copied from stage to stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from offramp.artifacts import GraphEntry, HeadEntry, Manifest, load_manifest
from offramp.errors import InputError
from offramp.specs import EngineName

Tensor = Any
"""A tensor as an engine holds it."""


class Graph(Protocol):
    """A loaded ONNX file."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run it. Outputs stay valid until the same graph runs again."""


class Engine(Protocol):
    """What runs graphs."""

    name: EngineName
    precision: str
    threads: int

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Read an ONNX file and make it ready."""

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Take a C-contiguous array as an input."""

    def array(self, tensor: Tensor) -> npt.NDArray[Any]:
        """An output as an array of its own."""


class OnnxRuntime:
    """ONNX Runtime on the CPU, float32."""

    name: EngineName = "onnxruntime"
    precision = "fp32"

    def __init__(self, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415 - an engine is loaded when it is chosen

        self._module = onnxruntime
        self.threads = threads
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3
        # Smaller shares of work, so that no thread waits long for the other: 5 % of the time with two threads.
        self._options.add_session_config_entry("session.dynamic_block_base", "4")
        # Left to spin after a run, the threads of one stage's session would take the cores from the next stage's. One pool for
        # the whole process would be 2 % faster still, but then no session in it, the user's own included, may have its own.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")
        # Stages run one after another, so what one has freed serves the next.
        _make_shared_arena()
        self._options.add_session_config_entry("session.use_env_allocators", "1")

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Open a session."""
        session = self._module.InferenceSession(str(path), self._options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        bound: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = {name: inputs[name] for name in entry.inputs}
            if not made:
                # The first run finds out the outputs' types and makes their buffers, which all later runs write into.
                made.update(zip(entry.outputs, session.run_with_ort_values(list(entry.outputs), given), strict=True))
                for name, tensor in made.items():
                    binding.bind_ortvalue_output(name, tensor)
                return dict(made)
            for name, tensor in given.items():
                # Between stages the same buffers come again and again; only the image is new.
                if bound.get(name) is not tensor:
                    binding.bind_ortvalue_input(name, tensor)
                    bound[name] = tensor
            session.run_with_iobinding(binding)
            return dict(made)

        return run

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """An OrtValue with the array's content."""
        return self._module.OrtValue.ortvalue_from_numpy(array)

    def array(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A copy: the OrtValue is written again by the next image."""
        return np.array(tensor.numpy())


@cache
def _make_shared_arena() -> None:
    """Once in a process: the memory of all sessions that ask for it; others, the user's own, keep theirs."""
    import onnxruntime  # noqa: PLC0415 - an engine is loaded when it is chosen

    cpu = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    # It grows by doubling, but by no more than 16 MB: else half of it would lie idle; by what is asked for alone, no
    # other graph could use the pieces.
    growth = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 0, "max_power_of_two_extend_bytes": 1 << 24})
    onnxruntime.create_and_register_allocator(cpu, growth)


class OpenVino:
    """OpenVINO on the CPU, float32: left alone it would take bfloat16 on some processors without a word."""

    name: EngineName = "openvino"
    precision = "fp32"

    def __init__(self, threads: int) -> None:
        try:
            import openvino  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise InputError("the engine openvino is not installed; pip install 'offramp[openvino]'") from error
        self._module = openvino
        self.threads = threads
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Compile the graph."""
        request = self._core.compile_model(str(path), "CPU", self._options).create_infer_request()

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            for name in entry.inputs:
                request.set_tensor(name, inputs[name])
            request.infer()
            return {name: request.get_tensor(name) for name in entry.outputs}

        return run

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """A tensor that shares the array's memory; of a read-only array (Pillow gives such ones) it needs a copy."""
        return self._module.Tensor(np.require(array, requirements=["C", "W"]), shared_memory=True)

    def array(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A copy: the request's own memory is written again by the next image."""
        return np.array(tensor.data)


ENGINES: dict[EngineName, Callable[[int], Engine]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def open_engine(name: EngineName, threads: int = 0) -> Engine:
    """Start an engine.

    Args:
        name: see `ENGINES`.
        threads: 0 for all processors that this process may use.

    Raises:
        InputError: unknown, not installed, or a number of threads that makes no sense.

    """
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    if not 0 <= threads <= 1024:
        raise InputError(f"threads must be from 1 to 1024, or 0 for all, got {threads}")
    return ENGINES[name](threads or usable_processors())


def usable_processors() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def engine_version(name: EngineName) -> str:
    """The installed version of an engine."""
    return version(name)


@dataclass
class ExitAnswer:
    """What one exit says of one image; labels are made only if they are asked for."""

    exit: str
    sure: npt.NDArray[np.int32]
    """(regions, GRID) pixels; see `policy`."""
    confidence: npt.NDArray[np.float32]
    """(h, w), at head resolution."""
    steps_ms: dict[str, float]
    """Time of every step so far for this image, in the order run: "stage 0", "head NAME", "labels NAME"."""
    make_labels: Callable[[], npt.NDArray[np.uint8]] = field(repr=False)

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map, (H, W), at the package's size, to be asked for before the next image. Its time joins `steps_ms`."""
        return self.make_labels()


class StagedNetwork:
    """A package, loaded into an engine."""

    def __init__(
        self, package: Path, engine: Engine, exits: Sequence[str] | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Load what `exits` (all by default) need, and nothing deeper.

        Args:
            package: a folder.
            engine: what will run its graphs.
            exits: names.
            manifest: the package's, if it has been read and checked already.

        Raises:
            InputError: no package, a damaged one, or an exit that it does not have.

        """
        self.package = Path(package)
        self.engine = engine
        self.manifest = manifest or load_manifest(self.package)
        names = self.manifest.exits if exits is None else tuple(exits)
        wanted = {self.manifest.head(name).exit for name in names}
        self.heads: tuple[HeadEntry, ...] = tuple(head for head in self.manifest.heads if head.exit in wanted)
        self._stages = [self._load(entry) for entry in self.manifest.stages[: self.heads[-1].stage + 1]]
        self._head_graphs = {head.exit: self._load(head) for head in self.heads}
        self._images = 0  # how many have been asked about: buffers are used again for each
        needed = {head.labels for head in self.heads}
        self._labels = {entry.file: (entry, self._load(entry)) for entry in self.manifest.labels if entry.file in needed}

    def _load(self, entry: GraphEntry) -> Graph:
        try:
            return self.engine.load(self.package / entry.file, entry)
        except Exception as error:
            # Engines raise types of their own for a graph that they cannot run.
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.engine.name} cannot load {self.package / entry.file}: {reason}") from error

    @property
    def exits(self) -> tuple[str, ...]:
        """The exits that are loaded, in order of depth."""
        return tuple(head.exit for head in self.heads)

    def iter_exits(self, image: npt.NDArray[np.uint8], exits: Sequence[str] | None = None) -> Iterator[ExitAnswer]:
        """Yield the answers of `exits` (all loaded ones by default) in order of depth; nothing deeper is computed than asked.

        Args:
            image: RGB, (H, W, 3) uint8, of the package's size.
            exits: names; heads of other exits do not run.

        Raises:
            InputError: an image of another size or type.
            RuntimeError: a further exit is asked for although another image has been begun: its tensors are gone.

        """
        heads = self.heads if exits is None else tuple(head for head in self.heads if head.exit in set(exits))
        width, height = self.manifest.size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise InputError(f"the package takes uint8 images of shape {(height, width, 3)}, got {image.dtype} {image.shape}")
        self._images += 1
        number = self._images
        entry = self.manifest.stages[0].inputs[0]
        tensors = {entry: self.engine.tensor(np.ascontiguousarray(image)[None])}
        steps_ms: dict[str, float] = {}
        begun = 0
        for head in heads:
            if number != self._images:
                raise RuntimeError("further exits must be asked for before the next image: this one's tensors are gone")
            for index in range(begun, head.stage + 1):
                tensors |= timed(steps_ms, f"stage {index}", self._stages[index], tensors)
            begun = head.stage + 1
            yield self._answer(head, tensors, steps_ms)

    def _answer(self, head: HeadEntry, tensors: dict[str, Tensor], steps_ms: dict[str, float]) -> ExitAnswer:
        outputs = timed(steps_ms, f"head {head.exit}", self._head_graphs[head.exit], tensors)
        scores, confidence, sure = (outputs[name] for name in head.outputs)
        entry, graph = self._labels[head.labels]
        image = self._images

        def make_labels() -> npt.NDArray[np.uint8]:
            if image != self._images:
                raise RuntimeError("the label map must be asked for before the next image: its class scores are gone")
            made = timed(steps_ms, f"labels {head.exit}", graph, {entry.inputs[0]: scores})
            return np.asarray(self.engine.array(made[entry.outputs[0]])[0], np.uint8)

        return ExitAnswer(head.exit, self.engine.array(sure), self.engine.array(confidence)[0], steps_ms, make_labels)

    def load_original(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None:
        """The single-exit network in one graph, image (H, W, 3) to labels (H, W); None if the package has none."""
        entry = self.manifest.original
        if entry is None:
            return None
        graph = self._load(entry)

        def run(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            made = graph({entry.inputs[0]: self.engine.tensor(np.ascontiguousarray(image)[None])})
            return np.asarray(self.engine.array(made[entry.outputs[0]])[0], np.uint8)

        return run


def timed(steps_ms: dict[str, float], name: str, graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph and note how long it took."""
    started = time.perf_counter()
    outputs = graph(inputs)
    steps_ms[name] = (time.perf_counter() - started) * 1e3
    return outputs
