"""Networks on disk: what is saved comes back, what is damaged or dangerous is refused."""

import functools
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from offramp.errors import InputError
from offramp.models.checkpoint import NETWORK, WEIGHTS, NetworkFile, load_network, load_network_file, save_weights
from offramp.models.multi_exit import build_network
from offramp.specs import ExitSpec, HeadSpec, NetworkSpec

HEAD = HeadSpec(channels=4)
DESCRIBED = NetworkFile(
    network=NetworkSpec(
        backbone="test_efficientnet", num_classes=2, final_head=HEAD, exits=(ExitSpec(tap="blocks.2.0", head=HEAD),)
    ),
    classes=("road", "car"),
    palette=((1, 2, 3), (4, 5, 6)),
    object_classes=(1,),
    size=(96, 64),
    data_fingerprint="abc",
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return build_network(DESCRIBED.network)


@pytest.fixture
def run(tmp_path, network):
    DESCRIBED.save(tmp_path)
    save_weights(network, tmp_path / WEIGHTS)
    return tmp_path


def test_round_trip(run, network):
    loaded, described = load_network(run)
    assert described == DESCRIBED
    assert not any(module.training for module in loaded.modules())
    assert list(loaded.state_dict()) == list(network.state_dict())
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    images = 255 * torch.rand(1, 3, 40, 50)
    network.eval()
    with torch.no_grad():
        for name, scores in network(images).items():
            assert torch.equal(loaded(images)[name], scores)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=rf"not a run: .*{NETWORK}.*make one with offramp train"):
        load_network(tmp_path)


def test_an_unfinished_run_is_refused_and_says_how_to_go_on(run):
    (run / WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"not finished: it has no {WEIGHTS}; go on with offramp train DATA .*--resume"):
        load_network(run)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b'"network"', b'"something"', 1),
        lambda text: text.replace(b'"format": 1', b'"format": 2'),
        lambda text: text.replace(b'"palette"', b'"palete"'),
        lambda _: b"\xff\xfe\x00",
        lambda _: b"",
    ],
)
def test_a_damaged_description_is_refused(run, damage):
    (run / NETWORK).write_bytes(damage((run / NETWORK).read_bytes()))
    with pytest.raises(InputError, match=rf"damaged .*{NETWORK}: .*; train again"):
        load_network_file(run)


@pytest.mark.parametrize("damage", [lambda data: data[:-50], lambda _: b"", lambda data: b"\xff" * 8 + data[8:]])
def test_damaged_weights_are_refused(run, damage):
    (run / WEIGHTS).write_bytes(damage((run / WEIGHTS).read_bytes()))
    with pytest.raises(InputError, match=rf"the weights .*{WEIGHTS} do not fit"):
        load_network(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(run, value):
    tensors = load_file(run / WEIGHTS)
    tensors["final_head.classify.bias"][1] = value
    save_file(tensors, run / WEIGHTS)
    with pytest.raises(InputError, match=r"NaN or infinity in final_head\.classify\.bias \(and 0 more\)"):
        load_network(run)


def test_weights_of_another_shape_are_refused(run):
    tensors = load_file(run / WEIGHTS)
    for change in (
        lambda: tensors | {"final_head.classify.bias": torch.zeros(3)},
        lambda: tensors | {"stranger": torch.zeros(3)},
        lambda: {name: tensor for name, tensor in tensors.items() if name != "final_head.classify.bias"},
    ):
        save_file(change(), run / WEIGHTS)
        with pytest.raises(InputError, match=r"do not fit"):
            load_network(run)


def test_an_exit_without_a_place_is_refused(run):
    text = (run / NETWORK).read_text(encoding="utf-8")
    (run / NETWORK).write_text(text.replace("blocks.2.0", "blocks.2.7"), encoding="utf-8")
    with pytest.raises(InputError, match=r"no module 'blocks\.2\.7'"):
        load_network(run)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("dump", "load"), [(pickle.dump, pickle.load), (torch.save, functools.partial(torch.load, weights_only=False))]
)
def test_a_pickle_is_refused_and_not_executed(run, dump, load):
    sprung = run / "sprung"
    with (run / WEIGHTS).open("wb") as file:
        dump(Trap(str(sprung)), file)
    with pytest.raises(InputError, match=r"do not fit"):
        load_network(run)
    assert not sprung.exists()
    with (run / WEIGHTS).open("rb") as file:
        load(file)
    assert sprung.exists()  # the trap was a real one
