"""A trained network on disk: `network.json` and `weights.safetensors`. Never a pickle: a stranger's file runs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import new_file, read_json
from offramp.models.attach import OBJECT, build_network
from offramp.models.finite import require_finite
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.sources import build, full_name, is_user_code
from offramp.specs import NetworkSpec, Size, Spec, explain

WEIGHTS = "weights.safetensors"
NETWORK = "network.json"

Channel = Annotated[int, Field(ge=0, le=255)]


class NetworkFile(Spec):
    """What must be known beside the weights to use them."""

    kind: Literal["network"] = "network"
    format: Literal[2] = 2
    network: NetworkSpec
    classes: tuple[str, ...]
    palette: tuple[tuple[Channel, Channel, Channel], ...]
    object_classes: tuple[Annotated[int, Field(ge=0)], ...]
    """Indices of the classes that count as objects: each covers less than an even share of the labelled training pixels."""
    size: Size
    """Usual width and height of the training images."""
    data_fingerprint: str
    """Of the training data."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        count = self.network.num_classes
        if len(self.classes) != count or len(self.palette) != count:
            raise ValueError(
                f"the network has {count} classes, but there are {len(self.classes)} names and {len(self.palette)} colours"
            )
        if any(index >= count for index in self.object_classes):
            raise ValueError(f"object_classes must be classes, of which there are {count}")
        return self

    def save(self, run: Path) -> None:
        """Write RUN/network.json."""
        with new_file(run / NETWORK) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_network_file(run: Path) -> NetworkFile:
    """Read RUN/network.json.

    Raises:
        InputError: no run there, or damaged.

    """
    path = run / NETWORK
    if not path.exists():
        raise InputError(
            f"not a run: cannot read {path} (No such file or directory); make one with offramp train DATA --out {run}"
        )
    raw = read_json(path, "network of a run", mend="train again")
    try:
        return NetworkFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; train again") from error


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the state dict, whole or not at all. Raises InputError if it holds NaN or infinity."""
    save_tensors(plain_tensors(network), path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as `plain_tensors` makes it, whole or not at all.

    Raises:
        InputError: a tensor holds NaN or infinity: that is never saved; or the file cannot be written.

    """
    require_finite(tensors, f"weights for {path}", "nothing was written; train again with a lower --learning-rate")
    with new_file(path) as temporary:
        save_file(tensors, temporary)


def plain_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as it can be saved: on the CPU, no tensor sharing its memory with another (tied weights do)."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: missing, no ordinary file, damaged, or a tensor in it holds NaN or infinity.

    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise InputError(f"cannot read the weights {path}: it is {kind}; give a safetensors file")
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"cannot read the weights {path}: {first_reason(error)}; train again") from error
    require_finite(tensors, f"the weights {path}", "train again")
    return tensors


def load_tensors(network: nn.Module, path: Path, whose: str | Path = "the network") -> None:
    """Give a network the weights in a safetensors file.

    Args:
        network: is changed.
        path: the file.
        whose: what errors call the network, or what describes it.

    Raises:
        InputError: as `read_tensors`, or it is of another network.

    """
    try:
        network.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise InputError(f"the weights {path} do not fit {whose}: {first_reason(error)}; train again") from error


@checked_call
def load_network(run: Path, *, network: nn.Module | str | None = None) -> tuple[MultiExitNetwork, NetworkFile]:
    """Read a finished run; the network is in evaluation mode on the CPU.

    Args:
        run: its folder.
        network: the network itself, or where it comes from. Code is run only if it is named here: a run from a stranger
            could name any.

    Raises:
        InputError: no run, an unfinished one, a network of the user's that is not named, or weights that do not fit it.

    """
    described = load_network_file(run)
    path = run / WEIGHTS
    if not path.exists():
        raise InputError(
            f"the run {run} is not finished: it has no {WEIGHTS}; go on with offramp train DATA --out {run} --resume"
        )
    multi = build_network(described.network, network=original_network(described.network, network, run))
    load_tensors(multi, path, run / NETWORK)
    return multi.eval(), described


def first_reason(error: Exception) -> str:
    """What is wrong with weights, in one line: PyTorch's first line says only that something is."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    place = 1 if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else 0
    return lines[place].strip()[:200]


def original_network(
    spec: NetworkSpec, given: nn.Module | str | None, run: Path, *, weights: Path | None = None
) -> nn.Module | None:
    """The network of a run where its description alone may not, or cannot, build it; else None.

    Args:
        spec: the run's.
        given: what the user named.
        run: its folder.
        weights: of the user's own network, see `sources.build`.

    Raises:
        InputError: it is needed and not given, or another one was given.

    """
    if isinstance(given, nn.Module):
        return given
    if is_user_code(spec.network):
        if given is None or not is_user_code(given):
            raise InputError(
                f"the network of {run} is built by code of your own ({spec.network}), which is run only if you name it: "
                f"give --network {spec.network}"
            )
        return build(given, spec.num_classes, weights=weights).network
    if spec.network.startswith(OBJECT):
        raise InputError(f"the network of {run} came as an object ({spec.network}); give such an object to load_network")
    if given is not None and full_name(given) != spec.network:
        raise InputError(f"the network of {run} is {spec.network}, not {given}")
    return None
