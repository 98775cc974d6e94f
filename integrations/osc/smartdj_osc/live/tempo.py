"""Where the beats and bars lie: set, tapped, or taken from a session such as Ableton Link. Pure, no clock of its own.

Times are seconds of the engine's clock (frames that were heard, divided by the sample rate): `LiveEngine.now` says what
time it is, `LiveEngine.at` turns a time of `time.monotonic` into it. So a beat is a frame, and a loop of eight bars
stays eight bars long however far the sound card's crystal is from the computer's.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from smartdj_agent.errors import ErrorCode, SmartDJError

Unit = Literal["beat", "bar"]

MIN_BPM = 20.0
MAX_BPM = 999.0
MAX_BEATS_PER_BAR = 64

_TAPS = 8
"""Taps that count; older ones would make the grid sluggish."""
_PAUSE_BEATS = 2.5
"""A pause of more beats than this ends a series of taps; up to here a tap was missed."""
_FIRST_PAUSE_S = 60.0 / MIN_BPM
"""A second tap later than this begins a new series."""
_SAME_TIME = 1e-9
"""Beats by which a time may lie behind a beat and still be on it: rounding."""


@dataclass(frozen=True)
class BeatGrid:
    """Beats in time: straight, endless in both directions.

    Attributes
    ----------
    bpm
        Beats per minute, `MIN_BPM` to `MAX_BPM`.
    time_s
        A time, seconds.
    beat
        The beat at that time; beat 0 is the first of a bar.
    beats_per_bar
        1 to `MAX_BEATS_PER_BAR`.
    """

    bpm: float = 120.0
    time_s: float = 0.0
    beat: float = 0.0
    beats_per_bar: int = 4

    def beat_at(self, time_s: float) -> float:
        """Beats since beat 0, with their fraction."""
        return self.beat + (time_s - self.time_s) * self.bpm / 60.0

    def time_of(self, beat: float) -> float:
        """When a beat is, seconds."""
        return self.time_s + (beat - self.beat) * 60.0 / self.bpm

    def bar_phase(self, time_s: float) -> float:
        """How far the bar has come, 0 to 1 (exclusive)."""
        return (self.beat_at(time_s) / self.beats_per_bar) % 1.0

    def beats_in(self, unit: Unit) -> int:
        """Beats that a beat or a bar has."""
        return 1 if unit == "beat" else self.beats_per_bar

    def next(self, unit: Unit, time_s: float) -> float:
        """When the next beat or bar begins, seconds; the time itself where one begins right then."""
        length = self.beats_in(unit)
        return self.time_of(math.ceil(self.beat_at(time_s) / length - _SAME_TIME) * length)

    def frame_of(self, beat: float, sample_rate: int) -> int:
        """The frame nearest to a beat."""
        return round(self.time_of(beat) * sample_rate)

    def next_frame(self, unit: Unit, frame: int, sample_rate: int) -> int:
        """The first frame, from `frame` on, on which a beat or bar begins."""
        length = self.beats_in(unit)
        count = math.floor(self.beat_at((frame - 1) / sample_rate) / length)
        while (found := self.frame_of(count * length, sample_rate)) < frame:
            count += 1
        return found

    def last_frame(self, unit: Unit, frame: int, sample_rate: int) -> int:
        """The last frame, up to `frame`, on which a beat or bar begins."""
        length = self.beats_in(unit)
        count = math.ceil(self.beat_at((frame + 1) / sample_rate) / length)
        while (found := self.frame_of(count * length, sample_rate)) > frame:
            count -= 1
        return found


class BeatSource(Protocol):
    """A session that others keep time in. An extra wraps Ableton Link (aalink is GPL, so nothing here imports it)."""

    def beat_now(self) -> tuple[float, float]:
        """Tempo in beats per minute, and the beat (with its fraction; 0 is the first of a bar) right now."""
        ...


class Tempo:
    """The grid that holds now. Changing it takes a lock, reading (`grid`) doesn't.

    Parameters
    ----------
    bpm
        Beats per minute, `MIN_BPM` to `MAX_BPM`.
    beats_per_bar
        1 to `MAX_BEATS_PER_BAR`.

    Attributes
    ----------
    grid
        The grid; replaced as a whole, so a reader sees either the old or the new one.

    Raises
    ------
    SmartDJError
        STEP_RANGE, field ``bpm`` or ``beats_per_bar``.
    """

    def __init__(self, bpm: float = 120.0, beats_per_bar: int = 4) -> None:
        if not 1 <= beats_per_bar <= MAX_BEATS_PER_BAR:
            raise SmartDJError(
                ErrorCode.STEP_RANGE,
                f"a bar can't have {beats_per_bar} beats",
                f"use 1 to {MAX_BEATS_PER_BAR}",
                field="beats_per_bar",
            )
        self.grid = BeatGrid(_checked(bpm), 0.0, 0.0, beats_per_bar)
        self._taps: list[tuple[int, float]] = []
        self._changing = threading.Lock()

    @property
    def bpm(self) -> float:
        """Beats per minute."""
        return self.grid.bpm

    @property
    def beats_per_bar(self) -> int:
        """Beats in a bar."""
        return self.grid.beats_per_bar

    def set(self, bpm: float, now: float) -> None:
        """Change the tempo; the present beat goes on from where it is.

        Raises
        ------
        SmartDJError
            STEP_RANGE, field ``bpm``.
        """
        checked = _checked(bpm)
        with self._changing:
            grid = self.grid
            self.grid = replace(grid, bpm=checked, time_s=now, beat=grid.beat_at(now))
            self._taps.clear()

    def downbeat(self, now: float) -> None:
        """Say that a bar begins now."""
        with self._changing:
            self.grid = replace(self.grid, time_s=now, beat=0.0)
            self._taps.clear()

    def tap(self, now: float) -> float | None:
        """Tap along: the first tap of a series is the first beat of a bar, from the second on the tempo follows.

        The grid is the straight line through the last 8 taps. A missed tap is bridged; a pause of more than 2.5 beats
        begins a new series, and so does a tap that comes far too early (less than half a beat after the one before).

        Parameters
        ----------
        now
            When it was tapped, seconds.

        Returns
        -------
        float or None
            The tempo now, beats per minute; None after the first tap of a series, which changes nothing, and for a
            bounce (two taps closer than a beat at `MAX_BPM`), which is ignored.
        """
        with self._changing:
            taps = self._taps
            if not taps:
                taps.append((0, now))
                return None
            number, before = taps[-1]
            gap = now - before
            if 0.0 <= gap < 60.0 / MAX_BPM:
                return None
            beats = 1
            if len(taps) > 1:
                beat_s = 60.0 / self.grid.bpm
                beats = round(gap / beat_s)
                begins_anew = gap < 0.5 * beat_s or gap > _PAUSE_BEATS * beat_s
            else:
                begins_anew = not 0.0 < gap <= _FIRST_PAUSE_S
            if begins_anew:
                self._taps = [(0, now)]
                return None
            taps.append((number + max(beats, 1), now))
            del taps[:-_TAPS]
            bpm, time_s, beat = _line(taps)
            self.grid = replace(self.grid, bpm=bpm, time_s=time_s, beat=beat)
            return bpm

    def follow(self, bpm: float, beat: float, now: float, *, tolerance_s: float = 0.002) -> bool:
        """Take tempo and beat over from a session; call it every 100 ms or so with what `BeatSource.beat_now` says.

        Differences of the phase below the tolerance are the jitter of asking, and are let pass, so that loops aren't
        moved about by it.

        Parameters
        ----------
        bpm, beat
            Of the session.
        now
            When it was asked, seconds.
        tolerance_s
            Seconds.

        Returns
        -------
        bool
            Whether the grid changed.

        Raises
        ------
        SmartDJError
            STEP_RANGE, field ``bpm``.
        """
        checked = _checked(bpm)
        with self._changing:
            grid = self.grid
            # Whole bars don't matter: sessions count beats from their own beginning.
            bar = grid.beats_per_bar
            off = (beat - grid.beat_at(now) + bar / 2) % bar - bar / 2
            if abs(checked - grid.bpm) < 1e-6 and abs(off) * 60.0 / checked <= tolerance_s:
                return False
            self.grid = replace(grid, bpm=checked, time_s=now, beat=beat)
            self._taps.clear()
            return True

    def beat_at(self, now: float) -> float:
        """Beats since beat 0, with their fraction."""
        return self.grid.beat_at(now)

    def bar_phase(self, now: float) -> float:
        """How far the bar has come, 0 to 1 (exclusive)."""
        return self.grid.bar_phase(now)

    def next(self, unit: Unit, now: float) -> float:
        """When the next beat or bar begins, seconds; now where one begins right now."""
        return self.grid.next(unit, now)


def _checked(bpm: float) -> float:
    if not MIN_BPM <= bpm <= MAX_BPM:  # also refuses NaN
        raise SmartDJError(
            ErrorCode.STEP_RANGE,
            f"a tempo of {bpm:g} beats per minute is out of range",
            f"use {MIN_BPM:g} to {MAX_BPM:g}",
            field="bpm",
        )
    return float(bpm)


def _line(taps: list[tuple[int, float]]) -> tuple[float, float, float]:
    """Tempo, and a time with its beat, of the straight line nearest to the taps (least squares)."""
    mean_beat = sum(beat for beat, _ in taps) / len(taps)
    mean_s = sum(time_s for _, time_s in taps) / len(taps)
    spread = sum((beat - mean_beat) ** 2 for beat, _ in taps)
    beat_s = sum((beat - mean_beat) * (time_s - mean_s) for beat, time_s in taps) / spread
    return min(max(60.0 / beat_s, MIN_BPM), MAX_BPM), mean_s, mean_beat
