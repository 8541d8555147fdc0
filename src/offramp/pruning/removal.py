"""From a finished run to one with fewer channels, not yet fine-tuned."""

from __future__ import annotations

from pathlib import Path

import torch

from offramp.data.folder import open_split
from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.files import new_folder, sha256_of
from offramp.models.checkpoint import WEIGHTS, load_network, load_network_file, save_tensors
from offramp.models.multi_exit import MultiExitNetwork
from offramp.progress import Progress, silent
from offramp.pruning.choice import choose, layer_costs
from offramp.pruning.coupling import find_channels
from offramp.pruning.importance import importance, sample_batches
from offramp.pruning.record import PRUNING, PruningFile, part_costs
from offramp.pruning.surgery import all_widths, cannot, mute, removed_from, require_same, without
from offramp.specs import TrainingSpec


def remove_channels(
    run: Path,
    data: Path,
    out: Path,
    *,
    keep: float,
    training: TrainingSpec,
    network: str | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> PruningFile:
    """Leave a finished run in `out` that has the weights of the channels that stay.

    Args:
        run: the finished run.
        data: with a split `train`, some images of which judge the channels.
        out: the new run, and beside its usual files `pruning.json`.
        keep: share of the macs that stays at most.
        training: how these images are cropped, and the seed.
        network: see `checkpoint.load_network`.
        device: where they are judged.
        progress: told of every batch.

    Raises:
        InputError: see `pruning.prune`.

    """
    split = open_split(data, "train")
    multi, described = load_network(run, network=network)
    if split.classes.names != described.classes:
        raise InputError(
            f"the run {run} answers the classes {', '.join(described.classes[:4])}, ..., and {data} has others; give the "
            f"dataset that it was trained on"
        )
    width, height = described.size
    parts = find_channels(multi, height, width)
    crops = Crops(split, *training.crop, training.zoom, training.seed, flip=training.flip, jitter=training.jitter)
    batches = sample_batches(crops, training.seed)
    scores = importance(multi.to(device), parts, batches, seed=training.seed, progress=progress)
    multi.cpu()
    before, costs = part_costs(multi, described.size), layer_costs(multi, height, width)
    rows = choose(parts, scores, all_widths(multi), costs, keep)
    removed = removed_from(multi, parts, rows)
    spec, tensors = without(multi, removed)
    mute(multi, removed)
    with new_folder(out, marker=PRUNING) as folder:
        described.model_copy(update={"network": spec}).save(folder)
        save_tensors(tensors, folder / WEIGHTS)
        # As it will be read from now on: built again from its files.
        pruned = _read(folder, network)
        require_same(pruned, multi, height, width)
        done = PruningFile(
            keep=keep,
            run_sha256=sha256_of(run / WEIGHTS),
            images=sum(map(len, batches)),
            data_fingerprint=split.fingerprint(),
            before=before,
            after=part_costs(pruned, described.size),
        )
        done.save(folder)
    return done


def _read(folder: Path, network: str | None) -> MultiExitNetwork:
    try:
        return load_network(folder, network=network)[0]
    except InputError as error:
        raise cannot(load_network_file(folder).network.network, str(error)) from error
