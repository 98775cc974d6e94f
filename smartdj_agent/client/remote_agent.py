"""A server in the shape of `smartdj_agent.agent.Agent`, above all for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from smartdj_agent.audio import Audio
from smartdj_agent.client.sync import Client
from smartdj_agent.client.transfer import Report
from smartdj_agent.client.values import Capabilities
from smartdj_agent.events import Event, Finished, PlanReady, Progress, StepFinished, StepStarted
from smartdj_agent.plan import Plan


class RemoteAgent:
    """Plans and edits at a server; same methods, events and errors as `smartdj_agent.agent.Agent`.

    Recordings travel as they are in memory (float32, or float64 where their format needs it), and only where the
    server doesn't have them; results come back the same way, with the format and tags of the recording that they were
    made from. Closing a generator, or Ctrl-C while it waits, cancels the job at the server.

    Parameters
    ----------
    client
        The server; stays the caller's to close.
    status
        Is told in words what is going on while no event comes: sending, waiting, a lost connection. Called in another
        thread, while a generator of this object is being waited for.

    Examples
    --------
    >>> with Client("localhost:50551") as client:
    ...     agent = RemoteAgent(client)
    ...     for event in agent.plan(read_audio("walk.wav"), "remove the dog"):
    ...         print(event)
    """

    def __init__(self, client: Client, *, status: Report | None = None) -> None:
        self.client = client
        self.status = status
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do; asked for once.

        Raises
        ------
        SmartDJError
            SERVER_UNREACHABLE, UNAUTHENTICATED, DEADLINE.
        """
        if self._capabilities is None:
            self._capabilities = self.client.capabilities()
        return self._capabilities

    @property
    def preset(self) -> str:
        """The preset of networks that the server works with."""
        return self.capabilities.preset

    @property
    def device(self) -> str:
        """Names of the server's devices, such as ``cuda:0``."""
        return ", ".join(device.device for device in self.capabilities.devices)

    @property
    def max_parallel(self) -> int:
        """How many threads may use this object at a time with profit: one per device, and one whose audio travels."""
        return len(self.capabilities.devices) + 1

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Listen, then write a plan; see `Agent.plan`.

        Raises
        ------
        SmartDJError
            As `Agent.plan`; SERVER_UNREACHABLE, UNAUTHENTICATED, QUEUE_FULL, DEADLINE.

        Examples
        --------
        >>> *_, ready = agent.plan(audio, "make this sound like a harbour")
        """
        with self.client.plan(audio, instruction, seed=seed, status=self.status) as run:
            yield from run

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Carry out the enabled steps of a plan in order; see `Agent.apply`.

        Raises
        ------
        SmartDJError
            As `Agent.apply`; SERVER_UNREACHABLE, UNAUTHENTICATED, QUEUE_FULL, DEADLINE.

        Examples
        --------
        >>> *_, finished = agent.apply(audio, plan, seed=1)
        """
        count = len(plan.enabled_steps())
        rest = _without_first(plan, done) if done else plan
        if not rest.enabled_steps():  # a server takes no job that does nothing
            yield Finished(audio, plan, 0.0, 0.0)
            return
        with self.client.edit(audio, rest, mode=mode, seed=seed + done, status=self.status) as run:
            for event in run:
                if not isinstance(event, PlanReady):  # a server says it of given plans too, the agent doesn't
                    yield _counted_from(event, done, count, plan) if done else event


def _without_first(plan: Plan, done: int) -> Plan:
    """The plan with its first enabled steps switched off, for the recording that they have made."""
    over = {step.id for step in plan.enabled_steps()[:done]}
    steps = tuple(replace(step, enabled=step.enabled and step.id not in over) for step in plan.steps)
    return replace(plan, steps=steps, source_sha256="")


def _counted_from(event: Event, done: int, count: int, plan: Plan) -> Event:
    if isinstance(event, StepStarted | Progress | StepFinished):
        return replace(event, index=event.index + done, count=count)
    if isinstance(event, Finished):
        return replace(event, plan=plan)
    return event
