"""Whether every file that commands leave under a name of its own is whole, and what in it must be alike from run to run."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from PIL import Image
from safetensors.torch import load_file

from offramp.artifacts import MANIFEST, Manifest, load_manifest, load_records
from offramp.artifacts.records import ARRAYS
from offramp.files import LEFTOVER, sha256_of

CLOCKED = {"seconds", "memory_mb", "latency_ms", "met", "created", "provenance", "steps_ms"}
"""Columns and keys that differ from run to run."""


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders, not those within others."""
    found = sorted(path for path in folder.rglob("*") if LEFTOVER.fullmatch(path.name))
    return [path for path in found if not any(LEFTOVER.fullmatch(part.name) for part in path.parents)]


def damage(target: Path) -> str:
    """The first file of a target that is not whole, and why; empty if there is none."""
    for path in _files(target):
        try:
            _read(path)
        except Exception as error:  # noqa: BLE001 - the finding
            return f"{path.name}: {type(error).__name__}: {error}"
    return ""


def content(target: Path) -> dict[str, Any]:
    """What must be the same whenever the same is made: file by file, without clocks."""
    base = target if target.is_dir() else target.parent
    found = {str(path.relative_to(base)): _content(path) for path in _files(target)}
    return {name: value for name, value in found.items() if value is not None}


def _files(target: Path) -> list[Path]:
    if not target.is_dir():
        return [target] if target.exists() else []
    inner = (path for path in target.rglob("*") if path.is_file())
    return sorted(path for path in inner if not any(LEFTOVER.fullmatch(part) for part in path.relative_to(target).parts))


def _read(path: Path) -> None:
    if path.name == MANIFEST:
        manifest = load_manifest(path.parent)
        for graph in _graphs(manifest):
            assert sha256_of(path.parent / graph.file) == graph.sha256, f"{graph.file} is not the manifest's"
    elif path.suffix in (".json", ".profile"):
        json.loads(path.read_bytes())
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".records":
        load_records(path)
    elif path.suffix == ".onnx":
        onnx.load(path)
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".csv":
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(text.splitlines()))
        assert not text or text.endswith("\n"), "its last line is torn"
        assert len({len(row) for row in rows}) <= 1, "its lines differ in length"
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), "it has no end"


def _graphs(manifest: Manifest) -> list[Any]:
    return [*manifest.stages, *manifest.heads, *manifest.labels, *([manifest.original] if manifest.original else [])]


def _content(path: Path) -> Any:  # noqa: PLR0911 - a line for each kind of file
    if path.suffix in (".onnx", ".png", ".jpg") or path.name in ("weights.safetensors", "network.json", "classes.json"):
        return sha256_of(path)
    if path.suffix == ".records":
        records = load_records(path)
        return [hashlib.sha256(getattr(records, name).tobytes()).hexdigest() for name in ARRAYS]
    if path.name == MANIFEST:
        return load_manifest(path.parent).package_id
    if path.name == "run-log.json":
        return [[frame["name"], frame["exit"]] for frame in json.loads(path.read_bytes())["frames"]]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            return [{name: row[name] for name in row if name not in CLOCKED and not name.startswith("ms:")} for row in rows]
    if path.name in ("chosen.json", "pruning.json"):
        return {name: value for name, value in json.loads(path.read_bytes()).items() if name not in CLOCKED}
    return path.suffix if path.suffix in (".html", ".profile") else None
