"""Around every call, on a real server: who is let in, how endings reach the client, what is logged and counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from smartdj.v1 import job_pb2, job_pb2_grpc
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import logs
from smartdj_agent.server.calls import CallInterceptor, current_call
from smartdj_agent.server.metrics import Metrics
from smartdj_agent.server.security import Tokens, load_tokens
from smartdj_agent.wire_status import from_rpc_error, status_of

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
STREAMED = tuple(kind for kind in KINDS if kind.endswith("stream"))
TOKEN = "correct-horse-battery-staple"
SECRET = "make the dog louder"
TIMEOUT = 20
Metadata = tuple[tuple[str, str], ...]


class Thing:
    """Four methods of the four kinds; the first message says what to do."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.running = asyncio.Event()

    async def act(self, order: bytes, context: Any) -> bytes:
        match order:
            case b"smartdj":
                raise SmartDJError(ErrorCode.STEP_RANGE, "too loud", "lower it", "plan.steps[2].volume.gain_db")
            case b"crash":
                raise RuntimeError(SECRET)
            case b"abort":
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there it is")
            case b"set":
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("gone")
            case b"wait":
                self.running.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.closed.set()
            case b"gone":
                raise grpc.aio.InternalError('Failed "execute_batch"')
            case b"cancelled":
                raise SmartDJError(ErrorCode.CANCELLED, "cancelled; no output was written")
        call = current_call()
        return "|".join((call.method, call.request_id, call.client, logs.request_id())).encode()

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return await self.act(request, context)

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if request == b"flood":
            self.running.set()
            try:
                while True:
                    yield b"x" * 65536
            finally:
                self.closed.set()
        yield b"first"
        yield await self.act(request, context)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self.act(await anext(aiter(requests)), context)

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"first"
            yield await self.act(request, context)

    async def writing(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await context.write(await self.act(request, context))

    async def reading(self, requests: object, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(await self.act(request, context))

    def handlers(self) -> grpc.GenericRpcHandler:
        def decode(data: bytes) -> bytes:
            if data == b"garbage":
                raise ValueError("spoilt")
            return data

        made: dict[str, Any] = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(self, kind), decode) for kind in KINDS
        }
        made["writing"] = grpc.unary_stream_rpc_method_handler(self.writing, decode)  # type: ignore[arg-type]
        made["reading"] = grpc.stream_stream_rpc_method_handler(self.reading, decode)  # type: ignore[arg-type]
        return grpc.method_handlers_generic_handler("test.Thing", made)


class Running:
    """A server and a channel to it."""

    def __init__(self, channel: grpc.aio.Channel, thing: Thing, metrics: Metrics, server: grpc.aio.Server) -> None:
        self.channel, self.thing, self.metrics, self.server = channel, thing, metrics, server

    def call(self, kind: str, order: bytes, metadata: Metadata = (), timeout: float | None = TIMEOUT) -> Any:
        shape = {"writing": "unary_stream", "reading": "stream_stream"}.get(kind, kind)
        make: Any = getattr(self.channel, shape)(f"/test.Thing/{kind}")
        return make(order if shape.startswith("unary") else iter([order]), metadata=metadata, timeout=timeout)

    async def answers(
        self, kind: str, order: bytes, metadata: Metadata = (), timeout: float = TIMEOUT
    ) -> tuple[list[bytes], dict[str, Any]]:
        call = self.call(kind, order, metadata, timeout)
        messages = [await call] if kind.endswith("unary") else [message async for message in call]
        return messages, dict(await call.trailing_metadata())

    async def failure(
        self, kind: str, order: bytes, metadata: Metadata = (), timeout: float = TIMEOUT
    ) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.answers(kind, order, metadata, timeout)
        return caught.value

    def count(self, method: str, code: str) -> float | None:
        return self.metrics.registry.get_sample_value("smartdj_rpcs_total", {"method": method, "code": code})

    async def counted(self, method: str, code: str, number: int = 1) -> None:
        """Wait for what is counted after the client has its answer."""
        while self.count(method, code) != number:
            await asyncio.sleep(0)

    def open(self, method: str) -> float | None:
        return self.metrics.registry.get_sample_value("smartdj_rpcs_open", {"method": method})


@asynccontextmanager
async def started(tokens: Tokens | None = None) -> AsyncIterator[Running]:
    thing, metrics = Thing(), Metrics()
    server = grpc.aio.server(interceptors=[CallInterceptor(metrics, tokens)])
    server.add_generic_rpc_handlers((thing.handlers(),))
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(["test.Thing"], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Running(channel, thing, metrics, server)
    finally:
        await server.stop(None)


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """One event loop for all: gRPC's thread still calls back for a while after a test, and a closed loop complains."""
    global run
    with asyncio.Runner() as runner:
        run = runner.run
        yield


run: Callable[[Any], Any]


def on_a_server(test: Callable[[Running], Awaitable[None]], tokens: Tokens | None = None) -> None:
    async def go() -> None:
        async with started(tokens) as running, asyncio.timeout(TIMEOUT):
            await test(running)

    run(go())


@pytest.fixture
def log() -> Iterator[StringIO]:
    root, own = logging.getLogger(), logging.getLogger(logs.LOGGER)
    before = root.level, own.level
    stream = StringIO()
    logs.configure("info", "json", stream)
    yield stream
    for handler in [present for present in root.handlers if present.get_name() == logs.LOGGER]:
        root.removeHandler(handler)
    root.setLevel(before[0])
    own.setLevel(before[1])


def entries(log: StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "smartdj_agent.server.calls"]


@pytest.mark.parametrize("kind", [*KINDS, "writing", "reading"])
def test_a_good_call_has_its_id_everywhere(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        messages, trailing = await running.answers(
            kind, b"go", (("x-request-id", "My_id-1.2"), ("x-client-id", "reaper"))
        )
        assert trailing["x-request-id"] == "My_id-1.2"
        method = f"/test.Thing/{kind}"
        assert messages[-1].decode().split("|") == [method, "My_id-1.2", "127.0.0.1/reaper", "My_id-1.2"]
        assert running.count(method, "OK") == 1
        assert running.open(method) == 0

    on_a_server(test)
    (entry,) = entries(log)
    assert (entry["message"], entry["request_id"], entry["method"]) == ("call", "My_id-1.2", f"/test.Thing/{kind}")
    assert (entry["code"], entry["client"]) == ("OK", "127.0.0.1/reaper")
    assert 0 <= entry["seconds"] < TIMEOUT


@pytest.mark.parametrize("given", [(), ("a" * 65,), ("a b",), ("",), ("ü",), ("one", "two"), ("a\n",)])
def test_an_unfit_id_is_replaced(given: tuple[str, ...]) -> None:
    metadata = tuple(("x-request-id", value) for value in given if value.isascii() and value.isprintable())
    metadata += tuple(("x-client-id", value) for value in given if value.isascii() and value.isprintable())

    async def test(running: Running) -> None:
        seen = set()
        for _ in range(2):
            messages, trailing = await running.answers("unary_unary", b"go", metadata)
            request_id = trailing["x-request-id"]
            assert len(request_id) == 16
            assert request_id not in given
            assert messages[0].decode().split("|")[1:] == [request_id, "127.0.0.1", request_id]
            seen.add(request_id)
        assert len(seen) == 2

    on_a_server(test)


@pytest.mark.parametrize("kind", [*KINDS, "writing", "reading"])
def test_our_errors_arrive_whole(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        failure = await running.failure(kind, b"smartdj", (("x-request-id", "r1"),))
        assert failure.code() is grpc.StatusCode.OUT_OF_RANGE
        assert failure.details() == "too loud"
        error = from_rpc_error(failure)
        assert (error.code, error.hint, error.field) == (
            ErrorCode.STEP_RANGE,
            "lower it",
            "plan.steps[2].volume.gain_db",
        )
        assert dict(failure.trailing_metadata())["x-request-id"] == "r1"
        assert running.count(f"/test.Thing/{kind}", "OUT_OF_RANGE") == 1

    on_a_server(test)
    (entry,) = entries(log)
    assert (entry["code"], entry["reason"]) == ("OUT_OF_RANGE", "step_range")
    assert "too loud" not in log.getvalue()


@pytest.mark.parametrize("kind", [*KINDS, "writing", "reading"])
def test_a_crash_becomes_internal_and_its_traceback_stays_here(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        failure = await running.failure(kind, b"crash", (("x-request-id", "r2"),))
        assert failure.code() is grpc.StatusCode.INTERNAL
        error = from_rpc_error(failure)
        assert error.code is ErrorCode.INTERNAL
        assert "r2" in error.hint
        sent = f"{failure.details()}{status_of(failure)}"
        assert "RuntimeError" not in sent
        assert SECRET not in sent
        assert running.count(f"/test.Thing/{kind}", "INTERNAL") == 1

    on_a_server(test)
    crash, ended = entries(log)
    assert "builtins.RuntimeError" in crash["trace"]
    assert any("in act" in line for line in crash["trace"])
    assert crash["request_id"] == ended["request_id"] == "r2"
    assert SECRET not in log.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_is_gone_is_no_fault(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        call = running.call(kind, b"gone")

        async def finish() -> None:
            if kind in STREAMED:
                async for _ in call:
                    pass
            else:
                await call

        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await finish()

    on_a_server(test)
    assert [entry["code"] for entry in entries(log) if entry["message"] == "call"] == ["CANCELLED"]
    assert not [entry for entry in entries(log) if entry["level"] in ("warning", "error")]


@pytest.mark.parametrize("kind", KINDS)
def test_messages_that_cannot_be_decoded(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        failure = await running.failure(kind, b"garbage")
        assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert from_rpc_error(failure).code is ErrorCode.USAGE

    on_a_server(test)
    assert [entry["code"] for entry in entries(log)] == ["INVALID_ARGUMENT"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_handlers_own_abort_and_code_stay(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        aborted = await running.failure(kind, b"abort")
        assert (aborted.code(), aborted.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there it is")
        assert "x-request-id" in dict(aborted.trailing_metadata())
        await running.counted(f"/test.Thing/{kind}", "ALREADY_EXISTS")
        coded = await running.failure(kind, b"set")
        assert (coded.code(), coded.details()) == (grpc.StatusCode.NOT_FOUND, "gone")

    on_a_server(test)
    assert [entry["code"] for entry in entries(log)] == ["ALREADY_EXISTS", "NOT_FOUND"]


@pytest.mark.parametrize("kind", [*KINDS, "writing", "reading"])
def test_cancel_reaches_the_handler(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        call = running.call(kind, b"wait")
        task = asyncio.ensure_future(call if kind.endswith("unary") else call.read())
        await running.thing.running.wait()
        call.cancel()
        await running.thing.closed.wait()
        await asyncio.wait([task])
        assert await call.code() is grpc.StatusCode.CANCELLED
        await running.counted(f"/test.Thing/{kind}", "CANCELLED")

    on_a_server(test)
    assert [(entry["code"], entry["message"]) for entry in entries(log)] == [("CANCELLED", "call")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline_reaches_the_handler(kind: str, log: StringIO) -> None:
    async def test(running: Running) -> None:
        for timeout in (0.3, 1, 3, 9):  # a busy machine may let the first ones pass before it begins
            failure = await running.failure(kind, b"wait", timeout=timeout)
            assert from_rpc_error(failure).code is ErrorCode.DEADLINE
            if running.thing.running.is_set():
                break
        await running.thing.closed.wait()

    on_a_server(test)
    # Whose clock rings first, the client's or the server's, is a matter of luck.
    assert {entry["code"] for entry in entries(log)} <= {"DEADLINE_EXCEEDED", "CANCELLED"}


def test_a_generator_that_waits_to_send_is_closed_at_once_when_the_client_goes() -> None:
    async def test(running: Running) -> None:
        call = running.call("unary_stream", b"flood")
        await running.thing.running.wait()
        await anext(aiter(call))
        call.cancel()
        await running.thing.closed.wait()

    on_a_server(test)


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("order", [b"smartdj", b"unknown", b"go"])
def test_who_is_still_sending_hears_how_it_ended(kind: str, order: bytes) -> None:
    expected = {b"smartdj": ErrorCode.STEP_RANGE, b"unknown": ErrorCode.ENDPOINT_FAILED}

    async def test(running: Running) -> None:
        async def requests() -> AsyncIterator[bytes]:
            yield order
            for _ in range(50):
                yield b"x" * 262_144

        method = "nothing" if order == b"unknown" else kind
        for _ in range(20):
            call: Any = getattr(running.channel, kind)(f"/test.Thing/{method}")(requests(), timeout=TIMEOUT)
            outcomes = []
            try:
                outcomes += [await call] if kind == "stream_unary" else [message async for message in call]
            except grpc.aio.AioRpcError as failure:
                outcomes.append(from_rpc_error(failure).code)
            if order == b"go":
                assert outcomes
                assert all(isinstance(outcome, bytes) for outcome in outcomes), outcomes
            else:
                assert outcomes[-1] is expected[order]

    on_a_server(test)


def test_who_waits_for_answers_is_told_soon() -> None:
    async def test(running: Running) -> None:
        never = asyncio.Event()

        async def requests() -> AsyncIterator[bytes]:
            yield b"smartdj"
            await never.wait()

        call: Any = running.channel.stream_stream("/test.Thing/stream_stream")(requests(), timeout=TIMEOUT)
        assert await call.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value).code is ErrorCode.STEP_RANGE

    on_a_server(test)


def test_a_stop_of_the_server_ends_calls_as_cancelled(log: StringIO) -> None:
    async def test(running: Running) -> None:
        call = running.call("unary_unary", b"wait")
        task = asyncio.ensure_future(call)
        await running.thing.running.wait()
        await running.server.stop(0)
        await running.thing.closed.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await task
        await running.counted("/test.Thing/unary_unary", "CANCELLED")

    on_a_server(test)
    assert [(entry["code"], "trace" in entry) for entry in entries(log)] == [("CANCELLED", False)]


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_cancelled_error_arrives_as_such(kind: str) -> None:
    async def test(running: Running) -> None:
        failure = await running.failure(kind, b"cancelled")
        assert failure.code() is grpc.StatusCode.CANCELLED
        assert from_rpc_error(failure).message == "cancelled; no output was written"

    on_a_server(test)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "token"
    path.write_text(f"studio {TOKEN}\nanonymous-token-without-name\n", encoding="ascii")
    path.chmod(0o600)
    return load_tokens(path)


def bearer(*tokens: str) -> Metadata:
    return tuple(("authorization", f"Bearer {token}") for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_lets_in_and_names_the_client(kind: str, tokens: Tokens) -> None:
    async def test(running: Running) -> None:
        for metadata, client in (
            (bearer(TOKEN), "studio"),
            ((("authorization", f"bearer   {TOKEN}"), ("x-client-id", "a")), "studio/a"),
            (bearer("anonymous-token-without-name"), "127.0.0.1"),
        ):
            messages, _ = await running.answers(kind, b"go", metadata)
            assert messages[-1].decode().split("|")[2] == client

    on_a_server(test, tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("wrong" * 5),
        bearer(TOKEN, TOKEN),
        bearer(TOKEN + "x"),
        bearer(TOKEN[:-1]),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", "Bearer"),),
        (("authorization", ""),),
        (("x-authorization", f"Bearer {TOKEN}"),),
    ],
)
def test_nobody_else_gets_in(kind: str, metadata: Metadata, tokens: Tokens, log: StringIO) -> None:
    async def test(running: Running) -> None:
        failure = await running.failure(kind, b"wait", metadata)
        assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
        error = from_rpc_error(failure)
        assert (error.code, bool(error.hint)) == (ErrorCode.UNAUTHENTICATED, True)
        assert not running.thing.running.is_set()
        assert "x-request-id" in dict(failure.trailing_metadata())
        assert running.count(f"/test.Thing/{kind}", "UNAUTHENTICATED") == 1

    on_a_server(test, tokens)
    (entry,) = entries(log)
    assert (entry["level"], entry["code"]) == ("warning", "UNAUTHENTICATED")
    assert TOKEN[:-1] not in log.getvalue()
    assert "wrong" not in log.getvalue()


def test_who_may_not_come_in_is_told_before_sending_anything(tokens: Tokens) -> None:
    async def test(running: Running) -> None:
        never = asyncio.Event()

        async def requests() -> AsyncIterator[bytes]:
            await never.wait()
            yield b"go"

        for kind in ("stream_unary", "stream_stream"):
            call: Any = getattr(running.channel, kind)(f"/test.Thing/{kind}")(requests(), timeout=TIMEOUT)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED

    on_a_server(test, tokens)


def test_health_is_open_to_all_and_reflection_is_not(tokens: Tokens, log: StringIO) -> None:
    async def test(running: Running) -> None:
        stub = health_pb2_grpc.HealthStub(running.channel)  # type: ignore[no-untyped-call]
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert (await anext(aiter(watch))).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert running.count("/grpc.health.v1.Health/Check", "OK") == 1
        names = reflection_pb2_grpc.ServerReflectionStub(running.channel)  # type: ignore[no-untyped-call]
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(names.ServerReflectionInfo(iter([ask]), timeout=TIMEOUT)))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        listed = await anext(aiter(names.ServerReflectionInfo(iter([ask]), metadata=bearer(TOKEN), timeout=TIMEOUT)))
        assert [service.name for service in listed.list_services_response.service] == ["test.Thing"]

    on_a_server(test, tokens)
    assert "Health" not in log.getvalue()  # asked every second by orchestrators: at level debug


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_made_up_make_no_series(kind: str) -> None:
    async def test(running: Running) -> None:
        for method in ("/test.Thing/nothing", "/a/b", "/grpc.health.v1.Health/Steal"):
            make: Any = getattr(running.channel, kind)(method)
            call = make(b"x" if kind.startswith("unary") else iter([b"x"]), timeout=TIMEOUT)
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        await running.counted("unknown", "UNIMPLEMENTED", 3)
        assert "nothing" not in running.metrics.text()

    on_a_server(test)


def test_tokens_can_change_while_the_server_runs(tokens: Tokens) -> None:
    async def go() -> None:
        interceptor = CallInterceptor(Metrics(), None)
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_generic_rpc_handlers((Thing().handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/test.Thing/unary_unary")
            await call(b"go", timeout=TIMEOUT)
            interceptor.tokens = tokens
            with pytest.raises(grpc.aio.AioRpcError):
                await call(b"go", timeout=TIMEOUT)
            await call(b"go", metadata=bearer(TOKEN), timeout=TIMEOUT)
        await server.stop(None)

    run(go())


def test_with_generated_services() -> None:
    class Jobs(job_pb2_grpc.JobServiceServicer):
        async def GetJob(self, request: job_pb2.GetJobRequest, context: Any) -> job_pb2.GetJobResponse:
            raise SmartDJError(ErrorCode.JOB_NOT_FOUND, f"there is no job {request.job_id}", "List the jobs.", "job_id")

    async def go() -> None:
        server = grpc.aio.server(interceptors=[CallInterceptor(Metrics())])
        job_pb2_grpc.add_JobServiceServicer_to_server(Jobs(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = job_pb2_grpc.JobServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetJob(job_pb2.GetJobRequest(job_id="j7"), timeout=TIMEOUT)
            info = ErrorInfo()
            assert status_of(caught.value).details[0].Unpack(info)
            assert (info.reason, info.metadata["field"]) == ("JOB_NOT_FOUND", "job_id")
            raw = channel.unary_unary("/smartdj.v1.JobService/GetJob")
            with pytest.raises(grpc.aio.AioRpcError) as spoilt:
                await raw(b"\x0a\xff", timeout=TIMEOUT)
            assert from_rpc_error(spoilt.value).code is ErrorCode.USAGE
        await server.stop(None)

    run(go())
