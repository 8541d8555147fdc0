"""What all artifacts share: where they come from, how they are saved whole, how they are refused."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, ValidationError

from offramp.doors import as_path, checked_call
from offramp.errors import InputError
from offramp.files import LARGEST_JSON, new_file, read_json
from offramp.specs import Spec, explain, shown
from offramp.targets import json_kind, require_file_target

FORMAT: Literal[1] = 1
"""Version of all artifacts; raised when an older reader would misread a newer file."""


class Provenance(Spec):
    """What an artifact was made from."""

    made_by: str
    created: str
    inputs: dict[str, str] = Field(default_factory=dict)
    """Name of each input and its SHA-256 or package identity."""
    options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""

    @classmethod
    def now(cls, made_by: str, *, inputs: dict[str, str] | None = None, options: dict[str, Any] | None = None) -> Self:
        """Describe this moment on this machine."""
        return cls(
            made_by=made_by,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            inputs=inputs or {},
            options=options or {},
            versions=_versions("offramp", "numpy", "onnxruntime", "openvino", "torch", "timm"),
            device=device_name(),
        )


def _versions(*names: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The processor's name, as the machine tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class Artifact(Spec):
    """A JSON artifact."""

    largest: ClassVar[int] = LARGEST_JSON
    """Bytes of its file that are read."""
    kind: str
    format: Literal[1] = FORMAT

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; over an artifact of the same kind, never over anything else."""
        require_file_target(as_path("path", path), json_kind(self.kind))
        with new_file(Path(path)) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


A = TypeVar("A", bound=Artifact)


@checked_call
def load_json(path: Path, kind: type[A]) -> A:
    """Read an artifact and check every field.

    Raises:
        InputError: missing, unreadable, damaged, of another kind or version.

    """
    wanted = kind.model_fields["kind"].default
    return checked_artifact(read_json(path, wanted, largest=kind.largest), path, kind)


def checked_artifact(raw: Any, path: Path, kind: type[A], *, mend: str = "make it again") -> A:
    """An artifact from what its JSON says.

    Args:
        raw: what the JSON says.
        path: where it stands, for people.
        kind: the artifact that is wanted.
        mend: what to do about a damaged one.

    Raises:
        InputError: of another kind or version, or damaged.

    """
    wanted = kind.model_fields["kind"].default
    one = wanted if wanted.endswith("s") else f"a {wanted}"
    if not isinstance(raw, dict):
        raise InputError(f"not {one}: {path} says it is {type(raw).__name__!r}; were two files exchanged?")
    if raw.get("kind") != wanted:
        raise InputError(f"not {one}: {path} says it is {shown(raw.get('kind'))}; were two files exchanged?")
    if raw.get("format") != FORMAT:
        raise InputError(f"{path} has format {shown(raw.get('format'))}, this version reads {FORMAT}; {mend}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"damaged {wanted} {path}: {explain(error)}; {mend}") from error
    except UnicodeEncodeError as error:  # JSON can write half of a character, and no text may hold that
        raise InputError(f"damaged {wanted} {path}: it holds half of a character ({error.reason}); {mend}") from error


def require_same_package(expected: str, **others: str) -> None:
    """Refuse parts that do not belong together.

    Raises:
        InputError: one of `others` (what it is = the package identity that it carries) differs from `expected`.

    """
    for what, got in others.items():
        if got != expected:
            raise InputError(
                f"the {what} belongs to another package ({got[:12]}) than the rest ({expected[:12]}); "
                f"make it again from the same package"
            )
