"""The training schemes, top to bottom: which phases there are, what each trains, and by which loss.

`two-phase` (MESS, ECCV 2022, section 4.2):

1. Exit-aware, end to end: the final exit and *one* early exit an iteration. The backbone learns to serve exits without being
   torn between them.
2. Backbone and final exit frozen, batch-norm statistics too: all early heads at once, taught by labels and the final exit.

What it is compared with: `joint` trains everything by the sum of all exits' losses; `frozen` trains the final exit alone, then
the early heads as in phase 2; `final-only` has no early exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import FINAL, Scheme, TrainingSpec
from offramp.training.distributed import World
from offramp.training.halving import Halving, rung_ends
from offramp.training.loop import Batch, History, Phase
from offramp.training.losses import compared, cross_entropy, lesson, thinned
from offramp.training.validation import MIOU

END_TO_END, HEADS_ALONE, JOINT = "phase 1", "phase 2", "joint"

STRIDE = 2
"""Phase 1 takes its loss at every second pixel of every second row: a quarter of the work."""

HEADS_STRIDE = 4
"""Phase 2 takes many losses from each batch, and at every fourth pixel."""


@dataclass
class Scene:
    """What all phases share."""

    network: MultiExitNetwork
    spec: TrainingSpec
    weights: torch.Tensor
    """Of the classes in the labels' loss, (C,), on the network's device."""
    world: World = field(default_factory=World)

    @property
    def early(self) -> tuple[str, ...]:
        """The early exits, in order of depth."""
        return self.network.spec.exit_names[:-1]

    def autocast(self) -> torch.autocast:
        """The forward pass's precision. On CPUs bfloat16 does not help the backward pass of depthwise convolutions."""
        device = self.world.device.type
        bfloat16 = self.spec.precision == "bfloat16" or (self.spec.precision == "auto" and device == "cuda")
        return torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16)


def phases_of(scene: Scene, *, pretrained: bool) -> list[Phase]:
    """The phases of the scheme that `scene.spec` asks for.

    Args:
        scene: network, options, weights of the classes.
        pretrained: whether the network starts from trained weights, which a full learning rate would wash out.

    """
    spec = scene.spec
    heads_alone = [_heads_alone(scene)] if scene.early and spec.exit_epochs else []
    end_to_end = partial(_end_to_end, scene, pretrained=pretrained)
    schemes: dict[Scheme, Callable[[], list[Phase]]] = {
        "two-phase": lambda: [end_to_end(END_TO_END, spec.epochs, _final_and_one(scene)), *heads_alone],
        "joint": lambda: [end_to_end(JOINT, spec.epochs + spec.exit_epochs, _sum_of(scene, (*scene.early, FINAL)))],
        "frozen": lambda: [end_to_end(END_TO_END, spec.epochs, _sum_of(scene, (FINAL,)), early=False), *heads_alone],
        "final-only": lambda: [end_to_end(END_TO_END, spec.epochs, _sum_of(scene, (FINAL,)), early=False)],
    }
    return schemes[spec.scheme]()


def _end_to_end(
    scene: Scene, name: str, epochs: int, loss: Callable[[Batch, int], torch.Tensor], *, pretrained: bool, early: bool = True
) -> Phase:
    network, spec = scene.network, scene.spec
    backbone_rate = spec.learning_rate * (spec.backbone_rate if pretrained else 1.0)
    heads: list[nn.Module] = [] if network.final_head is None else [network.final_head]
    heads += [network.early_heads] if early else []
    trained: list[nn.Module] = [network.backbone, *heads]
    parameters = [parameter for head in heads for parameter in head.parameters()]
    groups = [{"params": list(network.backbone.parameters()), "lr": backbone_rate}]
    groups += [{"params": parameters, "lr": spec.learning_rate}] if parameters else []
    exits = network.spec.exit_names if early else (FINAL,)
    return Phase(
        name=name,
        epochs=epochs,
        groups=groups,
        prepare=lambda _history: _train_only(network, trained),
        loss=loss,
        exits=lambda: exits,
    )


def _heads_alone(scene: Scene) -> Phase:
    network, spec = scene.network, scene.spec
    halving = halving_of(network, spec)
    there = list(scene.early)

    def prepare(history: History) -> None:
        rungs = halving.rungs(measured_in(history))
        there[:] = rungs[-1][2] if rungs else scene.early
        heads = zip(scene.early, network.early_heads, strict=True)
        _train_only(network, [head for name, head in heads if name in there])

    return Phase(
        name=HEADS_ALONE,
        epochs=spec.exit_epochs,
        groups=[{"params": list(network.early_heads.parameters()), "lr": spec.learning_rate}],
        prepare=prepare,
        loss=_taught(scene, there),
        exits=lambda: (*there, FINAL),
        always_measured=halving.ends,
    )


def halving_of(network: MultiExitNetwork, spec: TrainingSpec) -> Halving:
    """When phase 2 drops heads, and what they cost."""
    macs = {}
    for early in network.spec.exits:
        figures = network.figures(early.name, network.spec.input_size)
        assert figures is not None
        macs[early.name] = figures.macs
    taps = {early.name: early.tap for early in network.spec.exits}
    return Halving(taps, macs, rung_ends(spec.exit_epochs, spec.halving) if spec.halving else ())


def measured_in(history: History) -> dict[int, dict[str, float]]:
    """MIoU on `val` by epoch of phase 2 and exit."""
    return {
        int(row["epoch"]): {name.removeprefix(MIOU): float(value) for name, value in row.items() if name.startswith(MIOU)}
        for row in history
        if row["phase"] == HEADS_ALONE
    }


def _train_only(network: MultiExitNetwork, parts: Iterable[nn.Module]) -> None:
    """Freeze everything, batch-norm statistics included, but `parts`."""
    network.requires_grad_(requires_grad=False)
    network.eval()
    for part in parts:
        part.requires_grad_(requires_grad=True)
        part.train()


def _final_and_one(scene: Scene) -> Callable[[Batch, int], torch.Tensor]:
    """`L = CE(y_final) + CE(y_i)`, i in rotation or at random."""
    early, rotates = scene.early, scene.spec.early_exit == "rotation"
    by_exit = {name: _sum_of(scene, (name, FINAL)) for name in early}
    final_alone = _sum_of(scene, (FINAL,))

    def loss(batch: Batch, step: int) -> torch.Tensor:
        if not early:
            return final_alone(batch, step)
        drawn = step if rotates else int(np.random.default_rng([scene.spec.seed, step]).integers(len(early)))
        return by_exit[early[drawn % len(early)]](batch, step)

    return loss


def _sum_of(scene: Scene, exits: Sequence[str]) -> Callable[[Batch, int], torch.Tensor]:
    """The sum of the labels' losses of `exits`."""

    def loss(batch: Batch, step: int) -> torch.Tensor:
        del step
        images, labels = batch
        with scene.autocast():
            answers = scene.network(images, exits)
        thin = thinned(labels, STRIDE)
        losses = [
            cross_entropy(
                compared(scores, labels.shape[1], STRIDE, (thin.shape[1], thin.shape[2])),
                thin,
                scene.weights,
                hard_share=scene.spec.hard_share,
                mean=scene.world.mean,
            )
            for scores in answers.values()
        ]
        return torch.stack(losses).sum()

    return loss


def _taught(scene: Scene, there: Sequence[str]) -> Callable[[Batch, int], torch.Tensor]:
    """The sum over the early exits that are there of their losses by the batch's lesson."""
    network, spec = scene.network, scene.spec

    def loss(batch: Batch, step: int) -> torch.Tensor:
        del step
        images, labels = batch
        height, thin = labels.shape[1], thinned(labels, HEADS_STRIDE)
        cells = (thin.shape[1], thin.shape[2])
        with torch.no_grad():
            with scene.autocast():
                features = network.features(images)
                teacher = None if spec.distillation == "none" else network.answer(features, [FINAL])[FINAL]
            taught = lesson(
                thin,
                scene.weights,
                None if teacher is None else compared(teacher, height, HEADS_STRIDE, cells),
                distillation=spec.distillation,
                filtered=spec.filtered,
                truth_weight=spec.truth_weight,
                temperature=spec.temperature,
                mean=scene.world.mean,
            )
        with scene.autocast():
            answers = network.answer(features, there)
        losses = [taught.loss(compared(scores, height, HEADS_STRIDE, cells)) for scores in answers.values()]
        return torch.stack(losses).sum()

    return loss
