"""The verb sweep: many networks trained and measured alike."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import Json, Ray, need, say, show
from offramp.console import print_table, showing_progress
from offramp.specs import final_exit

if TYPE_CHECKING:
    from offramp.artifacts import Sweep


def sweep(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="Networks, sizes, training and device.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset with the splits train, val and test.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes; again to go on.")],
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Train, export and measure every network of a plan, for search to choose among.

    Started again with the same folder it goes on where it stopped. Exit code 1 if a trial failed.

    Example: offramp sweep plan.yaml scenes --out sweep
    """
    need("torch", "timm", "onnx", "onnxscript", "yaml", extra="train")
    if ray is not None:
        need("ray", extra="ray")
        from offramp.cluster import on_ray
    from offramp.sweeping import sweep as step

    workers = None if ray is None else on_ray(ray, gpu=True)
    with showing_progress() as progress:
        found = step(plan, data, out, workers=workers, progress=progress, said=progress.line)
    show(as_json, found.model_dump(mode="json"), lambda: _print(found, out))
    if any(trial.error for trial in found.trials):
        raise typer.Exit(1)


def _print(found: Sweep, out: Path) -> None:
    rows = []
    for trial in found.trials:
        for one in trial.packages:
            val, final = one.miou["val"], final_exit(tuple(one.miou["val"]))
            figures = [f"{val[one.best_exit]:.3f}", f"{one.latency_ms[one.best_exit]:.2f}"]
            rows.append([trial.name, one.name, one.best_exit, *figures, f"{val[final]:.3f}", f"{one.latency_ms[final]:.2f}"])
    title = f"{found.device}, {found.engine}, {found.precision}, {found.threads} threads; mIoU on val, median ms"
    print_table(title, ["trial", "package", "best exit", "its mIoU", "its ms", "final mIoU", "final ms"], rows)
    for trial in found.trials:
        if trial.error:
            say(f"{trial.name} failed: {trial.error}")
    if found.search:
        chosen = ("--mode", "input-dependent", "--out", str(out / "chosen.json"))
        say(f"choose: {shlex.join(('offramp', 'search', '--sweep', str(out), *chosen))}")
