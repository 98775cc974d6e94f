"""The agent's events, and what it hears in recordings of any length; small random networks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, audio_sha256
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Finished,
    Heard,
    Listened,
    Listening,
    Notice,
    PlanReady,
    Progress,
    Question,
    StepFinished,
    StepStarted,
)
from smartdj_agent.listening import MAX_SOUNDS, listen, outcome
from smartdj_agent.models.listener import Listener
from smartdj_agent.plan import make_plan
from tests.known_listener import KnownEncoder, KnownListener, Share, between, everything, known_editor, nothing

LABELS = [f"sound number {index}" for index in range(12)]
REMOVE = "remove the sound of dog barking"


@pytest.fixture(scope="module")
def listener() -> Listener:
    torch.manual_seed(0)
    network = Listener(stem_channels=(4, 4, 4, 4), width=32, depth=1, heads=2, query_depth=1, embed_width=16)
    torch.nn.init.constant_(network.logit_bias, 0.0)  # so that much is heard
    return network.eval()


def agent_with(share: Share) -> Agent:
    agent = Agent(device="cpu")
    agent.__dict__["editor"] = known_editor(share)
    return agent


def noise(channels: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (channels, n)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("seconds", [0.00001, 0.05, 0.5, 9.99, 10.01, 25.0])
def test_what_is_heard_lies_within_the_recording(listener: Listener, seconds: float, channels: int) -> None:
    rate = 16000
    samples = noise(channels, max(1, round(seconds * rate)))
    found = outcome(listen(listener, KnownEncoder(), samples, rate, LABELS))  # type: ignore[arg-type]
    assert 0 < len(found) <= MAX_SOUNDS
    assert all(before.confidence >= after.confidence for before, after in pairwise(found))
    assert len({heard.label for heard in found}) == len(found)
    for heard in found:
        assert 0 <= heard.start_s <= heard.end_s <= samples.shape[1] / rate
        assert 0 <= heard.confidence <= 1
        assert -120 <= heard.level_db < 0
        assert (heard.azimuth_deg is None) == (channels == 1 or seconds < 0.25)
        assert heard.azimuth_deg is None or -90 <= heard.azimuth_deg <= 90


def test_ends_are_rounded_into_the_recording() -> None:
    samples = noise(2, 160_100)  # 10.00625 s: rounded to hundredths it would be too long
    found = outcome(listen(KnownListener(everything), KnownEncoder(), samples, 16000, LABELS))  # type: ignore[arg-type]
    assert max(heard.end_s for heard in found) == 10.0


@pytest.mark.parametrize("seconds", [0.5, 12.0])
def test_silence_within_a_recording_is_no_trouble(listener: Listener, seconds: float) -> None:
    samples = noise(2, round(seconds * 16000))
    samples[:, : samples.shape[1] // 2] = 0.0
    for heard in outcome(listen(listener, KnownEncoder(), samples, 16000, LABELS)):  # type: ignore[arg-type]
        assert np.isfinite([heard.confidence, heard.level_db, heard.azimuth_deg]).all()


def test_digital_silence_is_not_listened_to() -> None:
    agent = agent_with(everything)
    (listened,) = agent.listen(Audio(np.zeros((2, 1000), np.float32), 8000))
    assert isinstance(listened, Listened)
    assert listened.sounds == ()
    assert agent.editor.listener.calls == 0  # type: ignore[attr-defined]


def test_events_come_in_order_with_honest_times() -> None:
    audio = Audio(noise(2, 8000 * 12), 8000)
    plan = make_plan([REMOVE, "turn up the volume of dog barking by 3 dB"], source_sha256=audio_sha256(audio))
    agent = agent_with(everything)
    events = []
    for event in agent.apply(audio, plan):
        if isinstance(event, StepStarted):
            agent.editor.listener.calls = 0  # type: ignore[attr-defined]
        events.append(event)
    kinds = [type(event) for event in events if not isinstance(event, Notice)]
    heard_again = [Progress, Progress]  # what was removed is listened for, before and after
    removed, turned_up = [Progress, Progress, *heard_again], [Progress, Progress]
    assert kinds == [
        *(kind for progress in (removed, turned_up) for kind in (StepStarted, *progress, StepFinished)),
        Finished,
    ]
    assert [event.index for event in events if isinstance(event, StepFinished)] == [0, 1]
    assert all(0 < e.fraction <= 1 and e.seconds_left >= 0 for e in events if isinstance(e, Progress))
    assert isinstance(events[-1], Finished)
    assert events[-1].audio.samples.shape == audio.samples.shape


def test_touched_seconds_are_those_that_change() -> None:
    audio = Audio(noise(2, 8000 * 4), 8000)
    done = [e for e in agent_with(between((1.0, 2.0))).apply(audio, make_plan([REMOVE])) if isinstance(e, StepFinished)]
    ((start, stop),) = done[0].touched_s
    assert 0.8 < start < 1.0
    assert 2.0 < stop < 2.2


def test_an_absent_sound_is_a_notice_and_no_error() -> None:
    audio = Audio(noise(2, 8000), 8000)
    events = list(agent_with(nothing).apply(audio, make_plan([REMOVE])))
    assert [e.code for e in events if isinstance(e, Notice)] == ["sound_not_found"]
    assert isinstance(events[-1], Finished)
    assert np.array_equal(events[-1].audio.samples, audio.samples)


def test_a_plan_for_another_recording_is_refused() -> None:
    audio = Audio(noise(2, 8000), 8000)
    with pytest.raises(SmartDJError) as caught:
        list(agent_with(everything).apply(audio, make_plan([REMOVE], source_sha256="0" * 64)))
    assert caught.value.code is ErrorCode.PLAN_MISMATCH
    with pytest.raises(SmartDJError) as caught:
        list(agent_with(everything).apply(audio, make_plan([REMOVE]), mode="invent"))
    assert caught.value.code is ErrorCode.USAGE


def test_an_estimate_is_given_after_the_first_window_and_shrinks() -> None:
    """Scaled-down hour: the first window tells how long the rest will take, and closing there ends the work."""
    audio = Audio(noise(1, 1000 * 300), 1000)
    agent = agent_with(everything)
    run = agent.apply(audio, make_plan([REMOVE]))
    left = []
    for event in run:
        if isinstance(event, Progress):
            left.append(event.seconds_left + 0.0)
            assert event.realtime_factor > 0
        if len(left) == 5:
            break
    assert all(seconds > 0 for seconds in left)
    run.close()  # type: ignore[attr-defined]
    assert agent.editor.listener.calls == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(("share", "asked"), [(nothing, True), (everything, False), (between((21.0, 23.0)), False)])
def test_what_is_nowhere_to_be_found_is_asked_about(share: Share, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_with(share)
    heard = (Heard("piano", 0.9, -20.0, 0.0, 0.0, 25.0), Heard("raining", 0.8, -30.0, None, 0.0, 25.0))
    monkeypatch.setattr(Agent, "_listen", lambda self, audio, digest: iter([Listened(heard, 0.0)]))
    audio = Audio(noise(2, 25 * 16_000), 16_000)
    *before, last = agent.plan(audio, "remove the tuba")
    searched = [event for event in before if isinstance(event, Listening)]
    assert searched  # where one may cancel
    if asked:
        assert isinstance(last, Question)
        assert "no tuba" in last.text
        assert len(last.choices) == 3
        assert searched[-1].fraction == 1.0
    else:
        assert isinstance(last, PlanReady)
        assert [item.step.target for item in last.plan.steps] == ["tuba"]
        # It ends as soon as it is found.
        assert searched[-1].fraction == (1.0 if share is not everything else pytest.approx(1 / 3))
    # What was heard needs no search.
    assert not [event for event in agent.plan(audio, "remove the piano") if isinstance(event, Listening)]
