"""What opens engines: what is not there, and precisions that are not to be had, are refused."""

import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import onnxruntime
import pytest

from offramp.errors import InputError
from offramp.runtime.engines import PROVIDERS, engine_version, open_engine
from offramp.runtime.staged_network import StagedNetwork


def test_unknown_engines_and_threads_are_refused():
    with pytest.raises(InputError, match="onnxruntime"):
        open_engine("tensorflow")
    with pytest.raises(InputError, match="threads"):
        open_engine("onnxruntime", -1)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_is_not_there_is_refused(name):
    provider = PROVIDERS[name].name
    if provider in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    with pytest.raises(InputError, match=rf"has no {provider}, only .*CPUExecutionProvider.*onnxruntime-gpu"):
        open_engine(name)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_refused(package):
    """ONNX Runtime takes the CPU where a GPU's libraries are missing, and warns at most."""
    engine = open_engine("onnxruntime", 1)
    engine._providers = [("CUDAExecutionProvider", {})]
    with pytest.raises(InputError, match="CUDAExecutionProvider does not start here"):
        StagedNetwork(package, engine)


def test_precisions_that_an_engine_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"onnxruntime does not compute in bf16, but in fp32; .*openvino"):
        open_engine("onnxruntime", 1, "bf16")
    with pytest.raises(InputError, match=r"unknown precision 'int4'; there are fp32, bf16, fp16"):
        open_engine("onnxruntime", 1, "int4")


@pytest.mark.parametrize(("precision", "digits"), [("bf16", 8), ("fp16", 11)])
def test_openvino_computes_in_the_precision_that_is_asked_for(package, precision, digits):
    """Answers differ from fp32's, by about as much as numbers with so many binary digits must."""
    pytest.importorskip("openvino")
    try:
        engine = open_engine("openvino", 1, precision)
    except InputError as error:
        assert re.search(rf"openvino does not compute in {precision} on this processor, but in fp32", str(error))  # noqa: PT017
        return
    assert engine.precision == precision
    image = np.random.default_rng(6).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exact = [answer.confidence for answer in StagedNetwork(package, open_engine("openvino", 1)).iter_exits(image)]
    rounded = [answer.confidence for answer in StagedNetwork(package, engine).iter_exits(image)]
    errors = [float(np.abs(one - other).max()) for one, other in zip(exact, rounded, strict=True)]
    assert all(0 < error < 40 * 2.0**-digits for error in errors), errors


def test_the_version_is_that_of_the_package_that_is_installed(monkeypatch):
    assert engine_version("onnxruntime") == engine_version("onnxruntime-cuda") == onnxruntime.__version__
    asked = []

    def version(package):
        asked.append(package)
        raise PackageNotFoundError

    monkeypatch.setattr("offramp.runtime.engines.version", version)
    assert engine_version("onnxruntime-cuda") == "unknown"
    assert asked == ["onnxruntime-gpu", "onnxruntime"]
