"""The doors: who may ask, what is answered, and what is sent back, by real requests."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from offramp.errors import InputError
from offramp.viewing.server import IMAGE, JSON, LARGEST, Viewer

PNG = {"Content-Type": IMAGE}


def png(width=24, height=16):
    written = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(written, format="PNG")
    return written.getvalue()


def test_the_page_and_its_parts_are_there(served):
    kinds = {"": "text/html", "view.js": "text/javascript", "view.css": "text/css", "facts": "application/json"}
    for door, kind in kinds.items():
        reply = served.request(door)
        assert (reply.status, reply.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert [exit_["name"] for exit_ in reply.json["exits"]][-1] == "final"


def test_every_reply_says_how_a_browser_must_treat_it(served):
    for reply in (served.request(""), served.request("nothing"), served.request("", method="DELETE")):
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert not any(name.lower().startswith("access-control") for name in reply.headers)


def test_listens_on_the_loopback_address_alone(served):
    assert served.viewer.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("door", ["", "facts", "view.js"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", "", None]
)
def test_another_name_for_this_machine_is_refused(served, door, host):
    host = host and host.format(port=served.port)
    reply = served.request(door, headers={"Host": host})
    assert reply.status == 403
    assert served.token.encode() not in reply.body


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://localhost:{port}"]
)
@pytest.mark.parametrize("door", ["image", "answer", "facts"])
def test_another_page_is_refused(served, door, origin):
    before = served.ask(index=0).json["number"]
    headers = {"Origin": origin.format(port=served.port), **PNG}
    reply = served.request(door, method="GET" if door == "facts" else "POST", body=png(), headers=headers)
    assert reply.status == 403
    assert served.ask().json["number"] == before, "no other image is shown"


def test_another_site_is_refused_though_it_hides_its_origin(served):
    assert served.request("facts", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert served.request("facts", headers={"Sec-Fetch-Site": "same-site"}).status == 403
    assert served.request("facts", headers={"Sec-Fetch-Site": "same-origin"}).status == 200


def test_the_own_page_is_answered_by_either_name(served):
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{served.port}"
        assert served.request("facts", headers={"Host": own, "Origin": f"http://{own}"}).status == 200


@pytest.mark.parametrize("path", ["/", "/facts", "//facts", "/{half}/facts", "/{token}x/facts", "/%00/", "/é/facts"])
def test_without_the_token_nothing_is_told(served, path):
    path = path.format(half=served.token[:-1], token=served.token)
    if not path.isascii():
        path = path.encode().decode("latin-1")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{served.port}{urllib.request.quote(path)}", timeout=10)
        assert refused.value.code == 403
        refused.value.close()
        return
    reply = served.request("", path=path)
    assert reply.status == 403
    assert served.token.encode() not in reply.body


def test_each_start_has_a_token_of_its_own(served):
    with Viewer(served.viewer.session) as other:
        assert other.token != served.token
        assert len(other.token) >= 16


@pytest.mark.parametrize(
    "door",
    ["page.html", "server.py", "../view.js", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "view.js/", "view.js?x", "./", "/"],
)
def test_a_path_cannot_name_a_file(served, door):
    assert served.request(door).status == 404
    assert served.request(door, method="POST", body=b"{}").status == 404


def test_other_methods_are_refused(served):
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert served.request("facts", method=method).status == 501


@pytest.mark.parametrize("door", ["image", "answer"])
def test_what_is_too_large_is_refused_before_it_is_read(served, door):
    headers = {"Content-Type": IMAGE if door == "image" else JSON}
    reply = served.request(door, method="POST", headers={**headers, "Content-Length": str(LARGEST[door] + 1)})
    assert reply.status == 413
    assert "too large" in reply.json["error"]
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("length", [None, "-1", "1e3", "+3", "²"])
def test_a_length_must_be_said(served, length):
    if length == "²":
        length = "\xb2"
    reply = served.request("image", method="POST", headers={**PNG, "Content-Length": length})
    assert reply.status == 411


def test_a_length_of_5000_digits_is_too_large(served):
    # Python refuses to turn so many digits into a number, which was once told as an engine's own error.
    reply = served.request("image", method="POST", headers={**PNG, "Content-Length": "9" * 5000})
    assert reply.status == 413


def raw(served, request, wait=5.0):
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_two_lengths_are_refused(served):
    host = f"Host: 127.0.0.1:{served.port}\r\nContent-Type: {IMAGE}\r\nConnection: close\r\n"
    request = f"POST /{served.token}/image HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc"
    assert b" 411 " in raw(served, request.encode()).splitlines()[0]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /{token}/facts HTTP/1.0"], b"403"),  # no Host
        (["GET http://evil.example/{token}/facts HTTP/1.1", "Host: 127.0.0.1:{port}"], b"403"),
        (["GET /{token}/facts HTTP/1.1", "Host: 127.0.0.1:{port}", "Host: evil.example"], b"403"),
        (["GET /{token}/facts HTTP/9.9", "Host: 127.0.0.1:{port}"], b"Invalid HTTP version"),
        (["GET /{token}/facts HTTP/1.1", "Host: 127.0.0.1:{port}", "X-Long: " + "a" * 70_000], b"431"),
        (["GET /{token}/facts HTTP/1.1", "Host: 127.0.0.1:{port}", *[f"X-{n}: a" for n in range(200)]], b"431"),
        (["GET /" + "a" * 70_000 + " HTTP/1.1", "Host: 127.0.0.1:{port}"], b"414"),
        (["CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443"], b"501"),
        (["facts"], b"Bad request syntax"),
    ],
)
def test_requests_that_no_browser_sends_are_refused(served, lines, status):
    request = "\r\n".join([*lines, "Connection: close", "", ""]).format(token=served.token, port=served.port)
    received = raw(served, request.encode())
    assert status in received
    assert served.token.encode() not in received
    assert b'"exits"' not in received, "nothing is told"
    assert served.request("facts").status == 200, "the server goes on"


def test_who_is_silent_keeps_nobody_waiting(served):
    with ExitStack() as silent:
        for _ in range(20):
            connection = silent.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            connection.sendall(f"POST /{served.token}/image HTTP/1.1\r\nHost:".encode())
        assert served.request("facts").status == 200


def test_chunks_are_refused(served):
    headers = {**PNG, "Transfer-Encoding": "chunked", "Content-Length": "3"}
    assert served.request("image", method="POST", headers=headers).status == 411


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_what_a_form_could_send_is_refused(served, kind):
    reply = served.request("answer", method="POST", body=b"{}", headers={"Content-Type": kind})
    assert reply.status == 415


def test_a_broken_image_is_one_line_and_the_shown_one_stays(served):
    shown = served.ask(index=0).json
    for body, said in (
        (b"no picture", "no picture"),
        (b"", "no picture"),
        (png()[:60], "cannot read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
    ):
        reply = served.request("image", method="POST", body=body, headers=PNG)
        assert reply.status == 422
        assert said in reply.json["error"]
        assert "\n" not in reply.json["error"]
    assert served.ask().json["number"] == shown["number"]


def test_a_decompression_bomb_is_refused(served, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reply = served.request("image", method="POST", body=png(24, 16), headers=PNG)
    assert reply.status == 422
    assert "decompression bomb" in reply.json["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON"),
        (b"[]", "an object"),
        (b"\xff", "JSON"),
        (b'{"mode": "budgeted"}', "exits"),
        (b'{"mode": "fast", "exits": ["final"]}', "mode"),
        (b'{"mode": "budgeted", "exits": ["final"], "path": "/etc/passwd"}', "path"),
        (b'{"mode": "budgeted", "exits": ["final"], "index": -1}', "index"),
        (b'{"mode": "budgeted", "exits": ["final"], "index": 2}', "images 1 to 2"),
        (b'{"mode": "budgeted", "exits": ["final"], "index": "../x"}', "index"),
        (b'{"mode": "anytime", "exits": ["final"], "deadline_ms": 0}', "deadline_ms"),
        (b'{"mode": "anytime", "exits": ["final"], "deadline_ms": NaN}', "deadline_ms"),
        (b'{"mode": "budgeted", "exits": ["nowhere"]}', "nowhere"),
        (b'{"mode": "input-dependent", "exits": ["final"], "image_thresholds": [0.5]}', "0 image thresholds"),
        (b'{"mode": "budgeted", "exits": ["final"], "play": "every"}', "no video"),
    ],
)
def test_a_question_without_sense_is_one_line(served, body, said):
    reply = served.request("answer", method="POST", body=body, headers={"Content-Type": JSON})
    assert reply.status == 422
    assert said in reply.json["error"]
    assert "\n" not in reply.json["error"]
    assert served.ask(index=0).status == 200, "the server goes on"


def test_a_port_that_is_taken_is_said(served):
    with pytest.raises(InputError, match=f"port {served.port}.*--port"):
        Viewer(served.viewer.session, served.port)


def test_the_verb_prints_the_address_and_ends_cleanly(decided_package, images):
    command = [
        sys.executable,
        "-m",
        "offramp",
        "view",
        str(decided_package),
        str(images),
        "--no-open",
        "--threads",
        "1",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = json.loads(process.stdout.readline())["address"]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", address)
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"Offramp" in page.read()
        os.kill(process.pid, signal.SIGTERM)  # SIGINT is ignored by what a background job starts
        assert (process.wait(10), process.stdout.read(), process.stderr.read()) == (0, '{"ended": true}\n', "")


def test_the_verb_refuses_a_damaged_package_and_a_missing_input(decided_package, tmp_path, capsys):
    from offramp.cli import main

    for arguments, said in (([str(tmp_path)], "manifest.json"), ([str(decided_package), str(tmp_path / "gone")], "gone")):
        with pytest.raises(SystemExit) as ended:
            main(["view", *arguments, "--no-open"])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
