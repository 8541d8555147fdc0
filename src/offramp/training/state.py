"""What a run leaves while it trains: the state to go on from, the best weights, and the history, each written whole.

RUN/last.safetensors holds weights, their average, the optimiser and the place; RUN/best.safetensors the weights with the
highest mean mIoU on `val` of the phase that runs; RUN/history.csv a row an epoch; RUN/tensorboard the same for TensorBoard.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from offramp.errors import InputError
from offramp.files import new_file, read_file, writing
from offramp.models.checkpoint import first_reason, load_tensors, plain_tensors, save_weights
from offramp.models.finite import require_finite
from offramp.specs import explain
from offramp.training.loop import SLOWER, History, Run

STATE = "last.safetensors"
BEST = "best.safetensors"
HISTORY = "history.csv"
BOARD = "tensorboard"
LARGEST_HISTORY = 100_000_000
"""Bytes of RUN/history.csv."""


class Place(BaseModel):
    """Where a run stands, as its state says beside its tensors; see `Run`. A loss may be infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: int = Field(ge=0)
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    loss_so_far: float
    best: float
    average_steps: int = Field(ge=0)
    history: list[dict[str, int | float | str]]


def save_state(run: Run) -> None:
    """Write everything needed to go on into one file, and the history as CSV beside it; the first process alone does.

    Raises:
        InputError: weights, statistics or averages hold NaN or infinity; the state that was there stays.

    """
    if not run.world.first:
        return
    tensors = {f"network/{name}": tensor for name, tensor in plain_tensors(run.network).items()}
    tensors |= {f"optimiser/{name}": tensor for name, tensor in run.optimiser.items()}
    tensors |= {f"average/{name}": tensor.cpu().clone().contiguous() for name, tensor in run.average.items()}
    place_of = f"{run.epoch} epochs and {run.step} steps into phase {run.phase + 1}"
    require_finite(tensors, f"the tensors of the state {place_of}", SLOWER)
    place = {
        "phase": run.phase,
        "epoch": run.epoch,
        "step": run.step,
        "loss_so_far": run.loss_so_far,
        "best": run.best,
        "average_steps": run.average_steps,
        "history": run.history,
    }
    with new_file(run.folder / STATE) as temporary:
        save_file(tensors, temporary, metadata={"place": json.dumps(place)})
    if run.history:
        with new_file(run.folder / HISTORY) as temporary:
            temporary.write_text(history_csv(run.history), encoding="utf-8")


def load_state(run: Run) -> None:
    """Go on from RUN/last.safetensors.

    Raises:
        InputError: the file is damaged or belongs to another network.

    """
    path = run.folder / STATE
    if path.exists() and not path.is_file():
        raise InputError(f"cannot go on from {path}: it is no ordinary file; start again without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            place = Place.model_validate(json.loads((file.metadata() or {})["place"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "optimiser": {}, "average": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        require_finite(tensors, f"the tensors of {path}", "start again in another --out")
        run.network.load_state_dict(parts["network"])
    except InputError:
        raise
    except ValidationError as error:
        raise InputError(f"cannot go on from {path}: {explain(error)}; start again without --resume") from error
    except KeyError as error:
        raise InputError(
            f"cannot go on from {path}: it lacks, or should lack, {error}; start again without --resume"
        ) from error
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"cannot go on from {path}: {first_reason(error)}; start again without --resume") from error
    for name in Place.model_fields:
        setattr(run, name, getattr(place, name))
    run.optimiser, run.average = parts["optimiser"], parts["average"]


def keep_best(run: Run, figures: dict[str, float]) -> None:
    """Write the network's weights to RUN/best.safetensors if their mean mIoU on `val` is the highest of this phase."""
    mious = [value for name, value in figures.items() if name.startswith("miou:")]
    if not mious or sum(mious) / len(mious) <= run.best:
        return
    run.best = sum(mious) / len(mious)

    # The others may want to read it next.
    run.world.by_first(lambda: save_weights(run.network, run.folder / BEST))


def load_best(run: Run) -> None:
    """Give the network the weights that `keep_best` wrote in this phase, if there are any.

    Raises:
        InputError: the file is damaged.

    """
    if run.best < 0:
        return
    load_tensors(run.network, run.folder / BEST)


def history_csv(history: History) -> str:
    """The history as CSV: a row an epoch; figures that were not measured in an epoch stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in history for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read_history(folder: Path) -> list[dict[str, str]]:
    """The history of a run, a row an epoch and one at least; what was not measured is empty.

    Raises:
        InputError: missing or damaged.

    """
    path = folder / HISTORY
    content = read_file(path, "history", largest=LARGEST_HISTORY)
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (csv.Error, ValueError) as error:
        raise InputError(f"damaged history {path}: {error}; train again") from error
    if not rows or any(None in row or None in row.values() for row in rows):
        raise InputError(f"damaged history {path}: {'its rows differ in length' if rows else 'it holds no epoch'}; train again")
    return rows


class Board:
    """Writes the history for TensorBoard; epochs count through all phases."""

    def __init__(self, folder: Path, epochs: int) -> None:
        if (folder / BOARD).is_symlink():
            raise InputError(f"will not write into {folder / BOARD}: it is a link, which may lead anywhere; remove it")
        # A run that goes on repeats no epoch: what a killed one wrote beyond its last state is purged.
        self._folder, self._failed = folder / BOARD, False
        with self._writing():
            self._writer = SummaryWriter(str(self._folder), purge_step=epochs + 1)

    def write(self, row: dict[str, float | str], epochs: int) -> None:
        """Write the figures of one epoch. Raises InputError if that cannot be done."""
        with self._writing():
            for name, value in row.items():
                if isinstance(value, float) and name != "epoch":
                    kind, _, exit_name = name.partition(":")
                    self._writer.add_scalar(f"{kind}/{exit_name}" if exit_name else name, value, epochs)
            self._writer.flush()

    def close(self) -> None:
        """Finish the file. What could not be written before, and was told, is not tried again."""
        if not self._failed:
            with self._writing():
                self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self._folder):
                yield
        except InputError:
            self._failed = True
            raise
