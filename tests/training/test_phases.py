"""What each phase trains, and by which loss."""

import pytest
import torch

from offramp.data.transforms import Crops
from offramp.models.feature_maps import upsample
from offramp.progress import silent
from offramp.specs import FINAL, TrainingSpec
from offramp.training.loop import Run, run_phases
from offramp.training.phases import two_phase

WEIGHTS = torch.tensor([1.0, 2.0])
SPEC = TrainingSpec(epochs=1, exit_epochs=2, learning_rate=0.01, backbone_rate=0.25)


def touched(network) -> set[str]:
    """The parts that a gradient has reached."""
    parts = {"backbone": network.backbone, FINAL: network.final_head}
    parts |= {early.name: head for early, head in zip(network.spec.exits, network.early_heads, strict=True)}
    return {name for name, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())}


def test_phase_1_trains_the_final_exit_and_one_early_exit_in_rotation(network, batch):
    first = two_phase(network, SPEC, WEIGHTS, pretrained=False)[0]
    early = [one.name for one in network.spec.exits]
    first.prepare()
    assert all(module.training for module in network.modules())
    for step in range(7):
        network.zero_grad(set_to_none=True)
        first.loss(batch, step).backward()
        assert touched(network) == {"backbone", FINAL, early[step % 3]}
        assert all(p.grad is not None for p in network.backbone.parameters())


def test_phase_1_sums_two_cross_entropies(network, batch):
    network.requires_grad_(requires_grad=False).eval()
    images, labels = batch
    thin = labels[:, 1::2, 1::2]
    expected = 0.0
    for name, scores in network(images, ["blocks.2.0:fcn/c4", FINAL]).items():
        half = upsample(scores, {"blocks.2.0:fcn/c4": 4, FINAL: 8}[name], 16, 24)
        surprise = -half.log_softmax(dim=1).gather(1, thin[:, None])[:, 0]
        weight = WEIGHTS[thin]
        expected += ((surprise * weight).sum() / weight.sum()).item()
    loss = two_phase(network, SPEC, WEIGHTS, pretrained=False)[0].loss(batch, 1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("pretrained", "rate"), [(True, 0.0025), (False, 0.01)])
def test_a_pretrained_backbone_learns_more_slowly(network, pretrained, rate):
    backbone, heads = two_phase(network, SPEC, WEIGHTS, pretrained=pretrained)[0].groups
    assert (backbone["lr"], heads["lr"]) == (pytest.approx(rate), 0.01)
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert {id(p) for group in (backbone, heads) for p in group["params"]} == {id(p) for p in network.parameters()}


def test_phase_2_asks_every_early_exit_and_touches_nothing_else(network, batch):
    second = two_phase(network, SPEC, WEIGHTS, pretrained=False)[1]
    second.prepare()
    second.loss(batch, 0).backward()
    assert touched(network) == {early.name for early in network.spec.exits}
    assert {id(p) for p in second.groups[0]["params"]} == {id(p) for p in network.early_heads.parameters()}


def test_phase_2_leaves_backbone_and_final_exit_bit_for_bit(network, split, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def measure():
        network.eval()  # validation leaves this mode behind
        return {}

    run = Run(
        folder=tmp_path,
        network=network,
        device=torch.device("cpu"),
        seed=0,
        batch_size=2,
        weight_decay=0.1,
        validate_every=1,
        measure=measure,
        progress=silent,
        phase=1,
    )
    run_phases(run, two_phase(network, SPEC, WEIGHTS, pretrained=False), Crops(split, 48, 32, (0.8, 1.2), 0))
    assert [row["phase"] for row in run.history] == ["phase 2", "phase 2"]
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    # Every parameter and statistic of every early head, and nothing else.
    assert changed == {name for name in before if name.startswith("early_heads.")}
    assert any(name.endswith("running_mean") and not name.startswith("early_heads.") for name in before)


def test_without_early_exits_there_is_one_phase(network, batch):
    from offramp.models.attach import build_network

    alone = build_network(network.spec.model_copy(update={"exits": ()}))
    (only,) = two_phase(alone, SPEC, WEIGHTS, pretrained=False)
    only.prepare()
    only.loss(batch, 0).backward()
    assert touched(alone) == {"backbone", FINAL}
