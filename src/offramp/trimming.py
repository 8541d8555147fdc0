"""The step `trim`: a package and a deployment -> the package of the chosen exits alone.

Only the manifest is edited and files are left out, so it works on the device, without torch or ONNX tools. Who has
these can have stages merged.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from offramp.artifacts import (
    MANIFEST,
    Deployment,
    GraphEntry,
    HeadEntry,
    Manifest,
    Provenance,
    load_json,
    load_manifest,
    needed_outputs,
    package_identity,
    require_same_package,
)
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import check_replaceable, new_folder, sha256_of
from offramp.targets import require_outside, require_own_folders


class Merge(Protocol):
    """What makes one graph of all that runs between one exit and the next; see `export.joining.merge_stages`."""

    def __call__(
        self, package: Path, manifest: Manifest, heads: Sequence[HeadEntry], *, confidence: bool = True
    ) -> tuple[Sequence[tuple[GraphEntry, bytes]], Sequence[HeadEntry]]:
        """From a package, its manifest and some heads to the stages that they need, with their files, and the heads in them."""


@checked_call
def trim(package: Path, deployment: Path, out: Path, *, merge: Merge | None = None, confidence: bool = True) -> Manifest:
    """Write the package `out` with the stages and heads that the deployment uses.

    Args:
        package: an overprovisioned package.
        deployment: a file that `offramp search` made for it.
        out: the new package; an earlier one of that name is replaced, unless it is `package` itself.
        merge: `export.joining.merge_stages`, to make one graph of what runs between one exit and the next.
        confidence: whether answers still come with their confidence; without it, which takes `merge`, no policy can judge.

    Raises:
        InputError: the parts do not belong together, or something else stands at `out`.

    """
    if out.resolve() == package.resolve():
        raise InputError(f"will not trim {package} into itself: the other exits would be lost; choose another --out")
    require_outside(out, package, "package")
    check_replaceable(out, marker=MANIFEST)
    require_own_folders(out)
    manifest = load_manifest(package)
    chosen = load_json(deployment, Deployment)
    require_same_package(manifest.package_id, deployment=chosen.package_id)
    if not confidence and (merge is None or chosen.mode == "input-dependent"):
        raise InputError(
            "confidence can be left out where stages are merged and no policy judges by it: merge, and choose the mode "
            "budgeted or anytime"
        )
    heads = tuple(manifest.head(name) for name in chosen.exits)
    if [head.stage for head in heads] != sorted(head.stage for head in heads):
        raise InputError(f"damaged deployment {deployment}: its exits are not in order of depth; search again")
    stages, heads = _only_needed(manifest.stages[: heads[-1].stage + 1], heads)
    made: dict[str, bytes] = {}
    if merge is not None:
        merged, within = merge(package, manifest, tuple(manifest.head(name) for name in chosen.exits), confidence=confidence)
        heads = tuple(within)
        stages = tuple(entry for entry, _ in merged)
        made = {entry.file: content for entry, content in merged}
    needed = {head.labels for head in heads}
    labels = tuple(entry for entry in manifest.labels if entry.file in needed)
    trimmed = Manifest(
        **{
            **{name: getattr(manifest, name) for name in Manifest.model_fields},
            "package_id": package_identity(stages, heads, labels),
            "trimmed_from": manifest.trimmed_from or manifest.package_id,
            "stages": stages,
            "heads": heads,
            "labels": labels,
            "original": None,
            "deployments": (chosen,),
            "provenance": Provenance.now("trim", inputs={"package": manifest.package_id, "deployment": sha256_of(deployment)}),
        }
    )
    with new_folder(out, marker=MANIFEST) as folder:
        for graph in (*stages, *heads, *labels):
            if graph.file in made:
                (folder / graph.file).write_bytes(made[graph.file])
            else:
                shutil.copyfile(package / graph.file, folder / graph.file)
        trimmed.save(folder / MANIFEST)
    return trimmed


def _only_needed(
    stages: tuple[GraphEntry, ...], heads: tuple[HeadEntry, ...]
) -> tuple[tuple[GraphEntry, ...], tuple[HeadEntry, ...]]:
    """Without stages that nothing of this is made from: of a cascade's small network those behind its last exit."""
    kept = [index for index, outputs in enumerate(needed_outputs(stages, heads)) if outputs]
    moved = tuple(head.model_copy(update={"stage": sum(index <= head.stage for index in kept) - 1}) for head in heads)
    return tuple(stages[index] for index in kept), moved
