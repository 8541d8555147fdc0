"""The training scheme, top to bottom: what each phase trains and by which loss (MESS, ECCV 2022, section 4.2).

1. Exit-aware, end to end: the final exit and *one* early exit an iteration, in rotation. The backbone learns to serve exits
   without being torn between them.
2. Backbone and final exit frozen, batch-norm statistics too: all early heads at once, taught by the final exit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import FINAL, TrainingSpec
from offramp.training.loop import Batch, Phase
from offramp.training.losses import compared, cross_entropy, positive_filtering


def two_phase(network: MultiExitNetwork, spec: TrainingSpec, weights: torch.Tensor, *, pretrained: bool) -> list[Phase]:
    """The paper's scheme.

    Args:
        network: with all candidate heads.
        spec: epochs and rates.
        weights: of the classes in the loss, (C,), on the network's device.
        pretrained: whether the network starts from trained weights, which a full learning rate would wash out.

    """
    backbone_rate = spec.learning_rate * (spec.backbone_rate if pretrained else 1.0)
    final_head = network.final_head.parameters() if network.final_head is not None else ()
    heads = [*final_head, *network.early_heads.parameters()]
    end_to_end = Phase(
        name="phase 1",
        epochs=spec.epochs,
        groups=[
            {"params": list(network.backbone.parameters()), "lr": backbone_rate},
            *([{"params": heads, "lr": spec.learning_rate}] if heads else []),
        ],
        prepare=lambda: _train_all(network),
        loss=_final_and_one(network, weights),
    )
    if not network.spec.exits:
        return [end_to_end]
    exits_alone = Phase(
        name="phase 2",
        epochs=spec.exit_epochs,
        groups=[{"params": list(network.early_heads.parameters()), "lr": spec.learning_rate}],
        prepare=lambda: _train_early_heads(network),
        loss=_all_early(network, weights, spec.truth_weight),
    )
    return [end_to_end, exits_alone]


def _train_all(network: MultiExitNetwork) -> None:
    network.requires_grad_(requires_grad=True)
    network.train()


def _train_early_heads(network: MultiExitNetwork) -> None:
    network.requires_grad_(requires_grad=False)
    network.eval()
    network.early_heads.requires_grad_(requires_grad=True)
    network.early_heads.train()


def _final_and_one(network: MultiExitNetwork, weights: torch.Tensor) -> Callable[[Batch, int], torch.Tensor]:
    """`L = CE(y_final) + CE(y_i)`, i in rotation."""
    early = [early.name for early in network.spec.exits]

    def loss(batch: Batch, step: int) -> torch.Tensor:
        images, labels = batch
        asked = [early[step % len(early)], FINAL] if early else [FINAL]
        with _precision(images):
            answers = network(images, asked)
        losses = [cross_entropy(*compared(scores.float(), labels), weights) for scores in answers.values()]
        return torch.stack(losses).sum()

    return loss


def _all_early(network: MultiExitNetwork, weights: torch.Tensor, truth_weight: float) -> Callable[[Batch, int], torch.Tensor]:
    """Sum over the early exits of the positive filtering distillation loss."""
    early = [early.name for early in network.spec.exits]

    def loss(batch: Batch, step: int) -> torch.Tensor:
        del step  # every step asks every exit
        images, labels = batch
        with _precision(images):
            with torch.no_grad():
                features = network.features(images)
                teacher = network.answer(features, [FINAL])[FINAL]
            answers = network.answer(features, early)
        teacher, thin = compared(teacher.float(), labels)
        losses = [
            positive_filtering(compared(scores.float(), labels)[0], teacher, thin, weights, truth_weight)
            for scores in answers.values()
        ]
        return torch.stack(losses).sum()

    return loss


def _precision(images: torch.Tensor) -> torch.autocast:
    """Bfloat16 on CUDA; float32 on the CPU, where it does not help the backward pass of depthwise convolutions."""
    return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=images.device.type == "cuda")
