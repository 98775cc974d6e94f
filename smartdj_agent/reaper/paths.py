"""Where REAPER keeps its files: resource folders on every system, portable installs, the program itself.

Nothing here asks the running system for more than the file system: system, environment and home are parameters,
so that a test on one system covers the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from smartdj_agent.errors import ErrorCode, SmartDJError

INI_NAME = "reaper.ini"


class System(StrEnum):
    """Operating systems that REAPER runs on."""

    WINDOWS = "windows"
    MACOS = "macos"
    LINUX = "linux"

    @property
    def newline(self) -> bytes:
        """Line end of settings files that are new."""
        return b"\r\n" if self is System.WINDOWS else b"\n"


def current_system(platform: str = sys.platform) -> System:
    """Return the operating system for a value of `sys.platform`."""
    if platform in ("win32", "cygwin", "msys"):
        return System.WINDOWS
    return System.MACOS if platform == "darwin" else System.LINUX


@dataclass(frozen=True)
class ResourceFolder:
    """One installation's settings.

    Attributes
    ----------
    path
        The folder, absolute.
    ini
        Its main settings file: ``reaper.ini``, or the one that ``reaper -cfgfile`` was given.
    portable
        Whether program and settings share the folder.
    """

    path: Path
    ini: Path
    portable: bool = False

    @property
    def kb(self) -> Path:
        """The action list: scripts, custom actions, keys."""
        return self.path / "reaper-kb.ini"

    @property
    def menu(self) -> Path:
        """Customised menus and toolbars."""
        return self.path / "reaper-menu.ini"

    @property
    def extstate(self) -> Path:
        """Values that scripts keep."""
        return self.path / "reaper-extstate.ini"

    @property
    def scripts(self) -> Path:
        """Folder that script paths in the action list start from."""
        return self.path / "Scripts"


@dataclass(frozen=True)
class Surroundings:
    """What the folders depend on."""

    system: System
    home: Path
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> Surroundings:
        """Return those of this process."""
        return cls(current_system(), Path.home(), os.environ)


def default_folders(around: Surroundings) -> list[Path]:
    """Return where REAPER puts its settings unless it is portable; the likeliest first, none checked."""
    if around.system is System.WINDOWS:
        roaming = around.environment.get("APPDATA")
        return [(Path(roaming) if roaming else around.home / "AppData" / "Roaming") / "REAPER"]
    if around.system is System.MACOS:
        return [around.home / "Library" / "Application Support" / "REAPER"]
    folders = [around.home / ".config" / "REAPER"]
    configured = around.environment.get("XDG_CONFIG_HOME")
    if configured and Path(configured) / "REAPER" not in folders:
        folders.append(Path(configured) / "REAPER")
    return folders


def program_files(around: Surroundings) -> list[Path]:
    """Return where REAPER's program usually is, none checked."""
    if around.system is System.WINDOWS:
        roots = [around.environment.get(name) for name in ("ProgramW6432", "ProgramFiles", "ProgramFiles(x86)")]
        folders = ("REAPER (x64)", "REAPER (arm64ec)", "REAPER")
        found = [Path(root) / folder / "reaper.exe" for root in roots if root for folder in folders]
        return list(dict.fromkeys(found))
    if around.system is System.MACOS:
        apps = [Path("/Applications"), around.home / "Applications"]
        return [app / name / "Contents" / "MacOS" / "REAPER" for app in apps for name in ("REAPER.app", "REAPER64.app")]
    homes = [Path("/opt"), around.home / "opt", around.home / ".local" / "opt", around.home, Path("/usr/lib")]
    return [home / "REAPER" / "reaper" for home in homes]


def program_folder(program: Path) -> Path:
    """Return the folder that a portable install keeps its settings in: beside the program, or beside the bundle."""
    for folder in program.parents:
        if folder.suffix.lower() == ".app":
            return folder.parent
    return program.parent


def find_program(around: Surroundings, resource: ResourceFolder | None = None) -> Path | None:
    """Return REAPER's program, or None where it isn't in any usual place."""
    candidates = list(program_files(around))
    if resource is not None and resource.portable:
        names = {System.WINDOWS: "reaper.exe", System.LINUX: "reaper"}
        if around.system is System.MACOS:
            candidates = [app / "Contents" / "MacOS" / "REAPER" for app in sorted(resource.path.glob("*.app"))]
        else:
            candidates.insert(0, resource.path / names[around.system])
    return next((path for path in candidates if path.is_file()), None)


def find_resource_folders(around: Surroundings) -> list[ResourceFolder]:
    """Return all installations that have been started at least once, the user's own first."""
    found = [ResourceFolder(path, path / INI_NAME) for path in default_folders(around)]
    for program in program_files(around):
        folder = program_folder(program)
        found.append(ResourceFolder(folder, folder / INI_NAME, portable=True))
    unique: dict[Path, ResourceFolder] = {}
    for folder_found in found:
        if folder_found.ini.is_file():
            unique.setdefault(Path(os.path.realpath(folder_found.path)), folder_found)
    return list(unique.values())


def resource_folder(given: Path | None, around: Surroundings) -> ResourceFolder:
    """Return the one installation to work on.

    Parameters
    ----------
    given
        What the user named: a resource folder, its ini file, the program or the bundle of a portable install;
        None looks in the usual places.

    Raises
    ------
    SmartDJError
        USAGE: there is none, REAPER was never started there, or there are several.
    """
    if given is not None:
        return _given_folder(given, around)
    found = find_resource_folders(around)
    if len(found) > 1:
        several = ", ".join(str(folder.path) for folder in found)
        raise SmartDJError(
            ErrorCode.USAGE,
            f"there are {len(found)} REAPER installations: {several}",
            "name one with --resource-path",
            field="--resource-path",
        )
    if not found:
        looked = ", ".join(str(path) for path in default_folders(around))
        raise SmartDJError(
            ErrorCode.USAGE,
            f"no REAPER settings found (looked in {looked})",
            "start REAPER once and quit it; or give --resource-path: in REAPER, Options → Show REAPER resource path",
            field="--resource-path",
        )
    return found[0]


def _given_folder(given: Path, around: Surroundings) -> ResourceFolder:
    path = Path(os.path.abspath(given.expanduser()))
    ini = None
    if path.suffix.lower() == ".ini" and path.is_file():
        path, ini = path.parent, path
    elif path.suffix.lower() == ".app" or path.is_file():
        path = program_folder(path / "Contents" if path.suffix.lower() == ".app" else path)
    ini = ini or path / INI_NAME
    if not ini.is_file():
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{path} is no REAPER resource folder: it has no {ini.name}",
            "in REAPER, Options → Show REAPER resource path opens it; a new install must have been started once",
            field="--resource-path",
        )
    standard = {Path(os.path.realpath(folder)) for folder in default_folders(around)}
    return ResourceFolder(path, ini, portable=_holds_program(path) and Path(os.path.realpath(path)) not in standard)


def _holds_program(folder: Path) -> bool:
    names = ("reaper.exe", "reaper", "REAPER.app", "REAPER64.app")
    return any((folder / name).exists() for name in names)
