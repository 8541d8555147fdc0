"""The candidates that no other beats, and the one of them that meets the limits best.

All limits are on latency and mIoU, so whatever they are, the answer stands on the front of the two; an impossible limit is
refused with the nearest one that can be met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from offramp.errors import InputError
from offramp.search.space import Candidate, Floats
from offramp.specs import SearchSpec


@dataclass(frozen=True)
class Limits:
    """The limits of a search, the accuracy ones as one mIoU; None means not asked for."""

    max_latency_ms: float | None
    min_miou: float | None
    """The stricter of the two ways to ask for accuracy."""
    accuracy: str
    """How that was asked: `min-miou 0.6`."""

    @classmethod
    def of(cls, spec: SearchSpec, final_miou: float) -> Limits:
        """Put `max_drop_pp` and `min_miou` into one."""
        asked = []
        if spec.min_miou is not None:
            asked.append((spec.min_miou, f"min-miou {spec.min_miou:g}"))
        if spec.max_drop_pp is not None:
            least = final_miou - spec.max_drop_pp / 100
            asked.append((least, f"max-drop-pp {spec.max_drop_pp:g} (mIoU {least:.3f})"))
        strictest = max(asked, default=(None, ""), key=lambda limit: limit[0] or 0.0)
        return cls(spec.max_latency_ms, *strictest)

    def met_by(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps every limit."""
        return self.fast_enough(candidate) and self.accurate_enough(candidate)

    def fast_enough(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps the limit on latency."""
        return self.max_latency_ms is None or candidate.latency_ms <= self.max_latency_ms

    def accurate_enough(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps the limits on mIoU."""
        return self.min_miou is None or candidate.miou >= self.min_miou


def non_dominated(latency_ms: Floats, miou: Floats) -> npt.NDArray[np.int64]:
    """Indices of the points that no other beats in one of the two without losing in the other, by rising latency.

    Of equal points the first is kept.
    """
    order = np.lexsort((-miou, latency_ms))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], miou[order][:-1]]))
    return order[miou[order] > best_before]


def front_of(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates that none beats, by rising latency and mIoU. Of equal ones that with the fewest exits, then the first."""
    ordered = sorted(candidates, key=lambda candidate: len(candidate.exits))
    points = np.array([(candidate.latency_ms, candidate.miou) for candidate in ordered])
    return tuple(ordered[index] for index in non_dominated(points[:, 0], points[:, 1]))


def choose(front: Sequence[Candidate], limits: Limits) -> Candidate:
    """Take the fastest candidate that meets the limits; without one on accuracy, the most accurate.

    Args:
        front: of `front_of`.
        limits: to be met.

    Raises:
        InputError: nothing meets them.

    """
    meeting = [candidate for candidate in front if limits.met_by(candidate)]
    if not meeting:
        raise InputError(_refusal(front, limits))
    return meeting[-1 if limits.min_miou is None else 0]


def choose_anytime(candidates: Sequence[Candidate], limits: Limits) -> Candidate:
    """Take the candidate of the best quality that meets the limits.

    Of equal ones that with the best last answer: who has more time than any deadline counted should profit. Then the fewest
    exits, then the fastest.

    Raises:
        InputError: nothing meets them.

    """
    meeting = [candidate for candidate in candidates if limits.met_by(candidate)]
    if not meeting:
        raise InputError(_refusal(front_of(candidates), limits))
    return min(meeting, key=lambda found: (-found.quality, -found.miou, len(found.exits), found.latency_ms))


def _refusal(front: Sequence[Candidate], limits: Limits) -> str:
    """Which limit cannot be met, and the nearest that can: figures are rounded so that asking for them succeeds."""
    fast = [candidate for candidate in front if limits.fast_enough(candidate)]
    accurate = [candidate for candidate in front if limits.accurate_enough(candidate)]
    if not fast:
        fastest = front[0]
        return (
            f"no deployment meets max-latency-ms {limits.max_latency_ms:g}: the fastest takes {_ms(fastest)} ms "
            f"with mIoU {_miou(fastest)}; ask for at least {_ms(fastest)}"
        )
    if not accurate:
        best = front[-1]
        return (
            f"no deployment reaches {limits.accuracy}: the best reaches {_miou(best)} at {_ms(best)} ms; "
            f"ask for at most {_miou(best)}"
        )
    return (
        f"no deployment meets both max-latency-ms {limits.max_latency_ms:g} and {limits.accuracy}: "
        f"the best within the latency reaches mIoU {_miou(fast[-1])}, the fastest with the accuracy takes "
        f"{_ms(accurate[0])} ms; relax one of the two"
    )


def _ms(candidate: Candidate) -> Decimal:
    return Decimal(candidate.latency_ms).quantize(Decimal("0.01"), rounding=ROUND_CEILING)


def _miou(candidate: Candidate) -> Decimal:
    return Decimal(candidate.miou).quantize(Decimal("0.001"), rounding=ROUND_FLOOR)
