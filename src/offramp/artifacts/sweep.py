"""The sweep: networks that were trained and measured alike, for `search` to choose among."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from offramp.artifacts.base import Artifact, Provenance
from offramp.specs import EngineName, Precision, Size, Spec

SWEEP = "sweep.json"
"""The summary in a sweep's folder."""


def _inside(path: str) -> str:
    """Only what lies below the sweep's folder may be named."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError("must be a path below the sweep's folder")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class SweptPackage(Spec):
    """A package of a trial with what was measured of it. Paths are relative to the sweep's folder."""

    name: str
    """Of the variant: `480x360`."""
    size: Size
    package: Inside
    package_id: str
    records: dict[str, Inside]
    """Split -> file; `val` is always there."""
    profile: Inside
    miou: dict[str, dict[str, float]]
    """Split -> exit -> mIoU."""
    latency_ms: dict[str, float]
    """Exit -> median latency of that exit alone."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if "val" not in self.records or "val" not in self.miou:
            raise ValueError(f"the package {self.name} has no records, or no mIoU, of val")
        if not self.latency_ms or any(set(of_split) != set(self.latency_ms) for of_split in self.miou.values()):
            raise ValueError(f"the package {self.name} names different exits in miou and latency_ms")
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
