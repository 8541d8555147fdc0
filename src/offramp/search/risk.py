"""Risk control: image thresholds under which the loss from leaving early stays below a bound, by calibration images.

The loss of an image is the share of its pixels whose answer differs from the final exit's: from 0 to 1, and 0 where it goes to
the end. Thresholds are tried in a fixed order from the safest, at which nobody leaves, to the least safe. (After Jazbec et
al., Fast yet Safe: Early-Exiting with Risk Control, NeurIPS 2024.)

What is promised holds for images drawn independently like the calibration images. Frames of one video are not independent: they
tell less than their number says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, exp, fsum, log

import numpy as np

from offramp.search.space import Floats

LEVELS = 50
"""Thresholds that are tried, from the highest score to those that the search chose."""
ABOVE = 20
"""Those that are tried before, from 1 to the highest score."""

ASSUMPTION = "images are drawn independently, like the calibration images; frames of one video are not"


def p_value(loss: float, images: int, bound: float) -> float:
    """How probable a mean loss this low is if the true one is above the bound: Hoeffding and Bentkus, the smaller.

    `min(exp(-n * kl(min(loss, bound), bound)), e * P(Binomial(n, bound) <= ceil(n * loss)))`, valid for independent losses in
    [0, 1] (Bates et al., Distribution-Free, Risk-Controlling Prediction Sets, 2021, section 3.1.1).

    Args:
        loss: mean over the calibration images.
        images: their number.
        bound: on the expected loss.

    """
    if loss >= bound:
        return 1.0
    divergence = (loss * log(loss / bound) if loss > 0 else 0.0) + (1 - loss) * log((1 - loss) / (1 - bound))
    # A mean of n losses times n may miss the whole number that it is by rounding.
    at_most = int(np.ceil(images * loss - 1e-9))
    below = fsum(_binomial(images, number, bound) for number in range(at_most + 1))
    return min(1.0, exp(-images * divergence), exp(1) * below)


def _binomial(trials: int, hits: int, rate: float) -> float:
    return exp(log(comb(trials, hits)) + hits * log(rate) + (trials - hits) * log(1 - rate))


def least_bound(images: int, confidence: float | None) -> float:
    """The smallest bound that so many images can certify, with no loss on any of them.

    Args:
        images: n.
        confidence: of learn-then-test: `1 - (1 - confidence)^(1/n)`; None: of conformal risk control, `1 / (n + 1)`.

    """
    return 1 / (images + 1) if confidence is None else 1 - (1 - confidence) ** (1 / images)


def learn_then_test(losses: Floats, bound: float, confidence: float) -> int | None:
    """The last level that is certified before the first that is not: fixed-sequence testing.

    With probability `confidence` over calibration sets the expected loss there is at most the bound (Angelopoulos et al., Learn
    then Test, 2021, section 3.2): the order is fixed before the images are seen, so no level is paid for twice.

    Args:
        losses: (N, levels), from the safest level to the least safe.
        bound: on the expected loss.
        confidence: the probability.

    Returns:
        The level, or None where not even the safest is certified.

    """
    passed = [p_value(float(loss), len(losses), bound) <= 1 - confidence for loss in losses.mean(axis=0)]
    return _last_before_failure(passed)


def conformal_risk_control(losses: Floats, bound: float) -> int | None:
    """The last level at which `(n * mean loss + 1) / (n + 1)` is at most the bound.

    The expected loss of a further image is then at most the bound, on average over calibration sets (Angelopoulos et al.,
    Conformal Risk Control, ICLR 2024, theorem 1). That needs losses which never fall from a level to a less safe one, so each
    image is taken at the highest loss so far.

    Args and result as in `learn_then_test`.
    """
    images = len(losses)
    rising = np.maximum.accumulate(losses, axis=1)
    passed = (rising.sum(axis=0) + 1) / (images + 1) <= bound
    return _last_before_failure(passed.tolist())


def _last_before_failure(passed: Sequence[bool]) -> int | None:
    level = next((place for place, good in enumerate(passed) if not good), len(passed)) - 1
    return level if level >= 0 else None


def levels_of(scores: Floats, chosen: Sequence[float], levels: int = LEVELS, above: int = ABOVE) -> Floats:
    """Image thresholds to try, (1 + above + levels, early exits), from infinity to the chosen ones.

    First they fall from 1 to the highest score, in case the calibration images score higher. Then an exit's threshold is passed
    by a growing share of the images that pass the chosen one. They are found on images that the calibration does not use.

    Args:
        scores: of the images the deployment was chosen by, (N, early exits).
        chosen: the deployment's image thresholds.
        levels: how many steps from the highest score to the chosen threshold.
        above: how many before.

    """
    table = np.full((1 + above + levels, len(chosen)), np.inf)
    for place, threshold in enumerate(chosen):
        passing = np.sort(scores[scores[:, place] >= threshold, place])[::-1]
        highest = passing[0] if len(passing) else threshold
        table[1 : 1 + above, place] = np.linspace(1.0, highest, above, endpoint=False)
        ranks = np.rint(len(passing) * np.arange(1, levels + 1) / levels).astype(int)
        table[1 + above :, place] = passing[np.maximum(ranks, 1) - 1] if len(passing) else threshold
    table[-1] = chosen
    return table


def losses_of(scores: Floats, loss_at: Floats, thresholds: Floats) -> Floats:
    """What each image loses at each level, (N, levels).

    Args:
        scores: at the early exits, (N, early exits).
        loss_at: of leaving at each exit, the last one too, (N, early exits + 1).
        thresholds: (levels, early exits).

    """
    clears = scores[:, None] >= thresholds
    last = np.ones((*clears.shape[:2], 1), dtype=bool)
    leaves = np.concatenate([clears, last], axis=2).argmax(axis=2)
    return np.asarray(np.take_along_axis(loss_at, leaves, axis=1))
