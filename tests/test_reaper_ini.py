"""REAPER's settings files as text: what is ours comes and goes, everything else stays byte for byte."""

from __future__ import annotations

import doctest
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.reaper import ini
from smartdj_agent.reaper.ini import MenuEntry, MenuState, ScriptLine

ITEMS, TRACKS = "Media item context", "Track control panel context"
ACTIONS = (
    ScriptLine("SMARTDJ_EDIT_ITEM", "Custom: SmartDJ: Edit items…", "SmartDJ/smartdj_edit_items.py"),
    ScriptLine("SMARTDJ_EDIT_TRACK", "Custom: SmartDJ: Edit track…", "SmartDJ/sub folder/smartdj_edit_tracks.py"),
)
ENTRIES = (
    MenuEntry("SMARTDJ_EDIT_ITEM", "SmartDJ: edit…", ("SMARTDJ_EDIT_ITEM_LUA",)),
    MenuEntry("SMARTDJ_AGAIN", "SmartDJ: re-run with changes…"),
)

KB = """\
SCR 4 0 RS1ee9bb229dabffe151848d7efa3c10f748e1a1cf "Custom: lyrics.lua" Cockos/lyrics.lua
SCR 4 32060 RS7d3c_1ee9bb229dabffe151848d7efa3c10f748e1a1cf "Custom: lyrics.lua" Cockos/lyrics.lua
SCR 516 0 reaper_keys__main reaper-keys "/Users/Zoë/Rëaper Scripts/rk.lua"
ACT 2 0 "946f004beb6d4cffa8679d15ef75cfdc" "Custom: New track" 6 40062 40421 _XENAKIOS_SELTRAX_RECARMED
KEY 37 71 _XENAKIOS_SETVOLSELITEMS 0
KEY 1 112 _SMARTDJ_EDIT_ITEM 0
"""

MENU = """\
[Floating toolbar 1]
icon_0=text_wide
item_0=40001 Insert track
title=Mine

[Media item context]
default=7bb33abf03be6cea
item_0=-4 ITEMS
item_1=40009 Item properties…
item_10=40061 Split
item_2=-1
item_3=-2 Take
item_4=40125 Next take
item_5=-2 More
item_6=40126 Previous take
item_7=-3
item_8=-3
item_9=-1
title=Media item context

[Track control panel context]
item_0=40001 Insert new track

[Main view]
title=&View
"""


def with_newline(text: str, newline: bytes) -> bytes:
    return text.encode().replace(b"\n", newline)


# Any text -------------------------------------------------------------------------------------------------------

newlines = st.sampled_from([b"\n", b"\r\n"])
loose = st.binary(max_size=12).map(lambda data: data.replace(b"\n", b" "))
headers = st.sampled_from(
    [b"[Media item context]", b"[media ITEM context] ", b"[Track control panel context]", b"[SmartDJ]", b"[REAPER]",
     b"[Main toolbar]", b"[", b"[]", b";[REAPER]"]
)  # fmt: skip
numbers = st.sampled_from([b"0", b"1", b"2", b"3", b"10", b"007", b"99999999999999999999"])
values = st.sampled_from(
    [
        b"-1",
        b"-2 Sub",
        b"-3",
        b"-4 Label",
        b"40001 Track \xe2\x80\xa6",
        b"_RS12 Script",
        b"_SWS_X",
        b"",
        b"-1 ",
        b"\xff",
    ]
)
keys = st.sampled_from([b"item_", b"ITEM_", b" item_", b"icon_"])
item_lines = st.builds(lambda *parts: b"".join(parts), keys, numbers, st.sampled_from([b"=", b" = "]), values)
other_lines = st.sampled_from(
    [b"", b"title=x", b"; a comment", b"helper2=1", b"reascript=2", b"REAScript = 4", b"pythonlibdll64=",
     b"pythonlibpath64=C:\\Py", b"default=7bb33abf03be6cea", "scénes=Zoë".encode(), "é".encode("latin-1"),
     b'SCR 4 0 RSabc "Custom: a b.lua" "x/a b.lua"', b"KEY 1 65 40001 0", b"SCR 4 0 broken", b"ACT 0 0 x y 1"]
)  # fmt: skip
lines = st.one_of(loose, headers, item_lines, other_lines)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A user's file: any lines, mixed line ends, with or without a last one, with or without byte order mark."""
    usual = draw(newlines)
    parts = [line + draw(st.sampled_from([usual, usual, usual, b"\n"])) for line in draw(st.lists(lines, max_size=14))]
    tail = draw(st.one_of(st.just(b""), lines))
    return draw(st.sampled_from([b"", b"", ini.UTF8_BOM])) + b"".join(parts) + tail


@st.composite
def sound_menus(draw: st.DrawFn) -> bytes:
    """A file with a customised item menu as REAPER writes it: numbered without gaps, submenus closed."""
    newline = draw(newlines)
    kinds = draw(
        st.lists(st.sampled_from(["-1", "40001 A", "_RS12 Ünï", "-4 L", "-2 S", "-3"]), min_size=1, max_size=12)
    )
    items, depth = [], 0
    for kind in kinds:
        depth += (kind == "-2 S") - (kind == "-3")
        if depth < 0:
            depth = 0
            continue
        items.append(kind)
    items += ["-3"] * depth
    if not items:
        items = ["40001 A"]
    menu = [f"item_{number}={kind}" for number, kind in enumerate(items)]
    menu = draw(st.permutations(menu)) if draw(st.booleans()) else menu
    title = draw(st.sampled_from([[], ["title=Media item context"], ["title=Media item context", ""]]))
    body = newline.join(line.encode() for line in ["[Media item context]", *menu, *title])
    before = draw(texts()).replace(b"edia", b"adio").replace(b"ITEM context", b"X context")
    if before and not before.endswith(b"\n"):
        before += newline
    after = draw(st.one_of(st.just(b""), texts().map(lambda text: newline + b"[Next]" + newline + text)))
    return before + body + after


@given(texts())
def test_splitting_loses_nothing(text: bytes) -> None:
    assert ini._join(ini._split(text)) == text


@settings(max_examples=300)
@given(texts(), newlines)
def test_actions_come_and_go(text: bytes, newline: bytes) -> None:
    there = ini.set_actions(text, ACTIONS, newline)
    assert [a for a in ini.read_actions(there) if a.command.startswith("SMARTDJ_")] == list(ACTIONS)
    assert ini.set_actions(there, ACTIONS, newline) == there
    assert ini.set_actions(there, []) == text
    assert [a for a in ini.read_actions(there) if a not in ACTIONS] == ini.read_actions(text)


@settings(max_examples=400)
@given(st.one_of(texts(), sound_menus()), newlines)
def test_menu_entries_come_and_go(text: bytes, newline: bytes) -> None:
    edit = ini.set_menu(text, ITEMS, ENTRIES, newline)
    if edit.state is not MenuState.CHANGED:
        assert edit.text == text
    again = ini.set_menu(edit.text, ITEMS, ENTRIES, newline)
    assert again.text == edit.text
    assert again.state is (MenuState.UNCHANGED if edit.state is MenuState.CHANGED else edit.state)
    assert ini.set_menu(edit.text, ITEMS, []).text == text
    for section in (TRACKS, "Main toolbar", "REAPER"):
        assert ini.read_menu(edit.text, section) == ini.read_menu(text, section)


@settings(max_examples=300)
@given(sound_menus())
def test_a_sound_menu_gets_our_entries_at_its_end(text: bytes) -> None:
    before = ini.read_menu(text, ITEMS)
    assert before is not None
    edit = ini.set_menu(text, ITEMS, ENTRIES)
    after = ini.read_menu(edit.text, ITEMS)
    assert edit.state is MenuState.CHANGED
    assert after is not None
    assert sorted(after) == sorted([*before, ("-1", ""), *((f"_{e.command}", e.label) for e in ENTRIES)])
    numbered = sorted(ini._items(ini._split(edit.text), ITEMS), key=lambda item: item.number)
    assert [item.number for item in numbered] == list(range(len(before) + 3))
    assert [item.command for item in numbered[-2:]] == [entry.command for entry in ENTRIES]
    kept = [line for line in edit.text.split(b"\n") if b"SMARTDJ" not in line]
    assert len(kept) == len(text.split(b"\n")) + 1  # and the separator


@settings(max_examples=300)
@given(texts(), st.sampled_from(["SmartDJ", "REAPER", "reaper"]), st.binary(max_size=9), newlines)
def test_a_key_comes_and_goes(text: bytes, section: str, value: bytes, newline: bytes) -> None:
    value = value.replace(b"\n", b"").replace(b"\r", b"")
    there = ini.set_value(text, section, "helper", value, newline)
    assert ini.get_value(there, section.upper(), "HELPER") == value
    assert ini.set_value(there, section, "helper", value, newline) == there
    section_lines = ini._find_section(ini._split(text), section)
    if section_lines is None or any(line.body.strip(b" \t\r") for line in ini._split(text)[slice(*section_lines)]):
        assert ini.remove_value(there, section, "helper") == text


@settings(max_examples=300)
@given(texts(), newlines)
def test_python_settings_come_and_go(text: bytes, newline: bytes) -> None:
    before = ini.python_values(text)
    there = ini.set_python(text, "/usr/lib/Zoë", "libpython3.11.so.1.0", newline)
    assert ini.python_enabled(there)
    assert ini.set_python(there, "/usr/lib/Zoë", "libpython3.11.so.1.0", newline) == there
    section = ini._find_section(ini._split(text), "REAPER")
    if section is None or any(line.body.strip(b" \t\r") for line in ini._split(text)[slice(*section)]):
        assert ini.restore_python(there, ini.python_values(there), before) == text


@given(texts(), st.sampled_from([b"\xff\xfe", b"[Media item context]\nitem_0=_SMARTDJ_X y\n", b"item_0=-3"]))
def test_removing_from_anything_is_final(text: bytes, prefix: bytes) -> None:
    once = ini.set_menu(ini.set_actions(prefix + text, []), ITEMS, []).text
    assert ini.set_menu(ini.set_actions(once, []), ITEMS, []).text == once
    assert not [item for item in ini._items(ini._split(once), ITEMS) if item.command.startswith("SMARTDJ_")]


# Command ids ----------------------------------------------------------------------------------------------------


def test_command_ids_are_reapers() -> None:
    assert doctest.testmod(ini).attempted >= 2
    assert doctest.testmod(ini).failed == 0
    assert ini.reaper_command_id("ReaTeam Scripts/Various/Lokasenna_Radial Menu Setup.lua") == (
        "RS17cdec10743ab13c46cbe5b83355d076919dec0d"
    )
    assert ini.reaper_command_id("a/b.lua", 32063) == "RS7d3f_" + hashlib.sha1(b"A/B.LUA").hexdigest()


# Actions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_actions_go_between_scripts_and_keys(newline: bytes) -> None:
    text = with_newline(KB, newline)
    there = ini.set_actions(text, ACTIONS)
    added = (
        b'SCR 516 0 SMARTDJ_EDIT_ITEM "Custom: SmartDJ: Edit items\xe2\x80\xa6" SmartDJ/smartdj_edit_items.py' + newline
        + b'SCR 516 0 SMARTDJ_EDIT_TRACK "Custom: SmartDJ: Edit track\xe2\x80\xa6" '
        b'"SmartDJ/sub folder/smartdj_edit_tracks.py"' + newline
    )  # fmt: skip
    head, tail = text.split(b"ACT ")
    assert there == head + added + b"ACT " + tail


def test_an_older_versions_action_is_rewritten_where_it_is_and_stale_ones_go() -> None:
    older = KB.replace(
        "ACT 2",
        'SCR 4 0 SMARTDJ_EDIT_ITEM "Custom: old name" "C:\\old\\x.py"\n'
        'SCR 516 0 SMARTDJ_GONE "Custom: gone" SmartDJ/gone.py\n'
        'SCR 516 0 SMARTDJ_EDIT_ITEM "Custom: doubled" SmartDJ/double.py\nACT 2',
    ).encode()
    there = ini.set_actions(older, ACTIONS)
    assert there == ini.set_actions(KB.encode(), ACTIONS)


def test_the_last_line_keeps_having_no_end() -> None:
    there = ini.set_actions(b"SCR 4 0 RSabc x y.lua", ACTIONS[:1])
    assert not there.endswith(b"\n")
    assert there.count(b"\n") == 1


def test_texts_that_the_format_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="quotes"):
        ini.set_actions(b"", [ScriptLine("SMARTDJ_X", 'say "hi"', "x.py")])
    with pytest.raises(ValueError, match="not our commands"):
        ini.set_actions(b"", [ScriptLine("RSabc", "hi", "x.py")])
    with pytest.raises(ValueError, match="one line"):
        ini.set_value(b"", "SmartDJ", "helper", b"a\nb")
    with pytest.raises(ValueError, match="not an entry"):
        ini.set_menu(b"", ITEMS, [MenuEntry("40001", "foreign")])


# Menus ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_entries_go_to_the_menus_end_after_a_separator(newline: bytes) -> None:
    text = with_newline(MENU, newline)
    edit = ini.set_menu(text, ITEMS, ENTRIES)
    added = (
        "item_11=-1\nitem_12=_SMARTDJ_EDIT_ITEM SmartDJ: edit…\nitem_13=_SMARTDJ_AGAIN SmartDJ: re-run with changes…\n"
    )
    # The highest number stands on the third line, as REAPER sorts keys on some systems.
    after = b"item_10=40061 Split" + newline
    assert edit.text == text.replace(after, after + with_newline(added, newline))


@pytest.mark.parametrize(
    "text",
    [b"", b"[Media item context]\ntitle=Media item context\n", MENU.replace("Media item", "Other").encode()],
    ids=["no file", "only a title", "other menus"],
)
def test_reapers_own_menu_is_never_replaced(text: bytes) -> None:
    assert ini.set_menu(text, ITEMS, ENTRIES) == ini.MenuEdit(text, MenuState.ABSENT)
    assert ini.read_menu(text, ITEMS) is None


@pytest.mark.parametrize(
    "items",
    ["item_0=1\nitem_2=2", "item_1=1", "item_0=1\nitem_0=2", "item_00=1", "item_0=-2 open", "item_0=-3\nitem_1=-2 x"],
    ids=["gap", "starts at 1", "twice", "leading zero", "open submenu", "closed before opened"],
)
def test_an_odd_menu_is_left_alone(items: str) -> None:
    text = f"[Media item context]\n{items}\ntitle=x\n".encode()
    assert ini.set_menu(text, ITEMS, ENTRIES) == ini.MenuEdit(text, MenuState.ODD)


def test_an_entry_that_the_user_placed_and_named_stays_there() -> None:
    text = b"[Media item context]\nitem_0=_SMARTDJ_EDIT_ITEM My name\nitem_1=-1\nitem_2=40001 x\n"
    assert ini.set_menu(text, ITEMS, ENTRIES[:1]).state is MenuState.UNCHANGED
    removed = ini.set_menu(text, ITEMS, []).text
    assert removed == b"[Media item context]\nitem_0=-1\nitem_1=40001 x\n"


def test_lua_and_python_entries_replace_each_other_in_place() -> None:
    text = b"[Media item context]\nitem_0=_SMARTDJ_EDIT_ITEM_LUA My name\nitem_1=40001 x\n"
    edit = ini.set_menu(text, ITEMS, ENTRIES[:1])
    assert edit == ini.MenuEdit(text.replace(b"_LUA", b""), MenuState.CHANGED)


def test_the_users_separator_stays_when_our_entry_was_moved_behind_it() -> None:
    text = b"[Media item context]\nitem_0=1 a\nitem_1=-1\nitem_2=_SMARTDJ_EDIT_ITEM e\nitem_3=2 b\n"
    assert ini.set_menu(text, ITEMS, []).text == b"[Media item context]\nitem_0=1 a\nitem_1=-1\nitem_2=2 b\n"


def test_what_the_user_added_after_our_entries_moves_up() -> None:
    there = ini.set_menu(MENU.encode(), ITEMS, ENTRIES).text
    more = there.replace(b"edit\xe2\x80\xa6\n", b"edit\xe2\x80\xa6\nitem_14=40200 New\n")
    text = ini.set_menu(more, ITEMS, []).text
    menu = ini.read_menu(text, ITEMS)
    assert menu is not None
    numbered = sorted(ini._items(ini._split(text), ITEMS), key=lambda item: item.number)
    assert [item.number for item in numbered] == list(range(len(menu)))
    assert numbered[-1].value == b"40200 New"
    assert b"SMARTDJ" not in text


def test_the_first_of_two_sections_counts() -> None:
    text = MENU.encode() + b"\n[Media item context]\nitem_0=1 other\n"
    edit = ini.set_menu(text, ITEMS, ENTRIES)
    assert edit.text.endswith(b"\n[Media item context]\nitem_0=1 other\n")
    assert edit.state is MenuState.CHANGED


# Keys -----------------------------------------------------------------------------------------------------------


def test_python_keys_go_into_the_section_that_is_there() -> None:
    text = b"[verchk]\r\nlastt=1\r\n[reaper]\r\nreascript=6\r\nvst=1\r\n\r\n[x]\r\ny=1\r\n"
    there = ini.set_python(text, "C:\\Py 3", "python311.dll")
    assert there == text.replace(b"reascript=6", b"reascript=7").replace(
        b"vst=1\r\n", b"vst=1\r\npythonlibpath64=C:\\Py 3\r\npythonlibdll64=python311.dll\r\n"
    )


def test_python_settings_that_the_user_changed_since_stay() -> None:
    text = b"[REAPER]\nx=1\n"
    there = ini.set_python(text, "/usr/lib", "libpython3.11.so")
    changed = there.replace(b"3.11", b"3.13")
    assert ini.restore_python(changed, ini.python_values(there), ini.python_values(text)) == changed


def test_a_new_section_goes_to_the_end_and_leaves_with_its_key() -> None:
    text = b"[a]\nk=1\n\n[b]\nk=2"
    there = ini.set_value(text, "SmartDJ", "helper", b"/opt/x")
    assert there == text + b"\n[SmartDJ]\nhelper=/opt/x"
    assert ini.remove_value(there, "SmartDJ", "helper") == text
    kept = ini.set_value(there, "SmartDJ", "last", b"rain, wind")
    assert ini.remove_value(kept, "SmartDJ", "helper") == text + b"\n[SmartDJ]\nlast=rain, wind"
