"""Scenes on tensors: the same law as `training.mixing`, repeatable, and what they say they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smartdj_agent.spatial import measure_azimuth, place
from training import listener
from training.clips import SAMPLE_RATE, Clip, ClipStore
from training.gpu_mixing import (
    DeviceClips,
    SceneBatch,
    draw_scenes,
    far_ear_taps,
    filter_size,
    frame_activity,
    make_scenes,
    placed,
)
from training.mixing import NONE, PEAK_SPREAD_DB, PEAK_SUM, Variation, laid_out, make_scene, varied

SHARES = (0.25, 0.25, 0.25, 0.25)


@pytest.fixture(scope="module")
def store() -> ClipStore:
    labels = ["dog", "rain", "bell", "horn", "wind", "clock"]
    clips, audio = [], []
    for index, label in enumerate(labels * 2):
        rng = np.random.default_rng(index)
        wave = rng.standard_normal(3000 + 4000 * index)
        wave *= np.exp(-np.arange(len(wave)) / 4000) if label not in ("rain", "wind") else 1.0
        clips.append(Clip(Path(f"{index}.wav"), label, "train", kind="continuous" if label in ("rain", "wind") else ""))
        audio.append((wave / np.abs(wave).max()).astype(np.float16))
    return ClipStore(clips, "train", audio)


@pytest.fixture(scope="module")
def clips(store: ClipStore) -> DeviceClips:
    return DeviceClips(store)


def stems_of(batch: SceneBatch) -> list[tuple[int, np.ndarray]]:
    """(row of the draws, stem) of all sounds."""
    draws = batch.draws
    return [(row, batch.stems[int(draws.scene[row]), int(draws.slot[row])].numpy()) for row in range(len(draws.scene))]


def test_a_batch_is_a_function_of_its_seed(clips: DeviceClips) -> None:
    first, again, other = (
        make_scenes(clips, (3, index), 4, duration_s=1.0, count_shares=SHARES, variation=Variation(noise_floor=1.0))
        for index in (5, 5, 6)
    )
    assert torch.equal(first.stems, again.stems)
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.mixture, other.mixture)


def test_clips_are_where_the_tables_say(clips: DeviceClips, store: ClipStore) -> None:
    for index in range(len(store)):
        start, length = clips.starts[index], clips.lengths[index]
        assert np.array_equal(clips.samples[start : start + length].numpy(), store.audio[index])
    drawn = clips.draw(np.random.default_rng(0), np.repeat(np.arange(6), 50))
    names = [store.clips[index].label for index in drawn]
    assert names == [label for label in clips.labels for _ in range(50)]
    assert len(set(drawn)) == len(store)


def test_sounds_of_a_scene_differ_and_their_peaks_follow_the_law(clips: DeviceClips) -> None:
    batch = make_scenes(clips, (1,), 40, duration_s=1.0, count_shares=SHARES, variation=NONE)
    draws = batch.draws
    counts = np.bincount(draws.scene)
    assert set(counts) == {1, 2, 3, 4}
    for index in range(40):
        rows = draws.scene == index
        assert len(set(draws.label[rows])) == counts[index]
        assert draws.peak[rows].sum() == pytest.approx(PEAK_SUM)
        spread = 20 * np.log10(draws.peak[rows].max() / draws.peak[rows].min())
        assert spread <= 2 * PEAK_SPREAD_DB + 1e-6
        assert not batch.stems[index, counts[index] :].any()
    for row, stem in stems_of(batch):
        assert np.abs(stem).max() == pytest.approx(draws.peak[row], rel=1e-4)
        assert measure_azimuth(stem, SAMPLE_RATE) == pytest.approx(draws.azimuth_deg[row], abs=1.5)
    assert not batch.noise.any()


@pytest.mark.parametrize("azimuth", [-90.0, -45.0, -10.3, 0.0, 22.2, 45.0, 71.0, 90.0])
def test_placement_is_the_rule_of_the_product(azimuth: float) -> None:
    n = 6000
    mono = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    size = filter_size(n)
    stereo, near = placed(torch.fft.rfft(torch.from_numpy(mono)[None], size), np.array([azimuth]), size, n)
    wanted = place(mono, azimuth, SAMPLE_RATE)
    assert np.abs(stereo[0].numpy() - wanted).max() < 2e-5
    assert np.abs(near[0].numpy() - mono).max() < 2e-5
    taps, _ = far_ear_taps(np.array([azimuth]))
    assert taps.sum() == pytest.approx(np.interp(abs(azimuth), [0, 45, 90], [1.0, 0.8, 0.6]), abs=1e-5)


def test_a_transient_is_its_clip_at_each_onset(clips: DeviceClips, store: ClipStore) -> None:
    batch = make_scenes(clips, (2,), 32, duration_s=4.0, count_shares=(1.0,), variation=NONE)
    draws, n = batch.draws, batch.draws.n_samples
    repeated = 0
    for row, stem in stems_of(batch):
        if draws.looped[row]:
            continue
        clip = store.samples(int(draws.clip[row]))
        line = np.zeros(n, np.float32)
        for onset in draws.onsets[row]:
            piece = clip[: max(0, n - onset)]
            line[onset : onset + len(piece)] += piece
            repeated += onset < n
        near = stem[0 if draws.azimuth_deg[row] <= 0 else 1]
        assert np.abs(near - line * draws.peak[row] / np.abs(line).max()).max() < 1e-3 * draws.peak[row]
    assert repeated > np.count_nonzero(~draws.looped)


def test_a_continuous_sound_is_looped_like_the_other_mixer(clips: DeviceClips, store: ClipStore) -> None:
    """The same numbers given to `laid_out`'s own arithmetic make the same line."""
    batch = make_scenes(clips, (4,), 60, duration_s=1.5, count_shares=(1.0,), variation=NONE)
    draws, n, seen = batch.draws, batch.draws.n_samples, 0
    for row, stem in stems_of(batch):
        if not draws.looped[row]:
            continue

        class Told:
            """Answers `laid_out`'s questions with what was drawn."""

            def __init__(self, row: int) -> None:
                self.first, self.end, self.row, self.asked = draws.first[row], draws.end[row], row, 0

            def random(self) -> float:
                self.asked += 1
                onset = draws.onsets[self.row, 0]
                return (0.0 if onset == 0 else 0.9) if self.asked == 1 else (0.0 if self.end == n else 0.9)

            def uniform(self, low: float, high: float) -> float:
                onset = draws.onsets[self.row, 0]
                return (onset + 0.5) / n if high == 0.5 else (self.end - onset + 0.5) / (n - onset)

            def integers(self, low: int, high: int) -> int:
                return int(self.first)

        line, _ = laid_out(store.samples(int(draws.clip[row])), n, True, Told(row))  # type: ignore[arg-type]
        near = stem[0 if draws.azimuth_deg[row] <= 0 else 1] / draws.peak[row]
        error = np.sqrt(np.mean((near - line / np.abs(line).max()) ** 2)) / np.sqrt(np.mean(near**2))
        assert error < 0.02
        seen += 1
    assert seen > 5


def octaves_db(wave: np.ndarray) -> np.ndarray:
    power = np.square(np.abs(np.fft.rfft(wave, axis=-1))).reshape(-1, wave.shape[-1] // 2 + 1).sum(0)
    hertz = np.fft.rfftfreq(wave.shape[-1], 1 / SAMPLE_RATE)
    centres = 125 * 2.0 ** np.arange(7)
    bands = [power[(hertz >= c / 2**0.5) & (hertz < c * 2**0.5)].sum() for c in centres]
    return 10 * np.log10(np.array(bands) / power.sum())


def test_variations_have_the_statistics_of_the_other_mixer(clips: DeviceClips, store: ClipStore) -> None:
    """Levels, colours, noise floors and loudness of many scenes agree in their quartiles."""
    variation = Variation(0.2, 9.0, 0.5, 0.5, 1.0, 0.3, 6.0)
    ours = make_scenes(clips, (8,), 160, duration_s=1.0, count_shares=SHARES, variation=variation)
    theirs = [
        make_scene(store, np.random.default_rng([8, i]), duration_s=1.0, count=1 + i % 4, variation=variation)
        for i in range(160)
    ]

    def quartiles(values: list[float] | np.ndarray) -> np.ndarray:
        return np.percentile(values, [25, 50, 75])

    def level_db(wave: np.ndarray) -> float:
        return float(10 * np.log10(np.mean(np.square(wave)) + 1e-12))

    mixtures = ours.mixture.numpy()
    assert quartiles([level_db(wave) for wave in mixtures]) == pytest.approx(
        quartiles([level_db(scene.mixture) for scene in theirs]), abs=2.5
    )
    assert quartiles([level_db(wave) for wave in ours.noise.numpy()]) == pytest.approx(
        quartiles([level_db(scene.noise) for scene in theirs]), abs=4.0
    )
    own = np.array([octaves_db(stem) for _, stem in stems_of(ours)])
    other = np.array([octaves_db(stem) for scene in theirs for stem in scene.stems])
    for band in range(7):
        assert quartiles(own[:, band]) == pytest.approx(quartiles(other[:, band]), abs=2.5)
    stem_levels = [level_db(stem) for _, stem in stems_of(ours)]
    assert quartiles(stem_levels) == pytest.approx(
        quartiles([level_db(stem) for scene in theirs for stem in scene.stems]), abs=2.5
    )


@pytest.mark.parametrize("which", ["tilt", "limit", "echo"])
def test_each_filter_does_what_the_other_does(clips: DeviceClips, store: ClipStore, which: str) -> None:
    """Single sounds with one variation switched on: spread of the top octave's level, and how long they last."""
    variation = Variation(0.0, 9.0 * (which == "tilt"), float(which == "limit"), float(which == "echo"), 0.0, 0.0, 0.0)
    batch = make_scenes(clips, (5,), 150, duration_s=2.0, count_shares=(1.0,), variation=variation, single=True)
    rng = np.random.default_rng(5)
    own, other = [], []
    for row, stem in stems_of(batch):
        clip = store.samples(int(batch.draws.clip[row]))
        dry = octaves_db(clip)[[1, 6]]
        own.append(octaves_db(stem)[[1, 6]] - dry)
        other.append(octaves_db(varied(clip, variation, rng))[[1, 6]] - dry)
    assert np.mean(own, axis=0) == pytest.approx(np.mean(other, axis=0), abs=1.0)
    assert np.std(own, axis=0) == pytest.approx(np.std(other, axis=0), abs=1.0)


def test_speed_changes_length_and_pitch(clips: DeviceClips) -> None:
    variation = Variation(0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    draws = draw_scenes(clips, np.random.default_rng(0), 300, duration_s=1.0, count_shares=(1.0,), variation=variation)
    ratio = draws.length / clips.lengths[draws.clip]
    assert ratio.min() >= 1 / 1.301
    assert ratio.max() <= 1.301
    assert np.mean(np.abs(ratio - 1) < 1e-3) == pytest.approx(0.3, abs=0.1)


def test_activity_is_the_listeners(clips: DeviceClips) -> None:
    batch = make_scenes(clips, (9,), 6, duration_s=1.0, count_shares=SHARES, variation=NONE)
    ours = frame_activity(batch.stems, 480, listener.ACTIVE_DB)
    for row, stem in stems_of(batch):
        wanted = listener.frame_activity(stem, 480)
        got = ours[int(batch.draws.scene[row]), int(batch.draws.slot[row])].numpy()
        assert got.shape == wanted.shape
        assert np.mean(got != wanted) < 0.03
