"""Exact signal processing of each operation on one sound (a stem), at the recording's own rate.

Nothing is normalised and nothing is clipped: a stem in, the changed stem out, same shape, float32 (or float64
where that was given). All functions are pure; those that use chance take a seed and return the same samples
for the same seed.

Channels. Level, shift, timbre and reverberation work on any number of them. Directions need two ears: with
one channel, changing a direction changes nothing (`supports_direction`); with more than two, the first two
(front left and right in every common order) are the ears and the others stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts load when they are first used: signal alone takes half a second

from smartdj_agent.spatial import delayed, place, unplace
from smartdj_agent.steps import Operation, Step, Timbre, rt60_s

ADDED_PEAK = 0.5
"""Peak of an added sound at 0 dB, before it is placed: what the published demos measure."""

LOOP_FADE_S = 0.05
"""Cross-fade between two rounds of an added sound that is looped, seconds."""

WET_DB = (-12.0, 0.0)
"""Energy of the reverberation relative to the direct sound's, at level 1 and at level 10 (linear in between),
dB."""


def _as_float(samples: np.ndarray) -> np.ndarray:
    array = np.asarray(samples)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def amplitude(gain_db: float) -> float:
    """Factor of a gain in dB: 10^(gain_db/20)."""
    return float(10.0 ** (gain_db / 20.0))


def supports_direction(channels: int) -> bool:
    """Whether a recording of so many channels has directions at all (two ears or more)."""
    return channels >= 2


def shifted(stem: np.ndarray, shift_s: float, sample_rate: int) -> np.ndarray:
    """Move a sound in time by whole samples, so that every remaining sample is the same bits.

    Parameters
    ----------
    stem
        (channels, n).
    shift_s
        Seconds, positive is later; rounded to whole samples.
    sample_rate
        Hz.

    Returns
    -------
    np.ndarray
        (channels, n): what leaves the recording is lost, what enters is silence.
    """
    source = _as_float(stem)
    by = round(shift_s * sample_rate)
    return np.stack([delayed(channel, by) for channel in source]) if len(source) else source.copy()


def redirected(stem: np.ndarray, to_azimuth_deg: float, sample_rate: int) -> np.ndarray:
    """Move a sound to another direction: recover the source (`unplace`), place it anew (`place`).

    The source is the louder ear, aligned to the earlier one, so the result is exact for a sound placed by the
    rule and keeps colour and level of any other; its width and the room in the weaker ear are lost.

    Parameters
    ----------
    stem
        (channels, n); one channel comes back unchanged, from the third on channels are kept as they are.
    to_azimuth_deg
        −90 (left) to 90 (right).
    sample_rate
        Hz.

    Returns
    -------
    np.ndarray
        (channels, n).

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.
    """
    out = _as_float(stem).copy()
    if supports_direction(out.shape[0]) and out[:2].any():
        source, _ = unplace(out[:2], sample_rate)
        out[:2] = place(source, to_azimuth_deg, sample_rate)
    return out


@dataclass(frozen=True)
class _Band:
    """A part of the spectrum of reverberation: lower edge in Hz, decay time relative to RT60, level in dB."""

    from_hz: float
    decay: float
    level_db: float


_BANDS = (_Band(0.0, 1.1, -3.0), _Band(250.0, 1.0, 0.0), _Band(2000.0, 0.9, -6.0), _Band(5000.0, 0.7, -14.0))
_EARLY_S = (0.006, 0.055)
_EARLY_COUNT = 9


def room_response(rt60: float, sample_rate: int, channels: int, seed: int) -> np.ndarray:
    """Synthetic reverberation of a room, without the direct sound.

    Nine early reflections per ear between 6 and 55 ms, at different times in each ear, then noise that is
    independent per ear and decays exponentially: in the middle band (250–2000 Hz) by 60 dB in `rt60`, below
    10 % slower, above 2 kHz 10 % and above 5 kHz 30 % faster, as air and furniture do. The bands' levels fall
    towards high frequencies.

    Parameters
    ----------
    rt60
        Reverberation time, seconds.
    sample_rate
        Hz.
    channels
        Number of ears.
    seed
        The same seed gives the same room.

    Returns
    -------
    np.ndarray
        (channels, m) float64, m = 1.3·rt60 seconds; each ear has the energy 1.

    Notes
    -----
    Exponentially decaying noise as the model of late reverberation: Moorer 1979; Polack 1988.
    """
    rng = np.random.default_rng(seed)
    length = max(2, round(1.3 * rt60 * sample_rate))
    size = int(scipy.fft.next_fast_len(length, real=True))
    t = np.arange(length) / sample_rate
    hz = scipy.fft.rfftfreq(size, 1.0 / sample_rate)
    onset = np.clip((t - _EARLY_S[0]) / (_EARLY_S[1] - _EARLY_S[0]), 0.0, 1.0)
    spectrum = scipy.fft.rfft(rng.standard_normal((channels, length)), size, axis=-1)
    response = np.zeros((channels, length))
    for index, band in enumerate(_BANDS):
        mask = _above(hz, band.from_hz)
        if index + 1 < len(_BANDS):
            mask = np.sqrt(np.maximum(mask**2 - _above(hz, _BANDS[index + 1].from_hz) ** 2, 0.0))
        noise = scipy.fft.irfft(spectrum * (mask * amplitude(band.level_db)), size, axis=-1)[:, :length]
        response += noise * np.exp(-np.log(1000.0) * t / (rt60 * band.decay))
    response *= onset
    tail = np.sqrt(np.sum(response**2, axis=1))
    for ear in range(channels):
        times = np.sort(rng.uniform(*_EARLY_S, _EARLY_COUNT))
        signs = rng.choice((-1.0, 1.0), _EARLY_COUNT)
        # Later reflections have travelled further; together they have a third of the tail's energy.
        gains = signs * _EARLY_S[0] / times
        gains *= tail[ear] * np.sqrt(1.0 / 3.0) / np.sqrt(np.sum(gains**2))
        at = np.minimum(np.round(times * sample_rate).astype(int), length - 1)
        np.add.at(response[ear], at, gains)
    return response / np.maximum(np.sqrt(np.sum(response**2, axis=1, keepdims=True)), 1e-30)


def _above(hz: np.ndarray, edge_hz: float) -> np.ndarray:
    """Magnitude that rises from 0 to 1 within half an octave on either side of an edge."""
    if edge_hz <= 0.0:
        return np.ones_like(hz)
    octaves = np.log2(np.maximum(hz, 1e-3) / edge_hz)
    return np.asarray(np.sin(0.5 * np.pi * np.clip(octaves + 0.5, 0.0, 1.0)))


def wet_gain(reverb_level: int) -> float:
    """Amplitude of the reverberation relative to the direct sound (see `WET_DB`)."""
    return amplitude(WET_DB[0] + (WET_DB[1] - WET_DB[0]) * (reverb_level - 1) / 9.0)


def reverberated(stem: np.ndarray, reverb_level: int, sample_rate: int, *, seed: int = 0) -> np.ndarray:
    """Put a sound into a room: the sound as it is, plus what the room answers.

    The strongest channel excites the room, whose answer is equally strong and independent in every channel (a
    diffuse field has no direction). `rt60_s` maps the level to the reverberation time, `wet_gain` to the
    amount. Before the sound begins and after the answer has ended, every sample is what it was.

    Parameters
    ----------
    stem
        (channels, n).
    reverb_level
        1 to 10: RT60 0.3 to 1.2 s, reverberation −12 to 0 dB.
    sample_rate
        Hz.
    seed
        Chooses the room.

    Returns
    -------
    np.ndarray
        (channels, n): the tail stops at the end of the recording.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for another level.
    """
    source = _as_float(stem)
    time_s = rt60_s(reverb_level)
    out = source.copy()
    if source.size == 0 or not source.any():
        return out
    n = source.shape[1]
    strongest = source[int(np.argmax([float(np.dot(channel, channel)) for channel in source]))]
    heard = np.flatnonzero(strongest)
    # Only the sounding part is convolved: the rounding noise of a transform shall not reach into silence.
    begin, end = int(heard[0]), int(heard[-1]) + 1
    response = room_response(time_s, sample_rate, source.shape[0], seed) * wet_gain(reverb_level)
    for channel, answer in zip(out, response.astype(source.dtype), strict=True):
        wet = scipy.signal.oaconvolve(strongest[begin:end], answer)[: n - begin]
        channel[begin : begin + wet.size] += wet
    return out


Shape = Literal["low shelf", "high shelf", "low pass"]


@dataclass(frozen=True)
class Section:
    """One second-order filter of a timbre.

    Attributes
    ----------
    shape
        Its kind.
    frequency_hz
        Corner of a low pass, midpoint of a shelf's slope.
    gain_db
        Gain of the shelf; 0 for a low pass.
    q
        Quality; 0.7071 gives the steepest slope without overshoot.
    """

    shape: Shape
    frequency_hz: float
    gain_db: float = 0.0
    q: float = 0.5**0.5


TIMBRES: dict[Timbre, tuple[Section, ...]] = {
    Timbre.BRIGHT: (Section("high shelf", 3000.0, 8.0),),
    Timbre.DARK: (Section("high shelf", 2000.0, -12.0),),
    Timbre.WARM: (Section("low shelf", 300.0, 6.0), Section("high shelf", 4000.0, -4.0)),
    Timbre.COLD: (Section("low shelf", 300.0, -8.0), Section("high shelf", 4000.0, 4.0)),
    # Two sections with these qualities are a fourth-order Butterworth filter: −24 dB per octave.
    Timbre.MUFFLED: (Section("low pass", 900.0, q=0.5412), Section("low pass", 900.0, q=1.3066)),
}
"""What each timbre does (ours; the paper doesn't define them)."""


def timbre_sections(timbre: Timbre, sample_rate: int) -> np.ndarray:
    """Filter coefficients of a timbre.

    Parameters
    ----------
    timbre
        A key of `TIMBRES`.
    sample_rate
        Hz. Sections above 0.45 of it are left out: there is nothing for them to change.

    Returns
    -------
    np.ndarray
        (sections, 6) second-order sections as scipy takes them; (0, 6) where none remains.

    Notes
    -----
    Formulas: Robert Bristow-Johnson, "Audio EQ Cookbook" (W3C note). Bilinear designs of stable minimum-phase
    prototypes: all poles lie inside the unit circle, all zeros inside or (low pass, at half the sample rate)
    on it. Gain is exactly one at 0 Hz for high shelves and low passes, and at half the sample rate for low
    shelves.
    """
    rows = []
    for section in TIMBRES[Timbre(timbre)]:
        if section.frequency_hz >= 0.45 * sample_rate:
            continue
        omega = 2.0 * np.pi * section.frequency_hz / sample_rate
        cosine, alpha = np.cos(omega), np.sin(omega) / (2.0 * section.q)
        if section.shape == "low pass":
            b = np.array([(1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2])
            a = np.array([1 + alpha, -2 * cosine, 1 - alpha])
        else:
            root = 10.0 ** (section.gain_db / 40.0)
            side = 2.0 * np.sqrt(root) * alpha
            sign = 1.0 if section.shape == "low shelf" else -1.0  # the two shelves mirror each other's spectrum
            up, down = root + 1, root - 1
            b = root * np.array(
                [
                    up - sign * down * cosine + side,
                    sign * 2 * (down - sign * up * cosine),
                    up - sign * down * cosine - side,
                ]
            )
            a = np.array(
                [
                    up + sign * down * cosine + side,
                    -sign * 2 * (down + sign * up * cosine),
                    up + sign * down * cosine - side,
                ]
            )
        rows.append(np.concatenate([b, a]) / a[0])
    return np.array(rows).reshape(-1, 6)


def filtered(stem: np.ndarray, timbre: Timbre, sample_rate: int) -> np.ndarray:
    """Change the colour of a sound (see `TIMBRES`).

    Parameters
    ----------
    stem
        (channels, n).
    timbre
        ``bright``: highs (3 kHz) +8 dB. ``dark``: highs (2 kHz) −12 dB. ``warm``: lows (300 Hz) +6 dB, highs
        (4 kHz) −4 dB. ``cold``: lows −8 dB, highs +4 dB. ``muffled``: low pass at 900 Hz, 24 dB per octave.
    sample_rate
        Hz.

    Returns
    -------
    np.ndarray
        (channels, n); minimum phase, so the sound does not start later.
    """
    source = _as_float(stem)
    sections = timbre_sections(timbre, sample_rate)
    if len(sections) == 0 or source.size == 0:
        return source.copy()
    return np.asarray(scipy.signal.sosfilt(sections, source, axis=-1), dtype=source.dtype)


def apply_to_stem(stem: np.ndarray, step: Step, sample_rate: int, *, seed: int = 0) -> np.ndarray:
    """Carry out one step on the sound that it names.

    Parameters
    ----------
    stem
        (channels, n), the sound alone.
    step
        Any operation but ``add``, which has no stem (`render_added`).
    sample_rate
        Hz.
    seed
        Chooses the room of a reverb.

    Returns
    -------
    np.ndarray
        (channels, n). ``remove`` gives silence, ``extract`` the stem itself (and the caller drops the rest).
    """
    source = _as_float(stem)
    match step.operation:
        case Operation.REMOVE:
            return np.zeros_like(source)
        case Operation.EXTRACT:
            return source.copy()
        case Operation.VOLUME:
            return source * source.dtype.type(amplitude(step.gain_db or 0.0))
        case Operation.DIRECTION:
            return redirected(source, step.to_azimuth_deg or 0.0, sample_rate)
        case Operation.SHIFT:
            return shifted(source, step.shift_s or 0.0, sample_rate)
        case Operation.REVERB:
            assert step.reverb_level is not None  # the table gives it a default
            return reverberated(source, step.reverb_level, sample_rate, seed=seed)
        case Operation.TIMBRE:
            assert step.timbre is not None  # the table requires it
            return filtered(source, step.timbre, sample_rate)
        case Operation.ADD:
            raise ValueError("add has no stem; use render_added")


def render_added(
    mono: np.ndarray,
    step: Step,
    sample_rate: int,
    n_samples: int,
    *,
    onset_s: float = 0.0,
    loop: bool = False,
    channels: int = 2,
) -> np.ndarray:
    """Make the track of an added sound: onset, length, level, place.

    Parameters
    ----------
    mono
        (m,) the sound, at any level.
    step
        An ``add`` step: its `gain_db` (default 0) and `azimuth_deg` (default front) count.
    sample_rate
        Hz, of the sound and the recording.
    n_samples
        Length of the recording.
    onset_s
        When it starts, seconds.
    loop
        Repeat it to the end of the recording, rounds cross-faded by `LOOP_FADE_S` with equal power.
    channels
        Of the recording. One: the sound is not placed. More than two: placed in the first two, the others
        stay silent.

    Returns
    -------
    np.ndarray
        (channels, n_samples). What is heard of the sound has the peak 0.5·10^(gain_db/20) before it is
        placed; in the nearer ear that is its peak. What lasts beyond the recording is cut off.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.
    """
    sound = _as_float(mono)
    start = max(0, round(onset_s * sample_rate))
    out = np.zeros((channels, n_samples), sound.dtype)
    room = n_samples - start
    if room <= 0 or sound.size == 0:
        return out
    heard = _looped(sound, room, sample_rate) if loop and sound.size < room else sound[:room]
    track = np.zeros(n_samples, sound.dtype)
    peak = float(np.max(np.abs(heard)))
    if peak == 0.0:
        return out
    track[start : start + heard.size] = heard * (ADDED_PEAK * amplitude(step.gain_db or 0.0) / peak)
    if channels == 1:
        out[0] = track
    else:
        out[:2] = place(track, step.azimuth_deg or 0.0, sample_rate)
    return out


def _looped(sound: np.ndarray, length: int, sample_rate: int) -> np.ndarray:
    fade = min(round(LOOP_FADE_S * sample_rate), sound.size // 2)
    hop = sound.size - fade
    ramp = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / max(fade, 1)).astype(sound.dtype)
    later = sound.copy()
    later[:fade] *= ramp
    rounds = -(-length // hop)
    out = np.zeros(rounds * hop + fade, sound.dtype)
    for index in range(rounds):
        piece = (sound if index == 0 else later).copy()
        if fade:
            piece[-fade:] *= ramp[::-1]
        out[index * hop : index * hop + piece.size] += piece
    return out[:length]
