"""Whether REAPER runs: it writes its settings when it quits, and what we wrote meanwhile would be lost.

REAPER is not known to keep a lock file, so processes are all there is to look at. Any REAPER of this user counts:
which settings it uses can't be told from outside with certainty.
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from smartdj_agent.reaper.paths import System

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output; raises OSError where it can't."""


def run_command(command: Sequence[str]) -> str:
    """Run a command and return its standard output.

    Raises
    ------
    OSError
        The command isn't there, or didn't answer within 20 seconds.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} doesn't answer") from error
    return done.stdout


def reaper_processes(system: System, *, proc: Path = Path("/proc"), run: Run = run_command) -> list[str] | None:
    """Return the running REAPERs, as ``reaper (4711)``, or None where that can't be found out.

    Parameters
    ----------
    proc
        The process file system; Linux only.
    run
        Runs ``tasklist`` on Windows and ``pgrep`` on macOS.
    """
    try:
        if system is System.WINDOWS:
            return _by_tasklist(run(("tasklist", "/FI", "IMAGENAME eq reaper.exe", "/FO", "CSV", "/NH")))
        if system is System.MACOS:
            return [f"REAPER ({number})" for number in run(("pgrep", "-x", "REAPER")).split()]
        return _by_proc(proc)
    except OSError:
        return None


def _by_tasklist(answer: str) -> list[str]:
    # Without a match it answers with a sentence in the user's language, not with CSV.
    rows = [row for row in csv.reader(answer.splitlines()) if len(row) >= 2]
    return [f"{row[0]} ({row[1]})" for row in rows if row[0].lower() == "reaper.exe"]


def _by_proc(proc: Path) -> list[str]:
    user = os.getuid()
    found = []
    for folder in sorted((f for f in proc.iterdir() if f.name.isdecimal()), key=lambda f: int(f.name)):
        try:
            if folder.stat().st_uid != user:
                continue
            name = (folder / "comm").read_text(errors="replace").strip()
            program = os.readlink(folder / "exe").removesuffix(" (deleted)")
        except OSError:  # it ended meanwhile, or is a kernel thread
            continue
        # Under Wine the program is Wine, and the thread's name tells.
        if os.path.basename(program) == "reaper" or name.lower() == "reaper.exe":
            found.append(f"reaper ({folder.name})")
    return found
