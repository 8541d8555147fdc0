"""Exits on networks that were not written for them: attach, save, load, export, cut, and compare with PyTorch.

    python benchmarks/contract.py [--size 480x360] [--exits 3] [--only NAME ...]
    python benchmarks/contract.py --markdown docs/contract.json

Every network gets every kind of head at every tap. The table shows the taps, how many tensors each stage takes and gives (skip
connections cross them), the largest difference of any exit's class scores from PyTorch's over PyTorch's largest score, beside
it what float32 itself costs (PyTorch's own difference from its float64), and the seconds that the export took. The last line is
the raw numbers as JSON; `--markdown` measures nothing and prints the table of such a file, as it stands in docs/contract.md.
`tests/models/test_contract.py` runs the same on small images and tests more.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offramp.artifacts import Manifest, device_name
from offramp.console import print_table
from offramp.export.graph import IMAGE
from offramp.export.package import export
from offramp.models.attach import build_network, plan_network
from offramp.models.checkpoint import WEIGHTS, NetworkFile, load_network, original_network, save_weights
from offramp.models.multi_exit import MultiExitNetwork
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import EngineName, NetworkChoice, Size, parse_size

OWN = str(Path(__file__).parents[1] / "examples" / "own_network.py") + ":network"

NETWORKS: dict[str, str] = {
    "dilated-mobilenetv2": "CNN, atrous; backbone",
    "efficient-mobilenetv3": "CNN, LR-ASPP final head; backbone",
    "timm:efficientnet_b0": "CNN; backbone",
    "timm:convnext_atto": "CNN, rounds feature maps down; backbone",
    "timm:mobilevit_xxs": "CNN and transformer; backbone",
    "torchvision:fcn_resnet50": "CNN, atrous",
    "torchvision:lraspp_mobilenet_v3_large": "CNN, two feature maps",
    "torchvision:deeplabv3_mobilenet_v3_large": "atrous pyramid",
    "torchvision:swin_t": "transformer, channels last; backbone",
    "smp:Unet/resnet18": "U-shaped, with skips",
    "smp:FPN/mobilenet_v2": "feature pyramid",
    "smp:DeepLabV3Plus/tu-mobilenetv2_100": "atrous pyramid, with a skip",
    "smp:Linknet/resnet18": "U-shaped, skips added",
    "transformers:SegformerForSemanticSegmentation": "transformer, tokens",
    "transformers:MobileViTForSemanticSegmentation": "CNN and transformer",
    OWN: "a user's own, U-shaped",
}
"""Source -> what it is like. A network more costs a line."""

COLUMNS = (
    "network",
    "taps",
    "padded to",
    "stages: tensors in > out",
    "error, onnxruntime",
    "error, openvino",
    "of float32",
    "export, s",
)

HEADS = ("fcn", "deeplab/r4", "lraspp/c32", "skip/c32/r2/b1/d")
"""Every kind, and every option once."""

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
CLASSES = 11


@dataclass(frozen=True)
class Examined:
    """A row of the table."""

    network: str
    like: str
    taps: tuple[str, ...]
    multiple: int
    """To which images are padded."""
    crossing: tuple[tuple[int, int], ...]
    """Tensors in and out of each stage."""
    relative_error: dict[EngineName, float]
    """By engine."""
    rounding: float
    """PyTorch's float32 against its float64, measured likewise."""
    attach_s: float
    export_s: float
    macs: int


def main() -> None:
    """Examine every network, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(480, 360))
    parser.add_argument("--exits", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="print the table of these raw numbers instead")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text(encoding="utf-8"))["rows"]))
        return
    rows = []
    for network in NETWORKS:
        if network in options.only:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(examine(network, Path(folder), options.size, options.exits))
            print(json.dumps(asdict(rows[-1])), flush=True)
    show(rows)
    machine = {"device": device_name(), "size": options.size, "heads": HEADS}
    print(json.dumps({"benchmark": "contract", **machine, "rows": [asdict(row) for row in rows]}))


def examine(network: str, folder: Path, size: Size, exits: int) -> Examined:
    """Go the whole way with one network."""
    started = time.perf_counter()
    choice = NetworkChoice(network=network, exits=exits, heads=HEADS)
    make_run(choice, folder / "run", size)
    attached = time.perf_counter()
    manifest = export(folder / "run", folder / "package", network=named(network))
    exported = time.perf_counter()
    multi, _ = load_network(folder / "run", network=named(network))
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    errors = {engine: max(relative_errors(folder / "package", multi, image, engine).values()) for engine in ENGINES}
    return Examined(
        network=short(network),
        like=NETWORKS[network],
        taps=tuple(dict.fromkeys(head.tap for head in manifest.heads))[:-1],
        multiple=multi.spec.multiple,
        crossing=crossing(manifest),
        relative_error=errors,
        rounding=max(rounding(multi, image).values()),
        attach_s=round(attached - started, 1),
        export_s=round(exported - attached, 1),
        macs=sum(stage.macs for stage in manifest.stages),
    )


def named(network: str) -> str | None:
    """What must be said again when a run is loaded: where the code is the user's own."""
    return network if network == OWN else None


def short(network: str) -> str:
    """Without the folder."""
    return "examples/own_network.py:network" if network == OWN else network


def make_package(place: Path, exits: int = 6) -> Path:
    """A package with random weights: time and memory do not depend on them. MobileNetV2, output stride 16, 480x360."""
    make_run(NetworkChoice(exits=exits), place / "run", (480, 360))
    export(place / "run", place / "package")
    return place / "package"


def make_run(
    choice: NetworkChoice, folder: Path, size: Size, classes: int = CLASSES, kept: Sequence[int] | None = None
) -> MultiExitNetwork:
    """Attach exits and save the result as if it had been trained; weights are random, batch-norm statistics fit them.

    Args:
        choice: network, taps, heads.
        folder: the run to make.
        size: of the images, width and height.
        classes: their number.
        kept: positions of the exits that are wanted of all that the choice means; None for all.

    """
    torch.manual_seed(0)
    spec = plan_network(choice, classes, size=size)
    if kept is not None:
        spec = spec.model_copy(update={"exits": tuple(spec.exits[index] for index in kept)})
    network = build_network(spec, network=original_network(spec, named(choice.network), folder)).eval()
    settle(network, size)
    folder.mkdir()
    NetworkFile(
        network=spec,
        classes=tuple(f"class {index}" for index in range(classes)),
        palette=tuple((index, 0, 0) for index in range(classes)),
        object_classes=(1,),
        size=size,
        data_fingerprint="",
    ).save(folder)
    save_weights(network, folder / WEIGHTS)
    return network


def settle(network: MultiExitNetwork, size: Size) -> None:
    """Give every batch-norm the statistics of noise: with those it starts from, some networks' features fade to nothing."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # a plain average
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(255 * torch.rand(4, 3, min(size[1], 128), min(size[0], 128)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def crossing(manifest: Manifest) -> tuple[tuple[int, int], ...]:
    """How many tensors each stage takes and gives."""
    return tuple((len(stage.inputs), len(stage.outputs)) for stage in manifest.stages)


def relative_errors(
    package: Path, network: MultiExitNetwork, image: npt.NDArray[np.uint8], engine: EngineName
) -> dict[str, float]:
    """Of every exit: the largest difference of its class scores from PyTorch's, over PyTorch's largest score."""
    with torch.no_grad():
        wanted = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    staged = StagedNetwork(package, open_engine(engine, 1))
    # Class scores stay inside the engine; they are read from the graphs' outputs here.
    tensors = {IMAGE: staged.engine.tensor(image[None].copy())}
    for entry in staged.manifest.stages:
        tensors |= staged.engine.load(package / entry.file, entry)(tensors)
    errors: dict[str, float] = {}
    for head in staged.manifest.heads:
        outputs = staged.engine.load(package / head.file, head)(tensors)
        got, scores = staged.engine.array(outputs[head.outputs[0]]), wanted[head.exit].numpy()
        assert got.shape == scores.shape
        errors[head.exit] = float(np.abs(got - scores).max() / np.abs(scores).max())
    return errors


def rounding(network: MultiExitNetwork, image: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Of every exit: the largest difference of PyTorch's float32 class scores from its float64 ones, over the largest score."""
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        single, double = network(images.float()), copy.deepcopy(network).double()(images.double())
    return {name: float((single[name] - exact).abs().max() / exact.abs().max()) for name, exact in double.items()}


def show(rows: list[Examined]) -> None:
    """A table for people."""
    print_table(f"{len(rows)} networks, {len(HEADS)} heads at every tap", COLUMNS, [cells(asdict(row)) for row in rows])


def markdown(rows: list[dict[str, Any]]) -> str:
    """The same table for a page: one line for each network, in the raw numbers' order."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table from the fields of `Examined`, measured now or read from a file."""
    return [
        row["network"],
        " ".join(row["taps"]),
        str(row["multiple"]),
        " ".join(f"{inputs}>{outputs}" for inputs, outputs in row["crossing"]),
        *(f"{row['relative_error'][engine]:.0e}" for engine in ENGINES),
        f"{row['rounding']:.0e}",
        f"{row['export_s']:.1f}",
    ]


if __name__ == "__main__":
    main()
