"""Where the time of training goes, against a straightforward loop.

    python benchmarks/training.py DATA [--weights mobilenetv2_100.safetensors] [--rounds 12] [--threads 2]

Four loops take a batch each in turn, round after round, on crops of 320x320:
- `straightforward`: decode the files, resize the whole picture by Pillow, crop, flip, jitter by torchvision, take the losses of
  the final exit and one early exit on scores upsampled to full resolution; PyTorch's own memory layout;
- `the same, channels last`: in the layout that Offramp trains in;
- `phase 1`: the same losses by Offramp, from its cache of decoded images (that is, from the second epoch on);
- `phase 2`: all heads of a wide choice (four kinds at six points) taught at once, the rest frozen.
Figures are milliseconds an image, medians over the rounds; the ratio is that of the totals within a round.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from offramp import torchvision_import  # noqa: F401 - torchvision may need help to import
from offramp.artifacts import device_name
from offramp.console import print_table
from offramp.data.folder import Split, open_split
from offramp.data.transforms import Crops
from offramp.metrics import VOID
from offramp.models.attach import build_network, plan_network
from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import FINAL, NetworkChoice, TrainingSpec
from offramp.training.loop import Batch, Phase
from offramp.training.memory import peak_memory_mb
from offramp.training.phases import Scene, phases_of

from torchvision import tv_tensors  # isort: skip
from torchvision.transforms import v2  # isort: skip

PARTS = ("load", "augment", "forward", "loss", "backward", "step")
TAPS = ("blocks.2.2", "blocks.3.1", "blocks.3.3", "blocks.4.2", "blocks.5.1", "blocks.5.2")
HEADS = ("fcn", "deeplab/r4", "lraspp", "skip")


@dataclass
class Clock:
    """Seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def running(self, part: str, *, less: str | None = None) -> Iterator[None]:
        """Add the time of a block to `part`; what was meanwhile added to `less` is not counted twice."""
        began, other = time.perf_counter(), self.seconds[less] if less else 0.0
        yield
        self.seconds[part] += time.perf_counter() - began - ((self.seconds[less] - other) if less else 0.0)

    def timed(self, part: str, function: Callable[..., object]) -> Callable[..., object]:
        """The function, its time added to `part`."""

        def timed(*arguments: object) -> object:
            with self.running(part):
                return function(*arguments)

        return timed


class Straightforward:
    """What most training scripts do."""

    def __init__(
        self,
        split: Split,
        network: MultiExitNetwork,
        batch_size: int,
        crop: int,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.split, self.network, self.batch_size, self.crop, self.layout = split, network, batch_size, crop, layout
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6)
        self.random = np.random.default_rng(0)
        self.jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05)
        self.cut = v2.Compose(
            [
                v2.RandomCrop(
                    (crop, crop), pad_if_needed=True, fill={tv_tensors.Image: 114, tv_tensors.Mask: VOID, "others": 0}
                ),
                v2.RandomHorizontalFlip(),
            ]
        )
        self.steps = 0

    def step(self) -> Clock:
        """One batch."""
        clock, images, labels = Clock(), [], []
        for index in self.random.integers(0, len(self.split), self.batch_size):
            sample = self.split.samples[index]
            with clock.running("load"):
                picture, mask = Image.open(sample.image).convert("RGB"), Image.open(sample.label)
                mask.load()
            with clock.running("augment"):
                zoom = float(np.exp(self.random.uniform(np.log(0.7), np.log(1.8))))
                size = (round(picture.width * zoom), round(picture.height * zoom))
                large = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()
                truth = np.asarray(mask.resize(size, Image.Resampling.NEAREST)).copy()
                truth[truth >= self.network.spec.num_classes] = VOID
                image, label = self.cut(tv_tensors.Image(large), tv_tensors.Mask(truth))
                images.append(torch.Tensor(self.jitter(image).float()))
                labels.append(label.as_subclass(torch.Tensor).long())
        batch, truth_batch = torch.stack(images).contiguous(memory_format=self.layout), torch.stack(labels)
        early = self.network.spec.exit_names[self.steps % len(self.network.spec.exits)]
        self.steps += 1
        self.network.train()
        with clock.running("forward"):
            answers = self.network(batch, [early, FINAL])
        with clock.running("loss"):
            losses = [
                functional.cross_entropy(
                    functional.interpolate(scores, size=(self.crop, self.crop), mode="bilinear"), truth_batch, ignore_index=VOID
                )
                for scores in answers.values()
            ]
            loss = torch.stack(losses).sum()
        finish(clock, loss, self.optimiser)
        return clock


class OfframpPhase:
    """A phase of Offramp's, step by step."""

    def __init__(self, crops: Crops, network: MultiExitNetwork, phase: Phase, batch_size: int) -> None:
        self.crops, self.network, self.phase, self.batch_size = crops, network, phase, batch_size
        self.optimiser = torch.optim.AdamW(phase.groups)
        for group in self.optimiser.param_groups:
            group["lr"] = 1e-6
        self.random = np.random.default_rng(0)
        self.steps = 0

    def step(self) -> Clock:
        """One batch."""
        clock = Clock()
        self.crops.epoch = self.steps
        self.phase.prepare([])
        with clock.running("augment"):
            crops = [self.crops[int(index)] for index in self.random.integers(0, len(self.crops), self.batch_size)]
            images = torch.stack([image for image, _ in crops]).contiguous(memory_format=torch.channels_last)
            batch: Batch = images, torch.stack([label for _, label in crops])
        features, answer = self.network.features, self.network.answer
        self.network.features = clock.timed("forward", features)  # type: ignore[method-assign, assignment]
        self.network.answer = clock.timed("forward", answer)  # type: ignore[method-assign, assignment]
        try:
            with clock.running("loss", less="forward"):
                loss = self.phase.loss(batch, self.steps)
        finally:
            self.network.features, self.network.answer = features, answer  # type: ignore[method-assign]
        self.steps += 1
        finish(clock, loss, self.optimiser)
        return clock


def finish(clock: Clock, loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Backward pass and step."""
    optimiser.zero_grad(set_to_none=True)
    with clock.running("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with clock.running("step"):
        optimiser.step()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    split = open_split(options.data, "train")
    classes, size, crop = len(split.classes.names), (480, 360), 320

    def network(heads: tuple[str, ...], layout: torch.memory_format = torch.channels_last) -> MultiExitNetwork:
        spec = plan_network(NetworkChoice(network="mobilenetv2_100", taps=TAPS, heads=heads), classes, size=size)
        built: MultiExitNetwork = build_network(spec, options.weights).to(memory_format=layout)  # type: ignore[call-overload]
        return built

    def phase(index: int, heads: tuple[str, ...]) -> OfframpPhase:
        built = network(heads)
        found = phases_of(Scene(built, TrainingSpec(), torch.ones(classes)), pretrained=True)[index]
        return OfframpPhase(crops, built, found, options.batch_size)

    crops = Crops(split, crop, crop, (0.7, 1.8), 0)
    for index in range(len(crops)):
        crops[index]  # decoded and kept, as after a first epoch
    loops: dict[str, Straightforward | OfframpPhase] = {
        "straightforward": Straightforward(split, network(("fcn",), torch.contiguous_format), options.batch_size, crop),
        "the same, channels last": Straightforward(
            split, network(("fcn",)), options.batch_size, crop, layout=torch.channels_last
        ),
        "phase 1": phase(0, ("fcn",)),
        f"phase 2, {len(TAPS) * len(HEADS)} heads": phase(1, HEADS),
    }
    clocks: dict[str, list[Clock]] = {name: [] for name in loops}
    for turn in range(options.rounds + 2):
        for name, loop in loops.items():
            clock = loop.step()
            if turn >= 2:  # the first two warm up
                clocks[name].append(clock)
    report(clocks, options)


def report(clocks: dict[str, list[Clock]], options: argparse.Namespace) -> None:
    """Print the table, and one JSON line."""
    batch = options.batch_size
    totals = {name: [1000 * sum(one.seconds.values()) / batch for one in found] for name, found in clocks.items()}
    straight, straight_last, first, second = totals.values()
    names = list(totals)
    values = {
        "benchmark": "training",
        "device": device_name(),
        "threads": options.threads,
        "batch_size": batch,
        "heads": list(HEADS),
        "taps": list(TAPS),
        "ms_per_image": {
            name: {part: [round(1000 * one.seconds[part] / batch, 3) for one in found] for part in PARTS}
            for name, found in clocks.items()
        },
        "phase_1_to_straightforward": float(np.median(np.array(first) / np.array(straight))),
        "phase_1_to_straightforward_channels_last": float(np.median(np.array(first) / np.array(straight_last))),
        "phase_2_to_phase_1": float(np.median(np.array(second) / np.array(first))),
        "peak_memory_mb_of_all": peak_memory_mb(torch.device("cpu")),
    }
    rows = [
        [
            name,
            *(f"{1000 * np.median([one.seconds[part] for one in found]) / batch:.1f}" for part in PARTS),
            f"{np.median(totals[name]):.1f}",
        ]
        for name, found in clocks.items()
    ]
    print_table(f"milliseconds an image, {options.threads} threads, batches of {batch}", ["loop", *PARTS, "all"], rows)
    print(f"phase 1 / straightforward: {values['phase_1_to_straightforward']:.2f}")
    print(f"phase 1 / straightforward, channels last: {values['phase_1_to_straightforward_channels_last']:.2f}")
    print(f"{names[3]} / phase 1: {values['phase_2_to_phase_1']:.2f}")
    print(json.dumps(values))


if __name__ == "__main__":
    main()
