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
from offramp.models.attach import build_network, plan_network
from offramp.models.checkpoint import NETWORK, WEIGHTS, NetworkFile, original_network, save_weights
from offramp.models.feature_maps import upsample
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.sources import is_user_code
from offramp.progress import Progress, silent
from offramp.specs import NetworkChoice, NetworkSpec, Spec, TrainingSpec, explain
from offramp.training.loop import STATE, Run, load_state, run_phases
from offramp.training.losses import class_weights
from offramp.training.phases import two_phase

RUN = "run.json"


class RunFile(Spec):
    """What a run was asked to do: enough to go on with it."""

    kind: Literal["run"] = "run"
    format: Literal[2] = 2
    data: str
    data_fingerprint: str
    weights_sha256: str | None
    """Of the file of weights that it began with, if one was given."""
    choice: NetworkChoice
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
    weights: Path | None = None,
    training: TrainingSpec | None = None,
    resume: bool = False,
    progress: Progress = silent,
    **choice: Any,
) -> None:
    """Train a multi-exit network on DATA's `train` split, watching its `val` split, and leave it in the folder `run`.

    With `resume` and a run in that folder, it goes on as it was begun; a finished one is left as it is. Without a run there,
    it begins. A network of the user's own code must be named again to go on.

    Args:
        data: the dataset.
        run: the run's folder.
        weights: of ImageNet for a backbone, of the whole network for one that gives class scores; see `sources.build`.
        training: epochs and rates. With `epochs=0` the exits alone are trained, and the network stays bit for bit as it is.
        resume: go on with the run in that folder.
        progress: told of every step.
        choice: fields of `NetworkChoice`: network, output_stride, exits, heads, taps, final_head.

    Raises:
        InputError: bad data, network, weights or options; a run in that folder without `resume`; other data or options than
            it was begun with.

    """
    train_split, val_split = open_split(data, "train"), open_split(data, "val")
    fingerprint = hashlib.sha256((train_split.fingerprint() + val_split.fingerprint()).encode()).hexdigest()
    asked = _checked(choice)
    old = _earlier_run(run, resume=resume)
    if old and old.data_fingerprint != fingerprint:
        raise InputError(f"the run {run} was begun on other data than {data} now holds; give that data, or another --out")
    if old:
        _require_same_options(old, asked, training or TrainingSpec())
    if (run / WEIGHTS).exists():
        return
    pixels, size = _look_at(train_split)
    if old is None:
        planned = plan_network(asked, len(train_split.classes.names), size=size)
        _require_trained(planned, weights, training or TrainingSpec())
        old = RunFile(
            data=data.name,
            data_fingerprint=fingerprint,
            weights_sha256=sha256_of(weights) if weights and weights.is_file() else None,
            choice=asked,
            network=planned,
            training=training or TrainingSpec(),
        )
        built = _seeded(old, asked, weights, run)
        run.mkdir(parents=True, exist_ok=True)
        _describe(train_split, old, pixels, size).save(run)
        old.save(run)
    elif not (run / STATE).exists() and old.weights_sha256:
        if weights is None or sha256_of(weights) != old.weights_sha256:
            raise InputError(f"the run {run} stopped before its first epoch ended; give the same --weights again")
        built = _seeded(old, asked, weights, run)
    else:
        built = _seeded(old, asked, None, run)
    _train(built, old, run, Splits(train_split, val_split, pixels), progress)


def _checked(choice: dict[str, Any]) -> NetworkChoice:
    try:
        return NetworkChoice(**choice)
    except ValidationError as error:
        raise InputError(explain(error)) from error


def _require_trained(planned: NetworkSpec, weights: Path | None, training: TrainingSpec) -> None:
    """Refuse to train exits alone on a network that is not trained itself."""
    if training.epochs:
        return
    if planned.final_head is not None:
        raise InputError(f"epochs=0 trains the exits alone, but the final head on {planned.network} is new; give it --epochs")
    if weights is None and not is_user_code(planned.network):
        raise InputError(f"epochs=0 trains the exits alone, but {planned.network} is not trained; give its --weights")


def _seeded(run: RunFile, asked: NetworkChoice, weights: Path | None, folder: Path) -> MultiExitNetwork:
    torch.manual_seed(run.training.seed)  # what no file of weights holds starts at random
    # Left out, the network is the run's own: code of the user's is run only if it is named here and now.
    given = asked.network if "network" in asked.model_fields_set and is_user_code(asked.network) else None
    own = original_network(run.network, given, folder, weights=weights)
    return build_network(run.network, weights, network=own)


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


def _require_same_options(old: RunFile, asked: NetworkChoice, training: TrainingSpec) -> None:
    """Refuse options that were given and differ from the run's; what equals the default counts as not given."""
    given = {**asked.model_dump(), **training.model_dump()}
    default = {**NetworkChoice().model_dump(), **TrainingSpec().model_dump()}
    begun = {**old.choice.model_dump(), **old.training.model_dump()}
    for name, value in given.items():
        if value not in (default[name], begun[name]):
            option = name.replace("_", "-")
            raise InputError(
                f"the run was begun with {option} {_plain(begun[name])}, not {_plain(value)}; leave it out, "
                f"or choose another --out"
            )


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
