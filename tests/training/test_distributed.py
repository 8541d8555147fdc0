"""Several processes against one: real ones, over gloo, on the loopback."""

import csv
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from offramp.errors import InputError
from offramp.models.checkpoint import WEIGHTS
from offramp.training.distributed import World, is_first, joined_world
from offramp.training.state import HISTORY


def torchrun(arguments, processes=2, timeout=200):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


BATCH_NORM = textwrap.dedent(
    """
    import sys
    import torch
    from safetensors.torch import save_file
    from offramp.training.distributed import SynchronisedBatchNorm, joined_world

    out = sys.argv[1]
    with joined_world() as world:
        torch.manual_seed(0)
        images, wanted = torch.randn(6, 3, 4, 5) + 7, torch.randn(6, 2, 4, 5)
        network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2, affine=False))
        torch.nn.init.normal_(network[0].weight)
        mine = slice(0, 2) if world.rank == 0 else slice(2, 6)  # shares need not be equal
        images = images[mine] if world.size > 1 else images
        wanted = wanted[mine] if world.size > 1 else wanted
        images.requires_grad_()
        for _ in range(2):
            if world.size > 1:
                with SynchronisedBatchNorm():
                    answer = network(images)
            else:
                answer = network(images)
        ((answer - wanted) ** 2).sum().backward()
        gradients = {name: world.sum(parameter.grad) for name, parameter in network.named_parameters()}
        found = {**network.state_dict(), **{f"grad.{name}": grad for name, grad in gradients.items()}}
        network.eval()
        with SynchronisedBatchNorm():
            found["eval"] = network(torch.ones(1, 3, 4, 5)).detach()
        found |= {"answer": answer.detach().contiguous(), "images": images.grad}
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{out}/{world.size}-{world.rank}")
    """
)


def test_batch_norm_over_all_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BATCH_NORM, encoding="utf-8")
    for processes in (1, 2):
        done = torchrun([str(script), str(tmp_path)], processes)
        assert done.returncode == 0, done.stderr
    one, first, second = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    for name in ("answer", "images"):
        both = torch.cat([first[name], second[name]])
        assert torch.allclose(both, one[name], atol=1e-5), name
    for name in one.keys() - {"answer", "images"}:
        assert torch.allclose(first[name], one[name], atol=1e-4), name
        assert torch.allclose(second[name], one[name], atol=1e-4), name


def run_train(scenes, out, processes, *options):
    arguments = ["-m", "offramp", "train", scenes, "--out", out, "--network", "test_efficientnet", "--exits", 2]
    arguments += ["--epochs", 3, "--exit-epochs", 2, "--crop", "64x48", "--batch-size", 4, "--json", *options]
    return torchrun([str(argument) for argument in arguments], processes)


@pytest.fixture(scope="module")
def runs(scenes, tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        # A gentle rate: after a few steps of a steep one, rounding alone would drive the two apart.
        options = ("--sync-batch-norm", "--learning-rate", 1e-4)
        found[name] = root / name, run_train(scenes, root / name, processes, *options)
        assert found[name][1].returncode == 0, found[name][1].stderr
    return found


def history(folder):
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_have_the_loss_curve_of_one(runs):
    one, two = (history(runs[name][0]) for name in ("one", "two"))
    assert [(row["phase"], row["epoch"]) for row in one] == [(row["phase"], row["epoch"]) for row in two]
    assert len(one) == 5
    losses = [[float(row["loss"]) for row in rows] for rows in (one, two)]
    # Dropout draws other masks in each process; everything else is the same up to rounding.
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_one_process_writes_and_speaks(runs):
    folder, done = runs["two"]
    assert done.stdout.count('{"run"') == 1
    assert (folder / WEIGHTS).exists()
    assert not list(folder.glob(".*"))
    one, two = (load_file(runs[name][0] / WEIGHTS) for name in ("one", "two"))
    assert one.keys() == two.keys()


def test_the_first_process_says_what_is_wrong_and_nobody_waits(scenes, tmp_path):
    done = run_train(scenes, tmp_path / "run", 2, "--from", "no.such.run")
    assert done.returncode != 0
    assert "no.such.run" in done.stderr
    assert "the first process could not go on; its message says why" in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr.split("torch/distributed")[0]


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined_world() as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        tensor = torch.tensor([1.0])
        assert world.sum(tensor) is tensor
        assert world.mean(tensor) is tensor
        assert world.share([3, 1, 2]) == [3, 1, 2]
    assert is_first()
    monkeypatch.setenv("RANK", "1")
    assert not is_first()


def test_work_by_the_first_alone():
    done = []
    World().by_first(lambda: done.append(1))
    assert done == [1]

    def fail():
        raise InputError("no")

    with pytest.raises(InputError, match=r"^no$"):
        World().by_first(fail)
