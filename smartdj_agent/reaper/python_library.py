"""A Python that REAPER can load: finds the shared library and reads which processors a program file is for."""

from __future__ import annotations

import ctypes.util
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartdj_agent.reaper.paths import System

_PE = {0x014C: "x86", 0x8664: "x86_64", 0xAA64: "arm64", 0x01C4: "armv7"}
_ELF = {0x03: "x86", 0x3E: "x86_64", 0xB7: "arm64", 0x28: "armv7"}
_MACH = {0x7: "x86", 0x01000007: "x86_64", 0x0100000C: "arm64"}
_MAX_FAT = 16
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class PythonLibrary:
    """A shared library as ``reaper.ini`` wants it: folder and file name apart."""

    folder: str
    name: str

    @property
    def path(self) -> Path:
        """The file; `name` alone where it is absolute, as some installers write it."""
        return Path(self.folder) / self.name


def processors(path: Path) -> frozenset[str]:
    """Return the processors that a program or library is for; empty where the file is none of these.

    Reads the headers of PE (Windows), ELF (Linux) and Mach-O (macOS) files; a universal Mach-O has several.

    Raises
    ------
    OSError
        The file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        return frozenset(_read_processors(head))
    except struct.error:
        return frozenset()


def _read_processors(head: bytes) -> Iterator[str]:
    magic = head[:4]
    if magic[:2] == b"MZ":
        (at,) = struct.unpack_from("<I", head, 0x3C)
        if head[at : at + 4] == b"PE\0\0":
            yield _PE.get(struct.unpack_from("<H", head, at + 4)[0], "unknown")
    elif magic == b"\x7fELF":
        order = "<" if head[5:6] == b"\1" else ">"
        yield _ELF.get(struct.unpack_from(order + "H", head, 18)[0], "unknown")
    elif magic in (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe"):
        yield _MACH.get(struct.unpack_from("<I", head, 4)[0], "unknown")
    elif magic in (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"):
        (count,) = struct.unpack_from(">I", head, 4)
        size = 20 if magic[3] == 0xBE else 32
        for number in range(count if count <= _MAX_FAT else 0):  # a Java class begins alike, with a larger number
            yield _MACH.get(struct.unpack_from(">I", head, 8 + number * size)[0], "unknown")


def machine() -> str:
    """Return this computer's processor, named as by `processors`."""
    name = platform.machine().lower()
    names = {"amd64": "x86_64", "aarch64": "arm64", "arm64e": "arm64", "i386": "x86", "i686": "x86", "armv7l": "armv7"}
    return names.get(name, name)


def find_python_library(
    system: System,
    *,
    variables: Mapping[str, Any] | None = None,
    prefix: str = sys.base_prefix,
    version: tuple[int, int] = sys.version_info[:2],
) -> PythonLibrary | None:
    """Return the shared library of the Python that runs now, or else one of the system, or None.

    Interpreters that are linked statically, as many from uv and conda are, have none. REAPER needs any Python 3:
    our scripts use the standard library only.

    Parameters
    ----------
    variables
        `sysconfig.get_config_vars()` by default.
    prefix
        Where the interpreter is installed; not a virtual environment.
    """
    variables = sysconfig.get_config_vars() if variables is None else variables
    for path in _candidates(system, variables, prefix, version):
        if path.is_file() and processors(path) and _suits(system, path):
            return PythonLibrary(str(path.parent), path.name)
    return None


def _suits(system: System, path: Path) -> bool:
    if system is System.WINDOWS:
        return path.suffix.lower() == ".dll"
    return ".dylib" in path.suffixes or path.name == "Python" if system is System.MACOS else ".so" in path.suffixes


def _candidates(system: System, variables: Mapping[str, Any], prefix: str, version: tuple[int, int]) -> Iterator[Path]:
    major, minor = version
    if system is System.WINDOWS:
        yield Path(prefix) / f"python{major}{minor}.dll"
        return
    ending = "dylib" if system is System.MACOS else "so"
    named = [variables.get("INSTSONAME"), variables.get("LDLIBRARY"), f"libpython{major}.{minor}.{ending}"]
    names = [str(name) for name in named if name]
    keys = ("LIBDIR", "LIBPL", "PYTHONFRAMEWORKPREFIX")
    folders = [str(variables[key]) for key in keys if variables.get(key)] + [os.path.join(prefix, "lib")]
    for folder in folders:
        for name in dict.fromkeys(names):
            yield Path(folder) / name
    if system is System.LINUX:
        for folder in (f"/usr/lib/{variables.get('MULTIARCH') or 'x86_64-linux-gnu'}", "/usr/lib64", "/usr/lib"):
            yield from sorted(Path(folder).glob("libpython3.*.so*"), reverse=True)
    else:
        found = ctypes.util.find_library(f"python{major}.{minor}")
        if found and os.path.isabs(found):
            yield Path(found)
