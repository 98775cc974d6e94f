"""The job database: all or nothing, in order, once per request, whoever asks at the same time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import store as store_module
from smartdj_agent.server.store import HeldAudio, HeldJob, JobRecord, JobState, JobStore, StoredAudio
from tests import postgres

ENDED = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]
HERE = ["sqlite", *(["postgresql"] if postgres.installed() else [])]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """URL of an empty database in PostgreSQL."""
    with postgres.postgresql() as url:
        yield url


def audio(number: int, **changes: Any) -> StoredAudio:
    return replace(StoredAudio(f"{number:064x}", "", 1000 + number, 44_100, 2, 500, "WAV", "PCM_16"), **changes)


def sha(number: int) -> str:
    return audio(number).sha256


def job(name: str, **changes: Any) -> JobRecord:
    return JobRecord(**{"job_id": name, "client": "anna", "spec": b"spec", "created_s": 100.0, **changes})


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/jobs.db"


@pytest.fixture(params=HERE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    url = sqlite_url(tmp_path)
    if request.param == "postgresql":
        url = request.getfixturevalue("elsewhere")
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+pg8000:"))
        store_module._METADATA.drop_all(engine)
        engine.dispose()
    opened = JobStore(url, clock=lambda: 500.0)
    for number in range(10):
        opened.put_audio(audio(number))
    yield opened
    opened.close()


def create(store: JobStore, name: str, **changes: Any) -> JobRecord:
    return store.create(job(name, **changes), request_id="", digest="")[0]


def code_of(error: pytest.ExceptionInfo[SmartDJError]) -> ErrorCode:
    return error.value.code


# Jobs


def test_a_job_comes_back_as_it_was_made(store: JobStore) -> None:
    record = job(
        "a", state=JobState.AWAITING_REVIEW, spec=b"\x00\xff", source_sha256=sha(1), plan=b"plan", accepted=True,
        steps=(sha(2), sha(3), sha(2)), resume_sha256=sha(4), result_sha256=sha(5), error=b"e", attempts=3,
    )  # fmt: skip
    assert store.create(record, request_id="r", digest="d") == (record, True)
    assert store.get("a") == record


def test_the_same_request_makes_one_job(store: JobStore) -> None:
    store.create(job("a"), request_id="r", digest="d")
    store.append("a", [b"1"], state=JobState.RUNNING)
    again, created = store.create(job("b"), request_id="r", digest="d")
    assert (again.job_id, again.state, created) == ("a", JobState.RUNNING, False)
    with pytest.raises(SmartDJError) as error:
        store.get("b")
    assert code_of(error) is ErrorCode.JOB_NOT_FOUND


def test_another_request_under_the_same_id_is_refused(store: JobStore) -> None:
    store.create(job("a"), request_id="r", digest="d")
    for attempt in (
        lambda: store.create(job("b"), request_id="r", digest="other"),
        lambda: store.recall("anna", "r", "other"),
    ):
        with pytest.raises(SmartDJError) as error:
            attempt()
        assert (code_of(error), error.value.field) == (ErrorCode.USAGE, "request_id")


def test_request_ids_of_two_clients_have_nothing_to_do_with_each_other(store: JobStore) -> None:
    store.create(job("a"), request_id="r", digest="d")
    assert store.create(job("b", client="ben"), request_id="r", digest="other")[1]


def test_without_a_request_id_every_request_makes_a_job(store: JobStore) -> None:
    assert store.create(job("a"), request_id="", digest="d")[1]
    assert store.create(job("b"), request_id="", digest="d")[1]


def test_a_request_is_remembered_until_its_job_is_deleted(store: JobStore) -> None:
    assert store.recall("anna", "r", "d") is None
    store.create(job("a"), request_id="r", digest="d")
    assert store.recall("anna", "r", "d") == "a"
    store.append("a", [], state=JobState.CANCELLED)
    store.delete_jobs(["a"])
    assert store.recall("anna", "r", "d") is None


@pytest.mark.parametrize("field", ["source_sha256", "resume_sha256", "result_sha256", "steps"])
def test_a_job_never_refers_to_audio_that_is_not_there(store: JobStore, field: str) -> None:
    value = (sha(1), sha(99)) if field == "steps" else sha(99)
    with pytest.raises(SmartDJError) as error:
        create(store, "a", **{field: value})
    assert code_of(error) is ErrorCode.AUDIO_NOT_FOUND
    before = create(store, "b")
    changes: Any = {field: value}
    with pytest.raises(SmartDJError):
        store.append("b", [b"event"], **changes)
    assert store.get("b") == before, "neither the event nor the change"
    assert store.events("b", 0, 10) == []


def test_steps_may_grow_and_change(store: JobStore) -> None:
    create(store, "a")
    for steps in [(sha(1),), (sha(1), sha(2)), (sha(1), sha(3), sha(1)), (), (sha(4),)]:
        assert store.append("a", [], steps=steps).steps == steps
        assert store.get("a").steps == steps


@pytest.mark.parametrize("state", ENDED)
def test_what_has_ended_never_changes(store: JobStore, state: JobState) -> None:
    create(store, "a", resume_sha256=sha(1), state=JobState.RUNNING)
    ended = store.append("a", [b"last"], state=state)
    assert (ended.ended_s, ended.resume_sha256, ended.last_sequence) == (500.0, "", 1)
    with pytest.raises(SmartDJError) as error:
        store.append("a", [b"more"], state=JobState.RUNNING)
    assert code_of(error) is ErrorCode.JOB_ENDED
    assert store.get("a") == ended
    assert store.events("a", 0, 10) == [(1, b"last")]


def test_the_end_can_be_dated(store: JobStore) -> None:
    create(store, "a")
    assert store.append("a", [], state=JobState.FAILED, ended_s=123.5).ended_s == 123.5


@given(batches=st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=8), after=st.integers(0, 45))
@settings(max_examples=40, deadline=None)
def test_events_are_numbered_without_gaps(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[bytes]], after: int
) -> None:
    store = JobStore(sqlite_url(tmp_path_factory.mktemp("store")))
    create(store, "other")
    create(store, "a")
    for batch in batches:
        record = store.append("a", batch)
        store.append("other", [b"noise"])
    expected = list(enumerate((event for batch in batches for event in batch), 1))
    assert store.events("a", 0, 1000) == expected
    assert store.events("a", after, 3) == expected[after : after + 3]
    assert store.get("a").last_sequence == len(expected) == (record.last_sequence if batches else 0)
    store.close()


def test_unknown_jobs(store: JobStore) -> None:
    for attempt in (
        lambda: store.get("x"),
        lambda: store.events("x", 0, 1),
        lambda: store.append("x", [b"e"]),
    ):
        with pytest.raises(SmartDJError) as error:
            attempt()
        assert code_of(error) is ErrorCode.JOB_NOT_FOUND


def test_pages_come_newest_first_and_new_jobs_do_not_shift_them(store: JobStore) -> None:
    for number in range(7):
        create(store, f"j{number}")
    first, token = store.page([], 3, "")
    create(store, "late")
    second, token = store.page([], 3, token)
    third, end = store.page([], 3, token)
    assert [r.job_id for r in first + second + third] == ["j6", "j5", "j4", "j3", "j2", "j1", "j0"]
    assert end == ""
    assert store.page([], 8, "")[1] == "", "a full last page is the last"


def test_pages_of_some_states(store: JobStore) -> None:
    for number in range(6):
        create(store, f"j{number}", steps=(sha(number),))
        store.append(f"j{number}", [], state=[JobState.RUNNING, JobState.FAILED, JobState.SUCCEEDED][number % 3])
    page, token = store.page([JobState.RUNNING, JobState.FAILED], 3, "")
    assert [(r.job_id, r.steps) for r in page] == [("j4", (sha(4),)), ("j3", (sha(3),)), ("j1", (sha(1),))]
    assert [r.job_id for r in store.page([JobState.RUNNING, JobState.FAILED], 3, token)[0]] == ["j0"]


@pytest.mark.parametrize("token", ["x", "-1", "1 OR 1=1", "٣", "9" * 40, " 1"])
def test_made_up_page_tokens_are_refused(store: JobStore, token: str) -> None:
    with pytest.raises(SmartDJError) as error:
        store.page([], 3, token)
    assert (code_of(error), error.value.field) == (ErrorCode.USAGE, "page_token")


def test_unfinished_jobs_come_oldest_first(store: JobStore) -> None:
    for number, state in enumerate(JobState):
        create(store, f"j{number}")
        store.append(f"j{number}", [], state=state)
    assert [r.job_id for r in store.unfinished()] == ["j0", "j1", "j2"]


# Audio


def test_audio_is_described_and_its_sound_not_forgotten(store: JobStore) -> None:
    assert store.audio(sha(99)) is None
    store.put_audio(audio(1, audio_sha256="f" * 64))
    store.put_audio(audio(1))
    assert store.audio(sha(1)) == audio(1, audio_sha256="f" * 64)
    assert store.audios([sha(1), sha(2), sha(99), sha(2)]).keys() == {sha(1), sha(2)}
    assert store.audio_bytes() == sum(audio(number).size_bytes for number in range(10))


def test_audio_that_a_job_refers_to_or_that_shall_stay_is_not_deleted(store: JobStore) -> None:
    create(store, "a", source_sha256=sha(1), resume_sha256=sha(2), result_sha256=sha(3), steps=(sha(4),))
    store.keep_audio(sha(5), 600.0)
    store.keep_audio(sha(5), 300.0)
    store.put_audio(audio(6), keep_until_s=600.0)
    assert store.delete_audio([sha(number) for number in range(8)], 599.0) == [sha(0), sha(7)]
    assert store.delete_audio([sha(5), sha(6)], 600.0) == [sha(5), sha(6)]


def test_the_database_itself_keeps_audio_that_a_job_refers_to(store: JobStore) -> None:
    create(store, "a", steps=(sha(4),))
    # pg8000 calls it another fault of the program than sqlite3 does.
    with pytest.raises(sa.exc.DatabaseError, match=r"(?i)foreign key"), store._writing() as connection:
        connection.execute(sa.delete(store_module._AUDIO))


def test_only_jobs_that_ended_are_deleted_with_all_that_is_theirs(store: JobStore) -> None:
    for name in ("a", "b"):
        store.create(job(name, source_sha256=sha(1), steps=(sha(2),)), request_id=name, digest="d")
        store.append(name, [b"event"])
    store.append("a", [], state=JobState.SUCCEEDED)
    assert store.delete_jobs(["a", "b", "unknown"]) == 1
    assert store.page([], 10, "")[0] == [store.get("b")]
    assert store.events("b", 0, 10) == [(1, b"event")]
    with store._reading() as connection:
        for table in (store_module._EVENTS, store_module._STEPS, store_module._REQUESTS):
            assert len(connection.execute(sa.select(table)).all()) == 1


def test_a_result_counts_as_fetched_only_since_its_own_job_was_made(store: JobStore) -> None:
    create(store, "old", created_s=100.0, result_sha256=sha(1), steps=(sha(2),), source_sha256=sha(3))
    store.mark_fetched(sha(1), 150.0)
    create(store, "new", created_s=200.0, result_sha256=sha(1))
    create(store, "stopped", created_s=100.0, steps=(sha(4), sha(5)))
    store.mark_fetched(sha(4), 150.0)
    create(store, "plan", created_s=100.0, source_sha256=sha(3))
    fetched = {held.job_id: held.fetched for held in store.holdings()[0]}
    assert fetched == {"old": True, "new": False, "stopped": False, "plan": False}
    store.mark_fetched(sha(1), 200.0)
    store.mark_fetched(sha(5), 150.0)
    store.mark_told("plan", 150.0)
    assert all(held.fetched for held in store.holdings()[0])


def test_holdings_tell_what_each_job_refers_to(store: JobStore) -> None:
    create(store, "a", source_sha256=sha(1), resume_sha256=sha(2), result_sha256=sha(3), steps=(sha(3), sha(4)))
    create(store, "b")
    store.append("b", [], state=JobState.FAILED, ended_s=300.0)
    store.keep_audio(sha(1), 700.0)
    jobs, files = store.holdings()
    assert jobs == [
        HeldJob("a", None, False, frozenset({sha(1), sha(2), sha(3), sha(4)})),
        HeldJob("b", 300.0, False, frozenset()),
    ]
    assert sorted(files, key=lambda file: file.sha256) == [
        HeldAudio(sha(n), audio(n).size_bytes, 700.0 if n == 1 else 0.0) for n in range(10)
    ]


def test_lost_files_are_not_there_until_they_come_back(store: JobStore) -> None:
    create(store, "a", result_sha256=sha(1))
    store.mark_lost([sha(1), sha(2)])
    assert store.audio(sha(1)) is None
    assert sha(1) not in store.audio_sizes()
    with pytest.raises(SmartDJError) as error:
        create(store, "b", source_sha256=sha(1))
    assert code_of(error) is ErrorCode.AUDIO_NOT_FOUND
    assert store.get("a").result_sha256 == sha(1)
    jobs, files = store.holdings()
    assert jobs[0].fetched, "what is lost can't be fetched: nothing is kept for it"
    assert {file.sha256: file.size_bytes for file in files}.get(sha(1)) == 0
    assert sha(2) not in {file.sha256 for file in files}
    store.put_audio(audio(1))
    assert store.audio(sha(1)) == audio(1)


# Several at once, and the file itself


def test_many_threads_append_without_losing_an_event(store: JobStore) -> None:
    create(store, "a")

    def work(thread: int) -> list[int]:
        last = []
        for number in range(15):
            last.append(store.append("a", [f"{thread} {number} {i}".encode() for i in range(2)]).last_sequence)
            assert store.events("a", 0, 5)[0][0] == 1
        return last

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for result in pool.map(work, range(8)) for number in result]
    assert sorted(numbers) == list(range(2, 241, 2))
    events = store.events("a", 0, 1000)
    assert [sequence for sequence, _ in events] == list(range(1, 241))
    for thread in range(8):
        own = [payload.decode() for _, payload in events if payload.startswith(b"%d " % thread)]
        assert own == [f"{thread} {number} {i}" for number in range(15) for i in range(2)]


def test_many_threads_with_one_request_make_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: store.create(job(f"j{n}"), request_id="r", digest="d"), range(8)))
    assert sum(created for _, created in results) == 1
    assert len({record.job_id for record, _ in results}) == 1


def test_all_is_there_after_opening_again(tmp_path: Path) -> None:
    first = JobStore(sqlite_url(tmp_path))
    create(first, "a")
    record = first.append("a", [b"one", b"two"], state=JobState.RUNNING, plan=b"plan")
    second = JobStore(sqlite_url(tmp_path))  # without closing the first, as after a crash
    assert second.get("a") == record
    assert second.append("a", [b"three"]).last_sequence == 3
    second.close()
    first.close()


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_database_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    with JobStore(sqlite_url(tmp_path))._writing() as connection:
        for table in ("claims", "replicas", "data_folders"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
        if version == 1:
            connection.execute(sa.text("ALTER TABLE jobs DROP COLUMN cancelling"))
        connection.execute(sa.text(f"UPDATE schema_version SET version = {version}"))
        connection.execute(
            sa.text(
                "INSERT INTO jobs"
                " (job_id, client, state, spec, plan, accepted, error, created_s, last_sequence, attempts)"
                " VALUES ('old', 'anna', 'running', 'spec', '', 0, '', 100.0, 0, 1)"
            )
        )
    store = JobStore(sqlite_url(tmp_path))
    assert not store.get("old").cancelling
    store.append("old", [], cancelling=True)
    assert store.get("old").cancelling
    store.close()
    several = JobStore(sqlite_url(tmp_path), replica="one")
    claimed = several.claim("old")
    assert claimed is not None
    assert claimed.cancelling
    several.close()


def test_what_is_due_is_found_without_reading_all(store: JobStore) -> None:
    for number in range(10):
        store.keep_audio(sha(number), 1000.0)
    create(store, "a", source_sha256=sha(1))
    assert not store.any_ended_before(1e9)
    store.append("a", [], state=JobState.SUCCEEDED)  # at 500, by the clock
    assert not store.any_ended_before(499.0)
    assert store.any_ended_before(500.0)
    assert store.unused_audio(999.0) == []
    assert set(store.unused_audio(1000.0)) == {sha(number) for number in range(10) if number != 1}


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    JobStore(sqlite_url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(SmartDJError, match="99") as error:
        JobStore(sqlite_url(tmp_path))
    assert code_of(error) is ErrorCode.SERVER_CONFIG
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(99,)]
    connection.close()


@pytest.mark.parametrize("url", ["sqlite:///{}/junk.db", "sqlite:////proc/nowhere/jobs.db", "nonsense", "none://x"])
def test_what_can_not_be_opened_is_a_clear_error(tmp_path: Path, url: str) -> None:
    (tmp_path / "junk.db").write_bytes(b"this is no database at all " * 100)
    with pytest.raises(SmartDJError) as error:
        JobStore(url.format(tmp_path))
    assert code_of(error) is ErrorCode.SERVER_CONFIG
    assert error.value.hint


def test_a_full_disk_is_a_clear_error_and_changes_nothing(tmp_path: Path) -> None:
    store = JobStore(sqlite_url(tmp_path))
    create(store, "a")
    store._engine.dispose()

    @sa.event.listens_for(store._engine, "connect")
    def limit(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 60").close()

    with pytest.raises(SmartDJError) as error:
        store.append("a", [b"x" * 1_000_000], state=JobState.RUNNING)
    assert code_of(error) is ErrorCode.DISK_FULL
    assert store.get("a").state is JobState.QUEUED
    assert store.append("a", [b"small"]).last_sequence == 1
    store.close()


def test_what_is_done_often_reads_no_whole_table(tmp_path: Path) -> None:
    store = JobStore(sqlite_url(tmp_path))
    for number in range(4):
        store.put_audio(audio(number))
    statements: list[tuple[str, Any]] = []

    @sa.event.listens_for(store._engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")) and not many:
            statements.append((statement, parameters))

    store.create(job("a", source_sha256=sha(1)), request_id="r", digest="d")
    store.append("a", [b"e"], state=JobState.RUNNING, steps=(sha(2),))
    store.recall("anna", "r", "d")
    store.events("a", 0, 10)
    store.page([JobState.RUNNING], 10, "5")
    store.unfinished()
    store.mark_told("a", 1.0)
    store.mark_fetched(sha(1), 1.0)
    store.keep_audio(sha(1), 1.0)
    store.delete_audio([sha(1), sha(3)], 10.0)
    store.append("a", [], state=JobState.FAILED)
    store.delete_jobs(["a"])
    store.close()
    assert len(statements) > 20
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        for statement, parameters in statements:
            for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                assert not plan.startswith("SCAN") or "CONSTANT ROW" in plan, f"{plan}: {statement}"
    connection.close()
