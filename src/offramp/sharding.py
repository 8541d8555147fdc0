"""The step `evaluate` of a split that is shared among workers: shards of images -> parts of the records -> the records.

A shard is named by its images and written whole, so it does not matter how often or by whom it is evaluated: a part is there or
it is not, and one that is there and fits is not evaluated again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from offramp.artifacts import Provenance, Records, load_manifest, load_records
from offramp.artifacts.records import ARRAYS
from offramp.data.folder import Split, open_split
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.evaluation import evaluate, require_same_classes
from offramp.progress import Progress, silent
from offramp.runtime.engines import open_engine
from offramp.specs import EngineName, Precision
from offramp.tasks import Each

SHARDS = 8


@checked_call
def evaluate_in_shards(
    package: Path,
    data: Path,
    split: str,
    *,
    each: Each,
    parts: Path,
    shards: int = SHARDS,
    engine: EngineName = "onnxruntime",
    threads: int = 1,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Records:
    """What `evaluate` gives, from shards that workers evaluate.

    Args:
        package: the package.
        data: a dataset.
        split: train, val or test.
        each: runs the shards; its workers see package, data and parts under the same names.
        parts: a folder for the shards' records. What an interrupted evaluation left there is used; in the end it is removed.
        shards: into how many the images are divided, neighbours together; at most one for each image.
        engine: see `engines.ENGINES`; every worker must have it.
        threads: of each shard; 0 for all.
        precision: what the engine computes in.
        progress: told of each shard.

    Raises:
        InputError: as in `evaluate`; a shard that failed; or a worker that saw other data or another package.

    """
    if shards < 1:
        raise InputError(f"shards must be at least 1, got {shards}")
    package, data, parts = package.resolve(), data.resolve(), parts.resolve()
    manifest, samples = load_manifest(package), open_split(data, split)
    require_same_classes(samples, manifest)
    open_engine(engine, threads, precision)  # what it refuses is said before anything begins
    bounds = np.linspace(0, len(samples), min(shards, len(samples)) + 1).round().astype(int).tolist()
    keys = [f"{first}-{end - 1}" for first, end in pairwise(bounds)]
    # A shard is known by its images, the package and how that was run: nothing else can take its place.
    folder = parts / "-".join([manifest.package_id[:16], split, engine, precision])
    task = partial(
        _evaluate_shard,
        folder=folder,
        package=package,
        data=data,
        split=split,
        engine=engine,
        threads=threads,
        precision=precision,
    )
    failed: dict[str, str] = {}
    for done, (key, error) in enumerate(each(task, keys), 1):
        if error is not None:
            failed[key] = error
        progress(f"evaluate {split} in shards", done, len(keys))
    if failed:
        key, error = min(failed.items())
        raise InputError(f"{len(failed)} of {len(keys)} shards failed, such as the images {key}: {error}")
    found = [load_records(_part(folder, key)) for key in keys]
    for key, records in zip(keys, found, strict=True):
        _require_part(key, records, samples.part(_images(key)), manifest.package_id, engine, precision)
    joined = _join(found, samples)
    shutil.rmtree(folder)
    if not any(parts.iterdir()):
        parts.rmdir()
    return joined


def _images(key: str) -> range:
    """The images of the shard `12-23`."""
    first, _, last = key.partition("-")
    return range(int(first), int(last) + 1)


def _part(folder: Path, key: str) -> Path:
    return folder / f"{key}.records"


def _evaluate_shard(
    key: str, *, folder: Path, package: Path, data: Path, split: str, engine: EngineName, threads: int, precision: Precision
) -> None:
    """The task: leave one shard's records, unless they are there."""
    path = _part(folder, key)
    if path.exists():
        samples = open_split(data, split).part(_images(key))
        try:
            return _require_part(key, load_records(path), samples, load_manifest(package).package_id, engine, precision)
        except InputError:
            path.unlink()  # of other data, or damaged: made anew
    records = evaluate(package, data, split, images=_images(key), engine=engine, threads=threads, precision=precision)
    records.save(path)
    return None


def _require_part(
    key: str, records: Records, samples: Split, package_id: str, engine: EngineName, precision: Precision
) -> None:
    """Refuse a part that is not of exactly these images, this package and this engine."""
    info = records.info
    wanted = (package_id, samples.fingerprint(), tuple(sample.name for sample in samples.samples), engine, precision)
    if (info.package_id, info.data_fingerprint, info.images, info.engine, info.precision) != wanted:
        raise InputError(
            f"the images {key} were evaluated from other files than are here; "
            f"all workers must see the same package and data, and nobody may change them meanwhile"
        )


def _join(parts: Sequence[Records], samples: Split) -> Records:
    """One after another, in the split's order: every image once."""
    names = tuple(name for part in parts for name in part.info.images)
    if names != tuple(sample.name for sample in samples.samples):
        raise InputError(f"the shards do not hold each image of {samples.name!r} once; remove their folder and evaluate again")
    first = parts[0].info
    info = first.model_copy(
        update={
            "images": names,
            "data_fingerprint": samples.fingerprint(),
            "provenance": Provenance.now("evaluate", inputs={"package": first.package_id}, options={"split": samples.name}),
        }
    )
    return Records(info, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS})
