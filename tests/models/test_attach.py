"""Attaching exits in one call: what is chosen, what a user may ask for, what is refused."""

import pytest
import torch
from torch import nn

from offramp.errors import InputError
from offramp.models import MultiExitNetwork, attach_exits
from offramp.models.attach import build_network, plan_network, resolve, width_at
from offramp.models.sources import build
from offramp.specs import FINAL, HeadSpec, NetworkChoice


class Block(nn.Sequential):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs)
        )


class Scores(nn.Module):
    """Four blocks at strides 2, 4, 8 and 8, then class scores; `wrap` decides how they are given."""

    def __init__(self, classes=5, wrap=lambda scores: scores):
        super().__init__()
        self.blocks = nn.ModuleList([Block(3, 4, 2), Block(4, 8, 2), Block(8, 8, 2), Block(8, 8)])
        self.classify = nn.Conv2d(8, classes, 1)
        self.wrap = wrap

    def forward(self, images):
        for block in self.blocks:
            images = block(images)
        return self.wrap(self.classify(images))


class Logits:
    def __init__(self, scores):
        self.logits = scores


def images(count=2, size=(64, 96)):
    return 255 * torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"out": s, "aux": s[:, :2]}, lambda s: {"logits": s}, Logits])
def test_class_scores_in_every_form_become_the_final_exit(wrap):
    own = Scores(wrap=wrap).eval()
    network = attach_exits(own, 5, (64, 96), exits=2)
    assert isinstance(network, MultiExitNetwork)
    assert network.backbone is own
    assert network.final_head is None
    assert network.spec.exit_names == ("blocks.1:fcn/c64", "blocks.2:fcn", FINAL)
    plain = Scores()
    plain.load_state_dict(own.state_dict())
    mean, std = torch.tensor(network.spec.mean).reshape(3, 1, 1), torch.tensor(network.spec.std).reshape(3, 1, 1)
    with torch.no_grad():
        assert torch.equal(network(images(), [FINAL])[FINAL], plain.eval()((images() / 255 - mean) / std))


def test_feature_maps_get_a_final_head():
    listed = attach_exits(Scores(8, wrap=lambda features: [features[..., ::2], features]), 5, (64, 96), exits=1)
    named = attach_exits(Scores(8, wrap=lambda features: {"fine": features[..., ::2], "deep": features}), 5, (64, 96), exits=1)
    assert listed.spec.final_head == named.spec.final_head == HeadSpec(channels=256)
    given = attach_exits(Scores(8), 5, (64, 96), exits=1, final_head="deeplab/c16/r2")
    assert given.spec.final_head == HeadSpec(kind="deeplab", channels=16, reduction=2)
    for network in (listed, named, given):
        scores = network.eval()(images())[FINAL]
        assert scores.shape == (2, 5, 8, 12)


def test_a_final_head_may_fuse_a_shallower_tap():
    network = attach_exits(Scores(8), 5, (64, 96), exits=0, final_head="skip/c16").eval()
    assert network.spec.final_skip == "blocks.1"
    assert network(images())[FINAL].shape == (2, 5, 16, 24)


def test_heads_for_every_tap_and_for_each():
    several = attach_exits(Scores(), 5, (64, 96), exits=2, heads=["fcn/c16", HeadSpec(kind="deeplab", channels=16)])
    assert several.spec.exit_names == (
        "blocks.1:fcn/c16",
        "blocks.1:deeplab/c16",
        "blocks.2:fcn/c16",
        "blocks.2:deeplab/c16",
        FINAL,
    )
    each = attach_exits(
        Scores(), 5, (64, 96), taps=["blocks.2", "blocks.0"], heads={"blocks.0": "fcn/r2", "blocks.2": ["skip/c8", "fcn/c8/b1"]}
    )
    assert each.spec.exit_names == ("blocks.0:fcn/c32/r2", "blocks.2+blocks.1:skip/c8", "blocks.2:fcn/c8/b1", FINAL)
    assert list(each(images())) == list(each.spec.exit_names)


def test_the_users_own_names_win():
    # Neither would be chosen: one is at stride 2, the other a single layer inside a block.
    network = attach_exits(Scores(), 5, (64, 96), taps=["blocks.3.1", "blocks.0"])
    assert [early.tap for early in network.spec.exits] == ["blocks.0", "blocks.3.1"]
    assert list(network.eval()(images())) == list(network.spec.exit_names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exits": 9}, r"9 exits asked for, but the network has only 3 points to tap: blocks\.0, blocks\.1, blocks\.2"),
        ({"taps": ["blocks.7"]}, r"no module 'blocks\.7'; near it: blocks\.\d"),
        ({"taps": ["blocks"]}, r"'blocks': it does not run"),
        ({"taps": ["blocks.1", "blocks.1"]}, r"a tap is named twice: blocks\.1, blocks\.1"),
        ({"heads": "fnc"}, r"not a head: 'fnc'"),
        ({"heads": ["fcn", "fcn/c128"], "taps": ["blocks.2"]}, r"two exits have the same tap and head"),
        (
            {"heads": {"blocks.1": "fcn"}, "taps": ["blocks.1", "blocks.2"]},
            r"given for blocks\.1, but the taps are blocks\.1, ",
        ),
        ({"heads": {"blocks.9": "fcn", "blocks.1": "fcn"}, "taps": ["blocks.1"]}, r"given for blocks\.9, .* the taps are"),
        ({"heads": "skip", "taps": ["blocks.0.0"]}, r"the head skip at blocks\.0\.0 needs a finer point before it"),
        ({"num_classes": 7}, r"gives 5 channels for num_classes=7; .* say num_classes=5; .* final_head"),
        ({"num_classes": 256}, r"from 2 to 255, got 256"),
        ({"final_head": "fnc"}, r"not a head"),
        ({"heads": {"blocks.1": []}, "taps": ["blocks.1"]}, r"no head is given for blocks\.1; give one, for example fcn"),
        ({"input_size": (4, 4)}, r"input_size must be height and width, 16 to 8192 pixels each, got \(4, 4\)"),
        ({"input_size": (0, 96)}, r"input_size .* got \(0, 96\)"),
        ({"exits": -1}, r"exits must be 0 or more, got -1"),
        ({"taps": "blocks.1"}, r"taps must be a list, got 'blocks\.1'; write \['blocks\.1'\]"),
    ],
)
def test_what_cannot_be_attached_is_refused(options, message):
    values = {"num_classes": 5, "input_size": (64, 96), "exits": 2} | options
    network = Scores()
    with pytest.raises(InputError, match=message):
        attach_exits(network, **values)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(Block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
            r"a tensor of shape \(1, 5\) for a",
        ),
        (Scores(wrap=lambda _: "text"), r"the network gives str for a 96x64 image; wanted are class scores"),
        (Scores(wrap=lambda s: {"out": s}, classes=4), r"gives 4 channels for num_classes=5"),
        (nn.Sequential(nn.Conv2d(1, 5, 3)), r"does not run on 96x64 images: RuntimeError: .*channels.*; give the size that"),
    ],
)
def test_what_is_no_segmentation_network_is_refused(network, message):
    with pytest.raises(InputError, match=message):
        attach_exits(network, 5, (64, 96), exits=1)


@pytest.mark.parametrize("wrap", [lambda s: [s, s], lambda s: {"seg": s, "edge": s[:, :1]}, lambda s: (s,)])
def test_class_scores_among_others_are_never_taken_for_features(wrap):
    """A new final head on them would silently replace the trained network's own answer."""
    own = Scores(2, wrap=wrap)
    with pytest.raises(InputError, match=r"several maps, .* fit num_classes=2; if these are class scores, let it"):
        attach_exits(own, 2, (64, 96), exits=1)
    assert attach_exits(own, 2, (64, 96), exits=1, final_head="fcn/c16").spec.final_head == HeadSpec(channels=16)


def test_class_scores_take_no_final_head():
    with pytest.raises(InputError, match="class scores itself and takes no final head"):
        attach_exits(Scores(wrap=lambda s: {"out": s}), 5, (64, 96), exits=1, final_head="fcn")


def test_other_normalisations():
    network = attach_exits(Scores().eval(), 5, (64, 96), exits=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with torch.no_grad():
        assert torch.equal(network(images())[FINAL], network.backbone(images() / 255))


# ------------------------------------------------------------------------------------------------------------------- named


def macs_until(network, stops, height, width):
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
    spec = plan_network(NetworkChoice(network="mobilenetv2_100", exits=3), 11, size=(96, 64))
    taps = [early.tap for early in spec.exits]
    at, whole = macs_until(build("mobilenetv2_100", 11).network, taps, 64, 96)
    assert len(set(taps)) == 3
    assert [at[tap] / whole for tap in taps] == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    assert (spec.network, spec.num_classes, spec.input_size) == ("timm:mobilenetv2_100", 11, (96, 64))


def test_planned_heads_are_narrower_on_larger_maps():
    assert [width_at(stride) for stride in (1, 2, 4, 8, 16, 32)] == [16, 32, 64, 128, 128, 128]
    choice = NetworkChoice(network="test_efficientnet", exits=3)
    spec = plan_network(choice, 4, size=(90, 70))
    widths = [(early.tap, early.head.channels) for early in spec.exits]
    assert widths == [("blocks.1.0", 64), ("blocks.2.0", 128), ("blocks.3.0", 128)]
    # A width that was asked for stays, and a head that fuses works on the finer map.
    heads = ("fcn/c128", "skip")
    fused = plan_network(choice.model_copy(update={"heads": heads, "taps": ("blocks.1.0", "blocks.2.0")}), 4, size=(90, 70))
    assert [early.name for early in fused.exits] == [
        "blocks.1.0:fcn",
        "blocks.1.0+blocks.0:skip/c32",
        "blocks.2.0:fcn",
        "blocks.2.0+blocks.1.0:skip/c64",
    ]


def test_a_plan_builds_the_same_network_again():
    spec = plan_network(NetworkChoice(network="test_efficientnet", exits=2, heads=("skip/c8",)), 4, size=(90, 70))
    first, second = (build_network(type(spec).model_validate_json(spec.model_dump_json())) for _ in range(2))
    assert first.spec == second.spec == spec
    assert [(n, t.shape) for n, t in first.state_dict().items()] == [(n, t.shape) for n, t in second.state_dict().items()]


def test_recipes_are_filled_in():
    chosen = resolve(NetworkChoice(network="efficient-mobilenetv3"))
    assert (chosen.network, chosen.output_stride, chosen.final_head) == ("timm:mobilenetv3_large_100", 16, "lraspp")
    chosen = resolve(NetworkChoice(network="dilated-resnet50", output_stride=16, final_head="fcn/c64"))
    assert (chosen.network, chosen.output_stride, chosen.final_head) == ("timm:resnet50", 16, "fcn/c64")
    assert resolve(NetworkChoice(network="resnet18")).network == "timm:resnet18"
    assert resolve(NetworkChoice(network="my-net.py:make")).network == "my-net.py:make"
    with pytest.raises(InputError, match="no recipe is called 'dilated-resnet5O'; near it: dilated-resnet50"):
        resolve(NetworkChoice(network="dilated-resnet5O"))


def test_an_lraspp_recipe_takes_its_fine_map_at_stride_8():
    spec = plan_network(NetworkChoice(network="efficient-mobilenetv2", exits=1), 11, size=(96, 64))
    assert spec.final_head == HeadSpec(kind="lraspp")
    assert spec.final_skip == "blocks.2.2"


def test_a_backbone_of_ones_own_may_have_any_final_head(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))\n"
    )
    choice = NetworkChoice(network=f"{tmp_path / 'own.py'}:make", taps=("0",), final_head="deeplab/c16")
    spec = plan_network(choice, 4, size=(96, 64))
    assert spec.final_head == HeadSpec(kind="deeplab", channels=16)
    with pytest.raises(InputError, match=r"gives 8 channels for num_classes=4; .*give a final_head"):
        plan_network(choice.model_copy(update={"final_head": None}), 4, size=(96, 64))


def test_named_networks_with_class_scores_take_no_final_head():
    with pytest.raises(InputError, match=r"torchvision:lraspp_mobilenet_v3_large gives class scores itself"):
        plan_network(NetworkChoice(network="torchvision:lraspp_mobilenet_v3_large", final_head="fcn"), 4, size=(96, 64))
