"""The run log: frame by frame, where it left and what that took."""

from __future__ import annotations

from typing import Literal

from offramp.artifacts.base import Artifact, Provenance
from offramp.specs import EngineName, Mode, Precision, Spec


class Frame(Spec):
    """One answered image."""

    name: str
    seconds: float = 0.0
    """From the start of the run to this answer."""
    exit: str
    scores: dict[str, float]
    """Score at each exit asked."""
    steps_ms: dict[str, float]
    """Time of each stage, head and label map, in the order run."""
    latency_ms: float
    """From the decoded image to the label map."""
    deadline_ms: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the deadline was met; None without one."""
        return None if self.deadline_ms is None else self.latency_ms <= self.deadline_ms


class RunLog(Artifact):
    """Frame by frame: where it left, what that took."""

    kind: Literal["run log"] = "run log"
    package_id: str
    trimmed_from: str | None = None
    """Of the package, if it was trimmed: records, profile and deployment carry that identity."""
    mode: Mode
    exits: tuple[str, ...]
    engine: EngineName
    threads: int
    precision: Precision = "fp32"
    frames: tuple[Frame, ...]
    live: bool = False
    dropped: int = 0
    """Frames of a live source that newer ones replaced before they were asked about."""
    interrupted: bool = False
    """Ended by its user."""
    provenance: Provenance

    def shares(self) -> dict[str, float]:
        """Share of frames that left at each exit."""
        return {name: sum(frame.exit == name for frame in self.frames) / max(len(self.frames), 1) for name in self.exits}
