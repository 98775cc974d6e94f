"""Multi-resolution spectral loss (Yamamoto et al. 2020) on log and linear magnitudes, with A-weighting on request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def magnitudes(wave: Tensor, n_fft: int) -> Tensor:
    """Magnitude spectrum of wave (B, n), hop n_fft / 4: (B, n_fft / 2 + 1, T)."""
    window = torch.hann_window(n_fft, device=wave.device)
    spectrum = torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def a_weighting(n_fft: int, sample_rate: int) -> Tensor:
    """Amplitude of the A curve (IEC 61672) at the bins of an n_fft spectrum, 1 at 1 kHz."""
    f2 = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64).square()
    top = 12194.0**2 * f2.square()
    bottom = (f2 + 20.6**2) * ((f2 + 107.7**2) * (f2 + 737.9**2)).sqrt() * (f2 + 12194.0**2)
    return (top / bottom * 1.2589).float()


def multi_resolution_loss(
    estimate: Tensor,
    reference: Tensor,
    sizes: Sequence[int] = (2048, 1024, 512, 256, 128, 64),
    sample_rate: int = 24_000,
    perceptual: bool = True,
) -> Tensor:
    """Mean over resolutions of the L1 of log magnitudes plus the relative L1 of magnitudes; waves are (B, n)."""
    total = estimate.new_zeros(())
    for size in sizes:
        ours, theirs = magnitudes(estimate, size), magnitudes(reference, size)
        if perceptual:
            curve = a_weighting(size, sample_rate).to(ours.device)[:, None] + 0.02
            ours, theirs = ours * curve, theirs * curve
        # Relative to the whole batch's mean, not each wave's: a nearly silent crop must not blow the gradient up.
        linear = (ours - theirs).abs().mean() / (theirs.mean() + 1e-6)
        # What lies some 50 dB below a full-scale-normalised wave is floor: its logarithm would only add noise.
        floor = 2e-3 * size**0.5
        logarithmic = ((ours + floor).log() - (theirs + floor).log()).abs().mean()
        total = total + logarithmic + linear
    return total / len(sizes)
