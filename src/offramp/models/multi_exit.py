"""The multi-exit network: any segmentation network or backbone, taps on its modules, a head on each tap.

Taps are forward hooks: the network is not rewritten, its state dict keeps its names, and any `nn.Module` serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from offramp.errors import InputError
from offramp.models.feature_maps import Layout, main_tensor, read_answer, stride_of
from offramp.models.heads import FeatureShape, Head, HeadFigures, build_head, measure_head
from offramp.models.narrowing import narrow
from offramp.specs import FINAL, HeadSpec, NetworkSpec, PrunedHead, Size


@dataclass(frozen=True)
class Wiring:
    """How the maps that exits need are held by the network's modules, and what it gives at its end."""

    taps: dict[str, Layout]
    """Of every tap, those of skips included."""
    final: Layout
    """Of the network's own class scores, or of a backbone's deepest feature map."""

    def shape(self, tap: str) -> FeatureShape:
        """Channels and stride of a tap's map; FINAL is the network's end."""
        layout = self.final if tap == FINAL else self.taps[tap]
        return FeatureShape(layout.channels, layout.stride)


class MultiExitNetwork(nn.Module):
    """A segmentation network that can answer at several depths."""

    def __init__(self, backbone: nn.Module, spec: NetworkSpec, wiring: Wiring) -> None:
        """Attach the heads; see `attach.attach_exits`, which finds the wiring.

        Args:
            backbone: the network. It stays the object that it was, with hooks on the modules that are tapped.
            spec: final head, if it needs one, and early exits, in order of depth.
            wiring: of the network's output and of every tap that the spec names.

        Raises:
            InputError: a head cannot stand on the maps that it is given.

        """
        super().__init__()
        self.spec = spec
        self.wiring = wiring
        self.backbone = backbone
        last = spec.final_head
        self.final_head = None if last is None else self._build_head(last, FINAL, spec.final_skip, spec.final_pruned)
        self.early_heads = nn.ModuleList(self._build_head(one.head, one.tap, one.skip, one.pruned) for one in spec.exits)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(1, 3, 1, 1), persistent=False)
        self._tapped: dict[str, torch.Tensor] = {}
        self._hooks = [backbone.get_submodule(tap).register_forward_hook(partial(self._keep, tap)) for tap in wiring.taps]

    def _build_head(self, head: HeadSpec, tap: str, skip: str | None, pruned: PrunedHead | None) -> Head:
        features, below = self.wiring.shape(tap), None if skip is None else self.wiring.shape(skip)
        if pruned is None:
            return build_head(head, self.spec.num_classes, features, below)
        features = FeatureShape(pruned.features, features.stride)
        below = None if below is None else FeatureShape(pruned.skip or below.channels, below.stride)
        built = build_head(head, self.spec.num_classes, features, below)
        narrow(built, pruned.widths)
        return built

    def _keep(self, tap: str, _module: nn.Module, _inputs: object, output: object) -> None:
        tensor = main_tensor(output)
        assert tensor is not None
        self._tapped[tap] = tensor

    def detach(self) -> nn.Module:
        """Give the network back as it came, without exits; this wrapper is of no use afterwards."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        return self.backbone

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the network on RGB images (N, 3, H, W) with values in [0, 255].

        Returns:
            The map of every tap, and as FINAL's the network's own class scores or, of a backbone, its deepest map; each
            (N, C, ceil(H / stride), ceil(W / stride)).

        """
        if not isinstance(images, torch.Tensor) or images.dim() != 4 or images.shape[1] != 3:
            got = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
            raise InputError(f"images must be a tensor (N, 3, H, W) with values in [0, 255], got {got}")
        height, width = images.shape[2:]
        normalised = (images / 255.0 - self.mean) / self.std
        below, beside = -height % self.spec.multiple, -width % self.spec.multiple
        if below or beside:
            normalised = functional.pad(normalised, (0, beside, 0, below))
        answer = read_answer(self.backbone(normalised))
        assert answer is not None
        raw = {**self._tapped, FINAL: answer.tensor}
        self._tapped.clear()
        maps = {}
        for tap, tensor in raw.items():
            layout = self.wiring.final if tap == FINAL else self.wiring.taps[tap]
            whole = layout.as_map(tensor, height + below, width + beside)
            rows, columns = layout.cells(height, width)
            # What lies beyond the image's edge alone is cut off again.
            maps[tap] = whole if tuple(whole.shape[2:]) == (rows, columns) else whole[..., :rows, :columns]
        return maps

    def answer(self, features: dict[str, torch.Tensor], exits: Sequence[str]) -> dict[str, torch.Tensor]:
        """Class scores (N, C, h, w) of the exits asked for, each at its head's resolution."""
        heads = {early.name: (head, early) for early, head in zip(self.spec.exits, self.early_heads, strict=True)}
        unknown = [name for name in exits if name != FINAL and name not in heads]
        if unknown or isinstance(exits, str):
            raise InputError(f"exits are a list of names of {', '.join(self.spec.exit_names)}; got {exits}")
        if not self._hooks and set(exits) - {FINAL}:
            raise InputError("the exits were detached from this network; attach them again")
        scores = {}
        for name in exits:
            if name == FINAL:
                scores[name] = self._final(features)
            else:
                head, early = heads[name]
                scores[name] = head(features[early.tap], features[early.skip] if early.skip else None)
        return scores

    def _final(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        deepest = features[FINAL]
        if self.final_head is not None:
            skip = self.spec.final_skip
            return self.final_head(deepest, features[skip] if skip else None)  # type: ignore[no-any-return]
        if deepest.shape[1] == 1:
            # One channel whose sigmoid is the probability of class 1 is the same as these two classes' softmax.
            return torch.cat([torch.zeros_like(deepest), deepest], dim=1)
        return deepest

    def figures(self, exit_name: str, size: Size) -> HeadFigures | None:
        """What an exit's head costs and sees for images of `size` (width, height); None for the network's own final exit."""
        head, tap, skip = next(
            (
                (head, early.tap, early.skip)
                for early, head in zip(self.spec.exits, self.early_heads, strict=True)
                if early.name == exit_name
            ),
            (self.final_head, FINAL, self.spec.final_skip),
        )
        if head is None:
            return None
        assert isinstance(head, Head)
        return measure_head(head, self.wiring.shape(tap), self.wiring.shape(skip) if skip else None, size)

    def tap_of(self, exit_name: str) -> str:
        """The tap behind which an exit can answer; FINAL's is the network's end."""
        return next((early.tap for early in self.spec.exits if early.name == exit_name), FINAL)

    def stride(self, scores: torch.Tensor, height: int) -> int:
        """Input pixels per pixel of class scores (N, C, h, w) that came from images of this height."""
        return stride_of(scores.shape[2], height)

    def forward(self, images: torch.Tensor, exits: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Class scores of `exits` (all by default) for RGB images (N, 3, H, W) with values in [0, 255]."""
        return self.answer(self.features(images), self.spec.exit_names if exits is None else exits)
