"""The network with exits: its backbone stays timm's, exits do not depend on each other, answers stay in their place."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from offramp.errors import InputError
from offramp.models.backbones import build_backbone
from offramp.models.multi_exit import build_network, plan_network, stride_of, upsample
from offramp.specs import FINAL, ExitSpec, HeadSpec, NetworkSpec

import timm  # isort: skip - torchvision may need help before

NAME = "test_efficientnet"
SPEC = NetworkSpec(
    backbone=NAME,
    output_stride=16,
    num_classes=4,
    final_head=HeadSpec(channels=8),
    exits=(ExitSpec(tap="blocks.1.0", head=HeadSpec(channels=8)), ExitSpec(tap="blocks.2.0", head=HeadSpec(channels=16))),
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return build_network(SPEC).eval()


@pytest.fixture(scope="module")
def images():
    return 255 * torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(2))


def test_the_backbone_is_timms_own(network, images):
    alone = timm.create_model(NAME, features_only=True, output_stride=16).eval()
    assert list(network.backbone.network.state_dict()) == list(alone.state_dict())
    alone.load_state_dict(network.backbone.network.state_dict())
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)  # ImageNet, as timm expects
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    taps = {}
    for tap in ("blocks.1.0", "blocks.2.0"):
        alone.get_submodule(tap).register_forward_hook(lambda _m, _i, output, tap=tap: taps.update({tap: output}))
    with torch.no_grad():
        expected = alone((images / 255 - mean) / std)[-1]
        features = network.features(images)
    assert torch.equal(features[FINAL], expected)
    assert features.keys() == {"blocks.1.0", "blocks.2.0", FINAL}
    assert all(torch.equal(features[tap], kept) for tap, kept in taps.items())


def test_every_exit_answers_at_its_own_resolution(network, images):
    with torch.no_grad():
        answers = network(images)
    shapes = {"blocks.1.0:fcn/c8": (2, 4, 18, 23), "blocks.2.0:fcn/c16": (2, 4, 9, 12), FINAL: (2, 4, 5, 6)}
    assert {name: tuple(scores.shape) for name, scores in answers.items()} == shapes
    assert list(answers) == list(SPEC.exit_names)
    assert [network.stride(scores, 70) for scores in answers.values()] == [4, 8, 16]


@pytest.mark.parametrize("asked", [[FINAL], ["blocks.1.0:fcn/c8"], [FINAL, "blocks.2.0:fcn/c16"], []])
def test_some_exits_answer_as_they_do_among_all(network, images, asked):
    with torch.no_grad():
        everything, some = network(images), network(images, asked)
    assert list(some) == asked
    assert all(torch.equal(scores, everything[name]) for name, scores in some.items())


def test_each_exit_is_its_head_on_its_tap(network, images):
    with torch.no_grad():
        features = network.features(images)
        answers = network(images)
        assert torch.equal(answers["blocks.2.0:fcn/c16"], network.early_heads[1](features["blocks.2.0"]))
        assert torch.equal(answers[FINAL], network.final_head(features[FINAL]))


def test_a_tap_that_is_no_point_is_refused():
    for tap, message in (("blocks.9.0", "no module 'blocks.9.0'; near it: .*blocks"), ("conv_stem", "points .*blocks.1.0")):
        wrong = SPEC.model_copy(update={"exits": (ExitSpec(tap=tap),)})
        with pytest.raises(InputError, match=message):
            build_network(wrong)


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
    with pytest.raises(InputError, match=r"22 on 360 pixels"):
        stride_of(22, 360)


# -------------------------------------------------------------------------------------------------------------------- plan


def macs_until(network: nn.Module, stops: list[str], height: int, width: int) -> tuple[dict[str, int], int]:
    """Multiply-accumulates of convolutions that have run when each stop is done, and of all, by the shapes of their outputs."""
    total, at = [0], {}

    def count(module, _inputs, output):
        total[0] += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    for stop in stops:
        network.get_submodule(stop).register_forward_hook(lambda *_, stop=stop: at.update({stop: total[0]}))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, height, width))
    return at, total[0]


def test_planned_exits_are_at_even_cost():
    spec = plan_network("mobilenetv2_100", 16, 11, exits=3, size=(96, 64))
    taps = [early.tap for early in spec.exits]
    at, whole = macs_until(build_backbone("mobilenetv2_100", 16).network, taps, 64, 96)
    assert len(set(taps)) == 3
    assert [at[tap] / whole for tap in taps] == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    assert (spec.backbone, spec.output_stride, spec.num_classes) == ("mobilenetv2_100", 16, 11)


def test_planned_heads_are_narrower_on_larger_maps():
    spec = plan_network(NAME, 16, 4, exits=3, size=(90, 70))
    assert [(early.tap, early.head.channels) for early in spec.exits] == [
        ("blocks.1.0", 64),
        ("blocks.2.0", 128),
        ("blocks.3.0", 128),
    ]
    with pytest.raises(InputError, match=r"4 exits asked for.*only 3"):
        plan_network(NAME, 16, 4, exits=4, size=(90, 70))
