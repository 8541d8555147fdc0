"""Every door that takes a file, met by some hundred changed real artifacts: each ends well or is refused. See `doors`."""

import random
import sys
import warnings
from pathlib import Path

import pytest

RELIABILITY = Path(__file__).parents[1] / "benchmarks" / "reliability"
sys.path.append(str(RELIABILITY))

from doors import DOORS, finding_of, with_right_checksums  # noqa: E402
from harness import make_things  # noqa: E402
from mutating import mutated  # noqa: E402
from seeds import BETWEEN  # noqa: E402

from offramp.errors import InputError  # noqa: E402

SLOW = {"records-members": 10, "profile": 15, "deployment": 20, "package": 60, "weights": 60}
"""Inputs of doors behind which a search, a package or a network waits."""


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return make_things(tmp_path_factory.mktemp("things"))


@pytest.mark.parametrize("name", DOORS)
def test_changed_artifacts_end_well_or_are_refused(name, things, tmp_path):
    door, draw = DOORS[name], random.Random(f"seed of {name}")
    seeds, meet = door.seeds(things), door.opened(things, tmp_path)
    for seed in seeds:
        try:
            meet(seed)
        except InputError:
            assert name in ("label", "image"), "real artifacts are taken; of pictures some kinds hold no labels"
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged pictures
        for _ in range(SLOW.get(name, 200)):
            data = mutated(draw.choice(seeds), draw)
            try:
                meet(data)
            except InputError:
                refused += 1
            except Exception as error:  # noqa: BLE001 - the finding
                pytest.fail(f"{type(error).__name__}: {error}, from {data[:2000]!r}")
    assert refused


def test_what_is_no_input_error_is_a_finding():
    def meet(data):
        if data == b"bad":
            raise InputError("refused")
        return {}[data]

    assert finding_of(meet, b"bad") is None
    assert isinstance(finding_of(meet, b"other"), KeyError)


def test_checksums_are_put_right(things):
    data = DOORS["image"].seeds(things)[0]
    assert with_right_checksums(data) == data
    spoilt = bytearray(data)
    spoilt[-1] ^= 1  # of the last chunk's checksum
    spoilt[20] ^= 1  # inside the first chunk
    mended = with_right_checksums(bytes(spoilt))
    assert len(mended) == len(data)
    assert mended[20] == data[20] ^ 1
    assert mended[-4:] == data[-4:]
    assert mended[29:33] != data[29:33], "the first chunk's checksum follows its content"
    assert with_right_checksums(b"no picture") == b"no picture"


def test_changes_are_the_seeds_alone():
    data = b'{"a": [1, 2.5, "b"], "c": {"d": null}}'
    changes = [mutated(data, random.Random(seed)) for seed in range(300)]
    assert changes == [mutated(data, random.Random(seed)) for seed in range(300)]
    assert len(set(changes)) > 250
    assert BETWEEN not in data
