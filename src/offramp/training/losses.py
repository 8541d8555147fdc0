"""Losses between an exit's class scores and the labels, or the final exit's scores."""

from __future__ import annotations

import torch
from torch.nn import functional

from offramp.metrics import VOID
from offramp.models.feature_maps import stride_of, upsample

STRIDE = 2
"""The loss is taken at every second pixel of every second row: a quarter of the work, on labels that are really there."""


def compared(scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring class scores (N, C, h, w) and labels (N, H, W) to one resolution: (N, C, H / STRIDE, W / STRIDE) and the like."""
    thin = labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    stride = stride_of(scores.shape[2], labels.shape[1])
    return upsample(scores, stride / STRIDE, *thin.shape[1:]), thin


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Class-weighted cross-entropy, void left out; the mean over the weights of the pixels that count, 0 if none does.

    Args:
        scores: class scores at the labels' resolution, (N, C, h, w).
        labels: (N, h, w), VOID for void.
        weights: of the classes, (C,).

    """
    total = functional.cross_entropy(scores, labels, weight=weights, ignore_index=VOID, reduction="sum")
    known = labels[labels != VOID]
    return total / weights[known].sum().clamp_min(1e-6)


def positive_filtering(
    scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, truth_weight: float
) -> torch.Tensor:
    """Positive filtering distillation (MESS, ECCV 2022, equation 2).

    `a * [argmax teacher = t] * CE(scores, t) + (1 - a) * KL(teacher || scores)`: the labels teach only where the final exit
    is right; void pixels teach nothing.

    Args:
        scores: an early exit's class scores, (N, C, h, w).
        teacher: the final exit's, of the same shape, without gradient.
        labels: (N, h, w).
        weights: of the classes, (C,).
        truth_weight: `a`.

    """
    right = teacher.max(dim=1).indices == labels
    from_labels = cross_entropy(scores, labels.masked_fill(~right, VOID), weights)
    divergence = functional.kl_div(
        functional.log_softmax(scores, dim=1), functional.log_softmax(teacher, dim=1), reduction="none", log_target=True
    ).sum(dim=1)
    known = labels != VOID
    from_teacher = divergence[known].sum() / known.sum().clamp_min(1)
    return truth_weight * from_labels + (1 - truth_weight) * from_teacher


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
