"""Run a network once and write down what every module of it did: calls, outputs, costs so far, and what was made from what."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from offramp.models.feature_maps import every_tensor, main_tensor, read_answer

Nodes = frozenset[Node]


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    shape: tuple[int, ...] | None
    """Of its output, for one image; None if that is no tensor."""
    macs_before: int
    macs: int
    """Multiply-accumulates from the network's input up to the end of this call."""
    parameters: int
    """Numbers that can be learnt, in the modules that have run up to then."""
    order: int
    """How many calls had ended before."""
    made_from: Nodes
    """Nodes of autograd's graph that its inputs come from; empty where no graph was asked for."""
    made: Nodes


@dataclass
class Observation:
    """What one run of a network showed."""

    height: int
    width: int
    calls: dict[str, list[Call]]
    """Every module but the root by its name; no calls if it never ran."""
    modules: dict[str, nn.Module]
    macs: int = 0
    parameters: int = 0
    output: Any = None
    made_from: Nodes = field(default_factory=frozenset)
    made: Nodes = field(default_factory=frozenset)
    """Nodes of the class scores, or of all feature maps of a backbone."""


def observe(network: nn.Module, height: int, width: int, *, graph: bool = False) -> Observation:
    """Run `network` once on a blank image, in evaluation mode; it is left as it was.

    Args:
        network: takes (1, 3, height, width).
        height: pixels.
        width: pixels.
        graph: whether to find out what was made from what, which needs autograd.

    """
    modules = {name: module for name, module in network.named_modules() if name}
    seen = Observation(height, width, {name: [] for name in modules}, modules)
    counter = FlopCounterMode(display=False)
    counted: set[int] = set()
    order = itertools.count()

    def macs() -> int:
        return counter.get_total_flops() // 2  # it counts a multiply-add as two operations

    def enter(started: list[tuple[int, Nodes]]) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            started.append((macs(), _nodes((inputs, named))))

        return hook

    def leave(calls: list[Call], started: list[tuple[int, Nodes]]) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            for parameter in module.parameters(recurse=False):
                seen.parameters += parameter.numel() if id(parameter) not in counted else 0
                counted.add(id(parameter))
            main = main_tensor(output)
            before, made_from = started.pop()
            shape = None if main is None else tuple(main.shape)
            calls.append(Call(shape, before, macs(), seen.parameters, next(order), made_from, _nodes(output)))

        return hook

    with ExitStack() as until_left:
        until_left.enter_context(left_as_it_was(network))
        for name, module in modules.items():
            started: list[tuple[int, Nodes]] = []
            until_left.callback(module.register_forward_pre_hook(enter(started), with_kwargs=True).remove)
            until_left.callback(module.register_forward_hook(leave(seen.calls[name], started)).remove)
        until_left.enter_context(torch.set_grad_enabled(graph))
        # What the backward pass would need is thrown away: only the graph's shape is wanted, not its memory.
        until_left.enter_context(saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0)))
        # The counter of operations warns that it cannot tell modules of a graph apart; it need not.
        until_left.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        until_left.enter_context(counter)
        image = _blank(network, height, width).requires_grad_(graph) * 1.0
        seen.made_from = _nodes(image)
        output = network(image)
        answer = read_answer(output)
        # Of a backbone every feature map counts; of a network with class scores its auxiliary ones do not.
        seen.made = _nodes(answer.tensor if answer and answer.kind != "features" else output)
    seen.output, seen.macs = output, macs()
    return seen


def time_calls(network: nn.Module, names: list[str], height: int, width: int, *, passes: int) -> dict[str, list[float]]:
    """Milliseconds from the network's start to the end of each named module's call, for each of `passes` runs."""
    times: dict[str, list[float]] = {name: [] for name in [*names, ""]}
    started = 0.0

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            times[name].append((time.perf_counter() - started) * 1e3)

        return hook

    with left_as_it_was(network), torch.no_grad(), ExitStack() as hooks:
        for name in names:
            hooks.callback(network.get_submodule(name).register_forward_hook(stop(name)).remove)
        image = _blank(network, height, width)
        network(image)  # the first run is slower
        for recorded in times.values():
            recorded.clear()
        for _ in range(passes):
            started = time.perf_counter()
            network(image)
            stop("")()
    return times


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _blank(network: nn.Module, height: int, width: int) -> torch.Tensor:
    parameter = next(network.parameters(), torch.zeros(()))
    return torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)


def _nodes(values: object) -> Nodes:
    return frozenset(tensor.grad_fn for tensor in every_tensor(values) if tensor.grad_fn is not None)
