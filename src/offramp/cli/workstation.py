"""The verbs that need torch: train, export, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Json, checked, need, show
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.specs import OutputStride, TrainingSpec, parse_size

OUTPUT_STRIDES: dict[int, OutputStride] = {8: 8, 16: 16, 32: 32}


def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset with the splits train and val.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    network: Annotated[str, typer.Option(help="A network of timm's.")] = "mobilenetv2_100",
    weights: Annotated[Path | None, typer.Option(help="ImageNet weights, a .safetensors file.")] = None,
    output_stride: Annotated[int, typer.Option(help="8, 16 or 32: less is finer and costs more.")] = 16,
    exits: Annotated[int, typer.Option(help="Early exits, at even distances in cost.", min=0, max=64)] = 6,
    epochs: Annotated[int, typer.Option(help="Epochs of phase 1.")] = 60,
    exit_epochs: Annotated[int | None, typer.Option(help="Epochs of phase 2; a fifth of phase 1's by default.")] = None,
    crop: Annotated[str, typer.Option(help="Size of the training crops.", metavar="WxH")] = "320x320",
    batch_size: Annotated[int, typer.Option(help="Crops in a batch.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of the heads; a pretrained backbone takes half.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    validate_every: Annotated[int, typer.Option(help="Measure mIoU on val every so many epochs.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, with the options it was begun with.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network with early exits: phase 1 end to end, phase 2 the exits alone.

    Example: offramp train scenes --out run --network mobilenetv2_050 --exits 3 --epochs 40 --crop 192x128
    """
    spec = checked(
        TrainingSpec,
        epochs=epochs,
        exit_epochs=-(-epochs // 5) if exit_epochs is None else exit_epochs,
        crop=parse_size(crop),
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        validate_every=validate_every,
    )
    stride = OUTPUT_STRIDES.get(output_stride)
    if stride is None:
        raise InputError(f"--output-stride must be one of {', '.join(map(str, OUTPUT_STRIDES))}, got {output_stride}")
    need("torch", "timm", "safetensors", extra="train")
    from offramp.training.loop import read_history
    from offramp.training.train import train as step

    with showing_progress() as progress:
        step(
            data,
            out,
            network=network,
            weights=weights,
            output_stride=stride,
            exits=exits,
            training=spec,
            resume=resume,
            progress=progress,
        )
    last = read_history(out)[-1]
    miou = {name.removeprefix("miou:"): value for name, value in last.items() if name.startswith("miou:")}

    def people() -> None:
        print_table(f"{out}: mIoU on val", ["exit", "mIoU"], [[name, f"{float(value):.3f}"] for name, value in miou.items()])

    show(as_json, {"run": str(out), "miou": {name: float(value) for name, value in miou.items()}}, people)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option(metavar="PACKAGE", help="The package to make.")],
    size: Annotated[str | None, typer.Option(help="Size of the images it will take; the training images' by default.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a run into a package: one ONNX graph for each stage and each head. It needs no torch.

    Example: offramp export run --out package
    """
    need("torch", "timm", "onnx", "onnxscript", extra="train")
    from offramp.export.package import export as step

    with showing_progress() as progress:
        manifest = step(run, out, size=parse_size(size) if size else None, progress=progress)

    def people() -> None:
        rows = [
            [
                head.exit,
                str(head.stage),
                f"{sum(s.macs for s in manifest.stages[: head.stage + 1]) / 1e6:.1f}",
                f"{head.macs / 1e6:.1f}",
            ]
            for head in manifest.heads
        ]
        title = f"{out}: {manifest.size[0]}x{manifest.size[1]}, {len(manifest.stages)} stages"
        print_table(title, ["exit", "after stage", "million macs of its stages", "of its head"], rows)

    show(as_json, {"package": str(out), "package_id": manifest.package_id, "exits": list(manifest.exits)}, people)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")],
    as_json: Json = False,
) -> None:
    """The whole way on drawn scenes: draw, train, export, evaluate, profile, search, trim, run, report.

    Started again in the same folder it goes on where it stopped. Example: offramp demo --out demo
    """
    need("torch", "timm", "onnx", extra="train")
    from offramp.demo import demo as step

    with showing_progress() as progress:
        result = step(out, progress=progress)
    show(as_json, result.to_json(), result.print)
