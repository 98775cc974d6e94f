"""What the agent tells its doors while it works: frozen, in order, one stream.

`Agent.plan` yields `Listening` per window, `Listened`, then `Writing` per word piece and a `StepPlanned` per step as it
is written, then one `PlanReady` or one `Question`.
`Agent.apply` yields, per enabled step, `StepStarted`, `Progress` (at least one per denoising step or window) and
`StepFinished`, with `Notice` anywhere, and at the end one `Finished`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smartdj_agent.audio import Audio
from smartdj_agent.plan import Plan, PlanStep


@dataclass(frozen=True)
class Heard:
    """One sound that the listener heard.

    Attributes
    ----------
    label
        Its name in plain words, for example ``dog barking``.
    confidence
        0 to 1.
    level_db
        Level of the recording while the sound is active, dB relative to full scale (RMS).
    azimuth_deg
        −90 (left) to 90 (right), 0 in front; None where the recording is mono or the direction is unclear.
    start_s, end_s
        Time span in which it is heard, seconds.
    """

    label: str
    confidence: float
    level_db: float
    azimuth_deg: float | None
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Listening:
    """Part of the recording has been listened to.

    Attributes
    ----------
    fraction
        0 to 1.
    realtime_factor
        Seconds of audio per second of compute so far.
    seconds_left
        Estimate for listening.
    """

    fraction: float
    realtime_factor: float
    seconds_left: float


@dataclass(frozen=True)
class Listened:
    """The listener is done."""

    sounds: tuple[Heard, ...]
    seconds: float


@dataclass(frozen=True)
class Writing:
    """The planner has written one more piece of a word; `text` is the line so far."""

    text: str


@dataclass(frozen=True)
class StepPlanned:
    """The planner has written one more step."""

    index: int
    plan_step: PlanStep


@dataclass(frozen=True)
class PlanReady:
    """The whole plan; nothing has been changed yet."""

    plan: Plan
    seconds: float


@dataclass(frozen=True)
class Question:
    """The planner needs to know more; choices are instructions that would work."""

    text: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class StepStarted:
    """A step begins; `index` counts enabled steps from 0, `count` is how many there are."""

    index: int
    count: int
    plan_step: PlanStep
    device: str


@dataclass(frozen=True)
class Progress:
    """One denoising step or window is done.

    Attributes
    ----------
    fraction
        0 to 1 within this step.
    realtime_factor
        Seconds of audio per second of compute so far; 2.0 is twice as fast as real time.
    seconds_left
        Estimate for this step.
    """

    index: int
    count: int
    fraction: float
    realtime_factor: float
    seconds_left: float
    stage: str


@dataclass(frozen=True)
class StepFinished:
    """A step is done; `audio` is the whole recording after it.

    Attributes
    ----------
    method
        How it was carried out, in words: ``mask``, ``library: FILE (name, licence; how well it fits)``, ``generated``,
        ``edited on the mixture``, ``unchanged``.
    confidence
        0 to 1, how sure the editor is that it touched the named sound.
    touched_s
        Time spans (start, end) in seconds in which the output may differ from the input of this step.
    """

    index: int
    count: int
    plan_step: PlanStep
    audio: Audio
    seconds: float
    realtime_factor: float
    method: str
    confidence: float
    touched_s: tuple[tuple[float, float], ...] = field(default=())


@dataclass(frozen=True)
class Notice:
    """Something the person should know: a warning that is not an error."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Finished:
    """All enabled steps are done; `audio` is the result in the recording's own format."""

    audio: Audio
    plan: Plan
    seconds: float
    realtime_factor: float


Event = (
    Listening
    | Listened
    | Writing
    | StepPlanned
    | PlanReady
    | Question
    | StepStarted
    | Progress
    | StepFinished
    | Notice
    | Finished
)
