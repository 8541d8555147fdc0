"""The step `train`: from a labelled dataset to a run folder.

RUN holds `run.json` (what was asked for), `network.json`, what `state.py` writes while it trains and, once finished,
`weights.safetensors`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from offramp.data.check import require_readable
from offramp.data.folder import Split, open_split
from offramp.data.transforms import Crops
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import new_file, read_json, remove_leftovers, sha256_of
from offramp.models.attach import as_narrow_as, build_network, plan_network, with_exits
from offramp.models.checkpoint import (
    NETWORK,
    WEIGHTS,
    NetworkFile,
    first_reason,
    load_network_file,
    original_network,
    read_tensors,
    save_weights,
)
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.sources import is_user_code
from offramp.progress import Progress, silent
from offramp.specs import HeadSpec, NetworkChoice, NetworkSpec, Spec, TrainingSpec, explain
from offramp.targets import require_place
from offramp.training.distributed import World, joined_world
from offramp.training.loop import Recipe, Run, run_phases
from offramp.training.losses import class_weights
from offramp.training.phases import Scene, halving_of, measured_in, phases_of
from offramp.training.state import Board, keep_best, load_best, load_state, save_state
from offramp.training.validation import validator

RUN = "run.json"
HALVING = "halving.csv"


class RunFile(Spec):
    """What a run was asked to do: enough to go on with it."""

    kind: Literal["run"] = "run"
    format: Literal[2] = 2
    data: str
    data_fingerprint: str
    weights_sha256: str | None
    """Of the file of weights that it began with, if one was given."""
    start_sha256: str | None = None
    """Of the weights of the run that it began with, if one was given."""
    choice: NetworkChoice
    network: NetworkSpec
    training: TrainingSpec

    @property
    def pretrained(self) -> bool:
        """Whether it began with trained weights."""
        return self.weights_sha256 is not None or self.start_sha256 is not None

    def save(self, run: Path) -> None:
        """Write RUN/run.json."""
        with new_file(run / RUN) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Splits:
    """The data of a run and what was counted on it."""

    train: Split
    val: Split
    pixels: npt.NDArray[np.int64]
    """Labelled pixels of each class in `train`."""
    size: tuple[int, int]
    """The most common width and height of a label map."""
    fingerprint: str


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
        splits = _open(data)
        world.by_first(
            lambda: _begin(run, asked, spec, splits, planned, weights=weights, start=start, resume=resume, progress=progress)
        )
        begun = _read(run)
        if not (run / WEIGHTS).exists():
            _train(_build(begun, asked, run), begun, run, splits, world, progress, said)


def _checked(choice: dict[str, Any]) -> NetworkChoice:
    try:
        return NetworkChoice(**choice)
    except ValidationError as error:
        raise InputError(explain(error)) from error


def _open(data: Path) -> Splits:
    train_split, val_split = open_split(data, "train"), open_split(data, "val")
    _look_at(val_split)  # refused if nothing in it is labelled
    return Splits(train_split, val_split, *_look_at(train_split), fingerprint_of(train_split, val_split))


def fingerprint_of(train_split: Split, val_split: Split) -> str:
    """What a run knows its data by."""
    return hashlib.sha256((train_split.fingerprint() + val_split.fingerprint()).encode()).hexdigest()


def read_run(run: Path) -> RunFile | None:
    """What the run in that folder was asked to do; None where no run is. Raises InputError if it is damaged."""
    return _read(run) if (run / RUN).exists() else None


# -------------------------------------------------------------------------------------------------------------- beginning


def _begin(
    run: Path,
    asked: NetworkChoice,
    spec: TrainingSpec,
    splits: Splits,
    planned: NetworkSpec | None,
    *,
    weights: Path | None,
    start: Path | None,
    resume: bool,
    progress: Progress = silent,
) -> None:
    """Leave a run in the folder that can be gone on with: the one that is there, or a new one before its first step."""
    old = _earlier_run(run, resume=resume)
    if old is not None:
        if old.data_fingerprint != splits.fingerprint:
            raise InputError(
                f"the run {run} was begun on other data than {splits.train.root} now holds; give that data, or another --out"
            )
        _require_same_options(old, asked, spec)
        _require_same_weights(old, weights, start)
        asks_slower = "learning_rate" in spec.model_fields_set and spec.learning_rate < old.training.learning_rate
        if asks_slower and not (run / WEIGHTS).exists():
            slower = old.training.model_copy(update={"learning_rate": spec.learning_rate})
            old.model_copy(update={"training": slower}).save(run)
        return
    require_place(run / RUN)
    if planned is None:
        asked_exits = asked.model_copy(update={"exits": 0, "taps": None}) if spec.scheme == "final-only" else asked
        planned = plan_network(asked_exits, len(splits.train.classes.names), size=splits.size)
        planned = planned if start is None else _narrowed(planned, start)
    if spec.scheme != "final-only" and not spec.epochs and not planned.exits:
        raise InputError("epochs is 0 and there are no exits: nothing would be trained; give --epochs or --exits")
    _require_trained(planned, weights, start, spec)
    begun = RunFile(
        data=splits.train.root.name,
        data_fingerprint=splits.fingerprint,
        weights_sha256=sha256_of(weights) if weights and weights.is_file() else None,
        start_sha256=sha256_of(start / WEIGHTS) if start and (start / WEIGHTS).is_file() else None,
        choice=asked,
        network=planned,
        training=spec,
    )
    network = _build(begun, asked, run, weights=weights)
    if start is not None:
        take_over(network, start)
    require_readable((splits.train, splits.val), progress)
    _describe(splits, begun).save(run)
    # The first state holds the weights that it begins with, so that nobody has to give them again. The run is there last.
    save_state(_blank(run, network))
    begun.save(run)


def _require_trained(planned: NetworkSpec, weights: Path | None, start: Path | None, training: TrainingSpec) -> None:
    """Refuse to train exits alone on a network that is not trained itself."""
    if training.epochs or start is not None or training.scheme == "joint":
        return
    if planned.final_head is not None:
        raise InputError(
            f"epochs=0 trains the exits alone, but the final head on {planned.network} is new; give it --epochs, or --from RUN"
        )
    if weights is None and not is_user_code(planned.network):
        raise InputError(f"epochs=0 trains the exits alone, but {planned.network} is not trained; give its --weights")


def _build(run: RunFile, asked: NetworkChoice, folder: Path, *, weights: Path | None = None) -> MultiExitNetwork:
    torch.manual_seed(run.training.seed)  # what no file of weights holds starts at random
    # Left out, the network is the run's own: code of the user's is run only if it is named here and now.
    given = asked.network if "network" in asked.model_fields_set and is_user_code(asked.network) else None
    own = original_network(run.network, given, folder, weights=weights)
    return build_network(run.network, weights, network=own)


def _narrowed(planned: NetworkSpec, start: Path) -> NetworkSpec:
    """The plan with the widths of the run that it begins with, if that is the same network; `take_over` refuses another."""
    theirs = load_network_file(start).network
    same = (planned.network, planned.output_stride) == (theirs.network, theirs.output_stride)
    return as_narrow_as(planned, theirs) if same else planned


def take_over(network: MultiExitNetwork, start: Path) -> None:
    """Give a network the weights of a finished run: of the network itself, its final head, and the exits that both have.

    Raises:
        InputError: no finished run, or one of another network or final head.

    """
    theirs = load_network_file(start).network
    path = start / WEIGHTS
    if not path.exists():
        raise InputError(f"the run {start} is not finished: it has no {WEIGHTS}; go on with it by --resume first")
    for what in ("network", "output_stride", "num_classes", "final_head", "final_skip"):
        mine, other = getattr(network.spec, what), getattr(theirs, what)
        if mine != other:
            raise InputError(
                f"cannot begin with the run {start}: its {what.replace('_', ' ')} is {_plain(other)}, not {_plain(mine)}; "
                f"ask for the same, or leave out --from"
            )
    places = {early.name: place for place, early in enumerate(network.spec.exits)}
    tensors = {}
    for name, tensor in read_tensors(path).items():
        part, _, rest = name.partition(".")
        if part != "early_heads":
            tensors[name] = tensor
            continue
        place, _, inner = rest.partition(".")
        if not place.isdecimal() or int(place) >= len(theirs.exits):
            raise InputError(f"the weights {path} hold {name}, a head that {start / NETWORK} does not name; leave out --from")
        exit_name = theirs.exits[int(place)].name
        if exit_name in places:
            tensors[f"early_heads.{places[exit_name]}.{inner}"] = tensor
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"the weights {path} do not fit the network: {first_reason(error)}; leave out --from") from error
    lost = [name for name in missing if not name.startswith("early_heads.")]
    if lost or unexpected:
        raise InputError(f"the weights {path} do not fit the network: {(lost + list(unexpected))[0]}; leave out --from")


def _require_same_options(old: RunFile, asked: NetworkChoice, training: TrainingSpec) -> None:
    """Refuse options that were given and differ from the run's; what equals the default counts as not given.

    A lower learning rate is taken: it is the way out where training ran away.
    """
    given = {**asked.model_dump(), **training.model_dump()}
    default = {**NetworkChoice().model_dump(), **TrainingSpec().model_dump()}
    begun = {**old.choice.model_dump(), **old.training.model_dump()}
    for name, value in given.items():
        slower = name == "learning_rate" and value < begun[name]
        if value not in (default[name], begun[name]) and not slower:
            option = name.replace("_", "-")
            raise InputError(
                f"the run was begun with {option} {_plain(begun[name])}, not {_plain(value)}; leave it out, "
                f"or choose another --out"
            )


def _require_same_weights(old: RunFile, weights: Path | None, start: Path | None) -> None:
    """Refuse other weights than the run was begun with; it holds its own, and none need be given to go on."""
    for option, path, begun in (
        ("--weights", weights, old.weights_sha256),
        ("--from", None if start is None else start / WEIGHTS, old.start_sha256),
    ):
        if path is not None and (not path.is_file() or sha256_of(path) != begun):
            raise InputError(f"the run was not begun with the weights {path}; leave out {option}, or choose another --out")


def _plain(value: object) -> str:
    if isinstance(value, HeadSpec):
        return value.text
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _earlier_run(run: Path, *, resume: bool) -> RunFile | None:
    remove_leftovers(run)  # of a save that was cut off
    if not (run / RUN).exists():
        if run.exists() and (not run.is_dir() or any(run.iterdir())) and not (run / NETWORK).exists():
            raise InputError(f"cannot train into {run}: something else is there; choose another --out")
        return None
    if not resume:
        raise InputError(f"there is a run in {run}; go on with it by --resume, or choose another --out")
    return _read(run)


def _read(run: Path) -> RunFile:
    path = run / RUN
    if not path.exists():
        raise InputError(f"cannot read {path} (no such file); all processes must see the run's folder")
    raw = read_json(path, "run", mend="remove the folder and train again")
    try:
        return RunFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; remove the folder and train again") from error


def _look_at(split: Split) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """Labelled pixels of each class, and the most common size of a label map (width, height)."""
    classes = len(split.classes.names)
    pixels, sizes = np.zeros(classes, np.int64), Counter[tuple[int, int]]()
    for index in range(len(split)):
        labels = split.labels(index)
        pixels += np.bincount(labels.ravel(), minlength=256)[:classes]
        sizes[labels.shape[1], labels.shape[0]] += 1
    if not pixels.any():
        raise InputError(f"no pixel of {split.root}/{split.name} is labelled with a class; see offramp data check {split.root}")
    return pixels, sizes.most_common(1)[0][0]


def _describe(splits: Splits, asked: RunFile) -> NetworkFile:
    pixels = splits.pixels
    even = pixels.sum() / len(pixels)
    return NetworkFile(
        network=asked.network,
        classes=splits.train.classes.names,
        palette=splits.train.classes.palette,
        object_classes=tuple(int(index) for index in np.flatnonzero((pixels > 0) & (pixels < even))),
        size=splits.size,
        data_fingerprint=asked.data_fingerprint,
    )


# --------------------------------------------------------------------------------------------------------------- training


def _blank(folder: Path, network: MultiExitNetwork) -> Run:
    return Run(folder=folder, network=network, recipe=Recipe(), measure=lambda _exits: {}, save=save_state)


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
