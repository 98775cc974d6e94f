"""Masks carried over to any rate: what the projection keeps, and what it costs to look at an hour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smartdj_agent.separation import (
    Mask,
    active_spans,
    apply_mask,
    estimate_mask,
    separate,
    transform_size,
    widen,
)
from tests.known_listener import KnownListener, between, everything, nothing


def random_mask(frames: int, seed: int = 0) -> Mask:
    share = np.random.default_rng(seed).random((2, 128, frames)).astype(np.float32)
    return Mask(share, np.ones(frames, bool), 1.0)


@pytest.mark.parametrize("rate", [1, 8000, 11025, 16000, 22050, 24000, 37800, 44100, 48000, 96000, 192000])
def test_the_window_lasts_as_long_as_the_listeners(rate: int) -> None:
    size = transform_size(rate, KnownListener(everything))
    assert size % 4 == 0
    assert abs(size / rate - 1024 / 24000) <= max(0.06 * 1024 / 24000, 4 / rate)


def test_at_the_listeners_rate_the_window_is_the_listeners() -> None:
    assert transform_size(24000, KnownListener(everything)) == 1024


def test_masking_is_linear_in_the_recording_and_in_the_mask() -> None:
    listener = KnownListener(everything)
    rng = np.random.default_rng(1)
    one, two = rng.normal(0, 0.1, (2, 1, 16000)).astype(np.float32)  # in stereo, the mask guides a filter
    mask = random_mask(51)
    both = apply_mask(one + two, 16000, mask, listener)
    assert np.allclose(both, apply_mask(one, 16000, mask, listener) + apply_mask(two, 16000, mask, listener), atol=1e-6)
    rest = Mask(1 - mask.share, mask.active, 1.0)
    assert np.allclose(apply_mask(one, 16000, mask, listener) + apply_mask(one, 16000, rest, listener), one, atol=1e-6)


def test_parts_of_a_long_stretch_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = KnownListener(everything)
    samples = np.random.default_rng(2).normal(0, 0.1, (2, 24000)).astype(np.float32)
    whole = apply_mask(samples, 24000, random_mask(51), listener)
    monkeypatch.setattr("smartdj_agent.separation.FRAMES_AT_ONCE", 3)
    assert np.allclose(apply_mask(samples, 24000, random_mask(51), listener), whole, atol=1e-6)


def test_a_mask_takes_its_bands() -> None:
    """A mask of the upper half of the bands takes the high tone and leaves the low one."""
    share = np.zeros((2, 128, 51), np.float32)
    share[:, 70:] = 1.0
    t = np.arange(24000) / 24000
    low, high = 0.3 * np.sin(2 * np.pi * 300 * t), 0.3 * np.sin(2 * np.pi * 6000 * t)
    samples = np.stack([low + high, low]).astype(np.float32)
    stem = apply_mask(samples, 24000, Mask(share, np.ones(51, bool), 1.0), KnownListener(everything))
    assert np.max(np.abs(stem[0] - high)[2000:-2000]) < 1e-3
    assert np.max(np.abs(stem[1])[2000:-2000]) < 1e-3


def test_surround_channels_take_the_mean_of_both_ears() -> None:
    share = np.zeros((2, 128, 51), np.float32)
    share[0] = 1.0
    samples = np.random.default_rng(3).normal(0, 0.1, (4, 24000)).astype(np.float32)
    stem = apply_mask(samples, 24000, Mask(share, np.ones(51, bool), 1.0), KnownListener(everything))
    assert np.allclose(stem[0], samples[0], atol=1e-6)
    assert not stem[1].any()
    assert np.allclose(stem[2:], samples[2:] / 2, atol=1e-6)
    assert share[0].all()  # the mask itself stays as it was
    assert not share[1].any()


def test_silence_has_no_sounds() -> None:
    listener = KnownListener(everything)
    mask = estimate_mask(listener, np.zeros((2, 24000), np.float32), torch.zeros(384))
    assert mask.confidence == 0.0
    assert not mask.active.any()


def test_a_silent_part_is_left_alone() -> None:
    stereo = np.random.default_rng(4).normal(0, 0.1, (2, 48000)).astype(np.float32)
    stereo[:, 24000:] = 0.0
    mask = estimate_mask(KnownListener(everything), stereo, torch.zeros(384))
    assert mask.active[:48].all()
    assert not mask.active[60:].any()


@pytest.mark.parametrize(("rate", "n"), [(192000, 1), (192000, 3), (8000, 1), (1, 3), (44100, 100)])
def test_a_few_samples_are_no_trouble(rate: int, n: int) -> None:
    samples = np.full((2, n), 0.3, np.float32)
    *_, (done, count, found) = separate(KnownListener(everything), samples, rate, torch.zeros(384))
    assert done == count == 1
    assert found is not None
    assert found.stem.shape == samples.shape
    assert np.isfinite(found.stem).all()


def test_progress_comes_with_every_window() -> None:
    samples = np.random.default_rng(5).normal(0, 0.1, (1, 8000 * 30)).astype(np.float32)
    listener = KnownListener(between((1.0, 2.0)))
    events = list(separate(listener, samples, 8000, torch.zeros(384)))
    assert [(done, count, found is not None) for done, count, found in events] == [
        (1, 4, False),
        (2, 4, False),
        (3, 4, False),
        (4, 4, True),
    ]
    assert listener.calls == 4


def test_spans() -> None:
    stem = np.zeros((2, 1000), np.float32)
    assert active_spans(stem) == ()
    stem[0, 100:200] = 1.0
    stem[0, 150] = 0.0  # a zero crossing
    stem[1, 250:300] = 1.0
    stem[1, 999] = 1.0
    assert active_spans(stem) == ((100, 300), (999, 1000))
    assert active_spans(stem[:, :0]) == ()


def test_widening() -> None:
    active = np.zeros(20, bool)
    active[10] = True
    assert np.flatnonzero(widen(active, 3)).tolist() == list(range(7, 14))
    assert np.array_equal(widen(active, 0), active)
    assert widen(np.ones(1, bool), 6).tolist() == [True]  # shorter than the widening itself
    assert widen(np.array([True] + [False] * 4), 3).tolist() == [True] * 4 + [False]
    assert not widen(np.zeros(5, bool), 2).any()


def test_nothing_found_is_exact_silence() -> None:
    samples = np.random.default_rng(6).normal(0, 0.1, (2, 20000)).astype(np.float32)
    *_, (_, _, found) = separate(KnownListener(nothing), samples, 16000, torch.zeros(384))
    assert found is not None
    assert found.spans == ()
    assert not found.stem.any()
