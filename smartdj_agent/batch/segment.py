"""Which samples of its media an item plays, exactly, or why that isn't said here.

Pure arithmetic: an item plays ``LENGTH × rate`` seconds of its source from ``SOFFS`` on. What is unusual (sections,
reversed media, stretch markers, effects, envelopes …) is refused with its reason, so that a take is never made of
other samples than those that are heard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from smartdj_agent.audio import MAX_DURATION_S
from smartdj_agent.batch.rpp import Item, Source, Take, Track

AUDIO_KINDS = frozenset({"WAVE", "FLAC", "MP3", "VORBIS", "OPUS", "AIFF", "OGG"})
"""Kinds of source that are one audio file."""

_HARMLESS_SOURCE_LINES = frozenset({"HIRESPEAKS", "SRCCOLOR", "GUID"})

_KINDS = {
    "MIDI": "it is a MIDI item",
    "MIDIPOOL": "it is a MIDI item",
    "EMPTY": "its take is empty",
    "CLICK": "it is a click source",
    "LTC": "it is a timecode generator",
    "VIDEO": "its media is a video",
    "VIDEOEFFECT": "it is a video processor",
    "RPP_PROJECT": "it is a subproject",
}
_BLOCKS = {
    "TAKEFX": "its take has effects",
    "VOLENV": "its take has a volume envelope",
    "PANENV": "its take has a pan envelope",
    "MUTEENV": "its take has a mute envelope",
    "PITCHENV": "its take has a pitch envelope",
}
_TINY = 1e-4
"""Part of a sample by which times in a project may miss a whole one: they are written with 14 decimals."""


class RefusedError(Exception):
    """An item that is left alone; the text says why, as in ``it is a MIDI item``."""


@dataclass(frozen=True)
class Media:
    """What the header of an audio file says: frames, Hz, channels."""

    frames: int
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Segment:
    """What a take's new file holds, and how the take plays it.

    Attributes
    ----------
    start, frames
        First sample in the media and number of samples; beyond the media's end it begins again (`looped`).
    offset_s
        ``SOFFS`` of the new take: the part of a sample by which the old one began after `start`, or a negative offset
        that was negative before. Seconds.
    channels
        Media's channels that are heard, from 0; None is all, as they are.
    chanmode
        ``CHANMODE`` of the new take.
    looped
        The source plays on from its beginning where it ends.
    """

    start: int
    frames: int
    offset_s: float = 0.0
    channels: tuple[int, ...] | None = None
    chanmode: int = 0
    looped: bool = False


def active_source(track: Track, item: Item) -> tuple[Take, Source]:
    """Return the take that is heard and its audio source.

    Raises
    ------
    RefusedError
        Nothing of it can be edited, whatever its media.
    """
    if track.frozen:
        raise RefusedError("its track is frozen")
    if not item.takes:
        raise RefusedError("it is an empty item")
    if _number(item.word("LOCK", default="0"), "LOCK"):
        raise RefusedError("it is locked")
    if _number(item.word("ALLTAKES", default="0"), "ALLTAKES"):
        raise RefusedError("it plays all its takes at once")
    take = item.takes[item.active]
    source = take.source
    if take.null or source is None:
        raise RefusedError("its active take is empty")
    if source.kind.startswith("_OFFLINE"):
        raise RefusedError("its media is offline")
    if source.kind == "SECTION":
        inner = source.inside
        if inner is not None and inner.kind.startswith("_OFFLINE"):
            raise RefusedError("its media is offline")
        raise RefusedError("its source is a section or reversed")
    if source.kind not in AUDIO_KINDS:
        raise RefusedError(_KINDS.get(source.kind, f"its source is of the kind {source.kind or 'unknown'}"))
    if not source.file:
        raise RefusedError("its source names no file")
    if source.file_options and source.kind != "MP3":
        raise RefusedError(f"its source has the unknown option {' '.join(source.file_options)!r}")
    strange = [word for word in source.others if word not in _HARMLESS_SOURCE_LINES]
    if strange:
        raise RefusedError(f"its source has the unknown entry {strange[0]}")
    if "SM" in take.lines:
        raise RefusedError("its take has stretch markers")
    for tag in take.blocks:
        raise RefusedError(_BLOCKS.get(tag, f"its take has the unknown entry <{tag}"))
    for word in take.unknown:
        raise RefusedError(f"its take has the unknown entry {word}")
    return take, source


def segment_of(item: Item, take: Take, media: Media) -> Segment:
    """Find the samples that an item plays of its media.

    Raises
    ------
    RefusedError
        Its numbers make no sense, it plays nothing of its media, or it can't be said exactly.
    """
    length_s = _number(item.word("LENGTH"), "LENGTH")
    offset_s = _number(take.word("SOFFS", default="0"), "SOFFS")
    rate = _number(take.word("PLAYRATE", default="1"), "PLAYRATE")
    if not length_s > 0:
        raise RefusedError("it has no length")
    if not rate > 0:
        raise RefusedError(f"its play rate is {rate:g}")
    loops = bool(_number(item.word("LOOP", default="0"), "LOOP"))
    first = offset_s * media.sample_rate
    last = first + length_s * rate * media.sample_rate
    if last - first > MAX_DURATION_S * media.sample_rate:
        raise RefusedError(f"it plays more than {MAX_DURATION_S / 3600:g} h of its media")
    if first < -_TINY:
        if loops:
            raise RefusedError("it begins before its looped source")
        start, new_offset_s = 0, offset_s
    else:
        start = math.floor(first + _TINY)
        rest = first - start
        new_offset_s = rest / media.sample_rate if rest > _TINY else 0.0
    stop = math.ceil(last - _TINY)
    looped = False
    if stop > media.frames:
        if loops:
            looped = True
        else:
            stop = media.frames
    if stop <= start:
        raise RefusedError("it plays nothing of its media")
    channels, chanmode = _channels(take, media)
    return Segment(start % media.frames, stop - start, new_offset_s, channels, chanmode, looped)


def _channels(take: Take, media: Media) -> tuple[tuple[int, ...] | None, int]:
    """Return which channels are heard, and the mode of the new take.

    Where a mode only picks channels, the new file holds what is heard. A downmix stays the player's business: the
    file keeps both channels and the take its mode.
    """
    mode = int(_number(take.word("CHANMODE", default="0"), "CHANMODE"))
    if mode == 0 or (media.channels == 1 and mode in (1, 2, 3)):
        return None, 0
    if mode == 2:
        return None, 2
    if mode == 1:
        picked: tuple[int, ...] = (1, 0, *range(2, media.channels))
    elif 3 <= mode <= 66:
        picked = (mode - 3,)
    elif 67 <= mode <= 130:
        picked = (mode - 67, mode - 66)
    else:
        raise RefusedError(f"its channel mode {mode} isn't known here")
    if max(picked) >= media.channels:
        raise RefusedError(f"its channel mode {mode} asks for channel {max(picked) + 1} of {media.channels}")
    return picked, 0


def cut(samples: np.ndarray, segment: Segment) -> np.ndarray:
    """Return the segment's samples.

    Parameters
    ----------
    samples
        The whole media, (channels, n).
    segment
        Made for this media.

    Returns
    -------
    np.ndarray
        (channels that are heard, `segment.frames`), same dtype, a copy.
    """
    rows = samples if segment.channels is None else samples[list(segment.channels)]
    if not segment.looped:
        return np.ascontiguousarray(rows[:, segment.start : segment.start + segment.frames]).copy()
    return np.take(rows, np.arange(segment.start, segment.start + segment.frames), axis=1, mode="wrap")


def _number(text: str, key: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise RefusedError(f"its {key} is {text!r}") from None
    if not math.isfinite(value):
        raise RefusedError(f"its {key} is {text!r}")
    return value
