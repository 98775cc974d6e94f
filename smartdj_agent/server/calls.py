"""What happens around every call: who it is, which request it is, how it ended, and errors that clients can read."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import logs
from smartdj_agent.server.metrics import UNKNOWN_METHOD, Metrics
from smartdj_agent.server.security import Tokens
from smartdj_agent.wire_status import STATUS_KEY, to_status

REQUEST_ID_KEY: Final = "x-request-id"
CLIENT_ID_KEY: Final = "x-client-id"
HEALTH: Final = "/grpc.health.v1.Health/"

NO_SUCH_METHOD: Final = "this server has no such method"
IDLE_S: Final = 0.1
DRAIN_S: Final = 2.0

_LOGGER = logging.getLogger(__name__)
_SANE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BEARER = re.compile(r"bearer +([^ ]+) *", re.IGNORECASE)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


_Context = grpc.aio.ServicerContext[Any, Any]
_Pairs = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Call:
    """The call that is being handled.

    Attributes
    ----------
    method
        For example ``/smartdj.v1.EditService/Edit``.
    request_id
        The client's, if it is 1 to 64 letters, digits, ``_``, ``.`` or ``-``; else made here.
    client
        Whose it is: the name of its token, else that of its certificate, else its address; then ``/`` and the
        ``x-client-id`` that it sent, if any. For fairness and for people; only the first part is proven.
    """

    method: str
    request_id: str
    client: str


class _Drain(Enum):
    """When to read on what a client is still sending, after its handler is done."""

    NEVER = auto()
    ON_ERROR = auto()
    ALWAYS = auto()


_call: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Tell the call that this task, or the one that started it, handles; LookupError outside of any."""
    return _call.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets in whoever may come in, and makes every ending of a call readable, counted and logged.

    Handlers must be async (coroutines, async generators, or coroutines that use ``context.read`` and ``write``). What
    they raise reaches the client so: `SmartDJError` as its rich status; cancellation and ``context.abort`` as they
    are; everything else as ``INTERNAL`` with the request's id, and its traceback in the log only. An async generator
    is closed before its call ends, however that ends. Handlers must not set trailing metadata themselves.

    Parameters
    ----------
    metrics
        Where calls are counted.
    tokens
        Who may call anything but health; None lets in everybody. May be replaced while the server runs.
    """

    def __init__(self, metrics: Metrics, tokens: Tokens | None = None) -> None:
        self.tokens = tokens
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap a call's handler; see the class."""
        method = handler_call_details.method
        metadata = [(key, value) for key, value in handler_call_details.invocation_metadata or ()]
        handler = await continuation(handler_call_details)
        if handler is None:
            # Not by its own name: whoever makes names up would make up series, too.
            return self._refusing(UNKNOWN_METHOD, metadata, _no_such_method)
        owner = ""
        if self.tokens is not None and not method.startswith(HEALTH):
            try:
                owner = _owner(self.tokens, _values(metadata, "authorization"))
            except SmartDJError as error:
                return self._refusing(method, metadata, _raise(error))
        return self._wrapped(handler, method, metadata, owner)

    def _refusing(
        self, method: str, metadata: _Pairs, refuse: Callable[[_Context], Awaitable[None]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def respond(requests: object, context: _Context) -> None:
            await self._watched(lambda: refuse(context), method, metadata, "", context, _Drain.ON_ERROR)

        # Of this kind for every method: it doesn't wait for a message before it answers.
        return grpc.stream_stream_rpc_method_handler(respond)

    def _wrapped(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: str, metadata: _Pairs, owner: str
    ) -> grpc.RpcMethodHandler[Any, Any]:
        inner: Any
        make: Any
        if handler.response_streaming:
            if handler.request_streaming:
                inner, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
            else:
                inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        elif handler.request_streaming:
            inner, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler
        else:
            inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        decoded = _raising if handler.request_streaming else _returning

        async def respond(request: Any, context: _Context) -> Any:
            async def work() -> Any:
                if isinstance(request, SmartDJError):
                    raise request
                try:
                    return await inner(request, context)
                except NotImplementedError:
                    if context.code() is not grpc.StatusCode.UNIMPLEMENTED:
                        raise
                    # What gRPC's generated classes do for methods that their services leave out.
                    return await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_SUCH_METHOD)

            # An upload of what is there already succeeds while it is being sent.
            drain = _Drain.ALWAYS if handler.request_streaming else _Drain.NEVER
            return await self._watched(work, method, metadata, owner, context, drain)

        async def respond_stream(request: Any, context: _Context) -> None:
            async def work() -> None:
                if isinstance(request, SmartDJError):
                    raise request
                responses = inner(request, context)
                if not inspect.isasyncgen(responses):  # it writes by itself
                    await responses
                    return
                # Left to gRPC, a generator would be closed some time after a cancelled call, by the garbage collector.
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)

            drain = _Drain.ON_ERROR if handler.request_streaming else _Drain.NEVER
            await self._watched(work, method, metadata, owner, context, drain)

        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            respond_stream if handler.response_streaming else respond,
            decoded(handler.request_deserializer),
            handler.response_serializer,
        )
        return wrapped

    async def _watched(
        self,
        work: Callable[[], Awaitable[Any]],
        method: str,
        metadata: _Pairs,
        owner: str,
        context: _Context,
        drain: _Drain,
    ) -> Any:
        call = Call(method, _request_id(metadata), _client(owner, metadata, context))
        trailing = ((REQUEST_ID_KEY, call.request_id),)
        context.set_trailing_metadata(trailing)
        code, reason = grpc.StatusCode.UNKNOWN, ""
        started = time.perf_counter()
        self._metrics.call_started(method)
        _call.set(call)  # in this call's own task: nothing to take back
        with logs.bound(request_id=call.request_id):
            try:
                outcome = await _outcome(work, call)
                if isinstance(outcome, SmartDJError):
                    code, reason = grpc.StatusCode[outcome.row.grpc_status], outcome.code.value
                else:
                    code = _code(context.code(), grpc.StatusCode.OK)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED if _time_is_left(context) else grpc.StatusCode.DEADLINE_EXCEEDED
                raise
            except grpc.aio.AbortError:
                code = _code(context.code(), grpc.StatusCode.UNKNOWN)
                raise
            except grpc.aio.InternalError:  # a write failed: the connection is gone, and there is nobody to answer
                code = grpc.StatusCode.CANCELLED
                # gRPC would log it with a traceback as a fault of ours.
                raise asyncio.CancelledError from None
            except grpc.aio.BaseError:  # the server has stopped
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                seconds = time.perf_counter() - started
                self._metrics.call_ended(method, code.name, seconds)
                values = {"method": method, "code": code.name, "seconds": round(seconds, 4), "client": call.client}
                if reason:
                    values["reason"] = reason
                _LOGGER.log(_level(method, code), "call", extra=values)
        if drain is not _Drain.NEVER and (isinstance(outcome, SmartDJError) or drain is _Drain.ALWAYS):
            await _let_finish_sending(context)
        if isinstance(outcome, SmartDJError):
            status = to_status(outcome)
            details = (STATUS_KEY, status.SerializeToString())
            await context.abort(code, status.message, (*trailing, details))
        return outcome


async def _outcome(work: Callable[[], Awaitable[Any]], call: Call) -> Any:
    """Do the work; give what it gives, or the error to answer with."""
    try:
        return await work()
    except grpc.aio.BaseError:
        raise
    except SmartDJError as error:
        return error.with_traceback(None)  # which holds the request, however large
    except Exception:
        _LOGGER.exception("unexpected failure", extra={"method": call.method})
        return SmartDJError(
            ErrorCode.INTERNAL,
            "the server failed unexpectedly",
            f"This is a fault of the server; its log has the details under request {call.request_id}.",
        )


async def _let_finish_sending(context: _Context) -> None:
    """Read on, for a moment, what a client is just sending, so that it hears how its call ended.

    A client of Python's grpc.aio that is sending while its call ends reports an internal error of its own instead of
    the status that it got. One that waits for answers isn't sending: it is kept waiting for `IDLE_S` only.
    """
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        reading = asyncio.ensure_future(context.read())
        try:
            done, _ = await asyncio.wait([reading], timeout=IDLE_S)
            if not done or reading.result() is grpc.aio.EOF:
                return
        except (grpc.aio.BaseError, SmartDJError):  # the client has gone, or sends what can't be decoded
            return
        finally:
            reading.cancel()


def _returning(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Make a decoder that gives its error instead of raising it, where gRPC decodes before it calls the handler."""
    raising = _raising(decode)

    def decoded(data: bytes) -> Any:
        try:
            return raising(data)
        except SmartDJError as error:
            return error

    return decoded


def _raising(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Make a decoder whose errors clients can read."""

    def decoded(data: bytes) -> Any:
        if decode is None:
            return data
        try:
            return decode(data)
        except (DecodeError, ValueError):
            raise SmartDJError(
                ErrorCode.USAGE,
                "the message can't be decoded",
                "Send the message that the protocol smartdj.v1 names for this call.",
            ) from None

    return decoded


def _owner(tokens: Tokens, given: Sequence[str | bytes]) -> str:
    """Tell whose token came along; raise ``UNAUTHENTICATED`` where it is none of ours."""
    hint = "Give the server's token with --token-file, or as metadata “authorization: Bearer TOKEN”."
    if not given:
        raise SmartDJError(ErrorCode.UNAUTHENTICATED, "this server wants a token", hint)
    text = given[0].decode("utf-8", "surrogateescape") if isinstance(given[0], bytes) else given[0]
    match = _BEARER.fullmatch(text)
    owner = tokens.owner(match.group(1)) if match and len(given) == 1 else None
    if owner is None:
        raise SmartDJError(ErrorCode.UNAUTHENTICATED, "the token is not one of this server's", hint)
    return owner


def _raise(error: SmartDJError) -> Callable[[_Context], Awaitable[None]]:
    async def refuse(context: _Context) -> None:
        raise error

    return refuse


async def _no_such_method(context: _Context) -> None:
    await _let_finish_sending(context)
    # The bare code: tools try one version of a service after another by it.
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_SUCH_METHOD)


def _values(metadata: _Pairs, key: str) -> list[str | bytes]:
    return [value for name, value in metadata if name == key]


def _request_id(metadata: _Pairs) -> str:
    given = _values(metadata, REQUEST_ID_KEY)
    if len(given) == 1 and isinstance(given[0], str) and _SANE.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(8)


def _client(owner: str, metadata: _Pairs, context: _Context) -> str:
    name = owner or _certificate_name(context) or _address(context.peer())
    given = _values(metadata, CLIENT_ID_KEY)
    if len(given) == 1 and isinstance(given[0], str) and _SANE.fullmatch(given[0]):
        return f"{name}/{given[0]}"
    return name


def _certificate_name(context: _Context) -> str:
    names = list(context.auth_context().get("x509_common_name", ()))
    text = names[0].decode("utf-8", "replace") if names else ""
    return text if _SANE.fullmatch(text) else ""


def _address(peer: str) -> str:
    """Shorten gRPC's ``ipv6:%5B::1%5D:4711`` to ``::1``: the port differs with every connection."""
    kind, _, rest = unquote(peer).partition(":")
    if kind in ("ipv4", "ipv6"):
        return rest.rpartition(":")[0].strip("[]")
    return kind or "unknown"


def _code(given: Any, default: grpc.StatusCode) -> grpc.StatusCode:
    """Read what a handler set as code: a member, a number, or nothing."""
    if isinstance(given, grpc.StatusCode):
        return given
    return _CODES.get(given, grpc.StatusCode.UNKNOWN) if given else default


def _time_is_left(context: _Context) -> bool:
    # The client's clock rings first, and its cancellation may arrive a moment before ours rings.
    left = context.time_remaining()
    return left is None or left > 0.1


def _level(method: str, code: grpc.StatusCode) -> int:
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return logging.WARNING
    return logging.DEBUG if method.startswith(HEALTH) else logging.INFO
