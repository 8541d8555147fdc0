"""What pruning did, as it is written down."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from offramp.errors import InputError
from offramp.files import read_json
from offramp.models.multi_exit import MultiExitNetwork
from offramp.pruning.choice import layer_costs
from offramp.specs import FINAL, Size, Spec, explain

PRUNED, PRUNING = "pruned", "pruning.json"
"""The folder in a pruned run that holds it before fine-tuning, and the file there that says what was done."""

BACKBONE = "backbone"


class PartCost(Spec):
    """What a part of the network costs."""

    macs: int = Field(ge=0)
    """Of its convolutions and linear layers, for one image."""
    parameters: int = Field(ge=0)


def whole(parts: dict[str, PartCost]) -> PartCost:
    """What all parts cost together."""
    costs = parts.values()
    return PartCost(macs=sum(part.macs for part in costs), parameters=sum(part.parameters for part in costs))


class PruningFile(Spec):
    """What pruning did."""

    kind: Literal["pruning"] = "pruning"
    format: Literal[1] = 1
    keep: Annotated[float, Field(gt=0, lt=1)]
    """The share of the macs of all exits together that was to stay, at most."""
    run_sha256: str
    """Of the weights of the run that was pruned."""
    images: int
    """How many training images judged the channels."""
    data_fingerprint: str
    """Of these images' split."""
    before: dict[str, PartCost]
    """By part: the backbone, and every exit's head by the exit's name."""
    after: dict[str, PartCost]

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if set(self.before) != set(self.after) or not whole(self.before).macs:
            raise ValueError("before and after must name the same parts, which cost something")
        return self

    @property
    def kept(self) -> float:
        """The share of the macs that stayed."""
        return whole(self.after).macs / whole(self.before).macs

    def save(self, folder: Path) -> None:
        """Write FOLDER/pruning.json."""
        (folder / PRUNING).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_pruning(run: Path) -> PruningFile:
    """Read what `prune` did for a run.

    Raises:
        InputError: nothing, or a damaged file.

    """
    path = run / PRUNED / PRUNING
    if not path.exists():
        raise InputError(f"not a pruned run: cannot read {path} (no such file); make one with offramp prune")
    raw = read_json(path, "record of pruning", mend=f"remove {run} and prune again")
    try:
        return PruningFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; remove {run} and prune again") from error


def part_costs(network: MultiExitNetwork, size: Size) -> dict[str, PartCost]:
    """What the backbone and every exit's head cost for an image of `size` (width, height)."""
    macs: dict[str, int] = defaultdict(int)
    for name, cost in layer_costs(network, size[1], size[0]).items():
        macs[_part_of(network, name)] += cost.macs
    parameters: dict[str, int] = defaultdict(int)
    for name, tensor in network.named_parameters():
        parameters[_part_of(network, name)] += tensor.numel()
    return {part: PartCost(macs=macs[part], parameters=count) for part, count in parameters.items()}


def _part_of(network: MultiExitNetwork, name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "early_heads":
        return network.spec.exits[int(rest.partition(".")[0])].name
    return FINAL if part == "final_head" else BACKBONE
