"""What fuzzing begins with: real artifacts of every kind that comes in as a file, as bytes.

Some lie in the small whole way that was made (see `harness`); the others are made here, as small as their kind allows, so that
random changes hit all their parts.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Things
from PIL import Image

from offramp.artifacts import (
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
)

BETWEEN = b"\n-- part --\n"
"""Between the parts of an input that becomes several members of one file."""

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

LABELS = ("PNG P", "PNG L", "PNG RGB", "PNG 1", "PNG I;16")
PICTURES = (*LABELS, "PNG RGBA", "PNG LA", "JPEG RGB", "JPEG CMYK", "BMP RGB", "WEBP RGB", "GIF P", "TIFF RGB")


def contents(*paths: Path) -> list[bytes]:
    """Of files that are there."""
    return [path.read_bytes() for path in paths]


def members(things: Things) -> list[bytes]:
    """The members of real records, one after another."""
    with zipfile.ZipFile(things.records) as archive:
        return [BETWEEN.join(archive.read(name) for name in archive.namelist())]


def _saved(*artifacts: Artifact) -> list[bytes]:
    return [artifact.model_dump_json(indent=1).encode() for artifact in artifacts]


def run_logs(things: Things) -> list[bytes]:
    """Two frames of the chosen deployment."""
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


def sweeps(things: Things) -> list[bytes]:
    """One trial of one package."""
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


def pictures(things: Things, kinds: Sequence[str]) -> list[bytes]:
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


def videos(_things: Things) -> list[bytes]:
    """Three frames, in two formats."""
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


def headers(things: Things) -> list[bytes]:
    """The header of a real safetensors file: names, types, shapes and places of its tensors."""
    data = (things.run / "weights.safetensors").read_bytes()
    return [data[8 : 8 + int.from_bytes(data[:8], "little")]]


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
