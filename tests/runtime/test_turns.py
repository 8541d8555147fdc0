"""A lock that a forked process does not wait for without end."""

import multiprocessing
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from offramp.runtime.turns import Turns


def test_one_at_a_time():
    turns, inside, most = Turns(), [], []

    def work(number):
        with turns:
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(16)))
    assert most == [1] * 16


def test_an_error_gives_the_turn_to_the_next():
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns:
        raise ValueError("broken")
    with turns:
        pass


def in_a_fork(call):
    """What a call says in a process that is forked now."""
    context = multiprocessing.get_context("fork")
    said = context.Queue()

    def work():
        try:
            said.put(call())
        except RuntimeError as error:
            said.put(str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is the point
        process = context.Process(target=work)
        process.start()
    try:
        return said.get(timeout=30)
    finally:
        process.kill()
        process.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_between_turns_works_and_one_within_a_turn_is_told():
    turns = Turns()

    def twice():
        for _ in range(2):
            with turns:
                pass
        return "done"

    assert in_a_fork(twice) == "done"
    with turns:
        assert "forked while another thread's image was being answered" in in_a_fork(twice)
    assert in_a_fork(twice) == "done"
