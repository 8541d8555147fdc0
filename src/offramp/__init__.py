"""Offramp: multi-exit semantic segmentation, from a folder of labelled images to a budget in milliseconds.

Importing this package imports neither torch nor an inference engine; `Predictor` is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.runtime.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from offramp.runtime.predictor import Predictor  # noqa: PLC0415 - lazily, so that the import stays light

        return Predictor
    raise AttributeError(f"module 'offramp' has no attribute {name!r}")
