"""Tasks on a Ray cluster: of this machine alone, or of many that see the same folders. Only who asks for it imports Ray.

Nothing here distributes work: Ray places tasks, and starts one again whose worker or machine died. Ray sends tasks as pickles
between processes that trust each other; none is written to a file.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

from offramp.errors import InputError
from offramp.tasks import Each, attempt

LOCAL = "local"
LEAST_WORKERS = 2
RETRIES = 5
"""So often a task is started again whose worker died; one that dies so often brings it about itself."""
PATIENCE_S = 10.0

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray is going to do anyway; otherwise it warns
}
"""For Ray, unless the user has set them."""


@contextmanager
def on_ray(address: str, *, gpu: bool = False) -> Iterator[Each]:
    """Start a cluster of this machine's processors, or join the one at an address; give what runs tasks there.

    Args:
        address: `local`; or HOST:PORT of a cluster, whose machines must see the same files under the same names and have
            Offramp installed; or what else `ray.init` takes.
        gpu: whether each task takes a GPU for itself, if the cluster has any.

    Raises:
        InputError: there is no cluster at that address.

    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray  # noqa: PLC0415 - optional, and heavy

    options: dict[str, Any] = {"include_dashboard": False, "num_cpus": max(LEAST_WORKERS, os.cpu_count() or 1)}
    if address != LOCAL:
        _require_listener(address)
        options = {"address": address}
    # Ray tells of dead workers on standard output, which is for results.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"no Ray cluster at {address}: {error}; give HOST:PORT of one, or local") from error
        try:
            yield partial(_each, gpu=gpu)
        finally:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray would wait for minutes and then end the process."""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}; give HOST:PORT of one, or local") from error


def _each(task: Callable[[str], None], keys: Sequence[str], *, gpu: bool) -> Iterator[tuple[str, str | None]]:
    """The `Each` of the cluster."""
    import ray  # noqa: PLC0415 - as above

    remote = ray.remote(attempt).options(max_retries=RETRIES, **_share(len(keys), gpu=gpu))
    running = {remote.remote(task, key): key for key in keys}
    try:
        while running:
            for ended in ray.wait(list(running), num_returns=1)[0]:
                yield running.pop(ended), _outcome(ended)
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _outcome(ended: Any) -> str | None:
    """What `attempt` said; or why Ray could not run it."""
    import ray  # noqa: PLC0415 - as above

    said: str | None
    try:
        said = ray.get(ended)
    except ray.exceptions.RayError as error:  # of the cluster: what the task itself raised is told by `attempt`
        said = " ".join(f"the cluster could not run it: {error}".split())
    return said


def _share(tasks: int, *, gpu: bool) -> dict[str, int]:
    """What each of so many tasks is given: an even share of the processors that one machine has, at least one; and a GPU."""
    import ray  # noqa: PLC0415 - as above

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    processors = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    gpus = gpu and any(machine.get("GPU", 0) >= 1 for machine in machines)
    share = min(min(processors, default=1), sum(processors) // max(1, tasks))
    return {"num_cpus": max(1, share)} | ({"num_gpus": 1} if gpus else {})
