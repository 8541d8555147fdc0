"""The network in the box: a trained package, so that `offramp run` has something to show before there is one of one's own.

MobileNetV2 at output stride 16 with `skip` heads, trained on CamVid by the study (`benchmarks/study`, the run
`mnv2-os16-skip-exits-seed0`) and lowered to int8; two of its seven exits, chosen on `val` by `benchmarks/approximations.py`
("exits, int8: by image").
"""

from __future__ import annotations

from pathlib import Path

ABOUT = (
    "the network in the box: MobileNetV2 with an early exit, int8, 480x360; trained on the 367 street images of CamVid's "
    "training split, 65.2 % mIoU over 11 classes on its test split; of other streets, cameras and weathers it knows nothing. "
    "CamVid is for research use, and so is this network"
)
"""What is said where it is used."""


def boxed_package() -> Path:
    """The package's folder."""
    return Path(__file__).parent
