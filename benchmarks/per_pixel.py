"""Per-pixel exits: what they keep of the accuracy, what they save on paper, and what they save in time.

    python benchmarks/per_pixel.py PACKAGE DATA [--out per-pixel.json] [--images N] [--timed N] [--threads 1,2]
        [--engines onnxruntime,openvino] [--tiles 64,128] [--drop 0.5]

After Layer Cascade (Li et al., CVPR 2017) and ADP-C (Liu et al., ICLR 2022): a pixel that an exit is sure of keeps that exit's
answer, only the others go on. The deepest exit asked is the best one on val, and exits of its resolution take part.

Accuracy and paper: for each chain of exits and each pixel threshold, mIoU of the merged answer, and the multiply-accumulates if
every convolution behind an exit were computed at unsure pixels alone. Without halo, as ADP-C counts, a convolution's neighbours
are free; with halo a stage is computed wherever later unsure pixels depend on its output (what lies within a stage is still not
counted). Chosen on val: most saved, at most `--drop` points below the deepest exit; figures are of test.

Time: for the best pair of exits, image by image in turn and in one process: the deepest exit alone (1.00); both exits; feature
maps multiplied by the mask of unsure pixels; tiles that hold unsure pixels, with whole halo, two cells of it, or none, one
after the other or (ONNX Runtime) as one batch; and images that leave as a whole, at the early exit and by the policy that are
as accurate on val with the fewest multiply-accumulates.

Tiles with whole halo answer what the deepest exit would, but for the lowest cells where a map hangs over the image's edge.
With --out, what is in the file already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pixel_counts import Asked, Network, Paper, Scores, merge
from pixel_ways import Pair, Pixels, Ways, WholeImages, accuracy_of_ways, time_ways

from offramp.artifacts import device_name, load_manifest
from offramp.console import print_table, showing_progress
from offramp.data.folder import Split, open_split
from offramp.files import new_file
from offramp.metrics import count_pixels, miou
from offramp.policy import PIXEL_THRESHOLDS, image_score
from offramp.progress import Progress
from offramp.runtime.engines import open_engine
from offramp.runtime.images import fit
from offramp.search.space import policies
from offramp.specs import EngineName

THRESHOLDS = (16, 20, 24, 27, 30)
"""Of the grid of pixel thresholds: 0.75 to 0.996."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Collected:
    """Sums over a split's images: K chains, T thresholds, E exits."""

    alone: npt.NDArray[np.int64]
    """(N, E, 3, C) pixels."""
    sure: npt.NDArray[np.int64]
    """(N, E, regions, GRID)."""
    merged: npt.NDArray[np.int64]
    """(K, T, 3, C) pixels."""
    macs: Floats
    """(K, T, 2): mean over images, without and with halo."""
    unsure: Floats
    """(K, T): mean share of pixels that go to the chain's last exit."""


def collect(
    network: Network, samples: Split, images: Sequence[int], chains: Sequence[tuple[int, ...]], paper: Paper, progress: Progress
) -> Collected:
    """Ask every exit about images and merge by every chain and threshold."""
    manifest, classes = network.manifest, len(network.manifest.classes)
    merged = np.zeros((len(chains), len(THRESHOLDS), 3, classes), np.int64)
    macs, unsure_share = np.zeros((len(chains), len(THRESHOLDS), 2)), np.zeros((len(chains), len(THRESHOLDS)))
    alone, sure = [], []
    for number, index in enumerate(images):
        image, labels = samples.pair(index)
        asked = Asked(*(np.stack(parts) for parts in zip(*network.ask(fit(image, manifest.size)), strict=True)))

        def counts(scores: Scores, labels: npt.NDArray[np.uint8] = labels) -> npt.NDArray[np.int64]:
            return np.stack(count_pixels(network.labels(scores, network.heads[-1]), labels, classes))

        alone.append([counts(scores) for scores in asked.scores])
        sure.append(asked.sure)
        for place, chain in enumerate(chains):
            for column, threshold in enumerate(THRESHOLDS):
                scores, unsure = merge(asked, chain, PIXEL_THRESHOLDS[threshold])
                merged[place, column] += counts(scores)
                macs[place, column] += paper.without_halo(chain, unsure), paper.with_halo(chain, unsure)
                unsure_share[place, column] += unsure[-1].mean()
        progress(f"per-pixel exits on {samples.name}", number + 1, len(images))
    total = len(images)
    return Collected(np.array(alone), np.array(sure, np.int64), merged, macs / total, unsure_share / total)


def percent(counts: npt.NDArray[np.int64]) -> Floats:
    """MIoU in % of counts (..., 3, C)."""
    return 100 * miou(*np.moveaxis(counts, -2, 0))


def choose(values: Floats, macs: Floats, least: float) -> tuple[int, int] | None:
    """Chain and threshold with the fewest multiply-accumulates without halo, of those that are as accurate as asked."""
    costs = np.where(values >= least, macs[..., 0], np.inf)
    place, column = np.unravel_index(int(costs.argmin()), costs.shape)
    return (int(place), int(column)) if np.isfinite(costs[place, column]) else None


def whole_images(val: Collected, exits: Sequence[str], paper: Paper, least: float) -> WholeImages | None:
    """The early exit and policy with the fewest multiply-accumulates at this mIoU on val; None if no image may leave."""
    last = len(exits) - 1
    best, cheapest = None, np.inf
    for early in range(last):
        behind = paper.whole((early, last)) - paper.whole((early,))
        for policy in policies(["all", "off-edges", "objects"]):
            scores = image_score(val.sure[:, early], policy.region, policy.pixel_threshold)
            order = np.argsort(-scores, kind="stable")
            gained = (val.alone[order, early] - val.alone[order, last]).cumsum(axis=0)
            values = percent(val.alone[:, last].sum(axis=0) + gained)
            # Of equal scores all leave or none. Never all of them: see `search.space.QUANTILES`.
            fits = (values >= least) & np.append(scores[order][1:] < scores[order][:-1], False)
            if not fits.any():
                continue
            number = int(np.flatnonzero(fits)[-1])
            share = (number + 1) / len(scores)
            macs = paper.whole((early, last)) - share * behind
            if macs < cheapest:
                threshold, cheapest = float(scores[order][number]), macs
                best = WholeImages(
                    exits[early], policy.region, policy.pixel_threshold, threshold, share, macs / paper.whole((last,))
                )
    return best


def accuracy(package: Path, data: Path, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Everything but times, as plain values."""
    manifest = load_manifest(package)
    engine = open_engine("onnxruntime")
    splits = {name: open_split(data, name) for name in ("val", "test")}
    images = {name: _evenly(len(split), options.images) for name, split in splits.items()}
    everyone = Network(package, manifest, engine)
    alone = np.zeros((len(manifest.heads), 3, len(manifest.classes)), np.int64)
    for index in images["val"]:
        image, labels = splits["val"].pair(index)
        for place, (scores, _, _) in enumerate(everyone.ask(fit(image, manifest.size))):
            answer = everyone.labels(scores, everyone.heads[place])
            alone[place] += np.stack(count_pixels(answer, labels, len(manifest.classes)))
        progress("which exit is the best on val", index + 1, len(splits["val"]))
    last = manifest.heads[int(percent(alone).argmax())]
    heads = [head for head in manifest.heads if head.stage < last.stage and head.scores_shape == last.scores_shape]
    heads.append(last)
    if len(heads) < 2:
        raise SystemExit(f"no exit before {last.exit} has its resolution; give a package with such exits")
    network = Network(package, manifest, engine, [head.exit for head in heads])
    paper = Paper.of(package, manifest, heads)
    final = len(heads) - 1
    chains = [*((early, final) for early in range(final)), *([tuple(range(final + 1))] if final > 1 else [])]
    found = {name: collect(network, split, images[name], chains, paper, progress) for name, split in splits.items()}
    return _as_values(found, chains, [head.exit for head in heads], paper, options.drop)


def _as_values(
    found: dict[str, Collected], chains: list[tuple[int, ...]], exits: list[str], paper: Paper, drop: float
) -> dict[str, Any]:
    val = found["val"]
    alone = {name: percent(one.alone.sum(axis=0)).tolist() for name, one in found.items()}
    least = alone["val"][-1] - drop
    base = paper.whole((len(exits) - 1,))
    values = percent(val.merged)
    best = choose(values, val.macs, least)
    pairs = [place for place, chain in enumerate(chains) if len(chain) == 2]
    pair = choose(values[pairs], val.macs[pairs], least)
    result: dict[str, Any] = {
        "exits": exits,
        "images": {name: len(one.alone) for name, one in found.items()},
        "alone": alone,
        "macs_of_deepest_exit": base,
        "thresholds": [PIXEL_THRESHOLDS[index] for index in THRESHOLDS],
        "chains": [
            {
                "exits": [exits[place] for place in chain],
                "miou": {name: percent(one.merged[place]).tolist() for name, one in found.items()},
                "macs_without_halo": {name: (one.macs[place, :, 0] / base).tolist() for name, one in found.items()},
                "macs_with_halo": {name: (one.macs[place, :, 1] / base).tolist() for name, one in found.items()},
                "unsure": {name: one.unsure[place].tolist() for name, one in found.items()},
                "macs_of_all": paper.whole(chain) / base,
            }
            for place, chain in enumerate(chains)
        ],
        "chosen": None if best is None else {"chain": best[0], "threshold": best[1]},
        "chosen_pair": None if pair is None else {"chain": pairs[pair[0]], "threshold": pair[1]},
    }
    if pair is not None:
        leaving = whole_images(val, exits, paper, values[pairs[pair[0]], pair[1]])
        result["whole_images"] = None if leaving is None else asdict(leaving)
    return result


def _evenly(there: int, wanted: int) -> list[int]:
    """Indices of so many images, evenly spread."""
    return [int(index) for index in np.unique(np.linspace(0, there - 1, min(wanted or there, there)).round())]


def pair_of(found: dict[str, Any]) -> Pair:
    """The pair of exits that was chosen on val."""
    chosen, leaving = found["chosen_pair"], found["whole_images"]
    early, last = found["chains"][chosen["chain"]]["exits"]
    return Pair(early, last, found["thresholds"][chosen["threshold"]], WholeImages(**leaving) if leaving else None)


def ways_on_test(options: argparse.Namespace, found: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """What each way really answers."""
    manifest, samples = load_manifest(options.package), open_split(options.data, "test")
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(
            options.package,
            pair_of(found),
            manifest,
            open_engine("onnxruntime"),
            Path(folder),
            tiles=options.tiles,
            together=True,
        )
        return accuracy_of_ways(ways, samples, _evenly(len(samples), options.images), options.tiles, progress)


def times(
    options: argparse.Namespace, found: dict[str, Any], engine: EngineName, threads: int, progress: Progress
) -> dict[str, list[float]]:
    """Milliseconds of each way on images of test."""
    manifest, samples = load_manifest(options.package), open_split(options.data, "test")
    images: list[Pixels] = [fit(samples.pair(index)[0], manifest.size) for index in _evenly(len(samples), options.timed)]
    with tempfile.TemporaryDirectory() as folder:
        opened, together = open_engine(engine, threads), engine == "onnxruntime"
        ways = Ways(options.package, pair_of(found), manifest, opened, Path(folder), tiles=options.tiles, together=together)
        return time_ways(ways, images, progress)


def show_ways(results: dict[str, Any]) -> None:
    """A line for each way: its accuracy, and its mean time, the deepest exit's alone as 1."""
    pair, ways = pair_of(results["accuracy"]), results["ways"]
    measured = {name: value for name, value in results.items() if name.startswith("times, ")}
    means = {setting: {way: float(np.mean(of_way)) for way, of_way in one.items()} for setting, one in measured.items()}
    names = list(dict.fromkeys([*(way for one in means.values() for way in one), *ways["miou"]]))
    rows = []
    for name in names:
        accurate = ways["miou"].get(name, ways["miou"].get(name.replace("one by one", "one batch")))
        cells = []
        for one in means.values():
            ratio = one[name] / one["deepest exit alone"] if name in one else None
            cells.append("" if ratio is None else f"{ratio:.2f} ({one[name]:.0f} ms)")
        rows.append([name, f"{accurate:.2f}", *cells])
    title = f"{_short(pair.early)} keeps pixels from {pair.threshold:.3f}, the others go on to {_short(pair.last)}"
    print_table(title, ["way", "test mIoU", *(name.removeprefix("times, ") for name in means)], rows)
    if pair.leaving:
        print(f"whole images leave at {_short(pair.leaving.exit)}, on val {pair.leaving.share_on_val:.0%}")
    print("share of the image in " + ", ".join(f"{name} {share:.1%}" for name, share in ways["shares"].items()))


def show_accuracy(result: dict[str, Any], title: str, drop: float) -> None:
    """A line for each chain, with the threshold that saves most and is accurate enough on val, or the highest one."""
    exits, alone = result["exits"], result["alone"]
    rows = [[_short(name), "", *(f"{alone[split][place]:.2f}" for split in alone)] for place, name in enumerate(exits)]
    rows = [[*row, *[""] * 4] for row in rows]
    for place, chain in enumerate(result["chains"]):
        fits = [column for column, value in enumerate(chain["miou"]["val"]) if value >= alone["val"][-1] - drop]
        best = min(fits or [-1], key=lambda column: chain["macs_without_halo"]["val"][column])
        marks = [name for name in ("chosen", "chosen_pair") if result[name] == {"chain": place, "threshold": best}]
        rows.append(
            [
                " > ".join(_short(name) for name in chain["exits"]),
                f"{result['thresholds'][best]:.3f}",
                *(f"{chain['miou'][split][best]:.2f}" for split in alone),
                f"{chain['unsure']['test'][best]:.1%}",
                *(f"{chain[kind]['test'][best]:.2f}" for kind in ("macs_without_halo", "macs_with_halo")),
                ", ".join(marks).replace("_", " "),
            ]
        )
    columns = ["exits", "sure from", "val", "test", "pixels that reach the last", "macs", "with halo", ""]
    print_table(f"{title}: mIoU, %, and macs of the deepest exit alone as 1", columns, rows)


def _short(name: str) -> str:
    return name.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0]


def main() -> None:
    """Measure what is not there yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=100, help="of each split, evenly spread; 0: all")
    parser.add_argument("--timed", type=int, default=16, help="images of test that are timed; 0: none")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--tiles", default="64,128", help="sides of tiles, pixels of the image")
    parser.add_argument("--drop", type=float, default=0.5)
    options = parser.parse_args()
    options.tiles = [int(side) for side in options.tiles.split(",")]
    results: dict[str, Any] = {"benchmark": "per-pixel exits", "device": device_name(), "package": options.package.name}
    if options.out and options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))

    def once(name: str, measure: Callable[[], Any]) -> None:
        if name not in results:
            results[name] = measure()
            if options.out:
                with new_file(options.out) as temporary:
                    temporary.write_text(json.dumps(results) + "\n", encoding="utf-8")

    with showing_progress() as progress:
        once("accuracy", lambda: accuracy(options.package, options.data, options, progress))
        chosen = results["accuracy"]["chosen_pair"]
        engines = [cast("EngineName", name) for name in options.engines.split(",")]
        settings = [(engine, int(threads)) for engine in engines for threads in options.threads.split(",")]
        if chosen:
            once("ways", lambda: ways_on_test(options, results["accuracy"], progress))
        for engine, threads in settings if chosen and options.timed else []:
            once(f"times, {engine}, {threads}", partial(times, options, results["accuracy"], engine, threads, progress))
    show_accuracy(results["accuracy"], options.package.name, options.drop)
    if chosen:
        show_ways(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
