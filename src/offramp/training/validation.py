"""Every exit's mIoU on `val`, and on some of the training images beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from offramp.data.folder import Split
from offramp.errors import InputError
from offramp.metrics import count_pixels, miou
from offramp.models.feature_maps import upsample
from offramp.models.finite import are_finite, find_culprit
from offramp.models.multi_exit import MultiExitNetwork
from offramp.training.distributed import World
from offramp.training.loop import SLOWER

MIOU, TRAIN_MIOU = "miou:", "train_miou:"
"""What the columns of mIoU on `val` and on training images begin with."""


def validator(
    network: MultiExitNetwork, val: Split, train: Split | None = None, *, train_images: int = 0, world: World | None = None
) -> Callable[[Sequence[str]], dict[str, float]]:
    """A function that measures exits on whole images, at the labels' resolution, each from one confusion matrix.

    Args:
        network: is put into evaluation mode.
        val: the split whose figures are called `miou:EXIT`.
        train: evenly spaced images of it give `train_miou:EXIT`.
        train_images: how many of them.
        world: each process measures its share.

    """
    alone = world or World(device=next(network.parameters()).device)
    beside: list[int] = []
    if train is not None and train_images:
        beside = np.unique(np.linspace(0, len(train) - 1, min(train_images, len(train))).round().astype(int)).tolist()

    def measure(exits: Sequence[str]) -> dict[str, float]:
        found = {f"{MIOU}{name}": value for name, value in mious(network, val, range(len(val)), exits, alone).items()}
        if train is not None and beside:
            found |= {f"{TRAIN_MIOU}{name}": value for name, value in mious(network, train, beside, exits, alone).items()}
        return found

    return measure


def mious(
    network: MultiExitNetwork, split: Split, images: Sequence[int], exits: Sequence[str], world: World
) -> dict[str, float]:
    """MIoU of `exits` on some images of a split.

    Raises:
        InputError: class scores are not finite: arg-max would take them for class 0.

    """
    network.eval()
    classes = len(split.classes.names)
    counts = np.zeros((len(exits), 3, classes), np.int64)
    with torch.no_grad():
        for index in world.share(images):
            pixels, labels = split.pair(index)
            image = torch.from_numpy(pixels).to(world.device).permute(2, 0, 1)[None].float()
            answers = network(image.contiguous(memory_format=torch.channels_last), exits)
            broken = [name for name, scores in answers.items() if not are_finite(scores)]
            if broken:
                where = f"{split.root}/{split.name}, image {split.samples[index].name}"
                culprit = find_culprit(network, partial(network, image, exits))
                raise InputError(f"the exit {broken[0]} gives class scores that are not finite on {where}: {culprit}; {SLOWER}")
            for place, name in enumerate(exits):
                counts[place] += np.stack(count_pixels(_answer(network, answers[name], labels), labels, classes))
    total = world.sum(torch.from_numpy(counts)).cpu().numpy()
    return {name: round(float(miou(*total[place])), 5) for place, name in enumerate(exits)}


def _answer(network: MultiExitNetwork, scores: torch.Tensor, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The label map (H, W) of class scores (1, C, h, w)."""
    full = upsample(scores, network.stride(scores, labels.shape[0]), *labels.shape)
    answer: npt.NDArray[np.uint8] = full.max(dim=1).indices[0].to(torch.uint8).cpu().numpy()
    return answer
