"""Jobs, their events and what is known of their audio, in a database that is right after a crash at any moment.

Every method is one transaction: it happened as a whole, or not at all. SQLite runs in WAL mode with
``synchronous=NORMAL``: what a method returned from survives ``kill -9`` at any moment, since the system has it. After a
power cut the database is sound, but the changes of the last moments may be undone: a step is then done again, and
`smartdj_agent.server.blobs.BlobStore.sweep` brings files and rows together in either direction. ``FULL`` would save
those moments too, for one flush of the disk per change: 0.3 ms on an idle SSD, above 10 ms on a busy one.

What only SQLite needs is in `_prepare_sqlite`, what only PostgreSQL needs in `_prepare_postgresql`; everything else is
SQLAlchemy's common language. One process at a time works on an SQLite database, see
`smartdj_agent.server.blobs.BlobStore`. Several servers may share one in PostgreSQL, each with a name of its own: then a
job is changed only by the server that has claimed it, and what a server that fell silent had claimed is free again.
Writers take turns there, too, over all servers: a transaction never has to be done again because of another.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from smartdj_agent.errors import ErrorCode, SmartDJError

_MAX_JOB_ID_CHARS = 100
_CHUNK = 200
"""Names per statement, and jobs deleted per transaction, so that nobody waits long."""

_T = TypeVar("_T")


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_REVIEW = "awaiting_review"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to the job any more."""
        return self in _ENDED


_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class StoredAudio:
    """One audio file in the store.

    Attributes
    ----------
    sha256
        Of the file's bytes, 64 lower-case hexadecimal digits: its name.
    audio_sha256
        Of what it sounds like, see `smartdj_agent.audio.audio_sha256`; empty until it was worked on.
    size_bytes
        Size of the file.
    sample_rate
        Hz.
    channels
        Number of channels.
    frames
        Samples per channel.
    container, subtype
        In libsndfile's words, such as ``WAV`` and ``PCM_16``.
    """

    sha256: str
    audio_sha256: str
    size_bytes: int
    sample_rate: int
    channels: int
    frames: int
    container: str
    subtype: str


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job.

    Attributes
    ----------
    job_id
        Its name.
    client
        Who asked for it.
    state
        Where it stands.
    spec
        Serialised ``smartdj.v1.JobSpec``.
    source_sha256
        The recording; empty where it isn't known yet.
    plan
        Serialised ``smartdj.v1.Plan``; empty before there is one.
    accepted
        Whether the plan may be carried out.
    steps
        SHA-256 of the delivered audio after each finished step.
    resume_sha256
        SHA-256 of the exact float audio after the last finished step; empty before the first, and once the job ended.
    result_sha256
        SHA-256 of the result; empty before there is one.
    error
        Serialised ``google.rpc.Status``; empty where nothing went wrong.
    created_s, ended_s
        Seconds since the epoch.
    last_sequence
        Sequence number of the newest event; 0 before the first.
    attempts
        How often the work was begun since the last finished step.
    cancelling
        Whether somebody asked for its end, which may not have come yet.
    """

    job_id: str
    client: str
    state: JobState = JobState.QUEUED
    spec: bytes = b""
    source_sha256: str = ""
    plan: bytes = b""
    accepted: bool = False
    steps: tuple[str, ...] = ()
    resume_sha256: str = ""
    result_sha256: str = ""
    error: bytes = b""
    created_s: float
    ended_s: float | None = None
    last_sequence: int = 0
    attempts: int = 0
    cancelling: bool = False

    @property
    def audio(self) -> frozenset[str]:
        """SHA-256 of all audio that the job refers to."""
        named = {self.source_sha256, self.resume_sha256, self.result_sha256, *self.steps}
        return frozenset(named - {""})


class JobChanges(TypedDict, total=False):
    """The fields of a `JobRecord` that change while it lives."""

    state: JobState
    source_sha256: str
    plan: bytes
    accepted: bool
    steps: tuple[str, ...]
    resume_sha256: str
    result_sha256: str
    error: bytes
    ended_s: float
    attempts: int
    cancelling: bool


@dataclass(frozen=True)
class HeldJob:
    """What retention needs to know of a job.

    Attributes
    ----------
    job_id
        Its name.
    ended_s
        When it ended, seconds since the epoch; None while it is unfinished.
    fetched
        Whether somebody has fetched its result since it was made (the last finished step where there is no result;
        its last event where there is no audio at all).
    audio
        SHA-256 of all audio that it refers to.
    """

    job_id: str
    ended_s: float | None
    fetched: bool
    audio: frozenset[str]


@dataclass(frozen=True)
class HeldAudio:
    """What retention needs to know of an audio file.

    Attributes
    ----------
    sha256
        Its name.
    size_bytes
        What it takes on the disk.
    keep_until_s
        Until when it stays even if no job refers to it, seconds since the epoch.
    """

    sha256: str
    size_bytes: int
    keep_until_s: float


_METADATA = sa.MetaData()

_VERSION = sa.Table("schema_version", _METADATA, sa.Column("version", sa.Integer, nullable=False))

_AUDIO = sa.Table(
    "audio",
    _METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("audio_sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sample_rate", sa.Integer, nullable=False),
    sa.Column("channels", sa.Integer, nullable=False),
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("container", sa.Text, nullable=False),
    sa.Column("subtype", sa.Text, nullable=False),
    sa.Column("keep_until_s", sa.Double, nullable=False),
    sa.Column("fetched_s", sa.Double),
    sa.Column("lost", sa.Boolean, nullable=False),  # its file vanished, but a job still refers to it
)


def _reference(name: str, **options: Any) -> sa.Column[str]:
    # The database itself refuses to delete audio that a job refers to, whatever the code above it does.
    return sa.Column(name, sa.ForeignKey(_AUDIO.c.sha256), index=True, **options)


_JOBS = sa.Table(
    "jobs",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),  # order in which jobs were made
    sa.Column("job_id", sa.Text, nullable=False, unique=True),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    _reference("source_sha256"),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    _reference("resume_sha256"),
    _reference("result_sha256"),
    sa.Column("error", sa.LargeBinary, nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("ended_s", sa.Double),
    sa.Column("told_s", sa.Double),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("jobs_by_state", "state", "number"),
)

_STEPS = sa.Table(
    "job_steps",
    _METADATA,
    sa.Column("job", sa.ForeignKey(_JOBS.c.number), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    _reference("sha256", nullable=False),
)

_EVENTS = sa.Table(
    "events",
    _METADATA,
    sa.Column("job", sa.ForeignKey(_JOBS.c.number), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)

_REQUESTS = sa.Table(
    "requests",
    _METADATA,
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("job", sa.ForeignKey(_JOBS.c.number), nullable=False, index=True),
)


def _add_cancelling(connection: sa.Connection) -> None:
    if "cancelling" not in {column["name"] for column in sa.inspect(connection).get_columns(_JOBS.name)}:
        connection.execute(sa.DDL("ALTER TABLE jobs ADD COLUMN cancelling BOOLEAN NOT NULL DEFAULT false"))


_REPLICAS = sa.Table(
    "replicas",
    _METADATA,
    sa.Column("replica", sa.Text, primary_key=True),
    sa.Column("seen_s", sa.Double, nullable=False),
)

_CLAIMS = sa.Table(
    "claims",
    _METADATA,
    sa.Column("job", sa.ForeignKey(_JOBS.c.number), primary_key=True),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("progress", sa.LargeBinary, nullable=False),
)

_FOLDERS = sa.Table("data_folders", _METADATA, sa.Column("mark", sa.Text, primary_key=True))

_MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_METADATA.create_all, _add_cancelling, _METADATA.create_all)
"""What makes version n + 1 of the tables from version n; the first makes today's tables from nothing."""

_COLUMNS = frozenset(field.name for field in fields(JobRecord)) - {"steps"}
_REFERENCES = ("source_sha256", "resume_sha256", "result_sha256")
_NOT_REFERRED_TO = sa.and_(
    *(~sa.exists().where(column == _AUDIO.c.sha256) for column in (_JOBS.c[name] for name in _REFERENCES)),
    ~sa.exists().where(_STEPS.c.sha256 == _AUDIO.c.sha256),
)


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Everything that SQLite needs and other databases don't."""
    if engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else sqlite3 begins transactions by itself, and only before some statements
        for pragma in (
            "journal_mode=WAL",  # readers and the writer don't wait for each other
            "synchronous=NORMAL",  # see above
            "foreign_keys=ON",
            "journal_size_limit=16777216",  # a burst doesn't leave a huge journal behind
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        # A transaction that reads before it writes must hold the write lock from its beginning: taking it later
        # fails at once, without waiting, where somebody else wrote in between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_WRITERS_LOCK, _FILES_LOCK = 7_301_001, 7_301_002
"""Names of PostgreSQL's advisory locks; a holder of the second may ask for the first, never the other way."""


def _prepare_postgresql(engine: sa.Engine) -> None:
    """Everything that PostgreSQL needs and SQLite doesn't."""

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})")


class ClaimLostError(Exception):
    """Another server has the job: this one was silent for too long, or came too late."""


@dataclass(frozen=True)
class Brief:
    """Where an unfinished job stands, among several servers.

    Attributes
    ----------
    job_id, state, last_sequence, cancelling
        As in `JobRecord`.
    replica
        The server that has claimed it; None where nobody has.
    progress
        Serialised ``smartdj.v1.JobEvent``, the newest that isn't kept; empty where there is none.
    """

    job_id: str
    state: JobState
    last_sequence: int
    cancelling: bool
    replica: str | None
    progress: bytes


class JobStore:
    """All that is known of jobs. Safe to use from several threads; one process at a time, or one per `replica`.

    Parameters
    ----------
    url
        SQLAlchemy's, such as ``sqlite:////var/lib/smartdj/jobs.db``. The database is made where it isn't there, and
        brought up to date where it is older.
    clock
        Seconds since the epoch.
    replica
        This server's name among several that share the database; empty for the only one.

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG`` where it can't be opened, isn't a database, or was made by a newer version. Every method
        may raise ``DISK_FULL``; then nothing was changed.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time, replica: str = "") -> None:
        self._clock = clock
        self.replica = replica
        # One writer at a time, and the next one at once: SQLite by itself makes writers sleep and try again.
        self._turn = threading.Lock()
        try:
            place = sa.make_url(url)
            if place.drivername == "postgresql":  # not the driver that SQLAlchemy would take: it is LGPL
                place = place.set(drivername="postgresql+pg8000")
            if place.get_backend_name() == "postgresql" and place.password is None and "PGPASSWORD" in os.environ:
                place = place.set(password=os.environ["PGPASSWORD"])
            # Connections that broke while nobody used them, as at the database's restart, are made anew.
            self._engine = sa.create_engine(place, pool_pre_ping=place.get_backend_name() != "sqlite")
            if self._engine.dialect.name == "sqlite":
                _prepare_sqlite(self._engine)
            elif self._engine.dialect.name == "postgresql":
                _prepare_postgresql(self._engine)
            self._migrate()
            if replica:  # before it makes a file that another server might take for a dead one's
                with self._writing() as connection:
                    self._live(connection)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, DBAPIError, OSError) as error:
            what = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"the job database can't be opened: {what.strip().splitlines()[0] if what.strip() else error!r}",
                "check that the data folder may be written and that its jobs.db is whole; move it away to begin anew"
                if url.startswith("sqlite")
                else "check database_url, and that its server runs and lets this user in (pip install pg8000)",
            ) from error

    def close(self) -> None:
        """Close all connections; what is committed is safe without it, too."""
        self._engine.dispose()

    # Jobs

    def create(self, record: JobRecord, *, request_id: str, digest: str) -> tuple[JobRecord, bool]:
        """Make a job, once per request.

        Parameters
        ----------
        record
            The new job; its `last_sequence` must be 0. Among several servers it is claimed by this one.
        request_id
            The client's name for its request; empty for no protection against doing it twice.
        digest
            Of the request's contents.

        Returns
        -------
        record
            The new job, or the one that the same request made before.
        created
            Whether it is new.

        Raises
        ------
        SmartDJError
            ``USAGE`` where the client used the id for another request; ``AUDIO_NOT_FOUND`` where the job refers to
            audio that isn't there.
        """
        with self._writing() as connection:
            if request_id:
                earlier = self._recall(connection, record.client, request_id, digest)
                if earlier is not None:
                    return self._load(connection, earlier)[1], False
            self._check_audio(connection, record.audio)
            values = {name: getattr(record, name) for name in _COLUMNS}
            values.update({name: values[name] or None for name in _REFERENCES})
            number = connection.scalars(sa.insert(_JOBS).values(values).returning(_JOBS.c.number)).one()
            self._put_steps(connection, number, (), record.steps)
            if self.replica:
                claim = {"job": number, "replica": self.replica, "progress": b""}
                connection.execute(sa.insert(_CLAIMS).values(claim))
            if request_id:
                row = {"client": record.client, "request_id": request_id, "digest": digest, "job": number}
                connection.execute(sa.insert(_REQUESTS).values(row))
        return record, True

    def recall(self, client: str, request_id: str, digest: str) -> str | None:
        """Return the job that the same request was about before; None where it is new.

        Raises
        ------
        SmartDJError
            ``USAGE`` where the client used the id for another request.
        """
        with self._reading() as connection:
            return self._recall(connection, client, request_id, digest)

    def append(self, job_id: str, events: Sequence[bytes], **changes: Unpack[JobChanges]) -> JobRecord:
        """Add events to a job and change it, both or neither.

        Parameters
        ----------
        job_id
            The job.
        events
            Serialised ``smartdj.v1.JobEvent`` without sequence numbers. The numbers go on from the job's
            `last_sequence`, without gaps.
        changes
            New values of fields. A state that ends the job fills in `ended_s` and clears `resume_sha256`.

        Returns
        -------
        JobRecord
            The job afterwards; its events are numbered ``last_sequence - len(events) + 1`` to ``last_sequence``.

        Raises
        ------
        SmartDJError
            ``JOB_NOT_FOUND``; ``JOB_ENDED``: what has ended never changes; ``AUDIO_NOT_FOUND`` where a change refers
            to audio that isn't there.
        ClaimLostError
            Among several servers, where this one hasn't claimed the job.
        """
        with self._writing() as connection:
            number, before = self._load(connection, job_id)
            if self.replica and self._claimant(connection, number) != self.replica:
                raise ClaimLostError(job_id)
            if before.state.ended:
                raise SmartDJError(
                    ErrorCode.JOB_ENDED, f"job {job_id} has ended: it {_PAST[before.state]}", "start another job"
                )
            after = replace(before, **changes, last_sequence=before.last_sequence + len(events))
            if after.state.ended:
                ended_s = self._clock() if after.ended_s is None else after.ended_s
                after = replace(after, ended_s=ended_s, resume_sha256="")
            self._check_audio(connection, after.audio - before.audio)
            if events:
                connection.execute(
                    sa.insert(_EVENTS),
                    [
                        {"job": number, "sequence": sequence, "payload": payload}
                        for sequence, payload in enumerate(events, before.last_sequence + 1)
                    ],
                )
            changed = {name: getattr(after, name) for name in _COLUMNS if getattr(after, name) != getattr(before, name)}
            changed.update({name: changed[name] or None for name in _REFERENCES if name in changed})
            if changed:
                connection.execute(sa.update(_JOBS).where(_JOBS.c.number == number).values(changed))
            self._put_steps(connection, number, before.steps, after.steps)
        return after

    def get(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises
        ------
        SmartDJError
            ``JOB_NOT_FOUND``.
        """
        with self._reading() as connection:
            return self._load(connection, job_id)[1]

    def page(self, states: Iterable[JobState], size: int, token: str) -> tuple[list[JobRecord], str]:
        """Return some jobs, newest first.

        Parameters
        ----------
        states
            Only jobs in one of these; empty for all.
        size
            Most jobs to return, at least 1.
        token
            Where the page begins, as returned with the page before; empty for the first.

        Returns
        -------
        jobs
            The page. Jobs that are made meanwhile never shift it.
        token
            Where the next page begins; empty on the last.

        Raises
        ------
        SmartDJError
            ``USAGE`` for a token that was never given out.
        """
        query = sa.select(_JOBS).order_by(_JOBS.c.number.desc()).limit(size + 1)
        if token:
            if not (token.isascii() and token.isdecimal() and len(token) < 10):
                raise SmartDJError(
                    ErrorCode.USAGE,
                    "the page token was not given out by this server",
                    "pass on next_page_token as it came, or begin with the first page",
                    field="page_token",
                )
            query = query.where(_JOBS.c.number < int(token))
        wanted = [state.value for state in states]
        if wanted:
            query = query.where(_JOBS.c.state.in_(wanted))
        with self._reading() as connection:
            rows = connection.execute(query).all()
            records = self._records(connection, rows[:size])
        return records, str(rows[size - 1].number) if len(rows) > size else ""

    def events(self, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return some of a job's events with their sequence numbers, oldest first.

        Parameters
        ----------
        job_id
            The job.
        after
            Only events with a greater sequence number.
        limit
            Most events to return.

        Raises
        ------
        SmartDJError
            ``JOB_NOT_FOUND``.
        """
        with self._reading() as connection:
            _check_job_id(job_id)
            number = connection.scalar(sa.select(_JOBS.c.number).where(_JOBS.c.job_id == job_id))
            if number is None:
                raise _no_job(job_id)
            rows = connection.execute(
                sa.select(_EVENTS.c.sequence, _EVENTS.c.payload)
                .where(_EVENTS.c.job == number, _EVENTS.c.sequence > after)
                .order_by(_EVENTS.c.sequence)
                .limit(limit)
            )
            return [(sequence, payload) for sequence, payload in rows]

    def unfinished(self) -> list[JobRecord]:
        """Return all jobs that have not ended, oldest first."""
        open_states = [state.value for state in JobState if not state.ended]
        with self._reading() as connection:
            query = sa.select(_JOBS).where(_JOBS.c.state.in_(open_states)).order_by(_JOBS.c.number)
            return self._records(connection, connection.execute(query).all())

    def mark_told(self, job_id: str, now_s: float) -> None:
        """Note that a client has got the job's last event: for a job without audio, that is its result."""
        with self._writing() as connection:
            connection.execute(sa.update(_JOBS).where(_JOBS.c.job_id == job_id).values(told_s=now_s))

    # Several servers

    def _now_s(self, connection: sa.Connection) -> float:
        """The database's clock where there are several servers: theirs may differ."""
        if connection.dialect.name == "postgresql":
            return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        return self._clock()

    def _live(self, connection: sa.Connection) -> float:
        """Say that this server lives; returns the time, seconds since the epoch."""
        now_s = self._now_s(connection)
        mine = _REPLICAS.c.replica == self.replica
        if not connection.execute(sa.update(_REPLICAS).where(mine).values(seen_s=now_s)).rowcount:
            connection.execute(sa.insert(_REPLICAS).values(replica=self.replica, seen_s=now_s))
        return now_s

    def _claimant(self, connection: sa.Connection, number: int) -> str | None:
        return connection.scalar(sa.select(_CLAIMS.c.replica).where(_CLAIMS.c.job == number))

    def claim(self, job_id: str) -> JobRecord | None:
        """Make a job this server's own, if it is nobody's and has not ended; return it, or None.

        Raises
        ------
        SmartDJError
            ``JOB_NOT_FOUND``.
        """
        with self._writing() as connection:
            number, record = self._load(connection, job_id)
            if record.state.ended or self._claimant(connection, number) is not None:
                return None
            claim = {"job": number, "replica": self.replica, "progress": b""}
            connection.execute(sa.insert(_CLAIMS).values(claim))
        return record

    def release(self, job_id: str) -> None:
        """Let go of a job, if this server has it; what it left running waits for another one."""
        with self._writing() as connection:
            number = sa.select(_JOBS.c.number).where(_JOBS.c.job_id == job_id).scalar_subquery()
            connection.execute(sa.delete(_CLAIMS).where(_CLAIMS.c.job == number, _CLAIMS.c.replica == self.replica))

    def ask_cancel(self, job_id: str) -> None:
        """Note that somebody asked for a job's end, whoever has it."""
        with self._writing() as connection:
            open_states = [state.value for state in JobState if not state.ended]
            named = sa.and_(_JOBS.c.job_id == job_id, _JOBS.c.state.in_(open_states))
            connection.execute(sa.update(_JOBS).where(named).values(cancelling=True))

    def survey(self, lease_s: float, progress: Mapping[str, bytes]) -> list[Brief]:
        """Say that this server lives, free what silent ones had claimed, and return all unfinished jobs, oldest first.

        Parameters
        ----------
        lease_s
            How long a server may be silent, seconds.
        progress
            The newest event that isn't kept of jobs of this server, by job id.
        """
        with self._writing() as connection:
            now_s = self._live(connection)
            connection.execute(sa.delete(_REPLICAS).where(_REPLICAS.c.seen_s < now_s - lease_s))
            connection.execute(sa.delete(_CLAIMS).where(_CLAIMS.c.replica.not_in(sa.select(_REPLICAS.c.replica))))
            abandoned = sa.and_(
                _JOBS.c.state == JobState.RUNNING.value, _JOBS.c.number.not_in(sa.select(_CLAIMS.c.job))
            )
            connection.execute(sa.update(_JOBS).where(abandoned).values(state=JobState.QUEUED.value))
            for job_id, event in progress.items():
                number = sa.select(_JOBS.c.number).where(_JOBS.c.job_id == job_id).scalar_subquery()
                held = sa.and_(_CLAIMS.c.job == number, _CLAIMS.c.replica == self.replica)
                connection.execute(sa.update(_CLAIMS).where(held).values(progress=event))
            open_states = [state.value for state in JobState if not state.ended]
            jobs, claims = _JOBS.c, _CLAIMS.c
            query = (
                sa.select(jobs.job_id, jobs.state, jobs.last_sequence, jobs.cancelling, claims.replica, claims.progress)
                .join_from(_JOBS, _CLAIMS, claims.job == jobs.number, isouter=True)
                .where(jobs.state.in_(open_states))
                .order_by(jobs.number)
            )
            return [
                Brief(job_id, JobState(state), sequence, cancelling, replica, progress or b"")
                for job_id, state, sequence, cancelling, replica, progress in connection.execute(query)
            ]

    def leave(self) -> None:
        """Let go of everything: this server ends."""
        with self._writing() as connection:
            connection.execute(sa.delete(_CLAIMS).where(_CLAIMS.c.replica == self.replica))
            connection.execute(sa.delete(_REPLICAS).where(_REPLICAS.c.replica == self.replica))

    def living(self, lease_s: float) -> set[str]:
        """Return the names of all servers that were not silent for so long, this one too."""
        with self._reading() as connection:
            since = _REPLICAS.c.seen_s >= self._now_s(connection) - lease_s
            return {self.replica, *connection.scalars(sa.select(_REPLICAS.c.replica).where(since))}

    def folder_mark(self, new: str) -> str:
        """Return the mark of the one data folder that belongs to this database: `new`, if any, where none does yet."""
        with self._writing() as connection:
            known = connection.scalar(sa.select(_FOLDERS.c.mark))
            if known is None and new:
                connection.execute(sa.insert(_FOLDERS).values(mark=new))
            return known or new

    @contextmanager
    def files_alone(self) -> Iterator[None]:
        """Keep the other servers from adding and deleting audio inside the block; does nothing where there are none."""
        if not self.replica or self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_FILES_LOCK})")
            try:
                yield
            finally:
                connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_FILES_LOCK})")

    # Audio

    def put_audio(self, audio: StoredAudio, *, keep_until_s: float = 0.0) -> None:
        """Note that an audio file is there. The file must be there already, safely.

        Parameters
        ----------
        audio
            What it is. An `audio_sha256` that is known already is not forgotten for an empty one.
        keep_until_s
            Until when it stays even if no job refers to it, seconds since the epoch; a later time that was noted
            before remains.
        """
        values: dict[str, Any] = {field.name: getattr(audio, field.name) for field in fields(StoredAudio)}
        values.update(keep_until_s=keep_until_s, lost=False)
        with self._writing() as connection:
            row = connection.execute(sa.select(_AUDIO).where(_AUDIO.c.sha256 == audio.sha256)).one_or_none()
            if row is None:
                connection.execute(sa.insert(_AUDIO).values(values))
            else:
                values["audio_sha256"] = audio.audio_sha256 or row.audio_sha256
                values["keep_until_s"] = max(keep_until_s, row.keep_until_s)
                connection.execute(sa.update(_AUDIO).where(_AUDIO.c.sha256 == audio.sha256).values(values))

    def keep_audio(self, sha256: str, until_s: float) -> None:
        """Let an audio file stay until then, even if no job refers to it; seconds since the epoch."""
        with self._writing() as connection:
            connection.execute(
                sa.update(_AUDIO)
                .where(_AUDIO.c.sha256 == sha256, _AUDIO.c.keep_until_s < until_s)
                .values(keep_until_s=until_s)
            )

    def audio(self, sha256: str) -> StoredAudio | None:
        """Return what an audio file is; None where it isn't there."""
        return self.audios([sha256]).get(sha256)

    def audios(self, sha256s: Iterable[str]) -> dict[str, StoredAudio]:
        """Return what several audio files are, by SHA-256; those that aren't there are left out."""
        found = {}
        columns = [_AUDIO.c[field.name] for field in fields(StoredAudio)]
        with self._reading() as connection:
            for some in _chunks(sorted(set(sha256s))):
                query = sa.select(*columns).where(_AUDIO.c.sha256.in_(some), _AUDIO.c.lost.is_(False))
                found.update({row[0]: StoredAudio(*row) for row in connection.execute(query)})
        return found

    def mark_fetched(self, sha256: str, now_s: float) -> None:
        """Note that somebody has fetched a whole audio file."""
        with self._writing() as connection:
            connection.execute(sa.update(_AUDIO).where(_AUDIO.c.sha256 == sha256).values(fetched_s=now_s))

    # What retention and the sweep at the start need

    def audio_bytes(self) -> int:
        """Return the size of all audio files together."""
        with self._reading() as connection:
            query = sa.select(sa.func.sum(_AUDIO.c.size_bytes)).where(_AUDIO.c.lost.is_(False))
            return int(connection.scalar(query) or 0)

    def unused_audio(self, now_s: float) -> list[str]:
        """Return the audio that no job refers to and that has had its time; `now_s` in seconds since the epoch."""
        query = sa.select(_AUDIO.c.sha256).where(_AUDIO.c.keep_until_s <= now_s, _NOT_REFERRED_TO)
        with self._reading() as connection:
            return list(connection.scalars(query))

    def any_ended_before(self, when_s: float) -> bool:
        """Whether a job ended by then, seconds since the epoch. Cheap to ask, where `holdings` reads every job."""
        with self._reading() as connection:
            return (
                connection.execute(sa.select(_JOBS.c.number).where(_JOBS.c.ended_s <= when_s).limit(1)).first()
                is not None
            )

    def holdings(self) -> tuple[list[HeldJob], list[HeldAudio]]:
        """Return all jobs and all audio files of one moment, as `smartdj_agent.server.retention` needs them."""
        jobs, audio = _JOBS.c, _AUDIO.c
        with self._reading() as connection:
            steps: dict[int, list[str]] = {}
            for job, sha256 in connection.execute(
                sa.select(_STEPS.c.job, _STEPS.c.sha256).order_by(_STEPS.c.job, _STEPS.c.position)
            ):
                steps.setdefault(job, []).append(sha256)
            files = connection.execute(
                sa.select(audio.sha256, audio.size_bytes, audio.keep_until_s, audio.fetched_s, audio.lost)
            ).all()
            # What is lost can't be fetched any more, so nothing is kept for its sake.
            fetched_s = {row.sha256: float("inf") if row.lost else row.fetched_s for row in files}
            held = []
            for row in connection.execute(
                sa.select(
                    jobs.number, jobs.job_id, jobs.created_s, jobs.ended_s, jobs.told_s,
                    jobs.source_sha256, jobs.resume_sha256, jobs.result_sha256,
                )
            ):  # fmt: skip
                delivered = steps.get(row.number, [])
                result = row.result_sha256 or (delivered[-1] if delivered else None)
                # An older job may have the same result: only what was fetched since this job was made counts.
                last_s = fetched_s[result] if result else row.told_s
                fetched = last_s is not None and last_s >= row.created_s
                named = {row.source_sha256, row.resume_sha256, row.result_sha256, *delivered} - {None}
                held.append(HeldJob(row.job_id, row.ended_s, fetched, frozenset(named)))
        return held, [HeldAudio(row.sha256, 0 if row.lost else row.size_bytes, row.keep_until_s) for row in files]

    def delete_jobs(self, job_ids: Iterable[str]) -> int:
        """Delete jobs with their events and requests; jobs that have not ended stay. Returns how many went."""
        deleted = 0
        for some in _chunks(list(job_ids)):
            with self._writing() as connection:
                numbers = list(
                    connection.scalars(
                        sa.select(_JOBS.c.number).where(
                            _JOBS.c.job_id.in_(some), _JOBS.c.state.in_([state.value for state in _ENDED])
                        )
                    )
                )
                for table in (_EVENTS, _STEPS, _REQUESTS, _CLAIMS):
                    connection.execute(sa.delete(table).where(table.c.job.in_(numbers)))
                deleted += connection.execute(sa.delete(_JOBS).where(_JOBS.c.number.in_(numbers))).rowcount
        return deleted

    def delete_audio(self, sha256s: Iterable[str], now_s: float) -> list[str]:
        """Delete rows of audio that no job refers to and that needn't stay; `BlobStore` deletes the files.

        Parameters
        ----------
        sha256s
            What may go.
        now_s
            Seconds since the epoch.

        Returns
        -------
        list of str
            What went.
        """
        gone = []
        for some in _chunks(list(sha256s)):
            with self._writing() as connection:
                for sha256 in some:
                    statement = sa.delete(_AUDIO).where(
                        _AUDIO.c.sha256 == sha256, _AUDIO.c.keep_until_s <= now_s, _NOT_REFERRED_TO
                    )
                    if connection.execute(statement).rowcount:
                        gone.append(sha256)
        return gone

    def audio_sizes(self) -> dict[str, int]:
        """Return the size of every audio file that should be there, by SHA-256."""
        with self._reading() as connection:
            query = sa.select(_AUDIO.c.sha256, _AUDIO.c.size_bytes).where(_AUDIO.c.lost.is_(False))
            return {row.sha256: row.size_bytes for row in connection.execute(query)}

    def mark_lost(self, sha256s: Iterable[str]) -> None:
        """Note that files are gone: rows that no job refers to go too, the others count as not there."""
        for some in _chunks(list(sha256s)):
            with self._writing() as connection:
                named = _AUDIO.c.sha256.in_(some)
                connection.execute(sa.delete(_AUDIO).where(named, _NOT_REFERRED_TO))
                connection.execute(sa.update(_AUDIO).where(named).values(lost=True))

    # Inside

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _plain_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with (
            self._turn,
            _plain_errors(),
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def _migrate(self) -> None:
        with self._writing() as connection:
            version = 0
            if sa.inspect(connection).has_table(_VERSION.name):
                version = connection.scalar(sa.select(_VERSION.c.version)) or 0
            if version > len(_MIGRATIONS):
                raise SmartDJError(
                    ErrorCode.SERVER_CONFIG,
                    f"the job database has version {version}; this program knows versions up to {len(_MIGRATIONS)}",
                    "update SmartDJ Agent, or choose another data folder",
                )
            for migration in _MIGRATIONS[version:]:
                migration(connection)
            if version < len(_MIGRATIONS):
                connection.execute(sa.delete(_VERSION))
                connection.execute(sa.insert(_VERSION).values(version=len(_MIGRATIONS)))

    def _recall(self, connection: sa.Connection, client: str, request_id: str, digest: str) -> str | None:
        row = connection.execute(
            sa.select(_REQUESTS.c.digest, _JOBS.c.job_id)
            .join(_JOBS, _JOBS.c.number == _REQUESTS.c.job)
            .where(_REQUESTS.c.client == client, _REQUESTS.c.request_id == request_id)
        ).one_or_none()
        if row is None:
            return None
        if row.digest != digest:
            raise SmartDJError(
                ErrorCode.USAGE,
                "the request id was used before, for another request",
                "make a new UUID for every request; use the same one only to send the same request again",
                field="request_id",
            )
        return str(row.job_id)

    def _load(self, connection: sa.Connection, job_id: str) -> tuple[int, JobRecord]:
        _check_job_id(job_id)
        row = connection.execute(sa.select(_JOBS).where(_JOBS.c.job_id == job_id)).one_or_none()
        if row is None:
            raise _no_job(job_id)
        return row.number, self._records(connection, [row])[0]

    def _records(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[JobRecord]:
        steps: dict[int, list[str]] = {row.number: [] for row in rows}
        for some in _chunks(list(steps)):
            query = sa.select(_STEPS.c.job, _STEPS.c.sha256).where(_STEPS.c.job.in_(some)).order_by(_STEPS.c.position)
            for job, sha256 in connection.execute(query):
                steps[job].append(sha256)
        records = []
        for row in rows:
            values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
            values.update({name: values[name] or "" for name in _REFERENCES})
            values["state"] = JobState(row.state)
            records.append(JobRecord(**values, steps=tuple(steps[row.number])))
        return records

    def _put_steps(self, connection: sa.Connection, job: int, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        if same < len(before):
            connection.execute(sa.delete(_STEPS).where(_STEPS.c.job == job, _STEPS.c.position >= same))
        if same < len(after):
            connection.execute(
                sa.insert(_STEPS),
                [{"job": job, "position": position, "sha256": after[position]} for position in range(same, len(after))],
            )

    def _check_audio(self, connection: sa.Connection, sha256s: frozenset[str]) -> None:
        missing = set(sha256s)
        for some in _chunks(sorted(sha256s)):
            query = sa.select(_AUDIO.c.sha256).where(_AUDIO.c.sha256.in_(some), _AUDIO.c.lost.is_(False))
            missing -= set(connection.scalars(query))
        if missing:
            raise SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"the server has no audio {min(missing)}", "upload it first")


_PAST = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
}


def _check_job_id(job_id: str) -> None:
    # sqlite3 keeps a copy of what it was last asked for, per statement and connection.
    if len(job_id) > _MAX_JOB_ID_CHARS:
        raise _no_job(f"{job_id[:_MAX_JOB_ID_CHARS]}…")


def _no_job(job_id: str) -> SmartDJError:
    return SmartDJError(
        ErrorCode.JOB_NOT_FOUND,
        f"there is no job {job_id!r}",
        "list the jobs; those that ended long ago are deleted",
        field="job_id",
    )


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        text = str(error.orig).lower()
        if "disk is full" in text or "no space left" in text:
            raise SmartDJError(
                ErrorCode.DISK_FULL, "the job database can't grow: no space left", "free some space on the server"
            ) from error
        raise
