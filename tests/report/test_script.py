"""The page's script, in a real browser: what sliders and clicks change is what the library says."""

import json
from dataclasses import replace

import numpy as np
import pytest

from offramp.artifacts import Records, load_manifest
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.policy import GRID
from offramp.profiling import profile as measure
from offramp.report import write_report
from offramp.runtime.predictor import Predictor
from offramp.search import search
from offramp.specs import REGIONS, SearchSpec

pytest.importorskip("jinja2")

MOVE = """
const [name, value] = arguments;
const input = document.getElementById("limits").elements[name];
input.value = value;
input.dispatchEvent(new Event("input", { bubbles: true }));
return input.value;
"""


def random_val(records: Records, images: int = 24) -> Records:
    """Records of val for the exits of `records`: with harder and easier images."""
    rng = np.random.default_rng(4)
    exits, classes = len(records.info.exits), len(records.info.classes)
    labelled = rng.integers(200, 900, (images, classes))
    ease = rng.uniform(0.4, 1.0, (images, 1, 1))
    rate = np.clip(ease * np.linspace(0.8, 1.0, exits)[None, :, None] + rng.normal(0, 0.08, (images, exits, classes)), 0, 1)
    correct = np.floor(labelled[:, None] * rate)
    shares = np.sort(rng.uniform(0, 1, (images, exits, len(REGIONS), GRID - 1)) * ease[..., None], axis=-1)[..., ::-1]
    sure = np.concatenate([np.full((images, exits, len(REGIONS), 1), 600), np.floor(600 * shares)], axis=-1)
    info = records.info.model_copy(update={"split": "val", "images": tuple(f"val{index}" for index in range(images))})
    differing = np.zeros((images, exits))
    arrays = (correct, correct + rng.integers(0, 90, correct.shape), labelled, sure, differing, np.full(images, 1000))
    return Records(info, *(np.asarray(array).astype(np.int64) for array in arrays))


@pytest.fixture
def opened(chromium, tmp_path):
    def open_page(**given):
        out = tmp_path / "report.html"
        write_report(out, **given)
        chromium.get(out.as_uri())
        return chromium

    yield open_page
    assert chromium.get_log("browser") == []


def chosen(browser):
    """What the page says it chose; None where nothing meets the limits."""
    if browser.execute_script("return document.getElementById('choice').hidden"):
        return None
    return dict(browser.execute_script("return {...document.getElementById('chosen').dataset}"))


def test_sliders_choose_as_search_does(opened, artifacts, records, profile, tmp_path):
    val = random_val(records)
    val.save(tmp_path / "val.npz")
    browser = opened(records=(tmp_path / "val.npz", artifacts.records), profile=artifacts.profile, package=artifacts.package)
    ends = browser.execute_script("const b = document.getElementById('budget'); return [b.min, b.max].map(Number)")
    drop_end = browser.execute_script("return document.getElementById('drop').max")
    seen = set()
    for mode in ("budgeted", "input-dependent"):
        browser.find_element("css selector", f"input[value={mode}]").click()
        for budget in np.linspace(*ends, 4):
            for drop in (drop_end, "1"):
                asked = {"mode": mode, "max_latency_ms": float(browser.execute_script(MOVE, "budget", str(budget)))}
                browser.execute_script(MOVE, "drop", drop)
                if drop != drop_end:
                    asked["max_drop_pp"] = float(drop)
                said = chosen(browser)
                seen.add(json.dumps(said))
                if said is None:
                    with pytest.raises(InputError, match="no deployment"):
                        search(val, profile, SearchSpec(**asked), inputs={})
                    continue
                found = search(val, profile, SearchSpec(**asked), inputs={})
                assert json.loads(said["exits"]) == list(found.exits)
                assert json.loads(said["thresholds"]) == list(found.image_thresholds)
                assert (said["region"], int(said["pixelThreshold"])) == (found.region, found.pixel_threshold)
                assert float(said["miou"]) == found.expected.miou
                assert float(said["latency"]) == found.expected.latency_ms
                assert json.loads(said["shares"]) == [found.expected.shares[name] for name in found.exits]
    assert len(seen) > 5


def test_sliders_move_by_keys_and_the_page_fits_a_phone(opened, artifacts, records, tmp_path):
    from selenium.webdriver.common.keys import Keys

    random_val(records).save(tmp_path / "val.npz")
    browser = opened(**{**artifacts.all, "records": (tmp_path / "val.npz", artifacts.records)})
    budget, drop = browser.find_element("id", "budget"), browser.find_element("id", "drop")
    budget.send_keys(Keys.HOME)
    assert chosen(browser) is None, "the deployment's 1.5 points, with which the page begins, cost more"
    assert "the fastest that keeps it takes" in browser.find_element("id", "nothing").text
    drop.send_keys(Keys.END)
    budget.send_keys(Keys.END)
    fast, ring = chosen(browser), browser.find_element("css selector", ".pointer").get_attribute("cx")
    budget.send_keys(Keys.HOME)
    assert float(chosen(browser)["latency"]) < float(fast["latency"])
    assert float(browser.find_element("css selector", ".pointer").get_attribute("cx")) < float(ring)
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_gallery_shows_where_images_leave(opened, decided_package, with_deployments, scenes, tmp_path):
    answered = evaluate(decided_package, scenes, "train")
    # As if it were val: two images of that would leave nothing to choose.
    val = replace(answered, info=answered.info.model_copy(update={"split": "val"}))
    val.save(tmp_path / "val.records")
    measure(decided_package, passes=2).save(tmp_path / "here.profile")
    given = {"records": tmp_path / "val.records", "profile": tmp_path / "here.profile"}
    browser = opened(package=decided_package, data=scenes, split="train", images=8, **given)
    assert len(browser.find_elements("css selector", ".card")) == 8
    manifest, partly = load_manifest(decided_package), 0
    low, high = browser.execute_script("const b = document.getElementById('budget'); return [b.min, b.max].map(Number)")
    for budget in np.linspace(low, high, 6):
        browser.execute_script(MOVE, "budget", str(budget))
        said = chosen(browser)
        exits, thresholds = json.loads(said["exits"]), json.loads(said["thresholds"])
        columns = {
            column.get_attribute("data-exit"): {name.text for name in column.find_elements("css selector", "figcaption b")}
            for column in browser.find_elements("css selector", ".column")
        }
        assert list(columns) == exits
        if not thresholds:
            assert columns[exits[0]] == set(val.info.images)
            continue
        partly += 1
        values = {"mode": "input-dependent", "exits": tuple(exits), "region": said["region"]}
        values |= {"pixel_threshold": int(said["pixelThreshold"]), "image_thresholds": tuple(thresholds)}
        predictor = Predictor(with_deployments(values), threads=1)
        taken = {path.stem: predictor(path).exit for path in (scenes / "train" / "images").iterdir()}
        assert columns == {name: {image for image, at in taken.items() if at == name} for name in exits}
    assert partly, "some budget lies between exits"
    # A click shows all exits' answers, and what a class was taken for.
    browser.find_element("css selector", ".card button").click()
    assert len(browser.find_elements("css selector", "#details section")) == len(manifest.exits)
    browser.find_element("css selector", "#details button").click()
    assert not browser.find_element("id", "details").is_displayed()
    browser.find_element("css selector", "#class-bars button").click()
    shares = [float(item.text.split()[-2]) for item in browser.find_elements("css selector", "#confusion li")]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_without_sliders_images_leave_as_in_the_deployment(opened, decided_package, with_deployments, scenes):
    first = load_manifest(decided_package).exits[0]
    values = {"mode": "input-dependent", "exits": (first, "final"), "region": "all", "pixel_threshold": 20}
    scores = evaluate(decided_package, scenes, "train").sure[:, 0, 0]
    values["image_thresholds"] = (float(np.median(scores[:, 20] / scores[:, 0])),)
    package = with_deployments(values)
    browser = opened(package=package, data=scenes, split="train", images=8)
    shown = [int(column.get_attribute("data-images")) for column in browser.find_elements("css selector", ".column")]
    assert shown == [4, 4]


def test_a_page_that_is_too_large_is_refused(decided_package, scenes, monkeypatch, tmp_path):
    monkeypatch.setattr("offramp.report.page.MOST_BYTES", 10_000)
    with pytest.raises(InputError, match=r"fewer than 3 pictures"):
        write_report(tmp_path / "a.html", package=decided_package, data=scenes, images=3)
    assert not (tmp_path / "a.html").exists()


def test_a_gallery_needs_a_package(scenes, artifacts, tmp_path):
    with pytest.raises(InputError, match="needs the package"):
        write_report(tmp_path / "a.html", profile=artifacts.profile, data=scenes)


def test_records_that_cannot_be_chosen_by_are_said(artifacts, records, tmp_path):
    val = random_val(records)
    replace(val, labelled=np.zeros_like(val.labelled), correct=np.zeros_like(val.correct)).save(tmp_path / "val.npz")
    write_report(tmp_path / "a.html", records=tmp_path / "val.npz", profile=artifacts.profile)
    assert "There are no sliders for another budget: the records hold no labelled pixel" in (tmp_path / "a.html").read_text()
    with pytest.raises(InputError, match="records of one split, or of val and of one other; got those of test, test"):
        write_report(tmp_path / "b.html", records=(artifacts.records, artifacts.records))
