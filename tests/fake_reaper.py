"""A REAPER for tests: its Python functions with their exact shapes and habits, and real audio behind them.

What is kept, from the published ``reaper_python.py`` (its way of packing and unpacking) and REAPER's documentation:

* Pointers are texts ``(MediaItem*)0x00000000DEADBEEF``. A text of another type, of something deleted, or of an object
  in a project that isn't in front silently becomes null on its way in; a null project means the one in front.
* Functions with outgoing parameters return the C value, if any, then every parameter. Texts that REAPER may write to
  go through a buffer of 4 MiB: longer ones raise; sizes that the caller states cut the text off.
* Numbers go through ctypes: a float for an int raises, a bool is an int.
* ``RPR_defer`` and ``RPR_atexit`` are in the script's globals only, and take source text.
* ``RPR_GetUserInputs`` splits by its own rules. ``RPR_ValidatePtr2`` is always false.
* Undo: blocks must balance; undoing makes every object anew at another address, with the same GUIDs.

Every call is noted in `FakeReaper.calls`. `FakeReaper.check_balance` is called at the end of every tick.
"""

from __future__ import annotations

import copy
import re
import sys
import types
import uuid
from collections.abc import Callable, Sequence
from ctypes import c_byte, c_double, c_int, create_string_buffer
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

MAX_STRBUF = 4 * 1024 * 1024
NULL_ADDRESS = 0
TAKE_DEFAULTS = {
    "D_STARTOFFS": 0.0, "D_VOL": 1.0, "D_PAN": 0.0, "D_PANLAW": -1.0, "D_PLAYRATE": 1.0, "D_PITCH": 0.0,
    "B_PPITCH": 1.0, "I_PITCHMODE": -1.0, "I_CHANMODE": 0.0,
}  # fmt: skip
ITEM_DEFAULTS = {"D_POSITION": 0.0, "D_LENGTH": 1.0, "B_LOOPSRC": 0.0, "C_LOCK": 0.0, "D_VOL": 1.0}


def guid() -> str:
    return "{" + str(uuid.uuid4()).upper() + "}"


@dataclass(eq=False)
class Source:
    """A source: of a file, a section of another, or of something else."""

    kind: str = "WAVE"
    path: str = ""
    parent: Source | None = None
    offset_s: float = 0.0
    length_s: float = 0.0
    reverse: bool = False
    rate: int = 0
    channels: int = 0

    @classmethod
    def of_file(cls, path: Path | str, kind: str = "") -> Source:
        try:
            info = soundfile.info(str(path))
        except soundfile.LibsndfileError:
            return cls(kind or "WAVE", str(path))
        kinds = {"WAV": "WAVE", "WAVEX": "WAVE", "RF64": "WAVE", "AIFF": "AIFF", "FLAC": "FLAC", "MP3": "MP3"}
        return cls(
            kind or kinds.get(info.format, info.format), str(path), length_s=info.frames / info.samplerate,
            rate=info.samplerate, channels=info.channels,
        )  # fmt: skip

    def section(self, offset_s: float, length_s: float, *, reverse: bool = False) -> Source:
        return Source("SECTION", "", self, offset_s, length_s, reverse, self.rate, self.channels)

    def samples(self) -> np.ndarray:
        """(n, channels)."""
        if self.parent is None:
            return soundfile.read(self.path, dtype="float64", always_2d=True)[0]
        whole = self.parent.samples()
        part = whole[round(self.offset_s * self.rate) :][: round(self.length_s * self.rate)]
        return part[::-1] if self.reverse else part


@dataclass(eq=False)
class Take:
    source: Source | None
    name: str = ""
    values: dict[str, float] = field(default_factory=lambda: dict(TAKE_DEFAULTS))
    ext: dict[str, str] = field(default_factory=dict)
    markers: list[tuple[float, str]] = field(default_factory=list)
    guid: str = field(default_factory=guid)
    stretch_markers: int = 0
    effects: int = 0
    envelopes: int = 0


@dataclass(eq=False)
class Item:
    takes: list[Take | None] = field(default_factory=list)
    active: int = 0
    values: dict[str, float] = field(default_factory=lambda: dict(ITEM_DEFAULTS))
    guid: str = field(default_factory=guid)
    selected: bool = False

    @property
    def take(self) -> Take:
        found = self.takes[self.active]
        assert found is not None
        return found


@dataclass(eq=False)
class Track:
    name: str = ""
    items: list[Item] = field(default_factory=list)
    selected: bool = False
    guid: str = field(default_factory=guid)


@dataclass(eq=False)
class Project:
    path: str
    media: str
    tracks: list[Track] = field(default_factory=list)
    undo: list[tuple[str, list[Track]]] = field(default_factory=list)
    redo: list[tuple[str, list[Track]]] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        return [item for track in self.tracks for item in track.items]

    @property
    def undo_titles(self) -> list[str]:
        return [title for title, _ in self.undo]


class FakeReaper:
    """REAPER with one project open.

    Parameters
    ----------
    folder
        For the resource folder and the projects.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resource = folder / "REAPER"
        self.resource.mkdir(parents=True)
        self.projects: list[Project] = []
        self.front: Project
        self.ext: dict[tuple[str, str], str] = {}
        self.persisted: dict[tuple[str, str], str] = {}
        self.answers: list[Any] = []
        self.box_answers: list[int] = []
        self.inputs: list[dict[str, Any]] = []
        self.boxes: list[tuple[str, str, int]] = []
        self.console: list[str] = []
        self.help: list[str] = []
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []
        self.deferred: list[str] = []
        self.exits: list[str] = []
        self.ticks = 0
        self.apis: set[str] = set()
        self.render_works = True
        self.loose_sources_are_valid = True
        self.keeps_undo = True
        self.fails: dict[str, Exception] = {}
        self._addresses: dict[int, tuple[str, Any]] = {}
        self._by_object: dict[int, int] = {}
        self._next = 0x1A2B3C4D0000
        self._blocks: list[tuple[Project, list[Track]]] = []
        self._no_refresh = 0
        self.host: dict[str, Any] = {}
        self.module = types.ModuleType("reaper_python")
        for name in dir(self):
            if name.startswith("RPR_"):
                setattr(self.module, name, self._noted(name, getattr(self, name)))
        self.add_project("song")

    # setting the stage

    def add_project(self, name: str) -> Project:
        folder = self.folder / name
        (folder / "Media").mkdir(parents=True)
        project = Project(str(folder / f"{name}.rpp"), str(folder / "Media"))
        self.projects.append(project)
        self.front = project
        return project

    def add_track(self, name: str = "", *, selected: bool = False) -> Track:
        track = Track(name, selected=selected)
        self.front.tracks.append(track)
        return track

    def add_item(
        self,
        source: Source | Path | None,
        *,
        length_s: float | None = None,
        name: str = "",
        track: Track | None = None,
        selected: bool = True,
        item: dict[str, float] | None = None,
        **values: float,
    ) -> Item:
        source = Source.of_file(source) if isinstance(source, Path) else source
        if track is None:
            track = self.front.tracks[0] if self.front.tracks else self.add_track("Track 1")
        made = Item(selected=selected)
        if source is not None:
            take = Take(source, name)
            take.values.update(values)
            made.takes.append(take)
        made.values["D_LENGTH"] = length_s if length_s is not None else (source.length_s if source else 1.0)
        made.values.update(item or {})
        track.items.append(made)
        return made

    def close_project(self, project: Project) -> None:
        self.projects.remove(project)
        self._forget(project)
        if self.front is project:
            self.front = self.projects[0]

    def delete_item(self, item: Item) -> None:
        for track in self.front.tracks:
            if item in track.items:
                track.items.remove(item)

    # running scripts

    def run_script(self, path: Path) -> None:
        """Run an action's script as REAPER does, up to its first defer."""
        before = sys.modules.get("reaper_python")
        sys.modules["reaper_python"] = self.module
        self.host = {"__name__": "__main__", "__file__": str(path), "__builtins__": __builtins__}
        self.host["RPR_defer"] = self._noted("RPR_defer", lambda code: self.deferred.append(_text(code)))
        self.host["RPR_atexit"] = self._noted("RPR_atexit", lambda code: self.exits.append(_text(code)))
        try:
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), self.host)
        finally:
            if before is None:
                del sys.modules["reaper_python"]
            else:
                sys.modules["reaper_python"] = before
        self.check_balance()

    def tick(self) -> bool:
        """Run what is deferred; False where nothing was."""
        codes, self.deferred = self.deferred, []
        for code in codes:
            self.ticks += 1
            exec(compile(code, "<deferred>", "exec"), self.host)
            self.check_balance()
        return bool(codes)

    def quit(self) -> None:
        """End the script: REAPER runs what was given to RPR_atexit."""
        codes, self.exits, self.deferred = self.exits, [], []
        for code in codes:
            exec(compile(code, "<atexit>", "exec"), self.host)
        self.check_balance()

    def check_balance(self) -> None:
        """Nothing that was opened may stay open when REAPER gets control again."""
        assert not self._blocks, "an undo block was left open"
        assert self._no_refresh == 0, f"PreventUIRefresh is at {self._no_refresh}"

    def names(self) -> list[str]:
        """Names of all calls, in order."""
        return [name for name, _, _ in self.calls]

    def _noted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name in self.fails:
                raise self.fails[name]
            result = function(*arguments)
            self.calls.append((name, arguments, result))
            return result

        return call

    # pointers

    def pointer(self, kind: str, thing: Any) -> str:
        """Return an object's pointer as REAPER's Python writes it."""
        if thing is None:
            address = NULL_ADDRESS
        else:
            address = self._by_object.get(id(thing), 0)
            if not address:
                self._next += 0x40
                address = self._next
                self._by_object[id(thing)] = address
                self._addresses[address] = (kind, thing)
        return f"({kind})0x{address >> 32:08X}{address & 0xFFFFFFFF:08X}"

    def _in(self, kind: str, text: Any) -> Any:
        """What C gets for a pointer: the object, or None."""
        match = re.match(r"^\((\w+\*|HWND)\)0x([0-9A-F]+)$", str(text))
        if match is None or match[1] != kind:
            return None
        known, thing = self._addresses.get(int(match[2], 16), ("", None))
        return thing if known == kind and self._valid(kind, thing) else None

    def _valid(self, kind: str, thing: Any) -> bool:
        if kind == "ReaProject*":
            return thing in self.projects
        if kind == "MediaTrack*":
            return thing in self.front.tracks
        if kind == "MediaItem*":
            return thing in self.front.items
        takes = [take for item in self.front.items for take in item.takes if take is not None]
        if kind == "MediaItem_Take*":
            return thing in takes
        if kind == "PCM_source*" and not self.loose_sources_are_valid:
            return any(thing is take.source for take in takes)
        return True

    def _project(self, text: Any) -> Project:
        found: Project | None = self._in("ReaProject*", text)
        return found if found is not None else self.front

    def _forget(self, project: Project) -> None:
        gone = {id(thing) for track in project.tracks for thing in (track, *track.items)}
        gone |= {id(take) for item in project.items for take in item.takes if take is not None}
        for key in gone:
            address = self._by_object.pop(key, 0)
            if address:
                # kept alive, so that no later object gets the same id
                self._addresses[address] = ("gone", self._addresses[address][1])

    def _item_of(self, take: Take) -> Item:
        return next(item for item in self.front.items if any(take is other for other in item.takes))

    # telling and keeping

    def RPR_ShowConsoleMsg(self, text: str) -> None:
        self.console.append(_text(text))

    def RPR_ShowMessageBox(self, text: str, title: str, kind: int) -> int:
        self.boxes.append((_text(text), _text(title), c_int(kind).value))
        return self.box_answers.pop(0) if self.box_answers else {0: 1, 3: 2}.get(kind, 1)

    def RPR_Help_Set(self, text: str, temporary: bool) -> None:
        c_byte(temporary)
        self.help.append(_text(text))

    def RPR_GetExtState(self, section: str, key: str) -> str:
        return self.ext.get((_text(section), _text(key)), "")

    def RPR_SetExtState(self, section: str, key: str, value: str, persist: bool) -> None:
        c_byte(persist)
        value = _text(value)
        self.ext[_text(section), _text(key)] = value
        if persist:
            assert "\n" not in value, "persisted states have one line"
            assert value.isascii(), "persisted states must be ASCII"
            self.persisted[section, key] = value

    def RPR_GetResourcePath(self) -> str:
        return str(self.resource)

    def RPR_APIExists(self, name: str) -> int:
        return int(_text(name) in self.apis or hasattr(self.module, "RPR_" + name))

    def RPR_ValidatePtr2(self, project: Any, pointer: Any, kind: str) -> int:
        return 0

    def RPR_GetUserInputs(self, title: str, count: int, captions: str, defaults: str, size: int) -> tuple[Any, ...]:
        number, limit = c_int(count).value, c_int(size).value
        assert 1 <= number <= 16, "REAPER has room for 16 lines"
        _buffer(defaults)
        words = _text(captions).split(",")
        extras = [word for word in words if re.match(r"^(extrawidth|separator)=", word, re.DOTALL)]
        names = [word for word in words if word not in extras]
        assert len(names) <= number, f"captions were split at a comma: {names}"
        separator = next((word[len("separator=")] for word in extras if word.startswith("separator=")), ",")
        if not _quotes_and_parentheses_balance(defaults):
            separator = ","
        values = (_text(defaults).split(separator) + [""] * number)[:number]
        self.inputs.append({"title": title, "captions": names, "defaults": values, "separator": separator})
        assert self.answers, f"nobody answers “{title}” ({values})"
        answer = self.answers.pop(0)
        if callable(answer):
            answer = answer(values)
        if answer is None:
            return (0, title, count, captions, defaults, size)
        joined = separator.join([*answer, *values[len(answer) :]])
        cut = joined.encode()[: limit - 1].decode("utf-8", "ignore")
        return (1, title, count, captions, cut, size)

    # projects

    def RPR_EnumProjects(self, index: int, name: str, size: int) -> tuple[Any, ...]:
        number = c_int(index).value
        _buffer(name)
        found = self.front if number == -1 else self.projects[number] if 0 <= number < len(self.projects) else None
        path = (found.path if found is not None else "")[: c_int(size).value - 1]
        return (self.pointer("ReaProject*", found), index, path, size)

    def RPR_SelectProjectInstance(self, project: str) -> None:
        found = self._in("ReaProject*", project)
        if found is not None:
            self.front = found

    def RPR_GetProjectPathEx(self, project: str, buffer: str, size: int) -> tuple[Any, ...]:
        _buffer(buffer)
        return (project, self._project(project).media[: c_int(size).value - 1], size)

    # items

    def RPR_CountSelectedMediaItems(self, project: str) -> int:
        return sum(item.selected for item in self._project(project).items)

    def RPR_GetSelectedMediaItem(self, project: str, index: int) -> str:
        found = [item for item in self._project(project).items if item.selected]
        return self.pointer("MediaItem*", _at(found, index))

    def RPR_CountMediaItems(self, project: str) -> int:
        return len(self._project(project).items)

    def RPR_GetMediaItem(self, project: str, index: int) -> str:
        return self.pointer("MediaItem*", _at(self._project(project).items, index))

    def RPR_CountSelectedTracks(self, project: str) -> int:
        return sum(track.selected for track in self._project(project).tracks)

    def RPR_GetSelectedTrack(self, project: str, index: int) -> str:
        found = [track for track in self._project(project).tracks if track.selected]
        return self.pointer("MediaTrack*", _at(found, index))

    def RPR_CountTrackMediaItems(self, track: str) -> int:
        found = self._in("MediaTrack*", track)
        return len(found.items) if found is not None else 0

    def RPR_GetTrackMediaItem(self, track: str, index: int) -> str:
        found = self._in("MediaTrack*", track)
        return self.pointer("MediaItem*", _at(found.items, index) if found is not None else None)

    def RPR_GetMediaItemTrack(self, item: str) -> str:
        found = self._in("MediaItem*", item)
        track = next((track for track in self.front.tracks if found in track.items), None)
        return self.pointer("MediaTrack*", track)

    def RPR_GetMediaItemInfo_Value(self, item: str, name: str) -> float:
        found = self._in("MediaItem*", item)
        return found.values[name] if found is not None else 0.0

    def RPR_GetSetMediaItemInfo_String(self, item: str, name: str, value: str, change: bool) -> tuple[Any, ...]:
        _buffer(value)
        found = self._in("MediaItem*", item)
        assert not c_byte(change).value
        assert name in ("GUID",)
        return (int(found is not None), item, name, found.guid if found is not None else value, change)

    def RPR_GetSetMediaTrackInfo_String(self, track: str, name: str, value: str, change: bool) -> tuple[Any, ...]:
        _buffer(value)
        found = self._in("MediaTrack*", track)
        assert not c_byte(change).value
        known = {"P_NAME": found.name, "GUID": found.guid}[name] if found is not None else value
        return (int(found is not None), track, name, known, change)

    def RPR_SetMediaItemSelected(self, item: str, selected: bool) -> None:
        found = self._in("MediaItem*", item)
        if found is not None:
            found.selected = bool(c_byte(selected).value)

    def RPR_SelectAllMediaItems(self, project: str, selected: bool) -> None:
        for item in self._project(project).items:
            item.selected = bool(c_byte(selected).value)

    def RPR_UpdateItemInProject(self, item: str) -> None:
        assert self._in("MediaItem*", item) is not None

    def RPR_UpdateArrange(self) -> None:
        pass

    # takes

    def RPR_GetActiveTake(self, item: str) -> str:
        found = self._in("MediaItem*", item)
        return self.pointer("MediaItem_Take*", _at(found.takes, found.active) if found is not None else None)

    def RPR_CountTakes(self, item: str) -> int:
        found = self._in("MediaItem*", item)
        return len(found.takes) if found is not None else 0

    def RPR_GetTake(self, item: str, index: int) -> str:
        found = self._in("MediaItem*", item)
        return self.pointer("MediaItem_Take*", _at(found.takes, index) if found is not None else None)

    def RPR_SetActiveTake(self, take: str) -> None:
        found = self._in("MediaItem_Take*", take)
        if found is not None:
            self._changing()
            item = self._item_of(found)
            item.active = next(index for index, other in enumerate(item.takes) if other is found)

    def RPR_AddTakeToMediaItem(self, item: str) -> str:
        found = self._in("MediaItem*", item)
        if found is None:
            return self.pointer("MediaItem_Take*", None)
        self._changing()
        take = Take(None)
        found.takes.append(take)
        return self.pointer("MediaItem_Take*", take)

    def RPR_GetMediaItemTakeInfo_Value(self, take: str, name: str) -> float:
        found = self._in("MediaItem_Take*", take)
        return found.values[name] if found is not None else 0.0

    def RPR_SetMediaItemTakeInfo_Value(self, take: str, name: str, value: float) -> int:
        found = self._in("MediaItem_Take*", take)
        number = c_double(value).value
        if found is None:
            return 0
        self._changing()
        assert name in TAKE_DEFAULTS, name
        found.values[name] = number
        return 1

    def RPR_GetSetMediaItemTakeInfo_String(self, take: str, name: str, value: str, change: bool) -> tuple[Any, ...]:
        _buffer(value)
        found = self._in("MediaItem_Take*", take)
        if found is None:
            return (0, take, name, value, change)
        if c_byte(change).value:
            self._changing()
            if name == "P_NAME":
                found.name = value
            else:
                assert name.startswith("P_EXT:"), name
                assert "\n" not in value
                found.ext[name.removeprefix("P_EXT:")] = value
            return (1, take, name, value, change)
        if name.startswith("P_EXT:"):
            known = found.ext.get(name.removeprefix("P_EXT:"))
            return (int(known is not None), take, name, known if known is not None else value, change)
        return (1, take, name, {"P_NAME": found.name, "GUID": found.guid}[name], change)

    def RPR_TakeIsMIDI(self, take: str) -> int:
        found = self._in("MediaItem_Take*", take)
        return int(found is not None and found.source is not None and found.source.kind == "MIDI")

    def RPR_GetTakeNumStretchMarkers(self, take: str) -> int:
        return self._in("MediaItem_Take*", take).stretch_markers

    def RPR_TakeFX_GetCount(self, take: str) -> int:
        return self._in("MediaItem_Take*", take).effects

    def RPR_CountTakeEnvelopes(self, take: str) -> int:
        return self._in("MediaItem_Take*", take).envelopes

    def RPR_SetTakeMarker(self, take: str, index: int, name: str, at_s: float, colour: int) -> tuple[Any, ...]:
        found = self._in("MediaItem_Take*", take)
        assert c_int(index).value == -1
        place, tint = c_double(at_s).value, c_int(colour).value
        assert found is not None
        self._changing()
        found.markers.append((place, _text(name)))
        return (len(found.markers) - 1, take, index, name, place, tint)

    # sources

    def RPR_GetMediaItemTake_Source(self, take: str) -> str:
        found = self._in("MediaItem_Take*", take)
        return self.pointer("PCM_source*", found.source if found is not None else None)

    def RPR_SetMediaItemTake_Source(self, take: str, source: str) -> int:
        found, new = self._in("MediaItem_Take*", take), self._in("PCM_source*", source)
        if found is None or new is None:
            return 0
        self._changing()
        found.source = new
        return 1

    def RPR_PCM_Source_CreateFromFile(self, path: str) -> str:
        exists = Path(_text(path)).is_file()
        return self.pointer("PCM_source*", Source.of_file(path) if exists else None)

    def RPR_GetMediaSourceParent(self, source: str) -> str:
        found = self._in("PCM_source*", source)
        return self.pointer("PCM_source*", found.parent if found is not None else None)

    def RPR_GetMediaSourceFileName(self, source: str, buffer: str, size: int) -> tuple[Any, ...]:
        _buffer(buffer)
        found = self._in("PCM_source*", source)
        return (source, found.path[: c_int(size).value - 1] if found is not None else "", size)

    def RPR_GetMediaSourceType(self, source: str, buffer: str, size: int) -> tuple[Any, ...]:
        _buffer(buffer)
        found = self._in("PCM_source*", source)
        return (source, found.kind[: c_int(size).value - 1] if found is not None else "", size)

    def RPR_GetMediaSourceLength(self, source: str, is_qn: bool) -> tuple[Any, ...]:
        found = self._in("PCM_source*", source)
        return (found.length_s if found is not None else 0.0, source, c_byte(is_qn).value)

    def RPR_GetMediaSourceSampleRate(self, source: str) -> int:
        found = self._in("PCM_source*", source)
        return found.rate if found is not None else 0

    def RPR_GetMediaSourceNumChannels(self, source: str) -> int:
        found = self._in("PCM_source*", source)
        return found.channels if found is not None else 0

    def RPR_PCM_Source_GetSectionInfo(
        self, source: str, offset: float, length: float, reverse: bool
    ) -> tuple[Any, ...]:
        found = self._in("PCM_source*", source)
        values = c_double(offset).value, c_double(length).value, c_byte(reverse).value
        if found is None or found.parent is None:
            return (0, source, *values)
        return (1, source, found.offset_s, found.length_s, int(found.reverse))

    # undo, screen, actions

    def _changing(self) -> None:
        assert self._blocks, "something was changed outside an undo block"

    def RPR_PreventUIRefresh(self, count: int) -> None:
        self._no_refresh += c_int(count).value
        assert self._no_refresh >= 0

    def RPR_Undo_BeginBlock2(self, project: str) -> None:
        found = self._project(project)
        self._blocks.append((found, copy.deepcopy(found.tracks)))

    def RPR_Undo_EndBlock2(self, project: str, title: str, flags: int) -> None:
        found, before = self._blocks.pop()
        assert found is self._project(project), "the undo block belongs to another project"
        assert c_int(flags).value in (-1, 4)
        found.undo.append((_text(title), before))
        found.redo.clear()

    def RPR_Undo_CanUndo2(self, project: str) -> str:
        undo = self._project(project).undo
        return (undo[-1][0].encode() if undo and self.keeps_undo else None).decode()  # type: ignore[union-attr]

    def RPR_Undo_DoUndo2(self, project: str) -> int:
        found = self._project(project)
        if not found.undo:
            return 0
        title, before = found.undo.pop()
        found.redo.append((title, found.tracks))
        self._forget(found)
        found.tracks = before
        return 1

    def RPR_Main_OnCommandEx(self, command: int, flag: int, project: str) -> None:
        c_int(flag)
        found = self._project(project)
        assert found is self.front
        if c_int(command).value == 41999:
            self._changing()
            for item in found.items:
                if item.selected and self.render_works:
                    self._render(found, item)
        elif command == 40129:
            self._changing()
            for item in found.items:
                if item.selected:
                    del item.takes[item.active]
                    item.active = min(item.active, len(item.takes) - 1)
        else:
            assert command == 40047, command

    def RPR_InsertMedia(self, path: str, mode: int) -> int:
        assert c_int(mode).value == 3
        self._changing()
        for item in self.front.items:
            if item.selected:
                item.takes.append(Take(Source.of_file(_text(path)), Path(path).name))
        return 1

    def _render(self, project: Project, item: Item) -> None:
        """Action 41999, for real: what the item sounds like becomes the file of a new take."""
        take, length_s = item.take, item.values["D_LENGTH"]
        assert take.source is not None
        rate = take.source.rate
        samples = take.source.samples()
        mode = int(take.values["I_CHANMODE"])
        if mode == 1:
            samples = samples[:, ::-1]
        elif mode == 2:
            samples = np.repeat(samples.mean(axis=1, keepdims=True), samples.shape[1], axis=1)
        elif mode > 2:
            samples = samples[:, [mode - 3]]
        n = round(length_s * rate)
        places = (np.arange(n) / rate * take.values["D_PLAYRATE"] + take.values["D_STARTOFFS"]) * rate
        if item.values["B_LOOPSRC"]:
            places %= len(samples)
        outside = (places < 0) | (places > len(samples) - 0.5)
        rendered = np.stack([np.interp(places, np.arange(len(samples)), channel) for channel in samples.T], axis=1)
        rendered[outside] = 0
        stem = take.name or "item"
        number = next(k for k in range(1, 1000) if not (Path(project.media) / f"{stem} render {k:03d}.wav").exists())
        path = Path(project.media) / f"{stem} render {number:03d}.wav"
        soundfile.write(path, rendered, rate, subtype="PCM_24")
        item.takes.append(Take(Source.of_file(path), path.stem))
        item.active = len(item.takes) - 1


def _text(value: Any) -> str:
    """A text on its way in: no null bytes get through C."""
    return str(value).encode("utf-8").split(b"\0")[0].decode()


def _buffer(value: Any) -> None:
    """A text that REAPER may write to; ctypes raises where it doesn't fit."""
    create_string_buffer(str(value).encode("utf-8"), MAX_STRBUF)


def _at(things: Sequence[Any], index: int) -> Any:
    number = c_int(index).value
    return things[number] if 0 <= number < len(things) else None


def _quotes_and_parentheses_balance(text: str) -> bool:
    return all(text.count(quote) % 2 == 0 for quote in "\"'`") and text.count("(") == text.count(")")
