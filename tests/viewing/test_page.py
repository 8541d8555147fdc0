"""The page in a real browser: what a person sees is what the package says."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from offramp.runtime.predictor import Plan, Predictor

SHOWN = """
    const labels = document.getElementById("labels");
    return {
      taken: document.getElementById("taken").textContent,
      labels: labels.complete && !labels.hidden ? labels.src : "",
      fates: [...document.querySelectorAll("#exits .fate")].map((element) => element.textContent),
      scores: [...document.querySelectorAll("#exits .judged output:nth-of-type(1)")].map((element) => element.textContent),
      name: document.getElementById("name").textContent,
      error: document.getElementById("error").textContent,
      spoken: document.getElementById("spoken").textContent,
      classes: [...document.querySelectorAll("#classes li")].map((element) => element.innerText.replace(/\\s+/g, " ")),
      times: [...document.querySelectorAll("#times output")].map((element) => element.textContent),
    };
"""
DROP = """
    const [name, data] = arguments;
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name));
    const event = new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true});
    document.getElementById("picture").dispatchEvent(event);
"""
NO_VALUE = "\N{EN DASH}"
SET = """
    const [selector, value] = arguments;
    const element = document.querySelector(selector);
    if (element.type === "checkbox" || element.type === "radio") element.click();
    else { element.value = value; element.dispatchEvent(new Event("input", {bubbles: true})); }
"""


class Page:
    """What a person does and sees."""

    def __init__(self, browser, served):
        self.browser = browser
        browser.get_log("browser")
        browser.get(served.viewer.address)

    def set(self, selector, value=None):
        self.browser.execute_script(SET, selector, value)

    def drop(self, name, data):
        self.browser.execute_script(DROP, name, base64.b64encode(data).decode())

    def shown(self):
        return self.browser.execute_script(SHOWN)

    def until(self, true_of):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: true_of(self.shown()), message=str(self.shown()))
        return self.shown()

    def text(self, name):
        return self.browser.execute_script("return document.getElementById(arguments[0]).textContent", name)

    def complaints(self):
        return self.browser.get_log("browser")


@pytest.fixture
def page(chromium, served):
    opened = Page(chromium, served)
    yield opened
    assert opened.complaints() == []


def labels_of(shown):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["labels"].split(",")[1]))))


@pytest.fixture(scope="module")
def predictor(decided_package):
    return Predictor(decided_package, threads=1, every_exit=True)


def test_begins_with_the_first_image_and_the_deepest_exit(page, predictor, images):
    shown = page.until(lambda now: now["labels"])
    predictor.change(Plan("budgeted", ("final",)))
    first = min(images.iterdir())
    wanted = predictor(first)
    np.testing.assert_array_equal(labels_of(shown), wanted.labels)
    assert shown["taken"] == "final"
    assert shown["spoken"] == "final taken"
    assert shown["fates"] == ["", "", "taken"]
    assert shown["name"] == f"{first.name} (1 of 2)"
    share = (wanted.labels == 0).mean()
    assert shown["classes"][0] == f"sky {share:.1%}".replace("%", " %")
    assert len(shown["times"]) == 5, "three stages, one head, the label map"
    assert all(float(value) >= 0 for value in shown["times"])


def test_a_dropped_image_and_a_threshold(page, predictor, images):
    page.until(lambda now: now["labels"])
    second = sorted(images.iterdir())[1]
    page.drop("mine.png", second.read_bytes())
    page.until(lambda now: now["name"] == "mine.png")
    page.set("[value=input-dependent]")
    exits = predictor.manifest.exits
    # The same score lies above one bar and below another.
    predictor.change(Plan("input-dependent", exits, "all", 0, (2.0, 2.0)))
    score = predictor(second).scores[exits[0]]
    for bar, taken, fates in (
        (0.0, exits[0], ["taken", "not reached", "not reached"]),
        (1.0, exits[1], ["asked", "taken", "not reached"]),
    ):
        page.set("#exits li:nth-child(2) input[type=range]", "0")
        page.set("#exits li:nth-child(1) input[type=range]", str(bar))
        shown = page.until(lambda now, fates=fates: now["fates"] == fates)
        predictor.change(Plan("input-dependent", exits, "all", 0, (bar, 0.0)))
        wanted = predictor(second)
        assert shown["taken"] == wanted.exit == taken
        np.testing.assert_array_equal(labels_of(shown), wanted.labels)
        assert shown["scores"][0] == f"{score:.3f}"
    page.set("[value=budgeted]")
    page.set("#exits li:nth-child(1) input")
    assert page.until(lambda now: now["fates"] == ["taken", "", ""])["taken"] == exits[0]


def test_a_broken_image_is_one_line_and_the_page_goes_on(chromium, served, images):
    page = Page(chromium, served)
    page.until(lambda now: now["labels"])
    page.drop("broken.png", b"no picture")
    shown = page.until(lambda now: now["error"])
    assert "no picture; drop a JPEG, PNG, BMP or WebP" in shown["error"]
    assert shown["labels"], "what was shown stays"
    page.drop("good.png", min(images.iterdir()).read_bytes())
    assert page.until(lambda now: now["name"] == "good.png")["error"] == ""
    assert all("422" in line["message"] for line in page.complaints()), "Chromium notes the refusal itself"


def test_the_keyboard_is_enough(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.until(lambda now: "(1 of 2)" in now["name"])
    ActionChains(page.browser).send_keys(Keys.ARROW_RIGHT).perform()
    page.until(lambda now: "(2 of 2)" in now["name"])
    page.browser.execute_script("document.getElementById('previous').focus()")
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    page.until(lambda now: "(1 of 2)" in now["name"])
    # From the mode's radio buttons with the arrow keys, as anywhere.
    page.set("#deadline", "60000")
    page.browser.execute_script("document.querySelector('[value=budgeted]').focus()")
    ActionChains(page.browser).send_keys(Keys.ARROW_DOWN).perform()
    page.until(lambda now: now["fates"] == ["asked", "asked", "taken"])
    unnamed = """
        return [...document.querySelectorAll("button, input, select")].filter((element) =>
          !element.labels?.length && !element.ariaLabel && !element.textContent.trim()).map((element) => element.outerHTML);
    """
    # The pixel threshold's label lies beside it, and counts as one.
    assert page.browser.execute_script(unnamed) == []


def test_without_an_exit_the_page_says_so_and_waits(page):
    page.until(lambda now: now["labels"])
    page.set("#deadline", "60000")
    page.set("[value=anytime]")
    page.until(lambda now: now["fates"] == ["asked", "asked", "taken"])
    for number in (1, 2, 3):
        page.set(f"#exits li:nth-child({number}) input")
    assert page.until(lambda now: now["error"])["error"] == "Choose one exit at least."
    page.set("#exits li:nth-child(2) input")
    shown = page.until(lambda now: now["fates"] == ["", "taken", ""])
    assert shown["error"] == ""


@pytest.fixture
def playing(chromium, serve, decided_package, video):
    return Page(chromium, serve(decided_package, video))


def test_a_video_plays_and_pauses(playing):
    first = playing.until(lambda now: now["labels"])
    assert first["name"] == "drive-000000"
    playing.set("#timed")
    playing.browser.execute_script("document.getElementById('play').click()")
    playing.until(lambda now: now["name"] not in ("drive-000000", "drive-000001"))
    playing.until(lambda _: playing.text("rate") != NO_VALUE)
    playing.browser.execute_script("document.getElementById('play').click()")
    paused = playing.until(lambda _: playing.text("play") == "Play" and playing.text("rate") == NO_VALUE)
    playing.set("#exits li:nth-child(1) input")
    other = playing.until(lambda now: now["fates"] == ["taken", "", ""])
    assert other["name"] == paused["name"], "another exit for the same frame"
    assert playing.text("dropped") == "0"
    assert playing.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.until(lambda now: now["labels"])
        page.set("[value=input-dependent]")
        page.until(lambda now: now["scores"][0] != NO_VALUE)
        width, ground = page.browser.execute_script(
            "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
        )
        assert width == 360
        assert (sum(json.loads(f"[{ground[4:-1]}]")) < 300) == (scheme == "dark")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
