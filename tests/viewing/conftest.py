"""A page over the decided package, served for real, and requests to it."""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from threading import Thread
from typing import NamedTuple

import numpy as np
import pytest

from offramp.runtime.predictor import Predictor
from offramp.viewing.server import JSON, Viewer
from offramp.viewing.session import Session


class Reply(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Served:
    """A server that runs, and ways to ask it."""

    viewer: Viewer

    @property
    def token(self):
        return self.viewer.token

    @property
    def port(self):
        return self.viewer.server_port

    def request(self, door, *, method="GET", body=None, headers=(), path=None):
        """Ask as a program would; headers that are None are left out."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path or f"/{self.token}/{door}", skip_host=True, skip_accept_encoding=True)
            given = {"Host": f"127.0.0.1:{self.port}"}
            if body is not None:
                given["Content-Length"] = str(len(body))
            for name, value in (given | dict(headers)).items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def ask(self, **values):
        body = json.dumps({"mode": "budgeted", "exits": ["final"], **values}).encode()
        return self.request("answer", method="POST", body=body, headers={"Content-Type": JSON})


@contextmanager
def serving(package, source=None):
    viewer = Viewer(Session(Predictor(package, threads=1, every_exit=True), source))
    thread = Thread(target=viewer.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Served(viewer)
    finally:
        viewer.shutdown()
        viewer.server_close()
        thread.join()


@pytest.fixture(scope="session")
def images(scenes):
    return scenes / "test" / "images"


@pytest.fixture(scope="session")
def served(decided_package, images):
    """Shared by all tests that only ask; each brings its own image and plan."""
    with serving(decided_package, images) as running:
        yield running


@pytest.fixture
def serve():
    """Serve another package or input."""
    with ExitStack() as running:
        yield lambda package, source=None: running.enter_context(serving(package, source))


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """Six frames, a tenth of a second each, frame i of grey 40 * i."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "drive.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
