"""Cases of networks of the user's own that break, and of bad calls of the steps that need torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from api_calls import odd
from harness import Case, Things
from torch import nn

from offramp.export.package import export
from offramp.lowering import lower
from offramp.models.attach import attach_exits
from offramp.models.checkpoint import load_network
from offramp.models.multi_exit import MultiExitNetwork
from offramp.models.survey import survey
from offramp.pruning import prune
from offramp.specs import NetworkChoice, TrainingSpec
from offramp.training.train import train

Output = Callable[[torch.Tensor], object]
CLASSES = 8
HEIGHT, WIDTH = 64, 96


class Net(nn.Module):
    """Class scores at stride 4; `spoil` makes something else of them."""

    def __init__(self, spoil: Output = lambda scores: scores, *, classes: int = CLASSES) -> None:
        """Build it."""
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.c = nn.Conv2d(16, classes, 1)
        self.spoil = spoil

    def forward(self, images: torch.Tensor) -> Any:
        """(N, 3, H, W) to whatever `spoil` gives."""
        return self.spoil(self.c(self.b(self.a(images))))


class TwoInputs(Net):
    """It wants more than images."""

    def forward(self, images: torch.Tensor, depth: torch.Tensor) -> Any:  # type: ignore[override]
        """See `Net`."""
        return super().forward(images + depth)


class OneSize(Net):
    """It takes images of one size alone, and not of this one."""

    def forward(self, images: torch.Tensor) -> Any:
        """See `Net`."""
        if images.shape[2:] != (99, 99):
            raise ValueError("only 99x99 will do")
        return super().forward(images)


class BatchOfTwo(Net):
    """It does not run on one image."""

    def forward(self, images: torch.Tensor) -> Any:
        """See `Net`."""
        if len(images) < 2:
            raise ValueError("needs two images")
        return super().forward(images)


class Twice(Net):
    """It runs one of its modules twice."""

    def forward(self, images: torch.Tensor) -> Any:
        """See `Net`."""
        features = self.b(self.a(images))
        return self.c(features) + self.c(features)


def _fail(error: BaseException) -> Output:
    def spoil(_scores: torch.Tensor) -> object:
        raise error

    return spoil


def _attached(network: Any, num_classes: Any = CLASSES, **options: Any) -> MultiExitNetwork:
    torch.manual_seed(0)
    given: dict[str, Any] = {"input_size": (HEIGHT, WIDTH), "exits": 1, "taps": ["b"]} | options
    return attach_exits(network, num_classes, **given)


def _refused(name: str, call: Callable[[Path, Things], object], *says: str) -> Case:
    return Case(f"api: {name}", lambda work, things: lambda: call(work, things), says=says)


def _broken(name: str, make: Callable[[], Any], *says: str, **options: Any) -> Case:
    return _refused(f"a network that {name}", lambda _work, _things: _attached(make(), **options), *says)


SEVERAL = ("several maps", '["out"]')
WANTED = ("wanted are class scores",)
BROKEN = (
    _broken("gives a dict of its own names", lambda: Net(lambda scores: {"mask": scores}), *SEVERAL),
    _broken("gives an empty dict", lambda: Net(lambda _scores: {}), "gives dict", *WANTED),
    _broken("gives scores and auxiliary ones", lambda: Net(lambda scores: (scores, scores)), *SEVERAL),
    _broken("gives a text", lambda: Net(lambda _scores: "mask"), "gives str", *WANTED),
    _broken("gives None", lambda: Net(lambda _scores: None), "gives NoneType", *WANTED),
    _broken("gives an array", lambda: Net(lambda scores: scores.detach().numpy()), "gives ndarray", *WANTED),
    _broken("gives a generator", lambda: Net(lambda scores: iter([scores])), "gives", *WANTED),
    _broken("gives a dict within a dict", lambda: Net(lambda scores: {"out": {"a": scores}}), "gives dict", *WANTED),
    _broken("gives classes, not scores", lambda: Net(lambda scores: scores.argmax(1)), "int64", "floating-point"),
    _broken("gives complex numbers", lambda: Net(lambda scores: torch.complex(scores, scores)), "complex64", "floating-point"),
    _broken("gives true and false", lambda: Net(lambda scores: scores > 0), "bool", "floating-point"),
    _broken("gives NaN", lambda: Net(lambda scores: scores * float("nan")), "NaN", "mend it"),
    _broken("gives one vector", lambda: Net(lambda scores: scores.mean((2, 3))), "(1, 8)", *WANTED),
    _broken("gives five dimensions", lambda: Net(lambda scores: scores[None]), "(1, 1, 8, 16, 24)", *WANTED),
    _broken("loses the batch", lambda: Net(lambda scores: scores[0]), "(8, 16, 24)", *WANTED),
    _broken(
        "gives two answers for an image", lambda: Net(lambda scores: torch.cat([scores, scores])), "(2, 8, 16, 24)", *WANTED
    ),
    _broken("cuts its map's edges off", lambda: Net(lambda scores: scores[..., 1:-1, 1:-1]), "(1, 8, 14, 22)", *WANTED),
    _broken("gives too few channels", lambda: Net(classes=5), "5 channels for num_classes=8", "num_classes=5"),
    _broken("raises", lambda: Net(_fail(ValueError("mine"))), "does not run", "ValueError: mine"),
    _broken("ends the process", lambda: Net(_fail(SystemExit(3))), "does not run", "SystemExit: 3"),
    _broken("wants two inputs", TwoInputs, "does not run", "depth"),
    _broken("takes another size alone", OneSize, "does not run on 96x64 images", "only 99x99 will do"),
    _broken("needs a batch of two", BatchOfTwo, "does not run", "needs two images"),
    _broken("takes four channels", lambda: nn.Sequential(nn.Conv2d(4, 8, 1)), "does not run", "4 channels"),
    _broken("has no forward", lambda: nn.ModuleList([nn.Conv2d(3, 8, 1)]), "does not run", "forward"),
    _broken("is in float16", lambda: Net().half(), "float16", ".float()"),
    _broken("is in float64", lambda: Net().double(), "float64", ".float()"),
    _broken("has no values", lambda: Net().to("meta"), "no values", "meta"),
    _broken("runs its tap twice", Twice, "'c'", "runs 2 times", taps=["c"]),
    _broken("is None", lambda: None, "network must be Module", "None"),
    _broken("is a class", lambda: Net, "network must be Module", "the class Net"),
    _broken("is a name", lambda: "resnet18", "network must be Module", "'resnet18'"),
    _broken("is a function", lambda: torch.relu, "network must be Module"),
)

# --------------------------------------------------------------------------------------------------------------- arguments


def _attach(name: str, *says: str, **options: Any) -> Case:
    return _refused(f"attach_exits, {name}", lambda _work, _things: _attached(Net(), **options), *says)


ARGUMENTS = (
    _attach("classes as text", "num_classes", "whole number", "'8'", num_classes="8"),
    _attach("one class", "num_classes", "2 to 255", num_classes=1),
    _attach("size as text", "input_size must be 2 whole numbers", input_size="64x96"),
    _attach("size 0", "input_size", "16 to 8192", input_size=(0, 0)),
    _attach("a huge size", "input_size", "16 to 8192", input_size=(10**6, 10**6)),
    _attach("half a pixel", "input_size", "whole number", input_size=(64.5, 96)),
    _attach("exits -1", "exits must be 0 or more", "-1", exits=-1, taps=None),
    _attach("exits 1.5", "exits must be a whole number", exits=1.5, taps=None),
    _attach("99 exits", "99 exits asked for", "only 1 points", exits=99, taps=None),
    _attach("taps as text", "taps must be a list", "['b']", taps="b"),
    _attach("an unknown tap", "no module 'z'", "near it", taps=["z"]),
    _attach("a module as a tap", "taps must be names", "ReLU", taps=[nn.ReLU()]),
    _attach("a tap twice", "named twice", taps=["b", "b"]),
    _attach("no head", "no head is given", heads=[]),
    _attach("a number as heads", "heads must be texts", "int", heads=3),
    _attach("a module as heads", "heads must be texts", "Conv2d", heads=nn.Conv2d(16, 8, 1)),
    _attach("lists of heads", "a head must be a text", "list", heads=[["fcn"]]),
    _attach("heads of another tap", "heads are given for z", "taps are b", heads={"z": "fcn"}),
    _attach("an unknown head", "not a head: 'unet'", heads="unet"),
    _attach("a number as final head", "final_head must be", "3", final_head=3),
    _attach("means of 0 to 255", "mean", "123", "divide", mean=(123.0, 117.0, 104.0)),
    _attach("one mean", "mean must be three numbers", mean=(0.5,)),
    _attach("a mean of NaN", "mean must be three numbers", "nan", mean=(float("nan"),) * 3),
    _attach("a deviation of 0", "std must be three numbers above 0", std=(0.2, 0.0, 0.2)),
    _attach("a negative deviation", "std must be three numbers above 0", std=(-1.0, 1.0, 1.0)),
)


def _forward(name: str, images: Any, *says: str, **options: Any) -> Case:
    return _refused(f"forward, {name}", lambda _work, _things: _attached(Net())(images, **options), *says)


def _detached(_work: Path, _things: Things) -> object:
    network = _attached(Net())
    network.detach()
    return network(torch.zeros(1, 3, HEIGHT, WIDTH))


IMAGES = torch.zeros(1, 3, HEIGHT, WIDTH)
FORWARDS = (
    _forward("None", None, "images must be a tensor", "NoneType"),
    _forward("an array", IMAGES.numpy(), "images must be a tensor", "ndarray"),
    _forward("channels last", IMAGES.permute(0, 2, 3, 1), "(N, 3, H, W)", "(1, 64, 96, 3)"),
    _forward("no batch", IMAGES[0], "(N, 3, H, W)", "(3, 64, 96)"),
    _forward("an unknown exit", IMAGES, "exits are a list of names", "nope", exits=["nope"]),
    _forward("an exit as text", IMAGES, "exits are a list of names", "final", exits="final"),
    _refused("forward after detach", _detached, "detached", "attach them again"),
)

# ------------------------------------------------------------------------------------------------------------ right answers


def _right(name: str, call: Callable[[], object]) -> Case:
    return Case(f"api: {name}", lambda _work, _things: call, right=lambda _work, got: got is True)


def _same_network() -> object:
    """Whatever is attached, the final exit's answer is the network's own, bit for bit, and so is the network afterwards."""
    network, images = Net().eval(), torch.rand(2, 3, HEIGHT, WIDTH) * 255
    names = list(network.state_dict())
    attached = _attached(network, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]).eval()
    with torch.no_grad():
        own = network((images / 255 - 0.5) / 0.25)
        same = torch.equal(attached(images)["final"], own)
    return same and attached.detach() is network and list(network.state_dict()) == names


def _twice_attached() -> object:
    """Two wrappers of one network do not disturb each other."""
    network = Net()
    one, other = _attached(network).eval(), _attached(network).eval()
    other.load_state_dict(one.state_dict())
    images = torch.rand(1, 3, HEIGHT, WIDTH) * 255
    with torch.no_grad():
        return all(torch.equal(one(images)[name], other(images)[name]) for name in one.spec.exit_names)


def _lazy() -> object:
    """Modules that are made in their first run."""
    network = nn.Sequential(nn.LazyConv2d(8, 3, stride=4, padding=1), nn.ReLU(), nn.LazyConv2d(CLASSES, 1))
    return tuple(_attached(network, taps=["0"])(IMAGES)["final"].shape) == (1, CLASSES, 16, 24)


def _without_parameters() -> object:
    """Nothing to learn but the heads."""
    attached = _attached(nn.Sequential(nn.AvgPool2d(4), nn.Identity()), 3, taps=["0"]).eval()
    images = torch.rand(1, 3, HEIGHT, WIDTH) * 255
    normalised = (images / 255 - attached.mean) / attached.std
    return torch.allclose(attached(images)["final"], nn.functional.avg_pool2d(normalised, 4), atol=1e-6)


def _sigmoid() -> object:
    """One channel is two classes of the same probabilities."""
    network, images = Net(classes=1).eval(), torch.rand(1, 3, HEIGHT, WIDTH) * 255
    attached = _attached(network, 2).eval()
    with torch.no_grad():
        own = network((images / 255 - attached.mean) / attached.std).sigmoid()[:, 0]
        return torch.allclose(attached(images)["final"].softmax(1)[:, 1], own, atol=1e-6)


RIGHT = (
    _right("the final exit is the network's own answer", _same_network),
    _right("exits attached twice to one network", _twice_attached),
    _right("a network with lazy modules", _lazy),
    _right("a network without parameters", _without_parameters),
    _right("a network with one channel for two classes", _sigmoid),
)

# ------------------------------------------------------------------------------------------------------------------- steps

SHORT = TrainingSpec(epochs=1, exit_epochs=0, crop=(32, 32), batch_size=4)
ANY = odd(None)


def _train(name: str, *says: str, **options: Any) -> Case:
    given: dict[str, Any] = {"network": "test_efficientnet", "exits": 1, "training": SHORT} | options
    return _refused(f"train, {name}", lambda work, things: train(things.data, work / "run", **given), *says)


def _export(name: str, *says: str, **options: Any) -> Case:
    return _refused(f"export, {name}", lambda work, things: export(things.run, work / "package", **options), *says)


def _lower(name: str, *says: str, precision: Any = "int8", **options: Any) -> Case:
    return _refused(
        f"lower, {name}", lambda work, things: lower(things.package, work / "package", precision, things.data, **options), *says
    )


SURVEYED = NetworkChoice(network="test_efficientnet", exits=1)
STEPS = (
    _refused("train on None", lambda work, _things: train(ANY, work / "run"), "data must be a path", "None"),
    _train("a misspelt option", "netwrok", "'x'", netwrok="x"),
    _train("a dict for the training", "training must be TrainingSpec", "dict", training={"epochs": 1}),
    _train("heads as text", "heads", "'fcn'", heads="fcn"),
    _train("exits in words", "exits", "'two'", exits="two"),
    _train("a module as network", "network", network=nn.Conv2d(3, 8, 1)),
    _train("a plan as text", "planned must be NetworkSpec", planned="x"),
    _train(
        "a learning rate of 1e30",
        "loss became nan",
        "lower --learning-rate",
        training=SHORT.model_copy(update={"learning_rate": 1e30, "exit_epochs": 1}),
    ),
    _export("size as text", "size must be 2 whole numbers", "'96x64'", size="96x64"),
    _export("size 0", "size", "16 to 8192", size=(0, 0)),
    _export("a negative size", "size", "16 to 8192", size=(-96, 64)),
    _export("a huge size", "size", "16 to 8192", size=(100_000, 100_000)),
    _export("label stride 3", "unknown label stride 3", "1, 2, 4, 8", label_stride=3),
    _export("groups as text", "groups must be a list", groups="road+pavement=ground"),
    _export("an unknown confidence", "unknown confidence 'best'", "top1", confidence="best"),
    _export("a class as network", "network must be Module or str", "the class Linear", network=nn.Linear),
    _export("another network", "no module 'blocks.1.0'", network=nn.Conv2d(3, 8, 1)),
    _refused("load_network of None", lambda _work, _things: load_network(ANY), "run must be a path"),
    _refused(
        "prune, keep as text", lambda work, t: prune(t.run, t.data, work / "p", keep=odd("0.5")), "keep", "number", "'0.5'"
    ),
    _refused("prune, a misspelt option", lambda work, t: prune(t.run, t.data, work / "p", epoch=3), "epoch", "3"),
    _refused(
        "prune to nothing",
        lambda work, t: prune(t.run, t.data, work / "p", keep=1e-9, epochs=0, exit_epochs=0),
        "cannot keep as little as 1e-09",
    ),
    _lower("to nothing", "unknown precision None", precision=None),
    _lower("to fp32", "int8, bf16 or fp16", "fp32", precision="fp32"),
    _lower("by no image", "1 image or more", "0", images=0),
    _lower("a drop of NaN", "max-drop-pp 0 to 100", "nan", max_drop_pp=float("nan")),
    _lower("exits as text", "exits must be a list", "['final']", exits="final"),
    _refused("survey at size 0", lambda _work, _things: survey(SURVEYED, 8, size=(0, 0)), "size", "16 to 8192"),
    _refused(
        "survey without passes", lambda _work, _things: survey(SURVEYED, 8, size=(96, 64), passes=0), "passes", "at least 1"
    ),
)

CASES: tuple[Case, ...] = (*BROKEN, *ARGUMENTS, *FORWARDS, *RIGHT, *STEPS)
