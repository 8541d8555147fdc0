"""The deployment: the exits and thresholds that were chosen for a package, and what is expected of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from offramp.artifacts.base import Artifact, Provenance
from offramp.policy import GRID
from offramp.specs import EngineName, Mode, Precision, Region, SearchSpec, Spec


class RunnerUp(Spec):
    """The best deployment with other exits than the chosen one."""

    exits: tuple[str, ...]
    miou: float
    latency_ms: float
    difference_interval: tuple[float, float]
    """95 % bootstrap interval of what the winner gains in what it was chosen by: ms of mean latency, or mIoU."""
    distinguishable: bool
    """Whether that interval lies above 0."""


class Doubt(Spec):
    """How sure a choice is, by bootstrap over the records' images."""

    limits_kept: float
    """Share of resamples in which the limits on mIoU and mean latency are kept."""
    runner_up: RunnerUp | None
    """None where there is no other candidate that meets the limits."""


class Effort(Spec):
    """What a search did."""

    candidates: int
    """That the space holds."""
    judged: int
    """Of them, one by one; all others begin with exits and thresholds that cannot win, whatever comes behind them."""
    refined: int = 0
    """Further candidates with the winner's exits and policy, and image thresholds between those of the space."""
    left_out: int = 0
    """Candidates with more early exits than the limit on the space allows."""
    loss_bound: float | None = None
    """What these could at most gain on the winner, in what it was chosen by: ms of mean latency, or mIoU."""


class Certificate(Spec):
    """What is guaranteed about the loss from leaving early: the share of pixels that differ from the final exit's answer."""

    kind: Literal["learn-then-test", "conformal-risk-control"]
    bound: float
    confidence: float | None
    """With which probability over calibration sets the expected loss is at most the bound; None: it is on average."""
    images: int
    empirical_loss: float
    """On the calibration images."""
    p_value: float | None
    assumption: str


class Expected(Spec):
    """What the search expects of a deployment, from the records' images and the profile's times."""

    miou: float
    miou_interval: tuple[float, float]
    """95 % bootstrap interval over images."""
    final_miou: float
    latency_ms: float
    """Mean over images."""
    latency_interval: tuple[float, float]
    worst_latency_ms: float
    final_latency_ms: float
    """Of the final exit with no early exit asked, stage by stage."""
    shares: dict[str, float]
    """Share of images that leave at each exit; in the anytime mode share of deadlines that it answers."""
    images: int
    p95_latency_ms: float | None = None
    """Over images and the passes of the profile."""
    macs: float | None = None
    """Mean over images; None where the profile does not say."""
    energy_mj: float | None = None
    """Mean over images; None where the profile does not say."""
    parameter_bytes: int | None = None
    memory_bytes: int | None = None
    """Of the process that runs it."""
    quality: float | None = None
    """Of an anytime deployment: mean mIoU over the deadlines."""
    candidates: int
    """How many deployments the search compared."""
    effort: Effort | None = None
    doubt: Doubt | None = None
    certificate: Certificate | None = None


class Deployment(Artifact):
    """The chosen exits and thresholds, what they were asked to meet and what is expected of them."""

    kind: Literal["deployment"] = "deployment"
    mode: Mode
    exits: tuple[str, ...] = Field(min_length=1)
    """In order of depth."""
    region: Region = "all"
    pixel_threshold: int = Field(default=0, ge=0, lt=GRID)
    """Index into the manifest's `pixel_thresholds`; 0, which every pixel reaches, stands for the mean confidence."""
    image_thresholds: tuple[Annotated[float, Field(ge=0, le=2)], ...] = ()
    """One for each exit but the last: leave there if the score reaches it. No score reaches one above 1."""
    limits: SearchSpec
    expected: Expected
    package_id: str
    engine: EngineName
    threads: int = Field(ge=0, le=1024)
    """0: as many as the machine has."""
    precision: Precision = "fp32"
    """Of the engine."""
    provenance: Provenance

    @model_validator(mode="after")
    def _thresholds_fit(self) -> Self:
        wanted = len(self.exits) - 1 if self.mode == "input-dependent" else 0
        if len(self.image_thresholds) != wanted:
            raise ValueError(f"{len(self.exits)} exits in mode {self.mode} need {wanted} image thresholds")
        if len(set(self.exits)) != len(self.exits):
            raise ValueError("an exit is named twice")
        return self
