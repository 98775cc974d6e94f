"""The listener: one network that hears what is where, and masks out what is asked for.

It reads left and right log power and the phase difference between the ears in 128 bands, 50 frames a second. A
convolutional stem, the tagger (a network taught on far more sounds than ours) and a transformer over frames give

- **frame embeddings**, trained contrastively (sigmoid loss) against the frozen sentence encoder, so that any text can
  be scored at any time: what is heard, when, and, because texts name directions too, where;
- **masks**: per query text a vector per frame, multiplied with a per-band embedding (computed once per recording,
  whatever is asked), gives the share of each ear's power that belongs to the asked sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from smartdj_agent.models.tagger import TaggedFrames


def band_filters(n_fft: int, n_bands: int, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Build band analysis and mask interpolation matrices.

    Band centres follow the mel scale (O'Shaughnessy: 2595·log10(1 + f/700)) but lie at least one bin apart, so that no
    low band is empty.

    Returns
    -------
    analysis
        Shape (n_bands, bins), triangles that sum to 1 over bands inside the range: power per bin → power per band.
    interpolation
        Shape (bins, n_bands), rows sum to 1: value per band → value per bin, linear between centres.
    """
    bins = n_fft // 2 + 1
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, n_bands) / 2595) - 1)
    centres = hertz / (sample_rate / n_fft)
    for band in range(1, n_bands):
        centres[band] = max(centres[band], centres[band - 1] + 1)
    centres *= (bins - 1) / centres[-1] if centres[-1] > bins - 1 else 1.0
    position = np.arange(bins)
    interpolation = np.stack([np.interp(position, centres, row) for row in np.eye(n_bands)], axis=1)
    return interpolation.T.astype(np.float32), interpolation.astype(np.float32)


@dataclass
class Senses:
    """What the network reads of a recording.

    Attributes
    ----------
    features
        Shape (B, 5, bands, T): log power left and right, cosine and sine of phase difference, coherence.
    log_mel
        Shape (B, 2, frames, 64), for the tagger; None without one.
    """

    features: Tensor
    log_mel: Tensor | None


@dataclass
class Hearing:
    """What one pass over a recording gives; queries of any number are answered from it.

    Attributes
    ----------
    frames
        Shape (B, T, width), the trunk's output.
    tags
        Shape (B, T, embed_width), the tagger's own word; None without one.
    pixels
        Shape (B, T, ears, bands, pixel_channels).
    """

    frames: Tensor
    tags: Tensor | None
    pixels: Tensor


def rotate(x: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021, halves convention, base 10000) to (B, heads, T, head_dim)."""
    half = x.shape[-1] // 2
    inverse = 10000 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * inverse
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class FrameLayer(nn.Module):
    """Pre-norm transformer layer over frames; with `condition_width`, scaled and shifted by a condition (FiLM)."""

    def __init__(self, width: int, heads: int, ratio: float, condition_width: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        hidden = int(width * ratio)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.film = nn.Linear(condition_width, 4 * width) if condition_width else None
        if self.film is not None:
            nn.init.zeros_(self.film.bias)
            nn.init.normal_(self.film.weight, std=0.02)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map x (B, T, width), condition (B, condition_width) → (B, T, width)."""
        first, second = self.norm1(x), None
        if self.film is not None and condition is not None:
            scale1, shift1, scale2, shift2 = self.film(condition)[:, None].chunk(4, dim=-1)
            first = first * (1 + scale1) + shift1
            second = (scale2, shift2)
        batch, length, width = x.shape
        q, k, v = self.qkv(first).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(rotate(q), rotate(k), v)
        x = x + self._dropped(self.out(heard.transpose(1, 2).reshape(batch, length, width)))
        hidden = self.norm2(x)
        if second is not None:
            hidden = hidden * (1 + second[0]) + second[1]
        return x + self._dropped(self.down(functional.gelu(self.up(hidden))))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class Listener(ModelMixin, ConfigMixin):
    """Hears what is where in stereo audio, and masks out what a text asks for.

    Parameters
    ----------
    sample_rate, n_fft, hop
        Analysis, Hz and samples.
    n_bands
        Bands of features and masks; divisible by 8.
    stem_channels
        Channels of the four convolutions of the stem.
    width, depth, heads
        Trunk over frames.
    query_depth
        Layers that a query text conditions.
    pixel_channels
        Size of the inner product that makes a mask.
    text_width
        Width of the sentence encoder's vectors.
    embed_width
        Width of the joint audio–text space.
    dropout
        Share of each layer's outputs and of the stem's channels that training drops; nothing at other times.
    stem_dropout
        Share of the recordings in training of which the trunk gets only what the tagger says: the stem knows the
        training clips by heart, and nothing would be learned from the tagger.
    tagger
        Whether YAMNet listens along (`smartdj_agent.models.tagger`); wants `sample_rate` 24,000.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24_000,
        n_fft: int = 1024,
        hop: int = 480,
        n_bands: int = 128,
        stem_channels: tuple[int, ...] = (24, 32, 48, 64),
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        query_depth: int = 2,
        pixel_channels: int = 24,
        text_width: int = 384,
        embed_width: int = 256,
        dropout: float = 0.0,
        stem_dropout: float = 0.0,
        tagger: bool = False,
    ) -> None:
        super().__init__()
        analysis, interpolation = band_filters(n_fft, n_bands, sample_rate)
        self.register_buffer("analysis", torch.from_numpy(analysis), persistent=False)
        self.register_buffer("interpolation", torch.from_numpy(interpolation), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        c1, c2, c3, c4 = stem_channels
        self.down0 = nn.Conv2d(5, c1, 3, padding=1)
        self.down1 = nn.Conv2d(c1, c2, 3, padding=1, stride=(2, 1))
        self.down2 = nn.Conv2d(c2, c3, 3, padding=1, stride=(2, 1))
        self.down3 = nn.Conv2d(c3, c4, 3, padding=1, stride=(2, 1))
        self.norms = nn.ModuleList([nn.GroupNorm(1, c) for c in stem_channels])
        bottom = c4 * n_bands // 8
        self.to_frames = nn.Linear(bottom, width)
        self.tagged = TaggedFrames(width, text_width, embed_width, hop, dropout) if tagger else None
        self.trunk = nn.ModuleList([FrameLayer(width, heads, 4.0, dropout=dropout) for _ in range(depth)])
        self.frame_norm = nn.LayerNorm(width)
        self.from_frames = nn.Linear(width, bottom)
        self.up3 = nn.Conv2d(2 * c4, c3 * 2, 3, padding=1)
        self.up2 = nn.Conv2d(2 * c3, c2 * 2, 3, padding=1)
        self.up1 = nn.Conv2d(2 * c2, c1 * 2, 3, padding=1)
        self.up0 = nn.Conv2d(2 * c1, 2 * pixel_channels, 3, padding=1)
        self.embed = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, embed_width))
        self.text = nn.Sequential(nn.Linear(text_width, width), nn.GELU(), nn.Linear(width, embed_width))
        if tagger:
            self.tag_share = nn.Parameter(torch.tensor(0.0))
            self.evidence = nn.Linear(1, width, bias=False)
            nn.init.zeros_(self.evidence.weight)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.logit_bias = nn.Parameter(torch.tensor(-5.0))
        self.query_in = nn.Sequential(nn.Linear(text_width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.query = nn.ModuleList([FrameLayer(width, heads, 2.0, width, dropout) for _ in range(query_depth)])
        self.query_norm = nn.LayerNorm(width)
        self.query_out = nn.Linear(width, 2 * (pixel_channels + 1))
        nn.init.constant_(self.query_out.bias, 0.0)

    def spectrum(self, wave: Tensor) -> Tensor:
        """Short-time spectrum of wave (B, 2, n) at `sample_rate`: (B, 2, bins, T), T = n // hop + 1, complex."""
        batch, ears, length = wave.shape
        flat = torch.stft(
            wave.reshape(batch * ears, length),
            self.config.n_fft,
            self.config.hop,
            window=self.window,
            return_complex=True,
            pad_mode="constant",
        )
        return flat.reshape(batch, ears, *flat.shape[1:])

    def band_power(self, spectrum: Tensor) -> Tensor:
        """Power per band, (B, 2, bins, T) complex → (B, 2, bands, T)."""
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.einsum("fb,ncbt->ncft", self.analysis, power)

    def features(self, spectrum: Tensor) -> Tensor:
        """Features (B, 5, bands, T): log power left and right, cosine and sine of phase difference, coherence."""
        power = self.band_power(spectrum)
        cross = spectrum[:, 0] * spectrum[:, 1].conj()
        real = torch.einsum("fb,nbt->nft", self.analysis, cross.real)
        imag = torch.einsum("fb,nbt->nft", self.analysis, cross.imag)
        floor = 1e-7 * power.mean(dim=(1, 2, 3), keepdim=True) + 1e-12
        log_power = torch.log10(power + floor)
        log_power = (log_power - log_power.mean(dim=(1, 2, 3), keepdim=True)) / 2.0
        magnitude = torch.sqrt(real.square() + imag.square() + floor[:, 0].square())
        both = torch.sqrt(power[:, 0] * power[:, 1] + floor[:, 0].square())
        return torch.cat([log_power, torch.stack([real / magnitude, imag / magnitude, magnitude / both], dim=1)], dim=1)

    def sense(self, wave: Tensor, spectrum: Tensor) -> Senses:
        """What is read of wave (B, 2, n) at `sample_rate`, whose `spectrum` is given."""
        log_mel = None if self.tagged is None else self.tagged.log_mel(wave)
        return Senses(self.features(spectrum), log_mel)

    def frames(self, senses: Senses) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Trunk output (B, T, width), the tagger's word (B, T, embed_width), the stem's maps, finest first."""
        x = senses.features
        skips = []
        for conv, norm in zip((self.down0, self.down1, self.down2, self.down3), self.norms, strict=True):
            x = functional.gelu(norm(conv(x)))
            skips.append(x)
        batch, channels, bands, length = x.shape
        if self.config.dropout:
            x = functional.dropout2d(x, self.config.dropout, self.training)
        frames = self.to_frames(x.permute(0, 3, 1, 2).reshape(batch, length, channels * bands))
        tags: Tensor | None = None
        if self.tagged is not None and senses.log_mel is not None:
            if self.training and self.config.stem_dropout:
                kept = torch.rand(batch, 1, 1, device=frames.device) >= self.config.stem_dropout
                frames = frames * kept
            told, tags = self.tagged(senses.log_mel, length)
            frames = frames + told
        for layer in self.trunk:
            frames = layer(frames)
        return self.frame_norm(frames), tags, skips

    def hear(self, senses: Senses) -> Hearing:
        """One pass over a recording."""
        frames, tags, skips = self.frames(senses)
        batch, channels, bands, length = skips[-1].shape
        x = self.from_frames(frames).reshape(batch, length, channels, bands).permute(0, 2, 3, 1)
        for conv, skip in zip((self.up3, self.up2, self.up1), reversed(skips), strict=False):
            value, gate = conv(torch.cat([x, skip], dim=1)).chunk(2, dim=1)
            x = functional.interpolate(value * torch.sigmoid(gate), scale_factor=(2, 1), mode="nearest")
        x = self.up0(torch.cat([x, skips[0]], dim=1))
        pixels = x.reshape(batch, 2, -1, self.config.n_bands, length).permute(0, 4, 1, 3, 2)
        return Hearing(frames, tags, pixels)

    def frame_embeddings(self, hearing: Hearing) -> Tensor:
        """Unit vectors of the joint space, (B, T, joint width); see `joint`."""
        return self.joint(hearing.frames, hearing.tags)

    def joint(self, frames: Tensor, tags: Tensor | None) -> Tensor:
        """Unit vectors of the joint space: the trunk's, and beside it the tagger's where there is one.

        Their inner product with a text's vector is the mean of both cosines, weighted by what `tag_share` says.
        """
        own = functional.normalize(self.embed(frames).float(), dim=-1)
        return own if tags is None else self._beside(own, functional.normalize(tags.float(), dim=-1))

    def _beside(self, own: Tensor, tagged: Tensor) -> Tensor:
        share = torch.sigmoid(self.tag_share)
        return torch.cat([own * (1 - share).sqrt(), tagged * share.sqrt()], dim=-1)

    def text_embeddings(self, vectors: Tensor) -> Tensor:
        """Sentence vectors (Q, text_width) → unit vectors of the joint space, (Q, joint width)."""
        own = functional.normalize(self.text(self._scaled(vectors)).float(), dim=-1)
        return own if self.tagged is None else self._beside(own, self._tag_texts(vectors))

    def _tag_texts(self, vectors: Tensor) -> Tensor:
        assert self.tagged is not None
        return functional.normalize(self.tagged.text(self._scaled(vectors)).float(), dim=-1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        # Unit vectors have entries of about 0.05: beside the biases of a fresh layer, all texts would look the same.
        return vectors * self.config.text_width**0.5

    def presence_logits(self, frames: Tensor, texts: Tensor) -> Tensor:
        """How surely each text is heard in each frame: (B, T, E) and (Q, E) → logits (B, Q, T)."""
        return torch.einsum("bte,qe->bqt", frames, texts) * self.logit_scale.exp() + self.logit_bias

    def mask_logits(self, hearing: Hearing, vectors: Tensor) -> Tensor:
        """Masks for Q texts per recording: vectors (B, Q, text_width) → logits (B, Q, 2, bands, T)."""
        batch, count, _ = vectors.shape
        condition = self.query_in(self._scaled(vectors).reshape(batch * count, -1))
        x = hearing.frames.repeat_interleave(count, dim=0)
        if hearing.tags is not None:
            tags = functional.normalize(hearing.tags.float(), dim=-1)
            alike = torch.einsum("bte,bqe->bqt", tags, self._tag_texts(vectors))
            x = x + self.evidence(alike.flatten(0, 1)[..., None].to(x.dtype))
        for layer in self.query:
            x = layer(x, condition)
        out = self.query_out(self.query_norm(x)).reshape(batch, count, x.shape[1], 2, -1)
        weight, bias = out[..., :-1], out[..., -1]
        scores = torch.einsum("bqtec,btefc->bqeft", weight, hearing.pixels)
        return scores / weight.shape[-1] ** 0.5 + bias.permute(0, 1, 3, 2)[:, :, :, None]
