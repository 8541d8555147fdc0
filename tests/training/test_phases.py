"""What each phase of each scheme trains, and by which loss."""

import pytest
import torch

from offramp.data.transforms import Crops
from offramp.models.attach import build_network
from offramp.models.feature_maps import upsample
from offramp.specs import FINAL, TrainingSpec
from offramp.training.loop import Recipe, Run, run_phases
from offramp.training.phases import Scene, halving_of, measured_in, phases_of
from offramp.training.state import save_state

WEIGHTS = torch.tensor([1.0, 2.0])
SPEC = TrainingSpec(epochs=1, exit_epochs=2, learning_rate=0.01, backbone_rate=0.25)


def phases(network, *, pretrained=False, **options):
    return phases_of(Scene(network, SPEC.model_copy(update=options), WEIGHTS), pretrained=pretrained)


def parts(network) -> dict:
    found = {"backbone": network.backbone, FINAL: network.final_head}
    return found | {early.name: head for early, head in zip(network.spec.exits, network.early_heads, strict=True)}


def touched(network) -> set[str]:
    """The parts that a gradient has reached."""
    return {
        name for name, part in parts(network).items() if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


def in_training(network) -> set[str]:
    """The parts whose modules are in training mode; none may be so in part."""
    found = {}
    for name, part in parts(network).items():
        modes = {module.training for module in part.modules()}
        assert len(modes) == 1, name
        found[name] = modes.pop()
    return {name for name, trains in found.items() if trains}


def early_of(network) -> list[str]:
    return [early.name for early in network.spec.exits]


def step(network, phase, batch, number=0) -> set[str]:
    network.zero_grad(set_to_none=True)
    phase.loss(batch, number).backward()
    return touched(network)


# --------------------------------------------------------------------------------------------------------------- two-phase


def test_phase_1_trains_the_final_exit_and_one_early_exit_in_rotation(network, batch):
    first = phases(network)[0]
    first.prepare([])
    assert in_training(network) == {"backbone", FINAL, *early_of(network)}
    assert first.exits() == network.spec.exit_names
    for number in range(7):
        assert step(network, first, batch, number) == {"backbone", FINAL, early_of(network)[number % 3]}
        assert all(p.grad is not None for p in network.backbone.parameters())


def test_phase_1_may_draw_the_early_exit(network, batch):
    def drawn(seed):
        first = phases(network, early_exit="random", seed=seed)[0]
        first.prepare([])
        found = []
        for number in range(12):
            (early,) = step(network, first, batch, number) - {"backbone", FINAL}
            found.append(early)
        return found

    once = drawn(0)
    assert drawn(0) == once  # a resumed run draws the same
    assert set(once) == set(early_of(network))
    assert once != [early_of(network)[number % 3] for number in range(12)]
    assert drawn(1) != once


def losses_by_hand(network, batch, exits) -> float:
    images, labels = batch
    thin = labels[:, 1::2, 1::2]
    strides = dict(zip(network.spec.exit_names, (2, 4, 8, 8), strict=True))
    total = 0.0
    for name, scores in network(images, exits).items():
        half = upsample(scores, strides[name], 16, 24)
        surprise = -half.log_softmax(dim=1).gather(1, thin[:, None])[:, 0]
        weight = WEIGHTS[thin]
        total += ((surprise * weight).sum() / weight.sum()).item()
    return total


def test_losses_are_sums_of_cross_entropies(network, batch):
    network.requires_grad_(requires_grad=False).eval()
    two = early_of(network)[1]
    assert phases(network)[0].loss(batch, 1).item() == pytest.approx(losses_by_hand(network, batch, [two, FINAL]), rel=1e-5)
    (joint,) = phases(network, scheme="joint")
    everything = losses_by_hand(network, batch, network.spec.exit_names)
    assert joint.loss(batch, 1).item() == pytest.approx(everything, rel=1e-5)
    for scheme in ("frozen", "final-only"):
        alone = phases(network, scheme=scheme)[0].loss(batch, 1).item()
        assert alone == pytest.approx(losses_by_hand(network, batch, [FINAL]), rel=1e-5)


def test_hard_pixels_alone_raise_the_loss(network, batch):
    network.requires_grad_(requires_grad=False).eval()
    assert phases(network, hard_share=0.2)[0].loss(batch, 0) > phases(network)[0].loss(batch, 0)


@pytest.mark.parametrize(("pretrained", "rate"), [(True, 0.0025), (False, 0.01)])
def test_a_pretrained_backbone_learns_more_slowly(network, pretrained, rate):
    backbone, heads = phases(network, pretrained=pretrained)[0].groups
    assert (backbone["lr"], heads["lr"]) == (pytest.approx(rate), 0.01)
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert {id(p) for group in (backbone, heads) for p in group["params"]} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("distillation", ["positive", "plain", "none"])
@pytest.mark.parametrize("scheme", ["two-phase", "frozen"])
def test_phase_2_asks_every_early_exit_and_touches_nothing_else(network, batch, scheme, distillation):
    second = phases(network, scheme=scheme, distillation=distillation)[1]
    second.prepare([])
    early = set(early_of(network))
    assert step(network, second, batch) == in_training(network) == early
    assert second.exits() == network.spec.exit_names
    assert {id(p) for p in second.groups[0]["params"]} == {id(p) for p in network.early_heads.parameters()}


def test_kinds_of_distillation_teach_differently(network, batch):
    network.eval()
    losses = [
        phases(network, **options)[1].loss(batch, 0).item()
        for options in (
            {},
            {"distillation": "plain"},
            {"distillation": "none"},
            {"filtered": "both"},
            {"temperature": 2.0},
            {"truth_weight": 0.9},
        )
    ]
    assert len({round(loss, 5) for loss in losses}) == len(losses)


def test_phase_2_leaves_backbone_and_final_exit_bit_for_bit(network, split, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def measure(_exits):
        network.eval()  # validation leaves this mode behind
        return {}

    recipe = Recipe(batch_size=2, weight_decay=0.1, averaging=0.5)
    run = Run(folder=tmp_path, network=network, recipe=recipe, measure=measure, save=save_state, phase=1)
    run_phases(run, phases(network), Crops(split, 48, 32, (0.8, 1.2), 0))
    assert [row["phase"] for row in run.history] == ["phase 2", "phase 2"]
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    # Every parameter and statistic of every early head, and nothing else.
    assert changed == {name for name in before if name.startswith("early_heads.")}
    assert any(name.endswith("running_mean") and not name.startswith("early_heads.") for name in before)


# --------------------------------------------------------------------------------------------------------- other schemes


def test_the_schemes_phases():
    network = build_tiny()
    found = {
        scheme: [(phase.name, phase.epochs) for phase in phases(network, scheme=scheme)]
        for scheme in ("two-phase", "joint", "frozen", "final-only")
    }
    assert found == {
        "two-phase": [("phase 1", 1), ("phase 2", 2)],
        "joint": [("joint", 3)],
        "frozen": [("phase 1", 1), ("phase 2", 2)],
        "final-only": [("phase 1", 1)],
    }


def build_tiny(**changes):
    from tests.training.conftest import TINY

    return build_network(TINY.model_copy(update=changes))


def test_joint_trains_everything_at_once(network, batch):
    (joint,) = phases(network, scheme="joint")
    joint.prepare([])
    everything = {"backbone", FINAL, *early_of(network)}
    assert in_training(network) == step(network, joint, batch) == everything
    assert {id(p) for group in joint.groups for p in group["params"]} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("scheme", ["frozen", "final-only"])
def test_the_final_exit_alone(network, batch, scheme):
    first = phases(network, scheme=scheme)[0]
    first.prepare([])
    assert in_training(network) == step(network, first, batch) == {"backbone", FINAL}
    assert first.exits() == (FINAL,)
    early = {id(p) for p in network.early_heads.parameters()}
    assert not early & {id(p) for group in first.groups for p in group["params"]}


def test_without_early_exits_there_is_one_phase(batch):
    alone = build_tiny(exits=())
    (only,) = phases(alone)
    only.prepare([])
    assert step(alone, only, batch) == {"backbone", FINAL}


# ----------------------------------------------------------------------------------------------------------------- halving


@pytest.fixture
def wide():
    """Two taps with three heads each."""
    from offramp.specs import ExitSpec, HeadSpec

    heads = [HeadSpec(channels=width) for width in (4, 5, 6)]
    return build_tiny(exits=tuple(ExitSpec(tap=tap, head=head) for tap in ("blocks.1.0", "blocks.2.0") for head in heads))


def row(epoch, figures):
    return {"phase": "phase 2", "epoch": epoch, "loss": 1.0} | {f"miou:{name}": value for name, value in figures.items()}


def test_dropped_heads_are_neither_trained_nor_measured(wide, batch):
    names = early_of(wide)
    second = phases(wide, exit_epochs=3, halving=1)[1]
    assert second.always_measured == (1,)
    second.prepare([])
    assert step(wide, second, batch) == in_training(wide) == set(names)
    figures = dict(zip([*names, FINAL], (0.1, 0.5, 0.4, 0.3, 0.2, 0.6, 0.9), strict=True))
    history = [{"phase": "phase 1", "epoch": 1, f"miou:{names[0]}": 0.99}, row(1, figures)]
    second.prepare(history)
    stay = {names[0], names[1], names[3], names[5]}  # the third is beaten by the second, the fifth by the fourth
    assert step(wide, second, batch) == in_training(wide) == stay
    assert second.exits() == (names[0], names[1], names[3], names[5], FINAL)
    second.prepare([*history, row(2, dict.fromkeys(stay, 0.5))])  # no rung ends here
    assert in_training(wide) == stay


def test_halving_knows_what_heads_cost(wide):
    halving = halving_of(wide, SPEC)
    assert halving.ends == ()
    assert list(halving.taps.values()) == ["blocks.1.0"] * 3 + ["blocks.2.0"] * 3
    costs = list(halving.macs.values())
    assert costs[0] < costs[1] < costs[2]
    assert measured_in([row(2, {"a": 0.25})]) == {2: {"a": 0.25}}
