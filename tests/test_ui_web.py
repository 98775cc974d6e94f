"""The page's program: who may talk to it, its own server, its command, and what is vendored for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from smartdj_agent.audio import Audio, read_audio
from smartdj_agent.cli import main
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.ui.own_server import OwnServer
from smartdj_agent.ui.preview import MAX_SAMPLES, preview_shape, write_preview
from smartdj_agent.ui.web import LoopbackOnly
from tests.live_server import live_server
from tests.ui_browser import page_program

STATIC = Path(__file__).parent.parent / "smartdj_agent" / "ui" / "static"


# --- who may talk to it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "headers", "passes"),
    [
        ("http", {"host": "127.0.0.1:8551"}, True),
        ("http", {"host": "localhost:8551", "origin": "http://localhost:8551"}, True),
        ("http", {"host": "[::1]:8551"}, True),
        ("http", {"host": "localhost"}, True),
        ("http", {"host": "evil.example:8551"}, False),  # their name, our address
        ("http", {"host": "127.0.0.1.evil.example"}, False),
        ("http", {}, False),
        ("http", {"host": "127.0.0.1:8551", "origin": "https://evil.example"}, False),
        ("http", {"host": "127.0.0.1:8551", "origin": "null"}, False),
        ("http", {"host": "127.0.0.1:8551", "origin": "http://127.0.0.1:9999"}, False),  # another program's page
        ("websocket", {"host": "127.0.0.1:8551", "origin": "https://evil.example"}, False),
        ("websocket", {"host": "127.0.0.1:8551", "origin": "http://127.0.0.1:8551"}, True),
    ],
)
def test_only_our_own_pages_are_answered(kind: str, headers: dict[str, str], passes: bool) -> None:
    reached: list[str] = []
    sent: list[dict[str, object]] = []

    async def inner(scope: object, receive: object, send: object) -> None:
        reached.append("yes")

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    scope = {"type": kind, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(LoopbackOnly(inner)(scope, receive, send))  # type: ignore[arg-type]
    assert bool(reached) is passes
    if not passes:
        assert sent[0] in ({"type": "websocket.close", "code": 1008},) or sent[0]["status"] == 403


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live_server(tmp_path_factory.mktemp("data")) as live:
        live.ready()
        with page_program("--server", live.running.address) as address:
            yield address


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_the_program_listens_on_loopback_alone_and_refuses_other_sites(address: str) -> None:
    port = urlsplit(address).port
    bound = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert bound == {"127.0.0.1"}
    assert ask(address, "GET", "/healthz")[0] == 200
    assert ask(address, "GET", "/", Host="evil.example")[0] == 403
    assert ask(address, "POST", "/upload?name=a.wav&at=x", b"1", Origin="https://evil.example")[0] == 403


@pytest.mark.parametrize(
    "path", ["/preview/../../etc/passwd", "/static/..%2f..%2fweb.py", "/preview/", "/openapi.json"]
)
def test_no_other_files_are_served(address: str, path: str) -> None:
    assert ask(address, "GET", path)[0] == 404


def test_an_upload_of_an_earlier_start_says_what_to_do(address: str) -> None:
    status, body = ask(address, "POST", "/upload?name=a.wav&at=old", b"x")
    assert status == 422
    assert "load the page again" in body


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_is_there_and_says_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["ui", "--help"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for option in ("--server", "--token-file", "--tls-ca", "--port", "--no-browser", "--data-dir"):
        assert option in shown
    assert "--host" not in shown  # it listens nowhere else


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--server", "127.0.0.1:9"], ErrorCode.SERVER_UNREACHABLE),
        (["--server", "127.0.0.1:9", "--device", "cpu"], ErrorCode.USAGE),
        (["--tls-ca", "ca.pem"], ErrorCode.USAGE),
        (["--server", "127.0.0.1:9", "--token-file", "/nowhere"], ErrorCode.USAGE),
    ],
)
def test_what_cannot_work_is_said_in_two_lines(
    flags: list[str], code: ErrorCode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", "--no-browser", "--port", "0", *flags]) == ERROR_TABLE[code].exit_code
    shown = capsys.readouterr().err
    assert "hint: " in shown
    assert "Traceback" not in shown


def test_a_taken_port_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status = main(["ui", "--no-browser", "--port", str(port), "--server", "127.0.0.1:9"])
    assert status == ERROR_TABLE[ErrorCode.SERVER_CONFIG].exit_code
    assert str(port) in capsys.readouterr().err


# --- its own server ------------------------------------------------------------------------------------------------


def test_the_own_server_starts_again_on_its_port_and_ends(tmp_path: Path) -> None:
    own = OwnServer(tmp_path / "data")
    own.start()
    try:
        port, first = own.port, own.pid
        with socket.create_connection(("127.0.0.1", port), 10):
            pass
        with pytest.raises(SmartDJError) as caught:
            OwnServer(tmp_path / "data").start()  # one folder, one server
        assert caught.value.hint
        os.kill(first, signal.SIGKILL)
        while own.alive:
            time.sleep(0.02)
        own.start()
        assert (own.port, own.alive) == (port, True)
    finally:
        own.stop()
    assert not own.alive
    assert not psutil.pid_exists(first)


def test_the_own_server_ends_with_a_program_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from smartdj_agent.ui.own_server import OwnServer\n"
        "own = OwnServer(Path(sys.argv[1])); own.start(); print(own.pid, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    server.wait(60)


# --- what the browser plays ----------------------------------------------------------------------------------------


def test_previews_are_the_recording_where_that_is_small(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 4000)).astype(np.float32)
    preview = write_preview(Audio(samples, 44_100), tmp_path)
    heard = read_audio(tmp_path / preview.name)
    assert (heard.sample_rate, heard.channels, preview.note) == (44_100, 2, "")
    np.testing.assert_allclose(heard.samples, np.clip(samples, -1, 1), atol=1 / 32_000)


def test_previews_of_many_channels_and_high_rates_are_folded(tmp_path: Path) -> None:
    time_s = np.arange(96_000) / 96_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    preview = write_preview(Audio(np.stack([tone] * 6), 96_000), tmp_path)
    heard = read_audio(tmp_path / preview.name)
    assert (heard.sample_rate, heard.channels, heard.n_samples) == (48_000, 2, 48_000)
    assert "6 channels" in preview.note
    spectrum = np.abs(np.fft.rfft(heard.samples[0]))
    assert np.argmax(spectrum) == 440


@pytest.mark.parametrize(
    ("duration_s", "shape"),
    [(10, (44_100, 2)), (600, (44_100, 2)), (1800, (16_000, 2)), (3600, (16_000, 1)), (4 * 3600, (8_000, 1))],
)
def test_long_recordings_get_smaller_previews(duration_s: int, shape: tuple[int, int]) -> None:
    rate, channels = preview_shape(44_100 * duration_s, 44_100, 2)
    assert (rate, channels) == shape
    assert rate == 8_000 or duration_s * rate * channels <= MAX_SAMPLES


# --- what is vendored ----------------------------------------------------------------------------------------------


def test_vendored_files_are_those_of_the_package() -> None:
    folder = STATIC / "vendor" / "wavesurfer"
    stated = dict(
        re.findall(r"^\| `([\w.]+)` \| `[^`]+` \| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M)
    )
    lying = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del lying["README.md"]
    assert stated == lying
    assert "BSD 3-Clause" in (folder / "LICENSE").read_text()


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in STATIC.glob("page.*"):
        assert not re.search(r"https?://(?!127\.0\.0\.1)", path.read_text(encoding="utf-8")), path.name
