"""The verbs of `offramp data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import Json, say, show
from offramp.console import print_table, showing_progress
from offramp.data.check import Findings
from offramp.specs import parse_size


def draw(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The dataset to make.")],
    images: Annotated[int, typer.Option(help="How many, over all three splits.", min=1)] = 240,
    size: Annotated[str, typer.Option(help="Width and height.", metavar="WxH")] = "192x128",
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Draw street scenes with exact labels, easy and hard ones.

    Example: offramp data draw scenes --images 240 --size 192x128
    """
    from offramp.data.synthetic import draw_dataset

    width, height = parse_size(size)
    with showing_progress() as progress:
        draw_dataset(folder, images=images, size=(width, height), seed=seed, progress=progress)
    values = {"data": str(folder), "images": images, "size": [width, height], "seed": seed}
    show(as_json, values, lambda: say(f"{images} scenes of {width}x{height} in {folder}"))


def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset.")],
    as_json: Json = False,
) -> None:
    """List what is wrong with a dataset, and how often each class occurs. Exit code 1 if anything is wrong.

    Example: offramp data check scenes
    """
    from offramp.data.check import check as step

    with showing_progress() as progress:
        findings = step(data, progress=progress)
    show(as_json, findings.to_json(), lambda: _print_findings(findings))
    if not findings.ok:
        raise typer.Exit(1)


def _print_findings(findings: Findings) -> None:
    splits = list(findings.splits)
    counts = [(*split.class_pixels, split.void_pixels) for split in splits]
    rows = [
        [name, *(f"{pixels[index]:,} ({pixels[index] / max(sum(pixels), 1):.2%})" for pixels in counts)]
        for index, name in enumerate((*findings.classes.names, "void"))
    ]
    print_table("pixels of each class", ["class", *(f"{split.name} ({split.images} images)" for split in splits)], rows)
    for finding in findings.findings:
        say(f"{finding.split}: {finding.kind}: {finding.file}: {finding.detail}")
    say("nothing wrong" if findings.ok else f"{len(findings.findings)} findings")
