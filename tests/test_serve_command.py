"""``smartdj serve`` as a process: flags, configuration, signals, exit statuses."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from smartdj_agent.cli import app
from smartdj_agent.errors import ERROR_TABLE, ErrorCode
from smartdj_agent.server import settings
from smartdj_agent.server.cli import serve

SMARTDJ = [sys.executable, "-m", "smartdj_agent.cli"]


def start(tmp_path: Path, *flags: str) -> subprocess.Popen[str]:
    """Start a server and wait until it listens."""
    command = [*SMARTDJ, "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    command += ["--port-file", str(tmp_path / "port"), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "port").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    return process


def test_every_setting_has_its_flag() -> None:
    assert set(inspect.signature(serve).parameters) == {*settings.NAMES, "config", "print_config"}


def test_printed_configuration_reads_back(tmp_path: Path) -> None:
    flags = ["--port", "1234", "--max-queue", "9", "--max-queue-per-client", "3", "--allowed-root", str(tmp_path)]
    first = CliRunner().invoke(app, ["serve", *flags, "--print-config"])
    assert first.exit_code == 0
    assert tomllib.loads(first.stdout)["max_queue"] == 9
    assert "# flag" in first.stdout
    (tmp_path / "serve.toml").write_text(first.stdout)
    second = CliRunner().invoke(app, ["serve", "--config", str(tmp_path / "serve.toml"), "--print-config"])
    assert tomllib.loads(second.stdout) == tomllib.loads(first.stdout)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP and no SIGTERM for others")
def test_signals_reload_and_stop(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text("log_level = 'info'\n")
    process = start(tmp_path, "--config", str(tmp_path / "serve.toml"), "--log-format", "json")
    assert process.stderr is not None
    port = (tmp_path / "port").read_text().strip()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = health_pb2.HealthCheckRequest(service="smartdj.v1.AudioService")
        assert health_pb2_grpc.HealthStub(channel).Check(ask).status == health_pb2.HealthCheckResponse.SERVING
    while "listens at" not in (line := process.stderr.readline()):
        assert line
    (tmp_path / "serve.toml").write_text("keep_s = 5\n")
    process.send_signal(signal.SIGHUP)
    while "configuration read again" not in (line := process.stderr.readline()):
        assert line
    assert "keep_s" in line
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert not (tmp_path / "port").exists()
    assert "Traceback" not in rest


def test_a_busy_port_is_said_clearly(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        port = (tmp_path / "port").read_text().strip()
        command = [*SMARTDJ, "serve", "--port", port, "--data-dir", str(tmp_path / "other")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == ERROR_TABLE[ErrorCode.SERVER_CONFIG].exit_code
        assert port in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        process.terminate()
        process.communicate(timeout=60)
