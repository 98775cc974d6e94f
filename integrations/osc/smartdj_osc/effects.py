"""What the core asks its surroundings to do, and what they report back. Data only."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from smartdj_agent.errors import SmartDJError
from smartdj_agent.events import Heard
from smartdj_agent.plan import Plan


@dataclass(frozen=True)
class Peer:
    """Where packets come from and go to.

    Attributes
    ----------
    host
        Numeric address, ``127.0.0.1`` or ``::1``.
    port
        UDP port, or the far end's port of a TCP connection.
    stream
        Whether it is a TCP connection.
    """

    host: str
    port: int
    stream: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tcp ' if self.stream else ''}{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False


@dataclass
class Budget:
    """How much may still be sent because of one packet to a peer that might be someone else (UDP addresses are
    easily forged); None is without end."""

    left_bytes: int | None
    told: bool = False


@dataclass(frozen=True, eq=False)
class Request:
    """Who asked, under which id."""

    id: str
    peer: Peer
    budget: Budget = field(default_factory=lambda: Budget(None))


# --- from the core to its surroundings ---


@dataclass(frozen=True)
class Send:
    """Send this packet."""

    peer: Peer
    data: bytes


@dataclass(frozen=True)
class Load:
    """Open a recording that a peer named."""

    job: int
    path: str


@dataclass(frozen=True)
class LoadPlan:
    """Read a plan file that a peer named."""

    job: int
    path: str


@dataclass(frozen=True)
class MakePlan:
    """Plan for the source."""

    job: int
    instruction: str
    seed: int


@dataclass(frozen=True)
class Run:
    """Carry a plan out on the source."""

    job: int
    plan: Plan
    mode: str
    seed: int


@dataclass(frozen=True)
class Cancel:
    """Stop a job; it ends with a `Broke` of code CANCELLED."""

    job: int


@dataclass(frozen=True, eq=False)
class Live:
    """Something for the stage: slots, tempo, what sounds.

    Attributes
    ----------
    action
        The address without ``/smartdj/``.
    values
        Of `smartdj_osc.namespace.Call`; also ``plan`` where a slot takes the present plan.
    job
        Number of the job that it is, for `capture`; 0 for what is done at once.
    """

    request: Request
    action: str
    values: dict[str, Any]
    job: int = 0


Effect = Send | Load | LoadPlan | MakePlan | Run | Cancel | Live


# --- from the surroundings to the core, each about one job ---


@dataclass(frozen=True)
class SourceReady:
    """The recording is there; ends the job."""

    name: str
    duration_s: float
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class SoundHeard:
    """The listener heard something."""

    sound: Heard


@dataclass(frozen=True)
class PlanMade:
    """The plan is there; ends the job."""

    plan: Plan


@dataclass(frozen=True)
class Asked:
    """The planner has a question; ends the job."""

    text: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Fraction:
    """How far it is: of the enabled step `index` (from 0), or of listening (None)."""

    index: int | None
    fraction: float


@dataclass(frozen=True)
class StepReady:
    """An enabled step (from 0) is done; `path` is empty where nothing was written."""

    index: int
    path: str
    lufs: float


@dataclass(frozen=True)
class ResultReady:
    """All is done; ends the job."""

    path: str


@dataclass(frozen=True)
class Note:
    """Something to know that is no error."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class Broke:
    """The job ended without a result."""

    error: SmartDJError


Report = SourceReady | SoundHeard | PlanMade | Asked | Fraction | StepReady | ResultReady | Note | Broke
