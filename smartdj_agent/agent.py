"""Plan and edit, as one stream of events: the core that every door opens onto."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from smartdj_agent import __version__
from smartdj_agent.audio import Audio, audio_sha256
from smartdj_agent.editor import (
    ABSENT,
    MODES,
    Chain,
    Editor,
    Layers,
    StepOutcome,
    StepProgress,
    choose_device,
    elapsed_factor,
)
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
from smartdj_agent.listening import listen
from smartdj_agent.models.presets import get_preset
from smartdj_agent.models.weights import is_installed, network_id
from smartdj_agent.plan import Plan, PlanStep, Provenance, check_source
from smartdj_agent.planner import Asked, Planner
from smartdj_agent.planners import check_planner, open_planner
from smartdj_agent.relisten import CHECKED, Verdict, better, how_surely, judge, warning, where_it_changed
from smartdj_agent.shelf import Shelf, check_add_source
from smartdj_agent.steps import Step

RETRY_SEED = 1_000_003
"""Added to the seed of a step that is tried once more."""
UNTOUCHED = frozenset({"unchanged", "silence"})
"""How the editor says that it found nothing to do."""
SEEDLESS = frozenset({"mask", "added before"})
"""How the editor says that the seed played no part: a second try could only come to the same."""


@dataclass(frozen=True)
class _Run:
    """One step on its way: the recording before it, its number of all."""

    audio: Audio
    step: Step
    mode: str
    seed: int
    chain: Chain | None
    layers: Layers | None
    index: int
    count: int


class Agent:
    """Listens, plans and edits. Networks are loaded when they are first needed.

    Parameters
    ----------
    preset
        ``small`` or ``paper``; see `smartdj_agent.models.presets`.
    device
        ``auto``, ``cpu`` or ``cuda``.
    library
        Folders of sounds to add from; by default all that the person has indexed. The starter library comes last.
    add_source
        Where added sounds come from: ``auto``, ``edit``, ``generate`` or ``library``; see `smartdj_agent.editor`.
    relisten
        Whether the result of each step is listened to; what can't be heard is tried once more, or told.
    planner
        Who writes plans: ``auto``, ``small``, ``paper`` or ``endpoint``; see `smartdj_agent.planners`.

    Raises
    ------
    SmartDJError
        USAGE for an unknown preset, device, source of sounds or planner, DEVICE_UNAVAILABLE.
    """

    def __init__(
        self,
        preset: str = "small",
        device: str = "auto",
        library: Path | Sequence[Path] | None = None,
        add_source: str = "auto",
        relisten: bool = True,
        planner: str = "auto",
    ) -> None:
        self.preset = get_preset(preset)
        self.device = choose_device(device)
        self._folders = (library,) if isinstance(library, Path) else library
        self._add_source = check_add_source(add_source)
        self._planner = check_planner(planner)
        self.relisten = relisten
        self._heard: tuple[str, tuple[Heard, ...]] | None = None

    @cached_property
    def editor(self) -> Editor:
        """What carries out steps.

        Raises
        ------
        SmartDJError
            AUDIO_NOT_FOUND or AUDIO_UNREADABLE where a library can't be opened.
        """
        # None to go by texts alone: an editor without a listener can still place sounds.
        listener_id = network_id("small", "listener") if is_installed("small", "listener") else None
        return Editor(self.preset, self.device, Shelf.open(self._folders, listener_id), self._add_source)

    @cached_property
    def planner(self) -> Planner:
        """What writes plans.

        Raises
        ------
        SmartDJError
            ENDPOINT_FAILED where the environment names no endpoint.
        """
        return open_planner(self._planner, self.preset.name, self.device, self.editor.encoder)

    def listen(self, audio: Audio) -> Iterator[Listening | Listened]:
        """What is in the recording, nothing for digital silence: `Listening` per window, at the end one `Listened`.

        The last recording's is kept: a second plan for it needn't wait.
        """
        yield from self._listen(audio, audio_sha256(audio))

    def _listen(self, audio: Audio, digest: str) -> Iterator[Listening | Listened]:
        started = time.monotonic()
        if self._heard is not None and self._heard[0] == digest:
            yield Listened(self._heard[1], time.monotonic() - started)
            return
        if not np.any(audio.samples):
            yield Listened((), time.monotonic() - started)
            return
        hearing = listen(
            self.editor.listener,
            self.editor.encoder,
            audio.samples,
            audio.sample_rate,
            tuple(self.planner.vocabulary),
        )
        while True:
            try:
                fraction = next(hearing)
            except StopIteration as end:
                self._heard = (digest, end.value)
                yield Listened(end.value, time.monotonic() - started)
                return
            seconds = time.monotonic() - started
            left = seconds / max(fraction, 1e-3) * (1 - fraction)
            yield Listening(fraction, audio.duration_s * fraction / max(seconds, 1e-6), left)

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Listen, then write a plan: `Listening` …, `Listened`, `Writing` and `StepPlanned` …, then its end.

        The end is one `PlanReady` or one `Question`.

        Closing the generator cancels: nothing more is computed than the window or word piece under way.

        Raises
        ------
        SmartDJError
            INSTRUCTION_EMPTY, INSTRUCTION_TOO_LONG, MODEL_MISSING, MODEL_CORRUPT or ENDPOINT_FAILED.
        """
        asked = check_instruction(instruction)
        heard = Listened((), 0.0)
        digest = audio_sha256(audio)
        for event in self._listen(audio, digest):
            yield event
            if isinstance(event, Listened):
                heard = event
        started = time.monotonic()
        steps: list[PlanStep] = []

        search = partial(self._without_trace, audio)
        for item in self.planner.write(heard.sounds, asked, seed=seed, audio=audio, search=search):
            if isinstance(item, Listening):
                yield item
                continue
            if isinstance(item, str):
                yield Writing(item)
                continue
            if isinstance(item, Asked):
                yield Question(item.text, item.choices)
                return
            steps.append(PlanStep(id=f"s{len(steps) + 1}", step=item))
            yield StepPlanned(len(steps) - 1, steps[-1])
        plan = Plan(
            steps=tuple(steps),
            instruction=asked,
            source_sha256=digest,
            provenance=self.provenance(seed),
        )
        yield PlanReady(plan, time.monotonic() - started)

    def _without_trace(self, audio: Audio, names: Sequence[str]) -> Generator[Listening, None, tuple[str, ...]]:
        """Those of the named sounds that the editor would not find."""
        absent = []
        for index, name in enumerate(names):
            started = time.monotonic()
            surest = 0.0
            for done, count, sure in self.editor.trace(audio, name):
                surest = sure
                fraction = (index + done / count) / len(names)
                seconds = max(time.monotonic() - started, 1e-6)
                yield Listening(fraction, audio.duration_s * done / count / seconds, seconds / done * (count - done))
            if surest < ABSENT:
                absent.append(name)
        return tuple(absent)

    def provenance(self, seed: int) -> Provenance:
        """Who made a plan, and when."""
        return Provenance(
            planner=f"smartdj {__version__} {self.planner.name}",
            editor=f"smartdj {__version__} {self.preset.name}",
            seed=seed,
            created=datetime.now(UTC).replace(microsecond=0).isoformat(),
        )

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Carry out the enabled steps of a plan in order.

        Closing the generator cancels: nothing more is computed than the denoising step or window under way.

        Parameters
        ----------
        audio
            The recording, or what it had become after the first `done` steps.
        plan
            What to do.
        mode
            ``preserve`` or ``generate``.
        seed
            Same seed, same result.
        done
            How many enabled steps were carried out before; to go on after an interruption. In preserve mode the result
            is the same as without one, except where a later step names a sound that the plan added before the
            interruption: within one run such sounds are kept apart. Generate mode encodes the recording anew, as it
            keeps latents between steps only within one run.

        Raises
        ------
        SmartDJError
            USAGE for an unknown mode, PLAN_MISMATCH for another recording's plan, MODEL_MISSING or MODEL_CORRUPT.
        """
        if mode not in MODES:
            raise SmartDJError(ErrorCode.USAGE, f"Unknown mode {mode!r}.", "Use preserve or generate.")
        if plan.source_sha256 and not done:
            check_source(plan, audio_sha256(audio))
        steps = plan.enabled_steps()
        began = time.monotonic()
        current = audio
        chain: Chain | None = None
        layers: Layers | None = None
        for index, plan_step in enumerate(steps[done:], start=done):
            yield StepStarted(index, len(steps), plan_step, self.device)
            started = time.monotonic()
            run = _Run(current, plan_step.step, mode, seed + index, chain, layers, index, len(steps))
            outcome = yield from self._checked(run) if self.relisten else self._try(run, run.seed)
            current = replace(current, samples=outcome.samples)
            chain, layers = outcome.chain, outcome.layers
            for code, message, hint in outcome.warnings:
                yield Notice(code, message, hint)
            rate = audio.sample_rate
            yield StepFinished(
                index,
                len(steps),
                plan_step,
                current,
                time.monotonic() - started,
                elapsed_factor(audio, started),
                outcome.method,
                outcome.confidence,
                tuple((start / rate, stop / rate) for start, stop in outcome.spans),
            )
        seconds = time.monotonic() - began
        yield Finished(current, plan, seconds, elapsed_factor(audio, began))

    def _try(self, run: _Run, seed: int) -> Generator[Event, None, StepOutcome]:
        """Carry out a step once, telling how it goes on."""
        started = time.monotonic()
        outcome: StepOutcome | None = None
        items = self.editor.carry_out(run.audio, run.step, mode=run.mode, seed=seed, chain=run.chain, layers=run.layers)
        for item in items:
            if isinstance(item, StepProgress):
                seconds = time.monotonic() - started
                left = seconds / max(item.fraction, 1e-3) * (1 - item.fraction)
                factor = run.audio.duration_s * item.fraction / max(seconds, 1e-6)
                yield Progress(run.index, run.count, item.fraction, factor, left, item.stage)
            else:
                outcome = item
        assert outcome is not None
        return outcome

    def _checked(self, run: _Run) -> Generator[Event, None, StepOutcome]:
        """Carry out a step, listen to what came of it, and where that isn't heard try once more, or say so."""
        outcome = yield from self._try(run, run.seed)
        operation = run.step.operation
        if operation not in CHECKED or outcome.method in UNTOUCHED:
            return outcome
        verdict = yield from self._listened_again(run, outcome)
        tries = 1
        if not verdict.done and outcome.method not in SEEDLESS:
            second = yield from self._try(run, run.seed + RETRY_SEED)
            tries = 2
            other = yield from self._listened_again(run, second)
            if better(operation, verdict, other):
                outcome, verdict = second, other
        if verdict.done:
            return outcome
        return replace(outcome, warnings=(*outcome.warnings, warning(run.step, verdict, tries)))

    def _listened_again(self, run: _Run, outcome: StepOutcome) -> Generator[Event, None, Verdict]:
        after = replace(run.audio, samples=outcome.samples)
        window = where_it_changed(run.audio, after, run.step.operation)
        heard = []
        for samples in (run.audio.samples, outcome.samples):
            yield Progress(run.index, run.count, 1.0, 0.0, 0.0, "listening to the result")  # also where one may cancel
            heard.append(
                how_surely(
                    self.editor.listener,
                    self.editor.encoder,
                    samples[:, window],
                    run.audio.sample_rate,
                    run.step.target,
                )
            )
        return judge(run.step.operation, *heard)
