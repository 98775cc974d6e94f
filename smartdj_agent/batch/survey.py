"""What there is to do in a folder: its recordings, its projects' items, and what is left alone with the reason.

Nothing is decoded here: files are hashed, headers and projects are read. The result names every piece of work by a key
of what it depends on, so that a later run knows what is done.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from smartdj_agent import __version__
from smartdj_agent.audio import file_sha256
from smartdj_agent.batch.rpp import Document, Item, Take, Track
from smartdj_agent.batch.segment import Media, RefusedError, Segment, active_source, segment_of
from smartdj_agent.console import one_line
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import Plan
from smartdj_agent.steps import format_step

BATCH_FOLDER = "smartdj-batch"
"""Where the manifest and the summary of a folder's batches are kept."""

READ_SUFFIXES = frozenset(
    {
        ".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
        ".flac", ".ogg", ".oga", ".opus", ".mp3",
    }
)  # fmt: skip
"""Recordings: other files in a folder aren't looked at."""

FOREIGN_SUFFIXES = frozenset({".aac", ".ac3", ".amr", ".ape", ".dsf", ".m4a", ".m4b", ".mka", ".wma", ".wv"})
"""Recordings that can't be read here: they are told, not passed over."""

MAX_PROJECT_BYTES = 512 * 2**20
_OURS = re.compile(r"-smartdj(-\d+)?$")


@dataclass(frozen=True)
class Request:
    """What shall be done to every recording.

    Attributes
    ----------
    instruction
        What to plan from; empty where there is a plan.
    plan
        What to carry out as it is; a recording that it was made for is forgotten.
    seed, mode, preset
        As for `smartdj edit`.
    tracks
        Names or patterns of the tracks of projects; none is all.
    sounds
        Where added sounds come from and the libraries named, where that was told.
    """

    instruction: str = ""
    plan: Plan | None = None
    seed: int = 0
    mode: str = "preserve"
    preset: str = "small"
    tracks: tuple[str, ...] = ()
    sounds: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of everything that a result depends on, besides the recording itself."""
        steps = None if self.plan is None else [format_step(item.step) for item in self.plan.enabled_steps()]
        told = [__version__, self.instruction, steps, self.seed, self.mode, self.preset]
        return key_of([*told, *self.sounds])


@dataclass(frozen=True)
class Unit:
    """One recording, or one item of a project: what is edited as a whole.

    Attributes
    ----------
    id
        Path inside the folder, and for an item ``#`` with its GUID or place.
    label
        For people.
    key
        Hash of what its result depends on: samples, request, program.
    path
        The audio file.
    stamp
        Size and time of change when it was surveyed.
    duration_s
        Seconds of audio.
    project
        Path of the project inside the folder, or empty.
    item
        Line (from 0) of the item's block in the project, −1 for a recording.
    segment
        What the item plays of its file; None is all.
    name
        What its output files are named after.
    """

    id: str
    label: str
    key: str
    path: Path
    stamp: tuple[int, int]
    duration_s: float
    name: str
    project: str = ""
    item: int = -1
    segment: Segment | None = None


@dataclass(frozen=True)
class LeftOut:
    """What isn't edited, and why; `error` where something is wrong rather than only unusual."""

    id: str
    label: str
    reason: str
    project: str = ""
    error: SmartDJError | None = None


@dataclass(frozen=True)
class Project:
    """A project with items to edit: its path inside the folder, its file's hash, its units' ids."""

    id: str
    path: Path
    sha256: str
    units: tuple[str, ...]


@dataclass
class Survey:
    """Everything that was found, in the order of paths."""

    folder: Path
    units: list[Unit] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    projects: list[Project] = field(default_factory=list)


def survey(folder: Path, request: Request, *, with_media: bool = False, apart: Path | None = None) -> Survey:
    """Look through a folder.

    Parameters
    ----------
    folder
        Where to look, in folders inside it too. Hidden files, our own results (``-smartdj`` at a name's end) and
        links to folders are passed over.
    request
        What shall be done.
    with_media
        Whether recordings that a project of the folder uses are edited by themselves too.
    apart
        A folder that is passed over: where the batch keeps its own files.

    Raises
    ------
    SmartDJError
        USAGE where there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise SmartDJError(
            ErrorCode.USAGE, f"{folder} is no folder", "name a folder of recordings or REAPER projects", "FOLDER"
        )
    found = Survey(folder)
    hashes = _Hashes()
    files = sorted(_walk(folder, apart))
    used: dict[Path, str] = {}
    for path in files:
        if path.suffix.lower() == ".rpp":
            _survey_project(found, path, request, hashes, used)
    for path in files:
        suffix = path.suffix.lower()
        name = _relative(path, folder)
        if suffix in FOREIGN_SUFFIXES:
            error = SmartDJError(
                ErrorCode.AUDIO_UNSUPPORTED,
                f"{name} is in a format that can't be read here",
                "convert it first, for example with `ffmpeg -i IN out.wav`",
            )
            found.left_out.append(LeftOut(name, name, error.message, error=error))
        elif suffix in READ_SUFFIXES:
            user = used.get(_real(path))
            if user is not None and not with_media:
                found.left_out.append(LeftOut(name, name, f"it is media of {user}"))
            else:
                _survey_recording(found, path, name, request, hashes)
    if not (found.units or found.left_out):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"there is nothing to edit in {folder}",
            "name a folder of recordings or REAPER projects",
            "FOLDER",
        )
    found.units.sort(key=lambda unit: (unit.project or unit.id, unit.item))
    return found


def is_ours(name: str) -> bool:
    """Whether a file or folder has the name of a result of ours: ``walk-smartdj.wav``, ``scene-smartdj-2``."""
    return name == BATCH_FOLDER or bool(_OURS.search(name)) or bool(_OURS.search(Path(name).stem))


def _walk(folder: Path, apart: Path | None) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not is_ours(name) and Path(where, name) != apart
        ]
        for name in files:
            if not name.startswith(".") and not is_ours(name):
                yield Path(where, name)


def _survey_recording(found: Survey, path: Path, name: str, request: Request, hashes: _Hashes) -> None:
    try:
        media, sha256, stamp = hashes.media(path)
    except SmartDJError as error:
        found.left_out.append(LeftOut(name, name, error.message, error=error))
        return
    key = key_of(["recording", sha256, path.suffix.lower(), request.digest])
    duration_s = media.frames / media.sample_rate
    found.units.append(Unit(name, one_line(name), key, path, stamp, duration_s, path.stem))


def _survey_project(found: Survey, path: Path, request: Request, hashes: _Hashes, used: dict[Path, str]) -> None:
    name = _relative(path, found.folder)
    try:
        data = read_project(path)
        document = Document.parse(data)
    except SmartDJError as error:
        told = SmartDJError(error.code, f"{name}: {error.message}", error.hint)
        found.left_out.append(LeftOut(name, one_line(name), error.message, error=told))
        return
    folders = media_folders(path, document)
    chosen = [track for track in document.tracks if _is_chosen(track.name, request.tracks)]
    for track in document.tracks:
        for item in track.items:
            for take in item.takes:
                media_path = _take_media(take, folders)
                if media_path is not None:
                    used.setdefault(_real(media_path), one_line(name))
    if not chosen:
        why = "no track has a wanted name" if document.tracks else "it has no tracks"
        found.left_out.append(LeftOut(name, one_line(name), why, name))
        return
    guids = [item.guid for track in document.tracks for item in track.items]
    units: list[str] = []
    for track in chosen:
        for item in track.items:
            unique = bool(item.guid) and guids.count(item.guid) == 1
            id = f"{name}#{item.guid if unique else f'{track.number}.{item.number}'}"
            label = one_line(f"{name} › {track.name} › {_item_name(item)}")
            try:
                unit = _survey_item(track, item, id, label, name, folders, request, hashes)
            except RefusedError as refusal:
                found.left_out.append(LeftOut(id, label, str(refusal), name))
            except SmartDJError as error:
                found.left_out.append(LeftOut(id, label, error.message, name, error))
            else:
                found.units.append(unit)
                units.append(id)
    if units:
        found.projects.append(Project(name, path, hashlib.sha256(data).hexdigest(), tuple(units)))
    elif not any(track.items for track in chosen):
        found.left_out.append(LeftOut(name, one_line(name), "there are no items on its tracks", name))


def _survey_item(
    track: Track,
    item: Item,
    id: str,
    label: str,
    project: str,
    folders: tuple[Path, ...],
    request: Request,
    hashes: _Hashes,
) -> Unit:
    take, source = active_source(track, item)
    path = find_media(source.file, folders)
    if path is None:
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FOUND,
            f"its media is missing: {one_line(source.file)}",
            "put it back, or take the item out of the project",
        )
    media, sha256, stamp = hashes.media(path)
    segment = segment_of(item, take, media)
    key = key_of(
        [
            "item",
            sha256,
            segment.start,
            segment.frames,
            segment.channels,
            segment.looped,
            request.digest,
        ]
    )
    return Unit(
        id,
        label,
        key,
        path,
        stamp,
        segment.frames / media.sample_rate,
        Path(take.name).stem or path.stem,
        project,
        item.block.start,
        segment,
    )


def _item_name(item: Item) -> str:
    take = item.takes[item.active] if item.takes else None
    name = take.name if take is not None else ""
    position = item.word("POSITION", default="?")
    try:
        at = f"{float(position):.3f} s"
    except ValueError:
        at = position
    return f"item {item.number} at {at}" + (f" ({name})" if name else "")


def _is_chosen(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a track is wanted: by its exact name or by a pattern, in any case."""
    lowered = name.casefold()
    return not patterns or any(
        lowered == pattern.casefold() or fnmatch.fnmatchcase(lowered, pattern.casefold()) for pattern in patterns
    )


def read_project(path: Path) -> bytes:
    """Return a project's bytes.

    Raises
    ------
    SmartDJError
        RPP_INVALID where it can't be read.
    """
    try:
        if path.stat().st_size > MAX_PROJECT_BYTES:
            raise SmartDJError(ErrorCode.RPP_INVALID, "the project is too large", "is it really a project?")
        return path.read_bytes()
    except OSError as error:
        raise SmartDJError(
            ErrorCode.RPP_INVALID,
            f"the project can't be opened: {error.strerror or error}",
            "close what keeps it locked, or check that you may read it",
        ) from error


# --- media of projects --------------------------------------------------------------------------------------


def media_folders(project: Path, document: Document) -> tuple[Path, ...]:
    """Return where a project's relative paths may lie: beside it, then in its media folders."""
    folders = [project.parent]
    for text in document.record_paths:
        given = _native(text)
        if given is not None:
            folders.append(given if given.is_absolute() else project.parent / given)
    return tuple(folders)


def find_media(text: str, folders: tuple[Path, ...]) -> Path | None:
    """Find the file that a project names, or return None.

    Backslashes part folders as slashes do. Where a name differs only in case, as it may in a project from Windows
    or macOS, the one file that fits is taken.
    """
    given = _native(text)
    if given is None:
        return None
    candidates = [given] if given.is_absolute() else [folder / given for folder in folders]
    for candidate in candidates:
        if _is_file(candidate):
            return candidate
    for candidate in candidates:
        found = _any_case(candidate)
        if found is not None:
            return found
    return None


def _native(text: str) -> Path | None:
    """Return a project's path as one of this system; None for a Windows path where there is no Windows."""
    if not text or "\0" in text:
        return None
    if os.name != "nt":
        if re.match(r"[A-Za-z]:|\\\\", text):
            return None
        text = text.replace("\\", "/")
    return Path(text)


def _any_case(path: Path) -> Path | None:
    """Follow a path whatever the case of its parts, as long as each fits one entry only."""
    if not path.is_absolute():
        path = path.absolute()
    current = Path(path.anchor)
    for part in path.parts[1:]:
        if part == "..":
            current = current.parent
            continue
        following = current / part
        if not os.path.lexists(following):
            try:
                fitting = [name for name in os.listdir(current) if name.casefold() == part.casefold()]
            except OSError:
                return None
            if len(fitting) != 1:
                return None
            following = current / fitting[0]
        current = following
    return current if _is_file(current) else None


def _take_media(take: Take, folders: tuple[Path, ...]) -> Path | None:
    source = take.source
    while source is not None and not source.file:
        source = source.inside
    return find_media(source.file, folders) if source is not None else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


# --- hashes -------------------------------------------------------------------------------------------------


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change, which tell whether it was touched."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


class _Hashes:
    """Headers and hashes of audio files, each read once however many items use it."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Media, str, tuple[int, int]] | SmartDJError] = {}

    def media(self, path: Path) -> tuple[Media, str, tuple[int, int]]:
        """Return what the header says, the file's hash and its stamp; raises AUDIO_… errors."""
        real = _real(path)
        if real not in self._known:
            try:
                self._known[real] = self._read(path)
            except SmartDJError as error:
                self._known[real] = error
        known = self._known[real]
        if isinstance(known, SmartDJError):
            raise known
        return known

    @staticmethod
    def _read(path: Path) -> tuple[Media, str, tuple[int, int]]:
        try:
            stamp = file_stamp(path)
        except OSError as error:
            raise SmartDJError(
                ErrorCode.AUDIO_UNREADABLE, f"{path} can't be opened: {error.strerror or error}", "check the file"
            ) from error
        sha256 = file_sha256(path)
        if stamp[0] == 0:
            raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"{path} is empty (0 bytes)", "record or export it again")
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, TypeError, OSError) as error:
            raise SmartDJError(
                ErrorCode.AUDIO_UNREADABLE,
                f"{path} can't be read as audio",
                "check that it is a whole audio file (WAV, FLAC, AIFF, OGG, MP3 …)",
            ) from error
        if info.frames <= 0 or info.samplerate <= 0:
            raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"{path} holds no samples", "record or export it again")
        return Media(int(info.frames), int(info.samplerate), int(info.channels)), sha256, stamp


def key_of(values: list[object]) -> str:
    """SHA-256 of JSON values: what has the same key needs doing once."""
    return hashlib.sha256(json.dumps(values, ensure_ascii=True).encode()).hexdigest()
