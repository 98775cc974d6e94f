"""The codec: a mono convolutional variational autoencoder, run once per channel (architecture.md, "Codec").

The layer tree equals the released checkpoint's, key for key: ``encoder.layers.N…`` and ``decoder.layers.N…`` with
weight normalisation stored as ``weight_g`` and ``weight_v``. Stereo latents are the two ears' latents stacked on the
feature axis, left first.
"""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional


class WeightNormConv(nn.Module):
    """Convolution or transposed convolution whose weight is `weight_g · weight_v / ‖weight_v‖`.

    The norm runs over all axes but the first (Salimans & Kingma 2016), as the released files store it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.transposed = stride, padding, dilation, transposed
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        weight = torch.empty(first, second, kernel)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(weight.flatten(1).norm(dim=1)[:, None, None].clone())
        bound = 1 / math.sqrt(second * kernel)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None

    def weight(self) -> Tensor:
        """Effective weight, shape (first, second, kernel)."""
        return self.weight_v * (self.weight_g / self.weight_v.flatten(1).norm(dim=1)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, n) → (B, outputs, m)."""
        if self.transposed:
            return functional.conv_transpose1d(x, self.weight(), self.bias, self.stride, self.padding)
        return functional.conv1d(x, self.weight(), self.bias, self.stride, self.padding, self.dilation)


class SnakeBeta(nn.Module):
    """`x + sin(x·e^alpha)² / (e^beta + 1e-9)`, per channel (Ziyin et al. 2020; log-scale parameters)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, n) → same shape."""
        frequency = self.alpha.exp()[:, None]
        amount = 1.0 / (self.beta.exp() + 1e-9)[:, None]
        wave = x * frequency
        if torch.is_grad_enabled():
            return torch.addcmul(x, amount, wave.sin().square())
        # The same numbers in the same order, in one block of memory instead of three: a sixth of the time of decoding.
        return torch.addcmul(x, amount, wave.sin_().square_(), out=wave)


class LayerList(nn.Module):
    """A sequence under the name ``layers``, which is how the released keys are written."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers in order."""
        return self.layers(x)


class ResidualUnit(LayerList):
    """Snake, dilated convolution of 7, snake, 1×1 convolution, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__(
            SnakeBeta(channels),
            WeightNormConv(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            SnakeBeta(channels),
            WeightNormConv(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, n) → same shape."""
        return x + self.layers(x)


def _down(inputs: int, outputs: int, stride: int) -> LayerList:
    units = [ResidualUnit(inputs, dilation) for dilation in (1, 3, 9)]
    conv = WeightNormConv(inputs, outputs, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
    return LayerList(*units, SnakeBeta(inputs), conv)


def _up(inputs: int, outputs: int, stride: int) -> LayerList:
    conv = WeightNormConv(inputs, outputs, 2 * stride, stride=stride, padding=math.ceil(stride / 2), transposed=True)
    return LayerList(SnakeBeta(inputs), conv, *[ResidualUnit(outputs, dilation) for dilation in (1, 3, 9)])


class Codec(ModelMixin, ConfigMixin):
    """Waveform ↔ latent, one channel at a time.

    Parameters
    ----------
    sample_rate
        Hz.
    channels
        Width after the first convolution.
    multiples
        Output width of each encoder block, as multiples of `channels`.
    strides
        One per block; even numbers keep lengths exact. Their product is the hop.
    latent_dim
        Features of one channel's latent.
    latent_mean, latent_std
        Per-feature statistics used by `normalise`; the released codec has none (0 and 1).
    latent_power
        What `normalise` raises magnitudes to before the statistics, signs kept. Below 1, a diffusion model's errors are
        small where the sound is quiet, and a gain stays a factor; the released codec has 1, which changes nothing.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24_000,
        channels: int = 64,
        multiples: tuple[int, ...] = (1, 2, 4, 8, 16),
        strides: tuple[int, ...] = (2, 2, 2, 6, 10),
        latent_dim: int = 64,
        latent_mean: tuple[float, ...] | None = None,
        latent_std: tuple[float, ...] | None = None,
        latent_power: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [channels, *(channels * multiple for multiple in multiples)]
        self.encoder = LayerList(
            WeightNormConv(1, channels, 7, padding=3),
            *[_down(a, b, stride) for a, b, stride in zip(widths, widths[1:], strides, strict=False)],
            SnakeBeta(widths[-1]),
            WeightNormConv(widths[-1], 2 * latent_dim, 3, padding=1),
        )
        reverse = widths[::-1]
        self.decoder = LayerList(
            WeightNormConv(latent_dim, reverse[0], 7, padding=3),
            *[_up(a, b, stride) for a, b, stride in zip(reverse, reverse[1:], strides[::-1], strict=False)],
            SnakeBeta(channels),
            WeightNormConv(channels, 1, 7, padding=3, bias=False),
        )
        self.hop = math.prod(strides)

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and raw scale of one channel: (B, 1, n) → two of (B, latent_dim, n / hop)."""
        mean, scale = self.encoder(wave).chunk(2, dim=1)
        return mean, scale

    def encode_stereo(self, wave: Tensor) -> Tensor:
        """Posterior means of both ears, left first: (B, 2, n) → (B, 2·latent_dim, ceil(n / hop)).

        The release samples here; we take the mean, so that encoding is repeatable.
        """
        batch, ears, length = wave.shape
        padded = functional.pad(wave, (0, -length % self.hop))
        mean, _ = self.posterior(padded.reshape(batch * ears, 1, -1))
        return self.normalise(mean).reshape(batch, ears * mean.shape[1], -1)

    def decode_stereo(self, latent: Tensor) -> Tensor:
        """Inverse of `encode_stereo`: (B, 2·latent_dim, T) → (B, 2, T·hop)."""
        batch, features, length = latent.shape
        single = self.restore(latent.reshape(batch * 2, features // 2, length))
        return self.decoder(single).reshape(batch, 2, -1)

    def compress(self, latent: Tensor) -> Tensor:
        """Raise magnitudes to `latent_power`, signs kept."""
        return _signed_power(latent, self.config.latent_power)

    def normalise(self, latent: Tensor) -> Tensor:
        """Compress, centre and scale a latent per feature, where the config says so."""
        latent = self.compress(latent)
        if self.config.latent_mean is None:
            return latent
        mean = latent.new_tensor(self.config.latent_mean)[:, None]
        return (latent - mean) / latent.new_tensor(self.config.latent_std)[:, None]

    def restore(self, latent: Tensor) -> Tensor:
        """Undo `normalise`."""
        if self.config.latent_mean is not None:
            std = latent.new_tensor(self.config.latent_std)[:, None]
            latent = latent * std + latent.new_tensor(self.config.latent_mean)[:, None]
        return _signed_power(latent, 1 / self.config.latent_power)


def _signed_power(x: Tensor, power: float) -> Tensor:
    return x if power == 1.0 else x.sign() * x.abs().pow(power)


def sample_posterior(mean: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
    """Draw `μ + σ·ε` with `σ = softplus(scale) + 1e-4`."""
    return mean + (functional.softplus(scale) + 1e-4) * noise


def kl_divergence(mean: Tensor, scale: Tensor) -> Tensor:
    """Mean over batch and time of `Σ (μ² + σ² − ln σ² − 1)` over features."""
    deviation = functional.softplus(scale) + 1e-4
    variance = deviation.square()
    return (mean.square() + variance - variance.log() - 1).sum(1).mean()
