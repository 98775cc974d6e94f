"""Where a sound is: place it in two ears, and measure where it has been placed.

The released rule (see `FAR_EAR`) gives each direction one level and one delay of the far ear; the near ear is
the source, untouched. Between its points both are interpolated linearly in the azimuth, so every azimuth from
−90 (left) to 90 (right) degrees has a placement, and left and right are mirror images to the last bit.

Signs: an azimuth is negative on the left. An interaural time difference (ITD) is positive where the left ear
hears the sound first, an interaural level difference (ILD) is positive where the left ear hears it louder; so
both have the opposite sign of the azimuth. That is the sign of the published GCC metric.
"""

from __future__ import annotations

import numpy as np

from smartdj_agent.errors import ErrorCode, SmartDJError

RULE_RATE = 24_000
"""Sample rate in Hz at which the released rule counts its delays."""

FAR_EAR: tuple[tuple[float, float, int], ...] = ((0.0, 1.0, 0), (45.0, 0.8, 9), (90.0, 0.6, 14))
"""The released rule: (|azimuth| in degrees, gain of the far ear, its delay in samples at `RULE_RATE`)."""

FRACTIONAL_TAPS = 32
"""Length of the fractional-delay filter: a sinc under a Kaiser window.

Up to 0.8 of the Nyquist frequency the gain is within 0.001 dB of one and the delay within 0.01 µs (at 44.1
kHz) of the wanted one. The filter is centred on the delay, so it reaches 16 samples to either side of it.
"""

_KAISER_BETA = 9.0
_MAX_LAG_S = 1e-3
"""Longest ITD that is searched for; a head's is about 0.7 ms, the rule's 0.583 ms."""
_ANALYSIS_BLOCK = 8192

_AZIMUTHS = np.array([point[0] for point in FAR_EAR])
_GAINS = np.array([point[1] for point in FAR_EAR])
_DELAYS_S = np.array([point[2] for point in FAR_EAR]) / RULE_RATE


def _as_float(samples: np.ndarray) -> np.ndarray:
    """The samples as float32, or as float64 where they are that already."""
    array = np.asarray(samples)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_azimuth(azimuth_deg: float) -> float:
    if not -90.0 <= azimuth_deg <= 90.0:  # False for NaN too
        raise SmartDJError(
            ErrorCode.STEP_RANGE,
            f"azimuth {azimuth_deg} degrees is out of range",
            "use −90 (left) to 90 (right) degrees; 0 is in front",
            field="azimuth_deg",
        )
    return float(azimuth_deg)


def far_ear(azimuth_deg: float) -> tuple[float, float]:
    """Gain and delay of the ear that is turned away.

    Parameters
    ----------
    azimuth_deg
        −90 (left) to 90 (right).

    Returns
    -------
    gain, delay_s
        1.0 and 0 s in front, 0.8 and 9/24000 s at ±45°, 0.6 and 14/24000 s at ±90°, linear in between.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.
    """
    angle = abs(_check_azimuth(azimuth_deg))
    return float(np.interp(angle, _AZIMUTHS, _GAINS)), float(np.interp(angle, _AZIMUTHS, _DELAYS_S))


def delayed(mono: np.ndarray, delay_samples: float) -> np.ndarray:
    """Delay a signal, keeping its length.

    A whole number of samples is a plain shift: the samples that remain are the same bits. Any other delay
    goes through a Kaiser-windowed sinc of `FRACTIONAL_TAPS` taps.

    Parameters
    ----------
    mono
        (n,) samples.
    delay_samples
        Delay in samples; negative advances the signal. What leaves the frame is lost, what enters is zero.

    Returns
    -------
    np.ndarray
        (n,) in the same dtype (float32 unless float64 was given).
    """
    source = _as_float(mono)
    n = source.size
    out = np.zeros_like(source)
    whole = round(delay_samples)
    if abs(delay_samples - whole) < 1e-6:  # a millionth of a sample is below the error of the filter
        if abs(whole) < n:
            out[max(whole, 0) : n + min(whole, 0)] = source[max(-whole, 0) : n - max(whole, 0)]
        return out
    half = FRACTIONAL_TAPS // 2
    first = int(np.floor(delay_samples)) - half + 1  # output offset of the first tap
    if n == 0 or abs(first) > n + FRACTIONAL_TAPS:
        return out
    t = np.arange(first, first + FRACTIONAL_TAPS) - delay_samples  # (−half, half)
    taps = np.sinc(t) * np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (t / half) ** 2))) / np.i0(_KAISER_BETA)
    taps /= taps.sum()  # unit gain at 0 Hz
    filtered = np.convolve(source, taps.astype(source.dtype))  # (n + taps − 1,), sample 0 lies at output `first`
    begin, end = max(first, 0), min(n, first + filtered.size)
    if begin < end:
        out[begin:end] = filtered[begin - first : end - first]
    return out


def place(mono: np.ndarray, azimuth_deg: float, sample_rate: int) -> np.ndarray:
    """Place a source by the released rule.

    The near ear is the source itself; the far ear is quieter and later by `far_ear`. At 24 kHz the five
    published directions are exact to the sample (a shift and a gain, nothing else); so is every placement
    whose delay is a whole number of samples. Other delays are fractional (see `delayed`).

    Parameters
    ----------
    mono
        (n,) samples.
    azimuth_deg
        −90 (left) to 90 (right), 0 in front.
    sample_rate
        Hz.

    Returns
    -------
    np.ndarray
        (2, n): left, right. float32, or float64 where that was given. The last samples of the far ear fall
        off the end.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.

    Notes
    -----
    Rule: `create_spatial_audio` of the released code (ears 0.2 m apart, 340 m/s), confirmed on the authors'
    demo recordings.
    """
    source = _as_float(mono)
    if source.ndim != 1:
        raise ValueError(f"place needs samples of shape (n,), got {source.shape}")
    gain, delay_s = far_ear(azimuth_deg)
    out = np.empty((2, source.size), source.dtype)
    near = 0 if azimuth_deg <= 0 else 1
    out[near] = source
    if gain == 1.0 and delay_s == 0.0:
        out[1 - near] = source
    else:
        np.multiply(delayed(source, delay_s * sample_rate), source.dtype.type(gain), out=out[1 - near])
    return out
