"""The scripts that go into REAPER, and what they say about themselves in their header comments.

They lie in ``integrations/reaper/`` of the repository; a built package has them as ``smartdj_agent/reaper/files``.
Every file there is copied to ``<resource>/Scripts/SmartDJ``, except the ReaPack index, Markdown and hidden files.
A script that is an action says so in its header, next to ReaPack's own tags::

    -- @description SmartDJ: Edit items
    -- @version 0.1.0
    -- @smartdj_action SMARTDJ_EDIT_ITEM
    -- @smartdj_menu item SmartDJ: edit…

``@smartdj_action`` gives the command id, which begins with ``SMARTDJ_``; the description is the name in the
action list. ``@smartdj_menu`` is optional: ``item`` or ``track`` and the label. Where a Python and a Lua script
have the same menu and label, the menu gets the Python one if REAPER can run Python, else the Lua one. Files
without ``@smartdj_action`` are modules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.reaper.ini import OUR_PREFIX, MenuEntry, ScriptLine

FOLDER_NAME = "SmartDJ"
"""Folder of ours in ``<resource>/Scripts``."""

MENUS = {"item": "Media item context", "track": "Track control panel context"}
"""Word of ``@smartdj_menu`` → section of ``reaper-menu.ini``."""

HEADER_LINES = 40
"""Lines of a script that are searched for tags."""

_TAG = re.compile(r"^\s*(?:#|--|//|\*)?\s*@(\w+)[ \t]*(.*?)\s*$")
_ACTION_SUFFIXES = {".py", ".lua", ".eel"}


@dataclass(frozen=True)
class Script:
    """One action's script.

    Attributes
    ----------
    file
        Path below the folder, with forward slashes.
    command, description, version
        As in the header.
    menu, label
        Section of ``reaper-menu.ini`` and the entry's text; empty where it goes into no menu.
    """

    file: str
    command: str
    description: str
    version: str
    menu: str = ""
    label: str = ""

    @property
    def python(self) -> bool:
        """Whether REAPER needs Python for it."""
        return self.file.endswith(".py")

    @property
    def path(self) -> str:
        """Path as the action list has it."""
        return f"{FOLDER_NAME}/{self.file}"

    @property
    def line(self) -> ScriptLine:
        """The line of ``reaper-kb.ini``."""
        return ScriptLine(self.command, f"Custom: {self.description}", self.path)


def script_folder() -> Path:
    """Return where our scripts lie: in the built package, else in the working copy.

    Raises
    ------
    SmartDJError
        INTERNAL: neither is there.
    """
    packaged = Path(__file__).parent / "files"
    working_copy = Path(__file__).parents[2] / "integrations" / "reaper"
    for folder in (packaged, working_copy):
        if folder.is_dir():
            return folder
    raise SmartDJError(ErrorCode.INTERNAL, "REAPER's scripts are missing in this installation", "install SmartDJ again")


def script_files(folder: Path | None = None) -> list[tuple[str, bytes]]:
    """Return the files that are copied into REAPER: path with forward slashes and content, sorted by path."""
    folder = script_folder() if folder is None else folder
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
        if path.is_file() and not hidden and path.suffix not in {".md", ".xml", ".pyc"}:
            files.append((relative.as_posix(), path.read_bytes()))
    return sorted(files)


def header_tags(content: bytes) -> dict[str, str]:
    """Return the tags in a script's first lines; the first of a name counts."""
    tags: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").split("\n")[:HEADER_LINES]:
        match = _TAG.match(line)
        if match:
            tags.setdefault(match[1], match[2])
    return tags


def read_scripts(files: Sequence[tuple[str, bytes]]) -> list[Script]:
    """Return the actions among files.

    Raises
    ------
    SmartDJError
        INTERNAL: a header is wrong; that is a mistake of ours, and tests find it.
    """
    scripts = [script for name, content in files if (script := _read_script(name, content)) is not None]
    commands = [script.command for script in scripts]
    if len(set(commands)) != len(commands):
        raise _wrong("two scripts have the same @smartdj_action")
    return scripts


def _read_script(name: str, content: bytes) -> Script | None:
    tags = header_tags(content)
    command = tags.get("smartdj_action")
    if command is None or PurePosixPath(name).suffix not in _ACTION_SUFFIXES:
        return None
    if not re.fullmatch(OUR_PREFIX + r"[A-Z0-9_]+", command):
        raise _wrong(f"{name}: @smartdj_action must be {OUR_PREFIX}… in capitals, not {command!r}")
    for needed in ("description", "version"):
        if not tags.get(needed):
            raise _wrong(f"{name}: @{needed} is missing")
    word, _, label = tags.get("smartdj_menu", "").partition(" ")
    if word and (word not in MENUS or not label.strip()):
        raise _wrong(f"{name}: @smartdj_menu must be `item LABEL` or `track LABEL`")
    return Script(name, command, tags["description"], tags["version"], MENUS.get(word, ""), label.strip())


def _wrong(message: str) -> SmartDJError:
    return SmartDJError(ErrorCode.INTERNAL, message, "correct the script's header")


def menu_entries(scripts: Sequence[Script], section: str, *, python: bool) -> list[MenuEntry]:
    """Return what of ours goes into a menu.

    Parameters
    ----------
    section
        A value of `MENUS`.
    python
        Whether REAPER can run Python scripts; decides where there are two scripts for one entry.
    """
    by_label: dict[str, list[Script]] = {}
    for script in scripts:
        if script.menu == section:
            by_label.setdefault(script.label, []).append(script)
    entries = []
    for label, rivals in by_label.items():
        chosen = next((script for script in rivals if script.python == python), rivals[0])
        others = tuple(script.command for script in rivals if script is not chosen)
        entries.append(MenuEntry(chosen.command, label, others))
    return entries
