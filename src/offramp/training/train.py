"""The step `train`: from a labelled dataset to a run folder.

RUN holds `run.json` (what was asked for), `network.json`, `history.csv`, `last.safetensors` (to go on from) and, once finished,
`weights.safetensors`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from offramp.data.folder import Split, open_split
from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.files import new_file, sha256_of
from offramp.metrics import count_pixels, miou
from offramp.models.checkpoint import NETWORK, WEIGHTS, NetworkFile, save_weights
from offramp.models.multi_exit import MultiExitNetwork, build_network, plan_network, upsample
from offramp.progress import Progress, silent
from offramp.specs import NetworkSpec, OutputStride, Spec, TrainingSpec, explain
from offramp.training.loop import STATE, Run, load_state, run_phases
from offramp.training.losses import class_weights
from offramp.training.phases import two_phase

RUN = "run.json"

NETWORK_NAME = "mobilenetv2_100"
EXITS = 6
"""What is trained where nothing else is asked for."""


class RunFile(Spec):
    """What a run was asked to do: enough to go on with it."""

    kind: Literal["run"] = "run"
    format: Literal[1] = 1
    data: str
    data_fingerprint: str
    weights_sha256: str | None
    """Of the file of ImageNet weights, if one was given."""
    network: NetworkSpec
    training: TrainingSpec

    def save(self, run: Path) -> None:
        """Write RUN/run.json."""
        with new_file(run / RUN) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def train(
    data: Path,
    run: Path,
    *,
    network: str = NETWORK_NAME,
    weights: Path | None = None,
    output_stride: OutputStride = 16,
    exits: int = EXITS,
    training: TrainingSpec | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> None:
    """Train a multi-exit network on DATA's `train` split, watching its `val` split, and leave it in the folder `run`.

    With `resume` and a run in that folder, it goes on as it was begun; a finished one is left as it is. Without a run there,
    it begins.

    Raises:
        InputError: bad data, network, weights or options; a run in that folder without `resume`; other data or options than
            it was begun with.

    """
    train_split, val_split = open_split(data, "train"), open_split(data, "val")
    fingerprint = hashlib.sha256((train_split.fingerprint() + val_split.fingerprint()).encode()).hexdigest()
    old = _earlier_run(run, resume=resume)
    if old and old.data_fingerprint != fingerprint:
        raise InputError(f"the run {run} was begun on other data than {data} now holds; give that data, or another --out")
    if old:
        _require_same_options(old, network, output_stride, exits, training or TrainingSpec())
    if (run / WEIGHTS).exists():
        return
    pixels, size = _look_at(train_split)
    if old is None:
        planned = plan_network(network, output_stride, len(train_split.classes.names), exits=exits, size=size)
        old = RunFile(
            data=data.name,
            data_fingerprint=fingerprint,
            weights_sha256=sha256_of(weights) if weights and weights.is_file() else None,
            network=planned,
            training=training or TrainingSpec(),
        )
        built = _seeded(planned, weights, old.training.seed)
        run.mkdir(parents=True, exist_ok=True)
        _describe(train_split, old, pixels, size).save(run)
        old.save(run)
    elif not (run / STATE).exists() and old.weights_sha256:
        if weights is None or sha256_of(weights) != old.weights_sha256:
            raise InputError(f"the run {run} stopped before its first epoch ended; give the same --weights again")
        built = _seeded(old.network, weights, old.training.seed)
    else:
        built = _seeded(old.network, None, old.training.seed)
    _train(built, old, run, Splits(train_split, val_split, pixels), progress)


def _seeded(network: NetworkSpec, weights: Path | None, seed: int) -> MultiExitNetwork:
    torch.manual_seed(seed)  # what no file of weights holds starts at random
    return build_network(network, weights)


class Splits:
    """The data of a run and what was counted on it."""

    def __init__(self, train_split: Split, val_split: Split, pixels: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self.train, self.val, self.pixels = train_split, val_split, pixels


def _train(network: MultiExitNetwork, asked: RunFile, folder: Path, splits: Splits, progress: Progress) -> None:
    spec = asked.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(
        folder=folder,
        network=network,
        device=device,
        seed=spec.seed,
        batch_size=spec.batch_size,
        weight_decay=spec.weight_decay,
        validate_every=spec.validate_every,
        measure=validator(network, splits.val, device),
        progress=progress,
    )
    if (folder / STATE).exists():
        load_state(run)
    weights = class_weights(torch.from_numpy(splits.pixels)).to(device)
    crops = Crops(splits.train, *spec.crop, spec.zoom, spec.seed)
    run_phases(run, two_phase(network, spec, weights, pretrained=asked.weights_sha256 is not None), crops)
    save_weights(network, folder / WEIGHTS)


def validator(network: MultiExitNetwork, split: Split, device: torch.device) -> Callable[[], dict[str, float]]:
    """A function that measures every exit's mIoU on `split`, whole images, at the labels' resolution."""
    classes = len(split.classes.names)

    def measure() -> dict[str, float]:
        network.eval()
        counts = dict.fromkeys(network.spec.exit_names, np.zeros((3, classes), np.int64))
        with torch.no_grad():
            for index in range(len(split)):
                pixels, labels = split.pair(index)
                image = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float()
                for name, scores in network(image.contiguous(memory_format=torch.channels_last)).items():
                    full = upsample(scores, network.stride(scores, image.shape[2]), *labels.shape)
                    answer = full.max(dim=1).indices[0].to(torch.uint8).cpu().numpy()
                    counts[name] = counts[name] + np.stack(count_pixels(answer, labels, classes))
        return {f"miou:{name}": round(float(miou(*three)), 5) for name, three in counts.items()}

    return measure


def _require_same_options(old: RunFile, network: str, output_stride: int, exits: int, training: TrainingSpec) -> None:
    """Refuse options that were given and differ from the run's; what equals the default counts as not given."""
    asked = {"network": network, "output-stride": output_stride, "exits": exits, **training.model_dump()}
    default = {"network": NETWORK_NAME, "output-stride": 16, "exits": EXITS, **TrainingSpec().model_dump()}
    begun = {
        "network": old.network.backbone,
        "output-stride": old.network.output_stride,
        "exits": len(old.network.exits),
        **old.training.model_dump(),
    }
    for name, value in asked.items():
        if value not in (default[name], begun[name]):
            option = name.replace("_", "-")
            raise InputError(
                f"the run was begun with {option} {begun[name]}, not {value}; leave it out, or choose another --out"
            )


def _earlier_run(run: Path, *, resume: bool) -> RunFile | None:
    path = run / RUN
    for leftover in run.glob(".*.tmp"):  # of a save that was cut off
        leftover.unlink()
    if not path.exists():
        if run.exists() and (not run.is_dir() or any(run.iterdir())) and not (run / NETWORK).exists():
            raise InputError(f"cannot train into {run}: something else is there; choose another --out")
        return None
    if not resume:
        raise InputError(f"there is a run in {run}; go on with it by --resume, or choose another --out")
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; remove the folder and train again") from error


def _look_at(split: Split) -> tuple[np.ndarray[Any, np.dtype[np.int64]], tuple[int, int]]:
    """Labelled pixels of each class, and the most common size of a label map (width, height)."""
    classes = len(split.classes.names)
    pixels, sizes = np.zeros(classes, np.int64), Counter[tuple[int, int]]()
    for index in range(len(split)):
        labels = split.labels(index)
        pixels += np.bincount(labels.ravel(), minlength=256)[:classes]
        sizes[labels.shape[1], labels.shape[0]] += 1
    if not pixels.any():
        raise InputError(f"no pixel of {split.root}/{split.name} is labelled with a class; see offramp data check {split.root}")
    return pixels, sizes.most_common(1)[0][0]


def _describe(split: Split, asked: RunFile, pixels: np.ndarray[Any, np.dtype[np.int64]], size: tuple[int, int]) -> NetworkFile:
    even = pixels.sum() / len(pixels)
    return NetworkFile(
        network=asked.network,
        classes=split.classes.names,
        palette=split.classes.palette,
        object_classes=tuple(int(index) for index in np.flatnonzero((pixels > 0) & (pixels < even))),
        size=size,
        data_fingerprint=asked.data_fingerprint,
    )
