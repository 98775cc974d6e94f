from google.rpc import status_pb2 as _status_pb2
from smartdj.v1 import audio_pb2 as _audio_pb2
from smartdj.v1 import step_pb2 as _step_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobEvent(_message.Message):
    __slots__ = ("sequence", "job_id", "queued", "progress", "listened", "step_planned", "plan_ready", "question", "step_started", "step_finished", "warning", "summary", "failed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LISTENED_FIELD_NUMBER: _ClassVar[int]
    STEP_PLANNED_FIELD_NUMBER: _ClassVar[int]
    PLAN_READY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    STEP_STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_FINISHED_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    job_id: str
    queued: QueuedEvent
    progress: ProgressEvent
    listened: ListenedEvent
    step_planned: StepPlannedEvent
    plan_ready: PlanReadyEvent
    question: QuestionEvent
    step_started: StepStartedEvent
    step_finished: StepFinishedEvent
    warning: WarningEvent
    summary: SummaryEvent
    failed: FailedEvent
    def __init__(self, sequence: _Optional[int] = ..., job_id: _Optional[str] = ..., queued: _Optional[_Union[QueuedEvent, _Mapping]] = ..., progress: _Optional[_Union[ProgressEvent, _Mapping]] = ..., listened: _Optional[_Union[ListenedEvent, _Mapping]] = ..., step_planned: _Optional[_Union[StepPlannedEvent, _Mapping]] = ..., plan_ready: _Optional[_Union[PlanReadyEvent, _Mapping]] = ..., question: _Optional[_Union[QuestionEvent, _Mapping]] = ..., step_started: _Optional[_Union[StepStartedEvent, _Mapping]] = ..., step_finished: _Optional[_Union[StepFinishedEvent, _Mapping]] = ..., warning: _Optional[_Union[WarningEvent, _Mapping]] = ..., summary: _Optional[_Union[SummaryEvent, _Mapping]] = ..., failed: _Optional[_Union[FailedEvent, _Mapping]] = ...) -> None: ...

class QueuedEvent(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class ProgressEvent(_message.Message):
    __slots__ = ("stage", "step_index", "step_count", "fraction", "realtime_factor", "left_s")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    REALTIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    LEFT_S_FIELD_NUMBER: _ClassVar[int]
    stage: str
    step_index: int
    step_count: int
    fraction: float
    realtime_factor: float
    left_s: float
    def __init__(self, stage: _Optional[str] = ..., step_index: _Optional[int] = ..., step_count: _Optional[int] = ..., fraction: _Optional[float] = ..., realtime_factor: _Optional[float] = ..., left_s: _Optional[float] = ...) -> None: ...

class HeardSound(_message.Message):
    __slots__ = ("label", "confidence", "level_db", "azimuth_deg", "start_s", "end_s")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_DB_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    level_db: float
    azimuth_deg: float
    start_s: float
    end_s: float
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ..., level_db: _Optional[float] = ..., azimuth_deg: _Optional[float] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ...) -> None: ...

class ListenedEvent(_message.Message):
    __slots__ = ("sounds", "elapsed_s")
    SOUNDS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    sounds: _containers.RepeatedCompositeFieldContainer[HeardSound]
    elapsed_s: float
    def __init__(self, sounds: _Optional[_Iterable[_Union[HeardSound, _Mapping]]] = ..., elapsed_s: _Optional[float] = ...) -> None: ...

class StepPlannedEvent(_message.Message):
    __slots__ = ("index", "step")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    index: int
    step: _step_pb2.Step
    def __init__(self, index: _Optional[int] = ..., step: _Optional[_Union[_step_pb2.Step, _Mapping]] = ...) -> None: ...

class PlanReadyEvent(_message.Message):
    __slots__ = ("plan", "elapsed_s", "awaits_review")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    AWAITS_REVIEW_FIELD_NUMBER: _ClassVar[int]
    plan: _step_pb2.Plan
    elapsed_s: float
    awaits_review: bool
    def __init__(self, plan: _Optional[_Union[_step_pb2.Plan, _Mapping]] = ..., elapsed_s: _Optional[float] = ..., awaits_review: _Optional[bool] = ...) -> None: ...

class QuestionEvent(_message.Message):
    __slots__ = ("text", "choices")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    text: str
    choices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, text: _Optional[str] = ..., choices: _Optional[_Iterable[str]] = ...) -> None: ...

class StepStartedEvent(_message.Message):
    __slots__ = ("index", "count", "step", "device")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    index: int
    count: int
    step: _step_pb2.Step
    device: str
    def __init__(self, index: _Optional[int] = ..., count: _Optional[int] = ..., step: _Optional[_Union[_step_pb2.Step, _Mapping]] = ..., device: _Optional[str] = ...) -> None: ...

class TimeSpan(_message.Message):
    __slots__ = ("start_s", "end_s")
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    start_s: float
    end_s: float
    def __init__(self, start_s: _Optional[float] = ..., end_s: _Optional[float] = ...) -> None: ...

class StepFinishedEvent(_message.Message):
    __slots__ = ("index", "count", "step", "audio", "elapsed_s", "realtime_factor", "method", "confidence", "touched")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    REALTIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    index: int
    count: int
    step: _step_pb2.Step
    audio: _audio_pb2.AudioInfo
    elapsed_s: float
    realtime_factor: float
    method: str
    confidence: float
    touched: _containers.RepeatedCompositeFieldContainer[TimeSpan]
    def __init__(self, index: _Optional[int] = ..., count: _Optional[int] = ..., step: _Optional[_Union[_step_pb2.Step, _Mapping]] = ..., audio: _Optional[_Union[_audio_pb2.AudioInfo, _Mapping]] = ..., elapsed_s: _Optional[float] = ..., realtime_factor: _Optional[float] = ..., method: _Optional[str] = ..., confidence: _Optional[float] = ..., touched: _Optional[_Iterable[_Union[TimeSpan, _Mapping]]] = ...) -> None: ...

class WarningEvent(_message.Message):
    __slots__ = ("code", "message", "hint", "step_index")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    step_index: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., step_index: _Optional[int] = ...) -> None: ...

class SummaryEvent(_message.Message):
    __slots__ = ("result", "source", "plan", "steps", "elapsed_s", "realtime_factor")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    REALTIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    result: _audio_pb2.AudioInfo
    source: _audio_pb2.AudioInfo
    plan: _step_pb2.Plan
    steps: _containers.RepeatedCompositeFieldContainer[_audio_pb2.AudioInfo]
    elapsed_s: float
    realtime_factor: float
    def __init__(self, result: _Optional[_Union[_audio_pb2.AudioInfo, _Mapping]] = ..., source: _Optional[_Union[_audio_pb2.AudioInfo, _Mapping]] = ..., plan: _Optional[_Union[_step_pb2.Plan, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[_audio_pb2.AudioInfo, _Mapping]]] = ..., elapsed_s: _Optional[float] = ..., realtime_factor: _Optional[float] = ...) -> None: ...

class FailedEvent(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _status_pb2.Status
    def __init__(self, error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
