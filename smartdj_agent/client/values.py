"""What the client returns: frozen values, made from the protocol's messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from smartdj.v1 import audio_pb2, job_pb2, server_pb2
from smartdj_agent.errors import SmartDJError
from smartdj_agent.plan import Plan, PlanStep
from smartdj_agent.wire import plan_from_proto, step_from_proto
from smartdj_agent.wire_status import from_status


@dataclass(frozen=True)
class RemoteAudio:
    """A recording that the server has.

    Attributes
    ----------
    sha256
        Hash of the file's bytes, 64 hexadecimal digits: its name at the server.
    audio_sha256
        Hash of what it sounds like (`smartdj_agent.audio.audio_sha256`); empty until it was worked on.
    size_bytes
        Size of the file.
    sample_rate
        Hz.
    channels, frames
        Number of channels, and of samples per channel.
    container, subtype
        In libsndfile's words, such as ``WAV`` and ``PCM_16``.
    """

    sha256: str
    audio_sha256: str = ""
    size_bytes: int = 0
    sample_rate: int = 0
    channels: int = 0
    frames: int = 0
    container: str = ""
    subtype: str = ""

    @property
    def duration_s(self) -> float:
        """Length in seconds; 0 where it is unknown."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0


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
        """Whether nothing more will happen."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Job:
    """One job, as it stood when the server was asked.

    Attributes
    ----------
    job_id
        Its name.
    state
        Where it stands.
    instruction
        What was asked for; empty for a job that was given a plan.
    plan
        What is carried out, once that is known.
    source
        The recording.
    steps
        The recording after each step that is done, first to last.
    result
        The result, once there is one.
    error
        Why it failed or was cancelled.
    created, ended
        When; `ended` is None while it goes on.
    last_sequence
        Number of its newest event.
    source_name
        File name of the recording, for people; empty where nobody told it.
    mode, seed
        How it is carried out.
    """

    job_id: str
    state: JobState
    instruction: str
    plan: Plan | None
    source: RemoteAudio
    steps: tuple[RemoteAudio, ...]
    result: RemoteAudio | None
    error: SmartDJError | None
    created: datetime
    ended: datetime | None
    last_sequence: int
    source_name: str = ""
    mode: str = "preserve"
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """What a server says about a plan.

    Attributes
    ----------
    faults
        All that is wrong, each with its `field`, such as ``plan.steps[2].volume.gain_db``; empty for a good plan.
    plan
        The plan with ids filled in; None where there are faults.
    """

    faults: tuple[SmartDJError, ...]
    plan: Plan | None

    def __bool__(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of an operation; `minimum`, `maximum` and `resolution` are None for a choice."""

    name: str
    description: str
    unit: str
    minimum: float | None
    maximum: float | None
    resolution: float | None
    default: float | None
    choices: tuple[str, ...]
    required: bool


@dataclass(frozen=True)
class OperationInfo:
    """One operation: what it does, its parameters besides the sound, and how it is written."""

    name: str
    summary: str
    parameters: tuple[ParameterInfo, ...]
    templates: tuple[str, ...]
    examples: tuple[PlanStep, ...]


@dataclass(frozen=True)
class Limits:
    """Limits that the server sets; sizes in bytes, times in seconds."""

    max_audio_bytes: int
    max_audio_s: float
    max_channels: int
    max_instruction_chars: int
    max_steps: int
    max_message_bytes: int
    max_queue: int
    max_queue_per_client: int


@dataclass(frozen=True)
class ModelInfo:
    """A network that is installed at the server; `sha256` is that of its weights."""

    role: str
    name: str
    sha256: str
    parameters: int


@dataclass(frozen=True)
class DeviceInfo:
    """A device that does the work: ``cpu``, ``cuda:0`` …, with its name for people."""

    device: str
    model: str
    ready: bool
    busy: bool


@dataclass(frozen=True)
class Capabilities:
    """What a server can do.

    Attributes
    ----------
    version, preset
        Of the server's program, and of the networks that it serves.
    operations
        The eight operations with their ranges, units and defaults.
    modes
        ``preserve``, ``generate``.
    input_containers
        Containers that it reads, in libsndfile's words.
    limits
        Sizes, lengths and queue.
    models, devices
        What does the work.
    local_paths
        Whether paths on the server's machine may be named.
    """

    version: str
    preset: str
    operations: tuple[OperationInfo, ...]
    modes: tuple[str, ...]
    input_containers: tuple[str, ...]
    limits: Limits
    models: tuple[ModelInfo, ...]
    devices: tuple[DeviceInfo, ...]
    local_paths: bool


def audio_from_proto(message: audio_pb2.AudioInfo) -> RemoteAudio:
    """Return the message as a value."""
    return RemoteAudio(
        message.sha256,
        message.audio_sha256,
        message.size_bytes,
        message.sample_rate_hz,
        message.channels,
        message.frames,
        message.container,
        message.subtype,
    )


def job_from_proto(message: job_pb2.Job) -> Job:
    """Return the message as a value."""
    return Job(
        job_id=message.job_id,
        state=_state_from_proto(message.state),
        instruction=message.spec.instruction,
        plan=plan_from_proto(message.plan) if message.HasField("plan") else None,
        source=audio_from_proto(message.source),
        steps=tuple(audio_from_proto(step) for step in message.steps),
        result=audio_from_proto(message.result) if message.HasField("result") else None,
        error=from_status(message.error) if message.HasField("error") and message.error.code else None,
        created=_time(message.create_time),
        ended=_time(message.end_time) if message.HasField("end_time") else None,
        last_sequence=message.last_sequence,
        source_name=message.spec.source_name,
        mode="generate" if message.spec.mode == job_pb2.MODE_GENERATE else "preserve",
        seed=message.spec.seed,
    )


def _state_from_proto(state: int) -> JobState:
    return JobState(job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower())


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def capabilities_from_proto(message: server_pb2.GetCapabilitiesResponse) -> Capabilities:
    """Return the message as a value."""
    limits = message.limits
    return Capabilities(
        version=message.version,
        preset=message.preset,
        operations=tuple(
            OperationInfo(
                item.name,
                item.summary,
                tuple(_parameter(parameter) for parameter in item.parameters),
                tuple(item.templates),
                tuple(PlanStep(f"s{n}", step_from_proto(step)) for n, step in enumerate(item.examples, start=1)),
            )
            for item in message.operations
        ),
        modes=tuple(message.modes),
        input_containers=tuple(message.input_containers),
        limits=Limits(
            limits.max_audio_bytes,
            limits.max_audio_s,
            limits.max_channels,
            limits.max_instruction_chars,
            limits.max_steps,
            limits.max_message_bytes,
            limits.max_queue,
            limits.max_queue_per_client,
        ),
        models=tuple(ModelInfo(item.role, item.name, item.sha256, item.parameters) for item in message.models),
        devices=tuple(DeviceInfo(item.device, item.model, item.ready, item.busy) for item in message.devices),
        local_paths=message.local_paths,
    )


def _parameter(message: server_pb2.ParameterInfo) -> ParameterInfo:
    def number(name: Any) -> float | None:
        return getattr(message, name) if message.HasField(name) else None

    return ParameterInfo(
        message.name,
        message.description,
        message.unit,
        number("minimum"),
        number("maximum"),
        number("resolution"),
        number("default_value"),
        tuple(message.choices),
        message.required,
    )
