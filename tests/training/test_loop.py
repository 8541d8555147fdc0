"""The loop: learning rates, history, state, and what happens to a loss that is no number."""

import copy
import itertools

import pytest
import torch
from safetensors.torch import save_file

from offramp.data.transforms import Crops
from offramp.errors import InputError
from offramp.progress import silent
from offramp.training.loop import (
    HISTORY,
    STATE,
    Phase,
    Run,
    history_csv,
    learning_rate_scale,
    load_state,
    read_history,
    run_phases,
    save_state,
)


def small(bias: bool = True) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1, bias=bias), torch.nn.BatchNorm2d(2))


@pytest.fixture
def start(tmp_path):
    def begin(network: torch.nn.Module | None = None, **options) -> Run:
        defaults = {"seed": 1, "batch_size": 2, "weight_decay": 0.0, "validate_every": 1, "measure": dict, "progress": silent}
        network = small() if network is None else network
        return Run(folder=tmp_path, network=network, device=torch.device("cpu"), **(defaults | options))

    return begin


def phase(run: Run, name: str, epochs: int, *, rate: float = 0.1, loss=None) -> Phase:
    return Phase(
        name=name,
        epochs=epochs,
        groups=[{"params": list(run.network.parameters()), "lr": rate}],
        prepare=run.network.train,
        loss=loss or (lambda batch, _step: run.network(batch[0] / 255).pow(2).mean()),
    )


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


def test_rates_are_scaled_group_by_group(start, split):
    run = start()
    used = []

    def step(self, *_args, **_kwargs):
        used.append([group["lr"] for group in self.param_groups])

    one, two = list(run.network.parameters())[:2], list(run.network.parameters())[2:]
    groups = [{"params": one, "lr": 0.1}, {"params": two, "lr": 0.02}]
    only = Phase("p", 2, groups, run.network.train, lambda batch, _: run.network(batch[0]).pow(2).mean())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        patch.setattr("offramp.training.loop._optimiser_tensors", lambda _: {})
        run_phases(run, [only], Crops(split, 48, 32, (1.0, 1.0), 0))
    scales = [learning_rate_scale(index, 4) for index in range(4)]
    assert used == [pytest.approx([0.1 * scale, 0.02 * scale]) for scale in scales]


# ----------------------------------------------------------------------------------------------------------------- history


def test_history_round_trip(tmp_path):
    history = [
        {"phase": "phase 1", "epoch": 1, "loss": 0.5},
        {"phase": "a, b", "epoch": 2, "loss": 0.25, "miou:x:fcn/c4": 0.125},
    ]
    text = history_csv(history)
    assert text == 'phase,epoch,loss,miou:x:fcn/c4\nphase 1,1,0.5,\n"a, b",2,0.25,0.125\n'
    (tmp_path / HISTORY).write_text(text, encoding="utf-8")
    rows = read_history(tmp_path)
    assert rows == [{key: str(row.get(key, "")) for key in history[1]} for row in history]


def test_validation_keeps_to_its_rhythm(start, split):
    run = start(measure=lambda: {"miou:final": 0.5}, validate_every=2)
    run_phases(run, [phase(run, "first", 3), phase(run, "second", 1)], Crops(split, 48, 32, (1.0, 1.0), 0))
    rows = read_history(run.folder)
    assert [(row["phase"], row["epoch"], row["miou:final"]) for row in rows] == [
        ("first", "1", ""),
        ("first", "2", "0.5"),
        ("first", "3", "0.5"),  # the last of a phase is always measured
        ("second", "1", "0.5"),
    ]


# ------------------------------------------------------------------------------------------------------------------- state


def test_state_round_trip(start, split):
    run = start()
    run_phases(run, [phase(run, "first", 2)], Crops(split, 48, 32, (1.0, 1.0), 0))
    run.phase, run.epoch, run.optimiser = 3, 4, {"0/step": torch.tensor(7.0), "0/exp_avg": torch.randn(2, 3, 1, 1)}
    save_state(run)
    again = start(small())
    load_state(again)
    assert (again.phase, again.epoch, again.history) == (3, 4, run.history)
    assert again.optimiser.keys() == run.optimiser.keys()
    assert all(torch.equal(tensor, run.optimiser[name]) for name, tensor in again.optimiser.items())
    weights = run.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.network.state_dict().items())
    assert len(again.history) == 2
    assert not list(run.folder.glob(".*"))  # nothing temporary remains


def test_the_optimiser_goes_on_where_it_was(start, split):
    """Two epochs at once, and one, a new process's worth of objects, and one: the same weights."""
    crops = Crops(split, 48, 32, (0.8, 1.2), 0)
    begun = small()
    whole = start(copy.deepcopy(begun))
    run_phases(whole, [phase(whole, "only", 2)], crops)

    class KilledError(Exception):
        pass

    def die(_text, done, _total):
        if done == 3:  # two steps an epoch: the first of the second
            raise KilledError

    first = start(copy.deepcopy(begun), progress=die)
    with pytest.raises(KilledError):
        run_phases(first, [phase(first, "only", 2)], crops)
    second = start(small())
    load_state(second)
    assert (second.phase, second.epoch) == (0, 1)
    assert second.optimiser["0/step"].item() == 2
    run_phases(second, [phase(second, "only", 2)], crops)
    weights = whole.network.state_dict()
    assert [name for name, tensor in second.network.state_dict().items() if not torch.equal(tensor, weights[name])] == []
    assert [row["loss"] for row in second.history] == [row["loss"] for row in whole.history]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda _: b"", lambda data: b"\xff" * 8 + data[8:]])
def test_a_damaged_state_is_refused(start, damage):
    run = start()
    save_state(run)
    (run.folder / STATE).write_bytes(damage((run.folder / STATE).read_bytes()))
    with pytest.raises(InputError, match=rf"cannot go on from .*{STATE}: .*start again without --resume"):
        load_state(run)


def test_a_state_of_another_kind_is_refused(start):
    run = start()
    save_file({"a": torch.zeros(1)}, run.folder / STATE)
    with pytest.raises(InputError, match=r"cannot go on from"):
        load_state(run)
    save_state(start(small(bias=False)))
    with pytest.raises(InputError, match=r"cannot go on from"):
        load_state(run)
    (run.folder / STATE).unlink()
    with pytest.raises(InputError, match=r"cannot go on from"):
        load_state(run)


# -------------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(start, split, broken):
    run = start()

    def loss(batch, step):
        return run.network(batch[0] / 255).pow(2).mean() * (broken if step == 3 else 1.0)

    with pytest.raises(InputError, match=rf"the loss became {broken} in first, epoch 2; begin again in another --out"):
        run_phases(run, [phase(run, "first", 3, loss=loss)], Crops(split, 48, 32, (1.0, 1.0), 0))
    again = start(small())
    load_state(again)
    assert again.epoch == 1
    assert all(torch.isfinite(tensor.float()).all() for tensor in again.network.state_dict().values())


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


def test_fewer_images_than_a_batch_still_train(start, split):
    run = start(batch_size=8)
    sizes = []

    def loss(batch, _step):
        sizes.append(len(batch[0]))
        return run.network(batch[0]).pow(2).mean()

    run_phases(run, [phase(run, "p", 2, loss=loss)], Crops(split, 48, 32, (1.0, 1.0), 0))
    assert sizes == [4, 4]
