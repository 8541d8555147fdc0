"""The study's trainings: what is trained on which data by which recipe, one name each.

All share one recipe (`RECIPE`): AdamW, crops of 320x320, scale 0.7 to 1.8, flips and colour, weighted cross-entropy, the
same number of epochs. What differs between two rows is what their names say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOBILENET, RESNET = "mobilenetv2_100", "resnet50"
WEIGHTS = {MOBILENET: "mobilenetv2_100.safetensors", RESNET: "resnet50_v1_fp16.safetensors"}
"""ImageNet weights of the backbones, in the folder that the command names."""

EPOCHS = 40
RECIPE = {"exit_epochs": 0, "validate_every": 25, "train_images": 0}

SKIP_FINAL = "skip/c128/r2/b2/d"
"""The best final head of those that were tried on CamVid (docs/training.md)."""


THIRD_PARTY = ("DeepLabV3Plus", "FPN", "Unet", "Linknet")
"""Architectures of segmentation-models-pytorch."""


@dataclass(frozen=True)
class StudyRun:
    """One training."""

    data: str
    network: str
    choice: dict[str, Any]
    """Fields of `NetworkChoice`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of `TrainingSpec` beside the recipe's."""
    epochs: float = 1.0
    """So many times the recipe's epochs."""
    encoder: str | None = None
    """Of a network that is no backbone: the part that takes ImageNet weights."""


def _original(data: str, network: str, final_head: str, stride: int, **training: Any) -> StudyRun:
    return StudyRun(data, network, _backbone(network, final_head, stride, exits=0), {"scheme": "final-only", **training})


def _exits(data: str, network: str, final_head: str, stride: int, *, epochs: float = 1.0, **training: Any) -> StudyRun:
    choice = _backbone(network, final_head, stride, exits=6) | {"heads": ("skip",)}
    return StudyRun(data, network, choice, {"scheme": "joint", **training}, epochs)


def _backbone(network: str, final_head: str, stride: int, *, exits: int) -> dict[str, Any]:
    return {"network": network, "output_stride": stride, "final_head": final_head, "exits": exits}


def _third_party(architecture: str, rate: float) -> StudyRun:
    choice = {"network": f"smp:{architecture}/tu-{MOBILENET}", "exits": 0}
    training = {"scheme": "final-only", "learning_rate": rate, "backbone_rate": 1.0}
    return StudyRun("camvid", MOBILENET, choice, training, encoder="encoder.model")


RUNS: dict[str, StudyRun] = {
    # The paper's own contest: exits on dilated networks.
    **{
        f"{short}-os8-{head}{suffix}": make("camvid", network, f"{head}/c256", 8)
        for short, network in (("r50", RESNET), ("mnv2", MOBILENET))
        for head in ("fcn", "deeplab")
        for suffix, make in (("-exits", _exits), ("", _original))
    },
    # The same with other seeds; those without a number have seed 0.
    **{
        f"{short}-os8-fcn{suffix}-seed{seed}": make("camvid", network, "fcn/c256", 8, seed=seed)
        for short, network in (("r50", RESNET), ("mnv2", MOBILENET))
        for suffix, make in (("-exits", _exits), ("", _original))
        for seed in (1, 2)
    },
    # Exits on efficient networks, three seeds.
    **{
        f"mnv2-os{stride}-skip{suffix}-seed{seed}": make("camvid", MOBILENET, SKIP_FINAL, stride, seed=seed)
        for stride in (16, 32)
        for suffix, make in (("-exits", _exits), ("", _original))
        for seed in (0, 1, 2)
    },
    **{
        f"r50-os{stride}-skip{suffix}": make("camvid", RESNET, SKIP_FINAL, stride)
        for stride in (16, 32)
        for suffix, make in (("-exits", _exits), ("", _original))
    },
    # What a user would pick today. Decoders are new, encoders are trained: two rates each, the better one on val counts.
    **{f"{architecture.lower()}-0.001": _third_party(architecture, 1e-3) for architecture in THIRD_PARTY},
    "mnv2-os16-fcn": _original("camvid", MOBILENET, "fcn/c256", 16),
    "mnv2-os16-lraspp": _original("camvid", MOBILENET, "lraspp", 16),
    # Diverse scenes.
    "msrc-mnv2-os16-skip-exits": _exits("msrc_v2", MOBILENET, SKIP_FINAL, 16),
    "msrc-mnv2-os16-skip": _original("msrc_v2", MOBILENET, SKIP_FINAL, 16),
    "msrc-r50-os16-skip-exits": _exits("msrc_v2", RESNET, SKIP_FINAL, 16),
    "msrc-r50-os16-skip": _original("msrc_v2", RESNET, SKIP_FINAL, 16),
    # Longer, and with averaged weights.
    "mnv2-os16-skip-exits-long": _exits("camvid", MOBILENET, SKIP_FINAL, 16, epochs=2.0, averaging=0.999),
    "r50-os16-skip-exits-long": _exits("camvid", RESNET, SKIP_FINAL, 16, epochs=2.0, averaging=0.999),
    # Two-phase against joint, at as many epochs and at twice as many, which is about equal time.
    "mnv2-os16-skip-two-phase": _exits("camvid", MOBILENET, SKIP_FINAL, 16, scheme="two-phase", exit_epochs=12),
    "mnv2-os16-skip-two-phase-double": _exits(
        "camvid", MOBILENET, SKIP_FINAL, 16, epochs=2.0, scheme="two-phase", exit_epochs=24
    ),
    **{f"{architecture.lower()}-0.0005": _third_party(architecture, 5e-4) for architecture in THIRD_PARTY},
}
"""By name, in the order in which they are trained."""
