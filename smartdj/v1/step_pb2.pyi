from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Timbre(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIMBRE_UNSPECIFIED: _ClassVar[Timbre]
    TIMBRE_BRIGHT: _ClassVar[Timbre]
    TIMBRE_DARK: _ClassVar[Timbre]
    TIMBRE_WARM: _ClassVar[Timbre]
    TIMBRE_COLD: _ClassVar[Timbre]
    TIMBRE_MUFFLED: _ClassVar[Timbre]
TIMBRE_UNSPECIFIED: Timbre
TIMBRE_BRIGHT: Timbre
TIMBRE_DARK: Timbre
TIMBRE_WARM: Timbre
TIMBRE_COLD: Timbre
TIMBRE_MUFFLED: Timbre

class Step(_message.Message):
    __slots__ = ("step_id", "enabled", "text", "add", "remove", "extract", "volume", "direction", "shift", "reverb", "timbre")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    EXTRACT_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    REVERB_FIELD_NUMBER: _ClassVar[int]
    TIMBRE_FIELD_NUMBER: _ClassVar[int]
    step_id: str
    enabled: bool
    text: str
    add: AddOperation
    remove: RemoveOperation
    extract: ExtractOperation
    volume: VolumeOperation
    direction: DirectionOperation
    shift: ShiftOperation
    reverb: ReverbOperation
    timbre: TimbreOperation
    def __init__(self, step_id: _Optional[str] = ..., enabled: _Optional[bool] = ..., text: _Optional[str] = ..., add: _Optional[_Union[AddOperation, _Mapping]] = ..., remove: _Optional[_Union[RemoveOperation, _Mapping]] = ..., extract: _Optional[_Union[ExtractOperation, _Mapping]] = ..., volume: _Optional[_Union[VolumeOperation, _Mapping]] = ..., direction: _Optional[_Union[DirectionOperation, _Mapping]] = ..., shift: _Optional[_Union[ShiftOperation, _Mapping]] = ..., reverb: _Optional[_Union[ReverbOperation, _Mapping]] = ..., timbre: _Optional[_Union[TimbreOperation, _Mapping]] = ...) -> None: ...

class AddOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "gain_db")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    GAIN_DB_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    gain_db: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., gain_db: _Optional[float] = ...) -> None: ...

class RemoveOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ...) -> None: ...

class ExtractOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ...) -> None: ...

class VolumeOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "gain_db")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    GAIN_DB_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    gain_db: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., gain_db: _Optional[float] = ...) -> None: ...

class DirectionOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "to_azimuth_deg")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    TO_AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    to_azimuth_deg: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., to_azimuth_deg: _Optional[float] = ...) -> None: ...

class ShiftOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "shift_s")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    SHIFT_S_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    shift_s: float
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., shift_s: _Optional[float] = ...) -> None: ...

class ReverbOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "reverb_level")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    REVERB_LEVEL_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    reverb_level: int
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., reverb_level: _Optional[int] = ...) -> None: ...

class TimbreOperation(_message.Message):
    __slots__ = ("sound", "azimuth_deg", "timbre")
    SOUND_FIELD_NUMBER: _ClassVar[int]
    AZIMUTH_DEG_FIELD_NUMBER: _ClassVar[int]
    TIMBRE_FIELD_NUMBER: _ClassVar[int]
    sound: str
    azimuth_deg: float
    timbre: Timbre
    def __init__(self, sound: _Optional[str] = ..., azimuth_deg: _Optional[float] = ..., timbre: _Optional[_Union[Timbre, str]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("steps", "instruction", "source_audio_sha256", "source_name", "provenance")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_AUDIO_SHA256_FIELD_NUMBER: _ClassVar[int]
    SOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    instruction: str
    source_audio_sha256: str
    source_name: str
    provenance: PlanProvenance
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., instruction: _Optional[str] = ..., source_audio_sha256: _Optional[str] = ..., source_name: _Optional[str] = ..., provenance: _Optional[_Union[PlanProvenance, _Mapping]] = ...) -> None: ...

class PlanProvenance(_message.Message):
    __slots__ = ("planner", "editor", "seed", "created")
    PLANNER_FIELD_NUMBER: _ClassVar[int]
    EDITOR_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    planner: str
    editor: str
    seed: int
    created: str
    def __init__(self, planner: _Optional[str] = ..., editor: _Optional[str] = ..., seed: _Optional[int] = ..., created: _Optional[str] = ...) -> None: ...
