"""What is asked for: exits, network, training, search. Checked at the door; inside, plain arguments.

Unknown keys are refused, so that a misspelt option never passes in silence.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import InputError

Mode = Literal["budgeted", "anytime", "input-dependent"]
Region = Literal["all", "off-edges", "objects"]
ConfidenceKind = Literal["top1", "margin", "entropy"]
OutputStride = Literal[8, 16, 32]
EngineName = Literal["onnxruntime", "openvino"]
Size = tuple[Annotated[int, Field(ge=16, le=8192)], Annotated[int, Field(ge=16, le=8192)]]
"""Width and height in pixels, in this order everywhere outside tensors."""

FINAL = "final"
"""The name of the original network's own exit."""

REGIONS: tuple[Region, ...] = ("all", "off-edges", "objects")
"""The pixels that a policy counts, in the order in which graphs and records hold them."""


class Spec(BaseModel):
    """Base of everything that crosses a file or a door: immutable, strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeadSpec(Spec):
    """A head: its kind and its width. Text form: `fcn/c128`."""

    kind: Literal["fcn"] = "fcn"
    channels: int = Field(default=128, ge=4, le=2048)

    @property
    def text(self) -> str:
        """The compact form that names, manifests and reports share."""
        return f"{self.kind}/c{self.channels}"


class ExitSpec(Spec):
    """An exit: the module whose output it taps and the head on it."""

    tap: str
    head: HeadSpec = HeadSpec()

    @property
    def name(self) -> str:
        """Unique within a network: `blocks.3.2:fcn/c128`."""
        return f"{self.tap}:{self.head.text}"


class NetworkSpec(Spec):
    """A backbone with its final head and early exits, in order of depth."""

    backbone: str
    output_stride: OutputStride = 16
    num_classes: int = Field(ge=2, le=255)
    final_head: HeadSpec = HeadSpec(channels=256)
    exits: tuple[ExitSpec, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.exit_names)) != len(self.exit_names):
            raise ValueError("two exits have the same tap and head")
        return self

    @property
    def exit_names(self) -> tuple[str, ...]:
        """All exits, the early ones first, the final one last."""
        return (*(early.name for early in self.exits), FINAL)


class TrainingSpec(Spec):
    """A training run in two phases (MESS, ECCV 2022, section 4.2)."""

    epochs: int = Field(default=60, ge=1)
    """Epochs of phase 1: backbone, final head and early heads, end to end."""
    exit_epochs: int = Field(default=12, ge=0)
    """Epochs of phase 2: early heads alone, everything else frozen."""
    crop: Size = (320, 320)
    batch_size: int = Field(default=8, ge=2)
    seed: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the heads; see `backbone_rate`."""
    backbone_rate: float = Field(default=0.5, ge=0)
    """The backbone's learning rate as a share of `learning_rate`."""
    weight_decay: float = Field(default=1e-2, ge=0)
    zoom: tuple[float, float] = (0.7, 1.8)
    """Range of the random scale before the crop."""
    truth_weight: float = Field(default=0.5, ge=0, le=1)
    """`a` of phase 2: the share of the labels' loss against the teacher's."""
    validate_every: int = Field(default=1, ge=1)


class SearchSpec(Spec):
    """Limits of a search; None means not asked for."""

    mode: Mode
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_drop_pp: float | None = Field(default=None, ge=0, le=100)
    """Accepted loss of mIoU against the final exit, in percentage points."""
    min_miou: float | None = Field(default=None, ge=0, le=1)
    max_exits: int = Field(default=2, ge=1, le=3)
    """Exits that an input-dependent deployment may leave at early; one more is behind them."""


def final_exit(exits: tuple[str, ...]) -> str:
    """The deepest exit of a package; the network's own where the package still has it."""
    return FINAL if FINAL in exits else exits[-1]


def parse_size(text: str) -> Size:
    """Read `480x360` as (width, height).

    Raises:
        InputError: not two whole numbers from 16 to 8192 with an x between them.

    """
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (16 <= width <= 8192 and 16 <= height <= 8192):
        raise InputError(f"not a size: {text!r}; write WIDTHxHEIGHT in pixels, 16 to 8192 each, for example 480x360")
    return width, height


def explain(error: ValidationError) -> str:
    """Put a validation error into one line: where, what is wrong, what was got."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    got = repr(first["input"])
    text = f"{place}: {first['msg']}, got {got if len(got) <= 80 else got[:77] + '...'}{more}"
    return " ".join(text.split())  # keys of a damaged file may hold line breaks
