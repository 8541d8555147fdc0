"""What is asked for: exits, network, training, search. Checked at the door; inside, plain arguments.

Unknown keys are refused, so that a misspelt option never passes in silence.
"""

from __future__ import annotations

import re
from reprlib import Repr
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import InputError

Mode = Literal["budgeted", "anytime", "input-dependent"]
Region = Literal["all", "off-edges", "objects"]
PolicyName = Literal["all", "off-edges", "objects", "mean"]
ConfidenceKind = Literal["top1", "margin", "entropy"]
OutputStride = Literal[8, 16, 32]
LabelStride = Literal[1, 2, 4, 8]
"""Image pixels on a side that one pixel of a label map stands for."""
HeadKind = Literal["fcn", "deeplab", "lraspp", "skip"]
Scheme = Literal["two-phase", "joint", "frozen", "final-only"]
Distillation = Literal["positive", "plain", "none"]
Filtered = Literal["labels", "teacher", "both"]
EarlyExit = Literal["rotation", "random"]
OptimiserName = Literal["adamw", "sgd"]
Schedule = Literal["poly", "cosine"]
Keep = Literal["last", "best"]
TrainingPrecision = Literal["auto", "float32", "bfloat16"]
Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Overlays = Literal["jpg", "png", "video", "none"]
"""How a run leaves images mixed with their labels: a file for each, one video, or not at all."""
EngineName = Literal["onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt"]
Precision = Literal["fp32", "bf16", "fp16"]
"""What an engine computes in; inputs and outputs of graphs stay as they are."""
StoredPrecision = Literal["fp32", "bf16", "fp16", "int8"]
"""What a package's weights are stored in. int8 layers are computed in int8, too, by any engine."""
Size = tuple[Annotated[int, Field(ge=16, le=8192)], Annotated[int, Field(ge=16, le=8192)]]
"""Width and height in pixels, in this order everywhere outside tensors."""
Widths = dict[str, tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]]
"""Channels in and out of layers, by name within a network or head: of those that pruning left narrower than they are built."""

FINAL = "final"
"""The name of the original network's own exit."""

HEAD_CHANNELS = 128
"""A head's width where nothing else is said."""

HEAD_LETTERS = {"c": "channels", "r": "reduction", "b": "blocks", "d": "dilated"}
HEAD_FORM = (
    "write KIND[/cWIDTH][/rREDUCTION][/bBLOCKS][/d], KIND one of fcn, deeplab, lraspp, skip; "
    "reduction 1, 2, 4 or 8; 0 to 3 blocks; d dilates them; for example fcn/r4/b1/d"
)

REGIONS: tuple[Region, ...] = ("all", "off-edges", "objects")
"""The pixels that a policy counts, in the order in which graphs and records hold them."""


class Spec(BaseModel):
    """Base of everything that crosses a file or a door: immutable, strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeadSpec(Spec):
    """A head: its kind, its width and what comes before it. Text form: `fcn/c64/r4/b1/d`, defaults left out."""

    kind: HeadKind = "fcn"
    channels: int = Field(default=HEAD_CHANNELS, ge=4, le=2048)
    """Width of the head itself; `c64`. Where it is not said, the point's stride decides (see `models.attach.width_at`)."""
    reduction: Literal[1, 2, 4, 8] = 1
    """A 1x1 convolution first divides the tap's channels by this; `r4`."""
    blocks: int = Field(default=0, ge=0, le=3)
    """Extra residual blocks before the head; `b1`."""
    dilated: bool = False
    """Dilation 2, 4, 8 in the extra blocks instead of 1; `d`."""

    @model_validator(mode="after")
    def _blocks_to_dilate(self) -> Self:
        if self.dilated and not self.blocks:
            raise ValueError("dilation needs extra blocks, for example fcn/b2/d")
        return self

    @property
    def text(self) -> str:
        """The compact form that names, manifests, reports and the command line share."""
        parts: list[str] = [self.kind]
        parts += [f"c{self.channels}"] if self.channels != HEAD_CHANNELS else []
        parts += [f"r{self.reduction}"] if self.reduction > 1 else []
        parts += [f"b{self.blocks}"] if self.blocks else []
        return "/".join(parts + (["d"] if self.dilated else []))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the compact form; only what the text names counts as set.

        Raises:
            InputError: no head.

        """
        kind, *parts = text.strip().split("/")
        values: dict[str, Any] = {"kind": kind}
        for part in parts:
            match = re.fullmatch(r"([crb])(\d{1,5})|d", part)
            name = HEAD_LETTERS[part[0]] if match else None
            if match is None or name is None or name in values:
                raise InputError(f"not a head: {text!r}, because of {part!r}; {HEAD_FORM}")
            values[name] = int(match[2]) if match[2] else True
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"not a head: {text!r}, {explain(error)}; {HEAD_FORM}") from error


class PrunedHead(Spec):
    """What pruning left of a head."""

    features: int = Field(ge=1, le=1 << 16)
    """Channels of its tap when it was built, on which its layers depend."""
    skip: int | None = Field(default=None, ge=1, le=1 << 16)
    """Of the shallower tap that it fuses, if it does."""
    widths: Widths


class ExitSpec(Spec):
    """An exit: the module whose output it taps, the head on it, and the shallower tap that the head fuses, if it does."""

    tap: str
    head: HeadSpec = HeadSpec()
    skip: str | None = None
    pruned: PrunedHead | None = None

    @property
    def name(self) -> str:
        """Unique within a network: `blocks.3.2:fcn/c64`, or `blocks.3.2+blocks.1.0:skip`."""
        place = self.tap if self.skip is None else f"{self.tap}+{self.skip}"
        return f"{place}:{self.head.text}"


class NetworkChoice(Spec):
    """What a user says of the network and its exits; the defaults are what is trained where nothing is said."""

    network: str = "mobilenetv2_100"
    """The name of a recipe, or where the network comes from; see `NetworkSpec`."""
    output_stride: OutputStride | None = None
    exits: int = Field(default=6, ge=0, le=64)
    """How many taps to choose, at even distances in cost."""
    heads: tuple[str, ...] = Field(default=("fcn",), min_length=1)
    """In text form; every tap gets an exit with each."""
    taps: tuple[str, ...] | None = None
    """Named instead of chosen."""
    final_head: str | None = None
    """Of a backbone."""


class NetworkSpec(Spec):
    """A segmentation network, or a backbone with a final head, and its early exits, in order of depth."""

    network: str
    """Where it comes from: `timm:NAME`, `torchvision:NAME`, `smp:ARCH/ENCODER`, `transformers:CLASS` or `file.py:function`."""
    output_stride: OutputStride | None = None
    """Strides beyond it are replaced by dilation; None: as the network is."""
    num_classes: int = Field(ge=2, le=255)
    input_size: Size
    """At which its points were found."""
    multiple: int = Field(default=1, ge=1, le=64)
    """Sides are padded to a multiple of this: what the network needs to run, with feature maps that round up."""
    mean: Triple = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Of the channels, with values in [0, 1]; ImageNet's by default."""
    final_head: HeadSpec | None = None
    """On a backbone's deepest feature map; None: the network gives class scores itself."""
    final_skip: str | None = None
    """The shallower tap that the final head fuses, if it does."""
    widths: Widths = {}
    """Of the network's own layers, where it was pruned."""
    final_pruned: PrunedHead | None = None
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
    """How a network and its exits are trained (MESS, ECCV 2022, section 4.2, and what it is compared with)."""

    scheme: Scheme = "two-phase"
    """See `training.phases`: which parts are trained when."""
    epochs: int = Field(default=60, ge=0)
    """Of phase 1, the whole network; 0 for a network that is trained already."""
    exit_epochs: int = Field(default=12, ge=0)
    """Of phase 2, the early heads alone. `joint` has one phase as long as both together, `final-only` has no phase 2."""
    early_exit: EarlyExit = "rotation"
    """How phase 1 of `two-phase` picks the early exit of an iteration."""

    distillation: Distillation = "positive"
    """What teaches the early heads in phase 2: `positive` the labels and the final exit, filtered; `plain` both, unfiltered;
    `none` the labels alone."""
    filtered: Filtered = "labels"
    """Which term of `positive` counts only where the final exit is right."""
    truth_weight: float = Field(default=0.5, ge=0, le=1)
    """`a`: the share of the labels' loss against the teacher's."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Both softmaxes of the teacher's term are softened by it."""
    halving: int = Field(default=0, ge=0, le=8)
    """How often phase 2 drops the worse half of every tap's heads."""

    crop: Size = (320, 320)
    batch_size: int = Field(default=8, ge=2)
    """Of all processes together."""
    zoom: tuple[Annotated[float, Field(gt=0.05, le=20)], Annotated[float, Field(gt=0.05, le=20)]] = (0.7, 1.8)
    """Range of the random scale before the crop."""
    flip: bool = True
    jitter: float = Field(default=0.4, ge=0, lt=1)
    """Strength of the random changes of brightness, contrast and saturation; an eighth of it for the hue."""
    class_weights: bool = True
    """Whether rare classes weigh more in the labels' loss."""
    hard_share: float = Field(default=1.0, gt=0, le=1)
    """The labels' loss of phase 1 is taken over this share of the pixels, the hardest; 1: over all."""

    optimiser: OptimiserName = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the heads; see `backbone_rate`."""
    backbone_rate: float = Field(default=0.5, ge=0)
    """A pretrained backbone's learning rate as a share of `learning_rate`."""
    weight_decay: float = Field(default=1e-2, ge=0)
    schedule: Schedule = "poly"
    warm_up: float = Field(default=0.03, ge=0, lt=1)
    """Share of a phase's steps in which the learning rate rises to its full value."""
    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is measured and kept instead of them; 0: none."""

    seed: int = Field(default=0, ge=0, lt=1 << 63)
    validate_every: int = Field(default=1, ge=1)
    train_images: int = Field(default=40, ge=0)
    """How many training images are measured beside `val`, to see whether the network learns them by heart."""
    keep: Keep = "last"
    """Which weights a phase ends with: the last epoch's, or those with the highest mean mIoU on `val`."""
    precision: TrainingPrecision = "auto"
    """Of the forward pass; auto: bfloat16 on CUDA."""
    compile: bool = False
    """Compile the network by torch.compile."""
    sync_batch_norm: bool = False
    """Batch-norm statistics over all processes' images."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.epochs + self.exit_epochs:
            raise ValueError("epochs and exit_epochs are both 0: nothing would be trained")
        if self.scheme == "final-only" and not self.epochs:
            raise ValueError("the scheme final-only trains the final exit alone and needs epochs")
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom: the smaller scale comes first")
        if self.halving and self.scheme in ("joint", "final-only"):
            raise ValueError(f"halving drops heads in phase 2, which the scheme {self.scheme} does not have")
        if self.halving >= max(1, self.exit_epochs):
            raise ValueError("halving: phase 2 needs more epochs than halvings")
        return self


def default_exit_epochs(epochs: int) -> int:
    """Of phase 2, where nobody says: a fifth of phase 1's; 12 without phase 1."""
    return -(-epochs // 5) or 12


class SearchSpec(Spec):
    """Limits of a search; None means not asked for."""

    mode: Mode
    max_latency_ms: float | None = Field(default=None, gt=0)
    """Mean over images; the last answer's in the anytime mode."""
    max_p95_latency_ms: float | None = Field(default=None, gt=0)
    """Over images and the passes of the profile."""
    max_worst_latency_ms: float | None = Field(default=None, gt=0)
    """Of an image that all exits are asked about, median."""
    max_macs: float | None = Field(default=None, gt=0)
    """Mean over images."""
    max_energy_mj: float | None = Field(default=None, gt=0)
    """Millijoules, mean over images; for profiles of machines with a meter."""
    max_parameter_bytes: int | None = Field(default=None, gt=0)
    max_memory_bytes: int | None = Field(default=None, gt=0)
    """Of the process that runs the deployment."""
    max_drop_pp: float | None = Field(default=None, ge=0, le=100)
    """Accepted loss of mIoU against the final exit, in percentage points."""
    min_miou: float | None = Field(default=None, ge=0, le=1)
    min_iou: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Of single classes, by name."""
    max_exits: int = Field(default=2, ge=1, le=16)
    """Exits that an input-dependent deployment may leave at early; one more is behind them."""
    policies: tuple[PolicyName, ...] = Field(default=(*REGIONS, "mean"), min_length=1)
    """How an input-dependent deployment may make scores: the share of sure pixels of a region, or the plain mean confidence."""
    deadlines_ms: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] | None = None
    """Between which the deadlines of the anytime mode are spread evenly; by default from the fastest exit to all of them."""
    max_risk: float | None = Field(default=None, gt=0, lt=1)
    """Share of pixels that may differ from the final exit's answer, with the probability `confidence`."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    expected_risk: float | None = Field(default=None, gt=0, lt=1)
    """The same share, on average over calibration sets."""
    max_candidates: int = Field(default=10**11, ge=1)
    """Early exits are added only while the space holds no more; what lies beyond is bounded."""

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.deadlines_ms is not None and self.deadlines_ms[0] >= self.deadlines_ms[1]:
            raise ValueError("deadlines_ms: the shortest comes first, and the longest is longer")
        if self.deadlines_ms is not None and self.mode != "anytime":
            raise ValueError(f"deadlines are of the mode anytime, not of {self.mode}; leave deadlines_ms out")
        if self.max_risk is None and self.confidence != type(self).model_fields["confidence"].default:
            raise ValueError("confidence is of a max_risk, and none is asked for; give one, or leave confidence out")
        if self.max_risk is not None and self.expected_risk is not None:
            raise ValueError("max_risk bounds with a probability, expected_risk on average: ask for one of them")
        if (self.max_risk or self.expected_risk) and self.mode != "input-dependent":
            raise ValueError("risk is controlled by image thresholds, which the mode input-dependent alone has")
        return self


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
    if not first["loc"] and first["type"] == "value_error":  # parts that do not fit together; what we said of it is enough
        return " ".join(first["msg"].removeprefix("Value error, ").split())
    place = ".".join(str(part)[:80] for part in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    said = str(first["msg"]).removeprefix("Value error, ")[:400]
    text = f"{place}: {said}, got {shown(first['input'])}{more}"
    return " ".join(text.split())  # keys of a damaged file may hold line breaks


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: object) -> str:
    """A value of somebody's file, for an error's line: short, however large or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
