"""From items in REAPER to jobs for the helper; what is unusual is rendered by REAPER first, without a trace."""

from __future__ import annotations

from typing import Any, NamedTuple

from .api import RENDER_TO_NEW_TAKE, Project, Reaper, file_exists, is_null
from .segment import ItemFacts, Refusal, RenderFirst, Segment, decide
from .takes import NOTE_KEY, TAKE_VALUES, read_note

RENDER_TITLE = "SmartDJ: render before editing"


class Candidate(NamedTuple):
    """An item that can be edited."""

    guid: str
    pointer: str
    take_guid: str
    name: str
    decision: Segment | RenderFirst
    values: dict[str, float]
    plan: dict[str, Any] | None = None
    instruction: str = ""
    seed: int = 0
    mode: str = ""


def gather(reaper: Reaper, item: str, take: str) -> ItemFacts:
    """Ask REAPER everything about an item and one of its takes."""
    name = item_name(reaper, item, take)
    length_s = reaper.item_value(item, "D_LENGTH")
    locked = bool(int(reaper.item_value(item, "C_LOCK")) & 1)
    if is_null(take):
        return ItemFacts(name, length_s, has_take=False, locked=locked)
    source = reaper.source(take)
    if source is None:
        return ItemFacts(name, length_s, source_type="EMPTY", locked=locked)
    stretch_markers, effects, envelopes = reaper.extras(take)
    section = source.section
    return ItemFacts(
        name=name,
        length_s=length_s,
        is_midi=reaper.is_midi(take),
        locked=locked,
        loop=bool(reaper.item_value(item, "B_LOOPSRC")),
        start_offset_s=reaper.take_value(take, "D_STARTOFFS"),
        play_rate=reaper.take_value(take, "D_PLAYRATE"),
        pitch=reaper.take_value(take, "D_PITCH"),
        channel_mode=int(reaper.take_value(take, "I_CHANMODE")),
        stretch_markers=stretch_markers,
        effects=effects,
        envelopes=envelopes,
        source_type=source.type,
        path=source.path,
        file_exists=file_exists(source.path),
        source_length_s=source.length_s,
        sample_rate=source.sample_rate,
        section_offset_s=section.offset_s if section else None,
        section_length_s=section.length_s if section else 0.0,
        reverse=section.reverse if section else False,
        depth=source.depth,
    )


def item_name(reaper: Reaper, item: str, take: str) -> str:
    """Return how messages call an item: its take's name, else where it is."""
    name = reaper.take_text(take, "P_NAME").strip()
    if name:
        return name
    seconds = reaper.item_value(item, "D_POSITION")
    track = reaper.track_name(item)
    return "item at %d:%06.3f%s" % (seconds // 60, seconds % 60, f" on {track}" if track else "")


def collect(reaper: Reaper, items: list[str]) -> tuple[list[Candidate], list[str]]:
    """Return what can be edited, and sentences on what can't."""
    candidates: list[Candidate] = []
    refused: list[str] = []
    for item in items:
        take = reaper.active_take(item)
        facts = gather(reaper, item, take)
        decision = decide(facts)
        if isinstance(decision, Refusal):
            refused.append(f"“{facts.name}” {decision.reason}")
            continue
        guids = reaper.item_text(item, "GUID"), reaper.take_text(take, "GUID")
        candidates.append(
            Candidate(guids[0], item, guids[1], facts.name, decision, take_values(reaper, take, decision))
        )
    return candidates, refused


def take_values(reaper: Reaper, take: str, decision: Segment | RenderFirst) -> dict[str, float]:
    """Return the numbers that new takes get."""
    values = {name: reaper.take_value(take, name) for name in TAKE_VALUES}
    values["D_STARTOFFS"] = decision.start_offset_s if isinstance(decision, Segment) else 0.0
    return values


def collect_again(reaper: Reaper, items: list[str]) -> tuple[list[Candidate], list[str]]:
    """Return what can be run again from the notes in takes of ours, and sentences on what can't."""
    candidates: list[Candidate] = []
    refused: list[str] = []
    for item in items:
        active = reaper.active_take(item)
        name = item_name(reaper, item, active)
        take, note = _noted_take(reaper, item, active)
        if note is None:
            refused.append(f"“{name}” has no take made by SmartDJ")
            continue
        source = note["source"]
        path = str(source.get("path", ""))
        if not file_exists(path):
            refused.append(f"“{name}” is missing the recording it was made from: {path}")
            continue
        segment = Segment(path, int(source["start_frame"]), int(source["frames"]), int(source["sample_rate"]), 0.0)
        values = {key: reaper.take_value(take, key) for key in (*TAKE_VALUES, "D_STARTOFFS")}
        candidates.append(
            Candidate(
                reaper.item_text(item, "GUID"),
                item,
                str(source.get("take", "")),
                str(note.get("name") or name),
                segment,
                values,
                note["plan"],
                str(note["plan"].get("instruction", "")),
                int(note.get("seed") or 0),
                str(note.get("mode", "")),
            )
        )
    return candidates, refused


def _noted_take(reaper: Reaper, item: str, active: str) -> tuple[str, dict[str, Any] | None]:
    for take in [active, *reversed(reaper.takes(item))]:
        note = read_note(reaper.take_text(take, NOTE_KEY))
        if note is not None:
            return take, note
    return active, None


def render(reaper: Reaper, project: Project, candidate: Candidate) -> Candidate | Refusal:
    """Let REAPER render an item to a new take, take over its file, and undo: the project is as it was before."""
    selected = {reaper.item_text(item, "GUID"): item for item in reaper.selected_items(project)}
    found = reaper.find_items(project, {candidate.guid: candidate.pointer})
    if candidate.guid not in found:
        return Refusal("was deleted meanwhile")
    item = found[candidate.guid]
    before = {reaper.take_text(take, "GUID") for take in reaper.takes(item)}

    def work() -> None:
        reaper.select_only(project, [item])
        reaper.run_action(project, RENDER_TO_NEW_TAKE)

    reaper.in_undo_block(project, RENDER_TITLE, work)
    take = reaper.active_take(item)
    outcome: Candidate | Refusal
    if is_null(take) or reaper.take_text(take, "GUID") in before:
        outcome = Refusal("could not be rendered by REAPER")
    else:
        decision = decide(gather(reaper, item, take))
        if isinstance(decision, Segment):
            outcome = candidate._replace(decision=decision, values=take_values(reaper, take, decision))
        else:
            outcome = Refusal(f"can't be edited: once rendered, {decision.reason}")
    reaper.undo_last(project, RENDER_TITLE)
    reaper.select_only(project, reaper.find_items(project, selected).values())
    if isinstance(outcome, Candidate):
        pointer = reaper.find_items(project, {candidate.guid: item}).get(candidate.guid, item)
        outcome = outcome._replace(pointer=pointer)
    return outcome
