"""The server's side of a device: starts the process with the models, feeds it, and starts it again when it dies.

Nothing here imports torch, and nothing blocks the event loop: the pipe is read and written by threads. Reports wait in
a mailbox per task, in which progress replaces progress, so that a consumer that doesn't come round to reading costs no
memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server.tasks import ApplyTask, FileInfo, Pipe, PlanTask, Produced, Report, Task

__all__ = ["ApplyTask", "DeviceWorker", "FileInfo", "PlanTask", "Produced", "Report", "Task"]

REAL_AGENT = "smartdj_agent.server.compute:real_agent"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Pause before a process that died is started again; it doubles from death to death until a task succeeds."""
STOP_PATIENCE_S = 10.0

log = logging.getLogger(__name__)


class DeviceWorker:
    """One device and the process that computes on it. Used from one event loop.

    Parameters
    ----------
    device, preset, library, add_source, relisten, planner
        As `smartdj_agent.agent.Agent` takes them.
    agent
        ``module:function`` that makes the agent in the process, from device, preset, library, `max_batch` and
        the rest of what the agent takes.
    max_batch
        Tasks that are worked on at a time.
    patience_s
        How long a cancelled task may take to stop before the process is killed, seconds.

    Attributes
    ----------
    ready
        Set while the models are loaded and the process lives.
    failure
        Why the process could not be started the last time; None where it could. It is tried again after a pause.
    resolved_device
        The device that the agent chose, for example ``cuda`` for ``auto``; empty before it was ready.
    device_name
        What people call that device; empty before it was ready.
    models
        Installed models of the preset: role, name, SHA-256 and number of parameters of each.
    restarts
        How often the process was started again.
    """

    def __init__(
        self,
        device: str,
        preset: str,
        *,
        agent: str = REAL_AGENT,
        max_batch: int = 1,
        library: Path | tuple[Path, ...] | None = None,
        add_source: str = "auto",
        relisten: bool = True,
        planner: str = "auto",
        patience_s: float = 60.0,
    ) -> None:
        self.device = device
        self.preset = preset
        self.max_batch = max_batch
        self.patience_s = patience_s
        self.ready = asyncio.Event()
        self.failure: SmartDJError | None = None
        self.resolved_device = ""
        self.device_name = ""
        self.models: tuple[tuple[str, str, str, int], ...] = ()
        self.restarts = 0
        self._settings = {
            "agent": agent,
            "device": device,
            "preset": preset,
            "library": library,
            "add_source": add_source,
            "relisten": relisten,
            "planner": planner,
            "max_batch": max_batch,
        }
        self._tasks: dict[str, _Running] = {}
        self._child: _Child | None = None
        self._life: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether a task that is given now would wait for another one."""
        return len(self._tasks) >= self.max_batch

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        return self._child.process.pid if self._child is not None else None

    async def start(self) -> None:
        """Start the process and return at once; wait for `ready` to know that its models are loaded."""
        if self._life is not None:
            raise RuntimeError("the worker was started before")
        self._life = asyncio.create_task(self._live(), name=f"worker {self.device}")

    async def run(self, task: Task) -> AsyncGenerator[Report, None]:
        """Carry out a task: its events, then one report ``done`` or ``failed``.

        A task waits while models load and while others are worked on. After the last report the device is free. Leaving
        early (``aclose``, cancelling) cancels the task and returns when the device is free.

        Fails with the codes of `smartdj_agent.server.compute.carry_out`, with WORKER_CRASHED where the process dies
        under it, and with the reason where the process can't be started. It never raises them.
        """
        if task.task_id in self._tasks:
            raise ValueError(f"task {task.task_id} is under way already")
        if self._stopping:
            yield _failed(task.task_id, _stopped())
            return
        running = _Running(task)
        self._tasks[task.task_id] = running
        try:
            if self.ready.is_set():
                self._send(running)
            while True:
                report = await running.mailbox.take()
                yield report
                if report.kind != "event":
                    return
        finally:
            if not running.ended.is_set():
                self.cancel(task.task_id)
                await running.ended.wait()

    def cancel(self, task_id: str) -> None:
        """Cancel a task; unknown and finished ones are left alone.

        Its last report is ``failed`` with CANCELLED, or ``done`` where it was faster.
        """
        running = self._tasks.get(task_id)
        if running is None or running.cancelled:
            return
        running.cancelled = True
        if running.child is None:
            self._end(running, _cancelled(task_id))
        else:
            running.child.send(("cancel", task_id))
            loop = asyncio.get_running_loop()
            running.overdue = loop.call_later(self.patience_s, self._lose_patience, running)

    async def stop(self) -> None:
        """Cancel all tasks, end the process and wait for it. The worker can't be started again.

        A task that doesn't stop within `patience_s` (at most `STOP_PATIENCE_S`) is ended with its process.
        """
        self._stopping = True
        waiting = list(self._tasks.values())
        for running in waiting:
            self.cancel(running.task.task_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self.patience_s, STOP_PATIENCE_S)):
                for running in waiting:
                    await running.ended.wait()
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life
        for running in waiting:
            self._end(running, _failed(running.task.task_id, _stopped()))

    # --- the process's life -------------------------------------------------

    async def _live(self) -> None:
        while True:
            child: _Child | None = None
            try:
                child = _Child(self._settings, self._read)
                self._child = child
                code = await asyncio.shield(child.ended)  # cancelling this task must not cancel it
                log.error("worker %s: process %d %s", self.device, child.process.pid, _how_it_ended(code))
                if not self.ready.is_set() and self.failure is None:
                    self.failure = _unstartable(self.device, _how_it_ended(code))
            except OSError as error:
                log.error("worker %s: no process could be started: %s", self.device, error)
                code = 0
                self.failure = _unstartable(self.device, f"could not be started ({error.strerror or error})")
            finally:
                self.ready.clear()
                self._child = None
                if child is not None and not child.ended.done():
                    await child.close()
            self._fail_tasks(child, code)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self.restarts += 1

    def _fail_tasks(self, child: _Child | None, code: int) -> None:
        """End what the dead process was working on, and all that waits where it could not even start."""
        hint = (
            "The system may have run out of memory: try a shorter recording."
            if code == -getattr(signal, "SIGKILL", 9)
            else "Try again; if it happens again, report it with the server's log."
        )
        for running in list(self._tasks.values()):
            if running.child is None and self.failure is None:
                continue  # not sent yet: the next process does it
            task_id = running.task.task_id
            if running.cancelled:
                self._end(running, _cancelled(task_id))
                continue
            error = self.failure or SmartDJError(
                ErrorCode.WORKER_CRASHED,
                f"The process that computes on {self.device} {_how_it_ended(code)}.",
                hint,
            )
            self._end(running, _failed(task_id, error))

    def _send(self, running: _Running) -> None:
        assert self._child is not None
        running.child = self._child
        self._child.send(("task", running.task))

    def _lose_patience(self, running: _Running) -> None:
        if not running.ended.is_set() and running.child is not None:
            log.error("worker %s: a cancelled task did not stop in %g s", self.device, self.patience_s)
            running.child.process.kill()

    # --- what the process says ----------------------------------------------

    def _read(self, child: _Child, kind: str, content: Any) -> None:
        """Take in one message, on the thread that reads the pipe."""
        if kind == "report":
            running = self._tasks.get(content.task_id)
            if running is None or running.child is not child:
                return
            if content.kind == "event":
                running.mailbox.put(content)
            else:
                child.call(self._end, running, content)
        elif kind == "log":
            level, name, text = content
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "ready":
            child.call(self._on_ready, child, content)
        else:
            child.call(self._on_broken, SmartDJError(ErrorCode(content[0]), *content[1:]))

    def _on_ready(self, child: _Child, about: dict[str, Any]) -> None:
        if child is not self._child:
            return
        self.failure = None
        self.resolved_device, self.device_name, self.models = about["device"], about["device_name"], about["models"]
        self.ready.set()
        for running in self._tasks.values():
            if running.child is None:
                self._send(running)

    def _on_broken(self, failure: SmartDJError) -> None:
        self.failure = failure
        log.error("worker %s: %s", self.device, failure)

    def _end(self, running: _Running, report: Report) -> None:
        if running.ended.is_set():
            return
        running.ended.set()
        if running.overdue is not None:
            running.overdue.cancel()
        del self._tasks[running.task.task_id]
        running.mailbox.put(report)
        if report.kind == "done":
            self._pause_s = FIRST_PAUSE_S


class _Running:
    """A task that was given to the worker and has not ended."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.mailbox = _Mailbox()
        self.ended = asyncio.Event()
        self.child: _Child | None = None
        self.cancelled = False
        self.overdue: asyncio.TimerHandle | None = None


class _Mailbox:
    """Reports of one task on their way from the reading thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._reports: deque[Report] = deque()
        self._filled = asyncio.Event()

    def put(self, report: Report) -> None:
        """Add a report, from any thread; progress replaces progress that nobody has taken yet."""
        with self._lock:
            if report.progress and self._reports and self._reports[-1].progress:
                self._reports[-1] = report
                return
            self._reports.append(report)
            if len(self._reports) > 1:
                return  # whoever takes was woken for the first
        with contextlib.suppress(RuntimeError):  # the event loop was closed
            self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> Report:
        """Wait for the next report."""
        while True:
            with self._lock:
                if self._reports:
                    return self._reports.popleft()
                self._filled.clear()
            await self._filled.wait()

    def __len__(self) -> int:
        return len(self._reports)


class _Child:
    """One process, and the two threads that talk with it.

    Parameters
    ----------
    settings
        What the process is told first.
    read
        Called with this object and each message, on the reading thread.
    """

    def __init__(self, settings: dict[str, Any], read: Callable[[_Child, str, Any], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        path = [entry or os.getcwd() for entry in sys.path]
        program = f"import sys; sys.path[:] = {path!r}; from smartdj_agent.server.compute import main; main()"
        # Not multiprocessing: its children import the server's main module, torch or not, and share its terminal
        # signals. Here the process has nothing of the server but two pipes, which end when the server does.
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._pipe = Pipe(self.process.stdout, self.process.stdin)
        self.send(settings)
        name = f"worker {self.process.pid}"
        threading.Thread(target=self._write_all, name=f"{name} out", daemon=True).start()
        threading.Thread(target=self._read_all, args=(read,), name=f"{name} in", daemon=True).start()

    def send(self, message: Any) -> None:
        """Queue a message to the process; never blocks."""
        self._outbox.put(message)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the event loop, from the reading thread."""
        with contextlib.suppress(RuntimeError):  # the event loop was closed
            self._loop.call_soon_threadsafe(function, *arguments)

    async def close(self) -> None:
        """End the process, by force where it doesn't end within two seconds."""
        self._outbox.put(None)
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), 2.0)
        except TimeoutError:
            self.process.kill()
            await self.ended

    def _write_all(self) -> None:
        assert self.process.stdin is not None
        while (message := self._outbox.get()) is not None:
            try:
                self._pipe.send(message)
            except OSError:  # it died; the reading thread says so
                break
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read_all(self, read: Callable[[_Child, str, Any], None]) -> None:
        try:
            while True:
                read(self, *self._pipe.receive())
        except EOFError:
            pass
        except Exception:  # a message that can't be read: nothing that comes after it can be trusted
            log.exception("worker process %d said what can't be read", self.process.pid)
            self.process.kill()
        try:
            code = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._outbox.put(None)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.call(self._set_ended, code)

    def _set_ended(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended by itself with status {code}"


def _unstartable(device: str, why: str) -> SmartDJError:
    return SmartDJError(
        ErrorCode.WORKER_CRASHED,
        f"The process for {device} {why} before its models were loaded.",
        "Look at the server's log; it is tried again.",
    )


def _stopped() -> SmartDJError:
    return SmartDJError(ErrorCode.SERVER_STOPPING, "The server is stopping.", "Try again when it is back.")


def _cancelled(task_id: str) -> Report:
    return _failed(task_id, SmartDJError(ErrorCode.CANCELLED, "The job was cancelled."))


def _failed(task_id: str, error: SmartDJError) -> Report:
    return Report(task_id, "failed", error=(error.code.value, error.message, error.hint, error.field))
