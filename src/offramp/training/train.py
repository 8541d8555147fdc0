"""The step `train`: from a labelled dataset to a run folder.

RUN holds `run.json` (what was asked for; see `run_file.py`), `network.json`, what `state.py` writes while it trains and, once
finished, `weights.safetensors`. All that is refused before the first step stands in `beginning.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError

from offramp.data.transforms import Crops
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import new_file
from offramp.models.attach import with_exits
from offramp.models.checkpoint import WEIGHTS, load_network_file, save_weights
from offramp.models.multi_exit import MultiExitNetwork
from offramp.progress import Progress, silent
from offramp.specs import NetworkChoice, NetworkSpec, TrainingSpec, explain
from offramp.training.beginning import begin, network_of
from offramp.training.distributed import World, joined_world
from offramp.training.loop import Recipe, Run, run_phases
from offramp.training.losses import class_weights
from offramp.training.phases import Scene, halving_of, measured_in, phases_of
from offramp.training.run_file import RunFile, load_run
from offramp.training.splits import Splits, open_splits
from offramp.training.state import Board, keep_best, load_best, load_state, save_state
from offramp.training.validation import validator

HALVING = "halving.csv"


@checked_call
def train(
    data: Path,
    run: Path,
    *,
    weights: Path | None = None,
    start: Path | None = None,
    planned: NetworkSpec | None = None,
    training: TrainingSpec | None = None,
    resume: bool = False,
    progress: Progress = silent,
    said: Callable[[str], None] = lambda _line: None,
    **choice: Any,
) -> None:
    """Train a multi-exit network on DATA's `train` split, watching its `val` split, and leave it in the folder `run`.

    With `resume` and a run in that folder, it goes on as it was begun; a finished one is left as it is. Without a run there,
    it begins. A network of the user's own code must be named again to go on. A learning rate lower than the run's may be
    given, and is the run's then. Started by torchrun, the processes share the work; `run` is a folder that all of them see.

    Args:
        data: the dataset.
        run: the run's folder.
        weights: of ImageNet for a backbone, of the whole network for one that gives class scores; see `sources.build`.
        start: a finished run whose network it begins with: the same network and final head; exits that both have begin with
            its heads, too. If it was pruned, so is this one.
        planned: the network and its exits, where they are known already and nothing is left to choose.
        training: scheme, epochs, rates. With `epochs=0` the exits alone are trained; the network stays bit for bit as it is.
        resume: go on with the run in that folder.
        progress: told of every step.
        said: told a line that sums up each epoch.
        choice: fields of `NetworkChoice`: network, output_stride, exits, heads, taps, final_head.

    Raises:
        InputError: bad data, network, weights or options; a run in that folder without `resume`; other data or options than
            it was begun with.

    """
    asked, spec = _checked(choice), training or TrainingSpec()
    with joined_world() as world:
        splits = open_splits(data)
        world.by_first(
            lambda: begin(run, asked, spec, splits, planned, weights=weights, start=start, resume=resume, progress=progress)
        )
        begun = load_run(run)
        if not (run / WEIGHTS).exists():
            _train(network_of(begun, asked, run), begun, run, splits, world, progress, said)


def _checked(choice: dict[str, Any]) -> NetworkChoice:
    try:
        return NetworkChoice(**choice)
    except ValidationError as error:
        raise InputError(explain(error)) from error


def _train(
    network: MultiExitNetwork,
    asked: RunFile,
    folder: Path,
    splits: Splits,
    world: World,
    progress: Progress,
    said: Callable[[str], None],
) -> None:
    spec = asked.training
    network = network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if spec.compile:
        network.backbone.compile()
    if world.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all crops have one size, so trying what is fastest for it pays off
    weights = class_weights(torch.from_numpy(splits.pixels)) if spec.class_weights else torch.ones(len(splits.pixels))
    scene = Scene(network, spec, weights.to(world.device), world)
    run = Run(
        folder=folder,
        network=network,
        recipe=Recipe(
            seed=spec.seed,
            batch_size=spec.batch_size,
            optimiser=spec.optimiser,
            weight_decay=spec.weight_decay,
            schedule=spec.schedule,
            warm_up=spec.warm_up,
            averaging=spec.averaging,
            validate_every=spec.validate_every,
            sync_batch_norm=spec.sync_batch_norm,
        ),
        measure=validator(network, splits.val, splits.train, train_images=spec.train_images, world=world),
        save=save_state,
        better=keep_best,
        ended=load_best if spec.keep == "best" else lambda _run: None,
        said=said if world.first else lambda _line: None,
        progress=progress if world.first else silent,
        world=world,
    )
    load_state(run)
    crops = Crops(splits.train, *spec.crop, spec.zoom, spec.seed, flip=spec.flip, jitter=spec.jitter)
    with Reporter(run, scene) as reporter:
        run.save = reporter.save
        run_phases(run, phases_of(scene, pretrained=asked.pretrained), crops)
    world.by_first(lambda: _finish(run, scene))


class Reporter:
    """Saves the state, and puts what is new in the history where people look for it."""

    def __init__(self, run: Run, scene: Scene) -> None:
        self._scene = scene
        self._told = len(run.history)
        self._board = Board(run.folder, self._told) if run.world.first else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._board:
            self._board.close()

    def save(self, run: Run) -> None:
        """Save the state; then write new epochs for TensorBoard, and which heads were dropped."""
        save_state(run)
        if self._board is None:
            return
        for epochs, row in enumerate(run.history[self._told :], self._told + 1):
            self._board.write(row, epochs)
        self._told = len(run.history)
        _log_halving(run, self._scene)


def _log_halving(run: Run, scene: Scene) -> None:
    """RUN/halving.csv: which heads were compared after which epoch of phase 2, and which stayed."""
    rungs = halving_of(scene.network, scene.spec).rungs(measured_in(run.history))
    if not rungs:
        return
    with new_file(run.folder / HALVING) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "tap", "exit", "macs", "miou", "stays"])
        for epoch, candidates, stay in rungs:
            for one in candidates:
                writer.writerow([epoch, one.tap, one.exit, one.macs, one.miou, "yes" if one.exit in stay else "no"])


def _finish(run: Run, scene: Scene) -> None:
    """Write the weights; of heads that were dropped nothing stays."""
    network = scene.network
    rungs = halving_of(network, scene.spec).rungs(measured_in(run.history))
    if rungs:
        network = with_exits(network, rungs[-1][2])
        load_network_file(run.folder).model_copy(update={"network": network.spec}).save(run.folder)
    save_weights(network, run.folder / WEIGHTS)
