"""The law of `training.mixing` on tensors: whole batches of scenes at once, on a GPU or a CPU.

What is drawn (which clips, where, how loud, how varied) are a few numbers per sound: they come from numpy's generator
on the host, so that they are the same on every device and nothing waits for the device. What they do to the samples
happens where the clips lie. A batch is a pure function of the clips, the seed and its index (on one kind of device:
noise and echoes come from the device's own generator).

Two things differ from `training.mixing.varied` and are measured by the tests: filters and echoes act on the line after
the clip was laid out (they commute with that, but for fades and for the end of an echo), and the far ear's delay is
applied in the frequency domain (with the same filter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from smartdj_agent.spatial import FAR_EAR, FRACTIONAL_TAPS
from training.clips import SAMPLE_RATE, ClipStore
from training.mixing import AZIMUTHS_DEG, PEAK_SPREAD_DB, PEAK_SUM, Variation

EVENTS_AT_ONCE = 192
"""Sounds that are rendered together: some 3 GB of intermediate tensors at 4 s."""
ECHO_S = 0.7
"""Longest echo, seconds (`training.mixing` cuts at 0.7 of a reverberation time of at most 1 s)."""
ONSETS = 4
KAISER_BETA = 9.0


class DeviceClips:
    """All clips of a store as one float16 tensor, with the tables that drawing needs on the host.

    Parameters
    ----------
    store
        Clips with labels and kinds.
    device
        Where the samples go.
    longest_s
        Clips are cut to this length.
    """

    def __init__(self, store: ClipStore, device: str | torch.device = "cpu", longest_s: float = 10.0) -> None:
        longest = round(longest_s * SAMPLE_RATE)
        self.labels = tuple(store.labels)
        self.lengths = np.array([min(len(samples), longest) for samples in store.audio], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.continuous = np.array([clip.kind == "continuous" for clip in store.clips])
        self.members = np.concatenate([np.array(store.by_label[label], np.int64) for label in self.labels])
        self.counts = np.array([len(store.by_label[label]) for label in self.labels], np.int64)
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)
        packed = np.concatenate([samples[:longest] for samples in store.audio]).astype(np.float16)
        self.samples = torch.from_numpy(packed).to(device)

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return self.samples.device

    def draw(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """One clip for each label, clips of a label evenly."""
        pick = np.minimum((rng.random(labels.shape) * self.counts[labels]).astype(np.int64), self.counts[labels] - 1)
        return np.asarray(self.members[self.firsts[labels] + pick])


@dataclass(frozen=True)
class Draws:
    """What chance decided about a batch: arrays over E sounds or B scenes, on the host.

    Attributes
    ----------
    n_samples, n_scenes
        Length of a scene, number of scenes.
    scene, slot, label, clip
        Shape (E,): which scene, which place in it, row of the labels, clip.
    peak, azimuth_deg
        Shape (E,), before placement.
    length
        Shape (E,): samples of the clip after the change of speed.
    onsets
        Shape (E, ONSETS): starts of a transient; `n_samples` where there is none. A continuous sound has one.
    first
        Shape (E,): sample of the (resampled) clip that a continuous sound begins with.
    end
        Shape (E,): where a continuous sound ends.
    looped
        Shape (E,), whether the clip is repeated with cross-fades.
    tilt_db, centre, depth_db, limit_hz, rt60_s, wet
        Shape (E,): see `training.mixing.varied`; 0 where there is none.
    noise_db, noise_shared, noise_slope, level
        Shape (B,); `noise_db` is −inf where there is no noise floor.
    """

    n_samples: int
    n_scenes: int
    scene: np.ndarray
    slot: np.ndarray
    label: np.ndarray
    clip: np.ndarray
    peak: np.ndarray
    azimuth_deg: np.ndarray
    length: np.ndarray
    onsets: np.ndarray
    first: np.ndarray
    end: np.ndarray
    looped: np.ndarray
    tilt_db: np.ndarray
    centre: np.ndarray
    depth_db: np.ndarray
    limit_hz: np.ndarray
    rt60_s: np.ndarray
    wet: np.ndarray
    noise_db: np.ndarray
    noise_shared: np.ndarray
    noise_slope: np.ndarray
    level: np.ndarray

    @property
    def slots(self) -> int:
        """Most sounds in a scene."""
        return int(self.slot.max()) + 1


@dataclass(frozen=True)
class SceneBatch:
    """Rendered scenes.

    Attributes
    ----------
    draws
        What they are made of.
    stems
        Shape (B, K, 2, n), float32; zeros where a scene has fewer than K sounds.
    noise
        Shape (B, 2, n).
    """

    draws: Draws
    stems: Tensor
    noise: Tensor

    @property
    def mixture(self) -> Tensor:
        """Sum of all stems and the noise floor, shape (B, 2, n)."""
        return self.stems.sum(1) + self.noise


def _varied_numbers(
    count: int, variation: Variation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Speed factor, tilt, centre, depth, band limit, reverberation time and wetness of `count` clips."""
    speed = np.exp(rng.uniform(-1, 1, count) * np.log1p(variation.speed))
    speed = np.where((rng.random(count) < 0.7) & (variation.speed > 0), speed, 1.0)
    shaped = (rng.random(count) < 0.7) & (variation.tilt_db > 0)
    tilt_db = np.where(shaped, rng.uniform(-1, 1, count) * variation.tilt_db, 0.0)
    centre = rng.uniform(-1, 0.9, count)
    depth_db = np.where(shaped, rng.uniform(-1, 1, count) * variation.tilt_db, 0.0)
    limited = rng.random(count) < variation.band_limit
    limit_hz = np.where(limited, np.exp(rng.uniform(np.log(3000), np.log(11000), count)), 0.0)
    echoing = rng.random(count) < variation.echo
    rt60_s = np.where(echoing, rng.uniform(0.2, 1.0, count), 0.0)
    wet = np.where(echoing, rng.uniform(0.1, 0.7, count), 0.0)
    return speed, tilt_db, centre, depth_db, limit_hz, rt60_s, wet


def _lay_out(
    length: np.ndarray, looped: np.ndarray, tail: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Onsets (E, ONSETS), first samples and ends, as `training.mixing.laid_out` draws them."""
    count = len(length)
    onset = np.where(rng.random(count) < 0.6, 0, (rng.uniform(0, 0.5, count) * n).astype(np.int64))
    first = (rng.random(count) * np.maximum(1, length - n // 2)).astype(np.int64)
    to_end = rng.random(count) < 0.7
    end = np.where(to_end, n, (onset + rng.uniform(0.4, 1.0, count) * (n - onset)).astype(np.int64))
    heard = length + tail
    position = (rng.random(count) * np.maximum(1.0, n - 0.5 * np.minimum(heard, n))).astype(np.int64)
    repeats = rng.choice([1, 1, 2, 3, 4], count)
    gaps = (rng.uniform(0.05, 1.5, (count, ONSETS)) * SAMPLE_RATE).astype(np.int64)
    onsets = np.full((count, ONSETS), n, np.int64)
    for index in range(ONSETS):
        there = (index < repeats) & ((index == 0) | (position < n - 240))
        onsets[:, index] = np.where(there, position, n)
        position = position + heard + gaps[:, index]
    onsets[looped] = n
    onsets[looped, 0] = onset[looped]
    return onsets, np.where(looped, first, 0), np.where(looped, end, n)


def draw_scenes(
    clips: DeviceClips,
    rng: np.random.Generator,
    size: int,
    *,
    duration_s: float,
    count_shares: Sequence[float] = (0.0, 0.25, 0.25, 0.25, 0.25),
    variation: Variation | None = None,
    single: bool = False,
    labels: np.ndarray | None = None,
) -> Draws:
    """Draw what `size` scenes are made of.

    Parameters
    ----------
    clips
        Where the clips come from; classes are drawn evenly and differ within a scene.
    rng
        The only source of chance.
    size, duration_s
        Number and length of the scenes.
    count_shares
        Probabilities of 1, 2, 3, … sounds.
    variation
        How widely clips are varied; by default as `Variation` states.
    single
        Instead of laying clips out as a scene, take a piece of each as the listener's first stage does: from a random
        place, 0 to 20 dB below full scale, at one of the five directions.
    labels
        Shape (size,): each scene holds one sound of this row of the labels.
    """
    variation = variation or Variation()
    n = round(duration_s * SAMPLE_RATE)
    counts = rng.choice(np.arange(1, len(count_shares) + 1), size, p=np.asarray(count_shares) / np.sum(count_shares))
    counts = np.minimum(counts, len(clips.labels))
    if labels is not None:
        counts = np.ones(size, np.int64)
    most = int(counts.max())
    order = np.argsort(rng.random((size, len(clips.labels))), axis=1)[:, :most]
    if labels is not None:
        order = labels[:, None]
    scene, slot = np.nonzero(np.arange(most) < counts[:, None])
    label = order[scene, slot]
    clip = clips.draw(rng, label)
    total = len(scene)
    relative = 10 ** (rng.uniform(-PEAK_SPREAD_DB, PEAK_SPREAD_DB, total) / 20)
    peak = PEAK_SUM * relative / np.bincount(scene, relative, size)[scene]
    speed, tilt_db, centre, depth_db, limit_hz, rt60_s, wet = _varied_numbers(total, variation, rng)
    length = np.maximum(240, np.rint(clips.lengths[clip] / speed).astype(np.int64))
    looped = clips.continuous[clip]
    tail = np.where(rt60_s > 0, int(0.3 * SAMPLE_RATE), 0)
    azimuth = rng.choice(AZIMUTHS_DEG, total)
    if single:
        # A long clip begins before the scene, a short one somewhere in it.
        looped, first, end = np.zeros_like(looped), np.zeros_like(length), np.full_like(length, n)
        before = (rng.random(total) * np.maximum(1, length - n)).astype(np.int64)
        after = (rng.random(total) * np.maximum(1, n - length + 1)).astype(np.int64)
        onsets = np.full((total, ONSETS), n, np.int64)
        onsets[:, 0] = np.where(length > n, -before, after)
        peak = 10 ** (rng.uniform(-20, 0, total) / 20)
    else:
        free = rng.random(total) < variation.free_azimuth
        azimuth = np.where(free, np.round(rng.uniform(-90, 90, total), 1), azimuth)
        onsets, first, end = _lay_out(length, looped, tail, n, rng)
    noisy = (rng.random(size) < variation.noise_floor) & (not single)
    noise_db = np.where(noisy, rng.uniform(-70, -35, size), -np.inf)
    noise_shared, noise_slope = rng.random(size), rng.uniform(0.0, 0.97, size)
    level_db = rng.uniform(-2 * variation.level_db, variation.level_db, size)
    return Draws(
        n, size, scene, slot, label, clip, peak, azimuth, length, onsets, first, end, looped, tilt_db, centre, depth_db,
        limit_hz, rt60_s, wet, noise_db, noise_shared, noise_slope, np.ones(size) if single else 10 ** (level_db / 20),
    )  # fmt: skip


def far_ear_taps(azimuth_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The far ear's filter at 24 kHz for each azimuth (E,): taps (E, 32) with the gain in them, and first offset (E,).

    The filter is that of `smartdj_agent.spatial.place`: a plain shift for whole delays, else a windowed sinc.
    """
    angle = np.abs(azimuth_deg)
    points = np.array(FAR_EAR)
    gain, delay = np.interp(angle, points[:, 0], points[:, 1]), np.interp(angle, points[:, 0], points[:, 2])
    half = FRACTIONAL_TAPS // 2
    first = np.floor(delay).astype(np.int64) - half + 1
    t = first[:, None] + np.arange(FRACTIONAL_TAPS) - delay[:, None]
    taps = np.sinc(t) * np.i0(KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (t / half) ** 2))) / np.i0(KAISER_BETA)
    whole = np.abs(delay - np.rint(delay)) < 1e-6
    taps = np.where(whole[:, None], np.abs(t) < 0.5, taps)
    return (taps / taps.sum(1, keepdims=True) * gain[:, None]).astype(np.float32), first


def _to(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _read(clips: DeviceClips, draws: Draws, rows: np.ndarray, place: Tensor) -> Tensor:
    """Samples at `place` (E, n) of the resampled clips, linear between neighbours as `np.interp` is."""
    device = clips.device
    clip = draws.clip[rows]
    last = clips.lengths[clip] - 1
    ratio = _to(last / np.maximum(draws.length[rows] - 1, 1), device, torch.float64)[:, None]
    top = _to(last, device, torch.int64)[:, None]
    offset = _to(clips.starts[clip], device, torch.int64)[:, None]
    exact = place.clamp(min=0) * ratio
    below = torch.minimum(exact.floor().long(), top)
    weight = (exact - below).float()
    low = clips.samples[offset + below].float()
    return torch.lerp(low, clips.samples[offset + torch.minimum(below + 1, top)].float(), weight)


def _lines(clips: DeviceClips, draws: Draws, rows: np.ndarray) -> Tensor:
    """Dry sounds on their timelines, shape (len(rows), n)."""
    device, n = clips.device, draws.n_samples
    lines = torch.zeros(len(rows), n, device=device)
    t = torch.arange(n, device=device)[None]
    for looped in (False, True):
        chosen = np.flatnonzero(draws.looped[rows] == looped)
        if not len(chosen):
            continue
        own = rows[chosen]
        length = _to(draws.length[own], device, torch.int64)[:, None]
        onsets = _to(draws.onsets[own], device, torch.int64)
        if not looped:
            onset = onsets[:, :1].expand(-1, n)
            for index in range(1, ONSETS):
                onset = torch.where(t >= onsets[:, index : index + 1], onsets[:, index : index + 1], onset)
            since = t - onset
            wave = _read(clips, draws, own, since) * ((since >= 0) & (since < length))
        else:
            fade = torch.clamp(length // 8, max=480)
            first = _to(draws.first[own], device, torch.int64)[:, None]
            end = _to(draws.end[own], device, torch.int64)[:, None]
            since = t - onsets[:, :1]
            opening = length - first - fade
            begun = since < opening
            local = torch.where(begun, since, (since - opening) % (length - fade))
            up = (local.float() / (fade - 1)).clamp(0, 1)
            wave = _read(clips, draws, own, torch.where(begun, local + first, local)) * up
            # The last samples of the piece before, which fades out while this one fades in.
            crossing = ~begun & (local < fade)
            wave = wave + _read(clips, draws, own, length - fade + local) * ((1 - up) * crossing)
            out = ((end - 1 - t).float() / (fade - 1)).clamp(0, 1)
            wave = wave * out * (since >= 0)
        lines[_to(chosen, device, torch.int64)] = wave
    return lines


def filter_size(n_samples: int) -> int:
    """Length of the transforms: room for the longest echo and the far ear's delay."""
    return int(scipy.fft.next_fast_len(n_samples + int(ECHO_S * SAMPLE_RATE) + 2 * FRACTIONAL_TAPS, real=True))


def _coloured(spectrum: Tensor, draws: Draws, rows: np.ndarray, size: int, generator: torch.Generator) -> Tensor:
    """Apply tilt, peak, band limit and echo to spectra (E, F)."""
    device = spectrum.device
    if (draws.tilt_db[rows] != 0).any() or (draws.limit_hz[rows] > 0).any():
        frequency = torch.linspace(0, SAMPLE_RATE / 2, spectrum.shape[1], device=device)
        octave = torch.log2(frequency.clamp(min=60.0) / 1000.0) / 4.0
        tilt, centre, depth = (
            _to(values[rows], device, torch.float32)[:, None]
            for values in (draws.tilt_db, draws.centre, draws.depth_db)
        )
        gain_db = tilt * octave + depth * torch.exp(-(((octave - centre) / 0.25) ** 2))
        limit = draws.limit_hz[rows]
        edge = _to(np.where(limit > 0, limit, SAMPLE_RATE), device, torch.float32)[:, None]
        gain_db = gain_db - 24 * torch.log2((frequency / edge).clamp(min=1))
        spectrum = spectrum * torch.exp(gain_db * (np.log(10) / 20))
    echoing = np.flatnonzero(draws.rt60_s[rows] > 0)
    if len(echoing):
        rt60 = _to(draws.rt60_s[rows][echoing], device, torch.float32)[:, None]
        wet = _to(draws.wet[rows][echoing], device, torch.float32)[:, None]
        count = int(ECHO_S * SAMPLE_RATE)
        time = torch.arange(count, device=device)[None] / SAMPLE_RATE
        response = torch.randn(len(echoing), count, generator=generator, device=device)
        response = response * torch.exp(time / rt60 * (-3 * np.log(10))) * (time < ECHO_S * rt60)
        response = response * wet / response.square().sum(1, keepdim=True).sqrt()
        response[:, 0] += 1
        index = _to(echoing, device, torch.int64)
        spectrum[index] = spectrum[index] * torch.fft.rfft(response, size)
    return spectrum


def _turned(azimuth_deg: np.ndarray, size: int, device: torch.device) -> Tensor:
    """The far ear's transfer function for each azimuth, shape (E, size // 2 + 1)."""
    taps, first = far_ear_taps(azimuth_deg)
    impulse = torch.zeros(len(taps), size, device=device)
    at = (first[:, None] + np.arange(FRACTIONAL_TAPS)) % size
    impulse.scatter_(1, _to(at, device, torch.int64), _to(taps, device, torch.float32))
    return torch.fft.rfft(impulse, size)


def placed(spectrum: Tensor, azimuth_deg: np.ndarray, size: int, n: int) -> tuple[Tensor, Tensor]:
    """Place sounds given by their spectra (E, F): stereo (E, 2, n) and the near ear (E, n)."""
    near = torch.fft.irfft(spectrum, size)[:, :n]
    far = torch.fft.irfft(spectrum * _turned(azimuth_deg, size, spectrum.device), size)[:, :n]
    on_left = _to(azimuth_deg <= 0, spectrum.device, torch.bool)[:, None]
    return torch.stack([torch.where(on_left, near, far), torch.where(on_left, far, near)], dim=1), near


def _stems(clips: DeviceClips, draws: Draws, rows: np.ndarray, generator: torch.Generator) -> Tensor:
    """Stereo stems (len(rows), 2, n) at their peaks."""
    n = draws.n_samples
    size = filter_size(n)
    spectrum = torch.fft.rfft(_lines(clips, draws, rows), size)
    spectrum = _coloured(spectrum, draws, rows, size, generator)
    stereo, near = placed(spectrum, draws.azimuth_deg[rows], size, n)
    loudest = near.abs().amax(1).clamp(min=1e-6)
    return stereo * (_to(draws.peak[rows], clips.device, torch.float32) / loudest)[:, None, None]


def _noise(draws: Draws, device: torch.device, generator: torch.Generator) -> Tensor:
    """Noise floors (B, 2, n); zeros where a scene has none."""
    n = draws.n_samples
    noise = torch.zeros(draws.n_scenes, 2, n, device=device)
    noisy = np.flatnonzero(np.isfinite(draws.noise_db))
    if len(noisy):
        shared, slope, level = (
            _to(values[noisy], device, torch.float32)[:, None, None]
            for values in (draws.noise_shared, draws.noise_slope, 10 ** (draws.noise_db / 20))
        )
        white = torch.randn(len(noisy), 3, n, generator=generator, device=device)
        mixed = shared * white[:, 2:] + (1 - shared) * white[:, :2]
        turn = torch.arange(n // 2 + 1, device=device) * (2 * np.pi / n)
        coloured = torch.fft.irfft(torch.fft.rfft(mixed) / (1 - slope * torch.exp(-1j * turn)), n)
        noise[_to(noisy, device, torch.int64)] = coloured / coloured.std(dim=(1, 2), keepdim=True) * level
    return noise


def render(clips: DeviceClips, draws: Draws, generator: torch.Generator) -> SceneBatch:
    """Render drawn scenes where the clips lie; `generator` belongs to that device."""
    device = clips.device
    stems = torch.zeros(draws.n_scenes, draws.slots, 2, draws.n_samples, device=device)
    level = _to(draws.level, device, torch.float32)
    for start in range(0, len(draws.scene), EVENTS_AT_ONCE):
        rows = np.arange(start, min(start + EVENTS_AT_ONCE, len(draws.scene)))
        scene, slot = (_to(values[rows], device, torch.int64) for values in (draws.scene, draws.slot))
        stems[scene, slot] = _stems(clips, draws, rows, generator) * level[scene][:, None, None]
    return SceneBatch(draws, stems, _noise(draws, device, generator) * level[:, None, None])


def make_scenes(
    clips: DeviceClips,
    seed: Sequence[int],
    size: int,
    *,
    duration_s: float,
    count_shares: Sequence[float] = (0.0, 0.25, 0.25, 0.25, 0.25),
    variation: Variation | None = None,
    single: bool = False,
) -> SceneBatch:
    """Draw and render `size` scenes: a pure function of clips and seed (on one kind of device); see `draw_scenes`."""
    rng = np.random.default_rng(list(seed))
    draws = draw_scenes(
        clips, rng, size, duration_s=duration_s, count_shares=count_shares, variation=variation, single=single
    )
    generator = torch.Generator(clips.device).manual_seed(int(rng.integers(2**62)))
    return render(clips, draws, generator)


def frame_activity(stems: Tensor, hop: int, active_db: float) -> Tensor:
    """Frames (…, n // hop + 1) in which stems (…, 2, n) lie within `active_db` of their loudest frame, as 0 or 1."""
    n = stems.shape[-1]
    power = torch.nn.functional.pad(stems.square().sum(-2), (hop // 2, hop))
    count = power.shape[-1] // hop
    frames = power[..., : count * hop].unflatten(-1, (count, hop)).mean(-1)[..., : n // hop + 1]
    floor = (frames.amax(-1, keepdim=True) * 10 ** (active_db / 10)).clamp(min=1e-10)
    return (frames > floor).float()
