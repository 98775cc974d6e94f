"""Errors survive the wire: every code, every text, whoever wrote the status."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from hypothesis import example, given
from hypothesis import strategies as st

from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.wire_status import (
    DOMAIN,
    MAX_FIELD_BYTES,
    MAX_HINT_BYTES,
    MAX_MESSAGE_BYTES,
    RETRY_S,
    STATUS_KEY,
    from_rpc_error,
    from_status,
    retry_after_s,
    to_status,
)

METHOD = "/test.Thing/Do"
Parts = tuple[ErrorCode, str, str, str]


def parts(error: SmartDJError) -> Parts:
    return error.code, error.message, error.hint, error.field


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_there_and_back(code: ErrorCode) -> None:
    error = SmartDJError(code, f"{code}: 3 × “zu laut”", "lower it", "plan.steps[2].volume.gain_db")
    status = Status.FromString(to_status(error).SerializeToString())
    assert code_pb2.Code.Name(status.code) == ERROR_TABLE[code].grpc_status
    assert parts(from_status(status)) == parts(error)


def test_what_a_foreign_client_reads() -> None:
    status = to_status(SmartDJError(ErrorCode.STEP_RANGE, "too loud", "lower it", "plan.steps[2].volume.gain_db"))
    info, bad = ErrorInfo(), BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("STEP_RANGE", DOMAIN)
    assert dict(info.metadata) == {
        "title": "Value out of range",
        "hint": "lower it",
        "field": "plan.steps[2].volume.gain_db",
    }
    violations = [(violation.field, violation.description) for violation in bad.field_violations]
    assert violations == [("plan.steps[2].volume.gain_db", "too loud")]


def test_no_field_no_bad_request_and_no_retry() -> None:
    status = to_status(SmartDJError(ErrorCode.DISK_FULL, "full", "free some"))
    assert [detail.TypeName() for detail in status.details] == ["google.rpc.ErrorInfo"]
    assert retry_after_s(status) is None


def test_a_full_queue_says_when_to_come_back() -> None:
    error = SmartDJError(ErrorCode.QUEUE_FULL, "256 jobs wait", "come back later")
    assert retry_after_s(to_status(error)) == RETRY_S
    assert retry_after_s(to_status(error, retry_s=7.25)) == 7.25
    stopping = SmartDJError(ErrorCode.SERVER_STOPPING, "stopping", "come back later")
    assert retry_after_s(to_status(stopping, retry_s=5)) == 5


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20).map(lambda text: text * (1 + len(text) ** 2 // 4))


@given(st.sampled_from(list(ErrorCode)), TEXTS, TEXTS, TEXTS)
@example(ErrorCode.USAGE, "\udcff/home" * 200, "…" * 234, "ab" + "é" * 100)
def test_any_text_fits_and_keeps_its_beginning(code: ErrorCode, message: str, hint: str, field: str) -> None:
    status = to_status(SmartDJError(code, message, hint, field))
    back = from_status(status)
    assert back.code is code
    for sent, got, limit in (
        (message, back.message, MAX_MESSAGE_BYTES),
        (hint, back.hint, MAX_HINT_BYTES),
        (field, back.field, MAX_FIELD_BYTES),
    ):
        readable = sent.encode("utf-8", "replace").decode()
        if len(readable.encode()) <= limit:
            assert got == readable
        else:
            assert got.endswith("…")
            assert readable.startswith(got[:-1])
            assert limit - 3 <= len(got.encode()) <= limit  # cut no more than needed
    # As sent: the message percent-encoded, the details in base64; gRPC's own limit is 8192.
    assert 3 * len(status.message.encode()) + 4 / 3 * status.ByteSize() < 8000


def test_a_newer_servers_code_falls_back_to_its_grpc_status() -> None:
    status = Status(code=code_pb2.UNAVAILABLE, message="gone to lunch")
    status.details.add().Pack(ErrorInfo(reason="LUNCH", domain=DOMAIN, metadata={"hint": "wait", "field": "a.b"}))
    assert parts(from_status(status)) == (ErrorCode.SERVER_UNREACHABLE, "gone to lunch", "wait", "a.b")


def test_another_programs_details_are_not_taken_for_ours() -> None:
    status = Status(code=code_pb2.NOT_FOUND, message="no such bucket")
    status.details.add().Pack(ErrorInfo(reason="JOB_NOT_FOUND", domain="storage.example.org"))
    status.details.add().Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field="bucket")]))
    error = from_status(status)
    assert (error.code, error.field) == (ErrorCode.ENDPOINT_FAILED, "bucket")
    assert error.hint


@pytest.mark.parametrize("number", [number for number in code_pb2.Code.values() if number] + [99, -1])
def test_any_grpc_code_without_details_gives_a_usable_error(number: int) -> None:
    for message in ("", "stream reset"):
        error = from_status(Status(code=number, message=message))
        assert message in error.message
        assert error.message
        assert error.hint or error.code is ErrorCode.CANCELLED


def test_spoilt_details_are_passed_over() -> None:
    status = to_status(SmartDJError(ErrorCode.JOB_ENDED, "it ended", "start another"))
    spoilt = Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    late = Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff")
    status.details.insert(0, spoilt)
    status.details.insert(0, late)
    assert from_status(status).code is ErrorCode.JOB_ENDED
    assert retry_after_s(status) is None


def test_ok_is_no_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        from_status(Status(code=0))


def serve(handler: object) -> Iterator[str]:
    generic = grpc.method_handlers_generic_handler("test.Thing", {"Do": handler})  # type: ignore[dict-item]
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


LONG = SmartDJError(ErrorCode.PLAN_INVALID, "長" * 5000, "説" * 5000, "f" * 5000)


@pytest.fixture
def address() -> Iterator[str]:
    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"long":
            context.abort_with_status(rpc_status.to_status(to_status(LONG)))
        if request == b"liar":  # details that contradict the call's own code
            context.set_trailing_metadata(((STATUS_KEY, Status(code=5, message="no").SerializeToString()),))
            context.abort(grpc.StatusCode.INTERNAL, "two\nlines")
        if request == b"garbage":
            context.set_trailing_metadata(((STATUS_KEY, b"\xff\xff\xff"),))
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "hm")
        raise AssertionError

    yield from serve(grpc.unary_unary_rpc_method_handler(fail))


def call(address: str, request: bytes) -> SmartDJError:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(request, timeout=10)
    return from_rpc_error(caught.value)


def call_async(address: str, request: bytes) -> SmartDJError:
    async def go() -> SmartDJError:
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(METHOD)(request, timeout=10)
            return from_rpc_error(caught.value)

    return asyncio.run(go())


@pytest.mark.parametrize("ask", [call, call_async])
def test_over_a_real_connection(address: str, ask: object) -> None:
    assert callable(ask)
    error = ask(address, b"long")
    assert (error.code, error.message[:100]) == (ErrorCode.PLAN_INVALID, "長" * 100)
    assert error.field.startswith("fff")
    liar = ask(address, b"liar")
    assert (liar.code, liar.message) == (ErrorCode.ENDPOINT_FAILED, "two lines")
    assert ask(address, b"garbage").message == "hm"


@pytest.mark.parametrize("ask", [call, call_async])
def test_nobody_there(ask: object) -> None:
    assert callable(ask)
    error = ask("127.0.0.1:1", b"")
    assert error.code is ErrorCode.SERVER_UNREACHABLE
    assert "smartdj serve" in error.hint


def test_an_error_that_is_no_call() -> None:
    assert from_rpc_error(grpc.RpcError()).code is ErrorCode.ENDPOINT_FAILED


def test_retry_info_below_zero_is_now() -> None:
    status = Status(code=8)
    retry = RetryInfo()
    retry.retry_delay.FromSeconds(-3)
    status.details.add().Pack(retry)
    assert retry_after_s(status) == 0
