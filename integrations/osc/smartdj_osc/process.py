"""An agent in a process of its own, so that networks at work never keep the audio thread or a controller waiting."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from smartdj_agent.audio import Audio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event
from smartdj_agent.plan import Plan


def local_agent(preset: str, device: str) -> Any:
    """Make the agent of this machine; runs in the child."""
    from smartdj_agent.agent import Agent

    return Agent(preset=preset, device=device)


class ProcessAgent:
    """The agent in a child process; same methods, events and errors. Used from one thread at a time.

    The child is started when it is first needed, and again where it was lost; it ends with this process.

    Parameters
    ----------
    factory
        ``module:function`` that makes the agent in the child.
    arguments
        Of the factory; can be pickled.
    """

    def __init__(self, factory: str, *arguments: Any) -> None:
        self._factory = factory
        self._arguments = arguments
        self._process: Any = None
        self._connection: Connection | None = None

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Listen and plan; see `smartdj_agent.agent.Agent.plan`."""
        return self._stream("plan", (audio, instruction), {"seed": seed})

    def apply(self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0) -> Iterator[Event]:
        """Carry out a plan; see `smartdj_agent.agent.Agent.apply`."""
        return self._stream("apply", (audio, plan), {"mode": mode, "seed": seed})

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join(5)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _stream(self, method: str, positional: tuple[Any, ...], named: dict[str, Any]) -> Iterator[Event]:
        connection = self._started()
        ended = False
        try:
            connection.send((method, positional, named))
            while True:
                kind, value = connection.recv()
                if kind == "event":
                    yield value
                    continue
                ended = True
                if kind == "failed":
                    code, *rest = value
                    raise SmartDJError(ErrorCode(code), *rest)
                return
        except (EOFError, OSError) as lost:
            ended = True
            self.close()
            raise SmartDJError(
                ErrorCode.WORKER_CRASHED, "the process that computes has crashed", "try again; it starts anew"
            ) from lost
        finally:
            if not ended:
                self._cancel(connection)

    def _cancel(self, connection: Connection) -> None:
        try:
            connection.send("cancel")
            while connection.recv()[0] == "event":
                pass
        except (EOFError, OSError):
            self.close()

    def _started(self) -> Connection:
        if self._connection is None or self._process is None or not self._process.is_alive():
            self.close()
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._factory, self._arguments), name="smartdj-compute", daemon=True
            )
            self._process.start()
            theirs.close()
        return self._connection


def _serve(connection: Connection, factory: str, arguments: tuple[Any, ...]) -> None:
    """The child: takes calls until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    agent: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            call = connection.recv()
            if call == "cancel":  # of something that had ended already: its end is on its way
                continue
            method, positional, named = call
            try:
                if agent is None:
                    module, _, function = factory.partition(":")
                    agent = getattr(importlib.import_module(module), function)(*arguments)
                _answer(connection, getattr(agent, method)(*positional, **named))
            except (EOFError, OSError) as failure:
                if not isinstance(failure, EOFError | BrokenPipeError):
                    connection.send(("failed", _described(failure)))
                    continue
                raise
            except Exception as failure:
                connection.send(("failed", _described(failure)))


def _answer(connection: Connection, events: Iterator[Event]) -> None:
    for event in events:
        if connection.poll():
            connection.recv()
            events.close()  # type: ignore[attr-defined]
            break
        connection.send(("event", event))
    connection.send(("ended", None))


def _described(failure: Exception) -> tuple[str, str, str, str]:
    if isinstance(failure, SmartDJError):
        return failure.code.value, failure.message, failure.hint, failure.field
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return ErrorCode.OUT_OF_MEMORY.value, "there is not enough memory", "edit a shorter part", ""
    return ErrorCode.INTERNAL.value, f"{type(failure).__name__}: {failure}", "please report it", ""
