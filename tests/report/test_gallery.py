import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.evaluation import evaluate
from offramp.report.gallery import _left_out, make_gallery

IMAGES = 5


@pytest.fixture(scope="module")
def gallery(decided_package, scenes):
    return make_gallery(decided_package, scenes, "train", images=IMAGES)


@pytest.fixture(scope="module")
def answered(decided_package, scenes):
    return evaluate(decided_package, scenes, "train")


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_confusion_adds_up_to_the_records(gallery, answered):
    assert gallery.asked == len(answered.info.images) == 8
    correct, predicted, labelled = (sums.sum(axis=0) for sums in (answered.correct, answered.predicted, answered.labelled))
    assert (gallery.confusion.diagonal(axis1=1, axis2=2) == correct).all()
    assert (gallery.confusion.sum(axis=1) == predicted).all()
    assert (gallery.confusion.sum(axis=2) == labelled).all()


def test_images_run_from_the_easiest_to_the_hardest(gallery, answered):
    names = [image["name"] for image in gallery.images]
    order = sorted(range(8), key=lambda index: answered.differing[index, 0])
    assert len(names) == IMAGES
    assert [names[0], names[-1]] == [answered.info.images[order[0]], answered.info.images[order[-1]]]
    places = [answered.info.images.index(name) for name in names]
    assert (gallery.sure == answered.sure[places]).all()


def test_pictures_show_labels_and_errors(gallery, scenes):
    samples = open_split(scenes, "train")
    for image in gallery.images[:2]:
        index = [sample.name for sample in samples.samples].index(image["name"])
        truth = samples.labels(index)
        assert (np.asarray(picture(image["truth"])) == truth).all()
        for answer in image["exits"]:
            labels, wrong = np.asarray(picture(answer["labels"])), np.asarray(picture(answer["wrong"]))
            known = truth < 255
            assert (wrong.astype(bool) == ((labels != truth) & known)).all()
            assert answer["right"] == pytest.approx((labels == truth)[known].mean())
            assert picture(answer["labels"]).getpalette()[:3] == list(samples.classes.palette[0])


def test_edges_and_other_than_objects_are_left_out():
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:] = 1
    found = SimpleNamespace(confidence=np.zeros((4, 4)))
    masks = _left_out(labels, found, SimpleNamespace(object_classes=(1,)))
    # Cells of two pixels: the border runs between the second and the third.
    assert masks["off-edges"].tolist() == [[False, True, True, False]] * 4
    assert masks["objects"].tolist() == [[True, True, False, False]] * 4


def test_data_of_other_classes_are_refused(decided_package, scenes, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    classes = next(path for path in other.iterdir() if path.suffix in {".json", ".txt", ".csv"})
    classes.write_text(classes.read_text().replace("sky", "heaven"))
    with pytest.raises(InputError, match="heaven"):
        make_gallery(decided_package, other, "train")
