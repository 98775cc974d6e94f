"""Every call of REAPER that we make, with the shapes that REAPER's Python has turned into plain ones.

REAPER's Python gives pointers as text. A null pointer is text as well, and true. A pointer that is no longer valid,
or belongs to a project that isn't in front, silently becomes null when it is passed; a null project means "the one in
front". So objects are found again by GUID, and the project is brought to the front before anything is changed.
Every text that REAPER may write to costs a buffer of 4 MiB: nothing here asks for texts in a loop over all items
unless it must.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

TEXT_BYTES = 65536
RENDER_TO_NEW_TAKE = 41999
BUILD_MISSING_PEAKS = 40047
DELETE_ACTIVE_TAKE = 40129
ADD_TO_SELECTED_AS_TAKES = 3
UNDO_ITEMS = 4
OK_BOX, YES_NO_CANCEL_BOX = 0, 3
YES, NO = 6, 7


def is_null(pointer: str) -> bool:
    """Whether a pointer is null; as text it is always true."""
    try:
        return int(str(pointer).rsplit("0x", 1)[-1], 16) == 0
    except ValueError:
        return True


class Project(NamedTuple):
    """An open project: its pointer, and its file or an empty text."""

    pointer: str
    path: str


class Section(NamedTuple):
    """What a section source shows of its parent, seconds."""

    offset_s: float
    length_s: float
    reverse: bool


class Source(NamedTuple):
    """A take's source; `section` where it shows a part of another, whose type, file and length are given then."""

    type: str
    path: str
    length_s: float
    sample_rate: int
    channels: int
    section: Section | None
    depth: int


class Reaper:
    """REAPER.

    Parameters
    ----------
    rpr
        The module ``reaper_python``.
    host
        Globals of the script that REAPER runs; REAPER puts ``RPR_defer`` and ``RPR_atexit`` there.
    """

    def __init__(self, rpr: Any, host: dict[str, Any]) -> None:
        self.rpr = rpr
        self.host = host

    # running

    def defer(self, code: str) -> None:
        """Run a line of the script's Python about 1/30 s from now."""
        self.host["RPR_defer"](code)

    def at_exit(self, code: str) -> None:
        """Run a line of the script's Python when the script or REAPER ends."""
        self.host["RPR_atexit"](code)

    # telling and keeping

    def console(self, text: str) -> None:
        """Write to the console; it opens."""
        self.rpr.RPR_ShowConsoleMsg(text)

    def message(self, text: str, title: str = "SmartDJ", kind: int = OK_BOX) -> int:
        """Show a box and wait for the answer."""
        return int(self.rpr.RPR_ShowMessageBox(text, title, kind))

    def status(self, text: str) -> None:
        """Show a line where REAPER shows its help, below the tracks."""
        self.rpr.RPR_Help_Set(text, True)

    def ask(self, title: str, count: int, captions: str, defaults: str) -> str | None:
        """Show REAPER's dialog of up to 16 lines; None where it was cancelled."""
        answer = self.rpr.RPR_GetUserInputs(title, count, captions, defaults, TEXT_BYTES)
        return answer[4] if answer[0] else None

    def get_state(self, key: str) -> str:
        """Return an ExtState of ours."""
        return str(self.rpr.RPR_GetExtState("SmartDJ", key))

    def set_state(self, key: str, value: str, *, persist: bool = False) -> None:
        """Set an ExtState of ours."""
        self.rpr.RPR_SetExtState("SmartDJ", key, value, persist)

    def resource_path(self) -> str:
        """Return REAPER's resource folder."""
        return str(self.rpr.RPR_GetResourcePath())

    def has(self, function: str) -> bool:
        """Whether an extension brings this function."""
        return bool(self.rpr.RPR_APIExists(function))

    # projects

    def current_project(self) -> Project:
        """Return the project in front."""
        answer = self.rpr.RPR_EnumProjects(-1, "", TEXT_BYTES)
        return Project(answer[0], answer[2])

    def is_open(self, project: Project) -> bool:
        """Whether a project is still open; a pointer alone can't tell, as a closed one's means the project in front."""
        index = 0
        while True:
            answer = self.rpr.RPR_EnumProjects(index, "", TEXT_BYTES)
            if is_null(answer[0]):
                return False
            if answer[0] == project.pointer:
                return True
            index += 1

    def show_project(self, project: Project) -> None:
        """Bring a project to the front."""
        self.rpr.RPR_SelectProjectInstance(project.pointer)

    def media_folder(self, project: Project) -> str:
        """Return the folder where the project's recordings go: beside the project, once it is saved."""
        return str(self.rpr.RPR_GetProjectPathEx(project.pointer, "", TEXT_BYTES)[1])

    # items and takes

    def selected_items(self, project: Project) -> list[str]:
        """Return the selected items."""
        count = self.rpr.RPR_CountSelectedMediaItems(project.pointer)
        return [self.rpr.RPR_GetSelectedMediaItem(project.pointer, index) for index in range(count)]

    def items_of_selected_tracks(self, project: Project) -> list[str]:
        """Return all items of the selected tracks."""
        items = []
        for index in range(self.rpr.RPR_CountSelectedTracks(project.pointer)):
            track = self.rpr.RPR_GetSelectedTrack(project.pointer, index)
            count = self.rpr.RPR_CountTrackMediaItems(track)
            items += [self.rpr.RPR_GetTrackMediaItem(track, number) for number in range(count)]
        return items

    def item_text(self, item: str, name: str) -> str:
        """Return a text of an item; empty where it is gone."""
        answer = self.rpr.RPR_GetSetMediaItemInfo_String(item, name, "", False)
        return str(answer[3]) if answer[0] else ""

    def find_items(self, project: Project, wanted: dict[str, str]) -> dict[str, str]:
        """Find items again by GUID.

        Parameters
        ----------
        project
            Must be in front.
        wanted
            GUID → the pointer that it had.

        Returns
        -------
        dict
            GUID → the pointer that it has; without those that are gone.
        """
        found = {guid: item for guid, item in wanted.items() if self.item_text(item, "GUID") == guid}
        missing = set(wanted) - set(found)
        for index in range(self.rpr.RPR_CountMediaItems(project.pointer) if missing else 0):
            item = self.rpr.RPR_GetMediaItem(project.pointer, index)
            guid = self.item_text(item, "GUID")
            if guid in missing:
                found[guid] = item
                missing.discard(guid)
                if not missing:
                    break
        return found

    def item_value(self, item: str, name: str) -> float:
        """Return a number of an item."""
        return float(self.rpr.RPR_GetMediaItemInfo_Value(item, name))

    def active_take(self, item: str) -> str:
        """Return the active take; null for an empty item."""
        return str(self.rpr.RPR_GetActiveTake(item))

    def takes(self, item: str) -> list[str]:
        """Return an item's takes; an empty one is null."""
        return [self.rpr.RPR_GetTake(item, index) for index in range(self.rpr.RPR_CountTakes(item))]

    def track_name(self, item: str) -> str:
        """Return the name of an item's track."""
        answer = self.rpr.RPR_GetSetMediaTrackInfo_String(self.rpr.RPR_GetMediaItemTrack(item), "P_NAME", "", False)
        return str(answer[3]) if answer[0] else ""

    def take_text(self, take: str, name: str) -> str:
        """Return a text of a take; empty where there is none."""
        if is_null(take):
            return ""
        answer = self.rpr.RPR_GetSetMediaItemTakeInfo_String(take, name, "", False)
        return str(answer[3]) if answer[0] else ""

    def set_take_text(self, take: str, name: str, value: str) -> None:
        """Set a text of a take."""
        self.rpr.RPR_GetSetMediaItemTakeInfo_String(take, name, value, True)

    def take_value(self, take: str, name: str) -> float:
        """Return a number of a take."""
        return float(self.rpr.RPR_GetMediaItemTakeInfo_Value(take, name))

    def set_take_value(self, take: str, name: str, value: float) -> None:
        """Set a number of a take."""
        self.rpr.RPR_SetMediaItemTakeInfo_Value(take, name, float(value))

    def is_midi(self, take: str) -> bool:
        """Whether a take holds MIDI."""
        return bool(self.rpr.RPR_TakeIsMIDI(take))

    def extras(self, take: str) -> tuple[int, int, int]:
        """Return how many stretch markers, effects and envelopes a take has."""
        rpr = self.rpr
        return (
            int(rpr.RPR_GetTakeNumStretchMarkers(take)),
            int(rpr.RPR_TakeFX_GetCount(take)),
            int(rpr.RPR_CountTakeEnvelopes(take)),
        )

    def source(self, take: str) -> Source | None:
        """Return what a take plays; None where it has no source."""
        rpr = self.rpr
        pointer = rpr.RPR_GetMediaItemTake_Source(take)
        if is_null(pointer):
            return None
        section: Section | None = None
        depth = 0
        while True:
            kind = str(rpr.RPR_GetMediaSourceType(pointer, "", 64)[1])
            info = rpr.RPR_PCM_Source_GetSectionInfo(pointer, 0.0, 0.0, False)
            parent = rpr.RPR_GetMediaSourceParent(pointer)
            if is_null(parent):
                break
            depth += 1
            if section is None:
                known = bool(info[0])
                section = Section(float(info[2]), float(info[3]), bool(info[4]) if known else True)
            pointer = parent
        return Source(
            kind,
            str(rpr.RPR_GetMediaSourceFileName(pointer, "", TEXT_BYTES)[1]),
            float(rpr.RPR_GetMediaSourceLength(pointer, False)[0]),
            int(rpr.RPR_GetMediaSourceSampleRate(pointer)),
            int(rpr.RPR_GetMediaSourceNumChannels(pointer)),
            section,
            depth,
        )

    # changing

    def in_undo_block(self, project: Project, title: str, work: Callable[[], Any]) -> Any:
        """Do something as one undo point of items; block and screen are closed again whatever happens."""
        rpr = self.rpr
        rpr.RPR_PreventUIRefresh(1)
        try:
            rpr.RPR_Undo_BeginBlock2(project.pointer)
            try:
                return work()
            finally:
                rpr.RPR_Undo_EndBlock2(project.pointer, title, UNDO_ITEMS)
        finally:
            rpr.RPR_PreventUIRefresh(-1)
            rpr.RPR_UpdateArrange()

    def undo_last(self, project: Project, title: str) -> bool:
        """Undo the last undo point, provided that it has this title: never anything of the person's."""
        try:
            last = str(self.rpr.RPR_Undo_CanUndo2(project.pointer))
        except AttributeError:  # how REAPER's Python says that there is none
            return False
        if last != title:
            return False
        return bool(self.rpr.RPR_Undo_DoUndo2(project.pointer))

    def select_only(self, project: Project, items: Iterable[str]) -> None:
        """Select these items and no others."""
        self.rpr.RPR_SelectAllMediaItems(project.pointer, False)
        for item in items:
            self.rpr.RPR_SetMediaItemSelected(item, True)

    def run_action(self, project: Project, command: int) -> None:
        """Run one of REAPER's own actions."""
        self.rpr.RPR_Main_OnCommandEx(command, 0, project.pointer)

    def add_take(self, project: Project, item: str, path: str) -> str:
        """Add a take that plays a file; null where the file can't be used.

        REAPER's Python may take a source that no take has yet for invalid, and pass null in its place. Then the file
        is inserted as a take, which goes by the selection.
        """
        rpr = self.rpr
        source = rpr.RPR_PCM_Source_CreateFromFile(path)
        if is_null(source):
            return str(source)
        take = rpr.RPR_AddTakeToMediaItem(item)
        if is_null(take):
            return str(take)
        if rpr.RPR_SetMediaItemTake_Source(take, source):
            return str(take)
        selected = self.selected_items(project)
        self.select_only(project, [item])
        self.activate(take)
        self.run_action(project, DELETE_ACTIVE_TAKE)
        count = len(self.takes(item))
        rpr.RPR_InsertMedia(path, ADD_TO_SELECTED_AS_TAKES)
        self.select_only(project, selected)
        takes = self.takes(item)
        return takes[-1] if len(takes) > count else "(MediaItem_Take*)0x0000000000000000"

    def activate(self, take: str) -> None:
        """Make a take the active one."""
        self.rpr.RPR_SetActiveTake(take)

    def add_marker(self, take: str, at_s: float, name: str) -> None:
        """Add a take marker; the time is that of the take's source, seconds."""
        self.rpr.RPR_SetTakeMarker(take, -1, name, float(at_s), 0)

    def update_item(self, item: str) -> None:
        """Show an item's changes."""
        self.rpr.RPR_UpdateItemInProject(item)


def file_exists(path: str) -> bool:
    """Whether a source's file is there."""
    return bool(path) and os.path.isfile(path)
