"""Examines a REAPER installation: are our scripts, actions, menu lines, helper and Python there and fit to work?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smartdj_agent import __version__
from smartdj_agent.doctor import Check, Health
from smartdj_agent.errors import ErrorCode
from smartdj_agent.reaper import ini
from smartdj_agent.reaper.install import (
    EXTSTATE_SECTION,
    menu_clicks,
    python_clicks,
    python_pointer,
    read_helper,
    read_settings,
)
from smartdj_agent.reaper.paths import ResourceFolder
from smartdj_agent.reaper.python_library import machine, processors
from smartdj_agent.reaper.scripts import FOLDER_NAME, MENUS, Script, menu_entries, read_scripts

INSTALL = "quit REAPER and run `smartdj reaper install`"
EXTSTATE_SERVER = "server"
SERVER_VARIABLE = "SMARTDJ_SERVER"
HELPER_TIMEOUT_S = 60.0
SERVER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Examination:
    """What is examined, and the ways to the world outside, which tests replace.

    Attributes
    ----------
    resource
        The installation.
    files
        What this version ships: path and content.
    program
        REAPER's program, or None where it wasn't found.
    running
        Returns the running REAPERs, or None where nobody can tell.
    helper_version
        Starts a program with ``--version`` and returns what it prints; raises OSError.
    server_health
        Asks a server ``host:port`` how it is; returns an empty text if well, else what is wrong.
    server
        Address of the server in use, if the environment names one.
    """

    resource: ResourceFolder
    files: Sequence[tuple[str, bytes]]
    program: Path | None
    running: Callable[[], Sequence[str] | None]
    helper_version: Callable[[Path], str] | None = None
    server_health: Callable[[str], str] | None = None
    server: str = ""

    def checks(self) -> list[Check]:
        """Run every check; none changes anything.

        Raises
        ------
        SmartDJError
            OUTPUT_UNWRITABLE: a settings file can't be read.
        """
        scripts = read_scripts(self.files)
        settings = read_settings(self.resource.ini) or b""
        kb = read_settings(self.resource.kb) or b""
        menu = read_settings(self.resource.menu) or b""
        extstate = read_settings(self.resource.extstate) or b""
        python = self._check_python(settings, scripts)
        return [
            *self._check_folder(),
            *self._check_running(),
            *self._check_files(),
            *self._check_actions(kb, scripts),
            *self._check_menus(menu, kb, scripts, python.health is Health.OK),
            python,
            *self._check_helper(extstate),
            *self._check_server(extstate),
        ]

    def _check_folder(self) -> list[Check]:
        kind = "portable, " if self.resource.portable else ""
        program = str(self.program) if self.program else "program not found in the usual places"
        detail = f"{self.resource.path} ({kind}{program})"
        if not os.access(self.resource.path, os.W_OK):
            return [_fail("resource folder", f"{detail}: not writable", "give yourself write permission")]
        return [Check("resource folder", detail)]

    def _check_running(self) -> list[Check]:
        found = self.running()
        if found is None:
            return [Check("reaper", "can't tell whether it runs", Health.WARN, "quit it before installing")]
        return [Check("reaper", f"running: {', '.join(found)}" if found else "closed")]

    def _check_files(self) -> list[Check]:
        base = self.resource.scripts / FOLDER_NAME
        missing, different = [], []
        for name, content in self.files:
            try:
                if (base / name).read_bytes() != content:
                    different.append(name)
            except OSError:
                missing.append(name)
        if missing:
            return [_fail("scripts", f"missing in {base}: {', '.join(missing)}", INSTALL)]
        if different:
            detail = f"not those of SmartDJ {__version__}: {', '.join(different)}"
            return [Check("scripts", detail, Health.WARN, f"{INSTALL}; changed files are copied first")]
        return [Check("scripts", f"{len(self.files)} file{'s' * (len(self.files) != 1)} in {base}")]

    def _check_actions(self, kb: bytes, scripts: Sequence[Script]) -> list[Check]:
        lines = ini.read_actions(kb)
        checks = []
        for script in scripts:
            name = f"action {script.command}"
            ours = [line for line in lines if line.command == script.command and line.section == script.line.section]
            if not ours:
                checks.append(_fail(name, "not in reaper-kb.ini", INSTALL))
                continue
            line = ours[0]
            path = self.resource.scripts / line.script.replace("\\", "/")  # an absolute path stays absolute
            twins = [other for other in lines if _same_script(other, line)]
            if not path.is_file():
                checks.append(_fail(name, f"reaper-kb.ini points to {path}, which isn't there", INSTALL))
            elif len(ours) > 1:
                detail = f"{len(ours)} times in reaper-kb.ini; REAPER takes the first"
                checks.append(Check(name, detail, Health.WARN, INSTALL))
            elif line.flags not in (4, 260, 516):
                detail = f"flags {line.flags} in reaper-kb.ini may keep it from starting"
                checks.append(Check(name, detail, Health.WARN, INSTALL))
            elif twins:
                by_reaper = twins[0].command == ini.reaper_command_id(twins[0].script, twins[0].section)
                who = "loaded in REAPER or by ReaPack" if by_reaper else "by a line of its own"
                detail = f"in the action list twice, also as _{twins[0].command} ({who})"
                hint = "harmless; in REAPER's action list, select the other one and use Remove"
                checks.append(Check(name, detail, Health.WARN, hint))
            else:
                checks.append(Check(name, f"{line.script}, command _{line.command}"))
        known = {script.command for script in scripts}
        stale = [
            line.command for line in lines if line.command.startswith(ini.OUR_PREFIX) and line.command not in known
        ]
        if stale:
            detail = f"of another version: {', '.join(stale)}"
            checks.append(Check("old actions", detail, Health.WARN, INSTALL))
        return checks

    def _check_menus(self, menu: bytes, kb: bytes, scripts: Sequence[Script], has_python: bool) -> list[Check]:
        checks = []
        if menu.startswith(ini.UTF8_BOM):
            detail = "begins with a byte order mark, which hides the first toolbar or menu"
            checks.append(Check("reaper-menu.ini", detail, Health.WARN, "save it as UTF-8 without byte order mark"))
        registered = {line.command for line in ini.read_actions(kb)}
        for section in MENUS.values():
            entries = menu_entries(scripts, section, python=has_python)
            items = ini.read_menu(menu, section)
            present = {command.removeprefix("_") for command, _ in items or ()}
            dead = sorted(name for name in present if name.startswith(ini.OUR_PREFIX) and name not in registered)
            missing = [entry for entry in entries if not present & {entry.command, *entry.instead_of}]
            wanted = [script for entry in missing for script in scripts if script.command == entry.command]
            name = f"menu {section}"
            if dead:
                checks.append(_fail(name, f"names actions that aren't registered: {', '.join(dead)}", INSTALL))
            elif missing and items is None:
                hint = " | ".join(step.strip() for step in menu_clicks(section, wanted)[1:])
                checks.append(Check(name, "REAPER's own menu, without SmartDJ", Health.WARN, hint))
            elif missing:
                state = ini.set_menu(menu, section, entries).state
                odd = state is ini.MenuState.ODD
                hint = " | ".join(step.strip() for step in menu_clicks(section, wanted, odd=True)[1:])
                detail = "its items are numbered with gaps, or submenus don't match" if odd else "without SmartDJ"
                checks.append(Check(name, detail, Health.WARN, hint if odd else INSTALL))
            elif entries:
                checks.append(Check(name, ", ".join(entry.label for entry in entries)))
        return checks

    def _check_python(self, settings: bytes, scripts: Sequence[Script]) -> Check:
        needed = any(script.python for script in scripts)
        bad = Health.WARN if needed else Health.OK  # the Lua scripts work without
        hint = " | ".join(step.strip() for step in python_clicks(None))
        pointer = python_pointer(settings)
        if not ini.python_enabled(settings):
            return Check("python in reaper", "switched off; only the Lua scripts work", bad, hint)
        if pointer is None:
            detail = "on, but no library is named: REAPER looks for one itself"
            return Check("python in reaper", detail, bad, hint)
        try:
            found = processors(pointer.path)
        except OSError as error:
            detail = f"{pointer.path} can't be read: {error.strerror or error}"
            return Check("python in reaper", detail, bad, hint)
        wanted = self._processors()
        if not found:
            return Check("python in reaper", f"{pointer.path} is no shared library", bad, hint)
        if not found & wanted:
            detail = f"{pointer.path} is for {_joined(found)}, REAPER for {_joined(wanted)}"
            return Check("python in reaper", detail, bad, f"install a Python for {_joined(wanted)}; then {hint}")
        return Check("python in reaper", f"{pointer.path} ({_joined(found)})")

    def _processors(self) -> frozenset[str]:
        """REAPER's processors; this computer's where the program wasn't found or isn't readable."""
        if self.program is not None:
            try:
                found = processors(self.program)
            except OSError:
                found = frozenset()
            if found:
                return found
        return frozenset({machine()})

    def _check_helper(self, extstate: bytes) -> list[Check]:
        helper = read_helper(extstate)
        if helper is None:
            return [_fail("helper", f"ExtState {EXTSTATE_SECTION}/helper isn't set", INSTALL)]
        if not helper.is_file():
            return [_fail("helper", f"{helper} isn't there", f"{INSTALL} from the environment that is in use now")]
        try:
            answer = (self.helper_version or run_helper)(helper)
        except OSError as error:
            return [_fail("helper", f"{helper} doesn't run: {error.strerror or error}", "install SmartDJ again")]
        if answer != f"smartdj {__version__}":
            detail = f"{helper} says {answer!r}, this is smartdj {__version__}"
            return [Check("helper", detail, Health.WARN, f"{INSTALL} from the environment that is to be used")]
        return [Check("helper", f"{helper}, {answer}")]

    def _check_server(self, extstate: bytes) -> list[Check]:
        value = ini.get_value(extstate, EXTSTATE_SECTION, EXTSTATE_SERVER) or b""
        address = value.decode("utf-8", "replace").strip() or self.server
        if not address:
            return [Check("server", "none configured: the helper does the work itself")]
        trouble = (self.server_health or ask_server)(address)
        if trouble:
            hint = "start it with `smartdj serve`, or remove the address to work without a server"
            return [_fail("server", f"{address}: {trouble}", hint)]
        return [Check("server", f"{address} serves")]


def _same_script(other: ini.ScriptLine, ours: ini.ScriptLine) -> bool:
    """Whether a line registers our script once more, be it from another folder."""
    names = [PurePosixPath(line.script.replace("\\", "/")).name.lower() for line in (other, ours)]
    return names[0] == names[1] and other.section == ours.section and other.command != ours.command


def _fail(name: str, detail: str, hint: str) -> Check:
    return Check(name, detail, Health.FAIL, hint, ErrorCode.REAPER_SETUP)


def _joined(names: frozenset[str]) -> str:
    return "/".join(sorted(names))


def run_helper(program: Path) -> str:
    """Return what ``program --version`` prints.

    Raises
    ------
    OSError
        It can't be started, fails, or takes longer than `HELPER_TIMEOUT_S`.
    """
    try:
        done = subprocess.run(
            (str(program), "--version"),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=HELPER_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer within {HELPER_TIMEOUT_S:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"exit status {done.returncode}: {last}")
    return done.stdout.strip()


def ask_server(address: str) -> str:
    """Ask a server by the standard health service; return an empty text if it serves, else what is wrong."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=SERVER_TIMEOUT_S
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return ""
