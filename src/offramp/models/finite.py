"""NaN and infinity: whether tensors hold any, and which layer of a network makes the first.

One value that is not finite spreads to all that is computed from it, and arg-max answers class 0 there without a word. So
nothing that holds one is saved, loaded or exported, and where one appears its layer is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from offramp.errors import InputError


def are_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    return bool(torch.isfinite(tensor if tensor.is_complex() else tensor.float()).all())


def what_is_wrong(tensor: torch.Tensor) -> str:
    """NaN or infinity, whichever the tensor holds; NaN where both."""
    return "NaN" if bool(torch.isnan(tensor.float()).any()) else "infinity"


def broken_tensors(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of those that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not are_finite(tensor.detach())]


def require_finite(tensors: Mapping[str, torch.Tensor], whose: str, do: str) -> None:
    """Refuse tensors of which one holds NaN or infinity.

    Args:
        tensors: by name.
        whose: what the error says of where they are.
        do: what it tells to do.

    Raises:
        InputError: naming the first and how many there are.

    """
    broken = broken_tensors(tensors)
    if broken:
        raise InputError(f"{whose} hold NaN or infinity in {broken[0]} (and {len(broken) - 1} more); {do}")


@dataclass(frozen=True)
class Culprit:
    """The first layer of a network whose output is not finite."""

    layer: str
    """Its name in the network."""
    gives: str
    """NaN or infinity."""
    input_is_finite: bool
    broken: tuple[str, ...]
    """Names of its weights and statistics that are not finite."""

    def __str__(self) -> str:
        """For people, in one sentence."""
        given = "from a finite input" if self.input_is_finite else "from an input that is not finite"
        weights = f"its {self.broken[0]} is not finite" if self.broken else "its weights are finite"
        return f"the layer {self.layer} gives {self.gives} {given}; {weights}"


def find_culprit(network: nn.Module, forward: Callable[[], object]) -> Culprit | None:
    """The first layer that gives NaN or infinity in a forward pass; None if none does.

    Args:
        network: its modules are watched by hooks, which are gone afterwards.
        forward: runs it.

    """
    with _watched(network) as found, torch.no_grad():
        forward()
    return found[0] if found else None


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[Culprit]]:
    found: list[Culprit] = []

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            if found and found[0].input_is_finite:
                return
            wrong = next((tensor for tensor in _tensors_in(made) if not are_finite(tensor)), None)
            if wrong is None:
                return
            finite = all(map(are_finite, _tensors_in(given)))
            if finite or not found:
                found[:] = [Culprit(name, what_is_wrong(wrong), finite, tuple(broken_tensors(module.state_dict())))]

        return hook

    # A module's hook is called after those of the modules inside it, so the first whose input is finite is the innermost that
    # makes what is not. Some do so before they call a module of their own, which then comes first and is not to blame.
    handles = [module.register_forward_hook(hook_of(name)) for name, module in network.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All floating-point tensors in what a module takes or gives."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors_in(inner)
