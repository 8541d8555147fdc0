"""The doors by which files come in from outside, each as a function of bytes: what fuzzing knocks at.

A door is opened on one small whole way (see `harness`), with a folder of its own to write in. What it is then given, changed
real artifacts (see `seeds`), must end well or with `InputError`; see `fuzz`. Checksums inside files are put right first, as
whoever makes a file for another would: else hardly any change would come past them.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Things
from seeds import BETWEEN, LABELS, PICTURES, PLAN, contents, headers, members, pictures, run_logs, sweeps, videos

from offramp.artifacts import MANIFEST, SWEEP, Deployment, Profile, RunLog, Sweep, load_json, load_manifest, load_records
from offramp.data.class_file import read_class_file
from offramp.data.folder import load_image, open_split
from offramp.errors import InputError
from offramp.runtime.predictor import Predictor
from offramp.runtime.sources import open_source
from offramp.search import search
from offramp.specs import SearchSpec
from offramp.sweeping.plan import read_plan
from offramp.training.run_file import read_run
from offramp.trimming import trim

FRAMES = 8
"""Of a video that are looked at."""

Meet = Callable[[bytes], object]


@dataclass(frozen=True)
class Door:
    """Where files of one kind come in."""

    seeds: Callable[[Things], list[bytes]]
    """Real artifacts of the kind."""
    opened: Callable[[Things, Path], Meet]
    """From the things and a folder to a function that takes a file's bytes."""


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Things, Path], Meet]:
    """A door that reads one file of this name."""

    def opened(_things: Things, folder: Path) -> Meet:
        path = folder / name

        def meet(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        return meet

    return opened


# ----------------------------------------------------------------------------------------------------------------- packages


def _package(things: Things, folder: Path) -> Meet:
    """A manifest beside real graphs; one that is taken must also answer an image, by every mode it has."""
    package = folder / "package"
    shutil.copytree(things.small, package)

    def meet(data: bytes) -> object:
        (package / MANIFEST).write_bytes(data)
        manifest = load_manifest(package)
        width, height = manifest.size
        if width * height > 1 << 20:
            return manifest  # as large as it says: nothing to be learnt from filling the memory
        predictor = Predictor(package, threads=1, every_exit=True)
        return predictor(np.zeros((height, width, 3), np.uint8))

    return meet


def _with_original(things: Things, folder: Path) -> Meet:
    """A manifest of a package with all exits, which is loaded alone."""
    package = folder / "package"
    shutil.copytree(things.package, package)

    def meet(data: bytes) -> object:
        (package / MANIFEST).write_bytes(data)
        return load_manifest(package)

    return meet


# ---------------------------------------------------------------------------------------------------------------- artifacts


def _records_of_members(things: Things, folder: Path) -> Meet:
    with zipfile.ZipFile(things.records) as archive:
        names = archive.namelist()
    path = folder / "fuzzed.records"

    def meet(data: bytes) -> object:
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in zip(names, data.split(BETWEEN), strict=False):
                archive.writestr(name, part)
        return _searched(path, things.profile)

    return meet


def _searched(records: Path, profile: Path) -> Deployment:
    return search(load_records(records), load_json(profile, Profile), SearchSpec(mode="input-dependent"), inputs={})


def _profile(things: Things, folder: Path) -> Meet:
    return _file("fuzzed.profile", lambda path: _searched(things.records, path))(things, folder)


def _deployment(things: Things, folder: Path) -> Meet:
    out = folder / "trimmed"

    def read(path: Path) -> object:
        trim(things.package, path, out)
        return Predictor(out, threads=1)

    return _file("chosen.json", read)(things, folder)


def _run_log(path: Path) -> object:
    return load_json(path, RunLog).shares()


def _sweep(path: Path) -> object:
    return [package.best_exit for package in load_json(path, Sweep).packages]


# ------------------------------------------------------------------------------------------------------- images and labels


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have their checksums right; anything else as it is."""
    start = b"\x89PNG\r\n\x1a\n"
    if not data.startswith(start):
        return data
    return start + b"".join(_chunks(data[len(start) :]))


def _chunks(data: bytes) -> Iterator[bytes]:
    while len(data) >= 12:
        length = min(int.from_bytes(data[:4], "big"), len(data) - 12)
        named = data[4 : 8 + length]
        yield data[:4] + named + zlib.crc32(named).to_bytes(4, "big")
        data = data[12 + length :]
    yield data


def _image(things: Things, folder: Path) -> Meet:
    meet = _file("fuzzed.png", load_image)(things, folder)
    return lambda data: meet(with_right_checksums(data))


def _label(things: Things, folder: Path) -> Meet:
    code = open_split(things.data, "val").code
    meet = _file("fuzzed.png", code.decode)(things, folder)
    return lambda data: meet(with_right_checksums(data))


def _video(path: Path) -> object:
    return [shot.seconds for shot, _ in zip(open_source(path).shots, range(FRAMES), strict=False)]


# ------------------------------------------------------------------------------------------------------------------ weights


def _weights(things: Things, folder: Path) -> Meet:
    """A changed header before the real numbers; what does not look like a header is the whole file."""
    from offramp.models.checkpoint import load_network, load_tensors  # noqa: PLC0415 - torch takes seconds

    network, _ = load_network(things.run)
    numbers = (things.run / "weights.safetensors").read_bytes()
    numbers = numbers[8 + int.from_bytes(numbers[:8], "little") :]

    def meet(data: bytes) -> object:
        path = folder / "fuzzed.safetensors"
        path.write_bytes(len(data).to_bytes(8, "little") + data + numbers if data[:1] == b"{" else data)
        load_tensors(network, path)
        return network

    return meet


def _network(things: Things, folder: Path) -> Meet:
    from offramp.models.checkpoint import load_network_file  # noqa: PLC0415 - torch takes seconds

    return _file("network.json", lambda path: load_network_file(path.parent))(things, folder)


DOORS: dict[str, Door] = {
    "package": Door(lambda things: contents(things.small / MANIFEST), _package),
    "manifest": Door(lambda things: contents(things.package / MANIFEST, things.small / MANIFEST), _with_original),
    "records": Door(lambda things: contents(things.records), _file("fuzzed.records", load_records)),
    "records-members": Door(members, _records_of_members),
    "profile": Door(lambda things: contents(things.profile), _profile),
    "deployment": Door(lambda things: contents(things.chosen), _deployment),
    "run-log": Door(run_logs, _file("run-log.json", _run_log)),
    "sweep": Door(sweeps, _file(SWEEP, _sweep)),
    "plan": Door(lambda _things: [PLAN], _file("plan.yaml", read_plan)),
    "classes": Door(lambda things: contents(things.data / "classes.json"), _file("classes.json", read_class_file)),
    "image": Door(lambda things: pictures(things, PICTURES), _image),
    "label": Door(lambda things: pictures(things, LABELS), _label),
    "video": Door(videos, _file("fuzzed.mp4", _video)),
    "network": Door(lambda things: contents(things.run / "network.json"), _network),
    "run": Door(lambda things: contents(things.run / "run.json"), _file("run.json", lambda path: read_run(path.parent))),
    "weights": Door(headers, _weights),
}
"""What fuzzing knocks at, by name."""


def finding_of(meet: Meet, data: bytes) -> Exception | None:
    """What a door raises that it must not."""
    try:
        meet(data)
    except InputError:
        return None
    except Exception as error:  # noqa: BLE001 - the finding
        return error
    return None
