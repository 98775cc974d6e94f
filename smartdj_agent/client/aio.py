"""The client for asyncio programs; the sync one is built on it.

Work is started with SubmitJob, watched with WatchJob and its audio fetched with Download, also where somebody waits
for it at once: each of these calls can be made again, so a broken connection needs no special case. What
EditService.Edit would do in one stream would end with that stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2

from smartdj.v1 import audio_pb2, edit_pb2, event_pb2, job_pb2, server_pb2
from smartdj_agent.audio import Audio, AudioFormat, read_audio
from smartdj_agent.client.connection import CALL_S, PATIENCE_S, Connection, Patience
from smartdj_agent.client.transfer import Report, download_audio, download_file, upload_audio, upload_file
from smartdj_agent.client.values import (
    Capabilities,
    Job,
    JobState,
    RemoteAudio,
    Validation,
    audio_from_proto,
    capabilities_from_proto,
    job_from_proto,
)
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event, Finished, PlanReady, Question
from smartdj_agent.plan import Plan
from smartdj_agent.wire import event_from_proto, plan_from_proto, plan_to_proto
from smartdj_agent.wire_status import from_status

Source = str | os.PathLike[str] | Audio | RemoteAudio
"""A recording: a local file, samples in memory, or what the server already has."""

SILENCE_S = 60.0
"""How long a stream of events may say nothing before the server is asked whether the job is still there, seconds."""

_REOPEN_S = 0.2

CANCEL_S = 5.0
"""Longest time that leaving a run takes to tell the server, seconds."""

_ENCODINGS = {"source": job_pb2.OUTPUT_ENCODING_SOURCE, "float": job_pb2.OUTPUT_ENCODING_WAV_FLOAT}
_MODES = {"preserve": job_pb2.MODE_PRESERVE, "generate": job_pb2.MODE_GENERATE}


def _unheard(text: str) -> None:
    pass


@dataclass(frozen=True)
class _Wanted:
    """What a run shall submit."""

    source: Source
    spec: job_pb2.JobSpec


class AsyncRun:
    """A job that is being watched: an asynchronous iterator over the events that `Agent` would yield.

    Made by `AsyncClient.edit`, `plan` and `watch`. Nothing happens before the first event is asked for. A connection
    that breaks is mended without a trace in the events. Use it as a context manager: leaving a run of `edit` or `plan`
    before its end cancels the job, also by an exception or a cancelled task; leaving one of `watch` does not.

    Attributes
    ----------
    job_id
        The job's name; empty before the first event.
    plan
        The plan, once there is one.
    question
        The planner's question, where it needs to know more; no plan comes then.
    audio
        The recording after the newest step that is done, None before the first; at the end, the result.
    awaits_review
        Whether the job waits for `accept` or `cancel`.
    last_sequence
        Number of the newest event seen; `AsyncClient.watch` goes on after it.
    """

    def __init__(
        self,
        client: AsyncClient,
        wanted: _Wanted | None,
        *,
        job_id: str = "",
        after: int = 0,
        status: Report | None = None,
    ) -> None:
        self.job_id = job_id
        self.plan: Plan | None = None
        self.question: Question | None = None
        self.audio: Audio | None = None
        self.awaits_review = False
        self.last_sequence = after
        self._client = client
        self._wanted = wanted
        self._status = status or _unheard
        self._ended = False
        self._look: tuple[AudioFormat, tuple[tuple[str, str], ...]] | None = None
        self._fetched: tuple[str, Audio] | None = None
        self._events = self._watch()
        client._runs.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the run; see the class. Takes at most `CANCEL_S` seconds, and may be called again."""
        await self._events.aclose()

    async def wait(self) -> Self:
        """Let the run go on to its end, or until it waits for review; returns the run itself.

        Raises
        ------
        SmartDJError
            What the job failed with; CANCELLED.

        Examples
        --------
        >>> run = await client.edit("walk.wav", "remove the dog").wait()
        >>> write_audio("calm.wav", run.audio)
        """
        while not self.awaits_review:
            try:
                await anext(self)
            except StopAsyncIteration:
                break
        return self

    async def accept(self, plan: Plan | None = None) -> None:
        """Let the job carry out its plan, or `plan` instead; then go on iterating.

        Raises
        ------
        SmartDJError
            PLAN_INVALID and its relatives for a plan that can't be carried out; JOB_ENDED.

        Examples
        --------
        >>> async with client.edit("walk.wav", "make it calm", review=True) as run:
        ...     await run.wait()
        ...     await run.accept()
        ...     await run.wait()
        """
        await self._client.review(self.job_id, plan)
        self.awaits_review = False
        self.plan = plan or self.plan

    async def cancel(self) -> None:
        """Stop the job within one denoising step; the iterator then raises CANCELLED.

        Examples
        --------
        >>> await run.cancel()
        """
        await self._client.cancel(self.job_id)

    async def _watch(self) -> AsyncGenerator[Event, None]:
        """Submit and watch; however this generator ends before the job does, the job is cancelled."""
        try:
            await self._begin()
            patience = self._client._connection.patience()
            while not self._ended:
                async with contextlib.aclosing(self._listen(patience)) as messages:
                    async for message in messages:
                        event = await self._event(message)
                        if event is not None:
                            yield event
                if not self._ended:
                    await self._check_job(patience)
        finally:
            self._client._runs.discard(self)
            if not self._ended:
                await self._abandon()

    async def _begin(self) -> None:
        if self._wanted is None:
            return
        source, spec = self._wanted.source, self._wanted.spec
        if isinstance(source, Audio):
            self._look = (source.format, source.tags)
        elif not isinstance(source, RemoteAudio):
            # The recording is read here although the server reads it again: for its tags, and so that a file that
            # can't be read is an error before it travels.
            own = await asyncio.to_thread(read_audio, source)
            self._look = (own.format, own.tags)
        self.job_id = (await self._client._start(source, spec, self._status)).job_id

    async def _abandon(self) -> None:
        """Cancel the job, if it is ours and if that can be done soon."""
        if self._wanted is not None and self.job_id:
            with contextlib.suppress(SmartDJError, TimeoutError):
                async with asyncio.timeout(CANCEL_S):
                    await self._client.cancel(self.job_id)

    async def _listen(self, patience: Patience) -> AsyncGenerator[event_pb2.JobEvent, None]:
        """Yield new messages until the stream ends, breaks or falls silent."""
        connection = self._client._connection
        request = job_pb2.WatchJobRequest(job_id=self.job_id, after_sequence=self.last_sequence)
        call = connection.stubs.jobs.WatchJob(request, metadata=connection.metadata)
        try:
            responses = aiter(call)
            while True:
                async with asyncio.timeout(SILENCE_S):
                    response = await anext(responses, None)
                if response is None:
                    return
                patience.succeeded()
                message = response.event
                # Waiting and progress are not kept and have the number of the event before; all others come once.
                passing = message.WhichOneof("event") in ("queued", "progress")
                if message.sequence > self.last_sequence or (passing and message.sequence == self.last_sequence):
                    self.last_sequence = message.sequence
                    yield message
        except TimeoutError:
            return
        except grpc.RpcError as error:
            self._status("connection lost; trying again")
            await connection.retry(error, patience)
        finally:
            call.cancel()

    async def _check_job(self, patience: Patience) -> None:
        """Find out why a stream ended before the job did."""
        job = await self._client.job(self.job_id)
        if not job.state.ended:
            patience.succeeded()
            await asyncio.sleep(_REOPEN_S)  # a server that is about to stop ends its streams, maybe at once again
            return
        if job.last_sequence > self.last_sequence:  # its last events are still to be fetched
            gone = SmartDJError(
                ErrorCode.ENDPOINT_FAILED,
                f"the server doesn't tell how the job {self.job_id} ended",
                "report this with the server's log",
            )
            await patience.pause(gone)
            return
        self._ended = True
        if job.error is not None:
            raise job.error

    async def _event(self, message: event_pb2.JobEvent) -> Event | None:
        kind = message.WhichOneof("event")
        audio: Audio | None = None
        if kind == "queued":
            before = message.queued.position
            self._status(f"waiting, {before} job{'' if before == 1 else 's'} before this one" if before else "waiting")
        elif kind == "failed":
            self._ended = True
            raise from_status(message.failed.error)
        elif kind == "step_finished":
            audio = await self._fetch(message.step_finished.audio.sha256)
        elif kind == "summary" and message.summary.HasField("result"):
            audio = await self._fetch(message.summary.result.sha256)
        only_plans = self._wanted is not None and self._wanted.spec.plan_only
        if kind in ("summary", "question") or (kind == "plan_ready" and only_plans):
            self._ended = True
        if kind not in ("queued", "progress"):  # whatever comes after a plan shows that somebody has decided
            self.awaits_review = kind == "plan_ready" and message.plan_ready.awaits_review
        if audio is not None:
            self.audio = audio
        event = event_from_proto(message, lambda info: self._fetched[1] if self._fetched else _never(info))
        if isinstance(event, PlanReady):
            self.plan = event.plan
        elif isinstance(event, Question):
            self.question = event
        elif isinstance(event, Finished):
            self.plan = event.plan
        return event

    async def _fetch(self, sha256: str) -> Audio:
        """Fetch what a step made, and give it the look of the source; the result is the last step's audio again."""
        if self._fetched is None or self._fetched[0] != sha256:
            audio = await download_audio(self._client._connection, sha256)
            if self._look is not None:
                audio = replace(audio, format=self._look[0], tags=self._look[1])
            self._fetched = (sha256, audio)
        return self._fetched[1]


def _never(info: audio_pb2.AudioInfo) -> Audio:
    raise AssertionError(f"{info.sha256} was not fetched")


class AsyncClient:
    """A SmartDJ server, for asyncio programs. Opens its connection when it is first used.

    All methods raise `SmartDJError`: the server's own errors; SERVER_UNREACHABLE where it can't be reached (tried
    again for 3 s where it never answered, else for `patience_s`); UNAUTHENTICATED; DEADLINE. Only calls that failed
    because the server was not available are made again, with growing, jittered pauses and the same request id.

    Parameters
    ----------
    address
        ``HOST:PORT``, ``HOST`` (port 50551), or ``unix:PATH``.
    token
        The server's token; see `read_token`. Beyond this machine only together with TLS.
    tls_ca
        PEM file of the authority that signed the server's certificate; turns TLS on.
    client_cert
        PEM files of our own certificate and its key, where the server asks for one; turns TLS on.
    client_id
        Tells programs with the same token apart, for fair queueing; plain ASCII.
    timeout_s
        Deadline of each try of a short call, seconds. Transfers are given up after 60 s without any movement.
    patience_s
        How long a broken connection is tried again without any success, seconds.

    Examples
    --------
    >>> async with AsyncClient("localhost:50551") as client:
    ...     async with client.edit("walk.wav", "remove the dog") as run:
    ...         async for event in run:
    ...             print(event)
    ...     write_audio("calm.wav", run.audio)
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        client_cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        client_id: str = "",
        timeout_s: float = CALL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._connection = Connection(
            address,
            token=token,
            tls_ca=tls_ca,
            client_cert=client_cert,
            client_id=client_id,
            call_s=timeout_s,
            patience_s=patience_s,
        )
        self._runs: weakref.WeakSet[AsyncRun] = weakref.WeakSet()

    @property
    def address(self) -> str:
        """The server's address with its port."""
        return self._connection.target

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave all runs (which cancels what was not at its end) and close the connection."""
        for run in list(self._runs):
            try:
                await run.aclose()
            except RuntimeError:  # another task waits for its next event; the end of the job ends its wait
                await run._abandon()
        await self._connection.close()

    # --- work with one recording ---

    def plan(self, source: Source, instruction: str, *, seed: int = 0, status: Report | None = None) -> AsyncRun:
        """Listen and write a plan; nothing is carried out.

        Parameters
        ----------
        source
            The recording: a local file, `Audio`, or `RemoteAudio`.
        instruction
            A sentence, at most 2000 characters.
        seed
            Same seed, same plan.
        status
            Is told in words what is going on: sending, waiting, a lost connection.

        Returns
        -------
        AsyncRun
            Events `Listening` …, `Listened`, `StepPlanned` …, at the end `PlanReady` or `Question`.

        Raises
        ------
        SmartDJError
            USAGE. The run raises what the recording, the instruction or the server gives reason for.

        Examples
        --------
        >>> run = await client.plan("walk.wav", "make it sound like a harbour").wait()
        >>> print(plan_to_yaml(run.plan))
        """
        spec = _spec(source, instruction, seed=seed, plan_only=True)
        return AsyncRun(self, _Wanted(source, spec), status=status)

    def edit(
        self,
        source: Source,
        wish: str | Plan,
        *,
        mode: str = "preserve",
        seed: int = 0,
        review: bool = False,
        status: Report | None = None,
    ) -> AsyncRun:
        """Plan, where `wish` is a sentence, and carry out; the audio after every step comes with its event.

        Parameters
        ----------
        source
            The recording: a local file, `Audio` (travels as it is in memory, float32 or float64), or `RemoteAudio`.
        wish
            A sentence for the planner, or a finished plan.
        mode
            ``preserve`` or ``generate``.
        seed
            Same seed, same result.
        review
            Stop after the plan until `AsyncRun.accept`.
        status
            Is told in words what is going on: sending, waiting, a lost connection.

        Returns
        -------
        AsyncRun
            Events as of `smartdj_agent.agent.Agent`. Audio is exact (nothing is rounded or clipped) and carries the
            format and tags of the source, so that `smartdj_agent.audio.write_audio` writes it as the source is stored.

        Raises
        ------
        SmartDJError
            USAGE. The run raises what the recording, the wish or the server gives reason for.

        Examples
        --------
        >>> run = await client.edit("walk.flac", "turn down the wind by 6 dB", seed=1).wait()
        >>> write_audio("calm.flac", run.audio)
        """
        spec = _spec(source, wish, mode=mode, seed=seed, review=review)
        return AsyncRun(self, _Wanted(source, spec), status=status)

    async def validate(self, plan: Plan, source: Source | None = None) -> Validation:
        """Check a plan without doing any work, against a recording too where one is given.

        Examples
        --------
        >>> for fault in (await client.validate(plan)).faults:
        ...     print(fault.field, fault.message)
        """
        request = edit_pb2.ValidatePlanRequest(plan=plan_to_proto(plan))
        if source is not None:
            request.audio.sha256 = (await self.upload(source)).sha256
        response = await self._connection.call(self._connection.stubs.editing.ValidatePlan, request)
        faults = tuple(
            SmartDJError(_code(item.reason), item.description, item.hint, item.field) for item in response.violations
        )
        return Validation(faults, plan_from_proto(response.plan) if response.HasField("plan") else None)

    # --- audio ---

    async def upload(self, source: Source, *, status: Report | None = None) -> RemoteAudio:
        """Send a recording, unless the server has it; an interrupted upload goes on where it ended.

        Parameters
        ----------
        source
            A file travels byte by byte; `Audio` as a WAV of its own float samples.
        status
            Is told in words how far it is.

        Raises
        ------
        SmartDJError
            AUDIO_NOT_FOUND, AUDIO_UNREADABLE and whatever the server finds wrong with the recording.

        Examples
        --------
        >>> walk = await client.upload("walk.wav")
        >>> runs = [client.edit(walk, wish) for wish in wishes]
        """
        report = status or _unheard
        if isinstance(source, RemoteAudio):
            return source
        if isinstance(source, Audio):
            return audio_from_proto(await upload_audio(self._connection, source, report))
        return audio_from_proto(await upload_file(self._connection, Path(source), report))

    async def download(self, audio: RemoteAudio | str, path: str | os.PathLike[str]) -> RemoteAudio:
        """Fetch a file of the server, byte by byte; it appears whole or not at all, and never in place of another.

        Parameters
        ----------
        audio
            What to fetch, or its `sha256`.
        path
            A file that doesn't exist yet.

        Raises
        ------
        SmartDJError
            OUTPUT_EXISTS, OUTPUT_UNWRITABLE, DISK_FULL, AUDIO_NOT_FOUND, ENDPOINT_FAILED (damaged on the way).

        Examples
        --------
        >>> job = await client.job(job_id)
        >>> await client.download(job.result, "result.wav")
        """
        return audio_from_proto(await download_file(self._connection, _sha256(audio), Path(path)))

    async def fetch(self, audio: RemoteAudio | str) -> Audio:
        """Fetch a recording into memory.

        Examples
        --------
        >>> steps = [await client.fetch(step) for step in job.steps]
        """
        return await download_audio(self._connection, _sha256(audio))

    async def import_file(self, path: str) -> RemoteAudio:
        """Take in a file that lies on the server's machine, under one of its allowed roots; no bytes travel.

        Raises
        ------
        SmartDJError
            PATH_FORBIDDEN, AUDIO_NOT_FOUND and whatever is wrong with the recording.

        Examples
        --------
        >>> run = await client.edit(await client.import_file("/srv/takes/1.wav"), "remove the hum").wait()
        """
        request = audio_pb2.ImportFileRequest(path=path)
        return audio_from_proto((await self._connection.call(self._connection.stubs.audio.ImportFile, request)).audio)

    async def export_file(self, audio: RemoteAudio | str, path: str) -> str:
        """Write a recording to a new file on the server's machine, under one of its allowed roots.

        Returns
        -------
        str
            Where it lies, symbolic links resolved.

        Raises
        ------
        SmartDJError
            PATH_FORBIDDEN, OUTPUT_EXISTS, AUDIO_NOT_FOUND.

        Examples
        --------
        >>> await client.export_file(job.result, "/srv/takes/1-clean.wav")
        """
        request = audio_pb2.ExportFileRequest(sha256=_sha256(audio), path=path)
        return str((await self._connection.call(self._connection.stubs.audio.ExportFile, request)).path)

    # --- jobs ---

    async def submit(
        self,
        source: Source,
        wish: str | Plan,
        *,
        mode: str = "preserve",
        seed: int = 0,
        plan_only: bool = False,
        review: bool = False,
        encoding: str = "source",
    ) -> Job:
        """Start a job that goes on by itself; look after it with `watch`, `job` and `cancel`.

        Parameters
        ----------
        source, wish, mode, seed, review
            As for `edit`.
        plan_only
            Only listen and write a plan.
        encoding
            ``source``: results are files like the recording's own; ``float``: WAV with exact float samples.

        Raises
        ------
        SmartDJError
            USAGE, QUEUE_FULL and whatever is wrong with the recording or the wish.

        Examples
        --------
        >>> job = await client.submit("walk.wav", "remove the dog")
        >>> job.job_id
        """
        spec = _spec(source, wish, mode=mode, seed=seed, plan_only=plan_only, review=review, encoding=encoding)
        return await self._start(source, spec, _unheard)

    def watch(self, job_id: str, *, after: int = 0, status: Report | None = None) -> AsyncRun:
        """Follow a job, from its first event or from one after; leaving doesn't stop it.

        Parameters
        ----------
        job_id
            The job.
        after
            Only events with a greater number; see `AsyncRun.last_sequence`.
        status
            Is told in words what is going on.

        Examples
        --------
        >>> async for event in client.watch(job.job_id):
        ...     print(event)
        """
        return AsyncRun(self, None, job_id=job_id, after=after, status=status)

    async def job(self, job_id: str) -> Job:
        """Describe a job.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.

        Examples
        --------
        >>> (await client.job(job_id)).state
        """
        request = job_pb2.GetJobRequest(job_id=job_id)
        return job_from_proto((await self._connection.call(self._connection.stubs.jobs.GetJob, request)).job)

    async def jobs(self, states: Iterable[JobState] = ()) -> AsyncIterator[Job]:
        """List jobs, newest first; further pages are asked for as they are needed.

        Parameters
        ----------
        states
            Only jobs in one of these; empty for all.

        Examples
        --------
        >>> async for job in client.jobs([JobState.RUNNING]):
        ...     print(job.job_id)
        """
        request = job_pb2.ListJobsRequest(states=[f"JOB_STATE_{JobState(state).name}" for state in states])
        while True:
            page = await self._connection.call(self._connection.stubs.jobs.ListJobs, request)
            for item in page.jobs:
                yield job_from_proto(item)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def review(self, job_id: str, plan: Plan | None = None) -> Job:
        """Accept the plan of a job that waits for review, or put another in its place.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND, JOB_ENDED; PLAN_INVALID and its relatives.

        Examples
        --------
        >>> await client.review(job_id, changed_plan)
        """
        request = job_pb2.ReviewJobRequest(
            request_id=str(uuid.uuid4()), job_id=job_id, changed_plan=plan_to_proto(plan) if plan else None
        )
        return job_from_proto((await self._connection.call(self._connection.stubs.jobs.ReviewJob, request)).job)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job within one denoising step; finished steps stay. Changes nothing where it has ended.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.

        Examples
        --------
        >>> await client.cancel(job_id)
        """
        request = job_pb2.CancelJobRequest(request_id=str(uuid.uuid4()), job_id=job_id)
        return job_from_proto((await self._connection.call(self._connection.stubs.jobs.CancelJob, request)).job)

    # --- the server ---

    async def capabilities(self) -> Capabilities:
        """Say what the server can do: operations with ranges and units, limits, models, devices.

        Examples
        --------
        >>> [device.device for device in (await client.capabilities()).devices]
        """
        request = server_pb2.GetCapabilitiesRequest()
        return capabilities_from_proto(
            await self._connection.call(self._connection.stubs.server.GetCapabilities, request)
        )

    async def health(self, service: str = "") -> bool:
        """Whether the server, or one of its services such as ``smartdj.v1.EditService``, is ready for work.

        Examples
        --------
        >>> await client.health()
        """
        request = health_pb2.HealthCheckRequest(service=service)
        response = await self._connection.call(self._connection.stubs.health.Check, request)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def _start(self, source: Source, spec: job_pb2.JobSpec, status: Report) -> Job:
        """Send the recording and submit; whoever is interrupted meanwhile leaves no job behind."""
        audio = await self.upload(source, status=status)
        request = job_pb2.SubmitJobRequest(
            request_id=str(uuid.uuid4()), audio=audio_pb2.AudioSource(sha256=audio.sha256), spec=spec
        )
        try:
            response = await self._connection.call(self._connection.stubs.jobs.SubmitJob, request)
        except BaseException as error:
            refused = isinstance(error, SmartDJError) and error.code not in _UNCERTAIN
            if not refused:  # the job may be there; the same request tells its name
                with contextlib.suppress(SmartDJError, TimeoutError):
                    async with asyncio.timeout(CANCEL_S):
                        response = await self._connection.call(self._connection.stubs.jobs.SubmitJob, request)
                        await self.cancel(response.job.job_id)
            raise
        return job_from_proto(response.job)


_UNCERTAIN = (ErrorCode.SERVER_UNREACHABLE, ErrorCode.SERVER_STOPPING, ErrorCode.DEADLINE)


def _spec(
    source: Source,
    wish: str | Plan,
    *,
    mode: str = "preserve",
    seed: int = 0,
    plan_only: bool = False,
    review: bool = False,
    encoding: str = "float",
) -> job_pb2.JobSpec:
    if mode not in _MODES:
        raise SmartDJError(ErrorCode.USAGE, f"Unknown mode {mode!r}.", "Use preserve or generate.", "mode")
    if encoding not in _ENCODINGS:
        raise SmartDJError(ErrorCode.USAGE, f"Unknown encoding {encoding!r}.", "Use source or float.", "encoding")
    if not 0 <= seed < 1 << 32:
        raise SmartDJError(ErrorCode.USAGE, f"The seed {seed} is out of range.", "Use 0 to 4294967295.", "seed")
    if plan_only and isinstance(wish, Plan):
        raise SmartDJError(ErrorCode.USAGE, "There is a plan already.", "Give an instruction.", "plan_only")
    name = Path(source).name if isinstance(source, str | os.PathLike) else ""
    spec = job_pb2.JobSpec(
        plan_only=plan_only,
        review=review,
        mode=_MODES[mode],
        seed=seed,
        output_encoding=_ENCODINGS[encoding],
        source_name=printable(name),
    )
    if isinstance(wish, Plan):
        spec.plan.CopyFrom(plan_to_proto(wish))
    else:
        spec.instruction = printable(wish)
    return spec


def printable(text: str) -> str:
    """Return text that a message can hold: undecodable bytes of a file name become question marks."""
    return text.encode("utf-8", "replace").decode()


def _sha256(audio: RemoteAudio | str) -> str:
    return audio.sha256 if isinstance(audio, RemoteAudio) else audio


def _code(reason: str) -> ErrorCode:
    return ErrorCode.__members__.get(reason, ErrorCode.PLAN_INVALID)
