"""What an ONNX file asks for, read without the library `onnx`, which a device need not have, and before any engine sees it.

A package may come from a stranger. An engine would open other files that a graph names as its weights, and run a loop for ever.
Only what tells of these is read here, in the wire format of protocol buffers: numbers of fields are those of `onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run a part of the graph as often as the graph itself says."""
DEEPEST = 16
"""Graphs within graphs."""

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
"""Kinds of fields."""
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODES, GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_OPERATOR, NODE_ATTRIBUTES = 4, 5
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = frozenset({5, 10}), frozenset({6, 11}), frozenset({22, 23})
TENSOR_NAME, TENSOR_ELSEWHERE, TENSOR_PLACE = 8, 13, 14
SPARSE_TENSORS = frozenset({1, 2})
FUNCTION_NODES = 7
VALUE_NAME = 1


@dataclass(frozen=True)
class GraphNames:
    """What a graph calls its inputs, without those that it has weights for, and its outputs."""

    inputs: frozenset[str]
    outputs: frozenset[str]


def read_graph(content: bytes) -> GraphNames:
    """Look through an ONNX file.

    Raises:
        ValueError: it is none; it keeps weights in other files; or it holds a loop.

    """
    named: dict[int, set[str]] = {GRAPH_INPUTS: set(), GRAPH_OUTPUTS: set(), GRAPH_TENSORS: set()}
    found = False
    for number, value in _fields(memoryview(content)):
        if number == MODEL_GRAPH:
            found = True
            _check_graph(_part(value), 0)
            for inner, part in _fields(_part(value)):
                if inner in named:
                    named[inner].add(_name(part, TENSOR_NAME if inner == GRAPH_TENSORS else VALUE_NAME))
        elif number == MODEL_FUNCTIONS:
            for inner, part in _fields(_part(value)):
                if inner == FUNCTION_NODES:
                    _check_node(_part(part), 0)
    if not found:
        raise ValueError("it holds no graph")
    return GraphNames(frozenset(named[GRAPH_INPUTS] - named[GRAPH_TENSORS]), frozenset(named[GRAPH_OUTPUTS]))


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError("its graphs are nested too deeply")
    for number, value in _fields(graph):
        if number == GRAPH_NODES:
            _check_node(_part(value), depth)
        elif number == GRAPH_TENSORS:
            _check_tensor(_part(value))
        elif number == GRAPH_SPARSE:
            _check_sparse(_part(value))


def _check_node(node: memoryview, depth: int) -> None:
    for number, value in _fields(node):
        if number == NODE_OPERATOR and (operator := _text(value)) in LOOPS:
            raise ValueError(f"it holds a loop ({operator}), which could run for ever")
        if number != NODE_ATTRIBUTES:
            continue
        for inner, part in _fields(_part(value)):
            if inner in ATTRIBUTE_GRAPHS:
                _check_graph(_part(part), depth + 1)
            elif inner in ATTRIBUTE_TENSORS:
                _check_tensor(_part(part))
            elif inner in ATTRIBUTE_SPARSE:
                _check_sparse(_part(part))


def _check_sparse(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number in SPARSE_TENSORS:
            _check_tensor(_part(value))


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == TENSOR_ELSEWHERE or (number == TENSOR_PLACE and value):
            raise ValueError("it keeps weights in another file")


def _name(message: int | memoryview, field: int) -> str:
    return next((_text(value) for number, value in _fields(_part(message)) if number == field), "")


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is no ONNX file")  # noqa: TRY004 - of the file
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_part(value)).decode("utf-8")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a whole number, or the bytes of a text or of a message within.

    Raises:
        ValueError: these bytes are no message.

    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in {EIGHT_BYTES, FOUR_BYTES}:
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError("it is no ONNX file")
        if size > end - at:
            raise ValueError("it ends too early")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise ValueError("it ends too early")
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("it is no ONNX file")
