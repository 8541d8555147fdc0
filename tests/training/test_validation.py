"""Figures on whole images, against a confusion matrix that is filled pixel by pixel."""

import numpy as np
import pytest
import torch

from offramp.data.folder import open_split
from offramp.errors import InputError
from offramp.metrics import iou
from offramp.models.checkpoint import load_network
from offramp.specs import FINAL
from offramp.training.distributed import World
from offramp.training.state import read_history
from offramp.training.validation import mious, validator


def slow_miou(network, split, name, classes, images):
    table = np.zeros((classes, classes), np.int64)
    for i in images:
        image, labels = split.pair(i)
        with torch.no_grad():
            scores = network(torch.from_numpy(image).permute(2, 0, 1)[None].float(), [name])[name]
            full = torch.nn.functional.interpolate(scores, size=labels.shape, mode="bilinear")  # 96x64: whole strides
        for answer, truth in zip(full.argmax(dim=1).numpy().ravel(), labels.ravel(), strict=True):
            if truth < classes:
                table[truth, answer] += 1
    return np.nanmean(iou(np.diag(table), table.sum(axis=0), table.sum(axis=1)))


def test_whole_images_at_full_resolution(trained_run, scenes):
    train, val = open_split(scenes, "train"), open_split(scenes, "val")
    network, described = load_network(trained_run)
    measured = validator(network, val, train, train_images=3)(network.spec.exit_names)
    classes = len(described.classes)
    for name in network.spec.exit_names:
        assert measured[f"miou:{name}"] == pytest.approx(slow_miou(network, val, name, classes, range(2)), abs=1e-5)
        on_train = slow_miou(network, train, name, classes, (0, 4, 7))  # evenly spaced among eight
        assert measured[f"train_miou:{name}"] == pytest.approx(on_train, abs=1e-5)
    assert {float(row[f"miou:{FINAL}"]) for row in read_history(trained_run)[1:]} == {measured[f"miou:{FINAL}"]}


def test_only_what_is_asked_is_measured(trained_run, scenes):
    network, _ = load_network(trained_run)
    network.train()
    val = open_split(scenes, "val")
    assert list(validator(network, val)([FINAL])) == [f"miou:{FINAL}"]
    assert not network.training
    assert list(validator(network, val, open_split(scenes, "train"))([FINAL])) == [f"miou:{FINAL}"]  # of 0 train images


def test_processes_count_together(trained_run, scenes, monkeypatch):
    network, _ = load_network(trained_run)
    split = open_split(scenes, "train")
    whole = mious(network, split, range(8), [FINAL], World())
    counts = []
    monkeypatch.setattr(World, "sum", lambda _self, tensor: counts.append(tensor.clone()) or tensor)
    for rank in range(3):
        mious(network, split, range(8), [FINAL], World(rank, 3))
    monkeypatch.setattr(World, "sum", lambda _self, _tensor: sum(counts[1:], counts[0]))
    assert mious(network, split, [], [FINAL], World(0, 3)) == whole


def test_scores_that_are_not_finite_are_an_error_and_not_class_0(trained_run, scenes):
    network, _ = load_network(trained_run)
    network.final_head.classify.bias.data[1] = float("inf")
    told = r"the exit final gives class scores that are not finite on .*val, image .* layer final_head\.classify gives infinity"
    with pytest.raises(InputError, match=told):
        validator(network, open_split(scenes, "val"))(network.spec.exit_names)
