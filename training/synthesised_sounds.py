"""Everyday sounds made from arithmetic, for what free recordings lack.

Every maker is a pure function of a sample count's worth of random numbers: the same seed gives the same
samples. Sounds that go on are loops without a seam, because noise is made in the frequency domain (so it is
periodic) and events that run past the end go on at the start. All of it is ours and given away under CC0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal

RATE = 32_000
"""Sampling rate of everything here, Hz."""

Samples = np.ndarray
Rng = np.random.Generator


@dataclass(frozen=True)
class Recipe:
    """One synthesised clip.

    Attributes
    ----------
    label
        What it is, in plain words.
    kind
        ``continuous`` for loops, else ``transient``.
    duration_s
        Length.
    make
        The maker; gets a random generator and the number of samples at `RATE`.
    """

    label: str
    kind: str
    duration_s: float
    make: Callable[[Rng, int], Samples]


# --- building blocks --------------------------------------------------------------------------------------


def _noise(rng: Rng, n: int, magnitude: Callable[[Samples], Samples]) -> Samples:
    """Periodic Gaussian noise whose magnitude spectrum follows `magnitude(frequency_hz)`; RMS 1."""
    frequency = np.fft.rfftfreq(n, 1.0 / RATE)
    spectrum = rng.standard_normal(len(frequency)) + 1j * rng.standard_normal(len(frequency))
    shaped = spectrum * magnitude(frequency)
    shaped[0] = 0.0
    x = np.fft.irfft(shaped, n)
    return x / (np.sqrt(np.mean(x**2)) + 1e-12)


def _band(low_hz: float, high_hz: float, tilt: float = 0.0) -> Callable[[Samples], Samples]:
    """A smooth pass band between two corners; `tilt` is the exponent of frequency inside it (−0.5 is
    pink)."""

    def magnitude(f: Samples) -> Samples:
        g = np.maximum(f, 1.0)
        rise = 1.0 / np.sqrt(1.0 + (low_hz / g) ** 6)
        fall = 1.0 / np.sqrt(1.0 + (g / high_hz) ** 6)
        return rise * fall * (g / np.sqrt(low_hz * high_hz)) ** tilt

    return magnitude


def _drift(rng: Rng, n: int, fastest_hz: float, low: float = 0.0, high: float = 1.0) -> Samples:
    """A slow periodic curve that wanders between `low` and `high`."""
    x = _noise(rng, n, lambda f: (f <= max(fastest_hz, 1.01 * RATE / n)) * (f > 0))
    return low + (high - low) * 0.5 * (1.0 + np.tanh(0.9 * x))


def _add(out: Samples, at: int, piece: Samples, gain: float = 1.0) -> None:
    """Add `piece` at sample `at`; what runs past the end goes on at the start."""
    index = (at + np.arange(len(piece))) % len(out)
    np.add.at(out, index, gain * piece)


def _add_once(out: Samples, at: int, piece: Samples, gain: float = 1.0) -> None:
    """Add `piece` at sample `at`; what runs past the end is cut."""
    stop = min(len(out), at + len(piece))
    if at < stop:
        out[at:stop] += gain * piece[: stop - at]


def _times(duration_s: float) -> Samples:
    return np.arange(round(duration_s * RATE)) / RATE


def _decay(duration_s: float, tau_s: float, attack_s: float = 0.001) -> Samples:
    t = _times(duration_s)
    return (1.0 - np.exp(-t / attack_s)) * np.exp(-t / tau_s)


def _bump(duration_s: float, attack: float = 0.3) -> Samples:
    """A rise and fall in which the top is reached after the share `attack` of the time."""
    t = np.linspace(0.0, 1.0, round(duration_s * RATE))
    up = np.sin(0.5 * np.pi * np.clip(t / attack, 0, 1)) ** 2
    down = np.cos(0.5 * np.pi * np.clip((t - attack) / (1 - attack), 0, 1)) ** 2
    return up * down


def _tone(frequency_hz: Samples, harmonics: tuple[float, ...] = (1.0,)) -> Samples:
    """A tone that follows a frequency curve; partials above 14 kHz are left out."""
    phase = 2 * np.pi * np.cumsum(frequency_hz) / RATE
    x = np.zeros(len(frequency_hz))
    for order, gain in enumerate(harmonics, start=1):
        x += gain * np.sin(order * phase) * (order * frequency_hz < 14_000)
    return x


def _curve(duration_s: float, *points: tuple[float, float]) -> Samples:
    """Values at shares of the duration, joined by straight lines."""
    t = np.linspace(0.0, 1.0, round(duration_s * RATE))
    return np.interp(t, [p[0] for p in points], [p[1] for p in points])


def _modes(duration_s: float, partials: list[tuple[float, float, float]]) -> Samples:
    """A struck body: (frequency_hz, gain, decay_s) of each of its modes."""
    t = _times(duration_s)
    x = np.zeros(len(t))
    for frequency_hz, gain, tau_s in partials:
        x += gain * np.sin(2 * np.pi * frequency_hz * t) * np.exp(-t / tau_s)
    x[: min(32, len(x))] *= np.linspace(0.0, 1.0, min(32, len(x)))
    tail = len(x) // 5
    x[len(x) - tail :] *= np.linspace(1.0, 0.0, tail)
    return x


def _burst(rng: Rng, duration_s: float, tau_s: float, low_hz: float, high_hz: float) -> Samples:
    envelope = _decay(duration_s, tau_s)
    return _noise(rng, len(envelope), _band(low_hz, high_hz)) * envelope


def _filter(x: Samples, low_hz: float, high_hz: float) -> Samples:
    """Periodic band filter, so that a loop stays a loop."""
    spectrum = np.fft.rfft(x) * _band(low_hz, high_hz)(np.fft.rfftfreq(len(x), 1.0 / RATE))
    return np.fft.irfft(spectrum, len(x))


def _room(rng: Rng, x: Samples, seconds: float, gain: float) -> Samples:
    """A little space around a sound: convolution with decaying noise (circular, so loops stay loops)."""
    response = np.zeros(len(x))
    tail = _noise(rng, round(seconds * RATE), _band(200, 5_000, -0.5))
    tail = tail * np.exp(-6.9 * np.arange(len(tail)) / len(tail))
    length = min(len(tail), len(x))
    response[:length] = tail[:length]
    wet = np.fft.irfft(np.fft.rfft(x) * np.fft.rfft(response), len(x))
    reference = np.sqrt(np.mean(x**2)) / (np.sqrt(np.mean(wet**2)) + 1e-12)
    return x + gain * reference * wet


def _poisson(rng: Rng, n: int, per_second: float) -> list[int]:
    return [int(v) for v in rng.integers(0, n, rng.poisson(per_second * n / RATE))]


# --- weather and water ------------------------------------------------------------------------------------


def _bubble(rng: Rng, low_hz: float, high_hz: float) -> Samples:
    """A drop's air bubble: a decaying sine that rises as the bubble nears the surface (Minnaert
    resonance)."""
    frequency_hz = float(np.exp(rng.uniform(np.log(low_hz), np.log(high_hz))))
    tau_s = rng.uniform(8, 16) / frequency_hz
    t = _times(min(0.2, 6 * tau_s))
    return np.sin(2 * np.pi * frequency_hz * t * (1.0 + rng.uniform(0.0, 0.12) * t / tau_s)) * np.exp(-t / tau_s)


def rain(drops_per_s: float, hiss: float, low_hz: float, high_hz: float, body_hz: float = 0.0) -> Callable:
    """Rain: a hiss of far drops, single near drops, and the ring of what they fall on (`body_hz`, 0 for
    ground)."""

    def make(rng: Rng, n: int) -> Samples:
        out = hiss * _noise(rng, n, _band(low_hz, high_hz, -0.4)) * _drift(rng, n, 0.6, 0.85, 1.0)
        for at in _poisson(rng, n, drops_per_s):
            gain = float(rng.lognormal(-0.6, 0.8))
            centre = rng.uniform(0.6, 1.5) * np.sqrt(low_hz * high_hz)
            _add(out, at, _burst(rng, 0.02, rng.uniform(0.001, 0.004), 0.5 * centre, 2 * centre), gain)
            if body_hz:
                f = body_hz * rng.choice([1.0, 1.47, 2.09, 2.56, 3.4]) * rng.uniform(0.97, 1.03)
                _add(out, at, _modes(0.12, [(f, 0.7 * gain, 0.02)]))
            elif rng.random() < 0.15:
                _add(out, at, _bubble(rng, 1_200, 5_000), 0.7 * gain)
        return out

    return make


def wind(low_hz: float, high_hz: float, gust_hz: float, howl: float) -> Callable:
    """Wind: bands of noise that swell on their own, and a narrow band that wanders (the howl)."""

    def make(rng: Rng, n: int) -> Samples:
        gust = _drift(rng, n, gust_hz, 0.15, 1.0)
        edges = np.geomspace(low_hz, high_hz, 7)
        out = np.zeros(n)
        for i, (a, b) in enumerate(itertools.pairwise(edges)):
            own = _drift(rng, n, 1.5 * gust_hz, 0.5, 1.0)
            out += _noise(rng, n, _band(a, b)) * own * gust ** (1.0 + 0.5 * i) * 0.7**i
        if howl:
            t = np.arange(n) / RATE
            for base in (380.0, 610.0):
                sway = _drift(rng, n, gust_hz, -1.0, 1.0)
                slow = _noise(rng, n, _band(2, 22, -0.5)) + 1j * _noise(rng, n, _band(2, 22, -0.5))
                cycles = round(base * n / RATE) * RATE / n  # whole cycles in the loop
                phase = 2 * np.pi * cycles * t + 40 * sway
                out += howl * np.real(slow * np.exp(1j * phase)) * gust**2
        return out

    return make


def leaves(rng: Rng, n: int) -> Samples:
    """Leaves in the wind: a high hiss in gusts, with single leaves."""
    gust = _drift(rng, n, 0.5, 0.1, 1.0)
    out = _noise(rng, n, _band(1_800, 9_000, -0.5)) * gust**1.5
    grain = np.zeros(n)
    for at in _poisson(rng, n, 260):
        _add(grain, at, _burst(rng, 0.03, 0.006, 2_000, 9_000), gust[at] * float(rng.lognormal(-0.5, 0.6)))
    return out + 0.35 * grain + 0.25 * _noise(rng, n, _band(80, 500, -0.5)) * gust


def sea(waves: int, brightness_hz: float) -> Callable:
    """Waves on a beach: each one rumbles in, breaks bright and draws back hissing."""

    def make(rng: Rng, n: int) -> Samples:
        out = 0.10 * _noise(rng, n, _band(150, 2_500, -0.5))
        low, mid, high = (_noise(rng, n, _band(*b, -0.5)) for b in ((60, 400), (300, 2_200), (1_500, brightness_hz)))
        spacing = n / waves
        for k in range(waves):
            size = rng.uniform(0.7, 1.0)
            start = int(k * spacing + rng.uniform(0, 0.2) * spacing)
            length_s = spacing / RATE * 1.15
            for layer, delay, share, gain in (
                (low, 0.0, 0.45, 1.0),
                (mid, 0.12, 0.35, 0.8),
                (high, 0.22, 0.25, 0.6),
            ):
                envelope = _bump(length_s * (1.0 - 0.3 * delay), share) ** 1.5
                at = (start + int(delay * spacing)) % n
                index = (at + np.arange(len(envelope))) % n
                np.add.at(out, index, size * gain * envelope * layer[index])
        return out

    return make


def stream(bubbles_per_s: float, low_hz: float, high_hz: float, hiss: float) -> Callable:
    """Running water: a hiss and many rising bubbles."""

    def make(rng: Rng, n: int) -> Samples:
        out = hiss * _noise(rng, n, _band(400, 6_000, -0.5)) * _drift(rng, n, 2.0, 0.7, 1.0)
        for at in _poisson(rng, n, bubbles_per_s):
            _add(out, at, _bubble(rng, low_hz, high_hz), float(rng.lognormal(-0.4, 0.7)))
        return out

    return make


def lapping(rng: Rng, n: int) -> Samples:
    """Small waves against a hull: soft slaps and gurgles."""
    out = 0.03 * _noise(rng, n, _band(200, 3_000, -0.5))
    at = 0.0
    while at < n:
        length_s = rng.uniform(0.25, 0.7)
        slap = _noise(rng, round(length_s * RATE), _band(120, 1_400, -0.6)) * _bump(length_s, 0.15)
        _add(out, int(at), slap, rng.uniform(0.25, 0.9))
        for _ in range(int(rng.integers(3, 14))):
            _add(
                out,
                int(at + rng.uniform(0, length_s) * RATE),
                _bubble(rng, 220, 1_300),
                rng.uniform(0.1, 0.5),
            )
        at += rng.uniform(0.6, 1.5) * RATE
    return out


def dripping(rng: Rng, n: int) -> Samples:
    """Single drops into water in a stony room."""
    out = np.zeros(n)
    for k in range(int(n / RATE * 1.6)):
        at = int((k + rng.uniform(0.1, 0.7)) / 1.6 * RATE)
        _add(out, at, _burst(rng, 0.01, 0.001, 2_000, 9_000), 0.4)
        _add(out, at + int(rng.uniform(0.01, 0.03) * RATE), _bubble(rng, 700, 1_900), rng.uniform(0.6, 1.0))
    return _room(rng, out, 0.8, 0.35)


def distant_thunder(rng: Rng, n: int) -> Samples:
    """A far roll: low noise in overlapping surges."""
    out = np.zeros(n)
    for _ in range(9):
        at, length_s = rng.uniform(0.0, 0.45) * n, rng.uniform(1.0, 2.6)
        surge = _noise(rng, round(length_s * RATE), _band(28, rng.uniform(90, 240), -0.7)) * _bump(length_s, 0.12)
        _add_once(out, int(at), surge, rng.uniform(0.3, 1.0))
    return out * np.minimum(1.0, np.linspace(6.0, 0.0, n))


def fire(rng: Rng, n: int) -> Samples:
    """A wood fire: a soft roar, fine crackle, and a few loud pops."""
    out = 0.18 * _noise(rng, n, _band(60, 700, -0.6)) * _drift(rng, n, 3.0, 0.5, 1.0)
    out += 0.03 * _noise(rng, n, _band(2_000, 9_000, -0.3))
    activity = _drift(rng, n, 1.5, 0.05, 1.0)
    for at in _poisson(rng, n, 60):
        if rng.random() < activity[at]:
            centre = float(np.exp(rng.uniform(np.log(1_200), np.log(7_000))))
            gain = float(min(4.0, rng.pareto(1.6) * 0.35))
            _add(out, at, _burst(rng, 0.03, rng.uniform(0.0006, 0.005), 0.6 * centre, 1.8 * centre), gain)
    return out


# --- animals ----------------------------------------------------------------------------------------------


def _cricket(rng: Rng, out: Samples, carrier_hz: float, chirps_per_s: float, pulses: int, gain: float) -> None:
    n = len(out)
    count = max(1, round(chirps_per_s * n / RATE))
    phase = rng.uniform(0, 1)
    pulse_s = 0.016
    for k in range(count):
        start = (k + phase + rng.normal(0, 0.03)) / count * n
        for p in range(pulses):
            envelope = _bump(pulse_s, 0.55)
            f = carrier_hz * _curve(pulse_s, (0, 1.015), (1, 0.985))
            at = int(start + p * 0.026 * RATE) % n
            _add(out, at, _tone(f, (1.0, 0.06)) * envelope, gain * (0.65 + 0.35 * p / max(1, pulses - 1)))


def crickets(count: int, night: float) -> Callable:
    """Field crickets: short groups of pulses near 4.5 kHz; `night` is the level of the still air around
    them."""

    def make(rng: Rng, n: int) -> Samples:
        out = night * _noise(rng, n, _band(100, 1_500, -0.7))
        for k in range(count):
            gain = 1.0 if k == 0 else rng.uniform(0.1, 0.5)
            _cricket(rng, out, rng.uniform(4_100, 5_000), rng.uniform(2.0, 3.2), int(rng.integers(3, 5)), gain)
        return _room(rng, out, 0.3, 0.15)

    return make


def night(rng: Rng, n: int) -> Samples:
    """A summer night: crickets, a trill of tree crickets, still air."""
    out = 0.05 * _noise(rng, n, _band(60, 900, -0.7)) + 0.015 * _noise(rng, n, _band(3_000, 8_000))
    for _ in range(6):
        _cricket(
            rng,
            out,
            rng.uniform(3_900, 5_200),
            rng.uniform(1.6, 3.0),
            int(rng.integers(2, 5)),
            rng.uniform(0.05, 0.3),
        )
    t = np.arange(n) / RATE
    for carrier, rate, gain in ((2_950.0, 41.0, 0.06), (3_120.0, 38.0, 0.05)):
        carrier, rate = (round(v * n / RATE) * RATE / n for v in (carrier, rate))
        trill = np.clip(np.sin(2 * np.pi * rate * t), 0, 1) * _drift(rng, n, 0.3, 0.4, 1.0)
        out += gain * np.sin(2 * np.pi * carrier * t) * trill
    return out


def cicadas(rng: Rng, n: int) -> Samples:
    """Cicadas: a band near 6 kHz, pulsed a hundred times a second, swelling and falling."""
    t = np.arange(n) / RATE
    out = np.zeros(n)
    for centre, rate in ((5_600, 118.0), (6_400, 97.0), (7_100, 131.0)):
        rate = round(rate * n / RATE) * RATE / n
        pulse = (0.5 + 0.5 * np.sin(2 * np.pi * rate * t)) ** 3
        out += _noise(rng, n, _band(0.93 * centre, 1.07 * centre)) * pulse * _drift(rng, n, 0.4, 0.25, 1.0)
    return out


def frogs(rng: Rng, n: int) -> Samples:
    """Pond frogs: croaks of 60-a-second pulses with two formants, several animals."""
    out = 0.01 * _noise(rng, n, _band(100, 2_000, -0.5))
    for k in range(5):
        pitch, formant = rng.uniform(45, 75), rng.uniform(650, 1_100)
        level = 1.0 if k == 0 else rng.uniform(0.15, 0.5)
        at = rng.uniform(0, 0.8) * RATE
        while at < n:
            length_s = rng.uniform(0.18, 0.34)
            croak = np.zeros(round(length_s * RATE) + 2_000)
            for pulse_at in np.arange(0, length_s * RATE, RATE / pitch):
                ring = _modes(0.04, [(formant, 1.0, 0.006), (2.3 * formant, 0.6, 0.004), (0.5 * formant, 0.5, 0.008)])
                _add_once(croak, int(pulse_at * rng.uniform(0.995, 1.005)), ring, rng.uniform(0.8, 1.0))
            croak[: round(length_s * RATE)] *= _bump(length_s, 0.6) ** 0.5
            _add(out, int(at), croak, level)
            at += (length_s + rng.uniform(0.25, 1.2)) * RATE
    return _room(rng, out, 0.4, 0.2)


def owl(rng: Rng, n: int) -> Samples:
    """A tawny owl: one long hoot, a pause, a short one, then a wavering one."""
    out = np.zeros(n)
    for start_s, length_s, waver in ((0.2, 0.8, 0.0), (2.6, 0.22, 0.0), (3.05, 1.3, 1.0)):
        t = _times(length_s)
        f = 690 * _curve(length_s, (0, 0.93), (0.2, 1.0), (0.75, 1.0), (1, 0.92))
        f = f * (1.0 + 0.004 * np.sin(2 * np.pi * 5.5 * t))
        hoot = _tone(f, (1.0, 0.10, 0.04)) * _bump(length_s, 0.25) ** 0.6
        hoot *= 1.0 - waver * 0.4 * (0.5 + 0.5 * np.sin(2 * np.pi * 12 * t)) * _curve(length_s, (0, 1), (1, 0.2))
        breath = _noise(rng, len(t), _band(500, 1_200)) * _bump(length_s, 0.25)
        _add_once(out, int(start_s * RATE), hoot + 0.04 * breath)
    return _room(rng, out, 1.2, 0.35)


def cuckoo(rng: Rng, n: int) -> Samples:
    """A cuckoo: a falling third, every second and a half."""
    out = np.zeros(n)
    for k in range(int(n / RATE / 1.5)):
        for offset_s, f0, length_s in ((0.0, 690.0, 0.16), (0.33, 560.0, 0.24)):
            f = f0 * _curve(length_s, (0, 1.02), (0.3, 1.0), (1, 0.985))
            _add(
                out,
                int((0.1 + 1.5 * k + offset_s) * RATE),
                _tone(f, (1.0, 0.05, 0.02)) * _bump(length_s, 0.3) ** 0.7,
            )
    return _room(rng, out, 0.9, 0.3)


def _song(rng: Rng) -> list[tuple[float, Samples]]:
    """One bird's phrase: notes of one shape, as (start in seconds, samples)."""
    shape = int(rng.integers(0, 4))
    base = rng.uniform(2_600, 5_500)
    note_s, gap_s = rng.uniform(0.05, 0.14), rng.uniform(0.03, 0.12)
    notes = []
    for k in range(int(rng.integers(3, 9))):
        pitch = base * (1.0 + 0.03 * rng.standard_normal())
        if shape == 0:
            f = pitch * _curve(note_s, (0, 1.25), (1, 0.85))
        elif shape == 1:
            f = pitch * _curve(note_s, (0, 0.85), (0.5, 1.2), (1, 0.9))
        elif shape == 2:
            f = pitch * (1.0 + 0.08 * np.sin(2 * np.pi * rng.uniform(25, 45) * _times(note_s)))
        else:
            f = pitch * _curve(note_s, (0, 1.0), (0.4, 1.0 if k % 2 else 1.3), (1, 1.05))
        notes.append((k * (note_s + gap_s), _tone(f, (1.0, 0.06)) * _bump(note_s, 0.3)))
    return notes


def birds(singers: int, phrases_per_s: float, air: float, leaf: float) -> Callable:
    """Songbirds: phrases of whistled notes, near and far, in some open air."""

    def make(rng: Rng, n: int) -> Samples:
        out = np.zeros(n)
        for k in range(singers):
            level = 1.0 if k == 0 else rng.uniform(0.15, 0.6)
            phrase = _song(rng)
            for at in _poisson(rng, n, phrases_per_s / singers) or [int(rng.integers(0, n))]:
                gain = level * rng.uniform(0.7, 1.0)
                for start_s, note in phrase:
                    _add(out, int(at + start_s * RATE), note, gain)
        out = _room(rng, out, 0.7, 0.25) + air * _noise(rng, n, _band(80, 900, -0.7))
        return out + leaf * _noise(rng, n, _band(1_500, 8_000, -0.6)) * _drift(rng, n, 0.4, 0.2, 1.0)

    return make


def gulls(rng: Rng, n: int) -> Samples:
    """Gulls: harsh falling cries with many partials, in series, near and far."""
    out = np.zeros(n)
    partials = (0.7, 1.0, 0.75, 0.5, 0.4, 0.25, 0.2, 0.12, 0.08)
    for level in (1.0, 0.45, 0.25):
        at, pitch = rng.uniform(0.1, 1.2), rng.uniform(780, 980)
        while at < n / RATE:
            for k in range(int(rng.integers(2, 6))):
                length_s = rng.uniform(0.28, 0.5) * (0.85 if k else 1.3)
                f = pitch * _curve(length_s, (0, 0.8), (0.18, 1.18), (0.55, 1.08), (1, 0.72))
                rough = 1.0 + 0.012 * _noise(rng, len(f), _band(20, 120))
                cry = _tone(f * rough, partials) * _bump(length_s, 0.22) ** 0.7
                _add(out, int(at * RATE), cry, level * rng.uniform(0.8, 1.0))
                at += length_s + rng.uniform(0.08, 0.2)
            at += rng.uniform(1.0, 2.4)
    return _room(rng, out, 0.6, 0.2)


def bees(rng: Rng, n: int) -> Samples:
    """Bees: wing beats near 230 Hz with many partials, passing near and far."""
    out = np.zeros(n)
    for k in range(4):
        sway = 1.0 + 0.03 * _drift(rng, n, 1.2, -1, 1)
        f = rng.uniform(190, 250) * sway
        f += (round(f.sum() / RATE) - f.sum() / RATE) * RATE / n  # whole cycles, so that the loop has no click
        x = _tone(f, tuple(1.0 / (h**0.9) for h in range(1, 24)))
        out += x * _drift(rng, n, 0.7, 0.02, 1.0) ** 2 * (1.0 if k == 0 else 0.5)
    return out


def howl(rng: Rng, n: int) -> Samples:
    """A wolf: a rising, held and falling howl."""
    length_s = n / RATE - 0.6
    t = _times(length_s)
    f = _curve(length_s, (0, 330), (0.12, 520), (0.3, 610), (0.7, 590), (0.9, 470), (1, 360))
    f = f * (1.0 + 0.006 * np.sin(2 * np.pi * 4.5 * t))
    out = np.zeros(n)
    voice = _tone(f, (1.0, 0.5, 0.22, 0.10, 0.05)) * _bump(length_s, 0.25) ** 0.5
    _add_once(out, 0, voice + 0.02 * _noise(rng, len(t), _band(400, 2_000)) * _bump(length_s, 0.3))
    return _room(rng, out, 1.4, 0.4)


def purr(rng: Rng, n: int) -> Samples:
    """A purring cat: pulses at 26 a second, stronger on the breath in."""
    out = np.zeros(n)
    breath = 0.6 + 0.4 * np.sin(2 * np.pi * round(n / RATE / 1.6) * np.arange(n) / n)
    count = round(26 * n / RATE)
    for k in range(count):
        at = int((k + rng.normal(0, 0.05)) / count * n) % n
        pulse = _modes(0.05, [(110, 1.0, 0.012), (235, 0.7, 0.009), (520, 0.25, 0.006)])
        _add(out, at, pulse + 0.15 * _burst(rng, 0.05, 0.01, 300, 2_500), breath[at] * rng.uniform(0.8, 1.0))
    return out


# --- people -----------------------------------------------------------------------------------------------

_VOWELS = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (390, 1990, 2550),
    (570, 840, 2410),
    (440, 1020, 2240),
    (660, 1720, 2410),
)


def chatter(voices: int) -> Callable:
    """A murmuring crowd: many voices of pulse trains through vowel formants at the pace of syllables."""

    def make(rng: Rng, n: int) -> Samples:
        out = np.zeros(n)
        for _ in range(voices):
            pitch_hz = float(rng.choice([rng.uniform(90, 140), rng.uniform(170, 240)]))
            level = float(rng.lognormal(-0.5, 0.5))
            at = rng.uniform(0, 1.0)
            while at < n / RATE:
                for _syllable in range(int(rng.integers(3, 11))):
                    length_s = rng.uniform(0.10, 0.24)
                    f = pitch_hz * _curve(length_s, (0, rng.uniform(0.95, 1.15)), (1, rng.uniform(0.85, 1.05)))
                    phase = np.cumsum(f) / RATE
                    source = signal.sawtooth(2 * np.pi * phase) + 0.1 * rng.standard_normal(len(f))
                    voiced = np.zeros(len(f))
                    formants = _VOWELS[int(rng.integers(len(_VOWELS)))]
                    for formant_hz, gain in zip(formants, (1.0, 0.6, 0.3), strict=True):
                        b, a = signal.iirpeak(formant_hz * rng.uniform(0.93, 1.07), 6.0, fs=RATE)
                        voiced += gain * signal.lfilter(b, a, source)
                    _add(out, int(at * RATE), voiced * _bump(length_s, 0.35), level)
                    if rng.random() < 0.3:
                        _add(out, int((at - 0.04) * RATE), _burst(rng, 0.07, 0.02, 3_000, 7_500), 0.08 * level)
                    at += length_s + rng.uniform(0.0, 0.06)
                at += rng.uniform(0.4, 2.2)
        return _filter(_room(rng, out, 0.9, 0.9), 150, 5_000)

    return make


def applause(rng: Rng, n: int) -> Samples:
    """An audience clapping: some sixty people, each at a pace of their own."""
    out = np.zeros(n)
    for _ in range(60):
        pace, centre = rng.uniform(3.2, 5.0), rng.uniform(900, 2_200)
        count, phase, level = round(pace * n / RATE), rng.uniform(0, 1), float(rng.lognormal(-0.7, 0.6))
        clap = _burst(rng, 0.04, rng.uniform(0.003, 0.007), 0.6 * centre, 2.2 * centre)
        for k in range(count):
            _add(
                out,
                int((k + phase + rng.normal(0, 0.06)) / count * n) % n,
                clap,
                level * rng.uniform(0.6, 1.0),
            )
    return _room(rng, out, 0.9, 0.5)


def snoring(rng: Rng, n: int) -> Samples:
    """A sleeper: a fluttering breath in, a soft one out."""
    out = np.zeros(n)
    for k in range(2):
        start_s = k * n / RATE / 2
        t = _times(1.3)
        flutter = np.clip(np.sin(2 * np.pi * np.cumsum(_curve(1.3, (0, 24), (0.6, 32), (1, 26))) / RATE), 0, 1) ** 2
        body = _noise(rng, len(t), _band(110, 900, -0.5))
        _add(out, int((start_s + 0.1) * RATE), body * flutter * _bump(1.3, 0.6), 1.0)
        out_breath = _noise(rng, round(1.1 * RATE), _band(300, 2_500, -0.7)) * _bump(1.1, 0.25)
        _add(out, int((start_s + 1.8) * RATE), out_breath, 0.18)
    return out


def heartbeat(rng: Rng, n: int) -> Samples:
    """A heart at 70 beats a minute: two dull thumps each."""
    out = np.zeros(n)
    beats = round(n / RATE * 70 / 60)
    for k in range(beats):
        at = int((k + 0.05) / beats * n)
        for offset_s, f, gain in ((0.0, 48.0, 1.0), (0.30, 62.0, 0.7)):
            thump = _modes(0.18, [(f, 1.0, 0.035), (1.7 * f, 0.5, 0.025), (3.1 * f, 0.15, 0.015)])
            _add(out, at + int(offset_s * RATE), thump, gain)
    return out


def gravel_steps(rng: Rng, n: int) -> Samples:
    """Somebody walks on gravel: every step a heel and a toe of grinding stones."""
    out = np.zeros(n)
    steps = round(n / RATE / 0.55)
    for k in range(steps):
        at = (k + 0.05 + rng.normal(0, 0.02)) / steps * n
        for offset_s, grains, gain in ((0.0, 40, 1.0), (0.12, 55, 0.7)):
            for _ in range(grains):
                when = int(at + (offset_s + abs(rng.normal(0, 0.045))) * RATE)
                centre = rng.uniform(1_200, 6_000)
                _add(
                    out,
                    when,
                    _burst(rng, 0.015, rng.uniform(0.001, 0.003), 0.7 * centre, 1.5 * centre),
                    gain * float(rng.lognormal(-1.6, 0.7)),
                )
        _add(out, int(at), _modes(0.1, [(85, 0.6, 0.02), (150, 0.3, 0.015)]))
    return out


def typing(rng: Rng, n: int) -> Samples:
    """A computer keyboard: press and release clicks in runs, the space bar now and then."""
    out = np.zeros(n)
    at = 0.1
    while at < n / RATE - 0.3:
        for _ in range(int(rng.integers(3, 9))):
            if at > n / RATE - 0.3:
                break
            space = rng.random() < 0.15
            body_hz = rng.uniform(240, 330) if space else rng.uniform(420, 800)
            click = _burst(rng, 0.03, 0.003, 1_800, 7_500) * 0.7
            _add_once(out, int(at * RATE), click, rng.uniform(0.7, 1.0))
            _add_once(out, int(at * RATE), _modes(0.05, [(body_hz, 1.2, 0.007), (2.7 * body_hz, 0.5, 0.004)]))
            release_s = at + rng.uniform(0.06, 0.10)
            _add_once(out, int(release_s * RATE), _burst(rng, 0.02, 0.002, 2_500, 9_000), rng.uniform(0.2, 0.4))
            at += float(np.clip(rng.lognormal(-1.95, 0.3), 0.08, 0.4))
        at += rng.uniform(0.1, 0.6)
    return _room(rng, out, 0.15, 0.2)


def dishes(rng: Rng, n: int) -> Samples:
    """A table being laid: forks and plates touch."""
    out = np.zeros(n)
    for at in sorted(_poisson(rng, n, 2.6)):
        metal = rng.random() < 0.6
        f0 = rng.uniform(2_300, 4_200) if metal else rng.uniform(900, 1_900)
        ratios, tau_s = ((1.0, 1.58, 2.24, 2.92), 0.06) if metal else ((1.0, 2.31, 3.87), 0.035)
        partials = [
            (f0 * r * rng.uniform(0.98, 1.02), 0.8**i, tau_s * rng.uniform(0.6, 1.2)) for i, r in enumerate(ratios)
        ]
        gain = float(rng.lognormal(-0.8, 0.6))
        for bounce in range(int(rng.integers(1, 4))):
            _add(
                out,
                at + int(bounce * rng.uniform(0.03, 0.08) * RATE),
                _modes(0.3, partials),
                gain * 0.55**bounce,
            )
        _add(out, at, _burst(rng, 0.01, 0.001, 3_000, 10_000), 0.6 * gain)
    return _room(rng, out, 0.4, 0.25)


# --- machines, vehicles, signals --------------------------------------------------------------------------


def engine(firings_per_s: float, cylinders: int, low: float, hiss: float, roughness: float) -> Callable:
    """An engine at steady speed: firing pulses of uneven strength through the ring of exhaust and block."""

    def make(rng: Rng, n: int) -> Samples:
        out = np.zeros(n)
        count = round(firings_per_s * n / RATE / cylinders) * cylinders
        strength = 1.0 + roughness * rng.standard_normal(cylinders)
        pulse = _modes(
            0.12,
            [(low, 1.0, 0.02), (2.1 * low, 0.7, 0.014), (4.7 * low, 0.35, 0.008), (9.3 * low, 0.15, 0.004)],
        )
        for k in range(count):
            at = int((k + rng.normal(0, 0.02)) / count * n) % n
            _add(out, at, pulse, strength[k % cylinders] * rng.uniform(0.9, 1.1))
        out /= np.sqrt(np.mean(out**2))
        flow = _noise(rng, n, _band(200, 5_000, -0.6)) * (0.7 + 0.3 * np.tanh(out))
        return out + hiss * flow

    return make


def motor(mains_hz: float, air: float, low_hz: float, high_hz: float, wobble_per_s: float = 0.0) -> Callable:
    """A household motor or fan: hum at a multiple of the mains, moving air, and a slow wobble."""

    def make(rng: Rng, n: int) -> Samples:
        t = np.arange(n) / RATE
        out = np.zeros(n)
        for order in range(1, 12):
            f = round(order * mains_hz * n / RATE) * RATE / n
            out += rng.uniform(0.2, 1.0) / order**1.2 * np.sin(2 * np.pi * f * t + rng.uniform(0, 6.28))
        out /= np.sqrt(np.mean(out**2))
        out += air * _noise(rng, n, _band(low_hz, high_hz, -0.6))
        if wobble_per_s:
            out *= 1.0 + 0.35 * np.sin(2 * np.pi * round(wobble_per_s * n / RATE) * t * RATE / n)
        return out * _drift(rng, n, 0.5, 0.93, 1.0)

    return make


def hum(rng: Rng, n: int) -> Samples:
    """A transformer: 100 Hz and its multiples, a trace of buzz."""
    t = np.arange(n) / RATE
    out = 0.15 * np.sin(2 * np.pi * 50 * t)
    for order, gain in enumerate((1.0, 0.5, 0.35, 0.2, 0.18, 0.1, 0.08, 0.06, 0.05, 0.04), start=1):
        out += gain * np.sin(2 * np.pi * 100 * order * t + rng.uniform(0, 6.28))
    return out + 0.03 * _noise(rng, n, _band(1_000, 6_000)) * (0.5 + 0.5 * np.sin(2 * np.pi * 100 * t)) ** 4


def traffic(rng: Rng, n: int) -> Samples:
    """A road some way off: a steady roar with cars that swell and fade."""
    out = 0.4 * _noise(rng, n, _band(40, 700, -0.7)) + 0.08 * _noise(rng, n, _band(500, 3_000, -0.7))
    low, high = _noise(rng, n, _band(50, 350, -0.5)), _noise(rng, n, _band(500, 3_500, -0.6))
    for _ in range(5):
        length_s = rng.uniform(2.5, 4.5)
        envelope = _bump(length_s, rng.uniform(0.4, 0.55)) ** 1.5
        index = (int(rng.integers(0, n)) + np.arange(len(envelope))) % n
        size = rng.uniform(0.4, 1.0)
        np.add.at(out, index, size * envelope * low[index])
        np.add.at(out, index, 0.35 * size * envelope**1.5 * high[index])
    return out


def train(rng: Rng, n: int) -> Samples:
    """Inside or beside a train: rumble, and wheel pairs over rail joints."""
    out = 0.5 * _noise(rng, n, _band(40, 400, -0.6)) * _drift(rng, n, 1.0, 0.8, 1.0)
    out += 0.12 * _noise(rng, n, _band(600, 4_000, -0.6))
    joints = round(n / RATE / 0.92)
    for k in range(joints):
        for offset_s, gain in ((0.0, 1.0), (0.13, 0.85), (0.42, 0.6), (0.55, 0.5)):
            at = int(k / joints * n + offset_s * RATE) % n
            clack = _modes(0.12, [(95, 1.5, 0.03), (310, 0.9, 0.015), (1_150, 0.5, 0.01), (2_400, 0.3, 0.006)])
            _add(out, at, clack + 0.5 * _burst(rng, 0.12, 0.01, 700, 5_000), 1.1 * gain * rng.uniform(0.9, 1.0))
    return out


def clock(ticks_per_s: float, body_hz: float) -> Callable:
    """A clock: two alternating ticks and the ring of its case."""

    def make(rng: Rng, n: int) -> Samples:
        out = np.zeros(n)
        count = 2 * round(ticks_per_s * n / RATE / 2)
        for k in range(count):
            tick = 1.0 if k % 2 == 0 else 0.88
            at = int((k + 0.1) / count * n)
            partials = [(body_hz * tick, 0.6, 0.012), (2_750 * tick, 0.8, 0.004), (4_900 * tick, 0.6, 0.003)]
            _add(out, at, _modes(0.08, partials) + 0.5 * _burst(rng, 0.08, 0.0015, 2_000, 10_000), tick)
            _add(out, at + int(0.018 * RATE), _modes(0.05, partials[1:]), 0.3 * tick)
        return _room(rng, out, 0.25, 0.12)

    return make


def _bell(f0: float, tau_s: float) -> list[tuple[float, float, float]]:
    ratios = (
        (0.5, 0.25, 1.3),
        (1.0, 1.0, 1.0),
        (1.19, 0.5, 0.8),
        (1.51, 0.35, 0.7),
        (2.0, 0.6, 0.6),
        (2.74, 0.35, 0.4),
        (3.76, 0.25, 0.3),
    )
    return [(f0 * r, g, tau_s * d) for r, g, d in ratios]


def telephone(rng: Rng, n: int) -> Samples:
    """An old telephone: a clapper between two gongs, two rings of a second and a half."""
    out = np.zeros(n)
    for start_s in (0.05, 3.05):
        for k in range(int(1.6 * 44)):
            f0 = 1_420.0 if k % 2 == 0 else 1_180.0
            gong = _modes(0.25, [(f0, 1.0, 0.06), (2.3 * f0, 0.6, 0.045), (3.9 * f0, 0.4, 0.03), (5.6 * f0, 0.2, 0.02)])
            _add_once(out, int((start_s + k / 44) * RATE), gong, rng.uniform(0.9, 1.0))
    return _room(rng, out, 0.3, 0.15)


def dial_tone(rng: Rng, n: int) -> Samples:
    """A busy signal: 425 Hz, half a second on, half a second off, through a telephone's band."""
    t = np.arange(n) / RATE
    gate = np.clip(30 * np.minimum(t % 1.0, 0.5 - t % 1.0), 0, 1)
    return np.sin(2 * np.pi * 425 * t) * gate + 0.004 * _noise(rng, n, _band(300, 3_400))


def alarm_clock(rng: Rng, n: int) -> Samples:
    """A digital alarm clock: four beeps a second group."""
    out = np.zeros(n)
    for second in range(int(n / RATE)):
        for k in range(4):
            beep = _tone(np.full(round(0.06 * RATE), 2_050.0), (1.0, 0.0, 0.35, 0.0, 0.15)) * _bump(0.06, 0.1) ** 0.3
            _add_once(out, int((second + 0.125 * k) * RATE), beep)
    return out


def siren(low_hz: float, high_hz: float, period_s: float) -> Callable:
    """An emergency siren that sweeps up and down; whole sweeps in the loop."""

    def make(rng: Rng, n: int) -> Samples:
        sweeps = max(1, round(n / RATE / period_s))
        share = 0.5 - 0.5 * np.cos(2 * np.pi * sweeps * np.arange(n) / n)
        f = low_hz * (high_hz / low_hz) ** (share**0.8)
        f += (round(f.sum() / RATE) - f.sum() / RATE) * RATE / n
        return _room(rng, _tone(f, (1.0, 0.3, 0.35, 0.1, 0.15, 0.05, 0.07)), 0.8, 0.2)

    return make


def horn(tones_hz: tuple[float, ...], length_s: float, brightness: float, space_s: float, blasts: int = 1) -> Callable:
    """A horn: tones with many partials, a slow start and end, some open space."""

    def make(rng: Rng, n: int) -> Samples:
        out = np.zeros(n)
        partials = tuple(brightness**h for h in range(24))
        for k in range(blasts):
            for f0 in tones_hz:
                f = f0 * _curve(length_s, (0, 0.985), (0.06, 1.0), (0.94, 1.0), (1, 0.985))
                envelope = np.minimum(1.0, np.minimum(_times(length_s), _times(length_s)[::-1]) / 0.07)
                rough = 1.0 + 0.05 * _noise(rng, len(f), _band(20, 90))
                _add_once(out, int((0.05 + k * (length_s + 0.35)) * RATE), _tone(f, partials) * envelope * rough)
        return _room(rng, out, space_s, 0.3)

    return make


def doorbell(rng: Rng, n: int) -> Samples:
    """Ding, dong: two struck bars."""
    out = np.zeros(n)
    for start_s, f0 in ((0.05, 659.3), (0.75, 523.3)):
        _add_once(
            out,
            int(start_s * RATE),
            _modes(2.5, [(f0, 1.0, 0.5), (2.76 * f0, 0.35, 0.2), (5.4 * f0, 0.15, 0.08)]),
        )
    return _room(rng, out, 0.4, 0.12)


def crossing_bell(rng: Rng, n: int) -> Samples:
    """A railway crossing's bell, struck two and a half times a second."""
    out = np.zeros(n)
    count = round(2.5 * n / RATE)
    for k in range(count):
        _add(out, int(k / count * n), _modes(0.9, _bell(1_050, 0.22)), rng.uniform(0.95, 1.0))
    return out


def buoy_bell(rng: Rng, n: int) -> Samples:
    """A bell buoy: a deep bell struck unevenly by the swell."""
    out = np.zeros(n)
    for at_s in (0.3, 1.1, 3.4, 4.0, 6.2, 8.3, 9.0):
        if at_s < n / RATE:
            _add(out, int(at_s * RATE), _modes(4.0, _bell(420, 1.2)), rng.uniform(0.5, 1.0))
    return _room(rng, out, 0.8, 0.15)


def morse(rng: Rng, n: int) -> Samples:
    """Morse code at twelve words a minute: CQ CQ."""
    out = np.zeros(n)
    at, unit_s = 0.1, 0.1
    for letter in ("-.-.", "--.-", " ", "-.-.", "--.-", " ", "-.-.", "--.-"):
        for sign in letter:
            length_s = {".": 1, "-": 3, " ": 4}[sign] * unit_s
            if sign != " ":
                envelope = np.minimum(1.0, np.minimum(_times(length_s), _times(length_s)[::-1]) / 0.005)
                _add_once(out, int(at * RATE), np.sin(2 * np.pi * 640 * _times(length_s)) * envelope)
            at += length_s + unit_s
        at += 2 * unit_s
    return out + 0.003 * _noise(rng, n, _band(200, 4_000))


def sonar(rng: Rng, n: int) -> Samples:
    """A sonar's ping with a long watery tail."""
    out = np.zeros(n)
    for start_s in (0.1, n / RATE / 2 + 0.1):
        ping = _tone(np.full(round(1.2 * RATE), 1_480.0), (1.0, 0.08)) * _decay(1.2, 0.25, 0.004)
        _add(out, int(start_s * RATE), ping)
    return _room(rng, out, 2.0, 0.5)


def static(rng: Rng, n: int) -> Samples:
    """A television or radio without a station."""
    return _noise(rng, n, _band(150, 11_000, -0.15)) * _drift(rng, n, 6.0, 0.9, 1.0)


def kettle(rng: Rng, n: int) -> Samples:
    """A kettle comes to the boil: a rumble of bubbles, then a rising whistle."""
    length_s = n / RATE
    rise = _curve(length_s, (0, 0), (0.25, 0.15), (0.5, 0.9), (0.95, 1.0), (1, 0))
    f = _curve(length_s, (0, 1_500), (0.5, 2_150), (1, 2_300)) * (1.0 + 0.003 * _noise(rng, n, _band(3, 30)))
    whistle = _tone(f, (1.0, 0.35, 0.12)) * rise * (1.0 + 0.08 * _noise(rng, n, _band(20, 80)))
    return whistle + 0.12 * _noise(rng, n, _band(100, 1_500, -0.4)) + 0.08 * rise * _noise(rng, n, _band(2_000, 10_000))


def flag(rng: Rng, n: int) -> Samples:
    """Cloth in the wind: low flaps, a few a second, with a snap."""
    out = 0.12 * _noise(rng, n, _band(80, 900, -0.6)) * _drift(rng, n, 0.5, 0.4, 1.0)
    gust = _drift(rng, n, 0.5, 0.2, 1.0)
    at = 0.0
    while at < n:
        length_s = rng.uniform(0.07, 0.16)
        flap = _noise(rng, round(length_s * RATE), _band(90, 1_600, -0.7)) * _bump(length_s, 0.2)
        _add(out, int(at), flap, gust[int(at)] * rng.uniform(0.5, 1.0))
        at += rng.uniform(0.10, 0.28) * RATE
    return out


RECIPES: dict[str, Recipe] = {
    "rain_light": Recipe("rain", "continuous", 10, rain(90, 0.35, 900, 8_000)),
    "rain_heavy": Recipe("heavy rain", "continuous", 10, rain(500, 1.0, 350, 9_500)),
    "rain_tin_roof": Recipe("rain on a metal roof", "continuous", 10, rain(160, 0.25, 600, 6_000, body_hz=760)),
    "rain_window": Recipe("rain on a window", "continuous", 10, rain(70, 0.12, 700, 4_500, body_hz=330)),
    "wind_open": Recipe("wind blowing", "continuous", 10, wind(50, 1_800, 0.4, 0.0)),
    "wind_howling": Recipe("wind howling", "continuous", 10, wind(60, 1_200, 0.3, 0.35)),
    "leaves_wind": Recipe("leaves rustling", "continuous", 10, leaves),
    "waves_beach": Recipe("sea waves", "continuous", 10, sea(2, 8_000)),
    "waves_surf": Recipe("sea waves", "continuous", 10, sea(1, 6_000)),
    "waves_hull": Recipe("water lapping against a boat", "continuous", 10, lapping),
    "stream_small": Recipe("water stream flowing", "continuous", 8, stream(170, 450, 2_600, 0.25)),
    "river": Recipe("river flowing", "continuous", 8, stream(320, 250, 1_500, 0.7)),
    "tap": Recipe("water running from tap", "continuous", 6, stream(240, 900, 4_200, 0.6)),
    "shower": Recipe("shower running", "continuous", 8, rain(900, 1.0, 1_200, 10_000)),
    "drips": Recipe("water dripping", "continuous", 8, dripping),
    "thunder_far": Recipe("distant thunder", "transient", 5, distant_thunder),
    "fire_wood": Recipe("fire crackling", "continuous", 8, fire),
    "crickets_field": Recipe("crickets chirping", "continuous", 8, crickets(3, 0.01)),
    "crickets_one": Recipe("crickets chirping", "continuous", 6, crickets(1, 0.006)),
    "night_summer": Recipe("night ambience with insects", "continuous", 10, night),
    "cicadas": Recipe("cicadas buzzing", "continuous", 8, cicadas),
    "frogs_pond": Recipe("frogs croaking", "continuous", 8, frogs),
    "owl": Recipe("owl hooting", "transient", 5.5, owl),
    "cuckoo": Recipe("cuckoo calling", "continuous", 6, cuckoo),
    "birds_garden": Recipe("birds chirping", "continuous", 8, birds(4, 1.6, 0.01, 0.0)),
    "birds_dawn": Recipe("birds chirping", "continuous", 10, birds(9, 3.2, 0.012, 0.0)),
    "forest": Recipe("forest ambience", "continuous", 10, birds(6, 1.0, 0.05, 0.09)),
    "gulls": Recipe("seagull calling", "continuous", 9, gulls),
    "bees": Recipe("bees buzzing", "continuous", 8, bees),
    "wolf": Recipe("wolf howling", "transient", 4.5, howl),
    "cat_purr": Recipe("cat purring", "continuous", 6.4, purr),
    "crowd": Recipe("crowd chatter", "continuous", 10, chatter(22)),
    "cafe": Recipe("people talking in the background", "continuous", 10, chatter(9)),
    "applause": Recipe("applause", "continuous", 7, applause),
    "snoring": Recipe("snoring", "continuous", 7.6, snoring),
    "heartbeat": Recipe("heartbeat", "continuous", 6, heartbeat),
    "gravel": Recipe("footsteps on gravel", "continuous", 6.6, gravel_steps),
    "typing": Recipe("typing on a keyboard", "continuous", 7, typing),
    "dishes": Recipe("dishes and cutlery clinking", "continuous", 7, dishes),
    "truck": Recipe("truck engine", "continuous", 7, engine(26, 6, 62, 0.25, 0.15)),
    "car_idle": Recipe("car engine", "continuous", 7, engine(34, 4, 88, 0.2, 0.08)),
    "motorcycle": Recipe("motorcycle engine", "continuous", 7, engine(42, 2, 115, 0.35, 0.2)),
    "motorboat": Recipe("motorboat engine", "continuous", 7, engine(58, 2, 130, 0.6, 0.1)),
    "ship_engine": Recipe("ship engine rumbling", "continuous", 8, engine(9, 3, 42, 0.2, 0.12)),
    "air_conditioner": Recipe("air conditioner humming", "continuous", 8, motor(118, 1.6, 120, 2_600)),
    "fan": Recipe("fan spinning", "continuous", 8, motor(72, 2.2, 100, 4_500, 3.0)),
    "refrigerator": Recipe("refrigerator humming", "continuous", 8, motor(50, 0.25, 80, 900)),
    "vacuum": Recipe("vacuum cleaner", "continuous", 7, motor(233, 1.5, 500, 9_000)),
    "washing_machine": Recipe("washing machine", "continuous", 8, motor(96, 1.2, 90, 2_000, 1.25)),
    "hum": Recipe("electrical hum", "continuous", 8, hum),
    "traffic": Recipe("road traffic", "continuous", 10, traffic),
    "train": Recipe("train rolling over tracks", "continuous", 9.2, train),
    "clock_wall": Recipe("clock ticking", "continuous", 8, clock(1.0, 620)),
    "clock_alarm": Recipe("clock ticking", "continuous", 6, clock(4.0, 1_100)),
    "telephone": Recipe("telephone ringing", "continuous", 6, telephone),
    "busy": Recipe("telephone dial or busy tone", "continuous", 5, dial_tone),
    "alarm_clock": Recipe("alarm clock beeping", "continuous", 6, alarm_clock),
    "siren_wail": Recipe("emergency siren", "continuous", 8, siren(520, 1_350, 4.0)),
    "siren_yelp": Recipe("alarm siren", "continuous", 6, siren(600, 1_500, 0.5)),
    "ship_horn": Recipe("ship horn", "transient", 5, horn((87.3, 110.0), 3.2, 0.86, 1.8)),
    "foghorn": Recipe("foghorn", "transient", 5.5, horn((65.4,), 3.5, 0.88, 2.0)),
    "train_horn": Recipe("train horn", "transient", 4.5, horn((311.1, 370.0, 466.2), 1.3, 0.8, 1.2, blasts=2)),
    "car_horn": Recipe("car horn", "transient", 1.8, horn((405.0, 508.0), 0.45, 0.84, 0.5, blasts=2)),
    "doorbell": Recipe("doorbell", "transient", 3.4, doorbell),
    "crossing_bell": Recipe("railway crossing bell", "continuous", 6, crossing_bell),
    "buoy": Recipe("bell buoy ringing", "continuous", 10, buoy_bell),
    "morse": Recipe("morse code beeping", "transient", 9, morse),
    "sonar": Recipe("sonar ping", "continuous", 8, sonar),
    "static": Recipe("television static", "continuous", 6, static),
    "kettle": Recipe("kettle whistling", "transient", 6, kettle),
    "flag": Recipe("flag flapping in the wind", "continuous", 8, flag),
}
"""All synthesised clips, by file stem."""


def synthesise(name: str) -> Samples:
    """Make one clip: mono float32 at `RATE`, peak −3 dBFS, the same samples on every call.

    Raises
    ------
    KeyError
        For a name that is not in `RECIPES`.
    """
    recipe = RECIPES[name]
    rng = np.random.default_rng([int(b) for b in name.encode()])
    n = round(recipe.duration_s * RATE)
    x = recipe.make(rng, n)
    x = x - x.mean()
    if recipe.kind == "transient":
        fade = round(0.02 * RATE)
        x[-fade:] *= np.linspace(1.0, 0.0, fade)
    return (x * (10 ** (-3 / 20) / np.max(np.abs(x)))).astype(np.float32)
