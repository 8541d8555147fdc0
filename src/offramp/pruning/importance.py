"""How much the network's answers need each channel, from the gradients of a few images; no labels are needed.

Removing a channel is setting all weights that read it to 0. To first order that changes a loss by the sum of weight times
gradient over these weights (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, with a gate behind
every channel). The loss is the cross-entropy of each exit's answer against classes that are drawn from that very answer: the
mean of the square is then Fisher's information, the second-order divergence of the answers. With the true labels, which a
trained network nearly all answers, there would be little gradient left, least of all at the final exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from offramp.data.transforms import Crops
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.narrowing import axes_of
from offramp.models.observe import left_as_it_was
from offramp.progress import Progress, silent
from offramp.pruning.coupling import Channels

BATCHES, BATCH_SIZE = 16, 4


def sample_batches(crops: Crops, seed: int) -> list[torch.Tensor]:
    """A few batches of images (N, 3, h, w), drawn by the seed."""
    order = np.random.default_rng([seed, len(crops)]).permutation(len(crops)).tolist()[: BATCHES * BATCH_SIZE]
    images = [crops[index][0] for index in order]
    return [torch.stack(images[begin : begin + BATCH_SIZE]) for begin in range(0, len(images), BATCH_SIZE)]


def importance(
    network: MultiExitNetwork,
    parts: Sequence[Channels],
    batches: Sequence[torch.Tensor],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[torch.Tensor]:
    """A score for each channel of each part; 0 changes nothing.

    Args:
        network: on the device where it is to compute; its weights have gradients.
        parts: the channels.
        batches: RGB images (N, 3, h, w) with values in [0, 255].
        seed: of the classes that are drawn.
        progress: told of each batch.

    """
    scores = [torch.zeros(len(part), dtype=torch.float64) for part in parts]
    readers = {name: network.get_submodule(name) for part in parts for name, side in part.places if side == "in"}
    device = next(network.parameters()).device
    dice = torch.Generator().manual_seed(seed)
    with left_as_it_was(network), torch.enable_grad():
        for number, images in enumerate(batches, 1):
            network.zero_grad(set_to_none=True)
            _surprise(network(images.to(device)).values(), dice).backward()  # type: ignore[no-untyped-call]
            change = {name: _change(layer) for name, layer in readers.items()}
            for score, part in zip(scores, parts, strict=True):
                reads = [change[name][places] for (name, side), places in part.places.items() if side == "in"]
                score.add_(torch.stack([read.sum(1) for read in reads]).sum(0).square())
            progress("judging channels", number, len(batches))
    network.zero_grad(set_to_none=True)
    return scores


def _surprise(answers: Iterable[torch.Tensor], dice: torch.Generator) -> torch.Tensor:
    """Cross-entropy of class scores (N, C, h, w) against drawn classes; every exit counts alike, whatever its resolution."""
    losses = []
    for scores in answers:
        log_p = functional.log_softmax(scores.float(), dim=1).movedim(1, -1).flatten(0, -2)
        # The largest of scores with Gumbel's noise is a draw from their softmax.
        noise = torch.rand(log_p.shape, generator=dice).clamp_min(1e-12).log().neg().log().neg()
        drawn = (log_p.detach() + noise.to(log_p.device)).argmax(1)
        losses.append(functional.nll_loss(log_p, drawn, reduction="sum") / len(log_p) ** 0.5)
    return torch.stack(losses).sum()


def _change(layer: nn.Module) -> torch.Tensor:
    """Weight times gradient, summed for every channel in; float64, on the CPU."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    axis = axes_of(layer)["weight"][0]
    if weight.grad is None:
        return torch.zeros(weight.shape[axis or 0], dtype=torch.float64)
    product = (weight.detach() * weight.grad).double()
    return product.sum([other for other in range(weight.dim()) if other != axis]).cpu()
