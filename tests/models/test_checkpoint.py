"""Networks on disk: what is saved comes back, what is damaged or dangerous is refused."""

import functools
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from offramp.errors import InputError
from offramp.models.attach import attach_exits, build_network
from offramp.models.checkpoint import NETWORK, WEIGHTS, NetworkFile, load_network, load_network_file, save_weights
from offramp.specs import ExitSpec, HeadSpec, NetworkSpec

HEAD = HeadSpec(channels=4)
DESCRIBED = NetworkFile(
    network=NetworkSpec(
        network="timm:test_efficientnet",
        output_stride=16,
        num_classes=2,
        input_size=(96, 64),
        final_head=HEAD,
        exits=(ExitSpec(tap="blocks.2.0", head=HEAD),),
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
        lambda text: text.replace(b'"format": 2', b'"format": 3'),
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
    with pytest.raises(InputError, match=rf"cannot read the weights .*{WEIGHTS}"):
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


def test_a_users_own_code_runs_only_if_it_is_named(tmp_path):
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\n\nfrom torch import nn\n\nPath(__file__).with_name('ran').touch()\n\n\n"
        "def make(classes):\n    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, classes, 3, 1, 1))\n"
    )
    source = f"{tmp_path / 'own.py'}:make"
    spec = NetworkSpec(network=source, num_classes=2, input_size=(96, 64), exits=(ExitSpec(tap="0", head=HEAD),))
    run = tmp_path / "run"
    run.mkdir()
    DESCRIBED.model_copy(update={"network": spec}).save(run)
    save_weights(build_network(spec), run / WEIGHTS)
    (tmp_path / "ran").unlink()
    with pytest.raises(InputError, match=r"built by code of your own .*which is run only if you name it: give --network"):
        load_network(run)
    with pytest.raises(InputError, match=r"run only if you name it"):
        load_network(run, network="timm:test_efficientnet")
    assert not (tmp_path / "ran").exists()
    assert load_network(run, network=source)[0].spec == spec
    assert (tmp_path / "ran").exists()


def test_another_network_than_the_runs_is_refused(run):
    assert load_network(run, network="test_efficientnet")[0].spec == DESCRIBED.network
    with pytest.raises(InputError, match=r"is timm:test_efficientnet, not timm:test_resnet$"):
        load_network(run, network="timm:test_resnet")


def test_a_network_that_came_as_an_object_must_come_again(tmp_path):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 2, 3, 1, 1))
    network = attach_exits(body, 2, (64, 96), taps=["0"], heads=HEAD).eval()
    DESCRIBED.model_copy(update={"network": network.spec}).save(tmp_path)
    save_weights(network, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"came as an object \(object:Sequential\)"):
        load_network(tmp_path)
    again = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 2, 3, 1, 1))
    loaded, _ = load_network(tmp_path, network=again)
    images = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert all(torch.equal(loaded(images)[name], scores) for name, scores in network(images).items())


def test_tied_weights_are_saved(tmp_path):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 2, 1), torch.nn.Conv2d(2, 2, 1))
    body[2].weight = body[1].weight
    save_weights(attach_exits(body, 2, (64, 96), taps=["0"], heads=HEAD), tmp_path / WEIGHTS)
    saved = load_file(tmp_path / WEIGHTS)
    assert torch.equal(saved["backbone.1.weight"], saved["backbone.2.weight"])


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
    with pytest.raises(InputError, match=r"cannot read the weights"):
        load_network(run)
    assert not sprung.exists()
    with (run / WEIGHTS).open("rb") as file:
        load(file)
    assert sprung.exists()  # the trap was a real one
