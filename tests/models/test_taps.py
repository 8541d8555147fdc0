"""Points for exits: costs against numbers worked out by hand, and the choice among them."""

import pytest
import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.taps import TapPoint, check_tap, choose_taps, trace_taps


def block(first: nn.Module, second: nn.Module) -> nn.Module:
    """Neither a container nor a single layer."""
    module = nn.Module()
    module.first, module.second = first, second
    module.norm = nn.BatchNorm2d(8)
    module.forward = lambda x: module.norm(module.second(module.first(x)))
    return module


class Small(nn.Module):
    """On 16x24: stem 10368 macs, first block 27648 + 6144, second block 13824 + 1728 (depthwise), classifier 384."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)  # 8*12 * 4 * 3*9
        self.body = nn.Sequential(
            block(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 1)),  # 8*12 * 8 * 4*9, 8*12 * 8 * 8
            # 4*6 * 8 * 8*9, 4*6 * 8 * 1*9
            block(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        )
        self.classify = nn.Conv2d(8, 2, 1)  # 4*6 * 2 * 8

    def forward(self, x):
        return self.classify(self.body(self.stem(x)))


def points_at(*shares: float) -> tuple[TapPoint, ...]:
    return tuple(TapPoint(f"p{round(100 * share)}", 8, 8, round(1000 * share), share) for share in shares)


def test_macs_by_hand():
    first, second = trace_taps(Small(), 16, 24)
    assert (first.name, first.channels, first.stride, first.macs) == ("body.0", 8, 2, 44160)
    assert (second.name, second.channels, second.stride, second.macs) == ("body.1", 8, 4, 59712)
    assert first.share == pytest.approx(44160 / 60096)
    assert second.share == pytest.approx(59712 / 60096)


def test_a_wrapper_is_looked_through():
    wrapper = nn.Module()
    wrapper.inner = Small()
    wrapper.forward = wrapper.inner.__call__
    assert [(p.name, p.macs) for p in trace_taps(wrapper, 16, 24)] == [("inner.body.0", 44160), ("inner.body.1", 59712)]


def test_a_single_layer_is_no_point():
    network = Small()
    network.body.insert(1, nn.Conv2d(8, 8, 1))
    assert [point.name for point in trace_taps(network, 16, 24)] == ["body.0", "body.2"]


def test_a_module_that_is_called_twice_is_no_point():
    class Twice(Small):
        def forward(self, x):
            x = self.body[0](self.stem(x))
            return self.classify(self.body[1](self.body[1](x)))

    assert [point.name for point in trace_taps(Twice(), 16, 24)] == ["body.0"]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    network = Small().train(training)
    network.body[0].eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace_taps(network, 16, 24)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_failing_network_is_left_as_it_was_too():
    network = Small().train()
    network.classify = nn.Conv2d(9, 2, 1)
    with pytest.raises(RuntimeError, match="channels"):
        trace_taps(network, 16, 24)
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_taps_are_chosen_evenly():
    points = points_at(0.1, 0.2, 0.28, 0.4, 0.51, 0.6, 0.74, 0.9, 1.0)
    assert [point.name for point in choose_taps(points, 3)] == ["p28", "p51", "p74"]
    assert [point.name for point in choose_taps(points, 1)] == ["p51"]


def test_taps_are_chosen_once_each_and_in_order_of_depth():
    points = points_at(0.7, 0.8, 0.9, 1.0)
    assert [point.name for point in choose_taps(points, 3)] == ["p70", "p80", "p90"]


def test_the_last_point_belongs_to_the_final_exit():
    with pytest.raises(InputError, match=r"3 exits .* only 2 points to tap: p20, p60$"):
        choose_taps(points_at(0.2, 0.6, 1.0), 3)
    with pytest.raises(InputError, match=r"only 0 points to tap: none"):
        choose_taps((), 1)


def test_near_names_are_proposed():
    check_tap(Small(), "body.1")
    with pytest.raises(InputError, match=r"no module 'body\.3'; near it: .*body\.1"):
        check_tap(Small(), "body.3")
    with pytest.raises(InputError, match=r"no module ''; near it: stem, body, body\.0, body\.0\.first$"):
        check_tap(Small(), "")
