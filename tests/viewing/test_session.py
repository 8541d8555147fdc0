"""What the page is told: the same as a Predictor says, of images by number, dropped ones, and a video's frames."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from offramp.errors import InputError
from offramp.policy import PIXEL_THRESHOLDS
from offramp.runtime.predictor import Plan, Predictor
from offramp.viewing.inputs import Video, open_input
from offramp.viewing.pictures import confidence_url, overhang, shown_size
from offramp.viewing.server import IMAGE


def opened(url, kind):
    head, data = url.split(",")
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def files(folder):
    return sorted(folder.iterdir())


def test_facts_name_the_package_and_the_plan_to_begin_with(served):
    exits = [exit_["name"] for exit_ in served.request("facts").json["exits"]]
    assert served.ask(index=0, mode="anytime", exits=exits[:2]).json["exit"] == exits[1]
    facts = served.request("facts").json
    assert facts["plan"] == {  # whatever was asked last
        "mode": "budgeted",
        "exits": ["final"],
        "region": "all",
        "pixel_threshold": 0,
        "image_thresholds": [],
    }
    assert facts["deployed"] is False
    assert facts["input"] == {"kind": "images", "name": "images", "total": 2}
    assert facts["classes"][0] == {"name": "sky", "colour": [70, 130, 180]}
    assert facts["pixel_thresholds"] == list(PIXEL_THRESHOLDS)
    assert [exit_["stage"] for exit_ in facts["exits"]] == [0, 1, 2]
    assert facts["proposed"] == exits


def test_the_packages_own_deployment_is_the_plan_to_begin_with(serve, with_deployments, served):
    exits = [exit_["name"] for exit_ in served.request("facts").json["exits"]]
    chosen = {
        "mode": "input-dependent",
        "exits": exits[:2],
        "region": "off-edges",
        "pixel_threshold": 7,
        "image_thresholds": [0.123456],
    }
    facts = serve(with_deployments({key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}))
    facts = facts.request("facts").json
    assert (facts["plan"], facts["deployed"]) == (chosen, True)
    assert len(facts["exits"]) == 3, "other exits can be chosen too"


@pytest.mark.parametrize("index", [0, 1])
def test_answers_are_those_of_a_predictor(served, decided_package, images, index):
    predictor = Predictor(decided_package, threads=1, every_exit=True)
    exits = predictor.manifest.exits
    for plan in (
        Plan("budgeted", exits[1:2]),
        Plan("anytime", exits),
        Plan("input-dependent", exits, "all", 20, (2.0, 0.0)),
        Plan("input-dependent", (exits[0], exits[2]), "objects", 0, (0.0,)),
    ):
        predictor.change(plan)
        wanted = predictor(files(images)[index])
        got = served.ask(
            index=index,
            mode=plan.mode,
            exits=plan.exits,
            region=plan.region,
            pixel_threshold=plan.pixel_threshold,
            image_thresholds=plan.image_thresholds,
        ).json
        labels = opened(got["labels"], "png")
        np.testing.assert_array_equal(np.asarray(labels), wanted.labels)
        assert tuple(labels.getpalette()[:3]) == predictor.manifest.palette[0]
        np.testing.assert_array_equal(
            np.asarray(opened(got["confidence"], "png")), np.rint(wanted.confidence * 255).astype(np.uint8)
        )
        assert (got["exit"], got["scores"]) == (wanted.exit, wanted.scores)
        assert list(got["steps_ms"]) == list(wanted.steps_ms)
        counts = [(wanted.labels == number).mean() for number in range(len(predictor.manifest.classes))]
        assert got["shares"] == pytest.approx(counts)


def test_a_dropped_image_is_shown_under_its_name_and_at_most_so_wide(serve, decided_package):
    served = serve(decided_package)
    assert "no image yet" in served.ask().json["error"]
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(image).save(written, format="PNG")
    headers = {"Content-Type": IMAGE, "X-Name": "stra%C3%9Fe.png"}
    assert served.request("image", method="POST", body=written.getvalue(), headers=headers).json == {"number": 1}
    answer = served.ask(width=35).json
    assert (answer["name"], answer["size"], answer["number"]) == ("straße.png", [70, 50], 1)
    assert opened(answer["image"], "jpeg").size == opened(answer["labels"], "png").size == (35, 25)
    np.testing.assert_array_equal(
        np.asarray(opened(served.ask().json["labels"], "png")), Predictor(decided_package, threads=1)(image).labels
    )


def test_an_image_that_the_page_has_is_not_sent_again(served):
    number = served.ask(index=0).json["number"]
    again = served.ask(have=number).json
    assert (again["image"], again["number"]) == (None, number)
    assert served.ask(have=number, index=0).json["image"] is not None


def test_a_deadline_is_met_or_missed(served):
    exits = [exit_["name"] for exit_ in served.request("facts").json["exits"]]
    tight = served.ask(index=0, mode="anytime", exits=exits, deadline_ms=1e-3).json
    assert (tight["exit"], tight["met"]) == (exits[0], False)
    wide = served.ask(mode="anytime", exits=exits, deadline_ms=60_000).json
    assert (wide["exit"], wide["met"]) == (exits[-1], True)


def test_without_confidence_there_is_no_map(serve, decided_package, deployment_of, tmp_path):
    from offramp.artifacts import load_manifest
    from offramp.export.joining import merge_stages
    from offramp.trimming import trim

    manifest = load_manifest(decided_package)
    deployment_of(manifest, mode="anytime", exits=manifest.exits).save(tmp_path / "chosen.json")
    trim(decided_package, tmp_path / "chosen.json", tmp_path / "small", merge=merge_stages, confidence=False)
    image = tmp_path / "x.png"
    Image.new("RGB", (96, 64)).save(image)
    served = serve(tmp_path / "small", image)
    assert served.request("facts").json["judges"] is False
    assert served.ask(index=0).json["confidence"] is None
    refused = served.ask(mode="input-dependent", exits=manifest.exits[1:], image_thresholds=[0.5])
    assert "without confidence" in refused.json["error"]


# ------------------------------------------------------------------------------------------------------------- pictures


def test_the_map_of_a_head_hangs_over_the_edge():
    assert overhang((90, 120), (480, 360)) == (1.0, 1.0)
    assert overhang((23, 30), (480, 360)) == (1.0, 23 * 16 / 360)
    assert overhang((24, 31), (490, 370)) == (31 * 16 / 490, 24 * 16 / 370)
    assert overhang((5, 7), (480, 360)) == (1.0, 1.0)  # of no stride


def test_confidence_goes_from_dark_blue_to_yellow():
    picture = opened(confidence_url(np.array([[0.0, 0.5, 1.0]], np.float32)), "png").convert("RGB")
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(0, 32, 77), (124, 123, 120), (255, 234, 70)]


def test_images_are_never_enlarged():
    assert shown_size(np.zeros((50, 70, 3), np.uint8), 35) == (35, 25)
    assert shown_size(np.zeros((50, 70, 3), np.uint8), 900) == (70, 50)


# --------------------------------------------------------------------------------------------------------------- inputs


def number_of(shot):
    return round(float(shot.image.mean()) / 40)


def test_frames_come_one_after_another_and_begin_again(video):
    played = Video(video)
    assert [number_of(played.frame(timed=False, resumed=False)) for _ in range(8)] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert (played.total, played.dropped) == (6, 0)


class Clock:
    """Time that passes when it is told to, so that a busy machine changes nothing."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("offramp.viewing.inputs.time", made)
    return made


def test_at_its_own_speed_late_frames_are_dropped_and_counted(video, clock):
    played = Video(video)
    assert number_of(played.frame(timed=True, resumed=True)) == 0
    clock.sleep(0.25)
    assert number_of(played.frame(timed=True, resumed=False)) == 3
    assert clock.now == pytest.approx(100.3), "it was due then"
    assert played.dropped == 2
    clock.sleep(0.35)
    assert number_of(played.frame(timed=True, resumed=False)) == 0, "from the beginning again, at once"
    assert clock.now == pytest.approx(100.65)
    assert played.dropped == 4


def test_early_frames_are_waited_for(video, clock):
    played = Video(video)
    for number in range(3):
        assert number_of(played.frame(timed=True, resumed=False)) == number
    assert clock.now == pytest.approx(100.2)
    assert played.dropped == 0


def test_a_pause_drops_nothing(video, clock):
    played = Video(video)
    played.frame(timed=True, resumed=True)
    clock.sleep(0.25)
    assert number_of(played.frame(timed=True, resumed=True)) == 1
    assert played.dropped == 0


def test_a_video_is_played_frame_by_frame(serve, decided_package, video):
    served = serve(decided_package, video)
    assert served.request("facts").json["input"] == {"kind": "video", "name": "drive.mp4", "total": 6}
    answers = [served.ask(play="every").json for _ in range(2)]
    assert [answer["name"] for answer in answers] == ["drive-000000", "drive-000001"]
    assert answers[0]["rate"] is None
    assert answers[1]["rate"] > 1
    assert served.ask().json["name"] == "drive-000001", "other thresholds, the same frame"


def test_inputs_that_cannot_be_shown_are_refused_at_the_start(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no")
    (tmp_path / "broken.mp4").write_bytes(b"no")
    for name, said in (
        ("empty", "no images"),
        ("broken.png", "cannot read"),
        ("broken.mp4", "video"),
        ("gone", "no such input"),
    ):
        with pytest.raises(InputError, match=said):
            open_input(tmp_path / name)


def test_a_broken_image_of_a_folder_is_told_and_the_others_are_shown(serve, decided_package, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    Image.new("RGB", (96, 64)).save(tmp_path / "b.png")
    served = serve(decided_package, tmp_path)
    assert "a.png" in served.ask(index=0).json["error"]
    assert served.ask(index=1).json["name"] == "b.png"
