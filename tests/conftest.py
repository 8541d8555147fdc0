"""One tiny run and its package, made once for all tests: twelve drawn scenes, timm's smallest test network, two early exits."""

from __future__ import annotations

from pathlib import Path

import pytest

SIZE = (96, 64)
NETWORK = "test_efficientnet"

SHARED = Path(__file__).parents[1].parent / "shared"


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


@pytest.fixture
def shared():
    """The folder of real data and weights beside the project; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared data and weights is not beside this checkout")
    return SHARED
