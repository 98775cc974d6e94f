"""One connection to a server: address, TLS, token, deadlines, and when to try again."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1.health_pb2_grpc import HealthStub

from smartdj.v1.audio_pb2_grpc import AudioServiceStub
from smartdj.v1.edit_pb2_grpc import EditServiceStub
from smartdj.v1.job_pb2_grpc import JobServiceStub
from smartdj.v1.server_pb2_grpc import ServerServiceStub
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.wire_status import from_rpc_error

DEFAULT_PORT = 50551

CALL_S = 30.0
"""Deadline of one try of a short call, seconds."""

FIRST_CONTACT_S = 3.0
"""How long a server that never answered is tried: whoever mistyped an address shall not wait."""

PATIENCE_S = 60.0
"""How long a server that did answer before is tried again without any success: time enough for a restart."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that vanished without a word is noticed within 30 s. The server allows a ping every 10 s, also while no
    # data flows; by itself gRPC would stop after two pings of a stream that only listens.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The pauses between tries are ours; gRPC's own would make a try fail without asking the server again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)


def read_token(path: str | os.PathLike[str]) -> str:
    """Read a server's token from its file.

    Parameters
    ----------
    path
        The file that ``smartdj serve`` made, or a copy of it.

    Raises
    ------
    SmartDJError
        USAGE where the file can't be read or holds no token.
    """
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SmartDJError(
            ErrorCode.USAGE, f"the token file {path} can't be read: {reason}", "check the path", "--token-file"
        ) from error
    return _check_token(token, f"the token file {path}")


def _check_token(token: str, what: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{what} holds no token (one word of plain letters, digits and signs)",
            "copy the server's token file as it is",
            "--token-file",
        )
    return token


def _target(address: str) -> str:
    """Return the address as gRPC wants it, with a port."""
    if address.startswith("unix:"):
        return address
    found = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d{1,5}))?", address)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{address!r} is not the address of a server",
            f"write HOST:PORT, for example localhost:{DEFAULT_PORT}",
            "--server",
        )
    return f"{found['host']}:{port}"


def is_loopback(target: str) -> bool:
    """Whether an address is on this machine, so that nobody else can listen in."""
    host = target.rsplit(":", 1)[0].strip("[]").lower()
    return target.startswith("unix:") or host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def _read_pem(path: str | os.PathLike[str], field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SmartDJError(
            ErrorCode.USAGE, f"{path} can't be read: {error.strerror or error}", "check the path", field
        ) from error


class Patience:
    """Pauses between tries: they grow, are jittered, start anew with every success, and end after a limit.

    Parameters
    ----------
    limit_s
        Longest time without any success, seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.succeeded()

    def succeeded(self) -> None:
        """Start anew."""
        self._tries = 0
        self._since = time.monotonic()

    async def pause(self, failure: SmartDJError) -> None:
        """Wait before the next try; raise `failure` where patience has run out."""
        longest = min(_FIRST_PAUSE_S * 2**self._tries, _LONGEST_PAUSE_S)
        pause = random.uniform(longest / 2, longest)
        if self._tries == 0:  # a connection may have worked for hours before it broke
            self._since = time.monotonic()
        self._tries += 1
        if time.monotonic() + pause - self._since > self._limit_s:
            raise failure
        await asyncio.sleep(pause)


class Stubs:
    """The services behind one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.audio = AudioServiceStub(channel)
        self.editing = EditServiceStub(channel)
        self.health = HealthStub(channel)
        self.jobs = JobServiceStub(channel)
        self.server = ServerServiceStub(channel)


class Connection:
    """A channel that is opened when it is first used, and the rules for calls on it.

    Parameters
    ----------
    address, token, tls_ca, client_cert, client_id, call_s, patience_s
        See `smartdj_agent.client.AsyncClient`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        client_cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        client_id: str = "",
        call_s: float = CALL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.target = _target(address)
        self.call_s = call_s
        self.patience_s = patience_s
        self.metadata: tuple[tuple[str, str], ...] = ()
        if token is not None:
            self.metadata += (("authorization", f"Bearer {_check_token(token, 'the token')}"),)
        if client_id:
            self.metadata += (("x-client-id", client_id),)
        secure = tls_ca is not None or client_cert is not None
        if token is not None and not secure and not is_loopback(self.target):
            raise SmartDJError(
                ErrorCode.USAGE,
                f"the token would travel to {self.target} where others can read it",
                "give the server's certificate authority with --tls-ca, or go through an SSH tunnel",
                "--tls-ca",
            )
        # Read now, so that a wrong path shows at once and not at the first call.
        self._ca = _read_pem(tls_ca, "--tls-ca") if tls_ca is not None else None
        self._certificate: tuple[bytes, bytes] | None = None
        if client_cert is not None:
            self._certificate = _read_pem(client_cert[0], "client_cert"), _read_pem(client_cert[1], "client_cert")
        self._secure = secure
        self._sending: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._stubs: Stubs | None = None
        self._closed = False
        self._reached = False

    @property
    def stubs(self) -> Stubs:
        """The services; opens the channel, so only inside a running event loop."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._stubs is None:
            options = list(_OPTIONS)
            if is_loopback(self.target):
                options.append(("grpc.enable_http_proxy", 0))  # a proxy can't reach this machine's loopback
            if self._secure:
                certificate, key = self._certificate or (None, None)
                credentials = grpc.ssl_channel_credentials(self._ca, key, certificate)
                self._stubs = Stubs(grpc.aio.secure_channel(self.target, credentials, options))
            else:
                self._stubs = Stubs(grpc.aio.insecure_channel(self.target, options))
        return self._stubs

    def sending(self, sha256: str) -> asyncio.Lock:
        """The lock of whoever sends a certain file."""
        lock = self._sending.get(sha256)
        if lock is None:
            lock = self._sending[sha256] = asyncio.Lock()
        return lock

    async def close(self) -> None:
        """Close the channel; further calls are an error."""
        self._closed = True
        if self._stubs is not None:
            stubs, self._stubs = self._stubs, None
            await stubs.channel.close(None)

    def patience(self) -> Patience:
        """How long to try again from now on."""
        return Patience(self.patience_s if self._reached else min(FIRST_CONTACT_S, self.patience_s))

    def reached(self) -> None:
        """Remember that the server has answered."""
        self._reached = True

    async def retry(self, error: grpc.RpcError, patience: Patience) -> None:
        """Wait before a failed call is tried again; raise its error where trying again makes no sense."""
        failure = from_rpc_error(error)
        if not is_unavailable(error):
            self._reached = True  # somebody answered
            raise failure from error
        await patience.pause(failure)

    async def call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        """Make a short call, again as long as the server is unavailable.

        Parameters
        ----------
        method
            Of a stub.
        request
            Sent unchanged, with the same request id, on every try.

        Raises
        ------
        SmartDJError
            What the server answered; SERVER_UNREACHABLE, DEADLINE.
        """
        patience = self.patience()
        while True:
            try:
                response = await method(request, timeout=self.call_s, metadata=self.metadata)
            except grpc.RpcError as error:
                await self.retry(error, patience)
            else:
                self._reached = True
                return response


def is_unavailable(error: grpc.RpcError) -> bool:
    """Whether trying again is allowed: nothing else than UNAVAILABLE says that it makes sense."""
    code = getattr(error, "code", None)
    return callable(code) and code() is grpc.StatusCode.UNAVAILABLE


def raise_stalled(target: str, seconds: float) -> NoReturn:
    """Raise what a transfer that doesn't move any more ends with."""
    raise SmartDJError(
        ErrorCode.DEADLINE,
        f"the transfer to or from {target} has not moved for {seconds:.0f} s",
        "check the network and the server, then try again: what was sent is kept",
    )
