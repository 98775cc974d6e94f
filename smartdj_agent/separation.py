"""The projection: a mask on the recording's own spectrum, so that sound + rest = recording, always.

The listener's mask is made at 24 kHz in 128 bands, 50 frames a second. Here it is carried over to the recording's own
rate and channels: `s = istft(M·A)` and `r = a − s`. Where the mask is zero, `s` is exactly zero, and what is built from
`r + f(s)` equals the recording bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch

from smartdj_agent.audio import resample, to_stereo
from smartdj_agent.guided import guided_filter

if TYPE_CHECKING:
    from smartdj_agent.models.listener import Hearing, Listener

WINDOW_S = 10.0
OVERLAP_S = 1.0
GATE = 0.03
"""Share of a frame's power below which the sound counts as not there; chosen on validation clips."""
SHARPNESS = 1.5
"""Factor on the masks' logits: the network hedges, which takes some of everything along; chosen on validation clips
(`python -m training.mask_sharpness`)."""
GUIDING = 1.0
"""The same of masks that only guide a spatial filter, which finds out itself what they leave open; chosen likewise."""
HOLD_S = 0.12
"""How far an active stretch is widened at both ends."""
FLOOR_DB = -70.0
"""Frames this far below the recording's loudest are left alone: there is nothing to hear."""
FRAMES_AT_ONCE = 128
"""Frames that are transformed together: enough to be fast, few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Mask:
    """One sound's share of a stretch of audio.

    Attributes
    ----------
    share
        Shape (2, bands, T), 0 to 1, per ear; zero in frames where the sound is inactive.
    active
        Shape (T,), bool.
    confidence
        0 to 1: how surely the named sound is there at all.
    """

    share: np.ndarray
    active: np.ndarray
    confidence: float


@dataclass(frozen=True)
class Separated:
    """A sound taken out of a recording.

    Attributes
    ----------
    stem
        Shape of the recording; exactly zero outside `spans`.
    spans
        Stretches (first, past the last sample) in which the stem may be other than zero.
    confidence
        0 to 1.
    """

    stem: np.ndarray
    spans: tuple[tuple[int, int], ...]
    confidence: float


def widen(active: np.ndarray, frames: int) -> np.ndarray:
    """Widen stretches of True by `frames` at both ends."""
    if not active.any() or frames <= 0:
        return active
    # Not "same": of a stretch shorter than the widening, that would give back the widening's length.
    full = np.convolve(active.astype(np.int32), np.ones(2 * frames + 1, np.int32))
    return full[frames : frames + len(active)] > 0


@dataclass(frozen=True)
class HeardWindow:
    """At most one window of audio after one pass of the listener; answers for any number of sounds.

    Attributes
    ----------
    hearing
        The pass.
    power
        Power per ear, band and frame, shape (2, bands, T).
    """

    hearing: Hearing
    power: torch.Tensor


def as_heard(listener: Listener, samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Samples (channels, n) at any rate as the listener takes them: stereo (2, m) float32 at its own rate."""
    return resample(to_stereo(samples.astype(np.float32, copy=False)), sample_rate, listener.config.sample_rate)


@torch.inference_mode()
def hear_window(listener: Listener, stereo: np.ndarray) -> HeardWindow:
    """Let the listener hear stereo (2, n) at its own rate, at most one window."""
    wave = torch.from_numpy(np.ascontiguousarray(stereo, np.float32))[None].to(listener.logit_scale.device)
    spectrum = listener.spectrum(wave)
    return HeardWindow(listener.hear(listener.sense(wave, spectrum)), listener.band_power(spectrum)[0])


@torch.inference_mode()
def estimate_masks(
    listener: Listener, window: HeardWindow, vectors: torch.Tensor, sharpness: float = SHARPNESS
) -> list[Mask]:
    """Ask the listener for several sounds in a window.

    Parameters
    ----------
    window
        See `hear_window`.
    vectors
        Sentence vectors of the sounds' names, shape (Q, text_width).
    sharpness
        Of the shares; where the sounds are active, and how surely, is always decided by `SHARPNESS`.
    """
    power = window.power
    logits = listener.mask_logits(window.hearing, vectors[None].to(power.device))[0].float()
    shares = torch.sigmoid(SHARPNESS * logits)
    softer = shares if sharpness == SHARPNESS else torch.sigmoid(sharpness * logits)
    total = power.sum(dim=(0, 1))
    loud = total > total.max() * 10 ** (FLOOR_DB / 10)
    hold = round(HOLD_S * listener.config.sample_rate / listener.config.hop)
    masks = []
    for share, soft in zip(shares, softer, strict=True):
        fraction = (share * power).sum(dim=(0, 1)) / (total + 1e-12)
        active = widen(((fraction > GATE) & loud).cpu().numpy(), hold)
        loudest = torch.topk(fraction * loud, max(1, len(fraction) // 10)).values.mean()
        masks.append(Mask(soft.cpu().numpy() * active, active, float(loudest) if active.any() else 0.0))
    return masks


def estimate_mask(listener: Listener, stereo: np.ndarray, vector: torch.Tensor, sharpness: float = SHARPNESS) -> Mask:
    """Ask the listener for one sound in at most one window of audio; see `estimate_masks`."""
    (mask,) = estimate_masks(listener, hear_window(listener, stereo), vector[None], sharpness)
    return mask


def transform_size(sample_rate: int, listener: Listener) -> int:
    """Length in samples of a window that lasts as long as the listener's: a multiple of 4 that transforms fast."""
    quarter = listener.config.n_fft * sample_rate / listener.config.sample_rate / 4
    return 4 * int(scipy.fft.next_fast_len(max(1, round(quarter)), real=True))


def apply_mask(samples: np.ndarray, sample_rate: int, mask: Mask, listener: Listener) -> np.ndarray:
    """Project a mask onto samples (channels, n) at any rate; returns the stem, float32, zero where the mask is.

    Window and hop last as long as the listener's (a quarter of the window for overlap-add). Frames are joined linearly
    in time and bands linearly in frequency; above the listener's band the mask goes on as at its top. In stereo, the
    mask guides a spatial filter (`smartdj_agent.guided`). Of more than two channels, the third and later ones take the
    mean of both ears' masks.
    """
    channels, length = samples.shape
    config = listener.config
    size = transform_size(sample_rate, listener)
    hop = size // 4
    window = np.sqrt(np.hanning(size + 1)[:-1]).astype(np.float32)
    # Every sample of the recording lies in four windows, whose squares sum to the same curve hop by hop.
    norm = np.square(window).reshape(4, hop).sum(axis=0)
    padded = np.pad(samples.astype(np.float32, copy=False), ((0, 0), (size, size + -length % hop)))
    count = (padded.shape[1] - size) // hop + 1
    centres = (np.arange(count) * hop + size / 2 - size) / sample_rate
    frame = centres * config.sample_rate / config.hop
    last = mask.share.shape[2] - 1
    low = np.clip(np.floor(frame), 0, last).astype(int)
    high = np.clip(low + 1, 0, last)
    weight = np.clip(frame - low, 0, 1).astype(np.float32)
    interpolation = listener.interpolation.cpu().numpy()
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    bins = np.clip(hertz / (config.sample_rate / config.n_fft), 0, config.n_fft // 2)
    below = np.floor(bins).astype(int)
    above = np.minimum(below + 1, config.n_fft // 2)
    slope = (bins - below).astype(np.float32)[:, None]
    to_bins = ((1 - slope) * interpolation[below] + slope * interpolation[above]).T
    ears = mask.share if channels == 2 else np.repeat(mask.share.mean(axis=0, keepdims=True), channels, axis=0)
    if channels > 2:
        ears[:2] = mask.share
    stem = np.zeros_like(padded)
    active = np.flatnonzero(mask.active[low] | mask.active[high])
    frames = [np.lib.stride_tricks.sliding_window_view(channel, size)[::hop] for channel in padded]

    def shares(channel: int, part: np.ndarray) -> np.ndarray:
        between = weight[part]
        share: np.ndarray = ears[channel][:, low[part]] * (1 - between) + ears[channel][:, high[part]] * between
        return share.T @ to_bins

    def add(channel: int, part: np.ndarray, spectrum: np.ndarray) -> None:
        back = scipy.fft.irfft(spectrum, size, axis=1) * window
        hops = stem[channel].reshape(-1, hop)
        for quarter in range(4):  # frames of a part are all different, so no hop is added to twice at once
            hops[part + quarter] += back[:, quarter * hop : (quarter + 1) * hop]

    parts = np.array_split(active, -(-len(active) // FRAMES_AT_ONCE) or 1)
    if channels == 2 and len(active):
        # Where the sound is not, the others show their directions.
        spectra = np.stack([scipy.fft.rfft(ear * window, axis=1).T for ear in frames])
        share = np.zeros(spectra.shape, np.float32)
        for channel in range(2):
            share[channel][:, active] = shares(channel, active).T
        spectra = guided_filter(spectra, share)
        for part in parts:
            for channel in range(2):
                add(channel, part, spectra[channel][:, part].T)
    else:
        for channel in range(channels):
            for part in parts:
                add(channel, part, scipy.fft.rfft(frames[channel][part] * window, axis=1) * shares(channel, part))
    stem.reshape(channels, -1, hop)[...] /= norm
    return stem[:, size : size + length]


def active_spans(stem: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Stretches (start, stop) in samples in which any channel of stem (channels, n) is other than zero."""
    sounding = np.concatenate([[False], np.any(stem != 0, axis=0), [False]])
    edges = np.flatnonzero(sounding[1:] != sounding[:-1])
    spans: list[tuple[int, int]] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        # Single zero samples inside a sound are zero crossings, not silence.
        if spans and start - spans[-1][1] < 64:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return tuple(spans)


def window_starts(n_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of at most 10 s that overlap by 1 s and cover n_samples."""
    size, step = round(WINDOW_S * sample_rate), round((WINDOW_S - OVERLAP_S) * sample_rate)
    starts = [0]
    while starts[-1] + size < n_samples:
        starts.append(starts[-1] + step)
    return [(start, min(start + size, n_samples)) for start in starts]


def separate(
    listener: Listener, samples: np.ndarray, sample_rate: int, vector: torch.Tensor
) -> Iterator[tuple[int, int, Separated | None]]:
    """Take one sound out of a recording of any length, window by window.

    Parameters
    ----------
    samples
        Shape (channels, n), at any rate.
    vector
        Sentence vector of the sound's name.

    Yields
    ------
    tuple
        Windows done, windows in all, and with the last one the result.
    """
    windows = window_starts(samples.shape[1], sample_rate)
    stem = np.zeros(samples.shape, np.float32)
    confidence = 0.0
    fade = round(OVERLAP_S * sample_rate)
    for index, (start, stop) in enumerate(windows):
        piece = samples[:, start:stop]
        stereo = as_heard(listener, piece, sample_rate)
        mask = estimate_mask(listener, stereo, vector, GUIDING if samples.shape[0] == 2 else SHARPNESS)
        confidence = max(confidence, mask.confidence)
        if mask.active.any():
            part = apply_mask(piece, sample_rate, mask, listener)
            if index > 0:
                part[:, :fade] *= np.linspace(0, 1, min(fade, part.shape[1]), dtype=np.float32)
            if index < len(windows) - 1:
                part[:, -fade:] *= np.linspace(1, 0, min(fade, part.shape[1]), dtype=np.float32)
            stem[:, start:stop] += part
        done = index == len(windows) - 1
        yield index + 1, len(windows), Separated(stem, active_spans(stem), confidence) if done else None
