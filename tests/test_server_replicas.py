"""Several servers with one database and one data folder: any of them answers for all, and none is missed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartdj.v1 import audio_pb2, audio_pb2_grpc, event_pb2, job_pb2, job_pb2_grpc, step_pb2
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server.store import ClaimLostError, JobRecord, JobState, JobStore
from tests import postgres
from tests.live_server import Live, live_server
from tests.test_server import CHUNK, sha256, wav

pytestmark = pytest.mark.skipif(not postgres.installed(), reason="PostgreSQL is not installed")

ROOT = Path(__file__).parent.parent
THREE_STEPS = step_pb2.Plan(steps=[step_pb2.Step(text=f"remove {name}") for name in ("dog", "wind", "rain")])
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
LEASE_S = 3.0


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.postgresql() as url:
        yield url


@pytest.fixture
def database(postgresql: str) -> str:
    return postgres.new_database(postgresql)


@pytest.fixture(scope="module")
def pair(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Live, Path]]:
    """Two servers; one takes 0.1 s per denoising step and writes down what it does, the other only talks."""
    folder = tmp_path_factory.mktemp("pair")
    options: dict[str, Any] = {"database_url": postgres.new_database(postgresql), "lease_s": LEASE_S}
    (folder / "log").mkdir()
    with (
        live_server(folder / "data", devices=("stub:0.1",), library=[folder / "log"], **options) as working,
        live_server(folder / "data", agent="tests.stub_agent:never_ready", **options) as talking,
    ):
        working.ready()
        yield working, talking, folder


def upload(live: Any, data: bytes) -> str:
    header = audio_pb2.UploadHeader(sha256=sha256(data), size_bytes=len(data))
    parts = [audio_pb2.UploadRequest(data=data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]
    live.audio.Upload(iter([audio_pb2.UploadRequest(header=header), *parts]), timeout=60)
    return sha256(data)


def submit(live: Any, sha: str, request_id: str = "", **spec: Any) -> job_pb2.Job:
    request = job_pb2.SubmitJobRequest(
        audio=audio_pb2.AudioSource(sha256=sha), spec=job_pb2.JobSpec(**spec), request_id=request_id
    )
    return live.jobs.SubmitJob(request, timeout=60).job


def watched(live: Any, job_id: str) -> list[event_pb2.JobEvent]:
    """All events of a job, to its end."""
    return [reply.event for reply in live.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job_id), timeout=120)]


def kinds(events: list[event_pb2.JobEvent]) -> list[str]:
    return [event.WhichOneof("event") for event in events if event.WhichOneof("event") not in ("progress", "queued")]


def job_of(live: Any, job_id: str) -> job_pb2.Job:
    return live.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id), timeout=60).job


def state(live: Any, job_id: str) -> int:
    return job_of(live, job_id).state


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- one store


def stores(database: str) -> tuple[JobStore, JobStore]:
    return JobStore(database, replica="anna"), JobStore(database, replica="ben")


def record(job_id: str) -> JobRecord:
    return JobRecord(job_id=job_id, client="c", created_s=1.0)


def test_a_job_is_changed_by_who_has_it_and_taken_over_from_the_silent(database: str) -> None:
    anna, ben = stores(database)
    job_id = uuid.uuid4().hex
    with contextlib.closing(anna), contextlib.closing(ben):
        anna.survey(60, {})
        anna.create(record(job_id), request_id="", digest="")
        assert ben.claim(job_id) is None
        with pytest.raises(ClaimLostError):
            ben.append(job_id, [b"stolen"])
        anna.append(job_id, [b"1"], state=JobState.RUNNING)
        found = {brief.job_id: brief for brief in ben.survey(60, {})}[job_id]
        assert (found.replica, found.state, found.last_sequence) == ("anna", JobState.RUNNING, 1)

        # Silent for longer than it may be: its job waits again, and what it still says is not heard.
        until(lambda: {brief.job_id: brief for brief in ben.survey(0.2, {})}[job_id].replica is None)
        taken = ben.claim(job_id)
        assert taken is not None
        assert (taken.state, taken.last_sequence) == (JobState.QUEUED, 1)
        with pytest.raises(ClaimLostError):
            anna.append(job_id, [b"2"])
        anna.release(job_id)
        ben.append(job_id, [b"2"], state=JobState.SUCCEEDED)
        assert ben.events(job_id, 0, 10) == [(1, b"1"), (2, b"2")]
        assert ben.claim(job_id) is None
        anna.leave()
        ben.leave()


def test_a_folder_belongs_to_one_database(postgresql: str, database: str, tmp_path: Path) -> None:
    idle = {"agent": "tests.stub_agent:never_ready"}
    own, other = tmp_path / "own", tmp_path / "other"
    for _ in range(2):
        with live_server(own, database_url=database, **idle):
            pass
    wrong: list[tuple[Path, dict[str, str]]] = [
        (own, {}),
        (own, {"database_url": postgres.new_database(postgresql)}),
        (other, {"database_url": database}),
    ]
    for folder, options in wrong:
        with pytest.raises(SmartDJError) as caught, live_server(folder, **idle, **options):
            pass
        assert (caught.value.code, caught.value.field) == (ErrorCode.SERVER_CONFIG, "data_dir")
    with live_server(other, **idle):  # nothing was left there
        pass


# --- two servers


def test_any_server_answers_for_a_job_that_runs_on_another(pair: tuple[Live, Live, Path]) -> None:
    working, talking, _ = pair
    sha = upload(talking, wav(seed=1))
    job = submit(talking, sha, plan=THREE_STEPS)
    seen = watched(talking, job.job_id)
    assert kinds(seen) == [
        "plan_ready", *["step_started", "step_finished"] * 3, "summary"
    ]  # fmt: skip
    assert any(event.WhichOneof("event") == "progress" for event in seen)
    kept = [event for event in seen if event.WhichOneof("event") not in ("progress", "queued")]
    again = watched(working, job.job_id)
    assert [event.SerializeToString() for event in again] == [event.SerializeToString() for event in kept]
    assert state(working, job.job_id) == state(talking, job.job_id) == job_pb2.JOB_STATE_SUCCEEDED
    result = talking.jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id)).job.result
    pieces = talking.audio.Download(audio_pb2.DownloadRequest(sha256=result.sha256), timeout=60)
    assert sha256(b"".join(piece.data for piece in pieces)) == result.sha256


def test_a_request_made_at_both_servers_makes_one_job(pair: tuple[Live, Live, Path]) -> None:
    working, talking, _ = pair
    sha = upload(working, wav(seed=2))
    request_id = uuid.uuid4().hex
    jobs = {submit(live, sha, request_id, plan=THREE_STEPS).job_id for live in (working, talking, working, talking)}
    assert len(jobs) == 1
    assert kinds(watched(talking, jobs.pop()))[-1] == "summary"


def test_a_job_is_cancelled_and_its_plan_accepted_through_another_server(pair: tuple[Live, Live, Path]) -> None:
    working, talking, _ = pair
    sha = upload(working, wav(seed=3))
    slow = submit(working, sha, instruction="slow")
    until(lambda: state(talking, slow.job_id) == job_pb2.JOB_STATE_RUNNING)
    talking.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=slow.job_id), timeout=60)
    assert kinds(watched(talking, slow.job_id))[-1] == "failed"
    assert state(working, slow.job_id) == job_pb2.JOB_STATE_CANCELLED

    asked = submit(working, sha, instruction="quieter", review=True)
    until(lambda: state(talking, asked.job_id) == job_pb2.JOB_STATE_AWAITING_REVIEW)
    for live in (talking, working):  # twice is as good as once
        live.jobs.ReviewJob(job_pb2.ReviewJobRequest(job_id=asked.job_id), timeout=60)
    assert kinds(watched(talking, asked.job_id))[-1] == "summary"


# --- one is killed, behind a load balancer


SERVE = """
import sys
from pathlib import Path
from smartdj_agent.server import settings
from smartdj_agent.server.serve import run
data, database, port_file, log = sys.argv[1:5]
flags = {"port": 0, "data_dir": data, "database_url": database, "port_file": port_file, "library": [log],
         "devices": ["stub:0.3"], "lease_s": 3}
run(settings.load(flags, environment={}), agent="tests.stub_agent:make")
"""


class Replica:
    """A server in a process of its own."""

    def __init__(self, folder: Path, database: str, number: int) -> None:
        self.log = folder / f"log{number}"
        self.log.mkdir()
        self.port_file = folder / f"port{number}"
        command = [sys.executable, "-c", SERVE, folder / "data", database, self.port_file, self.log]
        self.errors = (folder / f"err{number}").open("w")
        self.process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=self.errors)

    @property
    def did(self) -> list[str]:
        path = self.log / "log.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 1)[1] for line in lines if " step " in line]


@pytest.fixture
def replicas(database: str, tmp_path: Path) -> Iterator[list[Replica]]:
    started = [Replica(tmp_path, database, number) for number in range(2)]
    try:
        for replica in started:
            until(lambda here=replica: here.port_file.exists() and here.port_file.read_text().endswith("\n"))
        yield started
    finally:
        for replica in started:
            with contextlib.suppress(ProcessLookupError):
                replica.process.terminate()
        for replica in started:
            replica.process.wait(60)
            replica.errors.close()


@pytest.fixture
def balanced(replicas: list[Replica], tmp_path: Path) -> Iterator[grpc.Channel]:
    """A channel to HAProxy with the configuration of docs/cluster, in front of both."""
    haproxy = shutil.which("haproxy")
    assert haproxy, "install haproxy: .ci/run does"
    text = (ROOT / "docs" / "cluster" / "haproxy.cfg").read_text()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    text = text.replace("bind :50551", f"bind 127.0.0.1:{port}")
    for number, replica in enumerate(replicas, start=1):
        text = text.replace(f"10.0.0.{number}:50551", f"127.0.0.1:{replica.port_file.read_text().strip()}")
    assert "10.0.0." not in text
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    process = subprocess.Popen([haproxy, "-db", "-f", str(path)])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(60)
            yield channel
    finally:
        process.terminate()
        process.wait(30)


class Door:
    def __init__(self, channel: grpc.Channel) -> None:
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.audio = audio_pb2_grpc.AudioServiceStub(channel)


def test_a_killed_servers_job_goes_on_after_its_last_finished_step(
    replicas: list[Replica], balanced: grpc.Channel
) -> None:
    door = Door(balanced)
    job = submit(door, upload(door, wav(seed=4)), uuid.uuid4().hex, plan=THREE_STEPS)
    until(lambda: bool(job_of(door, job.job_id).steps))
    killed, other = replicas if replicas[0].did else replicas[::-1]
    assert not other.did
    os.kill(killed.process.pid, signal.SIGKILL)

    def ended() -> bool:
        try:
            return state(door, job.job_id) in ENDED
        except grpc.RpcError:  # the call was on its way to the one that died
            return False

    until(ended)
    assert job_of(door, job.job_id).state == job_pb2.JOB_STATE_SUCCEEDED, job_of(door, job.job_id).error
    seen = watched(door, job.job_id)
    finished = [event.step_finished.index for event in seen if event.WhichOneof("event") == "step_finished"]
    assert finished == [0, 1, 2]
    assert kinds(seen)[-1] == "summary"
    assert "step 0" in killed.did
    assert "step 0" not in other.did
    assert other.did[-1] == "step 2"


def test_a_cancel_that_was_answered_holds_when_the_job_changes_hands(
    replicas: list[Replica], balanced: grpc.Channel
) -> None:
    door = Door(balanced)
    job = submit(door, upload(door, wav(seed=5)), uuid.uuid4().hex, plan=THREE_STEPS)
    until(lambda: any(replica.did for replica in replicas))
    killed, other = replicas if replicas[0].did else replicas[::-1]
    os.kill(killed.process.pid, signal.SIGKILL)
    with grpc.insecure_channel(f"127.0.0.1:{other.port_file.read_text().strip()}") as channel:
        left = Door(channel)
        # The dead one still has the job: all that the other can do is to note the wish.
        left.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.job_id), timeout=60)
        assert state(left, job.job_id) == job_pb2.JOB_STATE_RUNNING
        until(lambda: state(left, job.job_id) in ENDED)
        assert state(left, job.job_id) == job_pb2.JOB_STATE_CANCELLED
    assert not other.did
