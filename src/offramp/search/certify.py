"""Make a deployment's image thresholds as safe as it takes to certify a limit on risk."""

from __future__ import annotations

import numpy as np

from offramp.artifacts import Certificate, Records
from offramp.errors import InputError
from offramp.search.estimate import Evidence, estimate_batch, places_of
from offramp.search.risk import (
    ASSUMPTION,
    conformal_risk_control,
    learn_then_test,
    least_bound,
    levels_of,
    losses_of,
    p_value,
)
from offramp.search.space import Candidate, Policy
from offramp.specs import REGIONS, SearchSpec


def certify(
    spec: SearchSpec,
    chosen_by: Evidence,
    winner: Candidate,
    calibration: Records,
    calibrated_by: Evidence,
    evidence: Evidence,
) -> tuple[Candidate, Certificate]:
    """The deployment with the least safe thresholds that are certified.

    Args:
        spec: with a limit on risk.
        chosen_by: what exits, policy and thresholds were chosen by.
        winner: the choice; it ends at the final exit.
        calibration: records of other images.
        calibrated_by: the same as evidence.
        evidence: that the deployment's figures are to be of.

    Raises:
        InputError: the images are too few for the bound.

    """
    bound = spec.max_risk if spec.max_risk is not None else spec.expected_risk
    assert bound is not None
    confidence = spec.confidence if spec.max_risk is not None else None
    images = len(calibration.size)
    places = places_of(evidence, winner)
    policy = Policy(REGIONS.index(winner.region), winner.pixel_threshold)
    early = places[:-1]
    levels = levels_of(chosen_by.scores_of(policy)[:, early], winner.image_thresholds)
    loss_at = calibration.differing[:, places] / calibration.size[:, None]
    losses = losses_of(calibrated_by.scores_of(policy)[:, early], loss_at, levels)
    level = learn_then_test(losses, bound, confidence) if confidence is not None else conformal_risk_control(losses, bound)
    if level is None:
        least = least_bound(images, confidence)
        raise InputError(
            f"{images} calibration images cannot certify a risk of {bound:g}, even without any loss: the least is {least:.4f}; "
            f"ask for that, or give more images"
        )
    loss = float(losses[:, level].mean())
    certificate = Certificate(
        kind="learn-then-test" if confidence is not None else "conformal-risk-control",
        bound=bound,
        confidence=confidence,
        images=images,
        empirical_loss=loss,
        p_value=p_value(loss, images, bound) if confidence is not None else None,
        assumption=ASSUMPTION,
    )
    # An exit that nobody may leave at is not asked.
    kept = [place for place in range(len(early)) if np.isfinite(levels[level, place])]
    exits = [early[place] for place in kept] + places[-1:]
    thresholds = levels[level, kept][None]
    return estimate_batch(evidence, [policy], np.array([exits]), np.zeros(1, np.int64), thresholds).candidate(
        evidence, [policy], 0
    ), certificate
