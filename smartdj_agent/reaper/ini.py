"""REAPER's settings files, edited as bytes: what is not ours stays as it was, byte for byte.

All functions are pure, bytes in and bytes out. Bytes, because users' files mix encodings and line ends, and
because `str.splitlines` would break lines where REAPER doesn't. Lines end at ``\\n``; a ``\\r`` before it belongs
to the line's end. A file whose last line has no line end keeps having none.

- ``reaper-kb.ini``: `set_actions` writes the ``SCR`` lines of our scripts.
- ``reaper-menu.ini``: `set_menu` puts our entries at the end of a customised menu.
- ``reaper.ini``, ``reaper-extstate.ini``: `get_value`, `set_value`, `remove_value`.

Called with nothing to set, `set_actions` and `set_menu` take all our lines away. Ours are those whose command
begins with ``SMARTDJ_``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

OUR_PREFIX = "SMARTDJ_"
"""Begin of the command ids of all our actions."""

MAIN_SECTION = 0
"""REAPER's number of the action list's section "Main"."""

FLAGS_NEW_INSTANCE = 516
"""Flags of an ``SCR`` line: starting a script that runs already starts it a second time, unasked."""

UTF8_BOM = b"\xef\xbb\xbf"

_TOKEN = re.compile(rb'"[^"]*"|\'[^\']*\'|`[^`]*`|[^ \t]+')
_ITEM = re.compile(rb"([ \t]*item_)([0-9]+)([ \t]*=[ \t]*)(.*)", re.IGNORECASE | re.DOTALL)
_SEPARATOR, _SUBMENU, _SUBMENU_END = b"-1", b"-2", b"-3"


def reaper_command_id(script: str, section: int = MAIN_SECTION) -> str:
    """Return the command id that REAPER itself gives to a script, as it stands in ``reaper-kb.ini``.

    REAPER hashes the path as the file has it, with forward slashes and in capitals. Menus and look-ups put an
    underscore before the id. Capitals of letters outside ASCII are untested.

    Parameters
    ----------
    script
        Path relative to ``<resource>/Scripts``, or absolute.
    section
        Number of the action list's section: 0 Main, 32060 MIDI editor …

    Examples
    --------
    >>> reaper_command_id("Cockos/lyrics.lua")
    'RS1ee9bb229dabffe151848d7efa3c10f748e1a1cf'
    >>> reaper_command_id("Cockos\\\\lyrics.lua", 32060)
    'RS7d3c_1ee9bb229dabffe151848d7efa3c10f748e1a1cf'
    """
    digest = hashlib.sha1(script.replace("\\", "/").upper().encode()).hexdigest()
    return f"RS{section:x}_{digest}" if section else f"RS{digest}"


@dataclass(frozen=True)
class ScriptLine:
    """One ``SCR`` line of ``reaper-kb.ini``.

    Attributes
    ----------
    command
        Command id without the underscore that menus put before it.
    description
        Name; REAPER lists ``Custom: x`` as ``Script: x``.
    script
        Path relative to ``<resource>/Scripts`` with forward slashes, or absolute.
    section
        Number of the action list's section.
    flags
        4 asks where the script runs already, 260 ends the running one, 516 starts one more.
    """

    command: str
    description: str
    script: str
    section: int = MAIN_SECTION
    flags: int = FLAGS_NEW_INSTANCE


@dataclass(frozen=True)
class MenuEntry:
    """One entry of a menu.

    Attributes
    ----------
    command
        Command id without the leading underscore; of ours, so with `OUR_PREFIX`.
    label
        What the menu shows; an entry that is there already keeps the label it has.
    instead_of
        Commands that this one replaces where the menu has them, at their place.
    """

    command: str
    label: str
    instead_of: tuple[str, ...] = ()


class MenuState(StrEnum):
    """What became of a menu.

    `ABSENT`: the section isn't there or has no items, so REAPER shows its built-in menu. `ODD`: the items
    aren't numbered 0, 1, 2 … or the submenus don't match; REAPER would show such a menu in part.
    """

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    ODD = "odd"


@dataclass(frozen=True)
class MenuEdit:
    """The text after `set_menu`, and what became of the menu."""

    text: bytes
    state: MenuState


# Lines -------------------------------------------------------------------------------------------------------


@dataclass
class _Line:
    body: bytes
    end: bytes


def _split(text: bytes) -> list[_Line]:
    *whole, rest = text.split(b"\n")
    lines = [_Line(body[:-1], b"\r\n") if body.endswith(b"\r") else _Line(body, b"\n") for body in whole]
    if rest:
        lines.append(_Line(rest, b""))
    return lines


def _join(lines: Sequence[_Line]) -> bytes:
    return b"".join(line.body + line.end for line in lines)


def _insert(lines: list[_Line], at: int, bodies: Sequence[bytes], newline: bytes) -> None:
    """Put lines before line `at`, with their neighbours' line end."""
    if not bodies:
        return
    before = [line.end for line in reversed(lines[:at]) if line.end]
    after = [line.end for line in lines[at:] if line.end]
    newline = (before + after + [newline])[0]
    new = [_Line(body, newline) for body in bodies]
    if at == len(lines) and lines and not lines[-1].end:
        # A carriage return at the very end belongs to the text: with "\n" it would become part of the line end.
        lines[-1].end = b"\r\n" if lines[-1].body.endswith(b"\r") else newline
        new[-1].end = b""
    lines[at:at] = new


def _delete(lines: list[_Line], at: int) -> None:
    if not lines[at].end and at > 0:
        lines[at - 1].end = b""
    del lines[at]


def _bare(body: bytes) -> bytes:
    """Return a line without a byte order mark and blanks around it."""
    return body.removeprefix(UTF8_BOM).strip(b" \t\r")


def _find_section(lines: Sequence[_Line], name: str) -> tuple[int, int] | None:
    """Return the line after the header and the line after the section; the first section of a name counts."""
    wanted = name.encode().lower()
    start = None
    for number, line in enumerate(lines):
        header = _bare(line.body)
        if not header.startswith(b"[") or b"]" not in header:
            continue
        if start is not None:
            return start, number
        if header[1 : header.rindex(b"]")].lower() == wanted:
            start = number + 1
    return None if start is None else (start, len(lines))


def _find_key(lines: Sequence[_Line], section: tuple[int, int], key: str) -> int | None:
    wanted = key.encode().lower()
    for number in range(*section):
        name, equals, _ = lines[number].body.partition(b"=")
        if equals and name.strip(b" \t").lower() == wanted:
            return number
    return None


# Keys --------------------------------------------------------------------------------------------------------


def get_value(text: bytes, section: str, key: str) -> bytes | None:
    """Return what stands after a key's equals sign, exactly, or None where the key isn't there.

    As in REAPER, the first section of a name and the first key in it count, and capitals don't matter.
    """
    lines = _split(text)
    found = _find_section(lines, section)
    number = _find_key(lines, found, key) if found else None
    return None if number is None else lines[number].body.partition(b"=")[2]


def set_value(text: bytes, section: str, key: str, value: bytes, newline: bytes = b"\n") -> bytes:
    """Return the text with a key set; a missing key goes to the section's end, a missing section to the file's.

    Parameters
    ----------
    value
        Anything on one line.
    newline
        Line end where the text has none to go by.

    Raises
    ------
    ValueError
        The value has a line end in it.
    """
    if b"\n" in value:
        raise ValueError(f"a value must be on one line: {value!r}")
    lines = _split(text)
    found = _find_section(lines, section)
    assignment = key.encode() + b"=" + value
    if found is None:
        _insert(lines, len(lines), [b"[" + section.encode() + b"]", assignment], newline)
        return _join(lines)
    number = _find_key(lines, found, key)
    if number is not None:
        name, equals, _ = lines[number].body.partition(b"=")
        lines[number].body = name + equals + value
        return _join(lines)
    start, end = found
    while end > start and not _bare(lines[end - 1].body):
        end -= 1
    _insert(lines, end, [assignment], newline)
    return _join(lines)


def remove_value(text: bytes, section: str, key: str) -> bytes:
    """Return the text without a key; a section that is empty then goes too.

    The undoing of `set_value` for a key that wasn't there, except where an empty section of that name was.
    """
    lines = _split(text)
    found = _find_section(lines, section)
    number = _find_key(lines, found, key) if found else None
    if found is None or number is None:
        return text
    _delete(lines, number)
    start, end = found[0], found[1] - 1
    if not any(_bare(line.body) for line in lines[start:end]) and not lines[start - 1].body.startswith(UTF8_BOM):
        _delete(lines, start - 1)
    return _join(lines)


# Actions -----------------------------------------------------------------------------------------------------


def script_line(action: ScriptLine) -> bytes:
    """Return the line of ``reaper-kb.ini`` that registers a script, without its line end.

    Raises
    ------
    ValueError
        A text holds what the format can't: a double quote or a line end.
    """
    for text in (action.command, action.description, action.script):
        if any(char in text for char in '"\r\n'):
            raise ValueError(f"no quotes and line ends in an action's text: {text!r}")
    script = f'"{action.script}"' if re.search(r"[\s'`]", action.script) else action.script
    line = f'SCR {action.flags} {action.section} {action.command} "{action.description}" {script}'
    return line.encode()


def read_actions(text: bytes) -> list[ScriptLine]:
    """Return all ``SCR`` lines that can be understood, in their order."""
    return [action for line in _split(text) if (action := _read_action(line.body)) is not None]


def _read_action(body: bytes) -> ScriptLine | None:
    tokens = [_unquoted(token) for token in _TOKEN.findall(_bare(body))]
    if len(tokens) != 6 or tokens[0] != "SCR" or not tokens[1].isdecimal() or not tokens[2].isdecimal():
        return None
    return ScriptLine(tokens[3], tokens[4], tokens[5], int(tokens[2]), int(tokens[1]))


def _unquoted(token: bytes) -> str:
    if len(token) >= 2 and token[:1] in b"\"'`" and token[:1] == token[-1:]:
        token = token[1:-1]
    return token.decode("utf-8", "replace")


def set_actions(text: bytes, actions: Sequence[ScriptLine], newline: bytes = b"\n") -> bytes:
    """Return ``reaper-kb.ini`` with just these actions of ours; without actions, all of ours are gone.

    An action that is there stays on its line, rewritten if path, name or flags differ. New ones go after the
    last ``SCR`` line, so before the ``KEY`` lines that may name them.

    Parameters
    ----------
    actions
        With commands that begin with `OUR_PREFIX`, each command once per section.
    newline
        Line end where the text has none to go by.

    Raises
    ------
    ValueError
        A command isn't ours, or a text can't be written (see `script_line`).
    """
    if foreign := [action.command for action in actions if not action.command.startswith(OUR_PREFIX)]:
        raise ValueError(f"not our commands: {foreign}")
    lines = _split(text)
    missing = {(action.section, action.command): action for action in actions}
    for number in reversed(range(len(lines))):
        present = _read_action(lines[number].body)
        if present is None or not present.command.startswith(OUR_PREFIX):
            continue
        if _first_of(lines, present) == number and (present.section, present.command) in missing:
            wanted = missing.pop((present.section, present.command))
            if wanted != present:
                lines[number].body = script_line(wanted)
        else:
            _delete(lines, number)
    last = max((n for n, line in enumerate(lines) if line.body.startswith(b"SCR ")), default=-1)
    if last < 0 and lines and lines[0].body.startswith(UTF8_BOM):
        last = 0
    new = [script_line(action) for action in actions if (action.section, action.command) in missing]
    _insert(lines, last + 1, new, newline)
    return _join(lines)


def _first_of(lines: Sequence[_Line], wanted: ScriptLine) -> int:
    for number, line in enumerate(lines):
        action = _read_action(line.body)
        if action and (action.section, action.command) == (wanted.section, wanted.command):
            return number
    raise AssertionError("the line itself is among them")


# Menus -------------------------------------------------------------------------------------------------------


def read_menu(text: bytes, section: str) -> list[tuple[str, str]] | None:
    """Return command and label of a menu's items in the order of their lines, or None where REAPER's own shows.

    Commands are as in the file: ``_SMARTDJ_EDIT_ITEM``, ``40707``, ``-1`` a separator, ``-2`` and ``-3`` begin
    and end of a submenu, ``-4`` a label.
    """
    items = _items(_split(text), section)
    split = [item.value.partition(b" ") for item in items]
    return [(c.decode("utf-8", "replace"), la.decode("utf-8", "replace")) for c, _, la in split] or None


def set_menu(text: bytes, section: str, entries: Sequence[MenuEntry], newline: bytes = b"\n") -> MenuEdit:
    """Return ``reaper-menu.ini`` with just these entries of ours in one menu; without entries, all are gone.

    A menu's section holds all its items, ``item_0=…``, ``item_1=…`` and so on. As soon as a section has one
    item, it replaces REAPER's built-in menu as a whole; a section that isn't there, or has only its ``title=``,
    means the built-in menu. So where nobody has customised the menu, nothing is written (`MenuState.ABSENT`):
    a section with our entries alone would take the other some 290 away. (Known from published files, never
    tried in a running REAPER.) The user adds the entry by hand then, which makes REAPER write the whole section.

    A missing number makes REAPER ignore items or mix its own in, so a list that isn't numbered 0, 1, 2 … (in
    any order of lines), or whose submenus don't match, is left alone (`MenuState.ODD`). What REAPER does where
    a section is there twice is unknown; the first is edited, as Windows reads such files.

    New entries go to the menu's end, after a separator. Taking away closes the gaps in the numbers, which
    renumbers what follows; the separator goes along where it would separate nothing any more.

    Parameters
    ----------
    section
        ``Media item context`` or ``Track control panel context``.
    entries
        What of ours the menu is to hold.
    newline
        Line end where the text has none to go by.

    Raises
    ------
    ValueError
        A command isn't ours, or a label has a line end.
    """
    for entry in entries:
        if not entry.command.startswith(OUR_PREFIX) or re.search(r"[\r\n]", entry.label):
            raise ValueError(f"not an entry of ours: {entry!r}")
    lines = _split(text)
    items = _items(lines, section)
    if entries and not items:
        return MenuEdit(text, MenuState.ABSENT)
    if entries and not _is_sound(items):
        return MenuEdit(text, MenuState.ODD)
    missing = list(entries)
    for item in items:
        command = item.command
        if not command.startswith(OUR_PREFIX):
            continue
        wanted = next((e for e in missing if command == e.command or command in e.instead_of), None)
        if wanted is None:
            _take_item(lines, section, item.line)
            return _continued(set_menu(_join(lines), section, entries, newline), text)
        missing.remove(wanted)
        if wanted.command != command:
            label = item.value.partition(b" ")[2]
            lines[item.line].body = item.key + b"_" + wanted.command.encode() + b" " + label
    if missing:
        last = max(items, key=lambda item: item.number)
        values = [f"_{entry.command} {entry.label}".encode() for entry in missing]
        if not last.command.startswith(OUR_PREFIX):
            values.insert(0, _SEPARATOR)
        new = [b"item_%d=" % number + value for number, value in enumerate(values, last.number + 1)]
        _insert(lines, last.line + 1, new, newline)
    return _continued(MenuEdit(_join(lines), MenuState.UNCHANGED), text)


def _continued(edit: MenuEdit, before: bytes) -> MenuEdit:
    if edit.state in (MenuState.ABSENT, MenuState.ODD):
        return edit
    return MenuEdit(edit.text, MenuState.UNCHANGED if edit.text == before else MenuState.CHANGED)


@dataclass(frozen=True)
class _Item:
    line: int
    key: bytes
    digits: bytes
    value: bytes

    @property
    def number(self) -> int:
        return int(self.digits)

    @property
    def command(self) -> str:
        """The named command without its underscore, else empty."""
        name = self.value.partition(b" ")[0].decode("utf-8", "replace")
        return name[1:] if name.startswith("_") else ""


def _items(lines: Sequence[_Line], section: str) -> list[_Item]:
    found = _find_section(lines, section)
    items = []
    for number in range(*found) if found else ():
        match = _ITEM.fullmatch(lines[number].body)
        if match:
            items.append(_Item(number, b"".join(match.group(1, 2, 3)), match[2], match[4]))
    return items


def _is_sound(items: Sequence[_Item]) -> bool:
    in_order = sorted(items, key=lambda item: item.number)
    if [item.digits for item in in_order] != [b"%d" % number for number in range(len(items))]:
        return False
    depth = 0
    for item in in_order:
        kind = item.value.partition(b" ")[0]
        depth += (kind == _SUBMENU) - (kind == _SUBMENU_END)
        if depth < 0:
            return False
    return depth == 0


def _take_item(lines: list[_Line], section: str, at: int) -> None:
    """Delete the item on line `at` and close the gap; also the separator before it, if it becomes idle."""
    items = _items(lines, section)
    taken = next(item for item in items if item.line == at)
    before = next((item for item in items if item.number == taken.number - 1), None)
    after = next((item for item in items if item.number == taken.number + 1), None)
    idle = after is None or after.value.partition(b" ")[0] in (_SEPARATOR, _SUBMENU_END)
    _drop_item(lines, section, taken)
    if before is not None and before.value == _SEPARATOR and idle:
        again = next(item for item in _items(lines, section) if item.number == before.number)
        _drop_item(lines, section, again)


def _drop_item(lines: list[_Line], section: str, taken: _Item) -> None:
    for item in _items(lines, section):
        if item.number > taken.number:
            key = _ITEM.fullmatch(lines[item.line].body)
            assert key is not None
            lines[item.line].body = b"".join((key[1], b"%d" % (item.number - 1), key[3], key[4]))
    _delete(lines, taken.line)


# Python ------------------------------------------------------------------------------------------------------

PYTHON_KEYS = ("reascript", "pythonlibpath64", "pythonlibdll64")
"""Keys of ``reaper.ini``, section ``[REAPER]``, that let REAPER run Python scripts."""


def python_values(text: bytes) -> dict[str, bytes | None]:
    """Return what ``reaper.ini`` says about Python: value per key of `PYTHON_KEYS`, None where it isn't there."""
    return {key: get_value(text, "REAPER", key) for key in PYTHON_KEYS}


def python_enabled(text: bytes) -> bool:
    """Whether ``reaper.ini`` lets Python scripts run: bit 0 of ``reascript``."""
    return bool(_whole_number(get_value(text, "REAPER", "reascript")) & 1)


def set_python(text: bytes, folder: str, library: str, newline: bytes = b"\n") -> bytes:
    """Return ``reaper.ini`` with Python enabled and pointed at a shared library; other bits stay as they are."""
    flags = _whole_number(get_value(text, "REAPER", "reascript"))
    if not flags & 1:
        text = set_value(text, "REAPER", "reascript", b"%d" % (flags | 1), newline)
    text = set_value(text, "REAPER", "pythonlibpath64", folder.encode(), newline)
    return set_value(text, "REAPER", "pythonlibdll64", library.encode(), newline)


def restore_python(text: bytes, ours: dict[str, bytes | None], before: dict[str, bytes | None]) -> bytes:
    """Return ``reaper.ini`` as it was before `set_python`, where it still says what `set_python` wrote.

    Parameters
    ----------
    ours, before
        `python_values` after and before `set_python`.
    """
    if python_values(text) != ours:
        return text
    for key in reversed(PYTHON_KEYS):
        value = before.get(key)
        if value == ours.get(key):
            continue
        text = remove_value(text, "REAPER", key) if value is None else set_value(text, "REAPER", key, value)
    return text


def _whole_number(value: bytes | None) -> int:
    match = re.match(rb"[ \t]*([0-9]+)", value or b"")
    return int(match[1]) if match else 0
