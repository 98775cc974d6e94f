"""Calls that go away at the worst moment, and messages that mean trouble: what the fuzz run has found, one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smartdj.v1 import audio_pb2, event_pb2, job_pb2, step_pb2
from smartdj_agent.errors import SmartDJError
from smartdj_agent.plan import make_plan
from smartdj_agent.server.jobs import JobManager, Worker
from smartdj_agent.server.metrics import Metrics
from smartdj_agent.server.queue import FairQueue
from smartdj_agent.server.services import receiving, to_its_end
from smartdj_agent.server.store import JobState
from smartdj_agent.server.tasks import Report, Task
from smartdj_agent.wire import plan_to_proto
from smartdj_agent.wire_status import from_rpc_error
from tests.data_folder import Folder, sha, wav
from tests.live_server import Live, live_server


class Held:
    """A function that begins, tells so, and goes on when it is let."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.let = threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.let.wait(30)
        return self.function(*arguments, **options)


@asynccontextmanager
async def manager_in(path: Path, *workers: Worker) -> AsyncIterator[tuple[JobManager, Folder]]:
    """A manager; without workers, jobs wait."""
    folder = Folder(path)
    manager = JobManager(folder.store, folder.blobs, workers, FairQueue(8, 8), Metrics())
    await manager.start()
    try:
        yield manager, folder
    finally:
        await manager.stop(0)
        await manager.close()
        folder.close()


async def go_away(task: asyncio.Task[Any], held: Held) -> None:
    """End a call while the function that it waits for is under way."""
    await held.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.let.set()


def test_a_job_whose_client_goes_away_while_it_is_made_is_queued(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager_in(tmp_path) as (manager, folder):
            source = folder.upload(wav(1))
            held = Held(folder.store.create)
            folder.store.create = held  # type: ignore[method-assign]
            wish = job_pb2.JobSpec(instruction="calm")
            task = asyncio.create_task(manager.submit(wish, source, client="anna", request_id="one"))
            await go_away(task, held)
            again, made = await manager.submit(wish, source, client="anna", request_id="one")
            assert not made
            await asyncio.gather(*manager._unfinished)
            assert [*manager.queue] == [again.job_id]

    asyncio.run(run())


def test_a_job_whose_cancelling_is_broken_off_is_cancelled(tmp_path: Path) -> None:
    async def run() -> None:
        async with manager_in(tmp_path) as (manager, folder):
            record, _ = await manager.submit(job_pb2.JobSpec(instruction="calm"), folder.upload(wav(1)), client="anna")
            held = Held(folder.blobs.record)
            folder.blobs.record = held  # type: ignore[method-assign]
            await go_away(asyncio.create_task(manager.cancel(record.job_id)), held)
            kinds = [event.WhichOneof("event") async for event in manager.watch(record.job_id)]
            assert kinds[-1] == "failed"
            assert (await manager.get(record.job_id)).state is JobState.CANCELLED

    asyncio.run(run())


class FasterThanCancel:
    """A worker whose plan is ready already when it hears that it needn't be."""

    device = resolved_device = device_name = "fast"
    models: tuple[tuple[str, str, str, int], ...] = ()
    failure: SmartDJError | None = None

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def run(self, task: Task) -> AsyncGenerator[Report, None]:
        self.running.set()
        await self.cancelled.wait()
        plan = plan_to_proto(make_plan(["remove the sound of rain"]))
        event = event_pb2.JobEvent(plan_ready=event_pb2.PlanReadyEvent(plan=plan))
        yield Report(task.task_id, "event", event.SerializeToString())
        yield Report(task.task_id, "done")

    def cancel(self, task_id: str) -> None:
        self.cancelled.set()


def test_a_job_that_is_cancelled_as_its_plan_gets_ready_does_not_wait_for_review(tmp_path: Path) -> None:
    async def run() -> None:
        worker = FasterThanCancel()
        async with manager_in(tmp_path, worker) as (manager, folder):
            wish = job_pb2.JobSpec(instruction="calm", review=True)
            record, _ = await manager.submit(wish, folder.upload(wav(1)), client="anna")
            await worker.running.wait()
            await manager.cancel(record.job_id)
            async with asyncio.timeout(20):
                kinds = [event.WhichOneof("event") async for event in manager.watch(record.job_id)]
            assert kinds[-1] == "failed"
            assert (await manager.get(record.job_id)).state is JobState.CANCELLED

    asyncio.run(run())


def test_an_upload_whose_client_goes_away_at_its_beginning_is_closed(tmp_path: Path) -> None:
    async def run(folder: Folder) -> None:
        held = Held(folder.blobs.receive)

        async def upload() -> None:
            async with receiving(held):
                raise AssertionError("it was cancelled before")

        task = asyncio.create_task(upload())
        await held.begun.wait()
        task.cancel()
        held.let.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    folder = Folder(tmp_path)
    asyncio.run(run(folder))
    assert folder.leftovers() == []
    folder.close()


def test_who_goes_away_waits_for_the_write_that_is_under_way(tmp_path: Path) -> None:
    async def run() -> None:
        written: list[bytes] = []
        held = Held(written.append)
        task = asyncio.create_task(to_its_end(held, b"bytes"))
        await held.begun.wait()
        for _ in range(3):  # gRPC may cancel a call more than once
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        held.let.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert written == [b"bytes"]

    asyncio.run(run())


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "allowed").mkdir()
    (folder / "link").symlink_to(folder / "allowed")
    with live_server(folder / "data", allowed_roots=[folder / "allowed"], max_message_bytes=512 * 1024) as server:
        server.ready()
        yield server


@pytest.fixture
def source(live: Live) -> str:
    data = wav(7)
    header = audio_pb2.UploadHeader(sha256=sha(data), size_bytes=len(data))
    messages = [audio_pb2.UploadRequest(header=header), audio_pb2.UploadRequest(data=data)]
    return str(live.audio.Upload(iter(messages)).audio.sha256)


def submit(live: Live, source: str, request_id: str = "", **spec: Any) -> job_pb2.Job:
    request = job_pb2.SubmitJobRequest(
        request_id=request_id, audio=audio_pb2.AudioSource(sha256=source), spec=job_pb2.JobSpec(**spec)
    )
    return live.jobs.SubmitJob(request).job


def refused(call: Callable[[], Any]) -> SmartDJError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_rpc_error(caught.value)


def test_a_request_sent_again_may_write_its_hash_in_capitals(live: Live, source: str) -> None:
    first = submit(live, source.upper(), "capitals", instruction="calm", plan_only=True)
    again = submit(live, source.upper(), "capitals", instruction="calm", plan_only=True)
    assert again.job_id == first.job_id


@pytest.mark.parametrize("name", ["n" * 300_000, "a\0b", "\x1b[2J"])
def test_names_that_no_plan_may_have_are_refused_at_once(live: Live, source: str, name: str) -> None:
    error = refused(lambda: submit(live, source, instruction="calm", source_name=name))
    assert (error.code.value, error.field) == ("usage", "spec.source_name")
    assert error.message.isprintable()


def test_a_strange_request_id_is_refused_before_anything_is_taken_in(live: Live) -> None:
    error = refused(lambda: submit(live, "ab" * 32, "strange id", instruction="calm"))
    assert error.field == "request_id"  # the recording isn't there either


def test_jobs_are_listed_whatever_they_weigh(live: Live, source: str) -> None:
    steps = [step_pb2.Step(text=f"remove the sound of {'rain ' * 38}{number}") for number in range(50)]
    for _ in range(20):
        submit(live, source, plan=step_pb2.Plan(steps=steps), review=True)
    listed: list[str] = []
    request = job_pb2.ListJobsRequest(page_size=500)
    while True:
        page = live.jobs.ListJobs(request)
        listed += [job.job_id for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(listed) == len(set(listed)) >= 20
    assert len(page.jobs) < len(listed)


def test_what_the_protocol_does_not_know_is_not_kept(live: Live, source: str) -> None:
    spec = job_pb2.JobSpec(instruction="calm", plan_only=True)
    spec.MergeFromString(b"\xca\x3e\x05trash")  # field 1001
    audio = audio_pb2.AudioSource(sha256=source)
    job = live.jobs.SubmitJob(job_pb2.SubmitJobRequest(audio=audio, spec=spec)).job
    assert b"trash" not in live.jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id)).SerializeToString()


def test_a_name_that_no_job_has_may_be_long(live: Live) -> None:
    error = refused(lambda: live.jobs.GetJob(job_pb2.GetJobRequest(job_id="j" * 400_000)))
    assert error.code.value == "job_not_found"
    assert len(error.message) < 200


def test_a_state_may_be_asked_for_any_number_of_times(live: Live) -> None:
    live.jobs.ListJobs(job_pb2.ListJobsRequest(states=[job_pb2.JOB_STATE_FAILED] * 100_000))


def test_an_exported_file_is_named_with_links_resolved(live: Live, source: str) -> None:
    folder = Path(live.running.jobs.blobs.path("0" * 64)).parents[3]
    request = audio_pb2.ExportFileRequest(sha256=source, path=str(folder / "link" / "out.wav"))
    assert live.audio.ExportFile(request).path == str((folder / "allowed" / "out.wav").resolve())


def test_methods_that_a_service_leaves_out_are_said_to_be_so(live: Live) -> None:
    stub = health_pb2_grpc.HealthStub(live.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.List(health_pb2.HealthListRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
