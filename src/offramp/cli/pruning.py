"""The verb prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import Json, need, show
from offramp.console import print_table, showing_progress
from offramp.specs import Scheme, parse_size

if TYPE_CHECKING:
    from offramp.pruning.record import PartCost


def prune(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The dataset that it was trained on.")],
    out: Annotated[Path, typer.Option(metavar="RUN2", help="The pruned run's folder.")],
    keep: Annotated[
        float | None,
        typer.Option(help="Share of the multiply-accumulates of all exits together that stays, at most; 0.6 by default."),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="file.py:function, if the run's network is of your own code: it runs only if you say so.")
    ] = None,
    scheme: Annotated[Scheme | None, typer.Option(help="How it is fine-tuned, see train; the run's own by default.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of phase 1, 20 by default. With 0 and --exit-epochs 0 it is pruned only.")
    ] = None,
    exit_epochs: Annotated[int | None, typer.Option(help="Epochs of phase 2; 4 by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the heads; half the run's by default.")] = None,
    backbone_rate: Annotated[
        float | None, typer.Option(help="The backbone's learning rate, as a share of the heads'; the run's by default.")
    ] = None,
    crop: Annotated[str | None, typer.Option(help="Size of the training crops; the run's by default.", metavar="WxH")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops in a batch; the run's by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn at random; the run's by default.")] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Measure mIoU on val every so many epochs; the run's by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in RUN2, as it was begun.")] = False,
    as_json: Json = False,
) -> None:
    """Remove channels from a run's network and heads, and fine-tune what is left.

    RUN2 is a run like any other; RUN2/pruned is the same before fine-tuning. What is not said is as RUN was trained.

    Example: offramp prune run scenes --keep 0.6 --out small
    """
    need("torch", "timm", "safetensors", "tensorboard", extra="train")
    need("torch_pruning", extra="compress")
    from offramp.pruning import prune as step
    from offramp.pruning.record import whole
    from offramp.training.distributed import is_first

    training = {
        "scheme": scheme,
        "epochs": epochs,
        "exit_epochs": exit_epochs,
        "learning_rate": learning_rate,
        "backbone_rate": backbone_rate,
        "crop": None if crop is None else parse_size(crop),
        "batch_size": batch_size,
        "seed": seed,
        "validate_every": validate_every,
    }
    asked = {name: value for name, value in training.items() if value is not None}
    with showing_progress() as progress:
        done = step(run, data, out, keep=keep, network=network, resume=resume, progress=progress, said=progress.line, **asked)
    if not is_first():
        return

    def people() -> None:
        rows = [_row(part, before, done.after[part]) for part, before in done.before.items()]
        print_table(
            f"{out}: {done.kept:.3f} of the macs stay",
            ["part", "million macs before", "after", "thousand parameters before", "after"],
            [*rows, _row("all", whole(done.before), whole(done.after))],
        )

    values = done.model_dump(include={"before", "after"})
    show(as_json, {"run": str(out), "keep": done.keep, "kept": done.kept, **values}, people)


def _row(part: str, before: PartCost, after: PartCost) -> list[str]:
    return [
        part,
        f"{before.macs / 1e6:.1f}",
        f"{after.macs / 1e6:.1f}",
        f"{before.parameters / 1e3:.1f}",
        f"{after.parameters / 1e3:.1f}",
    ]
