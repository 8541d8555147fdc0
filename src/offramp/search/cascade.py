"""A cascade: a small network answers, a large one is asked where the small one is unsure. Nothing is reused.

As a package it is the small network's stages and heads, then the large one's: every step and every policy serves it unchanged.
Its records and profile follow from those of the two, so it can be searched before it exists.

For each exit that the small network may end with, the space is that of a package whose small network is cut there: the large
network's stages come right behind. What each candidate costs is then exact, and trimming leaves the rest of the small one out.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offramp.artifacts import (
    MANIFEST,
    Deployment,
    GraphEntry,
    HeadEntry,
    Manifest,
    Measurement,
    Profile,
    Provenance,
    Records,
    load_manifest,
    package_identity,
)
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import check_replaceable, new_folder
from offramp.progress import Progress, silent
from offramp.search.choose import best_of, evidence_of, search
from offramp.specs import SearchSpec
from offramp.targets import require_outside, require_own_folders, require_place

SMALL, LARGE = "small", "large"
Pair = tuple[Records, Profile]


@checked_call
def search_cascade(
    pairs: tuple[Pair, Pair],
    package_id: str,
    spec: SearchSpec,
    *,
    inputs: dict[str, str],
    workers: int = 1,
    progress: Progress = silent,
) -> Deployment:
    """Choose exits of a small network, exits of a large one behind them, and thresholds.

    Args:
        pairs: records and profile of the small network's package, then of the large one's.
        package_id: of the cascade; see `write_cascade`.
        spec: as in `search`.
        inputs: names and hashes of what they came from.
        workers: as in `search`.
        progress: told of each policy.

    Raises:
        InputError: parts that do not belong together; a limit on risk; or nothing meets the limits.

    """
    if spec.max_risk is not None or spec.expected_risk is not None:
        raise InputError(
            "a limit on risk needs to know where the small network's pixels differ from the large one's: "
            "evaluate the cascade's package, and search that by its own records"
        )
    if len(pairs) != 2:
        raise InputError(f"a cascade is of the records and profiles of two packages, got {len(pairs)}")
    small, large = pairs
    for pair in pairs:
        evidence_of(*pair)
    _require_alike(small, large)
    found: list[Deployment] = []
    refusals: list[InputError] = []
    for stage in sorted(set(small[1].exit_stages)):
        records, profile = _joined(small, large, stage, package_id)
        try:
            found.append(search(records, profile, spec, inputs=inputs, workers=workers, progress=progress))
        except InputError as error:
            refusals.append(error)
    if not found:
        raise refusals[-1]  # of the whole small network: its space is the largest
    winner = best_of(found, spec)
    alone = {"final_latency_ms": large[1].latency_ms(large[1].exits[-1:])}  # of the large network, without the small one
    return winner.model_copy(update={"expected": winner.expected.model_copy(update=alone)})


def _require_alike(small: Pair, large: Pair) -> None:
    mine, other = small[0].info, large[0].info
    same = ("data_fingerprint", "classes", "images")
    if any(getattr(mine, name) != getattr(other, name) for name in same):
        raise InputError("the two networks' records are of different images or classes; evaluate both on the same split")
    for name in ("device", "engine", "engine_version", "threads", "precision"):
        if getattr(small[1], name) != getattr(large[1], name):
            raise InputError(
                f"the two profiles do not add up: their {name.replace('_', ' ')} is {getattr(small[1], name)} and "
                f"{getattr(large[1], name)}; profile both alike on the device"
            )


def _joined(small: Pair, large: Pair, stage: int, package_id: str) -> Pair:
    """Records and profile of a cascade whose small network ends with this stage."""
    (records, profile), (behind, costs) = small, large
    kept = [index for index, at in enumerate(profile.exit_stages) if at <= stage]
    exits = (*(_name(SMALL, profile.exits[index]) for index in kept), *(_name(LARGE, name) for name in costs.exits))
    joined = Records(
        info=behind.info.model_copy(update={"exits": exits, "package_id": package_id}),
        labelled=behind.labelled,
        size=behind.size,
        # How many of the small network's pixels differ from the large one's final answer neither records tell: at most all.
        differing=np.concatenate([np.repeat(records.size[:, None], len(kept), axis=1), behind.differing], axis=1),
        **{
            name: np.concatenate([getattr(records, name)[:, kept], getattr(behind, name)], axis=1)
            for name in ("correct", "predicted", "sure")
        },
    )
    base = profile.base_memory_bytes
    return joined, Profile(
        **{
            **{name: getattr(costs, name) for name in Profile.model_fields},
            "package_id": package_id,
            "exits": exits,
            "exit_stages": (*(profile.exit_stages[i] for i in kept), *(stage + 1 + at for at in costs.exit_stages)),
            "stages": (*profile.stages[: stage + 1], *costs.stages),
            "heads": _both(profile.heads, costs.heads, profile, kept),
            "labels": _both(profile.labels, costs.labels, profile, kept),
            "peak_memory_bytes": profile.peak_memory_bytes + costs.peak_memory_bytes - (base or 0),
        }
    )


def _both(
    mine: dict[str, Measurement], theirs: dict[str, Measurement], profile: Profile, kept: Sequence[int]
) -> dict[str, Measurement]:
    ours = {_name(SMALL, profile.exits[index]): mine[profile.exits[index]] for index in kept}
    return ours | {_name(LARGE, name): measured for name, measured in theirs.items()}


def _name(part: str, exit_name: str) -> str:
    return f"{part}/{exit_name}"


# ---------------------------------------------------------------------------------------------------------------- package


def cascade_manifest(small: Path, large: Path) -> Manifest:
    """What a package of both networks would say of itself.

    Raises:
        InputError: no packages, or of different sizes, classes or confidences.

    """
    first, second = load_manifest(small), load_manifest(large)
    for name in ("classes", "size", "label_stride", "confidence", "pixel_thresholds", "groups"):
        if getattr(first, name) != getattr(second, name):
            raise InputError(
                f"{small} and {large} differ in their {name.replace('_', ' ')}, so they cannot answer for each other; "
                f"export both with the same"
            )
    if first.stages[0].inputs != second.stages[0].inputs:
        raise InputError(f"{small} and {large} call their images differently; export both again")
    if first.trimmed_from or second.trimmed_from:
        raise InputError("a cascade is made of whole packages, whose exits are still to be chosen; give those before trim")
    stages = (*(_moved(SMALL, entry) for entry in first.stages), *(_moved(LARGE, entry) for entry in second.stages))
    heads = (
        *(_moved_head(SMALL, head, 0) for head in first.heads),
        *(_moved_head(LARGE, head, len(first.stages)) for head in second.heads),
    )
    labels = (*(_moved(SMALL, entry) for entry in first.labels), *(_moved(LARGE, entry) for entry in second.labels))
    return second.model_copy(
        update={
            "package_id": package_identity(stages, heads, labels),
            "precision": second.precision if first.precision == "fp32" else first.precision,
            "lowering": None,
            "stages": stages,
            "heads": heads,
            "labels": labels,
            "original": None if second.original is None else _moved(LARGE, second.original),
            "deployments": (),
            "provenance": Provenance.now("cascade", inputs={SMALL: first.package_id, LARGE: second.package_id}),
        }
    )


def _moved(part: str, entry: GraphEntry) -> GraphEntry:
    return entry.model_copy(update={"file": f"{part}-{entry.file}"})


def _moved_head(part: str, head: HeadEntry, stages: int) -> HeadEntry:
    return head.model_copy(
        update={
            "file": f"{part}-{head.file}",
            "labels": f"{part}-{head.labels}",
            "exit": _name(part, head.exit),
            "stage": stages + head.stage,
        }
    )


def require_cascade_target(small: Path, large: Path, out: Path) -> None:
    """Refuse to write a cascade where it must not go; see `write_cascade`. Raises InputError."""
    if out.resolve() in (small.resolve(), large.resolve()):
        raise InputError(f"will not write the cascade over {out}, which it is made of; choose another name")
    for package in (small, large):
        require_outside(out, package, "package")
    check_replaceable(out, marker=MANIFEST)
    require_own_folders(out)
    require_place(out)


@checked_call
def write_cascade(small: Path, large: Path, out: Path) -> Manifest:
    """Write the package `out` of both networks, the small one's exits before the large one's.

    Raises:
        InputError: see `cascade_manifest`; or something else stands at `out`.

    """
    require_cascade_target(small, large, out)
    manifest = cascade_manifest(small, large)
    with new_folder(out, marker=MANIFEST) as folder:
        for part, package in ((SMALL, small), (LARGE, large)):
            entries = (*manifest.stages, *manifest.heads, *manifest.labels, manifest.original)
            for entry in entries:
                if entry is not None and entry.file.startswith(f"{part}-"):
                    shutil.copyfile(package / entry.file.removeprefix(f"{part}-"), folder / entry.file)
        manifest.save(folder / MANIFEST)
    return manifest
