"""Figures of merit: one place for every formula (paper.md §4, models.md §6).

The networks that some figures look through are in `training.embedders`; here come only their features.

Signals are (channels, n) unless a docstring says otherwise. Where a figure is relative to a quantity that may be zero,
a named floor keeps it finite, so that medians over many cases exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import fft, special
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
    theirs, ours = (_magnitudes(wave, sample_rate).square() for wave in (reference, estimate))
    ratio = torch.log10((theirs + 1e-12) / (ours + 1e-12))
    return float(ratio.square().mean(dim=-2).sqrt().mean())


def _magnitudes(wave: np.ndarray, sample_rate: int) -> Tensor:
    """Magnitude spectra of ssr_eval, (channels, n) → (channels, bins, frames)."""
    n_fft = int(2048 / (44100 / sample_rate))
    window = torch.hann_window(n_fft, dtype=torch.float64)
    samples = torch.as_tensor(np.ascontiguousarray(wave)).double()
    return torch.stft(samples, n_fft, sample_rate // 100, window=window, return_complex=True, pad_mode="constant").abs()


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


def lsd_published(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Log-spectral distance with the floors where ssr_eval has them (paper.md §4.3), mean over channels.

    `mean_t sqrt(mean_f (log10(T² / (E + 1e-12)² + 1e-12))²)` over magnitudes T, E; else as `lsd`. Where the reference
    is digitally silent a frame counts about 12, whatever the estimate is, even silence: for clips with such stretches
    it says how much silence there is. Where both sound, it equals `lsd`.

    Parameters
    ----------
    reference, estimate
        Shape (channels, n).
    sample_rate
        Hz.
    """
    theirs, ours = (_magnitudes(wave, sample_rate) for wave in (reference, estimate))
    ratio = torch.log10(theirs.square() / (ours + 1e-12).square() + 1e-12)
    return float(ratio.square().mean(dim=-2).sqrt().mean())


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of embeddings (FD, FAD and, ×1000, FSAD; models.md §6.2).

    `‖μ_x − μ_y‖² + Tr(Σ_x + Σ_y − 2(Σ_x Σ_y)^½)`, covariances over n − 1. With centred X, Y scaled by 1/√(n − 1), the
    trace of the root is the nuclear norm of X·Yᵀ (of the QR factors where that is smaller): exact also for fewer
    embeddings than dimensions, without a matrix root, so without an epsilon and complex parts. The value grows as sets
    shrink: compare only sets of equal size.

    Parameters
    ----------
    x, y
        Shapes (n, d) and (m, d), n and m at least 2.

    Raises
    ------
    ValueError
        If a set has fewer than two embeddings, or their widths differ.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two sets of two or more embeddings of one width are needed, got {x.shape} and {y.shape}")
    first, second = (torch.as_tensor(np.asarray(each, np.float64)) for each in (x, y))
    apart = first.mean(0) - second.mean(0)
    first, second = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in (first, second))
    total = first.square().sum() + second.square().sum()
    if max(len(first), len(second)) >= first.shape[1]:
        first, second = (torch.linalg.qr(each, mode="r").R for each in (first, second))
    return float(apart.square().sum() + total - 2 * torch.linalg.svdvals(first @ second.T).sum())


KL_FLOOR = 1e-6
"""What audioldm_eval adds to the estimate's probabilities."""


def kl_divergence(reference_logits: np.ndarray, logits: np.ndarray) -> float:
    """KL(reference ‖ estimate) of a classifier's softmax, nats, by audioldm_eval (paper.md §4.2; models.md §6.1).

    `Σ_c p_c (ln p_c − ln(q_c + 1e-6))`, p and q the softmax of the reference's and the estimate's logits. The metric is
    its mean over pairs of clips. By the floor it is −1e-6 times the number of classes at least, not 0.

    Parameters
    ----------
    reference_logits, logits
        Shape (classes,).
    """
    p, q = (special.softmax(np.asarray(each, np.float64)) for each in (reference_logits, logits))
    return float((special.xlogy(p, p) - p * np.log(q + KL_FLOOR)).sum())


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine of two vectors: of a sound's and a text's embedding, the CLAP score (paper.md §4.4); 0 for a zero one."""
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.dot(x, y)) / norm if norm else 0.0


CRW_TAU = 0.05
CRW_MAX_DELAY = 24
"""Largest lag in samples at 16 kHz: 1.5 ms."""
CRW_RATE = 16_000
CRW_POOLED = 256


def crw_itds_s(left: Tensor, right: Tensor) -> Tensor:
    """Interaural time differences by StereoCRW, one per patch, seconds (Both Ears Wide Open's code; paper.md §4.1).

    Affinity `A = f_L f_Rᵀ / τ` of the ears' unit features, softmax over the lags within ±24 patches, which lie one
    sample apart at 16 kHz; the ITD of a patch is the mean lag under it. The first and last 24 patches, which lack lags,
    are dropped. Positive where the left ear is first.

    Parameters
    ----------
    left, right
        Features of the ears' patches, shape (patches, width), more than 48 patches.

    Returns
    -------
    Tensor
        Shape (patches − 48,).
    """
    first, second = (torch.nn.functional.normalize(each, dim=-1) for each in (left, right))
    affinity = first @ second.T / CRW_TAU
    place = torch.arange(len(left), device=left.device)
    lag = place[None, :] - place[:, None]
    weight = torch.softmax(affinity.masked_fill(lag.abs() > CRW_MAX_DELAY, -1e20), dim=-1)
    return (weight * lag).sum(dim=-1)[CRW_MAX_DELAY:-CRW_MAX_DELAY] / CRW_RATE


def spatial_feature(itds_s: np.ndarray) -> np.ndarray:
    """A clip's feature for FSAD: ITDs pooled to 256 per frame, five frames averaged (paper.md §4.1).

    Parameters
    ----------
    itds_s
        `crw_itds_s` of each frame, shape (frames, ITDs), seconds; 100 frames for the published 10 s. Frames beyond the
        last five are dropped.

    Returns
    -------
    np.ndarray
        Shape (frames // 5 · 256,): 5120 for 10 s.
    """
    pooled = torch.nn.functional.adaptive_avg_pool1d(torch.as_tensor(itds_s)[:, None], CRW_POOLED)[:, 0]
    groups = pooled.shape[0] // 5
    return pooled[: 5 * groups].reshape(groups, 5, CRW_POOLED).mean(dim=1).flatten().numpy()


def itd_error(reference_ms: float, estimate_ms: float) -> float:
    """Both Ears Wide Open's GCC and CRW figure of one clip: 1000 times the squared difference of clip-mean ITDs.

    10⁻³ ms² (paper.md §4.1); the metric is its mean over clips.
    """
    return 1000.0 * (reference_ms - estimate_ms) ** 2


def fsad(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Fréchet spatial audio distance: 1000 times `frechet_distance` of clips' `spatial_feature` (paper.md §4.1).

    In 5120 dimensions the covariance of fewer clips is rank-deficient: compare only at equal numbers of clips.

    Parameters
    ----------
    reference, estimate
        Shape (clips, width).
    """
    return 1000.0 * frechet_distance(reference, estimate)
