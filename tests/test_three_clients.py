"""The same edit by every door: three clients and the command line, the real server, the real networks."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartdj.v1 import job_pb2
from smartdj_agent.audio import read_audio, write_audio
from smartdj_agent.client import Client
from smartdj_agent.server.worker import REAL_AGENT
from tests.live_server import SLOW, Live, live_server
from tests.test_foreign_clients import cpp_client, node_client

RECORDING = Path(__file__).parents[1] / "examples" / "demo.wav"
INSTRUCTION = "make this sound like a rainy harbour"
SEED = 5
SMARTDJ = [sys.executable, "-m", "smartdj_agent.cli"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("server"), agent=REAL_AGENT, devices=("cpu",)) as server:
        server.ready()
        yield server


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_clients_get_the_same_bytes(live: Live, tmp_path: Path) -> None:
    address, results = live.running.address, {}
    with Client(address) as client, client.edit(RECORDING, INSTRUCTION, seed=SEED) as run:
        run.wait()
        assert run.audio is not None
        write_audio(tmp_path / "python.wav", run.audio)
    results["python"] = sha256(tmp_path / "python.wav")
    for name, command in (("node", node_client()), ("cpp", cpp_client())):
        out = tmp_path / f"{name}.wav"
        done = subprocess.run(
            [*command, address, RECORDING, INSTRUCTION, out, "--seed", str(SEED)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result_sha256"] == sha256(out)
        results[name] = sha256(out)
    for name, more in (("command line", []), ("command line, remote", ["--server", address])):
        out = tmp_path / f"{name}.wav"
        command = [*SMARTDJ, *more, "edit", str(RECORDING), INSTRUCTION, "-o", str(out), "--yes", "--seed", str(SEED)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        results[name] = sha256(out)
    assert len(set(results.values())) == 1, results
    assert sha256(RECORDING) not in results.values()
    assert read_audio(tmp_path / "node.wav").n_samples == read_audio(RECORDING).n_samples


@pytest.mark.parametrize("language", ["node", "cpp"])
def test_ctrl_c_of_a_client_stops_the_work(tmp_path: Path, language: str) -> None:
    command = {"node": node_client, "cpp": cpp_client}[language]()
    with live_server(tmp_path / "data", devices=SLOW) as server:
        server.ready()
        process = subprocess.Popen(
            [*command, server.running.address, RECORDING, "calm", tmp_path / "out.wav"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        jobs = server.jobs
        while not (listed := jobs.ListJobs(job_pb2.ListJobsRequest()).jobs) or not listed[0].steps:
            assert process.poll() is None, process.stderr
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not (tmp_path / "out.wav").exists()
        assert jobs.ListJobs(job_pb2.ListJobsRequest()).jobs[0].state == job_pb2.JOB_STATE_CANCELLED
        assert server.running.jobs.running == 0
