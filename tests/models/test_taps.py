"""Points for exits: which modules are blocks, which may be named, what they have cost, and the choice among them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from offramp.errors import InputError
from offramp.models.feature_maps import Layout
from offramp.models.taps import MULTIPLES, ODD, TapPoint, choose_taps, find_multiple, find_points


def conv(inputs, outputs, stride=1, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.norm, self.second = conv(channels, channels), nn.BatchNorm2d(channels), conv(channels, channels)

    def forward(self, x):
        return functional.relu(x + self.second(functional.relu(self.norm(self.first(x)))))


class Down(nn.Module):
    """Two convolutions and no shortcut, functional calls between them; keeps its layers in a sequence of its own."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 2), nn.ReLU(), conv(outputs, outputs))

    def forward(self, x):
        return self.body(x)


class Pyramid(nn.Module):
    """Branches side by side, each with two layers."""

    def __init__(self, channels):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(conv(channels, channels), conv(channels, channels)) for _ in range(3))
        self.project = conv(3 * channels, channels, kernel=1)

    def forward(self, x):
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))


class Everything(nn.Module):
    """Stem, stages kept in three different ways, a pyramid, a module called twice and an auxiliary head."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, 2)
        self.stage1 = nn.Sequential(Down(8, 16), Residual(16))
        self.stage2 = nn.ModuleDict({"down": Down(16, 24), "blocks": nn.ModuleList([Residual(24), Residual(24)])})
        self.shared = Residual(24)
        self.pyramid = Pyramid(24)
        self.classify = conv(24, 5, kernel=1)
        self.auxiliary = nn.Sequential(conv(24, 24), conv(24, 5))
        self.never = Residual(24)

    def forward(self, x):
        x = self.stage1(functional.relu(self.stem(x)))
        x = self.stage2["down"](functional.relu(x) * 0.5)
        for block in self.stage2["blocks"]:
            x = block(x)
        auxiliary = self.auxiliary(x)
        return {"out": self.classify(self.pyramid(self.shared(self.shared(x)))), "aux": auxiliary}


@pytest.fixture(scope="module")
def points():
    return find_points(Everything(), 48, 80)


def test_blocks_are_found_on_the_trunk(points):
    found = [(point.name, point.stride, point.channels) for point in points.proposed]
    assert found == [
        ("stage1.0", 4, 16),
        ("stage1.1", 4, 16),
        ("stage2.down", 8, 24),
        ("stage2.blocks.0", 8, 24),
        ("stage2.blocks.1", 8, 24),
        ("pyramid", 8, 24),
    ]
    assert [point.order for point in points.proposed] == sorted(point.order for point in points.proposed)


def test_what_a_point_has_cost(points):
    by_name = {point.name: point for point in points.usable}
    stem = 24 * 40 * 8 * 3 * 9
    down = 12 * 20 * (16 * 8 * 9 + 16 * 16 * 9)
    assert by_name["stem"].macs == stem
    assert by_name["stage1.0"].macs == stem + down
    assert by_name["stage1.0"].share == pytest.approx((stem + down) / points.macs)
    assert by_name["stage1.0"].parameters == (3 * 9 + 1) * 8 + (8 * 9 + 1) * 16 + (16 * 9 + 1) * 16


def test_more_than_blocks_may_be_named(points):
    assert points.named("stem").stride == 2
    assert points.named("stage1.1.first").channels == 16
    assert points.named("pyramid.branches.1").stride == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stage1.2", r"no module 'stage1\.2'; near it: .*stage1\.1"),
        ("", r"no module ''; near it: stage1\.0, stage1\.1, stage2\.down, stage2\.blocks\.0$"),
        ("shared", r"'shared': it runs 2 times for an image; points near it: "),
        ("shared.first", r"it runs 2 times"),
        ("never", r"'never': it does not run"),
        ("stage2", r"'stage2': it does not run; points near it: stage2\.down"),
    ],
)
def test_what_may_not_be_named(points, name, message):
    with pytest.raises(InputError, match=message):
        points.named(name)


def test_a_pooled_map_may_not_be_named():
    network = nn.Sequential(Down(3, 8), nn.AdaptiveAvgPool2d(1), nn.Upsample((24, 40)), conv(8, 8))
    with pytest.raises(
        InputError, match=r"'1': its output, \(1, 8, 1, 1\), is no feature map of a 80x48 image; points near it: "
    ):
        find_points(network, 48, 80).named("1")


def test_a_small_gate_inside_a_block_is_no_point():
    class Gate(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.squeeze, self.excite = conv(channels, 4, kernel=1), conv(4, channels, kernel=1)

        def forward(self, x):
            return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True))).sigmoid()

    class Gated(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.expand, self.gate, self.project = conv(inputs, outputs), Gate(outputs), conv(outputs, outputs, kernel=1)

        def forward(self, x):
            return self.project(self.gate(self.expand(x)))

    network = nn.Sequential(Gated(3, 8), Gated(8, 8), conv(8, 2))
    assert [point.name for point in find_points(network, 16, 24).proposed] == ["0", "1"]


def test_a_plain_sequence_is_divided_after_its_activations_and_before_it_is_pooled():
    layers = [conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16), nn.ReLU()]
    network = nn.Module()
    network.features, network.classify = nn.Sequential(*layers), conv(16, 2, kernel=1)
    network.forward = lambda x: network.classify(network.features(x))
    assert [point.name for point in find_points(network, 16, 24).proposed] == ["features.1", "features.5", "features.7"]


def test_transformers_blocks_are_points_and_their_halves_are_not():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.mlp = (
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)),
            )

        def forward(self, x):
            x = x + self.attend(x, x, x, need_weights=False)[0]
            return (x + self.mlp(x), "something else")

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.layers = nn.ModuleList([Layer(), Layer()])
            self.classify = nn.Linear(8, 5)

        def forward(self, x):
            patches = self.patches(x)
            tokens = patches.flatten(2).transpose(1, 2)
            for layer in self.layers:
                tokens = layer(tokens)[0]
            return self.classify(tokens).transpose(1, 2).unflatten(2, patches.shape[2:])

    found = find_points(Tokens(), 16, 24).proposed
    assert [(point.name, point.layout.kind, point.stride) for point in found] == [
        ("layers.0", "tokens", 4),
        ("layers.1", "tokens", 4),
    ]


class FlatUNet(nn.Module):
    """Every level but the innermost is passed by a skip connection, and all of them lie side by side."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.down3 = Down(3, 8), Down(8, 8), Down(8, 8)
        self.up2, self.up1 = Residual(16), Residual(24)
        self.classify = conv(24, 5, kernel=1)
        self.auxiliary = Down(8, 5)

    def forward(self, x):
        fine = self.down1(x)
        middle = self.down2(fine)
        up = self.up2(torch.cat([functional.interpolate(self.down3(middle), scale_factor=2.0), middle], dim=1))
        self.auxiliary(middle)
        return self.classify(self.up1(torch.cat([functional.interpolate(up, scale_factor=2.0), fine], dim=1)))


@pytest.mark.parametrize("wrap", [lambda unet: unet, lambda unet: nn.Sequential(unet, conv(5, 2, kernel=1))])
def test_skip_connections_hide_no_blocks(wrap):
    found = [point.name.removeprefix("0.") for point in find_points(wrap(FlatUNet()), 32, 48).proposed]
    assert found == ["down1", "down2", "down3", "up2", "up1"]


def test_without_a_graph_blocks_are_still_found():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.classify = nn.Sequential(Residual(3), Residual(3)), conv(3, 2)

        def forward(self, x):
            with torch.no_grad():
                return self.classify(self.body(x))

    assert [point.name for point in find_points(Detached(), 16, 24).proposed] == ["body.0", "body.1"]


# ------------------------------------------------------------------------------------------------------------------- finer


def test_a_finer_point_for_a_skip(points):
    deep = points.named("stage2.blocks.1")
    assert points.finer_than(deep, 4).name == "stage1.1"
    # No block is at stride 2, but the stem is.
    assert points.finer_than(points.named("stage1.1"), 4).name == "stem"
    assert points.finer_than(points.named("stem"), 4) is None
    # Only what has run before.
    assert points.finer_than(points.named("stage1.0.body.0"), 4).name == "stem"


def test_a_finer_point_must_have_run_before():
    points = find_points(FlatUNet(), 32, 48)
    assert points.named("up1").stride == 2
    assert points.finer_than(points.named("down3"), 2).name == "down1"


def test_a_finer_points_stride_divides():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.third, self.fourth, self.eighth = nn.Conv2d(3, 4, 3, 3), nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2)
            self.classify = conv(4, 5)

        def forward(self, x):
            third = self.third(x)
            return self.classify(self.eighth(self.fourth(x))) + third.mean()

    points = find_points(Uneven(), 48, 96)
    assert points.named("third").stride == 3
    assert points.finer_than(points.named("eighth"), 3).name == "fourth"


# ------------------------------------------------------------------------------------------------------------------ choice


def points_at(*shares, stride=8):
    return tuple(
        TapPoint(f"p{round(100 * share)}", Layout("nchw", stride, 8), round(1000 * share), share, 0, index)
        for index, share in enumerate(shares)
    )


def test_taps_are_chosen_evenly():
    points = points_at(0.1, 0.2, 0.28, 0.4, 0.51, 0.6, 0.74, 0.9, 1.0)
    assert [point.name for point in choose_taps(points, 3)] == ["p28", "p51", "p74"]
    assert [point.name for point in choose_taps(points, 1)] == ["p51"]
    assert choose_taps(points, 0) == ()


def test_taps_are_chosen_once_each_and_in_order_of_depth():
    points = points_at(0.7, 0.8, 0.9, 1.0)
    assert [point.name for point in choose_taps(points, 3)] == ["p70", "p80", "p90"]
    assert [point.name for point in choose_taps(points_at(0.1, 0.3, 1.0), 2)] == ["p10", "p30"]


def test_fine_maps_are_chosen_only_where_there_are_too_few_others():
    points = (*points_at(0.25, 0.5, stride=2), *points_at(0.6, 0.8, 1.0))
    assert [point.name for point in choose_taps(points, 2)] == ["p60", "p80"]
    assert [point.name for point in choose_taps(points, 3)] == ["p25", "p50", "p80"]


def test_taps_are_spread_where_points_end_early():
    # A feature pyramid: its decoder is one block and most of the cost.
    points = points_at(0.02, 0.04, 0.05, 0.07, 0.09, 0.1, 0.12, 0.13, 0.15, 1.0)
    assert [point.name for point in choose_taps(points, 3)] == ["p5", "p10", "p15"]


def test_the_last_point_belongs_to_the_final_exit():
    with pytest.raises(InputError, match=r"3 exits .* only 2 points to tap: p20, p60$"):
        choose_taps(points_at(0.2, 0.6, 1.0), 3)
    with pytest.raises(InputError, match=r"only 0 points to tap: none"):
        choose_taps((), 1)


# ---------------------------------------------------------------------------------------------------------------- multiple


def network_of(kernel, padding, check=lambda _: None):
    """Stride 8 by three convolutions in one block; `check` may refuse an input."""
    body = nn.Sequential(*(nn.Conv2d(3 if not i else 4, 4, kernel, 2, padding) for i in range(3)))
    network = nn.Module()
    network.body = body
    network.forward = lambda x: (check(x), body(x))[1]
    return network


def must_be(multiple):
    def check(x):
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"not divisible by {multiple}")

    return check


def test_a_network_that_rounds_up_needs_no_padding():
    assert find_multiple(network_of(3, 1), 45, 61) == 1


def test_a_network_that_rounds_down_is_padded_to_its_stride():
    assert find_multiple(network_of(2, 0), 45, 61) == 8


@pytest.mark.parametrize("multiple", MULTIPLES)
def test_a_network_that_refuses_other_sizes_is_padded(multiple):
    assert find_multiple(network_of(3, 1, must_be(multiple)), 45, 61) == multiple


@pytest.mark.parametrize("multiple", MULTIPLES[:-1])
def test_the_odd_size_is_odd_after_rounding_up(multiple):
    assert all((-(-side // multiple)) % 2 == 1 for side in ODD)


def test_a_network_of_one_size_takes_that_size():
    def check(x):
        assert x.shape[2:] == (48, 64), "48x64 alone"

    assert find_multiple(network_of(3, 1, check), 48, 64) == 1
    assert find_multiple(network_of(3, 1, check), 45, 61) == 4
    with pytest.raises(InputError, match=r"does not run on 99x33 images: AssertionError: 48x64 alone"):
        find_multiple(network_of(3, 1, check), 33, 99)
