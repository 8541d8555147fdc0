"""The loop: learning rates, optimisers, batches, and what happens to a loss that is no number."""

import copy
import itertools
import math
import time

import numpy as np
import pytest
import torch

from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.progress import silent
from offramp.training.distributed import World
from offramp.training.loop import (
    Phase,
    Recipe,
    Run,
    _optimiser_tensors,
    _restore_optimiser,
    epoch_batches,
    learning_rate_scale,
    make_optimiser,
    run_phases,
)
from offramp.training.state import load_state, read_history, save_state


def small(bias: bool = True) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1, bias=bias), torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.5))


@pytest.fixture
def start(tmp_path):
    def begin(network: torch.nn.Module | None = None, folder: str = "", measure=lambda _exits: {}, **options) -> Run:
        recipe = {"seed": 1, "batch_size": 2, "weight_decay": 0.0}
        recipe |= {name: options.pop(name) for name in list(options) if name in Recipe.__dataclass_fields__}
        network = small() if network is None else network
        (tmp_path / folder).mkdir(exist_ok=True)
        defaults = {"measure": measure, "save": save_state, "progress": silent}
        return Run(folder=tmp_path / folder, network=network, recipe=Recipe(**recipe), **(defaults | options))

    return begin


def phase(run: Run, name: str, epochs: int, *, rate: float = 0.1, loss=None, **options) -> Phase:
    return Phase(
        name=name,
        epochs=epochs,
        groups=[{"params": list(run.network.parameters()), "lr": rate}],
        prepare=lambda _history: run.network.train(),
        loss=loss or (lambda batch, _step: run.network(batch[0] / 255).pow(2).mean()),
        **options,
    )


@pytest.fixture
def crops(split):
    return Crops(split, 48, 32, (0.8, 1.2), 0)


# ----------------------------------------------------------------------------------------------------------- learning rate


def test_learning_rate_by_hand():
    scales = [learning_rate_scale(step, 200) for step in range(200)]
    assert scales[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])  # 3 % of 200 steps
    assert scales[6] == 1.0
    assert scales[103] == pytest.approx(0.5**0.9)  # half of the 194 steps that remain
    assert scales[199] == pytest.approx((1 / 194) ** 0.9)
    assert all(later < earlier for earlier, later in itertools.pairwise(scales[6:]))


@pytest.mark.parametrize("steps", range(1, 40))
def test_learning_rate_of_short_runs(steps):
    scales = [learning_rate_scale(step, steps) for step in range(steps)]
    assert max(scales) == 1.0
    assert all(0 < scale <= 1 for scale in scales)


def test_cosine_by_hand():
    scales = [learning_rate_scale(step, 210, "cosine", 10 / 210) for step in range(210)]
    assert scales[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert scales[110] == pytest.approx(0.5)
    assert scales[60] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert scales[209] == pytest.approx((1 + math.cos(math.pi * 199 / 200)) / 2)


def test_rates_are_scaled_group_by_group(start, crops, monkeypatch):
    run = start()
    used = []
    one, two = list(run.network.parameters())[:2], list(run.network.parameters())[2:]
    step = torch.optim.AdamW.step

    def note(self, *arguments):
        used.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    groups = [{"params": one, "lr": 0.1}, {"params": two, "lr": 0.02}]
    only = Phase("p", 2, groups, lambda _: run.network.train(), lambda batch, _: run.network(batch[0]).pow(2).mean())
    run_phases(run, [only], crops)
    scales = [learning_rate_scale(index, 4) for index in range(4)]
    assert used == [pytest.approx([0.1 * scale, 0.02 * scale]) for scale in scales]


def test_optimisers_step_as_their_formulas_say():
    for name, expected in (("sgd", 1.0 - 0.1 * (1 + 0.9) * (2.0 + 0.5)), ("adamw", (1.0 - 0.1 * 0.5) - 0.1)):
        weight = torch.nn.Parameter(torch.tensor([1.0]))
        optimiser = make_optimiser(Recipe(optimiser=name, weight_decay=0.5), [{"params": [weight], "lr": 0.1}])
        (2.0 * weight).sum().backward()
        optimiser.step()
        assert weight.item() == pytest.approx(expected, rel=1e-5), name


# -------------------------------------------------------------------------------------------------------------- validation


def test_validation_keeps_to_its_rhythm(start, crops):
    asked = []
    run = start(measure=lambda exits: asked.append(exits) or {"miou:final": 0.5}, validate_every=2)
    first = phase(run, "first", 5, exits=lambda: ("a", "final"), always_measured=(1,))
    run_phases(run, [first, phase(run, "second", 1, exits=lambda: ("b",))], crops)
    assert [(row["phase"], row["epoch"], row["miou:final"]) for row in read_history(run.folder)] == [
        ("first", "1", "0.5"),  # always measured
        ("first", "2", "0.5"),
        ("first", "3", ""),
        ("first", "4", "0.5"),
        ("first", "5", "0.5"),  # the last of a phase is always measured
        ("second", "1", "0.5"),
    ]
    assert asked == [*[("a", "final")] * 4, ("b",)]


def test_an_epoch_is_summed_up_in_a_line(start, crops):
    lines = []
    run = start(measure=lambda _: {"miou:x": 0.25, "miou:final": 0.5, "train_miou:final": 0.9}, said=lines.append)
    run_phases(run, [phase(run, "only", 2)], crops)
    loss = run.history[0]["loss"]
    assert lines[0].startswith(f"only 1/2: loss {loss:.4f}; mIoU on val: x 0.250, final 0.500; ")
    assert " left" in lines[0]
    assert lines[1].startswith("only 2/2: ")
    assert " left" not in lines[1]
    assert all(row["memory_mb"] > 50 for row in run.history)


# --------------------------------------------------------------------------------------------------------------- going on


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("save_every", [600.0, 0.0])
def test_a_run_goes_on_where_it_was_saved(start, crops, monkeypatch, optimiser, save_every):
    """Two epochs at once; or killed in the second, a new process's worth of objects, and the rest: the same weights."""
    monkeypatch.setattr("offramp.training.loop.SAVE_EVERY_S", save_every)
    begun, options = small(), {"optimiser": optimiser, "averaging": 0.9, "batch_size": 1}
    whole = start(copy.deepcopy(begun), "whole", **options)
    run_phases(whole, [phase(whole, "only", 2)], crops)

    def die(_text, done, _total):
        if done == 7:  # four steps an epoch: the third of the second
            raise KilledError

    first = start(copy.deepcopy(begun), "killed", progress=die, **options)
    with pytest.raises(KilledError):
        run_phases(first, [phase(first, "only", 2)], crops)
    second = start(small(), "killed", **options)
    load_state(second)
    assert (second.phase, second.epoch, second.step) == (0, 1, 2 if save_every == 0 else 0)
    torch.rand(3)  # what a process did before must not matter
    run_phases(second, [phase(second, "only", 2)], crops)
    weights = whole.network.state_dict()
    assert [name for name, tensor in second.network.state_dict().items() if not torch.equal(tensor, weights[name])] == []
    assert [row["loss"] for row in second.history] == [row["loss"] for row in whole.history]


def test_the_average_is_measured_and_kept(start, crops):
    measured = []
    run = start(averaging=0.9, measure=lambda _: measured.append(run.network[0].weight.detach().clone()) or {})
    trained = []

    def loss(batch, _step):
        trained.append(run.network[0].weight.detach().clone())
        return run.network(batch[0] / 255).pow(2).mean()

    run_phases(run, [phase(run, "only", 2, loss=loss)], crops)
    assert torch.equal(run.network[0].weight, measured[-1])
    assert not any(torch.equal(measured[0], weight) for weight in trained)  # training went on from its own weights


def test_what_a_phase_ends_with_is_what_the_next_begins_with(start, crops):
    seen = []

    def ended(run):
        with torch.no_grad():
            run.network[0].bias.fill_(7.0)

    def loss(batch, _step):
        seen.append(run.network[0].bias.detach().clone())
        return run.network(batch[0] / 255).pow(2).mean()

    run = start(ended=ended)
    run_phases(run, [phase(run, "one", 1), phase(run, "none", 0), phase(run, "two", 1, rate=0.0, loss=loss)], crops)
    assert all(torch.equal(bias, torch.full((2,), 7.0)) for bias in seen)
    assert [row["phase"] for row in run.history] == ["one", "two"]


# -------------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(start, crops, broken):
    run = start()
    asked = []

    def loss(batch, step):
        asked.append(step)
        return run.network(batch[0] / 255).pow(2).mean() * (broken if step == 2 else 1.0)

    where = r"in first, epoch 2, step 1 of 2, at the learning rate 0\.\d+: every layer gives finite values, but the gradient"
    with pytest.raises(InputError, match=rf"the loss became {broken} {where} .*--resume with a lower --learning-rate"):
        run_phases(run, [phase(run, "first", 3, loss=loss)], crops)
    assert asked == [0, 1, 2], "the step after it is not taken"
    assert all_finite(run.network.state_dict()), "the step itself is not taken"
    again = start(small())
    load_state(again)
    assert again.epoch == 1
    assert all_finite(again.network.state_dict())


def all_finite(tensors):
    return all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())


def test_a_gradient_that_is_no_number_stops_the_run(start, crops):
    run = start()

    def loss(batch, step):
        scores = run.network(batch[0] / 255)
        # The square root's slope at 0 is infinite, and infinity times 0 is NaN; the loss itself is fine.
        return scores.pow(2).mean() + ((scores * 0).pow(2).sum().sqrt() if step == 3 else 0)

    with pytest.raises(InputError, match=r"the gradient became infinite or NaN in p, epoch 2, step 2 .*gradient of 1\.bias"):
        run_phases(run, [phase(run, "p", 3, loss=loss)], crops)
    assert all_finite(run.network.state_dict())


def test_the_layer_that_ran_away_is_named(start, crops):
    run = start(averaging=0.5)

    def loss(batch, step):
        if step == 3:
            with torch.no_grad():
                run.network[1].weight.fill_(3e38)
        return run.network(batch[0]).pow(2).mean()

    told = r"the layer 1 gives infinity from a finite input; its weights are finite; the last saved state is from before"
    with pytest.raises(InputError, match=told):
        run_phases(run, [phase(run, "p", 3, loss=loss)], crops)
    again = start(small(), averaging=0.5)
    load_state(again)
    assert (again.epoch, again.average_steps) == (1, 2)
    assert all_finite(again.network.state_dict())
    assert all_finite(again.average)


def test_statistics_that_ran_away_unseen_by_the_loss_are_not_saved(start, crops):
    run = start()

    def loss(batch, step):
        if step == 3:
            run.network[1].running_var.fill_(float("inf"))  # training itself goes by each batch's own statistics
        return run.network(batch[0] / 255).pow(2).mean()

    told = r"the state . epochs .* hold NaN or infinity in network/1\.running_var \(and 0 more\); the last"
    with pytest.raises(InputError, match=told):
        run_phases(run, [phase(run, "p", 3, loss=loss)], crops)
    again = start(small())
    load_state(again)
    assert again.epoch == 1
    assert all_finite(again.network.state_dict())


# ----------------------------------------------------------------------------------------------------------------- batches


def test_batches_are_all_images_once_an_epoch_in_another_order(start, split):
    run = start(batch_size=2)
    seen = []

    def loss(batch, step):
        seen.append((step, batch[1].flatten(1).sum(dim=1).tolist()))  # the share of light pixels tells the images apart
        return run.network(batch[0]).pow(2).mean()

    run_phases(run, [phase(run, "p", 6, loss=loss)], Crops(split, 48, 32, (1.0, 1.0), 0))
    assert [step for step, _ in seen] == list(range(12))
    light = sorted(int(split.pair(index)[1].sum()) for index in range(4))
    epochs = [seen[2 * epoch][1] + seen[2 * epoch + 1][1] for epoch in range(6)]
    assert all(sorted(epoch) == light for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_epochs_and_phases_have_orders_of_their_own():
    batches = {(phase, epoch): epoch_batches(40, 8, 0, phase, epoch) for phase in range(2) for epoch in range(3)}
    assert all([len(batch) for batch in found] == [8] * 5 for found in batches.values())
    assert all(sorted(itertools.chain(*found)) == list(range(40)) for found in batches.values())
    assert len({str(found) for found in batches.values()}) == 6
    assert epoch_batches(40, 8, 0, 1, 2) == batches[1, 2]
    assert [len(batch) for batch in epoch_batches(43, 8, 0, 0, 0)] == [8] * 5  # the last, smaller one is left out


def test_processes_share_a_batch():
    batch = epoch_batches(40, 8, 0, 0, 0)[0]
    shares = [World(rank, 2).share(batch) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(batch)
    assert [len(share) for share in shares] == [4, 4]


def test_what_cannot_be_shared_is_refused(start, crops):
    run = start(batch_size=3, world=World(0, 2))
    with pytest.raises(InputError, match="a batch of 3 cannot be shared evenly among 2 processes"):
        run_phases(run, [phase(run, "p", 1)], crops)
    with pytest.raises(InputError, match="1 training images cannot be shared among 2 processes"):
        epoch_batches(1, 4, 0, 0, 0, 2)


def test_fewer_images_than_a_batch_still_train(start, split):
    run = start(batch_size=8)
    sizes = []

    def loss(batch, _step):
        sizes.append(len(batch[0]))
        return run.network(batch[0]).pow(2).mean()

    run_phases(run, [phase(run, "p", 2, loss=loss)], Crops(split, 48, 32, (1.0, 1.0), 0))
    assert sizes == [4, 4]
    assert [len(batch) for batch in epoch_batches(7, 8, 0, 0, 0, 2)] == [6]


def test_every_step_draws_anew(start, crops):
    """Dropout: other values at each step, the same in a run that is begun again."""
    drawn = []

    def loss(batch, _step):
        drawn.append(torch.rand(2).tolist())
        return run.network(batch[0] / 255).pow(2).mean()

    for folder in ("a", "b"):
        torch.manual_seed(len(folder) + len(drawn))
        run = start(folder=folder)
        run_phases(run, [phase(run, "p", 2, loss=loss)], crops)
    assert drawn[:4] == drawn[4:]
    assert len(np.unique(np.array(drawn[:4]))) == 8


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_what_an_optimiser_keeps_comes_back_in_the_memory_layout_of_the_weights(optimiser):
    network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    recipe, groups = Recipe(optimiser=optimiser), [{"params": list(network.parameters())}]
    begun, again = make_optimiser(recipe, groups), make_optimiser(recipe, groups)
    network(torch.rand(1, 3, 4, 4)).sum().backward()
    begun.step()
    _restore_optimiser(again, _optimiser_tensors(begun))
    weight = network.weight
    assert weight.stride() != weight.contiguous().stride()  # or there is nothing to see
    for name, value in begun.state[weight].items():
        assert torch.equal(again.state[weight][name], value)
        assert value.dim() == 0 or again.state[weight][name].stride() == weight.stride()


def test_the_state_is_written_as_often_as_it_takes_little_time(start, crops):
    epochs = []

    def slow(run: Run) -> None:
        epochs.append((run.phase, run.epoch))
        time.sleep(0.1)  # so the next one is due in two seconds

    run = start(save=slow)
    run_phases(run, [phase(run, "first", 5), phase(run, "second", 2)], crops)
    assert epochs == [(0, 1), (1, 0), (1, 1), (2, 0)]
    epochs.clear()
    quick = start(save=lambda run: epochs.append((run.phase, run.epoch)))
    run_phases(quick, [phase(quick, "first", 3)], crops)
    assert epochs[:2] == [(0, 1), (0, 2)]
