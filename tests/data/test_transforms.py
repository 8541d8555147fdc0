"""Crops for training: image and labels move together, and what an index gives depends on seed, epoch and index alone."""

import numpy as np
import pytest
import torch

from offramp import torchvision_import  # noqa: F401 - torchvision may need help to import
from offramp.data.transforms import Crops, colour_change, recoloured
from offramp.metrics import VOID

from torchvision.transforms.v2 import functional as reference  # isort: skip

CLASSES = (0, 3, 7, VOID)
VALUES = {0: 20, 3: 90, 7: 160, VOID: 230}
"""Each class is painted in its own grey."""

PADDING = 114


class Painted:
    """A split of images that show their own labels: patches of 16x16, all edges on multiples of 16."""

    def __init__(self, size=(64, 96), images=3):
        rng = np.random.default_rng(0)
        patches = [rng.choice(CLASSES, (size[0] // 16, size[1] // 16)) for _ in range(images)]
        self.all = [np.kron(patch, np.ones((16, 16))).astype(np.uint8) for patch in patches]
        self.read = 0

    def __len__(self):
        return len(self.all)

    def pair(self, index):
        self.read += 1
        labels = self.all[index]
        grey = np.vectorize(VALUES.get)(labels).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), labels


def expected_grey(labels: torch.Tensor) -> torch.Tensor:
    table = torch.full((256,), -1.0)
    for label, value in VALUES.items():
        table[label] = value
    return table[labels]


def away_from_edges(labels: torch.Tensor, margin: int = 3) -> torch.Tensor:
    """Pixels whose whole surroundings are of their class and within the crop: nothing is mixed into them."""
    same = torch.zeros(labels.shape, dtype=torch.bool)
    windows = labels.unfold(0, 2 * margin + 1, 1).unfold(1, 2 * margin + 1, 1).flatten(2)
    same[margin:-margin, margin:-margin] = windows.amin(dim=2) == windows.amax(dim=2)
    return same


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.6, 1.9)])
def test_image_and_labels_stay_aligned(zoom):
    crops = Crops(Painted(), 56, 40, zoom, seed=1, jitter=0)
    for epoch in range(8):
        crops.epoch = epoch
        for index in range(3):
            image, labels = crops[index]
            padding = (image[0] == PADDING) & (labels == VOID)
            aligned = ((image[0] - expected_grey(labels)).abs() <= 1) | padding
            if zoom == (1.0, 1.0):
                assert aligned.all()
            else:
                checked = away_from_edges(labels)
                assert checked.float().mean() > 0.05
                assert aligned[checked].all()
                # Between two greys lies a third, in places where labels meet; nowhere else.
                assert aligned.float().mean() > 0.6


def test_crops_are_windows_flipped_or_not():
    split = Painted()
    crops = Crops(split, 40, 32, (1.0, 1.0), seed=2, jitter=0)
    seen = set()
    for epoch in range(12):
        crops.epoch = epoch
        _, labels = crops[0]
        whole = split.all[0]
        for flipped in (False, True):
            wanted = labels.flip(1).numpy() if flipped else labels.numpy()
            windows = np.lib.stride_tricks.sliding_window_view(whole, wanted.shape)
            if (windows == wanted).all(axis=(2, 3)).any():
                seen.add(flipped)
                break
        else:
            pytest.fail("the crop is no window of the labels")
    assert seen == {False, True}


def test_shapes_kinds_and_values():
    crops = Crops(Painted(), 56, 40, (0.3, 2.0), seed=3)
    assert len(crops) == 3
    for epoch in range(10):
        crops.epoch = epoch
        image, labels = crops[1]
        assert (image.shape, image.dtype, type(image)) == ((3, 40, 56), torch.float32, torch.Tensor)
        assert (labels.shape, labels.dtype, type(labels)) == ((40, 56), torch.int64, torch.Tensor)
        assert set(labels.unique().tolist()) <= set(CLASSES)
        assert 0 <= image.min() <= image.max() <= 255
        assert image.max() > 1


def test_padding_is_void():
    class Whole(Painted):
        def pair(self, _index):
            return np.full((32, 32, 3), 7, np.uint8), np.full((32, 32), 3, np.uint8)

    image, labels = Crops(Whole(), 48, 64, (1.0, 1.0), seed=4, jitter=0)[0]
    assert (labels == 3).sum() == 32 * 32
    assert (labels == VOID).sum() == 48 * 64 - 32 * 32
    assert torch.equal(image[0] == 7, labels == 3)
    assert torch.equal(image[2] == PADDING, labels == VOID)


def test_an_index_gives_the_same_in_any_order_and_process_state():
    first, second = Crops(Painted(), 40, 32, (0.6, 1.9), seed=5), Crops(Painted(), 40, 32, (0.6, 1.9), seed=5)
    first.epoch = second.epoch = 4
    in_order = [first[index] for index in range(3)]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the old global state must not matter either
    for index in (2, 0, 0, 1):
        image, labels = second[index]
        assert torch.equal(image, in_order[index][0])
        assert torch.equal(labels, in_order[index][1])


def test_seed_epoch_and_index_each_matter():
    split = Painted(images=2)
    split.all[1] = split.all[0]

    def crop(seed, epoch, index):
        crops = Crops(split, 40, 32, (0.6, 1.9), seed)
        crops.epoch = epoch
        return crops[index][0]

    one = crop(0, 1, 0)
    assert torch.equal(one, crop(0, 1, 0))
    # (1, 0, 0) and (0, 0, 1): the three are not merely added up.
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)):
        assert not torch.equal(one, crop(*other))


def test_the_zoom_keeps_to_its_range():
    """A ramp tells by its slope how much it was magnified."""

    class Ramp(Painted):
        def pair(self, _index):
            ramp = np.tile(np.arange(240, dtype=np.uint8), (240, 1))
            return np.repeat(ramp[..., None], 3, axis=2), ramp // 240

    crops = Crops(Ramp(), 80, 80, (0.5, 2.0), seed=6, flip=False, jitter=0)
    zooms = []
    for epoch in range(80):
        crops.epoch = epoch
        image, _ = crops[0]
        zooms.append(70 / (image[0, 40, 75] - image[0, 40, 5]).item())
    zooms = np.array(zooms)
    assert 0.49 <= zooms.min() < 0.6
    assert 1.7 < zooms.max() <= 2.05
    assert 0.25 < (zooms < 1).mean() < 0.75  # as often smaller as larger


@pytest.mark.parametrize("zoom", [0.3, 0.77, 1.0, 1.9])
def test_image_and_labels_fill_the_same_pixels(zoom):
    class Bright(Painted):
        def pair(self, _index):
            return np.full((33, 47, 3), 255, np.uint8), np.full((33, 47), 3, np.uint8)

    crops = Crops(Bright(), 64, 48, (zoom, zoom), seed=0, jitter=0)
    for epoch in range(20):
        crops.epoch = epoch
        image, labels = crops[0]
        assert torch.equal(image[1] == 255, labels == 3)
        assert torch.equal(image[1] == PADDING, labels == VOID)
        expected = min(round(33 * zoom), 48) * min(round(47 * zoom), 64)
        assert (labels == 3).sum().item() == pytest.approx(expected, rel=0.12)


# ----------------------------------------------------------------------------------------------------------------- colours


@pytest.fixture
def colours():
    return torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(3)) * 100 + 60  # nothing is clipped below


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_brightness_contrast_and_saturation_are_torchvisions(colours, factor):
    one = colours / 255
    for change, expected in (
        ((factor, 1, 1, 0), reference.adjust_brightness(one, factor)),
        ((1, factor, 1, 0), reference.adjust_contrast(one, factor)),
        ((1, 1, factor, 0), reference.adjust_saturation(one, factor)),
        (
            (factor, 0.9, 1.2, 0),
            reference.adjust_saturation(reference.adjust_contrast(reference.adjust_brightness(one, factor), 0.9), 1.2),
        ),
    ):
        # torchvision rounds the weights of grey to 0.2989, 0.587 and 0.114.
        assert torch.allclose(recoloured(colours, change) / 255, expected, atol=3e-4)


def test_the_hue_turns_and_brightness_stays(colours):
    luma = torch.tensor([0.299, 0.587, 0.114])
    turned = recoloured(colours, (1, 1, 1, 0.05))
    assert (turned - colours).abs().max() > 3
    assert torch.allclose(torch.einsum("c,chw->hw", luma, turned), torch.einsum("c,chw->hw", luma, colours), atol=0.05)
    assert torch.allclose(recoloured(turned, (1, 1, 1, -0.05)), colours, atol=0.05)
    grey = torch.full((3, 2, 2), 90.0)
    assert torch.allclose(recoloured(grey, (1, 1, 1, 0.05)), grey, atol=0.05)


def test_colours_change_within_their_range_and_are_clipped():
    rng = np.random.default_rng(0)
    drawn = np.array([colour_change(rng, 0.4) for _ in range(400)])
    assert (drawn[:, :3].min(axis=0) < 0.65).all()
    assert (drawn[:, :3].min(axis=0) >= 0.6).all()
    assert (drawn[:, :3].max(axis=0) <= 1.4).all()
    assert 0.045 < np.abs(drawn[:, 3]).max() <= 0.05
    bright = recoloured(torch.tensor([250.0, 5.0, 128.0]).reshape(3, 1, 1), (1.4, 1.4, 1.4, 0.05))
    assert 0 <= bright.min() <= bright.max() <= 255
    assert bright.max() == 255


def test_without_flip_nothing_is_mirrored():
    split = Painted(images=1)
    crops = Crops(split, 96, 64, (1.0, 1.0), seed=0, flip=False, jitter=0)
    for epoch in range(8):
        crops.epoch = epoch
        assert np.array_equal(crops[0][1].numpy(), split.all[0])


def test_torchs_generator_is_left_alone():
    crops = Crops(Painted(), 40, 32, (0.6, 1.9), seed=7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    crops[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_is_decoded_once(monkeypatch):
    split = Painted()
    crops = Crops(split, 40, 32, (0.6, 1.9), seed=8)
    kept = crops[0][0].clone()
    crops.epoch = 1
    crops[0]
    crops.epoch = 0
    assert torch.equal(crops[0][0], kept)  # the cached pixels were not changed
    assert split.read == 1
    monkeypatch.setattr("offramp.data.transforms.CACHE_BYTES", 0)
    for _ in range(2):
        crops[1]
    assert split.read == 3


def test_labels_are_resized_about_the_pixels_centres():
    """Pixel i of the large map lies at (i + 0.5) / zoom - 0.5 of the small one, where the image's pixels lie, too."""
    split = Painted(images=1)
    labels = split.all[0] = np.random.default_rng(1).choice(CLASSES, (64, 96)).astype(np.uint8)
    rows, columns = (np.floor((np.arange(round(n * 1.5)) + 0.5) / 1.5).astype(int) for n in labels.shape)
    wanted = labels[rows][:, columns]
    _, got = Crops(split, wanted.shape[1], wanted.shape[0], (1.5, 1.5), 0)[0]
    assert any(np.array_equal(got.numpy(), side) for side in (wanted, wanted[:, ::-1]))


def test_decoding_all_at_once_changes_nothing_and_reads_nothing_again(monkeypatch):
    crops = Crops(Painted(), 40, 32, (0.6, 1.9), seed=8)
    before = [crops[index] for index in range(len(crops))]
    fresh = Crops(Painted(), 40, 32, (0.6, 1.9), seed=8)
    fresh.decode_all()
    monkeypatch.setattr(fresh.split, "pair", lambda _: pytest.fail("read again"))
    for index, (image, labels) in enumerate(before):
        assert torch.equal(fresh[index][0], image)
        assert torch.equal(fresh[index][1], labels)


def test_decoding_all_at_once_stops_where_the_cache_is_full(monkeypatch):
    crops = Crops(Painted(), 40, 32, (0.6, 1.9), seed=8)
    read, pair = [], crops.split.pair
    monkeypatch.setattr(crops.split, "pair", lambda index: read.append(index) or pair(index))
    monkeypatch.setattr("offramp.data.transforms.CACHE_BYTES", 1)
    crops.decode_all()
    assert read == [0]
