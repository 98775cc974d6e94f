"""Results become takes: on REAPER's main thread, in one undo point, found again by GUID."""

from __future__ import annotations

from typing import NamedTuple

from .api import BUILD_MISSING_PEAKS, Project, Reaper, file_exists, is_null
from .takes import NOTE_KEY, ItemResult, markers, take_name, write_note


class Report(NamedTuple):
    """How many items have new takes, and what was left out, in sentences."""

    items: int
    takes: int
    skipped: list[str]


def apply_results(reaper: Reaper, project: Project, results: list[ItemResult], title: str) -> Report:
    """Add every step's file as a take and make the last one active; one undo point, none where nothing can be done."""
    if not reaper.is_open(project):
        where = project.path or "the project"
        files = ", ".join(step.path for result in results for step in result.steps)
        return Report(0, 0, [f"{where} is no longer open; nothing was added. The results are: {files}"])
    in_front = reaper.current_project()
    if in_front.pointer != project.pointer:
        reaper.show_project(project)  # pointers to items count only in the project in front
    try:
        return _apply(reaper, project, results, title)
    finally:
        if in_front.pointer != project.pointer and reaper.is_open(in_front):
            reaper.show_project(in_front)


def _apply(reaper: Reaper, project: Project, results: list[ItemResult], title: str) -> Report:
    skipped: list[str] = []
    found = reaper.find_items(project, {result.guid: result.pointer for result in results})
    usable = []
    for result in results:
        missing = [step.path for step in result.steps if not file_exists(step.path)]
        if result.guid not in found:
            files = ", ".join(step.path for step in result.steps)
            skipped.append(f"“{result.name}” was deleted meanwhile; its results are: {files}")
        elif missing:
            skipped.append("“{}”: a result is gone: {}".format(result.name, ", ".join(missing)))
        elif result.steps:
            usable.append(result)
    if not usable:
        return Report(0, 0, skipped)
    counts = [0, 0]

    def work() -> None:
        for result in usable:
            made = _add_takes(reaper, project, found[result.guid], result, skipped)
            counts[0] += bool(made)
            counts[1] += made

    reaper.in_undo_block(project, title, work)
    reaper.run_action(project, BUILD_MISSING_PEAKS)
    return Report(counts[0], counts[1], skipped)


def _add_takes(reaper: Reaper, project: Project, item: str, result: ItemResult, skipped: list[str]) -> int:
    last = ""
    made = 0
    for number, step in enumerate(result.steps, start=1):
        take = reaper.add_take(project, item, step.path)
        if is_null(take):
            skipped.append(f"“{result.name}”: REAPER can't use {step.path}")
            continue
        for name, value in result.values.items():
            reaper.set_take_value(take, name, value)
        reaper.set_take_text(take, "P_NAME", take_name(number, len(result.steps), step.label))
        note = {**result.note, "step": number, "steps": len(result.steps), "label": step.label}
        reaper.set_take_text(take, NOTE_KEY, write_note(note))
        for at_s, label in markers(result.steps[:number]):
            reaper.add_marker(take, at_s, label)
        last, made = take, made + 1
    if last:
        reaper.activate(last)
        reaper.update_item(item)
    return made
