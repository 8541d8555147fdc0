"""What no network may be or give, whatever its shapes: seen before an exit is attached to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from offramp.doors import is_number
from offramp.errors import InputError
from offramp.specs import Triple


def require_float32(network: nn.Module) -> None:
    """Refuse weights of another type than images come in, and weights without values.

    Raises:
        InputError: naming the first.

    """
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            continue  # a lazy module makes them in its first run
        if tensor.is_meta:
            raise InputError(
                f"the network has no values in {name} (its device is meta); build it on the CPU, or load its weights"
            )
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"the network's {name} is {kind}, and images come as float32; call network.float() first")


def require_numbers(answer: torch.Tensor) -> None:
    """Refuse an answer that cannot be class scores or features.

    Raises:
        InputError: of another type, or with NaN.

    """
    if not answer.is_floating_point():
        kind = str(answer.dtype).removeprefix("torch.")
        raise InputError(
            f"the network gives {kind} values; wanted are class scores or features, which are floating-point numbers: let it "
            f"give what it has before it chooses a class"
        )
    if answer.isnan().any():
        raise InputError("the network gives NaN for a blank image, so nothing can be learnt from it; mend it, or its weights")


def require_unit_scale(mean: Triple, std: Triple) -> None:
    """Refuse a normalisation that divides by nothing, or is of values up to 255.

    Raises:
        InputError: naming which.

    """
    for name, values, allowed in (("mean", mean, "from 0"), ("std", std, "above 0")):
        numbers = isinstance(values, Sequence) and len(values) == 3 and all(is_number(value) for value in values)
        if not numbers or not all(0 <= value <= 1 and (value or name == "mean") for value in values):
            raise InputError(
                f"{name} must be three numbers {allowed} to 1, of red, green and blue as values in [0, 1], got {values}; "
                f"divide what is meant for 0..255 by 255"
            )
