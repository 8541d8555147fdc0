"""Arguments of a step are held against its annotations: what passes, what is changed, and what one line refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from offramp.doors import as_number, as_path, as_whole, checked_call, is_number
from offramp.errors import InputError


class Thing:
    """A class of the user's."""


@checked_call
def step(
    path: Path,
    *,
    whole: int = 0,
    number: float | None = None,
    kind: Literal["a", "b"] = "a",
    names: Sequence[str] | None = None,
    size: tuple[int, int] = (1, 2),
    thing: Thing | None = None,
    either: Thing | str | None = None,
    source: str | Path = "",
    said: dict[str, str] | None = None,
    flag: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A step that says what it got."""
    return dict(locals())


def test_text_becomes_a_path_and_numbers_what_they_are():
    got = step("a/b", whole=np.int64(3), number=np.float32(0.5), size=[4, 5], names=("x",), more=3)
    assert got["path"] == Path("a/b")
    assert (got["whole"], type(got["whole"])) == (3, int)
    assert (got["number"], type(got["number"])) == (0.5, float)
    assert got["size"] == (4, 5)
    assert got["more"] == {"more": 3}


def test_an_address_keeps_its_slashes():
    assert step("a", source="rtsp://camera/1")["source"] == "rtsp://camera/1"
    assert step("a", source=Path("b"))["source"] == Path("b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": None}, "path must be a path, got None"),
        ({"path": b"x"}, "path must be a path, got bytes"),
        ({"path": ""}, "path must be a path, got an empty text"),
        ({"path": "a\0b"}, "path must be a path, and none holds a zero byte"),
        ({"whole": 2.0}, "whole must be a whole number, got 2.0"),
        ({"whole": True}, "whole must be a whole number, got True"),
        ({"whole": None}, "whole must be a whole number, got None"),
        ({"number": "1"}, "number must be a number, got '1'"),
        ({"number": [1]}, "number must be a number, got list"),
        ({"kind": "c"}, "unknown kind 'c'; there are a, b"),
        ({"kind": ["a"]}, r"unknown kind \['a'\]; there are a, b"),
        ({"names": "abc"}, r"names must be a list, got 'abc'; write \['abc'\]"),
        ({"names": {"abc"}}, "names must be a list, got set"),
        ({"size": "4x5"}, "size must be 2 whole numbers, got '4x5'"),
        ({"size": (4,)}, "size must be 2 whole numbers, got tuple"),
        ({"size": (4, 5.5)}, "size must be a whole number, got 5.5"),
        ({"thing": "x"}, "thing must be Thing, got 'x'"),
        ({"thing": Thing}, "thing must be Thing, got the class Thing; make one of it"),
        ({"either": 3}, "either must be Thing or str, got 3"),
        ({"source": 3}, "source must be a path, got 3"),
        ({"said": []}, "said must be dict, got list"),
    ],
)
def test_what_is_refused_is_named(given, said):
    with pytest.raises(InputError, match=said):
        step(**({"path": "p"} | given))


def test_what_no_annotation_judges_goes_through():
    assert step("p", flag="yes", thing=None, names=None, unknown=object)["flag"] == "yes"


def test_a_step_keeps_its_name_and_signature():
    assert step.__name__ == "step"
    with pytest.raises(TypeError, match="path"):
        step()


def test_numbers_by_themselves():
    assert as_whole("n", np.uint8(7)) == 7
    assert as_number("n", 3) == 3.0
    assert as_path("p", Path("x")) == Path("x")
    assert [is_number(value) for value in (0, 1.5, np.float64(2), float("inf"), float("nan"), "1", None, True)] == [
        *[True] * 4,
        *[False] * 4,
    ]
