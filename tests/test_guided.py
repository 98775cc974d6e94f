"""The spatial filter that a mask guides: what it gains, and what it leaves as it is."""

from __future__ import annotations

import numpy as np
import pytest

from smartdj_agent.guided import guided_filter
from smartdj_agent.spatial import place

RATE, SIZE, HOP = 24_000, 1024, 256
WINDOW = np.sqrt(np.hanning(SIZE + 1)[:-1]).astype(np.float32)


def spectrum(samples: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples, SIZE, axis=1)[:, ::HOP]
    return np.fft.rfft(frames * WINDOW, axis=-1).astype(np.complex64).transpose(0, 2, 1)


def sounds(azimuths_deg: tuple[float, ...]) -> list[np.ndarray]:
    """Spectra of noises that come and go, each from its direction, (2, F, T)."""
    rng = np.random.default_rng(3)
    found = []
    for azimuth_deg in azimuths_deg:
        level = np.repeat(10 ** (rng.uniform(-20, 0, 40) / 20), 3 * RATE // 40)
        line = (0.1 * rng.standard_normal(len(level)) * level).astype(np.float32)
        found.append(spectrum(place(line, azimuth_deg, RATE)))
    return found


def improvement_db(estimate: np.ndarray, wanted: np.ndarray, mixture: np.ndarray) -> float:
    errors = [float(np.sum(np.abs(part - wanted) ** 2)) for part in (mixture, estimate)]
    return 10 * np.log10(errors[0] / errors[1])


def blurred(wanted: np.ndarray, mixture: np.ndarray, bands: int = 27, frames: int = 9) -> np.ndarray:
    """The true share, as coarse and as hedging as a network's mask."""
    power = [np.abs(part) ** 2 for part in (wanted, mixture)]
    _, f, t = power[0].shape
    sums = [
        part[:, : f // bands * bands, : t // frames * frames]
        .reshape(2, f // bands, bands, t // frames, frames)
        .sum((2, 4))
        for part in power
    ]
    share = np.clip(sums[0] / (sums[1] + 1e-9), 0.0, 1.0).repeat(bands, 1).repeat(frames, 2)
    padded = np.pad(share, ((0, 0), (0, f - share.shape[1]), (0, t - share.shape[2])), mode="edge")
    return (0.15 + 0.7 * padded).astype(np.float32)


@pytest.mark.parametrize("azimuths_deg", [(-90.0, 45.0), (-45.0, 0.0), (0.0, 90.0, -45.0)])
def test_directions_part_what_a_mask_smears(azimuths_deg: tuple[float, ...]) -> None:
    parts = sounds(azimuths_deg)
    mixture = np.sum(parts, axis=0)
    share = blurred(parts[0], mixture)
    masked = improvement_db(share * mixture, parts[0], mixture)
    filtered = improvement_db(guided_filter(mixture, share), parts[0], mixture)
    assert filtered > masked + (6.0 if len(parts) == 2 else 1.0)


def test_sounds_from_one_direction_are_parted_by_the_mask_alone() -> None:
    parts = sounds((45.0, 45.0))
    mixture = np.sum(parts, axis=0)
    share = blurred(parts[0], mixture)
    masked = improvement_db(share * mixture, parts[0], mixture)
    assert improvement_db(guided_filter(mixture, share), parts[0], mixture) > masked - 0.5


def test_where_both_ears_hear_the_same_the_mask_is_what_comes_out() -> None:
    rng = np.random.default_rng(4)
    ear = spectrum(rng.normal(0, 0.1, (1, RATE)).astype(np.float32))
    share = rng.uniform(0.01, 0.99, ear.shape).astype(np.float32)
    filtered = guided_filter(np.concatenate([ear, ear]), np.concatenate([share, share]))
    assert np.allclose(filtered, share * ear, atol=1e-4 * np.abs(ear).max())


@pytest.mark.parametrize("gain", [1e-5, 1.0, 1e4])
def test_level_does_not_matter(gain: float) -> None:
    parts = sounds((-90.0, 45.0))
    mixture = np.sum(parts, axis=0)
    share = blurred(parts[0], mixture)
    wanted = guided_filter(mixture, share)
    filtered = guided_filter((gain * mixture).astype(np.complex64), share)
    assert np.allclose(filtered / gain, wanted, atol=1e-3 * np.abs(wanted).max())


def test_certainties_stay() -> None:
    rng = np.random.default_rng(5)
    mixture = spectrum(rng.normal(0, 0.1, (2, RATE)).astype(np.float32))
    share = np.ones(mixture.shape, np.float32)
    assert np.allclose(guided_filter(mixture, share), mixture, atol=1e-5 * np.abs(mixture).max())
    share[:, 100:200] = 0.0
    assert not guided_filter(mixture, share)[:, 100:200].any()


def test_silence_and_one_silent_ear() -> None:
    mixture = spectrum(np.random.default_rng(6).normal(0, 0.1, (2, RATE)).astype(np.float32))
    share = np.full(mixture.shape, 0.5, np.float32)
    assert not guided_filter(np.zeros_like(mixture), share).any()
    mixture[1] = 0
    filtered = guided_filter(mixture, share)
    assert np.isfinite(filtered).all()
    assert not filtered[1].any()
    assert np.abs(filtered[0]).max() > 0
