"""Networks from everywhere: their names, their outputs, local weights, and everything that is refused."""

import copy
import logging
import re
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from offramp import torchvision_import  # noqa: F401 - torchvision may need help before anything imports it
from offramp.errors import InputError
from offramp.models.sources import IMAGENET, SOURCES, build, full_name, is_user_code

import timm  # isort: skip
import torchvision  # isort: skip

CLASSES = 5
SMALL = ("test_efficientnet", "test_resnet")

OPTIONAL = {"smp": "segmentation_models_pytorch", "transformers": "transformers"}


def library(source):
    """The library of a source; skips the test where it is absent."""
    kind = source.partition(":")[0]
    if kind in OPTIONAL:
        return pytest.importorskip(OPTIONAL[kind], reason=f"{kind} networks need {OPTIONAL[kind]}")
    return {"timm": timm, "torchvision": torchvision}[kind]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test may open a connection: nothing is ever downloaded."""

    def refuse(*_):
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run(network, height=64, width=96):
    with torch.no_grad():
        return network.eval()(torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width))


def random_state(network, seed=7):
    """Other values for everything in a state dict; half of the real line for variances."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.is_floating_point() else tensor + 3
        for name, tensor in network.state_dict().items()
    }


def differing(loaded, wanted):
    return [name for name in loaded if not torch.equal(loaded[name], wanted[name])]


# Names.


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("mobilenetv2_100", "timm:mobilenetv2_100"),
        (" resnet50.a1_in1k ", "timm:resnet50.a1_in1k"),
        ("timm:resnet50", "timm:resnet50"),
        ("torchvision:fcn_resnet50", "torchvision:fcn_resnet50"),
        ("smp:Unet/tu-resnet18", "smp:Unet/tu-resnet18"),
        ("transformers:SegformerForSemanticSegmentation", "transformers:SegformerForSemanticSegmentation"),
        ("a b/net.py:make", "a b/net.py:make"),
    ],
)
def test_full_names(given, full):
    assert full_name(given) == full
    assert is_user_code(given) == given.endswith(".py:make")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tmm:resnet50", r"no source of networks is called 'tmm', in 'tmm:resnet50'; near it: timm; write timm:NAME, "),
        (
            "hf-hub:someone/resnet50",
            r"no source of networks is called 'hf-hub'.* there are smp, timm, torchvision, transformers;",
        ),
        ("timm:hf-hub:resnet50", r"not a network: 'timm:hf-hub:resnet50'; write timm:NAME"),
        ("", r"not a network: ''; write timm:NAME"),
        ("net.py", r"not a network: 'net.py'; .* path/to/file\.py:function"),
        ("timm:", r"not a network: 'timm:'"),
        ("some/net.py", r"not a network: 'some/net\.py'"),
        ("net.py:", r"no source of networks is called 'net\.py'.* path/to/file\.py:function"),
        ("net.py:two words", r"no source of networks is called 'net\.py'"),
        ("smp:Unet", r"not a network: 'smp:Unet'; .* smp:ARCH/ENCODER"),
        ("smp:Unet/", r"not a network: 'smp:Unet/'"),
        ("transformers:nvidia/segformer-b0", r"not a network: .* transformers:CLASS"),
    ],
)
def test_other_forms_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        full_name(source)
    with pytest.raises(InputError, match=message):
        build(source, CLASSES)
    assert not is_user_code(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet51", r"timm has no network 'resnet51'; near it: .*\bresnet50\b"),
        ("zzzzzzzzzzzz", r"timm has no network 'zzzzzzzzzzzz'; there are .* \.\.\."),
        ("resnet50.no_such_weights", r"cannot build timm:resnet50\.no_such_weights at output stride 16: .*no_such_weights"),
        ("torchvision:resnet19", r"torchvision:resnet19 is not known to torchvision; near it: .*resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", r"is no network for segmenting or classifying images; near it: .*fcn_resnet50"),
        ("torchvision:quantized_resnet18", r"is no network for segmenting or classifying images; near it"),
        ("torchvision:r3d_18", r"is no network for segmenting or classifying images"),
        ("torchvision:raft_small", r"is no network for segmenting or classifying images"),
        ("smp:Unett/resnet18", r"has no architecture 'Unett'; near it: Unet\b"),
        ("smp:Unet/resnet19", r"has no encoder 'resnet19'; near it: .*resnet18"),
        ("smp:Unet/tu-resnet19", r"has no encoder 'tu-resnet19'; near it: .*tu-resnet18"),
        ("transformers:SegformerForSegmentation", r"nearest first: SegformerForSemanticSegmentation, .*UperNetFor"),
        ("transformers:AutoModelForSemanticSegmentation", r"is no class of transformers for semantic segmentation"),
        ("transformers:BertModel", r"is no class of transformers for semantic segmentation"),
        ("transformers:SegGptForImageSegmentation", r"is no class of transformers for semantic segmentation"),
    ],
)
def test_unknown_networks_are_refused_with_near_ones(source, message):
    library(full_name(source))
    with pytest.raises(InputError, match=message):
        build(source, CLASSES)


@pytest.mark.parametrize(
    "source", ["timm:test_resnet", "torchvision:resnet18", "smp:Unet/resnet18", "transformers:AnyForOther"]
)
def test_a_missing_library_is_named(source, monkeypatch):
    kind = source.partition(":")[0]
    module = OPTIONAL.get(kind, kind)
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{source} needs {package} \(.*\); pip install {package}$"):
        build(source, CLASSES)


# timm.


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_timm_output_strides_and_channels(name, stride):
    built = build(name, CLASSES, output_stride=stride)
    channels = built.network.feature_info.channels()[-1]
    assert built.features
    assert run(built.network)[-1].shape == (1, channels, 64 // stride, 96 // stride)
    assert run(built.network, 65, 95)[-1].shape[2:] == (64 // stride + 1, 96 // stride)


def test_timm_networks_are_at_stride_16_where_they_can_be():
    assert run(build("test_resnet", CLASSES).network)[-1].shape[2:] == (4, 6)
    assert run(build("test_vit", CLASSES).network, 160, 160)[-1].shape[2:] == (10, 10)  # takes no output stride
    with pytest.raises(InputError, match=r"cannot build timm:test_vit at output stride 8"):
        build("test_vit", CLASSES, output_stride=8)


def test_timm_normalisation_is_the_networks_own():
    assert (build("test_resnet", CLASSES).mean, build("test_resnet", CLASSES).std) == ((0.5,) * 3, (0.5,) * 3)
    built = build("resnet18", CLASSES)
    assert (built.mean, built.std) == IMAGENET


@pytest.mark.parametrize("name", SMALL)
def test_timm_weights_are_read(name, tmp_path, caplog):
    network = timm.create_model(name)  # with a classifier, as published weights are
    saved = random_state(network)
    save_file(saved, tmp_path / "w.safetensors")
    loaded = build(name, CLASSES, weights=tmp_path / "w.safetensors").network.state_dict()
    assert set(loaded) < set(saved)
    assert differing(loaded, saved) == []
    assert differing(build(name, CLASSES).network.state_dict(), saved)
    assert caplog.records == []
    logger = logging.getLogger("timm.models._builder")
    assert (logger.level, logger.filters) == (logging.NOTSET, [])


@pytest.mark.parametrize("source", ["test_resnet", "torchvision:lraspp_mobilenet_v3_large"])
def test_weights_that_are_not_finite_are_refused(source, tmp_path):
    save_file({"fc.bias": torch.tensor([0.0, float("inf")]), "bn1.bias": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"the weights .*w\.safetensors hold NaN or infinity in fc\.bias \(and 0 more\); give"):
        build(source, CLASSES, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", SMALL)
def test_timm_weights_of_another_network_are_refused(name, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model(SMALL[1 - SMALL.index(name)]).state_dict(), path)
    with pytest.raises(InputError, match=rf"cannot build timm:{name} .* with the weights .*other\.safetensors"):
        build(name, CLASSES, weights=path)


def test_timm_weights_that_lack_a_layer_are_refused(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    lacking = {name: tensor for name, tensor in state.items() if not name.startswith("layer2.0.conv1")}
    assert len(lacking) == len(state) - 1
    save_file(lacking, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"they lack 1 tensors \(layer2\.0\.conv1\.weight\); give the weights of this"):
        build("test_resnet", CLASSES, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(("name", "file"), [("mobilenetv2_100", "mobilenetv2_100"), ("resnet50", "resnet50_v1_fp16")])
def test_imagenet_weights_are_really_loaded(shared, name, file):
    path = shared / "weights" / f"{file}.safetensors"
    if not path.exists():
        pytest.skip(f"no {path.name} among the shared weights")
    published = load_file(path)
    loaded = build(name, CLASSES, weights=path).network.state_dict()
    learned = [key for key in loaded if not key.endswith("num_batches_tracked")]
    assert len(learned) > 200
    assert [key for key in learned if not torch.equal(loaded[key].float(), published[key].float())] == []
    assert {loaded[key].dtype for key in learned} == {torch.float32}


# torchvision.


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision_segmentation_networks(name):
    built = build(f"torchvision:{name}", CLASSES)
    own = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    assert list(built.network.state_dict()) == list(own.state_dict())
    scores = run(built.network)
    assert list(scores) == ["out"]
    assert scores["out"].shape == (1, CLASSES, 64, 96)
    assert (built.mean, built.std) == IMAGENET
    assert not built.features


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v3_small", 576),
        ("resnet18", 512),
        ("squeezenet1_1", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("densenet121", 1024),
    ],
)
def test_torchvision_classifiers_lose_their_classifier(name, channels):
    torch.manual_seed(2)
    built = build(f"torchvision:{name}", CLASSES)
    torch.manual_seed(2)
    whole = torchvision.models.get_model(name, weights=None).state_dict()
    kept = built.network.state_dict()
    assert built.features
    assert built.network.training
    assert not any(module.training is False for module in built.network.modules())
    assert [key for key in whole if key in kept] == list(kept)
    assert differing(kept, whole) == []
    assert all(key.startswith(("classifier.", "fc.")) for key in whole if key not in kept)
    assert run(built.network).shape[:2] == (1, channels)


def test_a_torchvision_classifier_gives_what_it_gave_within(tmp_path):
    name = "resnet18"
    whole = torchvision.models.get_model(name, weights=None)
    whole.load_state_dict(random_state(whole))
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    built = build(f"torchvision:{name}", CLASSES, weights=tmp_path / "w.safetensors")  # the classifier is passed over
    seen = []
    whole.avgpool.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].clone()))
    run(whole)
    assert torch.equal(run(built.network), seen[0])


def test_torchvision_normalisation_is_the_networks_own(monkeypatch):
    entry = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT
    monkeypatch.setattr(entry.value, "transforms", torchvision.models.get_model_weights("efficientnet_v2_l").DEFAULT.transforms)
    built = build("torchvision:mobilenet_v3_small", CLASSES)
    assert (built.mean, built.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("vit_b_32", "Wrong image height"), ("googlenet", "expected input"), ("maxvit_t", "")],
)
def test_torchvision_classifiers_whose_parts_give_no_feature_map_are_refused(name, reason):
    with pytest.raises(InputError, match=rf"torchvision:{name} gives no feature map without its classifier: .*{reason}"):
        build(f"torchvision:{name}", CLASSES)


def test_a_classifier_that_does_more_than_run_its_parts_is_refused(monkeypatch):
    def forward(self, images):
        return type(self)._forward_impl(self, images.flip(3)) + 1

    monkeypatch.setattr(torchvision.models.ResNet, "forward", forward)
    with pytest.raises(InputError, match=r"torchvision:resnet18 gives no .* its parts do not run in a row; take one of timm's"):
        build("torchvision:resnet18", CLASSES)


def test_published_segmentation_weights_with_an_auxiliary_classifier_are_read(tmp_path):
    source = "torchvision:deeplabv3_mobilenet_v3_large"
    state = random_state(build(source, CLASSES).network)
    save_file(state | {"aux_classifier.0.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    assert differing(build(source, CLASSES, weights=tmp_path / "w.safetensors").network.state_dict(), state) == []


# segmentation_models_pytorch.


@pytest.mark.parametrize(
    ("arch", "encoder"), [("Unet", "tu-test_resnet"), ("fpn", "mobilenet_v2"), ("Segformer", "mobileone_s0")]
)
def test_smp_networks(arch, encoder):
    smp = library("smp:")
    built = build(f"smp:{arch}/{encoder}", CLASSES)
    own = smp.create_model(arch, encoder_name=encoder, encoder_weights=None, classes=CLASSES)
    assert type(built.network) is type(own)
    assert list(built.network.state_dict()) == list(own.state_dict())
    assert run(built.network).shape == (1, CLASSES, 64, 96)
    assert (built.mean, built.std) == (((0.5,) * 3, (0.5,) * 3) if encoder.startswith("tu-") else IMAGENET)


@pytest.mark.parametrize("arch", ["DeepLabV3Plus", "deeplabv3"])
def test_smp_output_strides(arch):
    library("smp:")
    for stride in (8, 16):
        network = build(f"smp:{arch}/mobilenet_v2", CLASSES, output_stride=stride).network.eval()
        with torch.no_grad():
            assert network.encoder(torch.zeros(1, 3, 64, 96))[-1].shape[2:] == (64 // stride, 96 // stride)
    with pytest.raises(InputError, match=rf"cannot build smp:{arch}/mobilenet_v2: .*32"):
        build(f"smp:{arch}/mobilenet_v2", CLASSES, output_stride=32)


def test_smp_normalisation_without_a_download():
    library("smp:")
    built = build("smp:Linknet/timm-tf_efficientnet_lite0", CLASSES)
    assert (built.mean, built.std) == ((0.5,) * 3, (0.5,) * 3)


def test_smp_networks_that_cannot_be_built_are_refused():
    library("smp:")
    with pytest.raises(InputError, match=r"cannot build smp:DPT/resnet18: .*; choose another network"):
        build("smp:DPT/resnet18", CLASSES)


# transformers.


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("SegformerForSemanticSegmentation", (16, 24)),
        ("MobileNetV2ForSemanticSegmentation", (2, 3)),
        ("MobileViTForSemanticSegmentation", (2, 3)),
    ],
)
def test_transformers_networks(name, grid):
    transformers = library("transformers:")
    built = build(f"transformers:{name}", CLASSES)
    assert type(built.network) is getattr(transformers, name)
    assert run(built.network).logits.shape == (1, CLASSES, *grid)
    assert (built.mean, built.std) == {
        "SegformerForSemanticSegmentation": IMAGENET,
        "MobileNetV2ForSemanticSegmentation": ((0.5,) * 3, (0.5,) * 3),
        "MobileViTForSemanticSegmentation": ((0,) * 3, (1,) * 3),
    }[name]


def test_a_class_whose_default_configuration_does_not_build_is_refused():
    library("transformers:")
    with pytest.raises(InputError, match=r"cannot build transformers:BeitForSemanticSegmentation: .*out_indices"):
        build("transformers:BeitForSemanticSegmentation", CLASSES)


def test_transformers_may_not_ask_the_hub_while_it_builds(monkeypatch):
    transformers = library("transformers:")
    from huggingface_hub import constants, hf_hub_download

    seen = []

    def fetch(*_, **__):
        seen.append(constants.HF_HUB_OFFLINE)
        hf_hub_download("someone/something", "config.json")

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr(transformers.SegformerForSemanticSegmentation, "__init__", fetch)
    with pytest.raises(InputError, match=r"cannot build transformers:SegformerForSemanticSegmentation: "):
        build("transformers:SegformerForSemanticSegmentation", CLASSES)
    assert seen == [True]
    assert before == constants.HF_HUB_OFFLINE


# The user's own file.

FILE = """
from pathlib import Path
from dataclasses import dataclass
from torch import nn
from layers_of_mine import WIDTH

(Path(__file__).parent / "ran").touch()


@dataclass
class Settings:
    width: "int" = WIDTH


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a = nn.Conv2d(3, Settings().width, 3, 4, 1)
        self.b = nn.Conv2d(Settings().width, num_classes, 1)

    def forward(self, images):
        return self.b(self.a(images))


def make(num_classes):
    import inner_of_mine
    return Net(num_classes)

def plain():
    return Net(3)

def broken(num_classes):
    return helper(num_classes)

def helper(num_classes):
    return [][num_classes]

def leaves(num_classes):
    raise SystemExit(4)

def greedy(num_classes, width):
    return Net(num_classes)

def number(num_classes):
    return num_classes
"""


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "with blank"
    folder.mkdir()
    (folder / "net.py").write_text(FILE, encoding="utf-8")
    (folder / "layers_of_mine.py").write_text("WIDTH = 8\n", encoding="utf-8")
    (folder / "inner_of_mine.py").touch()
    return folder / "net.py"


def test_own_code_is_not_run_before_it_is_asked_for(own):
    assert full_name(f"{own}:make") == f"{own}:make"
    assert is_user_code(f"{own}:make")
    assert not (own.parent / "ran").exists()
    build(f"{own}:make", CLASSES)
    assert (own.parent / "ran").exists()


def test_own_networks(own, tmp_path, monkeypatch):
    path, modules = list(sys.path), set(sys.modules)
    built = build(f"{own}:make", CLASSES)
    assert run(built.network).shape == (1, CLASSES, 16, 24)
    assert build(f"{own}:plain", CLASSES).network.b.out_channels == 3
    assert build(f"{own}:Net", CLASSES).network.b.out_channels == CLASSES
    assert (built.mean, built.std) == IMAGENET
    assert sys.path == path
    assert [re.sub(r"_[0-9a-f]{12}$", "", name) for name in set(sys.modules) - modules] == ["offramp_user"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text(FILE, encoding="utf-8")
    (other / "layers_of_mine.py").write_text("WIDTH = 4\n", encoding="utf-8")
    (other / "inner_of_mine.py").touch()
    monkeypatch.chdir(other)
    assert build("net.py:make", CLASSES).network.a.out_channels == 4  # its own neighbour, not the first file's
    assert built.network.a.out_channels == 8


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("maek", r"net\.py has no function 'maek'; near it: make$"),
        ("WIDTH", r"net\.py has no function 'WIDTH'"),
        ("broken", r"net\.py:broken failed: IndexError: list index out of range at .*net\.py, line 36; mend the file"),
        ("leaves", r"net\.py:leaves failed: SystemExit: 4 at .*net\.py, line 39"),
        ("greedy", r"net\.py:greedy failed: TypeError: .*'width'; mend the file"),
        ("number", r"net\.py:number must give a torch\.nn\.Module, got int"),
    ],
)
def test_own_code_that_fails_says_where(own, function, message):
    with pytest.raises(InputError, match=message):
        build(f"{own}:{function}", CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def make(:\n", r"failed: SyntaxError: .* at .*net\.py, line 1"),
        ("\nimport no_such_library\n", r"failed: ModuleNotFoundError: No module named 'no_such_library' at .*net\.py, line 2"),
        ("\n\nraise KeyError\n", r"failed: KeyError: KeyError at .*net\.py, line 3"),
    ],
)
def test_own_files_that_fail_say_where(own, text, message):
    own.write_text(text, encoding="utf-8")
    before = list(sys.path)
    with pytest.raises(InputError, match=message):
        build(f"{own}:make", CLASSES)
    assert sys.path == before


def test_an_own_file_that_is_missing_is_named(own):
    with pytest.raises(InputError, match=r"no file .*nett\.py, for the network .*nett\.py:make"):
        build(f"{own.with_name('nett.py')}:make", CLASSES)


# Weights of whole networks, and output strides.

WHOLE = [
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:mobilenet_v3_small",
    "smp:Unet/tu-test_resnet",
    "transformers:SegformerForSemanticSegmentation",
    "own",
]


def source_of(name, own):
    if name == "own":
        return f"{own}:make"
    library(name)
    return name


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_come_back_bit_for_bit(name, dtype, own, tmp_path):
    source = source_of(name, own)
    state = {
        key: t.to(dtype) if t.is_floating_point() else t for key, t in random_state(build(source, CLASSES).network).items()
    }
    save_file(state, tmp_path / "w.safetensors")
    loaded = build(source, CLASSES, weights=tmp_path / "w.safetensors").network.state_dict()
    floating = [key for key in loaded if loaded[key].is_floating_point()]
    assert list(loaded) == list(state)
    assert {loaded[key].dtype for key in floating} == {torch.float32}
    assert differing(loaded, {key: t.float() if key in floating else t for key, t in state.items()}) == []


@pytest.mark.parametrize("name", WHOLE)
def test_weights_that_do_not_fit_are_refused_with_counts(name, own, tmp_path):
    source = source_of(name, own)
    state = copy.deepcopy(build(source, CLASSES).network.state_dict())
    names = [key for key in state if state[key].dim() == 4]
    gone, bent, typed = names[0], names[1], next(key for key in state if key.endswith(".bias"))
    del state[gone]
    state[bent] = torch.zeros(2, 1)
    state[typed] = torch.zeros(state[typed].shape, dtype=torch.int8)
    state |= {"stranger.a": torch.zeros(1), "stranger.b": torch.zeros(1), "stranger.c": torch.zeros(1)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        build(source, CLASSES, weights=tmp_path / "w.safetensors")
    text = str(caught.value)
    assert f"w.safetensors do not fit {source}: 1 missing ({gone}); 3 unexpected (stranger.a, stranger.b); " in text
    assert f"1 of another shape ({bent}: (2, 1) for (" in text
    assert f"1 of another type ({typed}: torch.int8); give the whole network's own state dict" in text


@pytest.mark.parametrize("name", ["timm:test_resnet", "own"])
def test_unreadable_weights_are_refused(name, own, tmp_path):
    source = source_of(name, own)
    with pytest.raises(InputError, match=r"cannot read the weights .*absent\.safetensors"):
        build(source, CLASSES, weights=tmp_path / "absent.safetensors")
    for pickled in ("weights.pth", "weights.pt"):
        torch.save({"a": torch.zeros(1)}, tmp_path / pickled)
        with pytest.raises(
            InputError, match=rf"must be a \.safetensors file, got {pickled}; pickled files can run code and are"
        ):
            build(source, CLASSES, weights=tmp_path / pickled)
    save_file(build(source, CLASSES).network.state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for damaged in (b"", whole[:-100], b"\xff" * 8 + whole[8:], b"not weights at all"):
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot read the weights .*damaged\.safetensors"):
            build(source, CLASSES, weights=tmp_path / "damaged.safetensors")


@pytest.mark.parametrize("name", [*WHOLE, "smp:PSPNet/resnet18"])
def test_an_output_stride_is_refused_where_there_is_none_to_choose(name, own):
    source = source_of(name, own)
    message = (
        rf"{re.escape(source)} takes no output stride, got 16; leave it out \(only timm's networks and smp's DeepLabV3 and "
    )
    with pytest.raises(InputError, match=message):
        build(source, CLASSES, output_stride=16)
    assert not (own.parent / "ran").exists()


def test_every_source_is_tested_here():
    assert set(SOURCES) == {"timm", "torchvision", "smp", "transformers"}


def test_own_networks_are_modules(own):
    assert isinstance(build(f"{own}:make", CLASSES).network, nn.Module)
