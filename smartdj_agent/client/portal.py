"""A thread with an event loop of its own, in which the sync client's work is done."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_S = 10.0
"""Longest wait for work that was interrupted to clean up after itself, seconds."""


class Portal:
    """Runs coroutines in a background thread and waits for them here; safe to use from several threads at once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._enough: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._interrupting = False

    @property
    def used(self) -> bool:
        """Whether there is a thread that something may run in."""
        return self._thread is not None and not self._closed

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what `function` returns, and return or raise what comes of it.

        An exception in the waiting thread, such as KeyboardInterrupt, cancels the coroutine, lets it clean up, and
        goes on.

        Raises
        ------
        RuntimeError
            The portal is closed, or the caller is inside of it.
        """
        loop = self._start()
        if threading.current_thread() is self._thread:
            raise RuntimeError("the client can't be used from its own callbacks")
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        task: asyncio.Task[None] | None = None
        unwanted = False
        cancelled = asyncio.CancelledError()  # who gave up doesn't look at it

        async def run() -> None:
            try:
                result = await function()
            except asyncio.CancelledError:
                done.set_exception(RuntimeError("the client was closed meanwhile") if self._interrupting else cancelled)
                raise
            except BaseException as error:
                done.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                done.set_result(result)

        def begin() -> None:
            nonlocal task
            if unwanted:
                done.set_exception(cancelled)
            else:
                task = loop.create_task(run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        def give_up() -> None:
            nonlocal unwanted
            unwanted = True
            if task is not None:
                task.cancel()

        loop.call_soon_threadsafe(begin)
        try:
            while not done.done():
                concurrent.futures.wait([done], timeout=1.0)  # on Windows a wait without end can't be interrupted
        except BaseException:
            loop.call_soon_threadsafe(give_up)
            concurrent.futures.wait([done], timeout=_STOP_S)
            raise
        return done.result()

    async def interrupt(self) -> None:
        """Cancel what other threads wait for, let it clean up, and tell them by a RuntimeError; runs in the portal."""
        self._interrupting = True
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def forget(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run what `function` returns, and don't wait; nothing where the portal is closed."""
        loop = self._loop
        if loop is not None and not self._closed:
            asyncio.run_coroutine_threadsafe(function(), loop)

    def close(self) -> None:
        """Cancel what runs and end the thread; may be called again."""
        with self._lock:
            already, self._closed = self._closed, True
            thread, loop = self._thread, self._loop
        if already or thread is None or loop is None:
            return
        assert self._enough is not None
        loop.call_soon_threadsafe(self._enough.set)
        thread.join()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._thread is None:
                # A daemon, so that a program that forgets to close its client still ends.
                self._thread = threading.Thread(target=self._main, name="smartdj-client", daemon=True)
                self._thread.start()
        self._ready.wait()
        assert self._loop is not None
        return self._loop

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._enough = asyncio.Event()
        self._ready.set()
        await self._enough.wait()
