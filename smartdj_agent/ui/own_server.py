"""The page's own ``smartdj serve``: started on a free loopback port, ended with the page, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError

START_S = 120.0
"""Longest time until the server listens, seconds; its networks may take longer."""

DRAIN_S = 5.0
"""How long a running step gets to finish at the end, seconds; else it is done again at the next start."""

STOP_S = 20.0
"""Longest time until the server has ended, seconds."""

_POLL_S = 0.05


class OwnServer:
    """A server as a child process.

    Parameters
    ----------
    data_dir
        Its folder of jobs, which also gets its log, ``serve.log``.
    flags
        More flags of ``smartdj serve``.
    """

    def __init__(self, data_dir: Path, flags: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self.port = 0
        self._flags = tuple(flags)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process; 0 where none runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self.data_dir / "serve.log"

    def start(self) -> None:
        """Start it, on the same port as before where there was one, and wait until it listens.

        Raises
        ------
        SmartDJError
            What the server itself ended with; SERVER_UNREACHABLE where it doesn't listen in time.
        """
        self.stop()
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = self.log.open("wb")
        except OSError as error:
            raise SmartDJError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"the server's folder {self.data_dir} can't be used: {error.strerror or error}",
                "give another with --data-dir",
                "--data-dir",
            ) from error
        with log, tempfile.TemporaryDirectory(prefix="smartdj-ui-") as folder:
            port_file = Path(folder) / "port"
            command = [sys.executable, "-m", "smartdj_agent.ui.own_server", "--host", "127.0.0.1"]
            command += ["--port", str(self.port), "--port-file", str(port_file), "--data-dir", str(self.data_dir)]
            command += ["--drain-s", str(DRAIN_S), "--log-level", "warning"]
            # A session of its own: Ctrl-C is for the page, which then ends its server in order.
            self._process = subprocess.Popen(
                [*command, *self._flags], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
            self.port = self._wait(port_file)

    def _wait(self, port_file: Path) -> int:
        assert self._process is not None
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError, ValueError):
                return int(port_file.read_text(encoding="utf-8"))
            if self._process.poll() is not None:
                raise self._why(self._process.returncode)
            time.sleep(_POLL_S)
        self.stop()
        raise SmartDJError(
            ErrorCode.SERVER_UNREACHABLE, "the page's own server does not listen", f"look into its log, {self.log}"
        )

    def _why(self, status: int) -> SmartDJError:
        """Turn the end of the server into its own error: its last two lines, message and hint."""
        code = next((code for code, row in ERROR_TABLE.items() if row.exit_code == status), ErrorCode.WORKER_CRASHED)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        hint = next((line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")), "")
        message = said or f"the page's own server ended with status {status}"
        return SmartDJError(code, message, hint or f"look into its log, {self.log}", "--data-dir")

    def stop(self) -> None:
        """End it; a running step may finish first."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Stop when standard input ends: then whoever started us is gone, even by ``kill -9``."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    from smartdj_agent.cli import main

    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(["serve", *sys.argv[1:]]))
