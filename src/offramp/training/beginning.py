"""How a run begins, or is gone on with: what is refused, and which weights the network has before its first step.

A new run's folder is made here before anything is trained: `network.json`, a first state with the weights that it begins with,
and, last, `run.json`. To go on, that folder is enough; what else is given must be what the run was begun with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from offramp.data.check import require_readable
from offramp.errors import InputError
from offramp.files import remove_leftovers, sha256_of
from offramp.models.attach import as_narrow_as, build_network, plan_network
from offramp.models.checkpoint import (
    NETWORK,
    WEIGHTS,
    NetworkFile,
    first_reason,
    load_network_file,
    original_network,
    read_tensors,
)
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.sources import is_user_code
from offramp.progress import Progress
from offramp.specs import HeadSpec, NetworkChoice, NetworkSpec, TrainingSpec
from offramp.targets import require_place
from offramp.training.loop import Recipe, Run
from offramp.training.run_file import RUN, RunFile, load_run
from offramp.training.splits import Splits
from offramp.training.state import save_state


def begin(
    run: Path,
    asked: NetworkChoice,
    spec: TrainingSpec,
    splits: Splits,
    planned: NetworkSpec | None,
    *,
    weights: Path | None,
    start: Path | None,
    resume: bool,
    progress: Progress,
) -> None:
    """Leave a run in the folder that can be gone on with: the one that is there, or a new one before its first step."""
    old = _earlier_run(run, resume=resume)
    if old is not None:
        _go_on(old, run, asked, spec, splits, weights=weights, start=start)
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
    network = network_of(begun, asked, run, weights=weights)
    if start is not None:
        _take_over(network, start)
    require_readable((splits.train, splits.val), progress)
    _describe(splits, begun).save(run)
    # The first state holds the weights that it begins with, so that nobody has to give them again. The run is there last.
    save_state(Run(folder=run, network=network, recipe=Recipe(), measure=lambda _exits: {}, save=save_state))
    begun.save(run)


def _earlier_run(run: Path, *, resume: bool) -> RunFile | None:
    remove_leftovers(run)  # of a save that was cut off
    if not (run / RUN).exists():
        if run.exists() and (not run.is_dir() or any(run.iterdir())) and not (run / NETWORK).exists():
            raise InputError(f"cannot train into {run}: something else is there; choose another --out")
        return None
    if not resume:
        raise InputError(f"there is a run in {run}; go on with it by --resume, or choose another --out")
    return load_run(run)


def _go_on(
    old: RunFile,
    run: Path,
    asked: NetworkChoice,
    spec: TrainingSpec,
    splits: Splits,
    *,
    weights: Path | None,
    start: Path | None,
) -> None:
    """Refuse what the run was not begun with; a lower learning rate becomes the run's, unless it is finished."""
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


def network_of(run: RunFile, asked: NetworkChoice, folder: Path, *, weights: Path | None = None) -> MultiExitNetwork:
    """The network of the run in that folder, before its state is loaded; `weights` are for one that begins."""
    torch.manual_seed(run.training.seed)  # what no file of weights holds starts at random
    # Left out, the network is the run's own: code of the user's is run only if it is named here and now.
    given = asked.network if "network" in asked.model_fields_set and is_user_code(asked.network) else None
    own = original_network(run.network, given, folder, weights=weights)
    return build_network(run.network, weights, network=own)


def _narrowed(planned: NetworkSpec, start: Path) -> NetworkSpec:
    """The plan with the widths of the run that it begins with, if that is the same network; `_take_over` refuses another."""
    theirs = load_network_file(start).network
    same = (planned.network, planned.output_stride) == (theirs.network, theirs.output_stride)
    return as_narrow_as(planned, theirs) if same else planned


def _take_over(network: MultiExitNetwork, start: Path) -> None:
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
