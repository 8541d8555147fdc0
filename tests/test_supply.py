"""The check of what Offramp takes from others: made up distributions with known faults, and the real ones here."""

import sys
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

RELIABILITY = Path(__file__).parents[1] / "benchmarks" / "reliability"
sys.path.append(str(RELIABILITY))

import supply  # noqa: E402


class Made(Distribution):
    """A distribution as its metadata says."""

    def __init__(self, name, version, licence="MIT", requires=(), **fields):
        self._metadata = Message()
        values = {"Name": name, "Version": version, "License-Expression": licence, **fields}
        for key, value in values.items():
            for one in value if isinstance(value, list) else [value]:
                if one:
                    self._metadata[key] = one
        for text in requires:
            self._metadata["Requires-Dist"] = text

    @property
    def metadata(self):
        return self._metadata

    def read_text(self, _filename):
        return None

    def locate_file(self, path):
        return path

    @property
    def requires(self):
        return self._metadata.get_all("Requires-Dist")


def project(pins, **requirements):
    asked = {"device": ["numpy>=1.26"], **requirements}
    return supply.Project(
        {extra: [Requirement(text) for text in texts] for extra, texts in asked.items()}, [Requirement("setuptools>=80")], pins
    )


def installed(*made):
    return {supply.canonical(one.metadata["Name"]): one for one in made}


def found(asked, there, licences=None):
    if licences is None:
        licences = supply.page(supply.walk(asked, there)[0])
    return list(supply.problems(asked, there, licences))


NUMPY = Made("numpy", "2.4.0")


def test_nothing_is_wrong():
    there = installed(NUMPY, Made("Torch", "2.13.0+cpu", requires=["helper[fast]", "nvidia-cublas"]), NVIDIA, HELPER, SPEED)
    asked = project({"numpy": "2.4.0", "torch": "2.13.0", "helper": "1.0", "speed-up": "3"}, train=["torch>=2.11"])
    assert found(asked, there) == []
    assert found(asked, there | installed(Made("stranger", "1.0", "Proprietary"))) == [], "nobody needs it"


HELPER = Made("helper", "1.0", requires=["Speed.Up ; extra == 'fast'", "windows-thing ; sys_platform == 'win32'"])
SPEED = Made("speed_up", "3")
NVIDIA = Made("nvidia-cublas", "12.0", "LicenseRef-NVIDIA")


def test_what_needs_what():
    there = installed(NUMPY, Made("torch", "2.13.0", requires=["helper[fast]", "numpy"]), HELPER, SPEED)
    needed, missing = supply.walk(project({}, train=["torch>=2.11"], fuzz=["atheris>=3.0"]), there)
    assert not missing
    assert {name: one.extras for name, one in needed.items()} == {
        "numpy": {"device", "train"},
        "torch": {"train"},
        "helper": {"train"},
        "speed-up": {"train"},
    }
    rows = supply.table_of(needed)
    assert rows["numpy"] == "| numpy | 2.4.0 | MIT | device, train | yes |"
    assert rows["helper"] == "| helper | 1.0 | MIT | train | no |"


@pytest.mark.parametrize(
    ("pins", "asked", "made", "said"),
    [
        ({}, {}, [], "numpy 2.4.0 is not pinned"),
        ({"numpy": "2.3.0"}, {}, [], "numpy is pinned as 2.3.0 in constraints.txt, but 2.4.0 is installed"),
        ({"numpy": "2.4.0", "gone": "1"}, {}, [], "gone is pinned in constraints.txt, but nothing names it"),
        ({"numpy": "2.4.0"}, {"ray": ["ray>=2"]}, [], "ray, which ray needs, is not installed"),
        ({"numpy": "2.4.0", "x": "1"}, {"x": ["x>=1"]}, [("x", "1", "GPL-3.0-only")], "x is under GPL-3.0-only"),
        ({"numpy": "2.4.0", "x": "1"}, {"x": ["x>=1"]}, [("x", "1", None)], "x is under no licence that"),
        ({"numpy": "2.4.0", "x": "1"}, {"x": ["x"]}, [("x", "1")], "x, which x needs, has no lower bound"),
        ({"numpy": "2.4.0", "x": "1"}, {"x": ["x<2"]}, [("x", "1")], "x, which x needs, has no lower bound"),
        (
            {"numpy": "2.4.0", "pillow": "11"},
            {"x": ["pillow>=10.2"]},
            [("pillow", "11")],
            "admits pillow 10.2, which has CVE-2024-",
        ),
        (
            {"numpy": "2.4.0", "pillow": "10.2"},
            {"x": ["pillow>=11"]},
            [("pillow", "10.2")],
            "pins pillow 10.2, which has CVE-2024-",
        ),
    ],
)
def test_each_fault_is_told(pins, asked, made, said):
    assert any(said in line for line in found(project(pins, **asked), installed(NUMPY, *(Made(*one) for one in made))))


def test_an_installed_hole_of_something_unpinned_is_told():
    there = installed(Made("numpy", "2.4.0", requires=["setuptools"]), Made("setuptools", "70.0.0"))
    assert found(project({"numpy": "2.4.0"}), there) == [
        "installed is setuptools 70.0.0, which has CVE-2025-47273; it is mended in 78.1.1"
    ]


def test_a_table_that_is_out_of_date_is_told():
    asked, there = project({"numpy": "2.4.0"}), installed(NUMPY)
    page = supply.page(supply.walk(asked, there)[0])
    assert found(asked, there, page) == []
    other = page + "| nvidia-cublas | 12 | NVIDIA | train | no |\n"
    assert found(asked, there, other) == [], "another machine's"
    for stale in ("", page.replace("2.4.0", "2.3.0"), page.replace("MIT", "ISC")):
        assert any("licences.md is out of date for numpy" in line for line in found(asked, there, stale))


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"licence": "MIT"}, "MIT"),
        ({"licence": None, "License": "Apache 2.0"}, "Apache-2.0"),
        ({"licence": None, "Classifier": ["License :: OSI Approved :: BSD License"]}, "BSD"),
        (
            {"licence": None, "License": "MIT License\n\nCopyright", "Classifier": ["License :: OSI Approved :: MIT License"]},
            "MIT",
        ),
        (
            {"licence": None, "License": "MIT OR Apache-2.0", "Classifier": ["License :: OSI Approved :: MIT License"]},
            "MIT OR Apache-2.0",
        ),
        ({"licence": None}, ""),
    ],
)
def test_licences_are_read_however_they_are_spelt(fields, licence):
    assert supply.licence_of(Made("x", "1", **fields)) == licence


def test_expressions():
    assert supply.allowed("BSD-3-Clause AND 0BSD AND (MIT OR GPL-3.0-only)")
    assert not supply.allowed("MIT AND GPL-3.0-only")
    assert not supply.allowed("")
    assert supply.is_weak_copyleft("MPL-2.0 AND MIT")
    assert not supply.is_weak_copyleft("MPL-2.0 OR MIT")
    assert supply.lower_bound(Requirement("x>=1,!=1.5,<3")) == Version("1")
