import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.nn import functional

from offramp.artifacts import load_manifest
from offramp.data.folder import open_split
from offramp.evaluation import evaluate, side_by_side
from offramp.export.graph import interpolation_matrix, labels_graph
from offramp.export.package import export
from offramp.metrics import miou
from offramp.models.confidence import grouped
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.runtime.stream import run


@pytest.mark.parametrize(("cells", "stride", "number"), [(5, 8, 40), (12, 4, 45), (3, 2, 5), (7, 1, 7)])
def test_at_full_size_it_is_pytorchs_upsampling(cells, stride, number):
    values = torch.randn(1, 1, cells, generator=torch.Generator().manual_seed(0))
    wanted = functional.interpolate(values, size=cells * stride, mode="linear", align_corners=False)[0, 0, :number]
    got = interpolation_matrix(cells, stride, number) @ values[0, 0].numpy()
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("height", [45, 176, 361])
@pytest.mark.parametrize(("stride", "label_stride"), [(1, 1), (2, 1), (16, 1), (8, 2), (8, 8), (4, 8), (2, 8), (1, 4), (16, 4)])
def test_a_map_holds_the_values_at_its_pixels_centres(stride, label_stride, height):
    width = 70
    scores = torch.randn(1, 3, -(-height // stride), -(-width // stride), generator=torch.Generator().manual_seed(1))
    rows = (torch.arange(-(-height // label_stride)) + 0.5) * label_stride  # in image pixels
    columns = (torch.arange(-(-width // label_stride)) + 0.5) * label_stride
    # grid_sample counts from -1 to 1 over whole cells.
    grid = torch.stack(torch.meshgrid(rows / (scores.shape[2] * stride), columns / (scores.shape[3] * stride), indexing="ij"))
    grid = grid.flip(0).permute(1, 2, 0)[None] * 2 - 1
    wanted = functional.grid_sample(scores, grid, mode="bilinear", padding_mode="border", align_corners=False).argmax(dim=1)
    model = labels_graph(scores.shape, stride, height, width, label_stride=label_stride)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"scores": scores.numpy()})[0]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, wanted.numpy())
    assert (len(model.graph.node) == 2) == (stride == label_stride), "nothing to interpolate, nothing computed"


def test_a_groups_probability_is_the_sum_of_its_classes():
    scores = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(2))
    probabilities = functional.softmax(scores, dim=1)
    got = functional.softmax(grouped(scores, (0, 1, 0, 2, 1)), dim=1)
    wanted = torch.stack([probabilities[:, [0, 2]].sum(1), probabilities[:, [1, 4]].sum(1), probabilities[:, 3]], dim=1)
    torch.testing.assert_close(got, wanted)


@pytest.fixture(scope="module")
def coarse(trained_run, tmp_path_factory):
    """Label maps of a quarter, two pairs of classes put together."""
    out = tmp_path_factory.mktemp("coarse") / "package"
    export(trained_run, out, label_stride=4, groups=["road+pavement=ground", "car+person=mover"])
    return out


@pytest.fixture(scope="module")
def fine(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("fine") / "package"
    export(trained_run, out, groups=["road+pavement=ground", "car+person=mover"])
    return out


def labels_of(package, image, engine="onnxruntime"):
    network = StagedNetwork(package, open_engine(engine, 1))
    return {found.exit: found.labels() for found in network.iter_exits(image)}


def test_a_package_of_grouped_classes_is_measured_on_them(fine, package, scenes):
    manifest, whole = load_manifest(fine), load_manifest(package)
    assert manifest.data_classes == whole.classes
    assert {"ground", "mover"} < set(manifest.classes)
    image, labels = open_split(scenes, "val").pair(0)
    meaning = np.array([*manifest.groups, *[255] * (256 - len(manifest.groups))], np.uint8)
    records, before = evaluate(fine, scenes, "val", images=[0]), evaluate(package, scenes, "val", images=[0])
    assert records.info.classes == manifest.classes
    for place, (name, answer) in enumerate(labels_of(fine, image).items()):
        right = (answer == meaning[labels]) & (labels != 255)
        assert records.correct[0, place].sum() == right.sum(), name
    assert records.labelled.sum() == before.labelled.sum()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_coarse_label_maps_are_the_fine_ones_between_their_pixels(coarse, fine, scenes, engine):
    image = open_split(scenes, "val").image(0)
    ours, theirs = labels_of(coarse, image, engine), labels_of(fine, image, engine)
    assert load_manifest(coarse).labels_shape == (16, 24)
    for name, labels in ours.items():
        assert labels.shape == (16, 24)
        # The centre of a coarse pixel lies between four fine ones; where these agree, so does it.
        around = theirs[name].reshape(16, 4, 24, 4)[:, 1:3, :, 1:3].transpose(0, 2, 1, 3).reshape(16, 24, 4)
        agree = (around == around[..., :1]).all(axis=2)
        assert agree.mean() > 0.5
        np.testing.assert_array_equal(labels[agree], around[..., 0][agree])


def test_coarse_labels_are_measured_at_full_size_and_run(coarse, scenes, tmp_path):
    split = open_split(scenes, "val")
    image, labels = split.pair(0)
    records = evaluate(coarse, scenes, "val")
    groups = np.array([*load_manifest(coarse).groups, *[255] * 255], np.uint8)[labels]
    for place, answer in enumerate(labels_of(coarse, image).values()):
        assert records.correct[0, place].sum() == (answer.repeat(4, 0).repeat(4, 1) == groups).sum()
    predictor = Predictor(coarse)
    assert predictor(image).labels.shape == (16, 24)
    assert predictor(np.zeros((50, 70, 3), np.uint8)).labels.shape == (13, 18), "of the image's own size"
    both = side_by_side(predictor, predictor.network.load_original(), scenes, "val")
    final = miou(records.correct.sum(0), records.predicted.sum(0), records.labelled.sum(0)[None])[-1]
    assert both.miou == pytest.approx(float(final))
    assert both.original_miou == pytest.approx(float(final))
    log = run(str(scenes / "val" / "images"), predictor, tmp_path / "out")
    with Image.open(next((tmp_path / "out" / "labels").glob("*.png"))) as written:
        assert written.size == (24, 16)
    with Image.open(next((tmp_path / "out" / "overlays").glob("*.jpg"))) as overlay:
        assert overlay.size == (96, 64)
    assert len(log.frames) == 2
