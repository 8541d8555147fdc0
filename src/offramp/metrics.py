"""Intersection over union from three integers a class.

A prediction is counted once per image as correct, predicted and labelled pixels of each class. Counts add up over images, so
the mIoU of any mixture of exits over a split is exact from sums of these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

VOID = 255
"""The label value of pixels that count nowhere, whatever index a dataset's own files use."""


def count_pixels(
    predicted: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], num_classes: int
) -> tuple[Counts, Counts, Counts]:
    """Count correct, predicted and labelled pixels of each class.

    Args:
        predicted: class indices, (H, W).
        labels: true class indices, (H, W); values of `num_classes` and above are void and left out of all three counts.
        num_classes: C.

    Returns:
        Three arrays of shape (C,).

    """
    assert predicted.shape == labels.shape, (predicted.shape, labels.shape)
    known = labels < num_classes
    truth, answer = labels[known], predicted[known]
    return (
        np.bincount(truth[truth == answer], minlength=num_classes).astype(np.int64),
        np.bincount(answer, minlength=num_classes).astype(np.int64)[:num_classes],
        np.bincount(truth, minlength=num_classes).astype(np.int64),
    )


def iou(correct: Counts, predicted: Counts, labelled: Counts) -> npt.NDArray[np.float64]:
    """IoU of each class: correct / (predicted + labelled - correct); NaN for classes that no pixel is labelled with.

    Counts have shape (..., C) and broadcast; so has the result. The formula is that of the PASCAL VOC challenge
    (Everingham et al., IJCV 2010, section 4.2).
    """
    union = predicted + labelled - correct
    occurs = np.broadcast_to(labelled > 0, union.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(occurs, correct / np.maximum(union, 1), np.nan)


def miou(correct: Counts, predicted: Counts, labelled: Counts) -> npt.NDArray[np.float64]:
    """Mean IoU in [0, 1] over the classes that occur in the labels; shape (...). NaN if no class occurs."""
    per_class = iou(correct, predicted, labelled)
    occurs = ~np.isnan(per_class)
    total = np.where(occurs, per_class, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / occurs.sum(axis=-1))
