"""A folder with one fault of each kind: each is found once, in one pass, and nothing is raised."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.check import check, require_readable
from offramp.data.folder import open_split
from offramp.errors import InputError


def put(root: Path, name: str, *, image: tuple[int, int] | None = (4, 2), labels: list[list[int]] | None = None) -> None:
    """Write train/images/NAME.png of `image` (width, height), and train/labels/NAME.png."""
    for kind in ("images", "labels"):
        (root / "train" / kind).mkdir(parents=True, exist_ok=True)
    if image:
        Image.new("RGB", image, (5, 5, 5)).save(root / "train" / "images" / f"{name}.png")
    if labels:
        Image.fromarray(np.array(labels, dtype=np.uint8)).save(root / "train" / "labels" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["road", "tree"], "void_index": 9}))
    put(tmp_path, "good", labels=[[0, 0, 0, 1], [1, 9, 9, 9]])
    return tmp_path


def kinds(findings):
    return [(found.kind, found.file) for found in findings.findings]


def test_good_folder(root):
    findings = check(root)
    assert findings.ok
    assert findings.to_json() == {
        "root": str(root),
        "ok": True,
        "classes": ["road", "tree"],
        "splits": [
            {
                "name": "train",
                "images": 1,
                "pixels": [
                    {"class": "road", "pixels": 3, "share": 0.375},
                    {"class": "tree", "pixels": 2, "share": 0.25},
                    {"class": "void", "pixels": 3, "share": 0.375},
                ],
            }
        ],
        "findings": [],
    }


def test_every_fault_is_found_in_one_pass(root):
    full = [[0] * 4] * 2
    put(root, "a", labels=None)
    put(root, "b", image=None, labels=full)
    put(root, "c", labels=[[0] * 4])
    put(root, "d", labels=[[0, 3, 8, 1]] * 2)
    put(root, "e", labels=full)
    (root / "train" / "images" / "e.png").write_bytes(b"no picture")
    put(root, "f", labels=full)
    whole = (root / "train" / "labels" / "f.png").read_bytes()
    (root / "train" / "labels" / "f.png").write_bytes(whole[: len(whole) // 2])
    put(root, "g", labels=full)
    Image.new("RGB", (4, 2), (1, 2, 3)).save(root / "train" / "labels" / "g.png")
    Image.new("RGB", (4, 2)).save(root / "train" / "images" / "g.bmp")
    findings = check(root)
    assert kinds(findings) == [
        ("image-without-label", "train/images/a.png"),
        ("label-without-image", "train/labels/b.png"),
        ("same-name", "train/images/g.png"),
        ("size-mismatch", "train/labels/c.png"),
        ("unknown-values", "train/labels/d.png"),
        ("unreadable-image", "train/images/e.png"),
        ("unreadable-label", "train/labels/f.png"),
        ("unknown-values", "train/labels/g.png"),
    ]
    details = {found.file: found.detail for found in findings.findings}
    assert details["train/labels/c.png"] == "is 4x1, its image is 4x2"
    assert details["train/labels/d.png"] == "holds values 3, 8, neither a class nor void"
    assert details["train/labels/g.png"] == "holds the value #010203, neither a class nor void"
    assert not findings.ok
    (split,) = findings.splits
    assert split.images == 7
    # good 3, c 4, d 2, e 8; f cannot be read; g holds no known colour.
    assert split.class_pixels == (17, 4)
    assert split.void_pixels == 3 + 4 + 8
    json.dumps(findings.to_json())


def test_progress_is_told_per_image(root):
    put(root, "more", labels=[[0] * 4] * 2)
    told = []
    check(root, progress=lambda *call: told.append(call))
    assert told == [("check train", 1, 2), ("check train", 2, 2)]


def test_empty_and_absent_splits(root):
    (root / "val" / "images").mkdir(parents=True)
    assert kinds(check(root)) == [("empty-split", "")]
    assert [split.name for split in check(root).splits] == ["train", "val"]
    (root / "val" / "images").rmdir()
    (root / "train").rename(root / "training")
    assert kinds(check(root)) == [("no-split", "")]


def test_names_in_a_list_without_files(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("x\n")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe\xff")
    assert [(found.kind, found.split, found.file) for found in check(tmp_path).findings] == [
        ("missing-files", "train", "x"),
        ("split-list", "val", ""),
    ]


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot tell the layout"):
        check(tmp_path)


def test_the_same_picture_in_two_splits_and_splits_without_labels(root):
    put(root, "void", labels=[[9] * 4] * 2)
    for split, name in (("val", "again"), ("val", "twice"), ("test", "other")):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        seed = 3 if split == "test" else 5
        Image.new("RGB", (4, 2), (seed, 5, 5)).save(root / split / "images" / f"{name}.png", compress_level=9)
        Image.new("L", (4, 2), 9 if split == "test" else 0).save(root / split / "labels" / f"{name}.png")
    assert kinds(check(root)) == [
        ("in-two-splits", "val/images/again.png"),
        ("in-two-splits", "val/images/twice.png"),
        ("nothing-labelled", ""),
    ]
    assert "good.png of train" in check(root).findings[0].detail


def test_everything_is_read_before_a_training(root, monkeypatch):
    put(root, "late", labels=[[0] * 4])
    monkeypatch.setattr("offramp.data.check.TOLD_EVERY", 1)
    told = []
    with pytest.raises(InputError, match=r"late\.png is 4x2 but its labels are 4x1"):
        require_readable([open_split(root, "train")], lambda *call: told.append(call))
    assert told == [("check images and labels", 1, 2)]
