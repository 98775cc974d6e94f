"""Types and messages are made from each other without loss, and errors name the message's field."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import descriptor
from hypothesis import given
from hypothesis import strategies as st

from smartdj.v1 import audio_pb2, event_pb2, step_pb2
from smartdj_agent import wire
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
from smartdj_agent.plan import Plan, PlanStep, Provenance, make_plan
from smartdj_agent.steps import OPERATIONS, Kind, Operation, Step, format_step

AUDIO = Audio(np.zeros((2, 10), np.float32), 8000)
PLAN = Plan(
    tuple(
        PlanStep(f"s{n}", step)
        for n, step in enumerate(
            [
                Step(Operation.ADD, "birdsong", azimuth_deg=-45.0, gain_db=3.0),
                Step(Operation.REMOVE, "dog, barking"),
                Step(Operation.VOLUME, "wind", gain_db=-6.25),
            ]
        )
    ),
    "make it a forest",
    "ab" * 32,
    "walk.wav",
    Provenance("planner", "editor", 7, "2026-11-23T00:00:00+00:00"),
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    spec = OPERATIONS[draw(st.sampled_from(list(Operation)))]
    values: dict[str, object] = {}
    for parameter in spec.parameters:
        if not parameter.required and draw(st.booleans()):
            continue
        if parameter.choices:
            values[parameter.name] = draw(st.sampled_from(parameter.choices))
        else:
            assert parameter.minimum is not None
            assert parameter.maximum is not None
            number = draw(st.floats(parameter.minimum, parameter.maximum))
            values[parameter.name] = round(number) if parameter.kind is Kind.LEVEL else number
    return Step(spec.operation, draw(st.text(st.sampled_from("abc é,\"'"), min_size=1).filter(str.strip)), **values)  # type: ignore[arg-type]


@given(steps(), st.booleans())
def test_steps_come_back(step: Step, enabled: bool) -> None:
    message = wire.step_to_proto(PlanStep("x1", step, enabled))
    assert message.text == format_step(step)
    assert wire.step_from_proto(step_pb2.Step.FromString(message.SerializeToString())) == step
    assert wire.step_from_proto(step_pb2.Step(text=message.text)) == step
    message.ClearField("text")
    assert wire.step_from_proto(message) == step


def test_every_operation_and_parameter_has_its_field() -> None:
    fields = step_pb2.Step.DESCRIPTOR.oneofs_by_name["operation"].fields
    assert {field.name for field in fields} == {operation.value for operation in Operation}
    for field in fields:
        named = {f.name: f for f in field.message_type.fields}
        assert set(named) == {"sound", *(p.name for p in OPERATIONS[Operation(field.name)].parameters)}
        # A number that isn't set is told from 0.
        numbers = [f for f in named.values() if f.cpp_type == descriptor.FieldDescriptor.CPPTYPE_DOUBLE]
        assert all(f.has_presence for f in numbers)


def test_plans_come_back() -> None:
    assert wire.plan_from_proto(wire.plan_to_proto(PLAN)) == PLAN
    assert wire.plan_violations(wire.plan_to_proto(PLAN)) == []


def test_what_a_client_leaves_out_is_filled_in() -> None:
    message = step_pb2.Plan(
        steps=[
            step_pb2.Step(text="remove dog"),
            step_pb2.Step(step_id="s1", add=step_pb2.AddOperation(sound="rain")),
            step_pb2.Step(text="remove cat", enabled=False),
        ]
    )
    plan = wire.plan_from_proto(message)
    assert [item.id for item in plan.steps] == ["s2", "s1", "s3"]
    assert [item.enabled for item in plan.steps] == [True, True, False]
    assert plan.steps[1].step == Step(Operation.ADD, "rain", azimuth_deg=0.0, gain_db=0.0)


@pytest.mark.parametrize(
    ("step", "code", "field"),
    [
        (step_pb2.Step(), ErrorCode.STEP_SYNTAX, "plan.steps[0].text"),
        (step_pb2.Step(text="make tea"), ErrorCode.STEP_SYNTAX, "plan.steps[0].text"),
        (step_pb2.Step(volume=step_pb2.VolumeOperation(sound="a")), ErrorCode.STEP_SYNTAX, "volume.gain_db"),
        (step_pb2.Step(volume=step_pb2.VolumeOperation(sound="a", gain_db=99)), ErrorCode.STEP_RANGE, "volume.gain_db"),
        (
            step_pb2.Step(volume=step_pb2.VolumeOperation(sound="a", gain_db=float("nan"))),
            ErrorCode.STEP_RANGE,
            "volume.gain_db",
        ),
        (step_pb2.Step(remove=step_pb2.RemoveOperation(azimuth_deg=0)), ErrorCode.STEP_SYNTAX, "remove.sound"),
        (step_pb2.Step(timbre=step_pb2.TimbreOperation(sound="a")), ErrorCode.STEP_SYNTAX, "timbre.timbre"),
        (
            step_pb2.Step(timbre=step_pb2.TimbreOperation(sound="a", timbre=77)),  # type: ignore[arg-type]
            ErrorCode.STEP_RANGE,
            "timbre.timbre",
        ),
        (
            step_pb2.Step(text="remove cat", remove=step_pb2.RemoveOperation(sound="dog")),
            ErrorCode.STEP_SYNTAX,
            "plan.steps[0].text",
        ),
        (step_pb2.Step(step_id="a b", text="remove cat"), ErrorCode.PLAN_INVALID, "plan.steps[0].step_id"),
    ],
)
def test_faults_name_their_field(step: step_pb2.Step, code: ErrorCode, field: str) -> None:
    message = step_pb2.Plan(steps=[step])
    with pytest.raises(SmartDJError) as caught:
        wire.plan_from_proto(message)
    assert caught.value.code is code
    assert caught.value.field.endswith(field)
    assert caught.value.field.startswith("plan.steps[0].")
    assert caught.value.hint


def test_all_faults_are_told_at_once() -> None:
    message = step_pb2.Plan(
        steps=[step_pb2.Step(text="make tea"), step_pb2.Step(text="remove dog"), step_pb2.Step()],
        source_audio_sha256="xyz",
    )
    fields = [error.field for error in wire.plan_violations(message)]
    assert fields == ["plan.steps[0].text", "plan.steps[2].text", "plan.source_audio_sha256"]
    many = step_pb2.Plan(steps=[step_pb2.Step(text="remove dog")] * 51)
    assert [error.field for error in wire.plan_violations(many)] == ["plan.steps"]


EVENTS: list[Event] = [
    Listening(0.5, 20.0, 1.5),
    Listened((Heard("dog", 0.5, -20.0, None, 0.0, 1.0), Heard("rain", 0.1, -30.0, 0.0, 1.0, 2.0)), 1.25),
    Writing("remove the d"),
    Writing(""),
    StepPlanned(0, PLAN.steps[0]),
    PlanReady(PLAN, 2.0),
    Question("Which?", ("a", "b")),
    StepStarted(0, 3, PlanStep("s9", make_plan(["remove dog"]).steps[0].step, False), "cuda:1"),
    Progress(2, 3, 0.25, 8.0, 3.0, "denoising"),
    StepFinished(1, 3, PLAN.steps[1], AUDIO, 1.0, 10.0, "mask", 0.75, ((0.0, 0.5), (1.0, 2.0))),
    Notice("unsure", "hardly heard", "listen"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_back(event: Event) -> None:
    info = audio_pb2.AudioInfo(sha256="a" * 64)
    message = event_pb2.JobEvent.FromString(
        wire.event_to_proto(event, info if isinstance(event, StepFinished) else None).SerializeToString()
    )
    assert wire.event_from_proto(message, lambda asked: AUDIO if asked == info else pytest.fail("other audio")) == event


def test_the_summary_becomes_the_end() -> None:
    message = wire.event_to_proto(Finished(AUDIO, PLAN, 3.0, 2.0))
    assert wire.event_from_proto(message, lambda _: AUDIO) is None  # a job that only planned has no result
    message.summary.result.sha256 = "b" * 64
    assert wire.event_from_proto(message, lambda _: AUDIO) == Finished(AUDIO, PLAN, 3.0, 2.0)


@pytest.mark.parametrize("kind", ["queued", "failed"])
def test_what_the_agent_never_tells_is_nothing(kind: str) -> None:
    message = event_pb2.JobEvent()
    getattr(message, kind).SetInParent()
    assert wire.event_from_proto(message, lambda _: AUDIO) is None


def test_faults_do_not_keep_the_message_that_they_are_about() -> None:
    faults = wire.plan_violations(step_pb2.Plan(steps=[step_pb2.Step(text="nonsense")] * 2))
    assert [fault.__traceback__ for fault in faults] == [None, None]
