"""The training loop. It knows nothing of exits: a phase says what is trained, by which loss, and what is measured.

The whole state is written after every epoch, in long epochs now and then, and after short ones only as often as it costs little
time (see `state.py`). A killed run goes on from there and ends as if it had never been killed: which images a step sees, how
they are cut and what dropout draws depends on the seed, the phase, the epoch and the step alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.models.finite import broken_tensors, find_culprit
from offramp.progress import Progress, silent
from offramp.specs import OptimiserName, Schedule
from offramp.training.averaging import Average
from offramp.training.distributed import SynchronisedBatchNorm, World
from offramp.training.memory import peak_memory_mb

Batch = tuple[torch.Tensor, torch.Tensor]
History = list[dict[str, float | str]]
"""A row an epoch: what was measured, by column."""

SAVE_EVERY_S = 600.0
"""In long epochs the state is written this often."""

SAVE_SHARE = 0.05
"""At most this share of the time goes into writing the state after epochs."""

SLOWER = "the last saved state is from before: go on by --resume with a lower --learning-rate, or begin again in another --out"
"""What to do where training ran away."""

WORKERS = 4
"""Processes that cut crops where a GPU trains; on a CPU they would take the cores that do."""


@dataclass(frozen=True)
class Phase:
    """A part of training."""

    name: str
    epochs: int
    groups: list[dict[str, Any]]
    """Parameter groups with learning rates, as torch's optimisers take them."""
    prepare: Callable[[History], None]
    """Freezes, and puts each part of the network into training or evaluation mode; called before every epoch."""
    loss: Callable[[Batch, int], torch.Tensor]
    """From a batch and the number of the step to the loss."""
    exits: Callable[[], Sequence[str]] = tuple
    """What is measured after an epoch."""
    always_measured: Sequence[int] = ()
    """Epochs after which figures are needed, whatever the rhythm of validation."""


@dataclass(frozen=True)
class Recipe:
    """How every phase is trained."""

    seed: int = 0
    batch_size: int = 8
    optimiser: OptimiserName = "adamw"
    weight_decay: float = 1e-2
    schedule: Schedule = "poly"
    warm_up: float = 0.03
    averaging: float = 0.0
    validate_every: int = 1
    sync_batch_norm: bool = False


@dataclass
class Run:
    """Where a training run stands."""

    folder: Path
    network: nn.Module
    recipe: Recipe
    measure: Callable[[Sequence[str]], dict[str, float]]
    """From the exits to measure to figures by name, for one line of the history."""
    save: Callable[[Run], None]
    """Writes everything needed to go on; see `state.save_state`."""
    better: Callable[[Run, dict[str, float]], None] = lambda _run, _row: None
    """Told of every measured epoch while the weights that were measured are in the network."""
    ended: Callable[[Run], None] = lambda _run: None
    """Told at the end of a phase, before the next one starts from its weights."""
    said: Callable[[str], None] = lambda _line: None
    """Told the line that sums up an epoch."""
    progress: Progress = silent
    world: World = field(default_factory=World)
    phase: int = 0
    """Index of the phase to go on with."""
    epoch: int = 0
    """Epochs of it that are finished."""
    step: int = 0
    """Steps of the next epoch that are done."""
    loss_so_far: float = 0.0
    """The sum of the losses of these steps."""
    best: float = -1.0
    """The highest mean mIoU of this phase."""
    optimiser: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    average_steps: int = 0
    history: History = field(default_factory=list)


def run_phases(run: Run, phases: list[Phase], crops: Crops) -> None:
    """Train phase after phase, from where `run` stands; see the module's header for what survives a crash.

    Raises:
        InputError: the loss or a gradient became NaN or infinite: says in which step, and which layer was the first; or a
            batch cannot be shared among the processes.

    """
    if run.recipe.batch_size % run.world.size:
        raise InputError(
            f"a batch of {run.recipe.batch_size} cannot be shared evenly among {run.world.size} processes; "
            f"give a --batch-size that is a multiple of {run.world.size}"
        )
    for index, phase in enumerate(phases):
        if index < run.phase:
            continue
        if phase.epochs:
            _PhaseRun(run, index, phase, crops).train()
            run.ended(run)
        run.phase, run.epoch, run.step, run.best = index + 1, 0, 0, -1.0
        run.optimiser, run.average, run.average_steps = {}, {}, 0
        run.save(run)


class _PhaseRun:
    """One phase of a run."""

    def __init__(self, run: Run, index: int, phase: Phase, crops: Crops) -> None:
        self.run, self.index, self.phase, self.crops = run, index, phase, crops
        phase.prepare(run.history)
        self.optimiser = make_optimiser(run.recipe, phase.groups)
        self.full_rates = [group["lr"] for group in self.optimiser.param_groups]
        _restore_optimiser(self.optimiser, run.optimiser)
        self.average = Average(run.network, run.recipe.averaging) if run.recipe.averaging else None
        if self.average and run.average:
            self.average.restore(run.average, run.average_steps)
        self.steps_per_epoch = len(epoch_batches(len(crops), run.recipe.batch_size, run.recipe.seed, index, 0, run.world.size))
        self.loss = _parallel(_Loss(run.network, phase.loss), run.world)
        self.began = self.saved = time.monotonic()
        self.save_took = 0.0
        self.done_before = self._done(run.epoch, run.step)

    def train(self) -> None:
        batches = self._batches()
        for epoch in range(self.run.epoch, self.phase.epochs):
            self._train_epoch(epoch, batches)
        if self.average:
            self.run.network.load_state_dict(self.average.tensors)

    def _train_epoch(self, epoch: int, batches: Iterator[Batch]) -> None:
        run, started = self.run, time.monotonic()
        self.phase.prepare(run.history)
        total_steps = self.phase.epochs * self.steps_per_epoch
        for step, batch in zip(range(run.step, self.steps_per_epoch), batches, strict=False):
            done = self._done(epoch, step)
            rate = self._step(batch, done, total_steps)
            # The next batch begins where this one is written down as done.
            run.step = step + 1
            run.progress(f"{self.phase.name}: epoch {epoch + 1}/{self.phase.epochs}", done + 1, total_steps)
            if time.monotonic() - max(started, self.saved) > SAVE_EVERY_S and run.step < self.steps_per_epoch:
                self._save()
        mean_loss = float(run.world.mean(torch.tensor(run.loss_so_far, dtype=torch.float64))) / self.steps_per_epoch
        trained = time.monotonic() - started
        row: dict[str, float | str] = {"phase": self.phase.name, "epoch": epoch + 1, "loss": round(mean_loss, 5)}
        row |= {"learning_rate": rate, "seconds": round(trained, 2), "memory_mb": peak_memory_mb(run.world.device)}
        last = epoch + 1 == self.phase.epochs
        if (epoch + 1) % run.recipe.validate_every == 0 or last or epoch + 1 in self.phase.always_measured:
            with self.average.in_place() if self.average else nullcontext():
                figures = run.measure(self.phase.exits())
                run.better(run, figures)
            row |= figures
        run.history.append(row)
        run.epoch, run.step, run.loss_so_far = epoch + 1, 0, 0.0
        if time.monotonic() - self.saved >= self.save_took / SAVE_SHARE:
            self._save()
        run.said(self._line(row, epoch + 1))

    def _step(self, batch: Batch, done: int, total_steps: int) -> float:
        run, recipe = self.run, self.run.recipe
        scale = learning_rate_scale(done, total_steps, recipe.schedule, recipe.warm_up)
        for group, rate in zip(self.optimiser.param_groups, self.full_rates, strict=True):
            group["lr"] = rate * scale
        # Dropout and the like draw from torch's own generator: it, too, starts anew at every step.
        torch.manual_seed(derived_seed(recipe.seed, self.index, done, run.world.rank, 2))
        self.optimiser.zero_grad(set_to_none=True)
        with SynchronisedBatchNorm() if recipe.sync_batch_norm and run.world.size > 1 else nullcontext():
            loss = self.loss(*batch, done)
        loss.backward()
        # Both are read at once, the only time that a step waits for a GPU, and before the weights change: a step that went
        # wrong is not taken.
        value, steepest = torch.stack([loss.detach().float(), self._steepest(loss.device)]).tolist()
        if not (math.isfinite(value) and math.isfinite(steepest)):
            raise InputError(self._went_wrong(batch, done, value))
        self.optimiser.step()
        if self.average:
            self.average.update()
        run.loss_so_far += value
        return float(self.optimiser.param_groups[0]["lr"])

    def _steepest(self, device: torch.device) -> torch.Tensor:
        """The largest number in any gradient, sign aside; NaN if one is."""
        gradients = [parameter.grad for group in self.optimiser.param_groups for parameter in group["params"]]
        there = [gradient for gradient in gradients if gradient is not None]
        return torch.nn.utils.get_total_norm(there, math.inf).to(device, torch.float32)

    def _went_wrong(self, batch: Batch, done: int, loss: float) -> str:
        """What a step whose loss or gradient is not finite is told by: where it was, the layer that began it, what to do."""
        run = self.run
        torch.manual_seed(derived_seed(run.recipe.seed, self.index, done, run.world.rank, 2))
        # Not by the loss, which waits for the other processes: they may have nothing to tell.
        culprit = find_culprit(run.network, lambda: run.network(batch[0]))
        gradients = {name: parameter.grad for name, parameter in run.network.named_parameters() if parameter.grad is not None}
        steep = broken_tensors(gradients)
        what = f"the loss became {loss}" if not math.isfinite(loss) else "the gradient became infinite or NaN"
        where = f"every layer gives finite values, but the gradient of {steep[-1]} is not" if steep else "every layer is finite"
        epoch, step = divmod(done, self.steps_per_epoch)
        return (
            f"{what} in {self.phase.name}, epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}, at the learning rate "
            f"{self.optimiser.param_groups[-1]['lr']:.3g}: {culprit or where}; {SLOWER}"
        )

    def _done(self, epoch: int, step: int) -> int:
        return epoch * self.steps_per_epoch + step

    def _batches(self) -> Iterator[Batch]:
        """The batches of the phase that are still to do, one epoch after the other; each process its share."""
        device = self.run.world.device
        workers = WORKERS if device.type == "cuda" else 0
        if workers:
            self.crops.decode_all()  # before the workers come, who then share it
        places = self._places(self.run.epoch, self.run.step)
        loader = DataLoader(_Places(self.crops), batch_sampler=places, num_workers=workers, pin_memory=workers > 0)
        for images, labels in loader:
            yield (
                images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last),
                labels.to(device, non_blocking=True),
            )

    def _places(self, begun: int, done: int) -> Iterator[list[tuple[int, int]]]:
        """Epoch and index of every crop, batch by batch, from the first batch of the epoch `begun` that is not `done`."""
        recipe, world = self.run.recipe, self.run.world
        for epoch in range(begun, self.phase.epochs):
            batches = epoch_batches(len(self.crops), recipe.batch_size, recipe.seed, self.index, epoch, world.size)
            drawn = self.index * 100_000 + epoch
            for batch in batches[done if epoch == begun else 0 :]:
                yield [(drawn, index) for index in world.share(batch)]

    def _save(self) -> None:
        started = time.monotonic()
        self.run.optimiser = _optimiser_tensors(self.optimiser)
        if self.average:
            self.run.average, self.run.average_steps = self.average.tensors, self.average.steps
        self.run.save(self.run)
        self.saved = time.monotonic()
        self.save_took = self.saved - started

    def _line(self, row: dict[str, float | str], epochs: int) -> str:
        """One line for people: where training stands, the loss, every exit's mIoU, and the time left in this phase."""
        done, total = self._done(epochs, 0), self._done(self.phase.epochs, 0)
        left = (time.monotonic() - self.began) / max(1, done - self.done_before) * (total - done)
        mious = ", ".join(
            f"{name.removeprefix('miou:')} {float(value):.3f}" for name, value in row.items() if name.startswith("miou:")
        )
        figures = f"; mIoU on val: {mious}" if mious else ""
        time_left = f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left" if left else ""
        return (
            f"{self.phase.name} {epochs}/{self.phase.epochs}: loss {float(row['loss']):.4f}{figures}; "
            f"{float(row['seconds']):.0f} s{time_left}"
        )


class _Places(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Crops by epoch and index, so that the batches of many epochs are one sequence and their workers stay."""

    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The crop that an epoch makes of an image."""
        self._crops.epoch, index = place
        return self._crops[index]


class _Loss(nn.Module):
    """A loss as a module of the network's, so that DistributedDataParallel sees which weights it needs."""

    def __init__(self, network: nn.Module, loss: Callable[[Batch, int], torch.Tensor]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """From images (N, 3, H, W), labels (N, H, W) and the number of the step to the loss."""
        return self._loss((images, labels), step)


def _parallel(loss: _Loss, world: World) -> nn.Module:
    if world.size == 1:
        return loss
    # An iteration need not ask every exit: the weights that it leaves out must not be waited for.
    return DistributedDataParallel(
        loss, device_ids=[world.device] if world.device.type == "cuda" else None, find_unused_parameters=True
    )


def make_optimiser(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser that the recipe names; on a GPU it steps in one kernel."""
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=fused)


def learning_rate_scale(step: int, steps: int, schedule: Schedule = "poly", warm_up: float = 0.03) -> float:
    """Linear warm-up, then decay: polynomial with power 0.9 (DeepLab, 2018), or half a cosine (Loshchilov and Hutter, 2017)."""
    warm = max(1, round(steps * warm_up))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / (steps - warm)
    return (1 - share) ** 0.9 if schedule == "poly" else (1 + math.cos(math.pi * share)) / 2


def derived_seed(*parts: int) -> int:
    """A seed that depends on all parts."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def epoch_batches(images: int, batch_size: int, seed: int, phase: int, epoch: int, processes: int = 1) -> list[list[int]]:
    """The batches of an epoch, in an order that depends on seed, phase and epoch alone. The last, smaller one is left out.

    With fewer images than a batch, all of them are one, but for those that cannot be shared evenly among the processes.
    """
    order = np.random.default_rng([seed, phase, epoch, 1]).permutation(images).tolist()
    size = batch_size if images >= batch_size else images // processes * processes
    if not size:
        raise InputError(f"{images} training images cannot be shared among {processes} processes; start fewer")
    return [order[begin : begin + size] for begin in range(0, images - size + 1, size)]


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    if not tensors:
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    # Files keep no memory layout, but PyTorch's fused optimisers want the weights' own in what they keep beside them.
    for parameter, kept in optimiser.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)
