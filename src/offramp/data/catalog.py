"""The dataset layouts that are read as they come, as data.

A layout says by which folders it is recognised, where a split's images and labels lie, how their names differ, and what the
values in label files mean. To read another dataset as it comes, add an entry to `LAYOUTS`; nothing else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]

SPLITS = ("train", "val", "test")

CLASS_FILE = "classes.json"


@dataclass(frozen=True)
class Classes:
    """What the indices 0..C-1 in a label map mean."""

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    """One RGB colour a class, 0..255."""


@dataclass(frozen=True)
class LabelFiles:
    """One kind of label file: how its name ends before `.png`, and what its values mean."""

    ending: str
    class_values: tuple[int, ...]
    """The value that stands for class 0, 1, and so on."""
    void_values: tuple[int, ...]
    """Values that stand for "count this pixel nowhere"."""


@dataclass(frozen=True)
class Layout:
    """Where one kind of dataset keeps what. `{split}` in a path is replaced by the split's name."""

    expects: str
    """The layout in one line, for people."""
    markers: tuple[str, ...]
    """Patterns below the root; a folder has this layout if each of them matches something."""
    images: str
    """The folder of a split's images, searched with its subfolders."""
    labels: str
    """The folder of a split's labels, searched with its subfolders."""
    image_ending: str = ""
    """How an image's name ends before its suffix; what is left must equal the label's name without its own ending."""
    split_list: str | None = None
    """A text file that lists the names of a split, where the folders hold all splits together."""
    roots: tuple[str, ...] = (".",)
    """Where the root may lie below the folder that was given."""
    label_files: tuple[LabelFiles, ...] = ()
    """The kinds of label file, preferred first; empty: the class file says it."""
    classes: Classes | None = None
    """None: read from the class file."""
    void_colour: Colour | None = None
    """The colour of void in three-channel labels."""


CAMVID_CLASSES = Classes(
    names=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)

# Names, ids and colours as in cityscapesScripts, helpers/labels.py: a class is an entry whose trainId is 0..18.
CITYSCAPES_CLASSES = Classes(
    names=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)

CITYSCAPES_TRAIN_IDS = LabelFiles("_gtFine_labelTrainIds", class_values=tuple(range(19)), void_values=(255,))

CITYSCAPES_IDS = LabelFiles(
    "_gtFine_labelIds",
    class_values=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    void_values=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255),
)

# Names and colours as in the development kit of the PASCAL VOC challenge 2012.
VOC_CLASSES = Classes(
    names=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    palette=(
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    ),
)

LAYOUTS: dict[str, Layout] = {
    "native": Layout(
        expects=f"{CLASS_FILE} and {{train,val,test}}/{{images,labels}}, labels as palette or grey PNG",
        markers=(CLASS_FILE,),
        images="{split}/images",
        labels="{split}/labels",
    ),
    "camvid": Layout(
        expects="train, trainannot, val, valannot, test, testannot, labels as grey PNG of the image's name",
        markers=("*annot",),
        images="{split}",
        labels="{split}annot",
        label_files=(LabelFiles("", class_values=tuple(range(11)), void_values=(11,)),),
        classes=CAMVID_CLASSES,
        void_colour=(0, 0, 0),
    ),
    "cityscapes": Layout(
        expects="leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png and "
        "gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png or *_gtFine_labelTrainIds.png",
        markers=("leftImg8bit", "gtFine"),
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        image_ending="_leftImg8bit",
        label_files=(CITYSCAPES_TRAIN_IDS, CITYSCAPES_IDS),
        classes=CITYSCAPES_CLASSES,
        void_colour=(0, 0, 0),
    ),
    "voc": Layout(
        expects="JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val,test}.txt",
        markers=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
        images="JPEGImages",
        labels="SegmentationClass",
        split_list="ImageSets/Segmentation/{split}.txt",
        roots=(".", "VOCdevkit/VOC2012", "VOC2012"),
        label_files=(LabelFiles("", class_values=tuple(range(21)), void_values=(255,)),),
        classes=VOC_CLASSES,
        void_colour=(224, 224, 192),
    ),
}
