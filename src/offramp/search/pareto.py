"""The limits of a search: who meets them, who wins under them, and what to say when nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from offramp.errors import InputError
from offramp.search.estimate import FURTHER, Batch, Costs, Evidence, iou_of, mean_cost
from offramp.search.space import Candidate, Floats
from offramp.search.staircase import Goal, non_dominated
from offramp.specs import SearchSpec

P95 = 0.95


@dataclass(frozen=True)
class Limits:
    """The limits of a search, the ones on mIoU as one; infinite where not asked for."""

    spec: SearchSpec
    min_miou: float
    """The stricter of the two ways to ask for it; 0 where it is not asked for."""
    accuracy: str
    """How that was asked: `min-miou 0.6`; empty where it is not asked for."""
    min_iou: tuple[tuple[int, float], ...]
    """Class and least IoU."""

    @classmethod
    def of(cls, spec: SearchSpec, evidence: Evidence) -> Limits:
        """Put `max_drop_pp` and `min_miou` into one, and find the classes.

        Raises:
            InputError: a class that the records do not know or that occurs on none of their images; a limit on what the profile
                does not say.

        """
        asked = []
        if spec.min_miou is not None:
            asked.append((spec.min_miou, f"min-miou {spec.min_miou:g}"))
        if spec.max_drop_pp is not None:
            least = float(evidence.exit_miou()[-1]) - spec.max_drop_pp / 100
            asked.append((least, f"max-drop-pp {spec.max_drop_pp:g} (mIoU {least:.3f})"))
        least, how = max(asked, default=(0.0, ""), key=lambda limit: limit[0])
        for name in spec.min_iou:
            if name not in evidence.classes:
                raise InputError(f"min-iou: there is no class {name!r}; there are {', '.join(evidence.classes)}")
            if not evidence.labelled[:, evidence.classes.index(name)].any():
                raise InputError(f"min-iou: no image of the records shows the class {name!r}, so its IoU is not known")
        for name in FURTHER:
            if getattr(spec, f"max_{name}") is not None and name not in evidence.costs.further:
                raise InputError(
                    f"max-{name.replace('_', '-')}: the profile does not say what steps cost in that; make it again with "
                    f"offramp profile, on a machine that can measure it"
                )
        classes = tuple((evidence.classes.index(name), value) for name, value in spec.min_iou.items())
        return cls(spec, least, how, classes)

    @property
    def max_latency_ms(self) -> float:
        """Infinite where not asked for."""
        return np.inf if self.spec.max_latency_ms is None else self.spec.max_latency_ms

    @property
    def goal(self) -> Goal:
        """With a limit on accuracy the fastest that keeps it wins, else the most accurate."""
        return "least-latency" if self.accuracy else "most-miou"

    def without_accuracy(self) -> Limits:
        """The limits on costs alone."""
        return Limits(self.spec, 0.0, "", ())

    def without_costs(self) -> Limits:
        """The limits on accuracy alone."""
        free = dict.fromkeys(COST_LIMITS)
        return Limits(self.spec.model_copy(update=free), self.min_miou, self.accuracy, self.min_iou)

    def met(self, evidence: Evidence, batch: Batch) -> npt.NDArray[np.bool_]:
        """Which candidates keep every limit, (S,)."""
        kept = (batch.miou >= self.min_miou) & (batch.latency_ms <= self.max_latency_ms)
        if self.min_iou:
            ious = iou_of(batch.pixels, evidence.labelled.sum(axis=0))
            for index, least in self.min_iou:
                kept &= ious[:, index] >= least
        for name, most in self._further():
            # Costs of paths are not computed for those that fail already.
            where = np.flatnonzero(kept)
            if not len(where):
                break
            kept[where] = COST_LIMITS[name](evidence.costs, batch[where]) <= most
        return kept

    def _further(self) -> list[tuple[str, float]]:
        named = [(name, getattr(self.spec, name)) for name in COST_LIMITS if name != "max_latency_ms"]
        return [(name, float(most)) for name, most in named if most is not None]


# -------------------------------------------------------------------------------------------------------- costs of a batch


def _by_set(batch: Batch, cost: Callable[[list[int]], list[float]]) -> Floats:
    """What `cost` says of each candidate's exits, (S, ...), computed once for each set of exits."""
    sets, which = np.unique(batch.exits, axis=0, return_inverse=True)
    return np.array([cost(exits) for exits in sets.tolist()])[which.reshape(-1)]


def _mean_latency(costs: Costs, batch: Batch) -> Floats:
    del costs
    return batch.latency_ms


def _worst_latency(costs: Costs, batch: Batch) -> Floats:
    return _by_set(batch, lambda exits: [costs.path_ms(exits)])[:, 0]


def _mean(name: str) -> Callable[[Costs, Batch], Floats]:
    def cost(costs: Costs, batch: Batch) -> Floats:
        step = costs.further[name]
        return mean_cost(batch.shares, _by_set(batch, lambda exits: [step.path(exits[: at + 1]) for at in range(len(exits))]))

    return cost


def _kept(name: str) -> Callable[[Costs, Batch], Floats]:
    def cost(costs: Costs, batch: Batch) -> Floats:
        return _by_set(batch, lambda exits: [costs.further[name].kept(exits)])[:, 0]

    return cost


def _p95_latency(costs: Costs, batch: Batch) -> Floats:
    """The least time that 95 % of images stay within: over the images and, for each, the passes of the profile."""
    found = np.zeros(len(batch))
    sets, which = np.unique(batch.exits, axis=0, return_inverse=True)
    for number, exits in enumerate(sets.tolist()):
        rows = np.flatnonzero(which.reshape(-1) == number)
        times = np.stack([costs.path_passes(exits[: place + 1]) for place in range(len(exits))])
        order = np.argsort(times, axis=None, kind="stable")
        weights = np.repeat(batch.shares[rows] / times.shape[1], times.shape[1], axis=1)[:, order]
        # A share is a quotient: sums of it may miss 0.95 by rounding.
        reached = np.cumsum(weights, axis=1) >= P95 - 1e-9
        found[rows] = times.reshape(-1)[order][reached.argmax(axis=1)]
    return found


COST_LIMITS: dict[str, Callable[[Costs, Batch], Floats]] = {
    "max_latency_ms": _mean_latency,
    "max_p95_latency_ms": _p95_latency,
    "max_worst_latency_ms": _worst_latency,
    "max_macs": _mean("macs"),
    "max_energy_mj": _mean("energy_mj"),
    "max_parameter_bytes": _kept("parameter_bytes"),
    "max_memory_bytes": _kept("memory_bytes"),
}
"""Limits on costs, and what each bounds."""


# ------------------------------------------------------------------------------------------------------------------ choice


def front_of(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates that none beats, by rising latency and mIoU. Of equal ones that with the fewest exits, then the first."""
    ordered = sorted(candidates, key=_simplest)
    points = np.array([(candidate.latency_ms, candidate.miou) for candidate in ordered]).reshape(-1, 2)
    return tuple(ordered[index] for index in non_dominated(points[:, 0], points[:, 1]))


def choose(meeting: Sequence[Candidate], goal: Goal) -> Candidate:
    """The winner of candidates that meet the limits: the fastest, or the most accurate.

    Of equal ones the better in the other, then that with the fewest exits, then the first in order of names and thresholds.
    """
    if goal == "least-latency":
        return min(meeting, key=lambda one: (one.latency_ms, -one.miou, *_simplest(one)))
    return min(meeting, key=lambda one: (-one.miou, one.latency_ms, *_simplest(one)))


def choose_anytime(meeting: Sequence[Candidate]) -> Candidate:
    """The winner in the anytime mode: of the best quality.

    Of equal ones that with the best last answer: who has more time than any deadline counted should profit. Then the fewest
    exits, then the fastest.
    """
    return min(meeting, key=lambda one: (-round(one.quality, 12), -one.miou, len(one.exits), one.latency_ms))


def _simplest(candidate: Candidate) -> tuple[int, tuple[str, ...], str, int, tuple[float, ...]]:
    return (
        len(candidate.exits),
        candidate.exits,
        candidate.region,
        candidate.pixel_threshold,
        candidate.image_thresholds,
    )


Find = Callable[[Limits, Goal], Candidate | None]
"""The winner under other limits, or None."""


def refusal(evidence: Evidence, limits: Limits, singles: Batch, find: Find) -> InputError:
    """Which limit cannot be met, and the nearest that can: figures are rounded so that asking for them succeeds.

    Args:
        evidence: of the search.
        limits: that nothing meets.
        singles: all exits alone; the cheapest of them is the cheapest of all.
        find: searches again.

    """
    asked = {name: getattr(limits.spec, name) for name in COST_LIMITS if getattr(limits.spec, name) is not None}
    for name, most in asked.items():
        values = COST_LIMITS[name](evidence.costs, singles)
        least = int(values.argmin())
        if values[least] > most:
            nearest = _up(float(values[least]), name)
            return InputError(
                f"no deployment meets {_option(name)} {most:g}: the least is {nearest}, "
                f"with mIoU {_down(float(singles.miou[least]))}; ask for at least {nearest}"
            )
    costs = " and ".join(f"{_option(name)} {most:g}" for name, most in asked.items())
    classes = [f"min-iou {evidence.classes[index]}={least:g}" for index, least in limits.min_iou]
    wanted = " and ".join([limits.accuracy] * bool(limits.accuracy) + classes)
    fastest = find(limits.without_costs(), "least-latency") if wanted else None
    if wanted and fastest is None:
        return _too_accurate(evidence, limits, wanted, singles, find)
    best = find(limits.without_accuracy(), "most-miou")
    if best is None or fastest is None:
        return InputError(f"no deployment meets {costs} together, though each alone can be met; relax one of them")
    return InputError(
        f"no deployment meets both {costs} and {wanted}: the best within the costs reaches mIoU {_down(best.miou)}, "
        f"the fastest with the accuracy takes {_up(fastest.latency_ms, 'max_latency_ms')} ms; relax one of the two"
    )


def _too_accurate(evidence: Evidence, limits: Limits, wanted: str, singles: Batch, find: Find) -> InputError:
    best = find(limits.without_costs().without_accuracy(), "most-miou")
    assert best is not None, "without limits the final exit is there"
    if best.miou < limits.min_miou:
        return InputError(
            f"no deployment reaches {limits.accuracy}: the best reaches {_down(best.miou)} "
            f"at {_up(best.latency_ms, 'max_latency_ms')} ms; ask for at most {_down(best.miou)}"
        )
    ious = iou_of(singles.pixels, evidence.labelled.sum(axis=0)).max(axis=0)
    reached = ", ".join(f"{evidence.classes[index]} {_down(float(ious[index]))}" for index, _ in limits.min_iou)
    return InputError(f"no deployment reaches {wanted}: single exits reach at most {reached}; ask for less")


def _option(name: str) -> str:
    return name.replace("_", "-")


def _up(value: float, name: str) -> Decimal:
    places = "0.01" if name.endswith("_ms") else "1"
    return Decimal(value).quantize(Decimal(places), rounding=ROUND_CEILING)


def _down(value: float) -> Decimal:
    return Decimal(value).quantize(Decimal("0.001"), rounding=ROUND_FLOOR)
