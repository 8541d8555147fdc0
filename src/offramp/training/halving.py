"""Successive halving over heads (Jamieson and Talwalkar, AISTATS 2016): train all briefly, keep the better half, go on.

Which heads go on is a pure function of what was measured on `val`, so a run that is resumed, or repeated, chooses the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Candidate:
    """A head at a tap, and what is known of it."""

    exit: str
    tap: str
    macs: int
    miou: float


def rung_ends(epochs: int, halvings: int) -> tuple[int, ...]:
    """After which epochs heads are dropped. Each rung is twice as long as the one before, as half as many heads are left."""
    rungs = 2 ** (halvings + 1) - 1
    ends: list[int] = []
    for rung in range(1, halvings + 1):
        earliest = ends[-1] + 1 if ends else 1
        ends.append(min(max(earliest, round(epochs * (2**rung - 1) / rungs)), epochs - (halvings - rung) - 1))
    return tuple(ends)


def survivors(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The better half of every tap's heads, rounded up, in the order in which they came.

    A head is dropped first if another at its tap has as much mIoU for no more macs: the worst such goes first. Of heads among
    which more mIoU costs more macs, the most accurate one stays and, while there are two, the cheapest; of those between, the
    one goes that gains least over the next cheaper one.
    """
    kept: set[str] = set()
    for tap in dict.fromkeys(candidate.tap for candidate in candidates):
        group = [candidate for candidate in candidates if candidate.tap == tap]
        half = -(-len(group) // 2)
        while len(group) > half:
            group.remove(_weakest(group))
        kept |= {candidate.exit for candidate in group}
    return tuple(candidate.exit for candidate in candidates if candidate.exit in kept)


def _weakest(group: Sequence[Candidate]) -> Candidate:
    """The head that a tap can best do without."""
    ranked = sorted(group, key=lambda candidate: (candidate.macs, -candidate.miou))
    beaten, front = [], ranked[:1]
    for candidate in ranked[1:]:
        if candidate.miou <= front[-1].miou:
            beaten.append(candidate)
        else:
            front.append(candidate)
    if beaten:
        return min(beaten, key=lambda candidate: candidate.miou)
    between = front[1:-1]
    if not between:
        return front[0]
    gains = [dearer.miou - cheaper.miou for cheaper, dearer in pairwise(front[:-1])]
    return between[gains.index(min(gains))]


@dataclass(frozen=True)
class Halving:
    """When and among which heads phase 2 chooses."""

    taps: Mapping[str, str]
    """Exit -> tap, all early exits in order of depth."""
    macs: Mapping[str, int]
    """Of every early exit's head."""
    ends: tuple[int, ...]
    """Epochs of phase 2 after which heads are dropped."""

    def rungs(self, measured: Mapping[int, Mapping[str, float]]) -> list[tuple[int, list[Candidate], tuple[str, ...]]]:
        """The choices so far: epoch, who was there, who stayed.

        Args:
            measured: epoch of phase 2 -> mIoU on `val` of every exit that was there.

        """
        there, found = tuple(self.taps), []
        for end in self.ends:
            if end not in measured:
                break
            candidates = [Candidate(name, self.taps[name], self.macs[name], measured[end][name]) for name in there]
            there = survivors(candidates)
            found.append((end, candidates, there))
        return found
