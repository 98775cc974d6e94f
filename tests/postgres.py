"""A PostgreSQL of one's own for tests: made by initdb in a temporary folder, reached by a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

OPTIONS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=100", "-c", "shared_buffers=16MB")


def program(name: str) -> Path | None:
    """Where Debian, or anybody, has put one of PostgreSQL's programs."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(debian[-1]) if debian else shutil.which(name)
    return Path(found) if found else None


def installed() -> bool:
    """Whether there is a PostgreSQL to start."""
    return program("initdb") is not None and program("postgres") is not None


@contextmanager
def postgresql() -> Iterator[str]:
    """Run PostgreSQL inside the block; yields the URL of an empty database."""
    # It refuses to run as root, and its user must reach the folder: pytest's own are closed to others.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="smartdj-pg-") as name:
        folder = Path(name)
        data = folder / "data"
        if become:
            shutil.chown(folder, user)
        command = [*become, str(program("initdb")), "-D", str(data), "-U", "smartdj", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*command, "--no-sync", "--locale=C"], check=True, capture_output=True, cwd="/")
        log = folder / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [*become, str(program("postgres")), "-D", str(data), "-k", name, *OPTIONS],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd="/",
            )
            assert server.stdout is not None
            for line in server.stdout:
                output.write(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise RuntimeError(log.read_text())
        try:
            yield f"postgresql://smartdj@/postgres?unix_sock={name}/.s.PGSQL.5432"
        finally:
            own = int((data / "postmaster.pid").read_text().split()[0])
            os.kill(own, 3) if not become else subprocess.run([*become, "kill", "-QUIT", str(own)], check=True)
            server.stdout.close()
            server.wait(60)


def new_database(url: str) -> str:
    """Make an empty database beside the one of `url`; returns its URL."""
    name = f"d{uuid4().hex}"
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+pg8000:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.replace("/postgres?", f"/{name}?")
