"""RUN/run.json: what a run was asked for, which is all that is needed to go on with it, besides its state."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from offramp.errors import InputError
from offramp.files import new_file, read_json
from offramp.specs import NetworkChoice, NetworkSpec, Spec, TrainingSpec, explain

RUN = "run.json"


class RunFile(Spec):
    """What a run was asked to do: enough to go on with it."""

    kind: Literal["run"] = "run"
    format: Literal[2] = 2
    data: str
    data_fingerprint: str
    weights_sha256: str | None
    """Of the file of weights that it began with, if one was given."""
    start_sha256: str | None = None
    """Of the weights of the run that it began with, if one was given."""
    choice: NetworkChoice
    network: NetworkSpec
    training: TrainingSpec

    @property
    def pretrained(self) -> bool:
        """Whether it began with trained weights."""
        return self.weights_sha256 is not None or self.start_sha256 is not None

    def save(self, run: Path) -> None:
        """Write RUN/run.json."""
        with new_file(run / RUN) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_run(run: Path) -> RunFile | None:
    """What the run in that folder was asked to do; None where no run is. Raises InputError if it is damaged."""
    return load_run(run) if (run / RUN).exists() else None


def load_run(run: Path) -> RunFile:
    """What the run in that folder was asked to do. Raises InputError if it is damaged, or none is there."""
    path = run / RUN
    if not path.exists():
        raise InputError(f"cannot read {path} (no such file); all processes must see the run's folder")
    raw = read_json(path, "run", mend="remove the folder and train again")
    try:
        return RunFile.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"damaged {path}: {explain(error)}; remove the folder and train again") from error
