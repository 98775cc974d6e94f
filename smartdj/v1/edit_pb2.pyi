from smartdj.v1 import audio_pb2 as _audio_pb2
from smartdj.v1 import event_pb2 as _event_pb2
from smartdj.v1 import job_pb2 as _job_pb2
from smartdj.v1 import step_pb2 as _step_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_UNSPECIFIED: _ClassVar[Delivery]
    DELIVERY_EVERY_STEP: _ClassVar[Delivery]
    DELIVERY_RESULT: _ClassVar[Delivery]
    DELIVERY_NONE: _ClassVar[Delivery]

class OnDisconnect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DISCONNECT_UNSPECIFIED: _ClassVar[OnDisconnect]
    ON_DISCONNECT_CANCEL: _ClassVar[OnDisconnect]
    ON_DISCONNECT_CONTINUE: _ClassVar[OnDisconnect]
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_EVERY_STEP: Delivery
DELIVERY_RESULT: Delivery
DELIVERY_NONE: Delivery
ON_DISCONNECT_UNSPECIFIED: OnDisconnect
ON_DISCONNECT_CANCEL: OnDisconnect
ON_DISCONNECT_CONTINUE: OnDisconnect

class PlanHeader(_message.Message):
    __slots__ = ("request_id", "audio", "instruction", "seed", "source_name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    audio: _audio_pb2.AudioSource
    instruction: str
    seed: int
    source_name: str
    def __init__(self, request_id: _Optional[str] = ..., audio: _Optional[_Union[_audio_pb2.AudioSource, _Mapping]] = ..., instruction: _Optional[str] = ..., seed: _Optional[int] = ..., source_name: _Optional[str] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PlanHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[PlanHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.JobEvent
    def __init__(self, event: _Optional[_Union[_event_pb2.JobEvent, _Mapping]] = ...) -> None: ...

class ValidatePlanRequest(_message.Message):
    __slots__ = ("plan", "audio")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    plan: _step_pb2.Plan
    audio: _audio_pb2.AudioSource
    def __init__(self, plan: _Optional[_Union[_step_pb2.Plan, _Mapping]] = ..., audio: _Optional[_Union[_audio_pb2.AudioSource, _Mapping]] = ...) -> None: ...

class PlanViolation(_message.Message):
    __slots__ = ("field", "description", "hint", "reason")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    hint: str
    reason: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ..., hint: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ValidatePlanResponse(_message.Message):
    __slots__ = ("violations", "plan")
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    violations: _containers.RepeatedCompositeFieldContainer[PlanViolation]
    plan: _step_pb2.Plan
    def __init__(self, violations: _Optional[_Iterable[_Union[PlanViolation, _Mapping]]] = ..., plan: _Optional[_Union[_step_pb2.Plan, _Mapping]] = ...) -> None: ...

class EditHeader(_message.Message):
    __slots__ = ("request_id", "audio", "spec", "delivery", "on_disconnect")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    audio: _audio_pb2.AudioSource
    spec: _job_pb2.JobSpec
    delivery: Delivery
    on_disconnect: OnDisconnect
    def __init__(self, request_id: _Optional[str] = ..., audio: _Optional[_Union[_audio_pb2.AudioSource, _Mapping]] = ..., spec: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ...) -> None: ...

class AudioEnd(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class PlanDecision(_message.Message):
    __slots__ = ("changed_plan",)
    CHANGED_PLAN_FIELD_NUMBER: _ClassVar[int]
    changed_plan: _step_pb2.Plan
    def __init__(self, changed_plan: _Optional[_Union[_step_pb2.Plan, _Mapping]] = ...) -> None: ...

class EditCancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EditRequest(_message.Message):
    __slots__ = ("header", "data", "audio_end", "decision", "cancel")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    AUDIO_END_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    header: EditHeader
    data: bytes
    audio_end: AudioEnd
    decision: PlanDecision
    cancel: EditCancel
    def __init__(self, header: _Optional[_Union[EditHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., audio_end: _Optional[_Union[AudioEnd, _Mapping]] = ..., decision: _Optional[_Union[PlanDecision, _Mapping]] = ..., cancel: _Optional[_Union[EditCancel, _Mapping]] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("sha256", "step_index", "offset_bytes", "data", "last")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    step_index: int
    offset_bytes: int
    data: bytes
    last: bool
    def __init__(self, sha256: _Optional[str] = ..., step_index: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class EditResponse(_message.Message):
    __slots__ = ("event", "audio")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.JobEvent
    audio: AudioChunk
    def __init__(self, event: _Optional[_Union[_event_pb2.JobEvent, _Mapping]] = ..., audio: _Optional[_Union[AudioChunk, _Mapping]] = ...) -> None: ...
