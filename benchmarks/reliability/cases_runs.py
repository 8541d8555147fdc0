"""Cases of bad runs: network.json, run.json, weights, states, histories, what prune leaves, and plans of sweeps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import spoiling
from harness import Case, Things, copied
from spoiling import Edit, drop, edited, put

Words = Sequence[object] | Callable[[], object]
Verb = Callable[[Path, Path, Things], Words]
"""From a run, the case's folder and the things to what meets the run."""
Spoil = Callable[[Path], object]

EXPORT: Verb = lambda run, work, _things: ("export", run, "--out", work / "out")  # noqa: E731
RESUME: Verb = lambda run, _work, things: ("train", things.data, "--out", run, "--resume")  # noqa: E731
FROM: Verb = lambda run, work, things: (  # noqa: E731
    *("train", things.data, "--out", work / "next", "--from", run, "--network", "test_efficientnet"),
    *("--exits", 2, "--epochs", 0, "--exit-epochs", 1, "--crop", "96x64"),
)
REPORT: Verb = lambda run, work, _things: ("report", run, "--out", work / "page.html")  # noqa: E731
PRUNE: Verb = lambda run, work, things: (  # noqa: E731
    *("prune", run, things.data, "--out", work / "pruned", "--epochs", 0, "--exit-epochs", 0),
)
VERBS = {"export": EXPORT, "train --resume": RESUME, "train --from": FROM, "report": REPORT, "prune": PRUNE}


def _case(kind: str, what: str, verb: str, spoil: Spoil, says: tuple[str, ...]) -> Case:
    def prepare(work: Path, things: Things) -> Words:
        run = copied(things.run, work)
        spoil(run)
        return VERBS[verb](run, work, things)

    return Case(f"{kind}: {what}, {verb}", prepare, says=says)


def _cases(kind: str, file: str, table: Mapping[str, tuple[Callable[[Path], object], str]], verbs: Sequence[str]) -> list[Case]:
    """Each malformation of a file of a run, met by those that read it in turn."""

    def spoil(how: Callable[[Path], object]) -> Spoil:
        return lambda run: how(run / file)

    return [
        _case(kind, what, verbs[number % len(verbs)], spoil(how), (file, word))
        for number, (what, (how, word)) in enumerate(table.items())
    ]


def _edits(table: Mapping[str, tuple[Edit, str]]) -> dict[str, tuple[Callable[[Path], object], str]]:
    def spoil(edit: Edit) -> Callable[[Path], object]:
        return lambda path: edited(path, edit)

    return {what: (spoil(edit), word) for what, (edit, word) in table.items()}


def _json(word_of_version: str) -> dict[str, tuple[Callable[[Path], object], str]]:
    """For files without an artifact's door, which names the field alone."""
    said = {
        "of an older version": "format",
        "with a flipped byte in a string": "kind",
        "with a flipped byte in a key": "fnrmat",
        "without its kind": "",
        "a list": "",
        "a bare null": "",
        "whose version is text": word_of_version,
    }
    skipped = {"missing", "without its kind"}
    return {what: (how, said.get(what, word)) for what, (how, word) in spoiling.JSON.items() if what not in skipped}


NETWORK = _edits(
    {
        "another number of classes": (put("network.num_classes", 5), "5 classes"),
        "a class less": (lambda raw: raw["classes"].pop(), "names"),
        "a colour less": (lambda raw: raw["palette"].pop(), "colours"),
        "a colour of 300": (put("palette.0.0", 300), "palette.0.0"),
        "an object class that is not there": (put("object_classes", [200]), "object_classes"),
        "a spread of zero": (put("network.std", [0, 1, 1]), "std"),
        "a mean of two numbers": (put("network.mean", [0, 1]), "mean"),
        "a size of zero": (put("size", [0, 0]), "size"),
        "an input of a million pixels a side": (put("network.input_size", [1000000, 16]), "input_size"),
        "300 classes": (put("network.num_classes", 300), "num_classes"),
        "a multiple of 0": (put("network.multiple", 0), "multiple"),
        "an output stride of 5": (put("network.output_stride", 5), "output_stride"),
        "a head of a million channels": (put("network.exits.0.head.channels", 10**6), "channels"),
        "an unknown head": (put("network.exits.0.head.kind", "hydra"), "kind"),
        "two exits alike": (lambda raw: raw["network"]["exits"].__setitem__(1, raw["network"]["exits"][0]), "same tap"),
        "an exit without a tap": (drop("network.exits.0.tap"), "tap"),
        "widths that are a list": (put("network.widths", [1]), "widths"),
        "a width of zero": (put("network.widths", {"conv_stem": [3, 0]}), "widths"),
    }
)
SOURCES: dict[str, tuple[str, str]] = {
    "from the Hub": ("timm:hf-hub:stranger/network", "not a network"),
    "from the Hub in other letters": ("hf-hub:stranger/network", "no source of networks"),
    "from an address": ("https://example.org/network.py", "no source of networks"),
    "from a folder above": ("timm:../../network", "not a network"),
    "that is no class for segmentation": ("transformers:pipeline", "no class of transformers"),
    "of a private name": ("torchvision:__import__", "torchvision"),
    "of no name": ("", "not a network"),
    "of another library": ("mmseg:upernet", "no source of networks"),
    "that timm does not have": ("timm:nothing_of_that_name", "timm has no network"),
    "that came as an object": ("object:stranger.Network", "object"),
    "of other taps": ("timm:test_vit", ""),
}
RUN = _edits(
    {
        "negative epochs": (put("training.epochs", -1), "epochs"),
        "a rate of zero": (put("training.learning_rate", 0), "learning_rate"),
        "an unknown scheme": (put("training.scheme", "luck"), "scheme"),
        "a crop of zero": (put("training.crop", [0, 0]), "crop"),
        "65 exits": (put("choice.exits", 65), "exits"),
        "a network that is a number": (put("network", 3), "network"),
        "no fingerprint": (drop("data_fingerprint"), "data_fingerprint"),
    }
)


def _tensors(change: Callable[[dict[str, Any]], object], *, name: str = "weights.safetensors") -> Spoil:
    """A safetensors file with other tensors."""

    def spoil(run: Path) -> None:
        from safetensors import safe_open  # noqa: PLC0415 - torch takes seconds
        from safetensors.torch import save_file  # noqa: PLC0415

        with safe_open(run / name, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        change(tensors)
        save_file(tensors, run / name, metadata=metadata)

    return spoil


def _header(header: bytes, size: int | None = None) -> Callable[[Path], object]:
    """A safetensors file that begins like this."""
    return lambda path: path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header)


def _first(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], object]:
    """One tensor of floats changed."""

    def edit(tensors: dict[str, Any]) -> None:
        name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
        tensors[name] = change(tensors[name])

    return edit


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{what: found for what, found in spoiling.FILE.items() if what not in {"missing", "a hundred megabytes"}},
    "a header of 2^60 bytes": (_header(b"{}", 1 << 60), "header"),
    "a header that ends too early": (_header(b"{}", 100), "header"),
    "a header that is no JSON": (_header(b"{{"), "header"),
    "a header in UTF-16": (_header('{"a":1}'.encode("utf-16")), "header"),
    "a header of a list": (_header(b"[]"), "header"),
    "a tensor of 2^60 bytes": (_header(b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}'), ""),
    "a tensor with a negative side": (_header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'), "header"),
    "a tensor outside the file": (_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[400,404]}}'), ""),
    "a tensor of an unknown type": (_header(b'{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}'), "header"),
    "a flipped byte in its header": (lambda path: spoiling.flipped(path, 0.002), ""),
    "a header nested 10,000 deep": (_header(b'{"a":' * 10_000), "header"),
}
TENSORS: dict[str, tuple[Spoil, str]] = {
    "a tensor missing": (_tensors(lambda tensors: tensors.pop(next(iter(tensors)))), "missing"),
    "a tensor too many": (_tensors(lambda tensors: tensors.update(more=next(iter(tensors.values())).clone())), "more"),
    "a tensor of another shape": (_tensors(_first(lambda tensor: tensor[:1].clone())), "size mismatch"),
    "a NaN": (_tensors(_first(lambda tensor: tensor * float("nan"))), "nan"),
    "an infinity": (_tensors(_first(lambda tensor: tensor + float("inf"))), "infinity"),
    "no tensors": (_tensors(lambda tensors: tensors.clear()), "missing"),
}


def _place(edit: Edit) -> Spoil:
    """A state that says something else beside its tensors."""

    def spoil(run: Path) -> None:
        from safetensors import safe_open  # noqa: PLC0415 - torch takes seconds
        from safetensors.torch import save_file  # noqa: PLC0415

        path = run / "last.safetensors"
        with safe_open(path, framework="pt") as file:
            place = json.loads(file.metadata()["place"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        edit(place)
        save_file(tensors, path, metadata={"place": json.dumps(place)})

    return spoil


def _unfinished(spoil: Spoil) -> Spoil:
    """A run without weights, whose state is spoilt."""

    def both(run: Path) -> None:
        (run / "weights.safetensors").unlink()
        spoil(run)

    return both


STATE: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda run: (run / "last.safetensors").unlink(), ""),
    "empty": (lambda run: (run / "last.safetensors").write_bytes(b""), ""),
    "a folder": (lambda run: spoiling.as_folder(run / "last.safetensors"), "no ordinary file"),
    "cut in half": (lambda run: spoiling.cut(run / "last.safetensors", 0.5), ""),
    "a header of 2^60 bytes": (lambda run: _header(b"{}", 1 << 60)(run / "last.safetensors"), "header"),
    "the weights in its place": (lambda run: shutil.copy(run / "best.safetensors", run / "last.safetensors"), "place"),
    "a negative epoch": (_place(put("epoch", -1)), "epoch"),
    "a phase that is text": (_place(put("phase", "first")), "phase"),
    "no step": (_place(drop("step")), "step"),
    "a history that is text": (_place(put("history", "long")), "history"),
    "an unknown key": (_place(put("mood", 1)), "mood"),
    "a tensor of an unknown part": (
        _tensors(lambda tensors: tensors.update({"luck/a": next(iter(tensors.values())).clone()}), name="last.safetensors"),
        "luck",
    ),
    "a tensor missing": (
        _tensors(
            lambda tensors: tensors.pop(next(name for name in tensors if name.startswith("network"))), name="last.safetensors"
        ),
        "missing",
    ),
}
HISTORY: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), ""),
    "its head alone": (lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"), "no epoch"),
    "bytes that are no text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), ""),
    "null bytes": (lambda path: path.write_bytes(path.read_bytes() + bytes(9) + b"\n"), ""),
    "a field of a megabyte": (lambda path: path.write_text(path.read_text() + '"' + "9" * 1_000_000), ""),
    "a figure that is text": (lambda path: path.write_text(path.read_text().replace("0.", "fast.")), "fast"),
    "a row that is too short": (lambda path: path.write_text(path.read_text() + "phase 1,1\n"), ""),
}


def _pruned(edit: Edit) -> Callable[[Path, Things], Words]:
    """What prune left, spoilt, and gone on with."""

    def prepare(work: Path, things: Things) -> Words:
        out = work / "out"
        (out / "pruned").mkdir(parents=True)
        part = {"backbone": {"macs": 100, "parameters": 10}}
        record = {
            "kind": "pruning",
            "format": 1,
            "keep": 0.5,
            "run_sha256": "0" * 64,
            "images": 2,
            "data_fingerprint": "0" * 64,
            "before": part,
            "after": part,
        }
        (out / "pruned" / "pruning.json").write_text(json.dumps(record))
        edited(out / "pruned" / "pruning.json", edit)
        shutil.copy(things.run / "run.json", out / "run.json")
        words = ("prune", things.run, things.data, "--out", out, "--resume")
        return (*words, "--keep", 0.5)

    return prepare


PRUNED: dict[str, tuple[Edit, str]] = {
    "nothing kept": (put("keep", 0), "keep"),
    "all kept": (put("keep", 1), "keep"),
    "another share than asked": (put("keep", 0.4), "keep"),
    "another run's": (put("run_sha256", "1" * 64), "another run"),
    "no costs": (put("before", {}), "same parts"),
    "other parts after than before": (put("after", {"head": {"macs": 1, "parameters": 1}}), "same parts"),
    "negative costs": (put("before", {"backbone": {"macs": -1, "parameters": 1}}), "macs"),
    "a newer version": (put("format", 9), "format"),
    "an unknown key": (put("luck", 1), "luck"),
}


def _plan(text: str | bytes) -> Callable[[Path, Things], Words]:
    def prepare(work: Path, things: Things) -> Words:
        path = work / "plan.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ("sweep", path, things.data, "--out", work / "sweep")

    return prepare


LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
PLANS: dict[str, tuple[str | bytes, str]] = {
    "a tag that runs a command": ("networks: !!python/object/apply:os.system ['touch executed']\n", "no yaml"),
    "a tag that makes an object": ("networks: !!python/object:os.PathLike {}\n", "no yaml"),
    "aliases that grow to 9^39": (LAUGHS + "networks: *a39\nsizes: [96x64]\n", "plan.yaml"),
    "aliases that grow, as a network": (LAUGHS + "networks: [{network: *a39}]\nsizes: [96x64]\n", "plan.yaml"),
    "nested 10,000 deep": ("networks: " + "[" * 10_000, "no yaml"),
    "a number of 5,000 digits": ("networks: [a]\nsizes: " + "9" * 5000, "plan.yaml"),
    "null bytes": (b"networks: [a]\0\n", "no yaml"),
    "in UTF-16": ("networks: []".encode("utf-16"), "no yaml"),
    "two megabytes": ("# " + "x" * 2_000_000, "MB"),
    "a key that comes twice": ("networks: [{network: a}]\nnetworks: [{network: b}]\nsizes: [96x64]\n", "twice"),
    "a name with ../": ("networks: [{network: resnet18, name: ../outside}]\nsizes: [96x64]\n", "name"),
    "an absolute name": ("networks: [{network: resnet18, name: /tmp/outside}]\nsizes: [96x64]\n", "name"),
    "a NaN": ("networks: [{network: resnet18}]\nsizes: [96x64]\ntraining: {learning_rate: .nan}\n", "learning_rate"),
    "a list": ("- a\n- b\n", "keys"),
    "empty": ("", "keys"),
}


def _code(verb: str) -> Case:
    """A run whose network.json names a file of code that lies beside it, which leaves a file if it is run."""

    def prepare(work: Path, things: Things) -> Words:
        run = copied(things.run, work)
        (run / "evil.py").write_text(f"open({str(work / 'executed')!r}, 'w')\ndef make(): ...\n")
        source = os.fspath(run / "evil.py:make")
        edited(run / "network.json", put("network.network", source))
        edited(run / "run.json", put("network.network", source))
        (run / "weights.safetensors").unlink() if verb == "train --resume" else None
        return VERBS[verb](run, work, things)

    return Case(f"run: its network is code, {verb}", prepare, says=("evil.py:make",))


def _other_weights(work: Path, things: Things) -> Words:
    run = copied(things.run, work)
    shutil.copy(run / "last.safetensors", run / "weights.safetensors")
    return EXPORT(run, work, things)


def _linked_board(work: Path, things: Things) -> Words:
    run = copied(things.run, work)
    (run / "weights.safetensors").unlink()
    shutil.rmtree(run / "tensorboard")
    (work / "elsewhere").mkdir()
    (run / "tensorboard").symlink_to(work / "elsewhere")
    return RESUME(run, work, things)


def _source(text: str) -> Callable[[Path], object]:
    return lambda run: edited(run / "network.json", put("network.network", text))


CASES: tuple[Case, ...] = (
    *_cases("network.json", "network.json", _json("format"), ("export", "prune")),
    *_cases("network.json", "network.json", NETWORK, ("export", "prune")),
    *(
        _case("network.json", f"a network {what}", "export", _source(text), (word,) if word else ("cannot",))
        for what, (text, word) in SOURCES.items()
        if word
    ),
    *_cases("run.json", "run.json", _json("format"), ("train --resume",)),
    *_cases("run.json", "run.json", RUN, ("train --resume", "prune")),
    *_cases("weights", "weights.safetensors", WEIGHTS, ("export",)),
    *_cases("weights", "weights.safetensors", {what: WEIGHTS[what] for what in ("empty", "a folder")}, ("train --from",)),
    *(_case("weights", what, "export", spoil, ("weights.safetensors", word)) for what, (spoil, word) in TENSORS.items()),
    *(
        _case("state", what, "train --resume", _unfinished(spoil), ("last.safetensors", word))
        for what, (spoil, word) in STATE.items()
    ),
    *_cases("history", "history.csv", HISTORY, ("train --resume",)),
    *_cases(
        "history",
        "history.csv",
        {what: found for what, found in HISTORY.items() if what != "its head alone"},
        ("report",),
    ),
    *_cases("run.json", "run.json", {name: spoiling.JSON[name] for name in ("cut to a quarter", "with a NaN")}, ("report",)),
    *(Case(f"pruning.json: {what}", _pruned(edit), says=(word,)) for what, (edit, word) in PRUNED.items()),
    *(Case(f"plan: {what}", _plan(text), says=(word,)) for what, (text, word) in PLANS.items()),
    *map(_code, ("export", "train --resume", "prune")),
    Case("weights: a state in their place, export", _other_weights, says=("weights.safetensors", "missing")),
    Case("state: its board is a link to elsewhere, train --resume", _linked_board, says=("tensorboard", "link")),
)
