"""The candidates are the ones that were promised, each once."""

import math

import numpy as np
import pytest

from offramp.policy import GRID
from offramp.search.space import QUANTILES, Block, all_subsets, blocks, paths, threshold_table
from offramp.specs import REGIONS


def test_paths_are_all_choices_of_exits_with_one_behind():
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert paths(4, 2) == [*pairs, (0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]


@pytest.mark.parametrize("max_exits", [1, 3])
def test_a_network_with_fewer_exits_than_allowed_has_what_it_has(max_exits):
    assert paths(2, max_exits) == [(0, 1)]
    assert paths(1, max_exits) == []


def test_all_subsets_of_three():
    assert all_subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_thresholds_are_scores_that_occurred_from_above_the_lowest_to_the_highest():
    scores = np.random.default_rng(0).uniform(0, 1, (len(REGIONS), GRID, 40, 2))
    table = threshold_table(scores)
    assert table.shape == (len(REGIONS), GRID, QUANTILES, 2)
    for region, index, place in [(0, 1, 0), (2, 31, 1)]:
        column, tried = scores[region, index, :, place], table[region, index, :, place]
        assert set(tried) <= set(column)
        assert tried.tolist() == sorted(set(tried.tolist()))
        assert (tried[0], tried[-1]) == (sorted(column)[math.ceil(39 / 16)], column.max())


def test_blocks_are_each_region_and_each_pixel_threshold_that_tells_pixels_apart():
    table = threshold_table(np.random.default_rng(0).uniform(0, 1, (len(REGIONS), GRID, 40, 3)))
    found = list(blocks((0, 1, 2), table))
    assert [(block.region, block.pixel_threshold) for block in found] == [
        (region, index) for region in (0, 1, 2) for index in range(1, 32)
    ]
    assert {block.size for block in found} == {16 * 16}


def test_a_threshold_that_repeats_is_tried_once():
    table = threshold_table(np.ones((len(REGIONS), GRID, 40, 2)))
    assert {block.size for block in blocks((0, 1), table)} == {1}


def test_candidates_of_a_block_are_counted_with_the_first_exit_varying_slowest():
    block = Block((0, 1, 2), 0, 1, (np.array([0.1, 0.2]), np.array([0.5, 0.6, 0.7])))
    assert [block.thresholds_of(index) for index in range(block.size)] == [
        (0.1, 0.5),
        (0.1, 0.6),
        (0.1, 0.7),
        (0.2, 0.5),
        (0.2, 0.6),
        (0.2, 0.7),
    ]
