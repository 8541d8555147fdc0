"""What a candidate must beat to be worth a closer look: the best mIoU known at each latency, as steps."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from offramp.search.estimate import Batch
from offramp.search.space import Floats

Goal = Literal["least-latency", "most-miou", "front"]

STEPS = 8192


class Staircase:
    """The best and the second best mIoU known at no more than each of many latencies; the second has other exits.

    A candidate below the second best can be neither the winner nor its runner-up, one below the best is not on the front. Equal
    ones are not excluded, so what is found does not depend on the order.
    """

    def __init__(
        self,
        low_ms: float,
        high_ms: float,
        *,
        images: int,
        classes: int,
        miou_off: float,
        latency_off: float,
        goal: Goal = "front",
        min_miou: float = 0.0,
        max_latency_ms: float = np.inf,
    ) -> None:
        """Begin with nothing known.

        Args:
            low_ms: no candidate is faster.
            high_ms: none is slower.
            images: N, which latencies are added up over.
            classes: that occur, which IoUs are added up over.
            miou_off: how far off the mIoU of sums may be.
            latency_off: how far off sums of latencies may be, in ms.
            goal: with `front`, what one candidate beats is excluded, else what two of different exits beat; with
                `least-latency`, what is slower than two that meet the limits; with `most-miou`, what is less accurate than two.
            min_miou: less is excluded.
            max_latency_ms: more is excluded.

        """
        self.low, self.goal, self.min_miou, self.max_latency_ms = low_ms, goal, min_miou, max_latency_ms
        self.width = max(high_ms - low_ms, 1e-9) / STEPS
        self.miou_off, self.classes = miou_off, classes
        self.best = np.full(STEPS + 1, -np.inf)
        self.second = np.full(STEPS + 1, -np.inf)
        self.holder = np.full(STEPS + 1, -1)
        """Whose the best is: a number for each set of exits."""
        self.numbers: dict[tuple[int, ...], int] = {}
        # Sums of latencies are off as well: steps are taken a little too early, which excludes less.
        self.scale = np.float32(1 / (self.width * images))
        self.offset = np.float32(-low_ms / self.width - latency_off / (self.width * images))
        self._publish()

    def _publish(self) -> None:
        """Compute the table that `not_excluded` reads."""
        bar = np.maximum(self.best if self.goal == "front" else self.second, self.min_miou)
        edges = self.low + self.width * np.arange(STEPS + 1)
        ceiling = self.max_latency_ms
        if self.goal == "least-latency":
            # The least latency at which two are known that reach the least mIoU.
            reached = np.flatnonzero(self.second >= self.min_miou)
            ceiling = min(ceiling, float(edges[reached[0]]) if len(reached) else np.inf)
        elif self.goal == "most-miou":
            within = self.second[edges <= ceiling] if np.isfinite(ceiling) else self.second
            bar = np.maximum(bar, within[-1] if len(within) else -np.inf)
        table = (bar - self.miou_off) * self.classes
        table[edges > ceiling] = np.inf
        self.bar = bar
        self.ceiling = ceiling
        self.table = table.astype(np.float32)

    def not_excluded(self, ious: npt.NDArray[np.float32], latencies: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which candidates may be worth a closer look, from their sums of IoUs over classes and of latencies over images."""
        place = (latencies * self.scale + self.offset).astype(np.int32)
        return np.asarray(ious >= self.table.take(place, mode="clip"))

    def offer(self, found: Batch) -> Batch:
        """Let exactly estimated candidates raise the steps; those that are not excluded."""
        order = np.lexsort((found.latency_ms, -found.miou))
        kept = []
        for index in order.tolist():
            latency, miou = float(found.latency_ms[index]), float(found.miou[index])
            place = int(np.floor((latency - self.low) / self.width))
            if miou < self.bar[max(place, 0)] or latency > self.ceiling:
                continue
            kept.append(index)
            self._raise(latency, miou, tuple(found.exits[index].tolist()))
        if kept:
            self._publish()
        return found[np.array(kept, np.int64)]

    def _raise(self, latency: float, miou: float, exits: tuple[int, ...]) -> None:
        start = min(max(int(np.ceil((latency - self.low) / self.width - 1e-9)), 0), STEPS)
        best, second, holder = self.best[start:], self.second[start:], self.holder[start:]
        number = self.numbers.setdefault(exits, len(self.numbers))
        better, others = miou > best, holder != number
        falls = better & others
        second[falls] = best[falls]
        behind = ~better & others
        second[behind] = np.maximum(second[behind], miou)
        best[better] = miou
        holder[better] = number


def non_dominated(latency_ms: Floats, miou: Floats) -> npt.NDArray[np.int64]:
    """Indices of the points that no other beats in one of the two without losing in the other, by rising latency.

    Of equal points the first is kept.
    """
    order = np.lexsort((-miou, latency_ms))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], miou[order][:-1]]))
    return order[miou[order] > best_before]
