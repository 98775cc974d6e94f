"""Scenes mixed on the fly: events drawn from a clip store, varied, placed, levelled and summed.

A scene is a pure function of its random generator. The level law is the measured one of the published demo clips:
the peaks of a scene's events sum to 0.5, spread within ±3.5 dB, before placement (paper.md §3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.signal

from smartdj_agent.spatial import place
from training.clips import SAMPLE_RATE, ClipStore

PEAK_SUM = 0.5
PEAK_SPREAD_DB = 3.5
AZIMUTHS_DEG = (-90.0, -45.0, 0.0, 45.0, 90.0)


@dataclass(frozen=True)
class Event:
    """One sound in a scene.

    Attributes
    ----------
    label
        Its class.
    clip_index
        Index into the clip store.
    azimuth_deg
        Where it is placed, −90 (left) to 90 (right).
    peak
        Peak amplitude before placement.
    onsets_s
        Where the clip starts, seconds; several for a repeated transient.
    """

    label: str
    clip_index: int
    azimuth_deg: float
    peak: float
    onsets_s: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """A mixture and what it is made of.

    Attributes
    ----------
    events
        K events.
    stems
        Shape (K, 2, n), float32, at 24 kHz; `stems.sum(0) + noise` is the mixture.
    noise
        Shape (2, n), a noise floor that belongs to no event.
    """

    events: tuple[Event, ...]
    stems: np.ndarray
    noise: np.ndarray

    @property
    def mixture(self) -> np.ndarray:
        """Sum of all stems and the noise floor, shape (2, n)."""
        return self.stems.sum(axis=0) + self.noise


@dataclass(frozen=True)
class Variation:
    """How widely clips are varied; the default is for training, `NONE` for tests on unchanged clips.

    Attributes
    ----------
    speed
        Largest relative change of speed (pitch and tempo together).
    tilt_db
        Largest spectral tilt, dB over the band.
    band_limit
        Probability of a low-pass between 3 and 11 kHz.
    echo
        Probability of a synthetic room response.
    noise_floor
        Probability of a noise floor between −70 and −35 dBFS.
    free_azimuth
        Probability of an azimuth off the five points.
    level_db
        Largest change of the whole scene's level.
    """

    speed: float = 0.2
    tilt_db: float = 9.0
    band_limit: float = 0.2
    echo: float = 0.25
    noise_floor: float = 0.3
    free_azimuth: float = 0.3
    level_db: float = 6.0


NONE = Variation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def varied(samples: np.ndarray, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """Return the clip with speed, tilt, bandwidth and room changed at random; peak 1."""
    if variation.speed > 0 and rng.random() < 0.7:
        factor = np.exp(rng.uniform(-1, 1) * np.log1p(variation.speed))
        count = max(240, round(len(samples) / factor))
        samples = np.interp(np.linspace(0, len(samples) - 1, count), np.arange(len(samples)), samples)
    shape_it = variation.tilt_db > 0 and rng.random() < 0.7
    limit_it = rng.random() < variation.band_limit
    echo_it = rng.random() < variation.echo
    if shape_it or limit_it or echo_it:
        size = scipy.fft.next_fast_len(len(samples) + SAMPLE_RATE // 2, real=True)
        spectrum = scipy.fft.rfft(samples, size)
        frequency = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
        octave = np.log2(np.maximum(frequency, 60.0) / 1000.0) / 4.0
        gain_db = np.zeros_like(frequency)
        if shape_it:
            gain_db += rng.uniform(-1, 1) * variation.tilt_db * octave
            centre, depth = rng.uniform(-1, 0.9), rng.uniform(-1, 1) * variation.tilt_db
            gain_db += depth * np.exp(-(((octave - centre) / 0.25) ** 2))
        if limit_it:
            gain_db -= 12 * np.log2(np.maximum(frequency / np.exp(rng.uniform(np.log(3000), np.log(11000))), 1)) * 2
        spectrum = spectrum * 10 ** (gain_db / 20)
        if echo_it:
            rt60 = rng.uniform(0.2, 1.0)
            time = np.arange(int(rt60 * SAMPLE_RATE * 0.7)) / SAMPLE_RATE
            response = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60)
            response *= rng.uniform(0.1, 0.7) / np.sqrt(np.sum(response**2))
            response[0] += 1.0
            spectrum = spectrum * scipy.fft.rfft(response, size)
        longer = int(0.3 * SAMPLE_RATE) if echo_it else 0
        samples = scipy.fft.irfft(spectrum, size)[: len(samples) + longer]
    peak = np.abs(samples).max()
    return (samples / max(peak, 1e-9)).astype(np.float32)


def laid_out(
    samples: np.ndarray, n_samples: int, continuous: bool, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Lay a clip on a timeline of `n_samples`: continuous sounds fill it, transients start once to four times.

    Returns the line, shape (n_samples,), and the onsets in seconds.
    """
    line = np.zeros(n_samples, np.float32)
    onsets: list[int] = []
    if continuous:
        onset = 0 if rng.random() < 0.6 else int(rng.uniform(0, 0.5) * n_samples)
        start = int(rng.integers(0, max(1, len(samples) - n_samples // 2)))
        position, piece = onset, samples[start:]
        fade = min(480, len(samples) // 8)
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        end = n_samples if rng.random() < 0.7 else int(onset + rng.uniform(0.4, 1.0) * (n_samples - onset))
        while position < end - fade:
            piece = piece[: end - position].copy()
            # The last piece may be too short for two whole fades.
            tail = min(fade, len(piece) - fade)
            piece[:fade] *= ramp
            piece[len(piece) - tail :] *= np.linspace(0, 1, tail, dtype=np.float32)[::-1]
            line[position : position + len(piece)] += piece
            onsets.append(position)
            position += max(len(piece) - fade, fade + 1)
            piece = samples
    else:
        position = int(rng.uniform(0, max(1.0, n_samples - 0.5 * min(len(samples), n_samples))))
        for _ in range(int(rng.choice([1, 1, 2, 3, 4]))):
            if onsets and position >= n_samples - 240:
                break
            piece = samples[: n_samples - position]
            line[position : position + len(piece)] += piece
            onsets.append(position)
            position += len(samples) + int(rng.uniform(0.05, 1.5) * SAMPLE_RATE)
    return line, tuple(round(onset / SAMPLE_RATE, 4) for onset in onsets)


def event_peaks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` peaks that sum to 0.5, spread within ±3.5 dB of each other's mean (paper.md §3.2)."""
    peaks = 10 ** (rng.uniform(-PEAK_SPREAD_DB, PEAK_SPREAD_DB, count) / 20)
    return PEAK_SUM * peaks / peaks.sum()


def sounding(
    store: ClipStore, rng: np.random.Generator, label: str, n_samples: int, peak: float, variation: Variation
) -> tuple[np.ndarray, int, tuple[float, ...]]:
    """One clip of a label, varied, laid out and levelled: line (n_samples,), the clip's index, onsets in seconds."""
    index = int(rng.choice(store.by_label[label]))
    clip = varied(store.samples(index), variation, rng)
    line, onsets = laid_out(clip, n_samples, store.clips[index].kind == "continuous", rng)
    return line * (peak / max(float(np.abs(line).max()), 1e-6)), index, onsets


def make_scene(
    store: ClipStore,
    rng: np.random.Generator,
    *,
    duration_s: float = 10.0,
    count: int | None = None,
    variation: Variation | None = None,
    labels: tuple[str, ...] = (),
) -> Scene:
    """Mix a scene of `count` (by default 2 to 5) different sounds.

    Parameters
    ----------
    store
        Where the clips come from; classes are drawn evenly, so that rare ones are heard too.
    rng
        The only source of chance.
    duration_s
        Length of the scene, seconds.
    count
        Number of events; by default 2 to 5.
    variation
        How widely clips are varied; by default as `Variation` states.
    labels
        Classes to draw from; by default all of the store.
    """
    variation = variation or Variation()
    n_samples = round(duration_s * SAMPLE_RATE)
    count = count or int(rng.integers(2, 6))
    chosen = rng.choice(labels or store.labels, size=count, replace=False)
    peaks = event_peaks(count, rng)
    events: list[Event] = []
    stems = np.zeros((count, 2, n_samples), np.float32)
    for slot, label in enumerate(map(str, chosen)):
        line, index, onsets = sounding(store, rng, label, n_samples, float(peaks[slot]), variation)
        azimuth = float(rng.choice(AZIMUTHS_DEG))
        if rng.random() < variation.free_azimuth:
            azimuth = round(float(rng.uniform(-90, 90)), 1)
        stems[slot] = place(line, azimuth, SAMPLE_RATE)
        events.append(Event(label, index, azimuth, float(peaks[slot]), onsets))
    noise = np.zeros((2, n_samples), np.float32)
    if rng.random() < variation.noise_floor:
        shared, slope = rng.random(), rng.uniform(0.0, 0.97)
        white = rng.standard_normal((3, n_samples)).astype(np.float32)
        white[:2] = shared * white[2] + (1 - shared) * white[:2]
        coloured = scipy.signal.lfilter([1.0], [1.0, -slope], white[:2], axis=1)
        noise = (coloured / coloured.std() * 10 ** (rng.uniform(-70, -35) / 20)).astype(np.float32)
    if variation.level_db > 0:
        level = np.float32(10 ** (rng.uniform(-2 * variation.level_db, variation.level_db) / 20))
        stems, noise = stems * level, noise * level
    return Scene(tuple(events), stems, noise)
