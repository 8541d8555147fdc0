"""A moving average of the weights, which is smoother than any single step's (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """The exponential moving average of a network's state dict, batch-norm statistics included.

    The decay begins at 1/10 and rises to the full one, so that the first weights, which know nothing, are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self.steps = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights of now."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in self._network.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(tensor, 1 - decay)  # the same number on both sides stays what it is: frozen parts do not move
            else:
                mean.copy_(tensor)

    def restore(self, tensors: dict[str, torch.Tensor], steps: int) -> None:
        """Go on from a saved average."""
        self.steps = steps
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the average for a while."""
        own = {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}
        self._network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self._network.load_state_dict(own)
