"""The part of a recording that stands for its sound: where it is loudest, or, of what goes on, steadiest.

Files of hours are fine: levels are taken in one pass in small blocks, and only the part itself is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr

from smartdj_agent.errors import ErrorCode, SmartDJError

STEP_S: Final = 0.1
"""Resolution of levels."""
SCAN_S: Final = 1800.0
"""How much of a long file is looked at."""
QUIET_DB: Final = -45.0
"""Below the loudest tenth of a second by this much, nothing is going on."""
STEADY_DB: Final = 15.0
"""Spread of levels (10 % to 90 %) below which a sound goes on rather than happens.

None of the starter library's sounds that happen is taken for one that goes on."""
STEADY_S: Final = 2.0
"""Shortest sound that can be said to go on."""
EVENT_S: Final = 10.0
"""Longest part that is taken of a sound that happens."""
GAP_S: Final = 0.8
"""Quiet that parts two events."""
FADE_IN_S: Final = 0.01
FADE_OUT_S: Final = 0.15


@dataclass(frozen=True)
class Levels:
    """How loud a file is, over time.

    Attributes
    ----------
    decibels
        RMS per `STEP_S`, dB relative to full scale, shape (n,); −120 for silence.
    duration_s
        Of the whole file.
    """

    decibels: np.ndarray
    duration_s: float

    @property
    def audible(self) -> np.ndarray:
        """Where something is going on, shape (n,), bool."""
        loudest = float(self.decibels.max(initial=-120.0))
        return (self.decibels > loudest + QUIET_DB) & (self.decibels > -100.0)

    @property
    def steady(self) -> bool:
        """Whether the sound goes on, so that it may be repeated."""
        heard = np.flatnonzero(self.audible)
        if len(heard) == 0:
            return False
        inner = self.decibels[heard[0] : heard[-1] + 1]
        if len(inner) * STEP_S < STEADY_S:
            return False
        inner = inner[1:-1] if len(inner) > 4 else inner
        low, high = np.quantile(inner, [0.1, 0.9])
        return bool(high - low < STEADY_DB)


def measure_levels(sound: soundfile.SoundFile) -> Levels:
    """Take the levels of an opened file, at most `SCAN_S` of it, in blocks.

    Raises
    ------
    soundfile.LibsndfileError
        If it can't be decoded.
    ValueError
        If it holds samples that are no numbers.
    """
    rate = int(sound.samplerate)
    step = max(1, round(rate * STEP_S))
    left = round(SCAN_S / STEP_S)
    found: list[np.ndarray] = []
    while left > 0:
        block = sound.read(step * min(left, 100), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise ValueError("it holds samples that are no numbers")
        power = np.square(block, dtype=np.float32).mean(axis=1)
        whole = len(power) // step * step
        means = power[:whole].reshape(-1, step).mean(axis=1)
        if whole < len(power):
            means = np.append(means, power[whole:].mean())
        found.append(means)
        left -= len(means)
    power = np.concatenate(found) if found else np.zeros(0, np.float32)
    return Levels(10 * np.log10(power + 1e-12), sound.frames / rate)


def choose_region(levels: Levels, longest_s: float, *, continuous: bool) -> tuple[float, float]:
    """Choose the part of a file that stands for its sound.

    Parameters
    ----------
    longest_s
        Most that is of use, seconds.
    continuous
        Of a sound that goes on, the steadiest among the loud stretches; of one that happens, the loudest event with
        its beginning and its end.

    Returns
    -------
    tuple
        Begin and end, seconds. Quiet at both ends is left out.
    """
    decibels, audible = levels.decibels, levels.audible
    heard = np.flatnonzero(audible)
    if len(heard) == 0:
        return 0.0, min(levels.duration_s, longest_s)
    first, last = int(heard[0]), int(heard[-1]) + 1
    if not continuous:
        longest_s = min(longest_s, EVENT_S)
    count = max(1, int(longest_s / STEP_S))
    if last - first > count:
        first, last = (_steadiest if continuous else _loudest_event)(decibels, audible, first, last, count)
    # A tenth of a second more than was heard, so that neither attack nor decay is cut.
    begin = max(0.0, (first - 1) * STEP_S)
    return begin, min(levels.duration_s, max(begin + STEP_S, (last + 1) * STEP_S))


def _steadiest(decibels: np.ndarray, audible: np.ndarray, first: int, last: int, count: int) -> tuple[int, int]:
    inner = decibels[first:last].astype(np.float64)
    sums = np.cumsum(np.concatenate([[0.0], inner]))
    squares = np.cumsum(np.concatenate([[0.0], inner**2]))
    mean = (sums[count:] - sums[:-count]) / count
    deviation = np.sqrt(np.maximum(0.0, (squares[count:] - squares[:-count]) / count - mean**2))
    cost = np.where(mean >= mean.max() - 6.0, deviation, np.inf)
    start = first + int(np.argmin(cost))
    return start, start + count


def _loudest_event(decibels: np.ndarray, audible: np.ndarray, first: int, last: int, count: int) -> tuple[int, int]:
    peak = int(np.argmax(decibels))
    gap = round(GAP_S / STEP_S)
    start, stop = peak, peak + 1
    while start > first and audible[max(first, start - gap) : start].any() and peak - start < count // 2:
        start -= 1
    while stop < last and audible[stop : stop + gap].any() and stop - start < count:
        stop += 1
    return start, stop


def soundfile_name(path: Path) -> bytes | str:
    """A path as libsndfile takes it: on POSIX, names need not be text."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def read_excerpt(
    path: Path, sample_rate: int, longest_s: float, *, continuous: bool | None = None
) -> tuple[np.ndarray, bool, tuple[float, float]]:
    """Read the part of a file that stands for its sound.

    Parameters
    ----------
    sample_rate
        Wanted, Hz.
    longest_s
        Most that is of use, seconds.
    continuous
        Whether the sound goes on; None to go by its levels.

    Returns
    -------
    samples, continuous, span
        Mono float32 (n,), faded at its ends where it was cut; whether it goes on; what was taken, seconds.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND``, ``AUDIO_UNREADABLE``, ``AUDIO_EMPTY`` or ``AUDIO_NOT_FINITE``.
    """
    mend = "Run `smartdj library index` on its folder again, or replace the file."
    if not path.is_file():
        raise SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"The library sound {path} is missing.", mend)
    try:
        with soundfile.SoundFile(soundfile_name(path)) as sound:
            rate = int(sound.samplerate)
            if sound.frames / rate <= min(longest_s, EVENT_S) and continuous is not None:
                span = (0.0, sound.frames / rate)
            else:
                levels = measure_levels(sound)
                if continuous is None:
                    continuous = levels.steady
                span = choose_region(levels, longest_s, continuous=continuous)
            start = round(span[0] * rate)
            sound.seek(start)
            samples = sound.read(round(span[1] * rate) - start, dtype="float32", always_2d=True)
            whole = start == 0 and len(samples) >= sound.frames
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        what = getattr(error, "error_string", str(error))
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE, f"The library sound {path} can't be read: {what}", mend
        ) from error
    except ValueError as error:
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FINITE, f"The library sound {path} holds invalid samples.", mend
        ) from error
    if len(samples) == 0:
        raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"The library sound {path} is empty.", mend)
    if not np.isfinite(samples).all():
        raise SmartDJError(ErrorCode.AUDIO_NOT_FINITE, f"The library sound {path} holds invalid samples.", mend)
    mono = to_mono(samples.T)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="VHQ")
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    return (mono if whole else faded(mono, sample_rate)), continuous, span


def to_mono(samples: np.ndarray) -> np.ndarray:
    """Fold channels (c, n) into one (n,): their mean, or the loudest where they would cancel each other."""
    mean = samples.mean(axis=0)
    if len(samples) == 1:
        return mean
    loudness = np.sqrt(np.square(samples).mean(axis=1))
    if float(np.sqrt(np.square(mean).mean())) < 0.35 * float(loudness.max()):
        return np.ascontiguousarray(samples[int(np.argmax(loudness))])
    return mean


def faded(mono: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fade both ends of (n,), so that a cut isn't heard."""
    out = mono.copy()
    begin = min(round(FADE_IN_S * sample_rate), len(out) // 4)
    end = min(round(FADE_OUT_S * sample_rate), len(out) // 4)
    if begin:
        out[:begin] *= np.linspace(0, 1, begin, dtype=np.float32)
    if end:
        out[-end:] *= np.linspace(1, 0, end, dtype=np.float32)
    return out
