"""The step `sweep`: a plan and a dataset -> networks trained and measured alike, for `search` to choose among.

Trainings come first and may be shared by a cluster. Profiles come last, on this machine, one after another, each in a process
of its own that holds nothing else: so they compare.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from shutil import copyfile

from offramp.artifacts import SWEEP, Manifest, Profile, Provenance, Records, Sweep, SweptPackage, SweptTrial, device_name
from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.files import check_replaceable, new_file, sha256_of
from offramp.metrics import miou
from offramp.progress import Progress, silent
from offramp.runtime.engines import open_engine
from offramp.sweeping.plan import Plan, Trial, Variant, read_plan
from offramp.sweeping.trials import (
    LOG,
    PACKAGE,
    PROFILE,
    Job,
    build,
    find_package,
    find_profile,
    find_records,
    fingerprints_of,
    require_same_run,
)
from offramp.tasks import Each, one_by_one

PLAN = "plan.yaml"
"""The copy of the plan that makes a folder a sweep's."""


@checked_call
def sweep(
    plan: Path,
    data: Path,
    out: Path,
    *,
    workers: AbstractContextManager[Each] | None = None,
    progress: Progress = silent,
    said: Callable[[str], None] = lambda _line: None,
) -> Sweep:
    """Train, export, evaluate and profile all that the plan lists, in the folder `out`.

    Started again, it goes on where it stopped: what is finished and still what the plan asks for is left as it is. A trial that
    fails is told of in the result, and the others go on.

    Args:
        plan: a YAML file; see `plan.PlanFile`.
        data: a dataset.
        out: the sweep's folder.
        workers: what trains and evaluates; entered after all checks, left before anything is profiled. None: this process.
        progress: told of each step of this process.
        said: told lines worth keeping.

    Raises:
        InputError: a bad plan, bad data, an engine that is not here; another training in a trial's folder than the plan asks
            for; something else in `out`; or no trial that could be finished.

    """
    asked, of_plan = read_plan(plan), sha256_of(plan)
    check_replaceable(out, marker=PLAN)
    threads = open_engine(asked.device.engine, asked.device.threads, asked.device.precision).threads
    job = Job(asked, data.resolve(), out.resolve(), fingerprints_of(data, asked.splits))
    for trial in asked.trials:
        require_same_run(job, trial)
    with new_file(out / PLAN) as temporary:
        copyfile(plan, temporary)
    errors = _build_all(job, workers, progress, said)
    trials = _measure_all(job, errors, threads, progress)
    summary = Sweep(
        device=device_name(),
        engine=asked.device.engine,
        threads=threads,
        precision=asked.device.precision,
        trials=trials,
        search=_search_command(out, trials),
        provenance=Provenance.now("sweep", inputs={"plan": of_plan, **job.fingerprints}),
    )
    summary.save(out / SWEEP)
    return summary


def _build_all(
    job: Job, workers: AbstractContextManager[Each] | None, progress: Progress, said: Callable[[str], None]
) -> dict[str, str | None]:
    """Train and evaluate; why each trial failed, or None."""
    names = [trial.name for trial in job.plan.trials]
    errors: dict[str, str | None] = {}

    def ended(found: tuple[str, str | None]) -> None:
        name, errors[name] = found
        progress("sweep", len(errors), len(names))
        said(f"{name}: {'finished' if errors[name] is None else f'failed: {errors[name]}'}")

    if workers is None:
        for one in one_by_one(partial(build, job=job, progress=progress, said=said), names):
            ended(one)
        return errors
    with workers as each:
        said(f"{len(names)} trials are handed to Ray; each tells what it does in {job.out}/NAME/{LOG}")
        for one in each(partial(build, job=job), names):
            ended(one)
    return errors


# -------------------------------------------------------------------------------------------------------------- measuring


def _measure_all(job: Job, errors: dict[str, str | None], threads: int, progress: Progress) -> tuple[SweptTrial, ...]:
    """Profile the packages, one after another, and put together what is known of every trial."""
    total, done = sum(len(trial.variants) for trial in job.plan.trials), 0
    trials = []
    for trial in job.plan.trials:
        packages: list[SweptPackage] = []
        error = errors[trial.name]
        for variant in trial.variants:
            try:
                packages.append(_measure(job, trial, variant, threads))
            except InputError as problem:
                error = error or f"{variant.name}: {problem}"
            done += 1
            progress("profile", done, total)
        trials.append(SweptTrial(name=trial.name, packages=tuple(packages), error=error))
    return tuple(trials)


def _measure(job: Job, trial: Trial, variant: Variant, threads: int) -> SweptPackage:
    """What is known of a package whose records are there; its profile is measured now, unless it is there, too."""
    found = _finished(job, trial, variant)
    if found is None:
        raise InputError(f"not in {job.folder(trial, variant)}: all workers must see that folder under the same name")
    path = job.folder(trial, variant) / PROFILE
    asked = (path, found[0].package_id, job.plan.device, threads)
    measured = find_profile(*asked)
    if measured is None:
        _profile_alone(path, job.plan)
        measured = find_profile(*asked)
    if measured is None:
        raise InputError(f"{path} is not what was asked for; is another program writing there?")
    return _swept(job, trial, variant, *found, measured)


def _finished(job: Job, trial: Trial, variant: Variant) -> tuple[Manifest, dict[str, Records]] | None:
    """The package and its records, if all of them are there. Nobody's word is taken for it."""
    manifest = find_package(job, trial, variant)
    records = {split: find_records(job, trial, variant, split) for split in job.plan.splits}
    there = {split: found for split, found in records.items() if found is not None}
    return (manifest, there) if manifest is not None and len(there) == len(records) else None


def _profile_alone(path: Path, plan: Plan) -> None:
    """Profile the package beside `path` in a process of its own: a training's memory and threads would be measured with it."""
    device = plan.device
    asked = {"--engine": device.engine, "--threads": device.threads, "--precision": device.precision, "--passes": device.passes}
    options = [str(word) for pair in asked.items() for word in pair]
    words = [sys.executable, "-m", "offramp", "profile", str(path.parent / PACKAGE), "--out", str(path), *options, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"profile ended with {done.returncode}"]
        raise InputError(lines[-1].removeprefix("offramp: "))


def _swept(
    job: Job, trial: Trial, variant: Variant, manifest: Manifest, records: dict[str, Records], measured: Profile
) -> SweptPackage:
    folder = Path(trial.name) / variant.name
    return SweptPackage(
        name=variant.name,
        size=variant.size,
        package=str(folder / PACKAGE),
        package_id=manifest.package_id,
        records={split: str(folder / f"{split}.records") for split in job.plan.splits},
        profile=str(folder / PROFILE),
        miou={split: _mious(found) for split, found in records.items()},
        latency_ms={name: measured.latency_ms((name,)) for name in measured.exits},
    )


def _mious(records: Records) -> dict[str, float]:
    means = miou(records.correct.sum(axis=0), records.predicted.sum(axis=0), records.labelled.sum(axis=0)[None])
    return dict(zip(records.info.exits, (float(mean) for mean in means), strict=True))


def _search_command(out: Path, trials: tuple[SweptTrial, ...]) -> tuple[str, ...]:
    packages = [package for trial in trials for package in trial.packages]
    pairs = [("--records", out / one.records["val"], "--profile", out / one.profile) for one in packages]
    words = [str(word) for pair in pairs for word in pair]
    return ("offramp", "search", *words, "--mode", "input-dependent", "--out", str(out / "chosen.json")) if words else ()
