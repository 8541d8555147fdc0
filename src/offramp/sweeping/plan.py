"""The plan of a sweep: a YAML file of a dozen lines, checked before anything begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from offramp.errors import InputError
from offramp.files import read_file
from offramp.specs import (
    EngineName,
    NetworkChoice,
    Precision,
    Size,
    Spec,
    StoredPrecision,
    TrainingSpec,
    default_exit_epochs,
    explain,
    parse_size,
)

SplitName = Literal["val", "test"]


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


SizeText = Annotated[Size, BeforeValidator(_size)]
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
"""What a trial may be called: it names a folder."""
LARGEST_PLAN = 1_000_000
"""Bytes."""


class NetworkEntry(NetworkChoice):
    """One network to train: what `offramp train` asks for, and what the entry has of its own."""

    name: str | None = Field(default=None, pattern=f"^{NAME}$", max_length=100)
    """Of the trial and its folder; by default made of the network and its output stride."""
    weights: str | None = None
    """A safetensors file, relative to the plan."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TrainingSpec` that this network has of its own."""


class DeviceEntry(Spec):
    """How everything is measured."""

    engine: EngineName = "onnxruntime"
    threads: int = Field(default=0, ge=0, le=1024)
    """0 for all."""
    precision: Precision = "fp32"
    passes: int = Field(default=30, ge=1)


class PlanFile(Spec):
    """The file as it stands. A network that is `path/to/file.py:function` is looked for beside the plan, too."""

    networks: tuple[NetworkEntry, ...] = Field(min_length=1)
    sizes: tuple[SizeText, ...] = Field(min_length=1)
    """Of the images that packages take; every network is exported at each."""
    stored: tuple[StoredPrecision, ...] = Field(default=("fp32",), min_length=1)
    """Precisions of weights: every package is made in each; see `offramp export --precision`."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TrainingSpec`, for all networks."""
    device: DeviceEntry = DeviceEntry()
    splits: tuple[SplitName, ...] = ("val", "test")
    """Evaluated; `val` is always."""


@dataclass(frozen=True)
class Variant:
    """One package of a trained run; its name is that of its folder."""

    size: Size
    stored: StoredPrecision = "fp32"

    @property
    def name(self) -> str:
        """`480x360`, or `480x360-int8`."""
        return f"{self.size[0]}x{self.size[1]}" + (f"-{self.stored}" if self.stored != "fp32" else "")


@dataclass(frozen=True)
class Trial:
    """One training and the packages to make of it."""

    name: str
    choice: NetworkChoice
    training: TrainingSpec
    weights: Path | None
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Plan:
    """What a sweep has to do."""

    trials: tuple[Trial, ...]
    device: DeviceEntry
    splits: tuple[str, ...]


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice, of which YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See the base class."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} comes twice", node.start_mark)
        return dict(super().construct_mapping(node, deep=deep))


def read_plan(path: Path) -> Plan:
    """Read a plan and check all of it, but whether its networks exist.

    Raises:
        InputError: unreadable, no YAML, an unknown key, a value out of range, two trials of one name or a missing file of
            weights; says which key of which file.

    """
    content = read_file(path, "plan", largest=LARGEST_PLAN)
    try:
        raw = yaml.load(content.decode("utf-8"), Loader=_Strict)  # noqa: S506 - a SafeLoader, which runs nothing
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"the plan {path} is no YAML: {str(error)[:300]}; see docs/approximations.md for one") from error
    if not isinstance(raw, dict):
        raise InputError(f"the plan {path} must have the keys {', '.join(PlanFile.model_fields)}, got {type(raw).__name__}")
    try:
        plan = PlanFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"the plan {path}: {_said(error)}") from error
    trials = tuple(_trial(path, plan, index, entry) for index, entry in enumerate(plan.networks))
    names = [trial.name for trial in trials]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = names.index(name)
            raise InputError(f"the plan {path}: networks.{first} and networks.{index} are both called {name}; give one a name")
    return Plan(trials, plan.device, tuple(dict.fromkeys(("val", *plan.splits))))


def _trial(path: Path, plan: PlanFile, index: int, entry: NetworkEntry) -> Trial:
    place = f"the plan {path}: networks.{index}"
    weights = None if entry.weights is None else path.parent.resolve() / entry.weights
    if weights is not None and not weights.is_file():
        raise InputError(f"{place}.weights: there is no file {weights}; the path is relative to the plan")
    given = {name: getattr(entry, name) for name in NetworkChoice.model_fields if name in entry.model_fields_set}
    if ".py:" in entry.network:  # the user's own code; workers elsewhere stand in other folders
        given["network"] = str(path.parent.resolve() / entry.network)
    sizes = dict.fromkeys(plan.sizes)
    return Trial(
        name=entry.name or _name(entry),
        choice=NetworkChoice(**given),
        training=_training(path, plan, entry, f"{place}.training"),
        weights=weights,
        variants=tuple(Variant(size, stored) for size in sizes for stored in dict.fromkeys(plan.stored)),
    )


def _training(path: Path, plan: PlanFile, entry: NetworkEntry, place: str) -> TrainingSpec:
    """As `offramp train` with the same options."""
    for own, where in ((plan.training, f"the plan {path}: training"), (entry.training, place)):
        unknown = next((name for name in own if name not in TrainingSpec.model_fields), None)
        if unknown is not None:
            raise InputError(f"{where}.{unknown}: there is no such option; there are {', '.join(TrainingSpec.model_fields)}")
    values = {**plan.training, **entry.training}
    epochs = values.get("epochs", TrainingSpec().epochs)
    if "exit_epochs" not in values and isinstance(epochs, int):
        values["exit_epochs"] = default_exit_epochs(epochs)
    try:
        if "crop" in values:
            values["crop"] = _size(values["crop"])
        return TrainingSpec.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]["loc"]
        whose = place if found and found[0] in entry.training else f"the plan {path}: training"
        raise InputError(f"{whose}{'.' * bool(found)}{_said(error)}" if found else f"{place}: {_said(error)}") from error
    except InputError as error:
        raise InputError(f"{place if 'crop' in entry.training else f'the plan {path}: training'}.crop: {error}") from error


def _name(entry: NetworkEntry) -> str:
    stride = f"-os{entry.output_stride}" if entry.output_stride else ""
    return (re.sub(r"[^A-Za-z0-9._+-]+", "-", entry.network.removeprefix("timm:")).strip("-.") or "network") + stride


def _said(error: ValidationError) -> str:
    """In one line, with the key first and pydantic's jargon left out."""
    text = explain(error).replace("Value error, ", "").removeprefix("the whole: ")
    return text.replace("Extra inputs are not permitted", "there is no such key")
