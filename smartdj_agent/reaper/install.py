"""Puts SmartDJ into a REAPER resource folder, and takes it out again: first a plan of file changes, then the doing.

Planning reads and decides, and changes nothing. Carrying out checks again that REAPER is closed and that every
file still is what the plan saw, then writes each file atomically; if one fails, those before it are put back.
A settings file that was there is copied first, to ``NAME.smartdj-YYYYMMDD-HHMMSS.bak``.

A record, ``Scripts/SmartDJ/smartdj-install.json``, notes what was written. Taking out goes by it: a settings file
that nobody has changed since gets its old bytes back, from any other our lines are removed one by one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from smartdj_agent import __version__
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import publish, temporary_beside, write_error
from smartdj_agent.reaper import ini
from smartdj_agent.reaper.paths import ResourceFolder, System
from smartdj_agent.reaper.python_library import PythonLibrary, machine, processors
from smartdj_agent.reaper.scripts import FOLDER_NAME, MENUS, Script, menu_entries, read_scripts

RECORD_NAME = "smartdj-install.json"
RECORD_VERSION = 1

EXTSTATE_SECTION = "SmartDJ"
EXTSTATE_HELPER = "helper"
BASE64_MARK = "base64:"

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Kind(StrEnum):
    """What happens to a file."""

    CREATE = "create"
    EDIT = "edit"
    REMOVE = "remove"
    BACK_UP = "back up"


@dataclass(frozen=True)
class Change:
    """One file's change; `before` and `after` are its whole content, None where there is no file.

    Attributes
    ----------
    path
        The file.
    what
        What the change is for, for a person.
    backup
        Whether this makes a copy of another file.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    what: str
    backup: bool = False

    @property
    def kind(self) -> Kind:
        """What happens to the file."""
        if self.backup and self.before is None:
            return Kind.BACK_UP
        if self.before is None:
            return Kind.CREATE
        return Kind.REMOVE if self.after is None else Kind.EDIT


@dataclass(frozen=True)
class FilePlan:
    """What installing or uninstalling would do.

    Attributes
    ----------
    resource
        Where.
    changes
        In the order of their doing; nothing is to be done where there are none.
    folders
        Folders that are removed afterwards if they are empty.
    clicks
        What the user has to do in REAPER, step by step; empty where nothing.
    notes
        What the user should know.
    """

    resource: ResourceFolder
    changes: tuple[Change, ...]
    folders: tuple[Path, ...] = ()
    clicks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What is to be installed.

    Attributes
    ----------
    files
        Path below ``Scripts/SmartDJ`` with forward slashes, and content.
    helper
        Absolute path of our ``smartdj`` program, which the scripts start.
    system
        Decides the line ends of new files.
    python
        A library to point REAPER at, unless it has a working one; None leaves ``reaper.ini`` alone.
    """

    files: tuple[tuple[str, bytes], ...]
    helper: Path
    system: System
    python: PythonLibrary | None = None


@dataclass
class _Record:
    """What the record file holds."""

    files: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    settings: dict[str, dict[str, str | None]] = field(default_factory=dict)
    python: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        document = {
            "record": RECORD_VERSION,
            "smartdj": __version__,
            "about": "written by `smartdj reaper install`; `smartdj reaper uninstall` goes by it",
            "files": self.files,
            "folders": self.folders,
            "settings": self.settings,
            "python": self.python,
        }
        return (json.dumps(document, indent=1, ensure_ascii=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes | None) -> _Record:
        """Read a record; a damaged or foreign one counts as none, which only makes us more careful."""
        try:
            document: Any = json.loads(content or b"{}")
            if document.get("record") != RECORD_VERSION:
                return cls()
            return cls(document["files"], document["folders"], document["settings"], document["python"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()


# Helper ------------------------------------------------------------------------------------------------------


def helper_value(helper: Path) -> bytes:
    """Return how ExtState ``SmartDJ/helper`` names our program.

    REAPER keeps such values in a file whose encoding it doesn't promise, so a path that isn't plain ASCII is
    written as ``base64:`` and the base64 of its UTF-8.
    """
    text = str(helper)
    if text.isascii() and text.isprintable() and text == text.strip():
        return text.encode()
    return BASE64_MARK.encode() + base64.b64encode(os.fsencode(text))


def read_helper(extstate: bytes) -> Path | None:
    """Return the program that ``reaper-extstate.ini`` names, or None."""
    value = ini.get_value(extstate, EXTSTATE_SECTION, EXTSTATE_HELPER)
    if value is None or not value.strip():
        return None
    value = value.strip()
    if value.startswith(BASE64_MARK.encode()):
        with contextlib.suppress(ValueError):
            value = base64.b64decode(value.removeprefix(BASE64_MARK.encode()), validate=True)
    return Path(os.fsdecode(value))


# Reading -----------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> bytes | None:
    """Return a settings file's content, or None where it isn't there.

    Raises
    ------
    SmartDJError
        OUTPUT_UNWRITABLE: it can't be read, or is UTF-16, which we don't edit.
    """
    content = _read(path)
    if content is not None and content.startswith(_UTF16_MARKS):
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"{path} is UTF-16; REAPER writes UTF-8",
            "save it as UTF-8 without byte order mark, or delete it",
        )
    return content


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE, f"can't read {path}: {error.strerror or error}", "check its permissions"
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def backup_path(path: Path, now: datetime) -> Path:
    """Return a free name for a copy of `path` made at `now`."""
    stem = f"{path.name}.smartdj-{now:%Y%m%d-%H%M%S}"
    candidate = path.with_name(f"{stem}.bak")
    number = 2
    while os.path.lexists(candidate):
        candidate = path.with_name(f"{stem}-{number}.bak")
        number += 1
    return candidate


# Planning ----------------------------------------------------------------------------------------------------


def python_works(settings: bytes, *, processor: str | None = None) -> bool:
    """Whether ``reaper.ini`` lets Python run and points at a library for this processor."""
    library = python_pointer(settings)
    if library is None or not ini.python_enabled(settings):
        return False
    try:
        return (processor or machine()) in processors(library.path)
    except OSError:
        return False


def python_pointer(settings: bytes) -> PythonLibrary | None:
    """Return the Python library that ``reaper.ini`` names, or None where it names none."""
    values = ini.python_values(settings)
    folder, name = (os.fsdecode((values[key] or b"").strip()) for key in ("pythonlibpath64", "pythonlibdll64"))
    return PythonLibrary(folder, name) if name else None


def plan_install(resource: ResourceFolder, wanted: Wanted, now: datetime, *, processor: str | None = None) -> FilePlan:
    """Return what installing does; without changes where everything is in place.

    Parameters
    ----------
    now
        Goes into the names of the backups.
    processor
        REAPER's processor as named by `python_library.processors`; this computer's by default.

    Raises
    ------
    SmartDJError
        OUTPUT_UNWRITABLE: a file can't be read. INTERNAL: there is no action among the files.
    """
    scripts = read_scripts(wanted.files)
    if not scripts:
        raise SmartDJError(
            ErrorCode.INTERNAL, "REAPER's scripts are missing in this installation", "install SmartDJ again"
        )
    newline = wanted.system.newline
    old = _read_record(resource)
    new = _Record(folders=list(old.folders), python=dict(old.python))
    changes: list[Change] = []
    notes: list[str] = []

    settings = read_settings(resource.ini) or b""
    has_python = python_works(settings, processor=processor)
    if wanted.python is not None and not has_python:
        edited = ini.set_python(settings, wanted.python.folder, wanted.python.name, newline)
        if edited != settings:
            new.python = {
                "before": _to_json(ini.python_values(_without_us(resource, resource.ini, settings, old))),
                "ours": _to_json(ini.python_values(edited)),
            }
        what = f"Python scripts on, library {wanted.python.path}"
        _settle(changes, resource, old, new, resource.ini, settings, edited, what, now)
        has_python = True
    else:
        _keep_record(old, new, resource.ini)
        if wanted.python is not None:
            notes.append(f"REAPER has a working Python, which stays: {_pointer_text(settings)}")

    kb = read_settings(resource.kb)
    edited = ini.set_actions(kb or b"", [script.line for script in scripts], newline)
    _settle(changes, resource, old, new, resource.kb, kb, edited, _count(len(scripts), "action"), now)

    menu = read_settings(resource.menu)
    text, clicks = _plan_menus(menu or b"", scripts, has_python, newline)
    _settle(changes, resource, old, new, resource.menu, menu, text, "entries in the context menus", now)

    extstate = read_settings(resource.extstate)
    value = helper_value(wanted.helper)
    edited = ini.set_value(extstate or b"", EXTSTATE_SECTION, EXTSTATE_HELPER, value, newline)
    _settle(changes, resource, old, new, resource.extstate, extstate, edited, f"the helper is {wanted.helper}", now)

    files, file_notes = _plan_files(resource, wanted.files, old, new, now)
    needs_python = any(script.python for script in scripts)
    if needs_python and not has_python:
        clicks += python_clicks(None)
    return FilePlan(
        resource,
        (*files, *changes, *_record_change(resource, new)),
        clicks=tuple(clicks),
        notes=(*notes, *file_notes),
    )


def _read_record(resource: ResourceFolder) -> _Record:
    return _Record.from_bytes(_read(resource.scripts / FOLDER_NAME / RECORD_NAME))


def _record_change(resource: ResourceFolder, new: _Record) -> list[Change]:
    path = resource.scripts / FOLDER_NAME / RECORD_NAME
    before, after = _read(path), new.to_bytes()
    return [] if before == after else [Change(path, before, after, "record of what was installed")]


def _to_json(values: dict[str, bytes | None]) -> dict[str, str | None]:
    return {key: None if value is None else value.decode("latin-1") for key, value in values.items()}


def _from_json(values: dict[str, str | None]) -> dict[str, bytes | None]:
    return {key: None if value is None else value.encode("latin-1") for key, value in values.items()}


def _without_us(resource: ResourceFolder, path: Path, text: bytes, record: _Record) -> bytes:
    """Return a settings file's text without anything of ours."""
    if path == resource.kb:
        return ini.set_actions(text, [])
    if path == resource.menu:
        for section in MENUS.values():
            text = ini.set_menu(text, section, []).text
        return text
    if path == resource.extstate:
        return ini.remove_value(text, EXTSTATE_SECTION, EXTSTATE_HELPER)
    if not record.python:
        return text
    return ini.restore_python(text, _from_json(record.python["ours"]), _from_json(record.python["before"]))


def _settle(
    changes: list[Change],
    resource: ResourceFolder,
    old: _Record,
    new: _Record,
    path: Path,
    before: bytes | None,
    after: bytes,
    what: str,
    now: datetime,
) -> None:
    """Note an edit of a settings file, the backup before it, and what the record says about both."""
    if after == (before or b""):
        _keep_record(old, new, path)
        return
    known = old.settings.get(path.name)
    if before is not None and known and known["after"] == _sha256(before):
        # Nobody but us has touched it: the backup of then is still the text without us.
        new.settings[path.name] = {**known, "after": _sha256(after)}
    elif before is None:
        new.settings[path.name] = {"before": None, "after": _sha256(after), "backup": None}
    else:
        backup = backup_path(path, now)
        changes.append(Change(backup, None, before, f"copy of {path.name}", backup=True))
        if _without_us(resource, path, before, old) == before:
            record: dict[str, str | None] = {"before": _sha256(before), "after": _sha256(after), "backup": backup.name}
            new.settings[path.name] = record
    changes.append(Change(path, before, after, what))


def _keep_record(old: _Record, new: _Record, path: Path) -> None:
    if path.name in old.settings:
        new.settings[path.name] = old.settings[path.name]


def _plan_menus(text: bytes, scripts: Sequence[Script], has_python: bool, newline: bytes) -> tuple[bytes, list[str]]:
    clicks: list[str] = []
    for section in MENUS.values():
        entries = menu_entries(scripts, section, python=has_python)
        edit = ini.set_menu(text, section, entries, newline)
        text = edit.text
        if edit.state in (ini.MenuState.ABSENT, ini.MenuState.ODD):
            chosen = [script for entry in entries for script in scripts if script.command == entry.command]
            clicks += menu_clicks(section, chosen, odd=edit.state is ini.MenuState.ODD)
    return text, clicks


def menu_clicks(section: str, scripts: Sequence[Script], *, odd: bool = False) -> list[str]:
    """Return how to put scripts into a menu by hand."""
    if not scripts:
        return []
    why = (
        f"{section}: reaper-menu.ini doesn't number its items without gaps, so nothing was added. By hand:"
        if odd
        else f"{section}: REAPER's own menu is in use, which only REAPER can extend. By hand, once:"
    )
    clicks = [
        why,
        f"  Options → Customize menus/toolbars…, choose “{section}” at the top",
    ]
    for script in scripts:
        clicks.append(f"  Add… (or right-click the list → Insert action…), find “Script: {script.description}”, Select")
        clicks.append(f"  right-click it → Rename…, “{script.label}”")
    return [*clicks, "  Save, then Close"]


def python_clicks(library: PythonLibrary | None) -> list[str]:
    """Return how to let REAPER run Python scripts by hand."""
    clicks = [
        "Python scripts need a Python in REAPER (the Lua ones don't). `smartdj reaper install --python` sets it up;"
        " or by hand:",
        "  Options → Preferences… → Plug-ins → ReaScript, tick “Enable Python for use with ReaScript”",
    ]
    if library is not None:
        clicks.append(f"  custom path to Python dll directory: {library.folder}")
        clicks.append(f"  force ReaScript to use specific Python .dll: {library.name}")
    return [*clicks, "  OK, then restart REAPER"]


def _pointer_text(settings: bytes) -> str:
    library = python_pointer(settings)
    return str(library.path) if library else "none"


def _plan_files(
    resource: ResourceFolder, files: Sequence[tuple[str, bytes]], old: _Record, new: _Record, now: datetime
) -> tuple[list[Change], list[str]]:
    base = resource.scripts / FOLDER_NAME
    changes, notes = [], []
    new.files = {name: _sha256(content) for name, content in files}
    for folder in sorted({path for name in ["x", *new.files] for path in _folders_of(base / name, resource.path)}):
        name = folder.relative_to(resource.path).as_posix()
        if not folder.exists() and name not in new.folders:
            new.folders.append(name)
    for name, content in files:
        path = base / name
        before = _read(path)
        if before == content:
            continue
        if before is not None and _sha256(before) != old.files.get(name):
            changes.append(
                Change(backup_path(path, now), None, before, f"copy of {name}, which we didn't write", backup=True)
            )
        changes.append(Change(path, before, content, "script"))
    for name in sorted(set(old.files) - set(new.files)):
        before = _read(base / name)
        if before is not None and _sha256(before) == old.files[name]:
            changes.append(Change(base / name, before, None, "script of an earlier version"))
        elif before is not None:
            notes.append(f"{base / name} is of an earlier version but was changed; it stays")
    return changes, notes


def _folders_of(path: Path, top: Path) -> list[Path]:
    return [folder for folder in path.parents if folder != top and folder.is_relative_to(top)]


def plan_uninstall(resource: ResourceFolder, files: Sequence[tuple[str, bytes]], now: datetime) -> FilePlan:
    """Return what uninstalling does: our lines and files go, and nothing else.

    Parameters
    ----------
    files
        What this version ships; tells our files where there is no record.

    Raises
    ------
    SmartDJError
        OUTPUT_UNWRITABLE: a file can't be read.
    """
    record = _read_record(resource)
    changes: list[Change] = []
    notes = []
    for path in (resource.kb, resource.menu, resource.extstate, resource.ini):
        before = read_settings(path)
        if before is not None:
            changes += _restore(resource, path, before, record, now)
        copy = record.settings.get(path.name, {}).get("backup")
        if copy and _read(path.with_name(copy)) is not None and path.with_name(copy) not in {c.path for c in changes}:
            notes.append(f"{copy} stays: {path.name} has been changed by others since that copy was made")

    base = resource.scripts / FOLDER_NAME
    known = record.files or {name: _sha256(content) for name, content in files}
    for name, digest in sorted(known.items()):
        content = _read(base / name)
        if content is None:
            continue
        if _sha256(content) == digest:
            changes.append(Change(base / name, content, None, "script"))
            changes += _compiled(base / name)
        else:
            notes.append(f"{base / name} was changed after installing; it stays")
    content = _read(base / RECORD_NAME)
    if content is not None:
        changes.append(Change(base / RECORD_NAME, content, None, "record of what was installed"))
    ours = {resource.path / name for name in record.folders}
    if not record.files:
        ours = {base, *(folder for name in known for folder in _folders_of(base / name, base))}
    ours |= {change.path.parent for change in changes if change.path.parent.name == "__pycache__"}
    folders = sorted(ours, key=lambda path: len(path.parts), reverse=True)
    return FilePlan(resource, tuple(changes), folders=tuple(folders), notes=tuple(notes))


def _compiled(script: Path) -> list[Change]:
    """Return the removal of what Python compiled a script of ours to."""
    if script.suffix != ".py":
        return []
    found = sorted((script.parent / "__pycache__").glob(f"{script.stem}.*.pyc"))
    return [Change(path, path.read_bytes(), None, f"compiled {script.name}") for path in found]


def _restore(resource: ResourceFolder, path: Path, before: bytes, record: _Record, now: datetime) -> list[Change]:
    after: bytes | None = _without_us(resource, path, before, record)
    known = record.settings.get(path.name, {})
    name = known.get("backup")
    copy = path.with_name(name) if name else None
    kept = _read(copy) if copy is not None else None
    if known.get("after") == _sha256(before):
        if known["before"] is None:
            after = None
        elif kept is not None and _sha256(kept) == known["before"]:
            after = kept
    elif known and known["before"] is None and after == b"":
        after = None
    if after == before:
        return []
    what = "our lines removed" if after is not None else "held our lines only"
    restored = kept is not None and kept == after
    changes = [Change(path, before, after, "as it was before" if restored else what)]
    if restored and copy is not None:
        changes.append(Change(copy, kept, None, f"copy of {path.name}, not needed any more"))
    elif after is not None:
        changes.insert(0, Change(backup_path(path, now), None, before, f"copy of {path.name}", backup=True))
    return changes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# Doing -------------------------------------------------------------------------------------------------------


def refuse_while_running(processes: Sequence[str] | None) -> None:
    """Raise unless REAPER is closed; None, where nobody can tell, lets pass.

    Raises
    ------
    SmartDJError
        REAPER_RUNNING.
    """
    if processes:
        raise SmartDJError(
            ErrorCode.REAPER_RUNNING,
            f"REAPER is running: {', '.join(processes)}",
            "quit REAPER and run this again: it would overwrite its settings when it quits (--dry-run works now)",
        )


def carry_out(plan: FilePlan, running: Callable[[], Sequence[str] | None]) -> None:
    """Make a plan's changes; all of them, or none.

    Parameters
    ----------
    running
        Returns the running REAPERs; asked right before the first change.

    Raises
    ------
    SmartDJError
        REAPER_RUNNING; OUTPUT_UNWRITABLE or DISK_FULL, after which everything is as before.
    """
    refuse_while_running(running())
    for change in plan.changes:
        if _read(change.path) != change.before:
            raise SmartDJError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"{change.path} was changed by somebody else just now",
                "run this again",
            )
    done: list[Change] = []
    made: list[Path] = []
    try:
        for change in plan.changes:
            made += _make_folders(change.path.parent)
            _put(change.path, change.after)
            done.append(change)
    except BaseException as error:
        for change in reversed(done):
            with contextlib.suppress(OSError):
                _put(change.path, change.before)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise _undone(error, plan.changes[len(done)].path) from error
        raise
    for folder in plan.folders:
        with contextlib.suppress(OSError):  # not empty: somebody else's files are in it
            folder.rmdir()


def _undone(error: OSError, path: Path) -> SmartDJError:
    told = write_error(path, error)
    return SmartDJError(told.code, f"{told.message}; nothing was changed", "check its permissions, then run this again")


def _make_folders(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
    return missing[::-1]


def _put(path: Path, content: bytes | None) -> None:
    """Give a file this content at once, with the permissions it had; or remove it. Links stay links."""
    target = Path(os.path.realpath(path))
    if content is None:
        target.unlink(missing_ok=True)
        return
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(content)
        if mode is not None:
            temporary.chmod(mode)
        publish(temporary, target, overwrite=True)
    finally:
        temporary.unlink(missing_ok=True)
