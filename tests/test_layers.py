"""Sounds that a plan adds are kept apart: what was put in comes out again without a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, AudioFormat
from smartdj_agent.editor import Editor, Layers, StepOutcome, StepProgress, merge_spans
from smartdj_agent.events import Finished, StepFinished
from smartdj_agent.library import SoundLibrary
from smartdj_agent.models.presets import get_preset
from smartdj_agent.plan import make_plan
from smartdj_agent.render import apply_to_stem
from smartdj_agent.steps import parse_step
from tests.known_listener import KnownEncoder, KnownListener, between

RATE = 24_000
SOUND = "rain"


def recording(seconds: float = 4.0, channels: int = 2) -> Audio:
    samples = np.random.default_rng(0).normal(0, 0.1, (channels, round(seconds * RATE))).astype(np.float32)
    return Audio(samples, RATE, AudioFormat("WAV", "PCM_16"))


@pytest.fixture
def library(tmp_path: Path) -> SoundLibrary:
    import soundfile

    rng = np.random.default_rng(1)
    for name in (SOUND, "gulls"):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.2, RATE), RATE)
    return SoundLibrary.open(tmp_path)


@pytest.fixture
def editor(library: SoundLibrary) -> Editor:
    """Takes everything between 1 and 2 seconds for whatever is asked."""
    editor = Editor(get_preset("small"), "cpu", library, "library")
    editor.__dict__["encoder"] = KnownEncoder()
    editor.__dict__["listener"] = KnownListener(between((1.0, 2.0)))
    return editor


def do(editor: Editor, audio: Audio, step: str, layers: Layers | None = None, seed: int = 0) -> StepOutcome:
    editor.listener.calls = 0  # type: ignore[attr-defined]
    *progress, outcome = editor.preserve(audio, parse_step(step), seed=seed, layers=layers)
    assert isinstance(outcome, StepOutcome)
    assert all(isinstance(item, StepProgress) for item in progress)
    return outcome


def with_samples(audio: Audio, samples: np.ndarray) -> Audio:
    return Audio(samples, audio.sample_rate, audio.format)


def test_what_was_added_is_removed_bit_for_bit(editor: Editor) -> None:
    audio = recording()
    added = do(editor, audio, f"add the sound of {SOUND}")
    assert not np.array_equal(added.samples, audio.samples)
    removed = do(editor, with_samples(audio, added.samples), f"remove the sound of {SOUND}", added.layers)
    np.testing.assert_array_equal(removed.samples, audio.samples)
    assert (removed.method, removed.confidence) == ("added before", 1.0)
    assert removed.layers is not None
    assert removed.layers.added == ()


@pytest.mark.parametrize(
    "change",
    ["turn down the sound of rain by 6dB", "shift the sound of rain by 0.5s", "add reverb to the sound of rain"],
)
def test_a_change_of_an_added_sound_is_exact(editor: Editor, change: str) -> None:
    audio = recording()
    added = do(editor, audio, f"add the sound of {SOUND}")
    changed = do(editor, with_samples(audio, added.samples), change, added.layers, seed=3)
    stem = added.samples.astype(np.float64) - audio.samples
    expected = audio.samples + apply_to_stem(stem, parse_step(change), RATE, seed=3)
    np.testing.assert_allclose(changed.samples, expected, atol=2e-5)
    outside = np.ones(audio.n_samples, bool)
    for start, stop in changed.spans:
        outside[start:stop] = False
    np.testing.assert_array_equal(changed.samples[:, outside], added.samples[:, outside])
    gone = do(editor, with_samples(audio, changed.samples), f"remove the sound of {SOUND}", changed.layers)
    np.testing.assert_array_equal(gone.samples, audio.samples)


def test_steps_about_other_sounds_leave_it_as_it_is(editor: Editor) -> None:
    audio = recording()
    added = do(editor, audio, f"add the sound of {SOUND}")
    removed = do(editor, with_samples(audio, added.samples), "remove the sound of dog", added.layers)
    alone = do(editor, audio, "remove the sound of dog")
    assert added.layers is not None
    np.testing.assert_array_equal(removed.samples, Layers(alone.samples, added.layers.added).mixed())
    second = do(editor, with_samples(audio, removed.samples), "add the sound of gulls", removed.layers)
    assert second.layers is not None
    np.testing.assert_array_equal(second.layers.mixed(), second.samples)
    back = do(editor, with_samples(audio, second.samples), f"remove the sound of {SOUND}", second.layers)
    assert back.layers is not None
    assert {sound.label for sound in back.layers.added} == {"gulls"}


def test_an_added_sound_can_be_taken_out_alone(editor: Editor) -> None:
    audio = recording()
    added = do(editor, audio, f"add the sound of {SOUND}")
    alone = do(editor, with_samples(audio, added.samples), f"extract the sound of {SOUND}", added.layers)
    np.testing.assert_allclose(alone.samples, added.samples - audio.samples, atol=1e-6)
    other = do(editor, with_samples(audio, added.samples), "extract the sound of dog", added.layers)
    np.testing.assert_array_equal(other.samples, do(editor, audio, "extract the sound of dog").samples)


def test_without_layers_all_is_as_ever(editor: Editor) -> None:
    audio = recording()
    added = do(editor, audio, f"add the sound of {SOUND}")
    loud = with_samples(audio, added.samples)
    np.testing.assert_array_equal(
        do(editor, loud, f"remove the sound of {SOUND}").samples,
        do(editor, loud, f"remove the sound of {SOUND}", Layers(loud.samples)).samples,
    )


def test_mono_stays_without_directions(editor: Editor) -> None:
    audio = recording(channels=1)
    added = do(editor, audio, f"add the sound of {SOUND}")
    moved = do(
        editor,
        with_samples(audio, added.samples),
        f"change the direction of the sound of {SOUND} to left",
        added.layers,
    )
    np.testing.assert_array_equal(moved.samples, added.samples)
    assert [code for code, _, _ in moved.warnings] == ["mono_direction"]
    assert moved.layers is added.layers


def test_a_plan_that_adds_and_removes_ends_where_it_began(editor: Editor) -> None:
    agent = Agent("small", "cpu", relisten=False)
    agent.__dict__["editor"] = editor
    audio = recording()
    steps = ["add the sound of rain", "turn up the sound of rain by 3dB", "remove the sound of rain"] * 5
    *events, end = agent.apply(audio, make_plan(steps[:12]))
    assert isinstance(end, Finished)
    np.testing.assert_array_equal(end.audio.samples, audio.samples)
    finished = [event for event in events if isinstance(event, StepFinished)]
    assert [event.method for event in finished][1:3] == ["added before", "added before"]


def test_stretches_are_joined() -> None:
    assert merge_spans([(5, 9), (0, 2), (2, 3), (8, 12)]) == ((0, 3), (5, 12))
    assert merge_spans([]) == ()
