"""Installing into REAPER's resource folder and out again, on folders as REAPER makes them; no REAPER is needed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartdj_agent import __version__
from smartdj_agent.doctor import Check, Health
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.reaper import cli, ini, install, reapack
from smartdj_agent.reaper.doctor import Examination, ask_server, run_helper
from smartdj_agent.reaper.install import (
    Kind,
    Wanted,
    carry_out,
    helper_value,
    plan_install,
    plan_uninstall,
    python_works,
    read_helper,
)
from smartdj_agent.reaper.paths import (
    ResourceFolder,
    Surroundings,
    System,
    current_system,
    find_program,
    find_resource_folders,
    program_folder,
    resource_folder,
)
from smartdj_agent.reaper.processes import reaper_processes
from smartdj_agent.reaper.python_library import PythonLibrary, find_python_library, machine, processors
from smartdj_agent.reaper.scripts import MENUS, menu_entries, read_scripts, script_files, script_folder

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 11, 22, 10, 15, 0)
ITEMS, TRACKS = MENUS["item"], MENUS["track"]


def script(comment: str, command: str, description: str, menu: str) -> bytes:
    tags = f"description {description}", f"version {__version__}", f"smartdj_action {command}", f"smartdj_menu {menu}"
    return "".join(f"{comment} @{tag}\n" for tag in tags).encode() + b"print()\n"


FILES: tuple[tuple[str, bytes], ...] = (
    ("lib/bridge.py", b"# @noindex\n"),
    (
        "smartdj_edit_items.lua",
        script("--", "SMARTDJ_EDIT_ITEM_LUA", "SmartDJ: Edit items (Lua)", "item SmartDJ: edit…"),
    ),
    ("smartdj_edit_items.py", script("#", "SMARTDJ_EDIT_ITEM", "SmartDJ: Edit items", "item SmartDJ: edit…")),
    ("smartdj_edit_tracks.py", script("#", "SMARTDJ_EDIT_TRACK", "SmartDJ: Edit tracks", "track SmartDJ: edit…")),
)

KB = b'SCR 4 0 RSabc "Custom: a b.lua" "x/a b.lua"\r\nACT 2 0 "946f" "Custom: N" 6 40062\r\nKEY 5 112 _RSabc 0\r\n'
MENU = """\
[Media item context]\r
item_0=40009 Item properties…\r
item_1=-2 Take\r
item_2=40125 Next take\r
item_3=-3\r
title=Media item context\r
\r
[Track control panel context]\r
item_0=40001 Insert new track\r
title=Track control panel context\r
""".encode()
INI = b"[REAPER]\r\nreascript=0\r\nvstpath64=C:\\VST\r\n\r\n[verchk]\r\nlastt=1734685019\r\n"
EXTSTATE = "[theme]\r\nscènes=Zoë".encode()


def elf(number: int = 0x3E) -> bytes:
    return b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HH", 3, number) + bytes(40)


def pe(number: int = 0x8664) -> bytes:
    return (
        b"MZ" + bytes(0x3A) + struct.pack("<I", 0x80) + bytes(0x40) + b"PE\0\0" + struct.pack("<H", number) + bytes(20)
    )


def mach(number: int) -> bytes:
    return struct.pack("<II", 0xFEEDFACF, number) + bytes(24)


def fat(*numbers: int) -> bytes:
    return struct.pack(">II", 0xCAFEBABE, len(numbers)) + b"".join(
        struct.pack(">IIIII", n, 0, 0, 0, 0) for n in numbers
    )


def nobody() -> list[str]:
    return []


def content_of(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def library(tmp_path: Path) -> PythonLibrary:
    folder = tmp_path / "pylib"
    folder.mkdir()
    (folder / "libpython3.11.so.1.0").write_bytes(elf())
    return PythonLibrary(str(folder), "libpython3.11.so.1.0")


@pytest.fixture
def resource(tmp_path: Path) -> ResourceFolder:
    folder = tmp_path / "REAPER"
    folder.mkdir()
    files = {"reaper.ini": INI, "reaper-kb.ini": KB, "reaper-menu.ini": MENU, "reaper-extstate.ini": EXTSTATE}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return ResourceFolder(folder, folder / "reaper.ini")


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(FILES, tmp_path / "venv" / "smartdj", System.LINUX)


def do_install(resource: ResourceFolder, wanted: Wanted, now: datetime = NOW) -> install.FilePlan:
    plan = plan_install(resource, wanted, now, processor="x86_64")
    carry_out(plan, nobody)
    return plan


def do_uninstall(resource: ResourceFolder, now: datetime = NOW) -> install.FilePlan:
    plan = plan_uninstall(resource, FILES, now)
    carry_out(plan, nobody)
    return plan


# Installing -----------------------------------------------------------------------------------------------------


def test_planning_changes_nothing_and_shows_everything(resource: ResourceFolder, wanted: Wanted) -> None:
    before = content_of(resource.path)
    plan = plan_install(resource, wanted, NOW)
    assert content_of(resource.path) == before
    shown = [(change.kind, change.path.relative_to(resource.path).as_posix()) for change in plan.changes]
    ours = [(Kind.CREATE, f"Scripts/SmartDJ/{name}") for name, _ in FILES]
    edits = [
        step
        for name in ("reaper-kb.ini", "reaper-menu.ini", "reaper-extstate.ini")
        for step in ((Kind.BACK_UP, f"{name}.smartdj-20261122-101500.bak"), (Kind.EDIT, name))
    ]
    assert shown == [*ours, *edits, (Kind.CREATE, "Scripts/SmartDJ/smartdj-install.json")]


def test_everything_is_in_place_and_backed_up(resource: ResourceFolder, wanted: Wanted) -> None:
    do_install(resource, wanted)
    for name, content in FILES:
        assert (resource.scripts / "SmartDJ" / name).read_bytes() == content
    actions = {line.command: line for line in ini.read_actions(resource.kb.read_bytes())}
    assert set(actions) == {"RSabc", "SMARTDJ_EDIT_ITEM", "SMARTDJ_EDIT_ITEM_LUA", "SMARTDJ_EDIT_TRACK"}
    assert (resource.scripts / actions["SMARTDJ_EDIT_ITEM"].script).is_file()
    assert resource.kb.read_bytes().count(b"\r\n") == resource.kb.read_bytes().count(b"\n") == 6
    menu = resource.menu.read_bytes()
    assert ini.read_menu(menu, ITEMS)[-2:] == [("-1", ""), ("_SMARTDJ_EDIT_ITEM_LUA", "SmartDJ: edit…")]  # type: ignore[index]
    assert ini.read_menu(menu, TRACKS)[-1] == ("_SMARTDJ_EDIT_TRACK", "SmartDJ: edit…")  # type: ignore[index]
    assert read_helper(resource.extstate.read_bytes()) == wanted.helper
    assert resource.ini.read_bytes() == INI
    for name, content in (("kb", KB), ("menu", MENU), ("extstate", EXTSTATE)):
        assert (resource.path / f"reaper-{name}.ini.smartdj-20261122-101500.bak").read_bytes() == content
    assert not list(resource.path.rglob("*.part"))


def test_a_second_install_does_nothing(resource: ResourceFolder, wanted: Wanted) -> None:
    do_install(resource, wanted)
    before = content_of(resource.path)
    assert do_install(resource, wanted).changes == ()
    assert content_of(resource.path) == before


@pytest.mark.parametrize("python", [False, True])
def test_uninstalling_restores_every_byte(
    resource: ResourceFolder, wanted: Wanted, library: PythonLibrary, python: bool
) -> None:
    before = content_of(resource.path)
    do_install(resource, replace(wanted, python=library if python else None))
    assert content_of(resource.path) != before
    do_uninstall(resource)
    assert content_of(resource.path) == before
    assert do_uninstall(resource).changes == ()


def test_a_fresh_reaper_has_none_of_the_files_and_none_afterwards(resource: ResourceFolder, wanted: Wanted) -> None:
    for path in (resource.kb, resource.menu, resource.extstate):
        path.unlink()
    before = content_of(resource.path)
    plan = do_install(resource, replace(wanted, system=System.WINDOWS))
    assert not resource.menu.exists()  # REAPER's own menus stay
    assert resource.kb.read_bytes().count(b"\r\n") == 3
    clicks = "\n".join(plan.clicks)
    for text in (ITEMS, TRACKS, "Customize menus/toolbars", "Script: SmartDJ: Edit items (Lua)", "ReaScript"):
        assert text in clicks
    do_uninstall(resource)
    assert content_of(resource.path) == before


def test_an_upgrade_swaps_files_and_still_restores_every_byte(resource: ResourceFolder, wanted: Wanted) -> None:
    before = content_of(resource.path)
    do_install(resource, wanted)
    newer = replace(wanted, files=(*FILES[1:3], ("new.lua", b"--\n")), helper=Path("/opt/new/smartdj"))
    plan = do_install(resource, newer, NOW.replace(hour=11))
    assert {change.path.name for change in plan.changes if change.kind is Kind.REMOVE} == {
        "bridge.py",
        "smartdj_edit_tracks.py",
    }
    assert not [change for change in plan.changes if change.kind is Kind.BACK_UP]  # nobody else changed anything
    assert b"SMARTDJ_EDIT_TRACK" not in resource.kb.read_bytes() + resource.menu.read_bytes()
    carry_out(plan_uninstall(resource, newer.files, NOW), nobody)
    assert content_of(resource.path) == before


def test_an_upgrade_after_reaper_changed_the_file_leaves_nothing_of_ours(
    resource: ResourceFolder, wanted: Wanted
) -> None:
    do_install(resource, replace(wanted, files=FILES[2:]))
    resource.kb.write_bytes(resource.kb.read_bytes() + b"KEY 1 66 40001 0\r\n")
    do_install(resource, wanted, NOW.replace(hour=11))  # its backup holds lines of ours: not what to go back to
    do_uninstall(resource, NOW.replace(hour=12))
    assert resource.kb.read_bytes() == KB + b"KEY 1 66 40001 0\r\n"


def test_what_reaper_changed_meanwhile_stays(resource: ResourceFolder, wanted: Wanted, library: PythonLibrary) -> None:
    do_install(resource, replace(wanted, python=library))
    resource.kb.write_bytes(resource.kb.read_bytes() + b"KEY 1 66 _SMARTDJ_EDIT_ITEM 0\r\n")
    resource.ini.write_bytes(resource.ini.read_bytes().replace(b"1734685019", b"1999999999"))
    resource.extstate.write_bytes(resource.extstate.read_bytes() + b"\r\nlast=rain, wind\r\n")
    before_uninstall = resource.kb.read_bytes()
    plan = do_uninstall(resource, NOW.replace(hour=12))
    assert resource.kb.read_bytes() == KB + b"KEY 1 66 _SMARTDJ_EDIT_ITEM 0\r\n"
    assert resource.ini.read_bytes() == INI.replace(b"1734685019", b"1999999999")
    assert resource.extstate.read_bytes() == EXTSTATE + b"\r\n[SmartDJ]\r\nlast=rain, wind\r\n"
    assert resource.menu.read_bytes() == MENU
    assert (resource.path / "reaper-kb.ini.smartdj-20261122-121500.bak").read_bytes() == before_uninstall
    assert not resource.scripts.exists()
    assert [note.split(" stays")[0] for note in plan.notes] == [
        f"{name}.smartdj-20261122-101500.bak" for name in ("reaper-kb.ini", "reaper-extstate.ini", "reaper.ini")
    ]


def test_without_its_record_uninstall_goes_by_the_lines(resource: ResourceFolder, wanted: Wanted) -> None:
    do_install(resource, wanted)
    (resource.scripts / "SmartDJ" / install.RECORD_NAME).write_bytes(b"{ damaged")
    do_uninstall(resource)
    assert (resource.kb.read_bytes(), resource.menu.read_bytes()) == (KB, MENU)
    assert resource.extstate.read_bytes() == EXTSTATE
    assert not (resource.scripts / "SmartDJ").exists()


def test_a_script_that_somebody_changed_is_copied_before_and_kept_after(
    resource: ResourceFolder, wanted: Wanted
) -> None:
    do_install(resource, wanted)
    path = resource.scripts / "SmartDJ" / "smartdj_edit_items.py"
    path.write_bytes(b"# mine\n")
    assert "changed after installing" in plan_uninstall(resource, FILES, NOW).notes[0]
    do_install(resource, wanted)
    assert path.read_bytes() == dict(FILES)["smartdj_edit_items.py"]
    copies = list(path.parent.glob("smartdj_edit_items.py.smartdj-*.bak"))
    assert [copy.read_bytes() for copy in copies] == [b"# mine\n"]


def test_compiled_scripts_go_with_them_and_foreign_files_stay(resource: ResourceFolder, wanted: Wanted) -> None:
    do_install(resource, wanted)
    cache = resource.scripts / "SmartDJ" / "lib" / "__pycache__"
    cache.mkdir()
    (cache / "bridge.cpython-311.pyc").write_bytes(b"x")
    (resource.scripts / "SmartDJ" / "mine.lua").write_bytes(b"y")
    do_uninstall(resource)
    assert content_of(resource.scripts) == {"SmartDJ": None, "SmartDJ/mine.lua": b"y"}


def test_links_and_permissions_survive(resource: ResourceFolder, wanted: Wanted, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles-kb.ini"
    resource.kb.rename(real)
    resource.kb.symlink_to(real)
    real.chmod(0o640)
    do_install(resource, wanted)
    assert resource.kb.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert b"SMARTDJ" in real.read_bytes()


def test_a_failure_in_the_middle_puts_everything_back(
    resource: ResourceFolder, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(resource.path)
    plan = plan_install(resource, wanted, NOW)
    put = install._put

    def fail_at_extstate(path: Path, content: bytes | None) -> None:
        if path == resource.extstate:
            raise PermissionError(13, "Permission denied")
        put(path, content)

    monkeypatch.setattr(install, "_put", fail_at_extstate)
    with pytest.raises(
        SmartDJError, match=r"extstate\.ini can.t be written: Permission denied; nothing was changed"
    ) as caught:
        carry_out(plan, nobody)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert content_of(resource.path) == before


def test_a_file_that_changed_since_planning_stops_everything(resource: ResourceFolder, wanted: Wanted) -> None:
    plan = plan_install(resource, wanted, NOW)
    resource.menu.write_bytes(MENU + b"\r\n")
    before = content_of(resource.path)
    with pytest.raises(SmartDJError, match="changed by somebody else"):
        carry_out(plan, nobody)
    assert content_of(resource.path) == before


def test_an_installation_without_scripts_is_refused(resource: ResourceFolder, wanted: Wanted) -> None:
    with pytest.raises(SmartDJError, match="scripts are missing"):
        plan_install(resource, replace(wanted, files=()), NOW)


def test_utf16_is_refused(resource: ResourceFolder, wanted: Wanted) -> None:
    resource.menu.write_bytes("[Main]".encode("utf-16"))
    with pytest.raises(SmartDJError, match="UTF-16"):
        plan_install(resource, wanted, NOW)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=60), st.sampled_from([KB, MENU, INI, EXTSTATE, b""])),
             min_size=3, max_size=3)
)  # fmt: skip
def test_any_folder_is_restored_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes | None]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "reaper.ini").write_bytes(INI)
    for name, content in zip(("reaper-kb.ini", "reaper-menu.ini", "reaper-extstate.ini"), contents, strict=True):
        if content is not None and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
            (folder / name).write_bytes(content)
    resource = ResourceFolder(folder, folder / "reaper.ini")
    before = content_of(folder)
    do_install(resource, Wanted(FILES, Path("/opt/smartdj"), System.LINUX))
    assert do_install(resource, Wanted(FILES, Path("/opt/smartdj"), System.LINUX)).changes == ()
    do_uninstall(resource)
    assert content_of(folder) == before
    shutil.rmtree(folder)


# Python ---------------------------------------------------------------------------------------------------------


def test_python_is_set_only_when_asked_and_only_when_none_works(
    resource: ResourceFolder, wanted: Wanted, library: PythonLibrary, tmp_path: Path
) -> None:
    do_install(resource, replace(wanted, python=library))
    text = resource.ini.read_bytes()
    assert b"reascript=1\r\n" in text
    assert b"pythonlibdll64=libpython3.11.so.1.0\r\n" in text
    assert python_works(text, processor="x86_64")
    assert not python_works(text, processor="arm64")
    assert ini.read_menu(resource.menu.read_bytes(), ITEMS)[-1][0] == "_SMARTDJ_EDIT_ITEM"  # type: ignore[index]
    other = PythonLibrary(str(tmp_path), "libpython3.13.so")
    plan = do_install(resource, replace(wanted, python=other))
    assert plan.changes == ()
    assert "stays" in plan.notes[0]


def test_menus_follow_when_python_comes_later(resource: ResourceFolder, wanted: Wanted, library: PythonLibrary) -> None:
    before = content_of(resource.path)
    do_install(resource, wanted)
    assert b"_SMARTDJ_EDIT_ITEM_LUA " in resource.menu.read_bytes()
    do_install(resource, replace(wanted, python=library), NOW.replace(hour=11))
    assert b"_SMARTDJ_EDIT_ITEM_LUA " not in resource.menu.read_bytes()
    assert b"item_5=_SMARTDJ_EDIT_ITEM " in resource.menu.read_bytes()
    do_uninstall(resource)
    assert content_of(resource.path) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (elf(), {"x86_64"}),
        (elf(0xB7), {"arm64"}),
        (pe(), {"x86_64"}),
        (pe(0xAA64), {"arm64"}),
        (pe(0x14C), {"x86"}),
        (mach(0x0100000C), {"arm64"}),
        (fat(0x01000007, 0x0100000C), {"x86_64", "arm64"}),
        (elf(0x1234), {"unknown"}),
        (b"", set()),
        (b"MZ", set()),
        (b"\x7fELF", set()),
        (b"#!/bin/sh\n", set()),
        (b"\xca\xfe\xba\xbe\x00\x00\x00\x34", set()),
    ],
)
def test_processors_are_read_from_the_header(tmp_path: Path, content: bytes, expected: set[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert processors(path) == expected


def test_this_python_is_understood() -> None:
    assert processors(Path(sys.executable)) == {machine()}


@pytest.mark.parametrize(
    ("system", "files", "variables", "expected"),
    [
        (System.WINDOWS, {"python311.dll": pe()}, {}, "python311.dll"),
        (System.WINDOWS, {"python311.dll": b"no library"}, {}, None),
        (System.MACOS, {"lib/libpython3.11.dylib": mach(0x0100000C)}, {}, "libpython3.11.dylib"),
        (
            System.MACOS,
            {"Python.framework/Versions/3.11/Python": fat(0x01000007, 0x0100000C)},
            {"LDLIBRARY": "Python.framework/Versions/3.11/Python", "PYTHONFRAMEWORKPREFIX": "{prefix}"},
            "Python",
        ),
        (
            System.LINUX,
            {"lib/libpython3.11.so.1.0": elf()},
            {"INSTSONAME": "libpython3.11.so.1.0"},
            "libpython3.11.so.1.0",
        ),
        (
            System.LINUX,
            {"lib/libpython3.11.a": b"!<arch>\n"},
            {"LDLIBRARY": "libpython3.11.a", "MULTIARCH": "none"},
            None,
        ),
    ],
)
def test_the_python_library_is_found(
    tmp_path: Path, system: System, files: dict[str, bytes], variables: dict[str, str], expected: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    filled = {key: value.format(prefix=tmp_path) for key, value in variables.items()}
    found = find_python_library(system, variables=filled, prefix=str(tmp_path), version=(3, 11))
    if expected is None:
        assert found is None or not found.path.is_relative_to(tmp_path)
    else:
        assert found is not None
        assert (found.name, found.path.is_relative_to(tmp_path)) == (expected, True)


# Helper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/opt/venv/bin/smartdj", "C:\\Program Files\\x\\smartdj.exe", "/home/Zoë/bin/smartdj"]
)
def test_the_helpers_path_is_kept_as_plain_ascii(path: str) -> None:
    value = helper_value(Path(path))
    assert value.isascii()
    text = ini.set_value(b"", "SmartDJ", "helper", value)
    assert read_helper(text) == Path(path)
    assert value.startswith(b"base64:") == (not path.isascii())


def test_no_helper_is_no_path() -> None:
    assert read_helper(b"") is None
    assert read_helper(b"[SmartDJ]\nhelper= \n") is None


# Folders --------------------------------------------------------------------------------------------------------


def around(system: System, home: Path, **environment: str) -> Surroundings:
    return Surroundings(system, home, environment)


def make(folder: Path, *names: str) -> Path:
    for name in names or ("reaper.ini",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_systems_are_told_apart() -> None:
    assert [current_system(name) for name in ("win32", "darwin", "linux")] == list(System)


@pytest.mark.parametrize(
    ("system", "below", "environment"),
    [
        (System.WINDOWS, "AppData/Roaming/REAPER", {}),
        (System.WINDOWS, "Elsewhere/REAPER", {"APPDATA": "Elsewhere"}),
        (System.MACOS, "Library/Application Support/REAPER", {}),
        (System.LINUX, ".config/REAPER", {}),
        (System.LINUX, "xdg/REAPER", {"XDG_CONFIG_HOME": "xdg"}),
    ],
)
def test_the_resource_folder_is_found(tmp_path: Path, system: System, below: str, environment: dict[str, str]) -> None:
    here = around(system, tmp_path, **{key: str(tmp_path / value) for key, value in environment.items()})
    with pytest.raises(SmartDJError, match="no REAPER settings found") as caught:
        resource_folder(None, here)
    assert caught.value.code is ErrorCode.USAGE
    folder = make(tmp_path / below)
    assert resource_folder(None, here) == ResourceFolder(folder, folder / "reaper.ini")
    assert resource_folder(folder, here) == ResourceFolder(folder, folder / "reaper.ini")


def test_a_portable_install_is_found_by_its_program(tmp_path: Path) -> None:
    windows = around(System.WINDOWS, tmp_path, ProgramFiles=str(tmp_path / "PF"), APPDATA=str(tmp_path / "AD"))
    folder = make(tmp_path / "PF" / "REAPER (x64)", "reaper.exe", "reaper.ini")
    assert find_resource_folders(windows) == [ResourceFolder(folder, folder / "reaper.ini", portable=True)]
    mac = around(System.MACOS, tmp_path)
    apps = make(tmp_path / "Applications", "REAPER.app/Contents/MacOS/REAPER", "reaper.ini")
    found = find_resource_folders(mac)
    assert found == [ResourceFolder(apps, apps / "reaper.ini", portable=True)]
    assert find_program(mac, found[0]) == apps / "REAPER.app" / "Contents" / "MacOS" / "REAPER"
    linux = around(System.LINUX, tmp_path)
    opt = make(tmp_path / "opt" / "REAPER", "reaper", "reaper.ini")
    assert resource_folder(None, linux).path == opt
    make(tmp_path / ".config" / "REAPER")
    with pytest.raises(SmartDJError, match="2 REAPER installations"):
        resource_folder(None, linux)


def test_a_portable_install_can_be_named_by_folder_program_bundle_or_ini(tmp_path: Path) -> None:
    here = around(System.MACOS, tmp_path)
    usb = make(tmp_path / "usb", "REAPER.app/Contents/MacOS/REAPER", "reaper.ini", "live.ini")
    expected = ResourceFolder(usb, usb / "reaper.ini", portable=True)
    for named in (usb, usb / "REAPER.app", usb / "REAPER.app/Contents/MacOS/REAPER", usb / "reaper.ini"):
        assert resource_folder(named, here) == expected
    assert resource_folder(usb / "live.ini", here).ini == usb / "live.ini"
    assert program_folder(Path("/opt/REAPER/reaper")) == Path("/opt/REAPER")


def test_a_folder_without_reapers_ini_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SmartDJError, match=r"no REAPER resource folder: it has no reaper\.ini"):
        resource_folder(tmp_path, around(System.LINUX, tmp_path))


# Processes ------------------------------------------------------------------------------------------------------


def test_tasklist_and_pgrep_are_understood() -> None:
    asked: list[Sequence[str]] = []

    def answering(text: str) -> Callable[[Sequence[str]], str]:
        def run(command: Sequence[str]) -> str:
            asked.append(command)
            return text

        return run

    def missing(command: Sequence[str]) -> str:
        raise FileNotFoundError(command[0])

    csv = '"reaper.exe","4711","Console","1","212.345 K"\r\n'
    assert reaper_processes(System.WINDOWS, run=answering(csv)) == ["reaper.exe (4711)"]
    nothing = "INFORMATION: Es werden keine Aufgaben mit den angegebenen Kriterien ausgeführt.\r\n"
    assert reaper_processes(System.WINDOWS, run=answering(nothing)) == []
    assert reaper_processes(System.MACOS, run=answering("12\n345\n")) == ["REAPER (12)", "REAPER (345)"]
    assert reaper_processes(System.MACOS, run=answering("")) == []
    assert reaper_processes(System.MACOS, run=missing) is None
    assert [command[0] for command in asked] == ["tasklist", "tasklist", "pgrep", "pgrep"]


def test_proc_tells_reaper_from_what_is_called_alike(tmp_path: Path) -> None:
    def process(number: int, program: str, name: str) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "comm").write_text(name + "\n")
        (folder / "exe").symlink_to(program)

    process(10, "/opt/REAPER/reaper", "reaper")
    process(11, "/opt/REAPER/reaper (deleted)", "reaper")  # updated while it runs
    process(12, "/usr/bin/wine64-preloader", "reaper.exe")
    process(13, "/usr/bin/python3.11", "reaper")  # a script of that name
    process(14, "/opt/reaper-scan", "reaper-scan")
    (tmp_path / "15").mkdir()  # a kernel thread: no exe
    (tmp_path / "self").mkdir()
    found = reaper_processes(System.LINUX, proc=tmp_path)
    assert found == ["reaper (10)", "reaper (11)", "reaper (12)"]
    assert reaper_processes(System.LINUX, proc=tmp_path / "none") is None


@pytest.fixture
def fake_reaper(tmp_path: Path) -> Iterator[int]:
    """A process whose program is a file called reaper."""
    sleep = shutil.which("sleep")
    if not sys.platform.startswith("linux") or sleep is None:
        pytest.skip("needs Linux")
    program = tmp_path / "bin" / "reaper"
    program.parent.mkdir()
    shutil.copy(os.path.realpath(sleep), program)
    process = subprocess.Popen([program, "120"])
    deadline = time.monotonic() + 20
    while os.readlink(f"/proc/{process.pid}/exe") != str(program) and time.monotonic() < deadline:
        os.sched_yield()  # between fork and exec it is still Python
    yield process.pid
    process.kill()
    process.wait()


def test_a_running_reaper_refuses_everything(resource: ResourceFolder, wanted: Wanted, fake_reaper: int) -> None:
    found = reaper_processes(System.LINUX)
    assert found is not None
    assert f"reaper ({fake_reaper})" in found
    before = content_of(resource.path)
    plan = plan_install(resource, wanted, NOW)
    with pytest.raises(SmartDJError, match="REAPER is running") as caught:
        carry_out(plan, lambda: reaper_processes(System.LINUX))
    assert caught.value.row.exit_code == 91
    assert caught.value.row.grpc_status == "FAILED_PRECONDITION"
    assert content_of(resource.path) == before


# Scripts --------------------------------------------------------------------------------------------------------


def test_headers_name_the_actions() -> None:
    scripts = {item.command: item for item in read_scripts(FILES)}
    assert set(scripts) == {"SMARTDJ_EDIT_ITEM", "SMARTDJ_EDIT_ITEM_LUA", "SMARTDJ_EDIT_TRACK"}
    item = scripts["SMARTDJ_EDIT_ITEM"]
    assert (item.path, item.menu, item.label) == ("SmartDJ/smartdj_edit_items.py", ITEMS, "SmartDJ: edit…")
    assert item.line.description == "Custom: SmartDJ: Edit items"
    for python, command in ((True, "SMARTDJ_EDIT_ITEM"), (False, "SMARTDJ_EDIT_ITEM_LUA")):
        entries = menu_entries(list(scripts.values()), ITEMS, python=python)
        assert [entry.command for entry in entries] == [command]
        assert len(entries[0].instead_of) == 1
    assert menu_entries(list(scripts.values()), TRACKS, python=False)[0].command == "SMARTDJ_EDIT_TRACK"


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("-- @smartdj_action EDIT\n", "in capitals"),
        ("-- @smartdj_action SMARTDJ_X\n-- @version 1\n", "@description is missing"),
        ("-- @smartdj_action SMARTDJ_X\n-- @version 1\n-- @description x\n-- @smartdj_menu item\n", "item LABEL"),
    ],
)
def test_a_wrong_header_is_found(header: str, fault: str) -> None:
    with pytest.raises(SmartDJError, match=fault):
        read_scripts([("x.lua", header.encode())])


def test_only_what_belongs_into_reaper_is_copied(tmp_path: Path) -> None:
    make(tmp_path, "a.lua", "lib/b.py", "lib/__pycache__/b.pyc", "README.md", "index.xml", ".hidden/x.lua", "icon.png")
    assert [name for name, _ in script_files(tmp_path)] == ["a.lua", "icon.png", "lib/b.py"]


# ReaPack --------------------------------------------------------------------------------------------------------


def test_the_version_is_the_projects() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == __version__


def test_the_index_lists_what_is_there() -> None:
    text = reapack.make_index(
        FILES, url="https://host/raw/integrations/reaper/", time=datetime.now(UTC), changelog="a<b"
    )
    assert reapack.check_index(text, FILES) == []
    assert text.count("main=") == 3
    assert '<source file="lib/bridge.py">https://host/raw/integrations/reaper/lib/bridge.py</source>' in text


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("lib/bridge.py\"", "lib/other.py\"", "lib/bridge.py is there but isn't listed"),
        ("lib/bridge.py\"", "lib/other.py\"", "lib/other.py is listed but isn't there"),
        (f'version name="{__version__}"', 'version name="0.0.1"', "its newest version must be"),
        ('main="main" file="smartdj_edit_items.py"', 'file="smartdj_edit_items.py"', "must be marked main"),
        ("https://host", "http://host", "has the address"),
        ("</index>", "", "it is no XML"),
        ('time="20', 'time="', "time must look like"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_found(old: str, new: str, fault: str) -> None:
    text = reapack.make_index(FILES, url="https://host/raw", time=datetime.now(UTC))
    assert old in text
    assert any(fault in message for message in reapack.check_index(text.replace(old, new), FILES))


def test_a_script_of_another_version_is_found() -> None:
    older = tuple((name, content.replace(__version__.encode(), b"0.0.1")) for name, content in FILES)
    text = reapack.make_index(older, url="https://host/raw", time=datetime.now(UTC))
    assert len(reapack.check_index(text, older)) == 3


def test_the_index_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in FILES:
        make(tmp_path, name)
        (tmp_path / name).write_bytes(content)
    assert reapack.main(["--folder", str(tmp_path)]) == 1
    assert reapack.main(["--folder", str(tmp_path), "--url", "https://host/raw"]) == 0
    assert reapack.main(["--folder", str(tmp_path)]) == 0
    (tmp_path / "more.lua").touch()
    assert reapack.main(["--folder", str(tmp_path)]) == 1
    assert "more.lua is there but isn't listed" in capsys.readouterr().err


def test_our_own_scripts_and_index_agree() -> None:
    if not (ROOT / "integrations" / "reaper").is_dir() or not script_files(script_folder()):
        pytest.skip("there are no scripts yet")
    files = script_files(script_folder())
    assert read_scripts(files)
    assert reapack.check_index((script_folder() / reapack.INDEX_NAME).read_text(encoding="utf-8"), files) == []


# Doctor ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def examination(resource: ResourceFolder, wanted: Wanted, library: PythonLibrary, tmp_path: Path) -> Examination:
    """Of an installation where all is well."""
    make(wanted.helper.parent, "smartdj")
    do_install(resource, replace(wanted, python=library))
    program = tmp_path / "reaper"
    program.write_bytes(elf())
    return Examination(resource, FILES, program, nobody, lambda path: f"smartdj {__version__}", lambda address: "")


def found(examination: Examination, name: str) -> Check:
    return next(check for check in examination.checks() if check.name == name)


def test_all_is_well_after_installing(examination: Examination) -> None:
    before = content_of(examination.resource.path)
    checks = examination.checks()
    assert {check.health for check in checks} == {Health.OK}
    assert {check.name for check in checks} == {
        "resource folder", "reaper", "scripts", "action SMARTDJ_EDIT_ITEM", "action SMARTDJ_EDIT_ITEM_LUA",
        "action SMARTDJ_EDIT_TRACK", f"menu {ITEMS}", f"menu {TRACKS}", "python in reaper", "helper", "server",
    }  # fmt: skip
    assert content_of(examination.resource.path) == before


def test_nothing_installed_is_told_with_what_to_do(resource: ResourceFolder) -> None:
    checks = Examination(resource, FILES, None, lambda: None).checks()
    bad = [check for check in checks if check.health is not Health.OK]
    assert {"scripts", "action SMARTDJ_EDIT_ITEM", f"menu {ITEMS}", "python in reaper", "helper", "reaper"} <= {
        check.name for check in bad
    }
    assert all(check.hint for check in bad)


TWIN = b'SCR 4 0 RSx "Custom: x" SmartDJ/Items/smartdj_edit_items.py'


def bridge(examination: Examination) -> Path:
    return examination.resource.scripts / "SmartDJ" / "lib" / "bridge.py"


Spoil = Callable[[Examination], object]


def rewrite(pick: Callable[[ResourceFolder], Path], old: bytes, new: bytes) -> Spoil:
    def spoil(examination: Examination) -> None:
        path = pick(examination.resource)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "name", "health", "words"),
    [
        (lambda e: bridge(e).unlink(), "scripts", Health.FAIL, "lib/bridge.py"),
        (lambda e: bridge(e).write_bytes(b""), "scripts", Health.WARN, "not those"),
        (rewrite(lambda r: r.kb, b"SmartDJ/smartdj_edit_items.py", b"smartdj/wrong.py"),
         "action SMARTDJ_EDIT_ITEM", Health.FAIL, "wrong.py"),
        (rewrite(lambda r: r.kb, b"SCR 516 0 SMARTDJ_EDIT_ITEM ", b"SCR 7 0 SMARTDJ_EDIT_ITEM "),
         "action SMARTDJ_EDIT_ITEM", Health.WARN, "flags 7"),
        (rewrite(lambda r: r.kb, b"SCR 4 0 RSabc", TWIN + b"\r\nSCR 4 0 RSabc"),
         "action SMARTDJ_EDIT_ITEM", Health.WARN, "twice"),
        (rewrite(lambda r: r.kb, b"SMARTDJ_EDIT_TRACK", b"SMARTDJ_OLD"), "old actions", Health.WARN, "SMARTDJ_OLD"),
        (rewrite(lambda r: r.kb, b"SMARTDJ_EDIT_TRACK", b"SMARTDJ_OLD"), f"menu {TRACKS}", Health.FAIL, "registered"),
        (rewrite(lambda r: r.menu, b"5=_SMARTDJ_EDIT_ITEM", b"5=40001"), f"menu {ITEMS}", Health.WARN, "without"),
        (rewrite(lambda r: r.menu, b"item_5=_SMARTDJ_EDIT_ITEM", b"item_7=1"), f"menu {ITEMS}", Health.WARN, "gaps"),
        (lambda e: e.resource.menu.unlink(), f"menu {ITEMS}", Health.WARN, "REAPER's own menu"),
        (rewrite(lambda r: r.menu, b"[Media", b"\xef\xbb\xbf[Media"), "reaper-menu.ini", Health.WARN, "byte order"),
        (rewrite(lambda r: r.ini, b"reascript=1", b"reascript=2"), "python in reaper", Health.WARN, "switched off"),
        (rewrite(lambda r: r.ini, b"dll64=lib", b"dll64=bil"), "python in reaper", Health.WARN, "can't be read"),
        (rewrite(lambda r: r.ini, b"pythonlibdll64=libpython3.11.so.1.0", b"pythonlibdll64="),
         "python in reaper", Health.WARN, "no library"),
        (rewrite(lambda r: r.extstate, b"helper=", b"hepler="), "helper", Health.FAIL, "isn't set"),
        (rewrite(lambda r: r.extstate, b"/smartdj", b"/gone"), "helper", Health.FAIL, "isn't there"),
        (rewrite(lambda r: r.extstate, b"[SmartDJ]", b"[SmartDJ]\r\nserver=host:1"), "server", Health.OK, "host:1"),
    ],
)  # fmt: skip
def test_each_fault_is_found(examination: Examination, spoil: Spoil, name: str, health: Health, words: str) -> None:
    spoil(examination)
    check = found(examination, name)
    assert check.health is health
    assert words in check.detail
    assert check.hint or health is Health.OK


def test_a_python_for_another_processor_is_found(examination: Examination) -> None:
    assert examination.program is not None
    examination.program.write_bytes(elf(0xB7))
    check = found(examination, "python in reaper")
    assert check.health is Health.WARN
    assert "x86_64, REAPER for arm64" in check.detail


def test_the_helper_is_run(examination: Examination, tmp_path: Path) -> None:
    def failing(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    assert "Permission denied" in found(replace(examination, helper_version=failing), "helper").detail
    old = replace(examination, helper_version=lambda path: "smartdj 0.0.1")
    assert found(old, "helper").health is Health.WARN
    script = tmp_path / "prog"
    script.write_text("#!/bin/sh\necho smartdj 9\n")
    with pytest.raises(PermissionError):
        run_helper(script)
    script.chmod(0o755)
    assert run_helper(script) == "smartdj 9"
    script.write_text("#!/bin/sh\necho first >&2; echo last >&2; exit 3\n")
    with pytest.raises(OSError, match="exit status 3: last"):
        run_helper(script)


def test_the_server_is_asked(examination: Examination) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        real = replace(examination, server=address, server_health=ask_server)
        assert found(real, "server").health is Health.OK
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert found(real, "server").health is Health.FAIL
    finally:
        server.stop(None).wait()
    gone = found(real, "server")
    assert (gone.health, "UNAVAILABLE" in gone.detail) == (Health.FAIL, True)


# Command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(
    resource: ResourceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs ``smartdj reaper …`` on the folder and returns standard output."""
    scripts = tmp_path / "scripts"
    for name, content in FILES:
        make(scripts, name)
        (scripts / name).write_bytes(content)
    monkeypatch.setattr("smartdj_agent.reaper.scripts.script_folder", lambda: scripts)
    monkeypatch.setattr(cli, "running_reapers", lambda system: [])
    monkeypatch.setattr(cli, "find_helper", lambda: tmp_path / "smartdj")

    def run(*arguments: str) -> str:
        capsys.readouterr()
        words = [*arguments, "--resource-path", str(resource.path)]
        cli.reaper_app(args=words, prog_name="smartdj reaper", standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_dry_run_shows_and_changes_nothing(
    command: Callable[..., str], resource: ResourceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(resource.path)
    monkeypatch.setattr(cli, "running_reapers", lambda system: ["reaper (1)"])
    shown = command("install", "--dry-run")
    assert content_of(resource.path) == before
    for text in ("create   Scripts/SmartDJ/smartdj_edit_items.py", "edit     reaper-kb.ini", "reaper (1)", "back up"):
        assert text in shown
    with pytest.raises(SmartDJError) as caught:
        command("install", "--yes")
    assert caught.value.code is ErrorCode.REAPER_RUNNING
    assert content_of(resource.path) == before


def test_install_and_uninstall_need_a_yes(
    command: Callable[..., str], resource: ResourceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(resource.path)
    with pytest.raises(SmartDJError, match="nobody is there to confirm"):
        command("install")
    monkeypatch.setattr("smartdj_agent.console.can_ask", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *arguments, **more: False)
    with pytest.raises(SmartDJError) as caught:
        command("install")
    assert caught.value.code is ErrorCode.CANCELLED
    assert content_of(resource.path) == before
    monkeypatch.setattr("typer.confirm", lambda *arguments, **more: True)
    assert "installed; start REAPER" in command("install")
    assert "nothing to do" in command("install")
    assert "uninstalled" in command("uninstall", "--yes")
    assert content_of(resource.path) == before


def test_json_lines_tell_the_same(command: Callable[..., str], resource: ResourceFolder) -> None:
    resource.menu.unlink()
    records = [json.loads(line) for line in command("install", "--yes", "--json").splitlines()]
    assert {record["event"] for record in records} == {"change", "click", "finished"}
    last = records[-1]
    assert last["changed"] == last["planned"] == sum(record["event"] == "change" for record in records)
    assert last["resource_path"] == str(resource.path)
    assert all(Path(record["path"]).exists() for record in records if record["event"] == "change")


def test_doctor_tells_and_fails(command: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SmartDJError, match="scripts: missing") as caught:
        command("doctor")
    assert caught.value.hint
    assert "fail  scripts" in capsys.readouterr().out


def test_our_program_is_found_beside_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make(tmp_path, "python", "smartdj")
    monkeypatch.setattr(cli.sys, "argv", ["pytest"])
    monkeypatch.setattr(cli.sys, "executable", str(tmp_path / "python"))
    assert cli.find_helper() == tmp_path / "smartdj"
    (tmp_path / "smartdj").unlink()
    monkeypatch.setattr(cli.shutil, "which", lambda name: None)
    with pytest.raises(SmartDJError, match="isn't installed beside"):
        cli.find_helper()
