"""What a person sees of one recording and its plan: states, plan edits, events to view. No widgets, no network.

A `Session` is changed by what the person does (`edit_step`, `move_step` …) and by what a job tells (`take`). Whoever
shows it compares `version`, which grows with every change, and `layout`, which grows when steps come, go or move.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Heard,
    Listened,
    Listening,
    Notice,
    PlanReady,
    Progress,
    Question,
    StepFinished,
    StepPlanned,
    StepStarted,
    Writing,
)
from smartdj_agent.instruction import check_instruction
from smartdj_agent.plan import MAX_STEPS, Plan, PlanStep
from smartdj_agent.steps import direction_name, format_step, parse_step

SHORTCUTS: tuple[tuple[str, str, str], ...] = (
    ("o", "O", "choose a recording"),
    ("m", "M", "record, and stop recording"),
    ("i", "I", "go to the instruction; Ctrl+Enter there writes the plan"),
    ("p", "P", "write the plan"),
    ("n", "N", "add a step"),
    ("r", "R", "run the plan"),
    ("c", "C", "cancel"),
    ("k", "K or Space", "play, pause"),
    ("x", "X", "listen to the other one: A or B"),
    ("ArrowLeft", "← →", "one second back, one second on; with Shift a tenth"),
    ("Home", "Home", "to the beginning"),
    ("[", "[ ]", "the loop begins here, the loop ends here"),
    ("l", "L", "loop on, loop off"),
    ("+", "+ −", "zoom in, zoom out"),
    ("0", "0", "all of it"),
    ("?", "?", "this list"),
)
"""Keys of the page: the key itself, how it is shown, what it does. They hold outside of text fields."""


class Phase(StrEnum):
    """Where a session stands."""

    EMPTY = "empty"
    READY = "ready"
    PLANNING = "planning"
    ASKED = "asked"
    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"

    @property
    def busy(self) -> bool:
        """Whether a job works right now."""
        return self in (Phase.PLANNING, Phase.RUNNING)


class StepState(StrEnum):
    """Where one step stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True)
class Recording:
    """The recording that is worked on: a file of ours, under its own name.

    Attributes
    ----------
    path
        Where it lies while the page is open; its name is the one that the person gave.
    duration_s
        Seconds.
    sample_rate
        Hz.
    channels
        How many.
    preview
        Name of what the browser plays, see `smartdj_agent.ui.preview`.
    note
        How the preview differs from the file; empty where it doesn't.
    """

    path: Path
    duration_s: float
    sample_rate: int
    channels: int
    preview: str
    note: str = ""

    @property
    def name(self) -> str:
        """Its file name."""
        return self.path.name


@dataclass(frozen=True)
class Sound:
    """One state of the recording that can be listened to.

    Attributes
    ----------
    key
        ``original``, ``step-0`` …, ``result``.
    title
        For people.
    preview
        Name of what the browser plays.
    touched_s
        Spans in seconds that the step may have changed.
    """

    key: str
    title: str
    preview: str
    touched_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class DraftStep:
    """One step as it is being written.

    Attributes
    ----------
    id
        Stays with it when the plan is reordered.
    text
        As typed.
    enabled
        Whether it is carried out.
    fault
        Why the text is no step, with what to do; empty for a step.
    state, note
        Where it stands, and how it was carried out.
    """

    id: str
    text: str
    enabled: bool = True
    fault: str = ""
    state: StepState = StepState.WAITING
    note: str = ""


@dataclass(frozen=True)
class Span:
    """One heard sound as a bar on the recording's time axis.

    Attributes
    ----------
    label, confidence_percent, level_db
        What was heard, how surely, how loud.
    direction
        In words: ``left``, ``30 degrees right``, ``unclear``.
    arrow
        The same as a sign.
    azimuth_deg
        −90 (left) to 90, or None.
    start_s, end_s
        When.
    left_percent, width_percent
        Place of the bar on an axis as long as the recording.
    """

    label: str
    confidence_percent: int
    level_db: float
    direction: str
    arrow: str
    azimuth_deg: float | None
    start_s: float
    end_s: float
    left_percent: float
    width_percent: float


class Session:
    """One recording, one instruction, one plan, and the job that works on them.

    Attributes
    ----------
    key
        Names it in the page's address before there is a job.
    version, layout
        See the module.
    phase
        Where it stands.
    recording
        None before there is one.
    instruction, mode, seed
        What is wished, as it stands in the page.
    job_id, last_sequence
        The job that is watched, and the newest of its events seen; empty and 0 without one.
    awaits_review
        Whether this job waits for its plan to be accepted.
    steps
        The plan as it is being edited.
    heard, listening_s
        What the listener heard, and how long it took.
    writing
        The line that the planner is writing.
    stage, fraction, left_s, step_index, step_count
        What is done right now: in words, share of it, seconds left (None where unknown), which step of how many.
    status
        What the connection is busy with: sending, waiting; empty for nothing.
    sounds
        States to listen to, the original first.
    notices
        Warnings of this run.
    question
        What the planner asks.
    error
        Why the job stopped, or what was refused.
    """

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex
        self.version = 0
        self.layout = 0
        self.phase = Phase.EMPTY
        self.recording: Recording | None = None
        self.instruction = ""
        self.mode = "preserve"
        self.seed = 0
        self.job_id = ""
        self.last_sequence = 0
        self.awaits_review = False
        self.steps: tuple[DraftStep, ...] = ()
        self.heard: tuple[Heard, ...] = ()
        self.listening_s = 0.0
        self.sounds: tuple[Sound, ...] = ()
        self.error: SmartDJError | None = None
        self._plan = Plan(())  # what the draft was made from: where it came from, not its steps
        self._jobs_wish: tuple[str, int] = ("preserve", 0)
        self._clear_run()

    def _clear_run(self) -> None:
        self.writing = ""
        self.stage = ""
        self.fraction = 0.0
        self.left_s: float | None = None
        self.step_index: int | None = None
        self.step_count = 0
        self.status = ""
        self.notices: tuple[Notice, ...] = ()
        self.question: Question | None = None
        self.awaits_review = False

    def changed(self, *, layout: bool = False) -> None:
        """Note a change; with `layout`, one of which steps there are."""
        self.version += 1
        self.layout += layout

    # --- what a person may do now ---

    @property
    def can_plan(self) -> bool:
        """Whether a plan can be asked for."""
        return self.recording is not None and not self.phase.busy and bool(self.instruction.strip())

    @property
    def can_edit(self) -> bool:
        """Whether steps can be changed."""
        return not self.phase.busy

    @property
    def can_run(self) -> bool:
        """Whether the plan can be carried out as it stands."""
        return (
            self.recording is not None
            and not self.phase.busy
            and any(step.enabled for step in self.steps)
            and not any(step.fault and step.enabled for step in self.steps)
        )

    @property
    def can_cancel(self) -> bool:
        """Whether there is something to stop."""
        return self.phase.busy

    @property
    def result(self) -> Sound | None:
        """The result, once there is one."""
        return next((sound for sound in self.sounds if sound.key == "result"), None)

    @property
    def reusable(self) -> bool:
        """Whether the job that waits for review is the one to carry the plan out: mode and seed are still the same."""
        return self.awaits_review and self._jobs_wish == (self.mode, self.seed)

    # --- the recording ---

    def set_recording(self, recording: Recording) -> None:
        """Take another recording; a plan that is there stays, what was heard and made goes."""
        before = self.recording
        self.recording = recording
        self.sounds = (Sound("original", "Original", recording.preview),)
        self.heard, self.listening_s = (), 0.0
        self.error = None
        self._clear_run()
        self.job_id, self.last_sequence = "", 0
        if before is not None:
            self._plan = replace(self._plan, source_sha256="", source_name="")
        self.steps = tuple(replace(step, state=StepState.WAITING, note="") for step in self.steps)
        self.phase = Phase.PLANNED if self.steps else Phase.READY
        self.changed(layout=True)

    # --- the plan ---

    def edit_step(self, id: str, text: str) -> None:
        """Write a step anew; what it is worth stands in its `fault`."""
        self._replace(id, text=text, fault=fault_of(text), state=StepState.WAITING, note="")
        self._plan_changed()

    def toggle_step(self, id: str) -> None:
        """Switch a step on or off."""
        self._replace(id, enabled=not self._step(id).enabled, state=StepState.WAITING, note="")
        self._plan_changed(layout=True)

    def delete_step(self, id: str) -> None:
        """Take a step out."""
        self.steps = tuple(step for step in self.steps if step.id != id)
        self._plan_changed(layout=True)

    def move_step(self, id: str, by: int) -> None:
        """Move a step up (−1) or down (1); at the edge it stays."""
        ids = [step.id for step in self.steps]
        here = ids.index(id)
        there = min(max(here + by, 0), len(ids) - 1)
        steps = list(self.steps)
        steps.insert(there, steps.pop(here))
        self.steps = tuple(steps)
        self._plan_changed(layout=True)

    def add_step(self, text: str = "") -> str:
        """Add a step at the end and return its id.

        Raises
        ------
        SmartDJError
            PLAN_INVALID where the plan is full.
        """
        if len(self.steps) >= MAX_STEPS:
            raise SmartDJError(
                ErrorCode.PLAN_INVALID,
                f"a plan has at most {MAX_STEPS} steps",
                "run this one, then go on with its result",
            )
        taken = {step.id for step in self.steps}
        id = next(name for name in (f"s{number}" for number in itertools.count(1)) if name not in taken)
        self.steps = (*self.steps, DraftStep(id, text, fault=fault_of(text)))
        if self.phase in (Phase.READY, Phase.ASKED):
            self.phase, self.question = Phase.PLANNED, None
        self._plan_changed(layout=True)
        return id

    def plan(self) -> Plan:
        """Return the plan as it stands.

        Raises
        ------
        SmartDJError
            What is wrong with the first step that is none; such steps are left out where they are switched off.
        """
        steps = tuple(
            PlanStep(step.id, parse_step(step.text), step.enabled)
            for step in self.steps
            if step.enabled or not step.fault
        )
        name = self.recording.name if self.recording is not None else self._plan.source_name
        return replace(self._plan, steps=steps, source_name=name)

    def _step(self, id: str) -> DraftStep:
        return next(step for step in self.steps if step.id == id)

    def _replace(self, id: str, **changes: object) -> None:
        self.steps = tuple(replace(step, **changes) if step.id == id else step for step in self.steps)  # type: ignore[arg-type]

    def _plan_changed(self, *, layout: bool = False) -> None:
        if self.phase in (Phase.DONE, Phase.STOPPED):  # what is there to hear was made by the plan before
            self.steps = tuple(replace(step, state=StepState.WAITING, note="") for step in self.steps)
            self.phase = Phase.PLANNED
        self.error = None
        self.changed(layout=layout)

    def _take_plan(self, plan: Plan) -> None:
        """Show a plan; steps that say the same as before keep where they stand."""
        known = {step.id: step for step in self.steps}
        drafts = []
        for item in plan.steps:
            draft = DraftStep(item.id, format_step(item.step), item.enabled)
            old = known.get(item.id)
            if old is not None and old.text == draft.text:
                draft = replace(draft, state=old.state, note=old.note)
            drafts.append(draft)
        self._plan = replace(plan, steps=())
        if tuple(drafts) != self.steps:
            self.steps = tuple(drafts)
            self.layout += 1

    # --- jobs ---

    def begin_planning(self) -> None:
        """Forget the plan before: a new one is asked for.

        Raises
        ------
        SmartDJError
            INSTRUCTION_EMPTY, INSTRUCTION_TOO_LONG.
        """
        self.instruction = check_instruction(self.instruction)
        self._begin(Phase.PLANNING)
        self.steps, self._plan = (), Plan(())
        self.heard, self.listening_s = (), 0.0
        self.changed(layout=True)

    def begin_running(self) -> None:
        """Get ready to carry the plan out."""
        reviewed = self.reusable
        job_id, sequence = self.job_id, self.last_sequence
        self._begin(Phase.RUNNING)
        if reviewed:
            self.job_id, self.last_sequence = job_id, sequence
        self.steps = tuple(replace(step, state=StepState.WAITING, note="") for step in self.steps)
        self.step_count = sum(step.enabled for step in self.steps)
        self.changed(layout=True)

    def _begin(self, phase: Phase) -> None:
        self._clear_run()
        self.phase, self.error = phase, None
        self.job_id, self.last_sequence = "", 0
        self.sounds = self.sounds[:1]
        self._jobs_wish = (self.mode, self.seed)

    def attach(self, job_id: str) -> None:
        """Note which job works."""
        self.job_id, self.last_sequence = job_id, 0
        self.changed()

    def take(self, event: Event, preview: str = "", *, awaits_review: bool = False) -> None:
        """Take one event of the job.

        Parameters
        ----------
        event
            What happened.
        preview
            Name of what the browser plays, for `StepFinished` and `Finished`.
        awaits_review
            With `PlanReady`: whether the job waits for the person.
        """
        self.status = ""
        match event:
            case Listening():
                self.phase = Phase.PLANNING
                self._doing("listening", event.fraction, event.seconds_left)
            case Listened():
                self.heard, self.listening_s = event.sounds, event.seconds
                self._doing("writing the plan", 0.0, None)
            case Writing():
                self.phase = Phase.PLANNING
                self.writing = event.text
                self._doing("writing the plan", 0.0, None)
            case StepPlanned():
                self.writing = ""
                draft = DraftStep(event.plan_step.id, format_step(event.plan_step.step), event.plan_step.enabled)
                self.steps = (*(step for step in self.steps if step.id != draft.id), draft)
                self.layout += 1
            case PlanReady():
                self.writing = ""
                self._take_plan(event.plan)
                self.awaits_review = awaits_review
                if awaits_review:
                    self._settle(Phase.PLANNED)
                    self.awaits_review = True
                else:
                    self.phase = Phase.RUNNING
                    self.step_count = len(event.plan.enabled_steps())
            case Question():
                self._settle(Phase.ASKED)
                self.question = event
            case StepStarted():
                self.phase, self.awaits_review = Phase.RUNNING, False
                self.step_index, self.step_count = event.index, event.count
                self._replace(event.plan_step.id, state=StepState.RUNNING, note="")
                self._doing("beginning", 0.0, None)
            case Progress():
                self.phase = Phase.RUNNING
                self.step_index, self.step_count = event.index, event.count
                self._doing(event.stage, event.fraction, event.seconds_left)
            case StepFinished():
                note = f"{event.method}, {event.confidence:.0%} sure, {event.seconds:.1f} s"
                self._replace(event.plan_step.id, state=StepState.DONE, note=note)
                title = f"After step {event.index + 1}: {format_step(event.plan_step.step)}"
                sound = Sound(f"step-{event.index}", title, preview, event.touched_s)
                self.sounds = (*(old for old in self.sounds if old.key not in (sound.key, "result")), sound)
                self._doing("", 1.0, None)
            case Finished():
                self._take_plan(event.plan)
                last = preview or (self.sounds[-1].preview if self.sounds else "")
                touched = tuple(span for sound in self.sounds if sound.key != "result" for span in sound.touched_s)
                sounds = tuple(sound for sound in self.sounds if sound.key != "result")
                self.sounds = (*sounds, Sound("result", "Result", last, touched))
                self._settle(Phase.DONE)
            case Notice():
                if event not in self.notices:
                    self.notices = (*self.notices, event)
        self.changed()

    def ended(self) -> None:
        """The job has ended without a result: it only planned."""
        if self.phase.busy:
            self._settle(Phase.PLANNED if self.steps else Phase.READY)
            self.changed(layout=True)

    def fail(self, error: SmartDJError) -> None:
        """The job, or an attempt to start one, has failed; CANCELLED is no failure."""
        self._settle(Phase.STOPPED if self.recording is not None else Phase.EMPTY)
        self.steps = tuple(
            replace(step, state=StepState.WAITING) if step.state is StepState.RUNNING else step for step in self.steps
        )
        self.error = error
        self.changed(layout=True)

    def refuse(self, error: SmartDJError) -> None:
        """Show why something wasn't done; nothing else changes."""
        self.error = error
        self.changed()

    def say(self, text: str) -> None:
        """Note what the connection is busy with."""
        if text != self.status:
            self.status = text
            self.changed()

    def restore(self, instruction: str, mode: str, seed: int, job_id: str, *, planning: bool) -> None:
        """Become the view of a job of which only the server knows."""
        self.instruction, self.mode, self.seed = instruction, mode, seed
        self._jobs_wish = (mode, seed)
        self.job_id, self.last_sequence = job_id, 0
        self.phase = Phase.PLANNING if planning else Phase.RUNNING
        self.changed(layout=True)

    def _doing(self, stage: str, fraction: float, left_s: float | None) -> None:
        self.stage, self.fraction = stage, min(max(fraction, 0.0), 1.0)
        self.left_s = left_s if left_s is not None and math.isfinite(left_s) else None

    def _settle(self, phase: Phase) -> None:
        notices = self.notices
        self._clear_run()
        self.notices = notices
        self.phase = phase
        self.layout += 1

    # --- in words ---

    def headline(self) -> str:
        """Say in one line what goes on."""
        match self.phase:
            case Phase.EMPTY:
                return "Begin with a recording."
            case Phase.READY:
                return "Say what it should become, or add a step yourself."
            case Phase.PLANNING:
                return f"{self.status or self.stage or 'waiting'}{self._left()}".capitalize()
            case Phase.ASKED:
                return "The planner has a question."
            case Phase.PLANNED:
                if not self.steps:
                    return "The plan is empty: add a step."
                return "This is the plan. Change it as you like, then run it."
            case Phase.RUNNING if self.step_index is None:
                return (self.status or "waiting").capitalize()
            case Phase.RUNNING:
                index = (self.step_index or 0) + 1
                doing = f": {self.status or self.stage}" if self.status or self.stage else ""
                return f"Step {index} of {self.step_count}{doing}{self._left()}"
            case Phase.DONE:
                return "Done. Compare, download, or change the plan and run it again."
            case Phase.STOPPED:
                cancelled = self.error is not None and self.error.code is ErrorCode.CANCELLED
                made = sum(sound.key.startswith("step-") for sound in self.sounds)
                kept = f" {_count(made, 'finished step')} can be listened to." if made else ""
                return ("Cancelled." if cancelled else "It did not work.") + kept

    def _left(self) -> str:
        if self.left_s is None:
            return ""
        return f", about {time_left(self.left_s)} left"


def fault_of(text: str) -> str:
    """Say why a text is no step, and what to do; empty for a step."""
    if not text.strip():
        return "Write what is to be done, such as: remove the sound of dog barking"
    try:
        parse_step(text)
    except SmartDJError as error:
        return f"{sentence(error.message)} {sentence(error.hint)}".strip()
    return ""


def sentence(text: str) -> str:
    """Return a message as a sentence: a full stop at the end, first letter large unless it begins with a name."""
    text = text.strip()
    if not text:
        return ""
    first = text.split()[0].rstrip(",:;")
    if first.isalpha():
        text = text[0].upper() + text[1:]
    return text + ("" if text[-1] in ".!?" else ".")


def time_left(seconds: float) -> str:
    """Return a duration for people: ``3 s``, ``2 min``."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{math.ceil(seconds / 60)} min"


def clock(seconds: float) -> str:
    """Return a time of a recording: ``0:07.3``, ``12:05.0``."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def spans(heard: Sequence[Heard], duration_s: float) -> tuple[Span, ...]:
    """Return heard sounds as bars on an axis as long as the recording.

    Parameters
    ----------
    heard
        Surest first.
    duration_s
        Length of the recording; 0 where unknown, then of what was heard.
    """
    whole = duration_s or max((sound.end_s for sound in heard), default=0.0) or 1.0
    bars = []
    for sound in heard:
        start = min(max(sound.start_s, 0.0), whole)
        end = min(max(sound.end_s, start), whole)
        bars.append(
            Span(
                sound.label,
                round(100 * sound.confidence),
                sound.level_db,
                direction_name(round(sound.azimuth_deg)) if sound.azimuth_deg is not None else "unclear",
                arrow(sound.azimuth_deg),
                sound.azimuth_deg,
                sound.start_s,
                sound.end_s,
                100 * start / whole,
                max(100 * (end - start) / whole, 0.5),
            )
        )
    return tuple(bars)


def arrow(azimuth_deg: float | None) -> str:
    """Return a direction as a sign, seen from above: up is in front."""
    if azimuth_deg is None:
        return "·"
    return "←↖↑↗→"[min(4, max(0, round((azimuth_deg + 90) / 45)))]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
