"""Backbones from timm: names, strides and local weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from offramp.errors import InputError
from offramp.models.backbones import build_backbone

import timm  # isort: skip - torchvision may need help before

SMALL = ("test_efficientnet", "test_resnet")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_and_channels(name, stride):
    backbone = build_backbone(name, stride).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, backbone.channels, 64 // stride, 96 // stride)
        assert backbone(torch.zeros(1, 3, 65, 95)).shape[2:] == (64 // stride + 1, 96 // stride)


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(InputError, match=r"timm has no network 'resnet51'; near it: .*resnet"):
        build_backbone("resnet51", 16)
    with pytest.raises(InputError, match=r"timm has no network 'zzzzzz'; see timm\.list_models"):
        build_backbone("zzzzzz", 16)


def test_an_output_stride_that_a_network_lacks_is_refused():
    with pytest.raises(InputError, match=r"cannot build test_vit at output stride 8"):
        build_backbone("test_vit", 8)


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_read(name, tmp_path):
    torch.manual_seed(5)
    saved = timm.create_model(name).state_dict()  # with a classifier, as published weights are
    save_file(saved, tmp_path / "w.safetensors")
    torch.manual_seed(6)
    loaded = build_backbone(name, 16, tmp_path / "w.safetensors").network.state_dict()
    assert [key for key in loaded if not torch.equal(loaded[key], saved[key])] == []
    other = build_backbone(name, 16).network.state_dict()
    assert any(not torch.equal(other[key], saved[key]) for key in other)


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_another_network_are_refused(name, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model(SMALL[1 - SMALL.index(name)]).state_dict(), path)
    with pytest.raises(InputError, match=rf"cannot build {name} .* with the weights .*other\.safetensors"):
        build_backbone(name, 16, path)


def test_unreadable_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the weights .*absent\.safetensors"):
        build_backbone(SMALL[0], 16, tmp_path / "absent.safetensors")
    pickled = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, pickled)
    with pytest.raises(InputError, match=r"must be a \.safetensors file, got weights\.pth"):
        build_backbone(SMALL[0], 16, pickled)
    save_file(timm.create_model(SMALL[0]).state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for damaged in (b"", whole[:-100], b"\xff" * 8 + whole[8:], b"not weights at all"):
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot read the weights .*damaged\.safetensors"):
            build_backbone(SMALL[0], 16, tmp_path / "damaged.safetensors")


@pytest.mark.parametrize(("name", "file"), [("mobilenetv2_100", "mobilenetv2_100"), ("resnet50", "resnet50_v1_fp16")])
def test_imagenet_weights_are_really_loaded(shared, name, file):
    path = shared / "weights" / f"{file}.safetensors"
    if not path.exists():
        pytest.skip(f"no {path.name} among the shared weights")
    published = load_file(path)
    loaded = build_backbone(name, 16, path).network.state_dict()
    learned = [key for key in loaded if not key.endswith("num_batches_tracked")]
    assert len(learned) > 200
    assert [key for key in learned if not torch.equal(loaded[key].float(), published[key].float())] == []
