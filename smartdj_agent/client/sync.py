"""The client for scripts, threads and notebooks: `AsyncClient`, with an event loop in a thread of its own.

It is built on the async client and not on gRPC's sync stubs, so that resuming, retrying and cancelling exist once; and
because the waiting thread then only waits: Ctrl-C reaches it at once, whatever the network is doing.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from smartdj_agent.audio import Audio
from smartdj_agent.client.aio import AsyncClient, AsyncRun, Source
from smartdj_agent.client.connection import CALL_S, PATIENCE_S
from smartdj_agent.client.portal import Portal
from smartdj_agent.client.transfer import Report
from smartdj_agent.client.values import Capabilities, Job, JobState, RemoteAudio, Validation
from smartdj_agent.events import Event, Question
from smartdj_agent.plan import Plan


class Run:
    """A job that is being watched: an iterator over the events that `smartdj_agent.agent.Agent` would yield.

    Made by `Client.edit`, `plan` and `watch`. Nothing happens before the first event is asked for. A connection that
    breaks is mended without a trace in the events. Use it as a context manager: leaving a run of `edit` or `plan`
    before its end cancels the job, also by an exception or Ctrl-C; leaving one of `watch` does not. An interrupt while
    waiting for an event cancels the job in any case before it is raised again.
    """

    def __init__(self, portal: Portal, run: AsyncRun) -> None:
        self._portal = portal
        self._run = run
        self._open = True

    @property
    def job_id(self) -> str:
        """The job's name; empty before the first event."""
        return self._run.job_id

    @property
    def plan(self) -> Plan | None:
        """The plan, once there is one."""
        return self._run.plan

    @property
    def question(self) -> Question | None:
        """The planner's question, where it needs to know more; no plan comes then."""
        return self._run.question

    @property
    def audio(self) -> Audio | None:
        """The recording after the newest step that is done, None before the first; at the end, the result."""
        return self._run.audio

    @property
    def awaits_review(self) -> bool:
        """Whether the job waits for `accept` or `cancel`."""
        return self._run.awaits_review

    @property
    def last_sequence(self) -> int:
        """Number of the newest event seen; `Client.watch` goes on after it."""
        return self._run.last_sequence

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._portal.call(self._next)
        if event is None:
            self._open = False
            raise StopIteration
        return event

    async def _next(self) -> Event | None:
        return await anext(self._run, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Left without a word, as by `break`. Nothing may wait inside a garbage collection.
        if self.__dict__.get("_open", False):
            self._portal.forget(self._run.aclose)

    def close(self) -> None:
        """Leave the run; see the class. Takes at most 5 seconds, and may be called again."""
        if self._open:
            self._open = False
            with contextlib.suppress(RuntimeError):  # the client is closed, and with it all its runs
                self._portal.call(self._run.aclose)

    def wait(self) -> Self:
        """Let the run go on to its end, or until it waits for review; returns the run itself.

        Raises
        ------
        SmartDJError
            What the job failed with; CANCELLED.

        Examples
        --------
        >>> audio = client.edit("walk.wav", "remove the dog").wait().audio
        """
        self._portal.call(self._run.wait)
        return self

    def accept(self, plan: Plan | None = None) -> None:
        """Let the job carry out its plan, or `plan` instead; then go on iterating.

        Raises
        ------
        SmartDJError
            PLAN_INVALID and its relatives for a plan that can't be carried out; JOB_ENDED.

        Examples
        --------
        >>> with client.edit("walk.wav", "make it calm", review=True) as run:
        ...     print(plan_to_yaml(run.wait().plan))
        ...     run.accept()
        ...     audio = run.wait().audio
        """
        self._portal.call(lambda: self._run.accept(plan))

    def cancel(self) -> None:
        """Stop the job within one denoising step; the iterator then raises CANCELLED.

        Examples
        --------
        >>> run.cancel()
        """
        self._portal.call(self._run.cancel)


class Client:
    """A SmartDJ server. Opens its connection when it is first used; may be shared by threads.

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
    >>> with Client("localhost:50551", token=read_token("token")) as client:
    ...     with client.edit("walk.wav", "remove the dog") as run:
    ...         for event in run:
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
        self._client = AsyncClient(
            address,
            token=token,
            tls_ca=tls_ca,
            client_cert=client_cert,
            client_id=client_id,
            timeout_s=timeout_s,
            patience_s=patience_s,
        )
        self._portal = Portal()
        # Also at the end of the program, so that a forgotten client leaves no job behind.
        self._finalizer = weakref.finalize(self, _close, self._portal, self._client)

    @property
    def address(self) -> str:
        """The server's address with its port."""
        return self._client.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave all runs (which cancels what was not at its end), close the connection and end the thread."""
        self._finalizer()

    # --- work with one recording ---

    def plan(self, source: Source, instruction: str, *, seed: int = 0, status: Report | None = None) -> Run:
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
            Is told in words what is going on: sending, waiting, a lost connection. Called in another thread.

        Returns
        -------
        Run
            Events `Listening` …, `Listened`, `StepPlanned` …, at the end `PlanReady` or `Question`.

        Examples
        --------
        >>> print(plan_to_yaml(client.plan("walk.wav", "make it sound like a harbour").wait().plan))
        """
        return Run(self._portal, self._client.plan(source, instruction, seed=seed, status=status))

    def edit(
        self,
        source: Source,
        wish: str | Plan,
        *,
        mode: str = "preserve",
        seed: int = 0,
        review: bool = False,
        status: Report | None = None,
    ) -> Run:
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
            Stop after the plan until `Run.accept`.
        status
            Is told in words what is going on: sending, waiting, a lost connection. Called in another thread.

        Returns
        -------
        Run
            Events as of `smartdj_agent.agent.Agent`. Audio is exact (nothing is rounded or clipped) and carries the
            format and tags of the source, so that `smartdj_agent.audio.write_audio` writes it as the source is stored.

        Examples
        --------
        >>> write_audio("calm.flac", client.edit("walk.flac", "turn down the wind by 6 dB").wait().audio)
        """
        return Run(self._portal, self._client.edit(source, wish, mode=mode, seed=seed, review=review, status=status))

    def validate(self, plan: Plan, source: Source | None = None) -> Validation:
        """Check a plan without doing any work, against a recording too where one is given.

        Examples
        --------
        >>> for fault in client.validate(plan).faults:
        ...     print(fault.field, fault.message)
        """
        return self._portal.call(lambda: self._client.validate(plan, source))

    # --- audio ---

    def upload(self, source: Source, *, status: Report | None = None) -> RemoteAudio:
        """Send a recording, unless the server has it; an interrupted upload goes on where it ended.

        Parameters
        ----------
        source
            A file travels byte by byte; `Audio` as a WAV of its own float samples.
        status
            Is told in words how far it is. Called in another thread.

        Raises
        ------
        SmartDJError
            AUDIO_NOT_FOUND, AUDIO_UNREADABLE and whatever the server finds wrong with the recording.

        Examples
        --------
        >>> walk = client.upload("walk.wav")
        >>> results = [client.edit(walk, wish).wait().audio for wish in wishes]
        """
        return self._portal.call(lambda: self._client.upload(source, status=status))

    def download(self, audio: RemoteAudio | str, path: str | os.PathLike[str]) -> RemoteAudio:
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
        >>> client.download(client.job(job_id).result, "result.wav")
        """
        return self._portal.call(lambda: self._client.download(audio, path))

    def fetch(self, audio: RemoteAudio | str) -> Audio:
        """Fetch a recording into memory.

        Examples
        --------
        >>> steps = [client.fetch(step) for step in client.job(job_id).steps]
        """
        return self._portal.call(lambda: self._client.fetch(audio))

    def import_file(self, path: str) -> RemoteAudio:
        """Take in a file that lies on the server's machine, under one of its allowed roots; no bytes travel.

        Raises
        ------
        SmartDJError
            PATH_FORBIDDEN, AUDIO_NOT_FOUND and whatever is wrong with the recording.

        Examples
        --------
        >>> run = client.edit(client.import_file("/srv/takes/1.wav"), "remove the hum").wait()
        """
        return self._portal.call(lambda: self._client.import_file(path))

    def export_file(self, audio: RemoteAudio | str, path: str) -> str:
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
        >>> client.export_file(client.job(job_id).result, "/srv/takes/1-clean.wav")
        """
        return self._portal.call(lambda: self._client.export_file(audio, path))

    # --- jobs ---

    def submit(
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
        >>> job = client.submit("walk.wav", "remove the dog")
        >>> job.job_id
        """
        return self._portal.call(
            lambda: self._client.submit(
                source, wish, mode=mode, seed=seed, plan_only=plan_only, review=review, encoding=encoding
            )
        )

    def watch(self, job_id: str, *, after: int = 0, status: Report | None = None) -> Run:
        """Follow a job, from its first event or from one after; leaving doesn't stop it.

        Parameters
        ----------
        job_id
            The job.
        after
            Only events with a greater number; see `Run.last_sequence`.
        status
            Is told in words what is going on. Called in another thread.

        Examples
        --------
        >>> for event in client.watch(job.job_id):
        ...     print(event)
        """
        return Run(self._portal, self._client.watch(job_id, after=after, status=status))

    def job(self, job_id: str) -> Job:
        """Describe a job.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.

        Examples
        --------
        >>> client.job(job_id).state
        """
        return self._portal.call(lambda: self._client.job(job_id))

    def jobs(self, states: Iterable[JobState] = ()) -> Iterator[Job]:
        """List jobs, newest first; further pages are asked for as they are needed.

        Parameters
        ----------
        states
            Only jobs in one of these; empty for all.

        Examples
        --------
        >>> [job.job_id for job in client.jobs([JobState.RUNNING])]
        """
        found = self._client.jobs(states)

        async def following() -> Job | None:
            return await anext(found, None)

        while (job := self._portal.call(following)) is not None:
            yield job

    def review(self, job_id: str, plan: Plan | None = None) -> Job:
        """Accept the plan of a job that waits for review, or put another in its place.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND, JOB_ENDED; PLAN_INVALID and its relatives.

        Examples
        --------
        >>> client.review(job_id, changed_plan)
        """
        return self._portal.call(lambda: self._client.review(job_id, plan))

    def cancel(self, job_id: str) -> Job:
        """Stop a job within one denoising step; finished steps stay. Changes nothing where it has ended.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.

        Examples
        --------
        >>> client.cancel(job_id)
        """
        return self._portal.call(lambda: self._client.cancel(job_id))

    # --- the server ---

    def capabilities(self) -> Capabilities:
        """Say what the server can do: operations with ranges and units, limits, models, devices.

        Examples
        --------
        >>> [device.device for device in client.capabilities().devices]
        """
        return self._portal.call(self._client.capabilities)

    def health(self, service: str = "") -> bool:
        """Whether the server, or one of its services such as ``smartdj.v1.EditService``, is ready for work.

        Examples
        --------
        >>> client.health()
        """
        return self._portal.call(lambda: self._client.health(service))


def _close(portal: Portal, client: AsyncClient) -> None:
    if portal.used:
        with contextlib.suppress(RuntimeError):
            portal.call(portal.interrupt)
            portal.call(client.aclose)
    portal.close()
