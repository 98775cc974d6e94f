"""Tempo: beats where they are set, tapped or followed; frames that fall on them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartdj_osc.live.tempo import MAX_BPM, MIN_BPM, BeatGrid, Tempo

from smartdj_agent.errors import ErrorCode, SmartDJError

GRIDS = st.builds(
    BeatGrid,
    bpm=st.floats(MIN_BPM, MAX_BPM),
    time_s=st.floats(-1e4, 1e4),
    beat=st.floats(-1e3, 1e3),
    beats_per_bar=st.integers(1, 16),
)


def test_at_120_a_bar_of_four_lasts_two_seconds() -> None:
    tempo = Tempo(120.0)
    assert [tempo.beat_at(t) for t in (0.0, 0.25, 2.0)] == [0.0, 0.5, 4.0]
    assert tempo.next("beat", 0.1) == 0.5
    assert tempo.next("bar", 0.1) == 2.0
    assert tempo.bar_phase(3.0) == 0.5


def test_on_the_beat_the_next_one_is_now() -> None:
    tempo = Tempo(100.0)
    for k in range(200):
        assert tempo.next("beat", 0.6 * k) == pytest.approx(0.6 * k, abs=1e-6)


@given(GRIDS, st.integers(-(10**8), 10**9), st.sampled_from([8_000, 44_100, 48_000]), st.sampled_from(["beat", "bar"]))
def test_next_and_last_frame_enclose(grid: BeatGrid, frame: int, rate: int, unit: str) -> None:
    length = grid.beats_in(unit)  # type: ignore[arg-type]
    after = grid.next_frame(unit, frame, rate)  # type: ignore[arg-type]
    before = grid.last_frame(unit, frame, rate)  # type: ignore[arg-type]
    assert before <= frame <= after
    gap = 60.0 / grid.bpm * length * rate
    assert after - before <= gap + 1
    for found in (before, after):  # a beat lies within half a frame
        beats = grid.beat_at(found / rate) / length
        assert abs(beats - round(beats)) * gap <= 0.5 + 1e-3
    assert grid.next_frame(unit, after, rate) == after  # type: ignore[arg-type]
    assert grid.next_frame(unit, after + 1, rate) > after  # type: ignore[arg-type]


@given(st.floats(MIN_BPM, MAX_BPM), st.floats(MIN_BPM, MAX_BPM), st.floats(0, 1e4))
def test_changing_the_tempo_keeps_the_beat(before: float, after: float, now: float) -> None:
    tempo = Tempo(before)
    beat = tempo.beat_at(now)
    tempo.set(after, now)
    assert tempo.beat_at(now) == pytest.approx(beat)
    assert tempo.beat_at(now + 60.0 / after) == pytest.approx(beat + 1)


@given(st.floats(MIN_BPM + 1, 300.0), st.integers(2, 20), st.integers(0, 2**32))
def test_taps_that_waver_give_tempo_and_one(bpm: float, count: int, seed: int) -> None:
    chance = random.Random(seed)
    beat_s = 60.0 / bpm
    tempo = Tempo(97.0)
    start = 1_000.0
    found = None
    for k in range(count):
        found = tempo.tap(start + k * beat_s + chance.uniform(-0.02, 0.02) * beat_s)
    # Two taps say it to 4 %, the last eight much better.
    assert found == pytest.approx(bpm, rel=0.045 if count < 4 else 0.03)
    assert tempo.bpm == found
    phase = tempo.beat_at(start + (count - 1) * beat_s)
    assert phase == pytest.approx(count - 1, abs=0.06)  # the first tap was a one


def test_taps_that_are_exact_give_the_exact_tempo() -> None:
    tempo = Tempo()
    for k in range(12):
        tempo.tap(5.0 + k * 60.0 / 133.0)
    assert tempo.bpm == pytest.approx(133.0, rel=1e-9)
    assert tempo.next("bar", 5.0 + 8.5 * 60.0 / 133.0) == pytest.approx(5.0 + 12 * 60.0 / 133.0)


def test_one_tap_changes_nothing() -> None:
    tempo = Tempo(120.0)
    grid = tempo.grid
    assert tempo.tap(3.3) is None
    assert tempo.grid is grid


def test_a_missed_tap_is_bridged() -> None:
    tempo = Tempo()
    for beat in (0, 1, 2, 4, 5):
        tempo.tap(beat * 0.5)
    assert tempo.bpm == pytest.approx(120.0)
    assert tempo.beat_at(2.5) == pytest.approx(5.0)


def test_a_bounce_is_ignored() -> None:
    tempo = Tempo()
    for beat in range(4):
        tempo.tap(beat * 0.5)
        assert tempo.tap(beat * 0.5 + 0.02) is None
    assert tempo.bpm == pytest.approx(120.0)


def test_a_pause_begins_a_new_series_and_a_new_one() -> None:
    tempo = Tempo()
    for k in range(4):
        tempo.tap(k * 0.5)
    assert tempo.tap(10.3) is None
    assert tempo.tap(10.3 + 0.75) == pytest.approx(80.0)
    assert tempo.beat_at(10.3) == pytest.approx(0.0, abs=1e-9)


def test_far_faster_taps_begin_a_new_series() -> None:
    tempo = Tempo()
    for k in range(4):
        tempo.tap(float(k))
    for k in range(1, 4):
        tempo.tap(3.0 + k * 0.4)
    assert tempo.bpm == pytest.approx(150.0)


def test_time_that_runs_backwards_begins_a_new_series() -> None:
    tempo = Tempo()
    tempo.tap(10.0)
    assert tempo.tap(5.0) is None
    assert tempo.tap(5.5) == pytest.approx(120.0)


def test_a_downbeat_moves_the_bar() -> None:
    tempo = Tempo(120.0)
    tempo.downbeat(0.7)
    assert tempo.bar_phase(0.7) == 0.0
    assert tempo.next("bar", 0.8) == pytest.approx(2.7)
    assert tempo.bpm == 120.0


def test_following_takes_tempo_and_phase_over() -> None:
    tempo = Tempo(120.0)
    assert tempo.follow(100.0, 41.5, 7.0)
    assert (tempo.bpm, tempo.beat_at(7.0)) == (100.0, 41.5)
    assert tempo.bar_phase(7.0) == pytest.approx(1.5 / 4)


def test_following_lets_jitter_pass_but_not_a_shift() -> None:
    tempo = Tempo(120.0)
    tempo.follow(120.0, 100.0, 10.0)
    grid = tempo.grid
    for k in range(1, 50):  # asked a millisecond early or late
        assert not tempo.follow(120.0, 100.0 + 0.2 * k + 0.002 * (-1) ** k, 10.0 + 0.1 * k)
    assert tempo.grid is grid
    assert not tempo.follow(120.0, 104.0, 10.0)  # whole bars are the session's own affair
    assert tempo.follow(120.0, 101.0, 10.0)


@pytest.mark.parametrize("bpm", [0.0, -120.0, 19.9, 1000.0, math.nan, math.inf])
def test_impossible_tempos_are_refused_and_change_nothing(bpm: float) -> None:
    tempo = Tempo(90.0)
    grid = tempo.grid
    for call in (lambda: tempo.set(bpm, 0.0), lambda: tempo.follow(bpm, 0.0, 0.0), lambda: Tempo(bpm)):
        with pytest.raises(SmartDJError) as refused:
            call()
        assert (refused.value.code, refused.value.field) == (ErrorCode.STEP_RANGE, "bpm")
    assert tempo.grid is grid


@pytest.mark.parametrize("beats", [0, -1, 65])
def test_impossible_bars_are_refused(beats: int) -> None:
    with pytest.raises(SmartDJError, match="bar"):
        Tempo(120.0, beats)
