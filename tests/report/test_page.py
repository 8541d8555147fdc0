import builtins
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from offramp.artifacts import load_json, load_manifest, load_records
from offramp.errors import InputError
from offramp.report import write_report
from offramp.report.facts import class_iou, exit_miou, latency_p95, overfitting, replay, scores_of
from offramp.report.inputs import Epoch, History, load_history

EXITS = ("blocks.1:fcn/c16", "blocks.3:fcn/c32", "final")
SECTIONS = {
    "headline",
    "accuracy-latency",
    "exits",
    "road",
    "classes",
    "scores",
    "training",
    "run-log",
    "provenance",
}
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Checks that tags balance; keeps sections, table rows, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.rows, self.seen, self.words = [], set(), [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.add(dict(attrs)["id"])
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def row(self, start, nth=0):
        """Stripped cells of the nth row that starts so."""
        found = [[cell.strip() for cell in row] for row in self.rows if row and row[0].strip().startswith(start)]
        return found[nth]


@pytest.fixture
def write(tmp_path):
    def run(**given):
        out = tmp_path / "report.html"
        write_report(out, **given)
        return out.read_text(encoding="utf-8")

    return run


@pytest.fixture
def full(artifacts, write):
    return write(**artifacts.all)


def test_every_section_is_there_when_everything_is_given(full):
    page = Page(full)
    assert page.sections == SECTIONS
    # Sliders need records of val, pictures a dataset; all else is there.
    assert page.text.count("not given") == 2
    assert "records of val (made by offramp evaluate --split val )" in page.text
    assert "gallery (made by offramp report PACKAGE --data DATA )" in page.text


def test_the_page_needs_no_network(full):
    assert "@import" not in full
    assert "url(" not in full
    for tag, attributes in Page(full).seen:
        assert tag not in {"link", "iframe", "img"}
        assert not {"src", "href", "xlink:href", "srcset"} & attributes.keys()
    assert not re.search("fetch\\(|XMLHttpRequest|import\\(", full)


def test_names_are_escaped(full):
    assert "<script>alert" not in full
    assert r"\u003cscript>alert(1)\u003c/script>" in full, "in the script's own data"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in full
    assert "tiny&lt;net&gt;" in full
    assert "Board <X>" not in full


def test_pictures_and_tables_are_described(full):
    seen = Page(full).seen
    pictures = [attributes for tag, attributes in seen if tag == "svg"]
    assert len(pictures) > 10
    assert all(attributes["role"] == "img" for attributes in pictures)
    headers = [attributes for tag, attributes in seen if tag == "th"]
    assert headers
    assert all(attributes["scope"] in {"col", "row"} for attributes in headers)
    figures = [tag for tag, _ in seen if tag == "figure"]
    assert len(figures) == len([tag for tag, _ in seen if tag == "figcaption"]) == 8


def test_the_table_of_exits_tells_what_the_artifacts_say(full, records):
    correct, predicted, labelled = (array.sum(axis=0) for array in (records.correct, records.predicted, records.labelled))
    mious = [100 * np.mean([correct[e, c] / (predicted[e, c] + labelled[c] - correct[e, c]) for c in (0, 1)]) for e in range(3)]
    # Medians by hand: stages 2.15, 3.05, 5.05; heads 1.0, 1.5, 2.0; label map 0.25; original 12.2.
    latencies = (3.4, 6.95, 12.5)
    page = Page(full)
    for index, (name, macs, size) in enumerate(zip(EXITS, ("1.5 M", "3.5 M", "7.5 M"), ("5.0", "9.0", "13.0"), strict=True)):
        # The first row of that name in this table is the one with nine cells.
        cells = next(row for row in page.rows if len(row) == 9 and row[0].strip().startswith(name))
        assert [cell.strip() for cell in cells[1:3]] == [f"{mious[index]:.1f}", f"{mious[2] - mious[index]:.1f}"]
        assert cells[3].strip() == f"{latencies[index]:.2f}"
        assert [cell.strip() for cell in cells[5:]] == [
            f"{12.2 / latencies[index]:.2f}",
            macs,
            size,
            ("24", "whole image", "\N{EN DASH}")[index],
        ]
    assert page.row("original network")[3:] == ["12.20", "12.38", "1.00", "7.5 M", "13.0", "\N{EN DASH}"]


def test_an_exits_p95_is_over_whole_passes(profile):
    # Passes of the first exit: 3.25, 3.55, 3.35, 10.25; numpy's 95th percentile lies 0.85 between the two highest.
    assert latency_p95(profile, EXITS[0]) == pytest.approx(3.55 + 0.85 * (10.25 - 3.55))


def test_class_iou_is_shown_and_absent_classes_are_dashes(full, records):
    values = class_iou(records)
    page = Page(full)
    road = page.row("road")
    assert road[2:] == [f"{100 * value:.1f}" for value in values[:, 0]]
    assert page.row("<script>")[2:] == 3 * ["\N{EN DASH}"]
    assert page.row("mean")[2:] == [f"{100 * exit_miou(records)[name]:.1f}" for name in EXITS]


def test_the_headline_tells_the_deployment(full):
    text = Page(full).text
    for told in (
        "71.2 %",
        "95 % interval 69.9 to 72.6; final exit 72.0 %",
        "6.10 ms",
        "95 % interval 5.50 to 6.70; worst 13.60 ms",
        "4242 candidates",
        "64.0 %",
    ):
        assert told in text
    assert f"{12.2 / 6.1:.2f}\N{MULTIPLICATION SIGN}" in text
    assert "reaches 0.800 at blocks.1:fcn/c16" in text


def test_replay_leaves_where_the_score_reaches_the_threshold(records, deployment):
    # Scores at the first exit are 0.9 0.8 0.95 0.2 0.6 0.85, the threshold is 0.8.
    assert scores_of(records, deployment)[:, 0].tolist() == [0.9, 0.8, 0.95, 0.2, 0.6, 0.85]
    again = replay(records, deployment)
    assert again.left_at.tolist() == [0, 0, 0, 1, 1, 0]
    assert again.shares == {EXITS[0]: pytest.approx(4 / 6), "final": pytest.approx(2 / 6)}
    chosen = [0, 0, 0, 2, 2, 0]
    ious = []
    for c in (0, 1):
        correct = sum(records.correct[image, e, c] for image, e in enumerate(chosen))
        union = sum(records.predicted[image, e, c] for image, e in enumerate(chosen)) + records.labelled[:, c].sum() - correct
        ious.append(correct / union)
    assert again.miou == pytest.approx(np.mean(ious))


def test_a_deployment_on_records_pays_for_every_exit_it_asks(records, deployment, profile):
    # 4 images: 2.15 + 1.0 + 0.25; 2 images: 10.25 + 1.0 + 2.0 + 0.25.
    assert replay(records, deployment).latency_ms(profile, deployment) == pytest.approx((4 * 3.4 + 2 * 13.5) / 6)


def test_an_image_leaves_at_the_first_of_several_exits_that_it_clears(records, deployment):
    # Scores at the second exit are 0.4 0.7 0.9 0.6 0.99 0.3, its threshold is 0.6.
    deeper = deployment.model_copy(update={"exits": EXITS, "image_thresholds": (0.95, 0.6)})
    assert replay(records, deeper).left_at.tolist() == [2, 1, 0, 1, 1, 2]


@pytest.mark.parametrize(("mode", "exits"), [("budgeted", EXITS[1:2]), ("anytime", EXITS[:2])])
def test_without_thresholds_the_last_exit_answers(records, deployment, mode, exits):
    plain = deployment.model_copy(update={"mode": mode, "exits": exits, "image_thresholds": ()})
    again = replay(records, plain)
    assert again.shares == {**dict.fromkeys(exits, 0.0), EXITS[1]: 1.0}
    assert again.miou == pytest.approx(exit_miou(records)[EXITS[1]])


def test_the_run_log_counts_missed_deadlines(full):
    # Two frames reach the final exit, after 16 and 20 ms; the deadline is 15 ms.
    text = Page(full).text
    assert "2 of 8 deadlines missed" in text
    assert "8 frames" in text
    assert "slowest 20.00 ms" in text
    assert Page(full).row("in the run log")[1:] == ["75.0 %", "25.0 %"]


def test_provenance_holds_machine_versions_hashes_and_commands(full, artifacts):
    import hashlib

    text, package_id = Page(full).text, load_manifest(artifacts.package).package_id
    for told in ("Board <X>", "offramp 9.9.9", package_id, hashlib.sha256(artifacts.profile.read_bytes()).hexdigest()):
        assert told in text
    assert "offramp search --max-drop-pp 1.5 --mode input-dependent" in text


def test_settings_of_the_run_are_flattened(full):
    page = Page(full)
    assert page.row("exits[0].tap") == ["exits[0].tap", "blocks.1"]
    assert page.row("crop") == ["crop", "320, 320"]
    assert page.row("seed") == ["seed", "7"]


@pytest.mark.parametrize(
    ("absent", "gone", "command"),
    [
        ("records", {"accuracy-latency", "classes", "scores"}, "offramp evaluate"),
        ("profile", {"accuracy-latency", "road"}, "offramp profile"),
        ("deployment", {"scores"}, "offramp search"),
        ("package", set(), "offramp export"),
        ("run", {"training"}, "offramp train"),
        ("run_log", {"run-log"}, "offramp run"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(artifacts, write, absent, gone, command):
    page = Page(write(**{name: path for name, path in artifacts.all.items() if name != absent}))
    assert page.sections == SECTIONS - gone
    notes = " ".join(page.words[page.words.index(word) + 1] for word in page.words if word.strip().endswith("(made by"))
    assert command in notes


@pytest.mark.parametrize("only", ["run", "package", "records", "profile", "deployment", "run_log"])
def test_any_part_alone_makes_a_page(artifacts, write, only):
    page = Page(write(**{only: artifacts.all[only]}))
    assert {"headline", "provenance"} <= page.sections
    assert "not given" in page.text


def test_parts_of_another_package_are_refused(artifacts, foreign_records, tmp_path):
    out = tmp_path / "never.html"
    with pytest.raises(InputError, match="the records belongs to another package"):
        write_report(out, package=artifacts.package, records=foreign_records)
    assert not out.exists()


def test_a_run_with_other_exits_is_refused(artifacts, tmp_path):
    history = artifacts.run / "history.csv"
    history.write_text(history.read_text().replace("blocks.3:", "blocks.4:"))
    with pytest.raises(InputError, match=r"'blocks\.3:fcn/c32'.*do they belong together"):
        write_report(tmp_path / "never.html", run=artifacts.run, package=artifacts.package)


def test_missing_and_damaged_parts_are_named(artifacts, tmp_path):
    out = tmp_path / "never.html"
    with pytest.raises(InputError, match="nothing to report on"):
        write_report(out)
    with pytest.raises(InputError, match=r"gone\.json"):
        write_report(out, profile=tmp_path / "gone.json")
    with pytest.raises(InputError, match=r"holds no run\.json"):
        write_report(out, run=artifacts.package)
    (artifacts.package / "head1.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks head1\.onnx"):
        write_report(out, package=artifacts.package)


@pytest.mark.parametrize(("before", "after", "match"), [("loss", "lass", "no column 'loss'"), ("2.0", "two", "line 2.*'two'")])
def test_a_damaged_history_is_refused(artifacts, before, after, match):
    history = artifacts.run / "history.csv"
    history.write_text(history.read_text().replace(before, after, 1))
    with pytest.raises(InputError, match=match):
        load_history(history)


def test_a_history_keeps_gaps(artifacts):
    history = load_history(artifacts.run / "history.csv")
    assert history.exits == EXITS
    assert [sorted(epoch.miou) for epoch in history.epochs[:2]] == [[], sorted(EXITS)]
    assert history.epochs[3].miou["final"] == pytest.approx(0.66)
    assert history.seconds == pytest.approx(180)


def test_an_unfinished_run_is_said_to_be_unfinished(artifacts, unfinished_run, write):
    text = Page(write(run=unfinished_run)).text
    assert "This training run is unfinished" in text
    assert "6 epochs in 3.0 minutes" in text
    assert "unfinished" not in Page(write(run=artifacts.run)).text


def test_a_run_without_an_epoch_still_makes_a_page(unfinished_run, write):
    (unfinished_run / "history.csv").unlink()
    assert "No epoch is finished yet" in Page(write(run=unfinished_run)).text


def test_latencies_of_another_engine_are_not_compared(artifacts, deployment, write, tmp_path):
    other = tmp_path / "other.json"
    deployment.model_copy(update={"threads": 8}).save(other)
    page = Page(write(**{**artifacts.all, "deployment": other}))
    assert "their latencies do not compare" in page.text
    assert f"{12.6 / 6.1:.2f}\N{MULTIPLICATION SIGN}" in page.text
    assert "deployment, expected" not in page.text
    assert "deployment on test" in page.text, "which is reckoned from this very profile"


def test_figures_on_the_split_of_the_search_carry_a_warning(artifacts, write, tmp_path):
    records, val = load_records(artifacts.records), tmp_path / "val.npz"
    replace(records, info=records.info.model_copy(update={"split": "val"})).save(val)
    assert "a little flattering" in Page(write(**{**artifacts.all, "records": val})).text
    assert "a little flattering" not in Page(write(**artifacts.all)).text


def test_a_package_lends_its_deployment(artifacts, deployment, write):
    from offramp.artifacts import Manifest

    path = artifacts.package / "manifest.json"
    load_json(path, Manifest).model_copy(update={"deployments": (deployment,)}).save(path)
    assert "4242 candidates" in Page(write(package=artifacts.package)).text


def test_without_jinja2_the_error_says_what_to_install(artifacts, monkeypatch, tmp_path):
    real = builtins.__import__

    def no_jinja2(name, *rest, **more):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_jinja2)
    with pytest.raises(InputError, match=r"pip install 'offramp\[report\]'"):
        write_report(tmp_path / "never.html", profile=artifacts.profile)


# -------------------------------------------------------------------------------------------------------------- overfitting


def history_of(*rows):
    """Rows of (phase, epoch, val, train) of one exit; None where it was not measured."""
    epochs = [
        Epoch(phase, epoch, 1.0, 0.1, 1.0, {} if val is None else {"final": val}, {} if train is None else {"final": train})
        for phase, epoch, val, train in rows
    ]
    return History(("final",), tuple(epochs))


def test_overfitting_is_told():
    assert overfitting(history_of(("phase 1", 1, None, None))) == ""
    assert overfitting(history_of(("phase 1", 1, 0.5, None))) == ""
    well = history_of(("phase 1", 1, 0.5, 0.55), ("phase 1", 2, None, None), ("phase 1", 3, 0.6, 0.7))
    assert overfitting(well) == "At the end exits are 10.0 to 10.0 points better on training images than on val."
    badly = history_of(("phase 1", 1, 0.5, 0.55), ("phase 1", 2, 0.62, 0.7), ("phase 1", 3, 0.6, 0.9))
    assert "final by 2.0 points since epoch 2" in overfitting(badly)
    # Another phase's figures are another matter; and who falls on both has not learned by heart.
    assert "fallen" not in overfitting(history_of(("phase 1", 1, 0.9, 0.55), ("phase 2", 1, 0.6, 0.9)))
    assert "fallen" not in overfitting(history_of(("phase 1", 1, 0.9, 0.95), ("phase 1", 2, 0.6, 0.9)))


def test_a_history_that_begins_with_the_final_exit(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(
        "phase,epoch,loss,learning_rate,seconds,miou:final,train_miou:final,miou:a,train_miou:a\n"
        "phase 1,1,0.5,0.1,9,0.25,0.5,,\nphase 2,1,0.5,0.1,9,0.25,0.5,0.125,0.75\n",
        encoding="utf-8",
    )
    history = load_history(path)
    assert history.exits == ("a", "final")
    assert [epoch.train_miou for epoch in history.epochs] == [{"final": 0.5}, {"a": 0.75, "final": 0.5}]
