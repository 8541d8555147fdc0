"""Changes to a file at random: of its bytes, and, where it is JSON, of its values, keys and depth."""

from __future__ import annotations

import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 256, 65536, 2**31, 2**63, 2**70, -(2**63), 0.5, -0.5, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "a", "../up", "/etc/passwd", "a\0b", "\ud800", "é" * 300),
    *("val", "test", "all", "fp32", "int8", "input-dependent", "anytime", "stage-0.onnx", "manifest.json"),
    *([], {}, [0], [[]], [1, 2], [0.5, 0.5], ["a", "a"], {"": 0}, {"a": {"a": {}}}),
)
"""What stands on the edges of what is allowed, or beyond."""

DEEP = 3000
"""Brackets inside each other: more than Python's own stack takes."""


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four changes at random; of JSON most often changes of its values."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        changed = _changed_json(data, draw) if draw.random() < 0.7 else None
        data = _changed_bytes(data, draw) if changed is None else changed
    return data


def _changed_json(data: bytes, draw: random.Random) -> bytes | None:
    if data[:1] not in (b"{", b"["):
        return None
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return None
    slots = list(_slots(root))
    if not slots:
        return None
    if draw.random() < 0.01:
        return b"[" * DEEP + data + b"]" * DEEP
    holder, key = draw.choice(slots)
    other, there = draw.choice(slots)
    _change(holder, key, other[there], [name for _, name in slots], draw)
    try:
        return json.dumps(root).encode()
    except (ValueError, RecursionError):  # an object that was put into itself
        return None


def _change(holder: Any, key: Any, other: Any, names: list[Any], draw: random.Random) -> None:
    """Change one place of a JSON value."""
    kind = draw.choice(("value", "value", "near", "near", "remove", "other", "rename", "twice"))
    if kind == "remove":
        del holder[key]
    elif kind == "other":
        holder[key] = other
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(draw.choice(names))] = holder.pop(key)
    elif kind == "twice" and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), holder[key])
    elif kind == "near" and isinstance(holder[key], (int, float)):
        holder[key] = draw.choice((holder[key] + 1, holder[key] - 1, holder[key] * 2, -holder[key], holder[key] / 2))
    elif kind == "near" and isinstance(holder[key], str):
        holder[key] = draw.choice((holder[key] * 2, holder[key][:-1], holder[key].upper(), holder[key] + "-1"))
    else:
        holder[key] = draw.choice(VALUES)


def _slots(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key or index."""
    if depth > 50:
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [slot for key in keys for slot in ((value, key), *_slots(value[key], depth + 1))]


def _changed_bytes(data: bytes, draw: random.Random) -> bytes:
    place, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    end = min(end, place + draw.choice((1, 2, 4, 16, 1000)))
    kind = draw.choice(("flip", "flip", "number", "cut", "remove", "twice", "noise"))
    if kind == "flip" and place < len(data):
        return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    if kind == "number":
        number = draw.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
        width = draw.choice((1, 2, 4))
        written = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little" if draw.random() < 0.5 else "big")
        return data[:place] + written + data[place + width :]
    if kind == "cut":
        return data[:place]
    if kind == "remove":
        return data[:place] + data[end:]
    if kind == "twice":
        return data[:end] + data[place:]
    return data[:place] + draw.randbytes(end - place) + data[end:]
