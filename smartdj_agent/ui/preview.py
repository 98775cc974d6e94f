"""What the browser plays: 16-bit WAV, at most stereo, small enough for a page's memory. The recording stays whole."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from smartdj_agent.audio import Audio, to_stereo
from smartdj_agent.errors import ErrorCode, SmartDJError

MAX_SAMPLES = 60_000_000
"""Most samples of all channels: 240 MB in a browser, which holds floats; eleven minutes of stereo at 44.1 kHz."""

_RATES_HZ = (48_000, 44_100, 32_000, 24_000, 16_000, 12_000, 8_000)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Preview:
    """A file for the browser: its name in the folder of previews, and how it differs from the recording."""

    name: str
    note: str


def preview_shape(frames: int, sample_rate: int, channels: int) -> tuple[int, int]:
    """Return rate in Hz and channels of the preview: the recording's own as far as `MAX_SAMPLES` allows.

    Stereo is kept down to 16 kHz, then folded; 8 kHz in one channel is the least, however long that is.
    """
    duration_s = frames / sample_rate
    kept = min(channels, 2)
    rates = [min(sample_rate, _RATES_HZ[0]), *(rate for rate in _RATES_HZ if rate < sample_rate)]
    for rate, count in [*((r, kept) for r in rates if r >= 16_000 or r == sample_rate), *((r, 1) for r in rates)]:
        if duration_s * rate * count <= MAX_SAMPLES:
            return rate, count
    return rates[-1], 1


def write_preview(audio: Audio, folder: Path) -> Preview:
    """Write what the browser plays.

    Parameters
    ----------
    audio
        A state of the recording.
    folder
        Where the file goes, under a name of its own.

    Raises
    ------
    SmartDJError
        OUTPUT_UNWRITABLE.
    """
    rate, channels = preview_shape(audio.n_samples, audio.sample_rate, audio.channels)
    notes = []
    if audio.channels > 2:
        notes.append(f"{audio.channels} channels are folded to {'two' if channels == 2 else 'one'}")
    elif channels < audio.channels:
        notes.append("it is folded to one channel")
    if rate < min(audio.sample_rate, _RATES_HZ[0]):
        notes.append(f"it plays at {rate / 1000:g} kHz")
    name = f"{uuid.uuid4().hex}.wav"
    stream = None
    if rate != audio.sample_rate:
        stream = soxr.ResampleStream(audio.sample_rate, rate, channels, dtype="float32", quality="HQ")
    try:
        with soundfile.SoundFile(folder / name, "w", rate, channels, "PCM_16", format="WAV") as file:
            for start in range(0, audio.n_samples, _BLOCK):
                block = _folded(audio.samples[:, start : start + _BLOCK], channels)
                if stream is not None:
                    block = stream.resample_chunk(block, last=start + _BLOCK >= audio.n_samples)
                file.write(np.clip(block, -1.0, 1.0))
    except (OSError, soundfile.LibsndfileError) as error:
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE, f"what the page plays can't be written: {error}", "make room on the disk"
        ) from error
    note = f"To listen to here, {' and '.join(notes)}; downloads are untouched." if notes else ""
    return Preview(name, note)


def _folded(samples: np.ndarray, channels: int) -> np.ndarray:
    """(channels, n) to (n, `channels`) float32."""
    block = np.asarray(samples, np.float32)
    if block.shape[0] > 2:
        block = to_stereo(block)
    if block.shape[0] > channels:
        block = block.mean(axis=0, keepdims=True)
    return np.ascontiguousarray(block.T)
