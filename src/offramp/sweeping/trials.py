"""One trial of a sweep: training, packages, records. What is there and is what was asked for is not made again.

DIR/NAME holds `run`, `log.txt` and a folder for each variant with `package`, a records file for each split and `here.profile`.
Every part is known by what it says it was made from, never by its name alone.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from offramp.artifacts import Manifest, Profile, Records, device_name, load_json, load_manifest, load_records
from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.files import sha256_of
from offramp.progress import Progress, silent
from offramp.runtime.engines import engine_version
from offramp.sweeping.plan import DeviceEntry, Plan, Trial, Variant
from offramp.training.run_file import read_run
from offramp.training.splits import fingerprint_of

RUN = "run"
PACKAGE = "package"
PROFILE = "here.profile"
LOG = "log.txt"


@dataclass(frozen=True)
class Job:
    """What every worker must know. Paths are absolute and mean the same to all of them."""

    plan: Plan
    data: Path
    out: Path
    fingerprints: dict[str, str]
    """Of each evaluated split; under `train`, what runs know their data by."""

    def folder(self, trial: Trial, variant: Variant | None = None) -> Path:
        """Of a trial, or of one of its variants."""
        return self.out / trial.name / (variant.name if variant else "")


def build(name: str, *, job: Job, progress: Progress = silent, said: Callable[[str], None] = lambda _line: None) -> None:
    """The task: train a trial, export its packages and evaluate them, as far as that is not done."""
    trial = next(trial for trial in job.plan.trials if trial.name == name)

    def tell(what: str, done: int, total: int) -> None:
        progress(f"{name}, {what}", done, total)

    with _log(job.folder(trial) / LOG) as log:

        def line(text: str) -> None:
            log(text)
            said(f"{name}: {text}")

        _train(job, trial, tell, line)
        for variant in trial.variants:
            _export(job, trial, variant, tell, line)
            for split in job.plan.splits:
                _evaluate(job, trial, variant, split, tell, line)


@contextmanager
def _log(path: Path) -> Iterator[Callable[[str], None]]:
    """A line with the time for all that happens to a trial, on whatever machine: the one thing to read when it fails."""
    if path.is_symlink() or path.parent.is_symlink():
        raise InputError(f"will not write into {path}: it is, or lies behind, a link that may lead anywhere; remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:

        def log(text: str) -> None:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
            file.flush()

        log(f"begun by process {os.getpid()} on {socket.gethostname()}")
        try:
            yield log
        except Exception:
            log(f"failed\n{traceback.format_exc()}")
            raise
        log("finished")


# --------------------------------------------------------------------------------------------------------------- training


def require_same_run(job: Job, trial: Trial) -> None:
    """Refuse a plan that asks for another training than the one that lies in the trial's folder, begun or finished.

    Raises:
        InputError: names the first option that differs.

    """
    folder = job.folder(trial)
    run = read_run(folder / RUN)
    if run is None:
        return
    begun = {
        **run.choice.model_dump(),
        **run.training.model_dump(),
        "data": run.data_fingerprint,
        "weights": run.weights_sha256,
    }
    asked = {**trial.choice.model_dump(), **trial.training.model_dump(), "data": job.fingerprints["train"]}
    asked["weights"] = sha256_of(trial.weights) if trial.weights else None
    for name, value in asked.items():
        if begun[name] != value:
            was, now = (str(one)[:40] for one in (begun[name], value))
            raise InputError(
                f"the trial {trial.name} was begun with {name} {was}, the plan now says {now}; give the entry another name, "
                f"or remove {folder} to train it anew"
            )


def _train(job: Job, trial: Trial, progress: Progress, said: Callable[[str], None]) -> None:
    from offramp.models.checkpoint import WEIGHTS  # noqa: PLC0415 - torch is loaded by the steps that need it
    from offramp.training.train import train  # noqa: PLC0415 - as above

    require_same_run(job, trial)
    run = job.folder(trial) / RUN
    if (run / WEIGHTS).exists():
        return
    train(
        job.data,
        run,
        weights=trial.weights,
        training=trial.training,
        resume=True,
        progress=progress,
        said=said,
        **trial.choice.model_dump(exclude_unset=True),
    )


# --------------------------------------------------------------------------------------- what can be made again: the others


def _export(job: Job, trial: Trial, variant: Variant, progress: Progress, said: Callable[[str], None]) -> None:
    if find_package(job, trial, variant) is not None:
        return
    from offramp.export.package import export  # noqa: PLC0415 - as above
    from offramp.lowering import lower  # noqa: PLC0415 - as above

    folder = job.folder(trial, variant) / PACKAGE
    if variant.stored != "fp32":
        whole = Variant(variant.size)
        _export(job, trial, whole, progress, said)
        said(f"lower to {variant.name}")
        threads = job.plan.device.threads
        lower(job.folder(trial, whole) / PACKAGE, folder, variant.stored, job.data, threads=threads, progress=progress)
        return
    said(f"export at {variant.name}")
    export(job.folder(trial) / RUN, folder, size=variant.size, network=_own_code(trial), progress=progress)


def _own_code(trial: Trial) -> str | None:
    """Code of the user's own is run only if it is named again; the plan names it."""
    from offramp.models.sources import is_user_code  # noqa: PLC0415 - as above

    return trial.choice.network if is_user_code(trial.choice.network) else None


def _evaluate(job: Job, trial: Trial, variant: Variant, split: str, progress: Progress, said: Callable[[str], None]) -> None:
    if find_records(job, trial, variant, split) is not None:
        return
    said(f"evaluate {split} at {variant.name}")
    folder, device = job.folder(trial, variant), job.plan.device
    records = evaluate(
        folder / PACKAGE,
        job.data,
        split,
        engine=device.engine,
        threads=device.threads,
        precision=device.precision,
        progress=progress,
    )
    path = folder / f"{split}.records"
    path.unlink(missing_ok=True)  # damaged, or of something else: `find_records` had no use for it
    records.save(path)


def find_package(job: Job, trial: Trial, variant: Variant) -> Manifest | None:
    """The variant's package, if it is whole and was made of the trial's weights, a lowered one of the data that are there."""
    from offramp.models.checkpoint import WEIGHTS  # noqa: PLC0415 - as above

    weights = job.folder(trial) / RUN / WEIGHTS
    try:
        manifest = load_manifest(job.folder(trial, variant) / PACKAGE)
    except InputError:
        return None
    if variant.stored != "fp32":
        whole, lowering = find_package(job, trial, Variant(variant.size)), manifest.lowering
        if whole is None or lowering is None or manifest.precision != variant.stored:
            return None
        fits = (lowering.made_from, lowering.data_fingerprint) == (whole.package_id, job.fingerprints["val"])
        return manifest if fits else None
    made_of = manifest.provenance.inputs.get("weights")
    fits = weights.is_file() and made_of == sha256_of(weights) and manifest.size == variant.size
    return manifest if fits else None


def find_records(job: Job, trial: Trial, variant: Variant, split: str) -> Records | None:
    """The records of a split, if they are of the package and data that are there, and made as the plan says."""
    manifest = find_package(job, trial, variant)
    try:
        records = load_records(job.folder(trial, variant) / f"{split}.records")
    except InputError:
        return None
    info, device = records.info, job.plan.device
    got = (info.package_id, info.split, info.data_fingerprint, info.engine, info.precision)
    wanted = (manifest and manifest.package_id, split, job.fingerprints[split], device.engine, device.precision)
    return records if got == wanted else None


def find_profile(path: Path, package_id: str, device: DeviceEntry, threads: int) -> Profile | None:
    """The profile in a file, if it was measured of that package, on this machine and as the plan says."""
    try:
        found = load_json(path, Profile)
    except InputError:
        return None
    got = (found.package_id, found.engine, found.engine_version, found.threads, found.precision, found.device)
    wanted = (package_id, device.engine, engine_version(device.engine), threads, device.precision, device_name())
    return found if got == wanted and found.provenance.options.get("passes") == device.passes else None


def fingerprints_of(data: Path, splits: tuple[str, ...]) -> dict[str, str]:
    """See `Job.fingerprints`. Raises InputError if a split is missing or broken."""
    found = {split: open_split(data, split).fingerprint() for split in splits}
    return found | {"train": fingerprint_of(open_split(data, "train"), open_split(data, "val"))}
