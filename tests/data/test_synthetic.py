"""Drawn scenes: the same everywhere from the same seed, exactly labelled, and as hard as they say."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.check import check
from offramp.data.folder import open_split
from offramp.data.synthetic import CLASSES, draw_dataset, draw_scene
from offramp.data.synthetic.canvas import BUILDING, CAR, PAVEMENT, PERSON, POLE, ROAD, SKY, TREE, Camera, Canvas
from offramp.data.synthetic.colours import street_tone
from offramp.data.synthetic.things import draw_person
from offramp.data.synthetic.weather import CLEAR, FOG, develop
from offramp.errors import InputError

SIZE = (96, 64)


def scene(seed: int, difficulty: float = 0.3, size: tuple[int, int] = SIZE):
    return draw_scene(np.random.default_rng(seed), size, difficulty)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small_canvas(weather=CLEAR, width=40, height=40) -> Canvas:
    camera = Camera(width, height, horizon=10, centre=width / 2, focal=40, eye=1.5, bend=0.0)
    return Canvas(camera, (1.0, 1.0, 1.0), Image.new("RGB", (width, height), (200, 200, 200)), weather.dark)


def test_shapes_types_and_values():
    image, labels = scene(0)
    assert (image.shape, image.dtype) == ((64, 96, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((64, 96), np.uint8)
    assert labels.max() < len(CLASSES.names) == len(CLASSES.palette)


def test_same_seed_same_scene_other_seed_another():
    first, again, other = scene(3), scene(3), scene(4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.5
    assert (first[1] != other[1]).any()


def test_sky_is_above_and_road_below():
    stack = np.stack([scene(seed)[1] for seed in range(20)])
    rows = np.arange(stack.shape[1])[None, :, None]
    mean_row = {label: np.broadcast_to(rows, stack.shape)[stack == label].mean() for label in range(8)}
    assert mean_row[SKY] < mean_row[BUILDING] < mean_row[CAR] < mean_row[ROAD]
    assert mean_row[TREE] < mean_row[PAVEMENT]
    assert not (stack[:, -8:] == SKY).any()
    assert not (stack[:, :10] == ROAD).any()
    assert (stack[:, -1, stack.shape[2] // 2] == ROAD).mean() > 0.8


@pytest.mark.parametrize("difficulty", [0.1, 0.9])
def test_every_class_occurs(difficulty):
    seen = np.bincount(np.concatenate([scene(seed, difficulty)[1].ravel() for seed in range(20)]), minlength=8)
    assert (seen > 0).all()
    assert seen[ROAD] > seen[POLE]


def test_hard_scenes_are_more_cluttered():
    def borders(difficulty: float) -> float:
        """How often a small thing begins or ends along the rows."""
        labels = np.stack([scene(seed, difficulty)[1] for seed in range(40)])
        small = np.isin(labels, (TREE, POLE, CAR, PERSON))
        return float((small[:, :, 1:] != small[:, :, :-1]).mean())

    assert borders(0.9) > 1.25 * borders(0.1)


def test_colours_overlap_between_classes():
    """The mean colour of a class in one picture must not tell the class: most lie closer to some other class's."""
    means, kinds = [], []
    for seed in range(30):
        image, labels = scene(seed, 0.9)
        for label in np.unique(labels).tolist():
            means.append(image[labels == label].mean(axis=0))
            kinds.append(label)
    points, owners = np.stack(means), np.array(kinds)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (owners[apart.argmin(axis=1)] != owners).mean() > 0.5


@pytest.mark.parametrize(("difficulty", "share"), [(0.0, 0.08), (0.5, 0.38), (1.0, 0.68)])
def test_harder_scenes_take_more_colours_that_anything_may_have(difficulty, share):
    rng = np.random.default_rng(0)
    tones = [street_tone(rng, ((0, 0, 0),), difficulty) for _ in range(2000)]
    assert np.mean([max(tone) > 50 for tone in tones]) == pytest.approx(share, abs=0.04)


def test_a_person_is_where_the_camera_sees_it():
    canvas = small_canvas()
    draw_person(canvas, np.random.default_rng(1), x=0.0, z=4.0, difficulty=0.0)
    labels, distance = canvas.labels_and_distance(1)
    rows = np.flatnonzero((labels == PERSON).any(axis=1))
    # The feet are 1.5 m below the eye: 40 * 1.5 / 4 = 15 pixels below the horizon in row 10.
    assert abs(rows[-1] - 25) <= 1
    assert 10 <= rows[-1] - rows[0] <= 20
    assert (distance[labels == PERSON] == 40).all()


def test_labels_lie_on_what_is_painted():
    canvas = small_canvas(width=80, height=80)
    canvas.polygon([(20, 21), (60, 21), (60, 59), (20, 59)], (0, 0, 0), CAR, 2.0)
    image = np.asarray(canvas.picture.reduce(2)).mean(axis=2)
    labels, _ = canvas.labels_and_distance(2)
    dark = image < 100
    # Half-covered pixels may fall on either side of the border; nothing else may differ.
    differ = dark != (labels == CAR)
    assert differ.sum() <= 2 * (20 + 20)
    assert not differ[12:28, 12:28].any()
    assert (labels == CAR).sum() == pytest.approx(20 * 19, rel=0.08)


def test_fog_hides_what_is_far():
    spread = {}
    for z in (5.0, 100.0):
        canvas = small_canvas(FOG)
        canvas.polygon([(0, 0), (20, 0), (20, 40), (0, 40)], (0, 0, 0), CAR, z)
        canvas.polygon([(20, 0), (40, 0), (40, 40), (20, 40)], (250, 250, 250), CAR, z)
        image, _ = develop(np.random.default_rng(0), canvas, FOG, 1)
        spread[z] = abs(float(image[:, :18].mean()) - float(image[:, 22:].mean()))
    # Kept contrast is exp(-3 z / 60): 0.78 and 0.007.
    assert spread[5.0] > 120
    assert spread[100.0] < 30


def test_dataset_is_sound_and_split(tmp_path):
    told = []
    draw_dataset(tmp_path / "drawn", images=20, size=SIZE, seed=5, progress=lambda *call: told.append(call))
    assert told[-1] == ("draw images", 20, 20)
    assert check(tmp_path / "drawn").ok
    splits = {name: open_split(tmp_path / "drawn", name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 14, "val": 3, "test": 3}
    assert splits["val"].classes == CLASSES
    names = [sample.name for split in splits.values() for sample in split.samples]
    assert [int(name[:4]) for name in names] == list(range(20))
    hard = sum(name.endswith("-hard") for name in names)
    assert hard + sum(name.endswith("-easy") for name in names) == 20
    assert 4 <= hard <= 16


def test_files_hold_what_was_drawn(tmp_path):
    draw_dataset(tmp_path / "drawn", images=3, size=SIZE, seed=2)
    split = open_split(tmp_path / "drawn", "train")
    rng = np.random.default_rng([2, 0])
    hard = rng.random() < 0.5
    image, labels = draw_scene(rng, SIZE, rng.uniform(0.55, 1.0) if hard else rng.uniform(0.0, 0.35))
    np.testing.assert_array_equal(split.image(0), image)
    np.testing.assert_array_equal(split.labels(0), labels)
    with Image.open(split.samples[0].label) as picture:
        assert picture.mode == "P"
        assert tuple(picture.getpalette()[:3]) == CLASSES.palette[0]


def test_dataset_is_the_same_from_the_same_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_dataset(tmp_path / name, images=3, size=SIZE, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_an_image_depends_on_its_number_not_on_how_many_there_are(tmp_path):
    draw_dataset(tmp_path / "few", images=3, size=SIZE, seed=1)
    draw_dataset(tmp_path / "more", images=5, size=SIZE, seed=1)
    few = {Path(name).name + name.split("/")[-2]: digest for name, digest in digests(tmp_path / "few").items() if "/" in name}
    more = {Path(name).name + name.split("/")[-2]: digest for name, digest in digests(tmp_path / "more").items() if "/" in name}
    assert len(few) == 6
    assert few.items() <= more.items()


@pytest.mark.parametrize("size", [(64, 48), (64, 400), (500, 48)])
def test_odd_sizes(size):
    image, labels = scene(0, 0.8, size)
    assert image.shape == (size[1], size[0], 3)
    assert labels.shape == (size[1], size[0])


def test_a_large_picture_has_a_label_for_each_pixel():
    image, labels = scene(0, 0.2, (1200, 900))
    assert image.shape[:2] == labels.shape == (900, 1200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 2}, "ask for 3 or more"),
        ({"size": (63, 48)}, "63x48: choose a size from 64x48"),
        ({"size": (64, 47)}, "64x47"),
        ({"size": (4097, 100)}, "4097x100"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        draw_dataset(tmp_path / "drawn", **({"images": 3, "size": SIZE} | arguments))
    assert not (tmp_path / "drawn").exists()


def test_bad_difficulty():
    with pytest.raises(InputError, match="difficulty must be from 0 to 1"):
        scene(0, 1.1)


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="will not replace"):
        draw_dataset(tmp_path, images=3, size=SIZE)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
