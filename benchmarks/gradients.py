"""Do exits pull the backbone in different directions? The angle between their gradients, stage by stage.

    python benchmarks/gradients.py DATA RUN [RUN ...] [--batches 16]

For the weights that each run ended with, and for every batch: the gradient of each exit's loss alone on the backbone's weights,
cut into stages (the weights that one exit needs and the one before it does not). The table gives the mean cosine between each
early exit's gradient and the final exit's, and how long it is against that; then for the sum of all early exits, which joint
training adds to the final exit's gradient at every step, where two-phase training adds one early exit's alone. A negative
cosine is a conflict. Batch-norm is in training mode and dropout off, so the numbers depend on weights and images alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from offramp.console import print_table
from offramp.data.folder import open_split
from offramp.data.transforms import Crops
from offramp.models.checkpoint import load_network
from offramp.models.multi_exit import MultiExitNetwork
from offramp.specs import FINAL
from offramp.training.loop import Batch, epoch_batches
from offramp.training.losses import compared, cross_entropy, thinned
from offramp.training.phases import STRIDE

Gradient = dict[str, torch.Tensor]
"""By the name of the backbone's weight; absent where an exit does not need it."""


def gradients(network: MultiExitNetwork, batch: Batch, weights: torch.Tensor) -> dict[str, Gradient]:
    """Every exit's own gradient on the backbone."""
    images, labels = batch
    thin = thinned(labels, STRIDE)
    named = dict(network.backbone.named_parameters())
    features = network.features(images)
    found = {}
    for name, scores in network.answer(features, network.spec.exit_names).items():
        loss = cross_entropy(compared(scores, labels.shape[1], STRIDE, (thin.shape[1], thin.shape[2])), thin, weights)
        computed = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        found[name] = {key: tensor for key, tensor in zip(named, computed, strict=True) if tensor is not None}
    return found


def stages_of(found: dict[str, Gradient]) -> dict[str, list[str]]:
    """The weights that an exit needs and none before it does, by exit."""
    seen: set[str] = set()
    stages = {}
    for name, gradient in found.items():
        stages[name] = [key for key in gradient if key not in seen]
        seen |= gradient.keys()
    return stages


def flat(gradient: Gradient, names: Sequence[str]) -> torch.Tensor:
    """One vector of the weights named."""
    return torch.cat([gradient[name].flatten() for name in names])


def compare(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Cosine, and the first's length as a multiple of the other's."""
    return float(nn.functional.cosine_similarity(one, other, dim=0)), float(one.norm() / other.norm())


def measure(run: Path, data: Path, batches: int) -> dict[str, Any]:
    """Mean cosines and lengths of one run: `stage -> exit -> [cosine, length, share of batches with a negative cosine]`."""
    network, _ = load_network(run)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    split = open_split(data, "train")
    crops = Crops(split, 320, 320, (0.7, 1.8), 0)
    values: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for indices in epoch_batches(len(crops), 8, 0, 0, 0)[:batches]:
        pairs = [crops[index] for index in indices]
        batch = torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])
        found = gradients(network, batch, torch.ones(network.spec.num_classes))
        for stage, names in stages_of(found).items():
            reaching = [name for name in found if name != FINAL and names and names[0] in found[name]]
            row = values.setdefault(stage, {})
            for name in reaching:
                row.setdefault(name, []).append(compare(flat(found[name], names), flat(found[FINAL], names)))
            if reaching:
                total = torch.stack([flat(found[name], names) for name in reaching]).sum(dim=0)
                row.setdefault("all early exits", []).append(compare(total, flat(found[FINAL], names)))
    return {
        stage: {
            name: [*np.mean(pairs, axis=0).round(4).tolist(), float(np.mean([cosine < 0 for cosine, _ in pairs]))]
            for name, pairs in row.items()
        }
        for stage, row in values.items()
        if row
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=16)
    options = parser.parse_args()
    results = {}
    for run in options.runs:
        results[run.name] = measure(run, options.data, options.batches)
        columns = list(dict.fromkeys(name for row in results[run.name].values() for name in row))
        rows = [
            [stage, *(f"{row[name][0]:.2f} ({row[name][1]:.1f}x)" if name in row else "" for name in columns)]
            for stage, row in results[run.name].items()
        ]
        title = f"{run.name}: cosine with the final exit's gradient (length against it)"
        print_table(title, ["weights of the stage before", *columns], rows)
    print(json.dumps({"benchmark": "gradients", "batches": options.batches, "runs": results}))


if __name__ == "__main__":
    main()
