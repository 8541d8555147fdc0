"""One run of a network, written down: costs against numbers worked out by hand, and nothing left behind."""

import pytest
import torch
from torch import nn

from offramp.models.observe import observe, time_calls


class Small(nn.Module):
    """On 16x24: stem 10368 macs, block 27648 + 6144, classifier 1536; 112, 296 + 72 and 18 numbers to learn."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)  # 8*12 * 4 * 3*9; 4*3*9 + 4
        self.block = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 1))  # 8*12 * 8 * 4*9, 8*12 * 8 * 8
        self.classify = nn.Conv2d(8, 2, 1)  # 8*12 * 2 * 8
        self.idle = nn.Conv2d(8, 2, 1)
        self.again = nn.ReLU()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        features = self.again(self.block(self.again(self.stem(images))))
        return self.classify(features) + self.shift


def test_calls_costs_and_order():
    seen = observe(Small(), 16, 24)
    assert {name: len(calls) for name, calls in seen.calls.items()} == {
        "stem": 1,
        "block": 1,
        "block.0": 1,
        "block.1": 1,
        "classify": 1,
        "idle": 0,
        "again": 2,
    }
    macs = {name: (calls[0].macs_before, calls[0].macs) for name, calls in seen.calls.items() if len(calls) == 1}
    assert macs == {
        "stem": (0, 10368),
        "block": (10368, 44160),
        "block.0": (10368, 38016),
        "block.1": (38016, 44160),
        "classify": (44160, 45696),
    }
    parameters = {name: calls[0].parameters for name, calls in seen.calls.items() if len(calls) == 1}
    assert parameters == {"stem": 112, "block.0": 408, "block.1": 480, "block": 480, "classify": 498}
    assert seen.macs == 45696
    assert seen.calls["block"][0].shape == (1, 8, 8, 12)
    ends = sorted((call.order, name) for name, calls in seen.calls.items() for call in calls)
    assert [name for _, name in ends] == ["stem", "again", "block.0", "block.1", "block", "again", "classify"]
    assert seen.output.shape == (1, 2, 8, 12)


def test_what_is_learnt_once_counts_once():
    shared = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.Conv2d(3, 2, 1))
    seen = observe(network, 16, 24)
    assert len(seen.calls["0"]) == 2
    assert seen.parameters == 12 + 8
    assert seen.macs == 16 * 24 * (9 + 9 + 6)


def test_a_graph_is_kept_only_on_request():
    plain, graph = observe(Small(), 16, 24), observe(Small(), 16, 24, graph=True)
    assert not plain.calls["stem"][0].made
    assert not plain.made
    assert graph.calls["block.0"][0].made == graph.calls["block.1"][0].made_from
    assert graph.calls["block.1"][0].made == graph.calls["block"][0].made != graph.calls["block.0"][0].made
    assert graph.made
    assert graph.made_from == graph.calls["stem"][0].made_from


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "look", [lambda n: observe(n, 16, 24, graph=True), lambda n: time_calls(n, ["block"], 16, 24, passes=2)]
)
def test_the_network_is_left_as_it_was(training, look):
    network = nn.Sequential(Small(), nn.BatchNorm2d(2)).train(training)
    network[0].block.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if look(network[0]):
        look(network[0])
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()


def test_a_failing_network_is_left_as_it_was_too():
    network = Small().train()
    network.classify = nn.Conv2d(9, 2, 1)
    with pytest.raises(RuntimeError, match="channels"):
        observe(network, 16, 24)
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_frozen_and_half_precision_networks_are_run_as_they_are():
    frozen = Small().requires_grad_(requires_grad=False)
    assert observe(frozen, 16, 24, graph=True).calls["block"][0].made
    assert observe(Small().bfloat16(), 16, 24).output.dtype == torch.bfloat16


def test_times_grow_along_the_network():
    times = time_calls(Small(), ["stem", "block.0", "classify"], 160, 240, passes=3)
    assert {len(values) for values in times.values()} == {3}
    for stem, block, classify, whole in zip(*times.values(), strict=True):
        assert 0 < stem < block < classify <= whole
