"""A network of two early exits on two classes, small enough to train in a test, and images drawn for it."""

import numpy as np
import pytest
import torch

from offramp.specs import ExitSpec, HeadSpec, NetworkSpec, TrainingSpec

HEAD = HeadSpec(channels=4)
TINY = NetworkSpec(
    network="timm:test_efficientnet",
    output_stride=16,
    num_classes=2,
    input_size=(48, 32),
    final_head=HEAD,
    exits=tuple(ExitSpec(tap=tap, head=HEAD) for tap in ("blocks.1.0", "blocks.2.0", "blocks.3.0")),
)


class HalfAndHalf:
    """Four images of 32x48, dark above and light below."""

    def __len__(self):
        return 4

    def pair(self, index):
        rng = np.random.default_rng(index)
        labels = np.repeat((np.arange(32) > 8 + 4 * index).astype(np.uint8)[:, None], 48, axis=1)
        image = (labels * 120 + 40)[..., None] + rng.integers(0, 40, (32, 48, 3))
        return image.astype(np.uint8), labels


@pytest.fixture
def split():
    return HalfAndHalf()


@pytest.fixture
def network():
    from offramp.models.attach import build_network

    torch.manual_seed(0)
    return build_network(TINY)


@pytest.fixture
def batch(split):
    pairs = [split.pair(index) for index in range(4)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image, _ in pairs])
    return images, torch.stack([torch.from_numpy(labels).long() for _, labels in pairs])


@pytest.fixture
def begin(scenes):
    """One epoch, or two, on another tiny network: from a folder and what differs to the network that was trained."""
    from offramp.models.checkpoint import load_network
    from offramp.training.train import train

    quick = TrainingSpec(epochs=1, exit_epochs=0, crop=(48, 32), batch_size=4, seed=11)

    def begun(run, **changes):
        options = {key: changes.pop(key) for key in ("start", "exits", "heads", "taps", "final_head") if key in changes}
        train(scenes, run, network="test_efficientnet", training=quick.model_copy(update=changes), **({"exits": 2} | options))
        return load_network(run)[0]

    return begun
