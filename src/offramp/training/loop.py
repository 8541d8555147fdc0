"""The training loop. It knows nothing of exits: a phase says what is trained, by which loss, and what is measured.

After every epoch the whole state goes into one file, atomically: weights, optimiser, history. A killed run goes on from the
last finished epoch and ends as if it had never been killed, because batches depend on the seed and the epoch alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.files import new_file
from offramp.models.checkpoint import plain_tensors
from offramp.progress import Progress

STATE = "last.safetensors"
HISTORY = "history.csv"
WARM_UP = 0.03
"""Share of a phase's steps in which the learning rate rises to its full value."""

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Phase:
    """A part of training."""

    name: str
    epochs: int
    groups: list[dict[str, Any]]
    """Parameter groups with learning rates, as torch's optimisers take them."""
    prepare: Callable[[], None]
    """Puts each part of the network into training or evaluation mode; called before every epoch."""
    loss: Callable[[Batch, int], torch.Tensor]
    """From a batch and the number of the step to the loss."""


@dataclass
class Run:
    """Where a training run stands."""

    folder: Path
    network: nn.Module
    device: torch.device
    seed: int
    batch_size: int
    weight_decay: float
    validate_every: int
    measure: Callable[[], dict[str, float]]
    """Validation: figures by name, for one line of the history."""
    progress: Progress
    phase: int = 0
    """Index of the phase to go on with."""
    epoch: int = 0
    """Epochs of it that are finished."""
    optimiser: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float | str]] = field(default_factory=list)


def run_phases(run: Run, phases: list[Phase], crops: Crops) -> None:
    """Train phase after phase, from where `run` stands; see the module's header for what survives a crash.

    Raises:
        InputError: the loss became NaN or infinite.

    """
    for index, phase in enumerate(phases):
        if index < run.phase:
            continue
        _run_phase(run, index, phase, crops)
        run.phase, run.epoch, run.optimiser = index + 1, 0, {}
        save_state(run)


def _run_phase(run: Run, index: int, phase: Phase, crops: Crops) -> None:
    optimiser = torch.optim.AdamW(phase.groups, weight_decay=run.weight_decay)
    full_rates = [group["lr"] for group in optimiser.param_groups]
    _restore_optimiser(optimiser, run.optimiser)
    steps_per_epoch = len(crops) // run.batch_size or 1
    for epoch in range(run.epoch, phase.epochs):
        started = time.monotonic()
        phase.prepare()
        total = 0.0
        # Dropout and the like draw from torch's own generator: it, too, starts from the seed and the epoch.
        torch.manual_seed(_derived_seed(run.seed, index, epoch))
        for step, batch in enumerate(_batches(run, index, epoch, crops)):
            done = epoch * steps_per_epoch + step
            scale = learning_rate_scale(done, phase.epochs * steps_per_epoch)
            for group, rate in zip(optimiser.param_groups, full_rates, strict=True):
                group["lr"] = rate * scale
            loss = phase.loss(batch, done)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
            run.progress(f"{phase.name}: epoch {epoch + 1}/{phase.epochs}", done + 1, phase.epochs * steps_per_epoch)
        mean_loss = total / steps_per_epoch
        if not math.isfinite(mean_loss):
            raise InputError(
                f"the loss became {mean_loss} in {phase.name}, epoch {epoch + 1}; "
                f"begin again in another --out with a lower --learning-rate"
            )
        row: dict[str, float | str] = {"phase": phase.name, "epoch": epoch + 1, "loss": round(mean_loss, 5)}
        row |= {"learning_rate": optimiser.param_groups[0]["lr"], "seconds": round(time.monotonic() - started, 2)}
        if (epoch + 1) % run.validate_every == 0 or epoch + 1 == phase.epochs:
            row |= run.measure()
        run.history.append(row)
        run.epoch, run.optimiser = epoch + 1, _optimiser_tensors(optimiser)
        save_state(run)


def learning_rate_scale(step: int, steps: int) -> float:
    """Linear warm-up, then polynomial decay with power 0.9 (Chen et al., DeepLab, 2018)."""
    warm = max(1, round(steps * WARM_UP))
    return (step + 1) / warm if step < warm else (1 - (step - warm) / (steps - warm)) ** 0.9


def _derived_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def _batches(run: Run, phase: int, epoch: int, crops: Crops) -> Iterator[Batch]:
    """Batches of an epoch, in an order that depends on seed, phase and epoch alone. The last, smaller one is left out."""
    crops.epoch = phase * 100_000 + epoch
    order = torch.Generator().manual_seed(_derived_seed(run.seed, phase, epoch, 1))
    # Worker processes pay off where a GPU does the rest; on a CPU they would take the cores that train.
    workers = 4 if run.device.type == "cuda" else 0
    loader = DataLoader(
        crops, batch_size=min(run.batch_size, len(crops)), shuffle=True, drop_last=True, generator=order, num_workers=workers
    )
    for images, labels in loader:
        yield (
            images.to(run.device, memory_format=torch.channels_last, non_blocking=True),
            labels.to(run.device, non_blocking=True),
        )


# ------------------------------------------------------------------------------------------------------------------- state


def save_state(run: Run) -> None:
    """Write everything needed to go on into one file, and the history as CSV beside it."""
    tensors = {f"network/{name}": tensor for name, tensor in plain_tensors(run.network).items()}
    tensors |= {f"optimiser/{name}": tensor for name, tensor in run.optimiser.items()}
    place = {"phase": run.phase, "epoch": run.epoch, "history": run.history}
    with new_file(run.folder / STATE) as temporary:
        save_file(tensors, temporary, metadata={"place": json.dumps(place)})
    with new_file(run.folder / HISTORY) as temporary:
        temporary.write_text(history_csv(run.history), encoding="utf-8")


def load_state(run: Run) -> None:
    """Go on from RUN/last.safetensors.

    Raises:
        InputError: the file is damaged or belongs to another network.

    """
    path = run.folder / STATE
    try:
        with safe_open(path, framework="pt") as file:
            place = json.loads(file.metadata()["place"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        run.phase, run.epoch, run.history = place["phase"], place["epoch"], place["history"]
        run.network.load_state_dict({n.removeprefix("network/"): t for n, t in tensors.items() if n.startswith("network/")})
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot go on from {path}: {str(error).splitlines()[0]}; start again without --resume") from error
    run.optimiser = {n.removeprefix("optimiser/"): t for n, t in tensors.items() if n.startswith("optimiser/")}


def history_csv(history: list[dict[str, float | str]]) -> str:
    """The history as CSV: a row an epoch; figures that were not measured in an epoch stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in history for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read_history(folder: Path) -> list[dict[str, str]]:
    """The history of a run, a row an epoch; what was not measured is empty."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    if not tensors:
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
