"""An agent whose work is done by a Ray cluster, one task per plan and per unit's steps.

The batch goes on as with any agent: it records every step that comes back, names results and writes projects itself, so
nothing on the cluster but the computing matters. A worker that is lost costs the step that it was at: the next one goes
on after the last that came back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event, Finished, PlanReady, Question, StepFinished
from smartdj_agent.scatter import ATTEMPTS, check_versions, cluster_cores, pin_threads, versions

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.cli import AgentLike
    from smartdj_agent.plan import Plan


class RayAgent:
    """Plans and edits on a cluster; safe to use from several threads.

    Parameters
    ----------
    ray
        The connected module, see `smartdj_agent.scatter.connected`.
    make
        Makes the agent that works there; picklable. Each worker makes it once.
    threads
        Threads of each worker, and cores that it takes.
    gpus
        GPUs that each worker takes.

    Attributes
    ----------
    max_parallel
        How many calls the cluster works on at a time.
    """

    def __init__(self, ray: Any, make: Callable[[], AgentLike], *, threads: int = 1, gpus: float = 0.0) -> None:
        self._ray = ray
        resources = ray.cluster_resources()
        self.max_parallel = cluster_cores(ray) // threads
        if gpus:
            self.max_parallel = min(self.max_parallel, int(resources.get("GPU", 0) // gpus))
        if not self.max_parallel:
            raise SmartDJError(
                ErrorCode.DEVICE_UNAVAILABLE, "the cluster has not what one worker needs", "give --device cpu"
            )
        # Which steps came back is known here, so it is here that lost work begins again.
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0, "num_returns": "streaming"}
        self._task = ray.remote(**options)(_events)
        self._given = [ray.put((make, versions(), threads))]

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.plan`."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                yield from self._stream("plan", PlanReady | Question, (audio, instruction), {"seed": seed})
                return
            except _LostError as error:
                _check(attempt, error)

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.apply`."""
        current, finished, attempt = audio, done, 0
        while True:
            attempt += 1
            # Generate mode keeps more between its steps than their audio: there a lost plan begins again.
            goes_on = mode == "preserve"
            given, begun = (current, finished) if goes_on else (audio, done)
            more: dict[str, Any] = {"mode": mode, "seed": seed, **({"done": begun} if begun else {})}
            known = begun
            try:
                for event in self._stream("apply", Finished, (given, plan), more):
                    if not isinstance(event, StepFinished):
                        if known >= finished:
                            yield event
                        continue
                    known += 1
                    if known > finished:
                        current, finished, attempt = event.audio, known, 0
                        yield event
                return
            except _LostError as error:
                _check(attempt, error)

    def _stream(
        self, method: str, last: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Generator[Event, None, None]:
        """Yield a task's events; closing it, or Ctrl-C, ends the task."""
        ray = self._ray
        events = self._task.remote(self._given, method, arguments, options)
        complete = False
        try:
            while True:
                try:
                    # In short waits: Ctrl-C and a stop of the run must not wait for the next event.
                    ready, _ = ray.wait([events], timeout=0.5)
                    if not ready:
                        continue
                    event = ray.get(next(events))
                except StopIteration:
                    break
                except ray.exceptions.RayTaskError as error:
                    raise RuntimeError(f"a worker failed: {error.cause!r}") from error
                except ray.exceptions.RayError as error:
                    raise _LostError(type(error).__name__) from error
                if isinstance(event, SmartDJError):
                    raise event
                complete = complete or isinstance(event, last)
                yield event
            if not complete:
                raise _LostError("the events ended too early")
        finally:
            if not complete:
                with contextlib.suppress(Exception):
                    ray.cancel(events, force=True)


class _LostError(Exception):
    """The worker of a task is gone."""


def _check(attempt: int, error: Exception) -> None:
    if attempt >= ATTEMPTS:
        raise SmartDJError(
            ErrorCode.WORKER_CRASHED,
            f"the workers of this recording died {ATTEMPTS} times ({error})",
            "they may have run out of memory: cut it into shorter files",
        ) from error


_agents: dict[str, AgentLike] = {}


def _events(given: list[Any], method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
    """Carry out one call in a worker of Ray; an error of the agent is its last event."""
    try:
        name = given[0].hex()
        if name not in _agents:
            import ray

            make, wanted, threads = ray.get(given[0])
            pin_threads(threads)
            check_versions(wanted)
            _agents.clear()
            _agents[name] = make()
            pin_threads(threads)
        yield from getattr(_agents[name], method)(*arguments, **options)
    except SmartDJError as error:
        yield error
