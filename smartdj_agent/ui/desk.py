"""Lets an agent server work for the page, through `smartdj_agent.client` alone, and outlives reloads of the page.

A `Desk` watches the server, follows the jobs of its sessions whether anybody looks or not, and prepares what is
listened to and downloaded. Everything runs in one event loop; files are read and written in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from smartdj_agent.audio import AudioFormat, read_audio, suffix_of
from smartdj_agent.client import AsyncClient, AsyncRun, Capabilities, Job, RemoteAudio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event, Listened, StepFinished
from smartdj_agent.outputs import step_file_name
from smartdj_agent.plan import Plan, plan_to_json, plan_to_yaml
from smartdj_agent.ui.own_server import OwnServer
from smartdj_agent.ui.preview import write_preview
from smartdj_agent.ui.session import Recording, Session

LOOK_S = 1.0
"""How often the server is asked how it is, seconds."""

LIST_EVERY = 3
"""Every how many looks the jobs are listed."""

MAX_LISTED = 50
"""Most earlier jobs that are shown."""

_LOST = (ErrorCode.SERVER_UNREACHABLE, ErrorCode.SERVER_STOPPING, ErrorCode.DEADLINE)


class Link(StrEnum):
    """How the server is."""

    CONNECTING = "connecting"
    LOADING = "loading"
    READY = "ready"
    LOST = "lost"


@dataclass(frozen=True)
class Reach:
    """How the server is reached; the fields are those of `AsyncClient`."""

    address: str
    token: str | None = None
    tls_ca: Path | None = None


class Desk:
    """All sessions of one page.

    Parameters
    ----------
    reach
        The server.
    folder
        For uploads, previews and downloads; the caller's to delete.
    own
        The server's process where it is ours: it is started again when it dies.

    Attributes
    ----------
    version
        Grows with every change of `link`, `jobs` and `capabilities`.
    link, link_error
        How the server is, and what is wrong where it is lost.
    capabilities
        None before it has answered.
    jobs
        The newest `MAX_LISTED`.
    """

    def __init__(self, reach: Reach, folder: Path, own: OwnServer | None = None) -> None:
        self.version = 0
        self.link = Link.CONNECTING
        self.link_error: SmartDJError | None = None
        self.capabilities: Capabilities | None = None
        self.jobs: tuple[Job, ...] = ()
        self.folder = folder
        self.previews = folder / "previews"
        self.previews.mkdir(parents=True)
        self._own = own
        self._client = AsyncClient(reach.address, token=reach.token, tls_ca=reach.tls_ca, client_id="ui")
        self._probe = AsyncClient(
            reach.address, token=reach.token, tls_ca=reach.tls_ca, client_id="ui", timeout_s=5.0, patience_s=0.0
        )
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, asyncio.Task[Session]] = {}
        self._tasks: dict[Session, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[Any]] = set()
        self._back = asyncio.Event()
        self._nudged = asyncio.Event()

    @property
    def address(self) -> str:
        """The server's address."""
        return self._client.address

    async def start(self) -> None:
        """Make sure that the server answers, then keep watching it.

        Raises
        ------
        SmartDJError
            SERVER_UNREACHABLE, UNAUTHENTICATED.
        """
        self.capabilities = await self._client.capabilities()
        self._set_link(Link.READY if await self._client.health() else Link.LOADING)
        self._spawn(self._watch_server())

    async def close(self) -> None:
        """Stop watching; jobs go on at the server."""
        tasks = [*self._tasks.values(), *self._others, *self._opening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        await self._probe.aclose()

    # --- the server ---

    async def _watch_server(self) -> None:
        look = 0
        while True:
            try:
                ready = await self._probe.health()
                if self.link is Link.LOST or self.capabilities is None:
                    self.capabilities = await self._probe.capabilities()
                self._set_link(Link.READY if ready else Link.LOADING)
                if look % LIST_EVERY == 0 or self._nudged.is_set():
                    self._nudged.clear()
                    await self._list()
                look += 1
            except SmartDJError as error:
                self._set_link(Link.LOST, error)
                await self._revive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._nudged.wait()

    async def _revive(self) -> None:
        if self._own is not None and not self._own.alive:
            try:
                await asyncio.to_thread(self._own.start)
            except SmartDJError as error:
                self._set_link(Link.LOST, error)

    async def _list(self) -> None:
        found: list[Job] = []
        async with contextlib.aclosing(self._probe.jobs()) as jobs:  # type: ignore[type-var]
            async for job in jobs:
                found.append(job)
                if len(found) == MAX_LISTED:
                    break
        if tuple(found) != self.jobs:
            self.jobs = tuple(found)
            self.version += 1

    def _set_link(self, link: Link, error: SmartDJError | None = None) -> None:
        if link in (Link.READY, Link.LOADING):
            self._back.set()
        else:
            self._back.clear()
        if (link, str(error)) != (self.link, str(self.link_error)):
            self.link, self.link_error = link, error
            self.version += 1

    # --- sessions ---

    def new(self) -> Session:
        """Make an empty session."""
        session = Session()
        self._sessions[session.key] = session
        return session

    def find(self, key: str) -> Session | None:
        """Return the session of a job or of a draft, if it is here."""
        return self._sessions.get(key)

    async def open(self, job_id: str) -> Session:
        """Return the session of a job; what only the server knows is fetched and followed.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND; what keeps its recording from being fetched.
        """
        session = self.find(job_id)
        if session is not None:
            return session
        task = self._opening.get(job_id)
        if task is None:
            task = self._opening[job_id] = asyncio.create_task(self._open(job_id))
            task.add_done_callback(lambda _: self._opening.pop(job_id, None))
        return await asyncio.shield(task)

    async def _open(self, job_id: str) -> Session:
        job = await self._client.job(job_id)
        path = self.place(job.source_name or f"recording{_suffix(job.source)}")
        await self._client.download(job.source, path)
        session = Session()
        session.set_recording(await self._recording(path))
        wish = job.instruction or (job.plan.instruction if job.plan is not None else "")
        session.restore(wish, job.mode, job.seed, job_id, planning=bool(job.instruction))
        self._sessions[session.key] = self._sessions[job_id] = session
        self._work(session, self._follow(session))
        return session

    def place(self, name: str) -> Path:
        """Return a path for a file, under its own name in a folder of its own."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder / file_name(name)

    async def take_recording(self, session: Session, path: Path) -> None:
        """Take a file as the session's recording, and send it to the server.

        Raises
        ------
        SmartDJError
            What is wrong with the recording; USAGE while a job works on the other one.
        """
        if session.phase.busy:
            raise SmartDJError(
                ErrorCode.USAGE, "a job works on the other recording", "cancel it first, or open a second page"
            )
        try:
            recording = await self._recording(path)
            await self._client_upload(path)
        except SmartDJError as error:
            raise _named(error, path) from error
        if session.awaits_review:
            self._leave(session)
        session.set_recording(recording)

    async def _client_upload(self, path: Path) -> None:
        """Send the recording now, so that what the server finds wrong shows at once; it need not be there, though."""
        if self.link is not Link.LOST:
            try:
                await self._probe.upload(path)
            except SmartDJError as error:
                if error.code not in _LOST:
                    raise

    async def _recording(self, path: Path) -> Recording:
        audio = await asyncio.to_thread(read_audio, path)
        preview = await asyncio.to_thread(write_preview, audio, self.previews)
        return Recording(path, audio.duration_s, audio.sample_rate, audio.channels, preview.name, preview.note)

    # --- work ---

    def plan(self, session: Session) -> None:
        """Let the planner write a plan for the instruction; the job then waits for review."""
        if not session.can_plan:
            return
        try:
            self._leave(session)
            session.begin_planning()
        except SmartDJError as error:
            session.refuse(error)
            return
        self._work(session, self._submit(session, session.instruction))

    def run(self, session: Session) -> None:
        """Carry out the plan as it stands."""
        if not session.can_run:
            return
        try:
            plan = session.plan()
        except SmartDJError as error:
            session.refuse(error)
            return
        if session.reusable:
            session.begin_running()
            self._spawn(self._review(session, plan))
            return
        self._leave(session)
        session.begin_running()
        self._work(session, self._submit(session, plan))

    def cancel(self, session: Session) -> None:
        """Stop what is under way; steps that are done stay."""
        if not session.can_cancel:
            return
        if session.job_id:
            session.say("cancelling")
            self._spawn(self._cancel(session))
            return
        task = self._tasks.get(session)  # still on its way to the server
        if task is not None:
            task.cancel()
        session.fail(SmartDJError(ErrorCode.CANCELLED, "cancelled; nothing was changed"))

    async def _submit(self, session: Session, wish: str | Plan) -> None:
        assert session.recording is not None
        path = session.recording.path
        await self._client.upload(path, status=session.say)
        review = isinstance(wish, str)
        job = await self._client.submit(path, wish, mode=session.mode, seed=session.seed, review=review)
        session.attach(job.job_id)
        self._sessions[job.job_id] = session
        self._nudged.set()
        await self._follow(session)

    async def _follow(self, session: Session) -> None:
        """Watch the session's job to its end, through whatever happens to the connection."""
        while True:
            run = self._client.watch(session.job_id, after=session.last_sequence, status=session.say)
            try:
                async with run:
                    async for event in run:
                        await self._take(session, event, run)
                session.ended()
                break
            except SmartDJError as error:
                if error.code not in _LOST:
                    raise
                session.say("the server is away; waiting for it")
                self._nudged.set()
                await asyncio.sleep(LOOK_S)
                await self._back.wait()
        self._nudged.set()

    async def _take(self, session: Session, event: Event, run: AsyncRun) -> None:
        preview = ""
        if isinstance(event, StepFinished):
            preview = (await asyncio.to_thread(write_preview, event.audio, self.previews)).name
        session.take(event, preview, awaits_review=run.awaits_review)
        session.last_sequence = run.last_sequence

    async def _review(self, session: Session, plan: Plan) -> None:
        try:
            await self._client.review(session.job_id, plan)
            self._nudged.set()
        except SmartDJError as error:
            self._leave(session)
            if error.code in (ErrorCode.JOB_ENDED, ErrorCode.JOB_NOT_FOUND):  # somebody else has ended it
                session.begin_running()
                self._work(session, self._submit(session, plan))
            else:
                session.fail(error)

    async def _cancel(self, session: Session) -> None:
        try:
            await self._client.cancel(session.job_id)
        except SmartDJError as error:
            session.refuse(error)

    def _leave(self, session: Session) -> None:
        """Stop following; a job that waits for review would wait for ever, so it is cancelled."""
        task = self._tasks.pop(session, None)
        if task is not None:
            task.cancel()
        if session.awaits_review:
            self._spawn(self._forget(session.job_id))

    async def _forget(self, job_id: str) -> None:
        with contextlib.suppress(SmartDJError):
            await self._client.cancel(job_id)

    def _work(self, session: Session, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._watched(session, work))
        self._tasks[session] = task
        task.add_done_callback(lambda _: self._tasks.pop(session, None) if self._tasks.get(session) is task else None)

    async def _watched(self, session: Session, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SmartDJError as error:
            session.fail(error)
        except Exception as error:  # whatever it is, the person is told and the page lives on
            session.fail(_internal(error))
        finally:
            self._nudged.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    # --- what is taken away ---

    async def save_sound(self, session: Session, key: str) -> Path:
        """Fetch a state of the recording as a file like the recording's own.

        Parameters
        ----------
        key
            ``original``, ``step-0`` …, ``result``.

        Raises
        ------
        SmartDJError
            AUDIO_NOT_FOUND where there is no such state; what keeps it from being fetched.
        """
        recording = session.recording
        if recording is None:
            raise _no_sound()
        if key == "original":
            return recording.path
        job = await self._client.job(session.job_id)
        stem = recording.path.stem
        if key == "result" and job.result is not None:
            audio, name = job.result, f"{stem}-smartdj{_suffix(job.result)}"
        elif key.startswith("step-") and int(key[5:]) < len(job.steps):
            index = int(key[5:])
            audio = job.steps[index]
            steps = (job.plan or session.plan()).enabled_steps()
            name = f"{stem}-{step_file_name(index + 1, steps[index].step, _suffix(audio))}"
        else:
            raise _no_sound()
        path = self.place(name)
        await self._client.download(audio, path)
        return path

    def save_plan(self, session: Session, kind: str) -> tuple[str, str]:
        """Return file name and text of the plan, ``yaml`` or ``json``.

        Raises
        ------
        SmartDJError
            What is wrong with the plan.
        """
        stem = session.recording.path.stem if session.recording is not None else "smartdj"
        plan = session.plan()
        return f"{stem}-plan.{kind}", plan_to_yaml(plan) if kind == "yaml" else plan_to_json(plan) + "\n"

    async def save_report(self, session: Session) -> Path:
        """Make the report page of the session's job from its events, as the command line does.

        Raises
        ------
        SmartDJError
            What keeps the events or their audio from being fetched.
        """
        from smartdj_agent.report import ModelFacts, RunCollector, build_report

        recording, server = session.recording, self.capabilities
        if recording is None or server is None:
            raise _no_sound()
        collector = RunCollector(
            await asyncio.to_thread(read_audio, recording.path),
            source_name=recording.name,
            command="ui",
            instruction=session.instruction,
            seed=session.seed,
            mode=session.mode,
            preset=server.preset,
            machine=f"server {self.address}, smartdj {server.version}",
            models=tuple(ModelFacts(item.name, item.role, item.parameters, item.sha256) for item in server.models),
        )
        if session.heard:  # a plan that was run again was heard in another job
            collector.add(Listened(session.heard, session.listening_s))
        async with self._client.watch(session.job_id) as run:
            async for event in run:
                await asyncio.to_thread(collector.add, event)
        page = await asyncio.to_thread(lambda: build_report(collector.record()))
        path = self.place(f"{recording.path.stem}-report.html")
        await asyncio.to_thread(path.write_text, page, encoding="utf-8")
        return path


def file_name(name: str) -> str:
    """Return a name that any file system takes, from one that a browser or a server tells."""
    last = re.split(r"[/\\]", name)[-1].encode("utf-8", "replace").decode()
    plain = "".join("_" if char in '<>:"|?*' or not char.isprintable() else char for char in last).strip(" .")
    stem, suffix = os.path.splitext(plain or "recording")
    while len(stem.encode()) > 120:
        stem = stem[:-1]
    return stem + suffix[:10]


def _suffix(audio: RemoteAudio) -> str:
    return suffix_of(AudioFormat(audio.container, audio.subtype))


def _named(error: SmartDJError, path: Path) -> SmartDJError:
    """Call the file by its own name: where we keep it is of no use to anybody."""
    return SmartDJError(error.code, error.message.replace(str(path), path.name), error.hint, error.field)


def _internal(error: Exception) -> SmartDJError:
    return SmartDJError(ErrorCode.INTERNAL, f"internal error: {type(error).__name__}: {error}", "please report this")


def _no_sound() -> SmartDJError:
    return SmartDJError(ErrorCode.AUDIO_NOT_FOUND, "there is nothing to take away yet", "run a plan first")
