"""Run a package stage by stage: one generator, every consumer.

`StagedNetwork.iter_exits(image)` runs stage after stage and yields each exit's answer as soon as it exists. Who stops asking
stops the work: the rest is never computed. An engine only knows how to load a graph and run it; tensors stay in its own hands
between graphs, so that nothing is copied from stage to stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from offramp.artifacts import GraphEntry, HeadEntry, Manifest, graph_file, load_manifest
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.policy import GRID
from offramp.specs import REGIONS, EngineName, Precision

Tensor = Any
"""A tensor as an engine holds it."""


class Graph(Protocol):
    """A loaded ONNX file."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run it. Outputs stay valid until the same graph runs again."""


class Engine(Protocol):
    """What runs graphs."""

    name: EngineName
    precision: Precision
    threads: int

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Read an ONNX file and make it ready."""

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Take a C-contiguous array as an input."""

    def array(self, tensor: Tensor) -> npt.NDArray[Any]:
        """An output as an array of its own."""


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    name: str
    device: str
    """Where its tensors lie, as ONNX Runtime calls it."""
    precisions: tuple[Precision, ...]
    options: Callable[[Precision], list[tuple[str, dict[str, str]]]]
    """The providers that a session asks for, in order, with their options."""


def _cuda_options(_precision: Precision) -> list[tuple[str, dict[str, str]]]:
    # Left alone it would compute float32 convolutions in TensorFloat-32, with 10 bits of mantissa.
    return [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"})]


def _tensorrt_options(precision: Precision) -> list[tuple[str, dict[str, str]]]:
    half = {"trt_fp16_enable": "1" if precision == "fp16" else "0", "trt_bf16_enable": "1" if precision == "bf16" else "0"}
    return [("TensorrtExecutionProvider", half), *_cuda_options(precision)]


PROVIDERS: dict[EngineName, Provider] = {
    "onnxruntime": Provider("CPUExecutionProvider", "cpu", ("fp32",), lambda _precision: [("CPUExecutionProvider", {})]),
    "onnxruntime-cuda": Provider("CUDAExecutionProvider", "cuda", ("fp32",), _cuda_options),
    "onnxruntime-tensorrt": Provider("TensorrtExecutionProvider", "cuda", ("fp32", "bf16", "fp16"), _tensorrt_options),
}
"""The engines that are ONNX Runtime, by name. TensorRT picks its own kernels for float32, TensorFloat-32 ones too."""


class OnnxRuntime:
    """ONNX Runtime, on the CPU or on a GPU."""

    def __init__(self, threads: int, precision: Precision, name: EngineName = "onnxruntime") -> None:
        import onnxruntime  # noqa: PLC0415 - an engine is loaded when it is chosen

        provider = PROVIDERS[name]
        _require_precision(name, precision, provider.precisions)
        offered = onnxruntime.get_available_providers()
        if provider.name not in offered:
            raise InputError(
                f"the installed onnxruntime cannot do {name}: it has no {provider.name}, only {', '.join(offered)}; "
                f"on a machine with an NVIDIA GPU: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        self.name: EngineName = name
        self.precision: Precision = precision
        self._device, self._providers = provider.device, provider.options(precision)
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
        session = self._module.InferenceSession(str(path), self._options, providers=self._providers)
        # A GPU's libraries may be missing although the provider is there; ONNX Runtime would take the CPU without a word.
        if session.get_providers()[0] != self._providers[0][0]:
            raise InputError(f"{self._providers[0][0]} does not start here (its libraries or the GPU are missing)")
        binding = session.io_binding()
        bound: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = {name: inputs[name] for name in entry.inputs}
            for name, tensor in given.items():
                # Between stages the same buffers come again and again; only the image is new.
                if bound.get(name) is not tensor:
                    binding.bind_ortvalue_input(name, tensor)
                    bound[name] = tensor
            if made:
                session.run_with_iobinding(binding)
                return dict(made)
            # The first run finds out the outputs' types and makes their buffers, which all later runs write into.
            for name in entry.outputs:
                binding.bind_output(name, self._device)
            session.run_with_iobinding(binding)
            made.update(zip(entry.outputs, binding.get_outputs(), strict=True))
            for name, tensor in made.items():
                binding.bind_ortvalue_output(name, tensor)
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


HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names."""


class OpenVino:
    """OpenVINO on the CPU. Left alone it would take bfloat16 on some processors without a word, so it is always told."""

    name: EngineName = "openvino"

    def __init__(self, threads: int, precision: Precision) -> None:
        try:
            import openvino  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise InputError("the engine openvino is not installed; pip install 'offramp[openvino]'") from error
        self._module = openvino
        self.threads = threads
        self._core = openvino.Core()
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _require_precision("openvino", precision, [name for name in HINTS if name.upper() in able], "on this processor")
        self.precision: Precision = precision
        self._options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }

    def load(self, path: Path, entry: GraphEntry) -> Graph:
        """Compile the graph."""
        model = self._core.compile_model(str(path), "CPU", self._options)
        request = model.create_infer_request()

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


def _require_precision(engine: EngineName, precision: Precision, able: Sequence[Precision], where: str = "") -> None:
    if precision in able:
        return
    others = [name for name, provider in PROVIDERS.items() if precision in provider.precisions]
    others += ["openvino"] if engine != "openvino" else []
    elsewhere = f", or an engine that may have it: {', '.join(others)}" if others else ""
    raise InputError(
        f"{engine} does not compute in {precision}{' ' * bool(where)}{where}, but in {', '.join(able)}; take that{elsewhere}"
    )


ENGINES: dict[EngineName, Callable[[int, Precision], Engine]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "onnxruntime-cuda": partial(OnnxRuntime, name="onnxruntime-cuda"),
    "onnxruntime-tensorrt": partial(OnnxRuntime, name="onnxruntime-tensorrt"),
}


@checked_call
def open_engine(name: EngineName, threads: int = 0, precision: Precision = "fp32") -> Engine:
    """Start an engine.

    Args:
        name: see `ENGINES`.
        threads: 0 for all processors that this process may use.
        precision: what it computes in.

    Raises:
        InputError: not installed, without the hardware, a precision that it or the processor does not have, or a
            number of threads that makes no sense.

    """
    if not 0 <= threads <= 1024:
        raise InputError(f"threads must be from 1 to 1024, or 0 for all, got {threads}")
    return ENGINES[name](threads or usable_processors(), precision)


def usable_processors() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def engine_version(name: EngineName) -> str:
    """The installed version of an engine."""
    module, _, provider = name.partition("-")
    for package in (f"{module}-gpu", module) if provider else (module, f"{module}-gpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"  # built by the user


NOT_JUDGED = (np.zeros((1, 0, 0), np.float32), np.zeros((len(REGIONS), GRID), np.int32))
"""Confidence and counts of a package that was trimmed without confidence: none."""


@dataclass
class ExitAnswer:
    """What one exit says of one image; labels are made only if they are asked for."""

    exit: str
    sure: npt.NDArray[np.int32]
    """(regions, GRID) pixels; see `policy`."""
    confidence: npt.NDArray[np.float32]
    """(h, w), at head resolution; empty where the package was trimmed without confidence."""
    steps_ms: dict[str, float]
    """Time of every step so far for this image, in the order run: "stage 0", "head NAME", "labels NAME"."""
    make_labels: Callable[[], npt.NDArray[np.uint8]] = field(repr=False)

    def labels(self) -> npt.NDArray[np.uint8]:
        """The label map, (H, W), at the package's size, to be asked for before the next image. Its time joins `steps_ms`."""
        return self.make_labels()


class StagedNetwork:
    """A package, loaded into an engine."""

    @checked_call
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
        self._head_graphs = {head.exit: self._load(head) for head in self.heads if not self.manifest.within_stage(head)}
        # The largest probability is at least one among so many; margin and entropy may be 0.
        self._least_confidence = 0.5 / len(self.manifest.classes) if self.manifest.confidence == "top1" else -1.0
        self._images = 0  # how many have been asked about: buffers are used again for each
        needed = {head.labels for head in self.heads}
        self._labels = {entry.file: (entry, self._load(entry)) for entry in self.manifest.labels if entry.file in needed}

    def _load(self, entry: GraphEntry) -> Graph:
        path = graph_file(self.package, entry)
        with self._telling(f"load {path}"):
            graph = self.engine.load(path, entry)

        def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with self._telling(f"run {path}"):
                return graph(inputs)

        return run

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Engines raise types of their own for a graph that they cannot load, or not run with what it is given."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(f"{self.engine.name} cannot {what}: {reason}; export it again, or try another --engine") from error

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
            InputError: an image of another size or type, an exit that is not loaded, graphs that do not fit together, or class
                scores that are not finite.
            RuntimeError: a further exit is asked for although another image has been begun: its tensors are gone.

        """
        heads = self.heads if exits is None else self._named(exits)
        self._require_image(image)
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

    def _named(self, exits: Sequence[str]) -> tuple[HeadEntry, ...]:
        lacking = [name for name in exits if name not in self.exits]
        if lacking or isinstance(exits, str):
            got = exits if isinstance(exits, str) else lacking[0]
            raise InputError(f"exits are a list of names of {', '.join(self.exits)}; got {got!r}")
        return tuple(head for head in self.heads if head.exit in exits)

    def _require_image(self, image: npt.NDArray[np.uint8]) -> None:
        width, height = self.manifest.size
        if not isinstance(image, np.ndarray) or image.shape != (height, width, 3) or image.dtype != np.uint8:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"the package takes uint8 images of shape {(height, width, 3)}, got {got}")

    def _answer(self, head: HeadEntry, tensors: dict[str, Tensor], steps_ms: dict[str, float]) -> ExitAnswer:
        if head.exit in self._head_graphs:
            outputs = timed(steps_ms, f"head {head.exit}", self._head_graphs[head.exit], tensors)
        else:
            outputs, steps_ms[f"head {head.exit}"] = tensors, 0.0
        scores, *judged = (outputs[name] for name in head.outputs)
        confidence, sure = (self.engine.array(tensor) for tensor in judged) if judged else NOT_JUDGED
        if confidence.ndim != 3 or sure.shape != NOT_JUDGED[1].shape:
            shapes = f"confidence {confidence.shape} and counts {sure.shape}"
            raise InputError(f"{self.package / head.file} gives {shapes}, wanted (1, h, w) and {NOT_JUDGED[1].shape}")
        # Some microseconds. NaN among the scores is NaN here, too, or 0 in OpenVINO, where the largest probability never is.
        if not confidence.min(initial=1.0) >= self._least_confidence:
            raise InputError(self._not_finite(head))
        entry, graph = self._labels[head.labels]
        image = self._images

        def make_labels() -> npt.NDArray[np.uint8]:
            if image != self._images:
                raise RuntimeError("the label map must be asked for before the next image: its class scores are gone")
            made = timed(steps_ms, f"labels {head.exit}", graph, {entry.inputs[0]: scores})
            return self._label_map(made, entry)

        return ExitAnswer(head.exit, sure, confidence[0], steps_ms, make_labels)

    def _not_finite(self, head: HeadEntry) -> str:
        how = f"computed in {self.engine.precision} by {self.engine.name}"
        do = "export the package again" if self.engine.precision == "fp32" else "take the precision fp32, or bf16 for fp16"
        return f"the exit {head.exit} gives NaN or infinite class scores for this image, {how}: no label map can be made; {do}"

    def load_original(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None:
        """The single-exit network in one graph, image (H, W, 3) to labels (H, W); None if the package has none."""
        entry = self.manifest.original
        if entry is None:
            return None
        graph = self._load(entry)

        def run(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            self._require_image(image)
            made = graph({entry.inputs[0]: self.engine.tensor(np.ascontiguousarray(image)[None])})
            return self._label_map(made, entry)

        return run

    def _label_map(self, made: Mapping[str, Tensor], entry: GraphEntry) -> npt.NDArray[np.uint8]:
        labels = self.engine.array(made[entry.outputs[0]])
        if labels.shape != (1, *self.manifest.labels_shape) or labels.dtype != np.uint8:
            wanted = f"uint8 {(1, *self.manifest.labels_shape)}"
            raise InputError(
                f"{self.package / entry.file} gives {labels.dtype} {labels.shape}, wanted {wanted}; export it again"
            )
        if labels.max() >= len(self.manifest.classes):
            raise InputError(f"{self.package / entry.file} gives class {labels.max()}, there are {len(self.manifest.classes)}")
        return np.asarray(labels[0])


def timed(steps_ms: dict[str, float], name: str, graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph and note how long it took."""
    started = time.perf_counter()
    outputs = graph(inputs)
    steps_ms[name] = (time.perf_counter() - started) * 1e3
    return outputs
