"""Random scale, crop, flip and colour for training, by torchvision; reproducible for each image of each epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from offramp import torchvision_import  # noqa: F401 - torchvision may need help to import
from offramp.data.folder import Split
from offramp.metrics import VOID

from torchvision import tv_tensors  # isort: skip
from torchvision.transforms import v2  # isort: skip

CACHE_BYTES = 2 << 30
"""Decoded images are kept in memory while all of a split fit into this."""


class Crops(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random crops of a split: images (3, h, w) uint8 and labels (h, w) int64 with VOID for void.

    What an index gives depends on `seed`, the epoch and the index alone, not on the order of calls or the number of workers:
    a resumed run sees what the uninterrupted one would have seen.
    """

    def __init__(self, split: Split, width: int, height: int, zoom: tuple[float, float], seed: int) -> None:
        self.split = split
        self.zoom = zoom
        self.seed = seed
        self.epoch = 0
        self._cut = v2.Compose(
            [
                v2.RandomCrop(
                    (height, width), pad_if_needed=True, fill={tv_tensors.Image: 114, tv_tensors.Mask: VOID, "others": 0}
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
            ]
        )
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = self._decoded(index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]))
            # Uniform in the logarithm: twice as large is as likely as half as large.
            low, high = np.log(self.zoom[0]), np.log(self.zoom[1])
            zoom = float(np.exp(low + (high - low) * torch.rand(()).item()))
            size = [max(1, round(side * zoom)) for side in labels.shape]
            large = v2.functional.resize(tv_tensors.Image(image), size, antialias=True)
            mask = v2.functional.resize(tv_tensors.Mask(labels), size, interpolation=v2.InterpolationMode.NEAREST_EXACT)
            large, mask = self._cut(large, mask)
        return torch.Tensor(large.float()), mask.as_subclass(torch.Tensor).long()

    def _decoded(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index in self._cache:
            return self._cache[index]
        pixels, values = self.split.pair(index)
        image, labels = torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(values)
        self._cached_bytes += image.numel() + labels.numel()
        if self._cached_bytes <= CACHE_BYTES:
            self._cache[index] = (image, labels)
        return image, labels
