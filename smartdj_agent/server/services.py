"""The gRPC services: thin doors onto `JobManager` and `BlobStore`.

Handlers raise `SmartDJError`; the interceptor of `smartdj_agent.server.security` turns it into a rich status. Nothing
here blocks the event loop: files are read and written on threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, BinaryIO, TypeVar, cast

import soundfile

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
from smartdj_agent import __version__
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.instruction import check_instruction
from smartdj_agent.plan import MAX_STEPS, Plan, PlanStep
from smartdj_agent.server.blobs import BlobStore, Upload
from smartdj_agent.server.calls import current_call
from smartdj_agent.server.jobs import JobManager, audio_info, check_plan, states_from_proto
from smartdj_agent.server.metrics import Metrics
from smartdj_agent.server.security import create_under_roots, resolve_under_roots
from smartdj_agent.server.settings import Settings
from smartdj_agent.server.store import JobRecord, JobStore, StoredAudio
from smartdj_agent.steps import OPERATIONS, parse_step
from smartdj_agent.wire import MODES, plan_to_proto, plan_violations, step_to_proto
from smartdj_agent.wire_status import from_status

CHUNK_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
MAX_SILENCE_S = 60.0
"""How long a client may keep an upload waiting for its next piece before it is given up."""

Result = TypeVar("Result")
Context = Any  # grpc.aio.ServicerContext, whose stubs are generic in what nobody uses


class Sources:
    """Finds the recordings that requests name.

    Parameters
    ----------
    blobs, store
        What the server has.
    settings
        Called for the settings of the moment: allowed roots may be reloaded.
    metrics
        Where bytes are counted.
    """

    def __init__(self, blobs: BlobStore, store: JobStore, settings: Callable[[], Settings], metrics: Metrics) -> None:
        self.metrics = metrics
        self.blobs = blobs
        self.store = store
        self.settings = settings

    def fetched(self, sha256: str) -> None:
        """Note that a client has all of a recording."""
        self.store.mark_fetched(sha256, time.time())

    async def find(self, source: audio_pb2.AudioSource) -> StoredAudio:
        """Return the recording, taken in first where a path is given.

        Raises
        ------
        SmartDJError
            USAGE where nothing is named, AUDIO_NOT_FOUND, PATH_FORBIDDEN, and those of unreadable recordings.
        """
        match source.WhichOneof("source"):
            case "sha256":
                return await self.known(source.sha256, "audio.sha256")
            case "path":
                return await self.take_in(source.path, "audio.path")
        raise SmartDJError(
            ErrorCode.USAGE,
            "the request names no recording",
            "Set `sha256` of one that was uploaded, or `path` on the server's machine.",
            "audio",
        )

    async def known(self, sha256: str, field: str) -> StoredAudio:
        """Return a recording that the server has."""
        stored = await asyncio.to_thread(self.store.audio, check_sha256(sha256, field))
        if stored is None:
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"there is no recording {sha256[:12]}… here",
                "Upload it first; recordings that nobody uses are deleted after a while.",
                field,
            )
        return stored

    async def take_in(self, path: str, field: str) -> StoredAudio:
        """Copy a file under an allowed root into the store."""
        roots = self.settings().allowed_roots

        def copy() -> StoredAudio:
            with resolve_under_roots(path, roots) as opened:
                return self.blobs.import_stream(cast(BinaryIO, opened.file), opened.path.name)

        try:
            return await asyncio.to_thread(copy)
        except SmartDJError as error:
            raise SmartDJError(error.code, error.message, error.hint, error.field or field) from error


class EditService(edit_pb2_grpc.EditServiceServicer):
    """Plan, check and edit while the client listens."""

    def __init__(self, jobs: JobManager, sources: Sources) -> None:
        self.jobs = jobs
        self.sources = sources

    async def Plan(self, request_iterator: Any, context: Context) -> AsyncIterator[edit_pb2.PlanResponse]:
        """Listen and write a plan."""
        stream = Stream(request_iterator)
        first = await stream.next()
        if first is None or first.WhichOneof("payload") != "header":
            raise out_of_order("the first message of Plan is the header")
        header = first.header
        spec = job_pb2.JobSpec(
            instruction=header.instruction, plan_only=True, seed=header.seed, source_name=header.source_name
        )
        record = await self._begun(stream, header, spec, context, goes_on=False)
        try:
            async with aclosing(self.jobs.watch(record.job_id)) as events:
                async for event in events:
                    yield edit_pb2.PlanResponse(event=event)
                    await self._raise_failure(event)
                await self.jobs.told(record.job_id)
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.shield(self.jobs.cancel(record.job_id))
            raise

    async def ValidatePlan(
        self, request: edit_pb2.ValidatePlanRequest, context: Context
    ) -> edit_pb2.ValidatePlanResponse:
        """Check a plan."""
        faults = plan_violations(request.plan)
        response = edit_pb2.ValidatePlanResponse()
        if not faults:
            try:
                plan = check_plan(request.plan)
                response.plan.CopyFrom(plan_to_proto(plan))
            except SmartDJError as error:
                faults = [error]
        if request.HasField("audio"):
            stored = await self.sources.find(request.audio)
            wanted = request.plan.source_audio_sha256.lower()
            if wanted and stored.audio_sha256 and wanted != stored.audio_sha256:
                faults.append(
                    SmartDJError(
                        ErrorCode.PLAN_MISMATCH,
                        "the plan was made for another recording",
                        "Use that recording, or clear the field to use the plan on any.",
                        "plan.source_audio_sha256",
                    )
                )
        if faults:
            response.ClearField("plan")
        for fault in faults:
            response.violations.add(
                field=fault.field, description=fault.message, hint=fault.hint, reason=fault.code.name
            )
        return response

    async def Edit(self, request_iterator: Any, context: Context) -> AsyncIterator[edit_pb2.EditResponse]:
        """Edit a recording."""
        stream = Stream(request_iterator)
        first = await stream.next()
        if first is None or first.WhichOneof("payload") != "header":
            raise out_of_order("the first message of Edit is the header")
        header = first.header
        goes_on = header.on_disconnect == edit_pb2.ON_DISCONNECT_CONTINUE
        record = await self._begun(stream, header, header.spec, context, goes_on=goes_on)
        said = asyncio.create_task(self._listen(stream, record.job_id))
        try:
            async with aclosing(self._told(record, header.delivery, said)) as responses:
                async for response in responses:
                    yield response
        except (asyncio.CancelledError, GeneratorExit):
            if not goes_on:
                await asyncio.shield(self.jobs.cancel(record.job_id))
            raise
        finally:
            said.cancel()
            await asyncio.gather(said, return_exceptions=True)

    async def _begun(
        self,
        stream: Stream,
        header: edit_pb2.EditHeader | edit_pb2.PlanHeader,
        spec: job_pb2.JobSpec,
        context: Context,
        *,
        goes_on: bool,
    ) -> JobRecord:
        """The job of a stream, found or made; `goes_on`: also where the client has gone when it is made."""
        check_spec(spec, self.sources.settings())
        request_id, client = check_request_id(header.request_id), caller(context)
        record = await self.jobs.recall(client["client"], request_id, spec, header.audio.sha256)
        if record is not None:
            return record
        if header.HasField("audio"):
            source = await self.sources.find(header.audio)
        else:
            source = await self._received(stream, says_end=isinstance(header, edit_pb2.EditHeader))
        making = asyncio.ensure_future(self.jobs.submit(spec, source, request_id=request_id, **client))
        try:
            return (await asyncio.shield(making))[0]
        except asyncio.CancelledError:
            with suppress(SmartDJError):
                record, _ = await making
                if not goes_on:
                    await self.jobs.cancel(record.job_id)
            raise

    async def _told(
        self, record: JobRecord, delivery: int, said: asyncio.Task[None]
    ) -> AsyncGenerator[edit_pb2.EditResponse, None]:
        """A job's events and audio; ends early with what is wrong with what the client said."""
        events = self.jobs.watch(record.job_id)
        wrong: asyncio.Task[Any] = said
        try:
            while True:
                coming = asyncio.ensure_future(anext(events, None))
                try:
                    waiting = {coming} if wrong.done() else {coming, wrong}
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if wrong.done() and not wrong.cancelled() and (error := wrong.exception()) is not None:
                        await self.jobs.cancel(record.job_id)
                        raise error
                    event = await coming
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.gather(coming, return_exceptions=True)
                if event is None:
                    await self.jobs.told(record.job_id)
                    return
                yield edit_pb2.EditResponse(event=event)
                if event.WhichOneof("event") == "step_finished":
                    step = event.step_finished
                    last = step.index == step.count - 1
                    if delivery in (edit_pb2.DELIVERY_UNSPECIFIED, edit_pb2.DELIVERY_EVERY_STEP) or (
                        last and delivery == edit_pb2.DELIVERY_RESULT
                    ):
                        async for chunk in self._chunks(step.audio, step.index):
                            yield edit_pb2.EditResponse(audio=chunk)
                await self._raise_failure(event)
        finally:
            await events.aclose()

    async def _raise_failure(self, event: event_pb2.JobEvent) -> None:
        """End a call with its job's error, once the event is sent."""
        if event.WhichOneof("event") == "failed":
            await self.jobs.told(event.job_id)
            raise from_status(event.failed.error)

    async def _listen(self, stream: Stream, job_id: str) -> None:
        """Do what the client says while its job runs."""
        while (message := await stream.next(patient=True)) is not None:
            match message.WhichOneof("payload"):
                case "cancel":
                    await self.jobs.cancel(job_id)
                case "decision":
                    await self._decide(job_id, message.decision)
                case "data" | "audio_end":
                    raise out_of_order("the recording is here already")
                case "header":
                    raise out_of_order("a stream has one header")
                case _:
                    raise out_of_order("the message is empty")

    async def _decide(self, job_id: str, decision: edit_pb2.PlanDecision) -> None:
        try:
            await self.jobs.review(job_id, decision.changed_plan if decision.HasField("changed_plan") else None)
        except SmartDJError as error:
            if not error.field.startswith("plan"):
                raise
            # A slip in a changed plan must not cost the person the job: it goes on waiting.
            message = f"{error.field}: {error.message}"
            warning = event_pb2.WarningEvent(code=error.code.value, message=message, hint=error.hint)
            self.jobs.remark(job_id, event_pb2.JobEvent(warning=warning))

    async def _received(self, stream: Stream, *, says_end: bool) -> StoredAudio:
        """The recording that is sent after a header; `says_end`: with a message after its last bytes."""
        async with receiving(self.sources.blobs.receive) as upload:
            sha256 = ""
            ended = False
            while (message := await stream.next()) is not None:
                match message.WhichOneof("payload"):
                    case "data":
                        self.sources.metrics.received(check_chunk(message.data))
                        await to_its_end(upload.write, message.data)
                    case "audio_end":
                        sha256 = message.audio_end.sha256
                        ended = True
                        break
                    case "cancel":
                        raise SmartDJError(
                            ErrorCode.CANCELLED,
                            "the client cancelled before the recording was here",
                            "Nothing was begun; send the request again to have it done.",
                        )
                    case _:
                        raise out_of_order("after the header comes the recording")
            if sha256:
                check_sha256(sha256, "audio_end.sha256")
            if not upload.received_bytes:
                raise SmartDJError(
                    ErrorCode.AUDIO_EMPTY,
                    "no bytes of the recording came",
                    "Send its bytes after the header, or name it in the header.",
                    "data",
                )
            if says_end and not ended:
                # A broken connection looks like an early end: half a recording must not be taken for a whole one.
                raise SmartDJError(
                    ErrorCode.UPLOAD_MISMATCH,
                    "the stream ended before the recording did",
                    "Send audio_end after the recording's last bytes.",
                    "audio_end",
                )
            return await to_its_end(upload.finish, sha256.lower())

    async def _chunks(self, info: audio_pb2.AudioInfo, index: int) -> AsyncIterator[edit_pb2.AudioChunk]:
        async for offset, data in read_chunks(self.sources.blobs, info.sha256, 0):
            self.sources.metrics.sent(len(data))
            end = offset + len(data)
            yield edit_pb2.AudioChunk(
                sha256=info.sha256, step_index=index, offset_bytes=offset, data=data, last=end == info.size_bytes
            )
        await asyncio.to_thread(self.sources.fetched, info.sha256)


class AudioService(audio_pb2_grpc.AudioServiceServicer):
    """Moves recordings to and from the server."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.blobs = sources.blobs

    async def Upload(self, request_iterator: Any, context: Context) -> audio_pb2.UploadResponse:
        """Receive a file."""
        stream = Stream(request_iterator)
        first = await stream.next()
        if first is None or first.WhichOneof("payload") != "header":
            raise out_of_order("the first message of Upload is the header")
        header = first.header
        sha256 = check_sha256(header.sha256, "header.sha256")
        stored = await asyncio.to_thread(self.sources.store.audio, sha256)
        if stored is not None:
            return audio_pb2.UploadResponse(audio=audio_info(stored))
        async with receiving(self.blobs.begin, sha256, header.size_bytes, header.offset_bytes) as upload:
            while (message := await stream.next()) is not None:
                if message.WhichOneof("payload") != "data":
                    raise out_of_order("after the header come data")
                self.sources.metrics.received(check_chunk(message.data))
                await to_its_end(upload.write, message.data)
            return audio_pb2.UploadResponse(audio=audio_info(await to_its_end(upload.finish)))

    async def GetUpload(self, request: audio_pb2.GetUploadRequest, context: Context) -> audio_pb2.GetUploadResponse:
        """Say how much of a file has arrived."""
        sha256 = check_sha256(request.sha256, "sha256")
        stored = await asyncio.to_thread(self.sources.store.audio, sha256)
        if stored is not None:
            return audio_pb2.GetUploadResponse(received_bytes=stored.size_bytes, audio=audio_info(stored))
        return audio_pb2.GetUploadResponse(received_bytes=await asyncio.to_thread(self.blobs.received_bytes, sha256))

    async def Download(
        self, request: audio_pb2.DownloadRequest, context: Context
    ) -> AsyncIterator[audio_pb2.DownloadResponse]:
        """Send a file."""
        stored = await self.sources.known(request.sha256, "sha256")
        if not 0 <= request.offset_bytes <= stored.size_bytes:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"offset_bytes is {request.offset_bytes}; the file has {stored.size_bytes} bytes",
                "Begin at what you have of it.",
                "offset_bytes",
            )
        yield audio_pb2.DownloadResponse(audio=audio_info(stored))
        async for _, data in read_chunks(self.blobs, stored.sha256, request.offset_bytes):
            self.sources.metrics.sent(len(data))
            yield audio_pb2.DownloadResponse(data=data)
        await asyncio.to_thread(self.sources.fetched, stored.sha256)

    async def ImportFile(self, request: audio_pb2.ImportFileRequest, context: Context) -> audio_pb2.ImportFileResponse:
        """Take in a file of this machine."""
        return audio_pb2.ImportFileResponse(audio=audio_info(await self.sources.take_in(request.path, "path")))

    async def ExportFile(self, request: audio_pb2.ExportFileRequest, context: Context) -> audio_pb2.ExportFileResponse:
        """Write a recording to a file of this machine."""
        stored = await self.sources.known(request.sha256, "sha256")
        roots = self.sources.settings().allowed_roots

        def copy() -> None:
            with self.blobs.open(stored.sha256) as source, create_under_roots(request.path, roots) as target:
                shutil.copyfileobj(source, target, MAX_CHUNK_BYTES)

        await asyncio.to_thread(copy)
        await asyncio.to_thread(self.sources.fetched, stored.sha256)
        return audio_pb2.ExportFileResponse(path=os.path.realpath(request.path))


class JobService(job_pb2_grpc.JobServiceServicer):
    """Starts, watches and ends jobs."""

    def __init__(self, jobs: JobManager, sources: Sources) -> None:
        self.jobs = jobs
        self.sources = sources

    async def SubmitJob(self, request: job_pb2.SubmitJobRequest, context: Context) -> job_pb2.SubmitJobResponse:
        """Start a job."""
        check_spec(request.spec, self.sources.settings())
        request_id, client = check_request_id(request.request_id), caller(context)
        record = await self.jobs.recall(client["client"], request_id, request.spec, request.audio.sha256)
        if record is None:
            source = await self.sources.find(request.audio)
            record, _ = await self.jobs.submit(request.spec, source, request_id=request_id, **client)
        return job_pb2.SubmitJobResponse(job=await self.jobs.describe(record))

    async def GetJob(self, request: job_pb2.GetJobRequest, context: Context) -> job_pb2.GetJobResponse:
        """Describe a job."""
        return job_pb2.GetJobResponse(job=await self.jobs.describe(await self.jobs.get(request.job_id)))

    async def ListJobs(self, request: job_pb2.ListJobsRequest, context: Context) -> job_pb2.ListJobsResponse:
        """List jobs."""
        if not 0 <= request.page_size <= 500:
            raise SmartDJError(
                ErrorCode.USAGE, f"page_size is {request.page_size}", "Ask for 1 to 500 jobs at once.", "page_size"
            )
        states = states_from_proto(request.states)
        size, token = request.page_size or 50, request.page_token
        while True:
            records, following = await self.jobs.db(self.jobs.store.page, states, size, token)
            response = job_pb2.ListJobsResponse(jobs=await self.jobs.describe_all(records), next_page_token=following)
            # gRPC sends no message above the limit, and plans may be long.
            if len(records) <= 1 or response.ByteSize() <= self.sources.settings().max_message_bytes:
                return response
            size = len(records) // 2

    async def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """Stream a job's events."""
        async with aclosing(self.jobs.watch(request.job_id, request.after_sequence)) as events:
            async for event in events:
                yield job_pb2.WatchJobResponse(event=event)
        await self.jobs.told(request.job_id)

    async def ReviewJob(self, request: job_pb2.ReviewJobRequest, context: Context) -> job_pb2.ReviewJobResponse:
        """Accept or change a plan."""
        check_request_id(request.request_id)
        changed = request.changed_plan if request.HasField("changed_plan") else None
        record = await self.jobs.review(request.job_id, changed)
        return job_pb2.ReviewJobResponse(job=await self.jobs.describe(record))

    async def CancelJob(self, request: job_pb2.CancelJobRequest, context: Context) -> job_pb2.CancelJobResponse:
        """Stop a job."""
        check_request_id(request.request_id)
        record = await self.jobs.cancel(request.job_id)
        return job_pb2.CancelJobResponse(job=await self.jobs.describe(record))


class ServerService(server_pb2_grpc.ServerServiceServicer):
    """Says what this server can do.

    Parameters
    ----------
    jobs
        For what the devices do.
    settings
        Called for the settings of the moment.
    reload
        Reads the configuration file again; returns what applied and what needs a restart.
    """

    def __init__(
        self,
        jobs: JobManager,
        settings: Callable[[], Settings],
        reload: Callable[[], tuple[list[str], list[str]]],
    ) -> None:
        self.jobs = jobs
        self.settings = settings
        self.reload = reload

    async def GetCapabilities(
        self, request: server_pb2.GetCapabilitiesRequest, context: Context
    ) -> server_pb2.GetCapabilitiesResponse:
        """Describe the server."""
        settings = self.settings()
        return server_pb2.GetCapabilitiesResponse(
            version=__version__,
            preset=settings.preset,
            operations=operations(),
            modes=sorted(set(MODES.values()), reverse=True),
            input_containers=sorted(soundfile.available_formats()),
            limits=server_pb2.LimitsInfo(
                max_audio_bytes=settings.max_audio_bytes,
                max_audio_s=settings.max_audio_s,
                max_channels=settings.max_channels,
                max_instruction_chars=settings.max_instruction_chars,
                max_steps=MAX_STEPS,
                max_message_bytes=settings.max_message_bytes,
                max_queue=settings.max_queue,
                max_queue_per_client=settings.max_queue_per_client,
            ),
            models=[
                server_pb2.ModelInfo(role=role, name=name, sha256=sha256, parameters=parameters)
                for role, name, sha256, parameters in sorted({m for worker in self.jobs.workers for m in worker.models})
            ],
            devices=[
                server_pb2.DeviceInfo(
                    device=worker.resolved_device or worker.device,
                    model=worker.device_name,
                    ready=worker.ready.is_set(),
                    busy=self.jobs.busy(worker),
                )
                for worker in self.jobs.workers
            ],
            local_paths=bool(settings.allowed_roots),
        )

    async def ReloadConfig(
        self, request: server_pb2.ReloadConfigRequest, context: Context
    ) -> server_pb2.ReloadConfigResponse:
        """Read the configuration again."""
        applied, restart = await asyncio.to_thread(self.reload)
        return server_pb2.ReloadConfigResponse(applied=applied, restart_needed=restart)


# --- small parts ----------------------------------------------------------


class Stream:
    """The client's half of a call, message by message."""

    def __init__(self, messages: Any) -> None:
        self._messages = aiter(messages)

    async def next(self, *, patient: bool = False) -> Any:
        """Return the next message, None at the end.

        Raises
        ------
        SmartDJError
            DEADLINE where an impatient reader waits for more than `MAX_SILENCE_S`.
        """
        try:
            async with asyncio.timeout(None if patient else MAX_SILENCE_S):
                return await anext(self._messages, None)
        except TimeoutError as error:
            raise SmartDJError(
                ErrorCode.DEADLINE,
                f"nothing came for {MAX_SILENCE_S:.0f} s",
                "Send without long pauses, or upload first and name the recording by its hash.",
            ) from error


async def to_its_end(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function on a thread. A call that is cancelled meanwhile, even more than once, still waits for it.

    So nobody closes a file under its writer, whose bytes might then go into whatever is opened next.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # nobody is left to hear of it
        raise cancelled
    return work.result()


@asynccontextmanager
async def receiving(begin: Callable[..., Upload], *arguments: Any) -> AsyncIterator[Upload]:
    """Begin an upload and close it in the end, at whatever moment the call is cancelled."""
    begun: list[Upload] = []
    try:
        await to_its_end(lambda: begun.append(begin(*arguments)))
        yield begun[0]
    finally:
        for upload in begun:
            await to_its_end(upload.close)


async def read_chunks(blobs: BlobStore, sha256: str, offset: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield a file's bytes from an offset on, `CHUNK_BYTES` at a time, each with its place."""
    file = await asyncio.to_thread(blobs.open, sha256)
    try:
        file.seek(offset)
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield offset, data
            offset += len(data)
    finally:
        file.close()


def operations() -> list[server_pb2.OperationInfo]:
    """Describe the step language."""
    return [
        server_pb2.OperationInfo(
            name=operation.value,
            summary=spec.summary,
            parameters=[
                server_pb2.ParameterInfo(
                    name=parameter.name,
                    description=parameter.description,
                    unit=parameter.unit,
                    minimum=parameter.minimum,
                    maximum=parameter.maximum,
                    resolution=parameter.resolution,
                    default_value=parameter.default,
                    choices=parameter.choices,
                    required=parameter.required,
                )
                for parameter in spec.parameters
            ],
            templates=spec.templates,
            examples=[
                step_to_proto(PlanStep(f"s{number}", parse_step(text)))
                for number, text in enumerate(spec.examples, start=1)
            ],
        )
        for operation, spec in OPERATIONS.items()
    ]


def caller(context: Context) -> dict[str, str]:
    """Who calls, by a name that a new connection doesn't change, and the queue's lane for it.

    Programs that don't name themselves (``x-client-id``) share a name per host; each connection has its own lane.
    """
    client = current_call().client
    return {"client": client, "lane": client if "/" in client else f"{client} {context.peer()}"[:200]}


def check_spec(spec: job_pb2.JobSpec, settings: Settings) -> None:
    """Check what a client wishes for, before anything is done.

    Raises
    ------
    SmartDJError
        USAGE, INSTRUCTION_EMPTY, INSTRUCTION_TOO_LONG, or what is wrong with the plan.
    """
    spec.DiscardUnknownFields()  # they would be kept with the job and sent to whoever lists it
    wish = spec.WhichOneof("wish")
    if wish is None:
        raise SmartDJError(
            ErrorCode.USAGE, "the request says neither instruction nor plan", "Set one of them.", "spec.wish"
        )
    if spec.mode not in MODES:
        raise SmartDJError(ErrorCode.USAGE, f"mode {spec.mode} is unknown", "Use preserve or generate.", "spec.mode")
    if spec.output_encoding not in job_pb2.OutputEncoding.values():
        raise SmartDJError(
            ErrorCode.USAGE,
            f"output encoding {spec.output_encoding} is unknown",
            "Use source or WAV float.",
            "spec.output_encoding",
        )
    try:
        Plan((), source_name=spec.source_name)
    except SmartDJError as error:
        message = error.message.replace(error.field, "source_name")
        raise SmartDJError(ErrorCode.USAGE, message, error.hint, "spec.source_name") from error
    if wish == "plan":
        if spec.plan_only:
            raise SmartDJError(
                ErrorCode.USAGE,
                "plan_only goes with an instruction",
                "Use ValidatePlan to check a plan.",
                "spec.plan_only",
            )
        spec.plan.CopyFrom(plan_to_proto(check_plan(spec.plan)))
    else:
        try:
            spec.instruction = check_instruction(spec.instruction, settings.max_instruction_chars)
        except SmartDJError as error:
            raise SmartDJError(error.code, error.message, error.hint, "spec.instruction") from error


def check_sha256(text: str, field: str) -> str:
    """Return a hash in lower case.

    Raises
    ------
    SmartDJError
        USAGE.
    """
    lowered = text.lower()
    if len(lowered) != 64 or set(lowered) - set("0123456789abcdef"):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{field} is not a SHA-256 hash",
            "Give the 64 hexadecimal digits of the file's hash.",
            field,
        )
    return lowered


def check_request_id(text: str) -> str:
    """Return a request id.

    Raises
    ------
    SmartDJError
        USAGE for one that is too long or odd.
    """
    if len(text) > 64 or not all(char.isascii() and (char.isalnum() or char in "-_.") for char in text):
        raise SmartDJError(
            ErrorCode.USAGE,
            "the request id has odd characters or more than 64",
            "Use a UUID.",
            "request_id",
        )
    return text


def check_chunk(data: bytes) -> int:
    """Return a chunk's size, bytes.

    Raises
    ------
    SmartDJError
        USAGE for an empty one or one of more than `MAX_CHUNK_BYTES`.
    """
    if not 0 < len(data) <= MAX_CHUNK_BYTES:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"a chunk has {len(data):,} bytes",
            f"Send 1 to {MAX_CHUNK_BYTES:,} bytes at once; {CHUNK_BYTES:,} is fastest.",
            "data",
        )
    return len(data)


def out_of_order(rule: str) -> SmartDJError:
    """What a client is told that sends messages in a wrong order."""
    hint = "See the comments in protos/smartdj/v1."
    return SmartDJError(ErrorCode.USAGE, f"unexpected message: {rule}", hint, "payload")
