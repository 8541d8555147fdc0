"""From artifacts to one HTML page that needs no network and no other file.

The page says what it was given; where something is missing it says, at that place, which command makes it. Here everything is
brought to the page's template: what it says in words comes from `wording`, which charts it shows from `figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp.artifacts import Provenance
from offramp.doors import as_path, checked_call
from offramp.errors import InputError
from offramp.files import new_file
from offramp.progress import Progress, silent
from offramp.report import charts
from offramp.report.choices import choices_of, front_dots
from offramp.report.embed import SCRIPTS, embedded
from offramp.report.facts import exit_rows, original_row, overfitting
from offramp.report.figures import figures_of, heat_of, histograms_of
from offramp.report.gallery import IMAGES, Gallery, make_gallery
from offramp.report.inputs import Parts, load_parts
from offramp.report.svg import marks_for
from offramp.report.wording import command_of, count, lead_of, log_facts, share_rows, short, si, tiles_of, warnings_of
from offramp.specs import final_exit
from offramp.targets import PAGE, require_file_target

if TYPE_CHECKING:
    import jinja2

MAKERS = {
    "run": ("training run", "offramp train"),
    "package": ("package", "offramp export"),
    "records": ("records", "offramp evaluate"),
    "profile": ("profile", "offramp profile"),
    "deployment": ("deployment", "offramp search"),
    "run_log": ("run log", "offramp run"),
    "chosen_by": ("records of val", "offramp evaluate --split val"),
    "gallery": ("gallery", "offramp report PACKAGE --data DATA"),
}
"""Each part of a report: what it is called, and the command that makes it."""

MOST_BYTES = 8_000_000


@checked_call
def write_report(
    out: Path,
    *,
    run: Path | None = None,
    package: Path | None = None,
    records: Path | Sequence[Path] | None = None,
    profile: Path | None = None,
    deployment: Path | None = None,
    run_log: Path | None = None,
    data: Path | None = None,
    split: str = "test",
    images: int = IMAGES,
    progress: Progress = silent,
) -> None:
    """Write one self-contained HTML page about whatever is given.

    Args:
        out: the page; an older one is replaced.
        run: folder of a training run, finished or not.
        package: folder of a package; lends its first deployment if none is given.
        records: what every exit answered on a split; those of val are chosen by, those of another one are shown.
        profile: what every step costs on a device.
        deployment: the chosen exits and thresholds.
        run_log: what happened, frame by frame.
        data: a dataset, whose images the package is asked about for a gallery.
        split: of the gallery's images.
        images: how many the gallery holds.
        progress: told of the search behind the sliders, and of each image.

    Raises:
        InputError: nothing given; a part missing, damaged, or of another package than the rest; a page of more than 8 MB;
            jinja2 not installed.

    """
    environment = _environment()
    require_file_target(out, PAGE)
    if images < 1:
        raise InputError(f"images must be at least 1, got {images}; leave out data for no gallery")
    if records is not None:
        several = records if isinstance(records, Sequence) and not isinstance(records, str) else [records]
        records = [as_path("records", each) for each in several]
    parts = load_parts(run=run, package=package, records=records, profile=profile, deployment=deployment, run_log=run_log)
    gallery = None if data is None else _gallery(parts, package, data, split, images, progress)
    text = environment.get_template("page.html").render(_context(parts, gallery, progress))
    size = len(text.encode())
    if size > MOST_BYTES:
        raise InputError(
            f"the page would have {size / 1e6:.1f} MB, which is too much to send around; "
            f"ask for fewer than {images} pictures with --images"
        )
    with new_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _gallery(parts: Parts, package: Path | None, data: Path, split: str, images: int, progress: Progress) -> Gallery:
    """Answers of the engine and precision that the records are of."""
    if package is None:
        raise InputError("a gallery needs the package that answers; give --data together with a package")
    info = parts.records.info if parts.records else None
    return make_gallery(
        package,
        data,
        split,
        images=images,
        engine=info.engine if info else "onnxruntime",
        precision=info.precision if info else "fp32",
        progress=progress,
    )


def _environment() -> jinja2.Environment:
    try:
        import jinja2  # noqa: PLC0415 - comes with an optional extra
    except ImportError as error:
        raise InputError("a report needs jinja2, which is not installed; pip install 'offramp[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("offramp.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=charts.percent, si=si, count=count, short=short)
    return environment


def _own(name: str) -> str:
    """The text of a file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _context(parts: Parts, gallery: Gallery | None, progress: Progress) -> dict[str, Any]:
    rows = exit_rows(parts)
    choices, no_choices = _choices(parts, progress)
    original = original_row(parts)
    names = {source.what: source.name for source in parts.sources}
    return {
        "title": f"{names.get('package') or names.get('training run') or 'Offramp'}: multi-exit segmentation",
        "parts": parts,
        "rows": rows,
        "original": original,
        "final": final_exit(parts.exits) if parts.exits else "",
        "marks": {name: charts.legend_mark(mark) for name, mark in marks_for(parts.exits).items()},
        "lacks": lambda *names: [MAKERS[name] for name in names if getattr(parts, name, gallery) is None],
        "gallery": gallery,
        "choices": choices,
        "no_choices": no_choices,
        "embedded": embedded(parts, gallery, choices),
        "style": _own("style.css"),
        "scripts": [_own(name) for name in SCRIPTS],
        "lead": lead_of(parts),
        "tiles": tiles_of(parts, rows, original),
        "shares": share_rows(parts),
        "warnings": warnings_of(parts),
        "figures": figures_of(parts, rows, original, front_dots(choices)),
        "overfit": overfitting(parts.run.history) if parts.run and parts.run.history else "",
        "histograms": histograms_of(parts),
        "heat": heat_of(parts),
        "log": log_facts(parts.run_log) if parts.run_log else {},
        "commands": [(source, command_of(source.provenance)) for source in parts.sources if source.provenance],
        "here": Provenance.now("offramp report"),
    }


def _choices(parts: Parts, progress: Progress) -> tuple[dict[str, Any] | None, str]:
    """What the sliders choose from; without them, why parts that are there cannot be chosen by."""
    try:
        return choices_of(parts, progress), ""
    except InputError as error:  # no reason to show nothing at all
        return None, str(error)
