"""The verb export: from a run to a package, to another precision, to one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.cli.options import Json, need, say, show
from offramp.console import print_table, showing_progress
from offramp.errors import InputError
from offramp.specs import LabelStride, StoredPrecision, parse_size

if TYPE_CHECKING:
    from offramp.artifacts import Lowering, Manifest
    from offramp.progress import Progress

CALIBRATION_IMAGES, MAX_DROP_PP = 32, 0.5
"""Those of `lowering`, which only who lowers loads."""

LABEL_STRIDES: dict[str, LabelStride] = {"1/1": 1, "1/2": 2, "1/4": 4, "1/8": 8}


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|PACKAGE", help="A finished run; with --precision or --single-file also a package."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="PACKAGE", help="The package to make.")] = None,
    precision: Annotated[
        StoredPrecision, typer.Option(help="int8: layers and weights, measured; bf16, fp16: weights of half the bytes.")
    ] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="For another precision: train finds int8's ranges, val shows what exits lose."),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Of train, by which int8's ranges are found.", min=1)
    ] = CALIBRATION_IMAGES,
    max_drop_pp: Annotated[
        float, typer.Option(help="Points of mIoU that no exit may lose to int8; layers stay in float for it.", min=0, max=100)
    ] = MAX_DROP_PP,
    spare: Annotated[
        list[str] | None, typer.Option(metavar="EXIT", help="An exit that --max-drop-pp holds for; repeatable; all by default.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Resolution of label maps: 1/1, 1/2, 1/4 or 1/8 of the image's.")] = "1/1",
    group: Annotated[
        list[str] | None, typer.Option(metavar="CLASS+CLASS=NAME", help="Classes that need not be told apart; repeatable.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the images it will take; the training images' by default.")] = None,
    network: Annotated[
        str | None, typer.Option(help="file.py:function, if the run's network is of your own code: it runs only if you say so.")
    ] = None,
    single_file: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="One graph to make of a package, which leaves early by itself.")
    ] = None,
    feed_thresholds: Annotated[
        bool, typer.Option("--feed-thresholds", help="Leave thresholds out of the single file: they are fed with every image.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a run into a package: one ONNX graph for each stage and each head. It needs no torch.

    With --precision int8 every exit's mIoU is measured before and after, and layers that cost too much stay in float. A package
    of fp32 can be lowered, too. Or a package, searched and trimmed, becomes one ONNX file that leaves early by itself, for any
    language with an ONNX Runtime.

    Example: offramp export run --out package

    Example: offramp export package --precision int8 --data scenes --out package8

    Example: offramp export run --labels 1/4 --group road+pavement=ground --out coarse

    Example: offramp export small --single-file net.onnx
    """
    options: dict[str, Any] = {
        "size": parse_size(size) if size else None,
        "network": network,
        "label_stride": _label_stride(labels),
        "groups": tuple(group or ()),
    }
    of_int8 = {"--calibration-images": calibration_images != CALIBRATION_IMAGES, "--max-drop-pp": max_drop_pp != MAX_DROP_PP}
    _require_together(out, single_file, feed_thresholds, precision, data, options, {**of_int8, "--spare": spare is not None})
    need("onnx", extra="train")
    if single_file is not None:
        _export_single_file(source, single_file, feed_thresholds, as_json)
        return
    assert out is not None
    with showing_progress() as progress:
        if data is None:
            manifest = _package(source, out, options, progress)
        else:
            limits = {"images": calibration_images, "max_drop_pp": max_drop_pp, "exits": spare}
            manifest = _lower(source, out, precision, data, options, limits, progress)
    values: dict[str, Any] = {"package": str(out), "package_id": manifest.package_id, "exits": list(manifest.exits)}
    if manifest.lowering is not None:
        values |= {"precision": manifest.precision, "lowering": manifest.lowering.model_dump(mode="json")}

    def people() -> None:
        _show_package(out, manifest)
        if manifest.lowering is not None:
            _show_lowering(manifest.lowering)

    show(as_json, values, people)


OF_RUN: dict[str, Any] = {"size": None, "network": None, "label_stride": 1, "groups": ()}
"""What only a run can be asked for, unasked: a package has it already."""


def _label_stride(text: str) -> LabelStride:
    if text not in LABEL_STRIDES:
        raise InputError(f"--labels: {text!r} is not to be had; there are {', '.join(LABEL_STRIDES)}")
    return LABEL_STRIDES[text]


def _require_together(
    out: Path | None,
    single_file: Path | None,
    feed_thresholds: bool,
    precision: StoredPrecision,
    data: Path | None,
    options: dict[str, Any],
    of_int8: dict[str, bool],
) -> None:
    if (out is None) == (single_file is None):
        raise InputError("export needs one of both: --out PACKAGE, or --single-file FILE.onnx for a package")
    if single_file is not None and (options != OF_RUN or precision != "fp32"):
        raise InputError(
            "--size, --network, --labels, --group and --precision go with --out: a single file is made of a package, which has "
            "them already"
        )
    if single_file is None and feed_thresholds:
        raise InputError("--feed-thresholds goes with --single-file")
    if (precision == "fp32") != (data is None):
        raise InputError("--precision int8, bf16 or fp16 needs --data, and --data goes with them: what exits lose is measured")
    given = [option for option, asked in of_int8.items() if asked]
    if precision != "int8" and given:
        raise InputError(f"{given[0]} goes with --precision int8, which looks for layers that cost too much")


def _package(run: Path, out: Path, options: dict[str, Any], progress: Progress) -> Manifest:
    need("torch", "timm", "onnxscript", extra="train")
    from offramp.export.package import export as step

    return step(run, out, **options, progress=progress)


def _lower(
    source: Path,
    out: Path,
    precision: StoredPrecision,
    data: Path,
    options: dict[str, Any],
    limits: dict[str, Any],
    progress: Progress,
) -> Manifest:
    """A package in another precision, from one of fp32 or from a run."""
    from offramp.artifacts import MANIFEST
    from offramp.files import check_replaceable, scratch_folder
    from offramp.lowering import lower

    if (source / MANIFEST).exists():
        if options != OF_RUN:
            raise InputError(f"{source} is a package: it has size, label maps and classes already; export its run for others")
        return lower(source, out, precision, data, **limits, progress=progress)
    check_replaceable(out, marker=MANIFEST)
    with scratch_folder(out) as folder:
        package = folder / "package"
        _package(source, package, options, progress)
        return lower(package, out, precision, data, **limits, progress=progress)


def _show_package(out: Path, manifest: Manifest) -> None:
    rows = [
        [
            head.exit,
            str(head.stage),
            f"{sum(s.macs for s in manifest.stages[: head.stage + 1]) / 1e6:.1f}",
            f"{head.macs / 1e6:.1f}",
            f"{head.parameter_bytes / 1e3:.1f}",
            "whole image" if head.whole_image else str(head.receptive_field or ""),
        ]
        for head in manifest.heads
    ]
    title = f"{out}: {manifest.size[0]}x{manifest.size[1]}, {len(manifest.stages)} stages, {manifest.precision}"
    columns = ["exit", "after stage", "million macs of its stages", "of its head", "kB of its head", "it sees, pixels"]
    print_table(title, columns, rows)


def _show_lowering(lowering: Lowering) -> None:
    before, after = lowering.miou_before, lowering.miou_after
    rows = [
        [name, f"{before[name]:.4f}", f"{after[name]:.4f}", f"{100 * (after[name] - before[name]):+.2f}"] for name in before
    ]
    print_table(f"mIoU on {lowering.images} images of val", ["exit", "fp32", "now", "points"], rows)
    kept = lowering.float_layers
    if lowering.layers:
        say(f"{len(kept)} of {lowering.layers} layers stay in float" + (", as int8 costs too much there:" if kept else ""))
    for layer in kept:
        say(f"  {layer.file}, {layer.layer}: alone in int8 it changes {layer.damage:.2%} of {layer.exit}'s pixels")


def _export_single_file(package: Path, out: Path, feed_thresholds: bool, as_json: bool) -> None:
    need("onnx", extra="train")
    from offramp.export.self_exiting import describe, write_self_exiting

    values = {"file": str(out), **describe(write_self_exiting(package, out, feed_thresholds=feed_thresholds))}

    def people() -> None:
        thresholds = [*map(str, values["image_thresholds"]), ""]
        rows = [[str(number), name, thresholds[number]] for number, name in enumerate(values["exits"])]
        print_table(f"{out}: {values['bytes'] / 1e6:.1f} MB", ["exit", "name", "threshold"], rows)
        for kind in ("inputs", "outputs"):
            said = (f"{value['name']} {value['type']} {tuple(value['shape'])}" for value in values[kind])
            say(f"{kind}: {', '.join(said)}")
        if values["image_thresholds"]:
            say(
                "thresholds: to be fed with every image"
                if feed_thresholds
                else "thresholds: those above, unless others are fed"
            )

    show(as_json, values, people)
