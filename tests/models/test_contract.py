"""One contract for every network and every head: attach, train a step, save, load, export, cut, run in every engine.

The networks are those of `benchmarks/contract.py`, most of them not written for Offramp. A network more costs a line there.
"""

import copy
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from offramp.artifacts import load_manifest
from offramp.errors import InputError
from offramp.export.package import export
from offramp.models.attach import attach_exits
from offramp.models.checkpoint import NETWORK, WEIGHTS, load_network, save_weights
from offramp.models.feature_maps import read_answer
from offramp.models.sources import build
from offramp.runtime.engines import open_engine
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import FINAL, NetworkChoice, TrainingSpec
from offramp.training.phases import Scene, phases_of

ROOT = Path(__file__).parents[2]

module = importlib.util.spec_from_file_location("benchmark_contract", ROOT / "benchmarks" / "contract.py")
contract = importlib.util.module_from_spec(module)
sys.modules[module.name] = contract
module.loader.exec_module(contract)

SIZE = (75, 101)
"""Portrait, and no multiple of any stride."""

OTHER_SIZES = ((104, 72), (193, 65))
"""Of images that come to a network whose points were found at SIZE."""

OPTIONAL = {"smp": "segmentation_models_pytorch", "transformers": "transformers"}
KEPT = (0, 3, 5, 6)
"""Of two taps with four heads each: two kinds at the first tap, the other two at the second."""

EXITS = len(KEPT) + 1

TOLERANCE = 4
"""Times what float32 costs PyTorch itself: engines add up in another order, in a random ResNet-50 as much as 2e-4."""


def pictures(count, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(count, 3, size[1], size[0], generator=generator)


@pytest.fixture(scope="module", params=list(contract.NETWORKS), ids=contract.short)
def source(request):
    prefix = request.param.partition(":")[0]
    if prefix in OPTIONAL:
        pytest.importorskip(OPTIONAL[prefix], reason=f"{prefix} networks need {OPTIONAL[prefix]}")
    return request.param


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """A run folder of a network with two taps and every head on each."""
    folder = tmp_path_factory.mktemp("contract") / "run"
    choice = NetworkChoice(network=source, exits=2, heads=contract.HEADS)
    contract.make_run(choice, folder, SIZE, classes=5, kept=KEPT)
    return folder


@pytest.fixture(scope="module")
def network(run, source):
    return load_network(run, network=contract.named(source))[0]


@pytest.fixture(scope="module")
def package(run, source, tmp_path_factory):
    out = tmp_path_factory.mktemp("contract") / "package"
    export(run, out, network=contract.named(source))
    return out


@pytest.fixture(params=contract.ENGINES)
def engine(request):
    return pytest.importorskip(request.param, reason=f"the engine {request.param} is not installed").__name__


@pytest.fixture(scope="module")
def image():
    return pictures(1, seed=3)[0].permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def rounding(network, image):
    return contract.rounding(network, image)


def phases(network):
    """Phase 1 and phase 2."""
    return phases_of(Scene(network, TrainingSpec(exit_epochs=1), torch.ones(5)), pretrained=True)


def names_of(network, *, start):
    return {name for name, _ in network.named_parameters() if name.startswith(start)}


def reached(network):
    """Names of the parameters that a backward pass has come to."""
    return {name for name, parameter in network.named_parameters() if parameter.grad is not None}


def normalised(network, images):
    spec = network.spec
    mean, std = torch.tensor(spec.mean).reshape(1, 3, 1, 1), torch.tensor(spec.std).reshape(1, 3, 1, 1)
    below, beside = (-side % spec.multiple for side in images.shape[2:])
    return functional.pad((images / 255 - mean) / std, (0, beside, 0, below))


def test_the_network_stays_what_it_was(network):
    images = pictures(2)
    spec = network.spec
    alone = build(spec.network, 5, output_stride=spec.output_stride).network.eval()
    attached = {name.removeprefix("backbone."): t for name, t in network.state_dict().items() if name.startswith("backbone.")}
    assert list(attached) == list(alone.state_dict())
    alone.load_state_dict(attached)
    with torch.no_grad():
        raw = read_answer(alone(normalised(network, images))).tensor
        final = network.features(images)[FINAL]
        rows, columns = final.shape[2:]
        if raw.shape[1] != final.shape[1]:
            raw = raw.permute(0, 3, 1, 2)
        assert torch.equal(final, raw[..., :rows, :columns])
        if spec.final_head is None:
            assert torch.equal(network(images, [FINAL])[FINAL], final)


@pytest.mark.parametrize("size", [SIZE, *OTHER_SIZES])
def test_every_exit_covers_the_image(network, size):
    with torch.no_grad():
        answers = network(pictures(1, size))
    assert list(answers) == list(network.spec.exit_names)
    assert len(answers) == EXITS
    assert {early.head.kind for early in network.spec.exits} == {head.partition("/")[0] for head in contract.HEADS}
    for scores in answers.values():
        stride = network.stride(scores, size[1])
        assert scores.shape == (1, 5, -(-size[1] // stride), -(-size[0] // stride))
        assert torch.isfinite(scores).all()


@pytest.fixture(scope="module")
def taught(network):
    """A copy after a step of phase 2, its gradients still there."""
    trained = copy.deepcopy(network)
    labels = torch.randint(0, 5, (2, SIZE[1], SIZE[0]), generator=torch.Generator().manual_seed(1))
    phase = phases(trained)[1]
    phase.prepare([])
    phase.loss((pictures(2), labels), 0).backward()
    torch.optim.AdamW(phase.groups, lr=0.1).step()
    return trained.eval()


def test_phase_2_reaches_every_head_and_nothing_else(network, taught):
    assert reached(taught) == names_of(taught, start="early_heads.")
    before, after = network.state_dict(), taught.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items() if not name.startswith("early_heads."))
    images = pictures(2)
    with torch.no_grad():
        answers = taught(images)
        same = [name for name, scores in network(images).items() if torch.equal(scores, answers[name])]
    assert same == [FINAL]


def test_what_was_trained_is_saved_and_loaded(taught, run, source, tmp_path):
    shutil.copy(run / NETWORK, tmp_path / NETWORK)
    save_weights(taught, tmp_path / WEIGHTS)
    loaded, _ = load_network(tmp_path, network=contract.named(source))
    assert loaded.spec == taught.spec
    images = pictures(2)
    with torch.no_grad():
        wanted, got = taught(images), loaded(images)
    assert all(torch.equal(got[name], scores) for name, scores in wanted.items())


def test_phase_1_reaches_what_the_answers_were_made_from(network):
    trained = copy.deepcopy(network)
    phase = phases(trained)[0]
    phase.prepare([])
    assert all(parameter.requires_grad for parameter in trained.parameters())
    # The network without exits, run by its owner, tells what its own answer is made from.
    read_answer(trained.backbone(normalised(trained, pictures(2)))).tensor.sum().backward()
    alone = reached(trained)
    skip = trained.spec.final_skip
    trained.zero_grad(set_to_none=True)
    asked = trained.spec.exits[1]
    phase.loss((pictures(2), torch.zeros(2, SIZE[1], SIZE[0], dtype=torch.long)), 1).backward()
    heads = names_of(trained, start="early_heads.1.") | names_of(trained, start="final_head.")
    assert reached(trained) == alone | heads
    assert any(name.startswith(f"backbone.{asked.tap}.") for name in alone)
    assert skip is None or any(name.startswith(f"backbone.{skip}.") for name in alone)
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    torch.optim.AdamW(phase.groups).step()
    # Biases that no loss moves stay, for a batch-norm follows them; whole kernels do not.
    moved = {name for name, parameter in trained.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= reached(trained)
    assert {name for name in reached(trained) if before[name].dim() > 1} <= moved
    assert all(torch.isfinite(parameter).all() for parameter in trained.parameters())


def test_an_exit_reaches_nothing_behind_its_tap(network):
    trained = copy.deepcopy(network)
    phases(trained)[0].prepare([])
    below = []
    for early in (trained.spec.exits[0], trained.spec.exits[-1]):
        trained.zero_grad(set_to_none=True)
        trained(pictures(2), [early.name])[early.name].square().mean().backward()
        below.append({name for name in reached(trained) if name.startswith("backbone.")})
    # All that the first exit was made from is among what the deeper one was made from.
    assert below[0] < below[1]
    assert any(name.startswith(f"backbone.{trained.spec.exits[-1].tap}.") for name in below[1] - below[0])


def test_every_exit_equals_pytorch(network, package, image, rounding, engine):
    errors = contract.relative_errors(package, network, image, engine)
    assert errors.keys() == rounding.keys()
    assert len(errors) == EXITS
    worst = max(rounding.values())
    assert worst < 1e-3
    assert max(errors.values()) < TOLERANCE * worst + 1e-6, errors


def test_an_exit_runs_only_the_stages_that_it_needs(package, engine):
    manifest = load_manifest(package)
    assert len(manifest.stages) == 3
    staged = StagedNetwork(package, open_engine(engine, 1))
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for head in manifest.heads:
        (answer,) = staged.iter_exits(image, [head.exit])
        assert [step for step in answer.steps_ms if step.startswith("stage")] == [f"stage {i}" for i in range(head.stage + 1)]
        assert [step for step in answer.steps_ms if step.startswith("head")] == [f"head {head.exit}"]
        assert answer.labels().shape == (SIZE[1], SIZE[0])
        # Never judged at full resolution, whatever the scores have.
        assert answer.confidence.size <= -(-SIZE[1] // 4) * -(-SIZE[0] // 4)
    # Stages divide the network: none of them does the work of another.
    original = manifest.original.macs
    assert sum(stage.macs for stage in manifest.stages) <= original
    assert all(stage.macs > 0 for stage in manifest.stages[:2])


def test_detach_gives_the_network_back(run, source):
    network, _ = load_network(run, network=contract.named(source))
    backbone, spec = network.backbone, network.spec
    assert network.detach() is backbone
    alone = build(spec.network, 5, output_stride=spec.output_stride).network.eval()
    alone.load_state_dict(backbone.state_dict())
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        assert torch.equal(read_answer(backbone(images)).tensor, read_answer(alone(images)).tensor)
    for (name, module), own in zip(backbone.named_modules(), alone.modules(), strict=True):
        # Some of transformers' modules get hooks of their own when they first run.
        assert len(module._forward_hooks) == len(own._forward_hooks), name
        assert len(module._forward_pre_hooks) == len(own._forward_pre_hooks), name


def test_the_documented_table_is_that_of_its_raw_numbers():
    measured = json.loads((ROOT / "docs" / "contract.json").read_text(encoding="utf-8"))
    assert [row["network"] for row in measured["rows"]] == [contract.short(source) for source in contract.NETWORKS]
    assert contract.markdown(measured["rows"]) in (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------- sizes, classes, wrong networks


class Plain(nn.Module):
    """Class scores at stride 4, nothing unusual."""

    def __init__(self, classes=5):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.classify = nn.Conv2d(16, classes, 1)

    def forward(self, images):
        return self.classify(self.third(self.second(self.first(images))))


@pytest.mark.parametrize("size", [(72, 104), (71, 103), (104, 72), (103, 71), (33, 200), (64, 64)])
def test_odd_sizes_and_portrait_images(size):
    network = attach_exits(Plain(), 5, size, exits=1, heads=contract.HEADS).eval()
    for height, width in (size, (size[0] + 5, size[1] - 3)):
        with torch.no_grad():
            answers = network(pictures(1, (width, height)))
        for name, scores in answers.items():
            stride = network.stride(scores, height)
            assert scores.shape == (1, 5, -(-height // stride), -(-width // stride)), name


@pytest.mark.parametrize("size", [(90, 70), (70, 90)])
def test_a_padded_network_takes_every_size(size):
    pytest.importorskip("segmentation_models_pytorch", reason="smp networks need segmentation_models_pytorch")
    network = attach_exits(build("smp:FPN/resnet18", 5).network, 5, (size[1], size[0]), exits=2).eval()
    assert network.spec.multiple == 32
    with torch.no_grad():
        for name, scores in network(pictures(1, size)).items():
            stride = network.stride(scores, size[1])
            assert scores.shape[2:] == (-(-size[1] // stride), -(-size[0] // stride)), name


def test_many_classes():
    network = attach_exits(Plain(150), 150, (64, 96), exits=1, heads=contract.HEADS)
    assert {scores.shape[1] for scores in network(pictures(2, (96, 64))).values()} == {150}


def test_one_class_is_refused_and_a_sigmoid_becomes_two():
    with pytest.raises(InputError, match=r"num_classes must be from 2 to 255, got 1; .*the background is a class of its own"):
        attach_exits(Plain(1), 1, (64, 96), exits=1)
    plain = Plain(1).eval()
    network = attach_exits(plain, 2, (64, 96), exits=1).eval()
    images = pictures(1, (96, 64))
    with torch.no_grad():
        logits = plain(normalised(network, images))
        probabilities = network(images, [FINAL])[FINAL].softmax(dim=1)
    assert torch.allclose(probabilities[:, 1:], logits.sigmoid(), atol=1e-6)


def test_a_batch_of_one_trains():
    network = attach_exits(Plain(), 5, (64, 96), exits=1, heads=contract.HEADS)
    for phase in phases(network):
        phase.prepare([])
        loss = phase.loss((pictures(1, (96, 64)), torch.zeros(1, 64, 96, dtype=torch.long)), 0)
        loss.backward()
        assert torch.isfinite(loss)
