"""Numbers that are not finite: found, and the layer that makes the first of them named."""

import pytest
import torch

from offramp.errors import InputError
from offramp.models.finite import are_finite, broken_tensors, find_culprit, require_finite


class Nested(torch.nn.Module):
    """A convolution, batch-norm, something that no module of its own does, and another convolution."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
        self.end = torch.nn.Conv2d(2, 2, 1)

    def forward(self, images):
        features = self.stem(images)
        return {"final": self.end(features * self.scale)}

    scale = 1.0


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Nested().eval()


@pytest.fixture
def images():
    return torch.rand(1, 3, 4, 5)


def culprit_of(network, images):
    return find_culprit(network, lambda: network(images))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_what_is_finite(kind):
    assert are_finite(torch.zeros(3, dtype=kind))
    for value in (float("nan"), float("inf"), float("-inf")):
        assert not are_finite(torch.tensor([0.0, value], dtype=kind))
    assert are_finite(torch.tensor([2**62]))
    assert are_finite(torch.tensor([True]))
    assert are_finite(torch.zeros(0))


def test_broken_tensors_are_named(network):
    network.stem[1].running_var[1] = float("inf")
    assert broken_tensors(network.state_dict()) == ["stem.1.running_var"]
    with pytest.raises(InputError, match=r"^the weights hold NaN or infinity in stem\.1\.running_var \(and 0 more\); stop$"):
        require_finite(network.state_dict(), "the weights", "stop")


def test_a_sound_network_has_no_culprit(network, images):
    assert culprit_of(network, images) is None


def test_a_weight_that_is_not_finite(network, images):
    with torch.no_grad():
        network.stem[0].weight[0, 0] = float("nan")
    found = culprit_of(network, images)
    assert (found.layer, found.gives, found.input_is_finite, found.broken) == ("stem.0", "NaN", True, ("weight",))
    assert str(found) == "the layer stem.0 gives NaN from a finite input; its weight is not finite"


def test_finite_weights_that_are_too_large(network, images):
    with torch.no_grad():
        network.stem[1].weight.fill_(3e38)
    found = culprit_of(network, 1e3 * images)
    assert (found.layer, found.gives, found.input_is_finite, found.broken) == ("stem.1", "infinity", True, ())
    assert str(found) == "the layer stem.1 gives infinity from a finite input; its weights are finite"


def test_what_no_layer_of_its_own_made(network, images):
    network.scale = float("inf")
    found = culprit_of(network, images)
    assert (found.layer, found.input_is_finite) == ("end", False)
    assert "from an input that is not finite; its weights are finite" in str(found)


def test_a_layer_is_to_blame_and_not_what_it_calls(images):
    class Normalised(torch.nn.BatchNorm2d):
        def __init__(self):
            super().__init__(3)
            self.activation = torch.nn.ReLU()

        def forward(self, images):
            return self.activation(super().forward(images))

    network = torch.nn.Sequential(torch.nn.Identity(), Normalised(), torch.nn.Identity())
    torch.nn.init.constant_(network[1].weight, float("inf"))
    found = culprit_of(network, images)
    assert (found.layer, found.input_is_finite, found.broken) == ("1", True, ("weight",))


def test_no_hook_stays(network, images):
    culprit_of(network, images)
    with pytest.raises(ZeroDivisionError):
        find_culprit(network, lambda: 1 / 0)
    assert not any(module._forward_hooks for module in network.modules())
