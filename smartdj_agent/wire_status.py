"""Errors on the wire: `SmartDJError` to `google.rpc.Status` and back, without loss.

Server and client share this module. The status holds an ``ErrorInfo`` whose reason is the code in upper case, a
``BadRequest`` where the error names a field, and a ``RetryInfo`` where waiting helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    import grpc

DOMAIN = "smartdj.agent"
STATUS_KEY = "grpc-status-details-bin"
RETRY_S = 2.0

# gRPC drops calls whose trailing metadata exceeds 8 KiB. The message travels three times (once percent-encoded: three
# bytes for one), hint and field twice at most, so these bounds (bytes) keep every status far below that.
MAX_MESSAGE_BYTES = 700
MAX_HINT_BYTES = 700
MAX_FIELD_BYTES = 200

_UPDATE = "Update client and server to the same version."
_START = "Start it with `smartdj serve`, or check the address, the port and whether it wants TLS."

# For answers without our details: gRPC itself, a proxy, or another program at that address.
_FOREIGN: dict[int, tuple[ErrorCode, str]] = {
    code_pb2.CANCELLED: (ErrorCode.CANCELLED, ""),
    code_pb2.DEADLINE_EXCEEDED: (ErrorCode.DEADLINE, "Allow more time, or ask again when the server is less busy."),
    code_pb2.UNAVAILABLE: (ErrorCode.SERVER_UNREACHABLE, _START),
    code_pb2.UNAUTHENTICATED: (ErrorCode.UNAUTHENTICATED, "Give the server's token with --token-file."),
    code_pb2.PERMISSION_DENIED: (ErrorCode.UNAUTHENTICATED, "Give the server's token with --token-file."),
    code_pb2.INVALID_ARGUMENT: (ErrorCode.USAGE, _UPDATE),
    code_pb2.UNIMPLEMENTED: (ErrorCode.ENDPOINT_FAILED, f"Check that this is a SmartDJ server. {_UPDATE}"),
    code_pb2.RESOURCE_EXHAUSTED: (ErrorCode.ENDPOINT_FAILED, "Send smaller messages, or raise max_message_bytes."),
}
_FOREIGN_ELSE = (ErrorCode.ENDPOINT_FAILED, f"Check the server's log. {_UPDATE}")


def to_status(error: SmartDJError, *, retry_s: float | None = None) -> Status:
    """Describe an error so that any gRPC client can read it.

    Parameters
    ----------
    error
        What went wrong. Message, hint and field are cut to `MAX_MESSAGE_BYTES`, `MAX_HINT_BYTES` and
        `MAX_FIELD_BYTES`, with an ellipsis.
    retry_s
        Seconds after which trying again makes sense; by default `RETRY_S` for ``QUEUE_FULL`` and nothing else.

    Returns
    -------
    google.rpc.Status
        Code, message and the details named above.
    """
    message = _clipped(error.message, MAX_MESSAGE_BYTES)
    field = _clipped(error.field, MAX_FIELD_BYTES)
    status = Status(code=code_pb2.Code.Value(error.row.grpc_status), message=message)
    metadata = {"title": error.row.title}
    if error.hint:
        metadata["hint"] = _clipped(error.hint, MAX_HINT_BYTES)
    if field:
        metadata["field"] = field
    status.details.add().Pack(ErrorInfo(reason=error.code.name, domain=DOMAIN, metadata=metadata))
    if field:
        violation = BadRequest.FieldViolation(field=field, description=message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    if retry_s is None and error.code is ErrorCode.QUEUE_FULL:
        retry_s = RETRY_S
    if retry_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(retry_s * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


def from_status(status: Status) -> SmartDJError:
    """Read a status, whoever wrote it.

    Parameters
    ----------
    status
        Of this server, of a newer one whose code is unknown here, or of gRPC or a proxy without any details.

    Returns
    -------
    SmartDJError
        With the server's own code, message, hint and field where they are there; else the nearest code.

    Raises
    ------
    ValueError
        For a status that is OK: there is no error to read.
    """
    if status.code == code_pb2.OK:
        raise ValueError("status is OK")
    code, hint = _FOREIGN.get(status.code, _FOREIGN_ELSE)  # until our own details say better
    message, field = status.message or f"the server answered {_name(status.code)}", ""
    if code is ErrorCode.SERVER_UNREACHABLE:
        message = f"the server can't be reached: {status.message}" if status.message else "the server can't be reached"
    for detail in status.details:
        info, bad = ErrorInfo(), BadRequest()
        try:
            if detail.Unpack(info) and info.domain == DOMAIN:
                if info.reason in ErrorCode.__members__:
                    code = ErrorCode[info.reason]
                message, hint = status.message, info.metadata.get("hint", "")
                field = info.metadata.get("field", "")
            elif detail.Unpack(bad) and bad.field_violations and not field:
                field = bad.field_violations[0].field
        except DecodeError:
            continue  # one spoilt detail doesn't spoil the others
    return SmartDJError(code, message, hint, field)


def retry_after_s(status: Status) -> float | None:
    """Tell how long the server asks to wait before trying again, seconds; None where it doesn't ask."""
    for detail in status.details:
        retry = RetryInfo()
        try:
            if detail.Unpack(retry):
                return max(0.0, retry.retry_delay.ToMilliseconds() / 1000)
        except DecodeError:
            continue
    return None


def status_of(error: grpc.RpcError) -> Status:
    """Fetch the rich status of a failed call, sync or async.

    Parameters
    ----------
    error
        What `grpc` or `grpc.aio` raised.

    Returns
    -------
    google.rpc.Status
        The server's; one of only code and message where the call carries none or a contradictory one.
    """
    code, message = _call_code(error), ""
    if callable(details := getattr(error, "details", None)):
        message = details() or ""
    for key, value in _trailing_metadata(error):
        if key == STATUS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                continue
            if status.code == code:
                return status
    return Status(code=code, message=_clipped(" ".join(message.split()), MAX_MESSAGE_BYTES))


def from_rpc_error(error: grpc.RpcError) -> SmartDJError:
    """Turn a failed call into the server's own error; see `status_of` and `from_status`."""
    return from_status(status_of(error))


def _call_code(error: grpc.RpcError) -> int:
    code = getattr(error, "code", None)
    status_code = code() if callable(code) else None
    number = status_code.value[0] if status_code is not None else code_pb2.UNKNOWN
    return number if number != code_pb2.OK else code_pb2.UNKNOWN


def _trailing_metadata(error: grpc.RpcError) -> list[tuple[str, str | bytes]]:
    trailing = getattr(error, "trailing_metadata", None)
    return list(trailing() or ()) if callable(trailing) else []


def _name(code: int) -> str:
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else str(code)


def _clipped(text: str, limit: int) -> str:
    """Cut a text to `limit` bytes of UTF-8; lone surrogates (undecodable file names) become question marks."""
    data = text.encode("utf-8", "replace")
    if len(data) > limit:
        data = data[: limit - 3]
        return data.decode("utf-8", "ignore") + "…"
    return data.decode("utf-8")
