"""Small random records and a profile: what every test of the search starts from."""

from collections.abc import Callable

import numpy as np
import pytest

from offramp.artifacts import Measurement, Profile, Provenance, Records, RecordsInfo
from offramp.policy import GRID
from offramp.specs import FINAL, REGIONS

PACKAGE_ID = "a1" * 32


def exit_names(exits: int) -> tuple[str, ...]:
    return (*(f"blocks.{index}:fcn/c16" for index in range(exits - 1)), FINAL)


def make_records(images: int = 12, exits: int = 4, classes: int = 3, seed: int = 0) -> Records:
    """Exits that get better with depth, and scores that know something of it."""
    rng = np.random.default_rng(seed)
    labelled = rng.integers(0, 900, (images, classes))
    ease = rng.uniform(0.3, 1.0, (images, 1, 1))
    rate = np.clip(ease * np.linspace(0.6, 1.0, exits)[None, :, None] + rng.normal(0, 0.1, (images, exits, classes)), 0, 1)
    correct = np.floor(labelled[:, None, :] * rate)
    predicted = correct + rng.integers(0, 200, (images, exits, classes))
    total = rng.integers(1, 60, (images, exits, len(REGIONS), 1))
    shares = np.sort(rng.uniform(0, 1, (images, exits, len(REGIONS), GRID - 1)) * ease[..., None], axis=-1)[..., ::-1]
    sure = np.concatenate([total, np.floor(total * shares)], axis=-1)
    size = np.full(images, 1000)
    # What differs from the final exit: less with depth, nothing at its end.
    differing = np.floor(size[:, None] * (1 - ease[:, :, 0]) * np.linspace(0.5, 0.0, exits))
    info = RecordsInfo(
        package_id=PACKAGE_ID,
        split="val",
        data_fingerprint="f" * 64,
        classes=tuple(f"class {index}" for index in range(classes)),
        exits=exit_names(exits),
        images=tuple(f"{index}.png" for index in range(images)),
        engine="onnxruntime",
        precision="fp32",
        provenance=Provenance(made_by="evaluate", created="2026-01-01T00:00:00+00:00"),
    )
    arrays = (array.astype(np.int64) for array in (correct, predicted, labelled, sure, differing, size))
    return Records(info, *arrays)


def make_profile(exits: int = 4, seed: int = 0, **changes: object) -> Profile:
    """Two stages for the first exit, one more for each further one."""
    rng = np.random.default_rng(seed)

    def measured(low: float, high: float) -> Measurement:
        return Measurement(times_ms=tuple(rng.uniform(low, high, 3).tolist()))

    names = exit_names(exits)
    values = {
        "package_id": PACKAGE_ID,
        "engine": "onnxruntime",
        "engine_version": "1.20",
        "threads": 2,
        "precision": "fp32",
        "device": "a board",
        "exits": names,
        "exit_stages": tuple(range(1, exits + 1)),
        "stages": tuple(measured(2, 8) for _ in range(exits + 1)),
        "heads": {name: measured(0.5, 1.5) for name in names},
        "labels": {name: measured(0.1, 0.4) for name in names},
        "original": None,
        "peak_memory_bytes": 10**8,
        "provenance": Provenance(made_by="profile", created="2026-01-01T00:00:00+00:00"),
    }
    return Profile(**{**values, **changes})


@pytest.fixture
def records() -> Records:
    return make_records()


@pytest.fixture
def profile() -> Profile:
    return make_profile()


@pytest.fixture
def records_of() -> Callable[..., Records]:
    return make_records


@pytest.fixture
def profile_of() -> Callable[..., Profile]:
    return make_profile
