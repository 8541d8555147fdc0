"""The whole way, step after step, as a user would go it: on drawn scenes, or from any finished run.

It ends with a table, a picture sheet and a report.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from offramp.artifacts import Deployment, Profile, Records
from offramp.console import print_table
from offramp.data.folder import Split, open_split
from offramp.data.synthetic import draw_dataset
from offramp.errors import InputError
from offramp.evaluation import SideBySide, evaluate, side_by_side
from offramp.files import new_file, sha256_of
from offramp.metrics import miou
from offramp.policy import image_score
from offramp.profiling import profile
from offramp.progress import Progress, silent
from offramp.report.page import write_report
from offramp.report.sheet import Answer, SheetRow, picture_sheet
from offramp.runtime.engines import open_engine
from offramp.runtime.images import fit
from offramp.runtime.outputs import RUN_LOG
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.runtime.stream import run as run_over
from offramp.search import search
from offramp.specs import REGIONS, Mode, SearchSpec, TrainingSpec
from offramp.trimming import trim

IMAGES = 240
SIZE = (192, 128)
NETWORK = "resnet10t"
EXITS = 3
TRAINING = TrainingSpec(
    epochs=24, exit_epochs=6, crop=SIZE, batch_size=8, learning_rate=2e-3, zoom=(0.8, 1.5), validate_every=4
)
SHOWN = 6
"""Images on the picture sheet."""


@dataclass(frozen=True)
class ExitRow:
    """A line of the demo's table; mIoU and shares on the test split."""

    name: str
    miou: float
    latency_ms: float
    latency_ratio: float
    """The original network's as 1."""
    share: float | None


@dataclass(frozen=True)
class DemoResult:
    """What came out, and where it lies."""

    folder: Path
    rows: tuple[ExitRow, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"folder": str(self.folder), "rows": [asdict(row) for row in self.rows]}

    def print(self) -> None:
        """The table, and where to look."""
        rows = [
            [
                row.name,
                f"{row.miou:.3f}",
                f"{row.latency_ms:.2f}",
                f"{row.latency_ratio:.2f}",
                "" if row.share is None else f"{row.share:.0%}",
            ]
            for row in self.rows
        ]
        print_table("test split", ["exit", "mIoU", "latency ms", "of the original", "images that left there"], rows)
        for what, name in (("pictures", "pictures.png"), ("report", "report.html"), ("label maps and overlays", "answers")):
            print(f"{what}: {self.folder / name}")  # noqa: T201 - the result


def demo(out: Path, *, progress: Progress = silent) -> DemoResult:
    """Draw scenes in the folder `out`, train on them and go the whole way.

    Started again in the same folder, it goes on with the training where that stopped.

    Raises:
        InputError: `out` holds something else.

    """
    from offramp.training.train import train  # noqa: PLC0415 - torch is loaded by the steps that need it

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "scenes").exists())):
        raise InputError(f"will not write the demo into {out}: it is not empty and no earlier demo; choose another --out")
    data, run = out / "scenes", out / "run"
    if not data.exists():
        draw_dataset(data, images=IMAGES, size=SIZE, progress=progress)
    train(data, run, network=NETWORK, exits=EXITS, training=TRAINING, resume=True, progress=progress)
    return whole_way(data, run, out, progress=progress)


def whole_way(
    data: Path, run: Path, out: Path, *, threads: int = 0, max_drop_pp: float = 1.0, progress: Progress = silent
) -> DemoResult:
    """From a finished run to a table: export, evaluate, profile, search in all modes, trim, run side by side, report.

    Args:
        data: the dataset of the run; exits and thresholds are chosen on `val`, figures are of `test`.
        run: a finished run.
        out: where everything goes.
        threads: of the engine; 0 for all.
        max_drop_pp: points of mIoU that the budgeted and input-dependent deployments may lose against the final exit.
        progress: told of each step.

    Raises:
        InputError: bad data, or an unfinished run.

    """
    from offramp.export.package import export  # noqa: PLC0415 - as above

    package = out / "package"
    export(run, package, progress=progress)
    records = {split: evaluate(package, data, split, threads=threads, progress=progress) for split in ("val", "test")}
    for split, part in records.items():
        part.save(out / f"{split}.records")
    costs = profile(package, threads=threads, progress=progress)
    costs.save(out / "here.profile")
    hashes = {"records": sha256_of(out / "val.records"), "profile": sha256_of(out / "here.profile")}
    for mode in get_args(Mode):
        limit = None if mode == "anytime" else max_drop_pp
        chosen = search(records["val"], costs, SearchSpec(mode=mode, max_drop_pp=limit), inputs=hashes)
        chosen.save(out / f"{mode}.json")
        trim(package, out / f"{mode}.json", out / f"package-{mode}")
    predictor = Predictor(out / "package-input-dependent", threads=threads)
    deployment = predictor.deployment
    assert deployment is not None
    samples = open_split(data, "test")
    run_over(samples.samples[0].image.parent, predictor, out / "answers", progress=progress)
    original = StagedNetwork(package, open_engine("onnxruntime", threads)).load_original()
    assert original is not None
    measured = side_by_side(predictor, original, data, "test", progress=progress)
    _draw_pictures(out, samples, deployment)
    write_report(
        out / "report.html",
        run=run,
        package=package,
        records=(out / "val.records", out / "test.records"),
        profile=out / "here.profile",
        deployment=out / "input-dependent.json",
        run_log=out / "answers" / RUN_LOG,
        data=data,
        progress=progress,
    )
    result = DemoResult(out, _rows(records["test"], costs, deployment, measured))
    with new_file(out / "result.json") as temporary:
        machine = {name: getattr(costs, name) for name in ("device", "engine", "engine_version", "threads", "precision")}
        values = {"machine": machine, "rows": result.to_json()["rows"], "side_by_side": asdict(measured)}
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return result


def _rows(test: Records, costs: Profile, chosen: Deployment, measured: SideBySide) -> tuple[ExitRow, ...]:
    """Exits alone by their records and profile; the deployment and the original network as they ran side by side."""
    assert costs.original is not None
    means = miou(test.correct.sum(axis=0), test.predicted.sum(axis=0), test.labelled.sum(axis=0)[None])
    whole = costs.original.median_ms
    rows = []
    for name, mean in zip(test.info.exits, means, strict=True):
        latency = costs.latency_ms((name,))
        share = measured.shares.get(name, 0.0) if name in chosen.exits else None
        rows.append(ExitRow(name, float(mean), latency, latency / whole, share))
    theirs = float(np.mean(measured.original_latencies_ms))
    ours = float(np.mean(measured.latencies_ms))
    rows.append(ExitRow("input-dependent deployment", measured.miou, ours, measured.latency_ratio, None))
    rows.append(ExitRow("original network", measured.original_miou, theirs, 1.0, None))
    return tuple(rows)


def _draw_pictures(out: Path, samples: Split, chosen: Deployment) -> None:
    """A picture sheet of images spread evenly over the split."""
    network = StagedNetwork(out / "package", open_engine("onnxruntime"))
    rows = []
    for index in np.unique(np.linspace(0, len(samples) - 1, SHOWN).round().astype(int)):
        image, labels = samples.pair(int(index))
        left = False
        answers: list[Answer] = []
        for found in network.iter_exits(fit(image, network.manifest.size)):
            score = float(image_score(found.sure, REGIONS.index(chosen.region), chosen.pixel_threshold))
            here = not left and _leaves(chosen, found.exit, score)
            left = left or here
            answers.append(Answer(found.exit, found.labels(), found.confidence, score, left_here=here))
        rows.append(SheetRow(samples.samples[int(index)].name, image, labels, answers))
    picture_sheet(out / "pictures.png", rows, network.manifest.classes, network.manifest.palette)


def _leaves(chosen: Deployment, name: str, score: float) -> bool:
    """Whether an image with this score at this exit leaves there, if it has come that far."""
    if name not in chosen.exits:
        return False
    place = chosen.exits.index(name)
    return place == len(chosen.image_thresholds) or score >= chosen.image_thresholds[place]
