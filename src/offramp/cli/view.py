"""The verb view: a page that shows a package at work."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.options import ComputesIn, Engine, Json, Threads, say, show


def view(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A package.")],
    source: Annotated[
        Path | None, typer.Argument(metavar="IMAGES|VIDEO", help="An image, a folder of images, a video; or drop images later.")
    ] = None,
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    engine: Engine = "onnxruntime",
    threads: Threads = 0,
    precision: ComputesIn = "fp32",
    as_json: Json = False,
) -> None:
    """Show a package at work, on a page that only this machine can open. Ctrl-C ends it.

    Example: offramp view package scenes/test/images
    """
    from offramp.runtime.predictor import Predictor
    from offramp.viewing.server import Viewer
    from offramp.viewing.session import Session

    predictor = Predictor(package, engine=engine, threads=threads, precision=precision, every_exit=True)
    with Viewer(Session(predictor, source), port) as viewer:
        asked = f"open {viewer.address} in a browser of this machine; Ctrl-C ends it"
        show(as_json, {"address": viewer.address}, lambda: say(asked))
        sys.stdout.flush()  # whoever reads the address from a pipe must not wait for the end
        if open_page:
            webbrowser.open(viewer.address)
        try:
            viewer.serve_forever()
        except KeyboardInterrupt:
            show(as_json, {"ended": True}, lambda: say("ended"))
