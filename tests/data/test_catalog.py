"""Each layout of the catalogue, written in miniature, is recognised and read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.data.catalog import CAMVID_CLASSES, CITYSCAPES_CLASSES, CITYSCAPES_IDS, LAYOUTS, VOC_CLASSES
from offramp.data.class_file import _voc_colour
from offramp.data.folder import open_dataset, open_split
from offramp.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 1), (9, 9, 9)).save(path)


def label(path: Path, values: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def test_camvid(tmp_path):
    for split in ("train", "val", "test"):
        image(tmp_path / split / "0001.png")
        label(tmp_path / f"{split}annot" / "0001.png", [[10, 11]])
    split = open_split(tmp_path, "val")
    assert split.labels(0).tolist() == [[10, 255]]
    assert split.classes.names[10] == "Bicyclist"
    assert split.samples[0].image == tmp_path / "val" / "0001.png"


def cityscapes(root: Path, kind: str, values: list[list[int]]) -> None:
    for city in ("ulm", "bonn"):
        image(root / "leftImg8bit" / "val" / city / f"{city}_000_019_leftImg8bit.png")
        label(root / "gtFine" / "val" / city / f"{city}_000_019_gtFine_{kind}.png", values)
        image(root / "gtFine" / "val" / city / f"{city}_000_019_gtFine_color.png")


def test_cityscapes_ids_become_train_ids(tmp_path):
    cityscapes(tmp_path, "labelIds", [[7, 33], [4, 26]])
    split = open_split(tmp_path, "val")
    assert [sample.name for sample in split.samples] == ["bonn/bonn_000_019", "ulm/ulm_000_019"]
    assert split.labels(1).tolist() == [[0, 18], [255, 13]]
    assert split.classes.names[13] == "car"


def test_cityscapes_prefers_train_ids(tmp_path):
    cityscapes(tmp_path, "labelIds", [[7, 33]])
    cityscapes(tmp_path, "labelTrainIds", [[3, 255]])
    assert open_split(tmp_path, "val").labels(0).tolist() == [[3, 255]]


def test_cityscapes_takes_the_kind_that_serves_most_images(tmp_path):
    cityscapes(tmp_path, "labelIds", [[7, 33]])
    label(tmp_path / "gtFine" / "val" / "ulm" / "ulm_000_019_gtFine_labelTrainIds.png", [[3, 3]])
    assert open_split(tmp_path, "val").labels(1).tolist() == [[0, 18]]


def test_cityscapes_ids_cover_all_34_and_no_other():
    assert sorted(CITYSCAPES_IDS.class_values + CITYSCAPES_IDS.void_values) == [*range(34), 255]


def voc(root: Path) -> None:
    for name in ("2007_1", "2007_2", "2007_3"):
        image(root / "JPEGImages" / f"{name}.jpg")
        label(root / "SegmentationClass" / f"{name}.png", [[20, 255]])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_3\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")


@pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path, inner):
    voc(tmp_path / inner)
    split = open_split(tmp_path, "train")
    assert [sample.name for sample in split.samples] == ["2007_1", "2007_3"]
    assert split.labels(0).tolist() == [[20, 255]]
    assert split.classes.names[20] == "tvmonitor"
    assert open_dataset(tmp_path).splits() == ("train", "val")
    assert split.root == tmp_path / inner


def test_voc_list_that_names_no_file(tmp_path):
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_2\n2007_9\n")
    with pytest.raises(InputError, match="1 names in the list of val have no file, such as 2007_9"):
        open_split(tmp_path, "val")


def test_voc_palette_is_the_one_that_the_bits_give():
    assert tuple(_voc_colour(index) for index in range(21)) == VOC_CLASSES.palette


@pytest.mark.parametrize(("classes", "count"), [(CAMVID_CLASSES, 11), (CITYSCAPES_CLASSES, 19), (VOC_CLASSES, 21)])
def test_names_and_colours_are_distinct(classes, count):
    assert len(set(classes.names)) == len(set(classes.palette)) == count


def test_every_layout_with_classes_says_what_their_values_are():
    for layout in LAYOUTS.values():
        for kind in layout.label_files:
            assert layout.classes is not None
            assert len(kind.class_values) == len(layout.classes.names)
            assert not set(kind.class_values) & set(kind.void_values)


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="the CamVid folder is not there")
def test_camvid_classes_are_those_of_the_native_copy():
    content = json.loads((SHARED / "camvid" / "classes.json").read_text())
    assert list(CAMVID_CLASSES.names) == content["classes"]
    assert [list(colour) for colour in CAMVID_CLASSES.palette] == content["palette"][:11]
