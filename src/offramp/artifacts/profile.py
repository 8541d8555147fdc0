"""The profile: what every stage and head costs on a device."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from offramp.artifacts.base import Artifact, Provenance
from offramp.errors import InputError
from offramp.specs import EngineName, Precision, Spec

Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
"""A time: of no step more than eleven days, which sums and ratios of many are still finite with."""


class Measurement(Spec):
    """Raw times of one step, milliseconds; statistics are derived. And what it costs otherwise, where that is known."""

    times_ms: tuple[Milliseconds, ...] = Field(min_length=1)
    macs: int | None = Field(default=None, ge=0)
    parameter_bytes: int | None = Field(default=None, ge=0)
    memory_bytes: int | None = Field(default=None, ge=0)
    """By which the process grew when this graph was loaded and first run; None where that cannot be read."""
    energy_mj: float | None = Field(default=None, ge=0)
    """Millijoules of one run, the machine's idle share included; None on a machine without a meter."""

    @property
    def median_ms(self) -> float:
        """The median: what a typical run takes."""
        return float(np.median(self.times_ms))

    @property
    def p95_ms(self) -> float:
        """The 95th percentile."""
        return float(np.percentile(self.times_ms, 95))


class Profile(Artifact):
    """What every stage and head costs on a device. Times of all steps were taken in turn, pass after pass."""

    kind: Literal["profile"] = "profile"
    package_id: str
    engine: EngineName
    engine_version: str
    threads: int = Field(ge=0, le=1024)
    precision: Precision
    device: str
    exits: tuple[str, ...] = Field(min_length=1)
    exit_stages: tuple[Annotated[int, Field(ge=0)], ...]
    """For each exit, the index of its last stage."""
    stages: tuple[Measurement, ...]
    heads: dict[str, Measurement]
    labels: dict[str, Measurement]
    """From an exit's class scores to its label map: paid only where an image leaves."""
    original: Measurement | None
    """The single-exit network in one graph, image to label map."""
    base_memory_bytes: int | None = Field(default=None, ge=0)
    """Of the process, with the engine and without any graph; None where that cannot be read."""
    peak_memory_bytes: int = Field(ge=0)
    """Of the whole process, engine and all graphs loaded."""
    energy_meter: str | None = None
    """What measured the energy and what it covers ("RAPL package-0"); None where nothing did."""
    no_energy: str | None = None
    """Why nothing did, in one line."""
    provenance: Provenance

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not len(self.exits) == len(self.exit_stages) == len(self.heads) == len(self.labels):
            raise ValueError("exits, stages, heads and labels differ in number")
        if set(self.exits) != set(self.heads) or set(self.exits) != set(self.labels):
            raise ValueError("heads and labels must name the exits")
        if list(self.exit_stages) != sorted(self.exit_stages) or self.exit_stages[-1] >= len(self.stages):
            raise ValueError("exits must come in order of depth, each after a stage that was measured")
        return self

    def latency_ms(self, exits: tuple[str, ...]) -> float:
        """Cost of asking `exits` (in order of depth) and answering with the last: stages, heads asked, one label map.

        Raises:
            InputError: no exits, or one that the profile does not have.

        """
        if not exits or not set(exits) <= set(self.exits):
            raise InputError(f"exits are names of {', '.join(self.exits)}, one or more; got {', '.join(exits) or 'none'}")
        deepest = self.exit_stages[self.exits.index(exits[-1])]
        stages = sum(stage.median_ms for stage in self.stages[: deepest + 1])
        return stages + sum(self.heads[name].median_ms for name in exits) + self.labels[exits[-1]].median_ms
