"""The action that goes through an edit's takes, step by step."""

from __future__ import annotations

from typing import Any

from .api import Reaper
from .takes import NOTE_KEY, next_take, read_note


def run(host: dict[str, Any]) -> None:
    """Make the next step's take active in every selected item; one undo point."""
    import reaper_python  # type: ignore[import-not-found]

    reaper = Reaper(reaper_python, host)
    project = reaper.current_project()
    wanted: list[tuple[str, str]] = []
    for item in reaper.selected_items(project):
        takes = reaper.takes(item)
        guids = [reaper.take_text(take, "GUID") for take in takes]
        notes = [read_note(reaper.take_text(take, NOTE_KEY)) for take in takes]
        active = reaper.take_text(reaper.active_take(item), "GUID")
        place = next_take(notes, guids, guids.index(active)) if active in guids else None
        if place is not None:
            wanted.append((item, takes[place]))
    if not wanted:
        reaper.message("Select an item with takes made by SmartDJ.")
        return

    def work() -> None:
        for item, take in wanted:
            reaper.activate(take)
            reaper.update_item(item)

    reaper.in_undo_block(project, "SmartDJ: next step's take", work)
