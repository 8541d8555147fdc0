"""The doors by which files come in from outside, each as a function of bytes: what fuzzing knocks at.

A door is opened on one small whole way (see `harness`), with a folder of its own to write in. What it is then given must end
well or with `InputError`; see `fuzz`. Its seeds are real artifacts. Checksums inside files are put right first, as whoever
makes a file for another would: else hardly any change would come past them.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Things
from PIL import Image

from offramp.artifacts import (
    MANIFEST,
    SWEEP,
    Artifact,
    Deployment,
    Frame,
    Profile,
    Provenance,
    RunLog,
    Sweep,
    SweptPackage,
    SweptTrial,
    load_json,
    load_manifest,
    load_records,
)
from offramp.data.class_file import read_class_file
from offramp.data.folder import load_image, open_split
from offramp.errors import InputError
from offramp.runtime.predictor import Predictor
from offramp.runtime.sources import open_source
from offramp.search import search
from offramp.specs import SearchSpec
from offramp.sweeping.plan import read_plan
from offramp.trimming import trim

BETWEEN = b"\n-- part --\n"
"""Between the parts of an input that becomes several members of one file."""

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


def _read(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


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


def _members(things: Things) -> list[bytes]:
    """The members of real records, one after another."""
    with zipfile.ZipFile(things.records) as archive:
        return [BETWEEN.join(archive.read(name) for name in archive.namelist())]


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


def _saved(*artifacts: Artifact) -> list[bytes]:
    return [artifact.model_dump_json(indent=1).encode() for artifact in artifacts]


def _run_logs(things: Things) -> list[bytes]:
    deployment = load_json(things.chosen, Deployment)
    frames = tuple(
        Frame(
            name=f"{number}",
            exit=deployment.exits[0],
            scores={deployment.exits[0]: 0.5},
            steps_ms={"stage 0": 1.0},
            latency_ms=2,
        )
        for number in range(2)
    )
    log = RunLog(
        package_id=deployment.package_id,
        mode=deployment.mode,
        exits=deployment.exits,
        engine="onnxruntime",
        threads=1,
        frames=frames,
        provenance=deployment.provenance,
    )
    return _saved(log)


def _sweeps(things: Things) -> list[bytes]:
    profile = load_json(things.profile, Profile)
    each = dict.fromkeys(profile.exits, 0.5)
    package = SweptPackage(
        name="96x64",
        size=(96, 64),
        package="trial/96x64/package",
        package_id=profile.package_id,
        records={"val": "trial/96x64/val.records"},
        profile="trial/96x64/here.profile",
        miou={"val": each},
        latency_ms=each,
    )
    made = Sweep(
        device="here",
        engine="onnxruntime",
        threads=1,
        precision="fp32",
        trials=(SweptTrial(name="trial", packages=(package,)),),
        provenance=Provenance(made_by="sweep", created=""),
    )
    return _saved(made)


PLAN = b"""networks:
- network: test_efficientnet
  exits: 2
  taps: [blocks.0, blocks.2]
  heads: [fcn/c64, deeplab]
  name: small
  training: {learning_rate: 0.01}
sizes: [96x64, [128, 96]]
stored: [fp32, int8]
training: {epochs: 2, crop: 96x64, scheme: two-phase}
device: {engine: openvino, threads: 2, precision: bf16, passes: 3}
splits: [val, test]
"""


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


def _pictures(things: Things, kinds: Sequence[str]) -> list[bytes]:
    """Small pictures of several kinds: their format and mode."""
    with Image.open(things.image) as opened:
        small = opened.convert("RGB").resize((12, 8))
    found = []
    for kind in kinds:
        form, mode = kind.split()
        file = io.BytesIO()
        (small.convert("L") if mode == "I;16" else small).convert(mode).save(file, form)
        found.append(file.getvalue())
    return found


LABELS = ("PNG P", "PNG L", "PNG RGB", "PNG 1", "PNG I;16")
PICTURES = (*LABELS, "PNG RGBA", "PNG LA", "JPEG RGB", "JPEG CMYK", "BMP RGB", "WEBP RGB", "GIF P", "TIFF RGB")


def _image(things: Things, folder: Path) -> Meet:
    meet = _file("fuzzed.png", load_image)(things, folder)
    return lambda data: meet(with_right_checksums(data))


def _label(things: Things, folder: Path) -> Meet:
    code = open_split(things.data, "val").code
    meet = _file("fuzzed.png", code.decode)(things, folder)
    return lambda data: meet(with_right_checksums(data))


def _videos(_things: Things) -> list[bytes]:
    import av  # noqa: PLC0415 - an optional extra

    found = []
    for form, codec in (("mp4", "mpeg4"), ("avi", "mjpeg")):
        file = io.BytesIO()
        with av.open(file, "w", format=form) as container:
            stream: Any = container.add_stream(codec, rate=5)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for grey in (0, 100, 200):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 32, 3), grey, np.uint8), format="rgb24")))
            container.mux(stream.encode())
        found.append(file.getvalue())
    return found


def _video(path: Path) -> object:
    return [shot.seconds for shot, _ in zip(open_source(path).shots, range(FRAMES), strict=False)]


# ------------------------------------------------------------------------------------------------------------------ weights


def _headers(things: Things) -> list[bytes]:
    """The header of a real safetensors file: names, types, shapes and places of its tensors."""
    data = (things.run / "weights.safetensors").read_bytes()
    return [data[8 : 8 + int.from_bytes(data[:8], "little")]]


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


def _described(name: str, read_run: Callable[[], Callable[[Path], object]]) -> Callable[[Things, Path], Meet]:
    """A file of a run's that says what is in it."""

    def opened(things: Things, folder: Path) -> Meet:
        read = read_run()
        return _file(name, lambda path: read(path.parent))(things, folder)

    return opened


def _read_network() -> Callable[[Path], object]:
    from offramp.models.checkpoint import load_network_file  # noqa: PLC0415 - torch takes seconds

    return load_network_file


def _read_run() -> Callable[[Path], object]:
    from offramp.training.train import read_run  # noqa: PLC0415 - torch takes seconds

    return read_run


DOORS: dict[str, Door] = {
    "package": Door(lambda things: _read(things.small / MANIFEST), _package),
    "manifest": Door(lambda things: _read(things.package / MANIFEST, things.small / MANIFEST), _with_original),
    "records": Door(lambda things: _read(things.records), _file("fuzzed.records", load_records)),
    "records-members": Door(_members, _records_of_members),
    "profile": Door(lambda things: _read(things.profile), _profile),
    "deployment": Door(lambda things: _read(things.chosen), _deployment),
    "run-log": Door(_run_logs, _file("run-log.json", _run_log)),
    "sweep": Door(_sweeps, _file(SWEEP, _sweep)),
    "plan": Door(lambda _things: [PLAN], _file("plan.yaml", read_plan)),
    "classes": Door(lambda things: _read(things.data / "classes.json"), _file("classes.json", read_class_file)),
    "image": Door(lambda things: _pictures(things, PICTURES), _image),
    "label": Door(lambda things: _pictures(things, LABELS), _label),
    "video": Door(_videos, _file("fuzzed.mp4", _video)),
    "network": Door(lambda things: _read(things.run / "network.json"), _described("network.json", _read_network)),
    "run": Door(lambda things: _read(things.run / "run.json"), _described("run.json", _read_run)),
    "weights": Door(_headers, _weights),
}
"""What fuzzing knocks at, by name."""


def keys_of(seeds: list[bytes]) -> set[str]:
    """Keys and short words in seeds that are JSON."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            found.update(value)
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)
        elif isinstance(value, str):
            found.add(value)

    for seed in seeds:
        try:
            look(json.loads(seed))
        except ValueError:
            continue
    return {word for word in found if 0 < len(word) <= 64}


def finding_of(meet: Meet, data: bytes) -> Exception | None:
    """What a door raises that it must not."""
    try:
        meet(data)
    except InputError:
        return None
    except Exception as error:  # noqa: BLE001 - the finding
        return error
    return None
