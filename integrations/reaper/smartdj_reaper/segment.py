"""Which samples an item stands for: from what REAPER says of it to a part of a file, or a reason why not.

Pure: nothing here calls REAPER. Only what is plain is read from the file directly. Whatever REAPER does to the sound
on the way (a loop, reversing, effects, another channel mode …) REAPER itself renders first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DIRECT_TYPES = frozenset({"WAVE", "AIFF", "FLAC", "W64", "CAF"})
"""Types of sources whose positions the helper finds exactly; decoders of MP3 and the like disagree on the start."""

NO_SOUND_TYPES = frozenset({"MIDI", "MIDIPOOL"})
CHANNEL_MODES = {1: "swapped channels", 2: "a mono mix", 3: "its left channel only", 4: "its right channel only"}

_EXACT = 1e-3
"""Positions this near to a sample, in samples, are meant to be on it: REAPER keeps seconds."""


class ItemFacts(NamedTuple):
    """What REAPER says of an item and the take that is to be edited."""

    name: str
    length_s: float
    has_take: bool = True
    is_midi: bool = False
    locked: bool = False
    loop: bool = False
    start_offset_s: float = 0.0
    play_rate: float = 1.0
    pitch: float = 0.0
    channel_mode: int = 0
    stretch_markers: int = 0
    effects: int = 0
    envelopes: int = 0
    source_type: str = "WAVE"
    path: str = ""
    file_exists: bool = True
    source_length_s: float = 0.0
    sample_rate: int = 0
    section_offset_s: float | None = None
    section_length_s: float = 0.0
    reverse: bool = False
    depth: int = 0


class Segment(NamedTuple):
    """A part of a file, and where the new takes begin in theirs (less than a sample, seconds)."""

    path: str
    start_frame: int
    frames: int
    sample_rate: int
    start_offset_s: float
    note: str = ""


class RenderFirst(NamedTuple):
    """REAPER must render the item to a new take, and why."""

    reason: str


class Refusal(NamedTuple):
    """The item can't be edited, and why."""

    reason: str


def decide(facts: ItemFacts) -> Segment | RenderFirst | Refusal:
    """Decide on one item."""
    refusal = _refusal(facts)
    if refusal:
        return Refusal(refusal)
    unusual = _unusual(facts)
    if unusual:
        return RenderFirst(unusual)
    rate = facts.sample_rate
    base_s = facts.section_offset_s or 0.0
    end_s = facts.source_length_s
    if facts.section_offset_s is not None:
        end_s = min(end_s, base_s + facts.section_length_s)
    start = (base_s + facts.start_offset_s) * rate
    stop = start + facts.length_s * facts.play_rate * rate
    first = _down(start)
    frames = min(_up(stop), _down(end_s * rate)) - first
    if frames <= 0:
        return Refusal("lies behind the end of its recording")
    offset = start - first
    note = ""
    if abs(facts.play_rate - 1) > 1e-9 or abs(facts.pitch) > 1e-9:
        note = "plays at {:g} × speed{}: what is added will too".format(
            facts.play_rate,
            f", {facts.pitch:+g} semitones" if facts.pitch else "",
        )
    return Segment(facts.path, first, frames, rate, offset / rate if abs(offset) > _EXACT else 0.0, note)


def _refusal(facts: ItemFacts) -> str:
    if not facts.has_take or facts.source_type == "EMPTY":
        return "is empty"
    if facts.is_midi or facts.source_type in NO_SOUND_TYPES:
        return "is MIDI; render or freeze it first"
    if facts.locked:
        return "is locked"
    if "OFFLINE" in facts.source_type.upper():
        return "is offline; set it online first"
    if facts.path and not facts.file_exists:
        return f"is missing its file: {facts.path}"
    if facts.source_length_s <= 0 or facts.sample_rate <= 0:
        return "is offline or can't be read by REAPER"
    if facts.length_s <= 0 or facts.play_rate <= 0:
        return "has no length"
    return ""


def _unusual(facts: ItemFacts) -> str:
    """Why the item's sound isn't simply a part of its file; empty where it is."""
    if facts.source_type not in DIRECT_TYPES or not facts.path:
        return "its source is of type %s" % (facts.source_type or "unknown")
    if facts.depth > 1:
        return "it is a section of a section"
    if facts.reverse:
        return "it is reversed"
    if facts.channel_mode:
        return "it plays {}".format(CHANNEL_MODES.get(facts.channel_mode, "chosen channels"))
    if facts.stretch_markers:
        return "it has stretch markers"
    if facts.effects:
        return "it has take effects"
    if facts.envelopes:
        return "it has take envelopes"
    length_s = facts.source_length_s if facts.section_offset_s is None else facts.section_length_s
    stop_s = facts.start_offset_s + facts.length_s * facts.play_rate
    if facts.start_offset_s * facts.sample_rate < -_EXACT:
        return "it begins before its recording"
    if facts.loop and (stop_s - length_s) * facts.sample_rate > 1:
        return "it loops"
    return ""


def _down(position: float) -> int:
    near = round(position)
    return int(near if abs(position - near) < _EXACT else math.floor(position))


def _up(position: float) -> int:
    near = round(position)
    return int(near if abs(position - near) < _EXACT else math.ceil(position))
