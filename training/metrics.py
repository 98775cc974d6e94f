"""Figures of merit that need no weights: one place for every formula (paper.md §4, models.md §6)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def si_sdr_db(estimate: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio over all channels together, dB (Le Roux et al. 2019, eq. 3).

    No mean is removed: an offset is an error like any other.
    """
    ours = torch.as_tensor(estimate).detach().double().flatten()
    theirs = torch.as_tensor(reference).detach().double().flatten()
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
