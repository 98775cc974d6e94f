"""The shipped weights do what the README says, on recordings that the repository holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, read_audio
from smartdj_agent.editor import StepOutcome
from smartdj_agent.errors import SmartDJError
from smartdj_agent.events import Finished, Listened, Listening, PlanReady, Question, StepFinished, StepPlanned, Writing
from smartdj_agent.library import SoundLibrary
from smartdj_agent.models.weights import SHIPPED, list_installed
from smartdj_agent.plan import Plan
from smartdj_agent.spatial import place
from smartdj_agent.steps import Operation, format_step, parse_step
from training.metrics import si_sdr_db

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo.wav"
RATE = 24_000


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(device="cpu")


@pytest.fixture(scope="module")
def demo() -> Audio:
    return read_audio(DEMO)


def plan_of(agent: Agent, audio: Audio, instruction: str, seed: int = 0) -> Plan:
    (ready,) = (event for event in agent.plan(audio, instruction, seed=seed) if isinstance(event, PlanReady))
    return ready.plan


def outcome_of(agent: Agent, audio: Audio, text: str) -> StepOutcome:
    *_, outcome = agent.editor.preserve(audio, parse_step(text), seed=0)
    assert isinstance(outcome, StepOutcome)
    return outcome


def test_every_role_is_shipped_with_a_card_and_all_is_small_enough() -> None:
    shipped = [info for info in list_installed() if SHIPPED in info.path.parents]
    assert {info.role for info in shipped} == {"listener", "planner", "codec", "editor"}
    assert all(info.card is not None and "Limits" in info.card.read_text(encoding="utf-8") for info in shipped)
    assert sum(info.size_bytes for info in shipped) < 80e6


def test_plans_are_valid_stream_and_repeat(agent: Agent, demo: Audio) -> None:
    events = list(agent.plan(demo, "make this sound like a rainy harbour"))
    (listened,) = (event for event in events if isinstance(event, Listened))
    assert 1 <= len(listened.sounds) <= 6
    assert [event.fraction for event in events if isinstance(event, Listening)] == [0.0, 0.5]
    assert any(isinstance(event, Writing) and event.text.startswith(("add", "remove", "turn")) for event in events)
    assert isinstance(events[-1], PlanReady)
    planned = [event.plan_step for event in events if isinstance(event, StepPlanned)]
    assert tuple(planned) == events[-1].plan.steps
    assert 1 <= len(planned) <= 6
    for plan_step in planned:
        assert parse_step(format_step(plan_step.step)) == plan_step.step
    again = plan_of(agent, demo, "make this sound like a rainy harbour")
    assert [item.step for item in again.steps] == [item.step for item in planned]


def test_scene_instructions_add_what_belongs(agent: Agent, demo: Audio) -> None:
    adding = 0
    instructions = ["make this sound like a forest", "turn this into a busy city", "make this a quiet farm night"]
    for instruction in instructions:
        plan = plan_of(agent, demo, instruction)
        adding += any(item.step.operation is Operation.ADD for item in plan.steps)
    assert adding >= 2


def test_direct_requests_are_planned_literally(agent: Agent, demo: Audio) -> None:
    plan = plan_of(agent, demo, "turn the dog down by 6 dB")
    steps = [item.step for item in plan.steps]
    assert any(step.operation is Operation.VOLUME and step.gain_db == -6.0 and "dog" in step.target for step in steps)


@pytest.mark.parametrize("instruction", ["做成一个森林", "🎧 lauter 🌲", "اجعل هذا مثل الغابة", "x" * 2000])
def test_odd_instructions_give_a_plan_or_a_question(agent: Agent, demo: Audio, instruction: str) -> None:
    last = list(agent.plan(demo, instruction))[-1]
    assert isinstance(last, PlanReady | Question)


@pytest.mark.parametrize("instruction", ["", "  \n", "…!", "🎧🌲", "x" * 2001])
def test_empty_and_endless_instructions_are_errors(agent: Agent, demo: Audio, instruction: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        list(agent.plan(demo, instruction))
    assert caught.value.code.startswith("instruction_")


def test_outside_the_touched_frames_not_one_sample_differs(agent: Agent, demo: Audio) -> None:
    """The issue's check: in preserve mode the count of samples that differ there is 0."""
    for text in (
        "remove the sound of dog barking",
        "turn up the volume of dog barking by 6 dB",
        "change the sound of dog barking to the right",
        "add the sound of rain at the left with 0 dB",
        "reverb the sound of person laughing with reverb level 5",
    ):
        outcome = outcome_of(agent, demo, text)
        untouched = np.ones(demo.n_samples, bool)
        for start, stop in outcome.spans:
            untouched[start:stop] = False
        differing = int(np.count_nonzero(outcome.samples[:, untouched] != demo.samples[:, untouched]))
        assert differing == 0, text


def test_removing_and_extracting_share_the_recording_out(agent: Agent, demo: Audio) -> None:
    removed = outcome_of(agent, demo, "remove the sound of dog barking").samples
    extracted = outcome_of(agent, demo, "extract the sound of dog barking").samples
    np.testing.assert_allclose(removed + extracted, demo.samples, atol=1e-6)


def test_extraction_beats_copying_the_input(agent: Agent) -> None:
    """Two loud library sounds on two sides: what is extracted lies nearer to the named one than the mixture does."""
    library = SoundLibrary.starter()
    gains = []
    for left, right in [("dog barking", "rain"), ("church bell ringing", "car engine"), ("thunder", "flute")]:
        stems = []
        for label, azimuth in ((left, -90.0), (right, 90.0)):
            clip = next(item for item in library.clips if item.label == label)
            sound = np.resize(library.load(clip, RATE), 4 * RATE)
            stems.append(place((0.25 * sound / np.abs(sound).max()).astype(np.float32), azimuth, RATE))
        mixture = Audio(stems[0] + stems[1], RATE)
        for label, stem in zip((left, right), stems, strict=True):
            output = outcome_of(agent, mixture, f"extract the sound of {label}").samples
            gains.append(si_sdr_db(output, stem) - si_sdr_db(mixture.samples, stem))
    assert np.median(gains) > 0.0, gains


def test_a_whole_edit_keeps_the_format(agent: Agent, demo: Audio) -> None:
    plan = plan_of(agent, demo, "make this sound like a rainy harbour")
    events = list(agent.apply(demo, plan))
    assert len([event for event in events if isinstance(event, StepFinished)]) == len(plan.steps)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.audio.samples.shape == demo.samples.shape
    assert (finished.audio.sample_rate, finished.audio.format) == (demo.sample_rate, demo.format)
    assert np.isfinite(finished.audio.samples).all()
