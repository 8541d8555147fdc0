"""Feature maps in every layout that networks keep them in, and what whole networks give."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from offramp.errors import InputError
from offramp.models.feature_maps import Layout, every_tensor, layout_of, main_tensor, read_answer, stride_of, upsample


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 24, 90, 120), Layout("nchw", 4, 24)),
        ((1, 320, 23, 30), Layout("nchw", 16, 320)),  # ceil(360 / 16) is 23
        ((1, 320, 22, 30), None),  # rounded down
        ((1, 11, 360, 480), Layout("nchw", 1, 11)),
        ((1, 45, 60, 96), Layout("nhwc", 8, 96)),
        ((1, 90 * 120, 32), Layout("tokens", 4, 32)),
        ((1, 23 * 30 + 1, 192), Layout("tokens", 16, 192, 1)),
        ((1, 23 * 30 + 5, 192), Layout("tokens", 16, 192, 5)),
        ((1, 23 * 30 + 3, 192), None),
        ((1, 320, 1, 1), None),  # pooled
        ((1, 1000), None),
        ((4, 24, 90, 120), None),  # a window or a patch in the place of an image
        ((1, 8, 36, 48), Layout("nchw", 10, 8)),
        (None, None),
    ],
)
def test_layouts_of_a_480x360_image(shape, expected):
    assert layout_of(shape, 360, 480) == expected


@pytest.mark.parametrize(
    "layout", [Layout("nchw", 8, 6), Layout("nhwc", 8, 6), Layout("tokens", 8, 6), Layout("tokens", 8, 6, 2)]
)
def test_every_layout_becomes_the_same_map(layout):
    wanted = torch.randn(2, 6, 3, 5)  # of a 40x20 image
    tokens = torch.stack([wanted[:, :, cell // 5, cell % 5] for cell in range(15)], dim=1)
    held = {
        "nchw": wanted,
        "nhwc": torch.stack([wanted[:, channel] for channel in range(6)], dim=-1),
        "tokens": torch.cat([torch.zeros(2, layout.before, 6), tokens], dim=1),
    }[layout.kind]
    assert layout.cells(20, 40) == (3, 5)
    assert torch.equal(layout.as_map(held, 20, 40), wanted)


def test_the_main_tensor_of_an_output():
    one, two = torch.zeros(1), torch.ones(1)
    assert main_tensor(one) is one
    assert main_tensor((one, two)) is one
    # A list of feature maps is about none of them.
    assert main_tensor([one, two]) is None
    assert main_tensor({"out": one}) is None
    assert main_tensor(()) is None
    assert main_tensor((None, one)) is None


def test_every_tensor_is_found():
    parts = [torch.full((1,), float(index)) for index in range(5)]
    nested = (parts[0], {"a": parts[1], "b": [parts[2], None, "text"]}, ((parts[3],), parts[4]))
    assert [int(tensor) for tensor in every_tensor(nested)] == [0, 1, 2, 3, 4]


def test_what_networks_give():
    scores, fine = torch.zeros(1, 5, 8, 8), torch.ones(1, 3, 16, 16)
    for output, kind, tensor in [
        (scores, "either", scores),
        ({"out": scores, "aux": fine}, "scores", scores),
        ({"logits": scores}, "scores", scores),
        (SimpleNamespace(logits=scores), "scores", scores),
        ([fine, scores], "features", scores),
        ((fine, scores), "features", scores),
        (SimpleNamespace(feature_maps=(fine, scores)), "features", scores),
        (SimpleNamespace(last_hidden_state=scores), "features", scores),
        ({"0": fine, "1": scores}, "features", scores),
    ]:
        answer = read_answer(output)
        assert (answer.kind, answer.tensor is tensor) == (kind, True)
    mixed = {"map": scores, "loss": fine.mean()}
    for output in (None, "text", [], {}, {"loss": 3}, mixed, SimpleNamespace(loss=scores), [[fine]]):
        assert read_answer(output) is None


# ---------------------------------------------------------------------------------------------------------------- upsample


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_upsample_whole_multiples(stride):
    scores = torch.randn(2, 3, 5, 7)
    expected = functional.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample(scores, stride, 5 * stride, 7 * stride), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(33, 50), (40, 56), (39, 49)])
def test_upsample_keeps_every_pixel_in_its_place(height, width):
    # Each cell of a stride-8 map holds the place of its centre: pixel y must find y, whatever the image's size.
    rows = (8.0 * torch.arange(5) + 3.5).reshape(1, 1, 5, 1).expand(1, 1, 5, 7)
    columns = (8.0 * torch.arange(7) + 3.5).reshape(1, 1, 1, 7).expand(1, 1, 5, 7)
    places = upsample(torch.cat([rows, columns], dim=1), 8, height, width)
    assert places.shape == (1, 2, height, width)
    inner_y, inner_x = torch.arange(4, min(height, 36)), torch.arange(4, min(width, 52))
    assert torch.allclose(places[0, 0, 4:36, 0], inner_y.float(), atol=1e-4)
    assert torch.allclose(places[0, 1, 0, 4:52], inner_x.float(), atol=1e-4)


def test_upsample_is_a_cut_from_the_padded_image():
    features = torch.randn(1, 2, 3, 4)
    padded = functional.interpolate(features, size=(48, 64), mode="bilinear", align_corners=False)
    assert torch.equal(upsample(features, 16, 35, 50), padded[..., :35, :50])


def test_stride_of_every_size():
    for stride in (2, 4, 8, 16, 32):
        for pixels in range(stride + 1, 300):
            assert stride_of(-(-pixels // stride), pixels) == stride
    assert stride_of(36, 360) == 10
    with pytest.raises(InputError, match=r"22 on 360 pixels"):
        stride_of(22, 360)
