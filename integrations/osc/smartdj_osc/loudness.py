"""How loud a recording is: integrated loudness by ITU-R BS.1770-4. Pure."""

from __future__ import annotations

import math

import numpy as np

SILENCE_LUFS = -70.0
"""The absolute gate, and what silence is said to be."""


def integrated_lufs(samples: np.ndarray, sample_rate: int) -> float:
    """Return the integrated loudness, LUFS; `SILENCE_LUFS` where nothing is above the gate.

    Parameters
    ----------
    samples
        (channels, n), full scale ±1. All channels count alike (no surround weights).
    sample_rate
        Hz.
    """
    # Filtered by its spectrum: importing scipy's filters takes seconds, in which controllers would wait.
    n = samples.shape[-1]
    size = 1 << (n + sample_rate // 2).bit_length()
    turn = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.prod([(b0 + turn * (b1 + turn * b2)) / (1 + turn * (a1 + turn * a2))
                        for b0, b1, b2, _, a1, a2 in _k_weighting(sample_rate)], axis=0)  # fmt: skip
    weighted = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[..., :n]
    block, hop = max(round(0.4 * sample_rate), 1), max(round(0.1 * sample_rate), 1)
    power = np.concatenate([[0.0], np.cumsum(np.sum(weighted**2, axis=0))])
    if len(power) <= block:
        means = np.array([power[-1] / max(len(power) - 1, 1)])
    else:
        starts = np.arange(0, len(power) - block, hop)
        means = (power[starts + block] - power[starts]) / block
    loud = means[_lufs(means) > SILENCE_LUFS]
    if not loud.size:
        return SILENCE_LUFS
    gated = loud[_lufs(loud) > _lufs(np.array([loud.mean()]))[0] - 10.0]
    return float(_lufs(np.array([gated.mean()]))[0])


def _lufs(power: np.ndarray) -> np.ndarray:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))


def _k_weighting(rate: int) -> np.ndarray:
    """The two filters of BS.1770 for any rate, from their analogue prototypes (De Man 2014)."""
    k = math.tan(math.pi * 1681.974450955533 / rate)
    gain, q = 10 ** (3.999843853973347 / 20), 0.7071752369554196
    band = gain**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = [
        (gain + band * k / q + k * k) / a0, 2 * (k * k - gain) / a0, (gain - band * k / q + k * k) / a0,
        1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0,
    ]  # fmt: skip
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    a0 = 1 + k / q + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    return np.array([shelf, high_pass])
