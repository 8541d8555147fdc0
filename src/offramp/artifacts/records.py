"""Records: what every exit answered, image by image."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from offramp.artifacts.base import Artifact, Provenance, checked_artifact
from offramp.doors import as_path, checked_call
from offramp.errors import InputError
from offramp.files import LARGEST_JSON, new_file, parse_json
from offramp.metrics import Counts
from offramp.policy import GRID
from offramp.specs import REGIONS, EngineName, Precision
from offramp.targets import RECORDS, require_file_target

LARGEST_RECORDS = 4_000_000_000
"""Bytes of all arrays together, in memory; compressed, a bomb of zeros is a thousandth of that. 100,000 images at 40 exits."""
LARGEST_HEADER = 10_000
"""Bytes before an array's data."""


class RecordsInfo(Artifact):
    """The descriptive part of records."""

    kind: Literal["records"] = "records"
    package_id: str
    split: str
    data_fingerprint: str
    classes: tuple[str, ...] = Field(min_length=1, max_length=255)
    exits: tuple[str, ...] = Field(min_length=1)
    images: tuple[str, ...]
    engine: EngineName
    precision: Precision
    provenance: Provenance


@dataclass(frozen=True)
class Records:
    """What every exit answered, image by image: N images, E exits in order of depth, C classes."""

    info: RecordsInfo
    correct: Counts
    """(N, E, C) pixels."""
    predicted: Counts
    """(N, E, C) pixels."""
    labelled: Counts
    """(N, C) pixels: the same for every exit."""
    sure: Counts
    """(N, E, regions, GRID) pixels at head resolution; see `policy`."""
    differing: Counts
    """(N, E) pixels, labelled or not, whose answer is not the final exit's: of the deepest exit none."""
    size: Counts
    """(N,) pixels of the image."""

    def part(self, images: Sequence[int]) -> Records:
        """The records of some of the images."""
        chosen = list(images)
        info = self.info.model_copy(update={"images": tuple(self.info.images[index] for index in chosen)})
        return Records(info, **{name: getattr(self, name)[chosen] for name in ARRAYS})

    def save(self, path: Path) -> None:
        """Write one compressed NumPy archive without pickled objects; over older records, never over anything else."""
        require_file_target(as_path("path", path), RECORDS)
        text = np.frombuffer(self.info.model_dump_json().encode(), dtype=np.uint8)
        with new_file(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, info=text, **{name: getattr(self, name) for name in ARRAYS})


ARRAYS = ("correct", "predicted", "labelled", "sure", "differing", "size")


@checked_call
def load_records(path: Path) -> Records:
    """Read records and check that their parts fit.

    What an array would take in memory is checked before anything is made of it.

    Raises:
        InputError: missing, damaged, of another version, or too large.

    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise InputError(f"cannot read the records {path}: it is {kind}; give a file")
    try:
        info, arrays = _read(path)
    except InputError:
        raise
    except _Unfit as error:
        raise InputError(f"damaged records {path}: {error}; evaluate again") from error
    except OSError as error:
        raise InputError(f"cannot read the records {path}: {error.strerror or error}") from error
    except Exception as error:
        # Damaged bytes bring out whatever numpy, zipfile, zlib and tokenize happen to raise: eight types were seen.
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"not records: {path} ({reason}); make them with offramp evaluate") from error
    _require_possible(arrays, path)
    return Records(info, **arrays)


def _read(path: Path) -> tuple[RecordsInfo, dict[str, Counts]]:
    with zipfile.ZipFile(path) as archive:
        text = _read_array(archive, "info", None, np.uint8).tobytes()
        info = checked_artifact(parse_json(text), path, RecordsInfo, mend="evaluate again")
        shapes = _shapes(info)
        size = 8 * sum(map(math.prod, shapes.values()))
        if size > LARGEST_RECORDS:
            much = f"{size / 1e9:.1f} GB of memory, more than {LARGEST_RECORDS / 1e9:g}"
            raise InputError(f"will not read {path}: its counts would take {much}; evaluate fewer images or exits at once")
        return info, {name: _read_array(archive, name, shape, np.int64) for name, shape in shapes.items()}


class _Unfit(Exception):  # noqa: N818 - told as an InputError
    """An array is not what the description says."""


def _shapes(info: RecordsInfo) -> dict[str, tuple[int, ...]]:
    images, exits, classes = len(info.images), len(info.exits), len(info.classes)
    if len(set(info.exits)) < exits or len(set(info.classes)) < classes:
        raise _Unfit("two of its exits or classes have the same name")
    return {
        "correct": (images, exits, classes),
        "predicted": (images, exits, classes),
        "labelled": (images, classes),
        "sure": (images, exits, len(REGIONS), GRID),
        "differing": (images, exits),
        "size": (images,),
    }


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None, kind: type[np.generic]) -> npt.NDArray[Any]:
    """An array of this type and shape (None: of one dimension); its header is read first, and of its data no more than fits."""
    member = f"{name}.npy"
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise _Unfit(f"{name} has version {version} of NumPy's format, wanted 1 or 2")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        got, _, dtype = read_header(file, max_header_size=LARGEST_HEADER)
    size = math.prod(got) * dtype.itemsize
    fits = got == shape if shape else len(got) == 1 and size <= LARGEST_JSON
    wanted = f"{np.dtype(kind)} {shape or f'of one dimension and at most {LARGEST_JSON / 1e6:g} MB'}"
    if not fits or dtype != kind:
        raise _Unfit(f"{name} is {dtype} {got}, wanted {wanted}")
    if not 0 <= archive.getinfo(member).file_size - size <= LARGEST_HEADER:
        raise _Unfit(f"{name} has {archive.getinfo(member).file_size} bytes, wanted {wanted}")
    with archive.open(member) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False, max_header_size=LARGEST_HEADER))


def _require_possible(arrays: dict[str, Counts], path: Path) -> None:
    """Counts are none below zero, and of no more pixels than there are."""
    correct, predicted, labelled, sure = (arrays[name] for name in ARRAYS[:4])
    impossible = {
        **{f"{name} holds a negative number": (arrays[name] < 0).any() for name in ARRAYS},
        **{f"{name} holds a number beyond 2^40": (arrays[name] > 1 << 40).any() for name in ARRAYS},
        "more pixels are correct than were predicted": (correct > predicted).any(),
        "more pixels are correct than are labelled": (correct > labelled[:, None]).any(),
        "more pixels are sure than a region has": (sure > sure[..., :1]).any(),
        "more pixels differ than an image has": (arrays["differing"] > arrays["size"][:, None]).any(),
    }
    for what, found in impossible.items():
        if found:
            raise InputError(f"damaged records {path}: {what}; evaluate again")
