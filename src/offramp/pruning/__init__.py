"""The step `prune`: from a finished run to a narrower one, fine-tuned.

RUN2 holds `pruned`, a finished run of its own with the weights before any fine-tuning and `pruning.json`, which says what was
done; and what `training.train` leaves where it goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import new_file, remove_leftovers, sha256_of
from offramp.models.checkpoint import NETWORK, WEIGHTS, load_network_file
from offramp.models.sources import is_user_code
from offramp.progress import Progress, silent
from offramp.pruning.record import PRUNED, PRUNING, PruningFile, load_pruning
from offramp.pruning.removal import remove_channels
from offramp.specs import TrainingSpec, explain
from offramp.targets import require_place
from offramp.training.distributed import World, joined_world
from offramp.training.run_file import RUN, read_run
from offramp.training.train import train

KEEP = 0.6
"""Of the macs, where nothing is said."""

DEFAULTS: dict[str, Any] = {"epochs": 20, "exit_epochs": 4, "halving": 0}
"""Of the fine-tuning, where nothing is said; all else is as the run was trained, at half its learning rate."""


@checked_call
def prune(
    run: Path,
    data: Path,
    out: Path,
    *,
    keep: float | None = None,
    network: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
    said: Callable[[str], None] = lambda _line: None,
    **training: Any,
) -> PruningFile:
    """Remove channels from a finished run's network and heads, fine-tune what is left, and leave a finished run in `out`.

    With `resume` it goes on where a killed one stopped. Started by torchrun, the processes share the fine-tuning.

    Args:
        run: the finished run; it stays as it is.
        data: the dataset that it was trained on, or another one of the same classes.
        out: the new run's folder.
        keep: share of the multiply-accumulates of all exits together, at the size of the training images, that stays at most;
            0.6 by default.
        network: `file.py:function`, if the run's network is of the user's own code.
        resume: go on with what is in that folder, as it was begun.
        progress: told of every step.
        said: told a line that sums up each epoch.
        training: fields of `TrainingSpec` for the fine-tuning; what is left out is as the run was trained, but for DEFAULTS.
            With `epochs` and `exit_epochs` both 0 there is none.

    Raises:
        InputError: no finished run, a network that cannot be pruned so far or at all, bad data or options; something in that
            folder without `resume`, or with it, something else than was begun.

    """
    if keep is not None and not 0 < keep < 1:
        raise InputError(f"keep must be a share between 0 and 1, got {keep:g}; 0.6 leaves 60 % of the multiply-accumulates")
    begun = resume and (out / RUN).exists()
    spec = _fine_tuning(out, {}, training) if begun else _fine_tuning(run, DEFAULTS, training)

    def begin(world: World) -> None:
        require_place(out / PRUNED)
        if _is_there(run, out, keep, resume=resume):
            return
        remove_channels(
            run,
            data,
            out / PRUNED,
            keep=KEEP if keep is None else keep,
            training=spec or TrainingSpec(),
            network=network,
            device=world.device,
            progress=progress,
        )

    def finish() -> None:
        # A folder with a description and no weights is a run that is not finished, and training goes on in it.
        if not (out / NETWORK).exists():
            load_network_file(out / PRUNED).save(out)
        if spec is None and not (out / WEIGHTS).exists():
            with new_file(out / WEIGHTS) as temporary:
                shutil.copyfile(out / PRUNED / WEIGHTS, temporary)

    with joined_world() as world:
        world.by_first(lambda: begin(world))
        world.by_first(finish)
    if not (out / WEIGHTS).exists():
        assert spec is not None
        plan = load_network_file(out / PRUNED).network
        own: dict[str, Any] = {"network": network} if is_user_code(plan.network) else {}
        train(data, out, start=out / PRUNED, planned=plan, training=spec, resume=True, progress=progress, said=said, **own)
    return load_pruning(out)


def _fine_tuning(run: Path, defaults: dict[str, Any], asked: dict[str, Any]) -> TrainingSpec | None:
    """How a run was trained, with what differs; None for no epochs at all."""
    own = TrainingSpec()
    if (run / RUN).exists():
        found = read_run(run)
        own = found.training if found else own
    slower = {"learning_rate": own.learning_rate / 2} if defaults else {}
    values = own.model_dump() | defaults | slower | asked
    trains = values["epochs"] or values["exit_epochs"]
    try:
        spec = TrainingSpec(**(values if trains else values | {"epochs": 1}))
    except ValidationError as error:
        raise InputError(explain(error)) from error
    return spec if trains else None


def _is_there(run: Path, out: Path, keep: float | None, *, resume: bool) -> bool:
    """Whether OUT holds the pruned network of this run already."""
    if out.resolve() == run.resolve():
        raise InputError(f"a pruned run needs a folder of its own, got the run's: {out}; choose another --out")
    remove_leftovers(out)  # of a run that was cut off
    if not (out / PRUNED / PRUNING).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"cannot prune into {out}: something else is there; choose another --out")
        return False
    if not resume:
        raise InputError(f"there is a run in {out}; go on with it by --resume, or choose another --out")
    done = load_pruning(out)
    if keep not in (None, done.keep):
        raise InputError(f"{out} was begun with keep {done.keep:g}, not {keep:g}; leave it out, or choose another --out")
    if not (run / WEIGHTS).exists() or done.run_sha256 != sha256_of(run / WEIGHTS):
        raise InputError(f"the run {out} was begun with another run than {run} now holds; give that, or choose another --out")
    return True
