"""The client against a server in memory that fails on demand: nothing lost, nothing twice, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.audio import Audio, AudioFormat, audio_sha256, read_audio, write_audio
from smartdj_agent.client import (
    AsyncClient,
    Client,
    Job,
    JobState,
    RemoteAudio,
    Run,
    aio,
    connection,
    read_token,
    transfer,
)
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Listened,
    PlanReady,
    Progress,
    Question,
    StepFinished,
    StepPlanned,
    StepStarted,
)
from smartdj_agent.plan import make_plan
from tests.fake_agent import CHOICES, PLANNED, FakeAgent
from tests.fake_server import FakeServer

RATE = 8000
WISH = "make this sound like a workshop"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().run() as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as open_client:
        yield open_client


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(connection, "_FIRST_PAUSE_S", 0.01)


def recording(subtype: str = "PCM_16", seconds: float = 1.0) -> Audio:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, round(RATE * seconds)))
    samples = noise.astype(np.float64 if subtype in ("PCM_32", "DOUBLE") else np.float32)
    return Audio(samples, RATE, AudioFormat("WAV", subtype), (("title", "walk"),))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    write_audio(path, recording())
    return path


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def expected_kinds() -> list[str]:
    step = ["StepStarted", *["Progress"] * 4, "StepFinished"]
    return ["Listened", *["StepPlanned"] * 3, "PlanReady", *step * 3, "Finished"]


# --- editing --------------------------------------------------------------


def test_edit_yields_the_agents_events_with_real_audio(server: FakeServer, client: Client, source: Path) -> None:
    told: list[str] = []
    with client.edit(source, WISH, seed=7, mode="generate", status=told.append) as run:
        events = list(run)
    assert kinds(events) == expected_kinds()
    original = read_audio(source)
    local = [e for e in FakeAgent().apply(original, server.jobs[run.job_id].plan) if isinstance(e, StepFinished)]
    steps = [event for event in events if isinstance(event, StepFinished)]
    for got, wanted in zip(steps, local, strict=True):
        assert np.array_equal(got.audio.samples, wanted.audio.samples)
        assert (got.audio.format, got.audio.tags) == (original.format, original.tags)
        assert (got.method, got.confidence, got.touched_s) == (wanted.method, wanted.confidence, wanted.touched_s)
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.audio is steps[-1].audio
    assert run.audio is last.audio
    assert run.plan is not None
    assert run.plan.source_name == "in.wav"
    assert server.agent.calls == [f"plan {WISH} 7", "apply 3 generate 7"]
    assert server.files[server.jobs[run.job_id].source] == source.read_bytes()  # as it is, not converted
    assert server.count("Download") == 3  # the result is the last step's audio
    assert server.count("CancelJob") == 0
    assert told[-1] == "waiting, 1 job before this one"
    assert told[-2] == "sending the recording, 100%"


def test_samples_in_memory_travel_exactly(server: FakeServer, client: Client) -> None:
    for subtype, dtype in (("PCM_32", np.float64), ("FLOAT", np.float32)):
        audio = recording(subtype)
        run = client.edit(audio, make_plan(["remove the sound of ghost"])).wait()  # a ghost is left unchanged
        assert run.audio is not None
        assert run.audio.samples.dtype == dtype
        assert np.array_equal(run.audio.samples, audio.samples)
        assert (run.audio.format, run.audio.tags) == (audio.format, audio.tags)
        sent = server.info(server.jobs[run.job_id].source)
        assert (sent.container, sent.subtype) == ("WAV", "DOUBLE" if dtype == np.float64 else "FLOAT")
        assert audio_sha256(server.audio(sent.sha256)) == audio_sha256(audio)


def test_plan_ends_with_a_plan_or_a_question(client: Client, source: Path) -> None:
    events = list(client.plan(source, WISH))
    assert kinds(events) == ["Listened", "StepPlanned", "StepPlanned", "StepPlanned", "PlanReady"]
    assert isinstance(events[-1], PlanReady)
    assert events[-1].plan.source_sha256 == audio_sha256(read_audio(source))
    run = client.plan(source, "unclear").wait()
    assert run.plan is None
    assert run.question is not None
    assert run.question.choices == CHOICES


def test_review_waits_and_takes_another_plan(server: FakeServer, client: Client, source: Path) -> None:
    with client.edit(source, WISH, review=True) as run:
        run.wait()
        assert run.awaits_review
        assert run.plan is not None
        assert client.job(run.job_id).state is JobState.AWAITING_REVIEW
        server.faults["ReviewJob"].append("after")
        run.accept(replace(run.plan, steps=run.plan.steps[:1]))
        first, second = server.requests_of("ReviewJob")
        assert first == second
        assert kinds(list(run)) == ["StepStarted", *["Progress"] * 4, "StepFinished", "Finished"]
    assert server.count("CancelJob") == 0


def test_a_failed_job_raises_its_own_error(client: Client, source: Path) -> None:
    with client.edit(source, "missing") as run, pytest.raises(SmartDJError) as caught:
        list(run)
    assert caught.value.code is ErrorCode.MODEL_MISSING
    assert caught.value.hint == "run `smartdj models pull small`"
    with pytest.raises(SmartDJError) as caught:
        client.edit(source, "…").wait()
    assert caught.value.code is ErrorCode.INSTRUCTION_EMPTY


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "loud"}, {"seed": -1}, {"seed": 1 << 32}, {"encoding": "mp3"}, {"plan_only": True}],
    ids=str,
)
def test_what_can_be_known_here_needs_no_server(client: Client, server: FakeServer, wrong: dict[str, object]) -> None:
    with pytest.raises(SmartDJError) as caught:
        client.submit("nowhere.wav", make_plan(list(PLANNED)), **wrong)  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.USAGE
    assert server.calls == []


# --- broken lines ---------------------------------------------------------


def test_a_lost_stream_goes_on_where_it_was(server: FakeServer, client: Client, source: Path) -> None:
    told: list[str] = []
    server.faults["WatchJob"].extend([0, 3, 4, "before", 2, "end"])
    server.faults["Download"].extend(["before", 3, 1])
    with client.edit(source, WISH, status=told.append) as run:
        events = list(run)
    kept = [event for event in events if not isinstance(event, Progress)]
    assert kinds(kept) == [kind for kind in expected_kinds() if kind != "Progress"]
    assert "connection lost; trying again" in told
    numbers = [request.after_sequence for request in server.requests_of("WatchJob")]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-1] > 5
    assert server.count("SubmitJob") == 1


def test_events_that_come_twice_are_told_once(server: FakeServer, client: Client, source: Path) -> None:
    server.faults["WatchJob"].append("twice")
    kept = [event for event in client.edit(source, WISH) if not isinstance(event, Progress)]
    assert kinds(kept) == [kind for kind in expected_kinds() if kind != "Progress"]


def test_a_request_is_repeated_under_the_same_id_and_makes_one_job(
    server: FakeServer, client: Client, source: Path
) -> None:
    server.faults["SubmitJob"].extend(["before", "after", "after"])
    job = client.submit(source, WISH)
    requests = server.requests_of("SubmitJob")
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)
    assert list(server.jobs) == [job.job_id]


def test_only_unavailable_is_tried_again(server: FakeServer, client: Client) -> None:
    server.faults["GetCapabilities"].extend(["before", "deny"])
    with pytest.raises(SmartDJError) as caught:
        client.capabilities()
    error = caught.value
    assert (error.code, error.message, error.hint, error.field) == (
        ErrorCode.PATH_FORBIDDEN, "not here", "elsewhere", "path",
    )  # fmt: skip
    assert server.count("GetCapabilities") == 2


def test_patience_has_an_end(server: FakeServer) -> None:
    with Client(server.address, patience_s=0.3) as client:
        assert client.health()
        server.faults["GetCapabilities"].extend(["before"] * 1000)
        with pytest.raises(SmartDJError) as caught:
            client.capabilities()
    assert caught.value.code is ErrorCode.SERVER_UNREACHABLE
    assert 2 < server.count("GetCapabilities") < 100


def test_an_upload_goes_on_where_it_broke_off(server: FakeServer, client: Client, source: Path) -> None:
    server.faults["Upload"].extend([3, 2, "after"])
    audio = client.upload(source)
    assert [header.offset_bytes for header in server.requests_of("Upload")] == [0, 3 * 4096, 5 * 4096]
    assert server.files[audio.sha256] == source.read_bytes()
    assert audio == RemoteAudio(audio.sha256, "", source.stat().st_size, RATE, 2, RATE, "WAV", "PCM_16")
    assert audio.duration_s == 1.0
    assert client.upload(source) == audio
    assert server.count("Upload") == 3  # it was there: nothing was sent


def test_an_upload_begins_anew_where_its_beginning_was_damaged(
    server: FakeServer, client: Client, source: Path
) -> None:
    sha256 = client.upload(source).sha256
    data = server.files.pop(sha256)
    server.partial[sha256] = bytearray(b"x" + data[1:5000])
    assert server.files[client.upload(source).sha256] == data
    assert [header.offset_bytes for header in server.requests_of("Upload")][1:] == [5000, 0]


def test_a_download_is_whole_checked_and_never_overwrites(
    server: FakeServer, client: Client, source: Path, tmp_path: Path
) -> None:
    audio = client.upload(source)
    target = tmp_path / "folder" / "out.wav"
    with pytest.raises(SmartDJError) as caught:
        client.download(audio, target)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    target.parent.mkdir()
    for fault in ("damage", "end"):
        server.faults["Download"].append(fault)
        with pytest.raises(SmartDJError) as caught:
            client.download(audio, target)
        assert caught.value.code is ErrorCode.ENDPOINT_FAILED
        assert list(target.parent.iterdir()) == []
    server.faults["Download"].extend([2, 3])
    assert client.download(audio, target) == audio
    assert target.read_bytes() == source.read_bytes()
    offsets = [request.offset_bytes for request in server.requests_of("Download")]
    assert offsets == [0, 0, 0, 2 * 4096, 5 * 4096]
    with pytest.raises(SmartDJError) as caught:
        client.download(audio.sha256, target)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert [path.name for path in target.parent.iterdir()] == ["out.wav"]
    with pytest.raises(SmartDJError) as caught:
        client.download("ab" * 32, tmp_path / "none.wav")
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND
    assert not (tmp_path / "none.wav").exists()


# --- deadlines ------------------------------------------------------------


def test_a_call_that_hangs_ends_at_its_deadline(server: FakeServer) -> None:
    with Client(server.address, timeout_s=0.2) as client:
        server.faults["GetCapabilities"].append("hang")
        with pytest.raises(SmartDJError) as caught:
            client.capabilities()
    assert caught.value.code is ErrorCode.DEADLINE
    assert server.count("GetCapabilities") == 1  # a deadline is no reason to try again


@pytest.mark.parametrize("method", ["Upload", "Download"])
def test_a_transfer_that_stalls_ends(
    server: FakeServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    path = tmp_path / "long.wav"
    write_audio(path, recording(seconds=60))
    if method == "Download":
        audio = client.upload(path)
    monkeypatch.setattr(transfer, "STALL_S", 0.2)
    server.faults[method].append("hang")
    with pytest.raises(SmartDJError) as caught:
        client.upload(path) if method == "Upload" else client.download(audio, tmp_path / "out.wav")
    assert caught.value.code is ErrorCode.DEADLINE


def test_silence_is_looked_into_and_then_listening_goes_on(
    server: FakeServer, client: Client, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "SILENCE_S", 0.2)
    server.pause_before = "step_started"
    run = client.edit(source, WISH)
    results: list[list[Event]] = []
    listening = threading.Thread(target=lambda: results.append(list(run)))
    listening.start()
    assert server.paused.wait(10)
    while server.count("GetJob") < 3:  # asked again and again, without giving up
        time.sleep(0.01)
    server.go_on()
    listening.join(20)
    assert kinds([event for event in results[0] if not isinstance(event, Progress)]) == [
        kind for kind in expected_kinds() if kind != "Progress"
    ]


def test_a_silent_server_that_answers_nothing_is_given_up(
    server: FakeServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "SILENCE_S", 0.2)
    monkeypatch.setattr(aio, "CANCEL_S", 0.2)
    with Client(server.address, timeout_s=0.3) as client:
        server.faults["WatchJob"].append("hang")
        server.faults["GetJob"].append("hang")
        with pytest.raises(SmartDJError) as caught:
            client.edit(source, WISH).wait()
    assert caught.value.code is ErrorCode.DEADLINE


def test_nobody_there_is_said_soon() -> None:
    with Client("127.0.0.1:1", patience_s=0.5) as client, pytest.raises(SmartDJError) as caught:
        client.health()
    assert caught.value.code is ErrorCode.SERVER_UNREACHABLE


# --- cancelling -----------------------------------------------------------


def interrupt_when(event: threading.Event) -> threading.Thread:
    """Send Ctrl-C to the main thread once an event is set."""
    main = threading.main_thread().ident
    assert main is not None

    def wait() -> None:
        if event.wait(10):
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_the_job_before_it_is_raised(server: FakeServer, client: Client, source: Path) -> None:
    server.pause_before = "step_finished"
    run = client.edit(source, WISH)
    thread = interrupt_when(server.paused)
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert server.count("CancelJob") == 1  # already, without leaving a `with`
    thread.join()
    assert client.job(run.job_id).state is JobState.CANCELLED


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_submitting_leaves_no_job(server: FakeServer, client: Client, source: Path) -> None:
    server.faults["SubmitJob"].append("late")
    server.pause_before = "step_finished"
    thread = interrupt_when(server.paused)
    with pytest.raises(KeyboardInterrupt):
        client.submit(source, WISH)
    thread.join()
    assert server.count("CancelJob") == 1
    assert len(server.jobs) == 1
    server.go_on()


def fail_after_the_first(run: Run) -> None:
    next(run)
    raise ZeroDivisionError


def test_leaving_early_cancels_and_leaving_at_the_end_does_not(
    server: FakeServer, client: Client, source: Path
) -> None:
    server.pause_before = "step_finished"
    with client.edit(source, WISH) as run:
        for event in run:
            if isinstance(event, StepStarted):
                break
    assert server.count("CancelJob") == 1
    with pytest.raises(ZeroDivisionError), client.edit(source, WISH) as run:
        fail_after_the_first(run)
    assert server.count("CancelJob") == 2
    run = client.edit(source, WISH)
    next(run)
    del run, event  # left without a word
    gc.collect()
    assert server.cancel_seen.wait(10)
    while server.count("CancelJob") < 3:
        time.sleep(0.01)
    with Client(server.address) as other:
        run = other.edit(source, WISH)
        next(run)
    assert server.count("CancelJob") == 4  # closing the client leaves its runs


def test_cancel_ends_the_iteration_with_an_error(server: FakeServer, client: Client, source: Path) -> None:
    server.pause_before = "step_finished"
    with client.edit(source, WISH) as run:
        while not isinstance(next(run), StepStarted):
            pass
        run.cancel()
        with pytest.raises(SmartDJError) as caught:
            run.wait()
    assert caught.value.code is ErrorCode.CANCELLED
    assert server.count("CancelJob") == 1


def test_a_job_is_submitted_left_and_watched(server: FakeServer, client: Client, source: Path) -> None:
    server.pause_before = "step_finished"
    job = client.submit(source, WISH)
    assert isinstance(job, Job)
    with client.watch(job.job_id) as run:
        while not isinstance(next(run), PlanReady):
            pass
        seen = run.last_sequence
    assert server.count("CancelJob") == 0  # a watcher only watches
    server.go_on()
    events = list(client.watch(job.job_id, after=seen))
    assert isinstance(events[0], StepStarted)
    assert isinstance(events[-1], Finished)
    done = client.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    assert done.result == done.steps[-1]
    assert done.ended is not None
    assert (done.ended - done.created).total_seconds() == 60
    assert np.array_equal(client.fetch(done.result).samples, events[-1].audio.samples)
    assert list(client.watch(job.job_id, after=done.last_sequence)) == []


# --- the rest -------------------------------------------------------------


def test_jobs_are_listed_page_by_page(server: FakeServer, client: Client, source: Path) -> None:
    made = [client.submit(source, WISH, plan_only=True).job_id for _ in range(5)]
    assert [job.job_id for job in client.jobs()] == made[::-1]
    assert server.count("ListJobs") == 3
    for job_id in made:
        client.watch(job_id).wait()
    assert list(client.jobs([JobState.FAILED, JobState.RUNNING])) == []
    assert len(list(client.jobs([JobState.SUCCEEDED]))) == 5
    with pytest.raises(SmartDJError) as caught:
        client.job("nothing")
    assert caught.value.code is ErrorCode.JOB_NOT_FOUND


def test_validation_names_all_faults(client: Client) -> None:
    good = make_plan(list(PLANNED))
    answer = client.validate(good)
    assert answer
    assert answer.plan == good
    assert answer.faults == ()


def test_files_on_the_servers_machine(server: FakeServer, client: Client, source: Path, tmp_path: Path) -> None:
    audio = client.import_file(str(source))
    run = client.edit(audio, WISH).wait()
    result = client.job(run.job_id).result
    assert result is not None
    assert client.export_file(result, str(tmp_path / "result.wav")) == str(tmp_path / "result.wav")
    assert server.count("Upload") == 0
    assert run.audio is not None
    assert np.array_equal(read_audio(tmp_path / "result.wav").samples, run.audio.samples)


def test_capabilities_and_health(server: FakeServer, client: Client) -> None:
    found = client.capabilities()
    parameter = found.operations[0].parameters[0]
    assert (parameter.minimum, parameter.resolution, parameter.required) == (-24, None, True)
    assert (found.preset, found.devices[0].device, found.limits.max_steps) == ("small", "cuda:0", 50)
    assert client.health()
    server.serving = False
    assert not client.health("smartdj.v1.EditService")


def test_the_token_is_given_and_only_where_nobody_listens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret-token\n")
    with FakeServer(token="secret-token").run() as server:
        with Client(server.address, token=read_token(file), client_id="mixer") as client:
            assert client.health()
        with Client(server.address) as client, pytest.raises(SmartDJError) as caught:
            client.health()
        assert caught.value.code is ErrorCode.UNAUTHENTICATED
        assert server.clients == {"mixer", ""}
    with pytest.raises(SmartDJError) as caught:
        Client("studio.example", token="secret-token")
    assert caught.value.code is ErrorCode.USAGE
    assert "secret" not in str(caught.value)
    Client("studio.example", token="secret-token", tls_ca=__file__)
    file.write_text("two words")
    for wrong in (file, tmp_path / "none"):
        with pytest.raises(SmartDJError) as caught:
            read_token(wrong)
        assert caught.value.code is ErrorCode.USAGE


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("studio", "studio:50551"),
        ("studio:80", "studio:80"),
        ("[::1]", "[::1]:50551"),
        ("[fe80::1]:7", "[fe80::1]:7"),
        ("unix:/run/smartdj", "unix:/run/smartdj"),
    ],
)
def test_addresses(address: str, target: str) -> None:
    assert Client(address).address == target


@pytest.mark.parametrize("address", ["", ":50551", "a b", "host:0", "host:99999", "host:x", "http://host:1", "::1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        Client(address)
    assert caught.value.code is ErrorCode.USAGE
    assert caught.value.field == "--server"


def test_threads_may_share_a_client(server: FakeServer, client: Client, source: Path) -> None:
    results: list[Run] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(client.edit(source, f"{WISH} {n}").wait())) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len({run.job_id for run in results}) == 4
    assert all(run.audio is not None for run in results)


def test_closing_ends_what_another_thread_waits_for(server: FakeServer, source: Path) -> None:
    server.pause_before = "step_finished"
    client = Client(server.address)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            client.edit(source, WISH).wait()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert server.paused.wait(10)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in caught] == ["the client was closed meanwhile"]
    assert server.count("CancelJob") == 1


def test_a_callback_can_not_wait_for_its_own_client(client: Client, source: Path) -> None:
    def call_back(text: str) -> None:
        client.health()

    with pytest.raises(RuntimeError, match="own callbacks"):
        client.upload(source, status=call_back)


def test_nothing_is_left_behind(server: FakeServer, source: Path) -> None:
    def one() -> None:
        with Client(server.address) as client:
            client.plan(source, WISH).wait()

    one()
    gc.collect()
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        one()
    with Client(server.address):
        pass  # never used: no thread
    closed = Client(server.address)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.health()
    gc.collect()
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > files + 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # the server notices a moment later that a connection has ended
    assert len(os.listdir("/proc/self/fd")) <= files + 2
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.name == "smartdj-client"]


def test_a_program_that_forgets_to_close_ends_and_leaves_no_job(server: FakeServer, source: Path) -> None:
    server.pause_before = "step_finished"
    code = (
        "import sys; from smartdj_agent.client import Client\n"
        "client = Client(sys.argv[1]); run = client.edit(sys.argv[2], 'make it calm'); next(run)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.address, str(source)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.count("CancelJob") == 1


# --- asyncio --------------------------------------------------------------


def test_the_async_client_edits_while_others_work(server: FakeServer, source: Path) -> None:
    async def one(client: AsyncClient, wish: str) -> list[Event]:
        async with client.edit(source, wish) as run:
            return [event async for event in run]

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            both = await asyncio.gather(one(client, WISH), one(client, "unclear"))
            assert kinds(both[0]) == expected_kinds()
            assert isinstance(both[1][-1], Question)
            assert [job.state async for job in client.jobs()] == [JobState.SUCCEEDED] * 2
            assert not client._runs
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_job(server: FakeServer, source: Path) -> None:
    server.pause_before = "step_finished"

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.edit(source, WISH).wait())
            await asyncio.to_thread(server.paused.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.count("CancelJob") == 1

    asyncio.run(main())


def test_reading_needs_a_recording(client: Client, server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(SmartDJError) as caught:
        client.edit(tmp_path / "none.wav", WISH).wait()
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(SmartDJError) as caught:
        client.plan(tmp_path / "text.wav", WISH).wait()
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE
    assert server.calls == []


def test_plan_steps_arrive_as_they_are_written(server: FakeServer, client: Client, source: Path) -> None:
    server.pause_before = "plan_ready"
    run = client.plan(source, WISH)
    assert isinstance(next(run), Listened)
    assert isinstance(next(run), StepPlanned)
    server.go_on()
    run.wait()
    assert run.plan is not None
