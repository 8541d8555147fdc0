"""From a confidence map to one number: the share of sure pixels, or, to compare with, the mean confidence.

The graphs count, for every region and every pixel threshold on a fixed grid, the pixels whose confidence reaches the
threshold. Evaluation stores these counts and the runtime reads the same ones, so search and device cannot disagree.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GRID = 32

PIXEL_THRESHOLDS: tuple[float, ...] = tuple(float(np.float32(1 - (1 - index / GRID) ** 2)) for index in range(GRID))
"""The pixel thresholds that can be chosen: denser towards 1, where trained networks put most pixels. The first is 0: all."""

MEAN = 0
"""Instead of a pixel threshold: the region's mean confidence. A share of pixels that reach 0 would say nothing."""

STEPS = np.rint(np.diff(PIXEL_THRESHOLDS) * GRID**2).astype(np.int64)
"""What lies between neighbouring pixel thresholds, in units of 1 / GRID^2: whole numbers."""


def image_score(sure: npt.NDArray[np.integer], region: int, threshold: int) -> npt.NDArray[np.float64]:
    """The score an exit is judged by: the share of a region's pixels that are sure, or their mean confidence.

    The mean is that of confidences rounded down to the grid, which is what counts can tell:
    `sum over i of (threshold i - threshold i-1) * share that reaches i`. Sums are of whole numbers, the same on every machine.

    Args:
        sure: counts of pixels, (..., regions, GRID).
        region: index into `specs.REGIONS`.
        threshold: index into `PIXEL_THRESHOLDS`, or `MEAN`.

    Returns:
        Scores in [0, 1], shape (...). A region without pixels (no object in sight) holds nothing unsure: its score is 1.

    """
    counts = sure[..., region, :].astype(np.int64)
    total = counts[..., 0].astype(np.float64)
    reached = counts[..., 1:] @ STEPS / GRID**2 if threshold == MEAN else counts[..., threshold]
    return np.where(total > 0, reached / np.maximum(total, 1.0), 1.0)
