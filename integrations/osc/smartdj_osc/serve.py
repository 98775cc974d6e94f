"""The running server: sockets, core, backend and stage in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc import effects as fx
from smartdj_osc.backend import AgentLike, Backend
from smartdj_osc.core import Core
from smartdj_osc.effects import Effect, Peer, Report
from smartdj_osc.limits import Limits
from smartdj_osc.mapping import Mapping
from smartdj_osc.namespace import error
from smartdj_osc.oscquery import OscQueryServer, advertise, host_info
from smartdj_osc.packet import Message
from smartdj_osc.stage import Stage
from smartdj_osc.transport import Datagrams, Gate, Streams

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_osc.live.engine import LiveEngine

DEFAULT_PORT = 9110
"""Where `smartdj osc` listens unless told."""
_STAGE_S = 0.02
_MAX_SLEEP_S = 1.0


@dataclass(frozen=True)
class Options:
    """How the server is to be.

    Attributes
    ----------
    host, port
        Where it listens; port 0 takes a free one.
    tcp
        Whether also by TCP, at the same port number.
    http_port
        Port of OSCQuery; None for none.
    announce
        Whether OSCQuery is announced on the network.
    allow
        Networks that may come besides this machine.
    roots
        Folders below which controllers may name files.
    output
        Folder of results; None keeps them in memory.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tcp: bool = False
    http_port: int | None = None
    announce: bool = False
    allow: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    output: Path | None = None
    limits: Limits = field(default_factory=Limits)


class Clock:
    """Seconds since 1970 that never go back: the wall clock at the start, then the monotonic one.

    Where somebody sets the machine's clock, time tags would be off; then it follows, once it is more than a second out.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._last_s = 0.0

    def now_s(self) -> float:
        """The time."""
        offset_s = time.time() - time.monotonic()
        if abs(offset_s - self._offset_s) > 1.0:
            self._offset_s = offset_s
        self._last_s = max(self._last_s, time.monotonic() + self._offset_s)
        return self._last_s


class OscServer:
    """One server. Make it in the event loop, with `serving`.

    Parameters
    ----------
    options
        How it is to be.
    agent
        Does the work, in a thread of the server's.
    engine
        Sounds, driven by a device that the caller starts; None for no sound.
    mapping
        Other devices' messages as ours.
    """

    def __init__(
        self,
        options: Options,
        agent: AgentLike,
        *,
        engine: LiveEngine | None = None,
        mapping: Mapping | None = None,
    ) -> None:
        self.options = options
        self.gate = Gate(options.host, options.allow)
        self.core = Core(options.limits, mapping)
        self.clock = Clock()
        self._loop = asyncio.get_running_loop()
        self.backend = Backend(agent, self._reported, roots=options.roots, output=options.output, ready=self._playable)
        self.stage = Stage(self.backend, engine, self._soon, self._announce)
        self.port = 0
        self.http_port: int | None = None
        self._datagrams = Datagrams(self, self.gate)
        self._streams = Streams(self, self.gate, options.limits.packet.max_bytes)
        self._closers: list[Callable[[], object]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._woken = asyncio.Event()

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        SmartDJError
            SERVER_CONFIG where the port is taken or the address isn't ours.
        """
        options = self.options
        try:
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda: self._datagrams, local_addr=(options.host, options.port)
            )
            self._closers.append(transport.close)
            self.port = transport.get_extra_info("sockname")[1]
            if options.tcp:
                server = await asyncio.start_server(self._streams.serve, options.host, self.port)
                self._closers += [server.close, self._streams.close]
            if options.http_port is not None:
                info = host_info("SmartDJ", self.port)
                query = OscQueryServer(self.gate, self.core.values, info)
                http = await asyncio.start_server(query.serve, options.host, options.http_port, limit=8192)
                self._closers.append(http.close)
                self.http_port = http.sockets[0].getsockname()[1]
        except OSError as failure:
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"can't listen at {options.host}:{options.port}: {failure.strerror or failure}",
                "another program may use the port; give another --port",
                "--port",
            ) from failure
        if options.announce and self.http_port is not None:
            announcer = await asyncio.to_thread(advertise, "SmartDJ", options.host, self.http_port)
            self._closers.append(announcer.close)
        self._tasks = [self._loop.create_task(self._keep_time())]
        if self.stage.engine is not None:
            self._tasks.append(self._loop.create_task(self._watch_stage()))

    async def close(self) -> None:
        """Stop listening, and cancel what is computed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for closer in reversed(self._closers):
            closer()
        await asyncio.to_thread(self.backend.close)

    # --- from the sockets --------------------------------------------------------------------------------------------

    def take(self, data: bytes, peer: Peer) -> None:
        """A packet has come."""
        self._perform(self.core.receive(data, peer, self.clock.now_s()))
        self._woken.set()

    def gone(self, peer: Peer) -> None:
        """A connection has ended."""
        self.core.forget(peer)

    # --- from other threads ------------------------------------------------------------------------------------------

    def _soon(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(function)

    def _reported(self, job: int, report: Report) -> None:
        def tell() -> None:
            self._perform(self.core.report(job, report, self.clock.now_s()))
            self._woken.set()

        self._soon(tell)

    def _playable(self, what: str, audio: Audio) -> None:
        self.stage.ready(what, audio)

    # --- doing -------------------------------------------------------------------------------------------------------

    def _announce(self, messages: Iterable[Message]) -> None:
        self._perform(self.core.announce(messages, self.clock.now_s()))

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Send):
                (self._streams if effect.peer.stream else self._datagrams).send(effect.peer, effect.data)
            elif isinstance(effect, fx.Live):
                self._live(effect)
            else:
                self.backend.do(effect)

    def _live(self, live: fx.Live) -> None:
        try:
            if live.action == "capture":
                self.backend.take(live.job, *self.stage.capture(live.values))
                return
            messages, shared = self.stage.perform(live)
        except SmartDJError as failure:
            if live.job:
                self._perform(self.core.report(live.job, fx.Broke(failure), self.clock.now_s()))
                return
            row = failure.row
            messages = [error(live.request.id, row.grpc_status, failure.message, failure.hint)]
            shared = False
        self._perform(self.core.answer(live.request, messages, self.clock.now_s(), shared=shared))

    async def _keep_time(self) -> None:
        while True:
            self._woken.clear()
            wake_s = self.core.wake_s()
            wait_s = _MAX_SLEEP_S if wake_s is None else min(max(wake_s - self.clock.now_s(), 0.0), _MAX_SLEEP_S)
            with contextlib.suppress(TimeoutError):  # not wait_for, which in Python 3.11 can swallow being cancelled
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            self._perform(self.core.tick(self.clock.now_s()))

    async def _watch_stage(self) -> None:
        while True:
            self.stage.tick()
            await asyncio.sleep(_STAGE_S)


@contextlib.asynccontextmanager
async def serving(
    options: Options,
    agent: AgentLike,
    *,
    engine: LiveEngine | None = None,
    mapping: Mapping | None = None,
) -> AsyncIterator[OscServer]:
    """A server that listens while the block runs; see `OscServer`."""
    server = OscServer(options, agent, engine=engine, mapping=mapping)
    try:
        await server.start()
        yield server
    finally:
        await server.close()
