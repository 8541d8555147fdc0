"""Named recipes: what they build, and names that nobody knows."""

import pytest
import torch

from offramp import torchvision_import  # noqa: F401 - torchvision may need help before anything imports it
from offramp.errors import InputError
from offramp.models.recipes import RECIPES, find_recipe
from offramp.models.sources import build, full_name
from offramp.specs import HeadSpec

import timm  # isort: skip

MESS = {
    "dilated-resnet50": ("timm:resnet50", "fcn", 512),
    "dilated-resnet50-deeplab": ("timm:resnet50", "deeplab", 256),
    "dilated-mobilenetv2": ("timm:mobilenetv2_100", "fcn", 256),
    "dilated-mobilenetv2-deeplab": ("timm:mobilenetv2_100", "deeplab", 256),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_network_that_is_there(name):
    recipe = RECIPES[name]
    assert full_name(recipe.network) == recipe.network
    assert recipe.network.removeprefix("timm:") in timm.list_models()
    assert recipe.note
    assert "\n" not in recipe.note


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipes_deepest_map_is_at_its_output_stride(name):
    recipe = RECIPES[name]
    with torch.no_grad():
        deepest = build(recipe.network, 11, output_stride=recipe.output_stride).network.eval()(torch.zeros(1, 3, 64, 96))[-1]
    assert deepest.shape[2:] == (64 // recipe.output_stride, 96 // recipe.output_stride)


@pytest.mark.parametrize("name", MESS)
def test_the_papers_networks_are_dilated(name):
    recipe = find_recipe(name)
    network, kind, channels = MESS[name]
    assert (recipe.network, recipe.output_stride) == (network, 8)
    assert recipe.final_head == HeadSpec(kind=kind, channels=channels)


def test_the_efficient_ones_are_at_stride_16():
    others = [recipe for name, recipe in RECIPES.items() if name not in MESS]
    assert len(others) == 3
    assert {recipe.output_stride for recipe in others} == {16}
    assert {recipe.final_head for recipe in others} == {HeadSpec.parse("lraspp")}


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(InputError, match=r"no recipe is called 'dilated-resnet'; near it: dilated-resnet50"):
        find_recipe("dilated-resnet")
    with pytest.raises(InputError, match=r"no recipe is called 'zzz'; there are: dilated-resnet50, .*efficient-efficientnet$"):
        find_recipe("zzz")
