"""A trained network on disk: `network.json` and `weights.safetensors`. Never a pickle: a stranger's file runs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from offramp.errors import InputError
from offramp.files import new_file
from offramp.models.multi_exit import MultiExitNetwork, build_network
from offramp.specs import NetworkSpec, Size, Spec, explain

WEIGHTS = "weights.safetensors"
NETWORK = "network.json"


class NetworkFile(Spec):
    """What must be known beside the weights to use them."""

    kind: Literal["network"] = "network"
    format: Literal[1] = 1
    network: NetworkSpec
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    object_classes: tuple[int, ...]
    """Indices of the classes that count as objects: each covers less than an even share of the labelled training pixels."""
    size: Size
    """Usual width and height of the training images."""
    data_fingerprint: str
    """Of the training data."""

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
    try:
        return NetworkFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"not a run: cannot read {path} ({error.strerror}); make one with offramp train DATA --out {run}"
        ) from error
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; train again") from error


def save_weights(network: MultiExitNetwork, path: Path) -> None:
    """Write the state dict, whole or not at all."""
    with new_file(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, temporary)


def load_network(run: Path) -> tuple[MultiExitNetwork, NetworkFile]:
    """Read a finished run; the network is in evaluation mode on the CPU.

    Raises:
        InputError: no run, an unfinished one, or weights that do not fit the network.

    """
    described = load_network_file(run)
    path = run / WEIGHTS
    if not path.exists():
        raise InputError(
            f"the run {run} is not finished: it has no {WEIGHTS}; go on with offramp train DATA --out {run} --resume"
        )
    network = build_network(described.network)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"the weights {path} do not fit {run / NETWORK}: {str(error).splitlines()[0]}") from error
    with torch.no_grad():
        broken = [name for name, tensor in network.state_dict().items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise InputError(f"the weights {path} hold NaN or infinity in {broken[0]} (and {len(broken) - 1} more); train again")
    return network.eval(), described
