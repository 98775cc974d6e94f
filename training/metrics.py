"""Figures of merit that need no weights: one place for every formula (paper.md §4, models.md §6).

Signals are (channels, n) unless a docstring says otherwise. Where a figure is relative to a quantity that may be zero,
a named floor keeps it finite, so that medians over many cases exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from training.stft_loss import multi_resolution_loss

SILENT_SI_SDR_DB = -60.0
"""SI-SDR of a silent estimate of a sound: it has nothing in common with it, which the formula would call 0 dB."""
SILENT_SHARE = 1e-10
"""Energy relative to the reference's below which an estimate counts as silent."""
LEVEL_FLOOR_DB = -60.0
"""Least gain that `projected_gain_db` returns: a sound turned down this far is gone."""
CHANGE_FLOOR_DB = -120.0
"""What `change_db` returns for two equal signals: below the rounding of 16-bit samples."""
WET_FLOOR_DB = -40.0
"""Least ratio of reverberation to direct sound that `wet_ratio_db` returns: nobody hears a room below it."""
ENVELOPE_FRAME_S = 0.02
ENVELOPE_FLOOR_DB = -50.0
"""Frames are compared down to this level below the reference's loudest."""
BAND_CENTRES_HZ = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
BAND_FLOOR_DB = -50.0
"""A band this far below the loudest one before an edit holds nothing whose level could be compared."""


def si_sdr_db(estimate: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio over all channels together, dB (Le Roux et al. 2019, eq. 3).

    No mean is removed: an offset is an error like any other. A silent estimate of a sounding reference scores
    `SILENT_SI_SDR_DB`.
    """
    ours = torch.as_tensor(estimate).detach().double().flatten()
    theirs = torch.as_tensor(reference).detach().double().flatten()
    if ours @ ours < SILENT_SHARE * (theirs @ theirs):
        return SILENT_SI_SDR_DB
    target = (ours @ theirs) / (theirs @ theirs + 1e-12) * theirs
    error = ours - target
    return float(10 * torch.log10((target @ target + 1e-12) / (error @ error + 1e-12)))


def lsd(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Log-spectral distance, mean over channels (ssr_eval's definition, paper.md §4.3).

    `mean_t sqrt(mean_f (log10(T² / (E² + 1e-12)) )²)` with n_fft = int(2048 / (44100 / rate)), hop = rate / 100; no
    shift, no peak normalisation. The floor of 1e-12 stands on both powers so that digital silence stays finite.

    Parameters
    ----------
    reference, estimate
        Shape (channels, n).
    sample_rate
        Hz.
    """
    n_fft = int(2048 / (44100 / sample_rate))
    window = torch.hann_window(n_fft, dtype=torch.float64)

    def power(wave: np.ndarray) -> Tensor:
        spectrum = torch.stft(
            torch.as_tensor(np.ascontiguousarray(wave)).double(),
            n_fft,
            sample_rate // 100,
            window=window,
            return_complex=True,
            pad_mode="constant",
        )
        return spectrum.real.square() + spectrum.imag.square()

    ratio = torch.log10((power(reference) + 1e-12) / (power(estimate) + 1e-12))
    return float(ratio.square().mean(dim=-2).sqrt().mean())


def multi_resolution_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Distance of magnitude spectra at six resolutions, unweighted (Yamamoto et al. 2020; `training.stft_loss`).

    Log part plus linear part relative to the reference; 0 for equal signals.
    """
    with torch.no_grad():
        ours = torch.from_numpy(np.ascontiguousarray(estimate, np.float32))
        theirs = torch.from_numpy(np.ascontiguousarray(reference, np.float32))
        return float(multi_resolution_loss(ours, theirs, perceptual=False))


def _energy(samples: np.ndarray) -> float:
    flat = samples.astype(np.float64).ravel()
    return float(flat @ flat)


def change_db(source: np.ndarray, output: np.ndarray) -> float:
    """Energy of what changed relative to the source's, dB; `CHANGE_FLOOR_DB` at least.

    Raises
    ------
    ValueError
        If the source is silent.
    """
    own = _energy(source)
    if own == 0.0:
        raise ValueError("the change of a silent recording has no level")
    changed = _energy(output.astype(np.float64) - source)
    return float(max(CHANGE_FLOOR_DB, 10 * np.log10(changed / own + 1e-30)))


def changed_outside(source: np.ndarray, output: np.ndarray, spans: Sequence[tuple[int, int]]) -> int:
    """Count the samples, over all channels, that differ outside the stretches (first, past the last)."""
    differs = source != output
    for start, stop in spans:
        differs[:, start:stop] = False
    return int(differs.sum())


def projected_gain_db(source: np.ndarray, output: np.ndarray, stem: np.ndarray) -> float:
    """How much louder one sound became, dB: the difference output − source projected onto the sound alone.

    With `d = output − source`, the gain is `20·log10 |1 + ⟨d, stem⟩ / ⟨stem, stem⟩|`, at least `LEVEL_FLOOR_DB`. What
    else changed does not count as long as it is uncorrelated with the sound.
    """
    wanted = stem.astype(np.float64).ravel()
    difference = output.astype(np.float64).ravel() - source.ravel()
    factor = abs(1.0 + (difference @ wanted) / max(wanted @ wanted, 1e-30))
    return float(max(LEVEL_FLOOR_DB, 20 * np.log10(factor + 1e-30)))


def measured_shift_s(before: np.ndarray, after: np.ndarray, sample_rate: int) -> float:
    """How much later a sound is: the lag of the largest cross-correlation, summed over channels.

    Returns
    -------
    float
        Seconds, positive is later; 0 where either is silent.
    """
    length = before.shape[1]
    size = fft.next_fast_len(2 * length, real=True)
    spectra = [fft.rfft(part.astype(np.float64), size, axis=1) for part in (before, after)]
    correlation = fft.irfft((spectra[0].conj() * spectra[1]).sum(axis=0), size)
    if not np.any(correlation):
        return 0.0
    lags = np.concatenate([correlation[-(length - 1) :], correlation[:length]])
    return float(np.argmax(lags) - (length - 1)) / sample_rate


def wet_ratio_db(dry: np.ndarray, heard: np.ndarray) -> float:
    """Energy of reverberation relative to the direct sound's, dB: the direct-to-reverberant ratio, negated.

    The direct sound is the least-squares multiple of `dry` in `heard`; everything else counts as reverberation.
    `WET_FLOOR_DB` at least.
    """
    wanted, whole = dry.astype(np.float64).ravel(), heard.astype(np.float64).ravel()
    direct = wanted * (float(np.dot(whole, wanted)) / max(_energy(wanted), 1e-30))
    rest = whole - direct
    return max(WET_FLOOR_DB, float(10 * np.log10((_energy(rest) + 1e-30) / (_energy(direct) + 1e-20))))


def envelope_error_db(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of the levels of 20 ms frames, dB, over the frames in which either is heard.

    Levels count from `ENVELOPE_FLOOR_DB` below the reference's loudest frame upwards; 0 for equal signals and for two
    silent ones. A tail that is too long, too short or missing shows here.
    """
    size = round(ENVELOPE_FRAME_S * sample_rate)

    def energy(wave: np.ndarray) -> np.ndarray:
        count = wave.shape[1] // size
        frames = wave[:, : count * size].astype(np.float64).reshape(wave.shape[0], count, size)
        return np.asarray(np.square(frames).sum(axis=(0, 2)))

    theirs, ours = energy(reference), energy(estimate)
    floor = max(float(theirs.max(initial=0.0)), 1e-20) * 10 ** (ENVELOPE_FLOOR_DB / 10)
    heard = (theirs > floor) | (ours > floor)
    if not heard.any():
        return 0.0
    levels = [10 * np.log10(np.maximum(frames[heard], floor)) for frames in (theirs, ours)]
    return float(np.abs(levels[0] - levels[1]).mean())


def octave_levels_db(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Energy in octave bands around `BAND_CENTRES_HZ` over all channels, dB, shape (bands,)."""
    power = np.square(np.abs(fft.rfft(samples.astype(np.float64), axis=1))).sum(axis=0)
    hertz = fft.rfftfreq(samples.shape[1], 1 / sample_rate)
    edges = [(centre / 2**0.5, centre * 2**0.5) for centre in BAND_CENTRES_HZ]
    return np.array([10 * np.log10(power[(hertz >= low) & (hertz < high)].sum() + 1e-20) for low, high in edges])


def band_error_db(before: np.ndarray, reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Mean absolute error of octave levels, dB: how far a sound's colour is from what it should have become.

    Parameters
    ----------
    before
        The sound before the edit. Only its bands within `BAND_FLOOR_DB` of the loudest count, and levels below that
        count as that: how deep an inaudible band lies doesn't matter.
    reference
        The sound as it should be.
    estimate
        The sound as it is.
    sample_rate
        Hz.
    """
    levels = octave_levels_db(before, sample_rate)
    floor = levels.max() + BAND_FLOOR_DB
    theirs, ours = (np.maximum(octave_levels_db(part, sample_rate), floor) for part in (reference, estimate))
    return float(np.abs(ours - theirs)[levels > floor].mean())
