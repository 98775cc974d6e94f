"""What our takes carry: their names, and the note in ``P_EXT:smartdj`` from which an edit can be run again. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

NOTE_KEY = "P_EXT:smartdj"
NOTE_VERSION = 1
MAX_MARKERS = 32

TAKE_VALUES = ("D_VOL", "D_PAN", "D_PANLAW", "D_PLAYRATE", "D_PITCH", "B_PPITCH", "I_PITCHMODE")
"""Numbers that new takes have from the take whose samples were edited."""


class StepResult(NamedTuple):
    """One step's file."""

    path: str
    label: str
    spans_s: list[list[float]]


class ItemResult(NamedTuple):
    """What became of one item: its GUID and last pointer, a name for messages, numbers of the new takes, its steps."""

    guid: str
    pointer: str
    name: str
    values: dict[str, float]
    steps: list[StepResult]
    note: dict[str, Any]


def take_name(number: int, count: int, label: str) -> str:
    """Return a take's name, such as ``SmartDJ 2/4 add: birdsong (left)``."""
    return "SmartDJ %d/%d %s" % (number, count, label)


def write_note(note: dict[str, Any]) -> str:
    """Return a note as text for ``P_EXT``: one line of ASCII whose only quotes are double ones.

    Project files keep a text that holds all three kinds of quotes only with changes.
    """
    text = json.dumps({"version": NOTE_VERSION, **note}, ensure_ascii=True, sort_keys=True)
    return text.replace("'", "\\u0027").replace("`", "\\u0060")


def read_note(text: str) -> dict[str, Any] | None:
    """Return the note, or None where there is none that this version can read."""
    try:
        note = json.loads(text)
    except ValueError:
        return None
    if not isinstance(note, dict) or note.get("version") != NOTE_VERSION:
        return None
    source = note.get("source")
    if not isinstance(note.get("plan"), dict) or not isinstance(source, dict):
        return None
    return note


def markers(steps: list[StepResult]) -> list[tuple[float, str]]:
    """Return the places of steps as (seconds, name), in time, at most `MAX_MARKERS`."""
    found = [(float(span[0]), step.label) for step in steps for span in step.spans_s]
    return sorted(found, key=lambda marker: marker[0])[:MAX_MARKERS]


def next_take(notes: list[dict[str, Any] | None], guids: list[str], active: int) -> int | None:
    """Return which take comes next: the edited take, then every step's, then the edited take again.

    Parameters
    ----------
    notes
        Each take's note, None where it isn't ours.
    guids
        Each take's GUID.
    active
        Number of the active take.

    Returns
    -------
    int or None
        None where the item has none of our takes.
    """
    ours = [index for index, note in enumerate(notes) if note is not None]
    if not ours:
        return None
    if active in ours:
        job = (notes[active] or {}).get("job")
    else:  # from an edited take to the first step of the edit that was made of it last, else of the last edit
        of_this = [index for index in ours if _source_take(notes[index]) == guids[active]]
        job = (notes[(of_this or ours)[-1]] or {}).get("job")
    chain = sorted(
        (i for i in ours if (notes[i] or {}).get("job") == job), key=lambda i: (notes[i] or {}).get("step", 0)
    )
    if active not in chain:
        return chain[0]
    place = chain.index(active)
    if place + 1 < len(chain):
        return chain[place + 1]
    origin = _source_take(notes[active])
    return guids.index(origin) if origin in guids else chain[0]


def _source_take(note: dict[str, Any] | None) -> str:
    return str(((note or {}).get("source") or {}).get("take", ""))
