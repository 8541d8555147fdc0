"""What a package can do in each mode: its Pareto front on val, and deployments from it that were run on test.

    python benchmarks/pareto.py PACKAGE DATA --val val.records --test test.records --profile here.profile --out runs/pareto

Budgeted and input-dependent deployments are searched for at several limits on mean latency, on val. Each is trimmed, and run
over the test split for real, image by image in turn with the original network. Beside it stands what the search expected and
what the same deployment does on the test split's records, which tells the part of the error that comes from other images from
the part that comes from time. The anytime deployment is run at several deadlines. Everything is in OUT/pareto.json, the plot
in OUT/pareto.svg.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from offramp.artifacts import Deployment, Profile, Records, load_json, load_records
from offramp.console import Listener, print_table, showing_progress
from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.evaluation import side_by_side
from offramp.files import new_file
from offramp.metrics import count_pixels, miou
from offramp.report.svg import Canvas, Mark, Scale, widened
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.search import front, search
from offramp.search.estimate import Evidence, leaves_at, mean_cost, places_of
from offramp.search.space import Candidate
from offramp.specs import Mode, PolicyName, SearchSpec
from offramp.trimming import trim

LEAST_DRAWN = 0.5
"""mIoU of a front."""
STYLE = """
text{font:12px system-ui,sans-serif;fill:#333} line.grid{stroke:#ddd} .axis{stroke:#666} .tick{fill:#666}
.line{fill:none;stroke-width:1.6} .line.a{stroke:#999} .line.b{stroke:#0072b2} .mark.a{fill:#999} .mark.b{fill:#0072b2}
.mark.c{fill:#d55e00} .mark.d{fill:#e69f00} .link{stroke:#d55e00;stroke-opacity:.35}
"""


def searched(profile: Profile, mode: Mode, options: argparse.Namespace, share: float) -> SearchSpec:
    """The limits of one point: a share of the original network's latency."""
    assert profile.original is not None
    limit = share * profile.original.median_ms
    policies: tuple[PolicyName, ...] = tuple(options.policies.split(","))
    return SearchSpec(mode=mode, max_latency_ms=limit, max_exits=options.early, policies=policies)


def one_point(
    spec: SearchSpec, val: Records, test: Records, profile: Profile, options: argparse.Namespace, progress: Listener
) -> dict[str, Any]:
    """Search, trim, replay on the records of test, run on test."""
    deployment = search(val, profile, spec, inputs={}, progress=progress)
    name = f"{spec.mode}-{spec.max_latency_ms:.1f}"
    deployment.save(options.out / f"{name}.json")
    trim(options.package, options.out / f"{name}.json", options.out / name)
    original = StagedNetwork(options.package, open_engine(profile.engine, profile.threads)).load_original()
    assert original is not None
    predictor = Predictor(options.out / name, engine=profile.engine, threads=profile.threads)
    run = side_by_side(predictor, original, options.data, "test", progress=progress)
    return {
        "limit_ms": spec.max_latency_ms,
        "exits": deployment.exits,
        "region": deployment.region,
        "pixel_threshold": deployment.pixel_threshold,
        "expected": {
            "miou": deployment.expected.miou,
            "miou_interval": deployment.expected.miou_interval,
            "latency_ms": deployment.expected.latency_ms,
        },
        "test_records": replayed(deployment, test, profile),
        "test_run": {
            "miou": run.miou,
            "latency_ms": float(np.mean(run.latencies_ms)),
            "original_latency_ms": float(np.mean(run.original_latencies_ms)),
            "original_miou": run.original_miou,
            "latency_ratio": run.latency_ratio,
        },
    }


def replayed(deployment: Deployment, test: Records, profile: Profile) -> dict[str, Any]:
    """What a deployment does on the images of other records, at the profile's times."""
    evidence = Evidence.of(test, profile)
    chosen = Candidate(
        deployment.exits, deployment.region, deployment.pixel_threshold, deployment.image_thresholds, 0.0, 0.0, 0.0, 0.0
    )
    left, places = leaves_at(evidence, chosen), np.array(places_of(evidence, chosen))
    answered = places[left]
    images = np.arange(evidence.images)
    correct, predicted = (part[images, answered].sum(axis=0) for part in (test.correct, test.predicted))
    paths = np.array([evidence.costs.path_ms(places[: place + 1].tolist()) for place in range(len(places))])
    shares = np.bincount(left, minlength=len(places)) / evidence.images
    return {
        "miou": float(miou(correct, predicted, test.labelled.sum(axis=0))),
        "latency_ms": float(mean_cost(shares, paths)),
        "shares": shares.tolist(),
    }


def anytime(val: Records, profile: Profile, options: argparse.Namespace, progress: Listener) -> dict[str, Any]:
    """The anytime deployment at deadlines spread like those that it was searched for: mIoU obtained, share missed."""
    deployment = search(val, profile, SearchSpec(mode="anytime"), inputs={}, progress=progress)
    deployment.save(options.out / "anytime.json")
    trim(options.package, options.out / "anytime.json", options.out / "anytime")
    predictor = Predictor(options.out / "anytime", engine=profile.engine, threads=profile.threads)
    samples = open_split(options.data, "test")
    classes = len(predictor.manifest.classes)
    ready = [profile.latency_ms(deployment.exits[: place + 1]) for place in range(len(deployment.exits))]
    found = []
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.2):
        deadline = ready[0] + share * (ready[-1] - ready[0])
        counts, missed, exits = np.zeros((3, classes), np.int64), 0, []
        for index in range(len(samples)):
            image, labels = samples.pair(index)
            answer = predictor(image, deadline_ms=deadline)
            counts += np.stack(count_pixels(answer.labels, labels, classes))
            missed += answer.latency_ms > deadline
            exits.append(answer.exit)
            progress(f"anytime at {deadline:.1f} ms", index + 1, len(samples))
        shares = {name: exits.count(name) / len(exits) for name in deployment.exits}
        found.append({"deadline_ms": deadline, "miou": float(miou(*counts)), "missed": missed / len(samples), "shares": shares})
    return {"exits": deployment.exits, "expected_quality": deployment.expected.quality, "ready_ms": ready, "deadlines": found}


def steps(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A front as it is: what can be had at a latency is what the next faster one has."""
    corners = [(after[0], before[1]) for before, after in pairwise(line)]
    return [point for pair in zip_longest(line, corners) for point in pair if point is not None]


def draw(path: Path, fronts: dict[str, list[tuple[float, float]]], points: dict[str, list[dict[str, Any]]]) -> None:
    """Fronts on val as lines, deployments run on test as points."""
    ran = [one["test_run"] for rows in points.values() for one in rows]
    fronts = {mode: steps([(x, y) for x, y in line if y >= LEAST_DRAWN]) for mode, line in fronts.items()}
    xs = [x for line in fronts.values() for x, _ in line] + [one["latency_ms"] for one in ran] + [ran[0]["original_latency_ms"]]
    ys = [100 * y for line in fronts.values() for _, y in line] + [100 * one["miou"] for one in ran]
    x, y = Scale(0, 1.05 * max(xs), 40, 760), Scale(*widened(ys), 380, 24)
    canvas = Canvas(780, 440, "Pareto fronts on val and deployments run on test")
    canvas.axes(x, y, "mean latency, ms", "mIoU, %")
    for number, ((mode, line), css) in enumerate(zip(fronts.items(), "ab", strict=True)):
        canvas.path([(x(latency), y(100 * value)) for latency, value in line], f"line {css}")
        canvas.path([(x.stop - 248, 300 + 16 * number), (x.stop - 233, 300 + 16 * number)], f"line {css}")
        canvas.text(x.stop - 226, 304 + 16 * number, f"{mode}, expected on val")
    for (mode, rows), css in zip(points.items(), "dc", strict=True):
        for one in rows:
            place = x(one["test_run"]["latency_ms"]), y(100 * one["test_run"]["miou"])
            expected = x(one["expected"]["latency_ms"]), y(100 * one["expected"]["miou"])
            canvas.line(*expected, *place, "link")
            canvas.mark(*place, Mark(css), size=4, title=f"{mode}, run on test")
    for number, (text, css) in enumerate((("budgeted, run on test", "d"), ("input-dependent, run on test", "c"))):
        canvas.mark(x.stop - 240, 332 + 16 * number, Mark(css), size=4)
        canvas.text(x.stop - 226, 336 + 16 * number, text)
    place = x(ran[0]["original_latency_ms"]), y(100 * ran[0]["original_miou"])
    canvas.mark(*place, Mark("final", "square"), size=4)
    canvas.text(place[0] - 8, place[1] + 4, "original, test", anchor="end")
    with new_file(path) as temporary:
        temporary.write_text(canvas.as_file(STYLE), encoding="utf-8")


def main() -> None:
    """Search, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    for name in ("val", "test", "profile", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--early", type=int, default=2)
    parser.add_argument("--policies", default="all,off-edges,objects,mean")
    parser.add_argument("--shares", default="0.45,0.55,0.65,0.75,0.85,0.95")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    val, test = (load_records(path) for path in (options.val, options.test))
    profile = load_json(options.profile, Profile)
    modes: tuple[Mode, ...] = ("budgeted", "input-dependent")
    fronts: dict[str, list[tuple[float, float]]] = {}
    points: dict[str, list[dict[str, Any]]] = {}
    with showing_progress() as progress:
        for mode in modes:
            whole = front(val, profile, SearchSpec(mode=mode, max_exits=options.early), progress=progress)
            fronts[mode] = [(one.latency_ms, one.miou) for one in whole]
            points[mode] = []
            for share in map(float, options.shares.split(",")):
                try:
                    spec = searched(profile, mode, options, share)
                    points[mode].append(one_point(spec, val, test, profile, options, progress))
                except InputError as error:
                    progress.line(str(error))
        at_deadlines = anytime(val, profile, options, progress)
    values = {"profile_device": profile.device, "threads": profile.threads, "fronts": fronts, "points": points}
    values |= {"anytime": at_deadlines}
    with new_file(options.out / "pareto.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(options.out / "pareto.svg", fronts, points)
    rows = [
        [
            mode,
            f"{one['limit_ms']:.1f}",
            ", ".join(one["exits"]),
            *(f"{100 * one[what]['miou']:.1f}" for what in ("expected", "test_records", "test_run")),
            *(f"{one[what]['latency_ms']:.1f}" for what in ("expected", "test_records", "test_run")),
            f"{one['test_run']['latency_ratio']:.2f}",
        ]
        for mode, found in points.items()
        for one in found
    ]
    columns = [
        "mode",
        "limit ms",
        "exits",
        "mIoU: val",
        "test records",
        "test run",
        "ms: val",
        "test records",
        "test run",
        "of original",
    ]
    print_table("expected and measured", columns, rows)
    print(json.dumps({"benchmark": "pareto", **values}))


if __name__ == "__main__":
    main()
