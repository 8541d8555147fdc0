"""From class scores to pixel confidence, and from there to counts of sure pixels: everything that an exit policy needs.

These run inside the exported graphs, at head resolution: the same arithmetic at full resolution costs 40 % of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from offramp.policy import PIXEL_THRESHOLDS
from offramp.specs import ConfidenceKind


def pixel_confidence(scores: torch.Tensor, kind: ConfidenceKind) -> torch.Tensor:
    """How sure each pixel is, in [0, 1].

    Args:
        scores: class scores, (N, C, h, w).
        kind: `top1`, the largest probability; `margin`, the largest minus the second; `entropy`, one minus the entropy of the
            probabilities divided by its maximum, log C.

    Returns:
        (N, h, w).

    """
    if kind == "top1":
        # The largest of softmax(scores) without the others: a fifth of the time in the graph.
        return 1.0 / (scores - scores.amax(dim=1, keepdim=True)).exp().sum(dim=1)
    probabilities = functional.softmax(scores, dim=1)
    if kind == "margin":
        best = probabilities.topk(2, dim=1).values
        return best[:, 0] - best[:, 1]
    entropy = -(probabilities * functional.log_softmax(scores, dim=1)).sum(dim=1)
    # Rounding takes the flattest distributions just below 0, and the first pixel threshold, 0, must be reached by all.
    return (1.0 - entropy / math.log(scores.shape[1])).clamp_min(0.0)


def grouped(scores: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Class scores of groups of classes: a group's probability is the sum of its classes'.

    Args:
        scores: (N, C, h, w).
        groups: for each of the C classes the index of its group, 0 to G - 1.

    Returns:
        (N, G, h, w).

    """
    members = [[index for index, group in enumerate(groups) if group == wanted] for wanted in range(max(groups) + 1)]
    return torch.cat([scores[:, of].logsumexp(dim=1, keepdim=True) if len(of) > 1 else scores[:, of] for of in members], dim=1)


def sure_counts(scores: torch.Tensor, confidence: torch.Tensor, object_classes: tuple[int, ...]) -> torch.Tensor:
    """Count the pixels that reach each pixel threshold, over all pixels, off the edges and over objects only.

    Off the edges are the pixels whose eight neighbours are predicted as the same class: the band that this leaves out around a
    predicted border is as wide as the head's stride. Objects are the pixels predicted as one of `object_classes`.

    Args:
        scores: class scores, (1, C, h, w).
        confidence: (1, h, w).
        object_classes: class indices.

    Returns:
        (regions, GRID) int32, regions in the order of `specs.REGIONS`.

    """
    labels = scores.argmax(dim=1, keepdim=True)
    flat = labels.float()
    highest = functional.max_pool2d(flat, 3, stride=1, padding=1)
    lowest = -functional.max_pool2d(-flat, 3, stride=1, padding=1)
    off_edges = (highest == lowest).float().reshape(1, -1)
    is_object = torch.zeros(scores.shape[1], device=scores.device)
    is_object[list(object_classes)] = 1.0
    objects = is_object[labels]
    regions = torch.cat([torch.ones_like(off_edges), off_edges, objects.reshape(1, -1)])  # (regions, pixels)
    thresholds = torch.tensor(PIXEL_THRESHOLDS, device=scores.device).reshape(-1, 1)
    reached = (confidence.reshape(1, -1) >= thresholds).float()  # (GRID, pixels)
    # Counts stay exact in float32 below 2**24 pixels.
    return (regions @ reached.T).to(torch.int32)
