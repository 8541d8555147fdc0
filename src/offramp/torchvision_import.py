"""Import torchvision beside a CPU-only torch.

The torchvision that package indices offer for Linux is linked to CUDA. Beside a CPU build of torch its C++ operators do not
load, and its import fails on the first of their names (`operator torchvision::nms does not exist`), though nothing here uses
them. Declaring the two operators' schemas is enough for everything written in Python to work; `ops.nms` and `torchvision.io`
still do not. Where torchvision's own operators load, nothing is declared.
"""

from __future__ import annotations

import importlib
import sys

import torch

_kept_alive: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision, declaring its operators first where they cannot be loaded."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    operators = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _kept_alive.append(operators)  # the declarations last as long as this object
    importlib.import_module("torchvision")  # again, now that the names exist


import_torchvision()
