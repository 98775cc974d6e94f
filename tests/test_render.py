"""Each operation on a stem, measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.render import (
    TIMBRES,
    WET_DB,
    amplitude,
    apply_to_stem,
    filtered,
    redirected,
    render_added,
    reverberated,
    room_response,
    shifted,
    supports_direction,
    timbre_sections,
    wet_gain,
)
from smartdj_agent.spatial import measure_ild_db, place
from smartdj_agent.steps import Operation, Step, Timbre, rt60_s

RATE = 24_000


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def stereo(n: int = RATE, azimuth_deg: float = -45.0) -> np.ndarray:
    return place(noise(n), azimuth_deg, RATE)


STEPS = [
    Step(Operation.REMOVE, "dog"),
    Step(Operation.EXTRACT, "dog"),
    Step(Operation.VOLUME, "dog", gain_db=-6.0),
    Step(Operation.DIRECTION, "dog", to_azimuth_deg=30.0),
    Step(Operation.SHIFT, "dog", shift_s=0.25),
    Step(Operation.REVERB, "dog", reverb_level=4),
    *(Step(Operation.TIMBRE, "dog", timbre=timbre) for timbre in Timbre),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.operation}{step.timbre or ''}")
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2, 0), (2, 1), (2, 3000), (6, 3000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_type_and_input_are_kept(step, shape, dtype):
    stem = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    before = stem.copy()
    out = apply_to_stem(stem, step, RATE, seed=5)
    assert out.shape == shape
    assert out.dtype == dtype
    assert np.isfinite(out).all()
    assert np.array_equal(stem, before)
    assert out is not stem
    assert not np.shares_memory(out, stem)
    assert np.array_equal(out, apply_to_stem(stem, step, RATE, seed=5))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.operation}{step.timbre or ''}")
def test_silence_stays_exactly_silent(step):
    assert not apply_to_stem(np.zeros((2, 5000), np.float32), step, RATE).any()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.operation}{step.timbre or ''}")
def test_nothing_sounds_before_the_sound(step):
    stem = np.zeros((2, RATE), np.float32)
    stem[:, 10_000:12_000] = stereo(2000)
    # A fractional delay of a direction reaches 16 samples back.
    assert not apply_to_stem(stem, step, RATE)[:, : 10_000 - 16].any()


def test_remove_extract_and_volume():
    stem = stereo()
    assert not apply_to_stem(stem, STEPS[0], RATE).any()
    assert np.array_equal(apply_to_stem(stem, STEPS[1], RATE), stem)
    assert np.allclose(apply_to_stem(stem, STEPS[2], RATE), stem * 10 ** (-6 / 20), rtol=1e-6)
    assert amplitude(6.0) == pytest.approx(1.995, abs=1e-3)


def test_add_has_no_stem():
    with pytest.raises(ValueError, match="render_added"):
        apply_to_stem(stereo(), Step(Operation.ADD, "dog"), RATE)


@given(st.sampled_from([-90.0, -45.0, -30.0, 0.0, 45.0, 90.0]), st.sampled_from([-90.0, -12.0, 0.0, 45.0, 90.0]))
@settings(deadline=None, max_examples=15)
def test_redirecting_a_placed_sound_is_exact(from_deg, to_deg):
    source = noise(9000)
    assert np.array_equal(redirected(place(source, from_deg, RATE), to_deg, RATE), place(source, to_deg, RATE))


def test_redirecting_a_real_recording_turns_its_level_difference():
    wild = stereo() + 0.3 * np.stack([noise(RATE, 7), noise(RATE, 8)])
    assert measure_ild_db(wild) > 1.0
    assert measure_ild_db(redirected(wild, 90.0, RATE)) == pytest.approx(-4.44, abs=0.05)


def test_direction_by_number_of_channels():
    mono, six = noise(1000)[None], np.stack([noise(1000, s) for s in range(6)])
    assert [supports_direction(c) for c in (1, 2, 6)] == [False, True, True]
    assert np.array_equal(redirected(mono, 90.0, RATE), mono)
    assert np.array_equal(redirected(six, 90.0, RATE)[2:], six[2:])
    assert not np.array_equal(redirected(six, 90.0, RATE)[:2], six[:2])


@given(st.floats(-10, 10), st.integers(1, 400))
@settings(deadline=None)
def test_shift_moves_samples_and_loses_only_what_leaves(shift_s, n):
    stem = np.random.default_rng(0).standard_normal((2, n))
    by = round(shift_s * 30)
    out = shifted(stem, shift_s, 30)
    for index in range(n):
        source = index - by
        expected = stem[:, source] if 0 <= source < n else 0.0
        assert np.array_equal(out[:, index], np.broadcast_to(expected, 2))


def decay_time(response: np.ndarray, rate: int) -> float:
    """RT60 from −5 to −35 dB of Schroeder's backward integral."""
    left_over = np.cumsum((response**2)[::-1])[::-1]
    level_db = 10 * np.log10(left_over / left_over[0] + 1e-30)
    first, last = int(np.argmax(level_db <= -5)), int(np.argmax(level_db <= -35))
    return -60 / np.polyfit(np.arange(first, last) / rate, level_db[first:last], 1)[0]


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("level", range(1, 11))
def test_reverberation_time_of_every_level(level, rate):
    for seed in (0, 1):
        for ear in room_response(rt60_s(level), rate, 2, seed):
            assert decay_time(ear, rate) == pytest.approx(rt60_s(level), rel=0.1)


def test_high_frequencies_decay_faster():
    ear = room_response(1.0, 48_000, 1, 0)[0]
    high = signal.sosfilt(signal.butter(4, 7000, "high", fs=48_000, output="sos"), ear)
    middle = signal.sosfilt(signal.butter(4, (400, 1600), "band", fs=48_000, output="sos"), ear)
    assert decay_time(middle, 48_000) == pytest.approx(1.0, rel=0.1)
    assert decay_time(high, 48_000) == pytest.approx(0.7, rel=0.1)


def test_reverb_is_seeded_decorrelated_and_grows_with_the_level():
    stem = np.zeros((2, 2 * RATE), np.float32)
    stem[:, 1000] = 1.0
    wets = [reverberated(stem, level, RATE, seed=3) - stem for level in range(1, 11)]
    energies_db = [10 * np.log10(np.sum(wet[0] ** 2)) for wet in wets]
    assert np.all(np.diff(energies_db) > 1.0)
    assert energies_db[0] == pytest.approx(WET_DB[0], abs=0.1)
    assert energies_db[-1] == pytest.approx(WET_DB[1], abs=0.1)
    assert wet_gain(10) == 1.0
    assert abs(np.corrcoef(wets[4])[0, 1]) < 0.2
    assert np.array_equal(wets[4], reverberated(stem, 5, RATE, seed=3) - stem)
    assert not np.allclose(wets[4], reverberated(stem, 5, RATE, seed=4) - stem)


def test_reverb_keeps_the_direct_sound_and_fills_a_silent_ear():
    stem = np.zeros((2, RATE), np.float32)
    stem[0, 5000] = 1.0
    out = reverberated(stem, 5, RATE)
    assert np.allclose(out[0, :5100], stem[0, :5100], atol=1e-6)
    assert np.sum(out[1] ** 2) > 0.05
    assert not out[:, :5000].any()


def test_reverb_stops_after_its_tail():
    stem = np.zeros((1, 2 * RATE), np.float32)
    stem[0, 0] = 1.0
    assert not reverberated(stem, 1, RATE)[0, round(1.3 * 0.3 * RATE) + 1 :].any()


@pytest.mark.parametrize("level", [0, 11])
def test_reverb_level_out_of_range(level):
    with pytest.raises(SmartDJError) as caught:
        reverberated(stereo(100), level, RATE)
    assert caught.value.code is ErrorCode.STEP_RANGE


def gain_db(timbre: Timbre, hz: float, rate: int = 48_000) -> float:
    _, response = signal.freqz_sos(timbre_sections(timbre, rate), [hz], fs=rate)
    return float(20 * np.log10(abs(response[0])))


@pytest.mark.parametrize(
    ("timbre", "hz", "expected_db"),
    [
        (Timbre.BRIGHT, 50, 0.0), (Timbre.BRIGHT, 3000, 4.0), (Timbre.BRIGHT, 16_000, 8.0),
        (Timbre.DARK, 50, 0.0), (Timbre.DARK, 2000, -6.0), (Timbre.DARK, 16_000, -12.0),
        (Timbre.WARM, 20, 6.0), (Timbre.WARM, 1100, 0.0), (Timbre.WARM, 20_000, -4.0),
        (Timbre.COLD, 20, -8.0), (Timbre.COLD, 1100, 0.0), (Timbre.COLD, 20_000, 4.0),
        (Timbre.MUFFLED, 50, 0.0), (Timbre.MUFFLED, 900, -3.0), (Timbre.MUFFLED, 3600, -48.5),
    ],
)  # fmt: skip
def test_timbres_do_what_they_say(timbre, hz, expected_db):
    assert gain_db(timbre, hz) == pytest.approx(expected_db, abs=0.6)


def test_timbre_is_measured_on_sound_too():
    stem = stereo(4 * RATE)
    out = filtered(stem, Timbre.BRIGHT, RATE)
    hz, before = signal.welch(stem[0], RATE, nperseg=2048)
    _, after = signal.welch(out[0], RATE, nperseg=2048)
    change_db = 10 * np.log10(after / before)
    assert np.max(np.abs(change_db[(hz > 50) & (hz < 400)])) < 0.2
    assert np.mean(change_db[hz > 9000]) == pytest.approx(8.0, abs=0.3)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("timbre", list(Timbre))
def test_timbres_are_stable_and_minimum_phase_at_any_rate(timbre, rate):
    sections = timbre_sections(timbre, rate)
    assert 1 <= len(sections) <= len(TIMBRES[timbre])
    for section in sections:
        assert np.max(np.abs(np.roots(section[3:]))) < 1.0
        assert np.max(np.abs(np.roots(section[:3]))) <= 1.0 + 1e-6
    assert np.isfinite(filtered(stereo(1000), timbre, rate)).all()


def test_sections_above_a_low_rate_are_left_out():
    assert timbre_sections(Timbre.BRIGHT, 4000).shape == (0, 6)
    assert np.array_equal(filtered(stereo(100), Timbre.BRIGHT, 4000), stereo(100))


@pytest.mark.parametrize("gain", [-6.0, 0.0, 3.0])
@pytest.mark.parametrize("azimuth_deg", [-90.0, 0.0, 45.0])
def test_added_sound_has_the_published_peak_in_the_nearer_ear(gain, azimuth_deg):
    step = Step(Operation.ADD, "dog", gain_db=gain, azimuth_deg=azimuth_deg)
    out = render_added(7 * noise(5000), step, RATE, RATE, onset_s=0.1)
    near = out[0 if azimuth_deg <= 0 else 1]
    assert out.shape == (2, RATE)
    assert np.max(np.abs(near)) == pytest.approx(0.5 * 10 ** (gain / 20), rel=1e-5)
    assert not out[:, :2400].any()
    assert not out[:, 2400 + 5000 + 14 :].any()
    assert measure_ild_db(out) == pytest.approx({-90.0: 4.44, 0.0: 0.0, 45.0: -1.94}[azimuth_deg], abs=0.05)


def test_added_sound_by_number_of_channels():
    step = Step(Operation.ADD, "dog", azimuth_deg=-90.0)
    one, two, six = (render_added(noise(500), step, RATE, 1000, channels=c) for c in (1, 2, 6))
    assert [out.shape for out in (one, two, six)] == [(1, 1000), (2, 1000), (6, 1000)]
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(six[:2], two)
    assert not six[2:].any()


def test_added_sound_loops_without_gaps_or_jumps():
    step = Step(Operation.ADD, "hum")
    hum = np.sin(2 * np.pi * 100 * np.arange(6000) / RATE).astype(np.float32)
    once = render_added(hum, step, RATE, 2 * RATE)
    looped = render_added(hum, step, RATE, 2 * RATE, loop=True)
    assert not once[:, 6000:].any()
    power = np.convolve(looped[0] ** 2, np.ones(480) / 480, "valid")
    assert power.min() > 0.25 * np.median(power)
    assert np.max(np.abs(np.diff(looped[0]))) < 3 * 0.5 * 2 * np.pi * 100 / RATE


@pytest.mark.parametrize("m", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("n", [0, 1, 10, 1000])
@pytest.mark.parametrize("onset_s", [-1.0, 0.0, 0.01, 5.0])
@pytest.mark.parametrize("loop", [False, True])
def test_added_sound_of_any_length_fits_any_recording(m, n, onset_s, loop):
    out = render_added(np.ones(m, np.float32), Step(Operation.ADD, "dog"), RATE, n, onset_s=onset_s, loop=loop)
    assert out.shape == (2, n)
    assert np.isfinite(out).all()


def test_added_silence_stays_silent():
    assert not render_added(np.zeros(100), Step(Operation.ADD, "dog"), RATE, 1000, loop=True).any()
