"""The helper process ``smartdj reaper-job``: started in our own environment, talked to by files, never waited for.

The protocol is described in ``smartdj_agent/reaper/job.py``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

PROTOCOL = 1
BASE64_MARK = "base64:"
LAST_EVENTS = ("finished", "cancelled", "error")


def helper_program(value: str) -> str:
    """Return the program that ExtState ``SmartDJ/helper`` names."""
    value = value.strip()
    if value.startswith(BASE64_MARK):
        try:
            return os.fsdecode(base64.b64decode(value[len(BASE64_MARK) :], validate=True))
        except (binascii.Error, ValueError):
            return value
    return value


class Helper:
    """One job: its folder and its process.

    Parameters
    ----------
    program
        The ``smartdj`` program.
    job
        What ``job.json`` shall say besides protocol and watch.
    """

    def __init__(self, program: str, job: dict[str, Any]) -> None:
        self.folder = tempfile.mkdtemp(prefix="smartdj-job-")
        self._read_bytes = 0
        self._rest = b""
        self.ended_by = ""
        try:
            self._start(program, job)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self, program: str, job: dict[str, Any]) -> None:
        watch = {"stdin": True, "pid": os.getpid()}
        self._write("job.json", {"protocol": PROTOCOL, "watch": watch, **job})
        with open(os.path.join(self.folder, "helper.log"), "wb") as log:
            self._process = subprocess.Popen(
                [program, "reaper-job", self.folder],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=_environment(),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                close_fds=True,
            )

    def events(self) -> list[dict[str, Any]]:
        """Return the events that came since the last call; a line that is still being written waits."""
        try:
            with open(os.path.join(self.folder, "events.jsonl"), "rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except OSError:
            return []
        self._read_bytes += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        found = [json.loads(line.decode("utf-8")) for line in lines if line.strip()]
        for event in found:
            if event.get("event") in LAST_EVENTS:
                self.ended_by = event["event"]
        return found

    def decide(self, items: dict[str, Any]) -> None:
        """Answer a review."""
        self._write("plan.json", {"protocol": PROTOCOL, "items": items})

    def cancel(self) -> None:
        """Ask the helper to stop, in two ways."""
        try:
            with open(os.path.join(self.folder, "cancel"), "wb"):
                pass
        except OSError:
            pass
        self._close_stdin()

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End a process that doesn't listen."""
        self._process.kill()
        self._process.wait()

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines that the helper printed."""
        try:
            with open(os.path.join(self.folder, "helper.log"), "rb") as file:
                file.seek(max(0, os.path.getsize(file.name) - 4096))
                return "\n".join(file.read().decode("utf-8", "replace").strip().splitlines()[-lines:])
        except OSError:
            return ""

    def close(self, *, keep_folder: bool) -> None:
        """Let go of the process, which has ended, and delete the folder."""
        self._close_stdin()
        if not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _write(self, name: str, document: dict[str, Any]) -> None:
        path = os.path.join(self.folder, name)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(document, file)
        os.replace(path + ".part", path)


def _environment() -> dict[str, str]:
    """Return the environment without what REAPER's own Python was told: the helper has a Python of its own."""
    own = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    if sys.platform != "win32":
        environment.setdefault("LC_CTYPE", "C.UTF-8")
    return environment
