"""A sweep of two tiny networks at two sizes and one network that does not exist; then stopped, resumed and changed."""

import json
import shutil
from contextlib import nullcontext
from itertools import product

import pytest

from offramp.artifacts import SWEEP, Deployment, Profile, Sweep, load_json, load_manifest, load_records
from offramp.cli import main
from offramp.errors import InputError
from offramp.files import sha256_of
from offramp.metrics import miou
from offramp.sweeping import sweep
from offramp.tasks import one_by_one

PLAN = """
networks:
  - {network: test_efficientnet, name: one, exits: 1, heads: [fcn/c16]}
  - {network: no_such_network}
  - {network: test_efficientnet, name: two, exits: 0, training: {scheme: final-only}}
sizes: [96x64, 64x48]
training: {epochs: 1, exit_epochs: 1, crop: 96x64, batch_size: 4, train_images: 0}
device: {threads: 1, passes: 2}
"""
PARTS = [
    f"{trial}/{part}"
    for trial in ("one", "two")
    for part in (
        "run/weights.safetensors",
        *(
            f"{size}/{made}"
            for size in ("96x64", "64x48")
            for made in ("package/manifest.json", "val.records", "test.records", "here.profile")
        ),
    )
]


def offramp(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "plan.yaml").write_text(PLAN)
    return folder, sweep(folder / "plan.yaml", scenes, folder / "out")


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished sweep, with the times of its files."""
    shutil.copytree(finished[0], tmp_path / "again")
    return tmp_path / "again"


def times(out):
    return {part: (out / part).stat().st_mtime_ns for part in PARTS if (out / part).exists()}


def redone(before, after):
    return {part for part in PARTS if before.get(part) != after.get(part)}


def test_everything_is_made_and_told(finished):
    folder, found = finished
    assert set(times(folder / "out")) == set(PARTS)
    assert load_json(folder / "out" / SWEEP, Sweep) == found
    assert [(trial.name, len(trial.packages)) for trial in found.trials] == [("one", 2), ("no_such_network", 0), ("two", 2)]
    assert [trial.error is None for trial in found.trials] == [True, False, True]
    assert "timm has no network 'no_such_network'" in found.trials[1].error
    assert "timm has no network" in (folder / "out" / "no_such_network" / "log.txt").read_text()
    assert found.threads == 1
    for package in found.packages:
        manifest = load_manifest(folder / "out" / package.package)
        assert (manifest.size, manifest.package_id, package.name) == (
            package.size,
            package.package_id,
            "{}x{}".format(*package.size),
        )
        profile = load_json(folder / "out" / package.profile, Profile)
        assert (profile.threads, len(profile.original.times_ms)) == (1, 2)
        assert package.latency_ms["final"] == profile.latency_ms(("final",))
        for split, path in package.records.items():
            records = load_records(folder / "out" / path)
            assert records.info.split == split
            final = miou(
                *(getattr(records, name)[:, -1].sum(axis=0) for name in ("correct", "predicted")), records.labelled.sum(axis=0)
            )
            assert package.miou[split]["final"] == float(final)
        best = max(package.miou["val"].values())
        assert package.miou["val"][package.best_exit] == best


def test_search_chooses_among_all_packages(finished, tmp_path, capsys):
    folder, found = finished
    options = ("--mode", "budgeted", "--max-drop-pp", 100, "--json")
    assert offramp("search", "--sweep", folder / "out", *options, "--out", tmp_path / "a.json") == 0
    assert (found.search.count("--records"), found.search.count("--profile")) == (4, 4)
    assert offramp(*found.search[1:], *options, "--out", tmp_path / "b.json") == 0
    short, long = (load_json(tmp_path / name, Deployment) for name in ("a.json", "b.json"))
    fastest = min(found.packages, key=lambda package: min(package.latency_ms.values()))
    assert short.package_id == long.package_id == fastest.package_id
    capsys.readouterr()
    assert offramp("search", "--sweep", folder / "out", "--records", "x", *options, "--out", tmp_path / "c.json") == 2
    assert "leave out --records" in capsys.readouterr().err
    assert offramp("search", *options, "--out", tmp_path / "c.json") == 2
    assert "or give --sweep" in capsys.readouterr().err


def test_the_verb_goes_on_and_makes_nothing_twice(again, scenes, capsys):
    out = again / "out"
    before = times(out)
    assert offramp("sweep", again / "plan.yaml", scenes, "--out", out, "--json") == 1  # a trial failed
    said = capsys.readouterr()
    assert redone(before, times(out)) == set()
    assert [trial["name"] for trial in json.loads(said.out)["trials"]] == ["one", "no_such_network", "two"]
    assert "no_such_network: failed: timm has no network" in said.err
    assert offramp("sweep", again / "plan.yaml", scenes, "--out", out) == 1
    table = capsys.readouterr().out
    assert "no_such_network failed: " in table
    assert f"choose: offramp search --sweep {out} --mode input-dependent" in table


def test_a_plan_that_is_removed_meanwhile_is_known_as_it_was(again, scenes):
    plan = again / "plan.yaml"
    wanted = sha256_of(plan)
    found = sweep(plan, scenes, again / "out", progress=lambda *_step: plan.unlink(missing_ok=True))
    assert not plan.exists()
    assert found.provenance.inputs["plan"] == wanted


def test_what_a_killed_sweep_lacks_is_made_and_nothing_else(again, scenes):
    """As if killed between steps; and with damaged files and files of another trial, which a name alone would not tell."""
    out = again / "out"
    before = times(out)
    shutil.rmtree(out / "two" / "64x48")
    shutil.copytree(out / "one" / "64x48" / "package", out / "two" / "64x48" / "package")
    (out / "two" / "96x64" / "here.profile").unlink()
    (out / "one" / "96x64" / "val.records").write_bytes(b"half")
    shutil.copy(out / "one" / "64x48" / "here.profile", out / "one" / "96x64")
    shutil.copy(out / "one" / "96x64" / "test.records", out / "two" / "96x64")
    sweep(again / "plan.yaml", scenes, out)
    lost = {part for part in PARTS if part.startswith("two/64x48/")}
    assert redone(before, times(out)) == lost | {
        "two/96x64/here.profile",
        "one/96x64/val.records",
        "one/96x64/here.profile",
        "two/96x64/test.records",
    }
    for trial, size in product(("one", "two"), ("96x64", "64x48")):  # and what was made belongs together
        folder = out / trial / size
        manifest = load_manifest(folder / "package")
        assert manifest.provenance.inputs["weights"] == sha256_of(out / trial / "run" / "weights.safetensors")
        assert load_json(folder / "here.profile", Profile).package_id == manifest.package_id
        for split in ("val", "test"):
            assert load_records(folder / f"{split}.records").info.package_id == manifest.package_id


def test_a_changed_plan_refuses_trainings_and_makes_the_rest_again(again, scenes):
    plan, out = again / "plan.yaml", again / "out"
    before = times(out)
    plan.write_text(PLAN.replace("epochs: 1, exit", "epochs: 2, exit"))
    with pytest.raises(
        InputError, match=r"trial one was begun with epochs 1, the plan now says 2; give the entry another name"
    ):
        sweep(plan, scenes, out)
    plan.write_text(PLAN.replace("exits: 1, heads: [fcn/c16]", "exits: 1, heads: [fcn/c8]"))
    with pytest.raises(InputError, match="begun with heads"):
        sweep(plan, scenes, out)
    assert redone(before, times(out)) == set()
    plan.write_text(PLAN.replace("passes: 2", "passes: 3").replace("sizes: [96x64, 64x48]", "sizes: [64x48]"))
    found = sweep(plan, scenes, out)
    assert redone(before, times(out)) == {f"{trial}/64x48/here.profile" for trial in ("one", "two")}
    assert [package.name for package in found.packages] == ["64x48", "64x48"]


def test_other_data_are_refused(again, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "other")
    image, other = sorted((tmp_path / "other" / "train" / "images").iterdir())[:2]
    shutil.copy(image, other)
    with pytest.raises(InputError, match="trial one was begun with data"):
        sweep(again / "plan.yaml", tmp_path / "other", again / "out")


def test_packages_in_int8_are_made_of_those_of_fp32(again, scenes):
    plan, out = again / "plan.yaml", again / "out"
    before = times(out)
    lowered = PLAN.replace("sizes: [96x64, 64x48]", "sizes: [64x48]\nstored: [fp32, int8]")
    plan.write_text(lowered.replace("  - {network: test_efficientnet, name: one, exits: 1, heads: [fcn/c16]}\n", ""))
    shutil.rmtree(out / "one")
    found = sweep(plan, scenes, out)
    assert redone(before, times(out)) == {part for part in PARTS if part.startswith("one/")}
    assert [package.name for package in found.packages] == ["64x48", "64x48-int8"]
    manifest = load_manifest(out / "two" / "64x48-int8" / "package")
    assert (manifest.precision, manifest.lowering.made_from) == ("int8", found.packages[0].package_id)
    when = (out / "two" / "64x48-int8" / "package" / "manifest.json").stat().st_mtime_ns
    sweep(plan, scenes, out)
    assert (out / "two" / "64x48-int8" / "package" / "manifest.json").stat().st_mtime_ns == when, "made twice"


def test_workers_that_write_elsewhere_are_noticed(again, scenes):
    """A cluster whose machines do not share the folder says that all is well."""
    out = again / "out"
    shutil.rmtree(out / "two")

    def elsewhere(_task, keys):
        return ((key, None) for key in keys)

    found = sweep(again / "plan.yaml", scenes, out, workers=nullcontext(elsewhere))
    assert len(found.packages) == 2
    assert "all workers must see that folder" in found.trials[2].error


def test_a_foreign_folder_is_left_alone(finished, scenes, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds no plan\.yaml"):
        sweep(finished[0] / "plan.yaml", scenes, tmp_path, workers=nullcontext(one_by_one))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
