"""The moving average, against one kept by hand."""

import pytest
import torch

from offramp.training.averaging import Average


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))


def shift(network, by: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by)


def test_the_average_by_hand(network):
    average = Average(network, 0.5)
    mean, value = network[0].weight.detach().clone(), network[0].weight.detach().clone()
    for step in range(30):
        shift(network, 0.1 * step)
        average.update()
        value = value + 0.1 * step
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    assert torch.allclose(average.tensors["0.weight"], mean, rtol=1e-5)
    assert (1 + 8) / (10 + 8) == 0.5  # from here on it is the full decay


def test_what_does_not_move_stays_bit_for_bit(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = Average(network, 0.999)
    for _ in range(50):
        average.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.tensors.items())


def test_statistics_are_averaged_and_counts_copied(network):
    average = Average(network, 0.9)
    network.train()(torch.randn(2, 1, 3, 3) + 5)
    average.update()
    own, mean = network.state_dict(), average.tensors
    assert torch.allclose(mean["1.running_mean"], 0.9 * own["1.running_mean"])
    assert mean["1.num_batches_tracked"] == own["1.num_batches_tracked"] == 1


def test_in_place_for_a_while(network):
    average = Average(network, 0.9)
    shift(network, 1.0)
    average.update()
    own = network[0].weight.detach().clone()

    def fail_meanwhile():
        with average.in_place():
            assert torch.equal(network[0].weight, average.tensors["0.weight"])
            assert not torch.equal(network[0].weight, own)
            raise KeyError

    with pytest.raises(KeyError):
        fail_meanwhile()
    assert torch.equal(network[0].weight, own)


def test_restored(network):
    average = Average(network, 0.9)
    for _ in range(3):
        shift(network, 1.0)
        average.update()
    again = Average(network, 0.9)
    again.restore(average.tensors, average.steps)
    shift(network, 1.0)
    for one in (average, again):
        one.update()
    assert again.steps == 4
    assert all(torch.equal(tensor, average.tensors[name]) for name, tensor in again.tensors.items())
