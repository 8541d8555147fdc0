"""A trained network from elsewhere becomes a multi-exit one: DeepLabV3+ of segmentation-models-pytorch on CamVid.

    python benchmarks/third_party.py train DATA --weights mobilenetv2_100.safetensors --out runs/third
    python benchmarks/third_party.py exits DATA --out runs/third

`train` is what the network's owner did before Offramp was there: a plain PyTorch loop around a plain network, no exits.
`exits` attaches exits to the weights that came out and trains them alone (phase 2); then it goes the whole way and compares the
final exit with the network as it was. Both go on where they stopped if the command is given again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from offramp.console import showing_progress
from offramp.data.folder import Split, open_split
from offramp.data.transforms import Crops
from offramp.demo import whole_way
from offramp.files import new_file
from offramp.metrics import VOID, count_pixels, miou
from offramp.models.checkpoint import load_network
from offramp.models.sources import build as build_backbone
from offramp.specs import FINAL, TrainingSpec
from offramp.training.train import train as train_exits
from offramp.training.validation import validator

import segmentation_models_pytorch as smp  # isort: skip - torchvision, which it imports, may need help

ENCODER = "mobilenetv2_100"
TRAINED = "deeplabv3plus.safetensors"
TAPS = (*(f"encoder.model.blocks.{block}" for block in ("3.2", "5.1", "6.0")), "decoder.aspp.0", "decoder.aspp.1")
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def build(classes: int, weights: Path | None = None) -> nn.Module:
    """DeepLabV3+ on MobileNetV2 at output stride 16, its encoder from ImageNet weights."""
    network: nn.Module = smp.DeepLabV3Plus(f"tu-{ENCODER}", encoder_weights=None, classes=classes, encoder_output_stride=16)
    if weights:
        pretrained = build_backbone(ENCODER, classes, output_stride=16, weights=weights).network.state_dict()
        network.get_submodule("encoder.model").load_state_dict(pretrained)
    return network


def train(data: Path, weights: Path | None, out: Path, epochs: int, batch_size: int = 8, rate: float = 1e-3) -> None:
    """AdamW, polynomial decay, class-weighted cross-entropy on 320x320 crops; the encoder at half the rate."""
    split, val = open_split(data, "train"), open_split(data, "val")
    classes = len(split.classes.names)
    torch.manual_seed(0)
    network = build(classes, weights)
    counted = [np.bincount(split.labels(index).ravel(), minlength=256)[:classes] for index in range(len(split))]
    pixels = np.sum(counted, axis=0)
    class_weights = (1 / torch.log(1.1 + torch.from_numpy(pixels / pixels.sum()))).float()
    encoder = list(network.get_submodule("encoder").parameters())
    rest = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    optimiser = torch.optim.AdamW([{"params": encoder, "lr": rate / 2}, {"params": rest, "lr": rate}], weight_decay=1e-2)
    crops = Crops(split, 320, 320, (0.7, 1.8), 0)
    steps = epochs * (len(crops) // batch_size)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, power=0.9)
    begun = _load(out / "last.safetensors", network, optimiser)
    for _ in range(begun * (len(crops) // batch_size)):
        schedule.step()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(begun, epochs):
        network.train()
        crops.epoch = epoch
        order = torch.Generator().manual_seed(epoch)
        total = 0.0
        for images, labels in DataLoader(crops, batch_size, shuffle=True, drop_last=True, generator=order):
            scores = network(((images / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(scores, labels, weight=class_weights, ignore_index=VOID)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        last = epoch + 1 == epochs
        measured = f", mIoU on val {measure(network, val):.4f}" if last or epoch % 10 == 9 else ""
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(crops) // batch_size):.4f}{measured}", flush=True)
        _save(out / "last.safetensors", network, optimiser, epoch + 1)
    with new_file(out / TRAINED) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)


def attach(data: Path, out: Path, exit_epochs: int, threads: int) -> None:
    """Attach exits to the trained network, train them alone, and measure; raw numbers go to OUT/third_party.json."""
    run, weights = out / "run", out / TRAINED
    with showing_progress() as progress:
        train_exits(
            data,
            run,
            network=f"smp:DeepLabV3Plus/tu-{ENCODER}",
            output_stride=16,
            taps=TAPS,
            heads=("fcn", "skip"),
            weights=weights,
            training=TrainingSpec(epochs=0, exit_epochs=exit_epochs, validate_every=5),
            resume=True,
            progress=progress,
        )
        result = whole_way(data, run, out, threads=threads, progress=progress)
    result.print()
    before, after = load_file(weights), load_file(run / "weights.safetensors")
    test = open_split(data, "test")
    network = build(len(test.classes.names))
    network.load_state_dict(before)
    final = next(row for row in result.rows if row.name == FINAL)
    compared = {
        "weights unchanged": all(torch.equal(tensor, after[f"backbone.{name}"]) for name, tensor in before.items()),
        "miou on test, alone in PyTorch": round(measure(network, test), 5),
        "miou on test, as final exit in PyTorch": validator(load_network(run)[0], test)([FINAL])[f"miou:{FINAL}"],
        "miou on test, as final exit of the package": round(final.miou, 5),
    }
    for name, value in compared.items():
        print(f"{name}: {value}")
    values = {**json.loads((out / "result.json").read_text(encoding="utf-8")), "final_exit": compared}
    with new_file(out / "third_party.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"benchmark": "third_party", **result.to_json(), "final_exit": compared}))


def _save(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    tensors = {f"network/{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value.contiguous() for name, value in values.items()}
    with new_file(path) as temporary:
        save_file(tensors, temporary, metadata={"epoch": str(epoch)})


def _load(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        epoch = int(file.metadata()["epoch"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    network.load_state_dict({n.removeprefix("network/"): t for n, t in tensors.items() if n.startswith("network/")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return epoch


def measure(network: nn.Module, split: Split) -> float:
    """MIoU on whole images, at the labels' resolution; the images padded to whole strides."""
    network.eval()
    classes = len(split.classes.names)
    counts = np.zeros((3, classes), np.int64)
    with torch.no_grad():
        for index in range(len(split)):
            pixels, labels = split.pair(index)
            image = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - MEAN) / STD
            height, width = labels.shape
            padded = functional.pad(image, (0, -width % 16, 0, -height % 16))
            answer = network(padded)[..., :height, :width].max(dim=1).indices[0].to(torch.uint8).numpy()
            counts += np.stack(count_pixels(answer, labels, classes))
    return float(miou(*counts))


def main() -> None:
    """See the module's header."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "exits"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--exit-epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "train":
        train(options.data, options.weights, options.out, options.epochs)
    else:
        attach(options.data, options.out, options.exit_epochs, options.threads)


if __name__ == "__main__":
    main()
