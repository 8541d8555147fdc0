"""One tiny run and its package, made once for all tests: twelve drawn scenes, timm's smallest test network, two early exits.

And deployments, put into copies of a package whose network is sure of some pixels and unsure of others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

# Before torch is imported, and for processes that tests start: tiny networks are no faster with two threads, and on a busy
# machine threads that wait for each other are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from offramp.artifacts import MANIFEST, Deployment, Expected, Manifest, Provenance, load_json
from offramp.files import sha256_of
from offramp.specs import SearchSpec

SIZE = (96, 64)
NETWORK = "test_efficientnet"

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: processes share the files, and one would be alone with it in the end."""
    items.sort(key=lambda item: item.path.name != "test_bad_input.py")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium, Debian's. Its console is read by `chromium.get_log("browser")`: each test should find it empty."""
    if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    browser.set_window_size(1200, 900)
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A drawn dataset: 8 train, 2 val and 2 test images of 96x64."""
    from offramp.data.synthetic import draw_dataset

    root = tmp_path_factory.mktemp("data") / "scenes"
    draw_dataset(root, images=12, size=SIZE, seed=3)
    return root


@pytest.fixture(scope="session")
def trained_run(scenes, tmp_path_factory):
    """A finished run of two epochs and one."""
    from offramp.specs import TrainingSpec
    from offramp.training.train import train

    run = tmp_path_factory.mktemp("runs") / "run"
    spec = TrainingSpec(epochs=2, exit_epochs=1, crop=SIZE, batch_size=4, validate_every=1)
    train(scenes, run, network=NETWORK, exits=2, training=spec)
    return run


@pytest.fixture(scope="session")
def package(trained_run, tmp_path_factory):
    """The run's package, with all exits. Tests must not change it; copy it first."""
    from offramp.export.package import export

    out = tmp_path_factory.mktemp("packages") / "package"
    export(trained_run, out)
    return out


@pytest.fixture(scope="session")
def decided_package(package, tmp_path_factory):
    """The package with all class scores times 32: the same labels, but confidences that differ, after two epochs already."""
    import onnx
    from onnx import numpy_helper

    folder = tmp_path_factory.mktemp("decided") / "package"
    shutil.copytree(package, folder)
    raw = json.loads((folder / MANIFEST).read_text())
    for head in raw["heads"]:
        path = folder / head["file"]
        model = onnx.load(path)
        last = next(node for node in model.graph.node if head["outputs"][0] in node.output)
        for tensor in model.graph.initializer:
            if tensor.name in last.input:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 32, tensor.name))
        onnx.save(model, path)
        head["sha256"] = sha256_of(path)
    (folder / MANIFEST).write_text(json.dumps(raw | {"package_id": _identity_of(raw)}))
    return folder


def _identity_of(raw):
    graphs = (entry["sha256"] for part in ("stages", "heads", "labels") for entry in raw[part])
    return hashlib.sha256("".join(graphs).encode()).hexdigest()


@pytest.fixture(scope="session")
def identity_of():
    """From what a manifest says of its graphs to the identity that belongs to them."""
    return _identity_of


@pytest.fixture(scope="session")
def deployment_of():
    """Make a deployment of a package from its manifest and the fields that matter."""

    def make(manifest, **values):
        unremarkable = {
            "limits": SearchSpec(mode=values["mode"]),
            "expected": Expected(
                miou=0.5,
                miou_interval=(0.4, 0.6),
                final_miou=0.5,
                latency_ms=1.0,
                latency_interval=(1.0, 1.0),
                worst_latency_ms=1.0,
                final_latency_ms=1.0,
                shares={},
                images=2,
                candidates=1,
            ),
            "package_id": manifest.package_id,
            "engine": "onnxruntime",
            "threads": 1,
            "provenance": Provenance(made_by="test", created=""),
        }
        return Deployment(**{**unremarkable, **values})

    return make


@pytest.fixture
def with_deployments(decided_package, deployment_of, tmp_path):
    """Copy the decided package and write deployments, given as the fields that matter, into its manifest."""

    def copy(*deployments):
        folder = tmp_path / "deployed"
        shutil.copytree(decided_package, folder, dirs_exist_ok=True)
        manifest = load_json(folder / MANIFEST, Manifest)
        made = tuple(deployment_of(manifest, **values) for values in deployments)
        manifest.model_copy(update={"deployments": made}).save(folder / MANIFEST)
        return folder

    return copy


@pytest.fixture
def shared():
    """The folder of real data and weights beside the project; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared data and weights is not beside this checkout")
    return SHARED
