"""Records: what every exit answered, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from offramp.artifacts.base import Artifact, Provenance
from offramp.doors import as_path, checked_call
from offramp.errors import InputError
from offramp.files import new_file
from offramp.metrics import Counts
from offramp.policy import GRID
from offramp.specs import REGIONS, EngineName, Precision, explain
from offramp.targets import RECORDS, require_file_target


class RecordsInfo(Artifact):
    """The descriptive part of records."""

    kind: Literal["records"] = "records"
    package_id: str
    split: str
    data_fingerprint: str
    classes: tuple[str, ...]
    exits: tuple[str, ...]
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

    Raises:
        InputError: missing, damaged, of another version.

    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            info = RecordsInfo.model_validate_json(archive["info"].tobytes())
            arrays = {name: np.asarray(archive[name]) for name in ARRAYS}  # a member that is no array comes as bytes
    except OSError as error:
        raise InputError(f"cannot read the records {path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise InputError(f"damaged records {path}: {explain(error)}; evaluate again") from error
    except Exception as error:
        # Damaged bytes bring out whatever numpy, zipfile, zlib and tokenize happen to raise: eight types were seen.
        raise InputError(f"not records: {path} ({error}); make them with offramp evaluate") from error
    images, exits, classes = len(info.images), len(info.exits), len(info.classes)
    shapes = {
        "correct": (images, exits, classes),
        "predicted": (images, exits, classes),
        "labelled": (images, classes),
        "sure": (images, exits, len(REGIONS), GRID),
        "differing": (images, exits),
        "size": (images,),
    }
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.int64 or (array < 0).any():
            raise InputError(
                f"damaged records {path}: {name} is {array.dtype} {array.shape}, wanted int64 {shape}; evaluate again"
            )
    return Records(info, **arrays)
