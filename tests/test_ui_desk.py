"""What lets a server work for the page: jobs followed through broken connections, what is heard and taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.audio import audio_sha256, read_audio
from smartdj_agent.client import JobState
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import plan_from_json, plan_from_yaml
from smartdj_agent.ui.desk import Desk, Link, Reach, file_name
from smartdj_agent.ui.session import Phase, Session
from tests.live_server import SLOW, Live, live_server
from tests.ui_browser import recording

Work = Callable[[Desk, Session], Awaitable[None]]


def at_a_desk(live: Live, tmp_path: Path, work: Work, source: Path | None = None) -> None:
    """Do some work at a desk with a recording on it."""

    async def whole() -> None:
        folder = tmp_path / "desk"
        folder.mkdir(exist_ok=True)
        desk = Desk(Reach(live.running.address), folder / str(len(list(folder.iterdir()))))
        await desk.start()
        try:
            session = desk.new()
            await desk.take_recording(session, source or recording(tmp_path / "walk.wav"))
            await work(desk, session)
        finally:
            await desk.close()

    live.ready()
    asyncio.run(asyncio.wait_for(whole(), 120))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def planned(desk: Desk, session: Session, instruction: str = "make it calm") -> None:
    session.instruction = instruction
    desk.plan(session)
    await until(lambda: session.phase is Phase.PLANNED)


async def done(desk: Desk, session: Session) -> None:
    desk.run(session)
    await until(lambda: session.phase is Phase.DONE)


def test_plan_review_run_and_take_away(tmp_path: Path) -> None:
    async def work(desk: Desk, session: Session) -> None:
        await planned(desk, session)
        planning_job = session.job_id
        session.toggle_step("s1")
        await done(desk, session)
        assert session.job_id == planning_job  # what was reviewed is carried out, no second job made
        assert [sound.key for sound in session.sounds] == ["original", "step-0", "result"]
        source = read_audio(tmp_path / "walk.wav")
        result = await desk.save_sound(session, "result")
        assert result.name == "walk-smartdj.wav"
        np.testing.assert_array_equal(read_audio(result).samples, 0.5 * source.samples)
        step = await desk.save_sound(session, "step-0")
        assert step.name == "walk-01-volume-wind.wav"
        assert await desk.save_sound(session, "original") == tmp_path / "walk.wav"
        name, text = desk.save_plan(session, "yaml")
        assert name == "walk-plan.yaml"
        assert [s.enabled for s in plan_from_yaml(text).steps] == [False, True]
        assert plan_from_json(desk.save_plan(session, "json")[1]) == plan_from_yaml(text)
        assert plan_from_yaml(text).source_sha256 == audio_sha256(source)
        report = (await desk.save_report(session)).read_text(encoding="utf-8")
        assert "walk.wav" in report
        assert "make it calm" in report
        preview = read_audio(desk.previews / session.sounds[-1].preview)
        assert preview.samples.std() == pytest.approx(0.5 * source.samples.std(), rel=1e-3)
        with pytest.raises(SmartDJError, match="nothing"):
            await desk.save_sound(session, "step-7")

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, work)


def test_a_plan_of_ones_own_runs_without_an_instruction(tmp_path: Path) -> None:
    async def work(desk: Desk, session: Session) -> None:
        session.add_step("remove the sound of wind")
        await done(desk, session)
        first = session.job_id
        session.edit_step("s1", "remove the sound of rain")
        await done(desk, session)
        assert session.job_id != first
        await until(lambda: [job.state for job in desk.jobs] == 2 * [JobState.SUCCEEDED])

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, work)


def test_a_plan_written_anew_leaves_no_job_waiting(tmp_path: Path) -> None:
    async def work(desk: Desk, session: Session) -> None:
        await planned(desk, session)
        old = session.job_id
        await planned(desk, session, "rather quiet")
        await until(lambda: any(job.job_id == old and job.state is JobState.CANCELLED for job in desk.jobs))
        session.seed = 7  # the job that waits has another: it is left, too
        await done(desk, session)
        await until(lambda: {job.state for job in desk.jobs} == {JobState.CANCELLED, JobState.SUCCEEDED})
        assert next(job for job in desk.jobs if job.state is JobState.SUCCEEDED).seed == 7

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, work)


def test_cancelling_is_done_within_one_denoising_step(tmp_path: Path) -> None:
    def denoised() -> int:
        return (tmp_path / "log.txt").read_text().count("denoised")

    async def work(desk: Desk, session: Session) -> None:
        await planned(desk, session)
        desk.run(session)
        await until(lambda: session.fraction > 0)
        before = denoised()
        desk.cancel(session)
        await until(lambda: session.phase is Phase.STOPPED)
        assert session.error is not None
        assert session.error.code is ErrorCode.CANCELLED
        await until(lambda: "apply closed" in (tmp_path / "log.txt").read_text())
        # One that had begun, and one that may have been told already but not yet seen here.
        assert denoised() <= before + 2
        assert session.can_run

    with live_server(tmp_path / "data", devices=SLOW, library=(tmp_path,)) as live:
        at_a_desk(live, tmp_path, work)


def test_questions_and_failures_are_told(tmp_path: Path) -> None:
    async def work(desk: Desk, session: Session) -> None:
        session.instruction = "something unclear"
        desk.plan(session)
        await until(lambda: session.phase is Phase.ASKED)
        assert session.question is not None
        assert session.question.choices == ("the dog", "the wind")
        session.instruction = "missing"
        desk.plan(session)
        await until(lambda: session.phase is Phase.STOPPED)
        assert session.error is not None
        assert (session.error.code, session.error.hint) == (ErrorCode.MODEL_MISSING, "pull it")
        session.instruction = " "
        desk.plan(session)
        assert session.phase is Phase.STOPPED

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, work)


def test_a_bad_file_keeps_the_recording_before(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio at all")

    async def work(desk: Desk, session: Session) -> None:
        with pytest.raises(SmartDJError) as caught:
            await desk.take_recording(session, bad)
        assert caught.value.hint
        assert str(tmp_path) not in caught.value.message
        assert session.recording is not None
        assert session.recording.name == "walk.wav"

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, work)


def test_what_the_server_refuses_is_refused_here(tmp_path: Path) -> None:
    async def work(desk: Desk, session: Session) -> None:
        with pytest.raises(SmartDJError) as caught:
            await desk.take_recording(session, recording(tmp_path / "long.wav", 4.0))
        assert caught.value.code is ErrorCode.AUDIO_TOO_LONG

    with live_server(tmp_path / "data", max_audio_s=3.0) as live:
        at_a_desk(live, tmp_path, work)


def test_a_job_of_which_only_the_server_knows_is_opened(tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    async def first(desk: Desk, session: Session) -> None:
        session.seed = 3
        await planned(desk, session)
        await done(desk, session)
        seen["job"] = session.job_id

    async def second(desk: Desk, session: Session) -> None:
        one, two = await asyncio.gather(desk.open(seen["job"]), desk.open(seen["job"]))
        assert one is two
        await until(lambda: one.phase is Phase.DONE)
        assert one.recording is not None
        assert (one.recording.name, one.instruction, one.seed) == ("walk.wav", "make it calm", 3)
        assert [sound.key for sound in one.sounds] == ["original", "step-0", "step-1", "result"]
        assert [heard.label for heard in one.heard] == ["dog barking"]
        with pytest.raises(SmartDJError) as caught:
            await desk.open("nobody")
        assert caught.value.code is ErrorCode.JOB_NOT_FOUND

    with live_server(tmp_path / "data") as live:
        at_a_desk(live, tmp_path, first)
        at_a_desk(live, tmp_path, second)


def test_a_server_that_goes_away_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    """The first server is stopped in the middle of a step; the second has its port and its data."""

    async def whole() -> None:
        server = live_server(tmp_path / "data", devices=SLOW, drain_s=0.0)
        live = await asyncio.to_thread(server.__enter__)
        port = live.running.port
        folder = tmp_path / "desk"
        folder.mkdir()
        desk = Desk(Reach(live.running.address), folder)
        await asyncio.to_thread(live.ready)
        await desk.start()
        session = desk.new()
        await desk.take_recording(session, recording(tmp_path / "walk.wav"))
        await planned(desk, session)
        desk.run(session)
        await until(lambda: len(session.sounds) == 2)
        await asyncio.to_thread(server.__exit__, None, None, None)
        await until(lambda: desk.link is Link.LOST)
        assert desk.link_error is not None
        assert (session.phase, len(session.steps)) == (Phase.RUNNING, 2)
        again = live_server(tmp_path / "data", port=port)
        await asyncio.to_thread(again.__enter__)
        try:
            await until(lambda: desk.link is Link.READY)
            await until(lambda: session.phase is Phase.DONE)
            assert [sound.key for sound in session.sounds] == ["original", "step-0", "step-1", "result"]
        finally:
            await desk.close()
            await asyncio.to_thread(again.__exit__, None, None, None)

    asyncio.run(asyncio.wait_for(whole(), 120))


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    async def whole() -> None:
        desk = Desk(Reach("127.0.0.1:9"), tmp_path)
        try:
            with pytest.raises(SmartDJError) as caught:
                await desk.start()
            assert caught.value.code is ErrorCode.SERVER_UNREACHABLE
        finally:
            await desk.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("walk.wav", "walk.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\music\\a:b?.wav", "a_b_.wav"),
        ("", "recording"),
        ("..", "recording"),
        ("Straße 東京.flac", "Straße 東京.flac"),
        ("\x00\n.wav", "__.wav"),
        ("x" * 500 + ".wav", "x" * 120 + ".wav"),
    ],
)
def test_names_from_elsewhere_become_plain_file_names(told: str, name: str) -> None:
    assert file_name(told) == name
