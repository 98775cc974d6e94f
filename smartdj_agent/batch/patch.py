"""New takes for a project's items: the only lines of a project that are ever changed.

A step's result becomes a take behind the others, before the item's closing ``>``; the last new one is active, so the
``TAKE`` line that was loses its ``SEL``. Nothing else differs, not by one byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from smartdj_agent.batch.rpp import Document, Item, Take, quote
from smartdj_agent.steps import Operation, Step, direction_name


@dataclass(frozen=True)
class NewTake:
    """One take to add: its name, its file's path as the project shall name it, its offset and channel mode."""

    name: str
    file: str
    offset_s: float = 0.0
    chanmode: int = 0


@dataclass(frozen=True)
class ItemEdit:
    """Takes to add to one item, in order; the last becomes active. `seed` makes their GUIDs."""

    item: Item
    takes: tuple[NewTake, ...]
    seed: str = ""


def take_name(index: int, count: int, step: Step) -> str:
    """Name the take that holds the recording after a step: ``SmartDJ 2/4 add: birdsong (left)``.

    Parameters
    ----------
    index, count
        Which of the enabled steps, from 0, and how many there are.
    step
        What was done.
    """
    details: list[str] = []
    if step.azimuth_deg is not None and (step.azimuth_deg or step.operation is Operation.ADD):
        details.append(direction_name(step.azimuth_deg))
    if step.to_azimuth_deg is not None:
        details.append(f"to {direction_name(step.to_azimuth_deg)}")
    if step.gain_db is not None and (step.gain_db or step.operation is Operation.VOLUME):
        details.append(f"{step.gain_db:+g} dB")
    if step.shift_s is not None:
        details.append(f"{step.shift_s:+g} s")
    if step.reverb_level is not None:
        details.append(f"level {step.reverb_level}")
    if step.timbre is not None:
        details.append(str(step.timbre))
    more = f" ({', '.join(details)})" if details else ""
    return f"SmartDJ {index + 1}/{count} {step.operation.value}: {step.target}{more}"


def add_takes(document: Document, edits: Sequence[ItemEdit]) -> bytes:
    """Return the project's bytes with takes added.

    Parameters
    ----------
    document
        The project.
    edits
        At most one for each item; an edit without takes changes nothing.

    Returns
    -------
    bytes
        The same lines, the new takes' among them, and ``SEL`` gone from the takes that were active.
    """
    replaced: dict[int, bytes] = {}
    inserted: dict[int, list[bytes]] = {}
    used = set(document.guids)
    for edit in edits:
        if not edit.takes:
            continue
        item = edit.item
        for take in item.takes:
            if take.selected and take.line is not None:
                replaced[take.line] = _without_sel(document.lines[take.line])
        old = item.takes[item.active]
        lines = inserted.setdefault(item.block.stop, [])
        for number, new in enumerate(edit.takes, start=1):
            guid = _new_guid(f"{edit.seed} {item.block.start} {number}", used)
            lines += _take_lines(document, item, old, new, guid, active=number == len(edit.takes))
    return document.changed(replaced, inserted)


def _take_lines(document: Document, item: Item, old: Take, new: NewTake, guid: str, *, active: bool) -> list[bytes]:
    indent, deeper = _indents(document, item)
    end = document.line_end(item.block.stop) or document.line_end(item.block.start) or b"\n"
    volume_pan = old.lines.get("TAKEVOLPAN") or old.lines.get("VOLPAN", ("1", "0", "1", "-1"))[1:]
    rate = old.lines.get("PLAYRATE", ("1", "1", "0", "-1", "0", "0.0025"))
    texts = [
        (indent, "TAKE SEL" if active else "TAKE"),
        (indent, f"NAME {quote(new.name)}"),
        (indent, _line("TAKEVOLPAN", volume_pan)),
        (indent, f"SOFFS {format_seconds(new.offset_s)}"),
        (indent, _line("PLAYRATE", rate)),
        (indent, f"CHANMODE {new.chanmode}"),
        (indent, f"GUID {guid}"),
        (indent, "<SOURCE WAVE"),
        (deeper, f"FILE {_always_quoted(new.file)}"),
        (indent, ">"),
    ]
    return [blanks + text.encode("utf-8", "surrogateescape") + end for blanks, text in texts]


def _line(key: str, words: Sequence[str]) -> str:
    return " ".join([key, *(quote(word) for word in words)])


def _always_quoted(text: str) -> str:
    quoted = quote(text)  # REAPER itself puts file names into quotes always
    return f'"{quoted}"' if quoted == text else quoted


def _indents(document: Document, item: Item) -> tuple[bytes, bytes]:
    """Return the blanks before the item's own lines and before lines one level deeper."""
    outer = document.indent(item.block.start)
    inner = next(
        (document.indent(index) for _, index, child in document.entries(item.block) if child is None), outer + b"  "
    )
    step = inner[len(outer) :] if inner.startswith(outer) else b"  "
    return inner, inner + step


def _without_sel(line: bytes) -> bytes:
    return re.sub(rb"[ \t]+SEL(?=[ \t\r\n]|$)", b"", line, count=1)


def format_seconds(value: float) -> str:
    """Write seconds as REAPER does: up to 14 decimals, none where they aren't needed."""
    text = f"{value:.14f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def _new_guid(seed: str, used: set[str]) -> str:
    """Return a GUID that isn't in use; the same for the same seed, so that a repeated run writes the same file."""
    attempt = 0
    while True:
        digest = bytearray(hashlib.sha256(f"smartdj take {seed} {attempt}".encode()).digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x40  # version and variant of a random GUID
        digest[8] = digest[8] & 0x3F | 0x80
        text = digest.hex().upper()
        guid = f"{{{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}}}"
        if guid not in used:
            used.add(guid)
            return guid
        attempt += 1
