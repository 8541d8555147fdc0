"""What the door lets in and what it keeps out."""

import math

import pytest
from pydantic import ValidationError

from offramp.errors import InputError
from offramp.specs import FINAL, ExitSpec, HeadSpec, NetworkChoice, NetworkSpec, SearchSpec, TrainingSpec, explain, parse_size

NET = {"network": "timm:net", "num_classes": 3, "input_size": (64, 64)}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("480x360", (480, 360)),
        ("640X512", (640, 512)),
        (" 16x16\n", (16, 16)),
        ("8192x17", (8192, 17)),
        ("0480x360", (480, 360)),
    ],
)
def test_a_size_is_width_and_height(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "480",
        "480x",
        "x360",
        "480x360x3",
        "480 x 360",
        "480*360",
        "-480x360",
        "4.8x360",
        "15x360",
        "480x15",
        "8193x360",
        "16x99999",
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match=r"not a size.*for example 480x360"):
        parse_size(text)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (HeadSpec, {"chanels": 64}),
        (ExitSpec, {"tap": "blocks.1", "stage": 1}),
        (NetworkSpec, NET | {"stride": 8}),
        (TrainingSpec, {"epoch": 3}),
        (SearchSpec, {"mode": "budgeted", "max_latency": 3.0}),
    ],
)
def test_unknown_keys_are_refused(spec, values):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        spec(**values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("spec", "key", "others"),
    [
        (SearchSpec, "max_latency_ms", {"mode": "budgeted"}),
        (TrainingSpec, "learning_rate", {}),
        (TrainingSpec, "truth_weight", {}),
    ],
)
def test_numbers_that_are_none_are_refused(spec, key, others, value):
    with pytest.raises(ValidationError, match=key):
        spec(**others, **{key: value})


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (HeadSpec, {"channels": 3}),
        (HeadSpec, {"kind": "other"}),
        (HeadSpec, {"reduction": 3}),
        (HeadSpec, {"blocks": 4}),
        (HeadSpec, {"dilated": True}),
        (NetworkChoice, {"exits": 65}),
        (NetworkChoice, {"heads": ()}),
        (NetworkSpec, NET | {"num_classes": 1}),
        (NetworkSpec, NET | {"num_classes": 256}),
        (NetworkSpec, NET | {"output_stride": 12}),
        (NetworkSpec, NET | {"multiple": 0}),
        (TrainingSpec, {"epochs": -1}),
        (TrainingSpec, {"epochs": 0, "exit_epochs": 0}),
        (TrainingSpec, {"crop": (15, 64)}),
        (TrainingSpec, {"truth_weight": 1.1}),
        (TrainingSpec, {"scheme": "three-phase"}),
        (TrainingSpec, {"scheme": "final-only", "epochs": 0}),
        (TrainingSpec, {"zoom": (2.0, 1.0)}),
        (TrainingSpec, {"zoom": (0.0, 1.0)}),
        (TrainingSpec, {"halving": 12}),
        (TrainingSpec, {"halving": 3, "exit_epochs": 3}),
        (TrainingSpec, {"averaging": 1.0}),
        (TrainingSpec, {"hard_share": 0.0}),
        (TrainingSpec, {"warm_up": 1.0}),
        (TrainingSpec, {"jitter": 1.0}),
        (TrainingSpec, {"temperature": 0.0}),
        (SearchSpec, {"mode": "fast"}),
        (SearchSpec, {"mode": "budgeted", "max_latency_ms": 0}),
        (SearchSpec, {"mode": "budgeted", "max_exits": 17}),
        (SearchSpec, {"mode": "budgeted", "min_iou": {"road": 1.5}}),
        (SearchSpec, {"mode": "budgeted", "policies": ()}),
        (SearchSpec, {"mode": "budgeted", "policies": ("sure",)}),
        (SearchSpec, {"mode": "anytime", "deadlines_ms": (20.0, 20.0)}),
        (SearchSpec, {"mode": "budgeted", "max_risk": 0.1}),
        (SearchSpec, {"mode": "input-dependent", "max_risk": 0.1, "expected_risk": 0.1}),
        (SearchSpec, {"mode": "input-dependent", "max_risk": 1.0}),
    ],
)
def test_values_out_of_range_are_refused(spec, values):
    with pytest.raises(ValidationError):
        spec(**values)


def test_names():
    exits = (ExitSpec(tap="blocks.1.0"), ExitSpec(tap="blocks.3.2", head=HeadSpec(channels=64)))
    assert HeadSpec(channels=64).text == "fcn/c64"
    assert exits[1].name == "blocks.3.2:fcn/c64"
    assert ExitSpec(tap="b", head=HeadSpec(kind="skip"), skip="a.0").name == "b+a.0:skip"
    assert NetworkSpec(**NET, exits=exits).exit_names == (
        "blocks.1.0:fcn",
        "blocks.3.2:fcn/c64",
        FINAL,
    )


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("fcn", HeadSpec()),
        ("fcn/c64", HeadSpec(channels=64)),
        ("deeplab/r4", HeadSpec(kind="deeplab", reduction=4)),
        ("fcn/r4/b1/d", HeadSpec(reduction=4, blocks=1, dilated=True)),
        ("skip/c32/r8/b3/d", HeadSpec(kind="skip", channels=32, reduction=8, blocks=3, dilated=True)),
        ("lraspp/b2", HeadSpec(kind="lraspp", blocks=2)),
    ],
)
def test_heads_in_text_form(text, spec):
    assert spec.text == text
    assert HeadSpec.parse(text) == spec
    assert HeadSpec.parse(f" {text} ") == spec


def test_text_form_in_any_order_and_with_defaults():
    assert HeadSpec.parse("fcn/d/b1/r4/c128").text == "fcn/r4/b1/d"
    # Only what was named counts as set: a width that was not is chosen by the point.
    assert "channels" not in HeadSpec.parse("fcn/r4").model_fields_set
    assert "channels" in HeadSpec.parse("fcn/c128").model_fields_set


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "kind: .*got ''"),
        ("fnc", "kind: .*got 'fnc'"),
        ("fcn/", "because of ''"),
        ("fcn/x3", "because of 'x3'"),
        ("fcn/r4/r2", "because of 'r2'"),
        ("fcn/c-3", "because of 'c-3'"),
        ("fcn/r3", "reduction: .*got 3"),
        ("fcn/b9", "blocks: .*got 9"),
        ("fcn/c2", "channels: .*got 2"),
        ("fcn/d", "dilation needs extra blocks"),
        ("fcn/d4", "because of 'd4'"),
    ],
)
def test_what_is_no_head_is_refused(text, reason):
    with pytest.raises(InputError, match=rf"not a head: .*{reason}.*; write KIND.*for example fcn/r4/b1/d"):
        HeadSpec.parse(text)


def test_specs_do_not_change():
    spec = HeadSpec()
    with pytest.raises(ValidationError, match="frozen"):
        spec.channels = 8


def refused(spec, values):
    with pytest.raises(ValidationError) as caught:
        spec.model_validate(values)
    return explain(caught.value)


def test_an_explanation_names_the_place_and_what_was_got():
    text = refused(NetworkSpec, NET | {"exits": [{"tap": "a"}, {"tap": "b", "head": {"channels": 2}}]})
    assert text == "exits.1.head.channels: Input should be greater than or equal to 4, got 2"


def test_an_explanation_says_how_many_more_there_are():
    assert refused(TrainingSpec, {"epochs": -3, "batch_size": 1, "seed": -1}).endswith("got -3 (and 2 more)")


def test_an_explanation_is_one_short_line():
    assert refused(TrainingSpec, {"epochs": "many\n" * 50}).count("\n") == 0
    assert len(refused(TrainingSpec, {"epochs": "many\n" * 50})) < 200
    assert refused(TrainingSpec, {"a\nb": 1}) == "a b: Extra inputs are not permitted, got 1"
    assert refused(TrainingSpec, 3).startswith("the whole: ")
