"""The sweep: networks that were trained and measured alike, for `search` to choose among."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from offramp.artifacts.base import Artifact, Provenance
from offramp.specs import EngineName, Precision, Size, Spec

SWEEP = "sweep.json"
"""The summary in a sweep's folder."""


class SweptPackage(Spec):
    """A package of a trial with what was measured of it. Paths are relative to the sweep's folder."""

    name: str
    """Of the variant: `480x360`."""
    size: Size
    package: str
    package_id: str
    records: dict[str, str]
    """Split -> file; `val` is always there."""
    profile: str
    miou: dict[str, dict[str, float]]
    """Split -> exit -> mIoU."""
    latency_ms: dict[str, float]
    """Exit -> median latency of that exit alone."""

    @model_validator(mode="after")
    def _figures_are_there(self) -> Self:
        if "val" not in self.records or not self.latency_ms:
            raise ValueError("a package needs records of val and the latency of its exits")
        if "val" not in self.miou or any(set(of_split) != set(self.latency_ms) for of_split in self.miou.values()):
            raise ValueError("miou must give a figure on val, and on each split one for every exit that has a latency")
        return self

    @property
    def best_exit(self) -> str:
        """The most accurate on `val`; at a draw the fastest."""
        return max(self.miou["val"], key=lambda name: (self.miou["val"][name], -self.latency_ms[name]))


class SweptTrial(Spec):
    """One network of the plan."""

    name: str
    packages: tuple[SweptPackage, ...] = ()
    error: str | None = None
    """Why something of it failed; packages that were finished are there all the same."""


class Sweep(Artifact):
    """What a sweep has trained and measured."""

    kind: Literal["sweep"] = "sweep"
    device: str
    engine: EngineName
    threads: int
    precision: Precision
    trials: tuple[SweptTrial, ...] = Field(min_length=1)
    search: tuple[str, ...] = ()
    """The command that chooses among all packages, as words, with paths as they were given; empty where there is none."""
    provenance: Provenance

    @property
    def packages(self) -> tuple[SweptPackage, ...]:
        """All packages."""
        return tuple(package for trial in self.trials for package in trial.packages)
