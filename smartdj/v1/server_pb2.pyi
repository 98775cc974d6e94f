from smartdj.v1 import step_pb2 as _step_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ParameterInfo(_message.Message):
    __slots__ = ("name", "description", "unit", "minimum", "maximum", "resolution", "default_value", "choices", "required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    unit: str
    minimum: float
    maximum: float
    resolution: float
    default_value: float
    choices: _containers.RepeatedScalarFieldContainer[str]
    required: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., unit: _Optional[str] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., resolution: _Optional[float] = ..., default_value: _Optional[float] = ..., choices: _Optional[_Iterable[str]] = ..., required: _Optional[bool] = ...) -> None: ...

class OperationInfo(_message.Message):
    __slots__ = ("name", "summary", "parameters", "templates", "examples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterInfo]
    templates: _containers.RepeatedScalarFieldContainer[str]
    examples: _containers.RepeatedCompositeFieldContainer[_step_pb2.Step]
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[ParameterInfo, _Mapping]]] = ..., templates: _Optional[_Iterable[str]] = ..., examples: _Optional[_Iterable[_Union[_step_pb2.Step, _Mapping]]] = ...) -> None: ...

class LimitsInfo(_message.Message):
    __slots__ = ("max_audio_bytes", "max_audio_s", "max_channels", "max_instruction_chars", "max_steps", "max_message_bytes", "max_queue", "max_queue_per_client")
    MAX_AUDIO_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_AUDIO_S_FIELD_NUMBER: _ClassVar[int]
    MAX_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    MAX_INSTRUCTION_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_PER_CLIENT_FIELD_NUMBER: _ClassVar[int]
    max_audio_bytes: int
    max_audio_s: float
    max_channels: int
    max_instruction_chars: int
    max_steps: int
    max_message_bytes: int
    max_queue: int
    max_queue_per_client: int
    def __init__(self, max_audio_bytes: _Optional[int] = ..., max_audio_s: _Optional[float] = ..., max_channels: _Optional[int] = ..., max_instruction_chars: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_queue: _Optional[int] = ..., max_queue_per_client: _Optional[int] = ...) -> None: ...

class DeviceInfo(_message.Message):
    __slots__ = ("device", "model", "ready", "busy")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    device: str
    model: str
    ready: bool
    busy: bool
    def __init__(self, device: _Optional[str] = ..., model: _Optional[str] = ..., ready: _Optional[bool] = ..., busy: _Optional[bool] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("role", "name", "sha256", "parameters")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    sha256: str
    parameters: int
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("version", "preset", "operations", "modes", "input_containers", "limits", "models", "devices", "local_paths")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    INPUT_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PATHS_FIELD_NUMBER: _ClassVar[int]
    version: str
    preset: str
    operations: _containers.RepeatedCompositeFieldContainer[OperationInfo]
    modes: _containers.RepeatedScalarFieldContainer[str]
    input_containers: _containers.RepeatedScalarFieldContainer[str]
    limits: LimitsInfo
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceInfo]
    local_paths: bool
    def __init__(self, version: _Optional[str] = ..., preset: _Optional[str] = ..., operations: _Optional[_Iterable[_Union[OperationInfo, _Mapping]]] = ..., modes: _Optional[_Iterable[str]] = ..., input_containers: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[LimitsInfo, _Mapping]] = ..., models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ..., devices: _Optional[_Iterable[_Union[DeviceInfo, _Mapping]]] = ..., local_paths: _Optional[bool] = ...) -> None: ...

class ReloadConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadConfigResponse(_message.Message):
    __slots__ = ("applied", "restart_needed")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    RESTART_NEEDED_FIELD_NUMBER: _ClassVar[int]
    applied: _containers.RepeatedScalarFieldContainer[str]
    restart_needed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, applied: _Optional[_Iterable[str]] = ..., restart_needed: _Optional[_Iterable[str]] = ...) -> None: ...
