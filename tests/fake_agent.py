"""A deterministic agent without networks: it yields every event type, and changes known samples.

Its planner obeys words in the instruction; its editor turns the middle half of the recording down, step by
step, so that tests know which samples may differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from smartdj_agent.audio import Audio, audio_sha256
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Heard,
    Listened,
    Notice,
    PlanReady,
    Progress,
    Question,
    StepFinished,
    StepPlanned,
    StepStarted,
)
from smartdj_agent.plan import Plan, Provenance, make_plan
from smartdj_agent.steps import Operation

PLANNED = (
    "remove the sound of dog barking",
    "turn down the volume of wind, strong and steady by 6 dB",
    "add the sound of seagulls at left with 3 dB",
)
CHOICES = ("make it quieter", "remove the dog")
DENOISING_STEPS = 4


class FakeAgent:
    """Stands in for `smartdj_agent.agent.Agent`.

    Parameters
    ----------
    preset, device
        As the agent's.
    slow_s
        Pause after each progress event, seconds.
    closed_marker
        File that is made when the editor is closed or interrupted early.
    """

    def __init__(
        self,
        preset: str = "small",
        device: str = "auto",
        *,
        slow_s: float = 0.0,
        closed_marker: Path | None = None,
    ) -> None:
        self.preset = preset
        self.device = "cpu" if device == "auto" else device
        self.slow_s = slow_s
        self.closed_marker = closed_marker
        self.calls: list[str] = []

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Plan three steps; ``unclear`` asks, ``missing`` and ``crash`` fail, ``nothing`` plans nothing."""
        self.calls.append(f"plan {instruction} {seed}")
        half_s = audio.duration_s / 2
        yield Listened(
            (
                Heard("dog barking", 0.93, -21.5, -45.0, 0.0, half_s),
                Heard("wind <strong> & steady", 0.61, -30.0, None, 0.0, audio.duration_s),
            ),
            0.2,
        )
        if "unclear" in instruction:
            yield Question("Louder or quieter? The sentence asks for both.", CHOICES)
            return
        if "missing" in instruction:
            raise SmartDJError(
                ErrorCode.MODEL_MISSING, "the planner is not installed", "run `smartdj models pull small`"
            )
        if "crash" in instruction:
            raise RuntimeError("boom")
        # Where either way will do, there are two plans: every third seed leaves out the last step.
        planned = PLANNED[:-1] if "either way" in instruction and seed % 3 == 2 else PLANNED
        plan = make_plan(
            () if "nothing" in instruction else planned,
            instruction,
            source_sha256=audio_sha256(audio),
            provenance=Provenance("fake-planner", "", seed, "2026-01-01T00:00:00+00:00"),
        )
        for index, plan_step in enumerate(plan.steps):
            yield StepPlanned(index, plan_step)
        yield PlanReady(plan, 0.5)

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Carry the plan out by halving, muting or adding a tone in the middle half of the recording."""
        self.calls.append(f"apply {len(plan.enabled_steps())} {mode} {seed}")
        steps = plan.enabled_steps()
        start, stop = audio.n_samples // 4, audio.n_samples * 3 // 4
        span = (start / audio.sample_rate, stop / audio.sample_rate)
        current = audio
        try:
            for index, plan_step in enumerate(steps[done:], start=done):
                yield StepStarted(index, len(steps), plan_step, self.device)
                for fraction in range(1, DENOISING_STEPS + 1):
                    yield Progress(index, len(steps), fraction / DENOISING_STEPS, 1.5, 0.1, "denoising")
                    time.sleep(self.slow_s)
                samples = current.samples.copy()
                if plan_step.step.operation is Operation.ADD:
                    tone = 0.2 * np.sin(2 * np.pi * 3000 * np.arange(stop - start) / audio.sample_rate)
                    samples[0, start:stop] += tone.astype(samples.dtype)
                    method = "library: gulls.flac"
                else:
                    samples[:, start:stop] *= 0.25
                    method = "mask"
                if "ghost" in plan_step.step.target:
                    samples, method = current.samples, "unchanged"
                    yield Notice("not_heard", f"{plan_step.step.target} was not heard", "check the sound's name")
                current = replace(current, samples=samples)
                touched = () if method == "unchanged" else (span,)
                confidence = 0.0 if method == "unchanged" else 0.8
                yield StepFinished(index, len(steps), plan_step, current, 1.25, 1.6, method, confidence, touched)
            done_plan = replace(plan, provenance=replace(plan.provenance, editor="fake-editor"))
            yield Finished(current, done_plan, 1.25 * len(steps), 1.6)
        except (GeneratorExit, KeyboardInterrupt):
            self.calls.append("closed")
            if self.closed_marker is not None:
                self.closed_marker.touch()
            raise
