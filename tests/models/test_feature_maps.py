"""Feature maps in every layout that networks keep them in, and what whole networks give."""

from types import SimpleNamespace

import pytest
import torch

from offramp.models.feature_maps import Layout, every_tensor, layout_of, main_tensor, read_answer


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
    ]:
        answer = read_answer(output)
        assert (answer.kind, answer.tensor is tensor) == (kind, True)
    for output in (None, "text", [], {}, {"loss": 3}, SimpleNamespace(loss=scores), [[fine]]):
        assert read_answer(output) is None
