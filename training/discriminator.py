"""A discriminator for the codec: several small convolutional networks, each on a spectrum of its own resolution.

The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022), with hinge losses and feature matching
(models.md §7.3–7.4, architecture.md "Codec").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

SIZES = (1280, 640, 320, 160, 80)


class SpectrumDiscriminator(nn.Module):
    """Judge waves (B, n) by their spectrum of one size, hop a quarter."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        conv = lambda *args, **kwargs: weight_norm(nn.Conv2d(*args, **kwargs))  # noqa: E731
        self.layers = nn.ModuleList(
            [
                conv(2, channels, (9, 3), padding=(4, 1)),
                *[conv(channels, channels, (9, 3), stride=(2, 1), dilation=(1, d), padding=(4, d)) for d in (1, 2, 4)],
                conv(channels, channels, 3, padding=1),
            ]
        )
        self.out = conv(channels, 1, 3, padding=1)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores (B, 1, F, T) and the features of all layers."""
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.stft(
                wave.float(), self.size, self.size // 4, window=self.window, normalized=True, return_complex=True
            )
        x = torch.stack([spectrum.real, spectrum.imag], dim=1)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.out(x), features


class Discriminator(nn.Module):
    """One `SpectrumDiscriminator` for each size."""

    def __init__(self, channels: int = 32, sizes: Sequence[int] = SIZES) -> None:
        super().__init__()
        self.parts = nn.ModuleList([SpectrumDiscriminator(size, channels) for size in sizes])

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """What each part says about waves (B, n)."""
        return [part(wave) for part in self.parts]


def discriminator_loss(real: list[tuple[Tensor, list[Tensor]]], made: list[tuple[Tensor, list[Tensor]]]) -> Tensor:
    """Hinge loss of the discriminator."""
    losses = [
        functional.relu(1 - ours.float()).mean() + functional.relu(1 + theirs.float()).mean()
        for (ours, _), (theirs, _) in zip(real, made, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_losses(
    real: list[tuple[Tensor, list[Tensor]]], made: list[tuple[Tensor, list[Tensor]]]
) -> tuple[Tensor, Tensor]:
    """Hinge loss of the generator, and the relative difference of the features."""
    adversarial = torch.stack([-scores.float().mean() for scores, _ in made]).mean()
    distances = [
        (a.float() - b.float().detach()).abs().mean() / (b.float().detach().abs().mean() + 1e-6)
        for (_, ours), (_, theirs) in zip(made, real, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return adversarial, torch.stack(distances).mean()
