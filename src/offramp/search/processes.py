"""A large search shared by processes, each of which judges the next policy with what all have found by then.

Threads would wait for each other: between small matrix products there is much Python.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Protocol

from offramp.search.estimate import Batch
from offramp.search.staircase import Staircase

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
Found = tuple[Batch | None, int]
"""What is kept of a policy's candidates, and how many were judged one by one."""


class Task(Protocol):
    """What a process is started with."""

    def judge(self, index: int, stairs: Staircase) -> Found:
        """Judge one policy."""


_task: Task
"""Of this process, where it is one of several."""


def in_processes(task: Task, policies: int, stairs: Staircase, workers: int, done: Callable[[int, Found], None]) -> None:
    """Judge all policies.

    Args:
        task: judges one; is sent to each process.
        policies: how many there are.
        stairs: what must be beaten; it rises on the way.
        workers: processes.
        done: told of each policy, in the order in which they end.

    """

    def begun(index: int) -> Future[Found]:
        # A copy: it is sent from another thread, while the steps rise here.
        return pool.submit(_judge, index, deepcopy(stairs))

    with _one_thread_each(), ProcessPoolExecutor(workers, get_context("spawn"), _take, (task,)) as pool:
        try:
            waiting = iter(range(policies))
            running = {begun(index): index for index in islice(waiting, workers)}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    batch, judged = future.result()
                    done(running.pop(future), (None if batch is None else stairs.offer(batch), judged))
                    for index in islice(waiting, 1):
                        running[begun(index)] = index
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take(task: Task) -> None:
    global _task  # noqa: PLW0603 - what a process is started with
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """End where the first process was killed: nothing else would tell the others, who wait for work for ever."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _judge(index: int, stairs: Staircase) -> Found:
    return _task.judge(index, stairs)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started within take one thread for their matrix products."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
