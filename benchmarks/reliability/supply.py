"""What Offramp takes from others: versions, licences, known holes. Runs without a network, as part of `make lint`.

    python benchmarks/reliability/supply.py [--write]

Walks from Offramp's own requirements to everything that they need, as it is installed here, and fails where something is not
pinned in constraints.txt or differs from it, where a pin is of nothing that anything names, where a licence is not one of those
below or docs/licences.md is out of date (--write makes it anew), where a requirement has no lower bound, or where a version
with a known hole is installed, pinned or admitted. Of holes it knows the few in `ADVISORIES`; `make audit` asks a database.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LICENCES = Path("docs") / "licences.md"

DEVICE = "device"
"""What is always installed."""
ON_DEVICES = {"openvino", "video"}
"""Extras that a device may want."""
OPTIONAL = {"fuzz"}
"""Extras that need not be installed where this runs."""
TOOLS = {"pip", "setuptools", "wheel"}
"""Of every virtual environment; none is imported while Offramp runs."""
OF_CUDA = ("nvidia-", "cuda-", "triton")
"""What torch's builds for NVIDIA's GPUs bring in exactly the versions that they ask for; not on machines without."""

PERMISSIVE = {
    *("MIT", "MIT-CMU", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC"),
    *("BSL-1.0", "CC0-1.0", "CNRI-Python", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
WEAK_COPYLEFT = {"MPL-2.0", "LGPL-2.1", "LGPL-3.0"}
"""Changes to the package itself must be published; what only uses it is free."""

SPELLINGS = {
    "mit license": "MIT",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "osi approved :: apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""How metadata older than licence expressions spells them."""
UNTOLD = {"atheris": "Apache-2.0"}
"""Of packages whose metadata holds none, as their sources say."""

ADVISORIES: tuple[tuple[str, str, str], ...] = (
    ("CVE-2023-37920", "certifi", "2023.7.22"),
    ("CVE-2025-43859", "h11", "0.16.0"),
    ("CVE-2024-3651", "idna", "3.7"),
    ("CVE-2024-56201", "jinja2", "3.1.5"),
    ("CVE-2025-27516", "jinja2", "3.1.6"),
    ("CVE-2021-29063", "mpmath", "1.3.0"),
    ("CVE-2022-25882", "onnx", "1.13.0"),
    ("CVE-2024-27318", "onnx", "1.16.0"),
    ("CVE-2023-4863", "pillow", "10.0.1"),
    ("CVE-2023-50447", "pillow", "10.2.0"),
    ("CVE-2024-28219", "pillow", "10.3.0"),
    ("CVE-2025-4565", "protobuf", "6.31.1"),
    ("CVE-2022-40896", "pygments", "2.15.1"),
    ("CVE-2020-14343", "pyyaml", "5.4"),
    ("CVE-2023-32681", "requests", "2.31.0"),
    ("CVE-2024-35195", "requests", "2.32.0"),
    ("CVE-2024-6345", "setuptools", "70.0.0"),
    ("CVE-2025-47273", "setuptools", "78.1.1"),
    ("CVE-2025-32434", "torch", "2.6.0"),
    ("CVE-2024-34062", "tqdm", "4.66.3"),
    ("CVE-2024-3568", "transformers", "4.38.0"),
    ("CVE-2024-37891", "urllib3", "2.2.2"),
    ("CVE-2024-34069", "werkzeug", "3.0.3"),
)
"""Identity, package, and the first version without the hole. Those that are certain here: the list is not complete."""


@dataclass
class Needed:
    """A distribution that Offramp needs, directly or through others."""

    name: str
    version: str
    licence: str
    extras: set[str] = field(default_factory=set)
    """Which of Offramp's own extras need it; `DEVICE` is the base."""


@dataclass(frozen=True)
class Project:
    """What Offramp asks for itself."""

    requirements: Mapping[str, Sequence[Requirement]]
    """By extra; of `DEVICE` those without."""
    build: Sequence[Requirement]
    pins: Mapping[str, str]


def canonical(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_project(root: Path) -> Project:
    """Read pyproject.toml and constraints.txt."""
    described = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = described["project"]
    extras = {DEVICE: project["dependencies"], **project["optional-dependencies"]}
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (Requirement(line) for line in lines if line.strip() and not line.startswith("#"))
    return Project(
        requirements={extra: [Requirement(text) for text in texts] for extra, texts in extras.items()},
        build=[Requirement(text) for text in described["build-system"]["requires"]],
        pins={canonical(pin.name): str(pin.specifier).removeprefix("==") for pin in pins},
    )


def licence_of(distribution: Distribution) -> str:
    """The licence as SPDX writes it, from the metadata; empty where that holds none."""
    metadata = distribution.metadata
    told, text = (str((metadata.get_all(name) or [""])[0]).strip() for name in ("License-Expression", "License"))
    if told:
        return told
    classified = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    known = [SPELLINGS[text.lower()] for text in classified if text.lower() in SPELLINGS]
    if "\n" in text or len(text) > 80:  # the whole text of the licence
        text = ""
    if not text or (known and text.lower() not in SPELLINGS and " OR " not in text):
        text = " OR ".join(known) or text
    return SPELLINGS.get(text.lower(), text) or UNTOLD.get(canonical(metadata["Name"]), "")


def walk(project: Project, installed: Mapping[str, Distribution]) -> tuple[dict[str, Needed], list[str]]:
    """Everything that Offramp needs as it is installed here, and what is missing."""
    found: dict[str, Needed] = {}
    missing: set[str] = set()
    for extra, requirements in project.requirements.items():
        seen: set[tuple[str, frozenset[str]]] = set()
        waiting = [(requirement, "") for requirement in requirements]
        while waiting:
            requirement, within = waiting.pop()
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": within}):
                continue
            name = canonical(requirement.name)
            distribution = installed.get(name)
            if distribution is None:
                if extra not in OPTIONAL:
                    missing.add(f"{requirement.name}, which {extra} needs, is not installed")
                continue
            needed = found.setdefault(name, Needed(name, distribution.version, licence_of(distribution)))
            needed.extras.add(extra)
            if (name, frozenset(requirement.extras)) in seen:
                continue
            seen.add((name, frozenset(requirement.extras)))
            for text in distribution.requires or []:
                waiting += [(Requirement(text), inner) for inner in ("", *requirement.extras)]
    return found, sorted(missing)


def allowed(licence: str) -> bool:
    """Whether every part of a licence expression is on the lists; of alternatives one is enough."""
    known = PERMISSIVE | WEAK_COPYLEFT
    terms = re.split(r"\s+AND\s+", licence.replace("(", " ").replace(")", " ").strip())
    return all(any(part.strip() in known for part in re.split(r"\s+OR\s+", term)) for term in terms)


def is_weak_copyleft(licence: str) -> bool:
    """Whether the licence cannot be had without a weak copyleft part."""
    terms = re.split(r"\s+AND\s+", licence)
    return any(all(part.strip() in WEAK_COPYLEFT for part in re.split(r"\s+OR\s+", term)) for term in terms)


def problems(project: Project, installed: Mapping[str, Distribution], licences: str) -> Iterator[str]:
    """What is wrong, a line each.

    Args:
        project: what Offramp asks for.
        installed: by canonical name.
        licences: the content of docs/licences.md.

    """
    needed, missing = walk(project, installed)
    yield from missing
    own = {name: one for name, one in needed.items() if name not in TOOLS and not name.startswith(OF_CUDA)}
    for name, one in own.items():
        pin = project.pins.get(name)
        if pin is None:
            yield f"{name} {one.version} is not pinned in constraints.txt"
        elif Version(pin) != Version(Version(one.version).public):
            yield f"{name} is pinned as {pin} in constraints.txt, but {one.version} is installed"
        if not allowed(one.licence):
            yield f"{name} is under {one.licence or 'no licence that its metadata names'}, which is on no list here"
    named = {canonical(Requirement(text).name) for one in installed.values() for text in one.requires or []}
    direct = {canonical(one.name) for requirements in project.requirements.values() for one in requirements}
    for name in project.pins.keys() - named - direct:  # what some platform alone needs is named all the same
        yield f"{name} is pinned in constraints.txt, but nothing names it"
    yield from _stale(licences, table_of(own))
    yield from _unsafe(project, needed)


def _unsafe(project: Project, needed: Mapping[str, Needed]) -> Iterator[str]:
    """Requirements without a lower bound, and known holes of what is admitted, pinned or installed."""
    for extra, requirements in (*project.requirements.items(), ("build", project.build)):
        for requirement in requirements:
            least = lower_bound(requirement)
            if least is None:
                yield f"{requirement.name}, which {extra} needs, has no lower bound in pyproject.toml"
            else:
                yield from holes(canonical(requirement.name), least, "pyproject.toml admits")
    for name, pin in project.pins.items():
        yield from holes(name, Version(pin), "constraints.txt pins")
    for name, one in needed.items():
        yield from holes(name, Version(one.version), "installed is")


def lower_bound(requirement: Requirement) -> Version | None:
    """The least version that a requirement admits; None where it admits any."""
    least = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==", "~=", ">")]
    return max(least, default=None)


def holes(name: str, version: Version, how: str) -> Iterator[str]:
    """Known holes of a version."""
    for identity, package, mended in ADVISORIES:
        if package == name and version < Version(mended):
            yield f"{how} {name} {version}, which has {identity}; it is mended in {mended}"


def _row(one: Needed) -> str:
    device = "yes" if DEVICE in one.extras else ", ".join(f"with {extra}" for extra in sorted(one.extras & ON_DEVICES)) or "no"
    by = ", ".join(sorted(one.extras, key=lambda extra: (extra != DEVICE, extra)))
    return f"| {one.name} | {Version(one.version).public} | {one.licence} | {by} | {device} |"


def table_of(needed: Mapping[str, Needed]) -> dict[str, str]:
    """A line of the table by package."""
    return {name: _row(needed[name]) for name in sorted(needed)}


def _stale(licences: str, rows: Mapping[str, str]) -> Iterator[str]:
    """What another platform needs beside is no fault: it has a line there that is not made here."""
    written = set(licences.splitlines())
    for name, row in rows.items():
        if row not in written:
            yield f"{LICENCES} is out of date for {name}; make it anew: python {Path(__file__).name} --write"


def page(needed: Mapping[str, Needed]) -> str:
    """docs/licences.md."""
    weak = [f"{one.name} ({one.licence})" for _, one in sorted(needed.items()) if is_weak_copyleft(one.licence)]
    lines = [
        "# Licences of what Offramp needs",
        "",
        "Written by `benchmarks/reliability/supply.py --write`, from the packages' own metadata; `make lint` checks it.",
        "Offramp itself is under Apache-2.0. What torch's builds for NVIDIA's GPUs bring beside is under NVIDIA's own terms.",
        "",
        f"All are permissive but for {len(weak)} of weak copyleft, whose own changed sources must be published:",
        f"{', '.join(weak)}.",
        "",
        "The metadata is of the Python packages; a wheel may carry libraries under other terms, which hold for whoever passes",
        "it on. av's carries FFmpeg (by its own word LGPL version 3 or later), libx264 and libx265 (GPL version 2 or later).",
        "",
        "| package | version | licence | needed by | on a device |",
        "|---|---|---|---|---|",
        *table_of(needed).values(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Check, or write the page; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    project = read_project(ROOT)
    # Of two of one name the first found is the one that is imported.
    installed: dict[str, Distribution] = {}
    for one in distributions():
        installed.setdefault(canonical(one.metadata["Name"]), one)
    needed = {
        name: one for name, one in walk(project, installed)[0].items() if not name.startswith(OF_CUDA) and name not in TOOLS
    }
    if options.write:
        (ROOT / LICENCES).write_text(page(needed), encoding="utf-8")
    written = (ROOT / LICENCES).read_text(encoding="utf-8") if (ROOT / LICENCES).exists() else ""
    found = list(dict.fromkeys(problems(project, installed, written)))
    for line in found:
        print(f"supply: {line}", file=sys.stderr)
    counts = {
        "packages": len(needed),
        "on a device": sum(DEVICE in one.extras for one in needed.values()),
        "of weak copyleft": sum(is_weak_copyleft(one.licence) for one in needed.values()),
        "advisories": len(ADVISORIES),
        "problems": len(found),
    }
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
