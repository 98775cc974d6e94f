"""Jobs: from a wish to its result, across disconnects, restarts and crashes.

A job plans (where it has an instruction), waits for review (where asked for), then applies its plan step by step. What
is kept of it lies in the store after every event, so that a manager made anew on the same store goes on where the last
one was stopped, however it was stopped. Work itself happens in the device workers; this module only decides, keeps and
tells. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from google.rpc.status_pb2 import Status
from sqlalchemy.exc import SQLAlchemyError

from smartdj.v1 import audio_pb2, event_pb2, job_pb2, step_pb2
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import logs
from smartdj_agent.server.blobs import BlobStore
from smartdj_agent.server.metrics import Metrics
from smartdj_agent.server.queue import FairQueue
from smartdj_agent.server.store import Brief, ClaimLostError, JobRecord, JobState, JobStore, StoredAudio
from smartdj_agent.server.tasks import ApplyTask, PlanTask, Produced, Report, Task
from smartdj_agent.wire import MODES, plan_from_proto, plan_to_proto
from smartdj_agent.wire_status import to_status

Result = TypeVar("Result")

MAX_ATTEMPTS = 5
"""How often a job is begun without getting one step further, before it is given up: it may be what kills the worker."""

READY_EVERY_S = 0.2
"""How often workers are asked whether they are ready, seconds."""
SURVEY_EVERY_S = 0.4
"""How often a server looks at what the others that share its store have done, seconds."""
DECISION_S = 10.0
"""How long a decision waits for another one that another server is carrying out, seconds."""
PARK_S = 10.0
"""How long a worker may take to stop when its job is parked, seconds; then it is left to `DeviceWorker.stop`."""

log = logging.getLogger(__name__)


class Worker(Protocol):
    """What a manager needs of a device worker; see `smartdj_agent.server.worker.DeviceWorker`."""

    device: str
    resolved_device: str
    device_name: str
    models: tuple[tuple[str, str, str, int], ...]
    ready: asyncio.Event
    failure: SmartDJError | None

    def run(self, task: Task) -> AsyncGenerator[Report, None]:
        """Yield what a task reports, at last one report of kind ``done`` or ``failed``."""

    def cancel(self, task_id: str) -> None:
        """Stop a task within one denoising step; its last report is a failure with the code CANCELLED."""


@dataclass
class _Live:
    """A job that hasn't ended, with what only matters while it lives."""

    record: JobRecord
    lane: str
    spec: job_pb2.JobSpec
    events: list[event_pb2.JobEvent]
    progress: event_pb2.JobEvent | None = None
    watchers: set[asyncio.Event] = field(default_factory=set)
    task_id: str = ""
    worker: Worker | None = None
    cancelled: bool = False
    parked: bool = False
    queued_at: float = 0.0
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)

    def tell(self) -> None:
        for watcher in self.watchers:
            watcher.set()


class JobManager:
    """Keeps, queues, runs and tells of jobs.

    Parameters
    ----------
    store, blobs
        Where jobs and recordings are kept.
    workers
        One per device; each takes as many jobs at once as `slots` says.
    queue
        Jobs that wait, by client.
    metrics
        Counts.
    slots
        Jobs per worker at once; more than one only where the worker batches.
    lease_s
        How long another server may be silent before its jobs are taken over, seconds.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        workers: Sequence[Worker],
        queue: FairQueue[str],
        metrics: Metrics,
        *,
        slots: int = 1,
        lease_s: float = 10.0,
    ) -> None:
        self.store = store
        self._shared = bool(store.replica)
        self._lease_s = lease_s
        self._mine: set[str] = set()  # claimed here, or about to be
        self._told_progress: dict[str, bytes] = {}
        self._surveying: asyncio.Task[None] | None = None
        self.blobs = blobs
        self.workers = workers
        self.queue = queue
        self.metrics = metrics
        self._slots = slots
        self._live: dict[str, _Live] = {}
        self._unfinished: set[asyncio.Task[Any]] = set()
        self._database = ThreadPoolExecutor(1, "smartdj-store")
        self._arrived = asyncio.Condition()
        self._stopping = False
        self._hurry = asyncio.Event()
        self._dispatchers: list[asyncio.Task[None]] = []
        self._noticing: asyncio.Task[None] | None = None

    async def db(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Run a function of the store on its own thread, one at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._database, lambda: function(*arguments, **options))

    async def _whole(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something to its end, also where the call that asked for it is cancelled meanwhile.

        Else a job could be in the store and not in the queue, or out of the queue and not ended.
        """
        task = asyncio.ensure_future(work)
        self._unfinished.add(task)  # the event loop itself doesn't keep it
        task.add_done_callback(self._unfinished.discard)
        return await asyncio.shield(task)

    # --- life cycle ---

    async def start(self) -> None:
        """Take up what an earlier run left, and begin to work."""
        if self._shared:
            await self._survey()
            self._surveying = asyncio.create_task(self._keep_surveying(), name="survey")
        for record in [] if self._shared else await self.db(self.store.unfinished):
            events = await self.db(self.store.events, record.job_id, 0, 1 << 31)
            kept = [_numbered(data, record.job_id, number) for number, data in events]
            live = self._enliven(record, kept, record.client)
            if record.cancelling:
                await self._end(live, JobState.CANCELLED, cancelled())
            elif record.state is not JobState.AWAITING_REVIEW:
                await self._change(live, state=JobState.QUEUED)
                await self._enqueue(live, recovered=True)
        self._noticing = asyncio.create_task(self._notice_workers(), name="workers")
        self._dispatchers = [
            asyncio.create_task(self._dispatch(worker), name=f"dispatch-{worker.device}")
            for worker in self.workers
            for _ in range(self._slots)
        ]

    async def stop(self, drain_s: float) -> None:
        """Take no more work, let running steps finish for `drain_s` seconds, and park the rest.

        Calls that watch jobs end with SERVER_STOPPING; `close` follows once they are gone.
        """
        self._stopping = True
        async with self._arrived:
            self._arrived.notify_all()
        waiting = [task for task in self._dispatchers if not task.done()]
        hurried = asyncio.create_task(self._hurry.wait())
        deadline = time.monotonic() + drain_s
        while self.running and time.monotonic() < deadline and not self._hurry.is_set():
            await asyncio.wait([*waiting, hurried], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for live in [item for item in self._live.values() if item.worker is not None]:
            self._park(live)
        if waiting:
            _, stuck = await asyncio.wait(waiting, timeout=PARK_S)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        for live in self._live.values():
            live.tell()

    def hurry(self) -> None:
        """Don't let `stop` wait for running steps."""
        self._hurry.set()

    async def close(self) -> None:
        """Let go of the database's thread."""
        if self._noticing is not None:
            self._noticing.cancel()
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        if self._surveying is not None:
            self._surveying.cancel()
            await asyncio.gather(self._surveying, return_exceptions=True)
            with contextlib.suppress(SQLAlchemyError):
                await self.db(self.store.leave)
        await asyncio.get_running_loop().run_in_executor(None, self._database.shutdown)

    # --- what clients ask for ---

    async def submit(
        self, spec: job_pb2.JobSpec, source: StoredAudio, *, client: str, lane: str = "", request_id: str = ""
    ) -> tuple[JobRecord, bool]:
        """Start a job, or find the one that the same request started before.

        Parameters
        ----------
        spec
            Checked by `check_spec`.
        source
            The recording.
        client
            Who asks, by a name that a new connection doesn't change.
        lane
            Between which the queue is fair; by default the client.
        request_id
            Empty for no protection against doing it twice.

        Returns
        -------
        JobRecord, bool
            The second is False where the job was there already.

        Raises
        ------
        SmartDJError
            QUEUE_FULL, SERVER_STOPPING, or USAGE where the request id was used for another request.
        """
        known = await self.recall(client, request_id, spec, source.sha256)
        if known is not None:
            return known, False
        if self._stopping:
            raise stopping()
        lane = lane or client
        self.queue.check(lane)
        self._check_reviews(lane)
        given = spec.plan.SerializeToString(deterministic=True) if spec.HasField("plan") else b""
        record = JobRecord(
            job_id=uuid.uuid4().hex,
            client=client,
            state=JobState.QUEUED,
            spec=spec.SerializeToString(deterministic=True),
            source_sha256=source.sha256,
            plan=given,
            accepted=bool(given) and not spec.review,
            created_s=time.time(),
        )
        return await self._whole(self._make(record, spec, lane, request_id))

    def _check_reviews(self, lane: str) -> None:
        """Refuse more jobs to one who leaves too many plans undecided: they wait outside the queue, but not free."""
        undecided = sum(
            live.lane == lane and live.record.state is JobState.AWAITING_REVIEW for live in self._live.values()
        )
        if undecided >= self.queue.limit_per_client:
            raise SmartDJError(
                ErrorCode.QUEUE_FULL,
                f"{undecided} of your plans wait for your decision already, the most for one client.",
                "Accept some of them, or cancel their jobs.",
            )

    async def expire_reviews(self, before_s: float) -> int:
        """End jobs whose plan has waited for a decision since before then, seconds since the epoch; returns how many.

        A job waits since it was made: how long its planning took is nothing beside days.
        """
        old = [
            live
            for live in self._live.values()
            if live.record.state is JobState.AWAITING_REVIEW and live.record.created_s < before_s and not live.cancelled
        ]
        for live in old:
            async with live.deciding, self._owning(live) as owned:
                if owned and live.record.state is JobState.AWAITING_REVIEW:
                    await self._whole(self._end(live, JobState.CANCELLED, _undecided()))
        return len(old)

    async def _make(
        self, record: JobRecord, spec: job_pb2.JobSpec, lane: str, request_id: str
    ) -> tuple[JobRecord, bool]:
        """Keep a new job and queue it."""
        job_id = record.job_id
        self._mine.add(job_id)
        try:
            record, made = await self.db(self.store.create, record, request_id=request_id, digest=request_digest(spec))
            if not made:
                return record, False
            self.metrics.job_moved(None, record.state.value)
            live = self._enliven(record, [], lane)
            if record.plan:
                ready = event_pb2.PlanReadyEvent(plan=spec.plan, awaits_review=spec.review)
                state = JobState.AWAITING_REVIEW if spec.review else JobState.QUEUED
                await self._record(live, event_pb2.JobEvent(plan_ready=ready), state=state)
            if live.record.state is JobState.QUEUED:
                try:
                    self.queue.check(lane)
                except SmartDJError as error:  # filled up since it was asked above
                    await self._end(live, JobState.FAILED, error)
                    raise
        finally:
            await self._let_go(job_id)
        if live.record.state is JobState.QUEUED:
            await self._enqueue(live, recovered=True)
        return live.record, True

    async def recall(
        self, client: str, request_id: str, spec: job_pb2.JobSpec, source_sha256: str = ""
    ) -> JobRecord | None:
        """Find the job that a client's request started before; None for an unknown or empty id.

        Raises
        ------
        SmartDJError
            USAGE where the id was used for another wish or recording.
        """
        if not request_id:
            return None
        job_id = await self.db(self.store.recall, client, request_id, request_digest(spec))
        if job_id is None:
            return None
        record = await self.get(job_id)
        if source_sha256 and source_sha256.lower() != record.source_sha256:
            raise SmartDJError(
                ErrorCode.USAGE,
                "the request id was used before, for another recording",
                "Make a new UUID for every request; repeat one only to repeat the same request.",
                "request_id",
            )
        return record

    async def get(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.
        """
        live = self._live.get(job_id)
        known = live is not None and (not self._shared or job_id in self._mine)
        return live.record if live is not None and known else await self.db(self.store.get, job_id)

    async def review(self, job_id: str, changed: step_pb2.Plan | None) -> JobRecord:
        """Accept a job's plan, or change it, and let it be carried out. Accepting twice changes nothing.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND; JOB_ENDED; USAGE for a job that doesn't wait for review, or whose plan was accepted and is
            to be changed now; QUEUE_FULL; PLAN_INVALID and others for a plan that can't be carried out.
        """
        if changed is not None:
            changed = plan_to_proto(check_plan(changed))
        return await self._whole(self._review(job_id, changed))

    async def _review(self, job_id: str, changed: step_pb2.Plan | None) -> JobRecord:
        live = await self._find(job_id)
        if live is None:
            raise _ended(await self.get(job_id))
        async with live.deciding:  # of two decisions at a time, the second must see the first
            deadline = time.monotonic() + DECISION_S
            while True:
                async with self._owning(live) as owned:
                    if not owned:  # it runs or has ended elsewhere, or another server is deciding just now
                        live.record = await self.db(self.store.get, job_id)
                    undecided = live.record.state is JobState.AWAITING_REVIEW and not live.record.accepted
                    if owned or not undecided or time.monotonic() > deadline:
                        record = await self._decide(live, changed, owned)
                        break
                await asyncio.sleep(0.05)
        if owned and record.state is JobState.QUEUED and undecided:
            await self._enqueue(live, recovered=True)
        return record

    async def _decide(self, live: _Live, changed: step_pb2.Plan | None, owned: bool) -> JobRecord:
        job_id = live.record.job_id
        if live.cancelled or live.record.state.ended:
            raise _ended(live.record)
        if live.record.accepted:
            if changed is None or changed.SerializeToString(deterministic=True) == live.record.plan:
                return live.record
            raise SmartDJError(
                ErrorCode.USAGE,
                f"the plan of job {job_id} was accepted before",
                "Cancel the job and start another with the changed plan.",
            )
        if live.record.state is not JobState.AWAITING_REVIEW:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"job {job_id} does not wait for a decision",
                "Send it after the event plan_ready, in a job that asked for review.",
            )
        if self._stopping:
            raise stopping()
        if not owned:
            raise SmartDJError(
                ErrorCode.SERVER_STOPPING, f"another server is busy with job {job_id}", "Try again in a moment."
            )
        if changed is None:
            check_plan(step_pb2.Plan.FromString(live.record.plan))
        self.queue.check(live.lane)
        changes: dict[str, Any] = {"state": JobState.QUEUED, "accepted": True}
        if changed is not None:
            changes["plan"] = changed.SerializeToString(deterministic=True)
            ready = event_pb2.JobEvent(plan_ready=event_pb2.PlanReadyEvent(plan=changed))
            await self._record(live, ready, **changes)
        else:
            await self._change(live, **changes)
        return live.record

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job; one that has ended stays as it is.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.
        """
        live = await self._find(job_id)
        if live is None or live.cancelled:
            return await self.get(job_id)
        live.cancelled = True
        return await self._whole(self._cancel(live))

    async def _cancel(self, live: _Live) -> JobRecord:
        job_id = live.record.job_id
        if live.worker is not None:
            try:
                # What is answered now must hold even if the server dies before the worker's report ends the job.
                await self._change(live, cancelling=True)
            except SmartDJError:  # JOB_ENDED: it was faster
                pass
            except ClaimLostError:
                await self.db(self.store.ask_cancel, job_id)  # who has it now will see it
            if live.worker is not None:
                live.worker.cancel(live.task_id)  # the report ends the job
        elif self._shared:
            await self.db(self.store.ask_cancel, job_id)  # who has it will see it
            async with self._owning(live) as owned:
                if owned:
                    self.queue.remove(job_id)
                    await self._end(live, JobState.CANCELLED, cancelled())
            return await self.get(job_id)
        elif self.queue.remove(job_id) or live.record.state is JobState.AWAITING_REVIEW:
            await self._end(live, JobState.CANCELLED, cancelled())
        # Else a dispatcher has just taken it, and looks at the mark before it begins.
        return live.record

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[event_pb2.JobEvent, None]:
        """Yield a job's events with a greater number than `after`, until it ends or the server stops.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND, SERVER_STOPPING.
        """
        live = await self._find(job_id)
        if live is None:
            for number, data in await self.db(self.store.events, job_id, after, 1 << 31):
                yield _numbered(data, job_id, number)
            return
        changed = asyncio.Event()
        changed.set()
        live.watchers.add(changed)
        told: event_pb2.JobEvent | None = None
        after = max(0, after)
        try:
            while True:
                await changed.wait()
                changed.clear()
                while after < len(live.events):  # the events of a job are numbered from 1 without gaps
                    after += 1
                    yield live.events[after - 1]
                if live.record.state.ended:
                    if after >= len(live.events):
                        return
                    changed.set()
                    continue
                if live.progress is not None and live.progress is not told:
                    told = live.progress
                    yield told
                if self._stopping and live.worker is None:
                    raise stopping()
        finally:
            live.watchers.discard(changed)

    async def told(self, job_id: str) -> None:
        """Note that a client has a job's last event."""
        await self.db(self.store.mark_told, job_id, time.time())

    def remark(self, job_id: str, event: event_pb2.JobEvent) -> None:
        """Tell who watches a job something that is not kept."""
        if (live := self._live.get(job_id)) is not None:
            event.job_id, event.sequence = job_id, live.record.last_sequence
            live.progress = event
            live.tell()

    @property
    def running(self) -> int:
        """Number of jobs that are worked on."""
        return sum(live.worker is not None for live in self._live.values())

    def busy(self, worker: Worker) -> bool:
        """Whether a worker has a job."""
        return any(live.worker is worker for live in self._live.values())

    async def describe(self, record: JobRecord) -> job_pb2.Job:
        """Return a job as a message."""
        return (await self.describe_all([record]))[0]

    async def describe_all(self, records: Sequence[JobRecord]) -> list[job_pb2.Job]:
        """Return jobs as messages."""
        named = {sha for item in records for sha in (item.source_sha256, *item.steps, item.result_sha256) if sha}
        found = await self.db(self.store.audios, named)
        # Old recordings may be deleted; their names stay.
        infos = {sha: audio_info(found[sha]) if sha in found else audio_pb2.AudioInfo(sha256=sha) for sha in named}
        return [_describe(record, infos) for record in records]

    # --- several servers on one store ---

    @contextlib.asynccontextmanager
    async def _owning(self, live: _Live) -> AsyncGenerator[bool, None]:
        """Have a job for oneself inside the block; yields False where another server, or another call here, has it."""
        job_id = live.record.job_id
        if not self._shared:
            yield True
            return
        if job_id in self._mine:
            yield False
            return
        self._mine.add(job_id)
        try:
            record = await self.db(self.store.claim, job_id)
            if record is not None:
                await self._catch_up(live, record)
            yield record is not None
        finally:
            await self._let_go(job_id)

    async def _let_go(self, job_id: str) -> None:
        """End what `_owning` began. Where the store can't be reached, the next survey does it."""
        try:
            if self._shared:
                with contextlib.suppress(SQLAlchemyError):
                    await self.db(self.store.release, job_id)
        finally:
            self._mine.discard(job_id)

    async def _find(self, job_id: str) -> _Live | None:
        """Return a job that has not ended, also one that this server hasn't heard of yet; None where it has.

        Raises
        ------
        SmartDJError
            JOB_NOT_FOUND.
        """
        live = self._live.get(job_id)
        if live is not None:
            return live
        record = await self.db(self.store.get, job_id)
        if record.state.ended or not self._shared:
            return None
        return await self._mirror(record)

    async def _mirror(self, record: JobRecord) -> _Live:
        events = await self.db(self.store.events, record.job_id, 0, 1 << 31)
        kept = [_numbered(data, record.job_id, number) for number, data in events]
        return self._live.get(record.job_id) or self._enliven(record, kept, record.client)

    async def _catch_up(self, live: _Live, record: JobRecord) -> None:
        """Take over what the store has of a job, where that is newer."""
        job_id = record.job_id
        if record.last_sequence > len(live.events):
            for number, data in await self.db(self.store.events, job_id, len(live.events), 1 << 31):
                if number == len(live.events) + 1:
                    live.events.append(_numbered(data, job_id, number))
        if record.last_sequence >= live.record.last_sequence:
            live.record = record
        live.tell()

    async def _keep_surveying(self) -> None:
        while True:
            await asyncio.sleep(SURVEY_EVERY_S)
            try:
                await self._survey()
            except Exception:  # the next one may find the database again
                log.exception("the job database can't be asked")

    async def _survey(self) -> None:
        """Say that this server lives, and take in what the others have done."""
        progress = {
            job_id: live.progress.SerializeToString()
            for job_id, live in self._live.items()
            if live.worker is not None and live.progress is not None
        }
        changed = {job_id: event for job_id, event in progress.items() if self._told_progress.get(job_id) != event}
        self._told_progress = progress
        found = await self.db(self.store.survey, self._lease_s, changed)
        queued = set(self.queue)
        for brief in found:
            await self._take_in(brief, brief.job_id in queued)
        here = {brief.job_id for brief in found}
        for job_id in [name for name in self._live if name not in here and name not in self._mine]:
            await self._take_end(job_id)

    async def _take_in(self, brief: Brief, queued: bool) -> None:
        job_id, live = brief.job_id, self._live.get(brief.job_id)
        if job_id in self._mine:
            if live is not None and brief.cancelling and not live.cancelled:
                live.cancelled = True
                if live.worker is not None:
                    live.worker.cancel(live.task_id)
            return
        if brief.replica == self.store.replica:  # the store could not be reached when it was let go
            await self.db(self.store.release, job_id)
            return
        if live is None:
            live = await self._find(job_id)
        elif live.record.last_sequence < brief.last_sequence or live.record.state is not brief.state:
            await self._catch_up(live, await self.db(self.store.get, job_id))
        if live is None or job_id in self._mine:
            return
        if brief.replica is not None and brief.progress and brief.last_sequence == live.record.last_sequence:
            event = event_pb2.JobEvent.FromString(brief.progress)
            if live.progress != event:
                live.progress = event
                live.tell()
        waiting = brief.replica is None and brief.state is JobState.QUEUED
        if brief.cancelling and brief.replica is None:
            async with self._owning(live) as owned:
                if owned:
                    self.queue.remove(job_id)
                    await self._end(live, JobState.CANCELLED, cancelled())
        elif waiting and not queued and live.record.state is JobState.QUEUED:
            await self._enqueue(live, recovered=True)
        elif queued and not waiting:
            self.queue.remove(job_id)

    async def _take_end(self, job_id: str) -> None:
        """Let go of a job that another server ended or deleted."""
        live = self._live[job_id]
        try:
            record = await self.db(self.store.get, job_id)
        except SmartDJError:
            record = replace(live.record, state=JobState.CANCELLED)
        if record.state.ended and job_id not in self._mine:
            await self._catch_up(live, record)
            self.queue.remove(job_id)
            self._forget(live)

    # --- work ---

    def _enliven(self, record: JobRecord, events: list[event_pb2.JobEvent], lane: str) -> _Live:
        live = _Live(record, lane, job_pb2.JobSpec.FromString(record.spec), events)
        self._live[record.job_id] = live
        return live

    async def _enqueue(self, live: _Live, *, recovered: bool = False) -> None:
        live.queued_at = time.monotonic()
        position = self.queue.put(live.lane, live.record.job_id, force=recovered)
        self.remark(live.record.job_id, event_pb2.JobEvent(queued=event_pb2.QueuedEvent(position=position)))
        self.metrics.set_queue_length(len(self.queue))
        async with self._arrived:
            self._arrived.notify_all()

    def _can_work(self, worker: Worker) -> bool:
        """Whether a worker takes jobs: once it is ready, or, where none is, to tell their clients why not."""
        return worker.ready.is_set() or (
            worker.failure is not None and not any(other.ready.is_set() for other in self.workers)
        )

    async def _notice_workers(self) -> None:
        """Wake the dispatchers when a worker becomes able to work."""
        before: list[bool] = []
        while True:
            able = [self._can_work(worker) for worker in self.workers]
            if able != before:
                before = able
                async with self._arrived:
                    self._arrived.notify_all()
            await asyncio.sleep(READY_EVERY_S)

    async def _dispatch(self, worker: Worker) -> None:
        """Take jobs for one worker, one after the other, until the manager stops."""
        while not self._stopping:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._stopping or (len(self.queue) > 0 and self._can_work(worker)))
                job_id = None if self._stopping else self.queue.pop()
            self.metrics.set_queue_length(len(self.queue))
            live = self._live.get(job_id or "")
            if live is None:
                continue
            with logs.bound(job_id=live.record.job_id):
                try:
                    await self._own_and_work(live, worker)
                except Exception:  # the store itself: the job stays as it is there
                    log.exception("the job can't be kept")
                    await asyncio.sleep(READY_EVERY_S)

    async def _own_and_work(self, live: _Live, worker: Worker) -> None:
        async with self._owning(live) as owned:
            if not owned:
                return
            live.cancelled |= live.record.cancelling
            try:
                await self._work(live, worker)
            except ClaimLostError:
                log.warning("another server has taken the job over")
            except Exception as error:
                if self._shared and isinstance(error, SQLAlchemyError):
                    raise  # once the database is back, the job goes on
                log.exception("the job failed inside the server")
                await self._end(live, JobState.FAILED, internal(error))

    async def _work(self, live: _Live, worker: Worker) -> None:
        """Run a job's phases until it ends, waits for review or is parked."""
        self.metrics.job_started(time.monotonic() - live.queued_at)
        if live.record.attempts >= MAX_ATTEMPTS:
            error = SmartDJError(
                ErrorCode.WORKER_CRASHED,
                f"the job was begun {MAX_ATTEMPTS} times, and each time the worker or the server died",
                "See the server's log; try a shorter recording or another step.",
            )
            await self._end(live, JobState.FAILED, error)
            return
        live.worker = worker
        try:
            await self._change(live, state=JobState.RUNNING, attempts=live.record.attempts + 1)
            while not live.record.state.ended and live.record.state is JobState.RUNNING:
                if live.cancelled:
                    await self._end(live, JobState.CANCELLED, cancelled())
                elif live.parked or self._stopping:
                    await self._change(live, state=JobState.QUEUED, attempts=0)
                else:
                    await self._phase(live, worker)
            if live.cancelled and not live.record.state.ended:
                # The plan was ready before the worker heard of it, and would wait for its review for ever.
                await self._end(live, JobState.CANCELLED, cancelled())
        finally:
            live.worker = None
            live.tell()

    async def _phase(self, live: _Live, worker: Worker) -> None:
        task = self._task(live)
        live.task_id = task.task_id
        started = time.monotonic()
        if live.cancelled:
            return
        try:
            async with contextlib.aclosing(worker.run(task)) as reports:
                async for report in reports:
                    await self._take(live, report)
        finally:
            self.metrics.task_done("apply" if isinstance(task, ApplyTask) else "plan", time.monotonic() - started)
            if isinstance(task, ApplyTask):
                await asyncio.to_thread(shutil.rmtree, task.folder, ignore_errors=True)

    def _task(self, live: _Live) -> Task:
        record, spec = live.record, live.spec
        task_id = uuid.uuid4().hex
        source = self.blobs.path(record.source_sha256)
        if not record.plan:
            return PlanTask(task_id, source, spec.instruction, spec.seed)
        folder = self.blobs.temporary("")
        folder.mkdir()
        return ApplyTask(
            task_id=task_id,
            audio=self.blobs.path(record.resume_sha256) if record.resume_sha256 else source,
            source=source,
            plan=record.plan,
            mode=MODES[spec.mode],
            seed=spec.seed,
            done=len(record.steps),
            encoding="float" if spec.output_encoding == job_pb2.OUTPUT_ENCODING_WAV_FLOAT else "source",
            folder=folder,
        )

    async def _take(self, live: _Live, report: Report) -> None:
        """Keep what a worker reports, then tell it."""
        if report.source_audio_sha256:
            await self._know(live.record.source_sha256, report.source_audio_sha256)
        if report.kind == "failed":
            assert report.error is not None
            await self._failed(live, SmartDJError(ErrorCode(report.error[0]), *report.error[1:]))
            return
        if report.kind == "done":
            if not live.record.state.ended and live.record.state is JobState.RUNNING and not live.record.plan:
                await self._end(live, JobState.FAILED, internal(RuntimeError("the planner ended without a plan")))
            return
        event = event_pb2.JobEvent.FromString(report.event)
        match event.WhichOneof("event"):
            case "progress":
                self.remark(live.record.job_id, event)
            case "plan_ready":
                await self._planned(live, event)
            case "question":
                await self._record(live, event, state=JobState.SUCCEEDED)
                self._forget(live)
            case "step_finished":
                await self._stepped(live, event, report.produced)
            case "summary":
                await self._finished(live, event)
            case "warning":
                event.warning.step_index = len(live.record.steps)
                await self._record(live, event)
            case _:
                await self._record(live, event)

    async def _planned(self, live: _Live, event: event_pb2.JobEvent) -> None:
        plan = event.plan_ready.plan
        if live.spec.source_name:
            plan.source_name = live.spec.source_name
        event.plan_ready.awaits_review = live.spec.review and not live.spec.plan_only
        changes: dict[str, Any] = {"plan": plan.SerializeToString(deterministic=True), "attempts": 0}
        if live.spec.plan_only:
            await self._record(live, event, **changes)
            summary = event_pb2.SummaryEvent(
                source=await self._info(live.record.source_sha256), plan=plan, elapsed_s=event.plan_ready.elapsed_s
            )
            await self._record(live, event_pb2.JobEvent(summary=summary), state=JobState.SUCCEEDED)
            self._forget(live)
        elif live.spec.review:
            await self._record(live, event, state=JobState.AWAITING_REVIEW, **changes)
        else:
            await self._record(live, event, accepted=True, **changes)

    async def _stepped(self, live: _Live, event: event_pb2.JobEvent, produced: Sequence[Produced]) -> None:
        files = {item.info.sha256: (item.path, StoredAudio(**asdict(item.info))) for item in produced}  # maybe one file
        kept = {item.role: item.info.sha256 for item in produced}
        steps = (*live.record.steps, kept["delivered"])
        changes: dict[str, Any] = {"steps": steps, "resume_sha256": kept["resume"], "attempts": 0}
        await self._record(live, event, files=tuple(files.values()), **changes)
        if self._stopping:
            self._park(live)

    async def _finished(self, live: _Live, event: event_pb2.JobEvent) -> None:
        steps = [await self._info(sha) for sha in live.record.steps]
        event.summary.source.CopyFrom(await self._info(live.record.source_sha256))
        event.summary.steps.extend(steps)
        event.summary.result.CopyFrom(steps[-1])
        await self._record(
            live,
            event,
            state=JobState.SUCCEEDED,
            result_sha256=live.record.steps[-1],
        )
        self._forget(live)

    async def _failed(self, live: _Live, error: SmartDJError) -> None:
        if error.code is ErrorCode.CANCELLED:
            if live.parked and not live.cancelled:
                return  # `_work` puts it back into the queue's state
            await self._end(live, JobState.CANCELLED, cancelled())
        elif error.code is ErrorCode.WORKER_CRASHED and live.record.attempts < MAX_ATTEMPTS and not live.cancelled:
            log.warning("the worker died, trying again")
            await self._change(live, attempts=live.record.attempts + 1)
        else:
            await self._end(live, JobState.FAILED, error)

    def _park(self, live: _Live) -> None:
        live.parked = True
        if live.worker is not None:
            live.worker.cancel(live.task_id)

    async def _end(self, live: _Live, state: JobState, error: SmartDJError) -> None:
        if live.record.state.ended:
            return
        status = to_status(error)
        await self._record(
            live,
            event_pb2.JobEvent(failed=event_pb2.FailedEvent(error=status)),
            state=state,
            error=status.SerializeToString(),
        )
        self._forget(live)

    async def _record(
        self,
        live: _Live,
        event: event_pb2.JobEvent,
        files: Sequence[tuple[Path, StoredAudio]] = (),
        **changes: Any,
    ) -> None:
        """Keep an event, its files and what it changes, all or nothing, then tell it."""
        event.job_id, event.sequence = live.record.job_id, live.record.last_sequence + 1
        await self._keep(live, [event], files, changes)

    async def _change(self, live: _Live, **changes: Any) -> None:
        await self._keep(live, [], (), changes)

    async def _keep(
        self,
        live: _Live,
        events: list[event_pb2.JobEvent],
        files: Sequence[tuple[Path, StoredAudio]],
        changes: dict[str, Any],
    ) -> None:
        before = live.record.state
        serialised = [event.SerializeToString() for event in events]
        live.record = await self.db(self.blobs.record, live.record.job_id, serialised, files=files, **changes)
        if live.record.state is not before:
            self.metrics.job_moved(before.value, live.record.state.value, ended=live.record.state.ended)
        if events:
            live.progress = None
            live.events += events
        live.tell()

    async def _know(self, sha256: str, audio_sha256: str) -> None:
        """Keep what a recording sounds like, the first time that it is known."""
        stored = await self.db(self.store.audio, sha256)
        if stored is not None and not stored.audio_sha256:
            await self.db(self.store.put_audio, replace(stored, audio_sha256=audio_sha256))

    def _forget(self, live: _Live) -> None:
        """Let go of a job that has ended; who watches it still has it."""
        self._live.pop(live.record.job_id, None)

    async def _info(self, sha256: str) -> audio_pb2.AudioInfo:
        stored = await self.db(self.store.audio, sha256)
        return audio_info(stored) if stored else audio_pb2.AudioInfo(sha256=sha256)


# --- pure -----------------------------------------------------------------


def check_plan(message: step_pb2.Plan) -> Any:
    """Read a plan that is to be carried out.

    Raises
    ------
    SmartDJError
        As `smartdj_agent.wire.plan_from_proto`; PLAN_INVALID where no step is switched on.
    """
    plan = plan_from_proto(message)
    if not plan.enabled_steps():
        raise SmartDJError(
            ErrorCode.PLAN_INVALID,
            "the plan has no step that is switched on",
            "Set `enabled` at a step, or add one.",
            "plan.steps",
        )
    return plan


def request_digest(spec: job_pb2.JobSpec) -> str:
    """Hash of what a request wishes for, to tell the same request from another under the same id."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()


def audio_info(stored: StoredAudio) -> audio_pb2.AudioInfo:
    """Describe a recording."""
    return audio_pb2.AudioInfo(
        sha256=stored.sha256,
        audio_sha256=stored.audio_sha256,
        size_bytes=stored.size_bytes,
        sample_rate_hz=stored.sample_rate,
        channels=stored.channels,
        frames=stored.frames,
        container=stored.container,
        subtype=stored.subtype,
    )


def cancelled() -> SmartDJError:
    """How a job that was cancelled ends."""
    return SmartDJError(ErrorCode.CANCELLED, "the job was cancelled", "Steps that were finished can be fetched.")


def _undecided() -> SmartDJError:
    return SmartDJError(
        ErrorCode.CANCELLED,
        "nobody decided about the plan, and its time is over",
        "Start the job again; to let plans wait longer, set review_s.",
    )


def stopping() -> SmartDJError:
    """What is answered while the server stops."""
    return SmartDJError(
        ErrorCode.SERVER_STOPPING, "the server is stopping", "Try again in a moment; jobs go on after its restart."
    )


def internal(error: Exception) -> SmartDJError:
    """Hide the details of a fault of ours: they are in the log."""
    return SmartDJError(
        ErrorCode.INTERNAL,
        f"the server failed ({type(error).__name__})",
        "The server's log has the details; please report it.",
    )


def _ended(record: JobRecord) -> SmartDJError:
    state = record.state.value if record.state.ended else JobState.CANCELLED.value
    return SmartDJError(
        ErrorCode.JOB_ENDED, f"job {record.job_id} is {state} already", "Start another job with the plan."
    )


def _numbered(data: bytes, job_id: str, number: int) -> event_pb2.JobEvent:
    event = event_pb2.JobEvent.FromString(data)
    event.job_id, event.sequence = job_id, number
    return event


_STATES: dict[JobState, Any] = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}


def states_from_proto(states: Sequence[int]) -> list[JobState]:
    """Read the states of a list request, each once; unknown ones are ignored."""
    names = {number: state for state, number in _STATES.items()}
    return [names[number] for number in dict.fromkeys(states) if number in names]


def _describe(record: JobRecord, infos: dict[str, audio_pb2.AudioInfo]) -> job_pb2.Job:
    job = job_pb2.Job(
        job_id=record.job_id,
        state=_STATES[record.state],
        spec=job_pb2.JobSpec.FromString(record.spec),
        source=infos[record.source_sha256],
        steps=[infos[sha] for sha in record.steps],
        last_sequence=record.last_sequence,
    )
    job.create_time.FromMilliseconds(round(record.created_s * 1000))
    if record.plan:
        job.plan.ParseFromString(record.plan)
    if record.result_sha256:
        job.result.CopyFrom(infos[record.result_sha256])
    if record.error:
        job.error.CopyFrom(Status.FromString(record.error))
    if record.ended_s is not None:
        job.end_time.FromMilliseconds(round(record.ended_s * 1000))
    return job
