"""The verbs that need torch: taps, train, demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.options import Json, checked, need, show
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.specs import (
    Distillation,
    EarlyExit,
    Filtered,
    Keep,
    NetworkChoice,
    OptimiserName,
    Schedule,
    Scheme,
    TrainingPrecision,
    TrainingSpec,
    default_exit_epochs,
    parse_size,
)

if TYPE_CHECKING:
    from offramp.models.survey import SurveyedPoint

SOURCES = "timm:NAME (or NAME), torchvision:NAME, smp:ARCH/ENCODER, transformers:CLASS, file.py:function, or a recipe"

OutputStride = Annotated[
    int | None, typer.Option(help="8, 16 or 32: less is finer and costs more; 16 for timm's networks, else the network's own.")
]
Exits = Annotated[int, typer.Option(help="Points to tap, at even distances in cost.", min=0, max=64)]
Heads = Annotated[
    str, typer.Option(help="Heads, each at every tap: KIND[/cWIDTH][/rREDUCTION][/bBLOCKS][/d], separated by commas.")
]
Taps = Annotated[str | None, typer.Option(help="Points to tap, by name, separated by commas; see offramp taps.")]
FinalHead = Annotated[str | None, typer.Option(help="Head of the final exit, if the network is a backbone.")]


def _choice(
    network: str, output_stride: int | None, exits: int, heads: str, taps: str | None, final_head: str | None
) -> NetworkChoice:
    if taps is not None and exits not in (NetworkChoice().exits, len(_names("--taps", taps))):
        raise InputError(
            f"--taps names the points to tap, and --exits {exits} asks for that many others; leave one of them out"
        )
    return checked(
        NetworkChoice,
        network=network,
        output_stride=output_stride,
        exits=exits,
        heads=_names("--heads", heads),
        taps=None if taps is None else _names("--taps", taps),
        final_head=final_head,
    )


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError(f"{option}: no name in {text!r}; write one or more, separated by commas")
    return names


def taps(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=SOURCES)],
    size: Annotated[str, typer.Option(help="Size of the images that it is meant for.", metavar="WxH")] = "480x360",
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 11,
    output_stride: OutputStride = None,
    exits: Exits = 6,
    heads: Heads = "fcn",
    names: Annotated[str | None, typer.Option("--taps", help="Points to tap, by name, separated by commas.")] = None,
    final_head: FinalHead = None,
    every: Annotated[bool, typer.Option("--all", help="Every module that can be tapped, not only blocks.")] = False,
    as_json: Json = False,
) -> None:
    """Show where exits can be attached to a network, what has been spent there, and the exits that train would attach.

    Example: offramp taps smp:Unet/resnet18 --size 480x360 --exits 3 --heads deeplab/r4
    """
    choice = _choice(network, output_stride, exits, heads, names, final_head)
    need("torch", "timm", extra="train")
    from offramp.models.survey import survey as step

    found = step(choice, classes, size=parse_size(size), every=every)

    def people() -> None:
        spec = found.spec
        padded = f", sides padded to multiples of {spec.multiple}" if spec.multiple > 1 else ""
        whole = f"{found.macs / 1e6:.1f} million macs, {found.parameters / 1e6:.3f} million parameters"
        print_table(
            f"{spec.network}, {size}{padded}: {whole}, {found.latency_ms:.1f} ms in PyTorch",
            ["point", "stride", "channels", "million macs", "million parameters", "share", "ms so far", "exit"],
            _tree(found.points),
        )
        print_table(
            "exits that train would attach",
            ["exit", "million macs of its head", "parameters", "receptive field at its tap, pixels"],
            [
                [
                    early.name,
                    f"{early.figures.macs / 1e6:.1f}",
                    f"{early.figures.parameters}",
                    "whole image" if early.figures.whole_image else f"{early.figures.receptive_field}",
                ]
                for early in found.exits
            ],
        )

    points = [
        {
            "name": row.point.name,
            "stride": row.point.stride,
            "channels": row.point.channels,
            "layout": row.point.layout.kind,
            "macs": row.point.macs,
            "parameters": row.point.parameters,
            "share": row.point.share,
            "latency_ms": row.latency_ms,
            "chosen": row.chosen,
        }
        for row in found.points
    ]
    values = {
        "network": found.spec.network,
        "multiple": found.spec.multiple,
        "macs": found.macs,
        "parameters": found.parameters,
        "latency_ms": found.latency_ms,
        "points": points,
        "exits": [{"name": early.name, **asdict(early.figures)} for early in found.exits],
    }
    show(as_json, values, people)


def _tree(points: Sequence[SurveyedPoint]) -> list[list[str]]:
    """Rows of the table: a line for each module around points, and its points below it."""
    rows: list[list[str]] = []
    around = ""
    for row in points:
        parent = row.point.name.rpartition(".")[0]
        if parent != around and parent:
            rows.append([parent, *[""] * 7])
        around = parent
        rows.append(
            [
                f"  {row.point.name}" if parent else row.point.name,
                str(row.point.stride),
                str(row.point.channels),
                f"{row.point.macs / 1e6:.1f}",
                f"{row.point.parameters / 1e6:.3f}",
                f"{row.point.share:.2f}",
                f"{row.latency_ms:.1f}",
                "*" if row.chosen else "",
            ]
        )
    return rows


def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset with the splits train and val.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    network: Annotated[str, typer.Option(help=SOURCES)] = "mobilenetv2_100",
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file: of ImageNet for a backbone, else the whole network's.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="A finished run whose network and heads it begins with.")
    ] = None,
    output_stride: OutputStride = None,
    exits: Exits = 6,
    heads: Heads = "fcn",
    taps: Taps = None,
    final_head: FinalHead = None,
    scheme: Annotated[
        Scheme,
        typer.Option(help="two-phase; or joint: all losses at once; frozen: the final exit, then the heads; final-only."),
    ] = "two-phase",
    epochs: Annotated[int, typer.Option(help="Epochs of phase 1; 0 leaves a trained network as it is.")] = 60,
    exit_epochs: Annotated[
        int | None, typer.Option(help="Epochs of phase 2; a fifth of phase 1's by default, 12 without phase 1.")
    ] = None,
    early_exit: Annotated[EarlyExit, typer.Option(help="How phase 1 picks the early exit of an iteration.")] = "rotation",
    distillation: Annotated[
        Distillation,
        typer.Option(help="Phase 2: the final exit teaches where it is right (positive), everywhere (plain), or not (none)."),
    ] = "positive",
    filtered: Annotated[Filtered, typer.Option(help="The term of positive that is filtered.")] = "labels",
    truth_weight: Annotated[float, typer.Option(help="Share of the labels' loss against the teacher's.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the distillation.")] = 1.0,
    halving: Annotated[int, typer.Option(help="How often phase 2 drops the worse half of every tap's heads.")] = 0,
    crop: Annotated[str, typer.Option(help="Size of the training crops.", metavar="WxH")] = "320x320",
    batch_size: Annotated[int, typer.Option(help="Crops in a batch, of all processes together.")] = 8,
    zoom: Annotated[str, typer.Option(help="Range of the random scale.", metavar="FROM,TO")] = "0.7,1.8",
    flip: Annotated[bool, typer.Option(help="Mirror half of the crops.")] = True,
    jitter: Annotated[float, typer.Option(help="Strength of random changes of colour.")] = 0.4,
    class_weights: Annotated[bool, typer.Option(help="Let rare classes weigh more.")] = True,
    hard_share: Annotated[float, typer.Option(help="Share of the pixels, the hardest, that phase 1 learns from.")] = 1.0,
    optimiser: Annotated[OptimiserName, typer.Option(help="What takes the steps.")] = "adamw",
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the heads, 0.001 by default; with --resume a lower one; see --backbone-rate.")
    ] = None,
    backbone_rate: Annotated[
        float, typer.Option(help="A pretrained backbone's learning rate, as a share of the heads'.")
    ] = 0.5,
    weight_decay: Annotated[float, typer.Option(help="Of all weights.")] = 1e-2,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls.")] = "poly",
    warm_up: Annotated[float, typer.Option(help="Share of a phase in which the learning rate rises.")] = 0.03,
    averaging: Annotated[float, typer.Option(help="Decay of the weights' moving average, for example 0.998; 0: none.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    validate_every: Annotated[int, typer.Option(help="Measure mIoU on val every so many epochs.")] = 1,
    train_images: Annotated[int, typer.Option(help="How many training images to measure beside val.")] = 40,
    keep: Annotated[Keep, typer.Option(help="A phase ends with its last weights, or those best on val.")] = "last",
    precision: Annotated[TrainingPrecision, typer.Option(help="Of the forward pass; auto: bfloat16 on CUDA.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network by torch.compile.")] = False,
    sync_batch_norm: Annotated[
        bool, typer.Option("--sync-batch-norm", help="Batch-norm over the images of all of torchrun's processes.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, with the options it was begun with.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network with early exits: phase 1 end to end, phase 2 the exits alone.

    Example: offramp train scenes --out run --network mobilenetv2_050 --exits 3 --epochs 40 --crop 192x128

    On several GPUs or machines: torchrun --nproc-per-node 2 -m offramp train scenes --out run --batch-size 16
    """
    choice = _choice(network, output_stride, exits, heads, taps, final_head)
    spec = checked(
        TrainingSpec,
        scheme=scheme,
        epochs=epochs,
        exit_epochs=default_exit_epochs(epochs) if exit_epochs is None else exit_epochs,
        early_exit=early_exit,
        distillation=distillation,
        filtered=filtered,
        truth_weight=truth_weight,
        temperature=temperature,
        halving=halving,
        crop=parse_size(crop),
        batch_size=batch_size,
        zoom=_range(zoom),
        flip=flip,
        jitter=jitter,
        class_weights=class_weights,
        hard_share=hard_share,
        optimiser=optimiser,
        **({} if learning_rate is None else {"learning_rate": learning_rate}),
        backbone_rate=backbone_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        warm_up=warm_up,
        averaging=averaging,
        seed=seed,
        validate_every=validate_every,
        train_images=train_images,
        keep=keep,
        precision=precision,
        compile=compiled,
        sync_batch_norm=sync_batch_norm,
    )
    need("torch", "timm", "safetensors", "tensorboard", extra="train")
    from offramp.training.distributed import is_first
    from offramp.training.state import read_history
    from offramp.training.train import train as step

    with showing_progress() as progress:
        step(
            data,
            out,
            weights=weights,
            start=start,
            training=spec,
            resume=resume,
            progress=progress,
            said=progress.line,
            **choice.model_dump(),
        )
    if not is_first():
        return
    last = read_history(out)[-1]
    figures = _figures(last, out)
    miou = {name.removeprefix("miou:"): value for name, value in figures.items() if name.startswith("miou:")}

    def people() -> None:
        on_train = [figures.get(f"train_miou:{name}") for name in miou]
        rows = [
            [name, f"{value:.3f}", "" if train is None else f"{train:.3f}"]
            for (name, value), train in zip(miou.items(), on_train, strict=True)
        ]
        print_table(f"{out}: mIoU after the last epoch", ["exit", "val", "training images"], rows)

    show(as_json, {"run": str(out), "miou": miou}, people)


def _figures(row: dict[str, str], run: Path) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in row.items() if "miou:" in name and value}
    except ValueError as error:
        raise InputError(f"damaged history of {run}, history.csv: {error}; train again") from error


def _range(text: str) -> tuple[float, float]:
    """Read `0.7,1.8`."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--zoom: not a range: {text!r}; write the smallest and the largest scale, for example 0.7,1.8"
        ) from error
    return low, high


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
