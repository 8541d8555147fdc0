"""Losses between an exit's class scores and the labels, or the final exit's scores.

Every loss is a sum over pixels divided by a normaliser. With several processes the normaliser must be that of the whole batch,
or its mean over the processes, which average their gradients: `Mean` does that, and the loss is the same as in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from offramp.metrics import VOID
from offramp.models.feature_maps import stride_of, upsample
from offramp.specs import Distillation, Filtered

Mean = Callable[[torch.Tensor], torch.Tensor]
"""The mean of a number over all processes; in one process the number itself."""


def alone(value: torch.Tensor) -> torch.Tensor:
    """The mean over one process."""
    return value


def thinned(labels: torch.Tensor, stride: int) -> torch.Tensor:
    """Every `stride`-th pixel of every `stride`-th row, (N, H, W) to (N, H / stride, W / stride): labels that are there."""
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]


def compared(scores: torch.Tensor, height: int, stride: int, cells: tuple[int, int]) -> torch.Tensor:
    """Bring class scores (N, C, h, w) of images with this height to the grid of `thinned`, which has `cells`."""
    return upsample(scores.float(), stride_of(scores.shape[2], height) / stride, *cells)


def cross_entropy(
    scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, hard_share: float = 1.0, mean: Mean = alone
) -> torch.Tensor:
    """Class-weighted cross-entropy, void left out; the mean over the weights of the pixels that count, 0 if none does.

    Args:
        scores: class scores at the labels' resolution, (N, C, h, w).
        labels: (N, h, w), VOID for void.
        weights: of the classes, (C,).
        hard_share: only this share of the labelled pixels counts, those with the largest unweighted loss (online hard-example
            mining, Shrivastava et al., CVPR 2016, for pixels).
        mean: see the module's header.

    """
    if hard_share < 1:
        labels = _hardest(scores, labels, hard_share)
    total = functional.cross_entropy(scores, labels, weight=weights, ignore_index=VOID, reduction="sum")
    return total / mean(_weight(labels, weights)).clamp_min(1e-6)


def _hardest(scores: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
    """The labels with all but the hardest pixels made void."""
    with torch.no_grad():
        losses = functional.cross_entropy(scores, labels, ignore_index=VOID, reduction="none")
        known = labels != VOID
        count = int(known.sum())
        if not count:
            return labels
        wanted = max(1, round(share * count))
        bar = losses[known].topk(wanted).values[-1]
        return labels.masked_fill(losses < bar, VOID)


def _weight(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of the weights of the labelled pixels."""
    by_value = functional.pad(weights, (0, VOID + 1 - len(weights)))
    return by_value[labels].sum()  # counting first would make a GPU wait


@dataclass(frozen=True)
class Lesson:
    """What a batch teaches every early head, made once for all of them.

    The labels' and the teacher's terms are both cross-entropies with soft targets: KL(p || q) is that of p and q less the
    entropy of p, which no head can change. So they add up to one target for each temperature, and a head's loss is one pass
    over it.
    """

    targets: dict[float, torch.Tensor]
    """Temperature -> (N, C, h, w), weights and normalisers included."""
    entropy: torch.Tensor
    """What is taken off, so that the teacher's term is its divergence."""

    def loss(self, scores: torch.Tensor) -> torch.Tensor:
        """Of a head's class scores, (N, C, h, w)."""
        terms = [
            functional.cross_entropy(scores if heat == 1 else scores / heat, target, reduction="sum")
            for heat, target in self.targets.items()
        ]
        return torch.stack(terms).sum() - self.entropy


def lesson(
    labels: torch.Tensor,
    weights: torch.Tensor,
    teacher: torch.Tensor | None = None,
    *,
    distillation: Distillation = "positive",
    filtered: Filtered = "labels",
    truth_weight: float = 0.5,
    temperature: float = 1.0,
    mean: Mean = alone,
) -> Lesson:
    """What the labels and the final exit teach the early heads (MESS, ECCV 2022, equation 2).

    `a * [argmax teacher = t] * CE(scores, t) + (1 - a) * T^2 * KL(teacher || scores)`, each term a mean over the pixels that
    count in it, the first weighted by class; void pixels teach nothing. T^2 keeps the size of the gradients (Hinton et al.,
    Distilling the Knowledge in a Neural Network, 2015).

    Args:
        labels: (N, h, w), VOID for void.
        weights: of the classes, (C,).
        teacher: the final exit's class scores, (N, C, h, w), without gradient; not needed where the labels teach alone.
        distillation: `none` is the labels' term alone, `plain` both terms over all labelled pixels.
        filtered: which term of `positive` counts only where the teacher is right: labels, teacher or both.
        truth_weight: `a`.
        temperature: T.
        mean: see the module's header.

    """
    known = labels != VOID
    if distillation == "none" or teacher is None:
        return Lesson({1.0: _from_labels(labels, weights, known, 1.0, mean)}, torch.zeros((), device=labels.device))
    right = (teacher.max(dim=1).indices == labels) & known
    positive = distillation == "positive"
    from_labels = _from_labels(labels, weights, right if positive and filtered != "teacher" else known, truth_weight, mean)
    counted = right if positive and filtered != "labels" else known
    pixels = counted.to(teacher.dtype)
    share = (1 - truth_weight) * temperature**2 * pixels / mean(pixels.sum()).clamp_min(1)
    log_p = functional.log_softmax(teacher / temperature, dim=1)
    from_teacher = log_p.exp() * share[:, None]
    entropy = -(from_teacher * log_p).sum()
    if temperature == 1:
        return Lesson({1.0: from_labels + from_teacher}, entropy)
    return Lesson({1.0: from_labels, temperature: from_teacher}, entropy)


def _from_labels(labels: torch.Tensor, weights: torch.Tensor, counted: torch.Tensor, share: float, mean: Mean) -> torch.Tensor:
    """Soft targets (N, C, h, w) that make the class-weighted cross-entropy of the pixels that count, times `share`."""
    kept = labels.masked_fill(~counted, VOID)
    scale = share * weights / mean(_weight(kept, weights)).clamp_min(1e-6)
    classes = torch.arange(len(weights), device=labels.device).reshape(1, -1, 1, 1)
    return (kept[:, None] == classes) * scale.reshape(1, -1, 1, 1)


def class_weights(pixels: torch.Tensor) -> torch.Tensor:
    """Weights (C,) that lift rare classes: 1 / log(1.1 + share), scaled to a mean of 1 over classes that occur.

    The bounded inverse-log weighting of ENet (Paszke et al., 2016) with its constant 1.02 raised to 1.1, which bounds the ratio
    between the rarest class and the most frequent one at about 8 instead of 35.

    Args:
        pixels: labelled pixels of each class, (C,).

    """
    share = pixels.double() / pixels.sum().clamp_min(1)
    raw = 1.0 / torch.log(1.1 + share)
    occurs = pixels > 0
    return torch.where(occurs, raw / raw[occurs].mean(), torch.ones_like(raw)).float()
