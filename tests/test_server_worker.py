"""The worker: tasks in, reports out; cancelled within a step; nothing lost or left when a process dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartdj.v1 import event_pb2
from smartdj_agent.audio import Audio, AudioFormat, audio_sha256, file_sha256, read_audio, write_audio
from smartdj_agent.errors import ErrorCode
from smartdj_agent.plan import make_plan
from smartdj_agent.server import compute
from smartdj_agent.server.worker import (
    REAL_AGENT,
    ApplyTask,
    DeviceWorker,
    PlanTask,
    Produced,
    Report,
    Task,
    _Mailbox,
)
from smartdj_agent.wire import plan_to_proto
from tests.stub_agent import DENOISING_STEPS, PLANNED, StubAgent

ROOT = Path(__file__).parent.parent
RATE = 8000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE)).astype(np.float32)
    path = tmp_path / "recording.wav"
    write_audio(path, Audio(noise, RATE, AudioFormat("WAV", "PCM_16"), (("title", "Hafen"),)))
    return path


@asynccontextmanager
async def working(
    tmp_path: Path, *, device: str = "stub", agent: str = "make", **more: Any
) -> AsyncIterator[DeviceWorker]:
    """Return a worker with a stub that is ready."""
    worker = DeviceWorker(device, "small", agent=f"tests.stub_agent:{agent}", library=tmp_path, **more)
    await worker.start()
    try:
        if agent == "make":
            await asyncio.wait_for(worker.ready.wait(), 30)
        yield worker
    finally:
        await worker.stop()


async def reports_of(worker: DeviceWorker, task: Task) -> list[Report]:
    return [report async for report in worker.run(task)]


def event_of(report: Report) -> event_pb2.JobEvent:
    return event_pb2.JobEvent.FromString(report.event)


def kinds(reports: list[Report]) -> list[str | None]:
    """Names of the events that aren't progress, and how it ended."""
    return [event_of(r).WhichOneof("event") if r.kind == "event" else r.kind for r in reports if not r.progress]


def error_code(reports: list[Report]) -> str:
    last = reports[-1]
    assert last.kind == "failed"
    assert last.error is not None
    return last.error[0]


def apply_task(recording: Path, steps: tuple[str, ...] = PLANNED, **changes: Any) -> ApplyTask:
    folder = recording.parent / "out"
    folder.mkdir(exist_ok=True)
    plan = plan_to_proto(make_plan(steps)).SerializeToString()
    task = ApplyTask("job-1", recording, recording, plan, "preserve", 0, 0, "source", folder)
    return replace(task, **changes)


def produced_by(reports: list[Report], role: str) -> list[Produced]:
    return [item for report in reports for item in report.produced if item.role == role]


def carried_out(task: Task, stop: threading.Event | None = None) -> list[Report]:
    """Carry a task out in this process."""
    reports: list[Report] = []
    reports.append(compute.carry_out(StubAgent(), task, stop or threading.Event(), reports.append))
    return reports


def log_of(tmp_path: Path) -> list[tuple[float, str]]:
    """What the stub did, and when."""
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    return [(float(at), text) for at, text in (line.split(" ", 1) for line in lines)]


# --- what a task yields ------------------------------------------------------


def test_planning_tells_everything_in_order(tmp_path: Path, recording: Path) -> None:
    async def main() -> list[Report]:
        async with working(tmp_path) as worker:
            assert worker.resolved_device == "stub"
            return await reports_of(worker, PlanTask("p", recording, "quieter"))

    reports = asyncio.run(main())
    assert kinds(reports) == ["listened", "step_planned", "step_planned", "plan_ready", "done"]
    assert {report.task_id for report in reports} == {"p"}
    sounds_like = audio_sha256(read_audio(recording))
    assert event_of(reports[-2]).plan_ready.plan.source_audio_sha256 == sounds_like
    assert reports[-1].source_audio_sha256 == sounds_like


def test_a_question_ends_well_with_the_recordings_hash(recording: Path) -> None:
    reports = carried_out(PlanTask("p", recording, "unclear"))
    assert kinds(reports) == ["listened", "question", "done"]
    assert reports[-1].source_audio_sha256 == audio_sha256(read_audio(recording))


def test_every_step_is_delivered_as_the_source_and_kept_exactly(tmp_path: Path, recording: Path) -> None:
    async def main() -> list[Report]:
        async with working(tmp_path) as worker:
            return await reports_of(worker, apply_task(recording))

    reports = asyncio.run(main())
    step = ["step_started", "step_finished"]
    assert kinds(reports) == [*step, *step, "summary", "done"]
    source = read_audio(recording)
    assert reports[-1].source_audio_sha256 == audio_sha256(source)
    finished = [event_of(r).step_finished for r in reports if event_of(r).WhichOneof("event") == "step_finished"]
    for index, (event, delivered, resume) in enumerate(
        zip(finished, produced_by(reports, "delivered"), produced_by(reports, "resume"), strict=True)
    ):
        exact = source.samples * 0.5 ** (index + 1)
        audio = read_audio(delivered.path)
        assert (audio.format, audio.tags) == (source.format, source.tags)
        np.testing.assert_allclose(audio.samples, exact, atol=1 / 65536)
        assert np.array_equal(read_audio(resume.path).samples, exact)
        for item in (delivered, resume):
            assert item.info.sha256 == file_sha256(item.path)
            assert item.info.size_bytes == item.path.stat().st_size
        assert delivered.info.audio_sha256 == audio_sha256(audio)
        assert (event.audio.sha256, event.audio.audio_sha256) == (delivered.info.sha256, delivered.info.audio_sha256)
        assert (event.audio.sample_rate_hz, event.audio.channels, event.audio.frames) == (RATE, 2, RATE)
        assert (event.audio.container, event.audio.subtype) == ("WAV", "PCM_16")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_going_on_after_a_step_gives_the_same_result(recording: Path) -> None:
    steps = (*PLANNED, "remove the sound of loud rain")
    whole = carried_out(apply_task(recording, steps))
    resumed_from = produced_by(whole, "resume")[0].path
    rest = carried_out(apply_task(recording, steps, task_id="job-2", audio=resumed_from, done=1))
    assert [event_of(r).step_started.index for r in rest if event_of(r).HasField("step_started")] == [1, 2]
    hashes = [item.info.sha256 for item in produced_by(whole, "delivered")]
    assert [item.info.sha256 for item in produced_by(rest, "delivered")] == hashes[1:]


def test_where_no_step_is_left_the_result_is_still_delivered(recording: Path) -> None:
    whole = carried_out(apply_task(recording))
    last = produced_by(whole, "resume")[-1].path
    rest = carried_out(apply_task(recording, task_id="job-2", audio=last, done=2))
    assert kinds(rest) == ["summary", "done"]
    (result,) = rest[0].produced
    assert result.info.sha256 == produced_by(whole, "delivered")[-1].info.sha256


@pytest.mark.parametrize(("subtype", "kept"), [("PCM_16", "FLOAT"), ("PCM_32", "DOUBLE")])
def test_float_results_are_one_file_for_both_uses(tmp_path: Path, recording: Path, subtype: str, kept: str) -> None:
    path = tmp_path / "other.wav"
    write_audio(path, replace(read_audio(recording), format=AudioFormat("WAV", subtype)))
    reports = carried_out(apply_task(path, ("remove the sound of loud rain",), encoding="float"))
    (delivered, resume) = reports[[r.produced != () for r in reports].index(True)].produced
    assert delivered.path == resume.path
    assert delivered.info.subtype == kept
    assert np.abs(read_audio(delivered.path).samples).max() > 1.5  # not clipped
    assert "warning" in kinds(reports)  # the stub's own
    assert "clipped" not in {event_of(r).warning.code for r in reports}


def test_clipping_is_told_with_its_step(recording: Path) -> None:
    reports = carried_out(
        apply_task(recording, (PLANNED[0], "remove the sound of loud rain", "remove the sound of loud wind"))
    )
    warnings = [event_of(r).warning for r in reports if event_of(r).WhichOneof("event") == "warning"]
    assert [(w.code, w.step_index) for w in warnings] == [("unsure", 1), ("unsure", 2), ("clipped", 2)]


def test_what_the_sources_container_cannot_hold_becomes_wav(tmp_path: Path, recording: Path) -> None:
    source = tmp_path / "source.mp3"
    write_audio(source, read_audio(recording))
    wide = tmp_path / "wide.wav"
    write_audio(wide, Audio(np.full((6, RATE), 0.1, np.float32), RATE, AudioFormat("WAV", "FLOAT")))
    reports = carried_out(apply_task(wide, source=source, done=1))
    (delivered,) = produced_by(reports, "delivered")
    assert (delivered.path.suffix, delivered.info.container, delivered.info.channels) == (".wav", "WAV", 6)


# --- what goes wrong ------------------------------------------------------------


def test_errors_end_the_task_and_not_the_process(
    tmp_path: Path, recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> dict[str, list[Report]]:
        async with working(tmp_path) as worker:
            pid = worker.pid
            found = {
                word: await reports_of(worker, PlanTask(word, recording, f"{word} mySecret"))
                for word in ("fault", "memory", "missing")
            }
            found["lost"] = await reports_of(worker, PlanTask("lost", tmp_path / "lost.wav", "x"))
            found["foreign"] = await reports_of(worker, apply_task(recording, plan=foreign))
            found["fine"] = await reports_of(worker, PlanTask("fine", recording, "x"))
            assert worker.pid == pid
            return found

    plan = plan_to_proto(make_plan(PLANNED))
    plan.steps[1].volume.gain_db = 400
    foreign = plan.SerializeToString()
    with caplog.at_level(logging.INFO):
        found = asyncio.run(main())
    assert found["missing"][-1].error == ("model_missing", "the planner is not installed", "pull it", "planner")
    assert error_code(found["memory"]) == ErrorCode.OUT_OF_MEMORY
    assert error_code(found["fault"]) == ErrorCode.INTERNAL
    assert "ValueError" in found["fault"][-1].error[1]  # type: ignore[index]
    assert found["lost"][-1].error[:2] == ("audio_not_found", "the recording does not exist")  # type: ignore[index]
    assert found["foreign"][-1].error[3] == "plan.steps[1].volume.gain_db"  # type: ignore[index]
    assert found["fine"][-1].kind == "done"
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "stub_agent.py" in logged  # where it happened
    assert "mySecret" not in logged + str(found["fault"])
    for reports in found.values():
        assert str(tmp_path) not in str(reports[-1].error)


def test_a_crash_fails_its_task_and_the_next_process_does_the_waiting_one(tmp_path: Path, recording: Path) -> None:
    async def main() -> tuple[list[Report], list[Report]]:
        async with working(tmp_path) as worker:
            first = worker.pid
            crashing = asyncio.create_task(reports_of(worker, PlanTask("a", recording, "crash")))
            crashed = await crashing
            waiting = await reports_of(worker, PlanTask("b", recording, "x"))
            assert worker.ready.is_set()
            assert worker.restarts == 1
            assert worker.pid != first
            return crashed, waiting

    crashed, waiting = asyncio.run(main())
    assert error_code(crashed) == ErrorCode.WORKER_CRASHED
    assert "SIGKILL" in crashed[-1].error[1]  # type: ignore[index]
    assert waiting[-1].kind == "done"


def test_models_that_cannot_be_loaded_fail_tasks_with_the_reason_until_they_can(
    tmp_path: Path, recording: Path
) -> None:
    async def main() -> None:
        async with working(tmp_path, agent="broken") as worker:
            reports = await reports_of(worker, PlanTask("a", recording, "x"))
            assert reports[-1].error == ("model_missing", "no model is there", "pull one", "")
            assert not worker.ready.is_set()
            assert worker.failure is not None
            (tmp_path / "mended").touch()
            await asyncio.wait_for(worker.ready.wait(), 30)
            assert worker.failure is None
            assert (await reports_of(worker, PlanTask("b", recording, "x")))[-1].kind == "done"

    asyncio.run(main())


def test_an_agent_that_is_not_there_is_a_clear_failure(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path, agent="nobody") as worker:
            assert error_code(await reports_of(worker, PlanTask("a", recording, "x"))) == ErrorCode.INTERNAL

    asyncio.run(main())


# --- cancelling -----------------------------------------------------------------


def test_cancel_stops_within_one_step_and_leaves_only_what_was_reported(tmp_path: Path, recording: Path) -> None:
    async def main() -> tuple[list[Report], float]:
        async with working(tmp_path, device="stub:0.3") as worker:
            reports = []
            at = 0.0
            async for report in worker.run(apply_task(recording)):
                reports.append(report)
                if report.progress and event_of(report).progress.step_index == 1 and not at:
                    at = time.monotonic()
                    worker.cancel("job-1")
                    worker.cancel("job-1")
            worker.cancel("job-1")  # too late: nothing happens
            assert not worker.busy
            assert (await reports_of(worker, PlanTask("next", recording, "x")))[-1].kind == "done"
            return reports, at

    reports, at = asyncio.run(main())
    assert error_code(reports) == ErrorCode.CANCELLED
    assert len(produced_by(reports, "delivered")) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        item.path.name for report in reports for item in report.produced
    }
    log = log_of(tmp_path)
    later = [text for when, text in log if when > at]
    assert sum(text.startswith("denoised") for text in later) <= 1
    assert "apply closed" in later
    assert sum(text.startswith("denoised") for _, text in log) < 2 * DENOISING_STEPS


def test_a_cancel_before_work_begins_does_no_work(recording: Path) -> None:
    stop = threading.Event()
    stop.set()
    for task in (PlanTask("p", recording, "x"), apply_task(recording)):
        assert error_code(carried_out(task, stop)) == ErrorCode.CANCELLED
    assert not list((recording.parent / "out").iterdir())


def test_a_cancel_while_files_are_written_leaves_none(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    write = compute.write_audio

    def cancelled_meanwhile(path: Path, audio: Audio, *, overwrite: bool) -> None:
        write(path, audio, overwrite=overwrite)
        stop.set()

    monkeypatch.setattr(compute, "write_audio", cancelled_meanwhile)
    assert error_code(carried_out(apply_task(recording), stop)) == ErrorCode.CANCELLED
    assert not list((recording.parent / "out").iterdir())


def test_cancel_works_while_models_load_and_stop_ends_the_process(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path, agent="never_ready") as worker:
            task = asyncio.create_task(reports_of(worker, PlanTask("a", recording, "x")))
            while not worker.busy:
                await asyncio.sleep(0)
            worker.cancel("a")
            assert error_code(await task) == ErrorCode.CANCELLED
            assert not worker.ready.is_set()
            assert worker._child is not None
            process = worker._child.process
        assert process.poll() is not None
        assert worker.pid is None

    asyncio.run(main())


def test_a_waiting_task_can_be_cancelled_while_another_is_worked_on(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path) as worker:
            slow = worker.run(PlanTask("slow", recording, "slow"))
            await anext(slow)
            waiting = worker.run(PlanTask("waiting", recording, "x"))
            pending = asyncio.ensure_future(anext(waiting))
            await asyncio.sleep(0)
            worker.cancel("waiting")
            worker.cancel("slow")
            assert error_code([report async for report in slow]) == ErrorCode.CANCELLED
            assert error_code([await pending]) == ErrorCode.CANCELLED

    asyncio.run(main())
    assert not any("plan x" in text for _, text in log_of(tmp_path))


def test_leaving_the_stream_cancels_and_frees_the_device(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path) as worker:
            stream = worker.run(PlanTask("slow", recording, "slow"))
            await anext(stream)
            assert worker.busy
            await stream.aclose()  # type: ignore[attr-defined]
            assert not worker.busy
            assert log_of(tmp_path)[-1][1] == "plan closed"

            cancelled = asyncio.create_task(reports_of(worker, PlanTask("again", recording, "slow")))
            while not worker.busy:
                await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert not worker.busy

    asyncio.run(main())


def test_who_does_not_stop_is_ended_by_force(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path, patience_s=0.2) as worker:
            stream = worker.run(PlanTask("hang", recording, "hang"))
            await anext(stream)
            while "hangs" not in (tmp_path / "log.txt").read_text(encoding="utf-8"):
                await asyncio.sleep(0.01)  # before it hangs, it would still hear
            worker.cancel("hang")
            assert error_code([report async for report in stream]) == ErrorCode.CANCELLED
            assert (await reports_of(worker, PlanTask("next", recording, "x")))[-1].kind == "done"
            assert worker.restarts == 1

    asyncio.run(main())


def test_stopping_ends_what_is_under_way_and_takes_nothing_more(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path) as worker:
            stream = worker.run(PlanTask("slow", recording, "slow"))
            await anext(stream)
            await worker.stop()
            assert error_code([report async for report in stream]) == ErrorCode.CANCELLED
            assert error_code(await reports_of(worker, PlanTask("late", recording, "x"))) == ErrorCode.SERVER_STOPPING

    asyncio.run(main())


# --- two processes ------------------------------------------------------------

PARENT = """
import asyncio, sys
from pathlib import Path
from smartdj_agent.server.worker import DeviceWorker, PlanTask

async def main(agent, word, folder):
    worker = DeviceWorker("stub", "small", agent="tests.stub_agent:" + agent, library=folder)
    await worker.start()
    if agent == "make":
        await worker.ready.wait()
        stream = worker.run(PlanTask("a", folder / "recording.wav", word))
        await anext(stream)
    else:
        await asyncio.sleep(0.1)  # its process exists; nothing tells when it loads
    print(worker.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
"""


@pytest.mark.parametrize(("agent", "word"), [("make", "slow"), ("make", "hang"), ("never_ready", "")])
def test_the_process_dies_with_a_parent_that_is_killed(tmp_path: Path, recording: Path, agent: str, word: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, agent, word, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=20)  # both have standard error: it ends when both are gone
    except subprocess.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        raise


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_terminals_and_the_service_managers_signals_leave_it_alone(
    tmp_path: Path, recording: Path, name: str
) -> None:
    async def main() -> None:
        async with working(tmp_path) as worker:
            assert worker.pid is not None
            assert os.getsid(worker.pid) != os.getsid(0)
            os.kill(worker.pid, getattr(signal, name))
            assert (await reports_of(worker, PlanTask("a", recording, "x")))[-1].kind == "done"
            assert worker.restarts == 0

    asyncio.run(main())


def test_two_tasks_at_a_time_where_that_is_allowed(tmp_path: Path, recording: Path) -> None:
    async def main() -> None:
        async with working(tmp_path, max_batch=2) as worker:
            slow = worker.run(PlanTask("slow", recording, "slow"))
            await anext(slow)
            assert not worker.busy
            assert (await reports_of(worker, PlanTask("quick", recording, "x")))[-1].kind == "done"
            await slow.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())


def test_the_servers_side_imports_no_torch() -> None:
    program = "import sys, smartdj_agent.server.worker, smartdj_agent.server.queue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


# --- reports don't pile up -------------------------------------------------------


def test_progress_is_told_at_most_twenty_times_a_second(recording: Path) -> None:
    began = time.monotonic()
    reports = carried_out(PlanTask("p", recording, "flood"))
    seconds = time.monotonic() - began
    told = sum(report.progress for report in reports)
    assert 1 <= told <= seconds / compute.PROGRESS_INTERVAL_S + 1
    assert kinds(reports)[-2:] == ["plan_ready", "done"]


def test_who_does_not_read_gets_the_newest_progress_only(tmp_path: Path, recording: Path) -> None:
    async def main() -> list[Report]:
        async with working(tmp_path, device="stub:0.06") as worker:
            stream = worker.run(apply_task(recording))
            reports = [await anext(stream)]
            await reports_of(worker, PlanTask("p", recording, "x"))  # it comes after the first task
            return reports + [report async for report in stream]

    reports = asyncio.run(main())
    assert reports[-1].kind == "done"
    fractions = [event_of(report).progress.fraction for report in reports if report.progress]
    assert fractions == [1.0, 1.0]
    assert not any(first.progress and second.progress for first, second in pairwise(reports))


def test_a_mailbox_nobody_reads_stays_small_and_keeps_the_order() -> None:
    async def main() -> None:
        mailbox = _Mailbox()

        def fill() -> None:
            for number in range(100_000):
                mailbox.put(Report("t", "event", event=str(number).encode(), progress=number % 50_000 != 10))

        thread = threading.Thread(target=fill)
        thread.start()
        while thread.is_alive():  # the loop goes on meanwhile
            await asyncio.sleep(0.01)
        assert len(mailbox) == 5
        assert [(await mailbox.take()).event for _ in range(5)] == [b"9", b"10", b"50009", b"50010", b"99999"]
        waiting = asyncio.ensure_future(mailbox.take())
        await asyncio.sleep(0)
        mailbox.put(Report("t", "done"))
        assert (await waiting).kind == "done"

    asyncio.run(main())


# --- the real agent ---------------------------------------------------------------


def test_the_real_models_plan_and_apply_and_repeat_byte_for_byte(tmp_path: Path) -> None:
    demo = read_audio(ROOT / "examples" / "demo.wav")
    recording = tmp_path / "two_seconds.wav"
    write_audio(recording, replace(demo, samples=demo.samples[:, : 2 * demo.sample_rate]))
    steps = ("turn down the volume of man speaking by 6 dB", "add the sound of rain")

    async def main() -> tuple[list[Report], list[list[Report]]]:
        worker = DeviceWorker("cpu", "small", agent=REAL_AGENT)
        await worker.start()
        try:
            planned = await reports_of(worker, PlanTask("plan", recording, "add rain"))
            plan = event_of(planned[-2]).plan_ready.plan
            assert plan.steps
            del plan.steps[:]
            plan.steps.extend(plan_to_proto(make_plan(steps)).steps)
            edited = [
                await reports_of(worker, apply_task(recording, task_id=name, plan=plan.SerializeToString()))
                for name in ("first", "second")
            ]
            return planned, edited
        finally:
            await worker.stop()

    planned, (first, second) = asyncio.run(main())
    assert kinds(planned)[-2:] == ["plan_ready", "done"]
    assert planned[-1].source_audio_sha256 == audio_sha256(read_audio(recording))
    assert kinds(first)[-2:] == ["summary", "done"]
    for role in ("delivered", "resume"):
        pairs = list(zip(produced_by(first, role), produced_by(second, role), strict=True))
        assert len(pairs) == 2
        for one, other in pairs:
            assert one.path != other.path
            assert one.path.read_bytes() == other.path.read_bytes()
        assert pairs[0][0].info.sha256 != pairs[1][0].info.sha256
