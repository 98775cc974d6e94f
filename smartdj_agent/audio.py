"""Recordings in and out: every container that libsndfile knows, the recording's own format kept.

A recording that is read and written again under the same container comes back with the same rate, length,
channels and samples. Lossless subtypes (integer PCM, FLAC, float, double, µ-law, A-law) return every
sample that was not changed bit for bit; lossy ones (OGG Vorbis and Opus, MP3, ADPCM, GSM) are encoded anew,
so there every sample changes a little.

libsndfile's own conversion between floats and integers reads with a scale of 2^(bits−1) and writes with
2^(bits−1)−1, which alters samples on the way; so integers are scaled here, by 2^(bits−1) both ways, rounded
to nearest, without dither.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from smartdj_agent import files
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import exists_error, publish, temporary_beside, write_error

MAX_DURATION_S = 4 * 3600.0
"""Longest recording that is read, seconds."""

_BLOCK = 1 << 18
"""Frames read, converted or written at a time, so that long recordings are held in memory only once."""

_INTEGER_BITS: dict[str, int] = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "DWVW_12": 12, "DWVW_16": 16, "DWVW_24": 24, "DPCM_8": 8, "DPCM_16": 16,
    "ULAW": 16, "ALAW": 16,
}  # fmt: skip
"""Bits of the integers that each subtype stores (µ-law and A-law: of the integers that they code)."""

_ALAC = {"ALAC_16": "PCM_16", "ALAC_20": "PCM_24", "ALAC_24": "PCM_24", "ALAC_32": "PCM_32"}
"""ALAC is read, but written as the PCM that holds the same samples: through ALAC of libsndfile 1.2.2 white
noise with
peaks of 0.9 comes back with errors of up to 1.9 (tones come back exactly), so what it writes can't be
trusted."""

_NEEDS_FLOAT64 = frozenset({"PCM_32", "ALAC_32", "DOUBLE"})
"""Subtypes whose samples have more digits than float32 holds."""

_CONTAINERS: dict[str, str] = {
    "wav": "WAV", "wave": "WAV", "bwf": "WAV", "rf64": "RF64", "w64": "W64",
    "aif": "AIFF", "aiff": "AIFF", "aifc": "AIFF", "au": "AU", "snd": "AU", "caf": "CAF",
    "flac": "FLAC", "ogg": "OGG", "oga": "OGG", "opus": "OGG", "mp3": "MP3",
    "avr": "AVR", "htk": "HTK", "iff": "SVX", "svx": "SVX", "8svx": "SVX", "mat": "MAT5",
    "mat4": "MAT4", "mat5": "MAT5",
    "mpc": "MPC2K", "paf": "PAF", "pvf": "PVF", "sd2": "SD2", "sds": "SDS", "sf": "IRCAM", "ircam": "IRCAM",
    "voc": "VOC",
    "nist": "NIST", "sph": "NIST", "wve": "WVE", "xi": "XI",
}  # fmt: skip
"""Container that each suffix stands for."""

_SAME_SUFFIX: dict[str, frozenset[str]] = {
    "WAV": frozenset({"WAV", "WAVEX", "RF64", "NIST"}),
    "MAT5": frozenset({"MAT4", "MAT5"}),
}
"""Containers that commonly share a suffix: the recording keeps its own."""

_FALLBACKS: dict[str, tuple[str, ...]] = {
    "DOUBLE": ("FLOAT", "PCM_32", "PCM_24"),
    "FLOAT": ("DOUBLE", "PCM_24"),
    "PCM_32": ("DOUBLE", "PCM_24"),
    "PCM_24": ("PCM_32", "FLOAT"),
    "DWVW_24": ("PCM_24", "PCM_32", "FLOAT"),
    "PCM_U8": ("PCM_S8", "PCM_16"),
    "PCM_S8": ("PCM_U8", "PCM_16"),
}
"""Subtypes to try, best first, where a container can't hold the wanted one; then PCM_16, then its default."""

_LOSSY_CONTAINERS = frozenset({"OGG", "MP3"})
_LOSSLESS_SUBTYPES = frozenset(_INTEGER_BITS) | {"FLOAT", "DOUBLE"}
_WAV_LIMIT_BYTES = (1 << 32) - (1 << 20)
_STREAMED_BYTES = 0x7FFF0000  # programs that write WAV to a pipe state a length from here up, since they can't know it
# libsndfile states 2^63 − 1 frames for FLAC that was written to a pipe; soundfile can't read that to its end.
_LENGTH_UNKNOWN = 1 << 62
_UNKNOWN_TO_LIBSNDFILE = frozenset(
    {"aac", "ac3", "amr", "ape", "dsf", "m4a", "m4b", "mka", "mkv", "mov", "mp4", "mpc", "webm", "wma", "wv"}
)
_CONVERT = "convert it first, for example with `ffmpeg -i IN out.wav`"


@dataclass(frozen=True)
class AudioFormat:
    """How a recording is stored, in soundfile's own names.

    Attributes
    ----------
    container
        Such as ``WAV``, ``FLAC``, ``AIFF``.
    subtype
        Such as ``PCM_16``, ``PCM_24``, ``FLOAT``, ``VORBIS``.
    endian
        ``FILE`` (the container's usual), ``LITTLE`` or ``BIG``.
    """

    container: str = "WAV"
    subtype: str = "FLOAT"
    endian: str = "FILE"


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording in memory; compared by identity (use `audio_sha256` to compare contents).

    Attributes
    ----------
    samples
        (channels, n), C-contiguous, full scale ±1. float32; float64 where the subtype has more digits than
        float32 holds (PCM_32, ALAC_32, DOUBLE), so that untouched samples survive. Models cast for
        themselves.
    sample_rate
        Hz.
    format
        How it is, or shall be, stored.
    tags
        Text fields of the file (title, artist, comment …) as (name, value), carried over on writing.
    """

    samples: np.ndarray
    sample_rate: int
    format: AudioFormat = AudioFormat()
    tags: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.samples.ndim != 2:
            raise ValueError(f"samples need the shape (channels, n), got {self.samples.shape}")
        dtype = np.float64 if self.samples.dtype == np.float64 else np.float32
        object.__setattr__(self, "samples", np.ascontiguousarray(self.samples, dtype))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[0])

    @property
    def n_samples(self) -> int:
        """Samples per channel."""
        return int(self.samples.shape[1])

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


@dataclass(frozen=True)
class AudioHeader:
    """What a file says about its recording before a sample is read.

    Attributes
    ----------
    sample_rate
        Hz.
    channels
        Number of channels.
    frames
        Samples per channel; for OGG and MP3 an estimate.
    format
        How it is stored.
    """

    sample_rate: int
    channels: int
    frames: int
    format: AudioFormat


def read_header(path: str | os.PathLike[str], *, max_duration_s: float = MAX_DURATION_S, name: str = "") -> AudioHeader:
    """Read what a file says about its recording, and check all that can be checked without its samples.

    Parameters
    ----------
    path
        A file in any container that libsndfile knows; the contents decide, not the suffix.
    max_duration_s
        Longest recording that is taken, seconds.
    name
        What messages call the file; by default its path.

    Raises
    ------
    SmartDJError
        As `read_audio`, except ``AUDIO_NOT_FINITE`` and ``OUT_OF_MEMORY``.
    """
    file = Path(path)
    shown = Path(name) if name else file
    _check_readable(file, shown)
    with _opened(file, shown) as sound:
        return _header(sound, shown, max_duration_s)


def read_audio(path: str | os.PathLike[str], *, start_frame: int = 0, frames: int | None = None) -> Audio:
    """Read a recording, or a part of it.

    Parameters
    ----------
    path
        A file in any container that libsndfile knows; the contents decide, not the suffix.
    start_frame
        First sample of each channel that is read.
    frames
        How many samples per channel are read; by default all from there on.

    Returns
    -------
    Audio
        float32, or float64 for PCM_32, ALAC_32 and DOUBLE. Memory: the samples, and one block.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND``; ``AUDIO_UNREADABLE`` (not audio, damaged, cut short, a folder, no permission; a part
        that isn't there); ``AUDIO_UNSUPPORTED`` (a format that libsndfile doesn't know, or headerless);
        ``AUDIO_EMPTY`` (no bytes or no samples); ``AUDIO_NOT_FINITE`` (NaN or infinite samples);
        ``AUDIO_TOO_LONG`` (what is read is above `MAX_DURATION_S`); ``OUT_OF_MEMORY``.

    Notes
    -----
    A file that holds fewer samples than its header promises is refused as cut short. OGG and MP3 are an
    exception: their headers only estimate the length, so what is there is read.
    """
    file = Path(path)
    _check_readable(file, file)
    with _opened(file, file) as sound:
        return _read_open(sound, file, start_frame, frames)


@contextmanager
def _opened(file: Path, shown: Path) -> Iterator[Any]:
    """Open a recording; whatever fails while it is open becomes an error that calls the file `shown`."""
    try:
        with soundfile.SoundFile(file) as sound:
            yield sound
    except soundfile.LibsndfileError as error:
        raise _unreadable(shown, str(error)) from error
    except TypeError as error:  # soundfile asks for rate and channels of headerless (.raw) files this way
        raise SmartDJError(
            ErrorCode.AUDIO_UNSUPPORTED,
            f"{shown} has no header that states its sample rate",
            "convert it to WAV first, for example with sox or ffmpeg",
        ) from error
    except MemoryError as error:
        raise _too_big(shown) from error
    except OSError as error:
        raise _unreadable(shown, error.strerror or str(error)) from error


def _check_readable(file: Path, shown: Path) -> None:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FOUND, f"{shown} does not exist", "check the path and its spelling"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unreadable(shown, getattr(error, "strerror", None) or str(error)) from error
    if file.is_dir():
        raise SmartDJError(ErrorCode.AUDIO_UNREADABLE, f"{shown} is a folder", "name an audio file inside it")
    if not file.is_file():
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE, f"{shown} is not a regular file", "save the audio to a file first"
        )
    try:
        with file.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        hint = "check that you may read it" if isinstance(error, PermissionError) else "check the disk it lies on"
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE, f"{shown} can't be opened: {error.strerror or error}", hint
        ) from error
    if not head:
        raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"{shown} is empty (0 bytes)", "record or export it again")
    if head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"0&\xb2u"):  # MP4, Matroska, ASF
        raise SmartDJError(ErrorCode.AUDIO_UNSUPPORTED, f"{shown} is in a format that can't be read here", _CONVERT)


def _is_lossy(stored: AudioFormat) -> bool:
    return stored.container in _LOSSY_CONTAINERS or stored.subtype.startswith("MPEG")


def _header(sound: Any, file: Path, max_duration_s: float) -> AudioHeader:
    stored = AudioFormat(str(sound.format), str(sound.subtype), str(sound.endian))
    rate, channels, frames = int(sound.samplerate), int(sound.channels), int(sound.frames)
    if not _is_lossy(stored):
        _check_whole(str(sound.extra_info), file)
    if frames <= 0 or rate <= 0:
        raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"{file} holds no samples", "record or export it again")
    if frames >= _LENGTH_UNKNOWN:
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE,
            f"{file} does not state its length (it was written to a pipe)",
            _CONVERT,
        )
    if frames / rate > max_duration_s:
        unit, per_unit = ("h", 3600.0) if max_duration_s >= 3600 else ("s", 1.0)
        raise SmartDJError(
            ErrorCode.AUDIO_TOO_LONG,
            f"{file} lasts {frames / rate / per_unit:.1f} {unit}; the limit is {max_duration_s / per_unit:g} {unit}",
            "cut it into shorter files",
        )
    return AudioHeader(rate, channels, frames, stored)


def _read_open(sound: Any, file: Path, first: int = 0, wanted: int | None = None) -> Audio:
    whole = first == 0 and wanted is None
    header = _header(sound, file, MAX_DURATION_S if whole else float("inf"))
    rate, channels = header.sample_rate, header.channels
    frames = header.frames - first if wanted is None else wanted
    subtype, lossy = header.format.subtype, _is_lossy(header.format)
    if not whole:
        _check_part(file, header, first, frames)
        sound.seek(first)
    dtype = np.dtype(np.float64 if subtype in _NEEDS_FLOAT64 else np.float32)
    if frames * channels * dtype.itemsize > 0.8 * _memory_bytes():
        raise _too_big(file)
    samples = np.empty((channels, frames), dtype)
    done = 0
    while done < frames:
        block = sound.read(min(_BLOCK, frames - done), dtype=dtype.name, always_2d=True)
        if not len(block):
            break
        finite = np.isfinite(block)
        if not finite.all():
            frame = int(np.argmin(finite.all(axis=1)))
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FINITE,
                f"{file} holds NaN or infinite samples, the first at {(first + done + frame) / rate:.3f} s",
                "export it again, or repair it in an audio editor",
            )
        samples[:, done : done + len(block)] = block.T
        done += len(block)
    if done == 0:
        raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"{file} holds no samples", "record or export it again")
    if done < frames:
        if not lossy:
            raise _cut_short(file)
        samples = samples[:, :done].copy()
    return Audio(samples, rate, header.format, _tags(sound))


def _check_part(file: Path, header: AudioHeader, first: int, frames: int) -> None:
    if first < 0 or frames <= 0 or first + frames > header.frames:
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE,
            f"{file} has no samples {first:,} to {first + frames:,}: it holds {header.frames:,} per channel",
            "check whether the file was replaced by a shorter one",
        )
    if frames / header.sample_rate > MAX_DURATION_S:
        raise SmartDJError(
            ErrorCode.AUDIO_TOO_LONG,
            f"this part of {file} lasts {frames / header.sample_rate / 3600:.1f} h; "
            f"the limit is {MAX_DURATION_S / 3600:g} h",
            "cut it into shorter parts",
        )


def _tags(sound: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in sound.copy_metadata().items() if value))


def read_format(path: str | os.PathLike[str]) -> tuple[AudioFormat, tuple[tuple[str, str], ...]]:
    """Read how a recording is stored and its text fields, without its samples.

    Returns
    -------
    AudioFormat, tuple
        As `read_audio` gives them in `Audio.format` and `Audio.tags`.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND``, ``AUDIO_UNREADABLE``, ``AUDIO_UNSUPPORTED``, ``AUDIO_EMPTY`` (no bytes).
    """
    file = Path(path)
    _check_readable(file, file)
    with _opened(file, file) as sound:
        return AudioFormat(str(sound.format), str(sound.subtype), str(sound.endian)), _tags(sound)


def _check_whole(log: str, file: Path) -> None:
    """Refuse a file that libsndfile's parsing log shows to hold less than its header promises."""
    for promised, present in re.findall(
        r"(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", log
    ) + re.findall(r"count (\d+) does not match value from 'ds64' chunk of (\d+)", log):
        first, second = int(promised), int(present)
        if "ds64" in log:  # that line names what is present first
            first, second = second, first
        if second < first < _STREAMED_BYTES:
            raise _cut_short(file)


def _cut_short(file: Path) -> SmartDJError:
    return SmartDJError(
        ErrorCode.AUDIO_UNREADABLE,
        f"{file} is cut short: it holds less than its header promises",
        "copy or download it again, or open it in an audio editor and save what is there",
    )


def _too_big(file: Path) -> SmartDJError:
    return SmartDJError(
        ErrorCode.OUT_OF_MEMORY,
        f"{file} does not fit into memory",
        "cut it into shorter files, or mix it down",
    )


def _unreadable(file: Path, why: str) -> SmartDJError:
    if file.suffix.lower().lstrip(".") in _UNKNOWN_TO_LIBSNDFILE:
        return SmartDJError(ErrorCode.AUDIO_UNSUPPORTED, f"{file} is in a format that can't be read here", _CONVERT)
    reason = why.split(": ", 1)[-1].strip().rstrip(".").splitlines()
    return SmartDJError(
        ErrorCode.AUDIO_UNREADABLE,
        f"{file} can't be read as audio" + (f": {reason[0].lower()}" if reason else ""),
        "check that it is a whole audio file (WAV, FLAC, AIFF, OGG, MP3 …)",
    )


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return float("inf")


def output_format(path: str | os.PathLike[str], own: AudioFormat) -> AudioFormat:
    """Format in which a recording is written to `path`: container by suffix, subtype kept where it can be.

    Parameters
    ----------
    path
        The output file; ``.wav`` keeps WAV, WAVEX, RF64 or NIST, whichever the recording has.
    own
        The recording's format.

    Returns
    -------
    AudioFormat
        The same subtype, or the nearest that loses least (float in FLAC becomes PCM_24).

    Raises
    ------
    SmartDJError
        ``AUDIO_UNSUPPORTED`` for a suffix that stands for no container.
    """
    file = Path(path)
    suffix = file.suffix.lower().lstrip(".")
    container = _CONTAINERS.get(suffix, "")
    if own.container in _SAME_SUFFIX.get(container, frozenset()):
        container = own.container
    if container not in soundfile.available_formats():
        named = f"the suffix .{suffix}" if suffix else "a file without a suffix"
        raise SmartDJError(
            ErrorCode.AUDIO_UNSUPPORTED,
            f"{file}: {named} is no audio format that can be written",
            "use .wav, .flac, .aiff, .ogg or .mp3",
        )
    if suffix == "opus":
        return AudioFormat("OGG", "OPUS")
    endian = own.endian if own.container == container else "FILE"
    default = str(soundfile.default_subtype(container) or "PCM_16")
    wanted = _ALAC.get(own.subtype, own.subtype)
    for subtype in (wanted, *_FALLBACKS.get(wanted, ()), "PCM_16", default):
        for order in (endian, "FILE"):
            if soundfile.check_format(container, subtype, order):
                return AudioFormat(container, subtype, order)
    raise SmartDJError(
        ErrorCode.AUDIO_UNSUPPORTED, f"{file}: {container} can't hold this recording", "use .wav or .flac"
    )


def suffix_of(own: AudioFormat) -> str:
    """Return a suffix, with its dot, under which `output_format` keeps this format where it can be written.

    ``.wav`` for containers that have none.
    """
    if own.container in _SAME_SUFFIX["WAV"]:
        return ".wav"
    return next((f".{suffix}" for suffix, container in _CONTAINERS.items() if container == own.container), ".wav")


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, source: str | os.PathLike[str] | None = None
) -> None:
    """Raise now what writing to `path` would raise later, so that nobody waits for an edit that can't be
    saved.

    Parameters
    ----------
    path
        The output file.
    overwrite
        Whether an existing file may be replaced.
    source
        The input recording, which is never replaced.

    Raises
    ------
    SmartDJError
        ``OUTPUT_IS_INPUT``, ``OUTPUT_EXISTS``, ``OUTPUT_UNWRITABLE`` (no such folder, a folder of that name,
        no permission), ``AUDIO_UNSUPPORTED`` (suffix).
    """
    file = Path(path)
    output_format(file, AudioFormat())
    try:
        same = source is not None and file.exists() and os.path.samefile(file, source)
    except OSError:
        same = False
    if same:
        raise SmartDJError(
            ErrorCode.OUTPUT_IS_INPUT,
            f"{file} is the input recording",
            "name another output; the input is never changed",
        )
    if file.is_dir():
        raise SmartDJError(ErrorCode.OUTPUT_UNWRITABLE, f"{file} is a folder", "name a file inside it")
    if not overwrite and os.path.lexists(file):
        raise exists_error(file)
    folder = file.parent
    if not folder.is_dir():
        raise SmartDJError(ErrorCode.OUTPUT_UNWRITABLE, f"the folder {folder} does not exist", "create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE, f"the folder {folder} can't be written to", "choose another folder"
        )


def write_audio(path: str | os.PathLike[str], audio: Audio, *, overwrite: bool = False) -> None:
    """Write a recording; the file appears only when it is whole.

    The container follows the suffix and the subtype is kept where the container allows it (`output_format`).
    Integer subtypes round to nearest and clip at full scale (`clipped_samples` counts). The samples go to a
    hidden file in the same folder, are forced to disk, checked, and then given their name in one step; on any
    failure nothing is left.

    Parameters
    ----------
    path
        The output file. A symbolic link is followed.
    audio
        The recording.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    SmartDJError
        ``OUTPUT_EXISTS``, ``OUTPUT_UNWRITABLE``, ``DISK_FULL``, ``AUDIO_UNSUPPORTED`` (the container can't
        hold that suffix, rate or number of channels), ``AUDIO_EMPTY``, ``AUDIO_NOT_FINITE``.

    Notes
    -----
    WAV above 4 GiB is written as RF64, which states lengths with 64 bits.
    """
    file = Path(path)
    if audio.n_samples == 0 or audio.channels == 0:
        raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"nothing to write to {file}: no samples", "check the input")
    chosen = output_format(file, audio.format)
    check_output(file, overwrite=overwrite)
    target = Path(os.path.realpath(file))
    chosen = _sized(chosen, audio)
    temporary: Path | None = None
    try:
        temporary = temporary_beside(target)
        _write_whole(temporary, file, audio, chosen)
        publish(temporary, target, overwrite=overwrite)
    except OSError as error:
        raise write_error(file, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sized(chosen: AudioFormat, audio: Audio) -> AudioFormat:
    size = audio.samples.size * {"DOUBLE": 8, "FLOAT": 4}.get(
        chosen.subtype, _INTEGER_BITS.get(chosen.subtype, 16) // 8
    )
    if chosen.container in ("WAV", "WAVEX") and size > _WAV_LIMIT_BYTES:
        return AudioFormat("RF64", chosen.subtype, "FILE")
    return chosen


def _write_whole(temporary: Path, file: Path, audio: Audio, chosen: AudioFormat) -> None:
    try:
        sound = soundfile.SoundFile(
            temporary, "w", audio.sample_rate, audio.channels, chosen.subtype, chosen.endian, chosen.container
        )
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise SmartDJError(
            ErrorCode.AUDIO_UNSUPPORTED,
            f"{file}: {chosen.container} {chosen.subtype} can't hold {audio.channels} channels"
            f" at {audio.sample_rate} Hz",
            "use .wav",
        ) from error
    try:
        with sound:
            _leave_out_peaks(sound)
            for name, value in audio.tags:
                try:
                    setattr(sound, name, value)
                except soundfile.LibsndfileError:  # this container has no such field; the samples matter more
                    continue
            for block in _blocks(audio, chosen.subtype, file):
                sound.write(block)
    except (
        soundfile.LibsndfileError,
        AssertionError,
    ) as error:  # soundfile asserts that every frame was written
        if shutil.disk_usage(temporary.parent).free < 1 << 20 or "space" in str(error).lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(errno.EIO, str(error) or "the system wrote less than it was given") from error
    if chosen.subtype in _LOSSLESS_SUBTYPES:  # closing rewrites the header, and says nothing where that fails
        try:
            frames = int(soundfile.info(temporary).frames)
        except soundfile.LibsndfileError as error:
            raise OSError(errno.EIO, "the file could not be read back") from error
        if frames != audio.n_samples:
            raise OSError(errno.EIO, f"the file holds {frames} of {audio.n_samples} samples")


def _leave_out_peaks(sound: soundfile.SoundFile) -> None:
    # libsndfile puts a PEAK chunk with the time of day into float WAV and AIFF, so that equal recordings would make
    # unequal files. soundfile has no public way to the command that leaves it out (SFC_SET_ADD_PEAK_CHUNK).
    soundfile._snd.sf_command(sound._file, 0x1050, soundfile._ffi.NULL, 0)


def _blocks(audio: Audio, subtype: str, file: Path) -> Iterator[np.ndarray]:
    """Blocks (frames, channels) as soundfile takes them: int32 with the bits on top, or floats."""
    bits = _INTEGER_BITS.get(subtype)
    for start in range(0, audio.n_samples, _BLOCK):
        block = np.ascontiguousarray(audio.samples[:, start : start + _BLOCK].T)
        if not np.isfinite(block).all():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FINITE,
                f"{file} was not written: the result holds NaN or infinite samples",
                "report this with the plan and the seed",
            )
        if bits is None:
            yield block
        else:
            scale = 2.0 ** (bits - 1)
            # libsndfile's µ-law and A-law negate the lowest integer into itself and write it as positive.
            lowest = 1.0 - scale if subtype in ("ULAW", "ALAW") else -scale
            rounded = np.rint(block.astype(np.float64) * scale)
            integers = np.clip(rounded, lowest, scale - 1.0).astype(np.int32)
            yield integers << (32 - bits)


def clipped_samples(audio: Audio, subtype: str | None = None) -> int:
    """Count samples beyond full scale that an integer subtype clips.

    Parameters
    ----------
    audio
        The recording.
    subtype
        The subtype it is written with; by default its own.

    Returns
    -------
    int
        Samples (of all channels) beyond ±1; 0 for float subtypes, which hold them.
    """
    if (subtype or audio.format.subtype) in ("FLOAT", "DOUBLE"):
        return 0
    count = 0
    for channel in audio.samples:
        for start in range(0, channel.size, _BLOCK):
            count += int(np.count_nonzero(np.abs(channel[start : start + _BLOCK]) > 1.0))
    return count


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate (soxr, very high quality, linear phase).

    Parameters
    ----------
    samples
        (channels, n) or (n,), float32 or float64.
    from_rate, to_rate
        Hz.

    Returns
    -------
    np.ndarray
        Same dtype, last axis round(n·to_rate/from_rate) long. At equal rates the input itself.
    """
    if from_rate == to_rate:
        return samples
    source = samples if samples.dtype in (np.float32, np.float64) else samples.astype(np.float32)
    rows = np.atleast_2d(source)
    n = round(source.shape[-1] * to_rate / from_rate)
    out = np.zeros((rows.shape[0], n), source.dtype)
    if source.size and n:
        for row, result in zip(rows, out, strict=True):
            converted = soxr.resample(np.ascontiguousarray(row), from_rate, to_rate, quality="VHQ")[:n]
            result[: converted.size] = converted
    return out[0] if source.ndim == 1 else out


def audio_sha256(audio: Audio) -> str:
    """Hash of what a recording sounds like: rate, channels and samples, whatever its container.

    Samples are hashed as little-endian float64, channel by channel, so 16-bit WAV, the same in FLAC and the
    same stored as floats agree.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{audio.sample_rate} {audio.channels} {audio.n_samples}\n".encode())
    for channel in audio.samples:
        for start in range(0, channel.size, _BLOCK):
            digest.update((channel[start : start + _BLOCK].astype("<f8") + 0.0).tobytes())  # + 0.0: −0 and 0 agree
    return digest.hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's bytes.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND``, ``AUDIO_UNREADABLE``.
    """
    file = Path(path)
    try:
        return files.file_sha256(file)
    except FileNotFoundError as error:
        raise SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"{file} does not exist", "check the path") from error
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error


_HALF = 0.5**0.5
_FOLDS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((1, 0, _HALF), (0, 1, _HALF)),
    4: ((1, 0, _HALF, 0), (0, 1, 0, _HALF)),
    5: ((1, 0, _HALF, _HALF, 0), (0, 1, _HALF, 0, _HALF)),
    6: ((1, 0, _HALF, 0, _HALF, 0), (0, 1, _HALF, 0, 0, _HALF)),
    7: ((1, 0, _HALF, 0, _HALF / 2, _HALF, 0), (0, 1, _HALF, 0, _HALF / 2, 0, _HALF)),
    8: ((1, 0, _HALF, 0, _HALF, 0, _HALF, 0), (0, 1, _HALF, 0, 0, _HALF, 0, _HALF)),
}
"""Gains of each channel in left and right, for the channel orders of WAV and FLAC (the bass channel is left
out)."""


def to_stereo(samples: np.ndarray) -> np.ndarray:
    """Fold any number of channels to two, for the models (files keep their own channels).

    Parameters
    ----------
    samples
        (channels, n).

    Returns
    -------
    np.ndarray
        (2, n), same dtype. One channel is given to both ears; two are returned as they are; three to eight
        are folded by ITU-R BS.775 in the channel order of WAV and FLAC (L R C, L R Ls Rs, L R C Ls Rs, L R C
        LFE Ls Rs, … with back channels; centre and surrounds at −3 dB, LFE left out); of more than eight, the
        even ones (from 0) are averaged to the left, the odd ones to the right.
    """
    channels = samples.shape[0]
    if channels == 1:
        return np.repeat(samples, 2, axis=0)
    if channels == 2:
        return samples
    if channels in _FOLDS:
        return np.asarray(_FOLDS[channels], samples.dtype) @ samples
    return np.stack([samples[0::2].mean(axis=0), samples[1::2].mean(axis=0)])
