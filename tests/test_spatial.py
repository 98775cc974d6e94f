"""Placement by the rule, its measurement, the published metric and simulated rooms."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.spatial import (
    FRACTIONAL_TAPS,
    delayed,
    far_ear,
    gcc_error,
    gcc_itd_ms,
    measure_azimuth,
    measure_ild_db,
    measure_itd_s,
    place,
    room_place,
    unplace,
)

AZIMUTHS = st.floats(-90.0, 90.0)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize(
    ("azimuth_deg", "near", "gain", "late"),
    [(-90.0, 0, 0.6, 14), (-45.0, 0, 0.8, 9), (0.0, 0, 1.0, 0), (45.0, 1, 0.8, 9), (90.0, 1, 0.6, 14)],
)
def test_five_published_directions_are_exact_at_24_khz(azimuth_deg, near, gain, late):
    source = noise(2000)
    placed = place(source, azimuth_deg, 24_000)
    expected = np.zeros_like(source)
    expected[late:] = np.float32(gain) * source[: source.size - late]
    assert placed.dtype == np.float32
    assert np.array_equal(placed[near], source)
    assert np.array_equal(placed[1 - near], expected)


@given(AZIMUTHS, st.sampled_from([8000, 22_050, 24_000, 44_100, 48_000]))
def test_left_and_right_are_mirror_images(azimuth_deg, sample_rate):
    source = noise(400)
    assert np.array_equal(place(source, azimuth_deg, sample_rate), place(source, -azimuth_deg, sample_rate)[::-1])


@given(AZIMUTHS)
def test_far_ear_is_monotonic_between_its_points(azimuth_deg):
    gain, delay_s = far_ear(azimuth_deg)
    nearer_gain, nearer_delay_s = far_ear(0.9 * azimuth_deg)
    assert 0.6 <= gain <= nearer_gain <= 1.0
    assert 0.0 <= nearer_delay_s <= delay_s <= 14 / 24_000


@given(st.floats(0.0, 30.0))
@settings(deadline=None)
def test_fractional_delay_keeps_time_and_level_up_to_0_8_of_nyquist(delay):
    pulse = np.zeros(256)
    pulse[100] = 1.0
    omega = np.linspace(0.01, 0.8 * np.pi, 200)
    response = np.exp(-1j * np.outer(omega, np.arange(256) - 100)) @ delayed(pulse, delay)
    measured = -np.unwrap(np.angle(response)) / omega
    assert np.max(np.abs(measured - delay)) < 1e-3  # samples: 0.02 µs at 44.1 kHz
    assert np.max(np.abs(20 * np.log10(np.abs(response)))) < 0.001


@given(st.floats(-60.0, 60.0), st.integers(0, 50))
def test_delaying_never_fails_and_keeps_the_length(delay, n):
    out = delayed(noise(n), delay)
    assert out.shape == (n,)
    assert np.isfinite(out).all()


def test_float64_stays_float64_and_integers_become_float32():
    assert place(np.ones(10), 30.0, 24_000).dtype == np.float64
    assert place(np.ones(10, np.int16), 30.0, 24_000).dtype == np.float32


@pytest.mark.parametrize("azimuth_deg", [-90.1, 91.0, float("nan"), float("inf")])
def test_azimuth_out_of_range(azimuth_deg):
    with pytest.raises(SmartDJError) as caught:
        place(noise(10), azimuth_deg, 24_000)
    assert caught.value.code is ErrorCode.STEP_RANGE
    assert caught.value.field == "azimuth_deg"
    assert caught.value.hint


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 44_100])
@pytest.mark.parametrize("azimuth_deg", [-90.0, -77.0, -45.0, -20.0, -3.0, 0.0, 5.0, 30.0, 66.6, 90.0])
def test_measuring_inverts_placing(azimuth_deg, sample_rate):
    placed = place(noise(sample_rate), azimuth_deg, sample_rate)
    _, delay_s = far_ear(azimuth_deg)
    itd_s = measure_itd_s(placed, sample_rate)
    assert itd_s == pytest.approx(-np.sign(azimuth_deg) * delay_s, abs=2e-6)
    assert measure_azimuth(placed, sample_rate) == pytest.approx(azimuth_deg, abs=0.6)
    source, measured = unplace(placed, sample_rate)
    assert np.array_equal(source, noise(sample_rate))
    assert measured == pytest.approx(azimuth_deg, abs=0.6)


def test_level_difference():
    both = np.stack([noise(1000), 0.5 * noise(1000)])
    assert measure_ild_db(both) == pytest.approx(6.0206, abs=1e-3)
    assert measure_ild_db(both[::-1]) == pytest.approx(-6.0206, abs=1e-3)
    assert measure_ild_db(np.stack([noise(100), np.zeros(100, np.float32)])) == pytest.approx(120.0)


def test_a_single_cue_is_enough():
    source = noise(24_000)
    assert measure_azimuth(np.stack([source, 0 * source]), 24_000) == -90.0
    assert measure_azimuth(np.stack([0.6 * source, source]), 24_000) == pytest.approx(90.0, abs=0.1)
    assert measure_azimuth(np.stack([delayed(source, 9), source]), 24_000) == pytest.approx(45.0, abs=0.5)


def test_uncorrelated_ears_go_by_level():
    both = np.stack([noise(48_000, 1), noise(48_000, 2)])
    assert abs(measure_azimuth(both, 24_000)) < 5.0


def test_direction_survives_quiet_noise_of_the_microphones():
    placed = place(noise(48_000), -60.0, 24_000) + 0.02 * np.stack([noise(48_000, 1), noise(48_000, 2)])
    assert measure_azimuth(placed, 24_000) == pytest.approx(-60.0, abs=3.0)


@pytest.mark.parametrize("n", [0, 1, 2, 100])
def test_tiny_and_silent_clips_have_an_answer(n):
    silent = np.zeros((2, n), np.float32)
    assert measure_azimuth(silent, 24_000) == 0.0
    assert measure_itd_s(silent, 24_000) == 0.0
    assert unplace(silent, 24_000)[0].shape == (n,)
    assert place(np.ones(n, np.float32), -90.0, 24_000).shape == (2, n)
    assert gcc_itd_ms(silent, 24_000) == 0.0
    assert np.isfinite(measure_azimuth(np.ones((2, n), np.float32), 24_000))


def test_unplacing_a_louder_but_later_ear_aligns_it():
    source = noise(24_000)
    odd = np.stack([0.5 * source, delayed(source, 6)])  # left first, right louder
    recovered, _ = unplace(odd, 24_000)
    assert np.allclose(recovered[:-6], source[:-6], atol=1e-6)


def test_gcc_anchors_of_the_paper():
    clip = noise(240_000)
    hard_left, dual_mono = place(clip, -90.0, 24_000), np.stack([clip, clip])
    right = place(clip, 90.0, 24_000)
    assert gcc_itd_ms(hard_left, 24_000) == pytest.approx(0.5625, abs=1e-3)
    assert gcc_itd_ms(right, 24_000) == pytest.approx(-0.5625, abs=1e-3)
    assert gcc_itd_ms(dual_mono, 24_000) == 0.0
    assert gcc_error(hard_left, dual_mono, 24_000) == pytest.approx(316.0, abs=1.0)
    assert gcc_error(right, dual_mono, 24_000) == pytest.approx(316.0, abs=1.0)  # copying the input of front → right
    assert gcc_error(hard_left, hard_left, 24_000) == 0.0


def test_gcc_patch_step_is_a_shortcut_not_another_metric():
    clip = place(noise(8000), -45.0, 16_000) + place(noise(8000, 1), 90.0, 16_000)
    assert gcc_itd_ms(clip, 16_000) == pytest.approx(gcc_itd_ms(clip, 16_000, patch_step=4), abs=0.03)
    with pytest.raises(ValueError, match="patch_step"):
        gcc_itd_ms(clip, 16_000, patch_step=0)


def test_gcc_of_a_silent_ear_is_no_direction():
    assert gcc_itd_ms(np.stack([noise(24_000), np.zeros(24_000, np.float32)]), 24_000) == 0.0


@pytest.mark.parametrize("rt60_s", [0.3, 0.7, 1.2])
def test_room_has_the_wanted_reverberation_time(rt60_s):
    pytest.importorskip("pyroomacoustics")
    pulse = np.zeros(48_000)
    pulse[0] = 1.0
    ears = room_place(pulse, -45.0, 24_000, rt60_s, np.random.default_rng(1))
    for ear in ears:
        left_over_db = 10 * np.log10(np.cumsum((ear**2)[::-1])[::-1] / np.sum(ear**2) + 1e-30)
        first, last = np.argmax(left_over_db <= -5), np.argmax(left_over_db <= -35)
        slope = np.polyfit(np.arange(first, last) / 24_000, left_over_db[first:last], 1)[0]
        assert -60 / slope == pytest.approx(rt60_s, rel=0.15)


def test_room_keeps_time_side_and_seed():
    pytest.importorskip("pyroomacoustics")
    pulse = np.zeros(4800, np.float32)
    pulse[100] = 1.0
    first, again, other = (room_place(pulse, -60.0, 24_000, 0.4, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (2, 4800)
    assert first.dtype == np.float32
    assert abs(int(np.argmax(np.abs(first[0]))) - 100) <= 1
    assert 0.6 <= np.max(np.abs(first[0])) <= 1.1
    assert measure_ild_db(first) > 1.0
    mirrored = room_place(pulse, 60.0, 24_000, 0.4, np.random.default_rng(3))
    assert measure_ild_db(mirrored) < -1.0
    front = room_place(pulse, 0.0, 24_000, 0.4, np.random.default_rng(3))
    assert abs(measure_ild_db(front[:, :160])) < 1.0


def test_room_refuses_what_it_cannot_do(monkeypatch):
    with pytest.raises(SmartDJError) as caught:
        room_place(noise(10), 0.0, 24_000, 2.0, np.random.default_rng(0))
    assert caught.value.code is ErrorCode.STEP_RANGE
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(SmartDJError) as caught:
        room_place(noise(10), 0.0, 24_000, 0.5, np.random.default_rng(0))
    assert caught.value.code is ErrorCode.USAGE
    assert "smartdj-agent[training]" in caught.value.hint


def test_taps_reach_no_further_than_documented():
    pulse = np.zeros(200)
    pulse[100] = 1.0
    touched = np.flatnonzero(delayed(pulse, 0.5))
    assert touched.min() > 100 - FRACTIONAL_TAPS // 2
    assert touched.max() <= 100 + FRACTIONAL_TAPS // 2


def test_gcc_of_a_burst_is_not_swayed_by_silence_around_it():
    clip = np.zeros((2, 240_000), np.float32)
    clip[:, 100_000:130_000] = place(noise(30_000), -90.0, 24_000)
    share = gcc_itd_ms(clip, 24_000) / 0.5625
    assert 0.1 < share < 0.2  # 1.25 s of 10 s, widened by the window
