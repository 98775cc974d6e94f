"""What the page shows, without widgets: states, plan edits, events to view."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.audio import Audio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Heard,
    Listened,
    Listening,
    Notice,
    PlanReady,
    Progress,
    Question,
    StepFinished,
    StepPlanned,
    StepStarted,
    Writing,
)
from smartdj_agent.plan import MAX_STEPS, Plan, make_plan
from smartdj_agent.steps import format_step
from smartdj_agent.ui.session import (
    SHORTCUTS,
    Phase,
    Recording,
    Session,
    StepState,
    arrow,
    clock,
    fault_of,
    sentence,
    spans,
    time_left,
)

AUDIO = Audio(np.zeros((2, 8), np.float32), 8)
STEPS = ("remove the sound of dog barking", "turn down the volume of wind by 6 dB")
PLAN = make_plan(STEPS, "calm it", source_sha256="ab" * 32)


def ready() -> Session:
    session = Session()
    session.set_recording(Recording(Path("/tmp/walk.wav"), 10.0, 44_100, 2, "p.wav"))
    session.instruction = "calm it"
    return session


def planned(plan: Plan = PLAN) -> Session:
    session = ready()
    session.begin_planning()
    session.attach("j1")
    session.take(PlanReady(plan, 0.1), awaits_review=True)
    return session


def carried_out(plan: Plan, preview: str = "s") -> list[Event]:
    steps = plan.enabled_steps()
    events: list[Event] = []
    for index, step in enumerate(steps):
        events += [
            StepStarted(index, len(steps), step, "cpu"),
            Progress(index, len(steps), 0.5, 2.0, 3.2, "finding the sound"),
            StepFinished(index, len(steps), step, AUDIO, 0.5, 2.0, "mask", 0.87, ((1.0, 2.0 + index),)),
        ]
    return [*events, Finished(AUDIO, plan, 1.0, 2.0)]


def test_nothing_can_be_done_without_a_recording() -> None:
    session = Session()
    session.instruction = "calm it"
    assert not session.can_plan
    session.add_step("remove the sound of wind")
    assert not session.can_run
    assert session.phase is Phase.EMPTY


def test_a_plan_is_written_step_by_step() -> None:
    session = ready()
    session.begin_planning()
    assert (session.phase, session.can_cancel, session.can_plan, session.can_edit) == (
        Phase.PLANNING, True, False, False,
    )  # fmt: skip
    session.take(Listening(0.25, 2.0, 1.2))
    assert session.headline() == "Listening, about 2 s left"
    session.take(Listened((Heard("dog", 0.9, -20, -90.0, 0.0, 1.0),), 0.3))
    session.take(Writing("remove do"))
    assert session.writing == "remove do"
    session.take(StepPlanned(0, PLAN.steps[0]))
    assert ([step.text for step in session.steps], session.writing) == ([format_step(PLAN.steps[0].step)], "")
    session.take(PlanReady(PLAN, 0.2), awaits_review=True)
    assert (session.phase, session.reusable, len(session.steps)) == (Phase.PLANNED, True, 2)
    assert [sound.label for sound in session.heard] == ["dog"]


def test_every_step_becomes_a_state_and_the_result_is_last() -> None:
    session = planned()
    session.begin_running()
    assert (session.phase, session.job_id, session.step_count) == (Phase.RUNNING, "j1", 2)
    events = carried_out(PLAN)
    session.take(events[0])
    assert session.steps[0].state is StepState.RUNNING
    session.take(events[1])
    assert session.headline() == "Step 1 of 2: finding the sound, about 4 s left"
    assert session.fraction == 0.5
    session.take(events[2], "one")
    assert (session.steps[0].state, session.steps[0].note) == (StepState.DONE, "mask, 87% sure, 0.5 s")
    for event in events[3:-1]:
        session.take(event, "two")
    session.take(events[-1])
    assert session.phase is Phase.DONE
    assert [(s.key, s.preview) for s in session.sounds] == [
        ("original", "p.wav"), ("step-0", "one"), ("step-1", "two"), ("result", "two"),
    ]  # fmt: skip
    assert session.result is not None
    assert session.result.touched_s == ((1.0, 2.0), (1.0, 3.0))


def test_events_told_twice_change_nothing() -> None:
    """A server that came back begins the step under way anew."""
    session = planned()
    session.begin_running()
    for event in [*carried_out(PLAN)[:3], *carried_out(PLAN)[:3]]:
        session.take(event, "one")
    session.take(Notice("unsure", "hardly heard", "listen"))
    session.take(Notice("unsure", "hardly heard", "listen"))
    assert [sound.key for sound in session.sounds] == ["original", "step-0"]
    assert len(session.notices) == 1


def test_steps_are_edited_moved_switched_deleted_and_added() -> None:
    session = planned()
    first, second = (step.id for step in session.steps)
    session.edit_step(second, "turn down the volume of wind by 3 dB")
    session.move_step(second, -1)
    session.move_step(second, -1)  # it is at the top already
    session.toggle_step(first)
    third = session.add_step("add the sound of seagulls at left")
    plan = session.plan()
    assert [(s.id, s.enabled) for s in plan.steps] == [(second, True), (first, False), (third, True)]
    assert format_step(plan.steps[0].step) == "turn down the volume of wind by 3 dB"
    assert (plan.source_sha256, plan.source_name, plan.instruction) == ("ab" * 32, "walk.wav", "calm it")
    session.delete_step(second)
    assert [step.id for step in session.steps] == [first, third]


def test_text_that_is_no_step_says_what_to_write_and_keeps_the_plan_from_running() -> None:
    session = planned()
    session.edit_step("s1", "remove")
    assert session.steps[0].fault.endswith(".")
    assert not session.can_run
    with pytest.raises(SmartDJError):
        session.plan()
    session.toggle_step("s1")  # what is off may be half written
    assert session.can_run
    assert [step.id for step in session.plan().steps] == ["s2"]
    assert fault_of("") == "Write what is to be done, such as: remove the sound of dog barking"
    assert fault_of(STEPS[0]) == ""


def test_a_full_plan_takes_no_more() -> None:
    session = ready()
    for _ in range(MAX_STEPS):
        session.add_step(STEPS[0])
    with pytest.raises(SmartDJError, match=str(MAX_STEPS)):
        session.add_step()


def test_another_mode_needs_another_job() -> None:
    session = planned()
    session.mode = "generate"
    assert not session.reusable
    session.begin_running()
    assert session.job_id == ""


def test_a_changed_plan_is_run_again_while_what_was_made_can_still_be_heard() -> None:
    session = planned()
    session.begin_running()
    for event in carried_out(PLAN):
        session.take(event, "x")
    session.edit_step("s1", "remove the sound of wind")
    assert session.phase is Phase.PLANNED
    assert not session.reusable
    assert {step.state for step in session.steps} == {StepState.WAITING}
    assert session.result is not None
    session.begin_running()
    assert [sound.key for sound in session.sounds] == ["original"]


def test_another_recording_keeps_the_steps_but_not_what_was_heard() -> None:
    session = planned()
    session.take(Listened((Heard("dog", 0.9, -20, None, 0.0, 1.0),), 0.3))
    session.set_recording(Recording(Path("/tmp/other.wav"), 3.0, 48_000, 1, "q.wav"))
    assert (session.heard, session.job_id, session.phase) == ((), "", Phase.PLANNED)
    plan = session.plan()
    assert (len(plan.steps), plan.source_sha256, plan.source_name) == (2, "", "other.wav")


def test_a_question_ends_the_planning() -> None:
    session = ready()
    session.begin_planning()
    session.take(Question("Which one?", ("the dog", "the wind")))
    assert (session.phase, session.can_plan) == (Phase.ASKED, True)
    session.add_step(STEPS[0])
    assert (session.phase, session.question) == (Phase.PLANNED, None)


def test_failing_and_cancelling_say_what_is_left() -> None:
    session = planned()
    session.begin_running()
    for event in carried_out(PLAN)[:4]:
        session.take(event, "x")
    session.fail(SmartDJError(ErrorCode.CANCELLED, "cancelled"))
    assert session.headline() == "Cancelled. 1 finished step can be listened to."
    assert [step.state for step in session.steps] == [StepState.DONE, StepState.WAITING]
    assert session.can_run
    session.fail(SmartDJError(ErrorCode.OUT_OF_MEMORY, "no memory", "close something"))
    assert session.headline().startswith("It did not work.")


def test_an_empty_instruction_is_refused_before_anything_is_lost() -> None:
    session = planned()
    session.instruction = "  ? "
    with pytest.raises(SmartDJError, match="empty"):
        session.begin_planning()
    assert len(session.steps) == 2


def test_version_grows_with_every_change_and_layout_only_with_the_list() -> None:
    session = planned()
    version, layout = session.version, session.layout
    session.edit_step("s1", "remove the sound of wind")
    assert (session.version > version, session.layout) == (True, layout)
    session.move_step("s1", 1)
    assert session.layout > layout


def test_spans_lie_on_the_recordings_axis() -> None:
    heard = (
        Heard("dog", 0.876, -20.4, -90.0, 2.5, 5.0),
        Heard("wind", 0.3, -40, None, 0.0, 12.0),
        Heard("bird", 0.2, -40, 40.0, 9.999, 10.0),
    )
    dog, wind, bird = spans(heard, 10.0)
    assert (dog.left_percent, dog.width_percent, dog.confidence_percent) == (25.0, 25.0, 88)
    assert (dog.direction, dog.arrow) == ("left", "←")
    assert (wind.direction, wind.arrow, wind.width_percent) == ("unclear", "·", 100.0)
    assert (bird.direction, bird.arrow) == ("40 degrees right", "↗")
    assert bird.width_percent == 0.5  # as wide as can be seen
    assert spans((), 0.0) == ()


@pytest.mark.parametrize(("azimuth_deg", "sign"), [(-90, "←"), (-45, "↖"), (0, "↑"), (45, "↗"), (90, "→"), (None, "·")])
def test_directions_as_signs(azimuth_deg: float | None, sign: str) -> None:
    assert arrow(azimuth_deg) == sign


def test_messages_become_sentences_but_names_stay() -> None:
    assert sentence("the device is gone") == "The device is gone."
    assert sentence("notes.wav can't be read") == "notes.wav can't be read."
    assert sentence(" Really? ") == "Really?"
    assert sentence("") == ""


def test_times_in_words() -> None:
    assert [time_left(s) for s in (0.0, 3.2, 89, 100, 3000)] == ["1 s", "4 s", "89 s", "2 min", "50 min"]
    assert [clock(s) for s in (0, 7.34, 59.96, 605)] == ["0:00.0", "0:07.3", "1:00.0", "10:05.0"]


def test_keys_of_the_list_are_those_of_the_page() -> None:
    static = Path(__file__).parent.parent / "smartdj_agent" / "ui"
    page = "".join((static / name).read_text(encoding="utf-8") for name in ("page.py", "static/compare.html"))
    script = (static / "static" / "page.js").read_text(encoding="utf-8")
    for key, _, what in SHORTCUTS:
        wired = f'data-key="{key}"' in page or f"data-key={key} " in page or f'key="{key}"' in page
        assert wired or f"    {key}: () =>" in script, what


def test_the_model_needs_no_torch() -> None:
    code = (
        "import sys, smartdj_agent.ui.session as s; assert 'torch' not in sys.modules and 'nicegui' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
