"""What a step may touch, and that it touches nothing else: masks are known, so every bit is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent import editor as editor_module
from smartdj_agent.audio import Audio, AudioFormat, read_audio, write_audio
from smartdj_agent.editor import Editor, StepOutcome, StepProgress
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.separation import window_starts
from smartdj_agent.steps import parse_step
from tests.known_listener import KnownEncoder, between, do, everything, known_editor, nothing, steady

MASKED = (
    "remove the sound of dog barking",
    "turn up the volume of dog barking by 6 dB",
    "change the sound of dog barking at front to right",
    "shift the sound of dog barking by 0.25 seconds",
    "shift the sound of dog barking by -0.25 seconds",
    "reverb the sound of dog barking with reverb level 3",
    "make the sound of dog barking more muffled",
)
ADDED = "add the sound of dog barking at 30 degrees right by 3dB"
TAIL_S = {"reverb": 0.8, "shift": 0.25, "make": 0.2}
"""How far beyond the sound itself a step may reach (RT60 of level 3 is 0.5 s; its response lasts 1.3 times that)."""


def noise(channels: int, seconds: float, rate: int, bits: int = 16) -> np.ndarray:
    """Noise that integers of so many bits hold exactly; float64 where float32 would not hold it."""
    rng = np.random.default_rng(channels * 7 + rate)
    scale = 2 ** (bits - 1)
    integers = rng.normal(0, 0.1, (channels, round(seconds * rate))).clip(-0.9, 0.9) * scale
    return (np.rint(integers) / scale).astype(np.float64 if bits > 24 else np.float32)


def differing_outside(outcome: StepOutcome, audio: Audio) -> int:
    """Samples outside the reported spans whose bits are not the recording's."""
    assert outcome.samples.dtype == audio.samples.dtype
    assert outcome.samples.shape == audio.samples.shape
    outside = np.ones(audio.n_samples, bool)
    for start, stop in outcome.spans:
        assert 0 <= start < stop <= audio.n_samples
        outside[start:stop] = False
    integer = np.uint64 if audio.samples.dtype == np.float64 else np.uint32
    return int(np.count_nonzero((outcome.samples.view(integer) != audio.samples.view(integer))[:, outside]))


def reach_s(outcome: StepOutcome, rate: int) -> tuple[float, float]:
    return outcome.spans[0][0] / rate, outcome.spans[-1][1] / rate


@pytest.mark.parametrize("step", MASKED)
@pytest.mark.parametrize(
    ("rate", "channels"),
    [(8000, 1), (16000, 2), (24000, 2), (44100, 3), (48000, 2), (96000, 6), (192000, 1), (192000, 8)],
)
def test_no_bit_changes_where_the_sound_is_not(step: str, rate: int, channels: int) -> None:
    audio = Audio(noise(channels, 2.0, rate), rate)
    audio.samples[0, ::97] = -0.0  # a sum with +0 would lose its sign
    outcome = do(known_editor(between((0.8, 1.0))), audio, step)
    assert differing_outside(outcome, audio) == 0
    if step.startswith("change") and channels == 1:
        assert outcome.method == "unchanged"
        assert outcome.warnings[0][0] == "mono_direction"
        assert outcome.spans == ()
        return
    assert np.any(outcome.samples != audio.samples)
    # The mask is widened by 0.12 s on either side, and a frame's window reaches 22 ms beyond its centre.
    begin, end = reach_s(outcome, rate)
    early = 0.25 if "-0.25" in step else 0.0
    assert begin > 0.8 - 0.12 - 0.05 - early
    assert end < 1.0 + 0.12 + 0.07 + TAIL_S.get(step.split()[0], 0.0)


@pytest.mark.parametrize(
    ("subtype", "bits", "container"),
    [
        ("PCM_16", 16, "WAV"),
        ("PCM_24", 24, "WAV"),
        ("PCM_32", 32, "WAV"),
        ("FLOAT", 24, "WAV"),
        ("DOUBLE", 32, "WAV"),
        ("PCM_24", 24, "FLAC"),
        ("PCM_16", 16, "AIFF"),
    ],
)
@pytest.mark.parametrize("step", MASKED)
def test_untouched_samples_survive_the_file(tmp_path: Path, subtype: str, bits: int, container: str, step: str) -> None:
    suffix = container.lower()
    rate = 16000
    write_audio(tmp_path / f"in.{suffix}", Audio(noise(2, 2.0, rate, bits), rate, AudioFormat(container, subtype)))
    before = read_audio(tmp_path / f"in.{suffix}")
    outcome = do(known_editor(between((0.8, 1.0))), before, step)
    write_audio(tmp_path / f"out.{suffix}", replace(before, samples=outcome.samples))
    after = read_audio(tmp_path / f"out.{suffix}")
    assert (after.sample_rate, after.format) == (before.sample_rate, before.format)
    assert differing_outside(replace(outcome, samples=after.samples), before) == 0
    assert np.any(after.samples != before.samples)


def test_where_the_sound_is_not_nothing_is_touched_across_windows() -> None:
    audio = Audio(noise(2, 25.0, 8000), 8000)
    outcome = do(known_editor(between((1.0, 2.0), (9.3, 9.6), (20.0, 20.5))), audio, MASKED[0])
    assert differing_outside(outcome, audio) == 0
    assert len(outcome.spans) == 3
    for (start, stop), (first, last) in zip(outcome.spans, [(1.0, 2.0), (9.3, 9.6), (20.0, 20.5)], strict=True):
        assert first - 0.2 < start / 8000 < first
        assert last < stop / 8000 < last + 0.2


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 37800, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.01, 3.0, 11.3])
def test_masks_of_ones_and_zeros(rate: int, seconds: float) -> None:
    audio = Audio(noise(2, seconds, rate), rate)
    stem = do(known_editor(everything), audio, "extract the sound of dog barking").samples
    assert np.max(np.abs(stem - audio.samples)) < 1e-5
    rest = do(known_editor(everything), audio, MASKED[0])
    assert np.max(np.abs(rest.samples)) < 1e-5
    silent = do(known_editor(nothing), audio, MASKED[0])
    assert silent.spans == ()
    assert silent.method == "unchanged"
    assert np.array_equal(silent.samples, audio.samples)


def test_the_sound_is_exactly_zero_where_the_mask_is() -> None:
    audio = Audio(noise(2, 3.0, 48000), 48000)
    stem = do(known_editor(between((1.0, 2.0))), audio, "extract the sound of dog barking").samples
    assert not stem[:, : round(0.8 * 48000)].any()
    assert not stem[:, round(2.2 * 48000) :].any()
    assert np.max(np.abs(stem - audio.samples)[:, round(1.05 * 48000) : round(1.95 * 48000)]) < 1e-5


@settings(max_examples=10, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 24000, 44100]),
    channels=st.integers(1, 8),
    n=st.integers(1, 12000),
    seed=st.integers(0, 99),
)
def test_sound_and_rest_make_the_recording(rate: int, channels: int, n: int, seed: int) -> None:
    audio = Audio(np.random.default_rng(seed).normal(0, 0.2, (channels, n)).astype(np.float32), rate)
    editor = known_editor(steady(np.random.default_rng(seed).uniform(0.2, 1.0, 128)))
    stem = do(editor, audio, "extract the sound of dog barking").samples
    rest = do(editor, audio, MASKED[0]).samples
    assert stem.any()
    assert np.max(np.abs(stem + rest - audio.samples)) < 2e-7
    assert differing_outside(do(editor, audio, MASKED[1]), audio) == 0


def test_volume_of_everything_is_a_gain() -> None:
    audio = Audio(noise(2, 2.0, 44100), 44100)
    louder = do(known_editor(everything), audio, MASKED[1]).samples
    assert np.max(np.abs(louder - audio.samples * 10 ** (6 / 20))) < 1e-5
    assert pytest.approx(1.995, abs=1e-3) == 10 ** (6 / 20)


def test_extract_keeps_float64_and_its_complement_is_exact() -> None:
    audio = Audio(noise(2, 1.0, 16000, 32), 16000, AudioFormat("WAV", "PCM_32"))
    editor = known_editor(steady(np.linspace(0.3, 1.0, 128)))
    stem = do(editor, audio, "extract the sound of dog barking").samples
    rest = do(editor, audio, MASKED[0]).samples
    assert stem.dtype == rest.dtype == np.float64
    assert np.max(np.abs(stem + rest - audio.samples)) < 1e-15


@pytest.mark.parametrize("rate", [8000, 22050])
def test_a_steady_mask_has_no_seams_over_35_seconds(rate: int) -> None:
    t = np.arange(35 * rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440.0 * t)
    audio = Audio(np.stack([tone, tone]).astype(np.float32), rate)
    stem = do(known_editor(steady(np.full(128, 0.5))), audio, "extract the sound of dog barking").samples
    inner = slice(rate // 10, -rate // 10)  # the resampler's edges are not what is tested
    assert np.max(np.abs(stem - 0.5 * audio.samples)[:, inner]) < 1e-4


def test_an_absent_sound_changes_nothing_and_says_so() -> None:
    audio = Audio(noise(2, 1.0, 16000), 16000)
    for step in MASKED:
        outcome = do(known_editor(nothing), audio, step)
        assert np.array_equal(outcome.samples, audio.samples)
        ((code, message, hint),) = outcome.warnings
        assert code == "sound_not_found"
        assert "dog barking" in message
        assert "nothing was changed" in message
        assert hint
    outcome = do(known_editor(nothing), audio, "extract the sound of dog barking")
    assert not outcome.samples.any()
    assert "silence" in outcome.warnings[0][1]
    assert outcome.spans == ((0, audio.n_samples),)


def test_a_doubtful_sound_is_warned_of() -> None:
    audio = Audio(noise(2, 1.0, 16000), 16000)
    outcome = do(known_editor(steady(np.full(128, 0.2)), presence=-10.0), audio, MASKED[0])
    assert 0.1 < outcome.confidence < 0.3
    assert [code for code, _, _ in outcome.warnings] == ["unsure"]


def test_closing_the_generator_stops_listening() -> None:
    audio = Audio(noise(1, 60.0, 8000), 8000)
    editor = known_editor(everything)
    run = editor.preserve(audio, parse_step(MASKED[0]), seed=0)
    first = next(run)
    assert isinstance(first, StepProgress)
    assert editor.listener.calls == 1
    run.close()
    assert editor.listener.calls == 1
    assert len(window_starts(60 * 8000, 8000)) == 7


@pytest.mark.parametrize("n", [1, 7, 79999, 80000, 80001, 88000, 152000, 152001, 200000])
def test_windows_cover_everything_and_overlap_by_a_second(n: int) -> None:
    windows = window_starts(n, 8000)
    assert windows[0][0] == 0
    assert windows[-1][1] == n
    assert all(stop - start <= 80000 for start, stop in windows)
    for (_, stop), (start, end) in pairwise(windows):
        assert stop - start == 8000
        assert end - start > 8000  # else a fade would reach beyond its window


# --- networks that make sound: small random ones ----------------------


def generating_editor(steps: int = 2) -> Editor:
    """An editor with tiny random networks for sound; the networks' steps are few."""
    editor = known_editor(everything)
    editor.__dict__["codec"] = Codec(channels=4, multiples=(1, 1, 2, 2, 2), latent_dim=4).eval()
    editor.__dict__["dit"] = EditDiT(latent_dim=8, width=32, depth=2, heads=2, context_width=384).eval()
    editor.__dict__["text"] = KnownEncoder()
    editor.sampler = replace(editor.sampler, steps=steps)
    return editor


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (24000, 2), (44100, 3), (192000, 8)])
def test_adding_touches_only_what_it_reports(rate: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = Audio(noise(channels, 2.0, rate), rate)
    burst = np.zeros(24000, np.float32)
    burst[6000:12000] = 0.5 * np.sin(np.arange(6000) / 9)
    monkeypatch.setattr(Editor, "_generate_sound", lambda *_: iter([StepProgress(0.5, "denoising"), burst]))
    outcome = do(known_editor(), audio, ADDED)
    assert differing_outside(outcome, audio) == 0
    touched = sum(stop - start for start, stop in outcome.spans) / rate
    assert 0.2 < touched < 1.5  # a quarter of every second
    if channels > 2:
        assert np.array_equal(outcome.samples[2:], audio.samples[2:])


def test_an_added_sound_can_be_generated() -> None:
    audio = Audio(noise(2, 1.0, 16000), 16000)
    outcome = do(generating_editor(), audio, ADDED)
    assert outcome.method == "generated"
    assert [code for code, _, _ in outcome.warnings] == ["generated"]
    assert np.any(outcome.samples != audio.samples)
    assert np.isfinite(outcome.samples).all()
    again = do(generating_editor(), audio, ADDED)
    assert again.samples.shape == outcome.samples.shape


@pytest.mark.parametrize(
    ("rate", "channels", "n"), [(8000, 1, 8000), (44100, 2, 1), (192000, 2, 3), (24000, 3, 30000), (8000, 2, 88000)]
)
def test_generate_gives_back_the_recordings_shape(rate: int, channels: int, n: int) -> None:
    audio = Audio(np.random.default_rng(0).normal(0, 0.1, (channels, n)).astype(np.float32), rate)
    outcome = do(generating_editor(), audio, MASKED[0], mode="generate")
    assert outcome.samples.shape == audio.samples.shape
    assert outcome.samples.dtype == audio.samples.dtype
    assert np.isfinite(outcome.samples).all()
    if channels > 2:
        assert np.array_equal(outcome.samples[2:], audio.samples[2:])


def test_generate_reports_each_denoising_step_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = generating_editor(steps=4)
    audio = Audio(noise(2, 11.0, 8000), 8000)
    calls = 0
    forward = EditDiT.forward

    def counted(self: EditDiT, *arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        return forward(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EditDiT, "forward", counted)
    *progress, _ = editor.generate(audio, parse_step(MASKED[0]), seed=0)
    assert calls == 8  # two windows of four steps
    stages = [item.stage for item in progress if isinstance(item, StepProgress)]
    assert stages == ["encoding"] * 2 + ["reading the step"] + (["denoising"] * 4 + ["decoding"]) * 2
    fractions = [item.fraction for item in progress if isinstance(item, StepProgress)]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] <= 1
    calls = 0
    run = editor.generate(audio, parse_step(MASKED[0]), seed=0)
    while not calls:
        next(run)
    run.close()
    assert calls == 1


def test_generated_windows_fade_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks that change nothing, 25 s in three windows come back without seams."""
    monkeypatch.setattr(editor_module.Editor, "encode", lambda self, stereo: torch.from_numpy(stereo.copy())[None])
    monkeypatch.setattr(editor_module.Editor, "decode", lambda self, latent, n_samples: latent[0].numpy().copy())
    monkeypatch.setattr(editor_module.Editor, "conditioning", lambda self, text: None)
    monkeypatch.setattr(editor_module.Editor, "_edited", lambda self, latent, *_: iter([latent]))
    audio = Audio(noise(2, 25.0, 24000) * 20, 24000)  # beyond full scale, so that scaling is seen as well
    editor = known_editor()
    *_, outcome = editor.generate(audio, parse_step(MASKED[0]), seed=0)
    assert isinstance(outcome, StepOutcome)
    assert np.max(np.abs(outcome.samples - audio.samples)) < 1e-5
    assert outcome.chain is not None
    assert len(outcome.chain.latents) == 3
    *_, again = editor.generate(audio, parse_step(MASKED[0]), seed=0, chain=outcome.chain)
    assert isinstance(again, StepOutcome)
    np.testing.assert_array_equal(again.samples, outcome.samples)
