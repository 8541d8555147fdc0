"""What will the next exit take? From recent times on this device, which drift with heat and load."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from statistics import median

RECENT = 100
"""Times that are remembered of each step."""
PACE = 9
"""Times of the first exit whose median is the machine's pace."""
REFUSALS = 20
"""So often a step is refused before its worst time is believed less."""
DECAY = 0.8


class Pace:
    """Recent times of steps, relative to the pace of the machine when they were taken.

    The pace is the median of the first exit's last times: that exit always runs, so a step that has not run for a while is
    known to be slower or faster now as the first exit is. A step is refused if it would end too late by a quantile of these
    times. Of one that is refused again and again the worst time is lowered now and then, until it is tried: otherwise it could
    never show that it has become faster.
    """

    def __init__(self, quantile: float) -> None:
        """Begin with nothing known.

        Args:
            quantile: of the times of a step, 0 to 1.

        """
        self.quantile = quantile
        self._first: deque[float] = deque(maxlen=PACE)
        self._pace_ms = 1.0
        self._relative: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._refused: dict[str, int] = defaultdict(int)

    def keep(self, first_ms: float) -> None:
        """Note what the first exit took."""
        self._first.append(first_ms)
        self._pace_ms = median(self._first)

    def note(self, step: str, latency_ms: float) -> None:
        """Note what another step took."""
        self._relative[step].append(latency_ms / self._pace_ms)

    def knows(self, step: str) -> bool:
        """Whether any time of a step is known."""
        return step in self._relative

    def expected_ms(self, step: str) -> float:
        """What a step takes at most, by the quantile: of n times the ceil(quantile * n)-th; 0 if it never ran."""
        times = sorted(self._relative[step])
        return times[math.ceil(self.quantile * len(times)) - 1] * self._pace_ms if times else 0.0

    def fits(self, steps: tuple[str, ...], left_ms: float) -> bool:
        """Whether these steps, one after another, should end within so many ms."""
        if sum(map(self.expected_ms, steps)) <= left_ms:
            self._refused[steps[0]] = 0
            return True
        self._refused[steps[0]] += 1
        if self._refused[steps[0]] % REFUSALS == 0:
            for times in (self._relative[step] for step in steps):
                if times:
                    times[times.index(max(times))] *= DECAY
        return False
