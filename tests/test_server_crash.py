"""A short run of `benchmarks/server_crash.py`: a real server process is killed and loses nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from benchmarks.server_crash import Memory, look, make_memory, rounds_of_kills
from benchmarks.server_harness import ServerProcess, Stubs, recording, sha256, upload_requests
from smartdj.v1 import audio_pb2, job_pb2


def test_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    result = rounds_of_kills(2, 4, tmp_path, jobs=2, wishes=8)
    assert result["faults"] == []
    assert result["jobs"] >= 10
    assert result["steps_known_to_clients"] > result["jobs"]


def test_what_is_lost_is_noticed(tmp_path: Path) -> None:
    import grpc

    memory: Memory = make_memory(1)
    server = ServerProcess(tmp_path / "data")
    server.start()
    data = recording(1, 0.1)
    with grpc.insecure_channel(server.address) as channel:
        stubs = Stubs(channel)
        stubs.audio.Upload(upload_requests(data))
        source = audio_pb2.AudioSource(sha256=sha256(data))
        job = stubs.jobs.SubmitJob(
            job_pb2.SubmitJobRequest(audio=source, spec=job_pb2.JobSpec(instruction="calm", plan_only=True))
        ).job
        list(stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id)))
    server.kill()
    look(memory, server)
    assert memory.faults == []
    path = server.data_dir / "audio" / sha256(data)[:2] / sha256(data)
    path.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with sqlite3.connect(server.data_dir / "jobs.db") as database:
        database.execute("UPDATE audio SET lost = 1")
    look(memory, server)
    assert len(memory.faults) == 2
