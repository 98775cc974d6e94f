"""The tagger: YAMNet (Google, Apache-2.0), an audio event network taught on AudioSet's two million recordings.

MobileNet (v1) over log mel bands, 10 ms apart. Our own clips are few per class; what this network has heard elsewhere
is what the listener knows unseen clips by. It is used fully convolutionally, on each ear of a recording of any length,
and read at 24 kHz: a window of 600 samples in a transform of 768 has the bins of its own 400 in 512 at 16 kHz.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 521
SAMPLE_RATE, N_FFT, WINDOW, HOP = 24_000, 768, 600, 240
BANDS, LOWEST_HZ, HIGHEST_HZ, FLOOR = 64, 125.0, 7500.0, 1e-3
RMS = 0.1
"""Level that recordings are brought to: the log's floor makes the network hear levels."""
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MIDDLE = 11
"""Pairs of convolutions after which the middle maps are read: 512 channels, 4 bands, 160 ms apart."""
LEAD = 16
"""Silent frames put before a recording, half the last maps' step, so that maps lie where they are heard."""


def mel_bands() -> np.ndarray:
    """Triangles of height 1 on the mel scale 1127·ln(1 + f/700), shape (bins, BANDS), as YAMNet was taught with."""
    hertz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    mel = 1127 * np.log1p(hertz / 700)[:, None]
    low, high = (1127 * np.log1p(edge / 700) for edge in (LOWEST_HZ, HIGHEST_HZ))
    edges = np.linspace(low, high, BANDS + 2)
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def padded(x: Tensor, stride: int) -> Tensor:
    """Pad (B, C, T, F) for a convolution of 3 as TensorFlow's "same" does: at the end alone where sizes are even."""
    if stride == 1:
        return functional.pad(x, (1, 1, 1, 1))
    return functional.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))


class Tagger(nn.Module):
    """YAMNet with its normalisations folded into the convolutions."""

    mel: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mel", torch.from_numpy(mel_bands()), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.first = nn.Conv2d(1, 32, 3, stride=2)
        channels = (32, *WIDTHS[:-1])
        self.depthwise = nn.ModuleList(
            [nn.Conv2d(c, c, 3, stride=s, groups=c) for c, s in zip(channels, STRIDES, strict=True)]
        )
        self.pointwise = nn.ModuleList([nn.Conv2d(c, w, 1) for c, w in zip(channels, WIDTHS, strict=True)])
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def log_mel(self, wave: Tensor) -> Tensor:
        """Mono wave (B, n) at 24 kHz → log mel bands (B, n // 240 + 1, 64)."""
        spectrum = torch.stft(
            wave,
            N_FFT,
            HOP,
            win_length=WINDOW,
            window=self.window,
            return_complex=True,
            pad_mode="constant",
        ).abs()
        return torch.log(spectrum.transpose(1, 2) * (400 / WINDOW) @ self.mel + FLOOR)

    def maps(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Log mel bands (B, T, 64) → middle maps (B, 512, T/16, 4) and last maps (B, 1024, T/32, 2)."""
        x = functional.relu(self.first(padded(log_mel[:, None], 2)))
        middle = x
        for index, (depthwise, pointwise) in enumerate(zip(self.depthwise, self.pointwise, strict=True), 1):
            x = functional.relu(depthwise(padded(x, STRIDES[index - 1])))
            x = functional.relu(pointwise(x))
            if index == MIDDLE:
                middle = x
        return middle, x

    def forward(self, wave: Tensor) -> Tensor:
        """Probability of each of AudioSet's 521 classes in mono wave (B, n) at 24 kHz, shape (B, 521)."""
        _, last = self.maps(self.log_mel(wave))
        return torch.sigmoid(self.head(last.mean(dim=(2, 3))))


class TaggedFrames(nn.Module):
    """What the tagger hears at each of the listener's frames.

    It speaks twice: to the listener's trunk, which weighs it against everything else, and by itself, in a joint space
    with texts of its own. What the trunk makes of single clips it soon knows by heart; the second voice is a plain
    projection, and on unseen clips both together name far more sounds than either.

    Parameters
    ----------
    width
        Channels for the trunk.
    text_width
        Width of the sentence encoder's vectors.
    embed_width
        Width of the joint space.
    hop
        Samples between the listener's frames, at 24 kHz.
    dropout
        Share of the maps' values that training drops on the way to the trunk.
    """

    def __init__(self, width: int, text_width: int, embed_width: int, hop: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hop = hop
        self.dropout = dropout
        self.tagger = Tagger()
        self.norms = nn.ModuleList([nn.LayerNorm(512 * 4), nn.LayerNorm(1024 * 2)])
        self.narrow = nn.ModuleList([nn.Linear(512 * 4, width // 2), nn.Linear(1024 * 2, width // 2)])
        self.join = nn.Linear(2 * width, width)
        self.embed = nn.Linear(1024, embed_width)
        self.text = nn.Linear(text_width, embed_width)

    def log_mel(self, wave: Tensor) -> Tensor:
        """Stereo wave (B, 2, n) → log mel bands (B, 2, T, 64) at a common level, with silence before and after."""
        level = wave.square().mean(dim=(1, 2), keepdim=True).sqrt()
        bands = self.tagger.log_mel((wave * (RMS / (level + 1e-5))).flatten(0, 1))
        after = -(bands.shape[1] + LEAD) % 32
        silent = float(np.log(FLOOR))
        return functional.pad(bands, (0, 0, LEAD, after), value=silent).unflatten(0, (-1, 2))

    def at_frames(self, values: Tensor, step: int, frames: int) -> Tensor:
        """Values (B, T/step, C) of a map → at the listener's frames (B, frames, C), linear between."""
        position = torch.arange(frames, device=values.device) * (self.hop / HOP) + LEAD
        # Each stride pads at the end alone, so a map's centre lies at step·i + step − 1.
        place = ((position - (step - 1)) / step).clamp(0, values.shape[1] - 1)
        low = place.floor().long().clamp(max=max(0, values.shape[1] - 2))
        share = (place - low)[:, None]
        return values[:, low] * (1 - share) + values[:, (low + 1).clamp(max=values.shape[1] - 1)] * share

    @staticmethod
    def both_ears(last: Tensor) -> Tensor:
        """Last maps of both ears (2·B, 1024, T/32, 2) → mean of ears and bands (B, T/32, 1024)."""
        return last.unflatten(0, (-1, 2)).mean(dim=(1, 4)).transpose(1, 2)

    def forward(self, log_mel: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Bands (B, 2, T, 64) as `log_mel` gives → for the trunk (B, frames, width), tags (B, frames, embed_width)."""
        maps = self.tagger.maps(log_mel.flatten(0, 1))
        heard = []
        for each, norm, narrow, step in zip(maps, self.norms, self.narrow, (16, 32), strict=True):
            flat = norm(each.permute(0, 2, 3, 1).flatten(2))
            flat = narrow(functional.dropout(flat, self.dropout, self.training))
            heard.append(self.at_frames(flat, step, frames))
        joined = functional.gelu(torch.cat(heard, dim=-1)).unflatten(0, (-1, 2))
        last = self.both_ears(maps[1])
        # As in a plain classifier over few examples: half of what it knows is withheld in training.
        tags = self.embed(functional.dropout(last, 0.5, self.training))
        return (
            self.join(torch.cat([joined[:, 0], joined[:, 1]], dim=-1)),
            self.at_frames(tags, 32, frames),
        )
