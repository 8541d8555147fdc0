"""What runs graphs: ONNX Runtime, on the CPU or a GPU, and OpenVINO.

An engine only knows how to load a graph and run it; tensors stay in its own hands between graphs, so that nothing is copied
from stage to stage. Left alone, engines change precision or device without a word; here they are told, or refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from offramp.artifacts import GraphEntry
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.specs import EngineName, Precision

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
