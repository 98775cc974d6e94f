"""``smartdj reaper install|uninstall|doctor``: SmartDJ's actions and menu entries in REAPER."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    from smartdj_agent.reaper.install import FilePlan
    from smartdj_agent.reaper.paths import System

reaper_app = typer.Typer(
    name="reaper",
    help="Put SmartDJ's actions into REAPER, take them out again, examine what is there.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

ResourceOption = Annotated[
    Path | None,
    typer.Option(
        "--resource-path",
        metavar="DIR",
        help="REAPER's resource folder, its ini file, or the program of a portable install; else the usual places.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Results as JSON lines on standard output; the rest stays on standard error.")
]


def running_reapers(system: System) -> Sequence[str] | None:
    """Return the running REAPERs; tests put a fake in its place."""
    from smartdj_agent.reaper.processes import reaper_processes

    return reaper_processes(system)


def find_helper() -> Path:
    """Return the absolute path of our ``smartdj`` program, the one that runs now if it is one.

    Raises
    ------
    SmartDJError
        INTERNAL: this installation has no such program.
    """
    name = "smartdj.exe" if sys.platform == "win32" else "smartdj"
    candidates = [Path(sys.argv[0]) if sys.argv and Path(sys.argv[0]).name == name else None]
    candidates.append(Path(sys.executable).parent / name)
    on_path = shutil.which("smartdj")
    candidates.append(Path(on_path) if on_path else None)
    for path in candidates:
        if path is not None and path.is_file():
            return Path(os.path.abspath(path))
    raise SmartDJError(
        ErrorCode.INTERNAL,
        "the program `smartdj` isn't installed beside this Python",
        "pip install smartdj-agent into this environment, then run its `smartdj reaper install`",
    )


@reaper_app.command()
def install(
    resource_path: ResourceOption = None,
    dry_run: DryRunOption = False,
    python: Annotated[
        bool, typer.Option("--python", help="Also let REAPER run Python scripts, with this computer's Python.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the scripts, register the actions, add the context menus' entries. REAPER must be closed.

    Running it again changes only what isn't in place; `smartdj reaper uninstall` undoes it.
    """
    from smartdj_agent.reaper.install import Wanted, plan_install
    from smartdj_agent.reaper.paths import Surroundings, find_program, resource_folder
    from smartdj_agent.reaper.python_library import find_python_library, machine, processors
    from smartdj_agent.reaper.scripts import script_files

    around = Surroundings.here()
    resource = resource_folder(resource_path, around)
    library = find_python_library(around.system) if python else None
    if python and library is None:
        raise SmartDJError(
            ErrorCode.USAGE,
            "this Python has no shared library that REAPER could load (it is linked statically)",
            "install Python from python.org, Homebrew or your system's packages; or leave --python out and use Lua",
            field="--python",
        )
    program = find_program(around, resource)
    kinds = processors(program) if program is not None else frozenset()
    if library is not None and kinds and not kinds & processors(library.path):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{library.path} is for another processor than {program}",
            f"install a Python for {'/'.join(sorted(kinds))} and SmartDJ in it; or leave --python out and use Lua",
            field="--python",
        )
    processor = machine() if machine() in kinds or not kinds else min(kinds)
    wanted = Wanted(tuple(script_files()), find_helper(), around.system, library)
    plan = plan_install(resource, wanted, datetime.now(), processor=processor)
    _run(plan, "install", around.system, dry_run=dry_run, yes=yes, as_json=as_json)


@reaper_app.command()
def uninstall(
    resource_path: ResourceOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove our scripts, actions and menu entries, and nothing else. REAPER must be closed."""
    from smartdj_agent.reaper.install import plan_uninstall
    from smartdj_agent.reaper.paths import Surroundings, resource_folder
    from smartdj_agent.reaper.scripts import script_files

    around = Surroundings.here()
    plan = plan_uninstall(resource_folder(resource_path, around), script_files(), datetime.now())
    _run(plan, "uninstall", around.system, dry_run=dry_run, yes=yes, as_json=as_json)


@reaper_app.command()
def doctor(resource_path: ResourceOption = None, as_json: JsonOption = False) -> None:
    """Examine what is installed in REAPER: scripts, actions, menus, Python, helper, server. Changes nothing.

    The exit status is 0 where SmartDJ can be used from REAPER, else that of the first thing that stands in the way.
    """
    from smartdj_agent.console import Screen, write_stdout
    from smartdj_agent.doctor import check_to_dict, first_failure, to_text
    from smartdj_agent.reaper.doctor import SERVER_VARIABLE, Examination
    from smartdj_agent.reaper.paths import Surroundings, find_program, resource_folder
    from smartdj_agent.reaper.scripts import script_files

    around = Surroundings.here()
    resource = resource_folder(resource_path, around)
    examination = Examination(
        resource,
        script_files(),
        find_program(around, resource),
        lambda: running_reapers(around.system),
        server=around.environment.get(SERVER_VARIABLE, ""),
    )
    with Screen(as_json=as_json) as screen:
        screen.status("examining")
        checks = examination.checks()
        screen.rest()
        for check in checks:
            screen.emit({"event": "check", **check_to_dict(check)})
    if not as_json:
        write_stdout(to_text(checks, colour=sys.stdout.isatty()))
    failure = first_failure(checks)
    if failure is not None:
        raise failure


def _run(plan: FilePlan, verb: str, system: System, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from smartdj_agent.console import can_ask
    from smartdj_agent.reaper.install import carry_out, refuse_while_running

    def running() -> Sequence[str] | None:
        return running_reapers(system)

    if not dry_run and plan.changes:
        refuse_while_running(running())  # before the question, not only after it
        if not yes:
            if not can_ask():
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"nobody is there to confirm; nothing was {verb}ed",
                    "give --yes to do it unseen, or --dry-run to see it",
                    field="--yes",
                )
            print("\n".join(_plan_lines(plan)), file=sys.stderr)
            if not typer.confirm("Do this?", err=True):
                raise SmartDJError(ErrorCode.CANCELLED, "cancelled; nothing was changed")
    if not dry_run and plan.changes:
        carry_out(plan, running)
    _show(plan, verb, running() if dry_run else [], done=not dry_run, as_json=as_json)


def _plan_lines(plan: FilePlan) -> list[str]:
    lines = [f"in {plan.resource.path}:"]
    for change in plan.changes:
        path = change.path
        shown = path.relative_to(plan.resource.path) if path.is_relative_to(plan.resource.path) else path
        lines.append(f"  {change.kind.value.ljust(7)}  {shown}  ({change.what})")
    return lines


def _show(plan: FilePlan, verb: str, running: Sequence[str] | None, *, done: bool, as_json: bool) -> None:
    from smartdj_agent.console import write_stdout

    if as_json:
        from smartdj_agent.eventjson import to_line

        write_stdout("".join(to_line(record) + "\n" for record in _records(plan, verb, done=done)))
        return
    lines = _plan_lines(plan) if plan.changes else [f"in {plan.resource.path}: nothing to do"]
    if running:
        lines.append(f"REAPER is running ({', '.join(running)}): quit it first")
    lines += [f"note: {note}" for note in plan.notes]
    if plan.clicks:
        lines += ["", "Left to do in REAPER:", *(f"  {click}" for click in plan.clicks)]
    if done and plan.changes:
        lines.append(f"{verb}ed" + ("; start REAPER" if verb == "install" else ""))
    write_stdout("\n".join(lines) + "\n")


def _records(plan: FilePlan, verb: str, *, done: bool) -> list[dict[str, Any]]:
    changes = [
        {"event": "change", "action": change.kind.value, "path": str(change.path), "what": change.what}
        for change in plan.changes
    ]
    return [
        *changes,
        *({"event": "note", "text": note} for note in plan.notes),
        *({"event": "click", "text": click.strip()} for click in plan.clicks),
        {
            "event": "finished",
            "command": f"reaper {verb}",
            "resource_path": str(plan.resource.path),
            "changed": len(plan.changes) if done else 0,
            "planned": len(plan.changes),
        },
    ]
