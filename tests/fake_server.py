"""A server in memory, with the semantics of the contract and faults on demand; it works with a `FakeAgent`."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import soundfile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from smartdj.v1 import (
    audio_pb2,
    audio_pb2_grpc,
    edit_pb2,
    edit_pb2_grpc,
    event_pb2,
    job_pb2,
    job_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from smartdj_agent.audio import Audio, AudioFormat, read_audio, write_audio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Finished, PlanReady, StepFinished
from smartdj_agent.instruction import check_instruction
from smartdj_agent.wire import MODES, event_to_proto, plan_from_proto, plan_to_proto, plan_violations
from smartdj_agent.wire_status import to_status
from tests.fake_agent import FakeAgent

CHUNK = 4096
"""Small, so that small recordings travel in many pieces."""


@dataclass
class FakeJob:
    """One job and everything it has told."""

    job_id: str
    spec: job_pb2.JobSpec
    source: str
    state: int = job_pb2.JOB_STATE_QUEUED
    told: list[event_pb2.JobEvent] = field(default_factory=list)
    plan: Any = None
    steps: list[str] = field(default_factory=list)
    error: SmartDJError | None = None
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    decided: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last_sequence(self) -> int:
        return self.told[-1].sequence if self.told else 0

    @property
    def ended(self) -> bool:
        return self.state >= job_pb2.JOB_STATE_SUCCEEDED


class FakeServer(
    audio_pb2_grpc.AudioServiceServicer,
    job_pb2_grpc.JobServiceServicer,
    edit_pb2_grpc.EditServiceServicer,
    server_pb2_grpc.ServerServiceServicer,
    health_pb2_grpc.HealthServicer,
):
    """All services at once.

    Attributes
    ----------
    calls
        Name and request of every call.
    faults
        By method: what goes wrong with the next calls, one after the other. ``"before"``: UNAVAILABLE at once;
        ``"after"``: the work is done but the answer is lost; a number: the stream breaks after so many messages;
        ``"deny"``: PERMISSION_DENIED with a rich status; ``"hang"``: no answer, ever; ``"damage"``: a byte is wrong;
        ``"end"``: a stream ends early as if all were well.
    pause_before
        Kind of event before which jobs wait; `paused` tells that one does, `go_on` lets it.
    """

    def __init__(self, token: str = "", agent: Any = None) -> None:
        self.token = token
        self.agent = agent or FakeAgent("small", "cuda:0")
        self.address = ""
        self.calls: list[tuple[str, Any]] = []
        self.faults: dict[str, deque[str | int]] = defaultdict(deque)
        self.files: dict[str, bytes] = {}
        self.partial: dict[str, bytearray] = {}
        self.jobs: dict[str, FakeJob] = {}
        self.requests: dict[str, str] = {}
        self.clients: set[str] = set()
        self.pause_before = ""
        self.paused = threading.Event()
        self.cancel_seen = threading.Event()
        self.serving = True
        self._go_on = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def requests_of(self, name: str) -> list[Any]:
        return [request for called, request in self.calls if called == name]

    def go_on(self) -> None:
        self.pause_before = ""
        self._loop.call_soon_threadsafe(self._go_on.set)

    @contextmanager
    def run(self) -> Iterator[FakeServer]:
        """Serve on a thread of its own until the block is left."""
        ready, enough = threading.Event(), []

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            enough.append(lambda: self._loop.call_soon_threadsafe(stop.set))
            server = grpc.aio.server()
            audio_pb2_grpc.add_AudioServiceServicer_to_server(self, server)
            job_pb2_grpc.add_JobServiceServicer_to_server(self, server)
            edit_pb2_grpc.add_EditServiceServicer_to_server(self, server)
            server_pb2_grpc.add_ServerServiceServicer_to_server(self, server)
            health_pb2_grpc.add_HealthServicer_to_server(self, server)
            self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            ready.set()
            await stop.wait()
            await server.stop(None)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        thread = threading.Thread(target=lambda: asyncio.run(main()), name="fake-server")
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            enough[0]()
            thread.join(10)
            assert not thread.is_alive()

    async def _enter(self, name: str, request: Any, context: Any) -> str | int:
        """Note the call, check who calls, and return the fault that is due."""
        self.calls.append((name, request))
        metadata = dict(context.invocation_metadata())
        self.clients.add(metadata.get("x-client-id", ""))
        if self.token and metadata.get("authorization") != f"Bearer {self.token}":
            await self._fail(context, SmartDJError(ErrorCode.UNAUTHENTICATED, "the token is wrong", "give it"))
        fault = self.faults[name].popleft() if self.faults[name] else ""
        if fault == "before":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        if fault == "deny":
            await self._fail(context, SmartDJError(ErrorCode.PATH_FORBIDDEN, "not here", "elsewhere", "path"))
        if fault == "hang":
            await asyncio.Event().wait()
        return fault

    async def _leave(self, fault: str | int, context: Any) -> None:
        if fault == "after":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")

    async def _fail(self, context: Any, error: SmartDJError) -> None:
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    # --- audio ---

    def info(self, sha256: str) -> audio_pb2.AudioInfo:
        sound = soundfile.info(io.BytesIO(self.files[sha256]))
        return audio_pb2.AudioInfo(
            sha256=sha256,
            size_bytes=len(self.files[sha256]),
            sample_rate_hz=sound.samplerate,
            channels=sound.channels,
            frames=sound.frames,
            container=sound.format,
            subtype=sound.subtype,
        )

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.files[sha256] = data
        return sha256

    def audio(self, sha256: str) -> Audio:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a"
            path.write_bytes(self.files[sha256])
            return read_audio(path)

    def put_audio(self, audio: Audio) -> str:
        exact = AudioFormat("WAV", "DOUBLE" if audio.samples.dtype.itemsize == 8 else "FLOAT")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.wav"
            write_audio(path, replace(audio, format=exact, tags=()))
            return self.put(path.read_bytes())

    async def GetUpload(self, request: Any, context: Any) -> Any:
        fault = await self._enter("GetUpload", request, context)
        await self._leave(fault, context)
        if request.sha256 in self.files:
            return audio_pb2.GetUploadResponse(
                received_bytes=len(self.files[request.sha256]), audio=self.info(request.sha256)
            )
        return audio_pb2.GetUploadResponse(received_bytes=len(self.partial.get(request.sha256, b"")))

    async def Upload(self, requests: Any, context: Any) -> Any:
        messages = aiter(requests)
        header = (await anext(messages)).header
        fault = await self._enter("Upload", header, context)
        data = bytearray(self.partial.get(header.sha256, b""))
        assert header.offset_bytes <= len(data)
        del data[header.offset_bytes :]
        count = 0
        async for message in messages:
            data += message.data
            self.partial[header.sha256] = bytearray(data)
            count += 1
            if count == fault:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the line is cut")
        self.partial.pop(header.sha256, None)
        if len(data) != header.size_bytes or hashlib.sha256(data).hexdigest() != header.sha256:
            await self._fail(context, SmartDJError(ErrorCode.UPLOAD_MISMATCH, "another hash", "send it again"))
        self.put(bytes(data))
        await self._leave(fault, context)
        return audio_pb2.UploadResponse(audio=self.info(header.sha256))

    async def Download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        fault = await self._enter("Download", request, context)
        if request.sha256 not in self.files:
            await self._fail(context, SmartDJError(ErrorCode.AUDIO_NOT_FOUND, "no such recording", "upload it"))
        yield audio_pb2.DownloadResponse(audio=self.info(request.sha256))
        data = self.files[request.sha256]
        if fault == "damage":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault == "end":
            data = data[: len(data) // 2]
        for number, start in enumerate(range(request.offset_bytes, len(data), CHUNK)):
            if number == fault:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the line is cut")
            yield audio_pb2.DownloadResponse(data=data[start : start + CHUNK])

    async def ImportFile(self, request: Any, context: Any) -> Any:
        await self._enter("ImportFile", request, context)
        return audio_pb2.ImportFileResponse(audio=self.info(self.put(Path(request.path).read_bytes())))

    async def ExportFile(self, request: Any, context: Any) -> Any:
        await self._enter("ExportFile", request, context)
        Path(request.path).write_bytes(self.files[request.sha256])
        return audio_pb2.ExportFileResponse(path=request.path)

    # --- jobs ---

    def describe(self, job: FakeJob) -> job_pb2.Job:
        message = job_pb2.Job(
            job_id=job.job_id,
            state=job.state,
            spec=job.spec,
            source=self.info(job.source),
            steps=[self.info(sha) for sha in job.steps],
            last_sequence=job.last_sequence,
        )
        if job.plan is not None:
            message.plan.CopyFrom(plan_to_proto(job.plan))
        if job.error is not None:
            message.error.CopyFrom(to_status(job.error))
        if job.state == job_pb2.JOB_STATE_SUCCEEDED and job.steps:
            message.result.CopyFrom(self.info(job.steps[-1]))
        message.create_time.FromSeconds(1_800_000_000)
        if job.ended:
            message.end_time.FromSeconds(1_800_000_060)
        return message

    async def SubmitJob(self, request: Any, context: Any) -> Any:
        fault = await self._enter("SubmitJob", request, context)
        job_id = self.requests.get(request.request_id, "")
        if not job_id:
            if request.audio.sha256 not in self.files:
                await self._fail(context, SmartDJError(ErrorCode.AUDIO_NOT_FOUND, "no such recording", "upload it"))
            try:
                if not request.spec.HasField("plan"):
                    check_instruction(request.spec.instruction)
            except SmartDJError as error:
                await self._fail(context, error)
            job_id = uuid.uuid4().hex
            self.requests[request.request_id] = job_id
            job = self.jobs[job_id] = FakeJob(job_id, request.spec, request.audio.sha256)
            task = asyncio.create_task(self._work(job))
            self._tasks.add(task)
        await self._leave(fault, context)
        if fault == "late":  # the job is there long before its name arrives
            self.paused.set()
            await asyncio.wait_for(self._go_on.wait(), 10)
        return job_pb2.SubmitJobResponse(job=self.describe(self.jobs[job_id]))

    async def _job(self, request: Any, context: Any) -> FakeJob:
        if request.job_id not in self.jobs:
            await self._fail(context, SmartDJError(ErrorCode.JOB_NOT_FOUND, "no such job", "list them"))
        return self.jobs[request.job_id]

    async def GetJob(self, request: Any, context: Any) -> Any:
        fault = await self._enter("GetJob", request, context)
        await self._leave(fault, context)
        return job_pb2.GetJobResponse(job=self.describe(await self._job(request, context)))

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await self._enter("ListJobs", request, context)
        jobs = [job for job in reversed(self.jobs.values()) if not request.states or job.state in request.states]
        start = int(request.page_token or 0)
        more = start + 2 < len(jobs)  # two on a page
        return job_pb2.ListJobsResponse(
            jobs=[self.describe(job) for job in jobs[start : start + 2]],
            next_page_token=str(start + 2) if more else "",
        )

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        fault = await self._enter("WatchJob", request, context)
        job = await self._job(request, context)
        place = sent = 0
        while True:
            async with job.news:
                while place == len(job.told) and not job.ended:
                    await job.news.wait()
            if place == len(job.told):
                return
            message = job.told[place]
            place += 1
            passing = message.HasField("progress") or message.HasField("queued")
            if message.sequence < request.after_sequence + (not passing):
                continue
            if sent == fault:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the line is cut")
            if fault == "end" and sent == 2:
                return
            sent += 1
            yield job_pb2.WatchJobResponse(event=message)
            if fault == "twice":
                yield job_pb2.WatchJobResponse(event=message)

    async def ReviewJob(self, request: Any, context: Any) -> Any:
        fault = await self._enter("ReviewJob", request, context)
        job = await self._job(request, context)
        if request.HasField("changed_plan"):
            job.plan = plan_from_proto(request.changed_plan)
        job.decided.set()
        await self._leave(fault, context)
        return job_pb2.ReviewJobResponse(job=self.describe(job))

    async def CancelJob(self, request: Any, context: Any) -> Any:
        fault = await self._enter("CancelJob", request, context)
        job = await self._job(request, context)
        job.cancelled.set()
        self.cancel_seen.set()
        await self._leave(fault, context)
        return job_pb2.CancelJobResponse(job=self.describe(job))

    async def _tell(self, job: FakeJob, message: event_pb2.JobEvent) -> None:
        kind = message.WhichOneof("event")
        if kind == self.pause_before:
            self.paused.set()
            self._go_on.clear()
            waits = [asyncio.ensure_future(self._go_on.wait()), asyncio.ensure_future(job.cancelled.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if job.cancelled.is_set() and kind != "failed":
            raise SmartDJError(ErrorCode.CANCELLED, "the job was cancelled")
        message.job_id = job.job_id
        message.sequence = job.last_sequence + (kind not in ("queued", "progress"))
        async with job.news:
            job.told.append(message)
            job.news.notify_all()

    async def _work(self, job: FakeJob) -> None:
        try:
            await self._tell(job, event_pb2.JobEvent(queued=event_pb2.QueuedEvent(position=1)))
            job.state = job_pb2.JOB_STATE_RUNNING
            audio = self.audio(job.source)
            if job.spec.HasField("plan"):
                job.plan = plan_from_proto(job.spec.plan)
                await self._tell(job, event_pb2.JobEvent(plan_ready=event_pb2.PlanReadyEvent(plan=job.spec.plan)))
            elif not await self._plan(job, audio):
                job.state = job_pb2.JOB_STATE_SUCCEEDED
                return
            if job.spec.plan_only:
                await self._tell(job, event_pb2.JobEvent(summary=event_pb2.SummaryEvent()))
            else:
                await self._apply(job, audio)
            job.state = job_pb2.JOB_STATE_SUCCEEDED
        except SmartDJError as error:
            job.error = error
            failed = event_pb2.JobEvent(failed=event_pb2.FailedEvent(error=to_status(error)))
            await self._tell(job, failed)
            was_cancelled = error.code is ErrorCode.CANCELLED
            job.state = job_pb2.JOB_STATE_CANCELLED if was_cancelled else job_pb2.JOB_STATE_FAILED
        finally:
            async with job.news:
                job.news.notify_all()

    async def _plan(self, job: FakeJob, audio: Audio) -> bool:
        for event in self.agent.plan(audio, job.spec.instruction, seed=job.spec.seed):
            message = event_to_proto(event)
            if isinstance(event, PlanReady):
                job.plan = replace(event.plan, source_name=job.spec.source_name)
                message.plan_ready.plan.CopyFrom(plan_to_proto(job.plan))
                message.plan_ready.awaits_review = job.spec.review
            await self._tell(job, message)
        if job.plan is not None and job.spec.review:
            job.state = job_pb2.JOB_STATE_AWAITING_REVIEW
            waits = [asyncio.ensure_future(job.decided.wait()), asyncio.ensure_future(job.cancelled.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return job.plan is not None

    async def _apply(self, job: FakeJob, audio: Audio) -> None:
        for event in self.agent.apply(audio, job.plan, mode=MODES[job.spec.mode], seed=job.spec.seed):
            message = event_to_proto(event)
            if isinstance(event, StepFinished):
                sha256 = self.put_audio(event.audio)
                job.steps.append(sha256)
                message.step_finished.audio.CopyFrom(self.info(sha256))
            if isinstance(event, Finished):
                message.summary.result.CopyFrom(self.info(job.steps[-1]))
            await self._tell(job, message)

    # --- the rest ---

    async def ValidatePlan(self, request: Any, context: Any) -> Any:
        await self._enter("ValidatePlan", request, context)
        faults = [
            edit_pb2.PlanViolation(
                field=fault.field, description=fault.message, hint=fault.hint, reason=fault.code.name
            )
            for fault in plan_violations(request.plan)
        ]
        return edit_pb2.ValidatePlanResponse(violations=faults, plan=None if faults else request.plan)

    async def GetCapabilities(self, request: Any, context: Any) -> Any:
        fault = await self._enter("GetCapabilities", request, context)
        await self._leave(fault, context)
        gain = server_pb2.ParameterInfo(name="gain_db", unit="dB", minimum=-24, maximum=24, required=True)
        return server_pb2.GetCapabilitiesResponse(
            version="0.1.0",
            preset="small",
            operations=[server_pb2.OperationInfo(name="volume", summary="Louder or quieter.", parameters=[gain])],
            modes=["preserve", "generate"],
            limits=server_pb2.LimitsInfo(max_steps=50),
            models=[server_pb2.ModelInfo(role="editor", name="tiny", sha256="ab" * 32, parameters=1_000_000)],
            devices=[server_pb2.DeviceInfo(device="cuda:0", model="Fake GPU", ready=True)],
        )

    async def Check(self, request: Any, context: Any) -> Any:
        await self._enter("Check", request, context)
        states = health_pb2.HealthCheckResponse
        return states(status=states.SERVING if self.serving else states.NOT_SERVING)
