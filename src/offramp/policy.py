"""From a confidence map to one number: the share of sure pixels.

The graphs count, for every region and every pixel threshold on a fixed grid, the pixels whose confidence reaches the
threshold. Evaluation stores these counts and the runtime reads the same ones, so search and device cannot disagree.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GRID = 32

PIXEL_THRESHOLDS: tuple[float, ...] = tuple(float(np.float32(1 - (1 - index / GRID) ** 2)) for index in range(GRID))
"""The pixel thresholds that can be chosen: denser towards 1, where trained networks put most pixels. The first is 0: all."""


def image_score(sure: npt.NDArray[np.integer], region: int, threshold: int) -> npt.NDArray[np.float64]:
    """The score an exit is judged by: the share of a region's pixels that are sure.

    Args:
        sure: counts of pixels, (..., regions, GRID).
        region: index into `specs.REGIONS`.
        threshold: index into `PIXEL_THRESHOLDS`.

    Returns:
        Scores in [0, 1], shape (...). A region without pixels (no object in sight) holds nothing unsure: its score is 1.

    """
    total = sure[..., region, 0].astype(np.float64)
    return np.where(total > 0, sure[..., region, threshold] / np.maximum(total, 1.0), 1.0)
