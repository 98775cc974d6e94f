"""Listening to what a step made: the judgement, where it listens, and the second try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smartdj_agent import agent as agent_module
from smartdj_agent import relisten
from smartdj_agent.agent import RETRY_SEED, Agent
from smartdj_agent.audio import Audio, AudioFormat
from smartdj_agent.editor import StepOutcome, StepProgress
from smartdj_agent.events import Event, Finished, Notice, Progress
from smartdj_agent.plan import make_plan
from smartdj_agent.relisten import Verdict, better, judge, warning, where_it_changed
from smartdj_agent.steps import Operation, parse_step

RATE = 8000


def recording(seconds: float = 2.0) -> Audio:
    samples = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
    return Audio(samples, RATE, AudioFormat("WAV", "PCM_16"))


@pytest.mark.parametrize(
    ("operation", "before", "after", "done"),
    [
        (Operation.REMOVE, 0.6, 0.1, True),
        (Operation.REMOVE, 0.6, 0.4, False),
        (Operation.REMOVE, 0.02, 0.02, True),  # hardly there: its going can't be heard
        (Operation.ADD, 0.1, 0.5, True),
        (Operation.ADD, 0.5, 0.4, False),
        (Operation.ADD, 0.0, 0.01, False),  # louder than nothing, but not there
        (Operation.EXTRACT, 0.6, 0.7, True),
        (Operation.EXTRACT, 0.6, 0.2, False),
    ],
)
def test_the_ear_decides(operation: Operation, before: float, after: float, done: bool) -> None:
    assert judge(operation, before, after) == Verdict(before, after, done)


def test_of_two_tries_the_better_one_stays() -> None:
    assert better(Operation.ADD, Verdict(0.1, 0.1, False), Verdict(0.1, 0.4, True))
    assert not better(Operation.ADD, Verdict(0.1, 0.08, False), Verdict(0.1, 0.05, False))
    assert better(Operation.REMOVE, Verdict(0.6, 0.5, False), Verdict(0.6, 0.4, False))


def test_it_listens_where_the_sound_was_put_in_or_taken_out() -> None:
    before = recording(60)
    changed = before.samples.copy()
    changed[:, 41 * RATE : 44 * RATE] *= 0.1
    after = replace(before, samples=changed)
    window = where_it_changed(before, after, Operation.REMOVE)
    assert window.stop - window.start == 10 * RATE
    assert window.start <= 41 * RATE
    assert window.stop >= 44 * RATE
    alone = np.zeros_like(changed)
    alone[:, -3 * RATE :] = before.samples[:, -3 * RATE :]
    window = where_it_changed(before, replace(before, samples=alone), Operation.EXTRACT)
    assert (window.stop, window.stop - window.start) == (60 * RATE, 10 * RATE)
    assert where_it_changed(recording(3), recording(3), Operation.ADD) == slice(0, 3 * RATE)


class Tries:
    """An editor whose tries come out as told: per try, the method and how surely the target is heard after it."""

    listener = encoder = None

    def __init__(self, before: float, *tries: tuple[str, float]) -> None:
        self.before = before
        self.tries = list(tries)
        self.seeds: list[int] = []

    def carry_out(self, audio: Audio, step: Any, *, seed: int, **_: Any) -> Iterator[StepProgress | StepOutcome]:
        method, _ = self.tries[len(self.seeds)]
        self.seeds.append(seed)
        yield StepProgress(0.5, "working")
        yield StepOutcome(audio.samples + len(self.seeds), method, 0.9, ((0, audio.n_samples),))

    def how_surely(self, listener: Any, encoder: Any, samples: np.ndarray, rate: int, target: str) -> float:
        number = round(float(samples.mean()))
        return self.before if number == 0 else self.tries[number - 1][1]


def run(
    monkeypatch: pytest.MonkeyPatch, editor: Tries, step: str, *, relisten: bool = True
) -> tuple[list[Event], Finished]:
    agent = Agent("small", "cpu", relisten=relisten)
    agent.__dict__["editor"] = editor
    monkeypatch.setattr(agent_module, "how_surely", editor.how_surely)
    *events, end = agent.apply(recording(), make_plan((parse_step(step),)), seed=7)
    assert isinstance(end, Finished)
    return events, end


def notices(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]


def test_what_is_heard_needs_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Tries(0.1, ("library: gulls.flac", 0.8))
    events, _ = run(monkeypatch, editor, "add the sound of gulls")
    assert (editor.seeds, notices(events)) == ([7], [])
    assert any(isinstance(event, Progress) and event.stage == "listening to the result" for event in events)


def test_what_is_not_heard_is_tried_with_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Tries(0.1, ("library: wind.flac", 0.05), ("library: gulls.flac", 0.8))
    events, end = run(monkeypatch, editor, "add the sound of gulls")
    assert (editor.seeds, notices(events)) == ([7, 7 + RETRY_SEED], [])
    np.testing.assert_allclose(end.audio.samples, recording().samples + 2)


def test_after_two_tries_the_better_one_stays_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Tries(0.1, ("generated", 0.05), ("generated", 0.01))
    events, end = run(monkeypatch, editor, "add the sound of gulls")
    assert notices(events) == ["not_heard"]
    np.testing.assert_allclose(end.audio.samples, recording().samples + 1)


def test_a_mask_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Tries(0.6, ("mask", 0.5))
    events, _ = run(monkeypatch, editor, "remove the sound of gulls")
    assert (editor.seeds, notices(events)) == ([7], ["still_heard"])


@pytest.mark.parametrize("step", ["turn up the sound of gulls by 3dB", "remove the sound of gulls"])
def test_arithmetic_and_what_was_left_alone_are_not_listened_to(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    editor = Tries(0.6, ("mask" if step.startswith("turn") else "unchanged", 0.6))
    events, _ = run(monkeypatch, editor, step)
    assert notices(events) == []
    assert not any(isinstance(event, Progress) and event.stage == "listening to the result" for event in events)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Tries(0.1, ("library: wind.flac", 0.05))
    events, _ = run(monkeypatch, editor, "add the sound of gulls", relisten=False)
    assert (editor.seeds, notices(events)) == ([7], [])


def test_a_warning_says_how_sure_it_is() -> None:
    code, message, hint = warning(parse_step("remove the sound of gulls"), Verdict(0.61, 0.5, False), 1)
    assert code == "still_heard"
    assert "0.50" in message
    assert "0.61" in message
    assert hint


def test_silence_holds_no_sound() -> None:
    assert relisten.how_surely(None, None, np.zeros((2, RATE)), RATE, "gulls") == 0.0  # type: ignore[arg-type]
