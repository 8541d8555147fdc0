"""Folders written by hand, and what must be read from them."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.folder import open_dataset, open_split
from offramp.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

CLASSES = {"classes": ["road", "tree"], "void_index": 7, "palette": [[10, 20, 30], [40, 50, 60], [0, 0, 0]]}
VALUES = np.array([[0, 1, 7], [1, 1, 0]], dtype=np.uint8)
MEANT = np.array([[0, 1, 255], [1, 1, 0]], dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette([0, 0, 0] * 256)
    picture.save(path)
    return path


def native(root: Path, names: tuple[str, ...] = ("b", "a"), suffix: str = ".png") -> Path:
    """Two images of 3x2 pixels in `train`; the red of an image is 100 for a, 200 for b."""
    (root / "classes.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    for name in names:
        image = np.zeros((2, 3, 3), dtype=np.uint8)
        image[..., 0] = {"a": 100, "b": 200}[name]
        save(root / "train" / "images" / f"{name}{suffix}", image)
        save(root / "train" / "labels" / f"{name}.png", VALUES, "P")
    return root


def test_samples_are_ordered_by_name_and_pairs_match(tmp_path):
    split = open_split(native(tmp_path), "train")
    assert [sample.name for sample in split.samples] == ["a", "b"]
    assert len(split) == 2
    assert split.image(1)[0, 0].tolist() == [200, 0, 0]
    assert split.image(0).shape == (2, 3, 3)
    assert split.image(0).dtype == np.uint8
    np.testing.assert_array_equal(split.labels(0), MEANT)
    assert split.labels(0).dtype == np.uint8
    assert split.classes.names == ("road", "tree")
    assert split.classes.palette == ((10, 20, 30), (40, 50, 60))
    image, labels = split.pair(1)
    assert (image.shape, labels.shape) == ((2, 3, 3), (2, 3))


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".BMP", ".webp"])
def test_image_suffixes(tmp_path, suffix):
    assert open_split(native(tmp_path, suffix=suffix), "train").image(0).shape == (2, 3, 3)


def test_files_that_are_no_part_of_the_dataset_are_passed_over(tmp_path):
    native(tmp_path)
    (tmp_path / "train" / "images" / "notes.txt").write_text("x")
    (tmp_path / "train" / "images" / "._a.png").write_bytes(b"left by a file manager")
    assert len(open_split(tmp_path, "train")) == 2


def test_grey_labels_mean_the_same_as_palette_labels(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", VALUES)
    np.testing.assert_array_equal(open_split(tmp_path, "train").labels(0), MEANT)


def test_16_bit_grey_labels_are_read_by_value(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", VALUES.astype(np.uint16))
    np.testing.assert_array_equal(open_split(tmp_path, "train").labels(0), MEANT)


def test_coloured_labels_are_read_through_the_palette(tmp_path):
    native(tmp_path)
    colours = {0: (10, 20, 30), 1: (40, 50, 60), 7: (0, 0, 0)}
    save(
        tmp_path / "train" / "labels" / "a.png",
        np.array([[colours[v] for v in row] for row in VALUES.tolist()], dtype=np.uint8),
    )
    np.testing.assert_array_equal(open_split(tmp_path, "train").labels(0), MEANT)


def test_unknown_colours_are_named(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", np.full((2, 3, 3), (1, 2, 255), dtype=np.uint8))
    with pytest.raises(InputError, match=r"a\.png holds the value #0102ff, neither a class nor void.*offramp data check"):
        open_split(tmp_path, "train").labels(0)


def test_unknown_values_are_named_with_file_and_remedy(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", np.array([[0, 2, 255]], dtype=np.uint8), "P")
    with pytest.raises(InputError, match=r"a\.png holds values 2, 255, neither .*offramp data check"):
        open_split(tmp_path, "train").labels(0)


def test_labels_with_alpha_and_grey_are_refused(tmp_path):
    native(tmp_path)
    Image.new("LA", (3, 2)).save(tmp_path / "train" / "labels" / "a.png")
    with pytest.raises(InputError, match=r"a\.png has mode LA: save labels as palette PNG"):
        open_split(tmp_path, "train").labels(0)


def test_sizes_that_differ_are_refused_in_pairs(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", VALUES[:1], "P")
    with pytest.raises(InputError, match=r"a\.png is 3x2 but its labels are 3x1"):
        open_split(tmp_path, "train").pair(0)


def test_image_without_label_is_counted(tmp_path):
    native(tmp_path)
    (tmp_path / "train" / "labels" / "b.png").unlink()
    with pytest.raises(InputError, match=r"1 images of train have no label, such as .*b\.png.*offramp data check"):
        open_split(tmp_path, "train")


def test_images_that_differ_in_suffix_only_are_refused(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "images" / "a.bmp", np.zeros((2, 3, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="1 images of train differ from another only in their suffix"):
        open_split(tmp_path, "train")


def test_missing_split_names_those_there(tmp_path):
    native(tmp_path)
    (tmp_path / "test" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="no split 'val': there is train, test"):
        open_split(tmp_path, "val")
    with pytest.raises(InputError, match=r"'test' of .* holds no images"):
        open_split(tmp_path, "test")
    assert open_dataset(tmp_path).splits() == ("train", "test")


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        open_split(tmp_path / "nothing", "train")


def test_unknown_layout_names_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"(?s)cannot tell the layout.*native: .*camvid: .*cityscapes: .*voc: "):
        open_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must hold an object"),
        ("{}", '"classes" must be a list of names'),
        ('{"classes": ["a", 3]}', '"classes" must be a list of names'),
        ('{"classes": []}', "1 to 255 names, not 0"),
        ('{"classes": ["a", "b", "a"]}', 'names "a" more than once'),
        ('{"classes": ["a", "b"], "void_index": 1}', '"void_index" must be a whole number from 2'),
        ('{"classes": ["a", "b"], "void_index": "2"}', '"void_index" must be a whole number'),
        ('{"classes": ["a", "b"], "palette": [[1, 2, 3]]}', "1 colours for 2 classes"),
        ('{"classes": ["a"], "palette": [[1, 2, 256]]}', "must be a list of colours"),
        ('{"classes": ["a", "b"], "palette": [[1, 2, 3], [1, 2, 3]]}', "two classes the same colour"),
    ],
)
def test_broken_class_file(tmp_path, content, message):
    native(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        open_split(tmp_path, "train")
    assert "classes.json" in str(raised.value)


def test_class_file_without_palette_and_void_takes_those_of_voc(tmp_path):
    native(tmp_path)
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    save(tmp_path / "train" / "labels" / "a.png", np.array([[2, 255]], dtype=np.uint8), "P")
    split = open_split(tmp_path, "train")
    assert split.classes.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert split.labels(0).tolist() == [[2, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"classes": ["a"], "classes": ["b"]}', "it has a key twice"),
        ('{"classes": ["a", "\\u001b[2J"]}', 'names that can be printed, not "\\\\u001b'),
        ('{"classes": ["a", "\\ud800"]}', "names that can be printed"),
        ('{"classes": [' + ",".join("1" * 999) + "]}", r"list of names, not \[1, .{0,60}\.\.\.$"),
        ('{"classes": ["a"], "palette": [[1, 2, 3], [1, 2, 3]]}', "the same colour, or one and void"),
        (" " * (1 << 20) + "{}", "more than 1048576 bytes"),
    ],
)
def test_class_files_that_nobody_means(tmp_path, content, message):
    native(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=message):
        open_split(tmp_path, "train")


def test_class_files_of_other_systems(tmp_path):
    native(tmp_path)
    (tmp_path / "classes.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CLASSES).encode())
    assert open_split(tmp_path, "train").classes.names == ("road", "tree")
    (tmp_path / "classes.json").unlink()
    os.mkfifo(tmp_path / "classes.json")
    with pytest.raises(InputError, match="it is no file"):
        open_split(tmp_path, "train")


def test_names_pair_whichever_way_their_accents_are_written(tmp_path):
    native(tmp_path)
    for kind, form in (("images", "NFC"), ("labels", "NFD")):
        path = tmp_path / "train" / kind / "a.png"
        path.rename(path.with_name(unicodedata.normalize(form, "\u00e9.png")))
    assert [sample.name for sample in open_split(tmp_path, "train").samples] == ["b", "\u00e9"]


def test_linked_folders_are_read_and_loops_end(tmp_path):
    native(tmp_path / "data")
    for kind in ("images", "labels"):
        (tmp_path / "data" / "train" / kind).rename(tmp_path / kind)
        (tmp_path / "data" / "train" / kind).mkdir()
        (tmp_path / "data" / "train" / kind / "drive").symlink_to(tmp_path / kind)
        (tmp_path / "data" / "train" / kind / "itself").symlink_to(tmp_path / "data" / "train" / kind)
        (tmp_path / "data" / "train" / kind / "above").symlink_to(tmp_path / "data")
    assert [sample.name for sample in open_split(tmp_path / "data", "train").samples] == ["drive/a", "drive/b"]


def test_a_file_in_place_of_a_folder_and_names_that_are_no_text_are_named(tmp_path):
    native(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "images").write_text("")
    with pytest.raises(InputError, match=r"cannot list the folder .*images: Not a directory"):
        open_split(tmp_path, "val")
    (tmp_path / "train" / "images" / os.fsdecode(b"\xe9.png")).write_bytes(b"")
    with pytest.raises(InputError, match=r"'\\udce9' in .*images is not in UTF-8"):
        open_split(tmp_path, "train")
    with pytest.raises(InputError, match="that is a file"):
        open_split(tmp_path / "classes.json", "train")


def test_labels_that_lie_across_are_told_of_the_orientation(tmp_path):
    native(tmp_path)
    save(tmp_path / "train" / "labels" / "a.png", VALUES.T, "P")
    with pytest.raises(InputError, match=r"3x2 but its labels are 2x3: make them equal \(images are read the way up"):
        open_split(tmp_path, "train").pair(0)


def test_fingerprint_follows_every_file_and_the_meaning_of_labels(tmp_path):
    seen = [open_split(native(tmp_path), "train").fingerprint()]
    assert open_split(native(tmp_path), "train").fingerprint() == seen[0]
    assert len(seen[0]) == 64
    for change in (
        lambda: save(tmp_path / "train" / "labels" / "a.png", MEANT // 255),
        lambda: save(tmp_path / "train" / "images" / "b.png", np.zeros((2, 3, 3), dtype=np.uint8)),
        lambda: (tmp_path / "classes.json").write_text(json.dumps(CLASSES | {"void_index": 8})),
        lambda: [
            (tmp_path / "train" / kind / "b.png").rename(tmp_path / "train" / kind / "c.png") for kind in ("images", "labels")
        ],
    ):
        change()
        seen.append(open_split(tmp_path, "train").fingerprint())
    assert len(set(seen)) == 5


def test_fingerprint_does_not_depend_on_the_place(tmp_path):
    assert (
        open_split(native(tmp_path / "x"), "train").fingerprint() == open_split(native(tmp_path / "y"), "train").fingerprint()
    )


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="the CamVid folder is not there")
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_camvid(split, count):
    opened = open_split(SHARED / "camvid", split)
    assert len(opened) == count
    image, labels = opened.pair(0)
    with Image.open(opened.samples[0].label) as picture:
        raw = np.asarray(picture)
    assert image.shape == (360, 480, 3)
    assert (raw == 11).any()
    np.testing.assert_array_equal(labels == 255, raw == 11)
    np.testing.assert_array_equal(labels[raw < 11], raw[raw < 11])
