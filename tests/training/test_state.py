"""What a run leaves on disk: read back as it was, or refused."""

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from offramp.errors import InputError
from offramp.training.loop import Recipe, Run
from offramp.training.state import (
    BEST,
    BOARD,
    HISTORY,
    STATE,
    Board,
    history_csv,
    keep_best,
    load_best,
    load_state,
    read_history,
    save_state,
)


def small(bias: bool = True) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1, bias=bias), torch.nn.BatchNorm2d(2))


@pytest.fixture
def start(tmp_path):
    def begin(network: torch.nn.Module | None = None) -> Run:
        network = small() if network is None else network
        return Run(folder=tmp_path, network=network, recipe=Recipe(), measure=lambda _: {}, save=save_state)

    return begin


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


def test_state_round_trip(start):
    run = start()
    run.phase, run.epoch, run.step, run.best, run.loss_so_far, run.average_steps = 3, 4, 5, 0.625, 1.75, 9
    run.optimiser = {"0/step": torch.tensor(7.0), "0/exp_avg": torch.randn(2, 3, 1, 1)}
    run.average = {name: torch.randn_like(tensor.float()) for name, tensor in run.network.state_dict().items()}
    run.history = [{"phase": "p", "epoch": 1, "loss": 0.5}]
    save_state(run)
    again = start(small())
    load_state(again)
    assert (again.phase, again.epoch, again.step, again.best, again.loss_so_far, again.average_steps) == (
        3,
        4,
        5,
        0.625,
        1.75,
        9,
    )
    assert again.history == run.history
    for saved, loaded in (
        (run.optimiser, again.optimiser),
        (run.average, again.average),
        (run.network.state_dict(), again.network.state_dict()),
    ):
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.items())
    assert not list(run.folder.glob(".*"))  # nothing temporary remains


def test_before_the_first_epoch_there_is_no_history(start):
    save_state(start())
    assert not (start().folder / HISTORY).exists()


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


def test_the_best_weights_are_kept(start):
    run = start()
    load_best(run)  # nothing was measured yet: nothing happens
    kept = None
    for first, second, better in ((0.2, 0.4, True), (0.1, 0.4, False), (0.3, 0.3, False), (0.5, 0.2, True)):
        with torch.no_grad():
            run.network[0].weight.normal_()
        keep_best(run, {"miou:a": first, "miou:final": second, "train_miou:a": 1.0 - first})
        kept = copy.deepcopy(run.network.state_dict()) if better else kept
        held = load_file(run.folder / BEST)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in held.items())
    assert run.best == pytest.approx(0.35)
    with torch.no_grad():
        run.network[0].weight.zero_()
    load_best(run)
    assert torch.equal(run.network[0].weight, kept["0.weight"])
    (run.folder / BEST).write_bytes(b"none")
    with pytest.raises(InputError, match=rf"cannot read the weights .*{BEST}"):
        load_best(run)


@pytest.mark.parametrize("part", ["network", "optimiser", "average"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_saved_nor_gone_on_from(start, part, value):
    run = start()
    run.optimiser = {"0/exp_avg": torch.ones(2)}
    run.average = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    save_state(run)
    sound = (run.folder / STATE).read_bytes()
    spoilt = {"network": run.network[1].running_mean, "optimiser": run.optimiser["0/exp_avg"], "average": run.average["0.bias"]}
    spoilt[part].data[1] = value
    with pytest.raises(InputError, match=rf"hold NaN or infinity in {part}/.*the last saved state is from before"):
        save_state(run)
    assert (run.folder / STATE).read_bytes() == sound
    tensors = load_file(run.folder / STATE)
    tensors["network/0.bias"][0] = value
    with safe_open(run.folder / STATE, framework="pt") as file:
        place = file.metadata()
    save_file(tensors, run.folder / STATE, metadata=place)
    with pytest.raises(InputError, match=r"the tensors of .*last\.safetensors hold NaN or infinity in network/0\.bias"):
        load_state(start(small()))


def test_the_best_weights_are_finite(start):
    run = start()
    keep_best(run, {"miou:a": 0.5})
    sound = (run.folder / BEST).read_bytes()
    run.network[1].running_var[0] = float("nan")
    with pytest.raises(InputError, match=r"weights for .*best\.safetensors hold NaN or infinity in 1\.running_var"):
        keep_best(run, {"miou:a": 0.6})
    assert (run.folder / BEST).read_bytes() == sound


def test_tensorboard_reads_what_is_written(tmp_path):
    rows = [{"phase": "p", "epoch": epoch, "loss": 1.0 / epoch, "miou:final": 0.25 * epoch} for epoch in (1, 2, 3)]
    board = Board(tmp_path, 0)
    for epochs, row in enumerate(rows, 1):
        board.write(row, epochs)
    board.close()
    board = Board(tmp_path, 2)  # killed before the third epoch was saved, and begun again
    board.write({**rows[2], "miou:final": 0.5}, 3)
    board.close()
    events = EventAccumulator(str(tmp_path / BOARD))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "miou/final"}
    assert [(event.step, event.value) for event in events.Scalars("miou/final")] == [(1, 0.25), (2, 0.5), (3, 0.5)]
