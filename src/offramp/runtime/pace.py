"""Will the next exit be there in time? By recent times on this device, which drift with heat and load."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from statistics import median

RECENT = 400
"""Times that are remembered of each step."""
PACE = 9
"""Times of the first exit whose median is the machine's pace."""
REFUSALS = 20
"""So often a step is refused before its worst time is believed less."""
DECAY = 0.8


class Pace:
    """Recent times of steps, relative to the pace of the machine when they were taken.

    The pace is the median of the first exit's last times: that exit always runs, so a step that has not run for a while is
    known to be slower or faster now as the first exit is. Steps are refused if they would be late too often. Of those that are
    refused again and again the worst time is lowered now and then, until they are tried: otherwise they could never show that
    they have become faster.
    """

    def __init__(self, risk: float) -> None:
        """Begin with nothing known.

        Args:
            risk: the probability of being late that is taken.

        """
        self.risk = risk
        self._first: deque[float] = deque(maxlen=PACE)
        self._pace_ms = 1.0
        self._relative: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._refused: dict[str, int] = defaultdict(int)

    def note_first(self, latency_ms: float) -> None:
        """Note what the first exit took."""
        self._first.append(latency_ms)
        self._pace_ms = median(self._first)

    def note(self, step: str, latency_ms: float) -> None:
        """Note what another step took."""
        self._relative[step].append(latency_ms / self._pace_ms)

    def knows(self, step: str) -> bool:
        """Whether any time of a step is known."""
        return step in self._relative

    def late(self, steps: Sequence[str], left_ms: float) -> float:
        """The probability that steps, one after another, take longer than so many ms; all must be known.

        A disturbance is long and seldom, so what is late is so by one step alone ("a single big jump": Foss, Korshunov,
        Zachary, An Introduction to Heavy-Tailed and Subexponential Distributions, 2011): it is the sum, over the steps, of the
        share of a step's times that are over what the others' medians leave.
        """
        times = [self._relative[step] for step in steps]
        typical = [median(each) for each in times]
        left = left_ms / self._pace_ms - sum(typical)
        over = (sum(time > left + usual for time in each) / len(each) for each, usual in zip(times, typical, strict=True))
        return min(1.0, sum(over))

    def in_time(self, steps: Sequence[str], left_ms: float) -> bool:
        """Whether steps, one after another, may be begun with so many ms left."""
        if self.late(steps, left_ms) <= self.risk:
            self._refused[steps[0]] = 0
            return True
        self._refused[steps[0]] += 1
        if self._refused[steps[0]] % REFUSALS == 0:
            for times in (self._relative[step] for step in steps):
                times[times.index(max(times))] *= DECAY
        return False
