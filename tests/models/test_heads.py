"""The contract of heads, the same for each kind."""

import pytest
import torch

from offramp.models.heads import HEADS
from offramp.specs import HeadSpec

KINDS = sorted(HEADS)


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[kind](6, 5, HeadSpec(kind=kind, channels=8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (1, 1)])
def test_scores_have_the_features_resolution(kind, size):
    assert build(kind).eval()(torch.rand(2, 6, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_parameter(kind):
    head = build(kind).train()
    scores = head(torch.randn(2, 6, 9, 11))
    (scores * torch.randn(scores.shape)).sum().backward()
    assert {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic_and_changes_nothing(kind):
    head = build(kind).eval()
    features = torch.randn(1, 6, 5, 7)
    kept = features.clone()
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    first = head(features)
    assert torch.equal(head(features), first)
    assert torch.equal(features, kept)
    assert all(torch.equal(tensor, state[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_no_probabilities(kind):
    scores = build(kind).eval()(10 * torch.randn(1, 6, 5, 7))
    assert scores.min() < 0
    assert not torch.allclose(scores.sum(dim=1), torch.ones(1, 5, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_width_follows_the_spec(kind):
    narrow, wide = (
        sum(p.numel() for p in HEADS[kind](6, 5, HeadSpec(kind=kind, channels=channels)).parameters()) for channels in (8, 32)
    )
    assert wide > 2 * narrow
