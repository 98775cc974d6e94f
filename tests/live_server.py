"""A real server with a stub agent, on loopback, for tests: started in a thread, talked to with the generated stubs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from smartdj.v1 import audio_pb2_grpc, edit_pb2_grpc, job_pb2_grpc, server_pb2_grpc
from smartdj_agent.server import settings
from smartdj_agent.server.serve import Running, serving

STUB = "tests.stub_agent:make"
SLOW = ("stub:0.25",)
"""A device on which a step of the stub takes a second."""


@dataclass
class Live:
    """A running server with its stubs."""

    running: Running
    channel: grpc.Channel
    loop: asyncio.AbstractEventLoop

    def __post_init__(self) -> None:
        self.edit = edit_pb2_grpc.EditServiceStub(self.channel)
        self.audio = audio_pb2_grpc.AudioServiceStub(self.channel)
        self.jobs = job_pb2_grpc.JobServiceStub(self.channel)
        self.server = server_pb2_grpc.ServerServiceStub(self.channel)

    def ready(self) -> None:
        """Wait until the worker is ready."""
        waiting = self.running.workers[0].ready.wait()
        asyncio.run_coroutine_threadsafe(waiting, self.loop).result(60)


@contextmanager
def live_server(data_dir: Path, *, agent: str = STUB, **flags: Any) -> Iterator[Live]:
    """Run a server inside the block; `flags` are settings."""
    configuration = settings.load({"port": 0, "data_dir": data_dir, "drain_s": 5.0, **flags}, environment={})
    started: list[Running] = []
    failed: list[BaseException] = []
    begun, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        try:
            async with serving(configuration, agent=agent) as running:
                started.append(running)
                begun.set()
                await end.wait()
        except BaseException as error:
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), name="server")
    thread.start()
    begun.wait(60)
    if failed:
        thread.join()
        loop.close()
        raise failed[0]
    with grpc.insecure_channel(started[0].address) as channel:
        try:
            yield Live(started[0], channel, loop)
        finally:
            loop.call_soon_threadsafe(end.set)
            thread.join(60)
            assert not thread.is_alive()
            loop.close()
            if failed:
                raise failed[0]
