"""The agent's types and the protocol's messages, each made from the other. Pure: no connection, no file.

Events become `smartdj.v1.JobEvent` messages without sequence number and job id, which the server adds. Messages become
plans by the same rules that plan files are read by, with the same errors, whose `field` names the message's own field,
such as ``plan.steps[2].volume.gain_db``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from smartdj.v1 import audio_pb2, event_pb2, job_pb2, step_pb2
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
from smartdj_agent.plan import MAX_STEPS, Plan, PlanStep, Provenance
from smartdj_agent.steps import (
    OPERATIONS,
    Operation,
    Step,
    Timbre,
    format_step,
    parse_step,
    step_from_dict,
    step_to_dict,
)

MODES = {job_pb2.MODE_UNSPECIFIED: "preserve", job_pb2.MODE_PRESERVE: "preserve", job_pb2.MODE_GENERATE: "generate"}
"""Names of the modes in the agent."""

LISTENING = "listening"
PLANNING = "planning"
"""Stages of a progress message that belong to no step."""

_TIMBRES = {step_pb2.Timbre.Value(f"TIMBRE_{timbre.name}"): timbre for timbre in Timbre}


# --- steps and plans ------------------------------------------------------


def step_to_proto(plan_step: PlanStep) -> step_pb2.Step:
    """Return a step as a message with all fields filled in."""
    step = plan_step.step
    message = step_pb2.Step(step_id=plan_step.id, enabled=plan_step.enabled, text=format_step(step))
    operation = getattr(message, step.operation.value)
    operation.SetInParent()
    for name, value in step_to_dict(step).items():
        if name == "target":
            operation.sound = value
        elif name == "timbre":
            operation.timbre = step_pb2.Timbre.Value(f"TIMBRE_{Timbre(value).name}")
        elif name != "operation":
            setattr(operation, name, value)
    return message


def step_from_proto(message: step_pb2.Step, path: str = "step") -> Step:
    """Read what a step does, from its operation or its text.

    Parameters
    ----------
    message
        With an operation, a text, or both where they mean the same.
    path
        Where the message stands, for errors.

    Raises
    ------
    SmartDJError
        STEP_SYNTAX or STEP_RANGE; `field` is for example ``plan.steps[2].volume.gain_db``.
    """
    name = message.WhichOneof("operation")
    if name is None:
        if not message.text:
            raise SmartDJError(
                ErrorCode.STEP_SYNTAX,
                "the step says neither in words nor in fields what to do",
                "Set `text`, or one of the operations.",
                f"{path}.text",
            )
        try:
            return parse_step(message.text)
        except SmartDJError as error:
            raise _at(error, f"{path}.text") from error
    values = _operation_values(name, getattr(message, name), f"{path}.{name}")
    try:
        step = step_from_dict(values)
    except SmartDJError as error:
        field = {"target": "sound", "operation": ""}.get(error.field, error.field)
        raise _at(error, f"{path}.{name}.{field}".rstrip(".")) from error
    if message.text:
        try:
            said = parse_step(message.text)
        except SmartDJError as error:
            raise _at(error, f"{path}.text") from error
        if said != step:
            raise SmartDJError(
                ErrorCode.STEP_SYNTAX,
                f"the step's text says {format_step(said)!r}, its fields say {format_step(step)!r}",
                "Change both, or leave the text out.",
                f"{path}.text",
            )
    return step


def plan_to_proto(plan: Plan) -> step_pb2.Plan:
    """Return a plan as a message with all fields filled in."""
    provenance = step_pb2.PlanProvenance(
        planner=plan.provenance.planner, editor=plan.provenance.editor, created=plan.provenance.created
    )
    if plan.provenance.seed is not None and 0 <= plan.provenance.seed < 1 << 32:
        provenance.seed = plan.provenance.seed
    return step_pb2.Plan(
        steps=[step_to_proto(plan_step) for plan_step in plan.steps],
        instruction=plan.instruction,
        source_audio_sha256=plan.source_sha256,
        source_name=plan.source_name,
        provenance=provenance,
    )


def plan_from_proto(message: step_pb2.Plan) -> Plan:
    """Read a plan; ids that are missing are filled in.

    Raises
    ------
    SmartDJError
        The first of `plan_violations`.
    """
    plan, faults = _read_plan(message)
    if plan is None:
        raise faults[0]
    return plan


def plan_violations(message: step_pb2.Plan) -> list[SmartDJError]:
    """Return everything that is wrong with a plan: PLAN_INVALID, STEP_SYNTAX and STEP_RANGE, each with its field."""
    return _read_plan(message)[1]


def _read_plan(message: step_pb2.Plan) -> tuple[Plan | None, list[SmartDJError]]:
    if len(message.steps) > MAX_STEPS:
        return None, [
            SmartDJError(
                ErrorCode.PLAN_INVALID,
                f"the plan has {len(message.steps)} steps; allowed are {MAX_STEPS}",
                "Split it into several plans and run them one after the other.",
                "plan.steps",
            )
        ]
    faults: list[SmartDJError] = []
    steps: list[Step | None] = []
    for index, item in enumerate(message.steps):
        try:
            steps.append(step_from_proto(item, f"plan.steps[{index}]"))
        except SmartDJError as error:
            # Its traceback leads back here: it would keep the message, however large, until garbage is collected.
            faults.append(error.with_traceback(None))
            steps.append(None)
    taken = {item.step_id for item in message.steps}
    numbers = iter(range(1, 2 * MAX_STEPS + 2))
    placeholder = Step(Operation.REMOVE, "sound")  # so that a faulty step doesn't hide faults of the plan around it
    plan_steps = []
    for item, step in zip(message.steps, steps, strict=True):
        name = item.step_id or next(free for number in numbers if (free := f"s{number}") not in taken)
        enabled = item.enabled if item.HasField("enabled") else True
        plan_steps.append(PlanStep(name, step or placeholder, enabled))
    provenance = message.provenance
    try:
        plan = Plan(
            tuple(plan_steps),
            message.instruction,
            message.source_audio_sha256.lower(),
            message.source_name,
            Provenance(
                provenance.planner,
                provenance.editor,
                provenance.seed if provenance.HasField("seed") else None,
                provenance.created,
            ),
        )
    except SmartDJError as error:
        # The plan file calls two fields otherwise than the message.
        field = {"plan.source.sha256": "plan.source_audio_sha256", "plan.source.name": "plan.source_name"}
        renamed = field.get(error.field, error.field)
        faults.append(_at(error, f"{renamed[:-3]}.step_id" if renamed.endswith("].id") else renamed))
        return None, faults
    return (None, faults) if faults else (plan, [])


def _operation_values(name: str, message: Message, path: str) -> dict[str, Any]:
    fields: Any = message
    values: dict[str, Any] = {"operation": name, "target": fields.sound}
    for parameter in OPERATIONS[Operation(name)].parameters:
        if parameter.name == "timbre":
            if fields.timbre and fields.timbre not in _TIMBRES:
                raise SmartDJError(
                    ErrorCode.STEP_RANGE,
                    f"timbre {fields.timbre} is unknown",
                    f"Allowed: {', '.join(step_pb2.Timbre.keys()[1:])}.",
                    f"{path}.timbre",
                )
            if fields.timbre:
                values["timbre"] = _TIMBRES[fields.timbre].value
        elif fields.HasField(parameter.name):
            values[parameter.name] = getattr(fields, parameter.name)
    return values


def _at(error: SmartDJError, field: str) -> SmartDJError:
    return SmartDJError(error.code, error.message, error.hint, field)


# --- events ---------------------------------------------------------------


def event_to_proto(event: Event, audio: audio_pb2.AudioInfo | None = None) -> event_pb2.JobEvent:
    """Return an event as a message, without sequence number and job id.

    Parameters
    ----------
    event
        Any event. `Finished` becomes a summary of which the server fills in the recordings.
    audio
        What a finished step's audio is stored as; with `StepFinished` only.
    """
    match event:
        case Listening():
            return event_pb2.JobEvent(progress=_progress(event, LISTENING))
        case Writing():
            stage = f"{PLANNING}: {event.text}" if event.text else PLANNING
            return event_pb2.JobEvent(progress=event_pb2.ProgressEvent(stage=stage))
        case Listened():
            return event_pb2.JobEvent(
                listened=event_pb2.ListenedEvent(
                    sounds=[_heard_to_proto(sound) for sound in event.sounds], elapsed_s=event.seconds
                )
            )
        case StepPlanned():
            return event_pb2.JobEvent(
                step_planned=event_pb2.StepPlannedEvent(index=event.index, step=step_to_proto(event.plan_step))
            )
        case PlanReady():
            return event_pb2.JobEvent(
                plan_ready=event_pb2.PlanReadyEvent(plan=plan_to_proto(event.plan), elapsed_s=event.seconds)
            )
        case Question():
            return event_pb2.JobEvent(question=event_pb2.QuestionEvent(text=event.text, choices=event.choices))
        case StepStarted():
            return event_pb2.JobEvent(
                step_started=event_pb2.StepStartedEvent(
                    index=event.index, count=event.count, step=step_to_proto(event.plan_step), device=event.device
                )
            )
        case Progress():
            progress = _progress(event, event.stage)
            progress.step_index, progress.step_count = event.index, event.count
            return event_pb2.JobEvent(progress=progress)
        case StepFinished():
            return event_pb2.JobEvent(
                step_finished=event_pb2.StepFinishedEvent(
                    index=event.index,
                    count=event.count,
                    step=step_to_proto(event.plan_step),
                    audio=audio,
                    elapsed_s=event.seconds,
                    realtime_factor=event.realtime_factor,
                    method=event.method,
                    confidence=event.confidence,
                    touched=[event_pb2.TimeSpan(start_s=start, end_s=end) for start, end in event.touched_s],
                )
            )
        case Notice():
            return event_pb2.JobEvent(
                warning=event_pb2.WarningEvent(code=event.code, message=event.message, hint=event.hint)
            )
        case Finished():
            return event_pb2.JobEvent(
                summary=event_pb2.SummaryEvent(
                    plan=plan_to_proto(event.plan), elapsed_s=event.seconds, realtime_factor=event.realtime_factor
                )
            )


def event_from_proto(message: event_pb2.JobEvent, audio: Callable[[audio_pb2.AudioInfo], Audio]) -> Event | None:
    """Return a message as the event that the agent would have yielded.

    Parameters
    ----------
    message
        Of a job.
    audio
        Fetches a recording: called for finished steps and for the result.

    Returns
    -------
    Event or None
        None for what the agent itself doesn't tell: waiting, failing, and the end of a job that only planned.
    """
    kind = message.WhichOneof("event")
    event: Any = getattr(message, kind) if kind else None
    match kind:
        case "progress" if event.HasField("step_index"):
            return Progress(
                event.step_index,
                event.step_count,
                event.fraction,
                event.realtime_factor,
                event.left_s,
                event.stage,
            )
        case "progress" if event.stage == LISTENING:
            return Listening(event.fraction, event.realtime_factor, event.left_s)
        case "progress":
            return Writing(event.stage.removeprefix(PLANNING).removeprefix(": "))
        case "listened":
            return Listened(tuple(_heard_from_proto(sound) for sound in event.sounds), event.elapsed_s)
        case "step_planned":
            return StepPlanned(event.index, _plan_step(event.step))
        case "plan_ready":
            return PlanReady(plan_from_proto(event.plan), event.elapsed_s)
        case "question":
            return Question(event.text, tuple(event.choices))
        case "step_started":
            return StepStarted(event.index, event.count, _plan_step(event.step), event.device)
        case "step_finished":
            return StepFinished(
                event.index,
                event.count,
                _plan_step(event.step),
                audio(event.audio),
                event.elapsed_s,
                event.realtime_factor,
                event.method,
                event.confidence,
                tuple((span.start_s, span.end_s) for span in event.touched),
            )
        case "warning":
            return Notice(event.code, event.message, event.hint)
        case "summary" if event.HasField("result"):
            return Finished(audio(event.result), plan_from_proto(event.plan), event.elapsed_s, event.realtime_factor)
    return None


def _plan_step(message: step_pb2.Step) -> PlanStep:
    return PlanStep(message.step_id, step_from_proto(message), message.enabled)


def _progress(event: Listening | Progress, stage: str) -> event_pb2.ProgressEvent:
    return event_pb2.ProgressEvent(
        stage=stage, fraction=event.fraction, realtime_factor=event.realtime_factor, left_s=event.seconds_left
    )


def _heard_to_proto(sound: Heard) -> event_pb2.HeardSound:
    return event_pb2.HeardSound(
        label=sound.label,
        confidence=sound.confidence,
        level_db=sound.level_db,
        azimuth_deg=sound.azimuth_deg,
        start_s=sound.start_s,
        end_s=sound.end_s,
    )


def _heard_from_proto(message: event_pb2.HeardSound) -> Heard:
    return Heard(
        message.label,
        message.confidence,
        message.level_db,
        message.azimuth_deg if message.HasField("azimuth_deg") else None,
        message.start_s,
        message.end_s,
    )
