"""The last seconds of an input, always there: a ring that the audio callback fills and that anybody may read.

One writer (the callback), any number of readers, no lock. A reader copies, then looks whether the writer came around in
the meantime, and copies again if so.
"""

from __future__ import annotations

import numpy as np

from smartdj_agent.audio import Audio, AudioFormat
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.live.tempo import BeatGrid

MAX_SECONDS = 600.0
"""Longest recording that is kept, seconds: at 48 kHz stereo 230 MB."""

_SLACK_S = 1.0
"""Seconds the ring is longer than what is read from it: so long a reader may take before the writer reaches it."""
_ATTEMPTS = 3
_PIECE = 1 << 13
"""Frames copied at a time: the copying of a minute at once keeps the interpreter's lock for milliseconds."""


class RollingCapture:
    """Ring buffer of the last seconds.

    Parameters
    ----------
    seconds
        How much can be read back, above 0, to `MAX_SECONDS`.
    channels
        Of the input.
    sample_rate
        Hz.

    Attributes
    ----------
    overruns
        How often input was lost on the way (the device says so); what is read across such a place is a splice.

    Raises
    ------
    SmartDJError
        STEP_RANGE, field ``seconds``.
    """

    def __init__(self, seconds: float, channels: int, sample_rate: int) -> None:
        if not 0.0 < seconds <= MAX_SECONDS:
            raise SmartDJError(
                ErrorCode.STEP_RANGE,
                f"the last {seconds:g} seconds can't be kept",
                f"use up to {MAX_SECONDS:g} seconds",
                field="seconds",
            )
        self.sample_rate = sample_rate
        self.channels = channels
        self.length = round(seconds * sample_rate)
        self.overruns = 0
        # Zeros written now: the callback must not be the first to touch the memory's pages.
        self._ring = np.full((self.length + round(_SLACK_S * sample_rate), channels), 0.0, np.float32)
        self._written = 0
        self._end = 0
        self._offset = 0

    @property
    def recorded(self) -> int:
        """Frames that can be read back."""
        return min(self._written, self.length)

    def write(self, block: np.ndarray, frame: int) -> None:
        """Append a block; called by the audio callback only.

        Parameters
        ----------
        block
            (frames, channels) float32; other numbers of channels: a single one is given to all, surplus ones are left
            out, missing ones are silent.
        frame
            The engine's frame that was heard while the block's first frame was recorded.
        """
        ring = self._ring
        size = ring.shape[0]
        count = block.shape[0]
        skipped = max(0, count - size)
        start = self._written + skipped
        end = self._written + count
        self._end = end  # before the samples change: readers take what lies in the writer's way as lost
        self._offset = frame - self._written
        at = start % size
        first = min(end - start, size - at)
        self._put(ring[at : at + first], block[skipped : skipped + first])
        rest = end - start - first
        if rest:
            self._put(ring[:rest], block[skipped + first :])
        self._written = end

    def _put(self, where: np.ndarray, block: np.ndarray) -> None:
        given = block.shape[1]
        if given in (1, self.channels):
            where[...] = block
            return
        both = min(given, self.channels)
        where[:, :both] = block[:, :both]
        where[:, both:] = 0.0

    def last(self, *, seconds: float | None = None, bars: int | None = None, grid: BeatGrid | None = None) -> Audio:
        """The last seconds up to now, or the last whole bars.

        Parameters
        ----------
        seconds
            How much; less where less has been recorded.
        bars
            How many; the last of them is the last one that is complete, so the end lies up to a bar back.
        grid
            Where the bars lie; needed with `bars`. Bars are taken as this grid has them, also where the tempo was
            another one then.

        Returns
        -------
        Audio
            float32, (channels, frames), to be stored as float WAV.

        Raises
        ------
        SmartDJError
            USAGE unless exactly one of seconds and bars is given; STEP_RANGE for 0 or more than the ring holds;
            AUDIO_EMPTY where nothing, or not so many bars, have been recorded yet; AUDIO_UNREADABLE where the writer
            was faster than the reader three times.
        """
        if (seconds is None) == (bars is None):
            raise SmartDJError(ErrorCode.USAGE, "say either how many seconds or how many bars", "for example bars 8")
        for _ in range(_ATTEMPTS):
            written, offset = self._written, self._offset
            if seconds is not None:
                start, end = self._seconds(seconds, written)
            else:
                assert bars is not None
                if grid is None:
                    raise ValueError("bars need a grid")
                start, end = self._bars(bars, grid, written, offset)
            samples = self._copy(start, end)
            if start >= self._end - self._ring.shape[0]:
                return Audio(samples, self.sample_rate, AudioFormat("WAV", "FLOAT"))
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE,
            "the recording was written over while it was read",
            "the computer is too busy: try again, or ask for less",
        )

    def _seconds(self, seconds: float, written: int) -> tuple[int, int]:
        wanted = round(seconds * self.sample_rate) if np.isfinite(seconds) else -1
        if not 0 < wanted <= self.length:
            raise self._out_of_range("seconds", f"{seconds:g} seconds")
        if not written:
            raise SmartDJError(ErrorCode.AUDIO_EMPTY, "nothing has been recorded yet", "check that an input is chosen")
        return max(0, written - wanted), written

    def _bars(self, bars: int, grid: BeatGrid, written: int, offset: int) -> tuple[int, int]:
        rate = self.sample_rate
        if bars < 1:
            raise self._out_of_range("bars", f"{bars} bars")
        end_frame = grid.last_frame("bar", written + offset, rate)
        last_bar = round(grid.beat_at(end_frame / rate) / grid.beats_per_bar)
        start = grid.frame_of((last_bar - bars) * grid.beats_per_bar, rate) - offset
        end = end_frame - offset
        if end - start > self.length:
            raise self._out_of_range("bars", f"{bars} bars at {grid.bpm:g} beats per minute")
        if start < max(0, written - self._ring.shape[0]):
            bar = 60.0 / grid.bpm * grid.beats_per_bar * rate
            there = max(0, int((end - max(0, written - self.length)) / bar))
            raise SmartDJError(
                ErrorCode.AUDIO_EMPTY,
                f"only {there} whole {'bar has' if there == 1 else 'bars have'} been recorded so far, not {bars}",
                "play on, or ask for fewer",
                field="bars",
            )
        return start, end

    def _out_of_range(self, field: str, what: str) -> SmartDJError:
        return SmartDJError(
            ErrorCode.STEP_RANGE,
            f"the last {what} can't be given",
            f"what is kept is {self.length / self.sample_rate:g} seconds",
            field=field,
        )

    def _copy(self, start: int, end: int) -> np.ndarray:
        """(channels, end − start)."""
        ring = self._ring
        size = ring.shape[0]
        out = np.empty((self.channels, end - start), np.float32)
        done = 0
        while done < end - start:
            at = (start + done) % size
            count = min(end - start - done, size - at, _PIECE)
            out[:, done : done + count] = ring[at : at + count].T
            done += count
        return out
