"""Networks that no exit is attached to, whatever their shapes."""

import pytest
import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.acceptance import require_float32, require_numbers, require_unit_scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_float32(dtype):
    require_float32(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LazyConv2d(4, 1)))
    with pytest.raises(InputError, match=f"0.weight is {str(dtype)[6:]}, and images come as float32; call network.float"):
        require_float32(nn.Sequential(nn.Conv2d(3, 4, 1, dtype=dtype)))


def test_weights_have_values():
    with pytest.raises(InputError, match="no values in weight"):
        require_float32(nn.Conv2d(3, 4, 1, device="meta"))


def test_an_answer_is_of_finite_numbers():
    require_numbers(torch.zeros(1, 4, 2, 2))
    require_numbers(torch.zeros(1, 4, 2, 2).half())
    for wrong in (torch.tensor([1]), torch.tensor([True]), torch.tensor([1j])):
        with pytest.raises(InputError, match=f"gives {str(wrong.dtype)[6:]} values"):
            require_numbers(wrong)
    with pytest.raises(InputError, match="gives NaN for a blank image"):
        require_numbers(torch.tensor([0.0, float("nan")]))


def test_a_normalisation_is_of_values_from_0_to_1():
    require_unit_scale((0.0, 0.5, 1.0), (1.0, 0.5, 1 / 255))
    for mean, std, said in (
        ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), "mean must be three numbers from 0 to 1"),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), "std must be three numbers above 0 to 1"),
        ((0.5, 0.5, 0.5), (0.5, -0.5, 0.5), "std must be"),
        ((0.5, 0.5), (0.5, 0.5, 0.5), "mean must be"),
        ((float("nan"),) * 3, (0.5, 0.5, 0.5), "mean must be"),
        ("imagenet", (0.5, 0.5, 0.5), "mean must be"),
    ):
        with pytest.raises(InputError, match=said):
            require_unit_scale(mean, std)
