"""Every formula against signals whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from smartdj_agent.render import amplitude, filtered, reverberated, shifted
from smartdj_agent.spatial import gcc_error, gcc_itd_ms, place
from smartdj_agent.steps import Timbre
from training import metrics

RATE = 24_000


def noise(seconds: float = 1.0, *, seed: int = 0, channels: int = 2, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((channels, round(seconds * RATE)))).astype(np.float32)


def click(at_s: float = 0.3, seconds: float = 1.5) -> np.ndarray:
    """A burst of 30 ms, front."""
    out = np.zeros((2, round(seconds * RATE)), np.float32)
    burst = noise(0.03, seed=5, channels=1)[0]
    out[:, round(at_s * RATE) : round(at_s * RATE) + burst.size] = burst
    return out


def test_si_sdr_is_the_ratio_of_orthogonal_parts() -> None:
    time = np.arange(RATE) / RATE
    wanted = np.sin(2 * np.pi * 100 * time)
    error = np.sin(2 * np.pi * 300 * time)
    assert metrics.si_sdr_db(wanted + 0.1 * error, wanted) == pytest.approx(20.0, abs=1e-3)
    assert metrics.si_sdr_db(wanted + error, wanted) == pytest.approx(0.0, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_si_sdr_does_not_depend_on_scale(scale: float, seed: int) -> None:
    wanted, other = noise(0.1, seed=seed).astype(np.float64), noise(0.1, seed=seed + 1).astype(np.float64)
    estimate = wanted + 0.3 * other
    assert metrics.si_sdr_db(scale * estimate, wanted) == pytest.approx(metrics.si_sdr_db(estimate, wanted), abs=1e-6)


def test_si_sdr_of_silence_is_no_success() -> None:
    wanted = noise()
    assert metrics.si_sdr_db(np.zeros_like(wanted), wanted) == metrics.SILENT_SI_SDR_DB
    assert metrics.si_sdr_db(noise(seed=9), wanted) > metrics.SILENT_SI_SDR_DB


def test_lsd_of_a_gain_is_two_tenths_per_decibel_over_two() -> None:
    wanted = noise()
    # 10 dB are a factor of 10 in power: a log10 ratio of one in every bin.
    assert metrics.lsd(wanted, wanted * np.float32(amplitude(10.0)), RATE) == pytest.approx(1.0, abs=1e-3)
    assert metrics.lsd(wanted, wanted, RATE) == 0.0


def test_lsd_is_symmetric_and_finite_for_silence() -> None:
    wanted, silence = noise(seed=1), np.zeros((2, RATE), np.float32)
    other = noise(seed=2)
    assert metrics.lsd(wanted, other, RATE) == pytest.approx(metrics.lsd(other, wanted, RATE))
    against = metrics.lsd(silence, wanted, RATE)
    assert math.isfinite(against)
    assert against > 10
    assert against == pytest.approx(metrics.lsd(wanted, silence, RATE))
    assert metrics.lsd(silence, silence, RATE) == 0.0


def test_multi_resolution_distance_grows_with_the_error() -> None:
    wanted, other = noise(seed=1), noise(seed=2)
    assert metrics.multi_resolution_distance(wanted, wanted) == 0.0
    little = metrics.multi_resolution_distance(wanted, wanted + 0.1 * other)
    assert 0 < little < metrics.multi_resolution_distance(wanted, wanted + other)


def test_gcc_anchors() -> None:
    """paper.md §4.1: dual mono against hard left scores 316 (in whole samples at 16 kHz), a perfect edit 0."""
    source = noise(2.0, channels=1)[0]
    left, front, right = (place(source, azimuth, RATE) for azimuth in (-90.0, 0.0, 90.0))
    assert gcc_error(left, left, RATE) == 0.0
    assert gcc_error(left, np.repeat(left.mean(axis=0, keepdims=True), 2, axis=0), RATE) == pytest.approx(316, abs=2)
    assert gcc_error(right, front, RATE) == pytest.approx(316, abs=2)
    assert gcc_error(left, right, RATE) == pytest.approx(4 * 316, abs=8)


def test_change_in_decibels() -> None:
    source = noise()
    assert metrics.change_db(source, source) == metrics.CHANGE_FLOOR_DB
    assert metrics.change_db(source, source * 1.1) == pytest.approx(-20.0, abs=0.01)
    assert metrics.change_db(source, np.zeros_like(source)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="silent"):
        metrics.change_db(np.zeros_like(source), source)


def test_changed_samples_outside_spans_are_counted_in_every_channel() -> None:
    source = noise(0.01)
    output = source.copy()
    output[:, 10:20] += 1
    output[1, 100] += 1
    assert metrics.changed_outside(source, output, ()) == 21
    assert metrics.changed_outside(source, output, ((10, 20),)) == 1
    assert metrics.changed_outside(source, output, ((10, 15), (15, 20), (100, 101))) == 0


@settings(max_examples=20, deadline=None)
@given(st.floats(-24.0, 24.0))
def test_projected_gain_reads_what_was_asked(gain_db: float) -> None:
    stem, rest = noise(0.2, seed=1).astype(np.float64), noise(0.2, seed=2).astype(np.float64)
    source = stem + rest
    assert metrics.projected_gain_db(source, rest + stem * amplitude(gain_db), stem) == pytest.approx(gain_db, abs=1e-6)


def test_projected_gain_of_a_copy_and_of_a_removal() -> None:
    stem, rest = noise(seed=1), noise(seed=2)
    source = stem + rest
    assert metrics.projected_gain_db(source, source, stem) == 0.0
    assert metrics.projected_gain_db(source, rest, stem) == metrics.LEVEL_FLOOR_DB


@pytest.mark.parametrize("shift_s", [-0.4, -0.01, 0.0, 0.25, 0.9])
def test_shift_is_measured_to_the_sample(shift_s: float) -> None:
    stem = click(0.5)
    assert metrics.measured_shift_s(stem, shifted(stem, shift_s, RATE), RATE) == pytest.approx(shift_s, abs=1e-6)
    assert metrics.measured_shift_s(stem, np.zeros_like(stem), RATE) == 0.0


def test_wet_ratio_follows_the_reverb_level() -> None:
    dry = click()
    ratios = [metrics.wet_ratio_db(dry, reverberated(dry, level, RATE, seed=3)) for level in (1, 5, 10)]
    # −12 to 0 dB by the renderer's law; the decay that the recording's end cuts off is small.
    assert ratios == pytest.approx([-12.0, -12.0 + 12 * 4 / 9, 0.0], abs=0.6)
    assert metrics.wet_ratio_db(dry, dry) == metrics.WET_FLOOR_DB
    assert metrics.wet_ratio_db(dry, 3 * dry) == metrics.WET_FLOOR_DB


def test_envelope_error_sees_a_missing_tail() -> None:
    dry = click()
    wet = reverberated(dry, 8, RATE, seed=3)
    assert metrics.envelope_error_db(wet, wet, RATE) == 0.0
    assert metrics.envelope_error_db(wet, dry, RATE) > 10
    other_room = reverberated(dry, 8, RATE, seed=4)
    assert metrics.envelope_error_db(wet, other_room, RATE) < 4
    silence = np.zeros_like(dry)
    assert metrics.envelope_error_db(silence, silence, RATE) == 0.0


def test_octave_levels_put_a_tone_into_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)[None].repeat(2, axis=0)
    levels = metrics.octave_levels_db(tone, RATE)
    assert metrics.BAND_CENTRES_HZ[int(levels.argmax())] == 1000.0
    assert np.sort(levels)[-2] < levels.max() - 60


def test_band_error() -> None:
    before = noise()
    dark = filtered(before, Timbre.DARK, RATE)
    assert metrics.band_error_db(before, dark, dark, RATE) == 0.0
    assert 2 < metrics.band_error_db(before, dark, before, RATE) < 8
    assert metrics.band_error_db(before, before, before * np.float32(amplitude(6.0)), RATE) == pytest.approx(
        6, abs=0.01
    )
    # A silent output is as far off as the floor, not infinitely.
    assert metrics.band_error_db(before, before, np.zeros_like(before), RATE) < 51


def test_published_lsd_differs_only_where_there_is_silence() -> None:
    theirs, ours = noise(seed=1), noise(seed=2)
    assert metrics.lsd_published(theirs, ours, RATE) == pytest.approx(metrics.lsd(theirs, ours, RATE), abs=1e-3)
    assert metrics.lsd_published(theirs, 0.1 * theirs, RATE) == pytest.approx(2.0, abs=1e-4)
    silence = np.zeros_like(theirs)
    assert metrics.lsd(silence, silence, RATE) == 0.0
    assert metrics.lsd_published(silence, silence, RATE) == pytest.approx(12.0)


def by_matrix_root(x: np.ndarray, y: np.ndarray) -> float:
    """The textbook's formula."""
    apart = x.mean(axis=0) - y.mean(axis=0)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(first @ second)
    return float(apart @ apart + np.trace(first + second - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m", "width"), [(60, 60, 8), (40, 90, 8), (12, 9, 8)])
def test_frechet_distance_is_that_of_the_matrix_root(n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + 1.0
    y = rng.standard_normal((m, width)) @ rng.standard_normal((width, width))
    assert metrics.frechet_distance(x, y) == pytest.approx(by_matrix_root(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 30), (30, 5)])
def test_frechet_distance_of_fewer_vectors_than_dimensions(n: int, m: int) -> None:
    """There the root of a singular product is inexact; the eigenvalues of the product are not."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 20)), 0.5 + rng.standard_normal((m, 20)) * np.linspace(1, 2, 20)
    apart = x.mean(axis=0) - y.mean(axis=0)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None)).sum()
    expected = apart @ apart + np.trace(first + second) - 2 * roots
    assert metrics.frechet_distance(x, y) == pytest.approx(float(expected), abs=1e-4)


def test_frechet_distance_by_hand() -> None:
    """In one dimension it is the squared difference of means plus that of deviations."""
    x = np.array([[-1.0], [1.0]])
    assert metrics.frechet_distance(x, 3 * x + 5) == pytest.approx(5.0**2 + (3 - 1) ** 2 * 2)
    cloud = np.random.default_rng(0).standard_normal((50, 6))
    assert metrics.frechet_distance(cloud, cloud) == pytest.approx(0.0, abs=1e-9)
    assert metrics.frechet_distance(cloud, cloud + 2.0) == pytest.approx(6 * 4.0)
    assert metrics.fsad(cloud, cloud + 2.0) == pytest.approx(24_000)
    for wrong in (x[:1], np.zeros((2, 2))):
        with pytest.raises(ValueError, match="two sets"):
            metrics.frechet_distance(x, wrong)


def test_kl_by_hand() -> None:
    theirs, ours = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metrics.kl_divergence(theirs, ours) == pytest.approx(expected, abs=1e-5)
    assert metrics.kl_divergence(theirs, theirs) == pytest.approx(-2e-6, rel=1e-3)
    assert metrics.kl_divergence(ours, theirs) != pytest.approx(expected, abs=1e-3)
    # What the estimate rules out costs no more than the floor allows.
    assert metrics.kl_divergence(np.array([0.0, -2000.0]), np.array([-2000.0, 0.0])) == pytest.approx(math.log(1e6))


def test_cosine_by_hand() -> None:
    assert metrics.cosine(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(24 / 25)
    assert metrics.cosine(np.array([1.0, 0.0]), np.array([-2.0, 0.0])) == pytest.approx(-1.0)
    assert metrics.cosine(np.zeros(2), np.ones(2)) == 0.0


@pytest.mark.parametrize("delay", [-24, -7, 0, 13])
def test_crw_finds_the_lag_of_matching_patches(delay: int) -> None:
    """Orthogonal features, the right ear's `delay` patches later: all weight lies on one lag, but for exp(−1/τ)."""
    count = 80
    features = torch.eye(2 * count)
    left, right = features[30 : 30 + count], features[30 - delay : 30 - delay + count]
    found = metrics.crw_itds_s(5 * left, right)
    assert found.shape == (count - 48,)
    weight = math.exp(20) / (math.exp(20) + 48)
    torch.testing.assert_close(found, torch.full((32,), delay * weight / 16_000), rtol=1e-4, atol=1e-9)


def test_crw_has_the_sign_of_gcc() -> None:
    """A sound on the left: the left ear is first, so its patch matches a later one of the right ear."""
    mono = noise(0.3, channels=1)[0]
    assert gcc_itd_ms(place(mono, -90.0, RATE), RATE) > 0.5
    features = torch.eye(100)
    assert float(metrics.crw_itds_s(features[10:90], features[1:81]).mean()) > 0.5e-3


def test_spatial_feature_pools_and_averages_by_hand() -> None:
    frames = np.arange(12.0)[:, None] + np.zeros((12, 512))
    feature = metrics.spatial_feature(frames)
    assert feature.shape == (2 * 256,)  # two frames are left over
    np.testing.assert_allclose(feature[:256], 2.0)
    np.testing.assert_allclose(feature[256:], 7.0)
    ramp = np.tile(np.arange(512.0), (5, 1))
    np.testing.assert_allclose(metrics.spatial_feature(ramp), np.arange(256) * 2 + 0.5)
    assert metrics.spatial_feature(np.zeros((100, 465))).shape == (5120,)


def test_itd_error_of_dual_mono_against_hard_left() -> None:
    assert metrics.itd_error(0.5625, 0.0) == pytest.approx(316.4, abs=0.1)
