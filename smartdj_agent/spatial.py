"""Where a sound is: place it in two ears, and measure where it has been placed.

The released rule (see `FAR_EAR`) gives each direction one level and one delay of the far ear; the near ear is
the source, untouched. Between its points both are interpolated linearly in the azimuth, so every azimuth from
−90 (left) to 90 (right) degrees has a placement, and left and right are mirror images to the last bit.

Signs: an azimuth is negative on the left. An interaural time difference (ITD) is positive where the left ear
hears the sound first, an interaural level difference (ILD) is positive where the left ear hears it louder; so
both have the opposite sign of the azimuth. That is the sign of the published GCC metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts load when they are first used: signal alone takes half a second

from smartdj_agent.errors import ErrorCode, SmartDJError

RULE_RATE = 24_000
"""Sample rate in Hz at which the released rule counts its delays."""

FAR_EAR: tuple[tuple[float, float, int], ...] = ((0.0, 1.0, 0), (45.0, 0.8, 9), (90.0, 0.6, 14))
"""The released rule: (|azimuth| in degrees, gain of the far ear, its delay in samples at `RULE_RATE`)."""

FRACTIONAL_TAPS = 32
"""Length of the fractional-delay filter: a sinc under a Kaiser window.

Up to 0.8 of the Nyquist frequency the gain is within 0.001 dB of one and the delay within 0.01 µs (at 44.1
kHz) of the wanted one. The filter is centred on the delay, so it reaches 16 samples to either side of it.
"""

_KAISER_BETA = 9.0
_MAX_LAG_S = 1e-3
"""Longest ITD that is searched for; a head's is about 0.7 ms, the rule's 0.583 ms."""
_ANALYSIS_BLOCK = 8192

_AZIMUTHS = np.array([point[0] for point in FAR_EAR])
_GAINS = np.array([point[1] for point in FAR_EAR])
_DELAYS_S = np.array([point[2] for point in FAR_EAR]) / RULE_RATE


def _as_float(samples: np.ndarray) -> np.ndarray:
    """The samples as float32, or as float64 where they are that already."""
    array = np.asarray(samples)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_azimuth(azimuth_deg: float) -> float:
    if not -90.0 <= azimuth_deg <= 90.0:  # False for NaN too
        raise SmartDJError(
            ErrorCode.STEP_RANGE,
            f"azimuth {azimuth_deg} degrees is out of range",
            "use −90 (left) to 90 (right) degrees; 0 is in front",
            field="azimuth_deg",
        )
    return float(azimuth_deg)


def far_ear(azimuth_deg: float) -> tuple[float, float]:
    """Gain and delay of the ear that is turned away.

    Parameters
    ----------
    azimuth_deg
        −90 (left) to 90 (right).

    Returns
    -------
    gain, delay_s
        1.0 and 0 s in front, 0.8 and 9/24000 s at ±45°, 0.6 and 14/24000 s at ±90°, linear in between.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.
    """
    angle = abs(_check_azimuth(azimuth_deg))
    return float(np.interp(angle, _AZIMUTHS, _GAINS)), float(np.interp(angle, _AZIMUTHS, _DELAYS_S))


def delayed(mono: np.ndarray, delay_samples: float) -> np.ndarray:
    """Delay a signal, keeping its length.

    A whole number of samples is a plain shift: the samples that remain are the same bits. Any other delay
    goes through a Kaiser-windowed sinc of `FRACTIONAL_TAPS` taps.

    Parameters
    ----------
    mono
        (n,) samples.
    delay_samples
        Delay in samples; negative advances the signal. What leaves the frame is lost, what enters is zero.

    Returns
    -------
    np.ndarray
        (n,) in the same dtype (float32 unless float64 was given).
    """
    source = _as_float(mono)
    n = source.size
    out = np.zeros_like(source)
    whole = round(delay_samples)
    if abs(delay_samples - whole) < 1e-6:  # a millionth of a sample is below the error of the filter
        if abs(whole) < n:
            out[max(whole, 0) : n + min(whole, 0)] = source[max(-whole, 0) : n - max(whole, 0)]
        return out
    half = FRACTIONAL_TAPS // 2
    first = int(np.floor(delay_samples)) - half + 1  # output offset of the first tap
    if n == 0 or abs(first) > n + FRACTIONAL_TAPS:
        return out
    t = np.arange(first, first + FRACTIONAL_TAPS) - delay_samples  # (−half, half)
    taps = np.sinc(t) * np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (t / half) ** 2))) / np.i0(_KAISER_BETA)
    taps /= taps.sum()  # unit gain at 0 Hz
    filtered = np.convolve(source, taps.astype(source.dtype))  # (n + taps − 1,), sample 0 lies at output `first`
    begin, end = max(first, 0), min(n, first + filtered.size)
    if begin < end:
        out[begin:end] = filtered[begin - first : end - first]
    return out


def place(mono: np.ndarray, azimuth_deg: float, sample_rate: int) -> np.ndarray:
    """Place a source by the released rule.

    The near ear is the source itself; the far ear is quieter and later by `far_ear`. At 24 kHz the five
    published directions are exact to the sample (a shift and a gain, nothing else); so is every placement
    whose delay is a whole number of samples. Other delays are fractional (see `delayed`).

    Parameters
    ----------
    mono
        (n,) samples.
    azimuth_deg
        −90 (left) to 90 (right), 0 in front.
    sample_rate
        Hz.

    Returns
    -------
    np.ndarray
        (2, n): left, right. float32, or float64 where that was given. The last samples of the far ear fall
        off the end.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for an azimuth outside −90…90.

    Notes
    -----
    Rule: `create_spatial_audio` of the released code (ears 0.2 m apart, 340 m/s), confirmed on the authors'
    demo recordings.
    """
    source = _as_float(mono)
    if source.ndim != 1:
        raise ValueError(f"place needs samples of shape (n,), got {source.shape}")
    gain, delay_s = far_ear(azimuth_deg)
    out = np.empty((2, source.size), source.dtype)
    near = 0 if azimuth_deg <= 0 else 1
    out[near] = source
    if gain == 1.0 and delay_s == 0.0:
        out[1 - near] = source
    else:
        np.multiply(delayed(source, delay_s * sample_rate), source.dtype.type(gain), out=out[1 - near])
    return out


def _check_stereo(stereo: np.ndarray) -> np.ndarray:
    samples = _as_float(stereo)
    if samples.ndim != 2 or samples.shape[0] != 2:
        raise ValueError(f"two ears need samples of shape (2, n), got {samples.shape}")
    return samples


def measure_ild_db(stereo: np.ndarray) -> float:
    """Interaural level difference of a whole clip.

    Parameters
    ----------
    stereo
        (2, n) samples.

    Returns
    -------
    float
        20·log10 of left RMS over right RMS, limited to ±120 dB; 0 where both ears are silent.
    """
    samples = _check_stereo(stereo).astype(np.float64)
    left, right = (float(np.dot(ear, ear)) for ear in samples)
    return _level_db(left, right)


def _level_db(left: float, right: float) -> float:
    """Ratio of two powers in dB, limited to ±120; 0 for silence."""
    if left == 0.0 and right == 0.0:
        return 0.0
    tiny = 1e-12 * max(left, right)
    return 10.0 * float(np.log10(max(left, tiny) / max(right, tiny)))


@dataclass(frozen=True)
class _Cues:
    """What two ears tell: ITD, its clarity (0 to 1: the height of the correlation's peak), ILD."""

    itd_s: float
    clarity: float
    ild_db: float


def _cues(stereo: np.ndarray, sample_rate: int) -> _Cues:
    samples = _check_stereo(stereo)
    n = samples.shape[1]
    block = _ANALYSIS_BLOCK * max(1, round(sample_rate / RULE_RATE))
    hop = block // 2
    # Half a block of zeros on both sides, so that the window leaves no sample out.
    count = max(1, -(-(n + block) // hop) - 1)
    padded = np.zeros((2, (count - 1) * hop + block))
    padded[:, hop : hop + n] = samples
    window = scipy.signal.get_window("hann", block)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, block, axis=1)[:, ::hop]
    cross = np.zeros(block // 2 + 1, np.complex128)
    power = np.zeros((2, block // 2 + 1))
    for start in range(0, count, 32):  # 32 blocks at a time bound the memory
        spectra = scipy.fft.rfft(blocks[:, start : start + 32] * window, axis=-1)
        cross += (spectra[0] * spectra[1].conj()).sum(axis=0)
        power += (spectra.real**2 + spectra.imag**2).sum(axis=1)
    both = np.sqrt(power[0] * power[1])
    heard = both > 1e-7 * both.max()  # bins 70 dB below the loudest hold only rounding noise
    if not heard.any():
        return _Cues(0.0, 0.0, measure_ild_db(samples))
    # A fractional delay is exact up to 0.8 of the Nyquist frequency; so only this part tells the level.
    left, right = power[:, : int(0.8 * power.shape[1])].sum(axis=1)
    ild_db = _level_db(float(left), float(right))
    weighted = np.where(heard, cross / np.where(heard, both, 1.0), 0.0)
    fine = 16
    values = scipy.fft.irfft(weighted, block * fine) * (block * fine / (2.0 * np.count_nonzero(heard)))
    reach = int(_MAX_LAG_S * sample_rate * fine) + 1
    lags = np.arange(-reach, reach + 1)
    near = values[lags]  # a sound that is early on the left peaks at a negative lag
    # A tone peaks once per period, equally high: the smallest lag is the plausible one.
    best = int(np.argmax(near * (1.0 - 0.05 * np.abs(lags) / reach)))
    lag = float(lags[best])
    if 0 < best < near.size - 1:
        before, here, after = near[best - 1 : best + 2]
        curve = before - 2.0 * here + after
        if curve < 0.0:
            lag += float(0.5 * (before - after) / curve)
    return _Cues(-lag / (fine * sample_rate), float(np.clip(near[best], 0.0, 1.0)), ild_db)


def measure_itd_s(stereo: np.ndarray, sample_rate: int) -> float:
    """Interaural time difference of a whole clip, to a fraction of a sample.

    Parameters
    ----------
    stereo
        (2, n) samples.
    sample_rate
        Hz.

    Returns
    -------
    float
        Seconds within ±1 ms, positive where the left ear is first; 0 where an ear is silent.

    Notes
    -----
    Generalised cross-correlation (Knapp and Carter 1976) of the spectra averaged over half-overlapping
    blocks. The cross spectrum is divided by both ears' mean magnitudes: PHAT for one coherent source, while
    bins in which the ears have nothing in common count less. The peak is found on a 16 times finer grid and
    refined by a parabola. `gcc_itd_ms` is the published metric, which works in whole samples.
    """
    return _cues(stereo, sample_rate).itd_s


def measure_azimuth(stereo: np.ndarray, sample_rate: int) -> float:
    """Direction of the (strongest) source: the released rule read backwards.

    Time and level difference each give an angle. Where these agree within 15° the result is their mean,
    elsewhere the larger of the two: a sound that is panned by level alone, or by time alone, has one cue at
    zero. The time difference counts only where the ears correlate (peak of at least 0.2).

    Parameters
    ----------
    stereo
        (2, n) samples.
    sample_rate
        Hz.

    Returns
    -------
    float
        Degrees, −90 (left) to 90 (right); 0 for silence.
    """
    return _azimuth_deg(_cues(stereo, sample_rate))


def _azimuth_deg(cues: _Cues) -> float:
    by_time = -float(np.copysign(np.interp(abs(cues.itd_s), _DELAYS_S, _AZIMUTHS), cues.itd_s))
    gain = 10.0 ** (-abs(cues.ild_db) / 20.0)
    by_level = -float(np.copysign(np.interp(gain, _GAINS[::-1], _AZIMUTHS[::-1]), cues.ild_db))
    if cues.clarity < 0.2:
        return by_level + 0.0
    if abs(by_time - by_level) <= 15.0:
        return 0.5 * (by_time + by_level) + 0.0  # + 0.0: never −0
    return (by_time if abs(by_time) > abs(by_level) else by_level) + 0.0


def unplace(stereo: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """Recover a source from its placement, and where it was.

    The near ear is taken as the source: it is the louder one. In a recording that follows no rule the louder
    ear may be the later one; then it is advanced by the measured time difference, so that the source keeps
    the moment at which the first ear heard it. Nothing is mixed (the ears of a real recording differ, and
    their sum would comb), so what only the other ear holds is lost. For a sound placed by `place` the result
    is the source, bit for bit.

    Parameters
    ----------
    stereo
        (2, n) samples.
    sample_rate
        Hz.

    Returns
    -------
    mono, azimuth_deg
        (n,) in the same dtype, and `measure_azimuth`.
    """
    samples = _check_stereo(stereo)
    cues = _cues(samples, sample_rate)
    near = 0 if cues.ild_db >= 0.0 else 1
    late_s = -cues.itd_s if near == 0 else cues.itd_s
    source = samples[near].copy()
    if late_s > 0.0 and cues.clarity >= 0.2:
        # Below half a decibel the levels don't tell which ear is the near one.
        alike = abs(cues.ild_db) < 0.5
        source = samples[1 - near].copy() if alike else delayed(source, -round(late_s * sample_rate))
    return source, _azimuth_deg(cues)


_GCC_RATE = 16_000
_GCC_FPS = 10
_GCC_WINDOW = 3840
_GCC_PATCHES = 513
_GCC_MAX_LAG = 24


def gcc_itd_ms(stereo: np.ndarray, sample_rate: int, *, patch_step: int = 64) -> float:
    """Clip-mean ITD as the published GCC metric measures it.

    Ten frames per second; per frame 513 patches of 3840 samples, one sample apart, from a window of 4352
    centred on the frame (clamped at the clip's ends); per patch GCC-PHAT over 7680 points, the whole-sample
    lag within ±24 of the largest magnitude; mean over patches, then frames. All at 16 kHz.

    Parameters
    ----------
    stereo
        (2, n) samples; shorter than 0.272 s is padded with zeros.
    sample_rate
        Hz; anything but 16 kHz is resampled by `scipy.signal.resample`.
    patch_step
        Only every `patch_step`-th patch is measured, 1 to 512. Patches overlap by all but one sample, so 64
        (9 patches) changes the mean by less than the metric's own resolution and is 57 times faster; 1 is the
        published definition.

    Returns
    -------
    float
        Milliseconds, positive where the left ear is first; always 0 for equal channels.

    Notes
    -----
    Definition: evaluation code of "Both Ears Wide Open" (arXiv 2410.10676). One departure: a patch in which
    an ear is digitally silent has no direction and counts as 0 (there the original's argmax over equal values
    returns the end of its range).
    """
    if not 1 <= patch_step < _GCC_PATCHES:
        raise ValueError(f"patch_step must be 1 to {_GCC_PATCHES - 1}, got {patch_step}")
    samples = _check_stereo(stereo).astype(np.float64)
    # Resampling spreads a little of every sound over digital silence; so silence is told before it.
    sounding = np.pad(np.cumsum(samples != 0.0, axis=1), ((0, 0), (1, 0)))
    if sample_rate != _GCC_RATE and samples.shape[1]:
        samples = scipy.signal.resample(samples, max(1, round(samples.shape[1] * _GCC_RATE / sample_rate)), axis=1)
    length = _GCC_WINDOW + _GCC_PATCHES - 1
    n = samples.shape[1]
    frames = max(1, n * _GCC_FPS // _GCC_RATE)
    if n < length:
        samples = np.pad(samples, ((0, 0), (0, length - n)))
        n = length
    means = np.empty(frames)
    for frame in range(frames):
        start = min(max(frame * _GCC_RATE // _GCC_FPS - length // 2, 0), n - length)
        window = samples[:, start : start + length]
        patches = np.lib.stride_tricks.sliding_window_view(window, _GCC_WINDOW, axis=1)[:, ::patch_step]
        spectra = scipy.fft.rfft(patches, 2 * _GCC_WINDOW, axis=-1)
        cross = spectra[0] * spectra[1].conj()
        values = np.abs(scipy.fft.irfft(cross / (np.abs(cross) + 1e-20), 2 * _GCC_WINDOW, axis=-1))
        near = np.concatenate([values[:, -_GCC_MAX_LAG:], values[:, : _GCC_MAX_LAG + 1]], axis=1)
        begins = (start + np.arange(0, _GCC_PATCHES, patch_step)) * sample_rate // _GCC_RATE
        ends = begins + -(-_GCC_WINDOW * sample_rate // _GCC_RATE)
        last = sounding.shape[1] - 1
        silent = (sounding[:, np.minimum(ends, last)] == sounding[:, np.minimum(begins, last)]).any(axis=0)
        lags = np.where(silent, 0, np.argmax(near, axis=1) - _GCC_MAX_LAG)
        means[frame] = -lags.mean() / _GCC_RATE
    return float(1000.0 * means.mean())


def gcc_error(reference: np.ndarray, estimate: np.ndarray, sample_rate: int, *, patch_step: int = 64) -> float:
    """Published GCC metric of one clip: 1000 times the squared difference of the clip-mean ITDs.

    Parameters
    ----------
    reference, estimate
        (2, n) samples at the same rate.
    sample_rate
        Hz.
    patch_step
        See `gcc_itd_ms`.

    Returns
    -------
    float
        10⁻³ ms²; 0 is perfect, two equal channels against hard left score 316. Average it over clips.
    """
    difference = gcc_itd_ms(reference, sample_rate, patch_step=patch_step) - gcc_itd_ms(
        estimate, sample_rate, patch_step=patch_step
    )
    return 1000.0 * difference**2


EAR_DISTANCE_M = 0.17
"""Distance of the ears in `room_place`, after the SmartDJ paper."""

ROOM_SIZE_M = ((3.5, 9.0), (3.0, 7.0), (2.4, 3.6))
"""Ranges of length, width and height of a room, metres (ours: the paper's are not published)."""

SOURCE_DISTANCE_M = (0.8, 3.0)
"""Range of the distance from the head to the source, metres (ours)."""

RT60_RANGE_S = (0.3, 1.2)
"""Range of reverberation times that `room_place` takes, after the SmartDJ paper."""

_IMAGE_ORDER = 12
_WALL_MARGIN_M = 0.4


def room_place(
    mono: np.ndarray, azimuth_deg: float, sample_rate: int, rt60_s: float, rng: np.random.Generator
) -> np.ndarray:
    """Place a source in a simulated room: the paper's variant of `place`, for training data.

    A shoebox of random size; two cardioid ears 0.17 m apart facing outward; the source at the azimuth and at
    a random distance at ear height. Reflections up to order 12 are exact (image sources, pyroomacoustics);
    from the time at which that order is incomplete they go over into decaying noise, independent per ear,
    which has the level that the reflections had there and the wanted reverberation time.

    Parameters
    ----------
    mono
        (n,) samples.
    azimuth_deg
        −90 (left) to 90 (right).
    sample_rate
        Hz.
    rt60_s
        Reverberation time, 0.3 to 1.2 s. The response's measured one lies within about 15 % (Sabine's formula
        sets the walls).
    rng
        Draws the room's size, the head's place, the source's distance and the noise, in this order.

    Returns
    -------
    np.ndarray
        (2, n), same dtype as `place`. The direct sound starts when the source does and is as loud in the
        nearer ear.

    Raises
    ------
    SmartDJError
        ``STEP_RANGE`` for azimuth or reverberation time; ``USAGE`` where pyroomacoustics isn't installed.
    """
    source = _as_float(mono)
    response = _room_response(_check_azimuth(azimuth_deg), sample_rate, rt60_s, rng).astype(source.dtype)
    if source.size == 0:
        return np.zeros((2, 0), source.dtype)
    return np.stack([scipy.signal.oaconvolve(source, ear)[: source.size] for ear in response]).astype(source.dtype)


def _room_response(azimuth_deg: float, sample_rate: int, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """Impulse responses (2, m) of a random room, the first ear's direct sound at sample 0 with gain one."""
    if not RT60_RANGE_S[0] <= rt60_s <= RT60_RANGE_S[1]:
        raise SmartDJError(
            ErrorCode.STEP_RANGE,
            f"reverberation time {rt60_s} s is out of range",
            f"use {RT60_RANGE_S[0]} to {RT60_RANGE_S[1]} s",
            field="rt60_s",
        )
    try:
        import pyroomacoustics as rooms
    except ImportError as error:
        raise SmartDJError(
            ErrorCode.USAGE,
            "room placement needs pyroomacoustics, which isn't installed",
            "run `pip install 'smartdj-agent[training]'`",
        ) from error
    size = np.array([rng.uniform(*limits) for limits in ROOM_SIZE_M])
    margin = _WALL_MARGIN_M + EAR_DISTANCE_M
    head = np.array([rng.uniform(margin, 0.5 * size[0]), rng.uniform(0.35, 0.65) * size[1], rng.uniform(1.1, 1.7)])
    angle = -np.deg2rad(azimuth_deg)  # the head looks along x; left is towards +y
    ahead = np.array([np.cos(angle), np.sin(angle), 0.0])
    # How far the source may go before it comes too near to a wall.
    rooms_left = [
        ((size[axis] - _WALL_MARGIN_M if ahead[axis] > 0 else _WALL_MARGIN_M) - head[axis]) / ahead[axis]
        for axis in (0, 1)
        if abs(ahead[axis]) > 1e-9
    ]
    farthest = min(SOURCE_DISTANCE_M[1], *rooms_left)
    distance = rng.uniform(min(SOURCE_DISTANCE_M[0], farthest), farthest)
    absorption, _ = rooms.inverse_sabine(rt60_s, size)
    room = rooms.ShoeBox(
        size, fs=sample_rate, materials=rooms.Material(absorption), max_order=_IMAGE_ORDER, use_rand_ism=False
    )
    room.add_source(head + distance * ahead)
    half = np.array([0.0, EAR_DISTANCE_M / 2, 0.0])
    outward = [
        rooms.directivities.Cardioid(
            orientation=rooms.directivities.DirectionVector(azimuth=degrees, colatitude=90, degrees=True)
        )
        for degrees in (90, 270)
    ]
    ears = np.stack([head + half, head - half], axis=1)
    room.add_microphone_array(rooms.MicrophoneArray(ears, sample_rate, directivity=outward))
    room.compute_rir()

    distances = np.linalg.norm(ears.T - room.sources[0].position, axis=1)
    first = int(np.argmin(distances)) if azimuth_deg else 0
    delay = rooms.constants.get("frac_delay_length") // 2 + distances[first] / room.c * sample_rate
    start = round(delay)
    # Image sources are complete up to the time in which sound crosses the smallest dimension `order` times.
    mixing = int(_IMAGE_ORDER * size.min() / room.c * sample_rate) - start
    length = mixing + round(1.1 * rt60_s * sample_rate)
    response = np.zeros((2, length))
    for ear in (0, 1):
        images = room.rir[ear][0][start : start + length]
        response[ear, : images.size] = images
    cosine = (ears[:, first] - room.sources[0].position) @ np.array([0.0, 1.0 if first == 0 else -1.0, 0.0])
    direct = 0.5 * (1.0 - cosine / distances[first]) / distances[first]
    response /= direct  # pyroomacoustics lets sound fall with 1/distance from 1 at a metre

    decay = np.exp(-np.log(1000.0) / (rt60_s * sample_rate) * (np.arange(length) - mixing))
    noise = rng.standard_normal((2, length)) * decay
    span = max(1, mixing // 3)
    fade = np.clip((np.arange(length) - (mixing - span)) / span, 0.0, 1.0)
    before = slice(max(0, mixing - span), mixing)
    for ear in (0, 1):
        level = np.sqrt(np.sum(response[ear, before] ** 2) / max(np.sum(noise[ear, before] ** 2), 1e-30))
        response[ear] = np.sqrt(1.0 - fade) * response[ear] + np.sqrt(fade) * level * noise[ear]
    return response
