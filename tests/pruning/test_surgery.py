"""Channels that go: together with all that hangs on them, and nothing else."""

import pytest
import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.attach import attach_exits, build_network, join
from offramp.models.narrowing import narrow, widths_of
from offramp.pruning.choice import MULTIPLE, LayerCost, choose, layer_costs
from offramp.pruning.coupling import Channels, find_channels
from offramp.pruning.importance import importance
from offramp.pruning.surgery import all_widths, mute, removed_from, require_same, without
from offramp.specs import ExitSpec, HeadSpec, NetworkSpec

SIZE = (64, 96)


class Everything(nn.Module):
    """A residual sum, a depthwise convolution, a concatenation and a transposed convolution, then class scores."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.back = nn.Conv2d(32, 16, 1)
        self.down = nn.Conv2d(16, 24, 3, 2, 1)
        self.up = nn.ConvTranspose2d(24, 16, 2, 2)
        self.norm = nn.BatchNorm2d(32)
        self.classify = nn.Conv2d(32, 4, 1)

    def forward(self, image):
        first = self.stem(image)
        block = first + self.back(self.depthwise(self.wide(first)).relu())
        both = torch.cat([self.up(self.down(block).relu()), block], dim=1)
        return self.classify(self.norm(both).relu())


@pytest.fixture
def network():
    torch.manual_seed(1)
    body = Everything()
    heads = {"down": ["skip/c16", "lraspp/c16/r2", "deeplab/c8/r2/b1"], "stem": "fcn/c24"}
    network = attach_exits(body, 4, SIZE, taps=["stem", "down"], heads=heads)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network.eval()


def part_with(parts, *side):
    return next(index for index, part in enumerate(parts) if side in part.places)


def test_channels_that_hang_together(network):
    parts = find_channels(network, *SIZE)
    block = parts[part_with(parts, "backbone.back", "out")]
    assert set(block.places) >= {
        ("backbone.stem.0", "out"),
        ("backbone.stem.1", "out"),
        ("backbone.wide", "in"),
        ("backbone.down", "in"),
        ("backbone.norm", "out"),
        ("backbone.classify", "in"),
        ("early_heads.0.mix.0", "in"),
    }
    # Behind the 16 channels that come from above.
    assert block.places["backbone.classify", "in"][:, 0].tolist() == [
        16 + place for place in block.places["backbone.back", "out"][:, 0].tolist()
    ]
    inner = parts[part_with(parts, "backbone.wide", "out")]
    assert set(inner.places) == {("backbone.wide", "out"), ("backbone.depthwise", "out"), ("backbone.back", "in")}
    outputs = {name for part in parts for name, side in part.places if side == "out"}
    assert not {name for name in outputs if "classify" in name}


def test_class_scores_stay_whole_even_where_a_head_reads_them():
    network = attach_exits(Everything(), 4, SIZE, taps=["classify"], heads="fcn/c16")
    sides = {side for part in find_channels(network, *SIZE) for side in part.places}
    assert ("early_heads.0.classify", "in") in sides
    assert not {("backbone.classify", "out"), ("early_heads.0.mix.0", "in")} & sides


def test_without_channels_it_answers_as_if_nothing_read_them(network):
    parts = find_channels(network, *SIZE)
    generator = torch.Generator().manual_seed(2)
    # Half of the tap's channels and a sixth of the others: heads that halve them have more than half of what is left.
    shares = [2 if ("backbone.down", "out") in part.places else 6 for part in parts]
    rows = [torch.randperm(len(part), generator=generator)[: len(part) // n] for part, n in zip(parts, shares, strict=True)]
    removed = removed_from(network, parts, rows)
    before = dict(network.named_modules())
    spec, tensors = without(network, removed)
    # The reference: the old network, every weight that reads a removed channel set to 0 by hand.
    reference = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for part, gone in zip(parts, rows, strict=True):
        for (name, side), places in part.places.items():
            for place in places[gone].flatten().tolist():
                if side == "in" and isinstance(before[name], nn.ConvTranspose2d):
                    reference[f"{name}.weight"][place] = 0
                elif side == "in":
                    reference[f"{name}.weight"][:, place] = 0
    pruned = join(Everything(), spec).eval()
    pruned.load_state_dict(tensors)
    image = 255 * torch.rand(1, 3, *SIZE, generator=generator)
    network.load_state_dict(reference)
    with torch.no_grad():
        got, wanted = pruned(image), network(image)
    for name, scores in wanted.items():
        torch.testing.assert_close(got[name], scores, atol=1e-4, rtol=1e-4)
        assert scores.std() > 0.01
    assert pruned.backbone.depthwise.groups == 32 - 32 // 6
    assert (pruned.backbone.down.out_channels, pruned.early_heads[2].front.reduce[0].out_channels) == (12, 10)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in network.parameters())
    for early in pruned.spec.exits:  # what a head costs is what it costs now
        assert pruned.figures(early.name, SIZE[::-1]).macs < network.figures(early.name, SIZE[::-1]).macs


def test_muting_is_what_the_reference_does(network):
    parts = find_channels(network, *SIZE)
    rows = [torch.arange(len(part) // 4) for part in parts]
    removed = removed_from(network, parts, rows)
    spec, tensors = without(network, removed)
    pruned = join(Everything(), spec).eval()
    pruned.load_state_dict(tensors)
    with pytest.raises(InputError, match=r"cannot prune object:Everything.*answers differently, by"):
        require_same(pruned, network, *SIZE)
    mute(network, removed)
    require_same(pruned, network, *SIZE)
    fewer = attach_exits(nn.Conv2d(3, 3, 1), 3, SIZE, exits=0)
    with pytest.raises(InputError, match=r"the exit final gives \(1, 3, 64, 96\), not \(1, 4, 64, 96\)"):
        require_same(fewer, attach_exits(nn.Conv2d(3, 4, 1), 4, SIZE, exits=0), *SIZE)


def test_what_the_library_cannot_follow_is_refused():
    class Shuffled(nn.Module):
        """Mixes channels by a reshape of which torch-pruning makes nothing."""

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 32, 3, 2, 1)
            self.second = nn.Conv2d(32, 32, 1)
            self.classify = nn.Conv2d(32, 4, 1)

        def forward(self, image):
            maps = self.second(self.first(image).relu())
            mixed = maps.reshape(len(maps), 4, -1, *maps.shape[2:]).transpose(1, 2).flatten(1, 2)
            return self.classify(mixed)

    torch.manual_seed(0)
    network = attach_exits(Shuffled(), 4, SIZE, exits=0).eval()
    parts = find_channels(network, *SIZE)
    rows = [torch.arange(8) for _ in parts]
    removed = removed_from(network, parts, rows)
    spec, tensors = without(network, removed)
    pruned = join(Shuffled(), spec).eval()
    pruned.load_state_dict(tensors)
    mute(network, removed)
    with pytest.raises(InputError, match=r"does more with its channels than torch-pruning can follow \(the exit final answers"):
        require_same(pruned, network, *SIZE)


def test_layers_that_cannot_be_narrowed_stay_whole():
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 32, 1),
        nn.Conv2d(32, 32, 3, 1, 1, groups=4),
        nn.Conv2d(32, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    parts = find_channels(attach_exits(body, 4, SIZE, exits=0), *SIZE)
    assert [set(part.places) for part in parts] == [{("backbone.4", "out"), ("backbone.6", "in")}]


def test_importance_of_a_channel_that_nothing_needs_is_zero(network):
    parts = find_channels(network, *SIZE)
    place = part_with(parts, "backbone.wide", "out")
    channels = parts[place].places["backbone.back", "in"][:, 0]
    with torch.no_grad():
        network.backbone.back.weight[:, channels[3]] = 0
    scores = importance(network, parts, [255 * torch.rand(2, 3, *SIZE)])
    assert scores[place][3] == 0
    assert (scores[place] > 0).sum() > 25  # behind a ReLU one more may be at rest
    assert all(parameter.grad is None for parameter in network.parameters())


def test_importance_predicts_how_much_the_answers_change():
    """Compared with what it stands for: the divergence of the answers when a channel is really muted a little."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 3, 1))
    network = attach_exits(body, 3, (64, 64), exits=0).eval()
    parts = find_channels(network, 64, 64)
    images = [255 * torch.rand(1, 3, 64, 64) for _ in range(150)]
    scores = importance(network, parts, images)[0]
    order = parts[0].places["backbone.2", "in"][:, 0]
    with torch.no_grad():
        truth = []
        whole = body[2].weight.clone()
        wanted = [network(image)["final"].log_softmax(1) for image in images]
        for channel in order.tolist():
            body[2].weight[:, channel] = whole[:, channel] * 0.9
            got = [network(image)["final"].log_softmax(1) for image in images]
            # -> 1/2 * 0.1^2 * Fisher's information for small changes; summed over pixels' mean and images.
            divergence = sum(float((w.exp() * (w - g)).sum(1).mean()) for w, g in zip(wanted, got, strict=True))
            truth.append(divergence / (0.5 * 0.1**2))
            body[2].weight.copy_(whole)
    truth = torch.tensor(truth, dtype=torch.float64)
    assert torch.corrcoef(torch.stack([scores, truth]))[0, 1] > 0.9
    assert 0.6 < float(scores.sum() / truth.sum()) < 1.6


def test_the_block_that_saves_most_for_its_score_goes_first():
    # a: 3 -> 16, read by b: 16 -> 24, read by c: 24 -> 2; costs by hand, one position each.
    parts = [
        Channels({("a", "out"): torch.arange(16)[:, None], ("b", "in"): torch.arange(16)[:, None]}),
        Channels({("b", "out"): torch.arange(24)[:, None], ("c", "in"): torch.arange(24)[:, None]}),
    ]
    widths = {("a", "in"): 3, ("a", "out"): 16, ("b", "in"): 16, ("b", "out"): 24, ("c", "in"): 24, ("c", "out"): 2}
    costs = {"a": LayerCost(48, 48, False), "b": LayerCost(384, 384, False), "c": LayerCost(48, 48, False)}
    scores = [torch.arange(16.0).flip(0) + 100, torch.ones(24)]
    first, second = choose(parts, scores, widths, costs, 0.75)  # 480 macs: one block of the second saves 8 * (16 + 2) = 144
    assert (len(first), len(second)) == (0, 8)
    first, second = choose(parts, scores, widths, costs, 0.5)  # a further one: 192 are left
    assert (len(first), len(second)) == (0, 16)
    first, second = choose(parts, scores, widths, costs, 0.25)  # then 8 channels of the first: 3 * 8 + 8 * 8 + 8 * 2 = 104
    assert sorted(first.tolist()) == list(range(8, 16))
    assert len(second) == 16
    with pytest.raises(InputError, match=r"cannot keep as little as 0\.2 of the macs: 0\.22 are left"):
        choose(parts, scores, widths, costs, 0.2)


def test_costs_are_those_that_pytorch_counts(network):
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *SIZE))
    assert sum(cost.macs for cost in layer_costs(network, *SIZE).values()) == counter.get_total_flops() // 2


def test_widths_end_at_multiples_of_eight(network):
    parts = find_channels(network, *SIZE)
    rows = choose(parts, [torch.rand(len(part)) for part in parts], all_widths(network), layer_costs(network, *SIZE), 0.6)
    left = {len(part) - len(gone) for part, gone in zip(parts, rows, strict=True) if len(gone)}
    assert left
    assert not [width for width in left if width % MULTIPLE]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"wide": (16, 64)}, r"'wide' is said to have 16 channels in and 64 out after pruning, but it is built with 16 and 32"),
        ({"wide": (0, 8)}, r"0 channels in"),
        ({"depthwise": (8, 16)}, r"8 channels in and 16 out"),
        ({"nothing": (8, 8)}, r"no layer 'nothing'"),
        ({"stem": (8, 8)}, r"a Sequential cannot be"),
    ],
)
def test_widths_that_cannot_be_are_refused_before_anything_changes(widths, message):
    body = Everything()
    with pytest.raises(InputError, match=message):
        narrow(body, {"stem.0": (3, 8)} | widths)
    assert widths_of(body.stem[0]) == (3, 16)


def test_widths_that_do_not_fit_together_are_refused():
    spec = NetworkSpec(
        network="timm:test_efficientnet",
        output_stride=16,
        num_classes=2,
        input_size=(96, 64),
        final_head=HeadSpec(channels=8),
        exits=(ExitSpec(tap="blocks.2.0", head=HeadSpec(channels=8)),),
        widths={"conv_stem": (3, 8)},
    )
    with pytest.raises(InputError, match=r"the widths that pruning left of timm:test_efficientnet do not fit together"):
        build_network(spec)
