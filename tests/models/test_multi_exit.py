"""The network with exits: its backbone stays timm's, exits do not depend on each other, answers stay in their place."""

import copy

import pytest
import torch

from offramp import torchvision_import  # noqa: F401 - timm imports torchvision, which may need help
from offramp.errors import InputError
from offramp.models.attach import build_network
from offramp.specs import FINAL, ExitSpec, HeadSpec, NetworkSpec

import timm  # isort: skip

NAME = "test_efficientnet"
SPEC = NetworkSpec(
    network=f"timm:{NAME}",
    output_stride=16,
    num_classes=4,
    input_size=(90, 70),
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
    assert list(network.backbone.state_dict()) == list(alone.state_dict())
    alone.load_state_dict(network.backbone.state_dict())
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


def test_a_copy_has_hooks_of_its_own(network, images):
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert not twin(images)["blocks.1.0:fcn/c8"].any()
        assert network(images)["blocks.1.0:fcn/c8"].any()


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


def test_a_head_that_fuses_gets_the_shallower_tap(images):
    exits = (ExitSpec(tap="blocks.2.0", head=HeadSpec(kind="skip", channels=8), skip="blocks.1.0"),)
    network = build_network(SPEC.model_copy(update={"exits": exits})).eval()
    with torch.no_grad():
        features = network.features(images)
        answers = network(images)
        wanted = network.early_heads[0](features["blocks.2.0"], features["blocks.1.0"])
    assert list(answers) == ["blocks.2.0+blocks.1.0:skip/c8", FINAL]
    assert torch.equal(answers["blocks.2.0+blocks.1.0:skip/c8"], wanted)
    assert wanted.shape == (2, 4, 18, 23)


def test_a_tap_that_is_no_point_is_refused():
    messages = {"blocks.9.0": "no module 'blocks.9.0'; near it: .*blocks", "blocks.0": None, "": "no module ''"}
    for tap, message in messages.items():
        wrong = SPEC.model_copy(update={"exits": (ExitSpec(tap=tap),)})
        if message is None:
            assert build_network(wrong).spec == wrong  # any module with a feature map may be named
            continue
        with pytest.raises(InputError, match=message):
            build_network(wrong)


def test_figures_of_heads(network):
    assert network.figures("blocks.2.0:fcn/c16", (90, 70)).receptive_field == 3 * 8
    assert network.figures(FINAL, (90, 70)).receptive_field == 3 * 16
    early = network.figures("blocks.2.0:fcn/c16", (90, 70))
    assert early.parameters == sum(p.numel() for p in network.early_heads[1].parameters())
