"""Clips and mixing: repeatable, summing, levelled, and never from another split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from training.clips import SAMPLE_RATE, Clip, ClipStore, load_mono, read_manifest
from training.mixing import (
    AZIMUTHS_DEG,
    NONE,
    PEAK_SUM,
    Variation,
    event_peaks,
    laid_out,
    make_scene,
    varied,
)
from training.stft_loss import a_weighting, magnitudes, multi_resolution_loss

EVERYTHING = Variation(0.2, 9.0, 1.0, 1.0, 1.0, 1.0, 6.0)


def tone(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal(n)
    return (wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="module")
def store() -> ClipStore:
    labels = ["dog", "rain", "bell", "horn", "wind", "clock"]
    clips, audio = [], []
    for index, label in enumerate(labels * 2):
        kind = "continuous" if label in ("rain", "wind") else "transient"
        clips.append(Clip(Path(f"{index}.wav"), label, "train", kind=kind))
        audio.append(tone(3000 + 4000 * index, index).astype(np.float16))
    return ClipStore(clips, "train", audio)


# --- scenes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variation", [None, NONE, EVERYTHING])
def test_same_chance_same_bytes(store: ClipStore, variation: Variation | None) -> None:
    first, again, other = (
        make_scene(store, np.random.default_rng(seed), duration_s=1.0, variation=variation) for seed in (5, 5, 6)
    )
    assert first.events == again.events
    assert first.stems.tobytes() == again.stems.tobytes()
    assert first.noise.tobytes() == again.noise.tobytes()
    assert first.mixture.tobytes() != other.mixture.tobytes()


@pytest.mark.parametrize("variation", [NONE, EVERYTHING])
def test_stems_sum_to_the_mixture(store: ClipStore, variation: Variation) -> None:
    for seed in range(6):
        scene = make_scene(store, np.random.default_rng(seed), duration_s=1.0, variation=variation)
        count = len(scene.events)
        assert 2 <= count <= 5
        assert scene.stems.shape == (count, 2, SAMPLE_RATE)
        assert scene.stems.dtype == scene.noise.dtype == scene.mixture.dtype == np.float32
        total = sum(stem.astype(np.float64) for stem in scene.stems) + scene.noise
        np.testing.assert_allclose(scene.mixture, total, atol=1e-6)
        assert np.isfinite(scene.mixture).all()
        assert all(np.abs(stem).max() > 0 for stem in scene.stems)
        assert bool(scene.noise.any()) == (variation is EVERYTHING)


def test_peaks_before_placement(store: ClipStore) -> None:
    for seed in range(8):
        scene = make_scene(store, np.random.default_rng(seed), duration_s=2.0, variation=NONE)
        assert sum(event.peak for event in scene.events) == pytest.approx(PEAK_SUM)
        for event, stem in zip(scene.events, scene.stems, strict=True):
            # Placement leaves the near ear as it is.
            near = 0 if event.azimuth_deg <= 0 else 1
            assert np.abs(stem[near]).max() == pytest.approx(event.peak, rel=1e-5)
            assert event.azimuth_deg in AZIMUTHS_DEG
            assert all(0 <= onset < 2.0 for onset in event.onsets_s)
            assert event.onsets_s
        assert len({event.label for event in scene.events}) == len(scene.events)
        assert np.abs(scene.mixture).max() <= PEAK_SUM + 1e-5


def test_onsets_are_where_the_sound_starts(store: ClipStore) -> None:
    for seed in range(8):
        scene = make_scene(store, np.random.default_rng(seed), duration_s=2.0, variation=NONE)
        for event, stem in zip(scene.events, scene.stems, strict=True):
            near = 0 if event.azimuth_deg <= 0 else 1
            heard = np.flatnonzero(stem[near])[0] / SAMPLE_RATE
            assert heard == pytest.approx(event.onsets_s[0], abs=2e-3)


def test_asked_count_and_labels(store: ClipStore) -> None:
    scene = make_scene(store, np.random.default_rng(0), duration_s=0.5, count=3, labels=("dog", "bell", "horn"))
    assert sorted(event.label for event in scene.events) == ["bell", "dog", "horn"]
    for event in scene.events:
        assert store.clips[event.clip_index].label == event.label


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_event_peaks(count: int, seed: int) -> None:
    peaks = event_peaks(count, np.random.default_rng(seed))
    assert peaks.sum() == pytest.approx(PEAK_SUM)
    assert 20 * np.log10(peaks.max() / peaks.min()) <= 7.0 + 1e-9


# --- laying out and varying -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60_000),
    st.sampled_from([240, 1000, 24_000, 48_000]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_laid_out(length: int, n_samples: int, continuous: bool, seed: int) -> None:
    line, onsets = laid_out(tone(length), n_samples, continuous, np.random.default_rng(seed))
    assert line.shape == (n_samples,)
    assert line.dtype == np.float32
    assert np.isfinite(line).all()
    assert np.abs(line).max() <= 1.0 + 1e-5
    assert list(onsets) == sorted(onsets)
    assert all(0 <= onset <= n_samples / SAMPLE_RATE for onset in onsets)
    if not continuous or n_samples >= 24_000:
        assert onsets
        assert line.any()
    if not continuous:
        assert len(onsets) <= 4


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 239, 240, 10_000_000])
@pytest.mark.parametrize("continuous", [False, True])
def test_very_short_and_very_long_clips(length: int, continuous: bool) -> None:
    clip = np.full(length, 0.5, np.float32)
    for seed in range(5):
        line, onsets = laid_out(clip, 24_000, continuous, np.random.default_rng(seed))
        assert onsets
        assert 0 < np.abs(line).max() <= 0.5 + 1e-6


def test_a_short_transient_always_sounds() -> None:
    clip = tone(250)
    for seed in range(3000):
        _, onsets = laid_out(clip, 4800, False, np.random.default_rng(seed))
        assert onsets, seed


def test_the_clip_is_not_changed_in_place() -> None:
    clip = tone(5000)
    before = clip.copy()
    for seed in range(5):
        laid_out(clip, 24_000, True, np.random.default_rng(seed))
        varied(clip, EVERYTHING, np.random.default_rng(seed))
    assert np.array_equal(clip, before)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([240, 241, 1000, 12_345, 50_000]), st.integers(0, 2**32), st.sampled_from([None, EVERYTHING]))
def test_varied_is_finite_with_peak_1(length: int, seed: int, variation: Variation | None) -> None:
    clip = varied(tone(length), variation or Variation(), np.random.default_rng(seed))
    assert clip.dtype == np.float32
    assert np.isfinite(clip).all()
    assert np.abs(clip).max() == pytest.approx(1.0, abs=1e-6)
    assert 240 <= len(clip) <= 1.25 * length + 0.31 * SAMPLE_RATE


def test_no_variation_leaves_the_clip() -> None:
    clip = tone(3000)
    np.testing.assert_array_equal(varied(clip, NONE, np.random.default_rng(0)), clip)
    assert not varied(np.zeros(500, np.float32), EVERYTHING, np.random.default_rng(0)).any()


# --- clips ------------------------------------------------------------------------------------------------


def bank(folder: Path, splits: list[str], *, lengths: int = 2400, offset: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "kind"])
        for index, split in enumerate(splits):
            soundfile.write(folder / f"{index}.wav", tone(lengths + index, index + offset), SAMPLE_RATE, "FLOAT")
            writer.writerow([f"{index}.wav", f"sound {split} {index}", split, "transient"])
    return folder


@pytest.mark.parametrize("cached", [False, True])
def test_only_clips_of_the_asked_split(tmp_path: Path, cached: bool) -> None:
    folder = bank(tmp_path / "bank", ["train", "valid", "train", "test", "valid", "train"])
    cache = tmp_path / "cache" if cached else None
    lengths = {"train": [2400, 2402, 2405], "valid": [2401, 2404], "test": [2403]}
    for _ in range(2):
        for split, expected in lengths.items():
            found = ClipStore.open([folder], split, cache)
            assert {clip.split for clip in found.clips} == {split}
            assert all(label.split()[1] == split for label in found.labels)
            assert [len(found.samples(index)) for index in range(len(found))] == expected
            for index, clip in enumerate(found.clips):
                np.testing.assert_allclose(found.samples(index), load_mono(clip.path), atol=1e-3)


def test_an_empty_split(tmp_path: Path) -> None:
    folder = bank(tmp_path / "bank", ["train", "train"])
    assert len(ClipStore.open([folder], "test")) == 0
    for _ in range(2):
        assert len(ClipStore.open([folder], "test", tmp_path / "cache")) == 0


def test_the_cache_follows_the_clips(tmp_path: Path) -> None:
    folder = bank(tmp_path / "a" / "bank", ["train"] * 3)
    first = ClipStore.open([folder], "train", tmp_path / "cache")
    manifest = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join([manifest[0], *reversed(manifest[1:])]) + "\n")
    turned = ClipStore.open([folder], "train", tmp_path / "cache")
    assert [clip.path.name for clip in turned.clips] == ["2.wav", "1.wav", "0.wav"]
    assert np.array_equal(turned.samples(0), first.samples(2))
    other = bank(tmp_path / "b" / "bank", ["train"] * 3, offset=50)
    theirs = ClipStore.open([other], "train", tmp_path / "cache")
    np.testing.assert_allclose(theirs.samples(0), load_mono(other / "0.wav"), atol=1e-3)


def test_a_cache_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bank(tmp_path / "bank", ["train"] * 3)

    def failing(file, **arrays) -> None:
        (Path(file) if isinstance(file, str | Path) else Path(file.name)).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", failing)
    with pytest.raises(OSError, match="No space"):
        ClipStore.open([folder], "train", tmp_path / "cache")
    monkeypatch.undo()
    assert len(ClipStore.open([folder], "train", tmp_path / "cache")) == 3


def test_manifest_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path)
    bank(tmp_path, ["train", "dev"])
    with pytest.raises(ValueError, match="dev"):
        read_manifest(tmp_path)


def test_load_mono(tmp_path: Path) -> None:
    wave = np.zeros((9600, 2), np.float32)
    wave[2000:3000] = [0.5, 0.1]
    wave[5000] = [1e-6, 0.0]
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, "FLOAT")
    assert np.array_equal(load_mono(tmp_path / "a.wav"), np.ones(1000, np.float32))
    soundfile.write(tmp_path / "b.wav", wave, 48_000, "FLOAT")
    assert len(load_mono(tmp_path / "b.wav")) == pytest.approx(500, abs=100)
    soundfile.write(tmp_path / "c.wav", np.zeros(500), SAMPLE_RATE)
    assert load_mono(tmp_path / "c.wav").shape == (0,)


# --- spectral loss ----------------------------------------------------------------------------------------


def test_spectral_loss() -> None:
    import torch

    wave = torch.from_numpy(np.stack([tone(4800, 1), tone(4800, 2)]))
    assert float(multi_resolution_loss(wave, wave)) == 0.0
    near, far = (float(multi_resolution_loss(wave * factor, wave)) for factor in (0.9, 0.5))
    assert 0 < near < far
    assert magnitudes(wave, 512).shape == (2, 257, 38)
    silent = torch.zeros(2, 4800, requires_grad=True)
    loss = multi_resolution_loss(silent, wave)
    loss.backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()
    curve = a_weighting(2400, 24_000)
    for hertz, decibels in ((100, -19.1), (1000, 0.0), (2500, 1.3), (10_000, -2.5)):
        assert 20 * np.log10(float(curve[hertz // 10])) == pytest.approx(decibels, abs=0.1)
