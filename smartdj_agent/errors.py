"""The one error root and the one table that maps it to every door.

Every failure that a user can cause or mend is a `SmartDJError` with a stable `code`, a one-line `message` and a
`hint` that says what to do. The doors (command line, gRPC, OSC, REAPER) look the code up in `ERROR_TABLE` and never
invent their own mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable names of everything that can go wrong; part of the public contract."""

    USAGE = "usage"
    AUDIO_NOT_FOUND = "audio_not_found"
    AUDIO_UNREADABLE = "audio_unreadable"
    AUDIO_EMPTY = "audio_empty"
    AUDIO_NOT_FINITE = "audio_not_finite"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_UNSUPPORTED = "audio_unsupported"
    INSTRUCTION_EMPTY = "instruction_empty"
    INSTRUCTION_TOO_LONG = "instruction_too_long"
    INSTRUCTION_UNCLEAR = "instruction_unclear"
    STEP_SYNTAX = "step_syntax"
    STEP_RANGE = "step_range"
    PLAN_INVALID = "plan_invalid"
    PLAN_VERSION = "plan_version"
    PLAN_MISMATCH = "plan_mismatch"
    OUTPUT_EXISTS = "output_exists"
    OUTPUT_UNWRITABLE = "output_unwritable"
    OUTPUT_IS_INPUT = "output_is_input"
    DISK_FULL = "disk_full"
    MODEL_MISSING = "model_missing"
    MODEL_CORRUPT = "model_corrupt"
    MODEL_MISMATCH = "model_mismatch"
    DEVICE_UNAVAILABLE = "device_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    ENDPOINT_FAILED = "endpoint_failed"
    QUEUE_FULL = "queue_full"
    SERVER_UNREACHABLE = "server_unreachable"
    UNAUTHENTICATED = "unauthenticated"
    PATH_FORBIDDEN = "path_forbidden"
    JOB_NOT_FOUND = "job_not_found"
    JOB_ENDED = "job_ended"
    UPLOAD_MISMATCH = "upload_mismatch"
    SERVER_STOPPING = "server_stopping"
    DEADLINE = "deadline"
    WORKER_CRASHED = "worker_crashed"
    SERVER_CONFIG = "server_config"
    REAPER_RUNNING = "reaper_running"
    RPP_INVALID = "rpp_invalid"
    REAPER_SETUP = "reaper_setup"
    BATCH_PARTIAL = "batch_partial"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


@dataclass(frozen=True)
class ErrorRow:
    """How one code shows at each door.

    Attributes
    ----------
    exit_code
        Process exit status of the command line; unique per code.
    grpc_status
        Name of the `grpc.StatusCode` member.
    title
        Heading of a dialog; also the text of an OSC ``/error`` message's kind.
    """

    exit_code: int
    grpc_status: str
    title: str


ERROR_TABLE: dict[ErrorCode, ErrorRow] = {
    ErrorCode.USAGE: ErrorRow(2, "INVALID_ARGUMENT", "Wrong usage"),
    ErrorCode.AUDIO_NOT_FOUND: ErrorRow(10, "NOT_FOUND", "Audio not found"),
    ErrorCode.AUDIO_UNREADABLE: ErrorRow(11, "INVALID_ARGUMENT", "Audio can't be read"),
    ErrorCode.AUDIO_EMPTY: ErrorRow(12, "INVALID_ARGUMENT", "Audio is empty"),
    ErrorCode.AUDIO_NOT_FINITE: ErrorRow(13, "INVALID_ARGUMENT", "Audio holds invalid samples"),
    ErrorCode.AUDIO_TOO_LONG: ErrorRow(14, "INVALID_ARGUMENT", "Audio is too long"),
    ErrorCode.AUDIO_UNSUPPORTED: ErrorRow(15, "INVALID_ARGUMENT", "Audio format not supported"),
    ErrorCode.INSTRUCTION_EMPTY: ErrorRow(20, "INVALID_ARGUMENT", "Instruction is empty"),
    ErrorCode.INSTRUCTION_TOO_LONG: ErrorRow(21, "INVALID_ARGUMENT", "Instruction is too long"),
    ErrorCode.INSTRUCTION_UNCLEAR: ErrorRow(22, "FAILED_PRECONDITION", "Instruction is unclear"),
    ErrorCode.STEP_SYNTAX: ErrorRow(30, "INVALID_ARGUMENT", "Step not understood"),
    ErrorCode.STEP_RANGE: ErrorRow(31, "OUT_OF_RANGE", "Value out of range"),
    ErrorCode.PLAN_INVALID: ErrorRow(32, "INVALID_ARGUMENT", "Plan is invalid"),
    ErrorCode.PLAN_VERSION: ErrorRow(33, "FAILED_PRECONDITION", "Plan version not supported"),
    ErrorCode.PLAN_MISMATCH: ErrorRow(34, "FAILED_PRECONDITION", "Plan is for another recording"),
    ErrorCode.OUTPUT_EXISTS: ErrorRow(40, "ALREADY_EXISTS", "Output exists"),
    ErrorCode.OUTPUT_UNWRITABLE: ErrorRow(41, "PERMISSION_DENIED", "Output can't be written"),
    ErrorCode.OUTPUT_IS_INPUT: ErrorRow(42, "INVALID_ARGUMENT", "Output is the input"),
    ErrorCode.DISK_FULL: ErrorRow(43, "RESOURCE_EXHAUSTED", "Disk is full"),
    ErrorCode.MODEL_MISSING: ErrorRow(50, "NOT_FOUND", "Model not installed"),
    ErrorCode.MODEL_CORRUPT: ErrorRow(51, "DATA_LOSS", "Model file is damaged"),
    ErrorCode.MODEL_MISMATCH: ErrorRow(52, "FAILED_PRECONDITION", "Model does not match"),
    ErrorCode.DEVICE_UNAVAILABLE: ErrorRow(53, "FAILED_PRECONDITION", "Device not available"),
    ErrorCode.OUT_OF_MEMORY: ErrorRow(54, "RESOURCE_EXHAUSTED", "Out of memory"),
    ErrorCode.ENDPOINT_FAILED: ErrorRow(60, "UNAVAILABLE", "Endpoint failed"),
    ErrorCode.QUEUE_FULL: ErrorRow(80, "RESOURCE_EXHAUSTED", "Server is busy"),
    ErrorCode.SERVER_UNREACHABLE: ErrorRow(81, "UNAVAILABLE", "Server can't be reached"),
    ErrorCode.UNAUTHENTICATED: ErrorRow(82, "UNAUTHENTICATED", "Not signed in"),
    ErrorCode.PATH_FORBIDDEN: ErrorRow(83, "PERMISSION_DENIED", "Path not allowed"),
    ErrorCode.JOB_NOT_FOUND: ErrorRow(84, "NOT_FOUND", "Job not found"),
    ErrorCode.JOB_ENDED: ErrorRow(85, "FAILED_PRECONDITION", "Job has ended"),
    ErrorCode.UPLOAD_MISMATCH: ErrorRow(86, "INVALID_ARGUMENT", "Upload does not match"),
    ErrorCode.SERVER_STOPPING: ErrorRow(87, "UNAVAILABLE", "Server is stopping"),
    ErrorCode.DEADLINE: ErrorRow(88, "DEADLINE_EXCEEDED", "Time is up"),
    ErrorCode.WORKER_CRASHED: ErrorRow(89, "INTERNAL", "Worker crashed"),
    ErrorCode.SERVER_CONFIG: ErrorRow(90, "FAILED_PRECONDITION", "Server configuration is wrong"),
    ErrorCode.REAPER_RUNNING: ErrorRow(91, "FAILED_PRECONDITION", "REAPER is running"),
    ErrorCode.RPP_INVALID: ErrorRow(92, "INVALID_ARGUMENT", "REAPER project is invalid"),
    ErrorCode.REAPER_SETUP: ErrorRow(94, "FAILED_PRECONDITION", "REAPER set-up is incomplete"),
    ErrorCode.BATCH_PARTIAL: ErrorRow(93, "FAILED_PRECONDITION", "Part of the batch failed"),
    ErrorCode.CANCELLED: ErrorRow(130, "CANCELLED", "Cancelled"),
    ErrorCode.INTERNAL: ErrorRow(70, "INTERNAL", "Internal error"),
}


class SmartDJError(Exception):
    """A failure with a stable code, a one-line message and a hint.

    Parameters
    ----------
    code
        What went wrong; a key of `ERROR_TABLE`.
    message
        One line for a person, naming the file or value.
    hint
        What to do about it; may be empty only for `ErrorCode.CANCELLED`.
    field
        Dotted path of the offending field, such as ``plan.steps[2].gain_db``; empty where none applies.
    """

    def __init__(self, code: ErrorCode, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.field = field

    @property
    def row(self) -> ErrorRow:
        """How this error shows at each door."""
        return ERROR_TABLE[self.code]

    def __reduce__(self) -> tuple[type[SmartDJError], tuple[ErrorCode, str, str, str]]:
        # Exceptions are pickled with their message alone; this one goes between processes.
        return type(self), (self.code, self.message, self.hint, self.field)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
