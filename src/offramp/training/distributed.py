"""Training with several processes, as torchrun starts them: who is who, and what they must agree on.

Gradients are averaged by PyTorch's DistributedDataParallel. The rest is here: sums over all processes, the first process alone
writing files, and batch-norm over all processes' images. Machines that work together need the run's folder in common.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from offramp.errors import InputError


@dataclass(frozen=True)
class World:
    """The processes that train together; one alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, without gradient."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone().to(self.device)
        distributed.all_reduce(total)
        return total

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, without gradient."""
        return value if self.size == 1 else self.sum(value) / self.size

    def share(self, items: Sequence[int]) -> list[int]:
        """This process's part of a sequence of work."""
        return list(items[self.rank :: self.size])

    def by_first(self, work: Callable[[], None]) -> None:
        """Let the first process work while the others wait.

        Raises:
            InputError: the first process raised it; then everywhere, so that nobody waits for ever.

        """
        problem: InputError | None = None
        if self.first:
            try:
                work()
            except InputError as error:
                problem = error
        failed = self.sum(torch.tensor(int(problem is not None)))
        if problem is not None:
            raise problem
        if failed:
            raise InputError("the first process could not go on; its message says why")


def is_first() -> bool:
    """Whether this process is the one that speaks, before the processes know of each other."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes that torchrun started; alone without torchrun. Uses CUDA where there is one."""
    cuda = torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World(device=torch.device("cuda" if cuda else "cpu"))
        return
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        del context
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        del context
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


class SynchronisedBatchNorm(TorchFunctionMode):
    """While it is entered, batch-norm layers in training take their statistics over all processes' images.

    It steps in where layers of any make call `torch.nn.functional.batch_norm`, so no layer is replaced: hooks, types and names
    stay. PyTorch's own SyncBatchNorm replaces layers, knows only its own, and does not run on CPUs.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace batch_norm in training; let everything else through."""
        del types
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    features: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As `torch.nn.functional.batch_norm`, with the statistics of all processes; (N, C, ...) to the same shape."""
    if not training:
        return functional.batch_norm(features, running_mean, running_var, weight, bias, training, momentum, eps)
    wide = features.float()
    axes = [0, *range(2, wide.dim())]
    count = torch.full((1,), wide.numel() / wide.shape[1], device=wide.device)
    sums: torch.Tensor = _Sum.apply(torch.cat([wide.sum(axes), count]))  # type: ignore[no-untyped-call]
    number = sums[-1].detach()
    shape = (1, -1, *[1] * (wide.dim() - 2))
    mean = sums[:-1] / number
    centred = wide - mean.reshape(shape)
    # A second sum, not the mean of squares less the square of the mean, which loses its digits where the mean is large.
    squares: torch.Tensor = _Sum.apply(centred.square().sum(axes))  # type: ignore[no-untyped-call]
    variance = squares / number
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * number / (number - 1).clamp_min(1)).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    normal = centred * scale.reshape(shape)
    return (normal if bias is None else normal + bias.reshape(shape)).to(features.dtype)
