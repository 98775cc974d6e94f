"""A deterministic agent without networks for the worker's tests: what happens is said by the instruction.

Steps that begin and denoising steps are written down in ``log.txt`` in the library folder, so that tests in another
process know how far it came.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from smartdj_agent.audio import Audio, audio_sha256
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
from smartdj_agent.plan import Plan, make_plan

DENOISING_STEPS = 4
LONG_STEPS = 2000
PLANNED = ("remove the sound of dog barking", "turn down the volume of wind by 6 dB")


class StubAgent:
    """Halves the recording with every step.

    Parameters
    ----------
    folder
        Where ``log.txt`` is written; None to write nothing.
    pause_s
        What a denoising step takes.
    """

    device = "stub"

    def __init__(self, folder: Path | None = None, pause_s: float = 0.0) -> None:
        self.folder = folder
        self.pause_s = pause_s

    def note(self, text: str) -> None:
        if self.folder is not None:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as stream:
                stream.write(f"{time.monotonic()} {text}\n")

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Plan two steps; see below for the words that do otherwise."""
        self.note(f"plan {instruction}")
        try:
            yield Listening(0.0, 1.0, 1.0)
            if "hang" in instruction:
                self.note("hangs")
                time.sleep(1000)
            if "slow" in instruction:
                for number in range(1000):
                    time.sleep(0.02)
                    self.note("window")
                    yield Listening(number / 1000, 1.0, 1.0)
            if "patient" in instruction:  # until it is cancelled, on the busiest machine too
                for number in range(15_000):
                    time.sleep(0.02)
                    self.note("window")
                    yield Listening(number / 15_000, 1.0, 1.0)
            if "crash" in instruction:
                os.kill(os.getpid(), signal.SIGKILL)
            if "memory" in instruction:
                raise MemoryError
            if "fault" in instruction:
                raise ValueError(instruction)
            if "missing" in instruction:
                raise SmartDJError(ErrorCode.MODEL_MISSING, "the planner is not installed", "pull it", "planner")
            if "flood" in instruction:
                for number in range(100_000):
                    yield Listening(number / 100_000, 1.0, 1.0)
            yield Listened((Heard("dog barking", 0.9, -20.0, None, 0.0, audio.duration_s),), 0.1)
            yield Writing("remove")
            if "unclear" in instruction:
                yield Question("Which one?", ("the dog", "the wind"))
                return
            plan = make_plan(PLANNED, instruction, source_sha256=audio_sha256(audio))
            for index, plan_step in enumerate(plan.steps):
                yield StepPlanned(index, plan_step)
            yield PlanReady(plan, 0.1)
        finally:
            self.note("plan closed")

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Halve per step; a step on ``loud`` makes it four times as loud, one on ``long`` denoises until cancelled."""
        steps = plan.enabled_steps()
        current = audio
        try:
            for index, plan_step in list(enumerate(steps))[done:]:
                self.note(f"step {index}")
                yield StepStarted(index, len(steps), plan_step, self.device)
                wanted = LONG_STEPS if "long" in plan_step.step.target else DENOISING_STEPS
                for number in range(1, wanted + 1):
                    time.sleep(self.pause_s)
                    self.note(f"denoised {number}")
                    yield Progress(index, len(steps), number / wanted, 1.5, 0.1, "denoising")
                gain = 4.0 if "loud" in plan_step.step.target else 0.5
                current = replace(current, samples=current.samples * gain)
                if "loud" in plan_step.step.target:
                    yield Notice("unsure", "hardly heard", "listen")
                yield StepFinished(index, len(steps), plan_step, current, 0.1, 1.0, "mask", 0.9, ())
            yield Finished(current, plan, 0.1, 1.0)
        finally:
            self.note("apply closed")


def make(device: str, preset: str, library: Path | Sequence[Path] | None, max_batch: int, *_: object) -> StubAgent:
    """Return a stub; `device` may state the pause of a denoising step, such as ``stub:0.05``."""
    folder = library if isinstance(library, Path) or library is None else Path(library[0])  # a server names several
    return StubAgent(folder, float(device.partition(":")[2] or 0))


def never_ready(device: str, preset: str, library: Path | None, max_batch: int, *_: object) -> StubAgent:
    """Load for ever."""
    time.sleep(1000)
    raise AssertionError


def broken(device: str, preset: str, library: Path | None, max_batch: int, *_: object) -> StubAgent:
    """Fail to load until ``mended`` is in the library folder."""
    assert library is not None
    if (library / "mended").exists():
        return StubAgent(library)
    raise SmartDJError(ErrorCode.MODEL_MISSING, "no model is there", "pull one")
