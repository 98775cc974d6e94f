"""The rolling recording: wrap-around, bars, a writer that overtakes its reader."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smartdj_osc.live.capture import RollingCapture
from smartdj_osc.live.tempo import BeatGrid

from smartdj_agent.errors import ErrorCode, SmartDJError

RATE = 1_000


def counted(start: int, frames: int, channels: int = 2) -> np.ndarray:
    """Each sample says which frame it is, its sign which channel."""
    ramp = np.arange(start, start + frames, dtype=np.float32)
    return np.stack([ramp * (-1) ** channel for channel in range(channels)], axis=1)


def filled(capture: RollingCapture, frames: int, block: int = 64, offset: int = 0) -> None:
    for start in range(0, frames, block):
        count = min(block, frames - start)
        capture.write(counted(start, count, capture.channels), start + offset)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=30), st.integers(1, 2_000))
def test_the_last_frames_come_back_whatever_the_blocks(blocks: list[int], wanted: int) -> None:
    capture = RollingCapture(2.0, 2, RATE)
    written = 0
    for block in blocks:
        capture.write(counted(written, block), written)
        written += block
    audio = capture.last(seconds=wanted / RATE)
    expected = min(wanted, written)
    assert audio.sample_rate == RATE
    assert np.array_equal(audio.samples, counted(written - expected, expected).T)


def test_what_was_recorded_is_said() -> None:
    capture = RollingCapture(2.0, 1, RATE)
    assert capture.recorded == 0
    filled(capture, 1_500)
    assert capture.recorded == 1_500
    filled(capture, 9_999)
    assert capture.recorded == 2_000


@pytest.mark.parametrize("offset", [0, 137, -250])
@pytest.mark.parametrize("bars", [1, 2, 4])
def test_bars_begin_and_end_on_bar_lines(bars: int, offset: int) -> None:
    capture = RollingCapture(10.0, 2, RATE)
    filled(capture, 30_123, 77, offset)
    grid = BeatGrid(bpm=130.0, time_s=0.11, beat=0.0, beats_per_bar=4)
    audio = capture.last(bars=bars, grid=grid)
    lines = {grid.frame_of(4 * k, RATE) for k in range(-5, 40)}
    first, last = int(audio.samples[0, 0]) + offset, int(audio.samples[0, -1]) + offset + 1
    assert {first, last} <= lines
    assert audio.n_samples == last - first
    assert sum(first <= line < last for line in lines) == bars
    end = 30_123 + offset
    assert not any(last < line <= end for line in lines)  # no later bar is complete


def test_bars_that_were_not_recorded_are_refused_and_counted() -> None:
    capture = RollingCapture(60.0, 2, RATE)
    filled(capture, 5_000)
    with pytest.raises(SmartDJError, match="only 2 whole bars") as refused:
        capture.last(bars=8, grid=BeatGrid(bpm=120.0))
    assert (refused.value.code, refused.value.field) == (ErrorCode.AUDIO_EMPTY, "bars")


def test_bars_longer_than_the_ring_are_refused() -> None:
    capture = RollingCapture(3.0, 2, RATE)
    filled(capture, 30_000)
    with pytest.raises(SmartDJError) as refused:
        capture.last(bars=2, grid=BeatGrid(bpm=120.0))
    assert refused.value.code is ErrorCode.STEP_RANGE


@pytest.mark.parametrize("seconds", [0.0, -1.0, 2.5, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    capture = RollingCapture(2.0, 2, RATE)
    filled(capture, 100)
    with pytest.raises(SmartDJError) as refused:
        capture.last(seconds=seconds)
    assert (refused.value.code, refused.value.field) == (ErrorCode.STEP_RANGE, "seconds")


@pytest.mark.parametrize("bars", [0, -3])
def test_no_bars_are_refused(bars: int) -> None:
    capture = RollingCapture(2.0, 2, RATE)
    filled(capture, 2_000)
    with pytest.raises(SmartDJError):
        capture.last(bars=bars, grid=BeatGrid())


def test_nothing_recorded_is_an_error() -> None:
    with pytest.raises(SmartDJError) as empty:
        RollingCapture(2.0, 2, RATE).last(seconds=1.0)
    assert empty.value.code is ErrorCode.AUDIO_EMPTY


def test_exactly_one_of_seconds_and_bars() -> None:
    capture = RollingCapture(2.0, 2, RATE)
    filled(capture, 2_000)
    for wrong in ({}, {"seconds": 1.0, "bars": 1}):
        with pytest.raises(SmartDJError) as refused:
            capture.last(grid=BeatGrid(), **wrong)  # type: ignore[arg-type]
        assert refused.value.code is ErrorCode.USAGE


@pytest.mark.parametrize(("given", "kept"), [(1, 2), (4, 2), (2, 3), (2, 1)])
def test_other_channels_than_expected_do_no_harm(given: int, kept: int) -> None:
    capture = RollingCapture(2.0, kept, RATE)
    block = counted(5, 10, given)
    capture.write(block, 0)
    samples = capture.last(seconds=1.0).samples
    if given == 1:
        assert np.array_equal(samples, np.repeat(block.T, kept, axis=0))
    else:
        both = min(given, kept)
        assert np.array_equal(samples[:both], block[:, :both].T)
        assert not samples[both:].any()


class Overtaken(RollingCapture):
    """The writer writes while the reader copies."""

    meanwhile = 0
    times = 0

    def _copy(self, start: int, end: int) -> np.ndarray:
        samples = super()._copy(start, end)
        if self.times:
            self.times -= 1
            self.write(counted(self._written, self.meanwhile), self._written)
        return samples


def test_a_writer_that_stays_in_the_slack_does_no_harm() -> None:
    capture = Overtaken(2.0, 2, RATE)
    filled(capture, 10_000)
    capture.meanwhile, capture.times = 1_000, 1
    assert np.array_equal(capture.last(seconds=2.0).samples, counted(8_000, 2_000).T)


def test_overtaken_once_it_reads_again() -> None:
    capture = Overtaken(2.0, 2, RATE)
    filled(capture, 10_000)
    capture.meanwhile, capture.times = 1_001, 1
    assert np.array_equal(capture.last(seconds=2.0).samples, counted(9_001, 2_000).T)


def test_overtaken_always_it_says_so() -> None:
    capture = Overtaken(2.0, 2, RATE)
    filled(capture, 10_000)
    capture.meanwhile, capture.times = 1_001, 99
    with pytest.raises(SmartDJError) as refused:
        capture.last(seconds=2.0)
    assert refused.value.code is ErrorCode.AUDIO_UNREADABLE
    assert capture.times == 96


def test_a_thread_that_writes_all_the_time_never_tears_what_is_read() -> None:
    capture = RollingCapture(0.05, 2, 48_000)
    leave = threading.Event()

    def write() -> None:
        at = 0
        while not leave.is_set():
            capture.write(counted(at % (1 << 20), 480), at)
            at += 480

    writer = threading.Thread(target=write)
    writer.start()
    read = 0
    try:
        while capture.recorded < capture.length:
            pass
        for _ in range(300):
            try:
                samples = capture.last(seconds=0.05).samples
            except SmartDJError as error:
                assert error.code is ErrorCode.AUDIO_UNREADABLE  # noqa: PT017
                continue
            read += 1
            assert np.isin(np.diff(samples[0]), (1.0, 1.0 - (1 << 20))).all()  # or where the counter begins again
            assert np.array_equal(samples[0], -samples[1])
    finally:
        leave.set()
        writer.join()
    assert read
